"""Lower triangular roots of covariances, with derivatives that exist where the covariance is singular.

A root of ``P`` is any ``L`` with ``L L' = P``. Given a wide root ``M``, :func:`lower_root` returns a lower triangular
one without forming ``M M'``, which keeps twice the digits (Kailath, Sayed and Hassibi 2000, chapter 12).

The usual derivative of a triangular factor divides by its diagonal, and is NaN where ``P`` is singular. But with
``M' = Q L'`` one has ``d(L L') = dM M' + M dM' = (dM Q) L' + L (dM Q)'``, so ``dM Q`` is the derivative of *some* root
of ``P`` and needs no inverse; any ``L W`` with skew ``W`` may be added. Here ``W`` is chosen so that the first
``num_pivots`` rows, which must be regular, stay triangular; the other rows are right only as a root. Whatever depends
on the root through ``L L'`` then has its exact derivative.

Small matrices are factorised and inverted by plain operations in a loop, which all sequences of a batch share and which
XLA can keep in one native function; larger ones by LAPACK.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

SMALL = 8
"""Rows up to which a loop takes no longer than LAPACK; at 4 rows and a batch it takes a quarter of the time."""


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def lower_root(root: Float[Array, "... D M"], num_pivots: int) -> Float[Array, "... D min(D,M)"]:
    """Lower triangular root, with nonnegative diagonal, of the covariance ``root @ root.T``.

    Args:
        root: ``(..., D, M)``.
        num_pivots: the first so many rows are differentiated as a Cholesky factor. They must be linearly independent,
            and may be solved against. Pass ``D`` for a root that users see, ``0`` for one that is used only through the
            covariance it stands for, which may then be singular.

    Returns:
        ``(..., D, min(D, M))``.
    """
    return _triangular(root) if root.shape[-2] <= SMALL else _factorize(root)[0]


@lower_root.defjvp
def _lower_root_jvp(num_pivots, primals, tangents):
    factor, basis = _lower_root_and_basis(*primals, num_pivots)
    tangent = tangents[0] @ basis
    return factor, tangent + factor @ _rotation(factor, tangent, num_pivots)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _lower_root_and_basis(root, num_pivots):
    return _factorize(root)


@_lower_root_and_basis.defjvp
def _lower_root_and_basis_jvp(num_pivots, primals, tangents):
    """Reached by second derivatives only; needs a regular covariance."""
    factor, basis = _lower_root_and_basis(*primals, num_pivots)
    tangent = tangents[0] @ basis
    rotation = _rotation(factor, tangent, num_pivots)
    outside = tangents[0] - tangent @ transpose(basis)
    basis_tangent = transpose(solve_lower(factor, outside)) + basis @ rotation
    return (factor, basis), (tangent + factor @ rotation, basis_tangent)


def _factorize(root):
    """``(L, Q)`` with ``root' = Q L'``, the columns of ``Q`` orthonormal and the diagonal of ``L`` nonnegative."""
    basis, upper = jnp.linalg.qr(transpose(root))
    signs = jnp.where(jnp.diagonal(upper, axis1=-2, axis2=-1) < 0, -1, 1).astype(upper.dtype)
    return transpose(upper * signs[..., :, None]), basis * signs[..., None, :]


@jax.jit
@partial(jnp.vectorize, signature="(d,m)->(d,k)")
def _triangular(root):
    """The factor alone, by Householder reflections (Golub and Van Loan 2013, section 5.2)."""
    size = min(root.shape)
    columns = jnp.arange(root.shape[1])

    def reflect(pivot, matrix):
        row = jnp.where(columns >= pivot, matrix[pivot], 0)
        largest = jnp.abs(row).max()
        row = row / jnp.where(largest == 0, 1, largest)
        head, norm = row[pivot], jnp.sqrt((row * row).sum())
        sign = jnp.where(head < 0, -1, 1).astype(row.dtype)
        direction = jnp.where(columns == pivot, head + sign * norm, row)
        half = norm * (norm + jnp.abs(head))  # of the squared length of the direction
        along = (matrix * direction).sum(1) / jnp.where(half == 0, 1, half)
        matrix = matrix - along[:, None] * direction
        return jnp.where(columns == pivot, -sign * matrix, matrix)

    return jnp.tril(lax.fori_loop(0, size, reflect, root)[:, :size])


def _rotation(factor, tangent, num_pivots):
    """Skew matrix ``W`` for which the first ``num_pivots`` rows of ``tangent + factor @ W`` are lower triangular."""
    size = factor.shape[-1]
    if num_pivots == 0:
        return jnp.zeros(factor.shape[:-2] + (size, size), factor.dtype)
    pivots = solve_lower(factor[..., :num_pivots, :num_pivots], tangent[..., :num_pivots, :])
    above = jnp.triu(pivots, 1)
    above = jnp.concatenate([above, jnp.zeros(above.shape[:-2] + (size - num_pivots, size), above.dtype)], axis=-2)
    return transpose(above) - above


@jax.custom_jvp
def inverse_lower(factor: Float[Array, "... N N"]) -> Float[Array, "... N N"]:
    """Inverse of a lower triangular matrix."""
    if factor.shape[-1] > SMALL:
        identity = jnp.broadcast_to(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.shape)
        return solve_triangular(factor, identity, lower=True)
    return _substitute(factor)


@inverse_lower.defjvp
def _inverse_lower_jvp(primals, tangents):
    inverse = inverse_lower(*primals)
    return inverse, -inverse @ jnp.tril(tangents[0]) @ inverse


@jax.jit
@partial(jnp.vectorize, signature="(n,n)->(n,n)")
def _substitute(factor):
    identity = jnp.eye(len(factor), dtype=factor.dtype)
    rows = jnp.arange(len(factor))

    def solve_row(row, inverse):
        solved = (identity[row] - (factor[row][:, None] * inverse).sum(0)) / factor[row, row]
        return jnp.where((rows == row)[:, None], solved, inverse)

    return lax.fori_loop(0, len(factor), solve_row, jnp.zeros_like(factor))


def solve_lower(factor, right):
    """``factor^-1 @ right`` for a lower triangular factor; ``right`` is a vector or a matrix."""
    if factor.shape[-1] > SMALL:
        return solve_triangular(factor, right, lower=True)
    return inverse_lower(factor) @ right


def transpose(matrix):
    """Swap the last two axes."""
    return jnp.swapaxes(matrix, -1, -2)


def square(root):
    """A ``(..., D, D)`` root of the same covariance as ``root``, ``(..., D, M)``; used only through that covariance."""
    extra = root.shape[-2] - root.shape[-1]
    if extra > 0:
        return jnp.concatenate([root, jnp.zeros(root.shape[:-1] + (extra,), root.dtype)], axis=-1)
    return lower_root(root, 0) if extra < 0 else root
