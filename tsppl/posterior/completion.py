"""Draws of everything that was masked."""

import jax.numpy as jnp
from jax import random

from tsppl.distributions.wrappers import unwrap
from tsppl.posterior.draws import as_draws, map_draws
from tsppl.sites.trace import checked_trace, replay, sequence_sites


def complete(key, model, posterior, /, *args, batch_ndims=None, num_draws=None, batch_size=None, **kwargs):
    """Draw everything that was masked: missing steps and entries, ragged edges, and what follows the end of a series.

    Args:
        key: random key.
        model: the NumPyro model.
        posterior: an MCMC object, a dict of draws, an ArviZ tree, or ``(guide, params)``.
        *args: arguments of the model.
        batch_ndims, num_draws, batch_size: as in :func:`tsppl.posterior_latents`.
        **kwargs: keyword arguments of the model.

    Returns:
        dict: name of an observed sequence -> its value with every unobserved entry drawn, with the leading axes of the
        draws. Other observed sites are included where NumPyro's ``.mask`` hides some of their entries.

    Raises:
        ValueError: if the model has no observed sequence and no masked site.

    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> from tsppl import complete
    >>> def model(y, mask):
    ...     rate = numpyro.sample("rate", dist.Gamma(2.0, 0.2).expand([2]).to_event(1))
    ...     transition_probs, emission = jnp.array([[0.9, 0.1], [0.1, 0.9]]), dist.Poisson(rate)
    ...     series = tsd.HiddenMarkov(jnp.ones(2) / 2, transition_probs, emission, num_steps=4, mask=mask)
    ...     numpyro.sample("y", series, obs=y)
    >>> draws = {"rate": jnp.array([[1.0, 20.0], [1.5, 18.0], [0.9, 22.0]])}
    >>> y, mask = jnp.array([1, 0, 0, 21]), jnp.array([True, True, False, True])
    >>> complete(jax.random.key(0), model, draws, y, mask)["y"][:, 3].tolist()
    [21, 21, 21]
    """
    draws_key, complete_key = random.split(key)
    draws = as_draws(draws_key, model, posterior, args, kwargs, batch_ndims=batch_ndims, num_draws=num_draws)
    checked_trace(model, draws.first(), args, kwargs)

    def completed(key, draw):
        replay_key, key = random.split(key)
        trace = replay(replay_key, model, draw, args, kwargs)
        sites, values = sequence_sites(trace), {}
        for name, site in trace.items():
            if site["type"] != "sample" or not site["is_observed"]:
                continue
            key, draw_key = random.split(key)
            if name in sites:
                values[name] = sites[name].distribution.sample_missing(draw_key, site["value"])
                continue
            base, mask = unwrap(site["fn"])
            if mask is not None:
                mask = mask.reshape(mask.shape + (1,) * base.event_dim)
                values[name] = jnp.where(mask, site["value"], base.sample(draw_key))
        if not values:
            raise ValueError("the model has no observed sequence and no masked site: there is nothing to complete")
        return values

    return map_draws(completed, complete_key, draws, batch_size=batch_size, label="complete")
