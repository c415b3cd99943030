"""The three sites of a Neyman-Scott process: how many points, their clusters, and where they are."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.scipy.special import gammaln
from numpyro.distributions import Distribution, constraints

from tsppl.distributions.shapes import is_concrete
from tsppl.points import (
    canonical_labels,
    draw_labels,
    draw_total_concentration,
    log_count_prob,
    log_density_given_labels,
    log_label_total,
    log_label_weight,
)
from tsppl.points.labels.compound_poisson import ABSENT, BACKGROUND


class PointCount(Distribution):
    """The number of points of a Neyman-Scott process: compound Poisson.

    Args:
        process: a :class:`~tsppl.distributions.NeymanScott`.
        largest: bound on the counts that ``log_prob`` is asked about; read from them if None, which works outside of
            ``jit`` only.
    """

    arg_constraints = {}
    has_rsample = False
    support = constraints.nonnegative_integer
    pytree_data_fields = ("process",)
    pytree_aux_fields = ("largest",)

    def __init__(self, process, *, largest=None, validate_args=None):
        self.process, self.largest = process, largest
        super().__init__((), (), validate_args=validate_args)

    def sample(self, key, sample_shape=()):
        """Draw counts."""
        events_key, gamma_key, count_key = random.split(key, 3)
        process = self.process
        events, concentration = process.expected_events, process.amplitude.concentration
        _, shape = draw_total_concentration(events_key, events, concentration, sample_shape)
        total = random.gamma(gamma_key, jnp.where(shape > 0, shape, 1.0))
        clustered = jnp.where(shape > 0, total / process.amplitude.rate, 0.0)
        return random.poisson(count_key, process.expected_background + clustered).astype(jnp.int32)

    def log_prob(self, value, intermediates=None):
        """Log probability of counts."""
        largest = self.largest
        if largest is None:
            if not is_concrete(value):
                raise ValueError("inside jit the count needs a bound that is known beforehand: pass count(largest=...)")
            largest = int(np.max(value, initial=0))

        def one(value):
            return log_count_prob(value, *self.process.rates, largest=largest)

        return jnp.vectorize(one)(jnp.asarray(value))

    @property
    def mean(self):
        """Points expected."""
        return self.process.expected_counts().points


class _CanonicalLabels(constraints.Constraint):
    """Labels numbered by first appearance, -1 for background, -2 for empty slots, which only the last can be."""

    is_discrete = True
    event_dim = 1

    def __init__(self, num_unseen=0):
        self.num_unseen = num_unseen

    def __call__(self, value):
        def one(labels):
            lowest = jnp.where(jnp.arange(len(labels)) < len(labels) - self.num_unseen, BACKGROUND, ABSENT)
            inside = (labels >= lowest) & (labels < len(labels))
            return jnp.all(inside) & jnp.all(canonical_labels(jnp.where(inside, labels, -1)) == labels)

        return jnp.vectorize(one, signature="(n)->()")(jnp.asarray(value))

    def feasible_like(self, prototype):
        return jnp.full_like(prototype, -1)

    def __eq__(self, other):
        return isinstance(other, _CanonicalLabels) and self.num_unseen == other.num_unseen

    def __hash__(self):
        return hash((_CanonicalLabels, self.num_unseen))

    def tree_flatten(self):
        return (), ((), {"num_unseen": self.num_unseen})


class ClusterLabels(Distribution):
    """Clusters of a known number of points of a Neyman-Scott process, wherever the points are.

    Labels are numbered by first appearance; -1 is background. Exchangeable in the points.

    Args:
        process: a :class:`~tsppl.distributions.NeymanScott`.
        num_points: number of points ``N``.
        num_unseen: slots for points that were not seen, ``S``: labels are then ``(N + S,)``, -2 where there is no point. How
            many points there are is then random too, and part of the density.
    """

    arg_constraints = {}
    has_rsample = False
    pytree_data_fields = ("process",)
    pytree_aux_fields = ("num_points", "num_unseen")

    def __init__(self, process, num_points, *, num_unseen=0, validate_args=None):
        self.process, self.num_points, self.num_unseen = process, num_points, num_unseen
        super().__init__((), (num_points + num_unseen,), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self):
        """Canonical labels."""
        return _CanonicalLabels(self.num_unseen)

    def sample(self, key, sample_shape=()):
        """Draw labels, int32 ``sample_shape + (N + S,)``; of seen points only, as if there were no others."""
        keys = random.split(key, int(np.prod(sample_shape)))
        labels = _draw_labels(keys, self.num_points, self.process.rates)
        labels = jnp.pad(labels, ((0, 0), (0, self.num_unseen)), constant_values=ABSENT)
        return labels.reshape(tuple(sample_shape) + self.event_shape)

    def all_background(self):
        """Labels that put all points seen into the background, and none into the slots for others."""
        return jnp.full(self.event_shape, BACKGROUND, jnp.int32).at[self.num_points :].set(ABSENT)

    def log_prob(self, value, intermediates=None):
        """Log probability of labels."""
        rates = self.process.rates
        if self.num_unseen:
            return jnp.vectorize(self._log_prob_with_unseen, signature="(n)->()")(jnp.asarray(value))
        log_count = log_count_prob(self.num_points, *rates, largest=self.num_points)
        total = log_label_total(self.num_points, log_count, *rates)

        def one(labels):
            return log_label_weight(labels, *rates) - total

        return jnp.vectorize(one, signature="(n)->()")(jnp.asarray(value))

    def _log_prob_with_unseen(self, labels):
        """Of labels and the number of unseen points, these as a set, beside seen points in the order given."""
        rates = self.process.rates
        num_unseen = jnp.sum(labels[self.num_points :] != ABSENT)
        orders = gammaln(self.num_points + 1.0) + gammaln(num_unseen + 1.0)
        return log_label_weight(labels, *rates) + rates.log_prob_nothing - orders


@partial(jax.jit, static_argnums=1)
def _draw_labels(keys, num_points, rates):
    return jax.vmap(lambda key: draw_labels(key, num_points, *rates))(keys)


class ClusteredPoints(Distribution):
    """Points of a Neyman-Scott process whose clusters are known, independent from cluster to cluster.

    Args:
        process: a :class:`~tsppl.distributions.NeymanScott`.
        labels: int ``(N,)``, numbered by first appearance, -1 for background.
    """

    arg_constraints = {}
    has_rsample = False
    pytree_data_fields = ("process", "labels")

    def __init__(self, process, labels, *, validate_args=None):
        self.process, self.labels = process, jnp.asarray(labels)
        if self.labels.ndim != 1 or not jnp.issubdtype(self.labels.dtype, jnp.integer):
            raise ValueError(
                f"labels are {self.labels.dtype} of shape {self.labels.shape}; pass integers (N,), -1 for background"
            )
        super().__init__((), self.labels.shape + process.cluster.point_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False)
    def support(self):
        """All places: points of a cluster may fall outside the window."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def sample(self, key, sample_shape=()):
        """Draw points."""
        cluster, window = self.process.cluster, self.process.window
        num_points = len(self.labels)

        def one(key):
            event_key, point_key, background_key = random.split(key, 3)
            events = jax.vmap(cluster.sample_event, (0, None))(random.split(event_key, num_points), window)
            own = jax.tree.map(lambda array: array[jnp.maximum(self.labels, 0)], events)
            clustered = jax.vmap(cluster.sample_point)(random.split(point_key, num_points), own)
            alone = jax.vmap(self.process.sample_background)(random.split(background_key, num_points))
            is_background = (self.labels < 0).reshape((-1,) + (1,) * (clustered.ndim - 1))
            return jnp.where(is_background, alone, clustered)

        drawn = jax.vmap(one)(random.split(key, int(np.prod(sample_shape))))
        return drawn.reshape(tuple(sample_shape) + self.event_shape)

    def log_prob(self, value, intermediates=None):
        """Log density of points, one number for each pattern."""
        value = jnp.asarray(value)
        lead = value.shape[: value.ndim - len(self.event_shape)]

        def one(points):
            cluster, window = self.process.cluster, self.process.window
            log_background = self.process.log_background(points)
            return log_density_given_labels(cluster, self.labels, points, window, log_background)

        flat = jax.vmap(one)(value.reshape((-1,) + self.event_shape)) if lead else one(value)
        return flat.reshape(lead)
