"""How likely each step of the data is under posterior draws: for comparison, and for data that were held out."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import random

from tsppl.distributions.wrappers import unwrap
from tsppl.posterior.draws import as_draws, map_draws
from tsppl.sites.trace import checked_trace, replay, sequence_sites

_METHODS = {"left-out": "log_prob_left_out", "one-step": "log_prob_steps"}


class PointwiseTerms(NamedTuple):
    """Log-likelihood terms of one site, ``(draws..., batch..., T)``, and which of them are scored, ``(batch..., T)``.

    Terms that are not scored are zero; leave them out of PSIS-LOO.
    """

    terms: Any
    scored: Any


def log_likelihood(
    key, model, posterior, /, *args, kind="left-out", batch_ndims=None, num_draws=None, batch_size=None, **kwargs
):
    """Log-likelihood of every step, for each posterior draw; hidden states and trajectories are summed out.

    For held-out series pass these as the arguments of the model; the sum over steps is their log-likelihood.

    Args:
        key: random key, with which a guide is drawn from; of other posteriors nothing is drawn, and None will do.
        model: the NumPyro model.
        posterior: an MCMC object, a dict of draws, an ArviZ tree, or ``(guide, params)``.
        *args: arguments of the model, the fitted data or others.
        kind: ``"left-out"``, each step given all the others, which is what PSIS-LOO needs; or ``"one-step"``, each step
            given the past, which sums to the log-likelihood. They answer different questions and are never compared.
        batch_ndims, num_draws, batch_size: as in :func:`tsppl.posterior_latents`.
        **kwargs: keyword arguments of the model.

    Returns:
        dict: name of an observed site -> :class:`PointwiseTerms`, in nats. Sites that are no sequences have the batch
        shape of their distribution. All terms are given the latent sites of the model, explicit trajectories included; of a
        Neyman-Scott process that is the density given the labels, so compare such models by
        :func:`tsppl.held_out_log_prob` or :func:`tsppl.region_log_prob`.

    Raises:
        NotImplementedError: if a class has no exact left-out terms.

    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> from tsppl import log_likelihood
    >>> def model(y):
    ...     rate = numpyro.sample("rate", dist.Gamma(2.0, 0.2).expand([2]).to_event(1))
    ...     transition_probs, emission = jnp.array([[0.9, 0.1], [0.1, 0.9]]), dist.Poisson(rate)
    ...     numpyro.sample("y", tsd.HiddenMarkov(jnp.ones(2) / 2, transition_probs, emission, num_steps=4), obs=y)
    >>> draws = {"rate": jnp.array([[1.0, 20.0], [1.5, 18.0], [0.9, 22.0]])}
    >>> log_likelihood(jax.random.key(0), model, draws, jnp.array([1, 0, 19, 21]))["y"].terms.shape
    (3, 4)
    """
    if kind not in _METHODS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(map(repr, _METHODS))}")
    if key is None and isinstance(posterior, tuple):
        raise ValueError(
            "key is None, and draws from a guide need a random key: log_likelihood(key, model, posterior, ...)"
        )
    draws = as_draws(key, model, posterior, args, kwargs, batch_ndims=batch_ndims, num_draws=num_draws)
    return pointwise_terms(model, draws, args, kwargs, kind=kind, batch_size=batch_size)


def pointwise_terms(model, draws, args, kwargs, *, kind, sites=None, batch_size=None):
    """As :func:`log_likelihood`, for :class:`~tsppl.posterior.draws.Draws` and for some of the observed sites only."""
    trace = checked_trace(model, draws.first(), args, kwargs)
    names = tuple(observed_sites(trace) if sites is None else sites)
    scored = {name: _scored(name, trace) for name in names}
    arguments, options = (args, kwargs, scored), {"batch_size": batch_size, "label": "log_likelihood"}
    terms = map_draws(_TermsOfDraw(model, names, kind), random.key(0), draws, arguments=arguments, **options)
    return {name: PointwiseTerms(terms[name], scored[name]) for name in names}


class _TermsOfDraw(NamedTuple):
    """Scored terms of some sites of a model, as a function of a draw and of the model's arguments."""

    model: Any
    names: tuple
    kind: str

    def __call__(self, key, draw, args, kwargs, scored):
        trace = replay(key, self.model, draw, args, kwargs)
        return {name: jnp.where(scored[name], _terms(name, trace, self.kind), 0.0) for name in self.names}


def observed_sites(trace):
    """Names of the observed sites of a trace, without the sites of ``numpyro.factor``."""
    return [
        name
        for name, site in trace.items()
        if site["type"] == "sample" and site["is_observed"] and not isinstance(unwrap(site["fn"])[0], dist.Unit)
    ]


def _scored(name, trace):
    sequence = sequence_sites(trace).get(name)
    if sequence is not None:
        scored = sequence.distribution.scored_steps(sequence.value)
        return scored if sequence.mask is None else scored & sequence.mask[..., None]
    fn = trace[name]["fn"]
    base, mask = unwrap(fn)
    mask = jnp.ones(base.batch_shape, bool) if mask is None else mask
    return mask.any(tuple(range(len(fn.batch_shape), mask.ndim)))


def _terms(name, trace, kind):
    sequence = sequence_sites(trace).get(name)
    if sequence is None:
        return trace[name]["fn"].log_prob(trace[name]["value"])
    try:
        return getattr(sequence.distribution, _METHODS[kind])(sequence.value)
    except NotImplementedError as error:
        raise NotImplementedError(f"site {name!r}: {error}") from None
