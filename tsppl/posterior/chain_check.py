"""After sampling: chains that sit in different modes, and states that are hardly there."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import random

from tsppl.posterior.draws import as_draws, map_draws, model_and_arguments
from tsppl.posterior.latents import draw_latents
from tsppl.posterior.scoring import observed_sites, pointwise_terms
from tsppl.posterior.stacking import left_out_densities, stacking_weights
from tsppl.posterior.stays import dwell_times
from tsppl.sites.trace import checked_trace, latent_sites, log_probs, replay, sequence_sites

_SEPARATE = 2.0
_RARE = 0.01
_NARROW = 1e-3
_FEWEST_STAYS = 5


class ChainCheck(NamedTuple):
    """What :func:`check_chains` found; ``print`` it.

    Attributes:
        log_density: ``(chains,)``, mean over the draws of the log joint density, in nats.
        spread: ``(chains,)``, its standard deviation over the draws.
        mode: int ``(chains,)``, 0 for the chains of greatest density.
        weights: ``(chains,)``, stacking weights of the modes, shared evenly by their chains; None if terms of the
            steps are not known, or conditional on an explicit sequence or on explicit labels.
        problems: sentences; empty if nothing was found.
    """

    log_density: Any
    spread: Any
    mode: Any
    weights: Any
    problems: tuple

    @property
    def ok(self):
        """Whether nothing was found."""
        return not self.problems

    def __str__(self):
        weights = self.weights if self.weights is not None else np.full(len(self.mode), np.nan)
        columns = zip(self.mode, self.log_density, self.spread, weights, strict=True)
        rows = [
            f"{chain:>5}{mode:>6}{density:>14.1f}{spread:>10.1f}{weight:>10.2f}"
            for chain, (mode, density, spread, weight) in enumerate(columns)
        ]
        head = f"{'chain':>5}{'mode':>6}{'log density':>14}{'spread':>10}{'weight':>10}"
        return "\n".join([head, *rows, *(f"- {problem}" for problem in self.problems or ["no problem found"])])


def check_chains(posterior, model=None, args=(), kwargs=None, *, num_draws=400, key=None):
    """Say whether chains sit in different modes, and whether a hidden state is empty, collapsed or flickering.

    Chains are grouped by the log joint density of their draws, which does not depend on how states are labelled: a group
    ends where the next chain is lower by more than two standard deviations of the draws. Chains of a lower mode are
    no second opinion: start all chains near the best (``inference.find_starts``), or, where modes are real, weigh the
    chains. The weights stack predictions of each step given all the others, or given the past where a class has no
    exact left-out terms (Yao, Vehtari and Gelman 2022).

    Of hidden states three things are told, if they hold in most draws of a chain: a state that has some probability holds
    less than 1 % of the steps;
    the scale of a continuous emission is below a thousandth of the data's; most stays in a state, of five or more, last a
    single step.

    Args:
        posterior: an MCMC object, an ArviZ tree, or a dict of draws grouped by chain.
        model: the NumPyro model; an MCMC object knows its own.
        args, kwargs: arguments of the model; an MCMC object knows those it ran with.
        num_draws: at most this many draws, evenly spaced and as many from each chain.
        key: random key of the states that are drawn; a fixed one by default.

    Returns:
        :class:`ChainCheck`.

    Raises:
        ValueError: without a model, or if draws are not grouped by chain.

    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> from tsppl import check_chains
    >>> def model(y):
    ...     numpyro.sample("y", dist.Normal(numpyro.sample("loc", dist.Normal(0.0, 10.0)), 1.0), obs=y)
    >>> draws = {"loc": jnp.array([[0.9, 1.1], [1.1, 1.0], [8.0, 8.2]])}
    >>> print(check_chains(draws, model, (jnp.array(1.0),)).problems[0])
    chain 2 is 25.5 nats below the best: a local mode. Start all chains near the best (inference.find_starts) or weigh them
    """
    model, args, kwargs = model_and_arguments(posterior, model, args, kwargs)
    if model is None:
        raise ValueError("pass the model and its arguments: check_chains(posterior, model, (y,))")
    if isinstance(posterior, tuple):
        raise TypeError("a guide has no chains to check: pass an MCMC object, a tree, or draws grouped by chain")
    draws = as_draws(None, model, posterior, args, kwargs, num_draws=num_draws)
    if len(draws.shape) != 2:
        raise ValueError(
            f"draws have leading axes {draws.shape}; pass draws grouped by chain, mcmc.get_samples(group_by_chain=True)"
        )

    def log_density(key, draw):
        return sum(map(jnp.sum, log_probs(replay(key, model, draw, args, kwargs)).values()))

    densities = np.asarray(map_draws(log_density, random.key(0), draws, label="check_chains"))
    level, spread = densities.mean(1), densities.std(1)
    mode = _modes(level, spread)
    problems = _about_modes(level, mode)
    trace = checked_trace(model, draws.first(), args, kwargs)
    weights = _weights(model, draws, args, kwargs, trace, mode)
    problems += _about_states(random.key(0) if key is None else key, model, draws, args, kwargs, trace)
    return ChainCheck(level, spread, mode, weights, tuple(problems))


def _modes(level, spread):
    """Number of the mode of each chain, by falling log density."""
    order = np.argsort(-level)
    gaps = level[order[:-1]] - level[order[1:]]
    pooled = np.sqrt((spread[order[:-1]] ** 2 + spread[order[1:]] ** 2) / 2)
    modes = np.empty(len(level), int)
    modes[order] = np.concatenate([[0], np.cumsum(gaps > np.maximum(_SEPARATE * pooled, 1.0))])
    return modes


def _about_modes(level, mode):
    best = level[mode == 0].mean()
    sentences = []
    for number in range(1, mode.max() + 1):
        chains = np.flatnonzero(mode == number)
        names = " and ".join(map(str, chains))
        subject, verb = (f"chains {names}", "are") if len(chains) > 1 else (f"chain {names}", "is")
        sentences.append(
            f"{subject} {verb} {best - level[chains].mean():.1f} nats below the best: a local mode. Start all chains near the "
            "best (inference.find_starts) or weigh them"
        )
    return sentences


def _weights(model, draws, args, kwargs, trace, mode):
    """Stacking weights of the modes, shared evenly by the chains of each.

    None if terms are not known, or conditional on explicit sequences or labels.
    """
    names = observed_sites(trace)
    explicit = any(not site.observed for site in sequence_sites(trace).values())
    explicit |= any(site["fn"].support.is_discrete for site in latent_sites(trace).values())
    if explicit or not names:
        return None
    for kind in ("left-out", "one-step"):
        try:
            found = pointwise_terms(model, draws, args, kwargs, kind=kind, sites=names)
        except NotImplementedError:
            continue
        columns = [
            np.asarray(site.terms).reshape(draws.shape + (-1,))[..., np.asarray(site.scored).ravel()]
            for site in found.values()
        ]
        terms = np.concatenate(columns, -1)
        if not np.isfinite(terms).all():
            return None
        densities = [left_out_densities(np.concatenate(terms[mode == number]))[0] for number in range(mode.max() + 1)]
        return (stacking_weights(np.stack(densities, -1)) / np.bincount(mode))[mode]
    return None


def _about_states(key, model, draws, args, kwargs, trace):
    sites = {name: site for name, site in sequence_sites(trace).items() if hasattr(site.distribution, "num_states")}
    if not sites:
        return []
    latents = draw_latents(key, model, draws, args, kwargs)

    def narrowest(key, draw):
        replayed = sequence_sites(replay(key, model, draw, args, kwargs))
        return {name: _narrowest(replayed[name]) for name in sites}

    ratios = map_draws(narrowest, random.key(0), draws, label="check_chains")
    sentences = []
    for name, site in sites.items():
        num_states, lengths = site.distribution.num_states, site.distribution.lengths
        states = np.asarray(latents[name]["states"])
        in_use = _states_in_use(site.distribution)
        counts = np.stack([[_rare_and_flickering(p, num_states, in_use, lengths) for p in chain] for chain in states])
        seen = {
            f"some state holds less than {_RARE:.0%} of the steps: fewer states may do": counts[..., 0],
            "most stays in some state last a single step: it may stand for outliers": counts[..., 1],
            f"the scale of some state is below {_NARROW:g} of the data's: a variance runs to zero; give it a prior that "
            "keeps it away": np.asarray(ratios[name]) < _NARROW,
        }
        for what, holds in seen.items():
            chains = np.flatnonzero(holds.mean(1) > 0.5)
            if len(chains):
                which = "chain " + str(chains[0]) if len(chains) == 1 else "chains " + ", ".join(map(str, chains))
                sentences.append(f"site {name!r}, {which}: {what}")
    return sentences


def _states_in_use(distribution):
    """States whose probability is not zero throughout, as :func:`~tsppl.distributions.restrict_states` makes it."""
    num_states = distribution.num_states
    probs = [getattr(distribution, name, None) for name in ("initial_probs", "transition_probs")]
    if not all(hasattr(array, "dtype") for array in probs):
        return np.arange(num_states)
    return np.flatnonzero(np.any([(np.asarray(a) > 0).reshape(-1, num_states).any(0) for a in probs], axis=0))


def _rare_and_flickering(states, num_states, in_use, lengths):
    """Whether a draw of the states has a state that is rare, and one whose stays mostly last one step."""
    if lengths is not None:
        within = np.arange(states.shape[-1]) < np.asarray(lengths)[..., None]
        states = np.where(within, states, -1)
    occupied = np.bincount(states[states >= 0], minlength=num_states)[in_use]
    stays = dwell_times(states, num_states)
    flickering = any(len(lasting) >= _FEWEST_STAYS and (lasting == 1).mean() > 0.5 for lasting in stays)
    return occupied.min() < _RARE * occupied.sum(), flickering


def _narrowest(site):
    """Least standard deviation of the emission over the states and entries, relative to that of the observed data."""
    distribution = site.distribution
    emission = getattr(distribution, "emission", None) or getattr(distribution, "noise", None)
    if not site.observed or emission is None or emission.support is None or emission.support.is_discrete:
        return jnp.inf
    entries = distribution.observed_entries()
    value, entries = jnp.broadcast_arrays(site.value, True if entries is None else entries)
    axes = tuple(range(site.axes.time + 1))
    scale = jnp.std(value, axes, where=entries)
    try:
        return jnp.min(jnp.sqrt(emission.variance) / scale)
    except NotImplementedError:
        return jnp.inf
