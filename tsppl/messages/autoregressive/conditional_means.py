"""Switching autoregressions on arrays, one sequence at a time: means, responses, simulation, exact left-out terms.

``weights[k, l]`` multiplies ``y[t - 1 - l]`` in state ``k``: index 0 is lag 1. Shapes: ``(K, L, N, N)``, or
``(T, K, L, N, N)`` when the weights vary in time; series ``(T, N)``.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Complex, Float

from tsppl.messages.hidden_markov.forward_backward import hidden_markov_backward, hidden_markov_forward
from tsppl.messages.log_space import log_sum_exp

MAX_LEFT_OUT_PATHS = 1024
LAGGED_NUMBERS = 2**21


def conditional_means(weights, values) -> Float[Array, "T K N"]:
    """``sum_l weights[k, l] @ y[t-1-l]`` for every step and state, with zeros before the start of the series.

    One matrix product over lags and components, in stretches of the series, so that the copy of the data with a lag
    axis stays small.
    """
    num_lags, size, num_steps = weights.shape[-3], weights.shape[-1], values.shape[0]
    if weights.ndim == 5:
        return _means_of_varying_weights(weights, values)
    stretch = min(num_steps, max(1, LAGGED_NUMBERS // (num_lags * size)))
    starts = np.arange(0, num_steps, stretch)
    padded = jnp.pad(values, ((num_lags, len(starts) * stretch - num_steps), (0, 0)))
    table = weights.transpose(1, 3, 0, 2).reshape(num_lags * size, -1)

    def means(start):
        """Of the steps from ``start`` to the end of a stretch."""
        rows = lax.dynamic_slice_in_dim(padded, start, stretch + num_lags - 1)
        lags = [rows[num_lags - 1 - lag : num_lags - 1 - lag + stretch] for lag in range(num_lags)]
        return jnp.concatenate(lags, axis=-1) @ table

    together = means(0)[None] if len(starts) == 1 else lax.map(means, jnp.asarray(starts))
    return together.reshape(-1, weights.shape[0], size)[:num_steps]


def gaussian_log_likelihoods(weights, loc, scale_tril, values) -> Float[Array, "T K"]:
    """Log density of every step in every state under Gaussian noise, with zeros before the start of the series.

    The whitening matrix is multiplied into the weights, so that one matrix product gives whitened residuals.

    Args:
        weights: constant ``(K, L, N, N)``.
        loc: ``(K, N)``.
        scale_tril: Cholesky factors of the noise covariance, ``(K, N, N)``.
        values: ``(T, N)``.
    """
    size = values.shape[-1]
    identity = jnp.broadcast_to(jnp.eye(size, dtype=scale_tril.dtype), scale_tril.shape)
    whitening = solve_triangular(scale_tril, identity, lower=True)
    lags = jnp.concatenate([whitening[:, None], -jnp.einsum("kij,kljm->klim", whitening, weights)], axis=1)
    later = jnp.concatenate([values, jnp.zeros_like(values[:1])])
    residuals = conditional_means(lags, later)[1:] - jnp.einsum("kij,kj->ki", whitening, loc)
    log_scales = jnp.log(jnp.diagonal(scale_tril, axis1=-2, axis2=-1)).sum(-1)
    return -0.5 * (residuals**2).sum(-1) - log_scales - 0.5 * size * jnp.log(2 * jnp.pi)


def _means_of_varying_weights(weights, values):
    """Summed lag by lag: the weights themselves are larger than any copy of the data."""
    num_steps, _, num_lags = weights.shape[:3]
    lagged = jnp.pad(values, ((num_lags, 0), (0, 0)))
    return sum(
        jnp.einsum("tkij,tj->tki", weights[:, :, lag], lagged[num_lags - 1 - lag : num_lags - 1 - lag + num_steps])
        for lag in range(num_lags)
    )


def impulse_response(weights, num_steps) -> Float[Array, "H N N"]:
    """Response of one state's autoregression, weights ``(L, N, N)``, to a unit impulse, ``0`` to ``num_steps`` steps on.

    ``Phi_0 = I`` and ``Phi_h = sum_l weights[l] @ Phi_{h-1-l}``; entry ``[h, i, j]`` is that of channel ``i`` to ``j``.
    """
    num_lags, size = weights.shape[0], weights.shape[-1]
    start = jnp.zeros((num_lags, size, size), weights.dtype).at[0].set(jnp.eye(size, dtype=weights.dtype))

    def step(responses, _):
        following = jnp.concatenate([jnp.einsum("lij,ljk->ik", weights, responses)[None], responses[:-1]])
        return following, responses[0]

    return lax.scan(step, start, None, length=num_steps + 1)[1]


def companion_eigenvalues(weights) -> Complex[Array, " NL"]:
    """Eigenvalues of the companion matrix of one state's weights ``(L, N, N)``; the state is stable if all are below 1."""
    num_lags, size = weights.shape[0], weights.shape[-1]
    top = jnp.moveaxis(weights, 0, 1).reshape(size, num_lags * size)
    companion = jnp.eye(num_lags * size, k=-size, dtype=weights.dtype).at[:size].set(top)
    return jnp.linalg.eigvals(companion)


def continue_series(log_initial, log_transition_at, weights, noise, state_noise, values, states, *, first, num_given):
    """Simulate a switching autoregression from where the given part ends.

    Args:
        log_initial: ``(K,)``, log-probabilities of the state of step ``first``.
        log_transition_at: function of the step ``t`` and of ``y[t-1]`` that returns the log transitions ``(K, K)`` into
            step ``t``.
        weights: as in this module's notation.
        noise: draws of the additive noise of every step and state ``(T, K, N)``.
        state_noise: Gumbel noise ``(T, K)``.
        values: series ``(T, N)``, of which the first ``num_given`` steps are kept.
        states: int path ``(T,)``, of which the first ``num_given`` are kept.
        first: first step that has a state.
        num_given: number of steps that are given.

    Returns:
        ``(values, states)``, both whole.
    """
    num_lags, num_steps = weights.shape[-3], values.shape[0]

    def step(carry, inputs):
        previous, lags = carry
        t, value, state, noise, state_noise = inputs
        log_probs = jnp.where(t <= first, log_initial, log_transition_at(t, lags[0])[previous])
        drawn_state = jnp.argmax(log_probs + state_noise).astype(jnp.int32)
        state = jnp.where((t < num_given) | (t < first), state, drawn_state)
        matrices = weights[t, state] if weights.ndim == 5 else weights[state]
        value = jnp.where(t < num_given, value, jnp.einsum("lij,lj->i", matrices, lags) + noise[state])
        return (state, jnp.concatenate([value[None], lags[:-1]])), (value, state)

    start = (jnp.zeros((), jnp.int32), jnp.zeros((num_lags,) + values.shape[1:], values.dtype))
    _, (values, states) = lax.scan(step, start, (jnp.arange(num_steps), values, states, noise, state_noise))
    return values, states


def left_out_autoregressive(
    log_initial, log_transition, log_likelihoods, residuals, scale_tril, weights, scored, whole, *, method="auto"
) -> Float[Array, " T"]:
    """``log p(y_t | all other y)`` of a Gaussian switching autoregression, exact by enumeration of ``K^(L+1)`` states.

    ``y_t`` enters its own step and the ``L`` that follow, so it is integrated out of a product of ``L + 1`` Gaussians
    for every path of ``z_t ... z_{t+L}``, with the forward message before and the backward message after.

    Args:
        log_initial, log_transition, log_likelihoods: as in :mod:`tsppl.messages.hidden_markov.forward_backward`, ``T`` steps.
        residuals: ``y_t`` minus its mean in each state, ``(T, K, N)``.
        scale_tril: Cholesky factors of the noise covariance, ``(T, K, N, N)``.
        weights: ``(T, K, L, N, N)``.
        scored: bool ``(T,)``: the step has a density of its own.
        whole: bool ``(T,)``: every entry of the step was observed.
        method: as in :func:`tsppl.messages.hidden_markov_forward`.

    Returns:
        ``(T,)``; meaningless where not scored.
    """
    num_steps, num_states = log_likelihoods.shape
    num_lags, size = weights.shape[2], residuals.shape[-1]
    messages = hidden_markov_forward(log_initial, log_transition, log_likelihoods, method=method)
    log_backward = hidden_markov_backward(log_transition, log_likelihoods, method=method)
    paths = np.stack(np.meshgrid(*[np.arange(num_states)] * (num_lags + 1), indexing="ij"), -1).reshape(
        -1, num_lags + 1
    )
    states = jnp.asarray(paths)
    whitening = solve_triangular(
        scale_tril, jnp.broadcast_to(jnp.eye(size, dtype=scale_tril.dtype), scale_tril.shape), lower=True
    )
    whitened = jnp.einsum("tkij,tkj->tki", whitening, residuals)

    def one_step(t):
        own = whitening[t, states[:, 0]]
        precision = jnp.einsum("pij,pik->pjk", own, own)
        pull = jnp.einsum("pij,pi->pj", own, whitened[t, states[:, 0]])
        log_path = messages.log_predicted[t, states[:, 0]] + log_likelihoods[t, states[:, 0]]
        for lag in range(num_lags):
            s = t + 1 + lag
            inside = s < num_steps
            s = jnp.minimum(s, num_steps - 1)
            before, after = states[:, lag], states[:, lag + 1]
            transition = log_transition[s - 1] if log_transition.ndim == 3 else log_transition
            beyond = jnp.where(after == 0, 0.0, -jnp.inf)
            log_path += jnp.where(inside, transition[before, after] + log_likelihoods[s, after], beyond)
            slope = -whitening[s, after] @ weights[s, after, lag]
            slope = jnp.where(inside & scored[s], slope, 0.0)
            precision += jnp.einsum("pij,pik->pjk", slope, slope)
            pull += jnp.einsum("pij,pi->pj", slope, whitened[s, after])
        end = t + num_lags
        log_path += jnp.where(end < num_steps, log_backward[jnp.minimum(end, num_steps - 1)][states[:, -1]], 0.0)
        factor = jnp.linalg.cholesky(precision)
        mean = solve_triangular(factor, pull[..., None], lower=True)[..., 0]
        log_scales = jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)
        integrated = 0.5 * (mean**2).sum(-1) - log_scales + 0.5 * size * jnp.log(2 * jnp.pi)
        integrated = jnp.where(whole[t], integrated, -log_likelihoods[t, states[:, 0]])
        return log_sum_exp(log_path, axis=-1) - log_sum_exp(log_path + integrated, axis=-1)

    return lax.map(one_step, jnp.arange(num_steps), batch_size=64)
