"""Intervals of time and boxes, which users pass as pairs of lowest and highest place."""

import jax
import jax.numpy as jnp

from tsppl.points.windows.window import Window


@jax.tree_util.register_pytree_node_class
class Box(Window):
    """All places from the lowest to the highest: an interval in time, a box in space.

    Made by :func:`as_window` of a pair, and read like one: ``low, high = window``, ``window[1] - window[0]``.

    Args:
        ends: lowest and highest place, ``(2,)`` in time, ``(2, D)`` in space.

    >>> import jax.numpy as jnp
    >>> box = Box(jnp.array([[0.0, 0.0], [2.0, 3.0]]))
    >>> float(box.volume), bool(box.contains(jnp.array([1.0, 4.0]))), float(box.overlap(((1.0, -jnp.inf), (5.0, 1.0))))
    (6.0, False, 1.0)
    """

    def __init__(self, ends):
        self.ends = ends

    @property
    def position_shape(self):
        """``()`` in time, ``(D,)`` in space."""
        return self.ends.shape[1:]

    @property
    def bounds(self):
        """Itself, as an array."""
        return self.ends

    @property
    def boxes(self):
        """It is one."""
        return self.ends[None]

    @property
    def volume(self):
        """Product of the lengths of its sides."""
        return (self.ends[1] - self.ends[0]).prod()

    @property
    def log_volume(self):
        """Sum of the logs of the lengths of its sides."""
        return jnp.log(self.ends[1] - self.ends[0]).sum()

    def contains(self, position):
        """Is a place inside? The borders belong to it."""
        return jnp.all((position >= self.ends[0]) & (position <= self.ends[1]))

    def overlap(self, box):
        """Length, area or volume of what it has in common with another, whose ends may be infinite."""
        box = as_box(box)
        return jnp.maximum(jnp.minimum(box[1], self.ends[1]) - jnp.maximum(box[0], self.ends[0]), 0.0).prod()

    def uniform(self, key):
        """A place inside."""
        low, high = self.ends[0], self.ends[1]
        return jax.random.uniform(key, low.shape, jnp.result_type(low, float), low, high)

    def __sub__(self, origin):
        return Box(self.ends - origin)

    def __getitem__(self, which):
        return self.ends[which]

    def __len__(self):
        return 2

    def __iter__(self):
        return iter(self.ends)

    def __jax_array__(self):
        return self.ends

    def __array__(self, dtype=None, copy=None):
        return self.ends.__array__(dtype)

    def tree_flatten(self):
        """The ends; nothing is static."""
        return (self.ends,), None

    @classmethod
    def tree_unflatten(cls, static, children):
        """The same from its parts, unchecked."""
        return cls(*children)


def as_box(box):
    """An interval or box as an array, whose ends may be infinite.

    Raises:
        NotImplementedError: on other windows.
    """
    if isinstance(box, Window) and box.is_box:
        return box.boxes[0]
    if isinstance(box, Window) and box.boxes is not None:
        raise NotImplementedError("pass one interval at a time, (2,): what is expected in several is the sum")
    if isinstance(box, Window) or hasattr(box, "exterior"):
        raise NotImplementedError(
            f"points expected are known in intervals and boxes, not in polygons, and not in a {type(box).__name__}: pass an "
            "array"
        )
    return jnp.asarray(box)
