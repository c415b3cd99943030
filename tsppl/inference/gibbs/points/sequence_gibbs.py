"""A block for ``numpyro.infer.Gibbs``: parameters of PPSeq given which spikes belong together."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from numpyro.infer.util import log_density

from tsppl.distributions import ClusteredPoints, ClusterLabels
from tsppl.inference.gibbs.block import NUM_CHECKS, GibbsBlock, check_ratio, exactly, in_double, random_values
from tsppl.inference.gibbs.points.sequence_conditionals import (
    PARAMETERS,
    conditionals,
    draw_all,
    draw_shift,
    offsets_prior,
)
from tsppl.points import SequenceCluster, clusters_of_labels, sequence_counts
from tsppl.sites.trace import replay


class SequenceGibbsState(NamedTuple):
    """Values of the block's sites, and the next random key."""

    z: dict
    rng_key: jax.Array | None = None


class SequenceGibbs(GibbsBlock):
    """Draws the parameters of :class:`~tsppl.distributions.SequenceCluster` and the rates by conjugate updates.

    Given the labels of :class:`LabelGibbs`, each draw first draws the start, type and warp of every sequence, exactly; given
    these, all parameters have closed conditional distributions (Williams, Degleris, Wang and Linderman 2020, supplement);
    then the events are forgotten. So other blocks, NUTS say, own further sites with events integrated out. Offsets of a type
    and its starts are also shifted together, which spikes do not notice but a sampler that draws them in turn would take
    long over.

    Each argument names the site with this prior; those that are left out belong to other blocks or are known:

    ===================== =============================================================================================
    ``type_probs``        ``Dirichlet``, ``(R,)``
    ``neuron_probs``      ``Dirichlet``, ``(R, M)``
    ``variances``         ``InverseGamma``, ``(R, M)``; the cluster's ``widths`` are ``sqrt(variances)``
    ``offsets``           ``Normal(mean, sqrt(variances / weight))``, ``(R, M)``; any ``Normal`` where variances are not drawn
    ``background_probs``  ``Dirichlet``, ``(M,)``
    ``background_rate``   ``Gamma``
    ``event_rate``        ``Gamma``; events without a spike are integrated out
    ===================== =============================================================================================

    Before the first draw every conditional distribution is compared with the model's own joint density, at two sets of
    values: one that does not fit is an error, never a wrong sampler.

    Args:
        model: NumPyro model.
        site: name of the observed spikes.
        type_probs, neuron_probs, offsets, variances, background_probs, event_rate, background_rate: names of sites.
        check: False leaves the comparison out.

    Raises:
        ValueError: if no site is named, or one twice.

    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> from numpyro.infer import MCMC, Gibbs
    >>> from tsppl.inference import LabelGibbs, SequenceGibbs
    >>> def model(spikes):
    ...     variances = numpyro.sample("variances", dist.InverseGamma(2.0, 0.02).expand([1, 3]).to_event(2))
    ...     offsets = numpyro.sample("offsets", dist.Normal(0.0, jnp.sqrt(variances / 0.1)).to_event(2))
    ...     cluster = tsd.SequenceCluster(jnp.ones(1), jnp.full((1, 3), 1 / 3), offsets, jnp.sqrt(variances))
    ...     tsd.NeymanScott(1.0, dist.Gamma(5.0, 1.0), cluster, 1.0, (0.0, 5.0)).sample("spikes", spikes)
    >>> labels = LabelGibbs(model, "spikes")
    >>> globals_ = SequenceGibbs(model, "spikes", offsets="offsets", variances="variances")
    >>> kernel = Gibbs([(labels, ["spikes_labels"]), (globals_, globals_.sites)])
    >>> mcmc = MCMC(kernel, num_warmup=500, num_samples=1000)  # mcmc.run(jax.random.key(0), spikes)
    """

    num_keys = 0, 3

    def __init__(
        self,
        model,
        site,
        *,
        type_probs=None,
        neuron_probs=None,
        offsets=None,
        variances=None,
        background_probs=None,
        event_rate=None,
        background_rate=None,
        check=True,
    ):
        named = type_probs, neuron_probs, offsets, variances, background_probs, event_rate, background_rate
        self._names = {name: of for name, of in zip(PARAMETERS, named, strict=True) if of is not None}
        if not self._names or len(set(self._names.values())) < len(self._names):
            raise ValueError(f"the sites are {self._names}: name at least one of {PARAMETERS}, and none twice")
        super().__init__(model, check=check)
        self._site = site

    @property
    def sites(self):
        """Names of the sites that the block owns."""
        return tuple(self._names.values())

    def start(self, keys, values, args, kwargs):
        """Keep the first values."""
        self._replay(values, args, kwargs)
        return SequenceGibbsState(values)

    def draw(self, keys, state, args, kwargs):
        """Events, parameters given events, and a common shift."""
        event_key, draw_key, shift_key = keys
        trace, process, points = self._replay(state.z, args, kwargs)
        labels = trace[f"{self._site}_labels"]["value"]
        clusters, events = _draw_events(event_key, process, labels, points)
        counts = sequence_counts(process.cluster, labels, points, events, clusters.occupied, clusters.origins)
        values = draw_all(draw_key, conditionals(self._names, trace, process, counts))
        values = {name: values[name].astype(value.dtype) for name, value in state.z.items()}
        if "offsets" in self._names:
            name = self._names["offsets"]
            trace, _, _ = self._replay(values, args, kwargs)
            values[name] += self._shift(shift_key, trace, process, clusters, events, values[name])[:, None]
        return SequenceGibbsState(values)

    def _shift(self, key, trace, process, clusters, events, offsets):
        cluster, num_types = process.cluster, len(offsets)
        low, high = jax.vmap(lambda window, time: window.around(time))(clusters.window, events.time).T
        if cluster.edges == "ignored":
            low, high = jnp.full_like(low, -jnp.inf), jnp.full_like(high, jnp.inf)
        types = jnp.where(clusters.occupied, events.type, num_types)
        prior = offsets_prior(self._names["offsets"], trace, offsets.shape)
        return draw_shift(key, prior, offsets, events.time, cluster.warps[events.warp], types, low, high, num_types)

    def _replay(self, values, args, kwargs):
        """Trace of the model at given values, its process, and the spikes.

        Raises:
            ValueError: if the model has no such sites, they are not those of sequences, or there are no spikes.
        """
        trace = replay(random.key(0), self.model, values, args, kwargs)
        labels, points = trace.get(f"{self._site}_labels"), trace.get(self._site)
        for site, kind in ((labels, ClusterLabels), (points, ClusteredPoints)):
            if site is None or not isinstance(site["fn"], kind) or site["scale"] is not None:
                raise ValueError(
                    f"the model has no plain sites {self._site!r} and {self._site + '_labels'!r}, as "
                    f"process.sample({self._site!r}, spikes) makes them; its sites are {list(trace)}"
                )
        process = labels["fn"].process
        if not isinstance(process.cluster, SequenceCluster) or not points["is_observed"]:
            raise ValueError(
                f"site {self._site!r} has clusters of type {type(process.cluster).__name__}, observed: "
                f"{points['is_observed']}; SequenceGibbs needs observed spikes of a SequenceCluster"
            )
        if len(points["value"]) == 0:
            raise ValueError(
                f"site {self._site!r} has no spikes: there is nothing to learn from, so leave the block out"
            )
        return trace, process, jnp.asarray(points["value"])

    def compare(self, values, args, kwargs):
        """Raise unless every conditional distribution is that of the model."""
        with exactly():
            args, kwargs = in_double((args, kwargs))
            num_points = len(jax.eval_shape(lambda: self._replay(in_double(values), args, kwargs)[2]))
            site, places = f"{self._site}_labels", jnp.arange(num_points, dtype=jnp.int32)

            @jax.jit
            def values_at(key):
                values = random_values(self.model, key, args, kwargs, given={site: places // 4})
                _, process, points = self._replay(values, args, kwargs)
                # Some spikes in the background, but none that rounding has put outside of the window.
                log_background = jax.vmap(process.cluster.log_background, (0, None))(points, process.window)
                values[site] = jnp.where((places % 4 == 3) & jnp.isfinite(log_background), -1, places // 4)
                return values, _draw_events(key, process, values[site], points)[1]

            @jax.jit
            def log_joint(values, events):
                """Of data, labels, events and all sites."""
                _, process, points = self._replay(values, args, kwargs)
                whole = log_density(self.model, args, kwargs, values)[0]
                return whole + _log_events_given(process, values[site], points, events)

            @jax.jit
            def ratios(values, events, new):
                """Of the densities drawn from, at new values and the old ones, for each conditional distribution."""
                trace, process, points = self._replay(values, args, kwargs)
                clusters = clusters_of_labels(process.cluster, values[site], points, process.window)
                counts = sequence_counts(
                    process.cluster, values[site], points, events, clusters.occupied, clusters.origins
                )
                found = conditionals(self._names, trace, process, counts)
                return {tuple(one.sites): one.log_density(new) - one.log_density(values) for one in found}

            for seed in range(NUM_CHECKS):
                (values, events), (other, _) = values_at(random.key(2 * seed)), values_at(random.key(2 * seed + 1))
                unknown = [name for name in self.sites if name not in values]
                if unknown:
                    raise ValueError(
                        f"the model has no latent site {unknown[0]!r}; its latent sites are {list(values)}"
                    )
                before = log_joint(values, events)
                for sites, found in ratios(values, events, other).items():
                    after = log_joint(values | {name: other[name] for name in sites}, events)
                    check_ratio(found, before, after, subject=f"{', '.join(sites)} cannot be drawn")


def _draw_events(key, process, labels, points):
    """Statistics of all clusters, and an event of each given its spikes, both relative to the clusters' origins."""
    clusters = clusters_of_labels(process.cluster, labels, points, process.window)
    keys = random.split(key, len(labels))
    return clusters, jax.vmap(process.cluster.sample_event_given)(keys, clusters.statistics, clusters.window)


def _log_events_given(process, labels, points, events):
    """Log density of events given labels and spikes: jointly with the spikes, less that of the spikes."""
    cluster = process.cluster
    clusters = clusters_of_labels(cluster, labels, points, process.window)
    own = jnp.maximum(labels, 0)
    spikes = jax.vmap(cluster.shifted)(points, clusters.origins[own])
    of_spikes = jax.vmap(cluster.log_density)(spikes, jax.tree.map(lambda array: array[own], events))
    of_events = jnp.log(cluster.type_probs)[events.type] + jnp.log(cluster.warp_probs)[events.warp]
    of_events -= jnp.log(process.volume) + jax.vmap(cluster.log_marginal)(clusters.statistics, clusters.window)
    return jnp.where(labels < 0, 0.0, of_spikes).sum() + jnp.where(clusters.occupied, of_events, 0.0).sum()
