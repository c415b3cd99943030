"""Several stretches of time as one window: recordings that were switched off for a while."""

import jax
import jax.numpy as jnp
import numpy as np

from tsppl.points.windows.box import as_box
from tsppl.points.windows.window import Window


@jax.tree_util.register_pytree_node_class
class Intervals(Window):
    """Stretches of time with gaps between them, in which nothing was recorded.

    Points of Poisson processes, background points and events of a :class:`NeymanScott` are inside of the stretches only, and
    what is expected of them, and their residuals, leave the gaps out. What this does not do: points of an event that fall
    into a gap are taken not to exist. As at the ends of any window, the model lets points fall there and the data have none,
    so amplitudes of events beside a gap come out low, and points of an event that began in a gap are those of one beside it.
    Where that matters, make the window one stretch and pass the gaps as ``unseen`` :class:`Regions` to
    :meth:`NeymanScott.sample`: then they are exact, as missing points are drawn.
    Given the events, ask stretch by stretch, ``process.given_events(events, amplitudes).residuals(points, stretch)``, and
    the gaps do not matter.

    Families of clusters that are kept inside of a window cost as many times more as there are stretches; those with edges
    ignored cost the same. A :class:`PiecewisePoissonProcess` has gaps of its own, cells of rate zero; beside clusters on a
    window with gaps it cannot be the background, an :class:`InhomogeneousPoissonProcess` on the same window can.

    Args:
        ends: begin and end of each stretch, in order of time, ``(M, 2)``.

    Raises:
        ValueError: if the shape is another one, a stretch is empty, or the next one begins before it ends.

    >>> import tsppl.distributions as tsd
    >>> recorded = tsd.Intervals([[0.0, 10.0], [15.0, 30.0]])
    >>> float(recorded.volume), bool(recorded.contains(12.0)), float(recorded.overlap((8.0, 16.0)))
    (25.0, False, 3.0)
    >>> float(tsd.PoissonProcess(2.0, recorded).compensator())
    50.0
    """

    def __init__(self, ends):
        ends = jnp.asarray(ends, jnp.result_type(float))
        if ends.ndim != 2 or ends.shape[1] != 2 or len(ends) == 0:
            raise ValueError(f"ends has shape {ends.shape}; pass begin and end of each stretch, (M, 2)")
        if not isinstance(ends, jax.core.Tracer):
            _check_order(np.asarray(ends))
        self.ends = ends

    @property
    def bounds(self):
        """First begin and last end, ``(2,)``."""
        return jnp.stack([self.ends[0, 0], self.ends[-1, 1]])

    @property
    def boxes(self):
        """The stretches, ``(M, 2)``."""
        return self.ends

    @property
    def volume(self):
        """Length of all stretches together."""
        return jnp.sum(self.ends[:, 1] - self.ends[:, 0])

    def contains(self, position):
        """Is a time in a stretch? Both ends belong to it."""
        return jnp.any((position >= self.ends[:, 0]) & (position <= self.ends[:, 1]))

    def overlap(self, interval):
        """Length of what the stretches have in common with an interval, whose ends may be infinite."""
        interval = as_box(interval)
        begin, end = jnp.maximum(self.ends[:, 0], interval[0]), jnp.minimum(self.ends[:, 1], interval[1])
        return jnp.sum(jnp.maximum(end - begin, 0.0))

    def uniform(self, key):
        """A time in one of the stretches."""
        until = jnp.cumsum(self.ends[:, 1] - self.ends[:, 0])
        drawn = jax.random.uniform(key, (), self.ends.dtype, 0.0, until[-1])
        chosen = jnp.minimum(jnp.searchsorted(until, drawn, side="right"), len(until) - 1)
        return jnp.clip(self.ends[chosen, 1] - (until[chosen] - drawn), *self.ends[chosen])

    def around(self, position):
        """Begin and end of the stretch in which a time is, ``(2,)``; of the nearest one if it is in none."""
        away = jnp.maximum(self.ends[:, 0] - position, position - self.ends[:, 1])
        return self.ends[jnp.argmin(away)]

    def __sub__(self, origin):
        moved = object.__new__(Intervals)
        moved.ends = self.ends - origin
        return moved

    def tree_flatten(self):
        """Arrays; nothing is static."""
        return (self.ends,), None

    @classmethod
    def tree_unflatten(cls, static, children):
        """The same from its parts, unchecked."""
        intervals = object.__new__(cls)
        (intervals.ends,) = children
        return intervals


def _check_order(ends):
    """Raise unless stretches are not empty, and follow each other."""
    empty = ~(ends[:, 0] < ends[:, 1])
    if empty.any():
        which = np.argmax(empty)
        raise ValueError(f"interval {which}, {ends[which].tolist()}, is empty: pass its begin first, then its end")
    early = ends[1:, 0] < ends[:-1, 1]
    if early.any():
        which = np.argmax(early)
        unsorted = ends[which + 1, 1] <= ends[which, 0]
        problem = "are not in order of time: sort them" if unsorted else "overlap: join them to one"
        raise ValueError(
            f"intervals {which}, {ends[which].tolist()}, and {which + 1}, {ends[which + 1].tolist()}, {problem}"
        )
