"""Clusters of documents: close in time, from the same sources, in the same words."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from jax.scipy.special import gammaln

from tsppl.points.clusters.cluster import Cluster
from tsppl.points.clusters.gaussian_cluster import GaussianCluster, GaussianStatistics


class DocumentStatistics(NamedTuple):
    """Number of documents, sums of their times and of their squares, how many of each source ``(S,)``, how often each word
    ``(V,)``, and the log of what does not depend on the event: lengths, and orders of words."""

    size: jax.Array
    total: jax.Array
    squares: jax.Array
    sources: jax.Array
    words: jax.Array
    log_orders: jax.Array


class DocumentEvent(NamedTuple):
    """When an event is, and how probable each source ``(S,)`` and each word ``(V,)`` is in its documents."""

    time: jax.Array
    source_probs: jax.Array
    word_probs: jax.Array


@jax.tree_util.register_pytree_node_class
class DocumentCluster(Cluster):
    """Documents about one event: written around one time, from its sources, in its words.

    Times are Gaussian around the event's, with known standard deviation; each event has its own probabilities of sources and
    of words, from Dirichlet distributions (as the documents of Wang, Degleris, Williams and Linderman 2023). All of that is
    integrated out. A document is an array ``(2 + V,)``: time, source (a whole number from 0), and how often it has each
    of ``V`` words. Its length is Poisson and says nothing about the event.

    Args:
        scale: standard deviation of times, in units of time.
        source_concentration: ``(S,)``, of the Dirichlet prior of an event's sources; small where events have few sources.
        word_concentration: ``(V,)``, of the Dirichlet prior of an event's words.
        mean_length: words expected of a document.
        background_source_probs: ``(S,)``, of documents that belong to no event; all alike if None.
        background_word_probs: ``(V,)``, of their words; all alike if None. Zero only where no such document has the word.
        edges: ``"exact"``: events are inside the window; ``"ignored"``: as in published code.

    Raises:
        ValueError: if shapes differ.

    >>> import jax, jax.numpy as jnp, tsppl.distributions as tsd
    >>> cluster = tsd.DocumentCluster(0.1, jnp.ones(2), jnp.ones(3), mean_length=4.0)
    >>> one = cluster.point_statistics(jnp.array([5.0, 1.0, 2.0, 0.0, 1.0]))
    >>> round(
    ...     float(jnp.exp(cluster.log_marginal(one, jnp.array([0.0, 10.0])))), 6
    ... )  # 1 / 10 * 1 / 2 * 1 / 10 * Poisson(3)
    0.000977
    """

    def __init__(
        self,
        scale,
        source_concentration,
        word_concentration,
        *,
        mean_length,
        background_source_probs=None,
        background_word_probs=None,
        edges="exact",
    ):
        probs = {"source": background_source_probs, "word": background_word_probs}
        for name, concentration in {"source": source_concentration, "word": word_concentration}.items():
            shape = jnp.shape(concentration)
            if len(shape) != 1:
                raise ValueError(f"{name}_concentration has shape {shape}; it must be one number for each {name}")
            if probs[name] is None:
                probs[name] = jnp.full(shape, 1 / shape[0])
            if jnp.shape(probs[name]) != shape:
                raise ValueError(
                    f"background_{name}_probs has shape {jnp.shape(probs[name])} and {name}_concentration {shape}; they must "
                    "be the same"
                )
        if jnp.shape(scale) or jnp.shape(mean_length):
            raise ValueError(
                f"scale has shape {jnp.shape(scale)} and mean_length {jnp.shape(mean_length)}; both must be numbers"
            )
        self.times = GaussianCluster(scale, edges=edges)
        arrays = source_concentration, word_concentration, mean_length, probs["source"], probs["word"]
        self._store(tuple(jnp.asarray(array, jnp.result_type(array, float)) for array in arrays))

    @property
    def point_shape(self):
        """``(2 + V,)``: time, source, words."""
        return (2 + len(self.word_concentration),)

    @property
    def edges(self):
        """Whether events are kept inside the window."""
        return self.times.edges

    @property
    def reach(self):
        """Largest time between two documents of an event that matters: twelve standard deviations."""
        return self.times.reach

    def interior(self):
        """The same with edges ignored."""
        children, _ = self.tree_flatten()
        return self.tree_unflatten(None, (self.times.interior(), *children[1:]))

    def point_statistics(self, point):
        """Statistics of one document."""
        times = self.times.point_statistics(point[0])
        sources = jax.nn.one_hot(point[1].astype(jnp.int32), len(self.source_concentration), dtype=point.dtype)
        return DocumentStatistics(*times, sources, point[2:], self._log_orders(point[2:]))

    def log_marginal(self, statistics, window):
        """Log density of an event's documents; its time and its probabilities integrated out."""
        of_times = self.times.log_marginal(GaussianStatistics(*statistics[:3]), window)
        of_sources = _log_dirichlet_ratio(self.source_concentration, statistics.sources)
        of_words = _log_dirichlet_ratio(self.word_concentration, statistics.words)
        return of_times + of_sources + of_words + statistics.log_orders

    def log_predictive(self, statistics, more, window):
        """Log density of one more document given those of an event."""
        of_times = self.times.log_predictive(*(GaussianStatistics(*one[:3]) for one in (statistics, more)), window)
        of_sources = _log_dirichlet_ratio(self.source_concentration + statistics.sources, more.sources)
        of_words = _log_dirichlet_ratio(self.word_concentration + statistics.words, more.words)
        return of_times + of_sources + of_words + more.log_orders

    def log_background(self, point, window):
        """Log density of a document that belongs to no event."""
        return super().log_background(point[0], window) + self._log_marks(
            point, self.background_source_probs, self.background_word_probs
        )

    def sample_background(self, key, window):
        """A document that belongs to no event."""
        time_key, marks_key = random.split(key)
        time = super().sample_background(time_key, window)
        return self._sample_marks(marks_key, time, self.background_source_probs, self.background_word_probs)

    def sample_event(self, key, window):
        """An event from its prior."""
        time_key, source_key, word_key = random.split(key, 3)
        return DocumentEvent(
            self.times.sample_event(time_key, window).centre,
            random.dirichlet(source_key, self.source_concentration),
            random.dirichlet(word_key, self.word_concentration),
        )

    def sample_event_given(self, key, statistics, window):
        """An event given its documents."""
        time_key, source_key, word_key = random.split(key, 3)
        return DocumentEvent(
            self.times.sample_event_given(time_key, GaussianStatistics(*statistics[:3]), window).centre,
            random.dirichlet(source_key, self.source_concentration + statistics.sources),
            random.dirichlet(word_key, self.word_concentration + statistics.words),
        )

    def sample_point(self, key, event):
        """A document about an event."""
        time_key, marks_key = random.split(key)
        time = event.time + self.times.scale * random.normal(time_key, (), self.times.scale.dtype)
        return self._sample_marks(marks_key, time, event.source_probs, event.word_probs)

    def log_density(self, point, event):
        """Log density of a document given its event."""
        of_time = jax.scipy.stats.norm.logpdf(point[0], event.time, self.times.scale)
        return of_time + self._log_marks(point, event.source_probs, event.word_probs)

    def _log_orders(self, words):
        """Log probability of a length, and of the number of orders in which such words can be."""
        return words.sum() * jnp.log(self.mean_length) - self.mean_length - gammaln(words + 1).sum()

    def _log_marks(self, point, source_probs, word_probs):
        words = point[2:]
        of_words = jnp.where(words > 0, words * jnp.log(jnp.where(words > 0, word_probs, 1.0)), 0.0).sum()
        return jnp.log(source_probs[point[1].astype(jnp.int32)]) + of_words + self._log_orders(words)

    def _sample_marks(self, key, time, source_probs, word_probs):
        source_key, words_key = random.split(key)
        source = random.categorical(source_key, jnp.log(source_probs))
        # A Poisson number of words, each drawn by its probability, is a Poisson number of each word.
        words = random.poisson(words_key, self.mean_length * word_probs)
        return jnp.concatenate([jnp.stack([time, source.astype(time.dtype)]), words.astype(time.dtype)])

    def _store(self, arrays):
        self.source_concentration, self.word_concentration, self.mean_length, *probs = arrays
        self.background_source_probs, self.background_word_probs = probs

    def tree_flatten(self):
        """Arrays; nothing is static."""
        arrays = self.source_concentration, self.word_concentration, self.mean_length
        return (self.times, *arrays, self.background_source_probs, self.background_word_probs), None

    @classmethod
    def tree_unflatten(cls, static, children):
        """The same from its parts, unchecked."""
        cluster = object.__new__(cls)
        cluster.times = children[0]
        cluster._store(children[1:])
        return cluster


def _log_dirichlet_ratio(concentration, counts):
    """Log probability of things in one order, by how often each kind is among them: Dirichlet-categorical."""
    each = gammaln(concentration + counts) - gammaln(concentration)
    total = concentration.sum()
    return each.sum() - gammaln(total + counts.sum()) + gammaln(total)
