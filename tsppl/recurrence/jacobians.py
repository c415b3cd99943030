"""Jacobians of one step at every step of a trajectory: full, or only as much of them as a cheaper sweep needs."""

import jax
import jax.numpy as jnp
from jax import lax


def full_jacobians(advance, previous, inputs):
    """``(T, n, n)``."""
    return jax.vmap(jax.jacfwd(advance))(previous, inputs)


def _push(advance, previous, inputs, tangents):
    return jax.vmap(lambda state, x, tangent: jax.jvp(lambda s: advance(s, x), (state,), (tangent,))[1])(
        previous, inputs, tangents
    )


def diagonals(advance, previous, inputs):
    """``(T, n)``, exact, by one product with each unit vector; never more than ``O(T n)`` numbers at once."""

    def entry(place, diagonal):
        unit = jnp.broadcast_to(jnp.arange(previous.shape[1]) == place, previous.shape).astype(previous.dtype)
        column = _push(advance, previous, inputs, unit)
        return lax.dynamic_update_index_in_dim(diagonal, column[:, place], place, axis=1)

    return lax.fori_loop(0, previous.shape[1], entry, jnp.zeros_like(previous))


def probed_diagonals(advance, previous, inputs, signs):
    """``(T, n)``, unbiased, by one product with random ``signs``, ``(T, n)`` (Hutchinson 1990; Bekas et al. 2007).

    Off-diagonal entries of row ``i`` come in with random signs: the variance is the sum of their squares.
    """
    return signs * _push(advance, previous, inputs, signs)


def pair_blocks(advance, previous, inputs):
    """``(T, n / 2, 2, 2)``: for states of two halves, how element ``i`` of each half moves element ``i`` of each."""
    half = previous.shape[1] // 2

    def entry(place, blocks):
        number, source = place // 2, place % 2
        unit = jnp.broadcast_to(jnp.arange(2 * half) == source * half + number, previous.shape).astype(previous.dtype)
        column = _push(advance, previous, inputs, unit)
        moved = jnp.stack([column[:, number], column[:, half + number]], axis=-1)
        return blocks.at[:, number, :, source].set(moved)

    return lax.fori_loop(0, 2 * half, entry, jnp.zeros((len(previous), half, 2, 2), previous.dtype))


def in_pairs(function, blocks, *states):
    """``function(blocks, *states)`` for states ``(T, n)`` of two halves, which it sees as ``(T, n / 2, 2)``."""
    paired = [rows.reshape(len(rows), 2, -1).swapaxes(1, 2) for rows in states]
    return function(blocks, *paired).swapaxes(1, 2).reshape(states[0].shape)
