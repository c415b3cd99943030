"""From a long data frame, one row a step, to arrays for a model, and back."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tsppl.data.ragged import nan_to_mask, pad


class Sequences(NamedTuple):
    """Series of a data frame as arrays.

    Attributes:
        arrays: name -> ``(B, T)`` or ``(B, T, N)``, or ``(T,)`` and ``(T, N)`` of one series; zero where missing and padded.
        masks: name -> bool array of the same shape, True where there was a number.
        lengths: int ``(B,)``, number of steps of each series; None of one series.
        coords: ``coords`` for :func:`tsppl.to_arviz`: ``sequence``, and ``time`` where there is one series.
        keys: data frame of the columns that tell sequence and time, in the order of the arrays.
    """

    arrays: dict
    masks: dict
    lengths: Any
    coords: dict
    keys: Any


def sequences(frame, *, columns, by=None, time=None) -> Sequences:
    """Cut a long data frame into sequences, sorted in time, and pad them to one length.

    Each row is one step, the next row the next step, whatever the times between them: put in a row of NaN for a step
    that is missing, by ``frame.reindex`` or ``asfreq``.

    Args:
        frame: pandas data frame.
        columns: names of the columns wanted as arrays; or a dict, name of an array -> a column, or a list of them that
            become its last axis.
        by: column, or list of columns, whose values tell sequences apart (mouse, session); None for one series.
        time: column to sort by within a sequence; by default rows are in order.

    Returns:
        :class:`Sequences`.

    Raises:
        ValueError: for columns that do not exist or are not numbers, a key that is missing, or a time that occurs twice in
            a sequence.

    >>> import pandas as pd, tsppl
    >>> frame = pd.DataFrame({"mouse": ["a", "a", "b"], "trial": [2, 1, 1], "choice": [1.0, 0.0, float("nan")]})
    >>> data = tsppl.sequences(frame, by="mouse", time="trial", columns=["choice"])
    >>> data.arrays["choice"].tolist(), data.masks["choice"].tolist(), data.lengths.tolist()
    ([[0.0, 1.0], [0.0, 0.0]], [[True, True], [False, True]], [2, 1])
    """
    by = [] if by is None else [by] if isinstance(by, str) else list(by)
    keys = by if time is None else [*by, time]
    columns = dict(columns) if isinstance(columns, Mapping) else {name: name for name in columns}
    needed = [name for group in columns.values() for name in ([group] if isinstance(group, str) else group)]
    for name in keys + needed:
        if name not in frame.columns:
            raise ValueError(f"the frame has no column {name!r}; it has {list(map(str, frame.columns))}")
    for name in needed:
        if frame[name].dtype.kind not in "biuf":
            raise ValueError(
                f"column {name!r} is {frame[name].dtype}, not numbers: use codes, frame[{name!r}].cat.codes say"
            )
    for name in keys:
        if frame[name].isna().any():
            raise ValueError(
                f"column {name!r} is empty in row {int(np.argmax(frame[name].isna()))}: every row needs its keys"
            )
    if keys:
        frame = frame.sort_values(keys, kind="stable")
    if time is not None and frame.duplicated(keys).any():
        row = frame[frame.duplicated(keys)].iloc[0]
        raise ValueError("two rows have the same " + ", ".join(f"{key} {row[key]}" for key in keys))
    groups = [group for _, group in frame.groupby(by, sort=True)] if by else [frame]
    arrays, masks = {}, {}
    for name, group in columns.items():
        padded, lengths = pad([rows[group].to_numpy() for rows in groups])
        arrays[name], masks[name] = nan_to_mask(padded if by else padded[0])
    coords = {}
    if by:
        coords["sequence"] = ["/".join(str(rows[key].iloc[0]) for key in by) for rows in groups]
    elif time is not None:
        coords["time"] = frame[time].to_numpy()
    return Sequences(arrays, masks, lengths if by else None, coords, frame[keys].reset_index(drop=True))


def to_frame(data, arrays):
    """A long data frame of arrays that a model gave for :func:`sequences`: one row a step, padding left out.

    Args:
        data: the :class:`Sequences` that the model saw.
        arrays: dict, name -> array ``(B, T)`` or ``(B, T, ...)``, or ``(T,)``, ``(T, ...)`` of one series: state
            probabilities averaged over draws, say. Trailing axes become columns ``name_0``, ``name_1`` and so on.

    Returns:
        pandas data frame: the columns that tell sequence and time, then the arrays.

    Raises:
        ValueError: if an array has not the leading shape of the sequences.

    >>> import numpy as np, pandas as pd, tsppl
    >>> frame = pd.DataFrame({"mouse": ["a", "a", "b"], "choice": [1, 0, 1]})
    >>> data = tsppl.sequences(frame, by="mouse", columns=["choice"])
    >>> print(tsppl.to_frame(data, {"prob": np.array([[[0.1, 0.9], [0.2, 0.8]], [[1.0, 0.0], [0.0, 0.0]]])}))
      mouse  prob_0  prob_1
    0     a     0.1     0.9
    1     a     0.2     0.8
    2     b     1.0     0.0
    """
    lead = next(iter(data.masks.values())).shape[: 1 if data.lengths is None else 2]
    within = np.ones(lead, bool)
    if data.lengths is not None:
        within = np.arange(lead[-1]) < np.asarray(data.lengths)[:, None]
    found = {}
    for name, array in arrays.items():
        array = np.asarray(array)
        if array.shape[: len(lead)] != lead:
            raise ValueError(
                f"{name!r} has shape {array.shape}; it must begin with {lead}, the sequences and their steps: average over draws "
                "first"
            )
        rows = array[within]
        if rows.ndim == 1:
            found[name] = rows
            continue
        found |= {
            "_".join(map(str, (name, *index))): rows[(slice(None), *index)] for index in np.ndindex(rows.shape[1:])
        }
    return data.keys.assign(**found)
