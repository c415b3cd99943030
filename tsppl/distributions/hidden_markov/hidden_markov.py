"""The hidden Markov model as a distribution over the observed series."""

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
from tsppl.distributions.sequence import time_axis_of_mask
from tsppl.distributions.shapes import (
    broadcast_batches,
    check_time_varying,
    emission_batch,
    split_keys,
)
from tsppl.distributions.wrappers import as_distribution


class HiddenMarkov(MarkovSwitching):
    """A series whose steps depend on a hidden Markov state; the states are summed out (Rabiner 1989).

    Each step has one observation. Several streams that share the states are one emission
    (:class:`~tsppl.distributions.Streams`), never two sites: two sites would have two independent state paths.

    Args:
        initial_probs: probabilities of the first state, ``(..., K)``.
        transition_probs: ``(..., K, K)``; row ``i`` holds the probabilities of the state after state ``i``. If it
            varies in time, ``(..., T-1, K, K)``: row ``t`` moves ``z_t`` to ``z_{t+1}``, so that a covariate observed
            on arrival enters as ``covariate[1:]``.
        emission: NumPyro distribution of one observation, any family, with batch ``(..., K)``, ``(..., 1)`` or
            ``()``: the state axis is always last. If it varies in time, batch ``(..., T, K)``.
        num_steps: number of steps ``T``.
        initial_logits: alternative to ``initial_probs``, unnormalised log-probabilities.
        transition_logits: alternative to ``transition_probs``; never turned into probabilities and back.
        time_varying: names of the arguments that carry a time axis, of ``"emission"``, ``"transition_probs"`` and
            ``"transition_logits"``.
        mask: True = observed. ``(..., T)``, or ``(..., T) + emission event`` for entries missing on their own, where
            the emission's components are independent or jointly Gaussian. Masked entries may hold anything.
        lengths: int ``(...,)``, number of steps of each series, where they end before ``T``.
        known_states: int ``(..., T)``: the state where it was observed (an animal that was watched, a labelled recording),
            -1 where it was not. ``log_prob`` is then the density of the observed values and the known states together,
            ``log p(y, z_known)``, and each step's term holds its observation and its label; draws, paths, marginals and
            forecasts are given the known states. Labels of masked steps count; those after the end of a series do not.
        method: ``"auto"``, ``"sequential"``, ``"chunked"`` or ``"parallel"``: how states are summed out, exactly by all.

    Raises:
        ValueError: on shapes that do not fit, probabilities that do not sum to one, lengths outside ``1..T``, known states
            outside ``-1..K-1``.
        TypeError: if ``emission`` is not a distribution.

    >>> import jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> transition_probs = jnp.array([[0.9, 0.1], [0.2, 0.8]])
    >>> model = tsd.HiddenMarkov(jnp.full(2, 0.5), transition_probs, dist.Poisson(jnp.array([2.0, 9.0])), num_steps=4)
    >>> model.latent_mode(jnp.array([1, 3, 8, 10]))["states"].tolist()
    [0, 0, 1, 1]
    """

    pytree_data_fields = ("emission",)
    arg_constraints = {}

    def __init__(
        self,
        initial_probs=None,
        transition_probs=None,
        emission=None,
        *,
        num_steps,
        initial_logits=None,
        transition_logits=None,
        time_varying=(),
        mask=None,
        lengths=None,
        known_states=None,
        method="auto",
        validate_args=None,
    ):
        self.emission = as_distribution("emission", emission)
        time_varying = check_time_varying(
            "HiddenMarkov", time_varying, ("emission", "transition_probs", "transition_logits")
        )
        num_states, batches, varying = self._store_chain(
            initial_probs,
            transition_probs,
            initial_logits,
            transition_logits,
            num_steps=num_steps,
            time_varying=time_varying,
        )
        batches |= self._store_known_states(known_states, num_states, num_steps)
        batches["emission"] = emission_batch(
            "emission", self.emission, num_states, num_steps=num_steps, time_varying=varying
        )
        transition_name = [name for name in batches if name.startswith("transition")][0]
        batch = broadcast_batches(
            batches | self._other_batches(num_states, num_steps),
            num_steps=num_steps,
            time_varying=varying,
            rows={transition_name: num_steps - 1, "emission": num_steps},
        )
        self._initialize(
            batch,
            self.emission.event_shape,
            num_steps=num_steps,
            time_varying=varying,
            method=method,
            mask=mask,
            lengths=lengths,
            validate_args=validate_args,
        )

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

    def _potentials(self, value):
        return self._log_initial, self._log_transition, self._emission_potentials(value)

    def _emission_potentials(self, value):
        """``log p(y_t | z_t = k)``, zero for steps that were not observed: ``(..., T, K)``."""
        steps, entries = self._observed()
        log_likelihoods = emission_log_likelihoods(
            self.emission,
            value,
            time_varying="emission" in self.time_varying,
            step_observed=steps,
            entry_observed=entries,
        )
        shape = log_likelihoods.shape[:-1] + (self.num_states,)
        return self._restricted(jnp.broadcast_to(log_likelihoods, shape))

    def _cdf_given_states(self, value):
        pair = emission_cdf(self.emission, value, self.observed_entries(), time_varying="emission" in self.time_varying)
        return tuple(array.reshape(array.shape[: array.ndim - self.emission.event_dim] + (-1,)) for array in pair)

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
        chain = "(),(k),(s,k,k)" if self._transitions_vary else "(),(k),(k,k)"
        arrays = (split_keys(states_key, sample_shape + self.batch_shape), self._log_initial, self._log_transition)
        if self.known_states is None:

            def core(key, log_initial, log_transition):
                return messages.simulate_path(key, log_initial, log_transition, self.num_steps)

            path = jnp.vectorize(core, signature=f"{chain}->(t)")(*arrays)
        else:
            draw = partial(messages.sample_path, method=self.method)
            possible = self._restricted(jnp.zeros((self.num_steps, self.num_states), self._log_transition.dtype))
            possible = possible if self._state_index is None else possible[..., self._state_index]
            path = jnp.vectorize(draw, signature=f"{chain},(t,k)->(t)")(*arrays, possible)
        states = self._reported_states(path)
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
