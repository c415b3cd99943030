"""The wrapped Cauchy distribution of angles."""

import jax.numpy as jnp
from jax import lax, random
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.util import promote_shapes


class WrappedCauchy(Distribution):
    """Angles around ``loc``, with heavier tails than those of von Mises: turning angles of animals, say.

    The density is ``(1 - rho^2) / (2 pi (1 + rho^2 - 2 rho cos(x - loc)))`` with ``rho`` the concentration, which is the
    mean resultant length (Mardia and Jupp 2000, *Directional Statistics*, section 3.5.7).

    Args:
        loc: centre, in radians.
        concentration: from 0 (uniform) to below 1.

    >>> import jax.numpy as jnp, tsppl.distributions as tsd
    >>> jnp.exp(tsd.WrappedCauchy(0.0, 0.5).log_prob(jnp.array([0.0, jnp.pi]))).round(3).tolist()
    [0.477, 0.053]
    """

    arg_constraints = {"loc": constraints.real, "concentration": constraints.unit_interval}
    support = constraints.circular
    reparametrized_params = ["loc", "concentration"]

    def __init__(self, loc=0.0, concentration=0.5, *, validate_args=None):
        self.loc, self.concentration = promote_shapes(loc, concentration)
        batch_shape = lax.broadcast_shapes(jnp.shape(loc), jnp.shape(concentration))
        super().__init__(batch_shape, validate_args=validate_args)

    def sample(self, key, sample_shape=()):
        """Draw angles from ``-pi`` to ``pi``: ``sample_shape + batch_shape``."""
        dtype = jnp.result_type(self.loc, self.concentration, float)
        half_turn = random.uniform(key, sample_shape + self.batch_shape, dtype, -jnp.pi / 2, jnp.pi / 2)
        spread = (1 - self.concentration) / (1 + self.concentration)
        angle = self.loc + 2 * jnp.arctan(spread * jnp.tan(half_turn))
        return (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi

    def log_prob(self, value, intermediates=None):
        """Log density per radian."""
        rho = self.concentration
        squared = jnp.square(1 - rho) + 4 * rho * jnp.square(jnp.sin((value - self.loc) / 2))
        return jnp.log1p(-jnp.square(rho)) - jnp.log(2 * jnp.pi * squared)

    def cdf(self, value):
        """Probability of an angle from ``-pi`` to ``value``."""
        spread = (1 + self.concentration) / (1 - self.concentration)

        def turned(angle):
            away = angle - self.loc
            return jnp.floor((away + jnp.pi) / (2 * jnp.pi)) + jnp.arctan(spread * jnp.tan(away / 2)) / jnp.pi

        return turned(value) - turned(-jnp.pi)

    @property
    def mean(self):
        """The centre, from ``-pi`` to ``pi``."""
        return jnp.broadcast_to((self.loc + jnp.pi) % (2 * jnp.pi) - jnp.pi, self.batch_shape)

    @property
    def variance(self):
        """Circular variance, ``1 - concentration``."""
        return jnp.broadcast_to(1 - self.concentration, self.batch_shape)
