"""PSIS-LOO from left-out terms against refits: every step masked in turn, the posterior integrated over a grid.

Both models have three parameters and one outlier. One-step-ahead terms, which look just as usable and raise no
warning, miss the refits by several nats.
"""

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from jax import random
from jax.scipy.special import logsumexp
from numpyro.infer import MCMC, NUTS, init_to_median
from numpyro.infer.util import initialize_model, unconstrain_fn

import tsppl
import tsppl.distributions as tsd

T = 50
POINTS, REACH = (
    19,
    6.0,
)  # of the grid: points on each axis, and standard deviations to either side of the posterior mean


def hidden_markov(y, mask):
    low = numpyro.sample("low", dist.Gamma(2.0, 0.5))
    gap = numpyro.sample("gap", dist.Gamma(2.0, 0.2))
    stay = numpyro.sample("stay", dist.Beta(4.0, 1.0))
    transition_probs = stay * jnp.eye(2) + (1 - stay) * (1 - jnp.eye(2))
    emission = dist.Poisson(jnp.stack([low, low + gap]))
    model = tsd.HiddenMarkov(jnp.full(2, 0.5), transition_probs, emission, num_steps=T, mask=mask)
    numpyro.sample("y", model, obs=y)


def autoregression_plus_noise(y, mask):
    persistence = numpyro.sample("persistence", dist.Beta(4.0, 1.0))
    scale = numpyro.sample("scale", dist.LogNormal(-0.5, 0.7))
    noise_scale = numpyro.sample("noise_scale", dist.LogNormal(-0.5, 0.7))
    start_scale = scale / jnp.sqrt(1 - persistence**2)
    model = tsd.LinearGaussianSSM(
        dist.Normal(jnp.zeros(1), start_scale).to_event(1),
        persistence[None, None],
        dist.Normal(jnp.zeros(1), scale).to_event(1),
        jnp.ones(1),
        dist.Normal(0.0, noise_scale),
        num_steps=T,
        mask=mask,
    )
    numpyro.sample("y", model, obs=y)


def hidden_markov_data(generator):
    states = np.zeros(T, int)
    for t in range(1, T):
        states[t] = states[t - 1] if generator.random() < 0.9 else 1 - states[t - 1]
    counts = generator.poisson(np.array([3.0, 11.0])[states])
    counts[T // 2] = 26
    return counts


def autoregression_data(generator):
    level = np.zeros(T)
    for t in range(1, T):
        level[t] = 0.9 * level[t - 1] + 0.6 * generator.normal()
    y = level + 0.4 * generator.normal(size=T)
    y[T // 2] += 2.5
    return y


CASES = {
    "hidden Markov": (hidden_markov, hidden_markov_data),
    "autoregression plus noise": (autoregression_plus_noise, autoregression_data),
}


def fit(model, y, observed):
    kernel = NUTS(model, init_strategy=init_to_median)
    mcmc = MCMC(kernel, num_warmup=300, num_samples=1000, num_chains=4, chain_method="vectorized", progress_bar=False)
    mcmc.run(random.key(0), y, observed)
    return mcmc


def refit_every_step(model, y, observed, draws):
    """Exact ``log p(y_t | all others)`` with the parameters integrated out, and the exact posterior means.

    The draws only say where to lay the grid, in unconstrained space.
    """
    unconstrained = jax.vmap(lambda draw: unconstrain_fn(model, (y, observed), {}, draw))(draws)
    axes = {
        name: jnp.linspace(values.mean() - REACH * values.std(), values.mean() + REACH * values.std(), POINTS)
        for name, values in unconstrained.items()
    }
    grid = dict(zip(axes, (mesh.ravel() for mesh in jnp.meshgrid(*axes.values(), indexing="ij")), strict=True))
    info = initialize_model(random.key(0), model, model_args=(y, observed), dynamic_args=True)

    def log_weights(mask):
        return -jax.vmap(info.potential_fn(y, mask))(grid)

    masks = jnp.concatenate([observed[None], ~jnp.eye(T, dtype=bool)])
    evidence = jax.jit(lambda masks: jax.lax.map(lambda mask: logsumexp(log_weights(mask)), masks))(masks)
    weights = jax.nn.softmax(log_weights(observed))
    points = jax.vmap(info.postprocess_fn(y, observed))(grid)
    means = {name: float(weights @ points[name]) for name in draws}
    return np.asarray(evidence[0] - evidence[1:]), means


def psis_loo(tree, group):
    """Total, pointwise terms and largest Pareto k of ``az.loo`` with the terms of ``group``."""
    groups = {"posterior": tree["posterior"], "log_likelihood": tree[group]}
    groups = {name: xr.Dataset(dict(node.data_vars)) for name, node in groups.items()}
    new = isinstance(tree, xr.DataTree)
    result = az.loo(xr.DataTree.from_dict(groups) if new else type(tree)(**groups), pointwise=True)
    total, terms = (result.elpd, result.elpd_i) if new else (result.elpd_loo, result.loo_i)
    return float(total), np.asarray(terms), float(np.max(result.pareto_k))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_left_out_terms_give_the_answer_of_the_refits_and_one_step_terms_another(case):
    model, data = CASES[case]
    y, observed = jnp.asarray(data(np.random.default_rng(3))), jnp.ones(T, bool)
    mcmc = fit(model, y, observed)
    draws = mcmc.get_samples()
    exact, means = refit_every_step(model, y, observed, draws)
    for name, mean in means.items():
        assert abs(draws[name].mean() - mean) < 0.15 * draws[name].std(), name

    tree = tsppl.to_arviz(mcmc, latents=False)
    total, terms, largest_k = psis_loo(tree, "log_likelihood")
    assert largest_k < 0.7
    assert abs(total - exact.sum()) < 0.5
    np.testing.assert_allclose(terms, exact, atol=0.25)

    one_step_total, _, largest_k = psis_loo(tree, "one_step_ahead")
    assert largest_k < 0.7, "the diagnostic does not warn of one-step terms"
    assert one_step_total < exact.sum() - 2.0
