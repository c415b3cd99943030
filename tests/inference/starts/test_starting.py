"""Starting points: read off the data, and turned into what MCMC takes."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density, potential_energy

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tsppl.distributions.autoregressive.autoregressive_hmm import AutoregressiveHMM
from tsppl.distributions.linear_gaussian.linear_gaussian_ssm import LinearGaussianSSM
from tsppl.inference.expectation_maximization.data_driven_starts import data_driven_start
from tsppl.inference.starts.starting import starting_params

RNG = np.random.default_rng(0)
T = 60
STATES = np.tile(np.repeat([0, 1, 2], 10), 2)
COUNTS = RNG.poisson(np.array([2, 20, 60])[STATES])
FLAT = jnp.full(3, 1 / 3), jnp.full((3, 3), 1 / 3)


def model(counts=None, num_steps=T):
    with numpyro.plate("state", 3):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.1))
    transition_probs = numpyro.sample("transition_probs", dist.Dirichlet(jnp.ones((3, 3))).to_event(1))
    numpyro.deterministic("mean", rate.mean())
    emission = dist.Poisson(rate)
    numpyro.sample("y", tsd.HiddenMarkov(FLAT[0], transition_probs, emission, num_steps=num_steps), obs=counts)


STARTS = [
    {"rate": jnp.array([2.0, 20.0, 60.0]), "transition_probs": jnp.eye(3), "mean": jnp.array(0.0)},
    {"rate": jnp.array([60.0, 20.0, 2.0]), "transition_probs": 0.1 + 0.7 * jnp.eye(3)},
]


def small_model():
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.1).expand([3]).to_event(1))
    transition_probs = numpyro.sample("transition_probs", dist.Dirichlet(jnp.ones((3, 3))).to_event(1))
    numpyro.deterministic("mean", rate.mean())
    numpyro.sample("y", dist.Poisson(transition_probs @ rate).to_event(1), obs=jnp.array([1, 2, 3]))


@pytest.mark.slow
@pytest.mark.smoke
def test_chains_start_where_they_were_told():
    params = starting_params(small_model, STARTS)
    assert {name: array.shape for name, array in params.items()} == {"rate": (2, 3), "transition_probs": (2, 3, 2)}
    kernel = NUTS(small_model, max_tree_depth=1, step_size=1e-6, adapt_step_size=False, adapt_mass_matrix=False)
    mcmc = MCMC(kernel, num_warmup=0, num_samples=1, num_chains=2, chain_method="vectorized", progress_bar=False)
    mcmc.run(jax.random.PRNGKey(0), init_params=params, extra_fields=("potential_energy",))
    rate = mcmc.get_samples(group_by_chain=True)["rate"]
    energy = mcmc.get_extra_fields(group_by_chain=True)["potential_energy"]
    for chain, start in enumerate(STARTS):
        assert_allclose(rate[chain, 0], start["rate"], rtol=1e-3)
        own = jax.tree.map(lambda leaf, chain=chain: leaf[chain], params)
        assert_allclose(energy[chain, 0], potential_energy(small_model, (), {}, own), rtol=1e-3)


def test_edge_of_a_simplex_is_moved_inside_and_other_values_are_exact():
    params = starting_params(model, STARTS, COUNTS)
    simplex = dist.biject_to(dist.constraints.simplex)
    assert_allclose(simplex(params["transition_probs"][1]), STARTS[1]["transition_probs"])
    assert_allclose(simplex(params["transition_probs"][0]), jnp.eye(3), atol=2e-3)
    assert jnp.isfinite(params["transition_probs"]).all()
    assert_allclose(jnp.exp(params["rate"]), jnp.stack([start["rate"] for start in STARTS]))


def test_sites_without_a_value_are_drawn_by_key_and_one_dict_is_one_chain():
    params = starting_params(model, {"rate": jnp.ones(3)}, COUNTS)
    assert params["rate"].shape == (3,)
    assert abs(params["transition_probs"]).max() <= 2.0
    pair = [starting_params(model, {"rate": jnp.ones(3)}, COUNTS, key=jax.random.key(i)) for i in (1, 2)]
    assert abs(pair[0]["transition_probs"] - pair[1]["transition_probs"]).max() > 0.01
    assert jnp.isfinite(
        log_density(model, (), {"num_steps": T}, {"rate": jnp.ones(3), "transition_probs": FLAT[1], "y": COUNTS})[0]
    )


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"rates": jnp.ones(3)}, r"no site 'rates'; its latent sites are \['rate', 'transition_probs'\]"),
        ({"rate": jnp.ones((2, 3))}, r"'rate' has shape \(2, 3\); the site has shape \(3,\)"),
        ({"y": jnp.ones(T)}, "'y' is observed"),
        ({"rate": -jnp.ones(3)}, "'rate'.*outside the support"),
        ({"rate": jnp.zeros(3)}, "'rate'.*(outside|edge)"),
        ([], "starts is empty"),
    ],
)
def test_wrong_starts_are_refused(start, message):
    with pytest.raises(ValueError, match=message):
        starting_params(model, start, COUNTS)


def test_k_means_start_finds_separate_clusters_and_ignores_what_is_missing():
    mask = RNG.random(T) > 0.2
    template = tsd.HiddenMarkov(*FLAT, dist.Poisson(jnp.ones(3)), num_steps=T, mask=mask)
    start = data_driven_start(jax.random.key(0), template, np.where(mask, COUNTS, 999))
    shares = 0.9 * np.eye(3) + 0.1 / 3
    weights = shares[:, STATES] * mask
    assert_allclose(start.emission.rate, weights @ COUNTS / weights.sum(1))
    assert (jnp.diagonal(start.transition_probs) > 0.6).all()


def test_k_means_start_copes_with_fewer_values_than_states_and_with_categories():
    template = tsd.HiddenMarkov(*FLAT, dist.Categorical(jnp.full((3, 2), 0.5)), num_steps=T)
    start = data_driven_start(jax.random.key(0), template, STATES % 2)
    assert jnp.isfinite(start.log_prob(STATES % 2))
    assert abs(start.emission.probs[0, 0] - start.emission.probs[1, 0]) > 0.5


def test_starts_of_an_autoregression_find_the_regressions():
    weights = np.array([0.95, -0.9])
    states, value = np.repeat([0, 1, 0, 1], 50), np.zeros(200)
    for t in range(1, 200):
        value[t] = weights[states[t]] * value[t - 1] + 0.5 * RNG.normal()
    template = AutoregressiveHMM(
        jnp.full(2, 0.5), jnp.full((2, 2), 0.5), jnp.zeros((2, 1)), dist.Normal(0.0, jnp.ones(2)), num_steps=200
    )
    starts = [data_driven_start(jax.random.key(seed), template, value) for seed in range(4)]
    assert max(np.ptp(start.weights[:, 0]) for start in starts) > 1.0


def test_starts_of_an_autoregression_find_the_parts_of_a_track():
    """Left and right turns seen in ten noisy channels through three lags, too many weights for clusters of regressions."""
    angles = np.repeat([1, -1, 1, -1, 1, -1], 48) * np.pi / 24
    track = np.cumsum(np.stack([np.cos(angles.cumsum()), np.sin(angles.cumsum())], -1), axis=0)
    value = track @ RNG.normal(size=(2, 10)) + RNG.normal(size=(len(track), 10))
    noise = dist.MultivariateNormal(jnp.zeros((2, 10)), jnp.eye(10))
    template = AutoregressiveHMM(
        jnp.full(2, 0.5), jnp.full((2, 2), 0.5), jnp.zeros((2, 3, 10, 10)), noise, num_steps=len(value)
    )

    def share_right(seed):
        path = data_driven_start(jax.random.key(seed), template, value).latent_mode(value)["states"]
        right = ((path == 1) == (angles > 0))[3:].mean()
        return max(right, 1 - right)

    shares = [float(share_right(seed)) for seed in range(6)]
    assert max(shares) > 0.75, shares


def test_regression_start_is_that_of_the_steps_that_are_there():
    """Clusters begin within the series, not in what pads it."""
    value = np.cumsum(RNG.normal(size=100)) * 0.1
    chain, noise = (jnp.full(2, 0.5), jnp.full((2, 2), 0.5)), dist.Normal(0.0, jnp.ones(2))
    padded = np.pad(value, (0, 900), constant_values=7.0)
    starts = [
        data_driven_start(
            jax.random.key(0),
            AutoregressiveHMM(*chain, jnp.zeros((2, 1)), noise, num_steps=len(series), lengths=jnp.asarray(100)),
            series,
        )
        for series in (value, padded)
    ]
    assert_allclose(starts[1].weights, starts[0].weights)
    assert_allclose(starts[1].transition_probs, starts[0].transition_probs)


def test_principal_components_start_beats_a_blind_one_and_keeps_what_is_held():
    trajectory = np.cumsum(RNG.normal(size=(T, 2)), 0)
    matrix = RNG.normal(size=(4, 2))
    value = trajectory @ matrix.T + 3 + 0.3 * RNG.normal(size=(T, 4))
    mask = RNG.random((T, 4)) > 0.1
    unit = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
    noise = dist.Normal(jnp.zeros(4), 1.0).to_event(1)
    template = LinearGaussianSSM(
        unit, 0.5 * jnp.eye(2), unit, jnp.asarray(RNG.normal(size=(4, 2))), noise, num_steps=T, mask=mask
    )
    start = data_driven_start(jax.random.key(0), template, np.where(mask, value, np.nan), fixed=("transition_noise",))
    assert_allclose(start.transition_noise.base_dist.scale, jnp.ones(2))
    true = LinearGaussianSSM(
        unit,
        jnp.eye(2),
        unit,
        jnp.asarray(matrix),
        dist.Normal(jnp.full(4, 3.0), 0.3).to_event(1),
        num_steps=T,
        mask=mask,
    )
    found, best, blind = (d.log_prob(value) for d in (start, true, template))
    assert best - found < 0.2 * (best - blind)


def test_too_many_dimensions_and_traced_data_are_refused():
    unit = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
    wide = LinearGaussianSSM(unit, jnp.eye(2), unit, jnp.ones(2), dist.Normal(0.0, 1.0), num_steps=T)
    with pytest.raises(ValueError, match="2 dimensions and an observation 1 channels"):
        data_driven_start(jax.random.key(0), wide, COUNTS * 1.0)
    template = tsd.HiddenMarkov(*FLAT, dist.Poisson(jnp.ones(3)), num_steps=T)
    with pytest.raises(TypeError, match="cannot be traced"):
        jax.jit(lambda counts: data_driven_start(jax.random.key(0), template, counts).emission.rate)(COUNTS)
