"""What ``em`` accepts as names of parameters, and the errors where EM has no answer."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from tsppl.distributions.shapes import is_concrete
from tsppl.distributions.wrappers import innermost

_SPELLINGS = {
    "initial_logits": "initial_probs",
    "transition_logits": "transition_probs",
    "covariance_matrix": "scale_tril",
    "precision_matrix": "scale_tril",
}
_LEAST_CONCENTRATION = {
    dist.Dirichlet: ("concentration",),
    dist.Gamma: ("concentration",),
    dist.Beta: ("concentration1", "concentration0"),
}


def resolve_fixed(fixed, names):
    """All parameters, of those called ``names``, that ``fixed`` names one by one or by the argument they belong to.

    Raises:
        ValueError: listing the names there are.
    """
    if isinstance(fixed, str):
        raise TypeError(f"fixed is a tuple of parameter names: pass fixed=({fixed!r},)")
    held = set()
    for entry in fixed:
        *argument, last = entry.split(".")
        wanted = entry if entry in names else ".".join([*argument, _SPELLINGS.get(last, last)])
        matches = [name for name in names if name == wanted or name.startswith(wanted + ".")]
        if not matches and wanted not in _arguments(names):
            raise ValueError(f"fixed names {entry!r}; the parameters are {tuple(names)}")
        held.update(matches or [wanted])
    return tuple(sorted(held))


def _arguments(names):
    return {name.split(".")[0] for name in names}


def resolve_priors(priors, names):
    """``name -> distribution`` with logits spelled as probabilities, after checking that an answer exists.

    Raises:
        ValueError: for an unknown name, or a prior whose density has no maximum inside the parameter's range.
        TypeError: for a prior that is not a distribution.
    """
    resolved = {}
    for name, prior in (priors or {}).items():
        spelled = _SPELLINGS.get(name, name)
        if spelled.split(".")[0] not in _arguments(names) or (spelled not in names and "." not in spelled):
            raise ValueError(f"priors names {name!r}; the parameters are {tuple(names)}")
        if not isinstance(prior, dist.Distribution):
            raise TypeError(f"the prior of {name!r} must be a NumPyro distribution, not {type(prior).__name__}")
        if spelled in ("initial_probs", "transition_probs") and not isinstance(innermost(prior), dist.Dirichlet):
            raise TypeError(f"the prior of {name!r} must be a Dirichlet, not {type(prior).__name__}")
        for argument in _LEAST_CONCENTRATION.get(type(innermost(prior)), ()):
            value = getattr(innermost(prior), argument)
            if is_concrete(value) and (np.asarray(value) < 1).any():
                raise ValueError(
                    f"the prior of {name!r} has {argument} {np.min(value):g}: below 1 its density is unbounded and "
                    "there is no maximum to find; use 1 or more"
                )
        resolved[spelled] = prior
    return resolved


def refuse_batch(argument, batch_shape, num_state_axes, *, varies):
    """Raise where an argument that is to be estimated has a batch or varies in time.

    Args:
        argument: its name.
        batch_shape: its shape without the shape of one parameter.
        num_state_axes: 1 where the last axis may be the state, else 0.
        varies: whether it varies in time.
    """
    if varies:
        raise NotImplementedError(
            f"{argument} varies in time, so one value per step would have to be estimated: hold it with "
            f"fixed=({argument!r},), or fit the model it is computed from by NUTS or SVI"
        )
    if len(batch_shape) > num_state_axes:
        raise NotImplementedError(
            f"{argument} has batch shape {tuple(batch_shape)}: EM estimates one set of parameters for all series. Drop "
            f"the batch axes, hold the argument with fixed=({argument!r},), or fit each series on its own"
        )


def in_one_dtype(tree, value):
    """The tree with all floating leaves in the widest dtype among them and a floating ``value``."""

    def is_floating(leaf):
        return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)

    strong = [leaf.dtype for leaf in [*jax.tree.leaves(tree), value] if hasattr(leaf, "dtype") and is_floating(leaf)]
    dtype = jnp.result_type(*strong) if strong else jnp.result_type(float)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype if is_floating(leaf) else None), tree)
