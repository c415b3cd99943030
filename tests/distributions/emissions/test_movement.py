"""Movement of animals: tracks with lost fixes against enumeration of all paths, the simulator against its recipe, stays."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import tsppl
import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference import hidden_markov as reference


def test_lost_fix_leaves_two_steps_and_three_turns_unknown():
    rng = np.random.default_rng(0)
    track = rng.normal(size=(9, 2)).cumsum(0)
    steps, turns = tsppl.steps_and_turns(track)
    assert np.isnan(steps).tolist() == [False] * 8 + [True]
    assert np.isnan(turns).tolist() == [True] + [False] * 7 + [True]
    moves = np.diff(track[:, 0] + 1j * track[:, 1])
    assert_allclose(steps[:-1], np.abs(moves))
    assert_allclose(turns[1:-1], np.angle(moves[1:] / moves[:-1]))
    track[4] = np.nan
    with_gap = tsppl.steps_and_turns(np.stack([track, track]))
    assert np.flatnonzero(np.isnan(with_gap[0][0, :-1])).tolist() == [3, 4]
    assert np.flatnonzero(np.isnan(with_gap[1][0, 1:-1])).tolist() == [2, 3, 4]
    still = tsppl.steps_and_turns([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [2.0, 1.0]])
    assert still[0][:3].tolist() == pytest.approx([1.0, 0.0, 2**0.5])
    assert np.isnan(still[1]).all()
    with pytest.raises(ValueError, match=r"must end in \(T, 2\)"):
        tsppl.steps_and_turns(np.ones((3, 3)))


@pytest.mark.smoke
def test_track_with_lost_fixes_and_covariates_equals_enumeration():
    """Steps with zeros, turns, each with its own gaps; the covariate of arrival in the transitions."""
    track = np.array([[0, 0], [1, 0], [1, 0], [np.nan, np.nan], [2, 3], [4, 3], [4.5, 2]])
    steps, turns = tsppl.steps_and_turns(track)
    assert np.isnan(steps).sum() == 3
    assert np.isnan(turns).sum() == 6
    num_steps, warmth = len(track), np.linspace(-1, 1, len(track))
    slope = np.array([[0.0, 1.0], [-0.5, 0.0]])
    logits = np.array([[0.0, -1.0], [-2.0, 0.0]]) + slope * warmth[1:, None, None]
    log_rows = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    shape, rate, still, concentration = (
        np.array([1.0, 4.0]),
        np.array([1.0, 2.0]),
        np.array([0.2, 0.01]),
        np.array([0.5, 2.0]),
    )
    terms = np.zeros((num_steps, 2))
    for t in range(num_steps):
        for k in range(2):
            if steps[t] == 0:
                terms[t, k] += np.log(still[k])
            elif steps[t] > 0:
                terms[t, k] += np.log(1 - still[k]) + stats.gamma(shape[k], scale=1 / rate[k]).logpdf(steps[t])
            if np.isfinite(turns[t]):
                terms[t, k] += stats.vonmises(concentration[k], loc=(np.pi, 0)[k]).logpdf(turns[t])
    emission = tsd.Streams(
        step=tsd.ZeroInflated(dist.Gamma(shape, rate), still),
        turn=dist.VonMises(jnp.array([jnp.pi, 0.0]), concentration),
    )
    value = np.stack([steps, turns], -1)
    model = tsd.HiddenMarkov(
        np.array([0.3, 0.7]), emission=emission, transition_logits=logits, num_steps=num_steps,
        time_varying=("transition_logits",), mask=~np.isnan(value),
    )  # fmt: skip
    potentials = np.log([0.3, 0.7]), log_rows, terms
    assert_allclose(model.log_prob(value), reference.log_normalizer(*potentials))
    assert_allclose(model.latent_marginals(value)["state_probs"], reference.smoothed(*potentials))


def test_simulated_tracks_follow_their_recipe():
    tracks = tsppl.datasets.simulate_movement(1, num_animals=40, num_steps=500, lost=0.0)
    steps, turns = tsppl.steps_and_turns(tracks.locations)
    resting = tracks.states[:, :-1] == 0
    steps = steps[:, :-1]
    assert (steps[resting] == 0).mean() == pytest.approx(0.2, abs=0.02)
    moving = steps[resting & (steps > 0)]
    assert (moving.mean(), moving.std()) == pytest.approx((1.0, 1.0), abs=0.05)
    assert (steps[~resting].mean(), steps[~resting].std()) == pytest.approx((10.0, 5.0), abs=0.15)
    straight = turns[:, 1:-1][tracks.states[:, 1:-1] == 1]
    straight = straight[np.isfinite(straight)]
    warm = tracks.temperature[:, 1:] > 25
    leaving = (tracks.states[:, 1:] == 1)[resting & warm].mean(), (tracks.states[:, 1:] == 1)[resting & ~warm].mean()
    assert leaving[0] > leaving[1] + 0.15
    assert np.cos(straight).mean() > 0.6
    lost = tsppl.datasets.simulate_movement(1, lost=0.3).locations
    assert np.isnan(lost[..., 0]).mean() == pytest.approx(0.3, abs=0.05)


def test_dwell_times_count_whole_stays():
    states = np.array([[-1, 0, 0, 1, 2, 2], [1, 1, 0, 0, 0, 1]])
    assert [stays.tolist() for stays in tsppl.dwell_times(states)] == [[3], [1], []]
    assert [stays.tolist() for stays in tsppl.dwell_times(states, censored=True)] == [[2, 3], [1, 2, 1], [2]]
    assert [stays.tolist() for stays in tsppl.dwell_times(states, lengths=[6, 4], num_states=3)] == [[], [1], []]
    model = tsd.MarkovChain(np.ones(2) / 2, np.array([[0.9, 0.1], [0.4, 0.6]]), num_steps=20_000)
    stays = tsppl.dwell_times(model.sample(jax.random.key(0)))
    assert [stay.mean() for stay in stays] == pytest.approx([10.0, 2.5], rel=0.08)
    assert_allclose(tsppl.expected_durations(np.array([[0.9, 0.1], [0.4, 0.6]])), np.array([10.0, 2.5]))
