"""What a solver of a recurrence answers."""

from typing import NamedTuple

import jax


class Outcome(NamedTuple):
    """States of all steps, and how far they may be trusted.

    ``states`` has shape ``(T, n)``; the first ``exact_steps`` of them are right whether or not the rest ``converged``.
    ``residual`` is the largest ``|state - f(previous state)| / (1 + |state|)``.
    """

    states: jax.Array
    exact_steps: jax.Array
    iterations: jax.Array
    residual: jax.Array
    converged: jax.Array
