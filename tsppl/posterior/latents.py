"""What the hidden states and trajectories of a user's model were, given posterior draws of its parameters."""

from typing import Any, NamedTuple

from jax import random

from tsppl.posterior.draws import as_draws, map_draws
from tsppl.sites.trace import checked_trace, latent_shapes, replay, sequence_sites

_QUESTIONS = {
    "sample": lambda key, site: site.distribution.sample_latents(key, site.value),
    "marginals": lambda key, site: site.distribution.latent_marginals(site.value),
    "filtered": lambda key, site: site.distribution.latent_marginals(site.value, given="past"),
    "mode": lambda key, site: site.distribution.latent_mode(site.value),
}


def posterior_latents(
    key, model, posterior, /, *args, batch_ndims=None, what="sample", num_draws=None, batch_size=None, **kwargs
):
    """States and trajectories of every sequence site of ``model``, for each posterior draw.

    Args:
        key: random key.
        model: the NumPyro model.
        posterior: an MCMC object; a dict of draws, flat or grouped by chain; an ArviZ DataTree or InferenceData; or
            ``(guide, params)``.
        *args: arguments of the model. Other data than those fitted are welcome.
        batch_ndims: number of leading axes of a dict of draws; by default read off the shapes.
        what: ``"sample"`` draws the latents given the data, once for each posterior draw; ``"marginals"`` gives their
            distribution given all the data, ``"filtered"`` given the data up to each step, ``"mode"`` the single best
            explanation (Viterbi path, smoothed mean).
        num_draws: at most this many posterior draws, evenly spaced; for a guide how many to draw (1000 by default).
        batch_size: how many draws to work on at once, to bound memory; by default chosen from the shapes.
        **kwargs: keyword arguments of the model.

    Returns:
        dict: name of a site -> dict of arrays with the leading axes of the draws: ``"states"`` int32 ``(..., T)`` and
        ``"trajectory"`` ``(..., T, D)`` for ``"sample"`` and ``"mode"``; ``"state_probs"`` ``(..., T, K)``, and
        ``"trajectory_mean"`` and ``"trajectory_scale_tril"`` for the marginals. Masked steps, and those after the end of
        a series with ``lengths``, have predictions; the first steps of an autoregression, without a state, ``-1`` or NaN.

    Raises:
        ValueError: if the model has no sequence site with latents, or the draws do not fit the model.

    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, tsppl, tsppl.distributions as tsd
    >>> def model(y):
    ...     rate = numpyro.sample("rate", dist.Gamma(2.0, 0.2).expand([2]).to_event(1))
    ...     transition_probs = jnp.array([[0.9, 0.1], [0.1, 0.9]])
    ...     emission = dist.Poisson(rate)
    ...     numpyro.sample("y", tsd.HiddenMarkov(jnp.ones(2) / 2, transition_probs, emission, num_steps=4), obs=y)
    >>> draws = {"rate": jnp.array([[1.0, 20.0], [1.5, 18.0], [0.9, 22.0]])}
    >>> latents = tsppl.posterior_latents(jax.random.key(0), model, draws, jnp.array([1, 0, 19, 21]), what="mode")
    >>> latents["y"]["states"].shape
    (3, 4)
    """
    if what not in _QUESTIONS:
        raise ValueError(f"what is {what!r}; it must be one of {', '.join(map(repr, _QUESTIONS))}")
    draws_key, latents_key = random.split(key)
    draws = as_draws(draws_key, model, posterior, args, kwargs, batch_ndims=batch_ndims, num_draws=num_draws)
    return draw_latents(latents_key, model, draws, args, kwargs, what=what, batch_size=batch_size)


def draw_latents(key, model, draws, args, kwargs, *, what="sample", batch_size=None):
    """As :func:`posterior_latents`, for :class:`~tsppl.posterior.draws.Draws`."""
    sites = sequence_sites(checked_trace(model, draws.first(), args, kwargs))
    names = [name for name, site in sites.items() if latent_shapes(site)]
    if not names:
        raise ValueError("the model has no sequence site with hidden states or a hidden trajectory")
    options = {"arguments": (args, kwargs), "batch_size": batch_size, "label": "posterior_latents"}
    return map_draws(_LatentsOfDraw(model, tuple(names), what), key, draws, **options)


class _LatentsOfDraw(NamedTuple):
    """Latents of some sites of a model, as a function of a draw and of the model's arguments."""

    model: Any
    names: tuple
    what: str

    def __call__(self, key, draw, args, kwargs):
        replay_key, *keys = random.split(key, len(self.names) + 1)
        sites = sequence_sites(replay(replay_key, self.model, draw, args, kwargs))
        return {name: _QUESTIONS[self.what](key, sites[name]) for name, key in zip(self.names, keys, strict=True)}
