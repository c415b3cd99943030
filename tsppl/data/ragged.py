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
