"""Slow, obvious versions of low-rank autoregressions: sums over all indices, and a Kalman filter run until it settles."""

import itertools

import numpy as np


def dense_weights(outputs, inputs, lags, core=None):
    """Weights ``(K, L, N, N)`` from factors of one state each, term by term."""
    num_states, size, num_lags = len(outputs), outputs.shape[1], lags.shape[1]
    ranks = outputs.shape[2], inputs.shape[2], lags.shape[2]
    weights = np.zeros((num_states, num_lags, size, size))
    for k, lag, i, j in np.ndindex(weights.shape):
        for d, e, f in itertools.product(*map(range, ranks)):
            strength = core[k, d, e, f] if core is not None else float(d == e == f)
            weights[k, lag, i, j] += strength * outputs[k, i, d] * inputs[k, j, e] * lags[k, lag, f]
    return weights


def means(weights, values):
    """``sum_l weights[k, l] @ y[t-1-l]``, one step after the other, zeros before the start."""
    result = np.zeros((len(values), len(weights), values.shape[1]))
    for t, k in np.ndindex(result.shape[:2]):
        for lag in range(min(t, weights.shape[1])):
            result[t, k] += weights[k, lag] @ values[t - 1 - lag]
    return result


def settled_predictor(transition, noise, emission, emission_noise, num_lags, num_steps=2000):
    """Weights ``(L, N, N)``, innovation covariance and ``Gamma`` of the filter after many steps."""
    predicted = np.eye(len(transition))
    for _ in range(num_steps):
        covariance = emission @ predicted @ emission.T + emission_noise
        gain = predicted @ emission.T @ np.linalg.inv(covariance)
        filtered = predicted - gain @ emission @ predicted
        predicted = transition @ filtered @ transition.T + noise
    gamma = transition @ (np.eye(len(transition)) - gain @ emission)
    weights = [emission @ np.linalg.matrix_power(gamma, lag) @ transition @ gain for lag in range(num_lags)]
    return np.stack(weights), covariance, gamma
