"""Information about a vector ``x`` as a function ``exp(-x' J x / 2 + h' x)``, in the two forms that messages need.

``J`` may be singular or zero: nothing here inverts it. Both classes answer the same questions:

``absorb(mean, root)``  for ``x ~ N(mean + u, S S')`` with ``S = root`` and any ``u``: the Cholesky factor ``E`` of
                        ``I + S' J S``; ``H = E^-1 S' J``; ``g = E^-1 S' (h - J mean)``; and the information about ``u``
                        that is left when ``x`` is integrated out. Given ``u`` and the information, ``x`` is normal with
                        mean ``mean + u + S E^-T (g - H u)`` and covariance root ``S E^-T``.
``pull_back(weights)``  the same information as a function of ``v``, where ``x = weights @ v``
``times(other)``        the product of two such functions
``log_value(x)``        the logarithm of the function at ``x``
``nothing()``           the constant function
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from tsppl.messages.linear_gaussian.roots import lower_root


class InformationRoot(NamedTuple):
    """``J = root root'`` and ``h = root @ shift``: the square-root information form (Bierman 1977).

    Keeps its accuracy however small the noise of the observations behind it; used for observations.
    """

    root: Float[Array, "*steps D M"]
    shift: Float[Array, "*steps M"]

    def absorb(self, mean, root):
        """Triangularise ``|w|^2 + |Z' (u + S w) - z|^2`` in ``w``: root ``Z``, and shift ``z`` relative to the mean."""
        size, width = root.shape
        shift = self.shift - mean @ self.root
        top = jnp.concatenate([jnp.eye(width, dtype=root.dtype), root.T @ self.root], axis=1)
        below = jnp.concatenate([self.root, shift[None]])
        below = jnp.concatenate([jnp.zeros((size + 1, width), root.dtype), below], axis=1)
        factor = lower_root(jnp.concatenate([top, below]), width)
        left = _from_factor(factor[width:, width:])
        return factor[:width, :width], factor[width:-1, :width].T, factor[-1, :width], left

    def pull_back(self, weights):
        return InformationRoot(weights.T @ self.root, self.shift)

    def times(self, other):
        rows = [jnp.concatenate([info.root, info.shift[None]]) for info in (self, other)]
        return _from_factor(lower_root(jnp.concatenate(rows, axis=1), 0))

    def log_value(self, x):
        misfit = x @ self.root - self.shift
        return 0.5 * (self.shift @ self.shift - misfit @ misfit)

    def nothing(self):
        size = self.root.shape[-2]
        return InformationRoot(jnp.zeros((size, size + 1), self.root.dtype), jnp.zeros(size + 1, self.root.dtype))


def _from_factor(factor):
    """The information in a triangular factor ``(D + 1, M)`` whose last row is the shift.

    Its last column belongs to a constant and is zero but for the last entry; it is kept, because its derivative is not
    zero.
    """
    factor = jnp.pad(factor, ((0, 0), (0, factor.shape[0] - factor.shape[1])))
    return InformationRoot(factor[:-1], factor[-1])


class InformationMatrix(NamedTuple):
    """``J`` and ``h`` themselves: differentiable where ``J`` is zero or singular; used for given potentials."""

    precision: Float[Array, "*steps D D"]
    shift: Float[Array, "*steps D"]

    def absorb(self, mean, root):
        identity = jnp.eye(root.shape[1], dtype=root.dtype)
        projected = root.T @ self.precision
        factor = jnp.linalg.cholesky(identity + projected @ root)
        half = solve_triangular(factor, projected, lower=True)
        residual = self.shift - self.precision @ mean
        step = solve_triangular(factor, root.T @ residual, lower=True)
        # As in Joseph's form of the Kalman update, a sum of squares: what is left stays positive semidefinite.
        gain = solve_triangular(factor, half, lower=True, trans=1)
        kept = jnp.eye(root.shape[0], dtype=root.dtype) - root @ gain
        left = InformationMatrix(kept.T @ self.precision @ kept + gain.T @ gain, residual - half.T @ step)
        return factor, half, step, left

    def pull_back(self, weights):
        return InformationMatrix(weights.T @ self.precision @ weights, weights.T @ self.shift)

    def times(self, other):
        return InformationMatrix(self.precision + other.precision, self.shift + other.shift)

    def log_value(self, x):
        return x @ (self.shift - 0.5 * self.precision @ x)

    def nothing(self):
        size = self.shift.shape[-1]
        return InformationMatrix(jnp.zeros((size, size), self.shift.dtype), jnp.zeros(size, self.shift.dtype))
