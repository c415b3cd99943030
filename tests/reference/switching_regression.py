"""Posterior of a tiny autoregressive hidden Markov model, parameters integrated out, by enumerating state paths."""

import itertools

import numpy as np
from scipy.special import gammaln, multigammaln


def dirichlet_multinomial(counts, concentration):
    """Log probability of counts in a given order."""
    counts, concentration = np.asarray(counts, float), np.asarray(concentration, float)
    return (
        gammaln(concentration.sum())
        - gammaln(concentration.sum() + counts.sum())
        + (gammaln(concentration + counts) - gammaln(concentration)).sum()
    )


def regression_posterior(x, y, loc, column_covariance, concentration, scale):
    """Textbook formulas: posterior mean of the coefficients, of the covariance, and the log marginal likelihood."""
    size, n = scale.shape[0], len(y)
    prior_precision = np.linalg.inv(column_covariance)
    precision = prior_precision + x.T @ x
    mean = (loc @ prior_precision + y.T @ x) @ np.linalg.inv(precision)
    posterior_scale = scale + y.T @ y + loc @ prior_precision @ loc.T - mean @ precision @ mean.T
    posterior_concentration = concentration + n
    log_marginal = (
        -0.5 * n * size * np.log(np.pi)
        + multigammaln(0.5 * posterior_concentration, size)
        - multigammaln(0.5 * concentration, size)
        + 0.5 * concentration * np.linalg.slogdet(scale)[1]
        - 0.5 * posterior_concentration * np.linalg.slogdet(posterior_scale)[1]
        - 0.5 * size * (np.linalg.slogdet(precision)[1] - np.linalg.slogdet(prior_precision)[1])
    )
    return mean, posterior_scale / (posterior_concentration - size - 1), log_marginal


def enumerated_posterior(inputs, outputs, initial_concentration, row_concentration, regressions):
    """Posterior means given all paths of the steps of ``outputs``.

    Args:
        inputs: ``(n, p)``; outputs: ``(n, N)``; the chain starts at their first row.
        initial_concentration: ``(K,)``; row_concentration: ``(K, K)``.
        regressions: for each state the arguments ``loc, column_covariance, concentration, scale``.

    Returns:
        state probabilities ``(n, K)``, and means of initial probabilities, rows, coefficients and covariances.
    """
    num_states, n = len(initial_concentration), len(outputs)
    log_weights, answers = [], []
    for path in map(np.array, itertools.product(range(num_states), repeat=n)):
        first = np.eye(num_states)[path[0]]
        transitions = np.zeros((num_states, num_states))
        np.add.at(transitions, (path[:-1], path[1:]), 1)
        fits = [regression_posterior(inputs[path == k], outputs[path == k], *regressions[k]) for k in range(num_states)]
        log_weight = dirichlet_multinomial(first, initial_concentration) + sum(fit[2] for fit in fits)
        log_weight += sum(map(dirichlet_multinomial, transitions, row_concentration))
        rows = row_concentration + transitions
        initial = initial_concentration + first
        log_weights.append(log_weight)
        answers.append(
            (
                np.eye(num_states)[path],
                initial / initial.sum(),
                rows / rows.sum(1, keepdims=True),
                np.stack([fit[0] for fit in fits]),
                np.stack([fit[1] for fit in fits]),
            )
        )
    weights = np.exp(log_weights - np.max(log_weights))
    weights /= weights.sum()
    return tuple(np.tensordot(weights, np.stack(parts), 1) for parts in zip(*answers, strict=True))
