"""Gibbs blocks: against enumeration, against the model's own density, and under every way of running chains."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax, random
from numpyro.infer import MCMC, Gibbs

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference.switching_regression import enumerated_posterior
from tests.scripts import QUICK_TO_COMPILE, environment
from tsppl.conjugate import draw_table_counts
from tsppl.inference import (
    GaussianUpdate,
    ProbabilityUpdate,
    RateUpdate,
    RegressionUpdate,
    StateGibbs,
    auto_gibbs,
)
from tsppl.inference.gibbs.states.complete_data import CompleteData

ROWS = jnp.array([[3.0, 1.0], [0.5, 2.0]])
COLUMN = jnp.linalg.cholesky(jnp.array([[1.0, 0.2], [0.2, 2.0]]))
LOC = jnp.array([[[0.5, 0.0]], [[-0.5, 1.0]]])
SERIES = jnp.array([0.3, 0.5, 0.1, -1.5, 2.2, -0.4, 1.9])[:, None]


def two_sites(series):
    """A scalar autoregression with every parameter unknown, the regression as two sites."""
    initial = numpyro.sample("initial", dist.Dirichlet(jnp.array([1.0, 2.0])))
    rows = numpyro.sample("rows", dist.Dirichlet(ROWS).to_event(1))
    covariance = numpyro.sample("covariance", dist.InverseWishart(4.0, jnp.eye(1)).expand([2]).to_event(1))
    matrix = dist.MatrixNormal(LOC, jnp.linalg.cholesky(covariance), COLUMN).to_event(1)
    weights, bias = tsd.lag_weights(numpyro.sample("coefficients", matrix))
    noise = dist.MultivariateNormal(bias, covariance)
    numpyro.sample("y", tsd.AutoregressiveHMM(initial, rows, weights, noise, num_steps=len(series)), obs=series)


def one_site(series):
    """The same model, the regression as one site."""
    initial = numpyro.sample("initial", dist.Dirichlet(jnp.array([1.0, 2.0])))
    rows = numpyro.sample("rows", dist.Dirichlet(ROWS).to_event(1))
    prior = tsd.MatrixNormalInverseWishart(LOC, COLUMN, 4.0, jnp.eye(1))
    coefficients, covariance = prior.split(numpyro.sample("regression", prior.to_event(1)))
    weights, bias = tsd.lag_weights(coefficients)
    noise = dist.MultivariateNormal(bias, covariance)
    numpyro.sample("y", tsd.AutoregressiveHMM(initial, rows, weights, noise, num_steps=len(series)), obs=series)


CHAIN = [ProbabilityUpdate("initial", "initial_probs"), ProbabilityUpdate("rows", "transition_probs")]


def run(block, values, args, *, num_chains=200, num_sweeps=600, num_warmup=50):
    """Draws of the block's sites and of the states, ``(chains, sweeps, ...)``, all sites being the block's."""

    @jax.vmap
    def chain(key):
        state = block.init(key, 0, values, args, {})

        def sweep(state, _):
            state = block.sample(state, args, {})
            return state, (state.z, state.states)

        return lax.scan(sweep, state, None, length=num_sweeps)[1]

    draws = jax.jit(chain)(random.split(random.key(7), num_chains))
    return jax.tree.map(lambda array: array[:, num_warmup:], draws)


def assert_means(draws, expected, tolerance=4.5):
    """Means over chains equal ``expected`` within Monte Carlo error, chains being independent."""
    chains = draws.mean(1)
    error = chains.std(0, ddof=1) / np.sqrt(len(chains))
    np.testing.assert_array_less(abs(chains.mean(0) - expected) / (error + 1e-12), tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("model", [two_sites, one_site])
def test_the_whole_kernel_against_enumeration_with_parameters_integrated_out(model):
    split = model is two_sites
    regression = RegressionUpdate("coefficients", "covariance") if split else RegressionUpdate("regression")
    block = StateGibbs(model, "y", [*CHAIN, regression])
    values = {"initial": jnp.full(2, 0.5), "rows": jnp.full((2, 2), 0.5)}
    coefficients, covariance = jnp.zeros((2, 1, 2)), jnp.ones((2, 1, 1))
    if split:
        values |= {"coefficients": coefficients, "covariance": covariance}
    else:
        values["regression"] = jnp.concatenate([coefficients, covariance], -1)
    draws, states = run(block, values, (SERIES,))
    inputs = np.concatenate([SERIES[:-1], np.ones((len(SERIES) - 1, 1))], axis=1)
    regressions = [(np.asarray(LOC[k]), np.asarray(COLUMN @ COLUMN.T), 4.0, np.eye(1)) for k in range(2)]
    expected = enumerated_posterior(inputs, np.asarray(SERIES[1:]), np.array([1.0, 2.0]), np.asarray(ROWS), regressions)
    assert (states[..., 0] == -1).all()
    found = [np.eye(2)[np.asarray(states[..., 1:])], draws["initial"], draws["rows"]]
    if split:
        found += [draws["coefficients"], draws["covariance"]]
    else:
        found += list(tsd.MatrixNormalInverseWishart.split(draws["regression"]))
    for draw, mean in zip(found, expected, strict=True):
        assert_means(np.asarray(draw), mean)


@pytest.mark.slow
def test_a_state_that_is_never_visited_draws_from_the_prior():
    """Its transition column is zero by construction."""

    def model(series):
        prior = tsd.NormalInverseWishart(jnp.array([2.0, -1.0]), 0.5, 6.0, jnp.eye(2))
        mean, covariance = prior.split(numpyro.sample("emission", prior.expand([2]).to_event(1)))
        initial, rows = jnp.array([1.0, 0.0]), jnp.array([[1.0, 0.0], [1.0, 0.0]])
        emission = dist.MultivariateNormal(mean, covariance)
        numpyro.sample("y", tsd.HiddenMarkov(initial, rows, emission, num_steps=len(series)), obs=series)

    series = random.normal(random.key(0), (4, 2))
    values = {"emission": jnp.concatenate([jnp.zeros((2, 2, 1)), jnp.stack([jnp.eye(2)] * 2)], -1)}
    draws, states = run(StateGibbs(model, "y", [RegressionUpdate("emission")]), values, (series,), num_sweeps=100)
    assert (states == 0).all()
    mean, covariance = tsd.NormalInverseWishart.split(draws["emission"])
    assert_means(np.asarray(mean[..., 1, :]), np.array([2.0, -1.0]))
    assert_means(np.asarray(covariance[..., 1, :, :]), np.eye(2) / 3)


@pytest.mark.slow
def test_missing_values_are_drawn_from_their_exact_conditional():
    """One state and known parameters: the missing values are Gaussian given the others, by dense algebra."""
    weights = jnp.array([[0.6, 0.2]])
    gaps, seen = np.array([3, 4, 8]), jnp.array([0.4, 1.0, -0.2, 0.0, 0.0, 0.7, 0.1, -0.5, 0.0, 1.2])

    def model(seen):
        missing = numpyro.sample("missing", dist.ImproperUniform(dist.constraints.real, (), event_shape=(3,)))
        series = seen.at[gaps].set(missing)
        process = tsd.AutoregressiveHMM(
            jnp.ones(1), jnp.ones((1, 1)), weights, dist.Normal(jnp.array([0.3]), 0.5), num_steps=len(seen)
        )
        numpyro.sample("y", process, obs=series)

    block = StateGibbs(model, "y", [GaussianUpdate("missing")])
    draws, _ = run(block, {"missing": jnp.zeros(3)}, (seen,), num_chains=400, num_sweeps=60, num_warmup=10)
    lags = np.zeros((8, 10))
    for t in range(2, 10):
        lags[t - 2, [t, t - 1, t - 2]] = [1.0, -0.6, -0.2]
    known = np.setdiff1d(np.arange(10), gaps)
    precision = lags[:, gaps].T @ lags[:, gaps] / 0.25
    target = 0.3 - lags[:, known] @ np.asarray(seen)[known]
    mean = np.linalg.solve(precision, lags[:, gaps].T @ target / 0.25)
    covariance = np.linalg.inv(precision)
    found = np.asarray(draws["missing"])
    assert_means(found, mean)
    assert_means(np.einsum("csi,csj->csij", found - mean, found - mean), covariance)


def sticky(series, num_states=2):
    """Hierarchical rows, and sites that nothing is conjugate to."""
    gamma = numpyro.sample("gamma", dist.Gamma(2.0, 1.0))
    base = numpyro.sample("base", dist.Dirichlet(jnp.full(num_states, gamma / num_states)))
    rows = numpyro.sample("rows", dist.Dirichlet(4.0 * base + 5.0 * jnp.eye(num_states)).to_event(1))
    kappa = numpyro.sample("kappa", dist.Beta(2.0, 2.0))
    with numpyro.plate("state", num_states):
        covariance = numpyro.sample("covariance", dist.InverseWishart(4.0, jnp.eye(1)))
        matrix = dist.MatrixNormal(jnp.zeros((1, 2)), jnp.linalg.cholesky(covariance), jnp.eye(2))
        weights, bias = tsd.lag_weights(numpyro.sample("coefficients", matrix))
    noise = dist.MultivariateNormal(bias, covariance)
    initial = jnp.array([kappa, 1 - kappa])
    numpyro.sample("y", tsd.AutoregressiveHMM(initial, rows, weights, noise, num_steps=len(series)), obs=series)


def test_auto_gibbs_finds_every_conjugate_site_and_says_so():
    kernel = auto_gibbs(sticky, SERIES)
    plan = repr(kernel).splitlines()
    assert plan[:4] == [
        "states of y: forward-backward, inside the block",
        "base, rows: weak-limit hierarchical Dirichlet process, transition_probs given the states",
        "covariance, coefficients: matrix-normal inverse-Wishart, given the states",
        "gamma, kappa: NUTS, states summed out",
    ]
    assert any(line.startswith("(kappa cannot be drawn by RateUpdate") for line in plan[4:])


@pytest.mark.slow
def test_chains_beside_nuts():
    kernel = auto_gibbs(sticky, SERIES)
    chains = MCMC(kernel, num_warmup=20, num_samples=20, num_chains=2, chain_method=jax.vmap, progress_bar=False)
    chains.run(random.key(0), SERIES, extra_fields=("block_states.0.states",))
    draws = chains.get_samples(group_by_chain=True)
    assert draws["coefficients"].shape == (2, 20, 2, 1, 2)
    assert chains.get_extra_fields(group_by_chain=True)["block_states.0.states"].shape == (2, 20, len(SERIES))
    assert all(np.isfinite(draw).all() for draw in draws.values())


THREE_WAYS = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
from numpyro.infer import MCMC
from tests.inference.gibbs.states.test_gibbs import SERIES, one_site
from tsppl.inference import auto_gibbs
assert jax.local_device_count() == 2
draws = []
for chain_method in ("sequential", "parallel", jax.vmap):
    chains = MCMC(
        auto_gibbs(one_site, SERIES), num_warmup=5, num_samples=10, num_chains=2, chain_method=chain_method, progress_bar=False
    )
    chains.run(jax.random.key(0), SERIES)
    draws.append(chains.get_samples(group_by_chain=True)["regression"])
for other in draws[1:]:
    np.testing.assert_allclose(draws[0], other, rtol=1e-6)
assert abs(draws[0][0] - draws[0][1]).max() > 0.1
"""


@pytest.mark.slow
def test_sequential_parallel_and_vectorised_chains_are_the_same():
    """In a process of its own, with two devices."""
    variables = environment("--xla_force_host_platform_device_count=2", *QUICK_TO_COMPILE)
    variables["PYTHONPATH"] = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", THREE_WAYS], env=variables, check=True, timeout=300)


def hidden_markov(counts, scale=1.0, twice=False):
    rows = numpyro.sample("rows", dist.Dirichlet(ROWS).to_event(1))
    rate = numpyro.sample("rate", dist.Gamma(jnp.array([2.0, 6.0])).to_event(1))
    if twice:
        numpyro.factor("more", jnp.log(rows[0, 0]))
    numpyro.sample("y", tsd.HiddenMarkov(jnp.full(2, 0.5), rows, dist.Poisson(scale * rate), num_steps=5), obs=counts)


COUNTS = jnp.array([0, 1, 7, 5, 8])


@pytest.mark.parametrize(
    ("keywords", "updates", "message"),
    [
        ({"twice": True}, [ProbabilityUpdate("rows", "transition_probs")], "uses them in another way"),
        ({"scale": 2.0}, [RateUpdate("rate")], "uses them in another way"),
        ({}, [ProbabilityUpdate("rows", "initial_probs")], "its shape is not that of initial_probs"),
        ({}, [RegressionUpdate("rate")], "its prior is a Gamma"),
        ({}, [RateUpdate("rates")], "no latent site 'rates'"),
        ({}, [GaussianUpdate("rate")], "uses them in another way"),
    ],
)
def test_a_mismatch_is_an_error_not_a_wrong_sampler(keywords, updates, message):
    values = {"rows": jnp.full((2, 2), 0.5), "rate": jnp.ones(2), "rates": jnp.ones(2)}
    block = StateGibbs(hidden_markov, "y", updates)
    with pytest.raises(ValueError, match=message):
        block.init(random.key(0), 0, {name: values[name] for name in block.sites}, (COUNTS,), keywords)


def test_sites_that_no_update_owns_or_two_do():
    with pytest.raises(ValueError, match="names one twice"):
        StateGibbs(hidden_markov, "y", [RateUpdate("rate"), RateUpdate("rate")])
    kernel = Gibbs([(StateGibbs(hidden_markov, "y", [RateUpdate("rate")]), ["rate", "rows"])])
    with pytest.raises(ValueError, match=r"the sites \['rows'\] do not fit"):
        MCMC(kernel, num_warmup=1, num_samples=1, progress_bar=False).run(random.key(0), COUNTS)
    with pytest.raises(ValueError, match="no sequence site 'x'; its sequences are"):
        StateGibbs(hidden_markov, "x", [RateUpdate("rate")]).init(
            random.key(0), 0, {"rate": jnp.ones(2)}, (COUNTS,), {}
        )


def test_a_model_without_conjugate_sites_is_refused():
    def model(counts):
        rate = numpyro.sample("rate", dist.LogNormal(jnp.zeros(2), 1.0).to_event(1))
        process = tsd.HiddenMarkov(jnp.full(2, 0.5), jnp.full((2, 2), 0.5), dist.Poisson(rate), num_steps=5)
        numpyro.sample("y", process, obs=counts)

    with pytest.raises(ValueError, match="use NUTS alone"):
        auto_gibbs(model, COUNTS)


def test_ragged_series_count_no_transition_after_their_end():
    """A batch of a long and a short series equals the two on their own: the same conditional densities."""

    def model(series, lengths):
        rows = numpyro.sample("rows", dist.Dirichlet(ROWS).to_event(1))
        with numpyro.plate("series", 2):
            process = tsd.HiddenMarkov(
                jnp.full(2, 0.5), rows, dist.Poisson(jnp.array([1.0, 6.0])), num_steps=5, lengths=lengths
            )
            numpyro.sample("y", process, obs=series)

    series, lengths = jnp.stack([COUNTS, COUNTS]), jnp.array([5, 2])
    states = jnp.array([[0, 0, 1, 1, 1], [0, 1, 0, 0, 1]])
    data = CompleteData(model, "y", (series, lengths), {}, {"rows": jnp.full((2, 2), 0.5)})
    update = ProbabilityUpdate("rows", "transition_probs")
    assert_allclose(update._concentration(data, states), ROWS + jnp.array([[1.0, 2.0], [0.0, 2.0]]))
    StateGibbs(model, "y", [update]).init(random.key(0), 0, data.values, (series, lengths), {})


def test_tables_of_the_restaurant():
    """Means and variances of the number of tables, a sum of independent Bernoulli draws."""
    customers, concentration = jnp.array([[3, 0], [10, 1]]), jnp.array([[1.0, 2.0], [3.0, 0.1]])
    keys = random.split(random.key(0), 20_000)
    tables = np.asarray(jax.vmap(lambda key: draw_table_counts(key, customers, concentration, 20))(keys))
    for cell in np.ndindex(2, 2):
        chance = concentration[cell] / (concentration[cell] + np.arange(customers[cell]))
        variance = (chance * (1 - chance)).sum()
        assert abs(tables[(slice(None), *cell)].mean() - chance.sum()) <= 4 * np.sqrt(variance / len(keys))
        assert abs(tables[(slice(None), *cell)].var() - variance) <= 0.05 * variance
