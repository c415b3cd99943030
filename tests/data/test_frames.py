"""Data frames become arrays in the order of time, and come back with their keys."""

import numpy as np
import pytest

import tsppl

pd = pytest.importorskip("pandas")

FRAME = pd.DataFrame(
    {
        "mouse": ["b", "a", "a", "b", "a"],
        "session": [1, 2, 1, 1, 1],
        "trial": [2, 1, 2, 1, 1],
        "choice": [1, 0, 1, 0, 1],
        "left": [0.2, 0.3, np.nan, 0.5, 0.6],
        "right": [2.0, 3.0, 4.0, 5.0, 6.0],
        "light": ["on", "off", "on", "on", "off"],
    }
)


def test_frame_to_arrays_and_back():
    data = tsppl.sequences(
        FRAME, by=["mouse", "session"], time="trial", columns={"choice": "choice", "side": ["left", "right"]}
    )
    assert data.lengths.tolist() == [2, 1, 2]
    assert data.coords == {"sequence": ["a/1", "a/2", "b/1"]}
    assert data.arrays["choice"].tolist() == [[1, 1], [0, 0], [0, 1]]
    assert np.issubdtype(data.arrays["choice"].dtype, np.integer)
    assert data.arrays["side"].tolist() == [[[0.6, 6], [0, 4]], [[0.3, 3], [0, 0]], [[0.5, 5], [0.2, 2]]]
    assert data.masks["side"][0].tolist() == [[True, True], [False, True]]
    back = tsppl.to_frame(data, {"choice": data.arrays["choice"], "side": data.arrays["side"]})
    columns = ["mouse", "session", "trial"]
    expected = FRAME.sort_values(columns)[[*columns, "choice", "left", "right"]].fillna(0.0)
    np.testing.assert_array_equal(back.to_numpy(), expected.to_numpy())
    assert back.columns.tolist() == [*columns, "choice", "side_0", "side_1"]


def test_one_series():
    one = FRAME[FRAME.mouse == "b"]
    data = tsppl.sequences(one, time="trial", columns=["choice"])
    assert data.lengths is None
    assert data.arrays["choice"].tolist() == [0, 1]
    assert data.coords["time"].tolist() == [1, 2]
    assert tsppl.to_frame(data, {"p": np.array([0.1, 0.9])}).to_numpy().tolist() == [[1, 0.1], [2, 0.9]]


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (FRAME, {"columns": ["speed"]}, "no column 'speed'; it has"),
        (FRAME, {"columns": ["light"]}, "column 'light' is .*, not numbers"),
        (FRAME, {"columns": ["choice"], "by": "left"}, "column 'left' is empty in row 2"),
        (FRAME, {"columns": ["choice"], "by": "mouse", "time": "trial"}, "same mouse a, trial 1"),
    ],
)
def test_refusals(frame, options, message):
    with pytest.raises(ValueError, match=message):
        tsppl.sequences(frame, **options)


def test_arrays_of_other_shape_are_refused():
    data = tsppl.sequences(FRAME, by="mouse", columns=["choice"])
    with pytest.raises(ValueError, match=r"'p' has shape \(9, 2, 3\); it must begin with \(2, 3\)"):
        tsppl.to_frame(data, {"p": np.zeros((9, 2, 3))})
