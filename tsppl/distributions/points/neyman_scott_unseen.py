"""Points of a Neyman-Scott process that were not seen: drawn with everything else, so that their absence says nothing."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import random
from numpyro.distributions import Distribution, constraints

from tsppl.distributions.points.neyman_scott_sites import ClusterLabels
from tsppl.distributions.shapes import is_concrete
from tsppl.points.labels.compound_poisson import ABSENT, BACKGROUND, canonical_labels
from tsppl.points.windows.regions import Regions

CANDIDATES_PER_SLOT = 2
SPARE_SLOTS = 32
SMALLEST_CONCENTRATION = 1e-3


class UnseenPoints(Distribution):
    """Points inside of regions that were not observed, on a fixed number of slots, of which some are empty.

    A site for :class:`tsppl.inference.LabelGibbs` to draw, together with labels; the density is that of labels and points,
    which come after it, so that here it is zero. Labels say which slots have a point: -2 where there is none.

    Args:
        process: a :class:`~tsppl.distributions.NeymanScott`.
        regions: :class:`~tsppl.distributions.Regions`.
        num_slots: largest number of unseen points.
    """

    arg_constraints = {}
    has_rsample = False
    pytree_data_fields = ("process", "regions")
    pytree_aux_fields = ("num_slots",)

    def __init__(self, process, regions, num_slots, *, validate_args=None):
        self.process, self.regions, self.num_slots = process, regions, num_slots
        super().__init__((), (num_slots,) + process.cluster.point_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False)
    def support(self):
        """All places."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def sample(self, key, sample_shape=()):
        """Empty slots: the same background point in each."""
        point = self.process.sample_background(random.key(0))
        return jnp.broadcast_to(point, tuple(sample_shape) + self.event_shape)

    def log_prob(self, value, intermediates=None):
        """Zero: see above."""
        value = jnp.asarray(value)
        return jnp.zeros(value.shape[: value.ndim - len(self.event_shape)], value.dtype)


class Imputed(NamedTuple):
    """Labels of all points ``(N + S,)``, unseen points ``(S,)`` and the shape of a point, and how often a slot was missing."""

    labels: jax.Array
    unseen: jax.Array
    overflow: jax.Array


def draw_unseen(key, process, labels, points, regions, num_unseen) -> Imputed:
    """Draw the points inside of ``regions`` anew, with their labels: an exact Gibbs step.

    All events are drawn, given labels and points, also those without a point. Given events, points inside of the regions are
    a Poisson process of its own. So this is a Gibbs step for events and unseen points together; then events are forgotten.

    Args:
        key: random key.
        process: a :class:`~tsppl.distributions.NeymanScott`.
        labels: int ``(N + S,)``, -2 for empty slots among the last ``S``.
        points: ``(N + S,)`` and the shape of a point, seen ones first.
        regions: :class:`~tsppl.distributions.Regions`.
        num_unseen: ``S``.
    """
    event_key, number_key, source_key, point_key = random.split(key, 4)
    num_points, num_slots = len(labels), len(labels) + SPARE_SLOTS
    num_seen, num_candidates = num_points - num_unseen, CANDIDATES_PER_SLOT * num_slots
    events, amplitudes = process.sample_events(event_key, labels, points, num_empty=num_slots)
    given = process.given_events(events, amplitudes)
    sources = given.sample_sources(source_key, num_candidates)
    candidates = jax.vmap(given.sample_point_of)(random.split(point_key, num_candidates), sources)
    number = random.poisson(number_key, given.compensator())
    kept = (jnp.arange(num_candidates) < number) & regions.contains(candidates)
    rows = jnp.nonzero(kept, size=num_unseen, fill_value=num_candidates - 1)[0]
    is_point = jnp.arange(num_unseen) < kept.sum()
    own = jnp.where(sources[rows] == len(amplitudes), BACKGROUND, sources[rows])
    labels = jnp.concatenate([labels[:num_seen], jnp.where(is_point, own, ABSENT).astype(labels.dtype)])
    empty = process.sample_background(random.key(0))
    unseen = jnp.where(is_point.reshape((-1,) + (1,) * empty.ndim), candidates[rows], empty)
    overflow = (number > num_candidates) + jnp.maximum(kept.sum() - num_unseen, 0)
    overflow += jnp.all(amplitudes[num_points:] > 0)
    return Imputed(canonical_labels(labels, num_labels=len(amplitudes)), unseen, overflow.astype(jnp.int32))


def sample_with_unseen(process, name, points, regions, num_unseen):
    """Make the sites of unseen points, of all labels, and of all points: see :meth:`NeymanScott.sample`."""
    if points is None:
        raise ValueError("points are needed beside unseen: simulate(key) draws whole patterns")
    if is_concrete(process.amplitude.concentration) and process.amplitude.concentration < SMALLEST_CONCENTRATION:
        raise NotImplementedError(
            "a Dirichlet process has too many events to draw unseen points from: leave out unseen"
        )
    if is_concrete(process.expected_background) and process.expected_background == 0:
        raise NotImplementedError("beside unseen points a background is needed: give it a rate, however small")
    if not isinstance(regions, Regions) or regions.position_shape != process.cluster.position_shape:
        raise ValueError(
            f"unseen is {regions!r}; pass Regions of boxes with places of {process.cluster.position_shape}"
        )
    cluster = process.cluster
    if regions.neurons is not None and cluster.num_neurons != regions.neurons.shape[1]:
        raise ValueError(
            f"unseen hides some of {regions.neurons.shape[1]} neurons, num_neurons of the {type(cluster).__name__} is "
            f"{cluster.num_neurons}: pass Regions of all of its neurons, or of all points"
        )
    if is_concrete(points) and is_concrete(regions.boxes) and len(points):
        with jax.ensure_compile_time_eval():
            number = int(regions.contains(points).sum())
        if number:
            raise ValueError(f"{number} points lie in unseen: pass those outside, regions.split(points)[0]")
    if num_unseen is None:
        with jax.ensure_compile_time_eval():
            share = expected_share(process.window, regions)
        num_unseen = int(2 * len(points) * share / max(1 - share, 0.1)) + 32
    slots = numpyro.sample(f"{name}_unseen", UnseenPoints(process, regions, num_unseen))
    labels = numpyro.sample(f"{name}_labels", ClusterLabels(process, len(points), num_unseen=num_unseen))
    numpyro.sample(name, process.points(labels), obs=jnp.concatenate([points, slots.astype(points.dtype)]))
    return labels


def expected_share(window, regions):
    """Share of the window, and of its neurons, that concrete regions hide."""
    sizes = np.array([float(window.overlap(box)) for box in regions.boxes])
    if regions.neurons is not None:
        sizes = sizes * np.asarray(regions.neurons).mean(1)
    return sizes.sum() / float(window.volume)
