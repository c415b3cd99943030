"""Sites of a user's model, replayed under posterior draws: which are sequences, and what their wrappers mean."""

import copy
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax, random
from numpyro import handlers

from tsppl.distributions import SequenceDistribution
from tsppl.distributions.sequence import time_axis_of_mask


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


def unwrap(fn):
    """Free a distribution of ``Independent``, ``MaskedDistribution`` and ``ExpandedDistribution``.

    Returns:
        ``(base, mask)``: the innermost distribution with the full batch, that is ``fn``'s batch and then whatever an
        ``Independent`` made part of the event; and the bool array over that batch that the masks amount to, or None.
    """
    if isinstance(fn, dist.Independent):
        return unwrap(fn.base_dist)
    if isinstance(fn, dist.MaskedDistribution):
        base, mask = unwrap(fn.base_dist)
        if fn._mask is True:
            return base, mask
        own = jnp.asarray(fn._mask)
        own = own.reshape(own.shape + (1,) * (len(base.batch_shape) - len(fn.batch_shape)))
        own = jnp.broadcast_to(own, base.batch_shape)
        return base, own if mask is None else own & mask
    if isinstance(fn, dist.ExpandedDistribution):
        base, mask = unwrap(fn.base_dist)
        batch_shape = fn.batch_shape + base.batch_shape[len(fn.base_dist.batch_shape) :]
        return base.expand(batch_shape), None if mask is None else jnp.broadcast_to(mask, batch_shape)
    return fn, None


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


def state_axes(trace):
    """Which axes of latent sites are states, where a site is itself an argument of a sequence distribution.

    Known are initial and transition probabilities, parameters of nested distributions (their last batch axis), and any
    other array if just one of its axes has as many entries as there are states; and the axes of plates whose name
    begins with ``state``.

    Returns:
        dict: name of a site -> list of ``"state"``, ``"state_to"`` or None, one for each axis of its value.
    """
    named = {}
    latent = latent_sites(trace)

    def name_axes(array, axes):
        for name, site in latent.items():
            if site["value"] is array:
                named.setdefault(name, [None] * (array.ndim - len(axes)) + axes)

    for site in trace.values():
        if site["type"] != "sample" or not is_sequence(site["fn"]):
            continue
        fn = site["fn"]
        while not isinstance(fn, SequenceDistribution):
            fn = fn.base_dist
        fields = {name: getattr(fn, name, None) for name in type(fn).gather_pytree_data_fields()}
        num_states = None
        for name in ("initial_probs", "initial_logits", "transition_probs", "transition_logits"):
            if fields.get(name) is not None:
                num_states = fields[name].shape[-1]
                name_axes(fields[name], ["state"] if name.startswith("initial") else ["state", "state_to"])
        for field in fields.values():
            if isinstance(field, dist.Distribution):
                for array, after in _parameters(field, 0):
                    if jnp.ndim(array) > after and jnp.shape(array)[jnp.ndim(array) - after - 1] == num_states:
                        name_axes(array, ["state"] + [None] * after)
            for array in jax.tree.leaves(field):
                if jnp.shape(array).count(num_states) == 1:
                    name_axes(array, ["state" if size == num_states else None for size in array.shape])
    for name, site in latent.items():
        ndim = len(site["fn"].batch_shape)
        axes = named.get(name, [None] * len(site["fn"].shape()))
        for plate in site["cond_indep_stack"]:
            if plate.name.startswith("state") and axes[ndim + plate.dim] is None:
                axes[ndim + plate.dim] = "state"
                named[name] = axes
    return named


def _parameters(distribution, after):
    """Arrays that a distribution was made of, each with the number of axes after its last batch axis."""
    if isinstance(distribution, dist.Independent):
        yield from _parameters(distribution.base_dist, after + distribution.reinterpreted_batch_ndims)
        return
    for name, constraint in distribution.arg_constraints.items():
        array = vars(distribution).get(name)
        if array is not None:
            yield array, after + constraint.event_dim
