"""A block for ``numpyro.infer.Gibbs``: which points of a Neyman-Scott process belong together."""

import copy
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from numpyro import handlers
from numpyro.infer import init_to_sample
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import log_density

from tsppl.distributions import ClusteredPoints, ClusterLabels
from tsppl.distributions.points.neyman_scott_unseen import draw_unseen
from tsppl.distributions.shapes import is_concrete
from tsppl.inference.gibbs.block import exactly, in_double, without_values
from tsppl.inference.gibbs.points.annealing import heat
from tsppl.inference.gibbs.points.label_starts import neighbouring_labels
from tsppl.points import (
    ChunkLayout,
    chunk_layout,
    split_or_merge,
    sweep_labels,
    sweep_labels_chunked,
    sweep_labels_numba,
)
from tsppl.points.labels.compound_poisson import ABSENT, BACKGROUND
from tsppl.points.labels.sweep_numba import require_numba
from tsppl.sites.trace import latent_sites

METHODS = ("auto", "serial", "chunked")
BACKENDS = ("jax", "numba")
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
    rng_key: jax.Array


class LabelGibbs(MCMCKernel):
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

    sample_field = "z"

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
        if method not in METHODS:
            raise ValueError(f"method is {method!r}; pass one of {METHODS}")
        if backend not in BACKENDS:
            raise ValueError(f"backend is {backend!r}; pass one of {BACKENDS}")
        if backend == "numba":
            require_numba()
        if start not in ("neighbours", "given"):
            raise ValueError(f"start is {start!r}; pass 'neighbours' or 'given'")
        if any(temperature < 1 for temperature in annealing):
            raise ValueError(f"annealing is {tuple(annealing)}; temperatures are at least 1")
        self._model, self._site, self._check = model, site, check
        self._backend, self._method = backend, method
        self._numba_reach = jnp.inf if method == "serial" else reach
        self._reach, self._max_clusters, self._start = reach, max_clusters, start
        self._num_sweeps, self._num_split_merge, self._annealing = num_sweeps, num_split_merge, tuple(annealing)
        self._layout = None

    @property
    def model(self):
        """The model."""
        return self._model

    @property
    def labels_site(self):
        """Name of the site that the block owns."""
        return f"{self._site}_labels"

    @property
    def unseen_site(self):
        """Name of the site of points in regions that were not seen, which the block owns too where there is one."""
        return f"{self._site}_unseen"

    def init(self, rng_key, num_warmup, init_params, model_args, model_kwargs):
        """Check the model, choose how to sweep, and find labels to start from."""
        kwargs = dict(model_kwargs or {})
        if not {self.labels_site} <= set(init_params or {}) <= {self.labels_site, self.unseen_site}:
            raise ValueError(
                f"the block draws {self.labels_site!r}, and {self.unseen_site!r} where the model has it; it was given "
                f"{sorted(init_params or {})}"
            )
        rng_key, start_key = random.split(rng_key)
        values = {name: jnp.asarray(value) for name, value in init_params.items()}
        labels = values[self.labels_site] = values[self.labels_site].astype(jnp.int32)
        process, points, unseen = self._process(values, model_args, kwargs)
        if unseen is not None and self.unseen_site not in values:
            raise ValueError(
                f"the block draws {self.unseen_site!r} with the labels: pass (block, [block.labels_site, block.unseen_site])"
            )
        if self._check and len(labels) > 1:
            self._compare(len(labels), values, model_args, kwargs)
        if self._backend == "numba":
            require_numba(process.cluster)
        else:
            self._layout = self._choose_layout(process, points, unseen)
        if self._start == "neighbours" and len(labels):
            num_seen = len(points) - (0 if unseen is None else unseen.num_slots)
            if num_seen:
                labels = labels.at[:num_seen].set(jax.jit(neighbouring_labels)(process, points[:num_seen]))
            labels = labels.at[num_seen:].set(ABSENT)
        overflow, sweep = jnp.zeros((), jnp.int32), jax.jit(self._sweep)
        for key, temperature in zip(random.split(start_key, len(self._annealing)), self._annealing, strict=True):
            labels, more, _ = sweep(key, heat(process, temperature), labels, points)
            overflow += more
        values[self.labels_site] = labels
        return self._state(values, overflow, jnp.zeros((), jnp.int32), process, rng_key)

    def sample(self, state, model_args, model_kwargs):
        """Points that were not seen; sweeps, each with splits and merges."""
        rng_key, sweep_key, unseen_key = random.split(state.rng_key, 3)
        values, overflow = dict(state.z), state.overflow
        process, points, unseen = self._process(values, model_args, dict(model_kwargs or {}))
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
        new = self._state(values, overflow, accepted, process, rng_key)
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
        if self._backend == "numba":
            options = {"max_clusters": self._max_clusters, "reach": self._numba_reach}
            swept = sweep_labels_numba(sweep_key, *arguments, log_background=log_background, **options)
        elif self._layout is None:
            swept = sweep_labels(sweep_key, *arguments, log_background=log_background, max_clusters=self._max_clusters)
        else:
            swept = sweep_labels_chunked(sweep_key, *arguments, log_background=log_background, layout=self._layout)

        def propose(labels, key):
            moved = split_or_merge(key, process.cluster, labels, points, process.window, process.rates)
            return moved.labels, moved.accepted

        labels, accepted = lax.scan(propose, swept.labels, random.split(moves_key, self._num_split_merge))
        return jnp.where(is_empty, ABSENT, labels), swept.overflow, accepted.sum(dtype=jnp.int32)

    def _state(self, values, overflow, accepted, process, rng_key):
        ratio, labels = jnp.inf, values[self.labels_site]
        if self._layout is not None:
            # A family that does not know its reach has not outgrown the one that was passed.
            own = process.cluster.reach
            ratio = jnp.where(jnp.isinf(own), jnp.inf, self._layout.reach / own)
        elif self._backend == "numba" and self._numba_reach is not None:
            ratio = self._numba_reach / process.cluster.reach
        num_clusters = labels.max(initial=-1).astype(jnp.int32) + 1
        num_background = jnp.sum(labels == BACKGROUND, dtype=jnp.int32)
        ratio = jnp.asarray(ratio, jnp.result_type(float))
        counts = num_clusters, num_background, overflow, accepted, jnp.zeros((), jnp.int32)
        return LabelGibbsState(values, *counts, ratio, rng_key)

    def _process(self, values, args, kwargs):
        """The process and the points of the model at given values of its sites, and the site of unseen points, or None.

        Raises:
            ValueError: if the model has no such sites, or one of them is scaled or masked.
        """
        model = handlers.substitute(handlers.seed(self._model, random.key(0)), data=values)
        trace = handlers.trace(model).get_trace(*args, **kwargs)
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
        return found["fn"].process, jnp.asarray(points["value"]), unseen

    def _compare(self, num_points, owned, args, kwargs):
        """Raise unless the model's joint density depends on labels as that of the process does, in double precision."""
        with exactly():
            args, kwargs = jax.tree.map(in_double, (args, without_values(kwargs)))
            singles = jnp.arange(num_points, dtype=jnp.int32)
            model = handlers.substitute(handlers.seed(self._model, random.key(0)), substitute_fn=init_to_sample)
            model = handlers.substitute(model, data=jax.tree.map(in_double, owned) | {self.labels_site: singles})
            trace = handlers.trace(model).get_trace(*args, **kwargs)
            values = {name: in_double(site["value"]) for name, site in latent_sites(trace).items()}

            @jax.jit
            def difference(labels):
                at_labels = {**values, self.labels_site: labels}
                process, points, _ = self._process(at_labels, args, kwargs)
                whole = log_density(self._model, args, kwargs, at_labels)[0]
                return whole - process.log_joint(labels, points), abs(whole)

            # A point in the background, but none that rounding has put outside of the window.
            process, points, _ = self._process(values, args, kwargs)
            alone = jnp.argmax(jnp.isfinite(process.log_background(points)))
            others = jnp.maximum(singles - 1, 0), jnp.where(singles == alone, -1, singles - (singles > alone))
            found = [tuple(map(float, difference(labels))) for labels in (singles, *others)]
            # A process made outside of the model keeps the precision it was made in.
            leaves = [leaf for leaf in jax.tree.leaves(process) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
            tolerance = 1e-9 if all(jnp.asarray(leaf).dtype == jnp.float64 for leaf in leaves) else 1e-5
        for (first, _), (second, size) in zip(found[:-1], found[1:], strict=True):
            # Not a number, so not compared, where all points are impossible in the background.
            if abs(first - second) > tolerance * (1 + size):
                raise ValueError(
                    f"between two sets of labels the model's joint density changes by {second - first:.3g} nats more than "
                    f"that of the process: the model uses {self.labels_site!r} elsewhere too, so the block cannot draw it"
                )

    def _choose_layout(self, process, points, unseen) -> ChunkLayout | None:
        in_time = process.cluster.position_shape == ()
        if unseen is not None:
            if self._method == "chunked":
                raise NotImplementedError(
                    'chunked sweeps need sorted points: beside unseen points pass method="serial"'
                )
            return None
        is_endless = self._reach is None and is_concrete(process.cluster.reach) and np.isinf(process.cluster.reach)
        if self._method == "serial" or (self._method == "auto" and (not in_time or len(points) <= 200 or is_endless)):
            return None
        if not in_time:
            raise ValueError(
                f"chunked sweeps need points in time; these have places of {process.cluster.position_shape}"
            )
        if not is_concrete(points):
            raise ValueError(
                "chunked sweeps look at the points beforehand: do not pass them through jit (jit_model_args)"
            )
        reach = self._reach
        if reach is None:
            if not is_concrete(process.cluster.reach):
                raise ValueError("chunked sweeps need a reach that is known beforehand: pass reach=")
            reach = 2 * float(process.cluster.reach)
        times = np.asarray(process.cluster.positions(points))
        return chunk_layout(times, reach, reaches_per_chunk=3.0, num_slots=self._max_clusters or 32)

    def refresh(self, state, model_args, model_kwargs):
        """Nothing is cached."""
        return state

    def wrap_model(self, wrapper):
        """A copy whose model is wrapped."""
        kernel = copy.copy(self)
        kernel._model, kernel._layout = wrapper(self._model), None
        return kernel

    def get_constrain_fn(self, model_args, model_kwargs):
        """Labels are what they are."""
        return lambda values: values

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
