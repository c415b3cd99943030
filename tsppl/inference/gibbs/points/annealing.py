"""Annealing of Neyman-Scott processes: from a cold start, or several, to labels and parameters that belong together."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from numpyro.infer import Gibbs
from numpyro.primitives import Messenger
from tqdm import tqdm

from tsppl.distributions import ClusteredPoints, ClusterLabels, NeymanScott
from tsppl.distributions.points.neyman_scott_sites import PointCount
from tsppl.distributions.shapes import is_concrete
from tsppl.sites.trace import replay

TEMPERATURE_KWARG = "_temperature"


def anneal(key, kernel, *args, temperatures=None, num_sweeps=100, init_params=None, progress_bar=True, **kwargs):
    """Run a Gibbs kernel while its Neyman-Scott processes cool down.

    At temperature ``T`` amplitudes of events have the same mean and ``T`` times the variance, so that a cluster can begin
    with few points. All blocks move at every temperature, parameters as well as labels; which is what finds sequences whose
    offsets nobody knows (Williams, Degleris, Wang and Linderman 2020, supplement). Labels start from the background.

    Args:
        key: random key.
        kernel: ``numpyro.infer.Gibbs``, of which one block is ``LabelGibbs(..., start="given")``.
        args, kwargs: arguments of the model.
        temperatures: positive, falling; 10 of them from 40 to 1, evenly spaced in logarithm, if None.
        num_sweeps: draws of every block at each temperature.
        init_params: values to start from at some sites, as ``MCMC.run`` takes them.
        progress_bar: show one.

    Returns:
        the last values of all sites, to be passed on as ``MCMC.run(..., init_params=...)``.

    Raises:
        TypeError: if the kernel is another one.
        ValueError: on temperatures or numbers of sweeps that are not positive.

    >>> import jax, numpyro, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> from numpyro.infer import MCMC, NUTS, Gibbs
    >>> from tsppl.inference import LabelGibbs, anneal
    >>> def model(points):
    ...     scale = numpyro.sample("scale", dist.LogNormal(-2.0, 0.5))
    ...     process = tsd.NeymanScott(0.4, dist.Gamma(2.0, 0.5), tsd.GaussianCluster(scale), 0.4, (0.0, 5.0))
    ...     process.sample("x", points)
    >>> kernel = Gibbs([(LabelGibbs(model, "x", start="given"), ["x_labels"]), (NUTS(model), ["scale"])])
    >>> # start = anneal(jax.random.key(0), kernel, points)
    >>> # MCMC(kernel, num_warmup=500, num_samples=1000).run(jax.random.key(1), points, init_params=start)
    """
    return _cooled(key, kernel, args, kwargs, temperatures, num_sweeps, init_params, progress_bar)[0].z


class BestStart(NamedTuple):
    """Values that the best search ended with, and the log density of points and labels that each ended with, ``(S,)``."""

    params: dict
    log_densities: jax.Array


def best_start(
    key, kernel, *args, num_starts=8, temperatures=None, num_sweeps=100, init_params=None, progress_bar=True, **kwargs
) -> BestStart:
    """Anneal from several starts, side by side, and choose the likeliest result.

    One search can pass a sequence by, or take two for one, and stay there. Here each has random numbers, and first values of
    the sites that are not given, of its own. They are compared by :meth:`tsppl.distributions.NeymanScott.log_joint` at the
    values that they end with. Priors of parameters are left out: where a parameter matters to no point, the density of its
    prior is noise.

    If several of ``log_densities`` are close to the largest, searches agree; if one stands alone, more starts may find more.

    Args:
        key: random key.
        kernel, args, kwargs, temperatures, num_sweeps, init_params, progress_bar: as for :func:`anneal`. Where parameters are
            known, as learned from other data, the model has no sites for them, and labels alone are searched for.
        num_starts: how many. Sweeps in chunks need ``LabelGibbs(..., reach=)`` where parameters are drawn.

    Raises:
        TypeError: if the kernel is another one.
        ValueError: on temperatures or numbers of sweeps or starts that are not positive.

    >>> import jax, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> from numpyro.infer import MCMC, Gibbs
    >>> from tsppl.inference import LabelGibbs, best_start
    >>> known = tsd.NeymanScott(0.4, dist.Gamma(2.0, 0.5), tsd.GaussianCluster(0.2), 0.4, (0.0, 5.0))
    >>> def model(points):
    ...     known.sample("x", points)
    >>> kernel = Gibbs([(LabelGibbs(model, "x", start="given"), ["x_labels"])])
    >>> # start = best_start(jax.random.key(0), kernel, points)
    >>> # MCMC(kernel, num_warmup=0, num_samples=1000).run(jax.random.key(1), points, init_params=start.params)
    """
    if num_starts < 1:
        raise ValueError(f"num_starts is {num_starts}; it must be at least 1")

    @jax.vmap
    def search(key):
        state, values = _cooled(key, kernel, args, kwargs, temperatures, num_sweeps, init_params, progress_bar)
        return state.z, _log_joint(kernel.model, values, args, kwargs)

    params, log_densities = search(random.split(key, num_starts))
    best = jnp.nanargmax(log_densities)
    return BestStart(jax.tree.map(lambda values: values[best], params), log_densities)


def _cooled(key, kernel, args, kwargs, temperatures, num_sweeps, init_params, progress_bar):
    """State of the kernel after all temperatures, and its values where they are constrained."""
    if not isinstance(kernel, Gibbs):
        raise TypeError(f"kernel is a {type(kernel).__name__}; pass a numpyro.infer.Gibbs, also for a single block")
    temperatures = 40.0 ** jnp.linspace(1, 0, 10) if temperatures is None else jnp.asarray(temperatures, float)
    if temperatures.ndim != 1 or len(temperatures) == 0 or not bool((temperatures > 0).all()) or num_sweeps < 1:
        raise ValueError(f"temperatures {temperatures.tolist()} must be positive, num_sweeps {num_sweeps} at least 1")
    heated = kernel.wrap_model(_with_temperature)
    init_key, start_key = random.split(key)
    start = _background(kernel.model, start_key, args, kwargs) | dict(init_params or {})
    at_first = kwargs | {TEMPERATURE_KWARG: temperatures[0]}
    state = heated.init(init_key, len(temperatures) * num_sweeps, start, args, at_first)

    @jax.jit
    def sweeps(state, temperature):
        hot = kwargs | {TEMPERATURE_KWARG: temperature}
        return lax.fori_loop(0, num_sweeps, lambda _, state: heated.sample(state, args, hot), state)

    bar = tqdm(temperatures.tolist(), disable=not progress_bar)
    for temperature in bar:
        bar.set_description(f"temperature {temperature:.3g}")
        state = sweeps(state, jnp.asarray(temperature))
        if is_concrete(state):
            bar.set_postfix_str(heated.get_diagnostics_str(jax.device_get(state)))
    return state, heated.get_constrain_fn(args, at_first)(state.z)


class _Heat(Messenger):
    """Replaces the Neyman-Scott processes of a model by hotter ones."""

    def __init__(self, fn, temperature):
        self._temperature = temperature
        super().__init__(fn)

    def process_message(self, msg):
        fn = msg.get("fn")
        if isinstance(fn, PointCount):
            msg["fn"] = PointCount(heat(fn.process, self._temperature), largest=fn.largest)
        elif isinstance(fn, ClusterLabels):
            msg["fn"] = ClusterLabels(heat(fn.process, self._temperature), fn.num_points, num_unseen=fn.num_unseen)
        elif isinstance(fn, ClusteredPoints):
            msg["fn"] = ClusteredPoints(heat(fn.process, self._temperature), fn.labels)


def heat(process, temperature):
    """The same process with amplitudes of the same mean and ``temperature`` times the variance."""
    concentration, rate = process.amplitude.concentration, process.amplitude.rate
    amplitude = type(process.amplitude)(concentration / temperature, rate / temperature)
    return NeymanScott(process.event_rate, amplitude, process.cluster, process.background_rate, process.window)


def _log_joint(model, values, args, kwargs):
    """Of the points and labels of all processes of a model, given the values of its sites."""
    trace = replay(random.key(0), model, values, args, kwargs)
    points = [site for site in trace.values() if site["type"] == "sample" and isinstance(site["fn"], ClusteredPoints)]
    return sum(site["fn"].process.log_joint(site["fn"].labels, site["value"]) for site in points)


def _background(model, key, args, kwargs):
    """Labels that put every point into the background, by site."""
    trace = replay(key, model, {}, args, kwargs)
    return {
        name: site["fn"].all_background()
        for name, site in trace.items()
        if site["type"] == "sample" and isinstance(site["fn"], ClusterLabels)
    }


def _with_temperature(model):
    return partial(_heated_model, model)


def _heated_model(model, *args, **kwargs):
    temperature = kwargs.pop(TEMPERATURE_KWARG)
    return _Heat(model, temperature)(*args, **kwargs)
