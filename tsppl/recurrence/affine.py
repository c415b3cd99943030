"""Affine recurrences ``x_t = A_t x_{t-1} + b_t`` of vectors, each form once.

=========================== ===========================================================================================
:func:`linear_recurrence`   the public one: full, block-diagonal or diagonal ``A_t``, in either direction, with derivatives
:func:`varying_recurrence`  one step after another: the least work, and on a CPU with small states the least time
:func:`constant_recurrence` one ``A`` for all steps, in blocks: on a CPU the faster the longer the series
:func:`scan_affine`         an associative scan, of work ``O(T n^3)`` in ``O(log T)`` steps: for accelerators
=========================== ===========================================================================================

The last three are for code that has derivatives of its own, or lets JAX differentiate the loop.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

METHODS = ("auto", "sequential", "parallel")


def linear_recurrence(
    weights: Float[Array, "T ..."],
    offsets: Float[Array, "T ..."],
    init: Float[Array, "..."] | None = None,
    *,
    reverse: bool = False,
    method: str = "auto",
) -> Float[Array, "T ..."]:
    """All states of ``x_t = A_t x_{t-1} + b_t``.

    Args:
        weights: ``A_t``, of shape ``(T, n, n)``, full; ``(T, m, k, k)``, ``m`` blocks of size ``k``; or like
            ``offsets``, diagonal.
        offsets: ``b_t``, of shape ``(T, n)``, or ``(T, m, k)`` beside blocks.
        init: the state before the first step, like a row of ``offsets``; zero if None.
        reverse: from the last step to the first: ``x_t = A_t x_{t+1} + b_t``, and ``init`` comes after the last step.
        method: ``"sequential"``, a loop; ``"parallel"``, an associative scan, of work ``O(T n^3)`` in ``O(log T)``
            steps; ``"auto"``, a loop on a CPU and a scan elsewhere.

    Returns:
        the states, like ``offsets``. Derivatives are two recurrences more, by either method, and store no partial
        products.

    Raises:
        ValueError: if shapes do not fit together or ``method`` is not known.

    Source: Blelloch (1990), Prefix sums and their applications, section 1.4.

    >>> import jax.numpy as jnp
    >>> from tsppl.recurrence import linear_recurrence
    >>> linear_recurrence(jnp.full((3, 1), 0.5), jnp.ones((3, 1)), jnp.zeros(1))[:, 0].tolist()
    [1.0, 1.5, 1.75]
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, not {method!r}")
    diagonal = weights.shape == offsets.shape
    if not diagonal and weights.shape != (*offsets.shape, offsets.shape[-1]):
        raise ValueError(
            f"weights has shape {weights.shape} and offsets {offsets.shape}: beside offsets (T, n) pass weights (T, n, n), "
            "or (T, n) for diagonal ones; beside offsets (T, m, k), weights (T, m, k, k)"
        )
    if init is not None and jnp.shape(init) != offsets.shape[1:]:
        raise ValueError(f"init has shape {jnp.shape(init)}; it must be like one row of offsets, {offsets.shape[1:]}")
    if len(offsets) == 0:
        return offsets
    if reverse:
        return linear_recurrence(weights[::-1], offsets[::-1], init, method=method)[::-1]
    if init is not None:
        offsets = offsets.at[0].add(apply(weights[0], init))
    if method == "auto":
        method = "sequential" if jax.default_backend() == "cpu" else "parallel"
    zero = jnp.zeros_like(offsets[0])

    def solve(weights, offsets):
        if method == "sequential":
            return varying_recurrence(weights, zero, offsets)
        return scan_affine(weights, offsets)

    def residual(states):
        return states.at[1:].add(-apply(weights[1:], states[:-1]))

    def transposed(cotangents):
        earlier = weights if diagonal else weights.swapaxes(-1, -2)
        # Step t is pulled on through the weights of step t + 1.
        shifted = jnp.concatenate([earlier[1:], jnp.zeros_like(earlier[:1])])
        return solve(shifted[::-1], cotangents[::-1])[::-1]

    return lax.custom_linear_solve(
        residual, offsets, lambda _, offsets: solve(weights, offsets), lambda _, cotangents: transposed(cotangents)
    )


def apply(weights, states):
    """Products of diagonal, full or block weights with states."""
    if weights.ndim == states.ndim:
        return weights * states
    # A product and a sum stay inside one native loop on a CPU; a call to a matrix product would not.
    return (weights * states[..., None, :]).sum(-1)


def varying_recurrence(
    weights: Float[Array, "S ..."], start: Float[Array, "..."], inputs: Float[Array, "S ..."], *, reverse: bool = False
) -> Float[Array, "S ..."]:
    """``x_1 .. x_S`` from ``x_0 = start``; in reverse, row ``t`` is ``A_t`` times row ``t + 1`` plus ``b_t``."""

    def step(state, row):
        state = apply(row[0], state) + row[1]
        return state, state

    return lax.scan(step, start, (weights, inputs), reverse=reverse)[1]


def constant_recurrence(
    weights: Float[Array, "D D"], start: Float[Array, " D"], inputs: Float[Array, "S D"], *, reverse: bool = False
) -> Float[Array, "S D"]:
    """:func:`varying_recurrence` where all ``A_t`` are one matrix, as two matrix products and a shorter recurrence.

    Within a block of steps the states are a block-triangular Toeplitz matrix of powers of ``A`` times the inputs, plus
    powers of ``A`` times the state in which the block starts; the starts follow the same recurrence with a power of
    ``A``.
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
    """``x_t = A_t x_{t-1} + b_t`` from ``x_{-1} = 0``, for weights and offsets as in :func:`linear_recurrence`."""
    full = weights.ndim > offsets.ndim

    def join(earlier, later):
        weights = jnp.matmul(later[0], earlier[0], precision="highest") if full else later[0] * earlier[0]
        return weights, apply(later[0], earlier[1]) + later[1]

    return lax.associative_scan(join, (weights, offsets))[1]
