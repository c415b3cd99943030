"""Pseudo-residuals: where each observation lies in the distribution that the steps before it predict."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import random
from jax.scipy.special import ndtri

from tsppl.posterior.draws import as_draws, map_draws
from tsppl.sites.trace import checked_trace, replay, sequence_sites


class PseudoResiduals(NamedTuple):
    """Residuals of one site, of the shape of its value; NaN where nothing was observed or scored.

    Attributes:
        uniform: probability of a smaller value given the steps before; uniform on (0, 1) where the model is right.
        normal: the same on the scale of a standard normal distribution.
    """

    uniform: Any
    normal: Any


def pseudo_residuals(key, model, posterior, /, *args, batch_ndims=None, num_draws=200, batch_size=None, **kwargs):
    """Pseudo-residuals of every observed sequence site, hidden states and trajectories integrated out.

    For each step the probability of a smaller value is computed given the steps before it and averaged over the draws of the
    posterior (Smith 1985, J. Forecast. 4; Zucchini and MacDonald 2009, section 6.2.2, "forecast pseudo-residuals").
    For counts and categories, where it jumps, a number is drawn uniformly within the jump. Under the true model
    residuals are uniform and, of a scalar series, independent; of several channels each is taken by itself, so
    channels of a step may depend on each other. Draws that saw the same data make residuals a little too even: with
    few data, hold some out.

    Args:
        key: random key.
        model: the NumPyro model.
        posterior, batch_ndims, batch_size: as in :func:`tsppl.posterior_latents`.
        *args, **kwargs: arguments of the model.
        num_draws: at most this many posterior draws, evenly spaced.

    Returns:
        dict: name of a site -> :class:`PseudoResiduals`.

    Raises:
        NotImplementedError: for sequences or emissions whose cumulative probabilities are not known.
        ValueError: if the model has no observed sequence site.

    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, tsppl, tsppl.distributions as tsd
    >>> def model(y):
    ...     rate = numpyro.sample("rate", dist.Gamma(2.0, 0.2).expand([2]).to_event(1))
    ...     series = tsd.HiddenMarkov(jnp.ones(2) / 2, jnp.ones((2, 2)) / 2, dist.Poisson(rate), num_steps=4)
    ...     numpyro.sample("y", series, obs=y)
    >>> draws = {"rate": jnp.array([[1.0, 20.0], [1.5, 18.0], [0.9, 22.0]])}
    >>> tsppl.pseudo_residuals(jax.random.key(0), model, draws, jnp.array([1, 0, 19, 90]))["y"].uniform.round(
    ...     1
    ... ).tolist()[3]
    1.0
    """
    draws_key, jump_key = random.split(key)
    draws = as_draws(draws_key, model, posterior, args, kwargs, batch_ndims=batch_ndims, num_draws=num_draws)
    sites = sequence_sites(checked_trace(model, draws.first(), args, kwargs))
    names = [name for name, site in sites.items() if site.observed]
    if not names:
        raise ValueError("the model has no observed sequence site, of which there could be residuals")

    def bounds_of(key, draw):
        sites = sequence_sites(replay(key, model, draw, args, kwargs))
        return {name: sites[name].distribution.cdf_steps(sites[name].value) for name in names}

    bounds = map_draws(bounds_of, random.key(0), draws, batch_size=batch_size, label="residuals")
    found = {}
    for name, name_key in zip(names, random.split(jump_key, len(names)), strict=True):
        axes = tuple(range(bounds[name][0].ndim - jnp.ndim(sites[name].value)))
        lower, upper = (bound.mean(axes) for bound in bounds[name])
        uniform = lower + (upper - lower) * random.uniform(name_key, lower.shape, lower.dtype)
        tiny = jnp.finfo(uniform.dtype).eps
        found[name] = PseudoResiduals(uniform, ndtri(jnp.clip(uniform, tiny, 1 - tiny)))
    return found
