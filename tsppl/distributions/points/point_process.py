"""What every point process answers, and what follows from the answers."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from tsppl.points.windows.box import Box, as_box


class PointProcess:
    """Base of the point processes: Poisson processes, and later those whose intensity depends on earlier points.

    A process is a pytree, and no NumPyro distribution: :meth:`sample` makes the sites.

    ========================================= ==================================================================
    ``log_intensity(points)``                 log of points expected per unit of length, area or volume, one term for
                                              each point, given the points before it
    ``compensator(window=None)``              points expected in all, or on an interval or box, whose ends may be infinite
    ``log_prob(points)``                      log density of a whole pattern
    ``residuals(points)``                     standard exponential where the process is the true one
    ``simulate(key)``                         a whole pattern, outside of ``jit``
    ``sample_given_history(key, points, t)``  a pattern, continued to time ``t``
    ``sample(name, points)``                  sites of a NumPyro program
    ========================================= ==================================================================

    A point is a place, or a place and marks: ``position_shape`` is ``()`` in time, ``(D,)`` in space, ``point_shape`` is
    that of a whole point. Where there is a time, it is the first coordinate.
    """

    position_shape = ()

    @property
    def point_shape(self):
        """Shape of one point."""
        return self.position_shape

    def positions(self, points):
        """The places of points."""
        return points

    def log_intensity(self, points):
        """Log of the intensity at each point, ``(N,)``; minus infinity where there can be none."""
        raise NotImplementedError(f"{type(self).__name__} has no log_intensity")

    def compensator(self, window=None):
        """Points expected in all, or in ``window``: ``(2,)`` in time, ``(2, D)`` for a box."""
        raise NotImplementedError(f"{type(self).__name__} has no compensator")

    def simulate(self, key):
        """Draw a whole pattern. Outside of ``jit``: its size is random."""
        raise NotImplementedError(f"{type(self).__name__} has no simulate")

    def sample_given_history(self, key, points, until):
        """Draw how a pattern goes on up to time ``until``."""
        raise NotImplementedError(f"{type(self).__name__} has no sample_given_history")

    def sample(self, name, points=None):
        """Make the sites of a NumPyro program."""
        raise NotImplementedError(
            f"{type(self).__name__} has no sample; use numpyro.factor(name, process.log_prob(points))"
        )

    def log_prob(self, points, window=None):
        """Log density of a pattern: the sum of log intensities, less the compensator, less ``log N!``.

        It is a density of the number of points together with the points in the order given, as that of the sites of
        :meth:`sample`, and of ``log_joint`` and ``log_prob_given_events`` of :class:`NeymanScott`. The density of the
        points as a set, or in order of time, is larger by ``log N!``.

        Args:
            points: ``(N,)`` and the shape of a point.
            window: interval or box within which the points were observed, all of them; everywhere if None.
        """
        points = self._checked(points)
        log_intensity = self.log_intensity(points)
        if window is not None:
            inside = jax.vmap(Box(as_box(window)).contains)(self.positions(points))
            log_intensity = jnp.where(inside, log_intensity, -jnp.inf)
        return log_intensity.sum() - self.compensator(window) - gammaln(len(points) + 1.0)

    def rescaled(self, points, window=None):
        """Points expected before each point, along the first coordinate: ``(N,)``, increasing.

        Where the process is the true one these are points of a Poisson process of rate one on the interval from zero to
        ``compensator(window)`` (Brown, Barbieri, Ventura, Kass and Frank 2002). For a Poisson process that holds exactly:
        given their number, they are uniform there.

        Args:
            points: ``(N,)`` and the shape of a point, in any order.
            window: interval or box within which the points were observed; everywhere if None.

        Raises:
            ValueError: if a point is outside of ``window``.
        """
        points = self._checked(points)
        positions = self.positions(points)
        shape = self.position_shape
        everywhere = jnp.full(shape, -jnp.inf), jnp.full(shape, jnp.inf)
        low, high = everywhere if window is None else as_box(window)
        first = jnp.sort(first_coordinate(positions))
        if window is not None and not isinstance(positions, jax.core.Tracer):
            outside = ~np.all((positions >= low) & (positions <= high), axis=tuple(range(1, positions.ndim)))
            if outside.any():
                raise ValueError(f"{outside.sum()} points are outside of window: pass those inside only")

        def before(place):
            highest = high.at[0].set(place) if shape else place
            return self.compensator(jnp.stack([low, highest]))

        return jax.lax.map(before, first)

    def residuals(self, points, window=None):
        """Points expected between each point and the one before it: ``(N,)``, from the start of the window.

        Independent and standard exponential where the process is the true one, apart from the stretch after the last
        point, which the end of the window cuts off. In many short patterns that is felt: put them end to end, by
        ``rescaled(points)`` and ``compensator()``. Draw them with :func:`tsppl.plots.plot_residuals`. Arguments as for
        :meth:`rescaled`.
        """
        return jnp.diff(self.rescaled(points, window), prepend=0.0)

    def _checked(self, points):
        return checked_points(points, self.point_shape)


def checked_points(points, shape):
    """Points as an array, ``(N,)`` and the shape of a point, or an error."""
    points = jnp.asarray(points)
    if points.ndim != 1 + len(shape) or points.shape[1:] != shape:
        wanted = "(N" + "".join(f", {size}" for size in shape) + ("," if not shape else "") + ")"
        raise ValueError(f"points has shape {points.shape}; the shape {wanted} is needed")
    return points


def first_coordinate(positions):
    """Times of places, or the first of several coordinates."""
    return positions if positions.ndim == 1 else positions[:, 0]
