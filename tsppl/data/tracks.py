"""Tracks of animals as step lengths and turning angles."""

import numpy as np


def steps_and_turns(locations):
    """Step lengths and turning angles of tracks; what a lost fix leaves unknown is NaN: two steps and three turns.

    Entry ``t`` belongs to location ``t``: the step from there to the next, and the turn made there, between the step that
    arrives and the step that leaves. A step of length zero has no direction, so the turns at its ends are unknown.

    Args:
        locations: ``(..., T, 2)``, planar coordinates; NaN where the fix was lost.

    Returns:
        ``(steps, turns)``, each ``(..., T)``: in the unit of the locations, and in radians from ``-pi`` to ``pi``.

    Raises:
        ValueError: if the last axis is not of length 2.

    >>> from tsppl import steps_and_turns
    >>> steps, turns = steps_and_turns([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])
    >>> steps.tolist(), turns.round(2).tolist()
    ([1.0, 2.0, nan], [nan, 1.57, nan])
    """
    locations = np.asarray(locations, float)
    if locations.ndim < 2 or locations.shape[-1] != 2:
        raise ValueError(f"locations have shape {locations.shape}; it must end in (T, 2)")
    moves = np.diff(locations, axis=-2)
    lengths = np.hypot(moves[..., 0], moves[..., 1])
    headings = np.where(lengths > 0, np.arctan2(moves[..., 1], moves[..., 0]), np.nan)
    turns = (np.diff(headings, axis=-1) + np.pi) % (2 * np.pi) - np.pi
    unknown = np.full(locations.shape[:-2] + (1,), np.nan)
    return np.concatenate([lengths, unknown], -1), np.concatenate([unknown, turns, unknown], -1)
