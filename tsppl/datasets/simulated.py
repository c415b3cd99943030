"""Data made by published recipes, for which the truth is known."""

from typing import Any, NamedTuple

import numpy as np


class Tracks(NamedTuple):
    """Simulated animals: ``locations`` ``(B, T, 2)``, NaN where the fix was lost; ``temperature`` and ``states`` ``(B, T)``."""

    locations: Any
    temperature: Any
    states: Any


def simulate_movement(seed=0, *, num_animals=5, num_steps=200, lost=0.05) -> Tracks:
    """Tracks of animals that rest, turning about in short steps, or travel, straight on in long ones.

    State 0: steps Gamma with mean 1 and standard deviation 1, a fifth of them exactly 0, turns von Mises around pi with
    concentration 0.5. State 1: mean 10, deviation 5, turns around 0 with concentration 2. Temperatures are drawn from
    N(20, 5). These are the numbers of the example of ``simData`` in the manual of the R package moveHMM (Michelot, Langrock
    and Patterson 2016, Methods Ecol. Evol. 7). The coefficients of temperature, which are drawn at random there, are
    fixed: the logit of leaving state 0 for step ``t`` is ``-1.5 + 0.15 (temperature[t] - 20)``, that of leaving state 1
    ``-2 - 0.1 (temperature[t] - 20)``.

    Args:
        seed: of NumPy's generator.
        num_animals, num_steps: ``B`` tracks of ``T`` locations.
        lost: share of locations that are missing.

    Example:
        >>> tracks = simulate_movement(num_animals=2, num_steps=50)
        >>> tracks.locations.shape, tracks.states.max()
        ((2, 50, 2), np.int64(1))
    """
    rng = np.random.default_rng(seed)
    shape = (num_animals, num_steps)
    temperature = rng.normal(20.0, 5.0, shape)
    leave = np.stack([-1.5 + 0.15 * (temperature - 20), -2.0 - 0.1 * (temperature - 20)], -1)
    leave = 1 / (1 + np.exp(-leave))
    states = np.zeros(shape, int)
    states[:, 0] = rng.integers(2, size=num_animals)
    for t in range(1, num_steps):
        previous = states[:, t - 1]
        switch = rng.random(num_animals) < np.take_along_axis(leave[:, t], previous[:, None], 1)[:, 0]
        states[:, t] = np.where(switch, 1 - previous, previous)
    mean, deviation = np.array([1.0, 10.0])[states], np.array([1.0, 5.0])[states]
    steps = rng.gamma((mean / deviation) ** 2, deviation**2 / mean)
    steps = np.where((states == 0) & (rng.random(shape) < 0.2), 0.0, steps)
    turns = rng.vonmises(np.array([np.pi, 0.0])[states], np.array([0.5, 2.0])[states])
    heading = rng.uniform(-np.pi, np.pi, (num_animals, 1)) + np.cumsum(turns, 1)
    moves = steps[..., None] * np.stack([np.cos(heading), np.sin(heading)], -1)
    locations = np.cumsum(np.concatenate([np.zeros((num_animals, 1, 2)), moves[:, :-1]], 1), 1)
    locations[rng.random(shape) < lost] = np.nan
    return Tracks(locations, temperature, states)


class Decisions(NamedTuple):
    """Simulated sessions: ``choices`` (1 = right), ``stimulus`` and ``states`` ``(B, T)``; ``subject`` ``(B,)``; ``weights`` ``(S, K, 2)``."""

    choices: Any
    stimulus: Any
    states: Any
    subject: Any
    weights: Any


def simulate_decisions(seed=0, *, num_subjects=8, num_sessions=5, num_trials=100, spread=0.5) -> Decisions:
    """Left-right decisions of subjects who switch between an engaged state and two biased ones (a GLM-HMM).

    Choices are right with probability ``1 / (1 + exp(-(w_stimulus x + w_bias)))``. Average weights ``(6, 1)``, ``(2, -3)`` and
    ``(2, 3)``, transition probabilities ``(.98, .01, .01)``, ``(.05, .92, .03)``, ``(.03, .03, .94)`` and stimuli in
    powers of one half are those of the GLM-HMM example of the package ssm, after Ashwood et al. (2022, Nat. Neurosci.
    25). Each subject's weights differ from them by normal draws.

    Args:
        seed: of NumPy's generator.
        num_subjects: number of subjects ``S``.
        num_sessions: sessions of each, ``B = S num_sessions``.
        num_trials: trials of a session ``T``.
        spread: standard deviation of the subjects' weights.

    Example:
        >>> simulate_decisions(num_subjects=2, num_trials=10).choices.shape
        (10, 10)
    """
    rng = np.random.default_rng(seed)
    weights = np.array([[6.0, 1.0], [2.0, -3.0], [2.0, 3.0]]) + spread * rng.normal(size=(num_subjects, 3, 2))
    rows = np.array([[0.98, 0.01, 0.01], [0.05, 0.92, 0.03], [0.03, 0.03, 0.94]])
    subject = np.repeat(np.arange(num_subjects), num_sessions)
    shape = (len(subject), num_trials)
    levels = np.array([1, 0.5, 0.25, 0.125, 0.0625, 0])
    stimulus = rng.choice(np.concatenate([levels, -levels[:-1]]), shape)
    states = np.zeros(shape, int)
    states[:, 0] = rng.integers(3, size=len(subject))
    for t in range(1, num_trials):
        reached = rows[states[:, t - 1]].cumsum(1)[:, :2]
        states[:, t] = (rng.random(len(subject))[:, None] > reached).sum(1)
    slope, bias = np.moveaxis(weights[subject[:, None], states], -1, 0)
    choices = (rng.random(shape) < 1 / (1 + np.exp(-(slope * stimulus + bias)))).astype(int)
    return Decisions(choices, stimulus, states, subject, weights)
