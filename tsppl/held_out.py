"""Scores of a Neyman-Scott process on points that were held out at random."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.scipy.special import logsumexp

MOST_EMPTY = 100_000


class HeldOutScore(NamedTuple):
    """Log density of the held-out points, that given each draw ``(S,)``, and how many draws the average rests on.

    Where ``effective_draws`` is small, a few draws decide the average: take more draws, or hold out fewer points.
    """

    log_prob: jax.Array
    draws: jax.Array
    effective_draws: jax.Array


def thin(key, points, prob):
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
    >>> kept, held_out = tsppl.thin(jax.random.key(0), jnp.arange(100.0), 0.2)
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
    ``tsd.PoissonProcess(r, window).thinned(prob).log_prob(held_out)``.

    Args:
        key: random key.
        process: the process of *all* points, as in ``process.thinned(1 - prob).sample("x", kept)``. Where rates or the
            cluster's parameters were drawn too, a process whose arrays all have a leading axis of draws:
            ``jax.vmap(make_process)(draws)``.
        labels: posterior draws of the labels of the points kept, ``(S, N)``.
        kept, held_out: as :func:`thin` returns them.
        prob: probability of being held out.

    Raises:
        ValueError: if labels do not fit the points kept, or the process, or there are too many events without a point.

    >>> import jax, numpyro.distributions as dist, tsppl, tsppl.distributions as tsd
    >>> process = tsd.NeymanScott(1.0, dist.Gamma(8.0, 1.0), tsd.GaussianCluster(0.1), 2.0, (0.0, 4.0))
    >>> kept, held_out = tsppl.thin(jax.random.key(0), process.simulate(jax.random.key(1)).points, 0.2)
    >>> labels = (
    ...     process.thinned(0.8).labels(len(kept)).sample(jax.random.key(2), (3,))
    ... )  # draws of the posterior, really
    >>> tsppl.held_out_log_prob(jax.random.key(3), process, labels, kept, held_out, 0.2).draws.shape
    (3,)
    """
    labels = jnp.asarray(labels)
    if labels.ndim != 2 or labels.shape[1] != len(kept):
        raise ValueError(f"labels has shape {labels.shape}; draws for the {len(kept)} points kept are (S, {len(kept)})")
    varies = jnp.ndim(process.event_rate) == 1
    if varies and len(process.event_rate) != len(labels):
        raise ValueError(f"there are {len(process.event_rate)} draws of the process and {len(labels)} of the labels")
    num_empty = jax.vmap(_num_empty, (0, None))(process, prob).max() if varies else _num_empty(process, prob)
    if num_empty > MOST_EMPTY:
        raise ValueError(
            f"the process expects some {num_empty:.3g} events without a point kept, and each of them would be drawn: use one "
            "with fewer events of larger amplitude, and no Dirichlet process"
        )
    num_empty = int(num_empty)

    def score(key_and_labels, process):
        key, labels = key_and_labels
        events, amplitudes = process.thinned(1 - prob).sample_events(key, labels, kept, num_empty=num_empty)
        return process.given_events(events, amplitudes / (1 - prob)).thinned(prob).log_prob(held_out)

    inputs = random.split(key, len(labels)), labels
    if varies:
        draws = jax.jit(lambda inputs, process: lax.map(lambda both: score(*both), (inputs, process)))(inputs, process)
    else:
        draws = jax.jit(lambda inputs, process: lax.map(lambda one: score(one, process), inputs))(inputs, process)
    total = logsumexp(draws)
    return HeldOutScore(total - jnp.log(len(draws)), draws, jnp.exp(2 * total - logsumexp(2 * draws)))


def _num_empty(process, prob):
    """Slots for events without a point kept; more are needed once in 10^12 times."""
    counts = process.thinned(1 - prob).expected_counts()
    mean = counts.events - counts.occupied_events
    return jnp.ceil(mean + 8 * jnp.sqrt(mean) + 12)
