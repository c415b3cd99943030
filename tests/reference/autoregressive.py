"""Slow, obvious versions of the switching autoregressions: every path, one step after the other."""

import itertools

import numpy as np
from scipy.stats import multivariate_normal


def log_prob(value, log_initial, transition_at, weights_at, noise_at, *, num_lags, first, start=None, scored=None):
    """Log density by enumeration of all state paths.

    ``transition_at(t, y)`` gives the probabilities of the move into step ``t``, ``weights_at(t)`` the array ``(K, L, N, N)``,
    ``noise_at(t)`` the pair of arrays (bias ``(K, N)``, covariance ``(K, N, N)``). The chain starts at step ``first``;
    ``start(k, block)`` is the log density of the first ``num_lags`` steps, or None to condition on them.
    """
    num_steps, num_states = len(value), len(log_initial)
    total = -np.inf
    for path in itertools.product(range(num_states), repeat=num_steps - first):
        term = log_initial[path[0]]
        for t in range(first, num_steps):
            state = path[t - first]
            if t > first:
                term += np.log(transition_at(t, value)[path[t - first - 1], state])
            if start is not None and t == first:
                term += start(state, value[:num_lags])
                continue
            if scored is not None and not scored[t]:
                continue
            bias, covariance = noise_at(t)
            mean = bias[state] + sum(weights_at(t)[state, lag] @ value[t - 1 - lag] for lag in range(num_lags))
            term += multivariate_normal(mean, covariance[state]).logpdf(value[t])
        total = np.logaddexp(total, term)
    return total


def left_out_by_integration(log_prob, value, step, grid):
    """``log p(y_t | rest)`` of a scalar series by quadrature over ``y_t``."""
    series = np.repeat(np.asarray(value)[None], len(grid), 0)
    series[:, step] = grid
    return log_prob(value) - np.log(np.trapezoid(np.exp(np.asarray(log_prob(series))), grid))
