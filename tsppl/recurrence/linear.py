"""Affine recurrences ``x_t = A_t x_{t-1} + b_t`` with full, block-diagonal or diagonal ``A_t``, on one device."""

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
    solve = _sequential if method == "sequential" else _parallel

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


def _sequential(weights, offsets):
    def step(state, row):
        state = apply(row[0], state) + row[1]
        return state, state

    return lax.scan(step, jnp.zeros_like(offsets[0]), (weights, offsets))[1]


def _parallel(weights, offsets):
    full = weights.ndim > offsets.ndim

    def join(earlier, later):
        weights = jnp.matmul(later[0], earlier[0], precision="highest") if full else later[0] * earlier[0]
        return weights, apply(later[0], earlier[1]) + later[1]

    return lax.associative_scan(join, (weights, offsets))[1]
