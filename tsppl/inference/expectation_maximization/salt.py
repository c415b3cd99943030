"""M-step of the switching autoregressive low-rank tensor model: regressions on the past, factor by factor.

The past enters through second moments of all its ``L N`` entries, collected once for each M-step: fast, and small enough
to hold, while ``L N`` is some hundreds.
"""

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax

from tsppl.distributions.gaussians import gaussian_parameters
from tsppl.distributions.wrappers import innermost, leaf_of, rewrap
from tsppl.inference.expectation_maximization.arguments import refuse_batch
from tsppl.inference.expectation_maximization.autoregressive import climb_regression
from tsppl.inference.expectation_maximization.emission_parameters import as_real, open_parameters, parameters, rebuild
from tsppl.inference.expectation_maximization.gaussian_regression import complete, fitted_scale_tril
from tsppl.inference.expectation_maximization.low_rank_regression import (
    FIELDS,
    Factors,
    NormalPrior,
    coefficients_of_states,
    maximize_low_rank_regression,
)
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

_NUM_SWEEPS = 4


def factor_names(distribution):
    """Names of the factors that a :class:`~tsppl.distributions.SALT` has, in the order in which the M-step moves them."""
    return tuple(name for name in FIELDS if getattr(distribution, name) is not None)


def salt_names(distribution):
    """Names of the parameters of a :class:`~tsppl.distributions.SALT`; ``initial`` is always held."""
    noise = tuple(f"noise.{name}" for name in parameters(distribution.noise))
    return chain_names() + factor_names(distribution) + noise


def _noise_is_held(distribution, fixed):
    return "noise" in fixed or {f"noise.{name}" for name in parameters(distribution.noise)} <= set(fixed)


def prepare_salt(distribution, fixed):
    """The distribution with noise of its own for each state, after checking that EM has an answer."""
    prepared = prepare_chain(distribution, fixed)
    for name in factor_names(distribution):
        factor = as_real(getattr(distribution, name))
        setattr(prepared, name, factor)
        if name not in fixed:
            refuse_batch(name, factor.shape[: -3 if name == "core" else -2], 1, varies=False)
    if not _noise_is_held(distribution, fixed):
        refuse_batch("noise", distribution.noise.batch_shape, 1, varies=distribution.noise_varies)
    if len(distribution.noise.batch_shape) < 2:
        prepared.noise = open_parameters(distribution.noise, (distribution.num_states,))
    return prepared


def maximize_salt(distribution, value, statistics, priors, fixed):
    """M-step: exact in each factor in turn and in Gaussian noise, else gradient steps that never lower the objective."""
    updated = maximize_chain(distribution, statistics, priors, fixed)
    names = factor_names(distribution)
    if set(names) <= set(fixed) and _noise_is_held(distribution, fixed):
        return updated
    priors = {name: prior for name, prior in priors.items() if name not in chain_names()}
    if not _has_closed_form(distribution, priors):
        log_prior = lambda candidate: _regression_log_prior(candidate, priors)  # noqa: E731
        return climb_regression(updated, value, statistics.state_probs, names, log_prior, fixed)
    for name, parameter in _regress(distribution, value, statistics.state_probs, priors, fixed).items():
        setattr(updated, name, parameter)
    return updated


def _has_closed_form(distribution, priors):
    """Gaussian noise, normal and inverse-Wishart priors, and one set of parameters for all series."""
    leaf = leaf_of(distribution.noise)
    conjugate = dict.fromkeys((*FIELDS, "noise.loc"), dist.Normal)
    if isinstance(leaf, dist.MultivariateNormal):
        conjugate["noise.covariance_matrix"] = dist.InverseWishart
    return (
        isinstance(leaf, dist.Normal | dist.MultivariateNormal)
        and distribution.noise.batch_shape == (distribution.num_states,)
        and distribution.lag_weights.ndim == 4
        and all(is_conjugate(name, prior, conjugate) for name, prior in priors.items())
    )


def _regress(distribution, value, state_probs, priors, fixed):
    """New factors and noise, ``name -> parameter``."""
    rows = distribution.regression_rows(value, state_probs.shape[:-2])
    inputs, outputs, weights, observed = rows.inputs[:, :-1], rows.outputs, rows.weights(state_probs).T, rows.observed
    num_states = distribution.num_states
    names = [name for name in (*factor_names(distribution), "noise.loc") if name not in fixed]
    fields = FIELDS | {"noise.loc": "offset"}
    free = tuple(fields[name] for name in names)
    loc, scale_tril = gaussian_parameters(distribution.noise)
    factors = Factors(**{field: getattr(distribution, name) for name, field in FIELDS.items()})
    factor_priors = {
        fields[name]: _normal_prior(
            priors[name], loc.shape if name == "noise.loc" else getattr(factors, fields[name]).shape
        )
        for name in names
        if name in priors
    }
    current = coefficients_of_states(factors, num_states), loc, scale_tril

    def complete_outputs(coefficients, loc, scale_tril):
        """Missing entries by their expectation given the others, and a root of its covariance."""
        if observed is None:
            return outputs, None
        completed, kept = complete(inputs @ coefficients.T + loc, scale_tril, outputs, observed)
        return completed, kept @ scale_tril

    # Second moments lose digits where a series is far from zero; a mean taken off beforehand saves them.
    shift = _common_mean(outputs, weights, observed)
    if "offset" not in free or "offset" in factor_priors:
        shift = jnp.zeros_like(shift)
    lag_shift = jnp.tile(shift, distribution.num_lags)

    def weighted_products(state):
        weights, current = state
        completed, _ = complete_outputs(*current)
        rows = jnp.concatenate([jnp.ones_like(completed[:, :1]), inputs - lag_shift, completed - shift], axis=1)
        return rows.T @ (weights[:, None] * rows)

    factors, offset = maximize_low_rank_regression(
        factors,
        loc + current[0] @ lag_shift - shift,
        lax.map(weighted_products, (weights, current)),
        scale_tril,
        priors=factor_priors,
        free=free,
        num_sweeps=_NUM_SWEEPS,
    )
    coefficients = coefficients_of_states(factors, num_states)
    if "offset" in free:
        loc = offset - coefficients @ lag_shift + shift
    noise = {"loc": loc}
    spread = "scale" if isinstance(leaf_of(distribution.noise), dist.Normal) else "scale_tril"

    def fitted_spread(state):
        weights, current, coefficients, loc, prior = state
        completed, roots = complete_outputs(*current)
        root = jnp.sqrt(weights)
        rows = [root[:, None] * (completed - inputs @ coefficients.T - loc)]
        if roots is not None:
            rows.append(jnp.swapaxes(root[:, None, None] * roots, -1, -2).reshape(-1, outputs.shape[1]))
        return _fitted_spread(rows, weights.sum(), current[2], prior, diagonal=spread == "scale")

    if f"noise.{spread}" not in fixed:
        prior = covariance_prior(priors.get("noise.covariance_matrix"), scale_tril)
        noise[spread] = lax.map(fitted_spread, (weights, current, coefficients, loc, prior))
    found = {name: getattr(factors, field) for name, field in FIELDS.items() if field in free}
    return found | {"noise": rewrap(distribution.noise, rebuild(leaf_of(distribution.noise), noise))}


def _common_mean(outputs, weights, observed):
    every = weights.sum(0)[:, None] * (jnp.ones_like(outputs) if observed is None else observed)
    total = every.sum(0)
    return (every * outputs).sum(0) / jnp.where(total > 0, total, 1.0)


def _fitted_spread(rows, total, scale_tril, prior, *, diagonal):
    if not diagonal:
        return fitted_scale_tril(rows, total, scale_tril, prior)
    variances = sum((part**2).sum(0) for part in rows) / jnp.where(total > 0, total, 1.0)
    return jnp.where(total > 0, jnp.sqrt(variances), jnp.diagonal(scale_tril))


def _normal_prior(prior, shape):
    prior = innermost(prior)
    return NormalPrior(jnp.broadcast_to(prior.loc, shape), jnp.broadcast_to(prior.scale, shape) ** -2.0)


def _regression_log_prior(distribution, priors):
    total = noise_log_prior(distribution.noise, below("noise", priors))
    for name in factor_names(distribution):
        if name in priors:
            factor = getattr(distribution, name)
            if jnp.broadcast_shapes(priors[name].shape(), factor.shape) != factor.shape:
                raise ValueError(
                    f"the prior of {name!r} has shape {priors[name].shape()} and the factor {factor.shape}: the prior's shape "
                    "must broadcast to the factor's"
                )
            total += priors[name].log_prob(factor).sum()
    return total


def salt_log_prior(distribution, priors):
    """Log prior density of all parameters."""
    return chain_log_prior(distribution, priors) + _regression_log_prior(distribution, priors)
