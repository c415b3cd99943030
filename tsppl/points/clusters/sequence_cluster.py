"""Clusters that are sequences: each neuron fires at its own delay, and whole sequences come in types and warps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.scipy.special import logsumexp

from tsppl.points.clusters.centres import centre_mass, draw_centre, log_centre_mass
from tsppl.points.clusters.cluster import Cluster, check_positive, check_probabilities
from tsppl.points.clusters.gaussian_cluster import check_edges
from tsppl.points.windows.as_window import as_window


class SequenceStatistics(NamedTuple):
    """Number of points; precision, pull and log normaliser of the event's time for each type and warp ``(R, W)``."""

    size: jax.Array
    precision: jax.Array
    pull: jax.Array
    log_scale: jax.Array


class SequenceEvent(NamedTuple):
    """When a sequence starts, its type, and its warp (an index into ``warps``)."""

    time: jax.Array
    type: jax.Array
    warp: jax.Array


@jax.tree_util.register_pytree_node_class
class SequenceCluster(Cluster):
    """Spikes of many neurons in a stereotyped order: PPSeq (Williams, Degleris, Wang and Linderman 2020).

    A sequence of type ``r`` and warp ``w`` that starts at ``s`` makes neuron ``n`` fire with probability
    ``neuron_probs[r, n]``, at times of mean ``s + warps[w] * offsets[r, n]`` and standard deviation
    ``warps[w] * widths[r, n]``. Start (uniform on the window), type and warp are integrated out. A point is a pair of time
    and neuron, ``(2,)``; neurons are whole numbers from 0.

    Args:
        type_probs: probabilities of the types, ``(R,)``.
        neuron_probs: ``(R, M)``, each row sums to one. Zero counts as the smallest positive number, for the sake of sums
            from which a spike can be taken out again.
        offsets: ``(R, M)``, mean delay after the start, in units of time.
        widths: ``(R, M)``, standard deviations (published code has variances), in units of time.
        background_probs: ``(M,)``, neurons of spikes that belong to no sequence; all alike if None.
        warps: ``(W,)``, factors by which sequences are stretched; none if None.
        warp_probs: ``(W,)``, their probabilities; all alike if None.
        edges: ``"exact"``: sequences start inside the window; ``"ignored"``: as in published code.

    Raises:
        ValueError: if shapes differ, probabilities do not sum to one, or widths or warps are not positive.

    >>> import jax, jax.numpy as jnp, tsppl.distributions as tsd
    >>> cluster = tsd.SequenceCluster(
    ...     jnp.ones(1), jnp.full((1, 2), 0.5), jnp.array([[0.0, 0.3]]), jnp.full((1, 2), 0.1)
    ... )
    >>> one = cluster.point_statistics(jnp.array([4.0, 1.0]))
    >>> round(float(jnp.exp(cluster.log_marginal(one, jnp.array([0.0, 10.0])))), 4)
    0.05
    """

    def __init__(
        self,
        type_probs,
        neuron_probs,
        offsets,
        widths,
        *,
        background_probs=None,
        warps=None,
        warp_probs=None,
        edges="exact",
    ):
        shape = jnp.shape(type_probs) + jnp.shape(neuron_probs)[-1:]
        for name, array in {"neuron_probs": neuron_probs, "offsets": offsets, "widths": widths}.items():
            if jnp.shape(array) != shape or len(shape) != 2:
                raise ValueError(
                    f"{name} has shape {jnp.shape(array)} and type_probs {jnp.shape(type_probs)}; they must be (R, M) and "
                    "(R,), for R types and M neurons, with the same M in neuron_probs, offsets and widths"
                )
        num_neurons = shape[1]
        background_probs = jnp.full(num_neurons, 1 / num_neurons) if background_probs is None else background_probs
        if jnp.shape(background_probs) != (num_neurons,):
            raise ValueError(f"background_probs has shape {jnp.shape(background_probs)}; it must be ({num_neurons},)")
        warps = jnp.ones(1) if warps is None else jnp.asarray(warps)
        warp_probs = jnp.full(warps.shape, 1 / warps.size) if warp_probs is None else warp_probs
        if warps.ndim != 1 or jnp.shape(warp_probs) != warps.shape:
            raise ValueError(f"warps has shape {warps.shape} and warp_probs {jnp.shape(warp_probs)}; both must be (W,)")
        self.edges = check_edges(edges)
        check_positive("widths", widths)
        check_positive("warps", warps)
        probs = {"type_probs": type_probs, "neuron_probs": neuron_probs, "warp_probs": warp_probs}
        for name, array in (probs | {"background_probs": background_probs}).items():
            check_probabilities(name, array)
        arrays = (type_probs, neuron_probs, offsets, widths, background_probs, warps, warp_probs)
        self._store(tuple(jnp.asarray(array) for array in arrays))

    point_shape = (2,)

    def check_marks(self, points):
        """Raise unless the neurons of concrete points are whole numbers from 0 to ``M - 1``."""
        if isinstance(points, jax.core.Tracer) or not len(points):
            return
        neurons, num_neurons = np.asarray(points)[..., 1], self.num_neurons
        wrong = (neurons != np.floor(neurons)) | (neurons < 0) | (neurons >= num_neurons)
        if wrong.any():
            raise ValueError(
                f"point {int(wrong.argmax())} has neuron {neurons[wrong.argmax()]:g}; neurons are whole numbers from 0 to "
                f"{num_neurons - 1}, in the second column, after the time"
            )

    @property
    def reach(self):
        """Largest time between two spikes of a sequence that matters: range of offsets and twelve widths, at most warped."""
        longest = jnp.max(self.offsets.max(1) - self.offsets.min(1))
        return jnp.max(self.warps) * (longest + 12 * jnp.max(self.widths))

    def interior(self):
        """The same with edges ignored."""
        return self.tree_unflatten("ignored", self.tree_flatten()[0])

    def log_background(self, point, window):
        """Log density of a spike that belongs to no sequence."""
        neuron = point[1].astype(jnp.int32)
        return super().log_background(point[0], window) + jnp.log(self.background_probs[neuron])

    def sample_background(self, key, window):
        """A spike that belongs to no sequence."""
        time_key, neuron_key = random.split(key)
        neuron = random.categorical(neuron_key, jnp.log(self.background_probs))
        time = as_window(window).uniform(time_key)
        return jnp.stack([time, neuron.astype(time.dtype)])

    @property
    def num_neurons(self):
        """``M``."""
        return self.neuron_probs.shape[1]

    def background_share(self, neurons):
        """Probability of some ``neurons``, bool ``(..., M)``, for a spike that belongs to no sequence."""
        return neurons @ self.background_probs

    def point_statistics(self, point):
        """Statistics of one spike."""
        time, neuron = point[0], point[1].astype(jnp.int32)
        delay = time - self.warps * self.offsets[:, neuron, None]
        width = self.warps * self.widths[:, neuron, None]
        probs = jnp.maximum(self.neuron_probs[:, neuron, None], jnp.finfo(self.neuron_probs.dtype).tiny)
        log_scale = jax.scipy.stats.norm.logpdf(delay, 0.0, width) + jnp.log(probs)
        return SequenceStatistics(jnp.ones((), point.dtype), width**-2.0, delay * width**-2.0, log_scale)

    def log_type_and_warp(self, statistics, window):
        """Log density of the spikes together with each type and warp, ``(R, W)``; the start alone is integrated out."""
        mean = statistics.pull / statistics.precision
        error = statistics.precision**-0.5
        log_density = statistics.log_scale + 0.5 * statistics.pull * mean + 0.5 * jnp.log(2 * jnp.pi) + jnp.log(error)
        if self.edges == "exact":
            log_density += log_centre_mass(window, mean, error)
        return log_density + jnp.log(self.type_probs)[:, None] + jnp.log(self.warp_probs) - as_window(window).log_volume

    def log_marginal(self, statistics, window):
        """Log density of a sequence's spikes; start, type and warp integrated out."""
        return logsumexp(self.log_type_and_warp(statistics, window))

    def sample_event(self, key, window):
        """A start, type and warp from their prior."""
        time_key, type_key, warp_key = random.split(key, 3)
        kind = random.categorical(type_key, jnp.log(self.type_probs)).astype(jnp.int32)
        warp = random.categorical(warp_key, jnp.log(self.warp_probs)).astype(jnp.int32)
        return SequenceEvent(as_window(window).uniform(time_key), kind, warp)

    def sample_event_given(self, key, statistics, window):
        """A start, type and warp given the spikes of a sequence."""
        time_key, kind_key = random.split(key)
        weights = self.log_type_and_warp(statistics, window)
        kind, warp = jnp.unravel_index(random.categorical(kind_key, weights.ravel()), weights.shape)
        precision = statistics.precision[kind, warp]
        mean, error = statistics.pull[kind, warp] / precision, precision**-0.5
        allowed = window if self.edges == "exact" else (-jnp.inf, jnp.inf)
        time = draw_centre(time_key, allowed, mean, error)
        return SequenceEvent(time, kind.astype(jnp.int32), warp.astype(jnp.int32))

    def sample_point(self, key, event):
        """A spike of a sequence."""
        time_key, neuron_key = random.split(key)
        neuron = random.categorical(neuron_key, jnp.log(self.neuron_probs[event.type]))
        warp = self.warps[event.warp]
        offset, width = self.offsets[event.type, neuron], self.widths[event.type, neuron]
        time = event.time + warp * (offset + width * random.normal(time_key, (), width.dtype))
        return jnp.stack([time, neuron.astype(time.dtype)])

    def log_density(self, point, event):
        """Log density of a spike given the start, type and warp of its sequence."""
        neuron, warp = point[1].astype(jnp.int32), self.warps[event.warp]
        mean = event.time + warp * self.offsets[event.type, neuron]
        log_density = jax.scipy.stats.norm.logpdf(point[0], mean, warp * self.widths[event.type, neuron])
        return log_density + jnp.log(self.neuron_probs[event.type, neuron])

    def mass(self, event, window, neurons=None):
        """Share of the spikes of a sequence that fall into a stretch of time, of some ``neurons`` (bool ``(M,)``) or all."""
        warp = self.warps[event.warp]
        mean, width = event.time + warp * self.offsets[event.type], warp * self.widths[event.type]
        probs = self.neuron_probs[event.type]
        return (probs if neurons is None else probs * neurons) @ centre_mass(window, mean, width)

    def _store(self, arrays):
        self.type_probs, self.neuron_probs, self.offsets, self.widths, *others = arrays
        self.background_probs, self.warps, self.warp_probs = others

    def tree_flatten(self):
        """Arrays, and what is static."""
        arrays = (self.type_probs, self.neuron_probs, self.offsets, self.widths, self.background_probs)
        return (*arrays, self.warps, self.warp_probs), self.edges

    @classmethod
    def tree_unflatten(cls, edges, children):
        """The same from its parts, unchecked."""
        cluster = object.__new__(cls)
        cluster.edges = edges
        cluster._store(children)
        return cluster
