"""Starting points for MCMC: values by site name, turned into what ``MCMC.run`` takes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to
from numpyro.infer import init_to_uniform

from tsppl.sites.trace import replay

_INSIDE = 1e-3
_FAR_OUT = 10.0


def starting_params(model, starts, *args, key=None, **kwargs):
    """Turn values by site name into ``init_params`` for ``MCMC.run``, a start of its own for each chain.

    NumPyro's ``init_to_value`` gives every chain the same start, which hides that chains may end in different modes.

    Args:
        model: NumPyro model.
        starts: a dict of constrained values by site name, or a list of such dicts, one for each chain. Deterministic
            sites are ignored; sites without a value are drawn as ``init_to_uniform`` does. Draws of an earlier run, or
            the arguments of a distribution found by :func:`~tsppl.inference.em`, serve.
        args: arguments of the model.
        key: random key for the sites without a value; a fixed one by default.
        kwargs: keyword arguments of the model.

    Returns:
        dict of unconstrained values: for a list of several dicts with a leading chain axis, for
        ``num_chains=len(starts)``; for one dict without it, for ``num_chains=1``. Probabilities at the edge of their
        range, where the unconstrained value is infinite, are moved inside by one part in a thousand.

    Raises:
        ValueError: for a site that the model has not or that is observed, a shape that is not the site's, a value
            outside its support, or an empty list.

    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> from tsppl.inference import starting_params
    >>> def model():
    ...     numpyro.sample("rate", dist.Gamma(jnp.full(2, 2.0)).to_event(1))
    >>> starts = [{"rate": jnp.array([1.0, 9.0])}, {"rate": jnp.array([9.0, 1.0])}]
    >>> starting_params(model, starts)["rate"].round(2).tolist()
    [[0.0, 2.2], [2.2, 0.0]]
    """
    key = random.PRNGKey(0) if key is None else key
    one_chain = isinstance(starts, dict)
    starts = [starts] if one_chain else list(starts)
    if not starts:
        raise ValueError("starts is empty: pass a dict of values, or one dict for each chain")
    unconstrained = [
        _unconstrain(model, start, chain_key, args, kwargs)
        for start, chain_key in zip(starts, random.split(key, len(starts)), strict=True)
    ]
    if len(unconstrained) == 1:
        return unconstrained[0]
    return jax.tree.map(lambda *chains: jnp.stack(chains), *unconstrained)


def _unconstrain(model, start, key, args, kwargs):
    start = {name: jnp.asarray(value) for name, value in start.items()}
    trace = replay(key, model, {}, args, kwargs, substitute_fn=partial(_start_of_site, start))
    latent = {name: site for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]}
    for name in start:
        if name not in trace:
            raise ValueError(f"the model has no site {name!r}; its latent sites are {list(latent)}")
        if trace[name]["type"] == "sample" and name not in latent:
            raise ValueError(f"the site {name!r} is observed; the latent sites are {list(latent)}")
    discrete = {
        name: site["value"] for name, site in latent.items() if site["fn"].support.is_discrete and name in start
    }
    return discrete | {
        name: _inside(site["fn"].support, site["value"], name)
        for name, site in latent.items()
        if not site["fn"].support.is_discrete
    }


def _start_of_site(start, site):
    """The value of a site, checked; drawn uniformly in unconstrained space where there is none."""
    if site["type"] != "sample" or site["is_observed"]:
        return None
    if site["name"] not in start:
        return init_to_uniform(site)
    value, shape = start[site["name"]], site["fn"].shape(site["kwargs"]["sample_shape"])
    if value.shape != shape:
        raise ValueError(f"the start of {site['name']!r} has shape {value.shape}; the site has shape {shape}")
    if not np.all(site["fn"].support(value)):
        raise ValueError(
            f"the start of {site['name']!r}, {value}, is outside the support {site['fn'].support} of the site"
        )
    return value


def _inside(support, value, name):
    """The unconstrained value; of a point slightly inside, where it would be infinite or so large that chains stick."""
    transform = biject_to(support)
    free = transform.inv(value)
    if _is_bounded(support) and not np.all(np.abs(np.asarray(free)) < _FAR_OUT):
        centre = transform(jnp.zeros_like(free))
        free = transform.inv((1 - _INSIDE) * value + _INSIDE * centre)
    if not np.all(np.isfinite(np.asarray(free))):
        raise ValueError(
            f"the start of {name!r}, {value}, lies on the edge of the support {support}: choose a point inside"
        )
    return free


def _is_bounded(support):
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, type(constraints.simplex) | type(constraints.unit_interval))
