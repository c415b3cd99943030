"""Switching linear dynamics: an autoregressive HMM over a trajectory that nobody observes."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from numpyro.distributions import MultivariateNormal

from tsppl.distributions.autoregressive.switching_autoregression import SwitchingAutoregression
from tsppl.distributions.emissions.drawing import select_state
from tsppl.distributions.gaussians import gaussian_parameters
from tsppl.distributions.linear_gaussian.linear_gaussian_chain import LinearGaussianChain
from tsppl.distributions.shapes import (
    broadcast_batches,
    check_time_varying,
    emission_batch,
    parameter_batch,
)
from tsppl.distributions.wrappers import as_distribution
from tsppl.messages.log_space import log_normalize


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RecurrentTransitions:
    """Transitions that depend on where the trajectory is (Linderman et al. 2017).

    The logits of ``z_t`` are ``state_logits[z_{t-1}] + weights @ x_{t-1}``; they are invariant to a common shift.

    Args:
        state_logits: ``(..., K, K)``, or ``(..., 1, K)`` when the next state depends on the trajectory alone.
        weights: ``(..., K, D)``, one row for each next state.

    >>> import jax.numpy as jnp, tsppl.distributions as tsd
    >>> tsd.RecurrentTransitions(jnp.zeros((2, 2)), jnp.array([[1.0], [-1.0]])).weights.shape
    (2, 1)
    """

    state_logits: Any
    weights: Any

    varies = True
    reads_series = True
    signature = "(m,k),(k,n)"

    @property
    def shape(self):
        """Shape of the transitions out of one step, ``(..., K, K)``."""
        batch = lax.broadcast_shapes(jnp.shape(self.state_logits)[:-2], jnp.shape(self.weights)[:-2])
        return batch + jnp.shape(self.weights)[-2:-1] * 2

    def log_probs(self, previous):
        """Log transition probabilities ``(..., K, K)`` out of every state, given ``x_{t-1}`` of shape ``(..., D)``."""
        drive = jnp.einsum("...kd,...d->...k", self.weights, previous)
        logits = self.state_logits + drive[..., None, :]
        num_states = logits.shape[-1]
        return log_normalize(jnp.broadcast_to(logits, logits.shape[:-2] + (num_states, num_states)))[1]

    def along(self, series, first=0):
        """Log transitions ``(..., S, K, K)`` of all moves from step ``first`` on, given the trajectory ``(..., T, D)``."""
        if series is None:
            raise ValueError("recurrent transitions depend on the trajectory: pass it, state_chain(value)")
        by_step = RecurrentTransitions(self.state_logits[..., None, :, :], self.weights[..., None, :, :])
        return by_step.log_probs(series[..., first:-1, :])

    def into(self, step, previous):
        """Log transitions ``(K, K)`` into a step, given the step before."""
        return self.log_probs(previous)


class SwitchingLinearDynamics(SwitchingAutoregression):
    """A latent trajectory with linear dynamics chosen by a hidden Markov state; the states are summed out.

    ``x_t = weights[z_t] @ x_{t-1} + noise[z_t]`` (Ackerson and Fu 1970; Linderman et al. 2017 for recurrent transitions).
    Use it as a latent site, then any emission: ``x = sample("x", SwitchingLinearDynamics(...))``,
    ``sample("y", Poisson(jnp.exp(x @ C.T)).to_event(2), obs=y)``. Latent, so there is no mask and there are no
    lengths: mask the emission. Fix the scale of the noise and leave the emission matrix free: the product is
    identified, each is not.

    Args:
        initial_probs: probabilities of ``z_0``, ``(..., K)``.
        transition_probs: probabilities ``(..., K, K)``, or ``(..., T-1, K, K)`` where row ``t`` moves ``z_t`` to
            ``z_{t+1}``, or :class:`RecurrentTransitions`.
        weights: dynamics matrices ``(..., K, D, D)``, or ``(..., T-1, K, D, D)`` where row ``t`` moves ``x_t`` to
            ``x_{t+1}``.
        noise: distribution with batch ``(..., K)``, ``(..., 1)`` or ``()``, or ``(..., T-1, K)``, and event ``(D,)``;
            its location is the bias, through which inputs enter.
        initial: distribution of ``x_0``, event ``(D,)`` and batch ``(..., K)``, ``(..., 1)`` or ``()``.
        num_steps: number of steps ``T``.
        initial_logits, transition_logits: alternatives to the probabilities.
        time_varying: names of the arguments that carry a time axis, of ``("transition_probs", "weights", "noise")``.
        method: ``"auto"``, ``"sequential"``, ``"chunked"`` or ``"parallel"``: how states are summed out, exactly by all.

    Raises:
        ValueError: on shapes that do not fit.

    Under :class:`RecurrentTransitions`, ``transition_probs`` is what was given, and there is no table
    ``log_transition_probs``: ``state_chain(value)`` has the transitions along a trajectory.

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> noise = dist.Normal(jnp.zeros(2), 0.1).to_event(1)
    >>> dynamics = tsd.SwitchingLinearDynamics(
    ...     jnp.full(3, 1 / 3), jnp.full((3, 3), 1 / 3), 0.9 * jnp.stack([jnp.eye(2)] * 3), noise, noise, num_steps=10
    ... )
    >>> dynamics.sample(jax.random.key(0)).shape
    (10, 2)
    """

    pytree_data_fields = ("weights",)

    def __init__(
        self,
        initial_probs=None,
        transition_probs=None,
        weights=None,
        noise=None,
        initial=None,
        *,
        num_steps,
        initial_logits=None,
        transition_logits=None,
        time_varying=(),
        method="auto",
        validate_args=None,
    ):
        self.weights, self.noise = jnp.asarray(weights), as_distribution("noise", noise)
        self.initial = as_distribution("initial", initial)
        time_varying = check_time_varying(
            "SwitchingLinearDynamics", time_varying, ("transition_probs", "transition_logits", "weights", "noise")
        )
        step_shape = self.noise.event_shape
        if len(step_shape) != 1 or self.initial.event_shape != step_shape:
            raise ValueError(
                f"noise has event shape {step_shape} and initial has event shape {self.initial.event_shape}: both "
                "must be (D,)"
            )
        if isinstance(transition_probs, RecurrentTransitions):
            self._check_recurrent(transition_probs, time_varying)
        num_states, batches, rows, varying = self._store_chain(
            initial_probs,
            transition_probs,
            initial_logits,
            transition_logits,
            num_steps,
            time_varying,
            rules=RecurrentTransitions,
        )
        states = self.weights.shape[-3] if self.weights.ndim >= 3 else 0
        if states not in (num_states, 1):
            raise ValueError(
                f"weights has shape {self.weights.shape}; the shape (..., {num_states}, {step_shape[0]}, "
                f"{step_shape[0]}) is needed"
            )
        batches["weights"] = parameter_batch(
            "weights",
            self.weights.shape,
            (states,) + step_shape * 2,
            num_steps=num_steps,
            rows=num_steps - 1,
            time_varying=varying,
        )
        batches["noise"] = emission_batch(
            "noise", self.noise, num_states, num_steps=num_steps, rows=num_steps - 1, time_varying=varying
        )
        batches["initial"] = emission_batch("initial", self.initial, num_states, num_steps=num_steps)
        if num_steps < 2:
            raise ValueError(f"num_steps is {num_steps}; dynamics need at least 2 steps")
        self.num_conditioned = 1
        rows |= {"weights": num_steps - 1, "noise": num_steps - 1}
        batch = broadcast_batches(batches, num_steps=num_steps, time_varying=varying, rows=rows)
        self._initialize(
            batch, step_shape, num_steps=num_steps, time_varying=varying, method=method, validate_args=validate_args
        )

    def _check_recurrent(self, transitions, time_varying):
        if "transition_probs" in time_varying:
            raise ValueError("RecurrentTransitions cannot be named in time_varying: they vary through the trajectory")
        state_logits, weights = jnp.shape(transitions.state_logits), jnp.shape(transitions.weights)
        size = self.noise.event_shape[-1:]
        if len(weights) < 2 or weights[-1:] != size or state_logits[-1:] != weights[-2:-1]:
            raise ValueError(
                f"RecurrentTransitions has state_logits of shape {state_logits} and weights of shape {weights}: "
                f"(..., K, K) and (..., K, {size[0]}) are needed"
            )

    @property
    def lag_weights(self):
        """As in the base class; the row of the first step, whose lag is not there, is that of the second."""
        weights = self.weights[..., None, :, :]
        if self.weights_vary:
            weights = jnp.concatenate([weights[..., :1, :, :, :, :], weights], -5)
        return weights

    def given_states(self, states) -> LinearGaussianChain:
        """The trajectory given the states: a Gaussian chain whose parameters vary in time.

        Args:
            states: int ``(..., T)``.

        Returns:
            :class:`LinearGaussianChain`. Recurrent transitions are not in it: given them, the states are evidence
            about the trajectory too.

        Raises:
            TypeError: if the noise or the initial distribution is not Gaussian.
        """
        states = jnp.asarray(states)
        batch = lax.broadcast_shapes(states.shape[:-1], self.batch_shape)
        states = jnp.broadcast_to(states, batch + states.shape[-1:])
        weights = self.weights if self.weights_vary else self.weights[..., None, :, :, :]
        arriving, num_steps = states[..., 1:], self.num_steps

        def chosen(parameter, core_ndim, states):
            core = parameter.shape[parameter.ndim - core_ndim :]
            parameter = jnp.broadcast_to(parameter, batch + states.shape[-1:] + (self.num_states,) + core)
            return select_state(parameter, states, core_ndim)

        def gaussian(distribution, states, varies):
            loc, scale_tril = gaussian_parameters(distribution)
            if not varies and distribution.batch_shape:
                loc, scale_tril = loc[..., None, :, :], scale_tril[..., None, :, :, :]
            return chosen(loc, 1, states), chosen(scale_tril, 2, states)

        loc, scale_tril = gaussian(self.noise, arriving, self.noise_varies)
        start_loc, start_scale_tril = gaussian(self.initial, states[..., :1], False)
        return LinearGaussianChain(
            MultivariateNormal(start_loc[..., 0, :], scale_tril=start_scale_tril[..., 0, :, :]),
            chosen(weights, 2, arriving),
            MultivariateNormal(loc, scale_tril=scale_tril),
            num_steps=num_steps,
            time_varying=("weights", "noise"),
            method=self.method,
        )
