"""Sites of a user's model, replayed under posterior draws: which are sequences, and what their wrappers mean."""

import copy
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from numpyro import handlers

from tsppl.distributions import SequenceDistribution
from tsppl.distributions.sequence import time_axis_of_mask
from tsppl.distributions.wrappers import unwrap


class SequenceSite(NamedTuple):
    """A site whose distribution, freed of its wrappers, is a sequence distribution.

    ``mask`` is None, or the bool array over batch that ``handlers.mask`` or ``.mask`` put around the distribution. It
    is also part of the distribution's own mask where the class has one, so that it reaches every answer.
    """

    distribution: SequenceDistribution
    value: Any
    mask: Any
    observed: bool
    plates: dict


def replay(key, model, draw, args, kwargs, *, substitute_fn=None):
    """Trace of ``model`` with the values of ``draw``, or those of ``substitute_fn(site)``, at its latent sites."""
    model = handlers.substitute(handlers.seed(model, key), data=draw)
    if substitute_fn is not None:
        model = handlers.substitute(model, substitute_fn=substitute_fn)
    return handlers.trace(model).get_trace(*args, **kwargs)


def abstract_sites(model, args, kwargs, params):
    """Trace ``model`` without computing anything: ``name -> site``, whose arrays only have shapes and dtypes.

    Raises:
        ValueError: if a plate is subsampled.
    """
    recorded = {}

    def placeholder(site):
        if site["type"] == "plate":
            _check_whole(site)
        if site["type"] != "sample" or site["is_observed"]:
            return None
        sample_shape = site["kwargs"]["sample_shape"]
        try:
            return site["fn"](rng_key=site["kwargs"]["rng_key"], sample_shape=sample_shape)
        except NotImplementedError:
            return jnp.zeros(sample_shape + tuple(site["fn"].shape()))

    def run(key):
        recorded.update(replay(key, model, params, args, kwargs, substitute_fn=placeholder))
        return 0

    jax.eval_shape(run, random.key(0))
    return recorded


def _check_whole(plate):
    size, subsample_size = plate["args"]
    if subsample_size is not None and subsample_size < size:
        raise ValueError(
            f"plate {plate['name']!r} is subsampled ({subsample_size} of {size}), so every draw would see other "
            "series. Call this function with a model that has no subsample_size"
        )


def latent_sites(trace):
    """The sites of a trace that a posterior has draws of."""
    return {name: site for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]}


def sequence_sites(trace):
    """The sequence sites of a trace, ``name -> SequenceSite``, observed or latent.

    Raises:
        ValueError: if the batch of a distribution and that of its value differ, as they do when a plate is at the wrong
            dim or ``obs_mask`` is used over time.
    """
    sites = {}
    for name, site in trace.items():
        if site["type"] == "sample" and is_sequence(site["fn"]):
            try:
                distribution, mask = sequence_distribution(site["fn"], jnp.shape(site["value"]))
            except ValueError as error:
                why = error
                root = name.removesuffix("_observed")
                if root != name and f"{root}_unobserved" in trace:
                    name, why = root, "obs_mask works on sequences, not on steps. Pass mask= to the distribution"
                raise ValueError(f"site {name!r}: {why}") from None
            plates = {frame.dim: frame.name for frame in site["cond_indep_stack"]}
            sites[name] = SequenceSite(distribution, jnp.asarray(site["value"]), mask, site["is_observed"], plates)
    return sites


def is_sequence(fn) -> bool:
    """True for a sequence distribution, wrapped or not."""
    return isinstance(unwrap(fn)[0], SequenceDistribution)


def sequence_distribution(fn, value_shape):
    """``(distribution, mask)`` of a site: without wrappers, with the batch of the value, masked series unobserved."""
    distribution, mask = unwrap(fn)
    lead = value_shape[: len(value_shape) - distribution.event_dim]
    try:
        fits = lax.broadcast_shapes(lead, distribution.batch_shape) == lead
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"the distribution has batch shape {distribution.batch_shape} and the value {lead}, so series would be "
            "counted more than once. Is a plate at the wrong dim? The batch of a series is right before time: the "
            "rightmost plate has dim=-1"
        )
    distribution = distribution.expand(lead)
    if mask is None:
        return distribution, None
    mask = jnp.broadcast_to(mask, lead)
    return _with_series_masked(distribution, mask), mask


def checked_trace(model, draw, args, kwargs):
    """Trace of ``model`` at one draw, with concrete arrays, after checking the values of its observed sequences."""
    trace = replay(random.key(0), model, draw, args, kwargs)
    for name, site in sequence_sites(trace).items():
        if site.observed:
            try:
                site.distribution.check_value(site.value)
            except ValueError as error:
                raise ValueError(f"site {name!r}: {error}") from None
    return trace


def latent_shapes(site) -> dict:
    """Shapes of the hidden states and the hidden trajectory of a sequence site; empty if it has none."""
    try:
        return jax.eval_shape(site.distribution.sample_latents, random.key(0), site.value)
    except NotImplementedError:
        return {}


def _with_series_masked(distribution, mask):
    """The distribution with every step of the series outside ``mask`` unobserved, if its class knows missing steps."""
    if "mask" not in inspect.signature(type(distribution).__init__).parameters:
        return distribution
    masked, entries = copy.copy(distribution), distribution.observed_mask
    if entries is None:
        masked.observed_mask = jnp.broadcast_to(mask[..., None], mask.shape + (distribution.num_steps,))
    else:
        trailing = entries.ndim - time_axis_of_mask(entries.shape, distribution.event_shape)
        masked.observed_mask = entries & mask.reshape(mask.shape + (1,) * trailing)
    if getattr(distribution, "known_states", None) is not None:
        masked.known_states = jnp.where(mask[..., None], distribution.known_states, -1)
    return masked
