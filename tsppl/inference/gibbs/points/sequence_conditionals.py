"""Conditional distributions of the parameters of PPSeq given which spikes belong together and the events behind them.

All are conjugate (Williams, Degleris, Wang and Linderman 2020, supplement). The sites' own priors are read off a trace of
the model, and :class:`~tsppl.inference.SequenceGibbs` compares what is drawn from with the model's joint density.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import random
from jax.flatten_util import ravel_pytree

from tsppl.conjugate import normalized_gammas
from tsppl.distributions.wrappers import innermost, unwrap
from tsppl.inference.gibbs.block import NotConjugateError
from tsppl.points import SequenceCounts

PARAMETERS = (
    "type_probs",
    "neuron_probs",
    "offsets",
    "variances",
    "background_probs",
    "event_rate",
    "background_rate",
)


class Conditional(NamedTuple):
    """Sites that are drawn together.

    ``draw(key, log_gammas)`` gives their values by name, made of the logs of standard gamma variables of these
    ``concentrations``: one call draws those of all sites, since each call takes more than a second to compile.
    ``log_density(values)`` is that of the draw, up to a constant.
    """

    sites: tuple
    concentrations: Any
    draw: Callable
    log_density: Callable


def conditionals(names, trace, process, counts: SequenceCounts) -> list[Conditional]:
    """The conditional distributions of all sites of a block, independent of each other.

    Args:
        names: site of each parameter.
        trace: of the model at the current values.
        process: the Neyman-Scott process in it.
        counts: of the labelled spikes.

    Raises:
        NotConjugateError: if a site's prior is of another family or its shape is not that of the parameter.
    """
    probs = {"type_probs": counts.types, "neuron_probs": counts.spikes, "background_probs": counts.background}
    rates = {
        "event_rate": (counts.types.sum(), process.rates.expected_occupied),
        "background_rate": (counts.background.sum(), process.rates.expected_background),
    }
    found = [_dirichlet(names[name], trace, number) for name, number in probs.items() if name in names]
    found += [_gamma(names[name], trace, *known) for name, known in rates.items() if name in names]
    offsets, variances = names.get("offsets"), names.get("variances")
    if offsets and variances:
        found.append(_normal_inverse_gamma(offsets, variances, trace, counts))
    elif offsets:
        found.append(_normal(offsets, trace, counts, process.cluster.widths**2))
    elif variances:
        found.append(_inverse_gamma(variances, trace, counts, process.cluster.offsets))
    return found


def draw_all(key, found) -> dict:
    """Values of the sites of all conditional distributions."""
    gamma_key, *keys = random.split(key, len(found) + 1)
    concentrations, separate = ravel_pytree([one.concentrations for one in found])
    log_gammas = separate(random.loggamma(gamma_key, concentrations))
    drawn = {}
    for key, one, logs in zip(keys, found, log_gammas, strict=True):
        drawn.update(one.draw(key, logs))
    return drawn


def draw_shift(key, prior, offsets, times, warps, types, low, high, num_types):
    """Draw how far the offsets of each type move later, ``(R,)``, with all their events as much earlier.

    Spikes do not notice, so only the prior of the offsets and the window speak: a truncated normal distribution. Without
    this, offsets and events wander off together only slowly.

    Args:
        prior: mean and precision of offsets, ``(R, M)`` both.
        offsets: ``(R, M)``.
        times, warps, types: start, stretch and type of each event, ``(K,)``; type ``num_types`` where there is none.
        low, high: where starts may be, relative like ``times``.
    """
    mean, precision = prior
    total = precision.sum(1)
    centre, error = (precision * (mean - offsets)).sum(1) / total, total**-0.5

    def lowest(values):
        return jnp.full(num_types, jnp.inf, values.dtype).at[types].min(values, mode="drop")

    most, least = lowest((times - low) / warps), -lowest((high - times) / warps)
    drawn = random.truncated_normal(key, (least - centre) / error, (most - centre) / error, dtype=centre.dtype)
    return centre + error * drawn


def offsets_prior(site, trace, shape):
    """Mean and precision of the normal prior of offsets, at the values of the trace."""
    prior = _prior(site, trace, dist.Normal, shape)
    return jnp.broadcast_to(prior.loc, shape), jnp.broadcast_to(prior.scale**-2.0, shape)


def _dirichlet(site, trace, counts):
    prior = _prior(site, trace, dist.Dirichlet, counts.shape)
    concentration = prior.concentration + counts
    return Conditional(
        (site,),
        concentration,
        lambda key, log_gammas: {site: normalized_gammas(log_gammas)},
        lambda values: dist.Dirichlet(concentration).log_prob(values[site]).sum(),
    )


def _gamma(site, trace, number, expected):
    """Of a site to which the expected number is proportional: a rate, that before thinning, or the height of a shape."""
    prior = _prior(site, trace, dist.Gamma, ())
    posterior = dist.Gamma(prior.concentration + number, prior.rate + expected / trace[site]["value"])
    return Conditional(
        (site,),
        posterior.concentration,
        lambda key, log_gammas: {site: jnp.exp(log_gammas) / posterior.rate},
        lambda values: posterior.log_prob(values[site]),
    )


def _normal_inverse_gamma(offsets, variances, trace, counts):
    shape, number = counts.spikes.shape, counts.spikes
    mean, precision = offsets_prior(offsets, trace, shape)
    weight = precision * trace[variances]["value"]
    prior = _prior(variances, trace, dist.InverseGamma, shape)
    location = (weight * mean + number * counts.mean_delay) / (weight + number)
    between = weight * number / (weight + number) * (counts.mean_delay - mean) ** 2
    of_variance = dist.InverseGamma(
        prior.concentration + number / 2, prior.rate + (counts.scatter + between) / 2, validate_args=False
    )

    def of_offset(variance):
        return dist.Normal(location, jnp.sqrt(variance / (weight + number)), validate_args=False)

    def draw(key, log_gammas):
        variance = of_variance.rate * jnp.exp(-log_gammas)
        return {variances: variance, offsets: of_offset(variance).sample(key)}

    def log_density(values):
        variance = values[variances]
        return (of_variance.log_prob(variance) + of_offset(variance).log_prob(values[offsets])).sum()

    return Conditional((offsets, variances), of_variance.concentration, draw, log_density)


def _normal(offsets, trace, counts, variance):
    mean, precision = offsets_prior(offsets, trace, counts.spikes.shape)
    total = precision + counts.spikes / variance
    location = (precision * mean + counts.spikes / variance * counts.mean_delay) / total
    posterior = dist.Normal(location, total**-0.5, validate_args=False)
    return Conditional(
        (offsets,),
        jnp.zeros(0, location.dtype),
        lambda key, log_gammas: {offsets: posterior.sample(key)},
        lambda values: posterior.log_prob(values[offsets]).sum(),
    )


def _inverse_gamma(variances, trace, counts, offsets):
    prior = _prior(variances, trace, dist.InverseGamma, counts.spikes.shape)
    squares = counts.scatter + counts.spikes * (counts.mean_delay - offsets) ** 2
    posterior = dist.InverseGamma(
        prior.concentration + counts.spikes / 2, prior.rate + squares / 2, validate_args=False
    )
    return Conditional(
        (variances,),
        posterior.concentration,
        lambda key, log_gammas: {variances: posterior.rate * jnp.exp(-log_gammas)},
        lambda values: posterior.log_prob(values[variances]).sum(),
    )


def _prior(site, trace, family, shape):
    """The prior of a site, freed of wrappers."""
    if site not in trace:
        raise NotConjugateError(f"the model has no site {site!r}; its sites are {list(trace)}")
    base, mask = unwrap(trace[site]["fn"])
    base = innermost(base)
    if mask is not None or trace[site]["scale"] is not None or not isinstance(base, family):
        kind = "masked or scaled" if isinstance(base, family) else f"a {type(base).__name__}"
        raise NotConjugateError(f"the prior of {site!r} is {kind}; a plain {family.__name__} can be drawn")
    if jnp.shape(trace[site]["value"]) != shape:
        raise NotConjugateError(f"{site!r} has shape {jnp.shape(trace[site]['value'])}, not {shape} as the parameter")
    return base
