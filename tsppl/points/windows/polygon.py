"""Regions of the plane with straight borders."""

import jax
import jax.numpy as jnp
import numpy as np

from tsppl.points.windows.box import as_box
from tsppl.points.windows.window import Window


@jax.tree_util.register_pytree_node_class
class Polygon(Window):
    """A region of the plane with straight borders, for one moment or for a stretch of time.

    Args:
        vertices: corners in order, either way round, ``(V, 2)``; or a polygon of Shapely, or anything else with
            ``exterior.coords``.
        times: beginning and end, ``(2,)``, for places ``(time, x, y)``; None for places ``(x, y)``.

    Raises:
        ValueError: if there are fewer than three corners, or borders cross.
        NotImplementedError: if a polygon of Shapely has holes.

    >>> import tsppl.distributions as tsd
    >>> triangle = tsd.Polygon([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    >>> float(triangle.volume), bool(triangle.contains((0.5, 0.5))), bool(triangle.contains((1.5, 0.5)))
    (1.0, True, False)
    """

    def __init__(self, vertices, times=None):
        if hasattr(vertices, "exterior"):
            if len(getattr(vertices, "interiors", ())):
                raise NotImplementedError("a polygon with holes cannot be a window: pass a polygon without them")
            vertices = np.asarray(vertices.exterior.coords)[:, :2]
        vertices = jnp.asarray(vertices, jnp.result_type(float))
        if vertices.ndim != 2 or vertices.shape[1] != 2 or len(vertices) < 3:
            raise ValueError(f"vertices has shape {vertices.shape}; pass at least three corners, (V, 2)")
        if not isinstance(vertices, jax.core.Tracer):
            if np.array_equal(vertices[0], vertices[-1]):
                vertices = vertices[:-1]
            _check_borders(np.asarray(vertices, float))
        times = None if times is None else jnp.asarray(times, jnp.result_type(float))
        if times is not None and times.shape != (2,):
            raise ValueError(f"times has shape {times.shape}; pass the beginning and the end, (2,)")
        self.vertices, self.times = vertices, times

    @property
    def position_shape(self):
        """``(2,)``, or ``(3,)`` with time."""
        return (2,) if self.times is None else (3,)

    @property
    def bounds(self):
        """The smallest box around it, ``(2, 2)`` or ``(2, 3)``."""
        box = jnp.stack([self.vertices.min(0), self.vertices.max(0)])
        return box if self.times is None else jnp.concatenate([self.times[:, None], box], 1)

    def contains(self, position):
        """Is a place inside? Left and lower borders belong to it, right and upper ones do not."""
        position = jnp.asarray(position)
        x, y = position[-2], position[-1]
        begin, end = self._borders()
        crosses = (begin[:, 1] > y) != (end[:, 1] > y)
        rise = jnp.where(crosses, end[:, 1] - begin[:, 1], 1.0)
        at = begin[:, 0] + (y - begin[:, 1]) / rise * (end[:, 0] - begin[:, 0])
        inside = jnp.sum(crosses & (x < at)) % 2 == 1
        if self.times is None:
            return inside
        return inside & (position[0] >= self.times[0]) & (position[0] <= self.times[1])

    def overlap(self, box):
        """Area (times time) of what it has in common with a box, whose ends may be infinite.

        By Green's theorem: the integral of the clipped ``x`` over the part of the border whose ``y`` is in the box.
        """
        box = as_box(box)
        length = 1.0
        if self.times is not None:
            length = jnp.maximum(jnp.minimum(box[1, 0], self.times[1]) - jnp.maximum(box[0, 0], self.times[0]), 0.0)
        lowest, highest = self.vertices.min(0), self.vertices.max(0)
        low, high = jnp.clip(box[0, -2:], lowest, highest), jnp.clip(box[1, -2:], lowest, highest)
        begin, end = self._borders()
        step = end - begin
        rise = jnp.where(step[:, 1] == 0, 1.0, step[:, 1])
        ends = jnp.clip((jnp.stack([low[1], high[1]])[:, None] - begin[:, 1]) / rise, 0.0, 1.0)
        first, last = ends.min(0), ends.max(0)
        left, right = begin[:, 0] + first * step[:, 0], begin[:, 0] + last * step[:, 0]
        clipped = jnp.clip(left, low[0], high[0]), jnp.clip(right, low[0], high[0])
        run = jnp.where(left == right, 1.0, right - left)
        outside = clipped[0] * (clipped[0] - left) + clipped[1] * (right - clipped[1])
        mean = (outside + 0.5 * (clipped[0] + clipped[1]) * (clipped[1] - clipped[0])) / run
        mean = jnp.where(left == right, clipped[0], mean) - low[0]
        return length * abs(jnp.sum(step[:, 1] * (last - first) * mean))

    def __sub__(self, origin):
        moved = object.__new__(Polygon)
        moved.vertices = self.vertices - origin[-2:]
        moved.times = None if self.times is None else self.times - origin[0]
        return moved

    def _borders(self):
        return self.vertices, jnp.roll(self.vertices, -1, 0)

    def tree_flatten(self):
        """Arrays; nothing is static."""
        return (self.vertices, self.times), None

    @classmethod
    def tree_unflatten(cls, static, children):
        """The same from its parts, unchecked."""
        polygon = object.__new__(cls)
        polygon.vertices, polygon.times = children
        return polygon


def _check_borders(vertices):
    """Raise if two borders cross."""

    def side(start, end, other):
        step, away = end - start, other - start
        return np.sign(step[..., 0] * away[..., 1] - step[..., 1] * away[..., 0])

    begin, end = vertices, np.roll(vertices, -1, 0)
    first, last, others, lasts = begin[:, None], end[:, None], begin[None], end[None]
    crosses = (side(first, last, others) * side(first, last, lasts) < 0) & (
        side(others, lasts, first) * side(others, lasts, last) < 0
    )
    if crosses.any():
        one, other = np.argwhere(crosses)[0]
        raise ValueError(
            f"the borders from vertices {one} and {other} cross: pass the corners in order, along the border"
        )
