"""A block for ``numpyro.infer.Gibbs``: which points of a Neyman-Scott process belong together."""

import warnings
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from numpyro.infer import init_to_sample
from numpyro.infer.util import log_density

from tsppl.distributions import ClusteredPoints, ClusterLabels
from tsppl.distributions.points.neyman_scott_unseen import draw_unseen
from tsppl.inference.gibbs.block import GibbsBlock, check_ratio, exactly, in_double, random_values
from tsppl.inference.gibbs.points.annealing import heat
from tsppl.inference.gibbs.points.label_starts import neighbouring_labels
from tsppl.inference.gibbs.points.sweepers import choose_sweeper
from tsppl.points import split_or_merge
from tsppl.points.labels.compound_poisson import ABSENT, BACKGROUND
from tsppl.sites.trace import replay

OVERFLOW = (
    "LabelGibbs lacked a slot for a cluster or an unseen point in this draw, or points are far from the first point of their "
    "cluster, so clusters were kept from opening or points from moving: raise max_clusters or reach, or num_unseen. "
    "state.overflow counts how often"
)
SHORT_REACH = (
    "the clusters have become wider than LabelGibbs was told: points no longer see all clusters that they may belong to, so "
    "draws are not exact. Pass a larger reach"
)
MANY_EMPTY = 20
CERTAIN = 1e6
ALL_BACKGROUND = (
    "LabelGibbs has put every point into the background for twenty draws. That can be the posterior, or a start from which "
    "no cluster opens: compare with annealing=(40.0, 20.0, 10.0, 5.0, 2.0), and look at the priors of amplitude and "
    "event_rate"
)


class LabelGibbsState(NamedTuple):
    """Values of the block's site, counts for looking at, and the next random key.

    ``overflow`` adds up how often something did not fit in, ``accepted`` splits and merges; ``num_empty`` is for how many
    draws on end every point has been background; ``reach_ratio`` is the reach of the sweep over that which the clusters now
    need, infinite for sweeps that need none. ``MCMC.run(..., extra_fields=("block_states.0.num_clusters",))`` collects one.
    """

    z: dict
    num_clusters: jax.Array
    num_background: jax.Array
    overflow: jax.Array
    accepted: jax.Array
    num_empty: jax.Array
    reach_ratio: jax.Array
    rng_key: jax.Array | None = None


class LabelGibbs(GibbsBlock):
    """Draws the labels of the points of a Neyman-Scott process by collapsed Gibbs sampling.

    Each point in turn joins a cluster, opens one, or goes to the background, given all other points; positions, amplitudes
    and empty events are integrated out (Wang, Degleris, Williams and Linderman 2023, algorithm 1). Then splits and merges of
    whole clusters are proposed (Jain and Neal 2004). Other blocks, NUTS say, own the rates and the cluster's parameters.

    The labels are ``<site>_labels`` of ``process.sample(site, points)``; with ``unseen`` regions the block draws the points in
    there too, given all events (sweeps are then serial, or numba's), and owns both sites,
    ``(block, [block.labels_site, block.unseen_site])``. Before the first sweep the model's own joint
    density is compared with that of the process: a model that uses the labels elsewhere is an error.

    Args:
        model: NumPyro model.
        site: name of the observed points.
        backend: ``"jax"``: sweeps run wherever JAX does. ``"numba"``: on one core of the CPU, many times faster, for
            :class:`GaussianCluster` and :class:`SequenceCluster`; points in any order, at a cost of the clusters nearby each,
            in space too, or of all with ``method="serial"``. Chains under ``chain_method=jax.vmap`` are swept one after the
            other.
        method: ``"serial"``: one point after the other, at a cost of all clusters each, exact. ``"chunked"``: for points
            sorted by time, chunks of time side by side, at a cost of the clusters nearby; neglects what is farther than
            ``reach``. ``"auto"``: chunked for points in time when there are more than 200, if the family knows its reach.
        reach: for chunked sweeps, time beyond which a point and a cluster do not see each other: twelve times the largest
            width that the posterior allows. Too short a reach warns. If None, ``cluster.reach`` at the start, doubled; with
            numba that of the sweep at hand, doubled.
        max_clusters: slots for clusters: in all for serial sweeps and with numba, ``N`` if None; near a chunk otherwise, 32 if
            None. A sweep that lacks a slot warns.
        num_sweeps: sweeps for each draw.
        num_split_merge: proposals of splits and merges for each draw.
        annealing: temperatures that fall to one, for sweeps before the first draw: at temperature ``T`` amplitudes have the
            same mean and ``T`` times the variance.
        start: ``"neighbours"``: start from clusters of points that are near each other, or from the first labels of the
            chain (``"given"``), as they are passed in ``init_params`` or drawn from the prior.
        check: False leaves the comparison of densities out.

    Several chains run with ``MCMC(..., chain_method=jax.vmap)`` or ``"sequential"``; NumPyro's Gibbs refuses ``"vectorized"``.
    What the last sweep did is in the block's state: ``extra_fields=("block_states.0.overflow", "block_states.0.accepted")``.

    >>> import numpyro, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> from numpyro.infer import MCMC, NUTS, Gibbs
    >>> from tsppl.inference import LabelGibbs
    >>> def model(points):
    ...     scale = numpyro.sample("scale", dist.LogNormal(-2.0, 0.5))
    ...     process = tsd.NeymanScott(0.4, dist.Gamma(2.0, 0.5), tsd.GaussianCluster(scale), 0.4, (0.0, 5.0))
    ...     process.sample("x", points)
    >>> block = LabelGibbs(model, "x", num_sweeps=2, num_split_merge=2)
    >>> kernel = Gibbs([(block, [block.labels_site]), (NUTS(model), ["scale"])])
    >>> mcmc = MCMC(kernel, num_warmup=500, num_samples=1000)  # mcmc.run(jax.random.key(0), points)
    """

    num_keys = 1, 2

    def __init__(
        self,
        model,
        site,
        *,
        backend="jax",
        method="auto",
        reach=None,
        max_clusters=None,
        num_sweeps=1,
        num_split_merge=0,
        annealing=(),
        start="neighbours",
        check=True,
    ):
        if start not in ("neighbours", "given"):
            raise ValueError(f"start is {start!r}; pass 'neighbours' or 'given'")
        if any(temperature < 1 for temperature in annealing):
            raise ValueError(f"annealing is {tuple(annealing)}; temperatures are at least 1")
        super().__init__(model, check=check)
        self._site, self._start, self._annealing = site, start, tuple(annealing)
        self._num_sweeps, self._num_split_merge = num_sweeps, num_split_merge
        self._chosen = self._sweeper = choose_sweeper(backend, method, reach, max_clusters)

    @property
    def sites(self):
        """Names of the sites that the block owns, the second where the model has it."""
        return self.labels_site, self.unseen_site

    @property
    def labels_site(self):
        """Name of the site that the block owns."""
        return f"{self._site}_labels"

    @property
    def unseen_site(self):
        """Name of the site of points in regions that were not seen, which the block owns too where there is one."""
        return f"{self._site}_unseen"

    def check_given(self, names):
        """Raise unless there are values of the labels, and of nothing that the block does not own."""
        if not {self.labels_site} <= names <= set(self.sites):
            raise ValueError(
                f"the block draws {self.labels_site!r}, and {self.unseen_site!r} where the model has it; it was given "
                f"{sorted(names)}"
            )

    def start(self, keys, values, args, kwargs):
        """Choose how to sweep, and find labels to start from."""
        labels = values[self.labels_site] = values[self.labels_site].astype(jnp.int32)
        process, points, unseen = self._process(values, args, kwargs)
        self._sweeper = self._chosen.init(process, points, unseen is not None)
        if self._start == "neighbours" and len(labels):
            num_seen = len(points) - (0 if unseen is None else unseen.num_slots)
            if num_seen:
                labels = labels.at[:num_seen].set(jax.jit(neighbouring_labels)(process, points[:num_seen]))
            labels = labels.at[num_seen:].set(ABSENT)
        overflow, sweep = jnp.zeros((), jnp.int32), jax.jit(self._sweep)
        for key, temperature in zip(random.split(keys[0], len(self._annealing)), self._annealing, strict=True):
            labels, more, _ = sweep(key, heat(process, temperature), labels, points)
            overflow += more
        values[self.labels_site] = labels
        return self._state(values, overflow, jnp.zeros((), jnp.int32), process)

    def draw(self, keys, state, args, kwargs):
        """Points that were not seen; sweeps, each with splits and merges."""
        sweep_key, unseen_key = keys
        values, overflow = dict(state.z), state.overflow
        process, points, unseen = self._process(values, args, kwargs)
        if unseen is not None:
            labels = values[self.labels_site]
            drawn = draw_unseen(unseen_key, process, labels, points, unseen.regions, unseen.num_slots)
            points = jnp.concatenate([points[: len(points) - unseen.num_slots], drawn.unseen.astype(points.dtype)])
            values = {
                self.labels_site: drawn.labels,
                self.unseen_site: drawn.unseen.astype(values[self.unseen_site].dtype),
            }
            overflow += drawn.overflow

        def sweep(labels, key):
            labels, *counts = self._sweep(key, process, labels, points)
            return labels, counts

        keys = random.split(sweep_key, self._num_sweeps)
        values[self.labels_site], (missing, moves) = lax.scan(sweep, values[self.labels_site], keys)
        overflow += missing.sum(dtype=jnp.int32)
        accepted = state.accepted + moves.sum(dtype=jnp.int32)
        new = self._state(values, overflow, accepted, process)
        _warn_where(new.overflow > state.overflow, OVERFLOW)
        _warn_where(new.reach_ratio < 1, SHORT_REACH)
        new = new._replace(num_empty=jnp.where(new.num_clusters == 0, state.num_empty + 1, 0))
        _warn_where(new.num_empty == MANY_EMPTY, ALL_BACKGROUND)
        return new

    def _sweep(self, key, process, labels, points):
        """Labels, missing slots, accepted moves."""
        sweep_key, moves_key = random.split(key)
        if len(labels) == 0:
            return labels, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        # To the sweeps an empty slot is a point that must be background, where it does not count.
        is_empty = labels == ABSENT
        log_background = jnp.where(is_empty, CERTAIN, process.log_background(points))
        arguments = process.cluster, jnp.where(is_empty, BACKGROUND, labels), points, process.window, process.rates
        swept = self._sweeper.sweep(sweep_key, *arguments, log_background=log_background)

        def propose(labels, key):
            moved = split_or_merge(key, process.cluster, labels, points, process.window, process.rates)
            return moved.labels, moved.accepted

        labels, accepted = lax.scan(propose, swept.labels, random.split(moves_key, self._num_split_merge))
        return jnp.where(is_empty, ABSENT, labels), swept.overflow, accepted.sum(dtype=jnp.int32)

    def _state(self, values, overflow, accepted, process):
        labels = values[self.labels_site]
        num_clusters = labels.max(initial=-1).astype(jnp.int32) + 1
        num_background = jnp.sum(labels == BACKGROUND, dtype=jnp.int32)
        ratio = jnp.asarray(self._sweeper.reach_ratio(process.cluster), jnp.result_type(float))
        counts = num_clusters, num_background, overflow, accepted, jnp.zeros((), jnp.int32)
        return LabelGibbsState(values, *counts, ratio)

    def _process(self, values, args, kwargs):
        """The process and the points of the model at given values of its sites, and the site of unseen points, or None.

        Raises:
            ValueError: if the model has no such sites, or one of them is scaled or masked, or given no values.
        """
        trace = replay(random.key(0), self.model, values, args, kwargs)
        found, points = trace.get(self.labels_site), trace.get(self._site)
        if found is None or points is None:
            raise ValueError(
                f"the model has no sites {self._site!r} and {self.labels_site!r}, as process.sample({self._site!r}, points) "
                f"makes them; its sites are {list(trace)}"
            )
        for name, site, kind in ((self.labels_site, found, ClusterLabels), (self._site, points, ClusteredPoints)):
            if not isinstance(site["fn"], kind) or site["scale"] is not None:
                raise ValueError(
                    f"site {name!r} is a {type(site['fn']).__name__}, {'scaled' if site['scale'] is not None else 'plain'}; "
                    f"labels can be drawn for a plain {kind.__name__} only, without plate, mask or scale"
                )
        if not points["is_observed"]:
            raise ValueError(f"site {self._site!r} is not observed: pass the points to process.sample")
        unseen = trace[self.unseen_site]["fn"] if found["fn"].num_unseen else None
        if unseen is not None and self.unseen_site not in values:
            raise ValueError(
                f"the block draws {self.unseen_site!r} with the labels: pass (block, [block.labels_site, block.unseen_site])"
            )
        return found["fn"].process, jnp.asarray(points["value"]), unseen

    def compare(self, values, args, kwargs):
        """Raise unless the model's joint density depends on labels as that of the process does."""
        num_points = len(values[self.labels_site])
        if num_points < 2:
            return
        with exactly():
            args, kwargs = in_double((args, kwargs))
            singles = jnp.arange(num_points, dtype=jnp.int32)
            given = in_double(values) | {self.labels_site: singles}
            at_singles = random_values(self.model, random.key(0), args, kwargs, given=given, near=init_to_sample)
            at_singles = in_double(at_singles)

            @jax.jit
            def densities(labels):
                """Of the model and of the process."""
                at_labels = {**at_singles, self.labels_site: labels}
                process, points, _ = self._process(at_labels, args, kwargs)
                return log_density(self.model, args, kwargs, at_labels)[0], process.log_joint(labels, points)

            # A point in the background, but none that rounding has put outside of the window.
            process, points, _ = self._process(at_singles, args, kwargs)
            alone = jnp.argmax(jnp.isfinite(process.log_background(points)))
            others = jnp.maximum(singles - 1, 0), jnp.where(singles == alone, -1, singles - (singles > alone))
            found = [densities(labels) for labels in (singles, *others)]
            for (before, first), (after, second) in pairwise(found):
                if jnp.isfinite(second - first):  # or else all points are impossible in the background
                    subject, reason = (
                        f"{self.labels_site!r} cannot be drawn",
                        f"uses {self.labels_site!r} elsewhere too",
                    )
                    check_ratio(second - first, before, after, subject=subject, reason=reason, constants=process)

    def get_diagnostics_str(self, state):
        """Clusters, background, missing slots."""
        text = f"{state.num_clusters} clusters, {state.num_background} background"
        return text + (f", {state.overflow} slots missing" if state.overflow else "")


def _warn_where(condition, message):
    """Warn, also from compiled code, where a condition holds."""

    def tell(condition):
        if np.any(condition):
            warnings.warn(message, stacklevel=2)

    lax.cond(jnp.any(condition), lambda: jax.debug.callback(tell, condition), lambda: None)
