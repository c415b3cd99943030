"""What every distribution with a hidden Markov state answers, given its chain and the log-likelihoods of the states."""

import math
from functools import partial

import jax.numpy as jnp
from jax import lax

from tsppl import messages
from tsppl.distributions.emissions.marginal_cdf import LogProbabilityBelow
from tsppl.distributions.hidden_markov.chain_parameters import MarkovChainParameters
from tsppl.distributions.hidden_markov.known_states import check_known_states
from tsppl.distributions.hidden_markov.state_chain import StateChain
from tsppl.distributions.sequence import SequenceDistribution
from tsppl.distributions.shapes import broadcast_to_batch, check_given, split_keys


class MarkovSwitching(MarkovChainParameters, SequenceDistribution):
    """Base of the distributions whose hidden part is a Markov chain that is summed out.

    A subclass supplies ``_log_likelihoods(value, chain)``, ``(..., T', K')``: the log density of each of the last ``T'``
    steps in each state of the chain; the ``_first_state`` steps before have no state. Where the Markov chain is larger than
    the states that people ask for (a state and its age, a state and those before it), it supplies ``state_chain`` too.

    Beside the questions of :class:`~tsppl.distributions.SequenceDistribution` there are those of the *complete-data
    protocol*, about the series together with its states, which EM, starting points, Gibbs blocks and ``check_model`` ask:

    ============================== ==============================================================================
    ``num_states``                 ``K``, number of the states that are reported
    ``log_initial_probs``          ``(..., K)``, of the parameters as they were given
    ``log_transition_probs``       ``(..., K, K)``, or ``(..., T-1, K, K)``
    ``transitions_vary``           whether the transitions differ from step to step
    ``state_chain(value)``         the :class:`~tsppl.distributions.hidden_markov.state_chain.StateChain`
    ``has_plain_states``           whether the states of the chain are those that are reported
    ``potentials(value)``          the chain's ``(..., K')`` and ``(..., K', K')`` or ``(..., T'-1, K', K')``, and
                                   log-likelihoods ``(..., T', K')`` of the last ``T'`` steps
    ``complete_log_prob``          ``(value, states) -> log p(y, z)``, one number for each series
    ``regression_rows(value)``     rows of the regression on the past, or on a constant
    ============================== ==============================================================================

    Autoregressions answer ``lag_weights``, ``weights_vary`` and ``noise_varies`` too.
    """

    pytree_data_fields = (*MarkovChainParameters.pytree_data_fields, "known_states")
    known_states = None
    _first_state = 0

    def _log_likelihoods(self, value, chain):
        raise NotImplementedError

    def state_chain(self, value=None) -> StateChain:
        """The Markov chain that is summed out; ``value`` is looked at where the transitions depend on the series.

        Made anew from the parameters whenever it is asked for: a stored one would be a second copy of every parameter in
        the pytree, and stale once EM, a plate or ``jax.tree.map`` puts others in their place.
        """
        transitions = self.transitions
        if transitions.reads_series and self.observed_mask is not None:
            raise NotImplementedError(
                f"the transitions of this {type(self).__name__} depend on the series, so that all of it up to its end must be "
                "observed: leave the mask out"
            )
        if transitions.reads_series and self.lengths is not None and value is not None:
            value = jnp.where(
                self.observed_entries(), value, 0
            )  # moves after the end change nothing, if they are numbers
        along = transitions.along(value, self._first_state)
        return StateChain(self.log_initial_probs, along, None, transitions.varies)

    @property
    def has_plain_states(self):
        """Whether the chain is one of the reported states themselves, not of states with their ages or lags."""
        return self.state_chain(jnp.zeros(self.event_shape)).reported is None

    def potentials(self, value):
        """Log-probabilities of the chain and log-likelihoods of its states, which messages take.

        Returns:
            log initial ``(..., K')``, log transitions ``(..., K', K')`` or ``(..., T'-1, K', K')``, and log-likelihoods
            ``(..., T', K')`` of the last ``T'`` steps; earlier steps have no state.
        """
        value = self.check_value(value)
        chain = self.state_chain(value)
        return chain.log_initial, chain.log_transition, self._log_likelihoods(value, chain)

    def complete_log_prob(self, value, states):
        """``log p(y, z)`` of each series, ``(...)``; transitions into steps after its end do not count.

        Args:
            value: as for ``log_prob``.
            states: int ``(..., T)``; those of steps that have no state are not looked at.

        Raises:
            NotImplementedError: if the states are not those of a Markov chain themselves.

        >>> import jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
        >>> emission = dist.Bernoulli(jnp.array([0.5, 0.5]))
        >>> model = tsd.HiddenMarkov(jnp.array([0.4, 0.6]), jnp.full((2, 2), 0.5), emission, num_steps=2)
        >>> jnp.exp(model.complete_log_prob(jnp.array([1, 0]), jnp.array([1, 0]))).round(3).item()
        0.075
        """
        value = self.check_value(value)
        chain = self.state_chain(value)
        if chain.reported is not None:
            raise NotImplementedError(
                f"the states of a {type(self).__name__} are no Markov chain by themselves, so there is no density of a path "
                "of them here: sample_latents draws such paths"
            )
        ends = self.num_steps if self.lengths is None else self.lengths

        def core(log_initial, log_transition, log_likelihoods, states, end):
            steps = jnp.arange(len(states))
            moves = (steps[:-1],) if log_transition.ndim == 3 else ()
            transitions = log_transition[(*moves, states[:-1], states[1:])]
            counted = self._first_state + steps[1:] < end
            moved = jnp.where(counted, transitions, 0.0).sum()
            return log_initial[states[0]] + moved + log_likelihoods[steps, states].sum()

        return jnp.vectorize(core, signature=f"{chain.signature},(t,k),(t),()->()")(
            *chain[:2], self._log_likelihoods(value, chain), states[..., self._first_state :], ends
        )

    def regression_rows(self, value, lead=()):
        """Rows of the regression of each step on its past, or on a constant, all steps of all series in one axis.

        Args:
            value: as for ``log_prob``.
            lead: batch of the series.

        Returns:
            :class:`~tsppl.distributions.hidden_markov.steps.RegressionRows`.

        Raises:
            NotImplementedError: if a step is no regression of a vector.
        """
        raise NotImplementedError(
            f"the steps of a {type(self).__name__} of event shape {self.event_shape} are no vectors with a mean that is linear "
            "in their past, given their states"
        )

    def _store_known_states(self, known_states, num_states, num_steps):
        """Store states that were observed; returns their batch shape by name."""
        if known_states is None:
            return {}
        self.known_states = check_known_states(known_states, num_states, num_steps)
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

    def scored_steps(self, value):
        """Steps that have a log-probability of their own: bool ``(..., T)``."""
        raise NotImplementedError

    def _apply(self, core, value, *, core_ndim, key=None):
        """Run ``core(log_initial, log_transition, log_likelihoods)``, or with a key first, over the whole batch.

        Returns:
            the result, and the chain that it is about.
        """
        value = self.check_value(value)
        chain = self.state_chain(value)
        potentials = (*chain[:2], self._log_likelihoods(value, chain))
        dtype = jnp.result_type(*potentials)
        potentials = [potential.astype(dtype) for potential in potentials]
        signature, outputs = f"{chain.signature},(t,k)", {0: "()", 1: "(t)", 2: "(t,k)"}[core_ndim]
        if key is None:
            result = jnp.vectorize(core, signature=f"{signature}->{outputs}")(*potentials)
            return broadcast_to_batch(result, self.batch_shape, core_ndim), chain
        lead = lax.broadcast_shapes(potentials[2].shape[:-2], self.batch_shape)
        draw = jnp.vectorize(core, signature=f"(),{signature}->{outputs}")
        return draw(split_keys(key, lead), *potentials), chain

    def _pad_front(self, array, fill, core_ndim):
        """Give the steps that have no state the value ``fill``, so that the time axis has ``T`` entries."""
        axis = array.ndim - core_ndim
        missing = self.num_steps - array.shape[axis]
        padding = [(missing if i == axis else 0, 0) for i in range(array.ndim)]
        return jnp.pad(array, padding, constant_values=fill) if missing else array

    def log_prob(self, value, intermediates=None):
        """Log density of the observed entries, states summed out."""
        return self._apply(partial(messages.log_normalizer, method=self.method), value, core_ndim=0)[0]

    def log_prob_steps(self, value):
        """``log p(y_t | y_<t)``, zero where not scored; sums to ``log_prob(value)``."""

        def core(*potentials):
            return messages.hidden_markov_forward(*potentials, method=self.method).log_normalizers

        return self._mask_unscored(self._pad_front(self._apply(core, value, core_ndim=1)[0], 0.0, 1), value)

    def log_prob_left_out(self, value):
        """``log p(y_t | all other observations)``, zero where not scored.

        Raises:
            NotImplementedError: if the transitions depend on the series.
        """
        self._check_left_out()
        terms, _ = self._apply(partial(messages.hidden_markov_left_out, method=self.method), value, core_ndim=1)
        return self._mask_unscored(self._pad_front(terms, 0.0, 1), value)

    def _check_left_out(self):
        if self.transitions.reads_series:
            raise NotImplementedError(
                "recurrent transitions depend on the series, so the left-out terms have no closed form; log_prob_steps gives "
                "one-step-ahead terms, which answer another question"
            )

    def cdf_steps(self, value):
        """``(P(Y_t < y_t | y_<t), P(Y_t <= y_t | y_<t))`` of every entry on its own; NaN where not scored.

        Those of the emission, weighted by the probabilities of the states given the past (Zucchini and MacDonald 2009,
        section 6.2). Known states count as past only.
        """
        value = self.check_value(value)

        def predicted(*potentials):
            return jnp.exp(messages.hidden_markov_forward(*potentials, method=self.method).log_predicted)

        probs, chain = self._apply(predicted, value, core_ndim=2)
        probs = probs[..., None]
        observed, entries = self._steps_with_cdf(value), self.observed_entries()
        observed = observed.reshape(observed.shape + (1,) * (self.event_dim - 1))
        observed = observed if entries is None else observed & entries

        def mix(given_state):
            mixed = self._pad_front((probs * given_state).sum(-2), jnp.nan, 2)
            mixed = mixed.reshape(mixed.shape[:-1] + self.event_shape[1:])
            return jnp.where(observed, jnp.clip(mixed, 0.0, 1.0), jnp.nan)

        return tuple(mix(given_state) for given_state in self._cdf_given_states(value, chain))

    def _cdf_given_states(self, value, chain):
        """Less than, and at most, each entry in each state of the chain, given the lags: ``(..., T', K', entries)`` each.

        Entry by entry, by what scores a step.
        """

        def of_entry(strictly, entry):
            stand_in = self._with_emission(LogProbabilityBelow, entry, strictly=strictly)
            stand_in.known_states = None
            return jnp.exp(stand_in._log_likelihoods(value, chain))

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
        path, chain = self._apply(partial(messages.sample_path, method=self.method), value, core_ndim=1, key=key)
        return {"states": self._whole_path(path, chain)}

    def _whole_path(self, path, chain):
        """States ``(..., T)`` of a path of the chain, ``-1`` for steps that have no state."""
        return self._pad_front(chain.reported_path(path), -1, 1)

    def latent_mode(self, value):
        """The most likely state path: ``{"states": int32 (..., T)}``; ``-1`` for steps that have no state."""
        path, chain = self._apply(partial(messages.most_likely_path, method=self.method), value, core_ndim=1)
        return {"states": self._whole_path(path, chain)}

    def latent_marginals(self, value, given="all"):
        """State probabilities given all the data, or given the data up to each step (``given="past"``).

        Returns ``{"state_probs": (..., T, K)}``; NaN for steps that have no state.
        """
        probs, chain = self._chain_marginals(value, given)
        return {"state_probs": self._pad_front(chain.reported_probs(probs), jnp.nan, 2)}

    def _chain_marginals(self, value, given):
        """Probabilities of the states of the chain, ``(..., T', K')``, and the chain."""
        check_given(given)

        def core(*potentials):
            if given == "past":
                return jnp.exp(messages.hidden_markov_forward(*potentials, method=self.method).log_filtered)
            return messages.hidden_markov_smooth(*potentials, method=self.method).state_probs

        return self._apply(core, value, core_ndim=2)
