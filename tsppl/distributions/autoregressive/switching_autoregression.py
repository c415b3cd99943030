"""What the switching autoregressions share: scoring residuals, missing lags, simulation and left-out terms."""

import copy
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from numpyro.distributions import constraints

from tsppl.distributions.autoregressive.left_out import left_out_terms
from tsppl.distributions.autoregressive.noise_density import noise_log_likelihoods
from tsppl.distributions.autoregressive.regression_rows import lagged_rows
from tsppl.distributions.emissions.drawing import select_state
from tsppl.distributions.hidden_markov.markov_switching import MarkovSwitching
from tsppl.distributions.shapes import broadcast_batches, broadcast_to_batch, check_noise_and_start, is_concrete
from tsppl.messages.autoregressive.conditional_means import (
    MAX_LEFT_OUT_PATHS,
    companion_eigenvalues,
    conditional_means,
    continue_series,
    impulse_response,
)


class SwitchingAutoregression(MarkovSwitching):
    """Base of the distributions in which ``y_t`` is linear in the steps before it, with noise and weights by state.

    A subclass supplies ``lag_weights``; ``noise`` with batch ``(..., K)``, or ``(..., rows, K)`` for the last ``rows``
    steps; ``initial`` or None; ``num_conditioned``.
    """

    pytree_data_fields = ("noise", "initial")
    pytree_aux_fields = ("num_conditioned",)

    def _store_autoregression(
        self, num_states, batches, rows, lags, num_conditioned, known_states, *, num_steps, time_varying
    ):
        """Check noise and start and store known states; returns the batch shape of all arguments.

        Args:
            batches: ``name -> batch shape`` of the other arguments.
            rows: ``name -> length of its time axis`` of those that may vary in time.
            lags: pair of the argument that gives the number of lags, and that number.
        """
        batches = batches | self._store_known_states(known_states, num_states, num_steps)
        distributions, self.num_conditioned = check_noise_and_start(
            self.noise,
            self.initial,
            num_conditioned,
            lags,
            num_states=num_states,
            num_steps=num_steps,
            time_varying=time_varying,
        )
        rows = rows | {"noise": num_steps}
        return broadcast_batches(batches | distributions, num_steps=num_steps, time_varying=time_varying, rows=rows)

    @property
    def support(self):
        """Real series."""
        return constraints.independent(constraints.real, self.event_dim)

    @property
    def lag_weights(self):
        """Weights of the lags, ``(..., K, L, N, N)``, or ``(..., T, K, L, N, N)`` where they vary; ``K`` may be 1."""
        raise NotImplementedError

    @property
    def num_lags(self):
        """Number of lags ``L``."""
        return self.lag_weights.shape[-3]

    @property
    def _first_state(self):
        return self.num_conditioned if self.initial is None else self.num_lags - 1

    def _as_matrix(self, series):
        return series if self.event_dim == 2 else series[..., None]

    def _as_event(self, matrix):
        return matrix if self.event_dim == 2 else matrix[..., 0]

    @property
    def weights_vary(self):
        """Whether the weights differ from step to step."""
        return "weights" in self.time_varying

    @property
    def noise_varies(self):
        """Whether the noise differs from step to step."""
        return "noise" in self.time_varying

    def _means(self, value):
        signature = "(t,k,l,n,n),(t,n)->(t,k,n)" if self.weights_vary else "(k,l,n,n),(t,n)->(t,k,n)"
        means = jnp.vectorize(conditional_means, signature=signature)(self.lag_weights, self._as_matrix(value))
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
        if self.weights_vary:
            raise ValueError(
                "weights vary in time, and the answer belongs to constant ones: ask a distribution with the weights of "
                "one step"
            )
        results = jnp.vectorize(function, signature=f"(l,n,n)->{output}")(self.lag_weights)
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

    def _log_likelihoods(self, value, chain):
        value, entries = self._observed_value(value)
        log_likelihoods = self._step_log_likelihoods(value, entries)
        if self.initial is not None:
            block = self._initial_log_likelihoods(value)
            lead = lax.broadcast_shapes(block.shape[:-1], log_likelihoods.shape[:-2])
            log_likelihoods = jnp.broadcast_to(log_likelihoods, lead + log_likelihoods.shape[-2:])
            log_likelihoods = log_likelihoods.at[..., self.num_lags - 1, :].set(block)
        scored = self._scored()
        return self._restricted(jnp.where(scored[..., None], log_likelihoods, 0.0)[..., self._first_state :, :])

    def _step_log_likelihoods(self, value, entries):
        """Log density of every step given its lags, ``(..., T, K)``; ``entries`` were observed."""
        residuals = self._as_matrix(value)[..., None, :] - self._means(value)
        return self._residual_log_likelihoods(residuals, entries)

    def regression_rows(self, value, lead=()):
        """As in the base class: on the lags, lag by lag, and a constant."""
        value, entries = self._observed_value(value)
        series = jnp.broadcast_to(value, lead + self.event_shape)
        observed = None
        if self.observed_mask is not None and self.event_dim == 2:
            observed = jnp.broadcast_to(entries, series.shape)
        first = max(self._first_state, self.num_lags)
        scored = jnp.broadcast_to(self._scored()[..., first:], lead + (self.num_steps - first,))
        return lagged_rows(self._as_matrix(series), scored, observed, self.num_lags)

    def _residual_log_likelihoods(self, residuals, entries):
        """Density of additive noise at ``residuals``, ``(..., T, K, N)``."""
        event_dim = self.event_dim - 1
        observed = entries if self.observed_mask is not None and event_dim else None
        return noise_log_likelihoods(
            self.noise, self._as_event(residuals), observed, event_dim=event_dim, varies=self.noise_varies
        )

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
        first = random.categorical(state_key, self.log_initial_probs, shape=lead).astype(jnp.int32)
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

    def _continue(self, key, value, states, num_given, sample_shape, first=None):
        """Simulate what follows the first ``num_given`` steps; the chain starts at ``first``, that scored first if None."""
        first = self._first_state if first is None else first
        noise_key, state_key = random.split(key)
        lead = states.shape[:-1]
        num_steps, num_states = self.num_steps, self.num_states
        if self.noise_varies:
            rows = self.noise.batch_shape[-2]
            noise = self.noise.expand(self.batch_shape + (rows, num_states)).sample(noise_key, sample_shape)
        else:
            rows = num_steps
            noise = self.noise.expand(self.batch_shape + (num_states,)).sample(noise_key, sample_shape + (rows,))
            noise = jnp.moveaxis(noise, len(sample_shape), len(lead))
        weights = self.lag_weights
        dtype = jnp.result_type(value, weights)  # some families of NumPyro draw float64 whatever their parameters
        value, noise = self._as_matrix(value).astype(dtype), self._as_matrix(noise).astype(dtype)
        noise = jnp.pad(noise, [(0, 0)] * len(lead) + [(num_steps - rows, 0), (0, 0), (0, 0)])
        state_noise = random.gumbel(state_key, lead + (num_steps, num_states), noise.dtype)
        arrays, structure = jax.tree.flatten(self.transitions)

        def core(log_initial, weights, noise, state_noise, values, states, num_given, *arrays):
            return continue_series(
                log_initial,
                structure.unflatten(arrays).into,
                weights,
                noise,
                state_noise,
                values,
                states,
                first=first,
                num_given=num_given,
            )

        weights_signature = "(t,k,l,n,n)" if self.weights_vary else "(k,l,n,n)"
        signature = f"(k),{weights_signature},(t,k,n),(t,k),(t,n),(t),(),{self.transitions.signature}->(t,n),(t)"
        weights = jnp.broadcast_to(weights, weights.shape[:-4] + (num_states,) + weights.shape[-3:])
        value, states = jnp.vectorize(core, signature=signature)(
            self.log_initial_probs, weights, noise, state_noise, value, states, num_given, *arrays
        )
        return self._as_event(value), {"states": states}

    def log_prob_left_out(self, value):
        """``log p(y_t | all other observations)``, exact for Gaussian noise while ``K^(L+1)`` is at most 1024.

        Raises:
            NotImplementedError: for other noise, more state paths, transitions that depend on the series, or a joint
                ``initial`` of several lags.
        """
        self._check_left_out()
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
        terms = left_out_terms(self, self.check_value(value))
        terms = self._pad_front(broadcast_to_batch(terms, self.batch_shape, 1), 0.0, 1)
        return self._mask_unscored(terms, value)
