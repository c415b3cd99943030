"""How many points a Poisson cluster process makes, and how they fall into clusters.

Notation: ``L`` events expected, each with a ``Gamma(a, b)`` number of points expected (``b`` a rate), beside ``background``
points expected that belong to no event. The number of points ``n`` has the generating function

``E[z^n] = exp(background (z - 1) + L ((b / (1 + b - z))^a - 1))``.

Everything is written so that nothing is lost to rounding where ``a`` is next to zero and ``L a`` is not: the limit of a
Dirichlet process with concentration ``L a``.
"""

import jax.numpy as jnp
from jax import lax, random
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, Int

from tsppl.points.labels.rates import NeymanScottRates

NUM_PROPOSALS = 64
BACKGROUND, ABSENT = -1, -2
MANY_EVENTS = 1e9


def log_count_prob(count, events, concentration, rate, background, *, largest: int) -> Float[Array, ""]:
    """Log probability of ``count`` points.

    The coefficient of ``z^count`` is Cauchy's integral over a circle, by the trapezoidal rule: ``O(largest)``. The circle is
    a little inside of that on which the tilted mean is ``count``, so that what the rule adds wrongly, coefficients of much
    higher powers, is lost to rounding however broad the distribution is.

    Args:
        count: number of points, at most ``largest``; NaN if more.
        events: events expected, ``L``.
        concentration, rate: of the gamma distribution of points per event.
        background: background points expected.
        largest: bound on ``count``, static.

    >>> import jax.numpy as jnp
    >>> from tsppl.points import log_count_prob
    >>> round(float(jnp.exp(log_count_prob(0, 2.0, 1.0, 1.0, 0.5, largest=0))), 4)  # exp(-0.5 - 2 * 0.5)
    0.2231
    """
    dtype = jnp.result_type(events, concentration, rate, background, float)
    rates = NeymanScottRates(events, concentration, rate, background)
    half = 1 << (2 * (largest + 8) + 31).bit_length()
    inside = jnp.finfo(dtype).eps ** (0.5 / half)
    tilt = inside * lax.stop_gradient(_tilt(jnp.asarray(count, dtype), rates))
    steps = jnp.arange(half + 1, dtype=jnp.uint32)
    angle = jnp.pi / half * steps.astype(dtype)
    turned = jnp.pi / half * ((steps * jnp.asarray(count, jnp.uint32)) % jnp.uint32(2 * half)).astype(dtype)
    weights = jnp.where((steps == 0) | (steps == half), 1.0, 2.0) / (2 * half)

    across, along = tilt * jnp.sin(angle), 1 + rate - tilt * jnp.cos(angle)
    gap = 1 + rate - tilt
    over = jnp.expm1(concentration * (jnp.log(rate) - jnp.log(gap)))
    less = jnp.expm1(concentration * (jnp.log(gap) - 0.5 * jnp.log(along**2 + across**2)))
    phase = concentration * jnp.arctan2(across, along)
    peak = events * (1 + over)
    log_modulus = -2 * background * tilt * jnp.sin(angle / 2) ** 2
    log_modulus += peak * (less * jnp.cos(phase) - 2 * jnp.sin(phase / 2) ** 2)
    argument = background * across + peak * (1 + less) * jnp.sin(phase) - turned
    tilted = jnp.sum(weights * jnp.exp(log_modulus) * jnp.cos(argument))
    log_prob = jnp.log(tilted) + background * (tilt - 1) + events * over - count * jnp.log(tilt)
    return jnp.where(count <= largest, log_prob, jnp.nan)


def log_label_weight(labels, events, concentration, rate, background) -> Float[Array, ""]:
    """Log of what the labels of points add to the collapsed joint density of a cluster process, without constants.

    Each background point counts ``background``, each cluster its :meth:`NeymanScottRates.log_cluster_weight`.

    Args:
        labels: int ``(N,)``, -1 for background, -2 for a slot without a point, else below ``N``.
        events, concentration, rate, background: as in :func:`log_count_prob`.
    """
    sizes = cluster_sizes(labels).astype(jnp.result_type(events, float))
    of_cluster = NeymanScottRates(events, concentration, rate, background).log_cluster_weight(sizes)
    num_background = jnp.sum(labels == BACKGROUND)
    log_background = jnp.log(jnp.where(num_background > 0, background, 1.0))
    return num_background * log_background + jnp.where(sizes > 0, of_cluster, 0.0).sum()


def log_label_total(count, log_prob, events, concentration, rate, background) -> Float[Array, ""]:
    """Log of the sum of label weights over all labels of ``count`` points, given the log probability of the count."""
    rates = NeymanScottRates(events, concentration, rate, background)
    return log_prob + gammaln(count + 1.0) + rates.expected_background + rates.expected_occupied


def cluster_sizes(labels) -> Int[Array, " N"]:
    """Number of points with each label from 0 to ``N - 1``."""
    return jnp.zeros(len(labels), jnp.int32).at[jnp.where(labels < 0, len(labels), labels)].add(1, mode="drop")


def canonical_labels(labels, *, num_labels=None) -> Int[Array, " N"]:
    """Labels numbered by first appearance, -1 for background, -2 for slots without a point.

    Args:
        labels: int ``(N,)``: the same number for points of one cluster, -1 for background, -2 for slots without a point.
        num_labels: bound on labels; ``N`` if None.

    >>> import jax.numpy as jnp
    >>> from tsppl.points import canonical_labels
    >>> canonical_labels(jnp.array([3, -1, 0, 3, 2])).tolist()
    [0, -1, 1, 0, 2]
    """
    num_points = len(labels)
    num_labels = num_points if num_labels is None else num_labels
    places = jnp.arange(num_points, dtype=jnp.int32)
    slots = jnp.where(labels < 0, num_labels, labels)
    first = jnp.full(num_labels + 1, num_points, jnp.int32).at[slots].min(places)[slots]
    is_first = (first == places) & (labels >= 0)
    rank = jnp.cumsum(is_first, dtype=jnp.int32) - 1
    return jnp.where(labels < 0, labels, rank[first])


def draw_labels(key, num_points: int, events, concentration, rate, background) -> Int[Array, " N"]:
    """Draw canonical labels of ``num_points`` points, given that there are so many: exact, ``O(N log N)``.

    The number of events and their total rate are drawn given the number of points, by rejection under the same tilt as in
    :func:`log_count_prob`; given these, events are chosen by Blackwell and MacQueen's urn.
    """
    if num_points == 0:
        return jnp.zeros(0, jnp.int32)
    dtype = jnp.result_type(events, concentration, rate, background, float)
    rates = NeymanScottRates(events, concentration, rate, background)
    total_key, background_key, urn_key = random.split(key, 3)
    tilt = _tilt(jnp.asarray(num_points, dtype), rates)
    fresh, num_events, total = _draw_events(total_key, num_points, tilt, rates)
    is_background = random.uniform(background_key, (num_points,), dtype) * (background + total) < background
    chosen = _urn(urn_key, num_points, num_events, fresh)
    labels = chosen[jnp.maximum(jnp.cumsum(~is_background) - 1, 0)]
    return canonical_labels(jnp.where(is_background, -1, labels))


def _tilt(count, rates):
    """Where the tilted mean number of points is ``count``."""
    wanted = jnp.maximum(count, 0.5)
    _, concentration, rate, background = rates
    log_pull = rates.log_pull

    def bisect(_, bounds):
        middle = 0.5 * (bounds[0] + bounds[1])
        mean = middle * (background + jnp.exp(log_pull - (concentration + 1) * jnp.log(1 + rate - middle)))
        below = mean < wanted
        return jnp.where(below, middle, bounds[0]), jnp.where(below, bounds[1], middle)

    low, high = lax.fori_loop(0, 60, bisect, (jnp.zeros_like(count), jnp.zeros_like(count) + 1 + rate))
    return 0.5 * (low + high)


def _draw_events(key, num_points, tilt, rates):
    """Sum of the concentrations of all events, their number, and their total rate, given the number of points.

    The number is -1 where there are so many events that it does not vary, and no two points meet by chance in one.
    """
    events, concentration, rate, background = rates
    mean_events = events * jnp.exp(concentration * (jnp.log(rate) - jnp.log(1 + rate - tilt)))
    peak = num_points / tilt

    def attempt(state):
        key, *keys = random.split(state[0], 4)
        number, fresh = draw_total_concentration(keys[0], mean_events, concentration, (NUM_PROPOSALS,))
        shape = jnp.maximum(fresh, jnp.finfo(peak.dtype).tiny)
        total = jnp.where(fresh > 0, random.gamma(keys[1], shape, dtype=peak.dtype) / (1 + rate - tilt), 0.0)
        ratio = (background + total) / peak
        log_accept = num_points * (jnp.log(ratio) + 1 - ratio)
        accepted = jnp.log(random.uniform(keys[2], (NUM_PROPOSALS,), peak.dtype)) < log_accept
        chosen = jnp.argmax(accepted)
        return key, accepted[chosen], fresh[chosen].astype(peak.dtype), number[chosen], total[chosen]

    nothing = jnp.zeros((), peak.dtype)
    start = (key, jnp.array(False), nothing, jnp.zeros((), jnp.int32), nothing)
    return lax.while_loop(lambda state: ~state[1], attempt, start)[2:]


def draw_total_concentration(key, events, concentration, shape=()):
    """A Poisson number of events, of the mean ``events``, -1 where that is beyond counting; their concentrations added up."""
    is_many = events >= MANY_EVENTS
    number = random.poisson(key, jnp.where(is_many, 0.0, events), shape)
    total = jnp.where(is_many, events, number) * concentration
    return jnp.where(is_many, -1, number).astype(jnp.int32), total


def _urn(key, num_points, num_events, fresh):
    """The events of points with Dirichlet weights, as numbers below ``num_points``."""
    new_key, event_key, copy_key = random.split(key, 3)
    places = jnp.arange(num_points)
    is_new = random.uniform(new_key, (num_points,)) * (fresh + places) < fresh
    copied = jnp.minimum(
        (random.uniform(copy_key, (num_points,)) * places).astype(places.dtype), jnp.maximum(places - 1, 0)
    )
    source = jnp.where(is_new, places, copied)
    source = lax.fori_loop(0, num_points.bit_length(), lambda _, source: source[source], source)
    event = random.randint(event_key, (num_points,), 0, jnp.maximum(num_events, 1))
    event = jnp.where(num_events < 0, places, event)[source]
    order = jnp.argsort(event)
    changes = jnp.concatenate([jnp.zeros(1, bool), jnp.diff(event[order]) != 0])
    return jnp.zeros(num_points, jnp.int32).at[order].set(jnp.cumsum(changes, dtype=jnp.int32))
