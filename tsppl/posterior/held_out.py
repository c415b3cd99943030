"""Scores of a Neyman-Scott process on points that were held out: at random, or in regions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.scipy.special import gammaln, logsumexp

MOST_EMPTY = 100_000


class HeldOutScore(NamedTuple):
    """Log density of the held-out points, that given each draw ``(S,)``, and how many draws the average rests on.

    Where ``effective_draws`` is small, a few draws decide the average: take more draws, or hold out fewer points.
    """

    log_prob: jax.Array
    draws: jax.Array
    effective_draws: jax.Array


def hold_out_points(key, points, prob):
    """Hold out each point of a pattern independently, with probability ``prob``. Outside of ``jit``.

    What is kept of a Neyman-Scott process is one again, ``process.thinned(1 - prob)``: fit that to the points kept.

    Args:
        key: random key.
        points: ``(N,)`` and the shape of a point.
        prob: probability, above 0 and below 1.

    Returns:
        ``(kept, held_out)``, each in the order given.

    Raises:
        ValueError: if ``prob`` is not between 0 and 1.

    >>> import jax, jax.numpy as jnp, tsppl
    >>> kept, held_out = tsppl.hold_out_points(jax.random.key(0), jnp.arange(100.0), 0.2)
    >>> len(kept) + len(held_out)
    100
    """
    if not 0 < prob < 1:
        raise ValueError(f"prob is {prob}; it must be above 0 and below 1")
    points = jnp.asarray(points)
    is_out = np.asarray(random.bernoulli(key, prob, (len(points),)))
    return points[~is_out], points[is_out]


def held_out_log_prob(key, process, labels, kept, held_out, prob) -> HeldOutScore:
    """Log density of held-out points given those kept, averaged over posterior draws.

    Given all events, the points kept and those held out are independent Poisson processes, with ``1 - prob`` and ``prob``
    times the intensity of the whole. So for each draw of labels the events behind the points kept are drawn, those without
    a point included, and densities of the points held out, in the order given, are averaged. The average is an unbiased
    estimate of the predictive density of ``held_out``, for draws from the posterior of the points kept.

    Compare with other models on the same points; points without clusters at a rate ``r``:
    ``tsd.PoissonProcess(r, window).thinned(prob).log_prob(held_out)``. Points with marks need a density of marks too: for
    spikes add ``jnp.log(neuron_probs)[neurons].sum()``, and call it with the times alone.

    Args:
        key: random key.
        process: the process of *all* points, as in ``process.thinned(1 - prob).sample("x", kept)``. Where rates or the
            cluster's parameters were drawn too, a process whose arrays all have a leading axis of draws:
            ``jax.vmap(make_process)(draws)``.
        labels: posterior draws of the labels of the points kept, ``(S, N)``.
        kept, held_out: as :func:`hold_out_points` returns them.
        prob: probability of being held out.

    Raises:
        ValueError: if labels do not fit the points kept, or the process, or there are too many events without a point.

    >>> import jax, numpyro.distributions as dist, tsppl, tsppl.distributions as tsd
    >>> process = tsd.NeymanScott(1.0, dist.Gamma(8.0, 1.0), tsd.GaussianCluster(0.1), 2.0, (0.0, 4.0))
    >>> kept, held_out = tsppl.hold_out_points(jax.random.key(0), process.simulate(jax.random.key(1)).points, 0.2)
    >>> labels = (
    ...     process.thinned(0.8).labels(len(kept)).sample(jax.random.key(2), (3,))
    ... )  # draws of the posterior, really
    >>> tsppl.held_out_log_prob(jax.random.key(3), process, labels, kept, held_out, 0.2).draws.shape
    (3,)
    """
    labels = jnp.asarray(labels)
    if labels.ndim != 2 or labels.shape[1] != len(kept):
        raise ValueError(f"labels has shape {labels.shape}; draws for the {len(kept)} points kept are (S, {len(kept)})")
    num_empty = _checked_num_empty(process, labels, prob)

    def score(process, key, labels):
        events, amplitudes = process.thinned(1 - prob).sample_events(key, labels, kept, num_empty=num_empty)
        return process.given_events(events, amplitudes / (1 - prob)).thinned(prob).log_prob(held_out)

    return _average(score, process, random.split(key, len(labels)), labels)


def region_log_prob(key, process, labels, unseen, kept, held_out, regions) -> HeldOutScore:
    """Log density of the points held out in some regions given those outside, averaged over posterior draws.

    Given all events, points inside and outside are independent Poisson processes. So for each draw the events are drawn,
    those without a point included, and the density of the points held out, in the order given, is averaged, as in
    :func:`held_out_log_prob`. Draws are those of a model with ``process.sample(name, kept, unseen=regions)``.

    Compare with constant rates on the same points: ``rates`` of shape ``(M,)`` for ``M`` neurons, points per unit of time,
    have the log density ``log(rates)[neurons].sum() - (lengths[:, None] * regions.neurons * rates).sum()``, less
    ``log N!`` as here, with ``lengths`` those of ``regions.boxes``.

    Args:
        key: random key.
        process: as in :func:`held_out_log_prob`, but not thinned.
        labels: posterior draws of ``<name>_labels``, ``(S, N + U)``.
        unseen: posterior draws of ``<name>_unseen``, ``(S, U)`` and the shape of a point.
        kept, held_out: as ``regions.split(points)`` returns them.
        regions: :class:`~tsppl.distributions.Regions`.

    Raises:
        ValueError: if the draws do not fit the points kept, or the process, or a point held out is in no region.

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, tsppl, tsppl.distributions as tsd
    >>> process = tsd.NeymanScott(1.0, dist.Gamma(8.0, 1.0), tsd.GaussianCluster(0.1), 2.0, (0.0, 4.0))
    >>> regions = tsd.Regions([[1.0, 2.0]])
    >>> kept, held_out = regions.split(jnp.array([0.4, 1.2, 3.1]))
    >>> labels, unseen = jnp.array([[-1, -1, -2], [-1, 0, -2]]), jnp.zeros((2, 1))  # draws of the posterior, really
    >>> tsppl.region_log_prob(jax.random.key(3), process, labels, unseen, kept, held_out, regions).draws.shape
    (2,)
    """
    labels, unseen = jnp.asarray(labels), jnp.asarray(unseen)
    if labels.ndim != 2 or unseen.shape[:1] != labels.shape[:1] or labels.shape[1] != len(kept) + unseen.shape[1]:
        raise ValueError(
            f"labels has shape {labels.shape} and unseen {unseen.shape}; with {len(kept)} points kept draws are "
            f"(S, {len(kept)} + U) and (S, U) and the shape of a point"
        )
    if not bool(regions.contains(held_out).all()):
        raise ValueError(f"{int((~regions.contains(held_out)).sum())} points held out are in no region")
    num_empty = _checked_num_empty(process, labels, 0.0)

    def score(process, key, labels, unseen):
        points = jnp.concatenate([jnp.asarray(kept, unseen.dtype), unseen])
        given = process.given_events(*process.sample_events(key, labels, points, num_empty=num_empty))
        return given.log_intensity(held_out).sum() - given.compensator(regions) - gammaln(len(held_out) + 1.0)

    return _average(score, process, random.split(key, len(labels)), labels, unseen)


def _checked_num_empty(process, labels, prob):
    """Slots for events without a point kept, for all draws."""
    varies = jnp.ndim(process.event_rate) == 1
    if varies and len(process.event_rate) != len(labels):
        raise ValueError(f"there are {len(process.event_rate)} draws of the process and {len(labels)} of the labels")
    num_empty = jax.vmap(_num_empty, (0, None))(process, prob).max() if varies else _num_empty(process, prob)
    if num_empty > MOST_EMPTY:
        raise ValueError(
            f"the process expects some {num_empty:.3g} events without a point kept, and each of them would be drawn: use one "
            "with fewer events of larger amplitude, and no Dirichlet process"
        )
    return int(num_empty)


def _average(score, process, *inputs):
    """Scores of all draws, of which the process may have one each, and the log of their mean."""
    varies = jnp.ndim(process.event_rate) == 1

    @jax.jit
    def scores(process, inputs):
        if varies:
            return lax.map(lambda both: score(both[0], *both[1]), (process, inputs))
        return lax.map(lambda one: score(process, *one), inputs)

    draws = scores(process, inputs)
    total = logsumexp(draws)
    return HeldOutScore(total - jnp.log(len(draws)), draws, jnp.exp(2 * total - logsumexp(2 * draws)))


def _num_empty(process, prob):
    """Slots for events without a point kept; more are needed once in 10^12 times."""
    counts = process.thinned(1 - prob).expected_counts()
    mean = counts.events - counts.occupied_events
    return jnp.ceil(mean + 8 * jnp.sqrt(mean) + 12)
