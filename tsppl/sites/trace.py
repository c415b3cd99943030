"""A user's model, run at given values of its sites; which sites are sequences, and what their wrappers and axes mean."""

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


class SiteAxes(NamedTuple):
    """What each axis of the value of a sequence site is, counted from the left; ``plates`` has the axis of each by name."""

    batch: tuple[int, ...]
    time: int
    event: tuple[int, ...]
    plates: dict[str, int]


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

    @property
    def axes(self):
        """The :class:`SiteAxes` of the value, whatever the sizes are."""
        time = self.value.ndim - self.distribution.event_dim
        return SiteAxes(tuple(range(time)), time, tuple(range(time + 1, self.value.ndim)), self.plates)


def replay(key, model, values, args, kwargs, *, substitute_fn=None):
    """Trace of a model at given values of its latent sites; every run of a user's model is one of these.

    Args:
        key: random key of the sites without a value.
        model: the NumPyro model.
        values: dict, name of a site -> value; empty for a draw of the prior.
        args, kwargs: arguments of the model.
        substitute_fn: function of a site that is not in ``values``, which returns its value, or None to draw it: such as
            NumPyro's ``init_to_uniform``.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model(scale):
    ...     numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal(0.0, 1.0)), scale), obs=2.0)
    >>> trace = replay(random.key(0), model, {"x": 1.0}, (0.5,), {})
    >>> {name: float(log_prob) for name, log_prob in log_probs(trace).items()}
    {'x': -1.42, 'y': -2.23}
    """
    model = handlers.seed(model, key)
    if substitute_fn is not None:
        model = handlers.substitute(model, substitute_fn=substitute_fn)
    return handlers.trace(handlers.substitute(model, data=values)).get_trace(*args, **kwargs)


def log_probs(trace):
    """Log densities of the values of all sites of a trace, ``name -> array``, observed or latent."""
    return {name: site["fn"].log_prob(site["value"]) for name, site in trace.items() if site["type"] == "sample"}


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
            batch_ndim = jnp.ndim(site["value"]) - site["fn"].event_dim
            plates = {frame.name: batch_ndim + frame.dim for frame in site["cond_indep_stack"]}
            sites[name] = SequenceSite(distribution, jnp.asarray(site["value"]), mask, site["is_observed"], plates)
    return sites


def grown_axis(before, after, num_steps):
    """The axis by which a site that is no sequence follows time, seen in two traces of the model.

    Args:
        before, after: the site where the series have ``T`` steps, and where they have ``T + num_steps``.

    Returns:
        The only axis that is not as long in both, if it is longer by ``num_steps`` in the second; None if the site does not
        follow time.
    """
    before, after = before["fn"].shape(), after["fn"].shape()
    if len(before) != len(after):
        return None
    moved = [axis for axis in range(len(before)) if before[axis] != after[axis]]
    return moved[0] if len(moved) == 1 and after[moved[0]] - before[moved[0]] == num_steps else None


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
