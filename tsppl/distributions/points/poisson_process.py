"""Poisson processes: points that know nothing of each other."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.distributions import constraints

from tsppl.distributions.points.point_process import PointProcess, first_coordinate
from tsppl.points.windows.as_window import as_window
from tsppl.points.windows.box import Box, as_box


class PoissonLike(PointProcess):
    """Poisson processes of any intensity: given how many they are, points are independent, with one density.

    Besides ``log_intensity`` and ``compensator`` a member has ``sample_point(key)``, a point with density proportional to
    the intensity, and ``thinned(keep_prob)``.
    """

    def sample_point(self, key):
        """A point, with density intensity over compensator."""
        raise NotImplementedError(f"{type(self).__name__} has no sample_point")

    def thinned(self, keep_prob):
        """The process of the points that are left when each is kept with this probability."""
        raise NotImplementedError(f"{type(self).__name__} has no thinned")

    def count(self):
        """Distribution of the number of points."""
        return dist.Poisson(self.compensator())

    def points(self, num_points):
        """Distribution of points, given how many."""
        return PoissonPoints(self, num_points)

    def sample(self, name, points=None, *, num_points=None):
        """Make the sites ``<name>_count`` and ``<name>``, and return the points.

        Args:
            name: name of the site of points.
            points: observed points, ``(N,)`` and the shape of a point; None to draw them.
            num_points: how many to draw; drawn too if None, which works outside of ``jit`` only.

        Raises:
            ValueError: if the shape of ``points`` does not fit, or the number of points would have to be drawn in ``jit``.
        """
        if points is not None:
            points = self._checked(points)
            num_points = len(points)
        count = numpyro.sample(f"{name}_count", self.count(), obs=num_points)
        if num_points is None:
            if isinstance(count, jax.core.Tracer):
                raise ValueError(
                    "inside jit the number of points must be known: pass num_points=, or use simulate(key)"
                )
            num_points = int(count)
        return numpyro.sample(name, self.points(num_points), obs=points)

    def simulate(self, key):
        """Draw a whole pattern, sorted by its first coordinate. Outside of ``jit``: its size is random."""
        count_key, points_key = random.split(key)
        number = int(random.poisson(count_key, self.compensator()))
        return self._sorted(jax.vmap(self.sample_point)(random.split(points_key, number)))

    def sample_given_history(self, key, points, until, *, since=None):
        """Draw how a pattern goes on in time (or along the first coordinate). Outside of ``jit``.

        Args:
            key: random key.
            points: the points so far, ``(N,)`` and the shape of a point.
            until: where to stop; nothing comes after the end of the process's window.
            since: up to when the pattern is known; its last point if None.

        Returns:
            the points so far and those to come, sorted.
        """
        points = self._checked(points)
        if since is None:
            since = self._first(points).max(initial=-np.inf)
        drawn = self.simulate(key)
        first = self._first(drawn)
        return self._sorted(jnp.concatenate([points, drawn[(first > since) & (first <= until)]]))

    def _first(self, points):
        return np.asarray(first_coordinate(self.positions(points)))

    def _sorted(self, points):
        return points[np.argsort(self._first(points), kind="stable")]


class PoissonPoints(dist.Distribution):
    """Points of a Poisson process of which it is known how many there are: independent, of the same density.

    Args:
        process: a :class:`PoissonLike`.
        num_points: number of points ``N``.
    """

    arg_constraints = {}
    has_rsample = False
    pytree_data_fields = ("process",)
    pytree_aux_fields = ("num_points",)

    def __init__(self, process, num_points, *, validate_args=None):
        self.process, self.num_points = process, num_points
        super().__init__((), (num_points,) + process.point_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False)
    def support(self):
        """All places; the density is zero where the intensity is."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def sample(self, key, sample_shape=()):
        """Draw points, ``sample_shape + (N,)`` and the shape of a point."""
        keys = random.split(key, int(np.prod(sample_shape)) * self.num_points)
        return jax.vmap(self.process.sample_point)(keys).reshape(tuple(sample_shape) + self.event_shape)

    def log_prob(self, value, intermediates=None):
        """Log density of points, one number for each pattern."""
        value = jnp.asarray(value)
        log_expected = jnp.log(self.process.compensator())
        log_intensity = self.process.log_intensity(value.reshape((-1,) + self.process.point_shape))
        lead = value.shape[: value.ndim - len(self.event_shape)]
        return (log_intensity - log_expected).reshape(lead + (self.num_points,)).sum(-1)


@jax.tree_util.register_pytree_node_class
class PoissonProcess(PoissonLike):
    """Points that fall independently, at the same rate everywhere.

    Args:
        rate: points expected per unit of length, area or volume.
        window: where points can be, ``(2,)`` in time, ``(2, D)`` for a box, :class:`Intervals`, a :class:`Polygon`,
            or another :class:`Window`.

    Raises:
        ValueError: if ``rate`` is no number, or the window empty.

    >>> import jax.numpy as jnp, tsppl.distributions as tsd
    >>> process = tsd.PoissonProcess(2.0, (0.0, 10.0))
    >>> float(process.compensator()), round(float(process.log_prob(jnp.array([1.0, 4.0]))), 4)
    (20.0, -19.3069)
    """

    def __init__(self, rate, window):
        if jnp.shape(rate):
            raise ValueError(
                f"rate has shape {jnp.shape(rate)}; it must be a number. Rates on cells: PiecewisePoissonProcess(rates, edges)"
            )
        self.rate, self.window = rate, as_window(window)

    @property
    def position_shape(self):
        """``()`` in time, ``(D,)`` in space."""
        return self.window.position_shape

    def log_intensity(self, points):
        """Log rate at each point; minus infinity outside of the window."""
        inside = jax.vmap(self.window.contains)(self._checked(points))
        return jnp.where(inside, jnp.log(self.rate), -jnp.inf)

    def compensator(self, window=None):
        """Points expected in all, or in a box; exact."""
        return self.rate * (self.window.volume if window is None else self.window.overlap(as_box(window)))

    def sample_point(self, key):
        """A place in the window."""
        return self.window.uniform(key)

    def thinned(self, keep_prob):
        """The process of the points that are left when each is kept with this probability."""
        return PoissonProcess(self.rate * keep_prob, self.window)

    def tree_flatten(self):
        """Arrays; nothing is static."""
        return (self.rate, self.window), None

    @classmethod
    def tree_unflatten(cls, static, children):
        """The same from its parts, unchecked."""
        process = object.__new__(cls)
        process.rate, process.window = children
        return process


@jax.tree_util.register_pytree_node_class
class PiecewisePoissonProcess(PoissonLike):
    """Points that fall independently, at a rate that is constant on each cell of a grid.

    Args:
        rates: points expected per unit of length, area or volume in each cell, ``(M,)`` in time, ``(M1, ..., MD)`` in space.
        edges: borders of the cells, increasing, ``(M + 1,)`` in time; in space a tuple with one array for each coordinate.

    Raises:
        ValueError: if shapes do not fit, or borders do not increase.

    >>> import jax.numpy as jnp, tsppl.distributions as tsd
    >>> process = tsd.PiecewisePoissonProcess(jnp.array([1.0, 3.0]), jnp.array([0.0, 2.0, 3.0]))
    >>> float(process.compensator()), float(process.compensator(jnp.array([1.0, 2.5])))
    (5.0, 2.5)
    """

    def __init__(self, rates, edges):
        dtype = jnp.result_type(float)
        self.rates, self.position_shape = jnp.asarray(rates), (len(edges),) if isinstance(edges, tuple) else ()
        self.edges = tuple(jnp.asarray(one, dtype) for one in (edges if isinstance(edges, tuple) else (edges,)))
        shapes = [one.shape for one in self.edges]
        if shapes != [(size + 1,) for size in self.rates.shape]:
            raise ValueError(
                f"rates has shape {self.rates.shape} and edges {shapes}; each coordinate needs one border more than it has "
                "cells, and in space edges are a tuple"
            )
        for one in self.edges:
            if not isinstance(one, jax.core.Tracer) and np.any(np.diff(one) <= 0):
                raise ValueError(f"edges {one.tolist()} do not increase")

    @property
    def window(self):
        """Where points can be."""
        ends = jnp.stack([one[jnp.array([0, -1])] for one in self.edges], 1)
        return Box(ends.reshape((2,) + self.position_shape))

    def log_intensity(self, points):
        """Log rate at each point; minus infinity outside of the window."""
        points = self._checked(points)
        inside = jax.vmap(self.window.contains)(points)
        cells = [
            jnp.clip(jnp.searchsorted(one, places, side="right") - 1, 0, len(one) - 2)
            for one, places in zip(self.edges, points.reshape(len(points), len(self.edges)).T, strict=True)
        ]
        return jnp.where(inside, jnp.log(self.rates)[tuple(cells)], -jnp.inf)

    def compensator(self, window=None):
        """Points expected in all, or in a box; exact."""
        low, high = jnp.reshape(as_box(self.window if window is None else window), (2, -1))
        expected = self.rates
        for axis, one in enumerate(self.edges):
            lengths = jnp.maximum(jnp.minimum(one[1:], high[axis]) - jnp.maximum(one[:-1], low[axis]), 0.0)
            expected = jnp.tensordot(lengths, expected, 1)
        return expected

    def sample_point(self, key):
        """A point: a cell, and a place in it."""
        cell_key, place_key = random.split(key)
        expected = self.rates
        for axis, one in enumerate(self.edges):
            expected *= jnp.diff(one).reshape((-1,) + (1,) * (self.rates.ndim - 1 - axis))
        cell = jnp.unravel_index(random.categorical(cell_key, jnp.log(expected).ravel()), expected.shape)
        low = jnp.stack([one[place] for one, place in zip(self.edges, cell, strict=True)])
        high = jnp.stack([one[place + 1] for one, place in zip(self.edges, cell, strict=True)])
        return random.uniform(place_key, low.shape, low.dtype, low, high).reshape(self.position_shape)

    def thinned(self, keep_prob):
        """The process of the points that are left when each is kept with this probability."""
        return self.tree_unflatten(self.position_shape, (self.rates * keep_prob, self.edges))

    def tree_flatten(self):
        """Arrays, and what is static."""
        return (self.rates, self.edges), self.position_shape

    @classmethod
    def tree_unflatten(cls, position_shape, children):
        """The same from its parts, unchecked."""
        process = object.__new__(cls)
        process.position_shape = position_shape
        process.rates, process.edges = children
        return process
