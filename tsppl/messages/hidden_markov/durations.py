"""Dwell times of any law as a larger Markov chain, whose states are a state and its age (Langrock and Zucchini 2011).

State ``k`` at age ``a`` is entry ``k * M + a - 1`` of the chain, ``M`` the greatest age that is told apart.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from tsppl.messages.log_space import log_of_probabilities

TAIL_FACTOR = 10


def log_hazards(duration_probs) -> tuple[Float[Array, "*batch M"], Float[Array, "*batch M"]]:
    """Log-probabilities of leaving, and of staying, at each age, given that it was reached.

    Ages from ``M`` on share one pair, so that the tail is geometric: the law of the duration is kept exactly up to
    ``M``.

    Args:
        duration_probs: probabilities of the durations ``1`` to ``TAIL_FACTOR * M``, ``(..., TAIL_FACTOR * M)``.
    """
    num_ages = duration_probs.shape[-1] // TAIL_FACTOR
    head, tail = duration_probs[..., :num_ages], duration_probs[..., num_ages - 1 :].sum(-1, keepdims=True)
    remainder = 1 - head[..., :-1].sum(-1, keepdims=True)
    precise = remainder > jnp.sqrt(jnp.finfo(head.dtype).eps)
    tail = jnp.where(precise, jnp.maximum(remainder, head[..., -1:]), tail)
    shorter = jnp.cumsum(head[..., :-1][..., ::-1], -1)[..., ::-1]
    reached = jnp.concatenate([shorter + tail, tail], -1)
    survived = jnp.concatenate([reached[..., 1:], jnp.maximum(tail - head[..., -1:], 0)], -1)
    possible = reached > 0
    reached = jnp.where(possible, reached, 1.0)
    leave = jnp.where(possible, head / reached, 1.0)
    return log_of_probabilities(leave), log_of_probabilities(jnp.where(possible, survived / reached, 0.0))


def chain_of_ages(log_initial, log_transition, log_leave, log_stay) -> tuple[Float[Array, " A"], Float[Array, "A A"]]:
    """Log initial and transition probabilities of the chain over states and ages; every series starts at age one.

    Args:
        log_initial: ``(K,)``.
        log_transition: of the states that are entered, ``(K, K)``, with ``-inf`` on the diagonal.
        log_leave, log_stay: from :func:`log_hazards`, ``(K, M)``.
    """
    num_states, num_ages = log_leave.shape
    impossible = jnp.full((num_states, num_ages), -jnp.inf, log_transition.dtype)
    initial = impossible.at[:, 0].set(log_initial)
    ages = jnp.arange(num_ages)
    states = jnp.arange(num_states)[:, None]
    table = jnp.full((num_states, num_ages) * 2, -jnp.inf, log_transition.dtype)
    table = table.at[:, :, :, 0].set(log_leave[:, :, None] + log_transition[:, None, :])
    table = table.at[states, ages, states, jnp.minimum(ages + 1, num_ages - 1)].set(log_stay)
    return initial.reshape(-1), table.reshape((num_states * num_ages,) * 2)
