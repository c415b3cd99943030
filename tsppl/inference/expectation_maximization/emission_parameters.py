"""The parameters of any NumPyro distribution by name: read them, give each state its own, build the distribution anew.

A parameter is named by the argument of the constructor (``"rate"``, ``"loc"``); a nested distribution adds its own name
in front (``"component_distribution.loc"``). ``Independent`` and ``ExpandedDistribution`` add nothing.
"""

import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from tsppl.distributions.emissions.streams import Streams
from tsppl.distributions.wrappers import innermost

_BOUNDS = ("low", "high")
_GAUSSIAN_ARGUMENTS = ("loc", "scale_tril")
_RENAMED = {"base_distribution": "base_dist"}


class Parameter(NamedTuple):
    """A parameter's value and the constraint it obeys."""

    value: jax.Array
    constraint: constraints.Constraint


def parameters(distribution, prefix="") -> dict[str, Parameter]:
    """Continuous parameters by name, without those on which the support depends (bounds, numbers of trials)."""
    distribution, found = innermost(distribution), {}
    for name, argument in _arguments(distribution).items():
        if isinstance(argument, dist.Distribution):
            found |= parameters(argument, f"{prefix}{name}.")
        elif _is_parameter(distribution, name):
            found[prefix + name] = Parameter(as_real(argument), distribution.arg_constraints[name])
    return found


def rebuild(distribution, values, prefix=""):
    """The same distribution with the parameters in ``values``, ``name -> array``; the others stay."""
    if isinstance(distribution, dist.Independent):
        return dist.Independent(rebuild(distribution.base_dist, values, prefix), distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, dist.ExpandedDistribution):
        return rebuild(distribution.base_dist, values, prefix).expand(distribution.batch_shape)
    arguments = _arguments(distribution)
    for name, argument in arguments.items():
        if isinstance(argument, dist.Distribution):
            arguments[name] = rebuild(argument, values, f"{prefix}{name}.")
        elif prefix + name in values:
            arguments[name] = values[prefix + name]
    return type(distribution)(**arguments)


def open_parameters(distribution, batch_shape):
    """The same distribution with every parameter at its full shape, none shared along ``batch_shape``."""
    if isinstance(distribution, dist.ExpandedDistribution):
        return open_parameters(distribution.base_dist, batch_shape)
    if isinstance(distribution, dist.Independent):
        base, ndims = distribution.base_dist, distribution.reinterpreted_batch_ndims
        inner = distribution.event_shape[:ndims]
        return dist.Independent(open_parameters(base, batch_shape + inner), ndims)
    if isinstance(distribution, Streams):
        streams = zip(distribution.names, distribution.streams, strict=True)
        return Streams(**{name: open_parameters(stream, batch_shape) for name, stream in streams})

    def opened(parameter):
        value, ndim = parameter.value, parameter.constraint.event_dim
        return jnp.broadcast_to(value, batch_shape + value.shape[value.ndim - ndim :])

    own = {name: opened(p) for name, p in parameters(distribution).items() if "." not in name}
    return rebuild(distribution, {name: p.value for name, p in parameters(distribution).items()} | own)


def _arguments(distribution):
    """Arguments that build the distribution anew, ``name -> value``."""
    if isinstance(distribution, Streams):
        return dict(zip(distribution.names, distribution.streams, strict=True))
    if isinstance(distribution, dist.MultivariateNormal):
        return {name: getattr(distribution, name) for name in _GAUSSIAN_ARGUMENTS}
    arguments = {}
    for name in inspect.signature(type(distribution).__init__).parameters:
        attribute = _RENAMED.get(name, name)
        if name in ("self", "validate_args") or not hasattr(distribution, attribute):
            continue
        value = getattr(distribution, attribute)
        if isinstance(value, list | tuple) and any(isinstance(entry, dist.Distribution) for entry in value):
            raise NotImplementedError(
                f"the parameters of {type(distribution).__name__}, a list of distributions, cannot be estimated by EM"
            )
        arguments[name] = value
    return arguments


def _is_parameter(distribution, name):
    constraint = distribution.arg_constraints.get(name)
    if constraint is None or name in _BOUNDS or isinstance(constraint, type(constraints.dependent)):
        return False
    bounds_support = any(leaf is getattr(distribution, name) for leaf in jax.tree.leaves(distribution.support))
    return not constraint.is_discrete and not bounds_support


def as_real(array):
    """The array, integers turned into the default floating dtype."""
    array = jnp.asarray(array)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.result_type(float))
