"""What every distribution with a hidden Markov state answers, given its log potentials."""

import math
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import lax

from tsppl import messages
from tsppl.distributions.emissions.marginal_cdf import LogProbabilityBelow
from tsppl.distributions.sequence import SequenceDistribution
from tsppl.distributions.shapes import (
    broadcast_to_batch,
    check_given,
    check_not_nan,
    check_probabilities,
    choose_parameter,
    is_concrete,
    parameter_batch,
    split_keys,
)
from tsppl.messages.log_space import log_normalize, log_of_probabilities


class MarkovChainParameters:
    """Initial and transition probabilities, given as probabilities or as logits and never turned into the other."""

    pytree_data_fields = ("initial_probs", "transition_probs", "initial_logits", "transition_logits")

    def _store_chain(
        self, initial_probs, transition_probs, initial_logits, transition_logits, *, num_steps, time_varying
    ):
        """Store and check the chain's arguments; returns the number of states and ``name -> batch shape``."""
        initial_name, initial = choose_parameter("initial_probs", initial_probs, "initial_logits", initial_logits)
        name, transition = choose_parameter(
            "transition_probs", transition_probs, "transition_logits", transition_logits
        )
        self.initial_probs = None if initial_probs is None else initial
        self.initial_logits = None if initial_logits is None else initial
        self.transition_probs = None if transition_probs is None else transition
        self.transition_logits = None if transition_logits is None else transition
        if transition.ndim < 2 or transition.shape[-1] != transition.shape[-2]:
            raise ValueError(f"{name} has shape {transition.shape}; it must end in (K, K), one row for each state")
        num_states = transition.shape[-1]
        if initial.shape[-1:] != (num_states,):
            raise ValueError(
                f"{initial_name} has shape {initial.shape} and {name} has shape {transition.shape}: "
                f"{initial_name} must end in the number of states, {num_states}"
            )
        varying = tuple(name if entry == "transition_probs" else entry for entry in time_varying)
        rows = num_steps - 1
        batch = parameter_batch(
            name, transition.shape, (num_states, num_states), num_steps=num_steps, rows=rows, time_varying=varying
        )
        if getattr(self, "_validate_args", True):
            check_probabilities("initial_probs", self.initial_probs)
            check_probabilities("transition_probs", self.transition_probs)
            check_not_nan("initial_logits", self.initial_logits)
            check_not_nan("transition_logits", self.transition_logits)
        return num_states, {initial_name: initial.shape[:-1], name: batch}, varying

    @property
    def num_states(self):
        """Number of hidden states ``K``."""
        return self._log_initial.shape[-1]

    @property
    def _log_initial(self):
        if self.initial_logits is None:
            return log_of_probabilities(self.initial_probs)
        return log_normalize(self.initial_logits)[1]

    @property
    def _log_transition(self):
        if self.transition_logits is None:
            return log_of_probabilities(self.transition_probs)
        return log_normalize(self.transition_logits)[1]


_CHAIN_SIGNATURES = {2: "(k),(k,k),(t,k)", 3: "(k),(s,k,k),(t,k)"}


class MarkovSwitching(MarkovChainParameters, SequenceDistribution):
    """Base of the distributions whose hidden part is a Markov chain that is summed out.

    A subclass supplies ``_potentials(value)``: log initial ``(..., K)``, log transitions ``(..., K, K)`` or
    ``(..., T'-1, K, K)``, and log-likelihoods ``(..., T', K)`` of the last ``T'`` steps; earlier steps have no state.
    Where the Markov chain is larger than the states that people ask for (a state and its age, a state and those before
    it), ``_state_index`` says which state each state of the chain is.
    """

    pytree_data_fields = (*MarkovChainParameters.pytree_data_fields, "known_states")
    known_states = None
    _state_index = None

    def _potentials(self, value):
        raise NotImplementedError

    def _store_known_states(self, known_states, num_states, num_steps):
        """Store and check states that were observed; returns their batch shape by name."""
        if known_states is None:
            return {}
        self.known_states = jnp.asarray(known_states)
        if self.known_states.shape[-1:] != (num_steps,):
            raise ValueError(f"known_states has shape {self.known_states.shape}; it must end in num_steps, {num_steps}")
        if not jnp.issubdtype(self.known_states.dtype, jnp.integer):
            raise TypeError(
                f"known_states must be integers, -1 where a state is not known, not {self.known_states.dtype}"
            )
        if is_concrete(self.known_states):
            states = np.asarray(self.known_states)
            wrong = (states < -1) | (states >= num_states)
            if wrong.any():
                index = tuple(int(i) for i in np.argwhere(wrong)[0])
                raise ValueError(
                    f"known_states is {states[index]} at index {index}; states are 0 to {num_states - 1}, and -1 where "
                    "the state is not known"
                )
        return {"known_states": self.known_states.shape[:-1]}

    def _known(self):
        """Known states ``(..., T)``, -1 where not known and after the end of a series; None if none is."""
        if self.known_states is None or self.lengths is None:
            return self.known_states
        within = jnp.arange(self.num_steps) < self.lengths[..., None]
        return jnp.where(within, self.known_states, -1)

    def _restricted(self, log_likelihoods):
        """``log_likelihoods`` of the last steps, ``(..., T', K)``, with ``-inf`` in states that are known not to be."""
        known = self._known()
        if known is None:
            return log_likelihoods
        known = known[..., self.num_steps - log_likelihoods.shape[-2] :, None]
        possible = (known < 0) | (known == jnp.arange(log_likelihoods.shape[-1]))
        return jnp.where(possible, log_likelihoods, -jnp.inf)

    def _scored_or_known(self, scored, first=0):
        """``scored``, and the steps from ``first`` on whose state is known."""
        known = self._known()
        return scored if known is None else scored | ((known >= 0) & (jnp.arange(self.num_steps) >= first))

    def continuing(self, past):
        """As in the base class; states known in ``past`` are known, those that this one knows of later steps too."""
        longer = super().continuing(past)
        if past.known_states is not None:
            later = self.num_steps - past.num_steps
            lead = past.known_states.shape[:-1]
            unknown = jnp.full(lead + (later,), -1, past.known_states.dtype)
            if self.known_states is not None and self.known_states.shape[-1] == self.num_steps:
                unknown = jnp.broadcast_to(self.known_states[..., -later:], unknown.shape)
            longer.known_states = jnp.concatenate([past.known_states, unknown], -1)
        return longer

    def _other_batches(self, num_states, num_steps):
        """Batch shapes, by name, of the arguments that a subclass adds to its base's."""
        return {}

    def _reported_states(self, path):
        return path if self._state_index is None else jnp.asarray(self._state_index, jnp.int32)[path]

    def _reported_probs(self, probs):
        if self._state_index is None:
            return probs
        return probs @ jnp.asarray(np.eye(self.num_states)[self._state_index], probs.dtype)

    def scored_steps(self, value):
        """Steps that have a log-probability of their own: bool ``(..., T)``."""
        raise NotImplementedError

    def _apply(self, core, value, *, core_ndim, key=None):
        """Run ``core(log_initial, log_transition, log_likelihoods)``, or with a key first, over the whole batch."""
        potentials = self._potentials(self.check_value(value))
        dtype = jnp.result_type(*potentials)
        log_initial, log_transition, log_likelihoods = (potential.astype(dtype) for potential in potentials)
        signature = _CHAIN_SIGNATURES[3 if self._transitions_vary else 2]
        outputs = {0: "()", 1: "(t)", 2: "(t,k)"}[core_ndim]
        if key is None:
            result = jnp.vectorize(core, signature=f"{signature}->{outputs}")(
                log_initial, log_transition, log_likelihoods
            )
            return broadcast_to_batch(result, self.batch_shape, core_ndim)
        lead = lax.broadcast_shapes(log_likelihoods.shape[:-2], self.batch_shape)
        draw = jnp.vectorize(core, signature=f"(),{signature}->{outputs}")
        return draw(split_keys(key, lead), log_initial, log_transition, log_likelihoods)

    @property
    def _transitions_vary(self):
        return "transition_probs" in self.time_varying or "transition_logits" in self.time_varying

    def _pad_front(self, array, fill, core_ndim):
        """Give the steps that have no state the value ``fill``, so that the time axis has ``T`` entries."""
        axis = array.ndim - core_ndim
        missing = self.num_steps - array.shape[axis]
        padding = [(missing if i == axis else 0, 0) for i in range(array.ndim)]
        return jnp.pad(array, padding, constant_values=fill) if missing else array

    def log_prob(self, value, intermediates=None):
        """Log density of the observed entries, states summed out."""
        return self._apply(partial(messages.log_normalizer, method=self.method), value, core_ndim=0)

    def log_prob_steps(self, value):
        """``log p(y_t | y_<t)``, zero where not scored; sums to ``log_prob(value)``."""

        def core(*potentials):
            return messages.hidden_markov_forward(*potentials, method=self.method).log_normalizers

        return self._mask_unscored(self._pad_front(self._apply(core, value, core_ndim=1), 0.0, 1), value)

    def log_prob_left_out(self, value):
        """``log p(y_t | all other observations)``, zero where not scored."""
        terms = self._apply(partial(messages.hidden_markov_left_out, method=self.method), value, core_ndim=1)
        return self._mask_unscored(self._pad_front(terms, 0.0, 1), value)

    def cdf_steps(self, value):
        """``(P(Y_t < y_t | y_<t), P(Y_t <= y_t | y_<t))`` of every entry on its own; NaN where not scored.

        Those of the emission, weighted by the probabilities of the states given the past (Zucchini and MacDonald 2009,
        section 6.2). Known states count as past only.
        """
        value = self.check_value(value)

        def predicted(*potentials):
            return jnp.exp(messages.hidden_markov_forward(*potentials, method=self.method).log_predicted)

        probs = self._apply(predicted, value, core_ndim=2)[..., None]
        observed, entries = self._steps_with_cdf(value), self.observed_entries()
        observed = observed.reshape(observed.shape + (1,) * (self.event_dim - 1))
        observed = observed if entries is None else observed & entries

        def mix(given_state):
            mixed = self._pad_front((probs * given_state).sum(-2), jnp.nan, 2)
            mixed = mixed.reshape(mixed.shape[:-1] + self.event_shape[1:])
            return jnp.where(observed, jnp.clip(mixed, 0.0, 1.0), jnp.nan)

        return tuple(mix(given_state) for given_state in self._cdf_given_states(value))

    def _cdf_given_states(self, value):
        """Less than, and at most, each entry in each state and given the lags: ``(..., T', K, entries)`` each.

        Entry by entry, by what scores a step.
        """

        def of_entry(strictly, entry):
            stand_in = self._with_emission(LogProbabilityBelow, entry, strictly=strictly)
            stand_in.known_states = None
            return jnp.exp(stand_in._potentials(value)[2])

        entries = jnp.arange(math.prod(self.event_shape[1:]))
        return tuple(jnp.moveaxis(lax.map(partial(of_entry, strictly), entries), 0, -1) for strictly in (True, False))

    def _steps_with_cdf(self, value):
        return self.scored_steps(value)

    def _with_emission(self, change, *args, **kwargs):
        """This distribution with ``change(emission, ...)`` in place of the distribution that scores a step."""
        raise NotImplementedError

    def _mask_unscored(self, terms, value):
        return jnp.where(self.scored_steps(value), terms, 0.0)

    def sample_latents(self, key, value):
        """Draw the states given the data: ``{"states": int32 (..., T)}``; ``-1`` for steps that have no state."""
        states = self._apply(partial(messages.sample_path, method=self.method), value, core_ndim=1, key=key)
        return {"states": self._pad_front(self._reported_states(states), -1, 1)}

    def latent_mode(self, value):
        """The most likely state path: ``{"states": int32 (..., T)}``; ``-1`` for steps that have no state."""
        states = self._apply(partial(messages.most_likely_path, method=self.method), value, core_ndim=1)
        return {"states": self._pad_front(self._reported_states(states), -1, 1)}

    def latent_marginals(self, value, given="all"):
        """State probabilities given all the data, or given the data up to each step (``given="past"``).

        Returns ``{"state_probs": (..., T, K)}``; NaN for steps that have no state.
        """
        check_given(given)

        def core(*potentials):
            if given == "past":
                return jnp.exp(messages.hidden_markov_forward(*potentials, method=self.method).log_filtered)
            return messages.hidden_markov_smooth(*potentials, method=self.method).state_probs

        probs = self._reported_probs(self._apply(core, value, core_ndim=2))
        return {"state_probs": self._pad_front(probs, jnp.nan, 2)}
