"""Lower triangular roots of covariances by QR, with derivatives that exist where the covariance is singular.

A root of ``P`` is any ``L`` with ``L L' = P``. Given a wide root ``M``, :func:`lower_root` returns a lower triangular
one without forming ``M M'``, which keeps twice the digits (Kailath, Sayed and Hassibi 2000, chapter 12).

The usual derivative of a triangular factor divides by its diagonal, and is NaN where ``P`` is singular. But with
``M' = Q L'`` one has ``d(L L') = dM M' + M dM' = (dM Q) L' + L (dM Q)'``, so ``dM Q`` is the derivative of *some* root
of ``P`` and needs no inverse; any ``L W`` with skew ``W`` may be added. Here ``W`` is chosen so that the first
``num_pivots`` rows, which must be regular, stay triangular; the other rows are right only as a root. Whatever depends
on the root through ``L L'`` then has its exact derivative.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float


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
    return _factorize(root)[0]


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
    basis_tangent = transpose(solve_triangular(factor, outside, lower=True)) + basis @ rotation
    return (factor, basis), (tangent + factor @ rotation, basis_tangent)


def _factorize(root):
    """``(L, Q)`` with ``root' = Q L'``, the columns of ``Q`` orthonormal and the diagonal of ``L`` nonnegative."""
    basis, upper = jnp.linalg.qr(transpose(root))
    signs = jnp.where(jnp.diagonal(upper, axis1=-2, axis2=-1) < 0, -1, 1).astype(upper.dtype)
    return transpose(upper * signs[..., :, None]), basis * signs[..., None, :]


def _rotation(factor, tangent, num_pivots):
    """Skew matrix ``W`` for which the first ``num_pivots`` rows of ``tangent + factor @ W`` are lower triangular."""
    size = factor.shape[-1]
    pivots = solve_triangular(factor[..., :num_pivots, :num_pivots], tangent[..., :num_pivots, :], lower=True)
    above = jnp.triu(pivots, 1)
    above = jnp.concatenate([above, jnp.zeros(above.shape[:-2] + (size - num_pivots, size), above.dtype)], axis=-2)
    return transpose(above) - above


def transpose(matrix):
    """Swap the last two axes."""
    return jnp.swapaxes(matrix, -1, -2)


def square(root):
    """A ``(..., D, D)`` root of the same covariance as ``root``, ``(..., D, M)``; used only through that covariance."""
    extra = root.shape[-2] - root.shape[-1]
    if extra > 0:
        return jnp.concatenate([root, jnp.zeros(root.shape[:-1] + (extra,), root.dtype)], axis=-1)
    return lower_root(root, 0) if extra < 0 else root
