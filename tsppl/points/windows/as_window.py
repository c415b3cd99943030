"""Windows from what people pass: pairs, arrays, windows, and polygons of other packages."""

import jax
import jax.numpy as jnp
import numpy as np

from tsppl.points.windows.box import Box
from tsppl.points.windows.polygon import Polygon
from tsppl.points.windows.window import Window


def as_window(window) -> Window:
    """A window as it is, a pair of lowest and highest place as a :class:`Box`, a polygon of Shapely as a :class:`Polygon`.

    Raises:
        ValueError: on an array that is neither an interval nor a box, or is empty.

    >>> float(as_window((1.0, 3.0)).volume)
    2.0
    """
    if isinstance(window, Window):
        return window
    if hasattr(window, "exterior"):
        return Polygon(window)
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(window)):
        # What is known stays known inside of jit, for checks and sizes.
        with jax.ensure_compile_time_eval():
            window = jnp.asarray(window, jnp.result_type(float))
    window = jnp.asarray(window, jnp.result_type(float))
    if window.ndim not in (1, 2) or len(window) != 2:
        raise ValueError(
            f"window has shape {window.shape}; pass the lowest and the highest place: (2,) in time, (2, D) for a box, or a "
            "Polygon, Intervals, or another Window"
        )
    if not isinstance(window, jax.core.Tracer) and not np.all(np.diff(np.asarray(window), axis=0) > 0):
        raise ValueError(f"window {window.tolist()} is empty: pass the lowest place first, then the highest")
    return Box(window)
