"""The one comparison of arrays that tests use."""

import jax
import numpy as np

TOLERANCES = {2: 1e-2, 4: 2e-5, 8: 1e-9}


def assert_allclose(actual, desired, rtol=None, atol=None):
    """Assert that two pytrees of arrays agree, with tolerances that follow the coarser floating dtype of each pair.

    Shapes must be equal, except that a scalar `desired` stands for a constant array. The default of `rtol` and of
    `atol` is 1e-9 in float64, 2e-5 in float32 and 1e-2 in half precision; a Python float on either side has no say.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(desired), "the pytrees differ in structure"
    for (path, left), right in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(desired), strict=True):
        tolerance = _tolerance(left, right)
        left, right = np.asarray(left), np.asarray(right)
        place = jax.tree_util.keystr(path)
        assert right.ndim == 0 or left.shape == right.shape, f"shapes differ{place}: {left.shape} and {right.shape}"
        np.testing.assert_allclose(
            left,
            right,
            rtol=tolerance if rtol is None else rtol,
            atol=tolerance if atol is None else atol,
            err_msg=place,
        )


def _tolerance(*arrays):
    widths = [
        array.dtype.itemsize
        for array in arrays
        if hasattr(array, "dtype") and jax.numpy.issubdtype(array.dtype, np.floating)
    ]
    return TOLERANCES[min(widths, default=8)]
