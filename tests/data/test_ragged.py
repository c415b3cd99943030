"""Missing and ragged data as people hold them."""

import jax.numpy as jnp
import numpy as np
import pytest

from tsppl.data.ragged import nan_to_mask, pad

pytestmark = pytest.mark.smoke


def test_nan_to_mask_keeps_what_was_observed():
    values = np.array([[1.0, np.nan], [np.inf, -2.0]], np.float32)
    filled, mask = nan_to_mask(values)
    np.testing.assert_array_equal(mask, [[True, False], [True, True]])
    np.testing.assert_array_equal(filled, np.array([[1.0, 0.0], [np.inf, -2.0]]))
    assert filled.dtype == jnp.float32
    assert mask.dtype == bool


def test_nan_to_mask_of_integers_observes_everything():
    filled, mask = nan_to_mask([1, 2])
    assert mask.all()
    assert jnp.issubdtype(filled.dtype, jnp.integer)


def test_pad_keeps_the_sequences():
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(length, 2)) for length in (3, 1, 4)]
    choices = [rng.integers(5, size=length) for length in (3, 1, 4)]
    padded_values, padded_choices, lengths = pad(values, choices, fill=-1)
    assert padded_values.shape == (3, 4, 2)
    assert padded_choices.shape == (3, 4)
    assert jnp.issubdtype(padded_choices.dtype, jnp.integer)
    assert lengths.tolist() == [3, 1, 4]
    for i, length in enumerate(lengths):
        np.testing.assert_array_equal(padded_values[i, :length], values[i])
        np.testing.assert_array_equal(padded_choices[i, :length], choices[i])
        assert (padded_values[i, length:] == -1).all()
        assert (padded_choices[i, length:] == -1).all()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ((), "pad needs lists of sequences"),
        (([],), "pad needs lists of sequences"),
        (([[1, 2], [3]], [[1], [2]]), r"variables 0 and 1 have different lengths: \[2 1\] and \[1 1\]"),
        (([[1, 2], [3]], [[1, 2]]), "variables 0 and 1 have different lengths"),
        (([np.zeros((2, 3)), np.zeros((2, 4))],), r"agree in all but the first axis.*\(3,\), \(4,\)"),
    ],
)
def test_pad_refuses_what_does_not_fit(variables, message):
    with pytest.raises(ValueError, match=message):
        pad(*variables)


def test_pad_makes_folds_share_a_shape():
    rng = np.random.default_rng(0)
    found = [pad([rng.normal(size=(length, 2))], multiple_of=100) for length in (801, 850, 900)]
    assert {values.shape for values, _ in found} == {(1, 900, 2)}
    assert [int(lengths[0]) for _, lengths in found] == [801, 850, 900]
    with pytest.raises(ValueError, match="whole number from 1"):
        pad([[1.0]], multiple_of=0)
