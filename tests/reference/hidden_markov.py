"""Hidden Markov chains by enumeration of every state path: slow, obvious, exact.

Arguments as in `tsppl.messages`: `log_initial` `(K,)`, `log_transition` `(K, K)` or `(T-1, K, K)`, `log_likelihoods`
`(T, K)`, all NumPy arrays. The cost is `K ** T` paths.
"""

import itertools

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp


def all_paths(num_steps, num_states):
    """Every state path, `(K ** T, T)`."""
    return np.array(list(itertools.product(range(num_states), repeat=num_steps)))


def path_log_weight(path, log_initial, log_transition, log_likelihoods):
    """Log of the joint density of one path and the observations."""
    total = log_initial[path[0]] + log_likelihoods[0, path[0]]
    for t in range(1, len(path)):
        matrix = log_transition if log_transition.ndim == 2 else log_transition[t - 1]
        total += matrix[path[t - 1], path[t]] + log_likelihoods[t, path[t]]
    return total


def path_weights(*potentials):
    """Paths and their joint densities, not normalised: `(K ** T, T)` and `(K ** T,)`."""
    num_steps, num_states = potentials[2].shape
    paths = all_paths(num_steps, num_states)
    return paths, np.exp([path_log_weight(path, *potentials) for path in paths])


def log_normalizer(*potentials):
    with np.errstate(divide="ignore"):
        return np.log(path_weights(*potentials)[1].sum())


def log_normalizers(log_initial, log_transition, log_likelihoods):
    """`log p(y_t | y_<t)` as differences of the log density of longer and longer beginnings, `(T,)`."""
    return np.diff(
        [0.0]
        + [log_normalizer(log_initial, log_transition, log_likelihoods[: t + 1]) for t in range(len(log_likelihoods))]
    )


def smoothed(*potentials):
    """`p(z_t = k | y)`, `(T, K)`."""
    paths, weights = path_weights(*potentials)
    probs = np.zeros(potentials[2].shape)
    for path, weight in zip(paths, weights / weights.sum(), strict=True):
        for t, state in enumerate(path):
            probs[t, state] += weight
    return probs


def filtered(log_initial, log_transition, log_likelihoods):
    """`p(z_t = k | y_0 ... y_t)`, `(T, K)`."""
    steps = range(1, len(log_likelihoods) + 1)
    return np.array([smoothed(log_initial, log_transition, log_likelihoods[:t])[-1] for t in steps])


def predicted(log_initial, log_transition, log_likelihoods):
    """`p(z_t = k | y_0 ... y_{t-1})`, `(T, K)`."""
    rows = []
    for t in range(len(log_likelihoods)):
        beginning = log_likelihoods[: t + 1].copy()
        beginning[t] = 0.0
        rows.append(smoothed(log_initial, log_transition, beginning)[-1])
    return np.array(rows)


def pair_marginals(*potentials):
    """`p(z_t = i, z_{t+1} = j | y)`, `(T-1, K, K)`."""
    num_steps, num_states = potentials[2].shape
    paths, weights = path_weights(*potentials)
    probs = np.zeros((num_steps - 1, num_states, num_states))
    for path, weight in zip(paths, weights / weights.sum(), strict=True):
        for t in range(num_steps - 1):
            probs[t, path[t], path[t + 1]] += weight
    return probs


def most_likely_path(*potentials):
    paths, weights = path_weights(*potentials)
    return paths[weights.argmax()]


def left_out(log_initial, log_transition, log_likelihoods):
    """`log p(y_t | all other y)`, by scoring the series with and without step `t`, `(T,)`."""
    whole = log_normalizer(log_initial, log_transition, log_likelihoods)
    terms = []
    for t in range(len(log_likelihoods)):
        others = log_likelihoods.copy()
        others[t] = 0.0
        terms.append(whole - log_normalizer(log_initial, log_transition, others))
    return np.array(terms)


def differentiable_log_normalizer(log_initial, log_transition, log_likelihoods):
    """The log normaliser over all paths at once in JAX, for its derivatives."""
    num_steps, num_states = log_likelihoods.shape
    paths = all_paths(num_steps, num_states)
    steps = np.arange(num_steps)
    if log_transition.ndim == 2:
        log_transition = jnp.broadcast_to(log_transition, (num_steps - 1, num_states, num_states))
    moves = log_transition[steps[:-1], paths[:, :-1], paths[:, 1:]].sum(-1)
    return logsumexp(log_initial[paths[:, 0]] + moves + log_likelihoods[steps, paths].sum(-1))


def log_normalizer_by_largest(*potentials):
    """The log normaliser where densities would overflow or underflow: a log-sum-exp of the path weights."""
    paths = all_paths(*potentials[2].shape)
    return np.logaddexp.reduce([path_log_weight(path, *potentials) for path in paths])
