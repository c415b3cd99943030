"""What posterior draws of a Neyman-Scott process's labels say: events, points that belong together, one partition."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import random

from tsppl.distributions import ClusteredPoints
from tsppl.points import cluster_sizes
from tsppl.points.labels.compound_poisson import BACKGROUND
from tsppl.posterior.draws import as_draws, map_draws
from tsppl.sites.trace import checked_trace, replay


class ClusterSite(NamedTuple):
    """The points of a Neyman-Scott process in a trace."""

    process: Any
    labels: Any
    points: Any


def cluster_sites(trace):
    """The sites of a trace that are points of a Neyman-Scott process, ``name -> ClusterSite``."""
    return {
        name: ClusterSite(site["fn"].process, site["fn"].labels, jnp.asarray(site["value"]))
        for name, site in trace.items()
        if site["type"] == "sample" and isinstance(site["fn"], ClusteredPoints)
    }


def posterior_events(key, model, posterior, /, *args, batch_ndims=None, num_draws=None, batch_size=None, **kwargs):
    """Events behind the points of every Neyman-Scott process of ``model``, for each posterior draw.

    Events are integrated out while labels are sampled; here they are drawn back, one table for each draw. Its rows are the
    clusters of that draw, sorted by place (by the first coordinate of it), so row 3 of one draw has nothing to do with row 3
    of another: :func:`match_events` finds the events of a given partition in all draws.

    Args:
        key: random key.
        model: the NumPyro model, with ``process.sample(site, points)``.
        posterior: an MCMC object; a dict of draws, flat or grouped by chain; an ArviZ DataTree or InferenceData.
        *args: arguments of the model.
        batch_ndims: number of leading axes of a dict of draws; by default read off the shapes.
        num_draws: at most this many posterior draws, evenly spaced.
        batch_size: how many draws to work on at once, to bound memory; by default chosen from the shapes.
        **kwargs: keyword arguments of the model.

    Returns:
        dict: name of the points' site -> dict of arrays with the leading axes of the draws, where ``K`` is the largest number
        of clusters of a draw:

        - ``"num_clusters"``, ``"num_background"``: int32 ``(...)``;
        - ``"labels"``: int32 ``(..., N)``, the row of each point's event, -1 for background;
        - ``"size"``: int32 ``(..., K)``, points of each event, 0 after the last;
        - ``"amplitude"``: ``(..., K)``, points expected of it, NaN after the last;
        - the fields of the family's events, such as ``"centre"``, or ``"time"``, ``"type"`` and ``"warp"``: ``(..., K)`` and
          the shape of the field, NaN or -1 after the last.

    Raises:
        ValueError: if the model has no such site, or the draws do not fit the model.

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, tsppl, tsppl.distributions as tsd
    >>> def model(points):
    ...     process = tsd.NeymanScott(0.4, dist.Gamma(2.0, 0.5), tsd.GaussianCluster(0.2), 0.4, (0.0, 5.0))
    ...     process.sample("x", points)
    >>> draws = {"x_labels": jnp.array([[0, 0, 1, -1], [0, 0, -1, -1]])}
    >>> events = tsppl.posterior_events(jax.random.key(0), model, draws, jnp.array([0.6, 0.8, 2.1, 4.4]))["x"]
    >>> events["size"].tolist(), events["centre"].shape
    ([[2, 1], [2, 0]], (2, 2))
    """
    draws_key, events_key = random.split(key)
    draws = as_draws(draws_key, model, posterior, args, kwargs, batch_ndims=batch_ndims, num_draws=num_draws)
    return draw_events(events_key, model, draws, args, kwargs, batch_size=batch_size)


def draw_events(key, model, draws, args, kwargs, *, batch_size=None):
    """As :func:`posterior_events`, for :class:`~tsppl.posterior.draws.Draws`."""
    sites = _checked_sites(model, draws, args, kwargs)
    num_rows = {name: _most_clusters(name, site, draws) for name, site in sites.items()}

    def events_of(key, draw):
        replay_key, *keys = random.split(key, len(sites) + 1)
        found = cluster_sites(replay(replay_key, model, draw, args, kwargs))
        return {name: _event_table(key, found[name], num_rows[name]) for name, key in zip(sites, keys, strict=True)}

    return map_draws(events_of, key, draws, batch_size=batch_size, label="posterior_events")


def posterior_intensity(
    key, model, posterior, places, /, *args, batch_ndims=None, num_draws=None, batch_size=None, **kwargs
):
    """Points expected per unit of length, area or volume at other places, for each posterior draw.

    :meth:`NeymanScott.predictive_intensity` of each draw; its mean over draws predicts where points went missing.

    Args:
        key, model, posterior, batch_ndims, num_draws, batch_size: as in :func:`posterior_events`.
        places: ``(P,)`` and the shape of a point.
        *args, **kwargs: arguments of the model.

    Returns:
        dict: name of the points' site -> array with the leading axes of the draws, then ``P``.

    Raises:
        ValueError: if the model has no points of a Neyman-Scott process, or the draws do not fit the model.

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, tsppl, tsppl.distributions as tsd
    >>> def model(points):
    ...     process = tsd.NeymanScott(0.4, dist.Gamma(2.0, 0.5), tsd.GaussianCluster(0.2), 0.4, (0.0, 5.0))
    ...     process.sample("x", points)
    >>> draws, points = {"x_labels": jnp.array([[0, 0, -1]])}, jnp.array([0.6, 0.8, 4.4])
    >>> found = tsppl.posterior_intensity(jax.random.key(0), model, draws, jnp.array([0.7, 3.0]), points)["x"]
    >>> found.round(2).tolist()
    [[4.8, 0.46]]
    """
    draws_key, replay_key = random.split(key)
    draws = as_draws(draws_key, model, posterior, args, kwargs, batch_ndims=batch_ndims, num_draws=num_draws)
    names, places = list(_checked_sites(model, draws, args, kwargs)), jnp.asarray(places)

    def intensity_of(key, draw):
        found = cluster_sites(replay(key, model, draw, args, kwargs))
        return {
            name: found[name].process.predictive_intensity(places, found[name].labels, found[name].points)
            for name in names
        }

    return map_draws(intensity_of, replay_key, draws, batch_size=batch_size, label="posterior_intensity")


def _checked_sites(model, draws, args, kwargs):
    sites = cluster_sites(checked_trace(model, draws.first(), args, kwargs))
    if not sites:
        raise ValueError("the model has no points of a Neyman-Scott process: make them by process.sample(site, points)")
    return sites


def _most_clusters(name, site, draws):
    labels = draws.values.get(f"{name}_labels", site.labels)
    return int(np.asarray(labels).max(initial=-1)) + 1


def _event_table(key, site, num_rows):
    process, labels, points = site
    events, amplitudes = process.sample_events(key, labels, points)
    sizes = cluster_sizes(labels)
    places = events[0].reshape(len(labels), -1)[:, 0]
    order = jnp.argsort(jnp.where(sizes > 0, places, jnp.inf))
    rows = order[:num_rows]

    def padded(array):
        occupied = (sizes[rows] > 0).reshape((-1,) + (1,) * (array.ndim - 1))
        filler = jnp.nan if jnp.issubdtype(array.dtype, jnp.floating) else -1
        return jnp.where(occupied, array[rows], filler)

    row_of_label = jnp.argsort(order).astype(jnp.int32)
    return {
        "num_clusters": jnp.sum(sizes > 0, dtype=jnp.int32),
        "num_background": jnp.sum(labels == BACKGROUND, dtype=jnp.int32),
        "labels": jnp.where(labels < 0, -1, row_of_label[jnp.maximum(labels, 0)]),
        "size": sizes[rows],
        "amplitude": padded(amplitudes),
        **{name: padded(array) for name, array in events._asdict().items()},
    }
