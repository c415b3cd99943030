"""An explicit discrete state path, where one is wanted."""

import jax
import jax.numpy as jnp
from numpyro.distributions import constraints

from tsppl import messages
from tsppl.distributions.hidden_markov.chain_parameters import MarkovChainParameters
from tsppl.distributions.sequence import SequenceDistribution
from tsppl.distributions.shapes import (
    broadcast_batches,
    broadcast_to_batch,
    check_time_varying,
    split_keys,
)
from tsppl.messages.log_space import log_normalize


class MarkovChain(MarkovChainParameters, SequenceDistribution):
    """A Markov chain over the states ``0 .. K-1``, as an explicit site.

    An observed path is a likelihood for the transitions. As a latent site it is discrete and joint: put it into a Gibbs
    block that draws the whole path, or use :class:`HiddenMarkov`, which sums it out and needs no such block.

    Args:
        initial_probs: ``(..., K)``.
        transition_probs: ``(..., K, K)``, or ``(..., T-1, K, K)``: row ``t`` moves ``z_t`` to ``z_{t+1}``.
        num_steps: number of steps ``T``.
        initial_logits, transition_logits: alternatives to the probabilities.
        time_varying: ``("transition_probs",)`` if they carry a time axis.

    >>> import jax.numpy as jnp, tsppl.distributions as tsd
    >>> chain = tsd.MarkovChain(jnp.array([1.0, 0.0]), jnp.array([[0.5, 0.5], [0.0, 1.0]]), num_steps=3)
    >>> round(float(jnp.exp(chain.log_prob(jnp.array([0, 1, 1])))), 3)
    0.5
    """

    pytree_data_fields = MarkovChainParameters.pytree_data_fields
    arg_constraints = {}

    def __init__(
        self,
        initial_probs=None,
        transition_probs=None,
        *,
        num_steps,
        initial_logits=None,
        transition_logits=None,
        time_varying=(),
        validate_args=None,
    ):
        time_varying = check_time_varying("MarkovChain", time_varying, ("transition_probs", "transition_logits"))
        _, batches, rows, varying = self._store_chain(
            initial_probs, transition_probs, initial_logits, transition_logits, num_steps, time_varying
        )
        batch = broadcast_batches(batches, num_steps=num_steps, time_varying=varying, rows=rows)
        self._initialize(
            batch, (), num_steps=num_steps, time_varying=varying, method="auto", validate_args=validate_args
        )

    @property
    def support(self):
        """Integer paths."""
        return constraints.independent(constraints.integer_interval(0, self.num_states - 1), 1)

    def check_value(self, value):
        """``value`` as an array, after checking that it holds states ``0 .. K-1`` where it is concrete."""
        value = super().check_value(value)
        if not jnp.issubdtype(value.dtype, jnp.integer):
            raise TypeError(f"a path holds integer states, not {value.dtype}")
        return value

    def _check_concrete(self, value, observed):
        wrong = (value < 0) | (value >= self.num_states)
        if wrong.any():
            raise ValueError(
                f"state {value[wrong][0]} at {self._locate(wrong)} is not one of the {self.num_states} states, "
                f"0 to {self.num_states - 1}"
            )

    def _vectorize(self, core, inputs, outputs, *arguments):
        transitions = "(s,k,k)" if self.transitions_vary else "(k,k)"
        signature = f"(k),{transitions},{inputs}->{outputs}"
        return jnp.vectorize(core, signature=signature)(self.log_initial_probs, self.log_transition_probs, *arguments)

    def scored_steps(self, value):
        """All steps: bool ``(..., T)``."""
        return jnp.ones(jnp.broadcast_shapes(jnp.shape(value)[:-1], self.batch_shape) + (self.num_steps,), bool)

    def log_prob(self, value, intermediates=None):
        """Log probability of the path."""
        return self.log_prob_steps(value).sum(-1)

    def log_prob_steps(self, value):
        """``log p(z_0)`` and ``log p(z_t | z_{t-1})``."""
        terms = self._vectorize(messages.path_log_prob, "(t)", "(t)", self.check_value(value))
        return broadcast_to_batch(terms, self.batch_shape, 1)

    def log_prob_left_out(self, value):
        """``log p(z_t | all other steps)``."""

        def core(log_initial, log_transition, path):
            arriving = jnp.concatenate([log_initial[None], rows_of(log_transition, path[:-1], axis=0)])
            leaving = jnp.pad(rows_of(log_transition, path[1:], axis=1), ((0, 1), (0, 0)))
            return jnp.take_along_axis(log_normalize(arriving + leaving)[1], path[:, None], 1)[:, 0]

        def rows_of(log_transition, path, axis):
            """Rows (axis 0) or columns (axis 1) of the transitions that ``path`` names, one for each move."""
            if log_transition.ndim == 2:
                return jnp.moveaxis(log_transition, axis, 0)[path]
            return jax.vmap(lambda matrix, state: jnp.moveaxis(matrix, axis, 0)[state])(log_transition, path)

        return broadcast_to_batch(self._vectorize(core, "(t)", "(t)", self.check_value(value)), self.batch_shape, 1)

    def sample_with_latents(self, key, sample_shape=()):
        """Draw ``(path, {})``."""

        def core(log_initial, log_transition, key):
            return messages.simulate_path(key, log_initial, log_transition, self.num_steps)

        keys = split_keys(key, tuple(sample_shape) + self.batch_shape)
        return self._vectorize(core, "()", "(t)", keys), {}

    def _completion(self, key, value):
        if self.lengths is None:
            return value, {}

        def core(log_initial, log_transition, key, path, length):
            known = (jnp.arange(self.num_steps) < length)[:, None]
            possible = jnp.where(jnp.arange(log_initial.shape[-1]) == path[:, None], 0.0, -jnp.inf)
            return messages.sample_path(key, log_initial, log_transition, jnp.where(known, possible, 0.0))

        keys = split_keys(key, jnp.broadcast_shapes(value.shape[:-1], self.batch_shape))
        return self._vectorize(core, "(),(t),()", "(t)", keys, value, self.lengths), {}
