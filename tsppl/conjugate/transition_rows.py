"""Dirichlet rows of transition probabilities, and the weak-limit sticky hierarchical Dirichlet process above them.

In the hierarchy (Teh et al. 2006; Fox et al. 2011) row ``i`` is ``Dirichlet(alpha beta + kappa_i)`` and ``beta`` is
``Dirichlet(gamma / K)``. Given the transitions, ``beta`` is updated through auxiliary counts: of the transitions from
``i`` to ``j``, seen as customers of a Chinese restaurant, the number of tables.
"""

import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, Int


def transition_counts(states, num_states, lengths=None) -> tuple[Int[Array, " K"], Int[Array, "K K"]]:
    """Counts of first states and of transitions in paths ``(..., T)``.

    Args:
        states: int; negative before the chain starts, in all paths up to the same step.
        num_states: ``K``.
        lengths: int ``(...,)``: transitions into steps at or beyond it do not count.
    """
    before, after = states[..., :-1], states[..., 1:]
    counted = (before >= 0) & (after >= 0)
    if lengths is not None:
        counted &= jnp.arange(1, states.shape[-1]) < lengths[..., None]
    cells = jnp.where(counted, before * num_states + after, num_states**2)
    transitions = jnp.bincount(cells.reshape(-1), length=num_states**2).reshape(num_states, num_states)
    starts = jnp.take_along_axis(states, jnp.argmax(states >= 0, axis=-1, keepdims=True), axis=-1)
    return jnp.bincount(starts.reshape(-1), length=num_states), transitions


def draw_probabilities(key, concentration) -> Float[Array, "... K"]:
    """Draw from Dirichlet distributions; a probability that is no normal float is rounded up to one."""
    return normalized_gammas(random.loggamma(key, concentration))


def normalized_gammas(logs) -> Float[Array, "... K"]:
    """Probabilities in the ratio of gamma draws, given their logs: Dirichlet, rounded as in :func:`draw_probabilities`."""
    logs -= logs.max(-1, keepdims=True)
    probs = jnp.maximum(jnp.exp(logs), logs.shape[-1] * jnp.finfo(logs.dtype).tiny)
    return probs / probs.sum(-1, keepdims=True)


def draw_table_counts(key, customers, concentration, num_customers) -> Int[Array, "..."]:
    """Numbers of tables in Chinese restaurants: ``sum over r < n of Bernoulli(c / (c + r))`` for each entry.

    Args:
        customers: int array of any shape, the ``n``.
        concentration: the ``c``, of the same shape.
        num_customers: static upper bound of the sum of ``customers``; the work is proportional to it.
    """
    ends = jnp.cumsum(customers.reshape(-1))
    position = jnp.arange(num_customers)
    cell = jnp.searchsorted(ends, position, side="right")
    inside = jnp.minimum(cell, ends.size - 1)
    rank = position - (ends - customers.reshape(-1))[inside]
    weight = concentration.reshape(-1)[inside]
    opens = random.uniform(key, (num_customers,), weight.dtype) * (weight + rank) < weight
    return jnp.zeros(ends.shape, jnp.int32).at[cell].add(opens, mode="drop").reshape(customers.shape)


def draw_shared_tables(key, tables, shared, own) -> Int[Array, "..."]:
    """Of each count of tables, those whose dish came from ``shared`` concentration and not from the row's ``own``."""
    return random.binomial(key, tables, shared / (shared + own)).astype(jnp.int32)
