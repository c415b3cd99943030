"""Labels that agree over draws and chains, and the check that would notice a mistake."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions.transforms import OrderedTransform

import tsppl.distributions as tsd
from tests.session_models import COUNTS, NUM_STEPS, flattened, poisson_sessions, session_draws
from tsppl.posterior.alignment import _permutations, align_labels
from tsppl.posterior.export import to_arviz

ARGS = (jnp.asarray(COUNTS),)
PLAIN = session_draws(chains=2, size=30)
SWAPPED = np.random.default_rng(1).random((2, 30)) < 0.4
STATE_AXES = {"initial_probs": 0, "transition_probs": (0, 1), "rate": 0, "log_rate": 0}


def swapped(name):
    flipped = PLAIN[name]
    for axis in np.atleast_1d(STATE_AXES[name]):
        flipped = np.flip(flipped, axis + 2)
    return np.where(SWAPPED.reshape((2, 30) + (1,) * (flipped.ndim - 2)), flipped, PLAIN[name])


MIXED = {name: swapped(name) for name in PLAIN}


@pytest.mark.smoke
def test_draws_are_aligned_and_verified_with_axes_seen_in_the_model():
    aligned = align_labels(MIXED, poisson_sessions, ARGS)
    for name in ("initial_probs", "transition_probs", "rate", "log_rate"):
        np.testing.assert_allclose(aligned[name], PLAIN[name], rtol=1e-6)
    flat = align_labels(flattened(MIXED), poisson_sessions, ARGS, state_dims=STATE_AXES)
    np.testing.assert_allclose(flat["transition_probs"], flattened(PLAIN)["transition_probs"], rtol=1e-6)


def test_a_tree_is_aligned_with_its_states():
    tree = to_arviz(MIXED, poisson_sessions, ARGS, dims={"log_rate": ["state"]})
    aligned = align_labels(tree, poisson_sessions, ARGS)
    assert type(aligned) is type(tree)
    posterior, before = aligned["posterior"], tree["posterior"]
    np.testing.assert_allclose(posterior["rate"].values, PLAIN["rate"])
    np.testing.assert_allclose(posterior["transition_probs"].values, PLAIN["transition_probs"])
    np.testing.assert_allclose(posterior["log_rate"].values, PLAIN["log_rate"])
    expected = np.where(SWAPPED[:, :, None, None], 1 - before["counts_states"].values, before["counts_states"].values)
    assert (posterior["counts_states"].values == expected).all()
    assert posterior["counts_states"].dtype == before["counts_states"].dtype
    assert set(aligned["log_likelihood"].data_vars) == {"counts"}
    np.testing.assert_allclose(before["rate"].values, MIXED["rate"])


@pytest.mark.parametrize("forgotten", ["initial_probs", "transition_probs", "rate"])
def test_a_forgotten_axis_is_found_and_named(forgotten):
    state_dims = {name: axes for name, axes in STATE_AXES.items() if name not in (forgotten, "log_rate")}
    with pytest.raises(ValueError, match=f"log density of 'counts' moves by .* '{forgotten}' has an axis of length 2"):
        align_labels(MIXED, poisson_sessions, ARGS, state_dims=state_dims)


def test_a_half_forgotten_axis_is_found():
    with pytest.raises(ValueError, match="log density of 'counts' moves"):
        align_labels(MIXED, poisson_sessions, ARGS, state_dims=STATE_AXES | {"transition_probs": 0})


def test_a_prior_that_orders_the_labels_is_named():
    def ordered(counts):
        base = dist.Normal(jnp.array([0.0, 1.0]), 0.5).to_event(1)
        rate = numpyro.sample("rate", dist.TransformedDistribution(base, dist.transforms.ExpTransform()))
        series = tsd.HiddenMarkov(jnp.ones(2) / 2, jnp.full((2, 2), 0.5), dist.Poisson(rate), num_steps=NUM_STEPS)
        numpyro.sample("counts", series, obs=counts)

    with pytest.raises(ValueError, match="labels are identified by the prior of 'rate'; no alignment is needed"):
        align_labels({"rate": MIXED["rate"]}, ordered, (ARGS[0][0],))


def test_labels_that_agree_stay_as_they_are():
    def ordered(counts):
        base = dist.Normal(0.0, 1.0).expand([2]).to_event(1)
        rate = numpyro.sample("rate", dist.TransformedDistribution(base, OrderedTransform()))
        numpyro.sample(
            "counts",
            tsd.HiddenMarkov(jnp.ones(2) / 2, jnp.full((2, 2), 0.5), dist.Poisson(rate), num_steps=NUM_STEPS),
            obs=counts,
        )

    aligned = align_labels({"rate": PLAIN["rate"]}, ordered, (ARGS[0][0],))
    np.testing.assert_allclose(aligned["rate"], PLAIN["rate"], rtol=1e-6)


def test_deterministic_sites_without_named_axes_follow():
    aligned = align_labels(
        MIXED, poisson_sessions, ARGS, state_dims={n: a for n, a in STATE_AXES.items() if n != "log_rate"}
    )
    np.testing.assert_allclose(aligned["log_rate"], PLAIN["log_rate"], rtol=1e-6)


def test_a_reference_sets_the_order():
    reference = {"rate": np.array([7.0, 1.0])}
    aligned = align_labels(MIXED, poisson_sessions, ARGS, reference=reference)
    np.testing.assert_allclose(aligned["rate"], PLAIN["rate"][..., ::-1], rtol=1e-6)
    np.testing.assert_allclose(aligned["transition_probs"], PLAIN["transition_probs"][..., ::-1, ::-1], rtol=1e-6)
    with pytest.raises(ValueError, match="reference has 'level', which has no state axis"):
        align_labels(MIXED, poisson_sessions, ARGS, reference={"level": np.zeros(2)})


def test_values_that_are_states_are_relabelled():
    orders = np.array([[0, 1, 2], [0, 1, 2], [1, 2, 0], [2, 0, 1]])
    rate = np.array([1.0, 5.0, 20.0])[orders] + 0.01 * np.arange(4)[:, None]
    path = np.argsort(orders, 1)[:, [0, 2, 1, 1]]
    path[:, 2] = -1
    with pytest.warns(UserWarning, match="were permuted, and nothing was verified.*Pass model="):
        aligned = align_labels({"rate": rate, "path": path}, state_dims={"rate": 0, "path": "values"}, batch_ndims=1)
    assert (np.asarray(aligned["path"]) == [0, 2, -1, 1]).all()


def test_many_states_and_weak_features_are_matched():
    rng = np.random.default_rng(0)
    centres = np.concatenate([np.arange(5.0)[:, None] * 4, np.zeros((5, 40))], -1)
    truth = centres + rng.normal(size=(300, 5, 41))
    shuffles = rng.permuted(np.tile(np.arange(5), (300, 1)), axis=1)
    features = np.take_along_axis(truth, shuffles[:, :, None], 1)
    found = np.take_along_axis(features, _permutations(features, None, fixed=False)[:, :, None], 1)
    ranks = np.argsort(np.argsort(found[..., 0].mean(0)))
    assert (found == truth[:, ranks]).all((1, 2)).mean() > 0.9


def test_unknown_axes_raise():
    with pytest.raises(ValueError, match="state_dims has 'level', of which there are no draws"):
        align_labels(MIXED, poisson_sessions, ARGS, state_dims={"level": 0})
    with pytest.raises(ValueError, match="no axis of states is known"):
        align_labels({"rate": MIXED["rate"]}, state_dims={}, batch_ndims=2)
    with pytest.raises(ValueError, match="pass the model, or batch_ndims"):
        align_labels(MIXED, state_dims=STATE_AXES)
    with pytest.raises(ValueError, match="state axes differ in size"):
        align_labels({"rate": MIXED["rate"], "w": np.zeros((2, 30, 3))}, state_dims={"rate": 0, "w": 0}, batch_ndims=2)
