"""Starts of the user's own model: climbed from many draws of the prior at once, ranked, one for each chain."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from numpyro.distributions.transforms import biject_to
from numpyro.infer import init_to_sample
from numpyro.infer.util import potential_energy

from tsppl.inference.starts.starting import starting_params
from tsppl.sites.trace import latent_sites, replay

_SAME_MODE = 0.5


class FoundStarts(NamedTuple):
    """Starts in falling order of their log density.

    Attributes:
        values: list of dicts, constrained value by site name: ``init_to_value(values=found.values[0])`` for NUTS
            and SVI, ``starting_params(model, found.values[:4], *args)`` for four chains.
        log_densities: ``(num_starts,)``, log joint density of the data and the unconstrained latent sites, which is what
            NUTS climbs; in nats, falling.
        begun: ``(num_starts,)``, the same before climbing.
        mode: int ``(num_starts,)``: starts whose densities differ by less than half a nat from one to the next have the
            same number, 0 for the best.
        num_failed: number of starts that met no finite density and were dropped.
    """

    values: list
    log_densities: Any
    begun: Any
    mode: Any
    num_failed: int

    def __str__(self):
        rows = [
            f"{number:>5}  {mode:>4}  {begun:>12.1f}  {density:>12.1f}  {density - self.log_densities[0]:>10.1f}"
            for number, (mode, begun, density) in enumerate(zip(self.mode, self.begun, self.log_densities, strict=True))
        ]
        failed = [f"{self.num_failed} more met no finite density: see tsppl.check_model"] if self.num_failed else []
        return "\n".join(["start  mode         begun         ended  below best", *rows, *failed])


def find_starts(model, *args, num_starts=16, num_steps=500, step_size=0.05, starts=(), key=None, **kwargs):
    """Climb to the modes of a user's model from many starts, all in one compiled loop.

    Mixtures and switching models have many modes, and a chain of NUTS seldom leaves the one it starts in. The
    density climbed is that of the unconstrained latent sites, as NUTS sees it, so that scales do not run to zero.
    Adam with a falling step size (Kingma and Ba 2015); the best point that each climb meets counts.

    Args:
        model: NumPyro model without discrete latent sites.
        *args: arguments of the model.
        num_starts: number of climbs from draws of the prior, besides ``starts``.
        num_steps: steps of each climb.
        step_size: greatest step in unconstrained space.
        starts: list of dicts of constrained values to climb from too: of ``inference.data_driven_start`` or of a simpler
            model, say. Sites without a value are drawn.
        key: random key; a fixed one by default.
        **kwargs: keyword arguments of the model.

    Returns:
        :class:`FoundStarts`; ``print`` it to see how many modes there are.

    Raises:
        ValueError: if a latent site is discrete, or no start meets a finite density.

    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> from tsppl.inference import find_starts
    >>> def model(y):
    ...     loc = numpyro.sample("loc", dist.Normal(0.0, 10.0))
    ...     numpyro.sample("y", dist.Normal(loc**2, 1.0).expand([3]).to_event(1), obs=y)
    >>> found = find_starts(model, jnp.full(3, 4.0), num_starts=4)
    >>> abs(found.values[0]["loc"]).round(1).item(), found.mode.tolist()
    (2.0, [0, 0, 0, 0])
    """
    key = random.PRNGKey(0) if key is None else key
    given_key, prior_key = random.split(key)
    trace = replay(prior_key, model, {}, args, kwargs)
    latent = latent_sites(trace)
    discrete = [name for name, site in latent.items() if site["fn"].support.is_discrete]
    if discrete:
        raise ValueError(
            f"site {discrete[0]!r} is discrete, and a climb needs gradients: sum it out (HiddenMarkov, SwitchingLinearDynamics), "
            "or condition the model on a value of it"
        )
    points = []
    if num_starts:
        points.append(jax.vmap(partial(_prior_draw, model, args, kwargs))(random.split(prior_key, num_starts)))
    if len(starts):
        given = starting_params(model, list(starts), *args, key=given_key, **kwargs)
        points.append(given if len(starts) > 1 else jax.tree.map(lambda array: array[None], given))
    points = jax.tree.map(lambda *parts: jnp.concatenate(parts), *points)

    def objective(point):
        return potential_energy(model, args, kwargs, point)

    import optax  # slow to import, and seldom needed

    climb = partial(_climb, objective, optax.adam(optax.cosine_decay_schedule(step_size, num_steps)), num_steps)
    begun, ended, best = jax.jit(jax.vmap(climb))(points)
    best = jax.vmap(lambda point: _constrain(model, args, kwargs, latent, point))(best)
    density = -np.asarray(ended)
    finite = np.isfinite(density)
    if not finite.any():
        raise ValueError(
            f"none of {len(density)} starts met a finite density: tsppl.check_model(model, ...) says where it is not finite"
        )
    order = np.argsort(np.where(finite, -density, np.inf))[: finite.sum()]
    values = [{name: array[index] for name, array in best.items()} for index in order]
    mode = np.concatenate([[0], np.cumsum(-np.diff(density[order]) > _SAME_MODE)]).astype(int)
    return FoundStarts(values, density[order], -np.asarray(begun)[order], mode, int((~finite).sum()))


def _prior_draw(model, args, kwargs, key):
    trace = replay(key, model, {}, args, kwargs, substitute_fn=init_to_sample)
    return {name: biject_to(site["fn"].support).inv(site["value"]) for name, site in latent_sites(trace).items()}


def _constrain(model, args, kwargs, latent, point):
    """Values of the latent sites; a support may depend on other sites, so the model is run through."""
    values = {}

    def substitute(site):
        if site["type"] == "sample" and site["name"] in latent:
            values[site["name"]] = biject_to(site["fn"].support)(point[site["name"]])
            return values[site["name"]]
        return None

    replay(random.PRNGKey(0), model, {}, args, kwargs, substitute_fn=substitute)
    return values


def _climb(objective, optimiser, num_steps, point):
    """``(value at the start, least value met, point of it)``; a step to a place that is not finite is halved away."""

    def step(carry, _):
        point, state, least, best = carry
        value, slope = jax.value_and_grad(objective)(point)
        finite = jnp.isfinite(value) & jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slope)]))
        better = finite & (value < least)
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), point, best)
        least = jnp.where(better, value, least)
        slope = jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0.0), slope)
        change, state = optimiser.update(slope, state)
        ahead = jax.tree.map(
            lambda here, move, back: jnp.where(finite, here + move, 0.5 * (here + back)), point, change, best
        )
        return (ahead, state, least, best), value

    start = (point, optimiser.init(point), jnp.inf, point)
    (point, _, least, best), values = lax.scan(step, start, None, length=num_steps)
    return values[0], least, best
