"""Posteriors in whatever form people hold them, as one dict of draws; and functions of a draw, mapped in batches."""

import logging
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from numpyro.infer import MCMC, Predictive

from tsppl.sites.trace import abstract_sites, is_sequence, latent_sites
from tsppl.upstream import model_arguments, traces_model_arguments

DEFAULT_GUIDE_DRAWS = 1000
BATCH_BYTES = 2**28
LARGE_BYTES = 2**30


class Draws(NamedTuple):
    """Draws of the latent sites of a model: arrays with one leading axis, and the ``shape`` it stands for.

    ``params`` are the values of the model's ``numpyro.param`` sites, where the posterior is a guide. ``jit_model_args`` is
    that of an MCMC object: the model may be compiled for all values of its arguments at once.
    """

    values: dict[str, Any]
    shape: tuple[int, ...]
    params: dict[str, Any]
    jit_model_args: bool = False

    @property
    def size(self):
        """How many draws there are."""
        return int(np.prod(self.shape, dtype=int))

    def first(self):
        """One draw, with the parameters."""
        return self.params | {name: array[0] for name, array in self.values.items()}


def as_draws(key, model, posterior, args, kwargs, *, batch_ndims=None, num_draws=None) -> Draws:
    """Bring a posterior into the form of :class:`Draws`, keeping what ``model(*args, **kwargs)`` has as latent sites.

    Args:
        key: random key, for a guide.
        model: the NumPyro model.
        posterior: an MCMC object, a dict of draws, an ArviZ DataTree or InferenceData, or ``(guide, params)``.
        args, kwargs: arguments of the model.
        batch_ndims: number of leading axes of a dict of draws: 0 for one draw, 1 for flat draws, 2 for draws grouped by
            chain. By default it is read off the shapes.
        num_draws: at most this many draws, evenly spaced and as many from each chain; for a guide, how many to draw.

    Raises:
        ValueError: if a latent site has no draws, or draws do not fit the shape of their site.
    """
    if isinstance(posterior, tuple) and len(posterior) == 2 and callable(posterior[0]):
        guide, params = posterior
        predictive = Predictive(guide, params=params, num_samples=num_draws or DEFAULT_GUIDE_DRAWS)
        values, params, batch_ndims = predictive(key, *args, **kwargs), dict(params), 1
    else:
        values, batch_ndims = raw_draws(posterior, batch_ndims)
        params = {}
    shapes = {
        name: (jnp.shape(site["value"]), site["fn"])
        for name, site in latent_sites(abstract_sites(model, args, kwargs, params)).items()
    }
    values = _select(values, shapes)
    lead = _leading_shape(values, shapes, batch_ndims)
    values = {name: jnp.reshape(array, (-1,) + array.shape[len(lead) :]) for name, array in values.items()}
    draws = Draws(values, lead, params, isinstance(posterior, MCMC) and traces_model_arguments(posterior))
    return draws if num_draws is None else _thin(draws, num_draws)


def model_and_arguments(posterior, model, args, kwargs):
    """The model with its arguments; an MCMC object knows those it ran with.

    Raises:
        TypeError: if ``args`` is not a tuple.
    """
    if not isinstance(args, (tuple, list)):
        raise TypeError(f"args must be a tuple of the model's arguments, such as args=(y,), not {type(args).__name__}")
    if isinstance(posterior, MCMC):
        model = posterior.sampler.model if model is None else model
        if not args and kwargs is None:
            args, kwargs = model_arguments(posterior)
    return model, tuple(args), {} if kwargs is None else kwargs


def raw_draws(posterior, batch_ndims=None):
    """``(name -> array, number of leading axes or None)`` of an MCMC object, a dict of draws or an ArviZ tree."""
    if isinstance(posterior, MCMC):
        return posterior.get_samples(group_by_chain=True), 2
    if isinstance(posterior, dict):
        return posterior, batch_ndims
    if is_tree(posterior):
        group = posterior["posterior"]
        return {str(name): group[name].transpose("chain", "draw", ...) for name in group.data_vars}, 2
    if isinstance(posterior, tuple):
        raise TypeError("a posterior that is a tuple must be (guide, params), such as (guide, svi_result.params)")
    raise TypeError(
        "posterior must be an MCMC object, a dict of draws, an ArviZ DataTree or InferenceData, or (guide, params), "
        f"not {type(posterior).__name__}"
    )


def is_tree(posterior) -> bool:
    """True for an ArviZ InferenceData and for a DataTree, told by what they can do."""
    return not isinstance(posterior, dict) and hasattr(posterior, "to_netcdf") and hasattr(posterior, "posterior")


def tree_groups(tree):
    """``name -> Dataset`` of an InferenceData or a DataTree."""
    names = tree.groups() if callable(tree.groups) else tree.children
    return {name: tree[name] if callable(tree.groups) else tree[name].to_dataset() for name in names}


def with_groups(tree, groups):
    """A tree like ``tree`` with other groups."""
    if callable(tree.groups):
        return type(tree)(**groups, attrs=tree.attrs)
    return type(tree).from_dict({"/": tree.to_dataset(), **groups})


def _select(values, shapes):
    missing = [name for name in shapes if name not in values]
    if missing:
        raise ValueError(
            f"the model has the latent site {missing[0]!r}, of which there are no draws (there are draws of "
            f"{sorted(values)}). Were the draws made by this model?"
        )
    return {name: getattr(values[name], "values", values[name]) for name in shapes}


def _leading_shape(values, shapes, batch_ndims):
    """The leading axes that all draws share; every array must end in the shape of its site."""
    leads = {}
    for name, array in values.items():
        shape, (site_shape, fn) = np.shape(array), shapes[name]
        lead = shape[: max(len(shape) - len(site_shape), 0)]
        if shape != lead + site_shape:
            _raise_misfit(name, shape, site_shape, fn)
        if batch_ndims is not None and len(lead) != batch_ndims:
            raise ValueError(
                f"draws[{name!r}] has leading axes {lead}: {len(lead)}, not batch_ndims={batch_ndims}. Pass "
                f"batch_ndims={len(lead)}, or draws with one leading axis from mcmc.get_samples(), with two from "
                "mcmc.get_samples(group_by_chain=True)"
            )
        leads[name] = lead
    first = next(iter(leads), None)
    for name, lead in leads.items():
        if lead != leads[first]:
            raise ValueError(
                f"draws[{first!r}] has leading axes {leads[first]} and draws[{name!r}] {lead}: all must have the same"
            )
    return leads.get(first, ())


def _raise_misfit(name, shape, site_shape, fn):
    lead_ndim = max(len(shape) - len(site_shape), 0)
    if is_sequence(fn):
        raise ValueError(
            f"draws[{name!r}] has shape {shape}, and with these arguments {name!r} has shape {site_shape}: its draws "
            f"belong to the series that were fitted. Fit the new series too, or draw {name!r} anew"
        )
    raise ValueError(
        f"draws[{name!r}] has shape {shape}; after its {lead_ndim} leading axes it must have shape {site_shape}, as "
        "the site has in the model with these arguments"
    )


def _thin(draws, num_draws):
    """At most ``num_draws`` draws, evenly spaced, as many from each chain."""
    if num_draws < 1:
        raise ValueError(f"num_draws is {num_draws}; it must be at least 1")
    if draws.size <= num_draws or not draws.shape:
        return draws
    length = draws.shape[-1]
    chains = draws.size // length
    kept = np.linspace(0, length - 1, max(num_draws // chains, 1)).round().astype(int)
    index = (np.arange(chains)[:, None] * length + kept).ravel()
    shape = draws.shape[:-1] + (len(kept),)
    return draws._replace(values={name: array[index] for name, array in draws.values.items()}, shape=shape)


def map_draws(function, key, draws, *, arguments=(), batch_size=None, label):
    """``function(key, draw, *arguments)`` for every draw, in batches; results have the leading axes of the draws.

    Args:
        function: of a random key and a dict of values, returns a pytree of arrays. If it is hashable by value and the draws are
            of an MCMC with ``jit_model_args``, it is compiled once for all arguments of the same shapes.
        key: random key, split over the draws.
        draws: :class:`Draws`.
        arguments: pytrees that are the same for all draws.
        batch_size: how many draws to work on at once; by default as many as fit into a quarter of a GiB.
        label: name of the calling function, for the warning in the log before a large result.
    """
    inputs = random.split(key, draws.size), draws.values
    if batch_size is None:
        first = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), inputs)
        program = jax.make_jaxpr(lambda inputs: function(inputs[0], draws.params | inputs[1], *arguments))(first)
        batch_size = max(1, BATCH_BYTES // (8 * max(_largest_array(program.jaxpr), 1)))
    num_batches = -(-draws.size // min(batch_size, draws.size))
    if arguments and draws.jit_model_args:
        run = partial(_mapped_in_one_program, function, num_batches, arguments)
    else:
        run = jax.jit(partial(_mapped, function, num_batches, arguments))
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(run, draws.params, inputs)))
    if total > LARGE_BYTES:
        logging.getLogger("tsppl").warning(
            f"{label}: the result takes {total / 2**30:.1f} GiB for {draws.size} draws; num_draws= takes fewer"
        )
    return jax.tree.map(lambda array: array.reshape(draws.shape + array.shape[1:]), run(draws.params, inputs))


def _mapped(function, num_batches, arguments, params, inputs):
    """Results for all draws, with one leading axis."""

    def one(key_and_values):
        return function(key_and_values[0], params | key_and_values[1], *arguments)

    if num_batches == 1:
        return jax.vmap(one)(inputs)
    size = len(inputs[0])
    batch_size = -(-size // num_batches)
    index = np.minimum(np.arange(num_batches * batch_size), size - 1).reshape(num_batches, batch_size)
    results = lax.map(jax.vmap(one), jax.tree.map(lambda array: array[index], inputs))
    return jax.tree.map(lambda array: array.reshape((-1,) + array.shape[2:])[:size], results)


_mapped_in_one_program = jax.jit(_mapped, static_argnums=(0, 1))


def _largest_array(jaxpr) -> int:
    """Bytes of the largest array that a program makes, inner programs included."""
    largest = 0
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            largest = max(largest, getattr(variable.aval, "size", 0) * getattr(variable.aval.dtype, "itemsize", 4))
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                largest = max(largest, _largest_array(getattr(inner, "jaxpr", inner)))
    return largest


def _is_jaxpr(value) -> bool:
    return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")
