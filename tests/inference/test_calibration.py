"""Calibration of NUTS through the hidden Markov, linear-Gaussian and switching distributions, hidden things included.

For each model the parameters that made 200 data sets must rank uniformly among posterior draws, and so must the
log-likelihood, the hidden states and trajectories drawn by ``sample_latents``, and what ``sample_missing`` fills in. A
deliberate mistake in the model must then be seen, or the test would prove nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import init_to_median

import tsppl.distributions as tsd
from tests.calibration import (
    calibration_ranks,
    from_prior,
    given,
    nuts_draws,
    ranks,
    simulate,
    uniformity_p_values,
)

NUM_DATASETS, NUM_WRONG, NUM_DRAWS = 200, 60, 63
SMALLEST, LARGEST_WRONG = 1e-3, 1e-6


def two_state_transitions(stay):
    return jnp.stack([jnp.stack([stay[0], 1 - stay[0]]), jnp.stack([1 - stay[1], stay[1]])])


def p_values(generate, model, quantities, complete, mistakes, *, thinning=4, max_tree_depth=4):
    """p-values of uniform ranks: of the model as it is, then of some data sets with each mistake made."""
    truth, data = simulate(random.key(0), generate, NUM_DATASETS)
    draw = nuts_draws(
        model,
        num_warmup=200,
        num_draws=NUM_DRAWS,
        thinning=thinning,
        max_tree_depth=max_tree_depth,
        init_strategy=init_to_median,
    )
    wrong = [jax.tree.map(lambda array: array[:NUM_WRONG], data | mistake(data)) for mistake in mistakes]
    draws = draw(random.key(1), jax.tree.map(lambda *arrays: jnp.concatenate(arrays), data, *wrong))
    results, start = [], 0
    for size in (NUM_DATASETS, *[NUM_WRONG] * len(mistakes)):
        drawn = jax.tree.map(lambda array, start=start, size=size: array[start : start + size], draws)
        true, seen = jax.tree.map(lambda array, size=size: array[:size], (truth, data))
        found = calibration_ranks(random.key(2), true, drawn, seen, quantities, complete)
        results.append(uniformity_p_values(found, NUM_DRAWS))
        start += size
    return results


def assert_calibrated(p_values):
    """No quantity is off."""
    assert min(p_values.values()) > SMALLEST, p_values


def assert_mistaken(p_values, *names):
    """The mistake shows plainly in the named quantities."""
    assert max(p_values[name] for name in names) < LARGEST_WRONG, p_values


def count_every_step(data):
    """The mistake of taking masked steps for observed zeros."""
    return {"y": jnp.where(data["mask"], data["y"], 0), "mask": jnp.ones_like(data["mask"])}


def build_hidden_markov(mask):
    """Three levels in a ring: the state stays, or moves mostly forwards, so that the direction of time matters."""
    low = numpyro.sample("low", dist.Gamma(4.0, 2.0))
    gap = numpyro.sample("gap", dist.Gamma(6.0, 1.0))
    stay = numpyro.sample("stay", dist.Beta(4.0, 2.0))
    forward = numpyro.sample("forward", dist.Beta(8.0, 1.0))
    turn = jnp.roll(jnp.eye(3), 1, axis=1)
    transition_probs = stay * jnp.eye(3) + (1 - stay) * (forward * turn + (1 - forward) * turn.T)
    emission = dist.Poisson(low + gap * jnp.arange(3))
    return tsd.HiddenMarkov(jnp.array([0.5, 0.3, 0.2]), transition_probs, emission, num_steps=30, mask=mask)


def hidden_markov(y, mask):
    numpyro.sample("y", build_hidden_markov(mask), obs=y)


def generate_counts(key):
    mask_key, prior_key, key = random.split(key, 3)
    mask = random.bernoulli(mask_key, 0.8, (30,))
    parameters, distribution = from_prior(prior_key, build_hidden_markov, mask)
    y, latents = distribution.sample_with_latents(key)
    return parameters | latents | {"completed": y}, {"y": y, "mask": mask}


def complete_hidden_markov(key, draw, data):
    states_key, missing_key = random.split(key)
    distribution = given(draw, build_hidden_markov, data["mask"])
    completed = distribution.sample_missing(missing_key, data["y"])
    return distribution.sample_latents(states_key, data["y"]) | {"completed": completed}


def hidden_markov_quantities(draw, data):
    return {
        "low": draw["low"],
        "gap": draw["gap"],
        "stay": draw["stay"],
        "forward": draw["forward"],
        "log_likelihood": given(draw, build_hidden_markov, data["mask"]).log_prob(data["y"]),
        "steps_in_state_1": (draw["states"] == 1).sum(),
        "moves": (jnp.diff(draw["states"]) != 0).sum(),
        "total": draw["completed"].sum(),
    }


def reverse_time(data):
    """The mistake of transitions that are read the wrong way round."""
    return {"y": data["y"][:, ::-1], "mask": data["mask"][:, ::-1]}


@pytest.mark.slow
def test_hidden_markov_with_missing_steps():
    right, counted, reversed_time = p_values(
        generate_counts,
        hidden_markov,
        hidden_markov_quantities,
        complete_hidden_markov,
        [count_every_step, reverse_time],
    )
    assert_calibrated(right)
    assert_mistaken(counted, "low", "log_likelihood")
    assert_mistaken(reversed_time, "log_likelihood")


def build_state_space(mask):
    """A level and a cycle, seen by two instruments with gaps of their own."""
    persistence = numpyro.sample("persistence", dist.Beta(4.0, 1.5))
    scales = numpyro.sample("scales", dist.LogNormal(jnp.array([-1.0, -0.5]), 0.5).to_event(1))
    loading = numpyro.sample("loading", dist.Normal(0.0, 1.0))
    noise_scale = numpyro.sample("noise_scale", dist.LogNormal(-1.0, 0.5))
    return tsd.LinearGaussianSSM(
        dist.Normal(jnp.zeros(2), 1.0).to_event(1),
        jnp.diag(jnp.stack([jnp.ones(()), persistence])),
        dist.Normal(jnp.zeros(2), scales).to_event(1),
        jnp.stack([jnp.ones(2), jnp.stack([jnp.ones(()), loading])]),
        dist.Normal(jnp.zeros(2), noise_scale).to_event(1),
        num_steps=12,
        mask=mask,
    )


def state_space(y, mask):
    numpyro.sample("y", build_state_space(mask), obs=y)


def generate_instruments(key):
    mask_key, prior_key, key = random.split(key, 3)
    mask = random.bernoulli(mask_key, 0.75, (12, 2))
    parameters, distribution = from_prior(prior_key, build_state_space, mask)
    y, latents = distribution.sample_with_latents(key)
    return parameters | latents | {"completed": y}, {"y": y, "mask": mask}


def complete_state_space(key, draw, data):
    trajectory_key, missing_key = random.split(key)
    distribution = given(draw, build_state_space, data["mask"])
    completed = distribution.sample_missing(missing_key, data["y"])
    return distribution.sample_latents(trajectory_key, data["y"]) | {"completed": completed}


def state_space_quantities(draw, data):
    return {
        "persistence": draw["persistence"],
        "level_scale": draw["scales"][0],
        "cycle_scale": draw["scales"][1],
        "loading": draw["loading"],
        "noise_scale": draw["noise_scale"],
        "log_likelihood": given(draw, build_state_space, data["mask"]).log_prob(data["y"]),
        "last_level": draw["trajectory"][-1, 0],
        "roughness_of_cycle": (jnp.diff(draw["trajectory"][:, 1]) ** 2).sum(),
        "total": draw["completed"].sum(),
    }


@pytest.mark.slow
def test_linear_gaussian_with_missing_entries():
    right, counted = p_values(
        generate_instruments, state_space, state_space_quantities, complete_state_space, [count_every_step]
    )
    assert_calibrated(right)
    assert_mistaken(counted, "noise_scale", "log_likelihood")


def build_switching(noise_scale):
    weights = numpyro.sample("weights", dist.Normal(jnp.array([0.9, -0.6]), 0.2).to_event(1))
    stay = numpyro.sample("stay", dist.Beta(4.0, 1.5).expand([2]).to_event(1))
    loading = numpyro.sample("loading", dist.LogNormal(0.0, 0.5))
    emission_scale = numpyro.sample("emission_scale", dist.LogNormal(-1.0, 0.3))
    dynamics = tsd.SwitchingLinearDynamics(
        jnp.array([0.7, 0.3]),
        two_state_transitions(stay),
        weights[:, None, None],
        dist.Normal(jnp.zeros(1), noise_scale).to_event(1),
        dist.Normal(jnp.zeros(1), 1.0).to_event(1),
        num_steps=12,
    )
    return dynamics, loading, emission_scale


def switching(y, noise_scale):
    dynamics, loading, emission_scale = build_switching(noise_scale)
    x = numpyro.sample("x", dynamics)
    numpyro.sample("y", dist.Normal(loading * x, emission_scale).to_event(2), obs=y)


def generate_switching(key):
    prior_key, x_key, y_key = random.split(key, 3)
    noise_scale = jnp.full((), 0.5)
    parameters, (dynamics, loading, emission_scale) = from_prior(prior_key, build_switching, noise_scale)
    x, latents = dynamics.sample_with_latents(x_key)
    y = loading * x + emission_scale * random.normal(y_key, x.shape)
    return parameters | latents | {"x": x}, {"y": y, "noise_scale": noise_scale}


def complete_switching(key, draw, data):
    return given(draw, build_switching, data["noise_scale"])[0].sample_latents(key, draw["x"])


def switching_quantities(draw, data):
    dynamics, loading, emission_scale = given(draw, build_switching, data["noise_scale"])
    return {
        "slow": draw["weights"][0],
        "alternating": draw["weights"][1],
        "stay_0": draw["stay"][0],
        "stay_1": draw["stay"][1],
        "loading": loading,
        "emission_scale": emission_scale,
        "log_density_of_x": dynamics.log_prob(draw["x"]),
        "log_likelihood": dist.Normal(loading * draw["x"], emission_scale).log_prob(data["y"]).sum(),
        "last_x": draw["x"][-1, 0],
        "steps_in_state_1": draw["states"].sum(),
    }


def halve_the_noise(data):
    """The mistake of a prior that is too narrow."""
    return {"noise_scale": data["noise_scale"] / 2}


@pytest.mark.slow
def test_latent_switching_linear_dynamics():
    right, narrow = p_values(
        generate_switching,
        switching,
        switching_quantities,
        complete_switching,
        [halve_the_noise],
        thinning=8,
        max_tree_depth=5,
    )
    assert_calibrated(right)
    assert_mistaken(narrow, "log_density_of_x")


def normal_ranks(scale):
    """Ranks for a normal mean whose posterior draws have ``scale`` times the right deviation."""
    truth_key, data_key, draws_key = random.split(random.key(0), 3)
    mean = random.normal(truth_key, (NUM_DATASETS,))
    y = mean + random.normal(data_key, mean.shape)
    draws = y[:, None] / 2 + scale * jnp.sqrt(0.5) * random.normal(draws_key, (NUM_DATASETS, NUM_DRAWS))

    def quantities(draw, data):
        return {"mean": draw["mean"], "sign": jnp.sign(draw["mean"]), "residual": jnp.abs(draw["mean"] - data["y"])}

    return calibration_ranks(random.key(1), {"mean": mean}, {"mean": draws}, {"y": y}, quantities)


def test_exact_draws_rank_uniformly():
    found = normal_ranks(1.0)
    assert all(values.min() >= 0 and values.max() <= NUM_DRAWS for values in found.values())
    assert min(uniformity_p_values(found, NUM_DRAWS).values()) > 0.01


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_draws_of_the_wrong_width_do_not(scale):
    found = uniformity_p_values(normal_ranks(scale), NUM_DRAWS)
    assert max(found["mean"], found["residual"]) < LARGEST_WRONG


def test_ties_are_broken_at_random():
    found = ranks(np.random.default_rng(0), np.zeros(800), np.zeros((800, 7)))
    assert uniformity_p_values({"tie": found}, 7)["tie"] > 0.01


def test_bins_must_divide_the_ranks():
    with pytest.raises(ValueError, match="65 ranks"):
        uniformity_p_values({"q": np.zeros(10, int)}, 64)


def test_nuts_draws_give_each_data_set_its_own_posterior():
    def model(y):
        numpyro.sample("y", dist.Normal(numpyro.sample("mean", dist.Normal(0.0, 10.0)), 0.1), obs=y)

    y = jnp.array([-3.0, 0.0, 5.0])
    draws = nuts_draws(model, num_warmup=100, num_draws=20, thinning=2)(jax.random.key(0), {"y": y})
    assert draws["mean"].shape == (3, 20)
    np.testing.assert_allclose(draws["mean"].mean(1), y, atol=0.2)
