"""From a fitted NumPyro model to ArviZ; the only module that knows ArviZ's versions."""

import logging

import jax
import numpy as np
from jax import random
from numpyro.infer import MCMC

from tsppl.distributions.wrappers import unwrap
from tsppl.posterior.axis_names import AxisNames
from tsppl.posterior.draws import LARGE_BYTES, as_draws, is_tree, model_and_arguments, raw_draws
from tsppl.posterior.events import cluster_sites, draw_events
from tsppl.posterior.latents import draw_latents
from tsppl.posterior.scoring import observed_sites, pointwise_terms
from tsppl.sites.state_axes import state_axes
from tsppl.sites.trace import abstract_sites, checked_trace, latent_shapes, sequence_sites

_SAMPLE_STATS = {"accept_prob": "acceptance_rate", "num_steps": "n_steps"}


def to_arviz(
    mcmc_or_draws,
    model=None,
    args=(),
    kwargs=None,
    *,
    latents=True,
    coords=None,
    dims=None,
    key=None,
    batch_ndims=None,
    batch_size=None,
):
    """The posterior, and what ArviZ needs to summarise, compare and plot it.

    Args:
        mcmc_or_draws: an MCMC object, a dict of draws (flat or grouped by chain), or ``(guide, params)``.
        model: the NumPyro model; an MCMC object knows its own.
        args, kwargs: arguments of the model; an MCMC object knows those it ran with.
        latents: whether to draw the hidden states and trajectories too.
        coords: dict, name of a dimension -> labels.
        dims: dict, name of a site -> names of the axes of its value. By default sequence sites have
            ``(sequence, time, channel)``, with ``latent`` for ``channel`` where they are latent; and sites that are an
            argument of one, its transition probabilities or the rates of its emission, ``state`` and ``state_to``.
        key: random key of the latents; fixed by default, so that the same fit gives the same tree.
        batch_ndims, batch_size: as in :func:`tsppl.posterior_latents`.

    Returns:
        ``arviz.InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (ArviZ 1.x) with the groups

        - ``posterior``: the draws, and ``<site>_states``, ``<site>_trajectory`` unless these take more than 1 GiB; for the
          points of a Neyman-Scott process ``<site>_num_clusters``, ``<site>_num_background``, and, sorted by place and NaN
          after the last of a draw, ``<site>_event_size``, ``<site>_event_amplitude`` and so on
          (:func:`tsppl.posterior_events`, which also tells the row of each point; ``<site>_labels`` are as drawn);
        - ``sample_stats``: diagnostics, those of Gibbs blocks under the last part of their name;
        - ``log_likelihood``: left-out terms of the scored steps, on the flat dimension ``<site>_obs`` with sequence and
          time as coordinates. Sites without exact terms are absent, and so is every site of a model with an explicit
          latent sequence, on which its terms would be conditional; ``posterior.attrs["log_likelihood"]`` says so;
        - ``one_step_ahead``: terms given the past. They answer another question: never compare the two;
        - ``observed_data``: NaN where masked.

    Raises:
        ValueError: if labels in ``coords`` do not fit their axis, or draws do not fit the model.

    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> from tsppl import to_arviz
    >>> def model(y):
    ...     rate = numpyro.sample("rate", dist.Gamma(2.0, 0.2).expand([2]).to_event(1))
    ...     transition_probs, emission = jnp.array([[0.9, 0.1], [0.1, 0.9]]), dist.Poisson(rate)
    ...     numpyro.sample("y", tsd.HiddenMarkov(jnp.ones(2) / 2, transition_probs, emission, num_steps=4), obs=y)
    >>> draws = {"rate": jnp.array([[[1.0, 20.0], [1.5, 18.0], [0.9, 22.0]]])}
    >>> tree = to_arviz(draws, model, (jnp.array([1, 0, 19, 21]),))
    >>> tree["posterior"]["y_states"].dims
    ('chain', 'draw', 'time')
    """
    if is_tree(mcmc_or_draws):
        raise TypeError("to_arviz makes a tree of an MCMC object, draws or (guide, params), not of another tree")
    model, args, kwargs = model_and_arguments(mcmc_or_draws, model, args, kwargs)
    names = AxisNames(coords, dims)
    groups = {}
    if model is None:
        draws, lead = raw_draws(mcmc_or_draws, batch_ndims)
        if lead is None:
            raise ValueError("pass the model, or batch_ndims: 1 for flat draws, 2 for draws grouped by chain")
        groups["posterior"] = names.dataset({name: _by_chain(array, lead) for name, array in draws.items()})
    else:
        draws_key, latents_key = random.split(random.key(0) if key is None else key)
        draws = as_draws(draws_key, model, mcmc_or_draws, args, kwargs, batch_ndims=batch_ndims)
        names.add(state_axes(abstract_sites(model, args, kwargs, draws.params)))
        trace = checked_trace(model, draws.first(), args, kwargs)
        sites = sequence_sites(trace)
        for name, site in sites.items():
            names.add_sequence(name, site)
        clusters = cluster_sites(trace)
        for name, site in clusters.items():
            names.add_points(name, site)
        posterior = _posterior(mcmc_or_draws, draws)
        if latents:
            posterior |= _latents(latents_key, model, draws, args, kwargs, sites, names, batch_size)
            posterior |= _events(latents_key, model, draws, args, kwargs, clusters, names, batch_size)
        groups["posterior"] = names.dataset(posterior)
        terms, notes = _pointwise(model, draws, args, kwargs, trace, sites, batch_size)
        groups["posterior"].attrs.update(notes)
        for group, (kind, found) in terms.items():
            if found:
                groups[group] = _scored_only(found, names, kind)
        observed = {name: _with_nan(name, trace, sites) for name in observed_sites(trace)}
        if observed:
            groups["observed_data"] = names.dataset(observed, lead=())
    if isinstance(mcmc_or_draws, MCMC):
        groups["sample_stats"] = names.dataset(_sample_stats(mcmc_or_draws))
    leads = {"posterior": 2, "observed_data": 0}
    names.check_dims({n: groups[g][n].ndim - lead for g, lead in leads.items() if g in groups for n in groups[g]})
    names.check_coords()
    return _assemble(groups)


def _by_chain(array, lead_ndim):
    """An array with the axes chain and draw in front."""
    if lead_ndim > 2:
        raise ValueError(f"draws have {lead_ndim} leading axes; ArviZ has two, chain and draw")
    array = np.asarray(array)
    return array.reshape((1,) * (2 - lead_ndim) + array.shape)


def _posterior(mcmc_or_draws, draws):
    """Draws of the latent sites, and whatever else was stored with them, such as deterministic sites."""
    values = {name: np.reshape(array, draws.shape + array.shape[1:]) for name, array in draws.values.items()}
    if not isinstance(mcmc_or_draws, tuple):
        stored = raw_draws(mcmc_or_draws)[0]
        values = {name: array for name, array in stored.items() if np.shape(array)[: len(draws.shape)] == draws.shape}
    return {name: _by_chain(array, len(draws.shape)) for name, array in values.items()}


def _latents(key, model, draws, args, kwargs, sites, names, batch_size):
    """``<site>_<latent>`` for each sequence site, unless all together are large."""
    shapes = {name: latent_shapes(site) for name, site in sites.items()}
    leaves = jax.tree.leaves(shapes)
    if not leaves:
        return {}
    total = draws.size * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / 2**30
    if total > LARGE_BYTES / 2**30:
        hidden = ", ".join(name for name in shapes if shapes[name])
        logging.getLogger("tsppl").warning(
            f"to_arviz: the latents of {hidden} would take {total:.1f} GiB and are left out; "
            "tsppl.posterior_latents(..., num_draws=) draws fewer"
        )
        return {}
    stored = {}
    for site, answers in draw_latents(key, model, draws, args, kwargs, batch_size=batch_size).items():
        for latent, array in answers.items():
            array = np.asarray(array)
            axes = names.dims[site][: sites[site].axes.time + 1]
            if np.issubdtype(array.dtype, np.integer):
                array = array.astype(np.int16)
            else:
                axes = axes + [names.claim("latent", array.shape[-1], site)]
            names.add({f"{site}_{latent}": axes})
            stored[f"{site}_{latent}"] = _by_chain(array, len(draws.shape))
    return stored


def _events(key, model, draws, args, kwargs, sites, names, batch_size):
    """Numbers of clusters and of background points, and the events, of each Neyman-Scott process."""
    stored = {}
    if not sites:
        return stored
    for site, table in draw_events(key, model, draws, args, kwargs, batch_size=batch_size).items():
        for field in table.keys() - {"labels"}:
            array, is_number = table[field], field.startswith("num_")
            name = f"{site}_{field}" if is_number else f"{site}_event_{field}"
            is_place = array.shape[len(draws.shape) + 1 :] == sites[site].points.shape[1:]
            names.add({name: [] if is_number else [f"{site}_event", *(names.dims[site][1:] if is_place else [])]})
            stored[name] = _by_chain(array, len(draws.shape))
    return dict(sorted(stored.items()))


def _pointwise(model, draws, args, kwargs, trace, sites, batch_size):
    """Left-out and one-step terms by group, and a note on each site that has none of the former."""
    terms = {"log_likelihood": ("left-out", {}), "one_step_ahead": ("one-step", {})}
    explicit = [name for name, site in sites.items() if not site.observed]
    notes, clusters = [], cluster_sites(trace)
    counts = {f"{name}_count": name for name in clusters}
    for kind, found in terms.values():
        for name in observed_sites(trace):
            if name in clusters or name in counts:
                points = counts.get(name, name)
                notes.append(f"{name}: none, it would be conditional on the explicit labels {points}_labels")
            elif explicit:
                notes.append(f"{name}: none, it would be conditional on the explicit sequence {explicit[0]}")
            elif kind == "left-out" or name in sites:
                try:
                    answer = pointwise_terms(
                        model, draws, args, kwargs, kind=kind, sites=[name], batch_size=batch_size
                    )[name]
                except NotImplementedError as error:
                    notes.append(f"{name}: none, {error}")
                    continue
                found[name] = _by_chain(answer.terms, len(draws.shape)), np.asarray(answer.scored)
    return terms, {"log_likelihood": "; ".join(dict.fromkeys(notes))} if notes else {}


def _scored_only(found, names, kind):
    """Terms of the scored entries, each site on one flat dimension with plain coordinates: no others reach LOO."""
    from xarray import Dataset

    variables, coords = {}, {}
    for name, (terms, scored) in found.items():
        scored, terms = np.atleast_1d(scored), terms.reshape(terms.shape[:2] + (scored.shape or (1,)))
        index = np.nonzero(scored)
        axis = f"{name}_obs"
        variables[name] = (["chain", "draw", axis], terms[(slice(None), slice(None)) + index])
        for label, positions, size in zip(names.of(name, scored.ndim), index, scored.shape, strict=True):
            coordinate = label if len(found) == 1 else f"{name}_{label}"
            coords[coordinate] = (axis, names.labels(label, size)[positions])
    dataset = Dataset(variables, coords=coords, attrs={"kind": kind})
    return dataset.assign_coords({axis: np.arange(dataset.sizes[axis]) for axis in dataset.sizes})


def _with_nan(name, trace, sites):
    """The observed value, NaN where it was masked."""
    if name in sites:
        value, entries = sites[name].value, sites[name].distribution.observed_entries()
    else:
        value, (base, entries) = trace[name]["value"], unwrap(trace[name]["fn"])
        entries = None if entries is None else entries.reshape(entries.shape + (1,) * base.event_dim)
    value = np.asarray(value)
    entries = np.broadcast_to(True if entries is None else np.asarray(entries), value.shape)
    return value if entries.all() else np.where(entries, value, np.nan)


def _sample_stats(mcmc):
    """Diagnostics under ArviZ's names; a Gibbs block's dotted name becomes its last part if no other has it."""
    fields = {
        name: array for name, array in mcmc.get_extra_fields(group_by_chain=True).items() if hasattr(array, "shape")
    }
    parts = [name.split(".")[-1] for name in fields]
    stats = {}
    for (name, array), part in zip(fields.items(), parts, strict=True):
        if name == "potential_energy":
            stats["lp"] = -np.asarray(array)
        elif parts.count(part) > 1:
            stats[name] = array
        else:
            stats[_SAMPLE_STATS.get(part, part)] = array
    return stats


def _assemble(groups):
    import arviz as az
    from xarray import DataTree

    return DataTree.from_dict(groups) if int(az.__version__.split(".")[0]) >= 1 else az.InferenceData(**groups)
