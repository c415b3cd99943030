"""What hidden Markov models have in common in which a step depends on its own state alone, through an emission."""

from functools import partial

import jax.numpy as jnp
from jax import random
from numpyro.distributions import constraints

from tsppl import messages
from tsppl.distributions.emissions.drawing import complete_emissions, sample_emissions
from tsppl.distributions.emissions.marginal_cdf import emission_cdf
from tsppl.distributions.emissions.scoring import emission_log_likelihoods
from tsppl.distributions.emissions.support import check_support, series_support
from tsppl.distributions.hidden_markov.markov_switching import MarkovSwitching
from tsppl.distributions.hidden_markov.steps import RegressionRows
from tsppl.distributions.sequence import time_axis_of_mask
from tsppl.distributions.shapes import broadcast_batches, emission_batch, split_keys
from tsppl.distributions.wrappers import as_distribution


class SwitchingEmission(MarkovSwitching):
    """Base of the distributions whose steps are drawn from an ``emission`` that the state of the step chooses."""

    pytree_data_fields = ("emission",)
    arg_constraints = {}

    def _store_emission(self, emission, num_states, batches, rows, known_states, *, num_steps, time_varying):
        """Store and check the emission and known states; returns the batch shape of all arguments.

        Args:
            batches: ``name -> batch shape`` of the other arguments.
            rows: ``name -> length of its time axis`` of those that may vary in time.
        """
        self.emission = as_distribution("emission", emission)
        batches = batches | self._store_known_states(known_states, num_states, num_steps)
        batches["emission"] = emission_batch(
            "emission", self.emission, num_states, num_steps=num_steps, time_varying=time_varying
        )
        rows = rows | {"emission": num_steps}
        return broadcast_batches(batches, num_steps=num_steps, time_varying=time_varying, rows=rows)

    @constraints.dependent_property
    def support(self):
        """Series of which each step is possible in some state."""
        return series_support(self.emission, time_varying="emission" in self.time_varying)

    def _observed(self):
        """Observed steps, and observed entries where these can be missing on their own."""
        if self.observed_mask is None and self.lengths is None:
            return None, None
        elementwise = (
            self.observed_mask is not None
            and self.emission.event_dim > 0
            and time_axis_of_mask(self.observed_mask.shape, self.event_shape)
            == self.observed_mask.ndim - self.event_dim
        )
        return self.observed_steps(), self.observed_entries() if elementwise else None

    def _log_likelihoods(self, value, chain):
        """``log p(y_t | z_t = k)``, zero for steps that were not observed: ``(..., T, K')``."""
        steps, entries = self._observed()
        log_likelihoods = emission_log_likelihoods(
            self.emission,
            value,
            time_varying="emission" in self.time_varying,
            step_observed=steps,
            entry_observed=entries,
        )
        shape = log_likelihoods.shape[:-1] + (self.num_states,)
        return chain.in_each_state(self._restricted(jnp.broadcast_to(log_likelihoods, shape)))

    def _cdf_given_states(self, value, chain):
        def in_each_state(array):
            array = array.reshape(array.shape[: array.ndim - self.emission.event_dim] + (-1,))
            if chain.reported is None:
                return array
            array = jnp.broadcast_to(array, array.shape[:-2] + (self.num_states,) + array.shape[-1:])
            return array[..., chain.reported, :]

        pair = emission_cdf(self.emission, value, self.observed_entries(), time_varying="emission" in self.time_varying)
        return tuple(map(in_each_state, pair))

    def regression_rows(self, value, lead=()):
        """As in the base class: vectors on a constant."""
        if self.event_dim != 2:
            return super().regression_rows(value, lead)
        scored = jnp.broadcast_to(self.observed_steps(), lead + (self.num_steps,))
        outputs = jnp.where(scored[..., None], value, 0).reshape(-1, self.event_shape[-1])
        return RegressionRows(jnp.ones((len(outputs), 1), outputs.dtype), outputs, scored, None)

    def _check_concrete(self, value, observed):
        super()._check_concrete(value, observed)
        check_support(self.emission, value, observed, time_varying="emission" in self.time_varying, locate=self._locate)

    def scored_steps(self, value):
        """Steps of which the value or the state was observed: bool ``(..., T)``."""
        lead = jnp.shape(value)[: jnp.ndim(value) - self.event_dim]
        shape = jnp.broadcast_shapes(lead, self.batch_shape) + (self.num_steps,)
        return jnp.broadcast_to(self._scored_or_known(self.observed_steps()), shape)

    def sample_with_latents(self, key, sample_shape=()):
        """Draw ``(value, {"states": ...})`` together, given the known states."""
        states_key, emission_key = random.split(key)
        sample_shape = tuple(sample_shape)
        chain = self.state_chain()
        arrays = (split_keys(states_key, sample_shape + self.batch_shape), *chain[:2])
        if self.known_states is None:

            def core(key, log_initial, log_transition):
                return messages.simulate_path(key, log_initial, log_transition, self.num_steps)

            path = jnp.vectorize(core, signature=f"(),{chain.signature}->(t)")(*arrays)
        else:
            draw = partial(messages.sample_path, method=self.method)
            possible = self._restricted(jnp.zeros((self.num_steps, self.num_states), chain.log_transition.dtype))
            signature = f"(),{chain.signature},(t,k)->(t)"
            path = jnp.vectorize(draw, signature=signature)(*arrays, chain.in_each_state(possible))
        states = chain.reported_path(path)
        value = sample_emissions(
            self.emission,
            emission_key,
            states,
            sample_shape=sample_shape,
            batch_shape=self.batch_shape,
            time_varying="emission" in self.time_varying,
        )
        return value, {"states": states}

    def _completion(self, key, value):
        states_key, emission_key = random.split(key)
        latents = self.sample_latents(states_key, value)
        states = latents["states"]
        value = jnp.broadcast_to(value, states.shape[:-1] + self.event_shape)
        observed = self.observed_entries()
        if observed is None:
            return value, latents
        completed = complete_emissions(
            self.emission, emission_key, states, value, observed, time_varying="emission" in self.time_varying
        )
        return completed, latents
