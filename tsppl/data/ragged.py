"""Missing and ragged data as people hold them: NaN in arrays, lists of unequal length."""

import jax.numpy as jnp
import numpy as np


def nan_to_mask(values):
    """Split an array with NaN into finite values and a mask.

    Args:
        values: array of any shape; NaN marks what was not observed.

    Returns:
        ``(filled, mask)``: the array with zeros in place of NaN, and a bool array of the same shape, True where
        observed.

    >>> from tsppl import nan_to_mask
    >>> filled, mask = nan_to_mask([1.0, float("nan"), 3.0])
    >>> filled.tolist(), mask.tolist()
    ([1.0, 0.0, 3.0], [True, False, True])
    """
    values = jnp.asarray(values)
    mask = ~jnp.isnan(values)
    return jnp.where(mask, values, 0), mask


def pad(*variables, fill=0, multiple_of=1):
    """Stack sequences of unequal length into arrays for ``lengths=``.

    Args:
        *variables: each a list of arrays ``(T_i, ...)`` that agree in all but the first axis; several variables
            (choices and covariates, say) must agree in their lengths.
        fill: number put after the end of the shorter sequences. Use a number inside the data's range, not NaN:
            covariates are never masked.
        multiple_of: make ``T`` a multiple of this number. JAX compiles anew for each shape: with 100, say, folds and data
            sets of 801 to 900 steps share one compilation, and what is added is never read.

    Returns:
        ``(array, ..., lengths)``: for each variable an array ``(B, T, ...)`` with ``T`` the greatest length, or the next
        multiple, and the int lengths ``(B,)``.

    Raises:
        ValueError: if trailing shapes, or the lengths of two variables, differ, or ``multiple_of`` is below 1.

    >>> from tsppl import pad
    >>> values, lengths = pad([[1, 2, 3], [4]])
    >>> values.tolist(), lengths.tolist()
    ([[1, 2, 3], [4, 0, 0]], [3, 1])
    """
    if not variables or any(len(sequences) == 0 or np.ndim(sequences[0]) == 0 for sequences in variables):
        raise ValueError(
            "pad needs lists of sequences: pad([series_1, series_2, ...], [covariates_1, covariates_2, ...])"
        )
    if multiple_of < 1:
        raise ValueError(f"multiple_of is {multiple_of}; pass a whole number from 1")
    padded, lengths = zip(*(_pad_one(sequences, fill, multiple_of) for sequences in variables), strict=True)
    for position, other in enumerate(lengths[1:], start=1):
        if len(other) != len(lengths[0]) or (other != lengths[0]).any():
            raise ValueError(f"variables 0 and {position} have different lengths: {lengths[0]} and {other}")
    return (*map(jnp.asarray, padded), jnp.asarray(lengths[0]))


def _pad_one(sequences, fill, multiple_of):
    arrays = [np.asarray(sequence) for sequence in sequences]
    tails = {array.shape[1:] for array in arrays}
    if len(tails) > 1:
        raise ValueError(f"sequences must agree in all but the first axis; their other axes are {sorted(tails)}")
    lengths = np.array([len(array) for array in arrays])
    longest = -(-lengths.max() // multiple_of) * multiple_of
    padded = np.full((len(arrays), longest) + arrays[0].shape[1:], fill, dtype=np.result_type(*arrays))
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded, lengths


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
