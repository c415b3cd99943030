"""Weights of chains, or of models, by how well they predict what is left out.

The Pareto smoothing is our own, forty lines of NumPy: ArviZ's moved to another package between 0.x and 1.x, and only the
export may know ArviZ.
"""

import numpy as np
from scipy.special import logsumexp

_ROUNDS = 5000
_FEWEST_IN_TAIL = 5


def left_out_densities(terms):
    """Log density of each observation under the posterior of the others, by Pareto-smoothed importance sampling.

    Args:
        terms: ``(S, N)``, log-likelihood terms of ``N`` observations for ``S`` draws of the full posterior.

    Returns:
        ``(densities, khat)``, each ``(N,)``; a ``khat`` above 0.7 says that the number is not reliable.

    Source: Vehtari, Simpson, Gelman, Yao and Gabry (2024), *Journal of Machine Learning Research* 25.

    >>> import numpy as np
    >>> densities, khat = left_out_densities(np.full((100, 3), -2.0))
    >>> densities.tolist()
    [-2.0, -2.0, -2.0]
    """
    terms = np.asarray(terms, float)
    return reweighted_densities(-terms, terms)


def reweighted_densities(log_ratios, terms):
    """Log of the average density over draws of another posterior, by Pareto-smoothed importance sampling.

    Args:
        log_ratios: ``(S, N)``, log of the other posterior over that of the draws, up to a constant for each column.
        terms: ``(S, N)``, log densities to average.

    Returns:
        ``(densities, khat)``, each ``(N,)``, as :func:`left_out_densities`.
    """
    densities, khat = np.empty(terms.shape[1]), np.empty(terms.shape[1])
    for column, (ratios, of_one) in enumerate(zip(log_ratios.T, terms.T, strict=True)):
        log_weights, khat[column] = _smoothed(ratios)
        densities[column] = logsumexp(log_weights + of_one) - logsumexp(log_weights)
    return densities, khat


def _smoothed(log_weights):
    """Log weights whose largest are replaced by quantiles of the Pareto distribution fitted to them, and its shape."""
    log_weights = log_weights - log_weights.max()
    size = len(log_weights)
    in_tail = int(np.ceil(min(0.2 * size, 3 * np.sqrt(size))))
    order = np.argsort(log_weights)
    tail = order[size - in_tail :]
    cutoff = max(log_weights[order[max(size - in_tail - 1, 0)]], np.log(np.finfo(float).tiny))
    tail = tail[log_weights[tail] > cutoff]
    if len(tail) < _FEWEST_IN_TAIL:
        return log_weights, np.inf if np.ptp(log_weights) > 0 else -np.inf
    shape, scale = _fit_pareto(np.exp(log_weights[tail]) - np.exp(cutoff))
    if not np.isfinite(shape):
        return log_weights, shape
    levels = (np.arange(len(tail)) + 0.5) / len(tail)
    quantiles = -scale * np.log1p(-levels) if shape == 0 else scale * np.expm1(-shape * np.log1p(-levels)) / shape
    smoothed = log_weights.copy()
    smoothed[tail] = np.minimum(np.log(quantiles + np.exp(cutoff)), 0.0)
    return smoothed, shape


def _fit_pareto(excesses):
    """Shape and scale of the generalised Pareto distribution (Zhang and Stephens 2009), the shape drawn to one half."""
    size = len(excesses)
    number = 30 + int(np.sqrt(size))
    rates = 1 - np.sqrt(number / (np.arange(1, number + 1) - 0.5))
    rates = rates / (3 * excesses[int(size / 4 + 0.5) - 1]) + 1 / excesses[-1]
    shapes = np.log1p(-rates[:, None] * excesses).mean(1)
    profile = size * (np.log(-rates / shapes) - shapes - 1)
    weights = np.exp(profile - logsumexp(profile))
    rate = (rates * weights).sum()
    shape = np.log1p(-rate * excesses).mean()
    return (size * shape + 5) / (size + 10), -shape / rate


def stacking_weights(densities):
    """Weights of predictive distributions whose mixture predicts the left-out observations best.

    They maximise the sum over observations of the log of the weighted densities, which is concave (Yao, Vehtari, Simpson and
    Gelman 2018, *Bayesian Analysis* 13; for chains Yao, Vehtari and Gelman 2022, *JMLR* 23).

    Args:
        densities: ``(N, K)``, log densities of ``N`` left-out observations under ``K`` predictive distributions.

    Returns:
        ``(K,)``, not negative, of sum one.

    >>> import numpy as np, tsppl
    >>> tsppl.stacking_weights(np.log([[0.9, 0.1], [0.8, 0.1]])).round(3).tolist()
    [1.0, 0.0]
    """
    densities = np.asarray(densities, float)
    ratios = np.exp(densities - densities.max(1, keepdims=True))
    weights = np.full(densities.shape[1], 1 / densities.shape[1])
    for _ in range(_ROUNDS):
        slopes = (ratios / (ratios @ weights)[:, None]).mean(0)
        if slopes.max() < 1 + 1e-6:
            break
        weights = weights * slopes
    return weights / weights.sum()
