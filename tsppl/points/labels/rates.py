"""How many events and points a Neyman-Scott process makes on its window, and what follows for clusters and labels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln


class MoveWeights(NamedTuple):
    """Log weights of the moves of a point besides densities, all times ``1 + b``: see :attr:`NeymanScottRates.move_weights`."""

    new: jax.Array
    background: jax.Array
    concentration: jax.Array


class NeymanScottRates(NamedTuple):
    """``L`` events expected, each with a ``Gamma(a, b)`` number of points expected, beside a background.

    Functions of points take the four in this order: ``log_count_prob(count, *rates, largest=count)``.

    >>> import jax.numpy as jnp
    >>> from tsppl.points import NeymanScottRates
    >>> rates = NeymanScottRates(2.0, 1.0, 1.0, 0.5)
    >>> (
    ...     float(rates.expected_points),
    ...     round(float(rates.expected_occupied), 4),
    ...     round(float(jnp.exp(rates.log_prob_nothing)), 4),
    ... )
    (2.5, 1.0, 0.2231)
    """

    expected_events: jax.Array
    amplitude_concentration: jax.Array
    amplitude_rate: jax.Array
    expected_background: jax.Array

    @property
    def expected_points(self):
        """Points expected, of events and of the background."""
        of_events = self.expected_events * self.amplitude_concentration / self.amplitude_rate
        return self.expected_background + of_events

    @property
    def log_prob_empty(self):
        """Log probability that an event makes no point."""
        return self.amplitude_concentration * (jnp.log(self.amplitude_rate) - jnp.log1p(self.amplitude_rate))

    @property
    def expected_occupied(self):
        """Events expected that make a point."""
        return -self.expected_events * jnp.expm1(self.log_prob_empty)

    @property
    def log_prob_nothing(self):
        """Log probability that there is no point at all."""
        return self.expected_events * jnp.expm1(self.log_prob_empty) - self.expected_background

    @property
    def log_pull(self):
        """Log of ``L a b^a``."""
        log_total = jnp.log(self.expected_events * self.amplitude_concentration)
        return log_total + self.amplitude_concentration * jnp.log(self.amplitude_rate)

    def log_cluster_weight(self, size):
        """What a cluster of ``size`` points adds to the log density of labels.

        The log of ``L Gamma(a + n) / Gamma(a) b^a / (1 + b)^(a + n)`` (Wang, Degleris, Williams and Linderman 2023, section
        3).
        """
        concentration, rate = self.amplitude_concentration, self.amplitude_rate
        return (
            jnp.log(self.expected_events * concentration)
            + gammaln(concentration + size)
            - gammaln(concentration + 1)
            + concentration * jnp.log(rate)
            - (concentration + size) * jnp.log1p(rate)
        )

    @property
    def move_weights(self) -> MoveWeights:
        """What a point's choices weigh besides densities (Wang, Degleris, Williams and Linderman 2023, algorithm 1).

        Joining a cluster of ``n`` points weighs ``a + n``, a new one ``a L (b / (1 + b))^a``, background ``(1 + b)`` times the
        background points expected.
        """
        new = jnp.log(self.amplitude_concentration * self.expected_events) + self.log_prob_empty
        background = jnp.log1p(self.amplitude_rate) + jnp.log(self.expected_background)
        return MoveWeights(new, background, jnp.asarray(self.amplitude_concentration))
