"""The support of a regression's coefficients beside its covariance, in one array, and the way NUTS moves in it."""

import jax.numpy as jnp
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform, biject_to


class CoefficientsAndCovariance(constraints.Constraint):
    """Arrays ``(..., N, p + N)``: any real ``(N, p)``, then a positive definite ``(N, N)``."""

    event_dim = 2

    def __init__(self, num_outputs, num_inputs):
        self.num_outputs, self.num_inputs = num_outputs, num_inputs

    def __call__(self, value):
        coefficients, covariance = split_coefficients(value)
        return jnp.isfinite(coefficients).all((-2, -1)) & constraints.positive_definite(covariance)

    def feasible_like(self, prototype):
        """Zeros beside the identity."""
        return jnp.broadcast_to(
            jnp.eye(self.num_outputs, self.num_inputs + self.num_outputs, self.num_inputs), prototype.shape
        )

    def tree_flatten(self):
        """No arrays."""
        return (), ((), {"num_outputs": self.num_outputs, "num_inputs": self.num_inputs})

    def eq(self, other, static=False):
        """Whether both have the same sizes."""
        return type(other) is type(self) and vars(other) == vars(self)


class CoefficientsAndCovarianceTransform(Transform):
    """From a real vector of ``N p + N (N + 1) / 2`` entries."""

    domain = constraints.real_vector

    def __init__(self, num_outputs, num_inputs):
        self.num_outputs, self.num_inputs = num_outputs, num_inputs

    @property
    def codomain(self):
        """The constraint with the same sizes."""
        return CoefficientsAndCovariance(self.num_outputs, self.num_inputs)

    @property
    def _num_coefficients(self):
        return self.num_outputs * self.num_inputs

    def __call__(self, x):
        coefficients = x[..., : self._num_coefficients].reshape(x.shape[:-1] + (self.num_outputs, self.num_inputs))
        return jnp.concatenate([coefficients, _TO_COVARIANCE(x[..., self._num_coefficients :])], axis=-1)

    def _inverse(self, y):
        coefficients, covariance = split_coefficients(y)
        flat = coefficients.reshape(y.shape[:-2] + (self._num_coefficients,))
        return jnp.concatenate([flat, _TO_COVARIANCE._inverse(covariance)], axis=-1)

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        """That of the covariance: coefficients stay what they are."""
        return _TO_COVARIANCE.log_abs_det_jacobian(x[..., self._num_coefficients :], split_coefficients(y)[1])

    def forward_shape(self, shape):
        """``(..., N, p + N)``."""
        return tuple(shape[:-1]) + (self.num_outputs, self.num_inputs + self.num_outputs)

    def inverse_shape(self, shape):
        """``(..., N p + N (N + 1) / 2)``."""
        return tuple(shape[:-2]) + (self._num_coefficients + self.num_outputs * (self.num_outputs + 1) // 2,)

    def tree_flatten(self):
        """No arrays."""
        return (), ((), {"num_outputs": self.num_outputs, "num_inputs": self.num_inputs})

    def eq(self, other, static=False):
        """Whether both have the same sizes."""
        return type(other) is type(self) and (self.num_outputs, self.num_inputs) == (
            other.num_outputs,
            other.num_inputs,
        )


_TO_COVARIANCE = biject_to(constraints.positive_definite)


@biject_to.register(CoefficientsAndCovariance)
def _transform(constraint):
    return CoefficientsAndCovarianceTransform(constraint.num_outputs, constraint.num_inputs)


def split_coefficients(value):
    """``(coefficients (..., N, p), covariance (..., N, N))`` of arrays ``(..., N, p + N)``."""
    num_inputs = value.shape[-1] - value.shape[-2]
    return value[..., :num_inputs], value[..., num_inputs:]
