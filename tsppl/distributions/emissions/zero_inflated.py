"""A continuous distribution with a probability of exactly zero."""

import jax.numpy as jnp
from jax import lax, random
from numpyro.distributions import Distribution, constraints

from tsppl.distributions.emissions.scoring import fill_unobserved
from tsppl.distributions.wrappers import as_distribution


class ZeroInflated(Distribution):
    """Zero with probability ``prob``, else a draw of a continuous distribution: steps of animals that rest, rain by the day.

    At zero ``log_prob`` is the logarithm of ``prob``; elsewhere it is the density of the base times ``1 - prob``. Both are
    finite with finite gradients whatever the base's density does at zero. For counts use NumPyro's
    ``ZeroInflatedDistribution``.

    Args:
        base: continuous distribution with event ``()``: ``Gamma``, ``LogNormal``, ``Weibull``.
        prob: probability of zero; broadcasts against the batch of ``base``.

    Raises:
        ValueError: if ``base`` is discrete or has an event axis.

    >>> import jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> steps = tsd.ZeroInflated(dist.Gamma(0.5, 1.0), 0.25)
    >>> jnp.exp(steps.log_prob(jnp.array([0.0, 1.0]))).round(3).tolist()
    [0.25, 0.156]
    """

    arg_constraints = {"prob": constraints.unit_interval}
    pytree_data_fields = ("base",)

    def __init__(self, base, prob, *, validate_args=None):
        self.base, self.prob = as_distribution("base", base), jnp.asarray(prob)
        if base.event_dim or base.support.is_discrete:
            raise ValueError(
                f"base is a {type(base).__name__} with event shape {base.event_shape}; it must be continuous with event (). For "
                "counts use numpyro.distributions.ZeroInflatedDistribution"
            )
        super().__init__(lax.broadcast_shapes(base.batch_shape, self.prob.shape), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self):
        """Zero, and the support of the base."""
        return _ZeroOr(self.base.support)

    def sample(self, key, sample_shape=()):
        """Draw ``sample_shape + batch_shape``."""
        zero_key, base_key = random.split(key)
        zero = random.bernoulli(zero_key, self.prob, sample_shape + self.batch_shape)
        return jnp.where(zero, 0.0, self.base.expand(self.batch_shape).sample(base_key, sample_shape))

    def log_prob(self, value, intermediates=None):
        """Log probability at zero, log density elsewhere."""
        value = jnp.asarray(value)
        zero = value == 0
        shape = lax.broadcast_shapes(value.shape, self.batch_shape)
        inside = fill_unobserved(self.base, jnp.broadcast_to(value, shape), ~jnp.broadcast_to(zero, shape))
        density = jnp.log1p(-self.prob) + self.base.log_prob(inside)
        return jnp.where(zero, jnp.log(self.prob), density)

    @property
    def mean(self):
        """Mean, zeros included."""
        return (1 - self.prob) * self.base.mean

    @property
    def variance(self):
        """Variance, zeros included."""
        second = self.base.variance + jnp.square(self.base.mean)
        return (1 - self.prob) * second - jnp.square(self.mean)


class _ZeroOr(constraints.Constraint):
    """Zero, or a value that a constraint allows."""

    def __init__(self, base):
        self.base = base
        super().__init__()

    def __call__(self, value):
        return (value == 0) | self.base(value)

    def feasible_like(self, prototype):
        return self.base.feasible_like(prototype)

    def tree_flatten(self):
        return (self.base,), (("base",), {})
