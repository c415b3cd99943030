"""What the switching autoregressions share: scoring residuals, missing lags, simulation and left-out terms."""

import copy
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from numpyro.distributions import constraints

from tsppl.distributions.emissions.drawing import select_state
from tsppl.distributions.emissions.scoring import against_batch, partial_log_prob
from tsppl.distributions.gaussian_parameters import gaussian_by_step
from tsppl.distributions.hidden_markov.markov_switching import MarkovSwitching
from tsppl.distributions.shapes import broadcast_to_batch, is_concrete
from tsppl.messages.autoregressive.conditional_means import (
    MAX_LEFT_OUT_PATHS,
    companion_eigenvalues,
    conditional_means,
    continue_series,
    impulse_response,
    left_out_autoregressive,
)


class SwitchingAutoregression(MarkovSwitching):
    """Base of the distributions in which ``y_t`` is linear in the steps before it, with noise and weights by state.

    A subclass supplies ``_lag_weights``, ``(..., K, L, N, N)`` or with ``T`` rows in front of ``K``; ``noise`` with
    batch ``(..., K)``, or ``(..., rows, K)`` for the last ``rows`` steps; ``initial`` or None; ``num_conditioned``.
    """

    pytree_data_fields = ("noise", "initial")
    pytree_aux_fields = ("num_conditioned",)

    @property
    def support(self):
        """Real series."""
        return constraints.independent(constraints.real, self.event_dim)

    @property
    def num_lags(self):
        """Number of lags ``L``."""
        return self._lag_weights.shape[-3]

    @property
    def _first_state(self):
        return self.num_conditioned if self.initial is None else self.num_lags - 1

    @property
    def _first_of_chain(self):
        """First step that has a state, which may be earlier than the first that is scored."""
        return self._first_state

    def _as_matrix(self, series):
        return series if self.event_dim == 2 else series[..., None]

    def _as_event(self, matrix):
        return matrix if self.event_dim == 2 else matrix[..., 0]

    @property
    def _weights_vary(self):
        return "weights" in self.time_varying

    @property
    def _noise_varies(self):
        return "noise" in self.time_varying

    def _means(self, value):
        signature = "(t,k,l,n,n),(t,n)->(t,k,n)" if self._weights_vary else "(k,l,n,n),(t,n)->(t,k,n)"
        means = jnp.vectorize(conditional_means, signature=signature)(self._lag_weights, self._as_matrix(value))
        return jnp.broadcast_to(means, means.shape[:-2] + (self.num_states, means.shape[-1]))

    def impulse_response(self, num_steps):
        """Response of each state's autoregression to a unit impulse, as if the state stayed: ``Phi_0 = I``, ``Phi_h =
        sum_l weights[k, l] @ Phi_{h-1-l}``.

        Args:
            num_steps: number of steps after the impulse.

        Returns:
            ``(..., K, num_steps + 1, N, N)``: entry ``[k, h, i, j]`` is the response of channel ``i``, ``h`` steps after an
            impulse to channel ``j``, in state ``k``; ``(..., K, num_steps + 1)`` for a scalar series.

        Raises:
            ValueError: if the weights vary in time.
        """
        responses = self._of_each_state(partial(impulse_response, num_steps=num_steps), "(h,n,n)", 3)
        return responses if self.event_dim == 2 else responses[..., 0, 0]

    def companion_eigenvalues(self):
        """Eigenvalues of each state's companion matrix: complex ``(..., K, N L)``.

        A state whose eigenvalues all lie inside the unit circle is stable.

        Raises:
            ValueError: if the weights vary in time.
        """
        return self._of_each_state(companion_eigenvalues, "(m)", 1)

    def _of_each_state(self, function, output, core_ndim):
        """``function`` of the weights ``(L, N, N)`` of each state, over the batch."""
        if self._weights_vary:
            raise ValueError(
                "weights vary in time, and the answer belongs to constant ones: ask a distribution with the weights of "
                "one step"
            )
        results = jnp.vectorize(function, signature=f"(l,n,n)->{output}")(self._lag_weights)
        return broadcast_to_batch(results, self.batch_shape + (self.num_states,), core_ndim)

    def _observed_value(self, value):
        """The value with zeros where nothing was observed, and its observed entries (None if all were)."""
        entries = self.observed_entries()
        return (value if entries is None else jnp.where(entries, value, 0)), entries

    def scored_steps(self, value):
        """Observed steps all of whose lags were observed, and steps whose state is known: bool ``(..., T)``."""
        return self._of_series(value, self._scored_or_known(self._scored(), self._first_state))

    def _of_series(self, value, steps):
        """``steps`` for every series of a value."""
        lead = jnp.shape(value)[: jnp.ndim(value) - self.event_dim]
        return jnp.broadcast_to(steps, jnp.broadcast_shapes(lead, self.batch_shape) + (self.num_steps,))

    def _whole_steps(self):
        entries = self.observed_entries()
        if entries is None:
            return jnp.ones((self.num_steps,), bool)
        return entries.all(tuple(range(entries.ndim - self.event_dim + 1, entries.ndim)))

    def _scored(self):
        num_lags, num_steps = self.num_lags, self.num_steps
        if self.observed_mask is None and self.lengths is None:
            return jnp.asarray(np.arange(num_steps) >= self._first_state)
        whole = self._whole_steps()
        lags_whole = jnp.stack([whole[..., num_lags - 1 - lag : num_steps - 1 - lag] for lag in range(num_lags)]).all(0)
        before = jnp.zeros(whole.shape[:-1] + (num_lags,), bool)
        if self.initial is not None:
            before = before.at[..., -1].set(whole[..., :num_lags].all(-1))
        scored = jnp.concatenate([before, lags_whole & self.observed_steps()[..., num_lags:]], -1)
        return scored & (jnp.arange(num_steps) >= self._first_state)

    def _warn_if_nothing_is_scored(self):
        if self.observed_mask is None and self.lengths is None or not is_concrete(self.observed_mask, self.lengths):
            return
        with jax.ensure_compile_time_eval():
            silent = np.asarray(self.observed_steps().any(-1) & ~self._scored().any(-1))
        if silent.any():
            sequence = int(np.argwhere(np.atleast_1d(silent))[0][0])
            warnings.warn(
                f"sequence {sequence} has no run of {self.num_lags + 1} consecutive observed steps: it contributes "
                "nothing",
                stacklevel=3,
            )

    def _steps_with_cdf(self, value):
        """Steps whose observation is scored, without the last of a joint ``initial`` of the first steps."""
        scored = self._scored()
        if self.initial is not None:
            scored &= jnp.arange(self.num_steps) >= self.num_lags
        return self._of_series(value, scored)

    def _with_emission(self, change, *args, **kwargs):
        changed = copy.copy(self)
        changed.noise = change(self.noise, *args, **kwargs)
        return changed

    def _potentials(self, value):
        value, entries = self._observed_value(value)
        log_likelihoods = self._step_log_likelihoods(value, entries)
        if self.initial is not None:
            block = self._initial_log_likelihoods(value)
            lead = lax.broadcast_shapes(block.shape[:-1], log_likelihoods.shape[:-2])
            log_likelihoods = jnp.broadcast_to(log_likelihoods, lead + log_likelihoods.shape[-2:])
            log_likelihoods = log_likelihoods.at[..., self.num_lags - 1, :].set(block)
        scored = self._scored()
        log_likelihoods = jnp.where(scored[..., None], log_likelihoods, 0.0)[..., self._first_state :, :]
        return self._log_initial, self._log_transition_given(value), self._restricted(log_likelihoods)

    def _step_log_likelihoods(self, value, entries):
        """Log density of every step given its lags, ``(..., T, K)``; ``entries`` were observed."""
        residuals = self._as_matrix(value)[..., None, :] - self._means(value)
        return self._residual_log_likelihoods(residuals, entries)

    def _log_transition_given(self, value):
        """Log transitions between the steps that have a state."""
        return self._log_transition[..., self._first_state :, :, :] if self._transitions_vary else self._log_transition

    def _residual_log_likelihoods(self, residuals, entries):
        """Density of additive noise at ``residuals``, ``(..., T, K, N)``."""
        residuals = self._as_event(residuals)
        event_dim = self.event_dim - 1
        elementwise = self.observed_mask is not None and entries is not None and event_dim > 0
        observed = None
        if elementwise:
            observed = jnp.expand_dims(entries, entries.ndim - event_dim)
            lead = lax.broadcast_shapes(observed.shape, residuals.shape)
            observed, residuals = jnp.broadcast_to(observed, lead), jnp.broadcast_to(residuals, lead)

        def score(residuals, observed):
            if observed is None:
                return self.noise.log_prob(residuals)
            return partial_log_prob(self.noise, residuals, observed)

        time_axis = residuals.ndim - event_dim - 2
        if self._noise_varies:
            skipped = self.num_steps - self.noise.batch_shape[-2]
            kept = [
                None if a is None else lax.slice_in_dim(a, skipped, None, axis=time_axis) for a in (residuals, observed)
            ]
            log_prob = score(*(None if a is None else against_batch(a, self.noise) for a in kept))
            return jnp.pad(log_prob, [(0, 0)] * (log_prob.ndim - 2) + [(skipped, 0), (0, 0)])
        absent = (1,) * max(len(self.noise.batch_shape) - 1 - time_axis, 0)
        time_axis += len(absent)
        front = [
            None if a is None else jnp.moveaxis(a.reshape(absent + a.shape), time_axis, 0)
            for a in (residuals, observed)
        ]
        return jnp.moveaxis(score(*(None if a is None else against_batch(a, self.noise) for a in front)), 0, -2)

    def _initial_log_likelihoods(self, value):
        """Density of the first ``L`` steps in each state, ``(..., K)``."""
        num_lags, event_dim = self.num_lags, self.event_dim - 1
        block = lax.slice_in_dim(value, 0, num_lags, axis=value.ndim - event_dim - 1)
        if self.initial.event_dim == event_dim:
            block = jnp.squeeze(block, block.ndim - event_dim - 1)
        log_prob = self.initial.log_prob(jnp.expand_dims(block, block.ndim - self.initial.event_dim))
        return jnp.broadcast_to(log_prob, log_prob.shape[:-1] + (self.num_states,))

    def sample_with_latents(self, key, sample_shape=()):
        """Draw ``(value, {"states": ...})`` together.

        Raises:
            NotImplementedError: if ``initial`` is None, for then the first steps have no distribution.
        """
        if self.initial is None:
            raise NotImplementedError(
                f"{type(self).__name__} without `initial` is a density given the first {self.num_conditioned} steps and "
                "cannot be sampled: pass initial=, or use forecast(key, value, num_steps)"
            )
        state_key, initial_key, key = random.split(key, 3)
        if self.known_states is not None:
            raise NotImplementedError(
                f"{type(self).__name__} with known_states cannot be sampled from its beginning: leave known_states out, or "
                "use forecast(key, value, num_steps)"
            )
        sample_shape, num_lags = tuple(sample_shape), self.num_lags
        lead = sample_shape + self.batch_shape
        first = random.categorical(state_key, self._log_initial, shape=lead).astype(jnp.int32)
        blocks = self.initial.expand(self.batch_shape + (self.num_states,)).sample(initial_key, sample_shape)
        blocks = blocks.reshape(lead + (1, self.num_states, num_lags) + self.event_shape[1:])
        block = jnp.squeeze(select_state(blocks, first[..., None], self.event_dim), len(lead))
        later = self.num_steps - num_lags
        value = jnp.concatenate([block, jnp.zeros(lead + (later,) + self.event_shape[1:], block.dtype)], len(lead))
        states = jnp.full(lead + (self.num_steps,), -1, jnp.int32).at[..., num_lags - 1].set(first)
        return self._continue(key, value, states, jnp.full((), num_lags), sample_shape)

    def _completion(self, key, value):
        if self.observed_mask is not None:
            raise NotImplementedError(
                f"{type(self).__name__} cannot draw steps that are missing inside a series, because a step with a missing "
                "lag is not scored; steps after `lengths` it can. With one state, LinearGaussianSSM in companion form can"
            )
        states_key, key = random.split(key)
        states = self.sample_latents(states_key, value)["states"]
        value = jnp.broadcast_to(value, states.shape[:-1] + self.event_shape)
        if self.lengths is None:
            return value, {"states": states}
        lead = states.shape[:-1]
        return self._continue(key, value, states, self.lengths, lead[: len(lead) - len(self.batch_shape)])

    def _continue(self, key, value, states, num_given, sample_shape):
        """Simulate what follows the first ``num_given`` steps."""
        noise_key, state_key = random.split(key)
        lead = states.shape[:-1]
        num_steps, num_states = self.num_steps, self.num_states
        if self._noise_varies:
            rows = self.noise.batch_shape[-2]
            noise = self.noise.expand(self.batch_shape + (rows, num_states)).sample(noise_key, sample_shape)
        else:
            rows = num_steps
            noise = self.noise.expand(self.batch_shape + (num_states,)).sample(noise_key, sample_shape + (rows,))
            noise = jnp.moveaxis(noise, len(sample_shape), len(lead))
        weights = self._lag_weights
        dtype = jnp.result_type(value, weights)  # some families of NumPyro draw float64 whatever their parameters
        value, noise = self._as_matrix(value).astype(dtype), self._as_matrix(noise).astype(dtype)
        noise = jnp.pad(noise, [(0, 0)] * len(lead) + [(num_steps - rows, 0), (0, 0), (0, 0)])
        state_noise = random.gumbel(state_key, lead + (num_steps, num_states), noise.dtype)
        transitions, transition_signature = self._transition_arrays()

        def core(log_initial, weights, noise, state_noise, values, states, num_given, *transitions):
            return continue_series(
                log_initial,
                self._transition_function(*transitions),
                weights,
                noise,
                state_noise,
                values,
                states,
                first=self._first_of_chain,
                num_given=num_given,
            )

        weights_signature = "(t,k,l,n,n)" if self._weights_vary else "(k,l,n,n)"
        signature = f"(k),{weights_signature},(t,k,n),(t,k),(t,n),(t),(),{transition_signature}->(t,n),(t)"
        weights = jnp.broadcast_to(weights, weights.shape[:-4] + (num_states,) + weights.shape[-3:])
        value, states = jnp.vectorize(core, signature=signature)(
            self._log_initial, weights, noise, state_noise, value, states, num_given, *transitions
        )
        return self._as_event(value), {"states": states}

    def _transition_arrays(self):
        return (self._log_transition,), "(s,k,k)" if self._transitions_vary else "(k,k)"

    def _transition_function(self, log_transition):
        """Log transitions into step ``t`` given ``y[t-1]``."""
        if self._transitions_vary:
            return lambda t, previous: log_transition[jnp.maximum(t - 1, 0)]
        return lambda t, previous: log_transition

    def log_prob_left_out(self, value):
        """``log p(y_t | all other observations)``, exact for Gaussian noise while ``K^(L+1)`` is at most 1024.

        Raises:
            NotImplementedError: for other noise, more state paths, transitions that depend on the series, or a joint
                ``initial`` of several lags.
        """
        if self.known_states is not None:
            raise NotImplementedError(
                "there are no exact left-out terms with known_states; log_prob_steps gives one-step-ahead terms, which "
                "answer another question"
            )
        num_paths = self.num_states ** (self.num_lags + 1)
        if num_paths > MAX_LEFT_OUT_PATHS:
            raise NotImplementedError(
                f"exact left-out terms need K^(L+1) = {num_paths} state paths per step, more than {MAX_LEFT_OUT_PATHS}; "
                "log_prob_steps gives one-step-ahead terms, which answer another question"
            )
        if self.initial is not None and self.num_lags > 1:
            raise NotImplementedError(
                "exact left-out terms need initial=None, or one lag; log_prob_steps gives one-step-ahead terms, which answer "
                "another question"
            )
        value = self.check_value(value)
        filled = self._as_matrix(self._observed_value(value)[0])
        rows = (self.num_steps, self.num_states)
        loc, scale_tril = gaussian_by_step("noise", self.noise, self.num_steps, varies=self._noise_varies)
        residuals = filled[..., None, :] - self._means(self._as_event(filled)) - loc
        scale_tril = jnp.broadcast_to(scale_tril, scale_tril.shape[:-4] + rows + scale_tril.shape[-2:])
        if self.initial is not None:
            start, start_scale_tril = gaussian_by_step("initial", self.initial, self.num_steps)
            is_start = (jnp.arange(self.num_steps) == 0)[:, None, None]
            residuals = jnp.where(is_start, filled[..., None, :] - start, residuals)
            scale_tril = jnp.where(is_start[..., None], start_scale_tril, scale_tril)
        weights = self._lag_weights if self._weights_vary else self._lag_weights[..., None, :, :, :, :]
        weights = jnp.broadcast_to(weights, weights.shape[:-5] + rows + weights.shape[-3:])
        log_initial, log_transition, log_likelihoods = self._potentials(value)
        transition_signature = "(s,k,k)" if self._transitions_vary else "(k,k)"
        first = self._first_state
        terms = jnp.vectorize(
            partial(left_out_autoregressive, method=self.method),
            signature=f"(k),{transition_signature},(t,k),(t,k,n),(t,k,n,n),(t,k,l,n,n),(t),(t)->(t)",
        )(
            log_initial,
            log_transition,
            log_likelihoods,
            residuals[..., first:, :, :],
            scale_tril[..., first:, :, :, :],
            weights[..., first:, :, :, :, :],
            self._scored()[..., first:],
            self._whole_steps()[..., first:],
        )
        terms = self._pad_front(broadcast_to_batch(terms, self.batch_shape, 1), 0.0, 1)
        return self._mask_unscored(terms, value)
