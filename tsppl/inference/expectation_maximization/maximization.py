"""M-steps of emissions: the parameters that maximise an expected log-likelihood plus log prior, family by family.

Notation: ``n`` observations (all steps of all series in one axis), weights ``w`` ``(n, K)``, the posterior state
probabilities, zero where nothing was observed. Closed forms: Poisson, Bernoulli, categorical and Gaussian families; any
other family climbs the same objective by gradient steps that never lower it.
"""

import copy

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from tsppl.distributions.emissions.scoring import emission_log_likelihoods
from tsppl.distributions.emissions.streams import Streams
from tsppl.distributions.wrappers import innermost, leaf_of, rewrap
from tsppl.inference.expectation_maximization.ascent import climb
from tsppl.inference.expectation_maximization.emission_parameters import parameters, rebuild
from tsppl.inference.expectation_maximization.gaussian_regression import (
    complete,
    fitted_scale_tril,
    inverse_wishart_rows,
)


def maximize_emission(emission, value, weights, observed=None, *, priors=None, fixed=()):
    """Fit each state's emission to weighted observations.

    Args:
        emission: distribution with batch ``(K,)``, no parameter shared between states.
        value: ``(n,) + event``, inside the support.
        weights: ``(n, K)``.
        observed: bool ``(n,) + event`` where entries are missing on their own, else None.
        priors: ``name -> distribution`` of a parameter.
        fixed: names of parameters that stay.

    Returns:
        an emission of the same structure; states without weight keep their parameters.
    """
    priors = priors or {}
    if isinstance(emission, Streams):
        values = emission.split(value)
        entries = [None] * len(values) if observed is None else emission.split(observed)
        fitted = {
            name: maximize_emission(
                stream, part, weights, seen, priors=below(name, priors), fixed=tuple(below(name, dict.fromkeys(fixed)))
            )
            for name, stream, part, seen in zip(emission.names, emission.streams, values, entries, strict=True)
        }
        return Streams(**fitted)
    free = {name: p for name, p in parameters(emission).items() if name not in fixed}
    if not free:
        return emission
    leaf = leaf_of(emission)
    closed = next((form for family, form in _CLOSED_FORMS.items() if _has_density_of(leaf, family)), None)
    if closed:
        conjugate, update = closed
        if all(is_conjugate(name, prior, conjugate) for name, prior in priors.items()):
            return rewrap(emission, update(leaf, value, weights, observed, priors, fixed))
    return _climb(emission, free, value, weights, observed, priors)


def log_prior(emission, priors):
    """Sum of the log densities of an emission's parameters; a parameter may be any attribute of the distribution."""
    total = 0.0
    for name, prior in priors.items():
        total += prior.log_prob(_attribute(emission, name)).sum()
    return total


def _attribute(emission, name):
    for part in name.split("."):
        if isinstance(emission, Streams):
            emission = emission.streams[emission.names.index(part)]
        else:
            emission = getattr(copy.copy(leaf_of(emission)), part)
    return emission


def below(name, entries):
    """Entries of a dict whose keys begin with ``name`` and a dot, without that beginning."""
    return {key[len(name) + 1 :]: entry for key, entry in entries.items() if key.startswith(name + ".")}


def is_conjugate(name, prior, conjugate):
    """Whether ``prior`` is of the family that ``conjugate``, ``name -> family``, names for this parameter."""
    return name in conjugate and isinstance(innermost(prior), conjugate[name])


def _has_density_of(leaf, family):
    """Whether a distribution is of a family, or of a class derived from it that keeps the density."""
    return isinstance(leaf, family) and type(leaf).log_prob is family.log_prob


def _climb(emission, free, value, weights, observed, priors):
    seen = (weights > 0).any(1)

    def objective(values):
        candidate = rebuild(emission, values)
        terms = emission_log_likelihoods(
            candidate, value, time_varying=False, step_observed=seen, entry_observed=observed
        )
        return jnp.where(weights > 0, weights * terms, 0.0).sum() + log_prior(candidate, priors)

    values = {name: p.value for name, p in free.items()}
    return rebuild(emission, climb(objective, values, {name: p.constraint for name, p in free.items()}))


def _sums(value, weights, observed):
    """Total weight and weighted sum, ``(K,) + value.shape[1:]``."""
    shape = weights.shape[1:] + value.shape[1:]
    total = weights.sum(0).reshape(weights.shape[1:] + (1,) * (value.ndim - 1))
    if observed is not None:
        total, value = jnp.einsum("nk,n...->k...", weights, observed), jnp.where(observed, value, 0)
    return jnp.broadcast_to(total, shape), jnp.einsum("nk,n...->k...", weights, value)


def _ratio(numerator, denominator, otherwise):
    used = denominator > 0
    return jnp.where(used, numerator / jnp.where(used, denominator, 1.0), otherwise)


def _poisson(leaf, value, weights, observed, priors, fixed):
    total, events = _sums(value, weights, observed)
    if "rate" in priors:
        prior = innermost(priors["rate"])
        total, events = total + prior.rate, events + prior.concentration - 1
    return rebuild(leaf, {"rate": _ratio(events, total, leaf.rate)})


def _bernoulli(leaf, value, weights, observed, priors, fixed):
    total, successes = _sums(value, weights, observed)
    if "probs" in priors:
        prior = innermost(priors["probs"])
        successes = successes + prior.concentration1 - 1
        total = total + prior.concentration1 + prior.concentration0 - 2
    probs = _ratio(successes, total, leaf.probs)
    logits = {"logits": jnp.log(probs) - jnp.log1p(-probs)} if isinstance(leaf, dist.BernoulliLogits) else None
    return rebuild(leaf, logits or {"probs": probs})


def _categorical(leaf, value, weights, observed, priors, fixed):
    categories = jax.nn.one_hot(value, leaf.probs.shape[-1], dtype=weights.dtype)
    entries = None if observed is None else jnp.broadcast_to(observed[..., None], categories.shape)
    _, counts = _sums(categories, weights, entries)
    if "probs" in priors:
        counts = counts + innermost(priors["probs"]).concentration - 1
    probs = _ratio(counts, counts.sum(-1, keepdims=True), leaf.probs)
    return rebuild(leaf, {"logits": jnp.log(probs)} if isinstance(leaf, dist.CategoricalLogits) else {"probs": probs})


def _normal(leaf, value, weights, observed, priors, fixed):
    total, first = _sums(value, weights, observed)
    loc = leaf.loc if "loc" in fixed else _ratio(first, total, leaf.loc)
    if "scale" in fixed:
        return rebuild(leaf, {"loc": loc})
    squares = (value[:, None] - loc) ** 2
    if observed is not None:
        squares = jnp.where(observed[:, None], squares, 0.0)
    variance = _ratio(jnp.einsum("nk,nk...->k...", weights, squares), total, leaf.scale**2)
    return rebuild(leaf, {"loc": loc, "scale": jnp.sqrt(variance)})


def _multivariate_normal(leaf, value, weights, observed, priors, fixed):
    """Missing entries are completed by their expectation given the others, with its covariance as further rows."""
    prior = covariance_prior(priors.get("covariance_matrix"), leaf.scale_tril)

    def one_state(loc, scale_tril, weights, prior):
        root, total = jnp.sqrt(weights), weights.sum()
        completed, kept = (value, None) if observed is None else complete(loc, scale_tril, value, observed)
        mean = loc if "loc" in fixed else _ratio(weights @ completed, total, loc)
        if "scale_tril" in fixed:
            return mean, scale_tril
        rows = [root[:, None] * (completed - mean)]
        if kept is not None:
            spread = jnp.swapaxes(root[:, None, None] * (kept @ scale_tril), -1, -2)
            rows.append(spread.reshape(-1, mean.shape[0]))
        return mean, fitted_scale_tril(rows, total, scale_tril, prior)

    loc, scale_tril = jax.vmap(one_state, in_axes=(0, 0, 1, 0))(leaf.loc, leaf.scale_tril, weights, prior)
    return rebuild(leaf, {"loc": loc, "scale_tril": scale_tril})


def covariance_prior(prior, scale_tril):
    """An inverse-Wishart prior as rows for the regressions, with the batch of ``scale_tril``; None without prior."""
    if prior is None:
        return None
    prior = innermost(prior)
    prior_scale = jnp.broadcast_to(prior.scale_tril, scale_tril.shape)
    return inverse_wishart_rows(prior_scale, jnp.broadcast_to(prior.concentration, scale_tril.shape[:-2]))


_CLOSED_FORMS = {
    dist.Poisson: ({"rate": dist.Gamma}, _poisson),
    dist.BernoulliProbs: ({"probs": dist.Beta}, _bernoulli),
    dist.BernoulliLogits: ({"probs": dist.Beta}, _bernoulli),
    dist.CategoricalProbs: ({"probs": dist.Dirichlet}, _categorical),
    dist.CategoricalLogits: ({"probs": dist.Dirichlet}, _categorical),
    dist.Normal: ({}, _normal),
    dist.MultivariateNormal: ({"covariance_matrix": dist.InverseWishart}, _multivariate_normal),
}
