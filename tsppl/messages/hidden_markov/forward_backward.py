"""Forward and backward messages of a hidden Markov chain, one sequence at a time, in log space.

Notation (Rabiner 1989): ``T`` steps, ``K`` states, states ``z_t``, observations ``y_t``.

==================== ============== ===========================================================
``log_initial``      ``(K,)``       ``log p(z_0)``
``log_transition``   ``(K, K)``     ``log p(z_{t+1} = j | z_t = i)`` at ``[i, j]``
                     ``(T-1, K, K)`` the same, row ``t`` moves ``z_t`` to ``z_{t+1}``
``log_likelihoods``  ``(T, K)``     ``log p(y_t | z_t = k)``; a row of zeros is a missing step
==================== ============== ===========================================================

Everything stays in log space here, so that a state whose probability is below the smallest float can
still decide the future. Per-step normalisers are emitted and summed outside the loop.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from tsppl.messages.hidden_markov.parallel import parallel_backward, parallel_forward
from tsppl.messages.log_space import log_normalize, log_sum_exp
from tsppl.messages.methods import HIDDEN_MARKOV_METHODS, resolve_method


class Forward(NamedTuple):
    """Forward messages: ``log p(y_t | y_<t)``, ``log p(z_t | y_<=t)`` and ``log p(z_t | y_<t)``."""

    log_normalizers: Float[Array, " T"]
    log_filtered: Float[Array, "T K"]
    log_predicted: Float[Array, "T K"]


class Statistics(NamedTuple):
    """Expected sufficient statistics of the states given the whole sequence.

    ``transition_counts`` is the sum over steps ``(K, K)`` when the transitions are constant, and one
    table per step ``(T-1, K, K)`` when they vary.
    """

    state_probs: Float[Array, "T K"]
    transition_counts: Float[Array, "..."]


def hidden_markov_forward(log_initial, log_transition, log_likelihoods, *, method="auto") -> Forward:
    """Filter the states.

    Args:
        log_initial: log initial probabilities ``(K,)``.
        log_transition: log transition probabilities ``(K, K)``, or ``(T-1, K, K)`` when they vary.
        log_likelihoods: ``(T, K)``.
        method: ``"parallel"`` is by associative scan, ``"auto"``, ``"sequential"`` and ``"chunked"`` step by step.

    Returns:
        :class:`Forward`. The log-likelihood of the sequence is ``log_normalizers.sum()``.

    >>> import jax.numpy as jnp
    >>> from tsppl.messages import hidden_markov_forward
    >>> uniform = jnp.log(jnp.full((2, 2), 0.5))
    >>> float(hidden_markov_forward(uniform[0], uniform, jnp.zeros((3, 2))).log_normalizers.sum())
    0.0
    """
    if resolve_method(method, HIDDEN_MARKOV_METHODS) == "parallel":
        return _parallel_forward(log_initial, log_transition, log_likelihoods)
    return _sequential_forward(log_initial, log_transition, log_likelihoods)


def _sequential_forward(log_initial, log_transition, log_likelihoods) -> Forward:
    def condition(log_predicted, log_likelihood):
        return log_normalize(log_predicted + log_likelihood)

    def step(log_filtered, inputs):
        log_likelihood, matrix = inputs
        matrix = log_transition if matrix is None else matrix
        log_predicted = log_sum_exp(log_filtered[:, None] + matrix, axis=0)
        log_normalizer, log_filtered = condition(log_predicted, log_likelihood)
        return log_filtered, Forward(log_normalizer, log_filtered, log_predicted)

    log_normalizer, first = condition(log_initial, log_likelihoods[0])
    rows = log_transition if log_transition.ndim == 3 else None
    _, rest = lax.scan(step, first, (log_likelihoods[1:], rows))
    start = Forward(log_normalizer, first, log_initial)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, rest)


def _parallel_forward(log_initial, log_transition, log_likelihoods) -> Forward:
    """Each step's normaliser from the filtered states before it, never as a difference of two long sums."""
    log_filtered = log_normalize(parallel_forward(log_initial, log_transition, log_likelihoods))[1]
    log_predicted = log_sum_exp(log_filtered[:-1, :, None] + log_transition, axis=-2)
    log_predicted = jnp.concatenate([log_initial[None], log_predicted])
    return Forward(log_sum_exp(log_predicted + log_likelihoods, axis=-1), log_filtered, log_predicted)


def hidden_markov_backward(log_transition, log_likelihoods, *, method="auto") -> Float[Array, "T K"]:
    """``log p(y_>t | z_t = k)`` up to a constant per step; the last row is zero.

    Arguments as in :func:`forward`. Each row is shifted so that its log-sum-exp is zero, except the last.
    """
    num_states = log_likelihoods.shape[-1]
    last = jnp.zeros((1, num_states), log_likelihoods.dtype)
    if resolve_method(method, HIDDEN_MARKOV_METHODS) == "parallel":
        messages = log_normalize(parallel_backward(log_transition, log_likelihoods))[1]
        return jnp.concatenate([messages, last])

    def step(message, inputs):
        log_likelihood, matrix = inputs
        matrix = log_transition if matrix is None else matrix
        message = log_normalize(log_sum_exp(matrix + (log_likelihood + message)[None, :], axis=1))[1]
        return message, message

    rows = log_transition if log_transition.ndim == 3 else None
    _, messages = lax.scan(step, last[0], (log_likelihoods[1:], rows), reverse=True)
    return jnp.concatenate([messages, last])


def log_space_statistics(log_initial, log_transition, log_likelihoods, *, method):
    """``(log p(y), its gradient)`` with respect to the three arguments; zero for an impossible sequence.

    The gradient is ``(state_probs[0], transition_counts, state_probs)``.
    """
    messages = hidden_markov_forward(log_initial, log_transition, log_likelihoods, method=method)
    log_backward = hidden_markov_backward(log_transition, log_likelihoods, method=method)
    state_probs = _softmax(messages.log_filtered + log_backward)

    def pair_probs(probs, arrival, matrix):
        """``p(z_t = i, z_{t+1} = j | y)`` as ``p(z_t = i | y) p(z_{t+1} = j | z_t = i, y_>t)``."""
        return probs[:, None] * _softmax(matrix + arrival[None, :])

    def add(total, inputs):
        return total + pair_probs(*inputs, log_transition), None

    pairs = (state_probs[:-1], log_likelihoods[1:] + log_backward[1:])
    if log_transition.ndim == 3:
        counts = jax.vmap(pair_probs)(*pairs, log_transition)
    else:
        counts, _ = lax.scan(add, jnp.zeros_like(log_transition), pairs)
    return messages.log_normalizers.sum(), (state_probs[0], counts, state_probs)


def _softmax(log_weights):
    """Softmax over the last axis that is zero, not NaN, where no weight is positive."""
    return jnp.exp(log_normalize(log_weights)[1])


def hidden_markov_left_out(log_initial, log_transition, log_likelihoods, *, method="auto") -> Float[Array, " T"]:
    """``log p(y_t | all other y)`` for every step.

    From the predicted message ``a_t`` and the backward message ``b_t``:
    ``LSE_k(a_t + b_t + l_t) - LSE_k(a_t + b_t)``, which never divides by a small likelihood.
    Arguments as in :func:`forward`.
    """
    messages = hidden_markov_forward(log_initial, log_transition, log_likelihoods, method=method)
    cavity = messages.log_predicted + hidden_markov_backward(log_transition, log_likelihoods, method=method)
    with_step, without = log_sum_exp(cavity + log_likelihoods, axis=-1), log_sum_exp(cavity, axis=-1)
    return jnp.where(with_step == -jnp.inf, -jnp.inf, with_step - jnp.where(without == -jnp.inf, 0.0, without))
