"""Which axes of latent sites are states."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from tsppl.distributions.wrappers import leaf_of, unwrap
from tsppl.sites.trace import is_sequence, latent_sites


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
        fn, _ = unwrap(site["fn"])
        fields = {name: getattr(fn, name, None) for name in type(fn).gather_pytree_data_fields()}
        num_states = None
        for name in ("initial_probs", "initial_logits", "transition_probs", "transition_logits"):
            if fields.get(name) is not None:
                num_states = fields[name].shape[-1]
                name_axes(fields[name], ["state"] if name.startswith("initial") else ["state", "state_to"])
        for field in fields.values():
            if isinstance(field, dist.Distribution):
                for array, after in _parameters(field):
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


def _parameters(distribution):
    """Arrays that a distribution was made of, each with the number of axes after its last batch axis."""
    leaf = leaf_of(distribution)
    after = distribution.event_dim - leaf.event_dim
    arrays = ((vars(leaf).get(name), constraint) for name, constraint in leaf.arg_constraints.items())
    return [(array, after + constraint.event_dim) for array, constraint in arrays if array is not None]
