"""Left-out terms of switching autoregressions with Gaussian noise."""

from functools import partial

import jax.numpy as jnp

from tsppl.distributions.gaussians import gaussian_by_step
from tsppl.messages.autoregressive.conditional_means import left_out_autoregressive


def left_out_terms(model, value):
    """``log p(y_t | all other observations)`` of the steps that have a state, ``(..., T')``.

    Args:
        model: a :class:`~tsppl.distributions.autoregressive.switching_autoregression.SwitchingAutoregression`, with
            ``initial`` of one lag or none.
        value: a checked value of it.

    Raises:
        NotImplementedError: if the noise is not Gaussian.
    """
    filled = model._as_matrix(model._observed_value(value)[0])
    rows = (model.num_steps, model.num_states)
    loc, scale_tril = gaussian_by_step("noise", model.noise, model.num_steps, varies=model.noise_varies)
    residuals = filled[..., None, :] - model._means(model._as_event(filled)) - loc
    scale_tril = jnp.broadcast_to(scale_tril, scale_tril.shape[:-4] + rows + scale_tril.shape[-2:])
    if model.initial is not None:
        start, start_scale_tril = gaussian_by_step("initial", model.initial, model.num_steps)
        is_start = (jnp.arange(model.num_steps) == 0)[:, None, None]
        residuals = jnp.where(is_start, filled[..., None, :] - start, residuals)
        scale_tril = jnp.where(is_start[..., None], start_scale_tril, scale_tril)
    weights = model.lag_weights if model.weights_vary else model.lag_weights[..., None, :, :, :, :]
    weights = jnp.broadcast_to(weights, weights.shape[:-5] + rows + weights.shape[-3:])
    chain, first = model.state_chain(value), model._first_state
    return jnp.vectorize(
        partial(left_out_autoregressive, method=model.method),
        signature=f"{chain.signature},(t,k),(t,k,n),(t,k,n,n),(t,k,l,n,n),(t),(t)->(t)",
    )(
        *chain[:2],
        model._log_likelihoods(value, chain),
        residuals[..., first:, :, :],
        scale_tril[..., first:, :, :, :],
        weights[..., first:, :, :, :, :],
        model._scored()[..., first:],
        model._whole_steps()[..., first:],
    )
