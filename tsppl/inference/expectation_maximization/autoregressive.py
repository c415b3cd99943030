"""M-step of the autoregressive hidden Markov model: one weighted regression for each state."""

import copy

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from tsppl.distributions.wrappers import leaf_of, rewrap
from tsppl.inference.expectation_maximization.arguments import refuse_batch
from tsppl.inference.expectation_maximization.ascent import climb
from tsppl.inference.expectation_maximization.emission_parameters import (
    Parameter,
    as_real,
    open_parameters,
    parameters,
    rebuild,
)
from tsppl.inference.expectation_maximization.gaussian_regression import complete, maximize_regression, regression
from tsppl.inference.expectation_maximization.markov_switching import (
    chain_log_prior,
    chain_names,
    maximize_chain,
    prepare_chain,
)
from tsppl.inference.expectation_maximization.maximization import (
    below,
    covariance_prior,
    is_conjugate,
    log_prior as noise_log_prior,
)


def autoregressive_names(distribution):
    """Names of the parameters of an :class:`~tsppl.distributions.AutoregressiveHMM`; ``initial`` is always held."""
    return chain_names() + ("weights",) + tuple(f"noise.{name}" for name in parameters(distribution.noise))


def _noise_is_held(distribution, fixed):
    return "noise" in fixed or set(autoregressive_names(distribution)[3:]) <= set(fixed)


def prepare_autoregressive(distribution, fixed):
    """The distribution with weights and noise of its own for each state, after checking that EM has an answer."""
    prepared = prepare_chain(distribution, fixed)
    num_states = (distribution.num_states,)
    batch = distribution.lag_weights.shape[:-3]
    if "weights" not in fixed:
        refuse_batch("weights", batch, 1, varies=distribution.weights_vary)
    if len(batch) == 1:
        weights = as_real(distribution.weights)
        prepared.weights = jnp.broadcast_to(weights, num_states + weights.shape[1:])
    if not _noise_is_held(distribution, fixed):
        refuse_batch("noise", distribution.noise.batch_shape, 1, varies=distribution.noise_varies)
    if len(distribution.noise.batch_shape) < 2:
        prepared.noise = open_parameters(distribution.noise, num_states)
    return prepared


def maximize_autoregressive(distribution, value, statistics, priors, fixed):
    """M-step: exact for Gaussian noise, gradient steps that never lower the objective otherwise."""
    updated = maximize_chain(distribution, statistics, priors, fixed)
    if "weights" in fixed and _noise_is_held(distribution, fixed):
        return updated
    parameter_priors = {name: prior for name, prior in priors.items() if name not in chain_names()}
    leaf = leaf_of(distribution.noise)
    conjugate = {"noise.covariance_matrix": dist.InverseWishart} if isinstance(leaf, dist.MultivariateNormal) else {}
    closed = (
        isinstance(leaf, dist.Normal | dist.MultivariateNormal)
        and distribution.noise.batch_shape == distribution.lag_weights.shape[:-3] == (distribution.num_states,)
        and all(is_conjugate(name, prior, conjugate) for name, prior in parameter_priors.items())
    )
    if closed:
        updated.weights, updated.noise = _regress(distribution, value, statistics.state_probs, priors, fixed)
        return updated
    log_prior = lambda candidate: regression_log_prior(candidate, parameter_priors)  # noqa: E731
    return climb_regression(updated, value, statistics.state_probs, ("weights",), log_prior, fixed)


def climb_regression(distribution, value, state_probs, arguments, log_prior, fixed):
    """Gradient steps in the noise and the named real ``arguments``; ``log_prior`` is a function of the distribution."""
    every = {f"noise.{name}": parameter for name, parameter in parameters(distribution.noise).items()}
    every |= {name: Parameter(getattr(distribution, name), constraints.real) for name in arguments}
    free = {name: parameter for name, parameter in every.items() if name not in fixed}

    def with_values(values):
        candidate = copy.copy(distribution)
        for name in arguments:
            setattr(candidate, name, values.get(name, getattr(distribution, name)))
        candidate.noise = rebuild(distribution.noise, below("noise", values))
        return candidate

    def objective(values):
        candidate = with_values(values)
        terms = candidate.potentials(value)[2]
        return jnp.where(state_probs > 0, state_probs * terms, 0.0).sum() + log_prior(candidate)

    values = {name: parameter.value for name, parameter in free.items()}
    return with_values(climb(objective, values, {name: parameter.constraint for name, parameter in free.items()}))


def _regress(distribution, value, state_probs, priors, fixed):
    rows = distribution.regression_rows(value, state_probs.shape[:-2])
    inputs, outputs, weights, observed = rows.inputs, rows.outputs, rows.weights(state_probs), rows.observed
    num_states, size = weights.shape[1], outputs.shape[1]
    leaf = leaf_of(distribution.noise)
    spread_name = "scale" if isinstance(leaf, dist.Normal) else "scale_tril"
    event = (size,) if spread_name == "scale" else (size, size)
    spread = getattr(leaf, spread_name).reshape((num_states,) + event)
    lags = jnp.moveaxis(distribution.lag_weights, -2, -3).reshape(num_states, size, -1)
    coefficients = jnp.concatenate([lags, leaf.loc.reshape(num_states, size, 1)], axis=-1)
    prior = covariance_prior(priors.get("noise.covariance_matrix"), spread)

    def one_state(coefficients, spread, weights, prior):
        data = _weighted_regression(inputs, outputs, weights, observed, coefficients, spread)
        return maximize_regression(
            data,
            coefficients,
            spread,
            free=("weights" not in fixed,) * lags.shape[-1] + ("noise.loc" not in fixed,),
            spread_is_free=f"noise.{spread_name}" not in fixed,
            prior=prior,
        )

    coefficients, spread = jax.vmap(one_state, in_axes=(0, 0, 1, 0))(coefficients, spread, weights, prior)
    lags = coefficients[..., :-1].reshape(num_states, size, distribution.num_lags, size)
    found = {
        "loc": coefficients[..., -1].reshape(leaf.loc.shape),
        spread_name: spread.reshape(getattr(leaf, spread_name).shape),
    }
    new_weights = jnp.moveaxis(lags, -3, -2).reshape(distribution.weights.shape)
    return new_weights, rewrap(distribution.noise, rebuild(leaf, found))


def _weighted_regression(inputs, outputs, weights, observed, coefficients, spread):
    """The regression of one state; under dependent noise, missing outputs are completed, their covariance as rows."""
    if observed is None:
        return regression(inputs, outputs, weights, weights.sum())
    if spread.ndim == 1:
        entries = weights[:, None] * observed
        return regression(inputs, outputs, entries, entries.sum(0))
    completed, kept = complete(inputs @ coefficients.T, spread, outputs, observed)
    columns = jnp.swapaxes(kept @ spread, -1, -2).reshape(-1, outputs.shape[1])
    return regression(
        jnp.concatenate([inputs, jnp.zeros((columns.shape[0], inputs.shape[1]), inputs.dtype)]),
        jnp.concatenate([completed, columns]),
        jnp.concatenate([weights, jnp.repeat(weights, outputs.shape[1])]),
        weights.sum(),
    )


def regression_log_prior(distribution, priors):
    """Log prior density of weights and noise."""
    total = noise_log_prior(distribution.noise, below("noise", priors))
    if "weights" in priors:
        total += priors["weights"].log_prob(distribution.weights).sum()
    return total


def autoregressive_log_prior(distribution, priors):
    """Log prior density of all parameters."""
    return chain_log_prior(distribution, priors) + regression_log_prior(distribution, priors)
