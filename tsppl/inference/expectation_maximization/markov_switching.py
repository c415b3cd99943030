"""EM for distributions whose hidden states are a Markov chain: Baum-Welch, with any emission, gaps and ragged series.

The expected statistics are derivatives of the log-likelihood with respect to the log potentials (Fisher's identity), so
the E-step is one value and gradient of :func:`tsppl.messages.log_normalizer`.
"""

import copy
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from tsppl import messages
from tsppl.distributions.hidden_markov.chain_parameters import MarkovChainParameters
from tsppl.distributions.hidden_markov.steps import flatten_steps
from tsppl.distributions.wrappers import innermost
from tsppl.inference.expectation_maximization.arguments import refuse_batch
from tsppl.inference.expectation_maximization.emission_parameters import as_real, open_parameters, parameters
from tsppl.inference.expectation_maximization.maximization import (
    below,
    log_prior as emission_log_prior,
    maximize_emission,
)


class StateStatistics(NamedTuple):
    """Expected counts: of first states ``(K,)``, of transitions ``(K, K)``, of states by step ``(..., T', K)``."""

    initial: Float[Array, " K"]
    transitions: Float[Array, "..."]
    state_probs: Float[Array, "..."]


def expected_states(distribution, value):
    """Log-likelihood and :class:`StateStatistics` of all series; transitions after the end of a series do not count.

    With ``lengths`` the transitions are counted step by step, which takes ``T K^2`` numbers for each series.
    """
    log_initial, log_transition, log_likelihoods = distribution.potentials(value)
    lead = lax.broadcast_shapes(log_likelihoods.shape[:-2], distribution.batch_shape)
    log_likelihoods = jnp.broadcast_to(log_likelihoods, lead + log_likelihoods.shape[-2:])
    num_rows = log_likelihoods.shape[-2] - 1
    if distribution.lengths is not None and not distribution.transitions_vary:
        shape = log_transition.shape[:-2] + (num_rows,) + log_transition.shape[-2:]
        log_transition = jnp.broadcast_to(log_transition[..., None, :, :], shape)
    core = jax.value_and_grad(partial(messages.log_normalizer, method=distribution.method), argnums=(0, 1, 2))

    def flat(*potentials):
        log_likelihood, statistics = core(*potentials)
        return log_likelihood, *statistics

    rows = "s,k,k" if distribution.transitions_vary or distribution.lengths is not None else "k,k"
    log_likelihood, initial, transitions, states = jnp.vectorize(
        flat, signature=f"(k),({rows}),(t,k)->(),(k),({rows}),(t,k)"
    )(log_initial, log_transition, log_likelihoods)
    if distribution.lengths is not None:
        arrivals = jnp.arange(distribution.num_steps - num_rows, distribution.num_steps)
        within = arrivals < distribution.lengths[..., None]
        transitions = jnp.where(within[..., None, None], transitions, 0.0)
    transitions = transitions.sum(tuple(range(transitions.ndim - 2)))
    initial = initial.sum(tuple(range(initial.ndim - 1)))
    return log_likelihood.sum(), StateStatistics(initial, transitions, states)


def chain_names():
    """Names of the parameters of a hidden chain."""
    return ("initial_probs", "transition_probs")


def prepare_chain(distribution, fixed):
    """A copy of the distribution, after checking that the chain's parameters can be estimated."""
    if "initial_probs" not in fixed:
        refuse_batch("initial_probs", distribution.log_initial_probs.shape[:-1], 0, varies=False)
    if "transition_probs" not in fixed:
        batch = distribution.log_transition_probs.shape[:-2]
        refuse_batch("transition_probs", batch, 0, varies=distribution.transitions_vary)
    prepared = copy.copy(distribution)
    for name in MarkovChainParameters.pytree_data_fields:
        if getattr(distribution, name) is not None:
            setattr(prepared, name, as_real(getattr(distribution, name)))
    return prepared


def maximize_chain(distribution, statistics, priors, fixed):
    """The distribution with new initial and transition probabilities; a probability of zero stays zero."""
    updated = copy.copy(distribution)
    old = {"initial": distribution.log_initial_probs, "transition": distribution.log_transition_probs}
    counts = {"initial": statistics.initial, "transition": statistics.transitions}
    for part in ("initial", "transition"):
        name = f"{part}_probs"
        if name in fixed:
            continue
        probs = _normalize(counts[part], jnp.exp(old[part]), priors.get(name))
        if getattr(distribution, f"{part}_logits") is None:
            setattr(updated, name, probs)
        else:
            setattr(updated, f"{part}_logits", jnp.log(probs))
    return updated


def _normalize(counts, old, prior):
    if prior is not None:
        counts = counts + innermost(prior).concentration - 1
    counts = jnp.where(old > 0, counts, 0.0)
    total = counts.sum(-1, keepdims=True)
    return jnp.where(total > 0, counts / jnp.where(total > 0, total, 1.0), old)


def chain_log_prior(distribution, priors):
    """Log density of Dirichlet priors over the probabilities that are not zero by construction."""
    total = 0.0
    for name, log_probs in (
        ("initial_probs", distribution.log_initial_probs),
        ("transition_probs", distribution.log_transition_probs),
    ):
        if name in priors:
            concentration = jnp.broadcast_to(innermost(priors[name]).concentration, log_probs.shape)
            terms = jnp.where(log_probs > -jnp.inf, (concentration - 1) * log_probs, 0.0)
            total += terms.sum() + (gammaln(concentration.sum(-1)) - gammaln(concentration).sum(-1)).sum()
    return total


def hidden_markov_names(distribution):
    """Names of the parameters of a :class:`~tsppl.distributions.HiddenMarkov`."""
    return chain_names() + tuple(f"emission.{name}" for name in parameters(distribution.emission))


def prepare_hidden_markov(distribution, fixed):
    """The distribution with an emission of its own for each state, after checking that EM has an answer."""
    prepared = prepare_chain(distribution, fixed)
    if _emission_is_held(distribution, fixed):
        return prepared
    emission = distribution.emission
    refuse_batch("emission", emission.batch_shape, 1, varies="emission" in distribution.time_varying)
    prepared.emission = open_parameters(emission, (distribution.num_states,))
    return prepared


def _emission_is_held(distribution, fixed):
    return "emission" in fixed or set(hidden_markov_names(distribution)[2:]) <= set(fixed)


def maximize_hidden_markov(distribution, value, statistics, priors, fixed):
    """M-step of a hidden Markov model."""
    updated = maximize_chain(distribution, statistics, priors, fixed)
    if _emission_is_held(distribution, fixed):
        return updated
    flat_value, weights, observed = flatten_steps(distribution, value, statistics.state_probs)
    updated.emission = maximize_emission(
        distribution.emission,
        flat_value,
        weights,
        observed,
        priors=below("emission", priors),
        fixed=tuple(below("emission", dict.fromkeys(fixed))),
    )
    return updated


def hidden_markov_log_prior(distribution, priors):
    """Log prior density of all parameters."""
    return chain_log_prior(distribution, priors) + emission_log_prior(distribution.emission, below("emission", priors))
