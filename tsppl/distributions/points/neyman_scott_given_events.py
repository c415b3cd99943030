"""A Neyman-Scott process whose events are known: a Poisson process."""

import jax
import jax.numpy as jnp
from jax import random

from tsppl.distributions.points.poisson_process import PoissonLike
from tsppl.points.windows.box import as_box
from tsppl.points.windows.regions import Regions


@jax.tree_util.register_pytree_node_class
class ClusterIntensity(PoissonLike):
    """The points of a Neyman-Scott process when every event and its amplitude is known: a background and bumps.

    Made by :meth:`NeymanScott.given_events`. All points of an event count, also those that fall outside of the process's
    window; ``compensator(window)`` leaves them out, and ``log_prob(points, window)``, ``residuals(points, window)`` are
    those of a pattern that was observed within a window only, given its events.

    Args:
        process: a :class:`NeymanScott`.
        events: the events, with a leading axis ``(K,)``, also those without a point.
        amplitudes: points expected of each, ``(K,)``; zero for a row that is no event.
    """

    def __init__(self, process, events, amplitudes):
        self.process, self.events, self.amplitudes = process, events, jnp.asarray(amplitudes)

    @property
    def window(self):
        """Where events and background points can be."""
        return self.process.window

    @property
    def position_shape(self):
        """Shape of a place."""
        return self.process.cluster.position_shape

    @property
    def point_shape(self):
        """Shape of one point."""
        return self.process.cluster.point_shape

    def positions(self, points):
        """The places of points."""
        return self.process.cluster.positions(points)

    def log_intensity(self, points):
        """Log intensity at each point, per unit of place and for its marks."""
        return jax.nn.logsumexp(jnp.stack(self._log_parts(points)), 0)

    def background_prob(self, points):
        """Probability that each point belongs to no event, ``(N,)``."""
        background, clustered = self._log_parts(points)
        return jax.nn.sigmoid(background - clustered)

    def compensator(self, window=None):
        """Points expected in all, or in a box or :class:`Regions`; exact where the cluster's ``mass`` is."""
        if isinstance(window, Regions):
            return self._expected_in(window).sum()
        expected = self.process.expected_background_in(window)
        if window is None:
            return expected + self.amplitudes.sum()
        window = as_box(window)
        return expected + self.amplitudes @ jax.vmap(self.process.cluster.mass, (0, None))(self.events, window)

    def sample_point(self, key):
        """A point of one of the events, or of the background."""
        source_key, point_key = random.split(key)
        return self.sample_point_of(point_key, self.sample_sources(source_key, 1)[0])

    def sample_sources(self, key, number):
        """Which events make ``number`` points, int ``(number,)``; the number of events ``K`` for the background."""
        until = jnp.cumsum(jnp.append(self.amplitudes, self.process.expected_background))
        uniform = random.uniform(key, (number,), until.dtype)
        return jnp.searchsorted(until, uniform * until[-1], side="right").astype(jnp.int32).clip(0, len(until) - 1)

    def sample_point_of(self, key, source):
        """A point of one event, or of the background, as :meth:`sample_sources` numbers them."""
        point_key, background_key = random.split(key)
        alone = self.process.sample_background(background_key)
        if not len(self.amplitudes):
            return alone
        event = jax.tree.map(lambda array: array[jnp.minimum(source, len(self.amplitudes) - 1)], self.events)
        return jnp.where(source == len(self.amplitudes), alone, self.process.cluster.sample_point(point_key, event))

    def _expected_in(self, regions):
        """Points expected in each region, ``(Q,)``."""
        cluster, boxes, neurons = self.process.cluster, regions.boxes, regions.neurons
        background = jax.vmap(self.process.expected_background_in)(boxes)
        if neurons is None:
            masses = jax.vmap(jax.vmap(cluster.mass, (0, None)), (None, 0))(self.events, boxes)
        else:
            background = background * cluster.background_share(neurons)
            masses = jax.vmap(jax.vmap(cluster.mass, (0, None, None)), (None, 0, 0))(self.events, boxes, neurons)
        return background + masses @ self.amplitudes

    def thinned(self, keep_prob):
        """The process of the points that are left when each is kept with this probability."""
        return ClusterIntensity(self.process.thinned(keep_prob), self.events, self.amplitudes * keep_prob)

    def _log_parts(self, points):
        """Log intensities of the background and of all events together, at each point."""
        points, cluster = self._checked(points), self.process.cluster
        background = jnp.log(self.process.expected_background) + self.process.log_background(points)

        def at(point):
            near = jax.vmap(cluster.log_density, (None, 0))(point, self.events)
            return jax.nn.logsumexp(near, b=self.amplitudes)

        if not len(self.amplitudes):
            return background, jnp.full_like(background, -jnp.inf)
        return background, jax.lax.map(at, points)

    def tree_flatten(self):
        """Arrays and a process; nothing is static."""
        return (self.process, self.events, self.amplitudes), None

    @classmethod
    def tree_unflatten(cls, static, children):
        """The same from its parts, unchecked."""
        intensity = object.__new__(cls)
        intensity.process, intensity.events, intensity.amplitudes = children
        return intensity
