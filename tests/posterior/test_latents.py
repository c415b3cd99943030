"""Latents of a user's model: right for every form of posterior, through plates, masks and wrappers."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.session_models import (
    COUNTS,
    LENGTHS,
    NUM_STEPS,
    flattened,
    poisson_sessions,
    session_draws,
    session_series,
    switching_trajectories,
    trajectory_draws,
)
from tsppl.posterior import draws as draws_module
from tsppl.posterior.draws import as_draws
from tsppl.posterior.latents import posterior_latents

DRAWS = session_draws()
FLAT = flattened(DRAWS)


def by_hand(method, draws=FLAT, **kwargs):
    """What the distribution of the counts answers at each draw."""

    @jax.jit
    @jax.vmap
    def answer(draw):
        return getattr(session_series(draw, **kwargs).expand((3,)), method)(jnp.asarray(COUNTS))

    return answer(draws)


@pytest.mark.smoke
def test_marginals_of_every_draw_equal_those_of_its_distribution(key):
    latents = posterior_latents(key, poisson_sessions, DRAWS, COUNTS, LENGTHS, what="marginals")
    expected = by_hand("latent_marginals", lengths=jnp.asarray(LENGTHS))
    assert latents["counts"]["state_probs"].shape == (2, 3, 3, NUM_STEPS, 2)
    assert_allclose(latents["counts"]["state_probs"].reshape(6, 3, NUM_STEPS, 2), expected["state_probs"])


def test_filtered_is_given_the_past_and_mode_is_viterbi(key):
    filtered = posterior_latents(key, poisson_sessions, FLAT, COUNTS, what="filtered")["counts"]["state_probs"]
    smoothed = posterior_latents(key, poisson_sessions, FLAT, COUNTS, what="marginals")["counts"]["state_probs"]
    assert_allclose(filtered[:, :, -1], smoothed[:, :, -1])
    assert jnp.abs(filtered - smoothed).max() > 0.01
    mode = posterior_latents(key, poisson_sessions, FLAT, COUNTS, what="mode")["counts"]["states"]
    assert mode.dtype == jnp.int32
    assert_allclose(mode, by_hand("latent_mode")["states"])


def test_draws_of_states_have_the_smoothed_frequencies(key):
    draw = {name: np.repeat(array[:1], 4000, 0) for name, array in FLAT.items()}
    states = posterior_latents(key, poisson_sessions, draw, COUNTS)["counts"]["states"]
    assert states.dtype == jnp.int32
    expected = by_hand("latent_marginals", draws={n: a[:1] for n, a in FLAT.items()})["state_probs"][0, ..., 1]
    assert jnp.abs(states.mean(0) - expected).max() < 4 * 0.5 / np.sqrt(4000)


def test_batches_change_nothing_and_padding_draws_are_dropped(key):
    five = {name: array[:5] for name, array in FLAT.items()}
    whole, batched = (
        posterior_latents(key, poisson_sessions, five, COUNTS, batch_size=size)["counts"]["states"]
        for size in (None, 2)
    )
    assert batched.shape == (5, 3, NUM_STEPS)
    assert (whole == batched).all()


def test_default_batches_are_bounded_and_large_results_announced(key, monkeypatch, caplog):
    batches = []
    looped = draws_module.lax.map
    monkeypatch.setattr(draws_module, "BATCH_BYTES", 5000)
    monkeypatch.setattr(draws_module, "LARGE_BYTES", 100)
    monkeypatch.setattr(
        draws_module.lax, "map", lambda f, xs: batches.append(jax.tree.leaves(xs)[0].shape[0]) or looped(f, xs)
    )
    posterior_latents(key, poisson_sessions, DRAWS, COUNTS, what="mode")
    assert batches[0] > 1
    assert "posterior_latents: the result takes" in caplog.text


def test_thinning_takes_as_many_draws_from_each_chain(key):
    draws = session_draws(chains=2, size=10)
    thinned = as_draws(key, poisson_sessions, draws, (COUNTS,), {}, num_draws=6)
    assert thinned.shape == (2, 3)
    assert_allclose(np.asarray(thinned.values["rate"]), draws["rate"][:, [0, 4, 9]].reshape(6, 2), rtol=1e-6, atol=1e-6)
    mode = posterior_latents(key, poisson_sessions, flattened(draws), COUNTS, what="mode", num_draws=5)
    assert mode["counts"]["states"].shape == (5, 3, NUM_STEPS)


@pytest.mark.smoke
def test_leading_axes_are_read_off_the_shapes():
    def shape(draws, batch_ndims=None):
        return as_draws(None, poisson_sessions, draws, (COUNTS,), {}, batch_ndims=batch_ndims).shape

    single = {name: array[0] for name, array in FLAT.items()}
    assert shape(DRAWS) == shape(DRAWS, 2) == (2, 3)
    assert shape(FLAT) == shape(FLAT, 1) == (6,)
    assert shape(single) == shape(single, 0) == ()
    with pytest.raises(
        ValueError, match=r"has leading axes \(6,\): 1, not batch_ndims=2. Pass batch_ndims=1, or .*group_by_chain"
    ):
        shape(FLAT, 2)
    with pytest.raises(
        ValueError, match=r"draws\['initial_probs'\] has leading axes \(6,\) and draws\['rate'\] \(5,\)"
    ):
        shape(FLAT | {"rate": FLAT["rate"][:5]})
    with pytest.raises(ValueError, match="latent site 'rate', of which there are no draws"):
        shape({name: array for name, array in FLAT.items() if name != "rate"})
    with pytest.raises(ValueError, match=r"draws\['rate'\] has shape \(6, 3\).* must have shape \(2,\)"):
        shape(FLAT | {"rate": np.ones((6, 3))})
    with pytest.raises(TypeError, match="posterior must be an MCMC object"):
        as_draws(None, poisson_sessions, 3.0, (COUNTS,), {})


def test_draws_of_a_guide_and_its_parameters(key):
    def guide(counts):
        loc = numpyro.param("loc", jnp.array([1.0, 1.0]), constraint=dist.constraints.positive)
        numpyro.sample("initial_probs", dist.Delta(jnp.array([0.5, 0.5]), event_dim=1))
        numpyro.sample("transition_probs", dist.Delta(jnp.array([[0.8, 0.2], [0.3, 0.7]]), event_dim=2))
        numpyro.sample("rate", dist.Gamma(1e8 * loc, 1e8).to_event(1))

    params = {"loc": jnp.array([1.0, 8.0])}
    latents = posterior_latents(key, poisson_sessions, (guide, params), COUNTS, what="marginals", num_draws=4)
    draw = {"initial_probs": [0.5, 0.5], "transition_probs": [[0.8, 0.2], [0.3, 0.7]], "rate": [1.0, 8.0]}
    expected = by_hand("latent_marginals", draws={name: np.array([array]) for name, array in draw.items()})[
        "state_probs"
    ]
    assert_allclose(latents["counts"]["state_probs"], jnp.repeat(expected, 4, 0), rtol=1e-2, atol=1e-2)


def test_parameters_of_the_model_come_from_the_guide_too(key):
    def model(counts):
        rate = numpyro.param("rate", jnp.array([3.0, 3.0]))
        initial_probs = numpyro.sample("initial_probs", dist.Dirichlet(jnp.ones(2)))
        series = tsd.HiddenMarkov(initial_probs, jnp.full((2, 2), 0.5), dist.Poisson(rate), num_steps=NUM_STEPS)
        numpyro.sample("counts", series, obs=counts)

    def guide(counts):
        numpyro.sample("initial_probs", dist.Dirichlet(jnp.ones(2)))

    posterior = (guide, {"rate": jnp.array([1.0, 8.0])})
    states = posterior_latents(key, model, posterior, COUNTS[0], what="mode", num_draws=2)["counts"]["states"]
    assert states.tolist() == [[0, 0, 1, 1, 1, 0]] * 2


MASKED = np.array([True, False, True])


def in_plate_masked(counts):
    with numpyro.plate("session", 3), handlers.mask(mask=jnp.asarray(MASKED)):
        numpyro.sample("counts", fixed_series(), obs=counts)


def masked_by_method(counts):
    numpyro.sample("counts", fixed_series().expand((3,)).mask(MASKED), obs=counts)


def masked_then_expanded(counts):
    with numpyro.plate("session", 3, dim=-1), numpyro.plate("one", 1, dim=-2):
        numpyro.sample("counts", fixed_series().expand((3,)).mask(MASKED), obs=counts[None])


def masked_inside_event(counts):
    numpyro.sample("counts", fixed_series().expand((3,)).mask(MASKED).to_event(1), obs=counts)


def masked_twice(counts):
    numpyro.sample("counts", fixed_series().expand((3,)).mask(MASKED).mask(np.ones(3, bool)), obs=counts)


def masked_with_own_mask(counts):
    observed = jnp.ones((3, NUM_STEPS), bool)
    with numpyro.plate("session", 3), handlers.mask(mask=jnp.asarray(MASKED)):
        numpyro.sample("counts", fixed_series(mask=observed), obs=counts)


def fixed_series(**kwargs):
    draw = {name: jnp.asarray(array[0]) for name, array in FLAT.items()}
    return session_series(draw, **kwargs)


@pytest.mark.parametrize(
    "model",
    [in_plate_masked, masked_by_method, masked_then_expanded, masked_inside_event, masked_twice, masked_with_own_mask],
)
def test_a_batch_mask_and_wrappers_reach_the_latents(key, model):
    probs = posterior_latents(key, model, {}, COUNTS, what="marginals")["counts"]["state_probs"]
    assert probs.size == 3 * NUM_STEPS * 2
    probs = probs.reshape(3, NUM_STEPS, 2)
    expected = fixed_series().latent_marginals(jnp.asarray(COUNTS))["state_probs"]
    prior = fixed_series(mask=jnp.zeros(NUM_STEPS, bool)).latent_marginals(jnp.asarray(COUNTS[0]))["state_probs"]
    assert_allclose(probs[0], expected[0])
    assert_allclose(probs[1], prior)
    assert_allclose(probs[2], expected[2])


def test_values_without_a_plate_have_the_batch_of_the_value(key):
    def model(counts):
        numpyro.sample("counts", fixed_series(), obs=counts)

    states = posterior_latents(key, model, {}, COUNTS)["counts"]["states"]
    assert states.shape == (3, NUM_STEPS)


def test_a_plate_at_the_wrong_dim_raises(key):
    def model(counts):
        with numpyro.plate("session", 3, dim=-2):
            numpyro.sample("counts", fixed_series().expand((3,)), obs=counts)

    with pytest.raises(
        ValueError, match=r"site 'counts': the distribution has batch shape \(3, 3\) and the value \(3,\)"
    ):
        posterior_latents(key, model, {}, COUNTS)


def test_subsampled_plates_raise(key):
    def model(counts):
        with numpyro.plate("session", 3, subsample_size=2) as index:
            numpyro.sample("counts", fixed_series(), obs=jnp.asarray(counts)[index])

    with pytest.raises(ValueError, match=r"plate 'session' is subsampled \(2 of 3\)"):
        posterior_latents(key, model, {}, COUNTS)


def test_obs_mask_over_time_raises(key):
    def model(counts):
        numpyro.sample("counts", fixed_series(), obs=counts, obs_mask=counts > 0)

    with pytest.raises(ValueError, match="obs_mask work on sequences, not on steps.*Pass mask= to the distribution"):
        posterior_latents(key, model, {"counts_unobserved": np.zeros((NUM_STEPS, NUM_STEPS))}, COUNTS[0])


def test_bad_data_and_questions_are_named(key):
    counts = np.where(COUNTS == 9, np.nan, COUNTS)
    with pytest.raises(ValueError, match="site 'counts': value is NaN at sequence 0, step 3"):
        posterior_latents(key, poisson_sessions, FLAT, counts)
    with pytest.raises(ValueError, match="what is 'path'; it must be one of 'sample', 'marginals', 'filtered', 'mode'"):
        posterior_latents(key, poisson_sessions, FLAT, COUNTS, what="path")

    def regression(y):
        numpyro.sample("y", dist.Normal(numpyro.sample("mean", dist.Normal()), 1), obs=y)

    with pytest.raises(ValueError, match="no sequence site with hidden states"):
        posterior_latents(key, regression, {"mean": np.zeros(3)}, 1.0)


def test_latent_sequences_are_taken_from_the_draws(key):
    draws = trajectory_draws()
    y = jnp.zeros((3, 4, 2))
    probs = posterior_latents(key, switching_trajectories, draws, y, 4, what="marginals")
    assert set(probs) == {"x"}
    assert_allclose(probs["x"]["state_probs"], 1 / 3)
    with pytest.raises(
        ValueError, match=r"draws\['x'\] has shape \(4, 3, 4, 2\), and with these arguments .*were fitted"
    ):
        posterior_latents(key, switching_trajectories, draws, y[:, :3], 3)
