"""Hamilton's autoregression around a mean that switches, as a distribution over the observed series."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from tsppl.distributions.autoregressive.dense_weights import check_weights
from tsppl.distributions.autoregressive.switching_autoregression import SwitchingAutoregression
from tsppl.distributions.hidden_markov.markov_switching import MarkovSwitching
from tsppl.distributions.hidden_markov.state_chain import StateChain
from tsppl.distributions.shapes import parameter_batch
from tsppl.distributions.wrappers import as_distribution
from tsppl.messages.hidden_markov.joint_states import chain_of_joint_states, joint_states

MAX_JOINT_STATES = 1024


class MeanSwitchingAutoregression(SwitchingAutoregression):
    """An autoregression of the deviations from a mean that a hidden Markov state chooses; the states are summed out.

    ``y_t - means[z_t] = sum_l weights[z_t, l] @ (y[t-1-l] - means[z_{t-1-l}]) + noise[z_t]`` (Hamilton 1989,
    Econometrica 57, eq. 2.4 and 4.3), the mean-adjusted form of econometrics. When the state changes, the series moves to its new mean
    at once; in the intercept form of :class:`AutoregressiveHMM` it approaches it over many steps. The two have other
    likelihoods and other estimates.

    A step depends on its own state and on those of its ``L`` lags, which are summed out together, ``K^(L+1)`` of them:
    a step costs the square of that.

    Args:
        initial_probs: probabilities of the state of step ``num_conditioned - L``, the first that counts; ``(..., K)``.
        transition_probs: ``(..., K, K)``, or ``(..., T-1, K, K)``: row ``t`` moves ``z_t`` to ``z_{t+1}``.
        means: ``(..., K, N)``; ``(..., K)`` for a scalar series.
        weights: ``(..., K, L, N, N)``, or ``(..., K, L)`` for a scalar series; ``K`` may be 1. Index 0 is lag 1.
        noise: distribution with batch ``(..., K)``, ``(..., 1)`` or ``()`` and event ``(N,)``, or ``()`` for a scalar
            series; its location is commonly zero.
        num_steps: number of steps ``T``, the first ``L`` included.
        num_conditioned: number of first steps that are given, ``L`` by default; the density is that of the others.
        initial_logits, transition_logits: alternatives to the probabilities.
        time_varying: ``("transition_probs",)`` if the transitions carry a time axis (Filardo 1994).
        mask, lengths, known_states, method: as in :class:`AutoregressiveHMM`; labels of the ``L`` steps before the first one
            scored count too, in its term.

    Raises:
        ValueError: on shapes that do not fit, or if ``K^(L+1)`` is above 1024.

    >>> import jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> probs, means = jnp.array([[0.8, 0.2], [0.1, 0.9]]), jnp.array([-1.0, 1.0])
    >>> model = tsd.MeanSwitchingAutoregression(
    ...     jnp.full(2, 0.5), probs, means, jnp.array([[0.3]]), dist.Normal(0.0, 0.4), num_steps=5
    ... )
    >>> model.latent_mode(jnp.array([1.1, 0.8, -0.9, -1.2, 0.9]))["states"].tolist()
    [1, 1, 0, 0, 1]
    """

    pytree_data_fields = ("means", "weights")

    def __init__(
        self,
        initial_probs=None,
        transition_probs=None,
        means=None,
        weights=None,
        noise=None,
        *,
        num_steps,
        num_conditioned=None,
        initial_logits=None,
        transition_logits=None,
        time_varying=(),
        mask=None,
        lengths=None,
        known_states=None,
        method="auto",
        validate_args=None,
    ):
        self.means = jnp.asarray(means)
        if not set(time_varying) <= {"transition_probs", "transition_logits"}:
            raise ValueError(
                f"time_varying is {tuple(time_varying)}: only the transitions of a MeanSwitchingAutoregression can vary in "
                "time"
            )
        self.weights, self.noise, self.initial = jnp.asarray(weights), as_distribution("noise", noise), None
        num_states, batches, rows, varying = self._store_chain(
            initial_probs, transition_probs, initial_logits, transition_logits, num_steps, tuple(time_varying)
        )
        step_shape = self.noise.event_shape
        steps = {"num_steps": num_steps, "time_varying": varying}
        batches["weights"], num_lags = check_weights(self.weights, step_shape, num_states, **steps)
        batches["means"] = parameter_batch("means", self.means.shape, (num_states,) + step_shape, num_steps=None)
        lags = ("weights", num_lags)
        batch = self._store_autoregression(num_states, batches, rows, lags, num_conditioned, known_states, **steps)
        self._initialize(
            batch, step_shape, mask=mask, lengths=lengths, method=method, validate_args=validate_args, **steps
        )
        self._warn_if_nothing_is_scored()
        size = num_states ** (num_lags + 1)
        if size > MAX_JOINT_STATES:
            raise ValueError(
                f"{num_states} states and {num_lags} lags make K^(L+1) = {size} joint states, more than "
                f"{MAX_JOINT_STATES}: use fewer lags, or the intercept form, AutoregressiveHMM"
            )

    @property
    def lag_weights(self):
        """As in the base class: the weights, as matrices."""
        return self.weights if self.event_dim == 2 else self.weights[..., None, None]

    @property
    def _start(self):
        """First step that has a state; the first that is scored comes ``L`` steps later."""
        return self.num_conditioned - self.num_lags

    def state_chain(self, value=None):
        """The Markov chain over the states of a step and of its lags, from the first step scored on."""
        plain = StateChain(self.log_initial_probs, self.log_transition_probs, None, self.transitions_vary)
        return with_lags(plain, self.num_lags, self._start)

    def regression_rows(self, value, lead=()):
        """Not available: given its own state alone, a step is no regression on its past."""
        return MarkovSwitching.regression_rows(self, value, lead)

    def _log_likelihoods(self, value, chain):
        value, entries = self._observed_value(value)
        num_joint = self.num_states**self.num_lags
        residuals = self._as_matrix(value)[..., None, :] - self._means(value)
        offsets = self._joint_means()
        offsets = offsets.reshape(offsets.shape[:-2] + (1, num_joint, self.num_states, offsets.shape[-1]))
        residuals = residuals[..., None, :, :] - offsets
        residuals = residuals.reshape(residuals.shape[:-4] + (-1,) + residuals.shape[-2:])
        if entries is not None:
            entries = jnp.repeat(entries, num_joint, axis=entries.ndim - self.event_dim)
        log_likelihoods = self._residual_log_likelihoods(residuals, entries)
        log_likelihoods = log_likelihoods.reshape(log_likelihoods.shape[:-2] + (self.num_steps, -1))
        log_likelihoods = jnp.where(self._scored()[..., None], log_likelihoods, 0.0)
        return self._where_lags_agree(log_likelihoods[..., self.num_conditioned :, :], chain)

    def _where_lags_agree(self, log_likelihoods, chain):
        """``log_likelihoods`` with ``-inf`` in joint states that are known not to be."""
        known = self._known()
        if known is None:
            return log_likelihoods
        known = known[..., self.num_conditioned :, None]
        possible = (known < 0) | (known == chain.reported)
        possible = possible.at[..., 0, :].set(self._lags_agree().all(-1))
        return jnp.where(possible, log_likelihoods, -jnp.inf)

    def _lags_agree(self):
        """Do states of each lag of the first step scored agree with what is known of them? ``(..., K^(L+1), L+1)``."""
        states, first, known = joint_states(self.num_states, self.num_lags), self.num_conditioned, self._known()
        if known is None:
            return jnp.ones(states.shape, bool)
        known = jnp.flip(known[..., None, first - self.num_lags : first + 1], -1)
        return (known < 0) | (known == states)

    def _joint_means(self):
        """What the means of all lags add to a step, ``(..., K^(L+1), N)``."""
        states = joint_states(self.num_states, self.num_lags)

        def core(means, weights):
            weights = jnp.broadcast_to(weights, means.shape[:1] + weights.shape[1:])
            return means[states[:, 0]] - jnp.einsum("mlij,mlj->mi", weights[states[:, 0]], means[states[:, 1:]])

        return jnp.vectorize(core, signature="(k,n),(c,l,n,n)->(m,n)")(self._as_matrix(self.means), self.lag_weights)

    def _whole_path(self, path, chain):
        """As in the base class; the first joint state tells the states of ``L`` more steps."""
        states = jnp.asarray(joint_states(self.num_states, self.num_lags), jnp.int32)[path]
        before = jnp.flip(states[..., 0, 1:], -1)
        return self._pad_front(jnp.concatenate([before, states[..., 0]], -1), -1, 1)

    def latent_marginals(self, value, given="all"):
        """State probabilities given all the data, or given the data up to each step (``given="past"``).

        Returns ``{"state_probs": (..., T, K)}``; NaN for steps that have no state. The steps that are conditioned on tell
        nothing of their states: given the past, these have the probabilities of the chain alone.
        """
        joint, chain = self._chain_marginals(value, given)
        first = joint[..., 0, :, None]
        if given == "past":
            # Of the labels, a step knows those of longer lags.
            known = jnp.flip(jnp.cumprod(jnp.flip(self._lags_agree(), -1), -1), -1)
            first = jnp.exp(chain.log_initial)[..., None] * known
            first /= first.sum(-2, keepdims=True)
        states = joint_states(self.num_states, self.num_lags)
        first = jnp.broadcast_to(first, first.shape[:-1] + states.shape[1:])
        lags = jnp.asarray(np.eye(self.num_states)[states], joint.dtype)
        before = jnp.flip(jnp.einsum("...ml,mlk->...lk", first, lags), -2)[..., : self.num_lags, :]
        before = jnp.broadcast_to(before, joint.shape[:-2] + before.shape[-2:])
        probs = jnp.concatenate([before, chain.reported_probs(joint)], -2)
        return {"state_probs": self._pad_front(probs, jnp.nan, 2)}

    def _continue(self, key, value, states, num_given, sample_shape, first=None):
        at = jnp.vectorize(lambda means, states: means[states], signature="(k,n),(t)->(t,n)")
        matrix, means = self._as_matrix(value), self._as_matrix(self.means)
        deviations = self._as_event(matrix - at(means, states))
        drawn, latents = super()._continue(key, deviations, states, num_given, sample_shape, self._start)
        drawn = self._as_matrix(drawn) + at(means, latents["states"])
        given = jnp.arange(self.num_steps) < jnp.asarray(num_given)[..., None]
        return self._as_event(jnp.where(given[..., None], matrix, drawn)), latents

    def log_prob_left_out(self, value):
        """Not available: a step enters the terms of its ``L`` successors together with all their states."""
        raise NotImplementedError(
            "MeanSwitchingAutoregression has no left-out terms; log_prob_steps gives one-step-ahead terms, which answer "
            "another question"
        )


def with_lags(chain, num_lags, first):
    """The chain over the states of a step and of the ``L`` steps before it, of a chain of the states alone.

    Args:
        chain: :class:`~tsppl.distributions.hidden_markov.state_chain.StateChain` of ``K`` states.
        num_lags: ``L``.
        first: step at which ``chain`` starts; rows of transitions that vary are counted from step 0.

    Returns:
        :class:`~tsppl.distributions.hidden_markov.state_chain.StateChain` of ``K^(L+1)`` states, which starts at step
        ``first + L``.
    """
    states = joint_states(chain.log_initial.shape[-1], num_lags)
    joint = partial(chain_of_joint_states, num_lags=num_lags, first=first)
    outputs = "(m),(r,m,m)" if chain.varies else "(m),(m,m)"
    log_initial, log_transition = jnp.vectorize(joint, signature=f"{chain.signature}->{outputs}")(*chain[:2])
    return StateChain(log_initial, log_transition, states[:, 0], chain.varies)
