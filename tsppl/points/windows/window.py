"""What a window has to answer: where events and points can be."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Window:
    """Base of the windows: intervals, boxes, :class:`Intervals` with gaps, :class:`Polygon`, or one of your own.

    A window is a pytree of arrays with these answers.

    ====================== ============================================================================================
    ``position_shape``     shape of a place: ``()`` in time, ``(D,)`` in space
    ``bounds``             the smallest interval ``(2,)`` or box ``(2, D)`` around it
    ``contains(position)`` whether a place is inside
    ``overlap(box)``       length, area or volume in common with an interval or box, whose ends may be infinite
    ``window - origin``    the same window seen from another origin, a place
    ``volume``             length, area or volume
    ``log_volume``         log of it
    ``uniform(key)``       a place inside
    ``boxes``              what it consists of: ``(1, 2, D)`` if a box, ``(M, 2)`` if intervals, else None; only where
                           this is known, events are kept inside and functions are integrated
    ``around(position)``   bounds of the part in which a place is
    ``same_as(other)``     whether it is equal to another
    ====================== ============================================================================================

    The first five have to be stated, the others have defaults; ``boxes`` is None.
    """

    position_shape = ()
    boxes = None

    @property
    def bounds(self):
        """The smallest interval or box around it."""
        raise self._missing("bounds")

    def contains(self, position):
        """Is a place inside?"""
        raise self._missing("contains(position)")

    def overlap(self, box):
        """Length, area or volume of what it has in common with an interval or box."""
        raise self._missing("overlap(box)")

    def __sub__(self, origin):
        raise self._missing("__sub__(origin)")

    @property
    def volume(self):
        """Length, area or volume."""
        return self.overlap(self.bounds)

    @property
    def log_volume(self):
        """Log of the length, area or volume."""
        return jnp.log(self.volume)

    @property
    def is_box(self):
        """Is it one interval or box?"""
        return self.boxes is not None and len(self.boxes) == 1

    def uniform(self, key):
        """A place inside, by rejection from the bounds."""
        low, high = self.bounds

        def propose(state):
            key, draw_key = jax.random.split(state[0])
            return key, jax.random.uniform(draw_key, low.shape, low.dtype, low, high)

        def is_outside(state):
            return ~self.contains(state[1])

        return lax.while_loop(is_outside, propose, propose((key, low)))[1]

    def around(self, position):
        """Bounds of the part in which a place is."""
        return self.bounds

    def same_as(self, other):
        """Are two windows equal? True, too, where that cannot be known inside ``jit``."""
        leaves, others = jax.tree.leaves(self), jax.tree.leaves(other)
        if jax.tree.structure(self) != jax.tree.structure(other):
            return False
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves + others):
            return [leaf.shape for leaf in leaves] == [leaf.shape for leaf in others]
        return all(np.array_equal(leaf, more) for leaf, more in zip(leaves, others, strict=True))

    def __getitem__(self, which):
        raise NotImplementedError(
            f"a window of type {type(self).__name__} has no lowest and highest place: families of clusters that keep events "
            "inside of it use the functions of tsppl.points.clusters.centres instead of window[0] and window[1]; others need "
            "window.log_volume alone"
        )

    def _missing(self, answer):
        return NotImplementedError(f"the window {type(self).__name__} does not state {answer}")
