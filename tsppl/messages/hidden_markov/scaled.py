"""Hidden Markov statistics in probability space: each step scaled to sum to one (Rabiner 1989, section V.A).

Several times faster than log space, and exact unless a probability that still matters falls below the smallest float.
:func:`loses_nothing` recognises the chains for which that cannot happen; all others are left to log space, by
:func:`tsppl.messages.certified.certified`. Notation as in :mod:`tsppl.messages.hidden_markov.forward_backward`.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from tsppl.messages.log_space import finite_largest
from tsppl.messages.summation import summed_products


class Scaled(NamedTuple):
    """Forward pass in probability space.

    ``likelihoods`` are divided by their largest in each step, whose logarithm is ``shifts``; ``predicted`` is
    ``p(z_t | y_<t)`` and ``normalizers`` the sum over states of their product.
    """

    likelihoods: Float[Array, "T K"]
    shifts: Float[Array, " T"]
    predicted: Float[Array, "T K"]
    normalizers: Float[Array, " T"]

    @property
    def filtered(self):
        """``p(z_t | y_<=t)``."""
        return self.predicted * self.likelihoods / self.normalizers[:, None]

    @property
    def log_normalizer(self):
        """``log p(y)``."""
        return (jnp.log(self.normalizers) + self.shifts).sum()


def scaled_log_normalizer(log_initial, log_transition, log_likelihoods):
    """``log p(y)``, and whether nothing was lost; never so where a transition is impossible or nearly."""
    initial, transition, likelihoods, shifts = _scale(log_initial, log_transition, log_likelihoods)

    def step(filtered, inputs):
        likelihood, matrix = inputs
        return _condition(filtered @ (transition if matrix is None else matrix), likelihood)

    filtered, first = _condition(initial, likelihoods[0])
    _, rest = lax.scan(step, filtered, (likelihoods[1:], transition if transition.ndim == 3 else None))
    normalizers = jnp.concatenate([first[None], rest])
    floor = _floor(normalizers.dtype)
    return (jnp.log(normalizers) + shifts).sum(), (normalizers >= floor).all() & (transition.min() >= floor)


def scaled_forward(log_initial, log_transition, log_likelihoods):
    """:class:`Scaled`, and whether nothing was lost."""
    initial, transition, likelihoods, shifts = _scale(log_initial, log_transition, log_likelihoods)

    def step(filtered, inputs):
        likelihood, matrix = inputs
        predicted = filtered @ (transition if matrix is None else matrix)
        return _condition(predicted, likelihood)[0], predicted

    rows = transition if transition.ndim == 3 else None
    _, rest = lax.scan(step, _condition(initial, likelihoods[0])[0], (likelihoods[1:], rows))
    predicted = jnp.concatenate([initial[None], rest])
    normalizers = (predicted * likelihoods).sum(-1)

    def kept(floor):
        joint = predicted * likelihoods
        return (joint >= floor * normalizers[:, None]) | (predicted == 0) | (log_likelihoods == -jnp.inf)

    vouched = loses_nothing(log_initial, log_transition, normalizers, kept)
    return Scaled(likelihoods, shifts, predicted, normalizers), vouched


def _scale(log_initial, log_transition, log_likelihoods):
    """Initial and transition probabilities, likelihoods relative to the largest of a step, and the logarithm of that."""
    shifts = finite_largest(log_likelihoods, axis=-1)
    return jnp.exp(log_initial), jnp.exp(log_transition), jnp.exp(log_likelihoods - shifts), shifts[..., 0]


def _condition(predicted, likelihood):
    joint = predicted * likelihood
    normalizer = joint.sum()
    return joint / normalizer, normalizer


def loses_nothing(log_initial, log_transition, normalizers, kept):
    """Whether underflow cannot have changed the evidence or the posterior: a sufficient condition, bool.

    Let ``floor`` be the cube root of the smallest float. Either every transition has at least that probability: then
    what a state below the smallest float could add to the evidence is at most ``floor`` of it, because all other states
    reach the same future with probability ``floor`` or more. Or no positive probability fell below ``floor`` anywhere.
    ``kept(floor)``, called only where it decides, tells for every step and state whether the filtered probability is at
    least ``floor``, or the state impossible.
    """
    floor = _floor(normalizers.dtype)
    mixing = jnp.exp(log_transition).min() >= floor

    def nothing_small():
        return kept(floor).all() & _zero_or_above(log_initial, floor) & _zero_or_above(log_transition, floor)

    return (normalizers >= floor).all() & lax.cond(mixing, lambda: True, nothing_small)


def _floor(dtype):
    return jnp.finfo(dtype).tiny ** (1 / 3)


def _zero_or_above(log_probs, floor):
    return ((log_probs == -jnp.inf) | (jnp.exp(log_probs) >= floor)).all()


def scaled_statistics(log_initial, log_transition, log_likelihoods):
    """``((log p(y), its gradient), whether nothing was lost)``.

    The gradient with respect to the three arguments is ``(state_probs[0], transition_counts, state_probs)``.
    """
    scaled, vouched = scaled_forward(log_initial, log_transition, log_likelihoods)
    transition = jnp.exp(log_transition)
    factors = scaled.likelihoods / scaled.normalizers[:, None]

    def step(message, inputs):
        factor, matrix = inputs
        return (transition if matrix is None else matrix) @ (factor * message), message

    rows = transition if transition.ndim == 3 else None
    first, rest = lax.scan(step, jnp.ones_like(log_initial), (factors[1:], rows), reverse=True)
    backward = jnp.concatenate([first[None], rest])
    filtered = scaled.predicted * factors
    state_probs = filtered * backward
    # Equal to one but for rounding, which in float32 adds up over a long sequence.
    total = state_probs.sum(-1, keepdims=True)
    state_probs /= total
    leaving, arriving = filtered[:-1] / total[:-1], (factors * backward)[1:]
    if transition.ndim == 3:
        counts = leaving[:, :, None] * transition * arriving[:, None, :]
    else:
        counts = transition * summed_products(leaving, arriving)
    return (scaled.log_normalizer, (state_probs[0], counts, state_probs)), vouched
