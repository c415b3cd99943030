"""State labels made to agree over draws and chains, and the check that the model does not mind."""

import warnings

import jax.numpy as jnp
import numpy as np
from jax import random
from numpyro.infer import MCMC

from tsppl.posterior.draws import as_draws, is_tree, map_draws, model_and_arguments, tree_groups, with_groups
from tsppl.sites.state_axes import state_axes
from tsppl.sites.trace import abstract_sites, latent_sites, log_probs, replay

NUM_STARTS = 8
START_DRAWS = 200
MAX_ROUNDS = 50


def align_labels(tree_or_draws, model=None, args=(), kwargs=None, *, state_dims=None, reference=None, batch_ndims=None):
    """Relabel the states of every draw, so that a state means the same over draws and chains.

    One permutation for each draw moves all state axes together: the one that brings the parameters of the states
    closest to their mean over draws, each parameter measured by its spread within a state (an iteration of Stephens
    2000, with the Hungarian algorithm). Then the log density of the model is computed before and after: a model with
    exchangeable labels does not notice. Labels that already agree stay as they are.

    Args:
        tree_or_draws: an ArviZ tree from :func:`tsppl.to_arviz`, a dict of draws, or an MCMC object.
        model: the NumPyro model; an MCMC object knows its own. Without it nothing is verified, and a warning says so.
        args, kwargs: arguments of the model.
        state_dims: which axes are states. For a tree the names of dimensions, by default those called ``state`` or
            ``state_...``. For draws, and where several sites have states of their own, a dict: name of a site -> axis
            or axes of its value, those of the draws not counted, or ``"values"`` where the entries are states. For
            draws by default what can be seen in the model.
        reference: dict, name of a site -> one value of it whose order of states to match, such as that of another fit.
        batch_ndims: number of leading axes of a dict of draws; needed without a model only.

    Returns:
        A tree or a dict of draws, as given (for an MCMC object draws grouped by chain). In a tree ``<site>_states`` are
        relabelled too. Deterministic sites of the model are computed anew.

    Raises:
        ValueError: if no state axis is known, or the log density moves; the message names the site that breaks the
            symmetry.

    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> from tsppl import align_labels
    >>> def model(y):
    ...     rate = numpyro.sample("rate", dist.Gamma(2.0, 0.2).expand([2]).to_event(1))
    ...     transition_probs, emission = jnp.array([[0.9, 0.1], [0.1, 0.9]]), dist.Poisson(rate)
    ...     numpyro.sample("y", tsd.HiddenMarkov(jnp.ones(2) / 2, transition_probs, emission, num_steps=4), obs=y)
    >>> draws = {"rate": jnp.array([[1.0, 20.0], [19.0, 1.2], [0.9, 22.0]])}
    >>> align_labels(draws, model, (jnp.array([1, 0, 19, 21]),))["rate"].tolist()
    [[1.0, 20.0], [1.2, 19.0], [0.9, 22.0]]
    """
    model, args, kwargs = model_and_arguments(tree_or_draws, model, args, kwargs)
    if isinstance(tree_or_draws, MCMC):
        tree_or_draws = tree_or_draws.get_samples(group_by_chain=True)
    if not is_tree(tree_or_draws) and not isinstance(tree_or_draws, dict):
        raise TypeError(f"tree_or_draws must be an ArviZ tree, a dict of draws or an MCMC, not {type(tree_or_draws)}")
    seen = {} if model is None else _seen_axes(model, args, kwargs)
    tree = is_tree(tree_or_draws)
    if tree:
        dataset = tree_groups(tree_or_draws)["posterior"].transpose("chain", "draw", ...)
        arrays, lead_ndim = {str(name): dataset[name].values for name in dataset.data_vars}, 2
        state_axes_of = _axes_of_dims(dataset, state_dims) or seen
    else:
        arrays, lead_ndim = {name: np.asarray(array) for name, array in tree_or_draws.items()}, batch_ndims
        if model is not None:
            lead_ndim = len(as_draws(None, model, tree_or_draws, args, kwargs, batch_ndims=batch_ndims).shape)
        elif batch_ndims is None:
            raise ValueError("pass the model, or batch_ndims: 1 for flat draws, 2 for draws grouped by chain")
        state_axes_of = seen if state_dims is None else state_dims
    flat = {name: array.reshape((-1,) + array.shape[lead_ndim:]) for name, array in arrays.items()}
    state_axes_of = _checked_axes(flat, state_axes_of)
    permutations = _permutations(*_features(flat, state_axes_of, reference), fixed=reference is not None)
    aligned = {name: _relabel(array, state_axes_of.get(name, ()), permutations) for name, array in flat.items()}
    moved = np.flatnonzero((permutations != np.arange(permutations.shape[1])).any(1))
    if model is None:
        warnings.warn(
            f"only {sorted(state_axes_of)} were permuted, and nothing was verified: other sites that have an axis of states are "
            "now out of order. Pass model= and args=",
            stacklevel=2,
        )
    elif moved.size:
        aligned |= _verify(model, args, kwargs, flat, aligned, moved, state_axes_of, permutations.shape[1])
    aligned = {name: array.reshape(arrays[name].shape) for name, array in aligned.items()}
    if not tree:
        return {name: jnp.asarray(array) for name, array in aligned.items()}
    dataset = dataset.assign({name: (dataset[name].dims, array) for name, array in aligned.items()})
    return with_groups(tree_or_draws, tree_groups(tree_or_draws) | {"posterior": dataset})


def _seen_axes(model, args, kwargs):
    named = state_axes(abstract_sites(model, args, kwargs, {}))
    return {name: tuple(i for i, axis in enumerate(axes) if axis is not None) for name, axes in named.items()}


def _axes_of_dims(dataset, state_dims):
    """State axes of the variables of a tree, by the names of dimensions; integer ``*_states`` hold states."""

    if isinstance(state_dims, dict):
        return state_dims

    def is_state(dim, name):
        if state_dims is not None:
            return dim in state_dims
        return dim == "state" or dim.startswith("state_") and not dim.startswith(f"{name}_dim_")

    axes = {}
    for name, variable in dataset.data_vars.items():
        own = tuple(i for i, dim in enumerate(variable.dims[2:]) if is_state(str(dim), str(name)))
        if own:
            axes[str(name)] = own
        elif str(name).endswith("_states") and np.issubdtype(variable.dtype, np.integer):
            axes[str(name)] = "values"
    holders = [name for name, own in axes.items() if own == "values"]
    if len(holders) > 1 and state_dims is not None:
        raise ValueError(
            f"{holders} hold states of several sites: pass state_dims as a dict that names those of one, such as "
            f"{{{holders[0]!r}: 'values', ...}}"
        )
    return axes if len(holders) < len(axes) else {}


def _checked_axes(flat, axes_of):
    """State axes as tuples of positive integers, ``"values"`` as it is, for the variables that exist."""
    checked, sizes = {}, {}
    for name, axes in axes_of.items():
        if name not in flat:
            raise ValueError(f"state_dims has {name!r}, of which there are no draws; there are draws of {sorted(flat)}")
        if isinstance(axes, str):
            if axes != "values":
                raise ValueError(f"state_dims[{name!r}] is {axes!r}; it must be an axis, a tuple of axes, or 'values'")
            checked[name] = axes
            continue
        ndim = flat[name].ndim - 1
        checked[name] = tuple(axis % ndim for axis in np.atleast_1d(axes).tolist())
        sizes |= {f"{name} axis {axis}": flat[name].shape[axis + 1] for axis in checked[name]}
    if not sizes:
        raise ValueError(
            "no axis of states is known: call them 'state' and 'state_to' in dims= of to_arviz, or pass state_dims"
        )
    if len(set(sizes.values())) > 1:
        raise ValueError(f"state axes differ in size: {sizes}. Pass state_dims with those of one chain of states")
    return checked


def _features(flat, axes_of, reference):
    """``(draws, states, features)`` to compare states by, and the same of the reference if there is one.

    An array with two state axes takes part through its diagonal, so that a permutation moves rows of features.
    """

    def rows(array, axes):
        if len(axes) == 1:
            array = np.moveaxis(array, axes[0] + 1, 1)
        else:
            array = np.moveaxis(np.diagonal(array, axis1=axes[0] + 1, axis2=axes[1] + 1), -1, 1)
        return array.reshape(array.shape[:2] + (-1,))

    names = [name for name, axes in axes_of.items() if axes != "values"]
    if reference is None:
        return np.concatenate([rows(flat[name], axes_of[name]) for name in names], -1).astype(float), None
    unknown = sorted(set(reference) - set(names))
    if unknown:
        raise ValueError(f"reference has {unknown[0]!r}, which has no state axis; those with one are {names}")
    names = [name for name in names if name in reference]
    wanted = np.concatenate([rows(np.asarray(reference[name])[None], axes_of[name])[0] for name in names], -1)
    return np.concatenate([rows(flat[name], axes_of[name]) for name in names], -1).astype(float), wanted


def _permutations(features, reference, *, fixed):
    """``(draws, states)``: new state ``k`` of a draw is its old state ``permutations[draw, k]``."""
    varying = features.std((0, 1)) > 0
    features, reference = features[..., varying], reference if reference is None else reference[..., varying]
    if fixed:
        return _iterate(features, reference, fixed=True)[0]
    some = features[:: -(-len(features) // START_DRAWS)]
    starts = [some[i] for i in np.unique(np.linspace(0, len(some) - 1, NUM_STARTS).round().astype(int))]
    best = min((_iterate(some, start, fixed=False) for start in starts), key=lambda result: result[2])
    permutations = _iterate(features, best[1], fixed=False)[0]
    distinct, counts = np.unique(permutations, axis=0, return_counts=True)
    return permutations[:, np.argsort(distinct[counts.argmax()])]


def _iterate(features, reference, *, fixed):
    """Match draws to the reference and, unless it is fixed, move it to their mean, until nothing changes.

    Returns the permutations, the reference and the loss: the sum of log spreads within a state.
    """
    overall = features.std((0, 1))
    scale, permutations = overall, None
    for _ in range(MAX_ROUNDS):
        found = _match(features / scale, reference / scale)
        matched = np.take_along_axis(features, found[:, :, None], 1)
        reference = reference if fixed else matched.mean(0)
        scale = np.maximum(np.sqrt(((matched - reference) ** 2).mean((0, 1))), 1e-6 * overall)
        if permutations is not None and (found == permutations).all():
            break
        permutations = found
    return found, reference, np.log(scale).sum()


def _match(features, reference):
    from scipy.optimize import linear_sum_assignment

    cost = (features**2).sum(-1)[:, None, :] - 2 * np.einsum("lf,nkf->nlk", reference, features)
    return np.stack([linear_sum_assignment(one)[1] for one in cost])


def _relabel(array, axes, permutations):
    if isinstance(axes, str):
        inverse = np.argsort(permutations, 1)
        states = array.reshape(len(array), -1)
        new = np.take_along_axis(inverse, np.maximum(states, 0).astype(int), 1)
        return np.where(states < 0, states, new).astype(array.dtype).reshape(array.shape)
    for axis in axes:
        shape = [1] * array.ndim
        shape[0], shape[axis + 1] = permutations.shape
        array = np.take_along_axis(array, permutations.reshape(shape), axis + 1)
    return array


def _verify(model, args, kwargs, before, after, moved, axes_of, num_states):
    """Raise if the log density of a site differs between the draws before and after; returns deterministic sites."""
    latent = latent_sites(abstract_sites(model, args, kwargs, {}))
    both = {name: np.concatenate([before[name][moved], after[name][moved]]) for name in latent if name in before}
    draws = as_draws(None, model, both, args, kwargs, batch_ndims=1)

    def evaluate(key, draw):
        trace = replay(key, model, draw, args, kwargs)
        densities = log_probs(trace)
        return {
            "log_prob": {name: array.sum() for name, array in densities.items()},
            "size": {name: jnp.abs(array).sum() for name, array in densities.items()},
            "deterministic": {n: s["value"] for n, s in trace.items() if s["type"] == "deterministic" and n in before},
        }

    answers = map_draws(evaluate, random.key(0), draws, label="align_labels")
    changes = {}
    for name, log_prob in answers["log_prob"].items():
        old, new = np.split(np.asarray(log_prob), 2)
        tolerance = 100 * np.finfo(old.dtype).eps * (1 + np.split(np.asarray(answers["size"][name]), 2)[0])
        with np.errstate(invalid="ignore"):
            change = np.where(old == new, 0.0, np.abs(new - old))
        if not (change <= tolerance).all():
            changes[name] = float(np.nanmax(change)) if np.isfinite(change).any() else np.inf
    if changes:
        _raise_asymmetry(changes, latent, axes_of, num_states)
    recomputed = {}
    for name, values in answers["deterministic"].items():
        recomputed[name] = np.array(after[name])
        recomputed[name][moved] = np.split(np.asarray(values), 2)[1]
    return recomputed


def _raise_asymmetry(changes, latent, axes_of, num_states):
    name = max(changes, key=lambda site: (site in latent, changes[site]))
    left = [site for site, info in latent.items() if site not in axes_of and num_states in jnp.shape(info["value"])]
    message = f"the log density of {name!r} moves by up to {changes[name]:.3g} nats when the states are permuted. "
    if left:
        message += (
            f"{', '.join(map(repr, left))} has an axis of length {num_states} and was not permuted with "
            f"{sorted(axes_of)}: if it is an axis of states, say so in state_dims, or in dims= of to_arviz"
        )
    elif name in latent:
        message += f"The labels are identified by the prior of {name!r}; no alignment is needed"
    else:
        message += f"The model of {name!r} treats the states differently, so the labels are identified"
    raise ValueError(message)
