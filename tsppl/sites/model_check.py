"""One look at a model before it is sampled: shapes, densities and gradients at a few draws of the prior."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from numpyro.distributions.transforms import biject_to
from numpyro.infer import init_to_sample

from tsppl.distributions.hidden_markov.markov_switching import MarkovSwitching
from tsppl.sites.trace import latent_sites, log_probs, replay, sequence_sites


@dataclass(frozen=True)
class SiteCheck:
    """What was seen of one site.

    Attributes:
        shape: of its value.
        observed: whether it is data.
        log_density: least and greatest sum of its log density over the draws.
        gradient: greatest size of the gradient of the joint density with respect to it, in unconstrained space; None for
            data and discrete sites.
        masked: share of the steps of a sequence that are not scored; None for others.
    """

    shape: tuple
    observed: bool
    log_density: tuple
    gradient: Any
    masked: Any


@dataclass(frozen=True)
class ModelCheck:
    """What :func:`check_model` found; ``print`` it.

    Attributes:
        sites: name -> :class:`SiteCheck`.
        problems: sentences, in the order of the sites; empty if the model can be sampled.
    """

    sites: dict
    problems: tuple

    @property
    def ok(self):
        """Whether nothing stands in the way of sampling."""
        return not self.problems

    def __str__(self):
        head = f"{'site':24}{'shape':>16}{'':>10}{'log density':>28}{'gradient':>12}{'masked':>8}"
        rows = [
            f"{name:24}{str(site.shape):>16}{'data' if site.observed else 'latent':>10}"
            f"{'{:.5g} to {:.5g}'.format(*site.log_density):>28}"
            f"{'' if site.gradient is None else f'{site.gradient:.3g}':>12}"
            f"{'' if site.masked is None else f'{site.masked:.0%}':>8}"
            for name, site in self.sites.items()
        ]
        verdict = [f"- {problem}" for problem in self.problems] or ["no problem found"]
        return "\n".join([head, *rows, *verdict])


def check_model(model, *args, num_draws=3, key=None, **kwargs):
    """Look at a model at a few draws of its prior, without compiling it, and say what would keep it from being sampled.

    Samplers compile the model, and inside a compiled program a bad density is a NaN without an address. Here every
    site is scored by itself. A sequence whose density is not finite is searched for the first step that no state
    explains, or that some state explains with density ``inf`` or NaN.

    Args:
        model: NumPyro model.
        *args: arguments of the model.
        num_draws: number of draws of the prior.
        key: random key; a fixed one by default.
        **kwargs: keyword arguments of the model.

    Returns:
        :class:`ModelCheck`, with ``.ok`` and ``.problems``. Nothing is raised for a bad model, except by NumPyro for one
        that cannot be traced at all.

    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist, tsppl, tsppl.distributions as tsd
    >>> def model(y):
    ...     loc = numpyro.sample("loc", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    ...     rows = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    ...     series = tsd.HiddenMarkov(jnp.array([1.0, 0.0]), rows, dist.Uniform(loc, loc + 1), num_steps=2)
    ...     numpyro.sample("y", series, obs=y)
    >>> tsppl.check_model(model, jnp.array([50.0, 50.0])).problems[0][:65]
    "site 'y': observation at step 0 (value 50.0) is outside the suppo"
    """
    keys = random.split(random.PRNGKey(0) if key is None else key, num_draws)
    seen, gradients, problems = {}, {}, []
    for draw_key in keys:
        trace = replay(draw_key, model, {}, args, kwargs, substitute_fn=init_to_sample)
        values = {name: site["value"] for name, site in latent_sites(trace).items()}
        scored = True
        for name, site in trace.items():
            if site["type"] != "sample":
                continue
            density, problem = _score(name, site, trace)
            seen.setdefault(name, []).append((site, density))
            problems += problem
            scored = scored and not problem
        if scored:
            for name, size in _gradients(model, draw_key, values, trace, args, kwargs).items():
                gradients.setdefault(name, []).append(size)
    for name, sizes in gradients.items():
        if not np.isfinite(sizes).all():
            problems.append(
                f"site {name!r}: the gradient of the joint density is not finite at {np.sum(~np.isfinite(sizes))} of "
                f"{num_draws} draws of the prior, though the density is: look for where() around a division, root or "
                "logarithm whose other branch is infinite"
            )
    sites = {name: _summary(name, draws, gradients.get(name)) for name, draws in seen.items()}
    return ModelCheck(sites, tuple(dict.fromkeys(problems)))


def _score(name, site, trace):
    """The log density of a site's value, and what is wrong with it."""
    value = np.asarray(site["value"])
    if np.issubdtype(value.dtype, np.floating) and not site["is_observed"] and not np.isfinite(value).all():
        return np.nan, [f"site {name!r}: a draw of its prior is not finite: its parameters are out of range"]
    try:
        density = float(jnp.sum(site["fn"].log_prob(site["value"])))
    except ValueError as error:
        return np.nan, [f"site {name!r}: {error}"]
    if np.isfinite(density):
        return density, []
    sequence = sequence_sites(trace).get(name)
    if sequence is not None and isinstance(sequence.distribution, MarkovSwitching):
        place = _first_bad_step(sequence.distribution, sequence.value)
        if place:
            return density, [f"site {name!r}: {place}"]
    try:
        terms = np.asarray(site["fn"].log_prob(site["value"]))
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(terms))[0]) if terms.ndim else ()
    except ValueError:
        index = ()
    where = f" at index {index}" if index else ""
    return density, [f"site {name!r}: the log density is {density}{where} under a draw of the prior"]


def _first_bad_step(distribution, value):
    """Words for the first step whose log-likelihoods are ``-inf`` in all states, or ``inf`` or NaN in one."""
    log_likelihoods = np.asarray(distribution.potentials(value)[2])
    first = distribution.num_steps - log_likelihoods.shape[-2]
    bad = np.isnan(log_likelihoods) | np.isposinf(log_likelihoods)
    impossible = np.isneginf(log_likelihoods).all(-1)
    places = np.argwhere(bad.any(-1) | impossible)
    if not len(places):
        return None
    *sequence, step = (int(i) for i in places[0])
    where = (
        f"sequence {sequence[0] if len(sequence) == 1 else tuple(sequence)}, " if sequence else ""
    ) + f"step {first + step}"
    whole = np.broadcast_to(value, log_likelihoods.shape[:-2] + np.shape(value)[-distribution.event_dim :])
    found = whole[(*sequence, first + step)]
    if impossible[tuple(places[0])]:
        return f"the observation at {where} (value {found}) has log density -inf in all states: no state can make it"
    terms = log_likelihoods[tuple(places[0])]
    state = int(np.argwhere(bad[tuple(places[0])])[0][0])
    reported = distribution.state_chain(value).reported
    return (
        f"the observation at {where} (value {found}) has log density {terms[state]} in state "
        f"{state if reported is None else reported[state]}: "
        + (
            "a density without bound, as of a Gamma of shape below 1 at 0"
            if terms[state] > 0
            else "its parameters are out of range"
        )
    )


def _gradients(model, key, values, trace, args, kwargs):
    """Greatest size of the gradient with respect to each continuous latent site, in unconstrained space."""
    latent = latent_sites(trace)
    free = {
        name: biject_to(latent[name]["fn"].support).inv(value)
        for name, value in values.items()
        if not latent[name]["fn"].support.is_discrete
    }

    def log_joint(free):
        def substitute(site):
            name = site["name"]
            if site["type"] != "sample" or site["is_observed"] or name not in values:
                return None
            return biject_to(site["fn"].support)(free[name]) if name in free else values[name]

        trace = replay(key, model, {}, args, kwargs, substitute_fn=substitute)
        return sum(map(jnp.sum, log_probs(trace).values()))

    slopes = jax.grad(log_joint)(free) if free else {}
    return {name: float(jnp.abs(slope).max()) if slope.size else 0.0 for name, slope in slopes.items()}


def _summary(name, draws, gradients):
    site = draws[0][0]
    densities = [density for _, density in draws]
    sequence = sequence_sites({name: site}).get(name)
    masked = None
    if sequence is not None and sequence.observed:
        masked = 1 - float(np.mean(sequence.distribution.scored_steps(sequence.value)))
    return SiteCheck(
        shape=tuple(np.shape(site["value"])),
        observed=site["is_observed"],
        log_density=(min(densities), max(densities)),
        gradient=None if gradients is None else max(gradients),
        masked=masked,
    )
