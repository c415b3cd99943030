"""Linear recurrences ``x_{t+1} = W_t x_t + u_t`` of vectors: one step after another, or, for one ``W``, in blocks."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def varying_recurrence(
    weights: Float[Array, "S D D"], start: Float[Array, " D"], inputs: Float[Array, "S D"], *, reverse: bool = False
) -> Float[Array, "S D"]:
    """``x_1 .. x_S`` from ``x_0 = start``; in reverse, row ``t`` is ``W_t`` times row ``t + 1`` plus ``u_t``."""

    def step(state, row):
        weights, offset = row
        # A product and a sum stay inside one native loop on a CPU; a call to a matrix product would not.
        state = (weights * state).sum(-1) + offset
        return state, state

    return lax.scan(step, start, (weights, inputs), reverse=reverse)[1]


def constant_recurrence(
    weights: Float[Array, "D D"], start: Float[Array, " D"], inputs: Float[Array, "S D"], *, reverse: bool = False
) -> Float[Array, "S D"]:
    """:func:`varying_recurrence` where all ``W_t`` are one matrix, as two matrix products and a shorter recurrence.

    Within a block of steps the states are a block-triangular Toeplitz matrix of powers of ``W`` times the inputs, plus
    powers of ``W`` times the state in which the block starts; the starts follow the same recurrence with a power of
    ``W``.
    """
    if reverse:
        return constant_recurrence(weights, start, inputs[::-1])[::-1]
    steps, size = inputs.shape
    if steps <= 64:
        return varying_recurrence(jnp.broadcast_to(weights, (steps, size, size)), start, inputs)
    # A block of b steps costs b D^2 a step, in products that are efficient once b D is some tens.
    block = max(4, min(16, 32 // size))
    powers = matrix_powers(weights, block)
    blocks = -(-steps // block)
    inputs = jnp.pad(inputs, ((0, blocks * block - steps), (0, 0))).reshape(blocks, block * size)
    lag = jnp.arange(block)[:, None] - jnp.arange(block)
    tiles = jnp.where((lag >= 0)[..., None, None], powers[jnp.maximum(lag, 0)], 0)
    toeplitz = tiles.transpose(1, 3, 0, 2).reshape(block * size, block * size)
    ends = inputs @ toeplitz[:, -size:]
    starts = constant_recurrence(powers[-1], start, ends[:-1])
    starts = jnp.concatenate([start[None], starts])
    from_starts = powers[1:].transpose(2, 0, 1).reshape(size, block * size)
    return (inputs @ toeplitz + starts @ from_starts).reshape(blocks * block, size)[:steps]


def matrix_powers(matrix: Float[Array, "D D"], highest: int) -> Float[Array, "S D D"]:
    """Powers ``0 .. highest``, by doubling."""
    powers = jnp.eye(matrix.shape[0], dtype=matrix.dtype)[None]
    factor = matrix
    while len(powers) <= highest:
        powers = jnp.concatenate([powers, powers @ factor])
        factor = factor @ factor
    return powers[: highest + 1]


def scan_affine(weights, offsets):
    """``x_t = weights_t x_{t-1} + offsets_t`` from ``x_{-1} = 0``, for ``(T, D, D)`` and ``(T, D)``."""

    def join_affine(left, right):
        return right[0] @ left[0], (right[0] @ left[1][..., None])[..., 0] + right[1]

    return lax.associative_scan(join_affine, (weights, offsets))[1]
