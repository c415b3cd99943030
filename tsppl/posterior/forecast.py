"""Draws of what was not observed: the future of a user's model, and the gaps in its data."""

import inspect

import jax.numpy as jnp
from jax import random
from numpyro import handlers

from tsppl.distributions.wrappers import unwrap
from tsppl.posterior.draws import as_draws, map_draws
from tsppl.sites.trace import checked_trace, grown_axis, is_sequence, replay, sequence_distribution, sequence_sites


def forecast(
    key, model, posterior, num_steps, /, *args, future=None, batch_ndims=None, num_draws=None, batch_size=None, **kwargs
):
    """Draw the next ``num_steps`` steps of every series, for each posterior draw.

    Where nothing in the model varies in time, the distribution of each series is simply carried on. Otherwise
    ``future`` says what the model's arguments are when the series is ``T + num_steps`` long, and the model is run once
    more with them: covariates and everything downstream of a latent series then reach into the future.

    Args:
        key: random key.
        model: the NumPyro model.
        posterior: an MCMC object, a dict of draws, an ArviZ tree, or ``(guide, params)``.
        num_steps: number of steps to draw.
        *args: arguments of the model, as they were for the fit.
        future: dict of the arguments, by name, that differ when the series has ``T + num_steps`` steps, such as
            ``dict(covariates=all_rows, y=None)``. Observed series need no future: pass None, or NaN-extended arrays, or
            leave them out, as the model likes it. ``lengths``, ``mask`` and known states of the steps that there are stay
            as they were for the fit; with ``lengths`` row ``lengths[i]`` of a covariate is the first future one of series
            ``i``.
        batch_ndims, num_draws, batch_size: as in :func:`tsppl.posterior_latents`.
        **kwargs: keyword arguments of the model, as they were for the fit.

    Returns:
        dict: name of a site -> dict with ``"value"``, the leading axes of the draws, then ``(..., num_steps) + step``,
        and the latents of the same steps (``"states"``, ``"trajectory"``). With ``lengths`` each series goes on from
        its own end. Observed sites downstream of a latent series come with ``future`` only: those of which one axis is
        longer with it.

    Raises:
        ValueError: if something varies in time and ``future`` is not given, or the model does not span
            ``T + num_steps`` steps with it.

    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> from tsppl import forecast
    >>> def model(y):
    ...     rate = numpyro.sample("rate", dist.Gamma(2.0, 0.2).expand([2]).to_event(1))
    ...     transition_probs = jnp.array([[0.9, 0.1], [0.1, 0.9]])
    ...     numpyro.sample(
    ...         "y", tsd.HiddenMarkov(jnp.ones(2) / 2, transition_probs, dist.Poisson(rate), num_steps=4), obs=y
    ...     )
    >>> draws = {"rate": jnp.array([[1.0, 20.0], [1.5, 18.0], [0.9, 22.0]])}
    >>> ahead = forecast(jax.random.key(0), model, draws, 10, jnp.array([1, 0, 19, 21]))
    >>> ahead["y"]["value"].shape, ahead["y"]["states"].shape
    ((3, 10), (3, 10))
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; it must be at least 1")
    draws_key, forecast_key = random.split(key)
    draws = as_draws(draws_key, model, posterior, args, kwargs, batch_ndims=batch_ndims, num_draws=num_draws)
    sites = sequence_sites(checked_trace(model, draws.first(), args, kwargs))
    if not sites:
        raise ValueError("the model has no sequence site to forecast")
    if future is None:
        _check_nothing_varies(sites, num_steps)

        def steps_ahead(key, draw):
            replay_key, *keys = random.split(key, len(sites) + 1)
            present = sequence_sites(replay(replay_key, model, draw, args, kwargs))
            return {
                name: site.distribution.forecast(key, site.value, num_steps)
                for key, (name, site) in zip(keys, present.items(), strict=True)
            }

    else:
        arguments = _future_arguments(model, args, kwargs, future)

        def steps_ahead(key, draw):
            return _replay_with_future(key, model, draw, args, kwargs, arguments, num_steps)

    return map_draws(steps_ahead, forecast_key, draws, batch_size=batch_size, label="forecast")


def _check_nothing_varies(sites, num_steps):
    for name, site in sites.items():
        if site.distribution.time_varying:
            argument, length = site.distribution.time_varying[0], site.distribution.num_steps
            raise ValueError(
                f"site {name!r}: {argument} varies in time over {length} steps, and a forecast needs its future. Pass "
                f"future=dict(...) with the model's arguments, by name, as they are for {length} + {num_steps} steps"
            )


def _future_arguments(model, args, kwargs, future):
    """Positional and keyword arguments of the model with those of ``future`` in place of the fitted ones."""
    function = model
    while isinstance(function, handlers.Messenger) and function.fn is not None:
        function = function.fn
    signature = inspect.signature(function)
    bound = signature.bind(*args, **kwargs)
    kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
    rest = [name for name, kind in kinds.items() if kind is inspect.Parameter.VAR_KEYWORD]
    for name, value in future.items():
        if name in kinds and kinds[name] not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
            bound.arguments[name] = value
        elif rest:
            bound.arguments[rest[0]] = bound.arguments.get(rest[0], {}) | {name: value}
        else:
            raise ValueError(
                f"future has {name!r}, which is no argument of the model; its arguments are {tuple(kinds)}"
            )
    return bound.args, bound.kwargs


def _replay_with_future(key, model, draw, args, kwargs, arguments, num_steps):
    """Run the model on its fitted arguments, then once over the future, carrying every series on from its end."""
    present_key, future_key, sites_key, downstream_key = random.split(key, 4)
    trace = replay(present_key, model, draw, args, kwargs)
    present = sequence_sites(trace)
    keys = dict(zip(present, random.split(sites_key, len(present)), strict=True))
    answers = {}

    def carry_on(name, fn):
        site = present[name]
        needed = site.distribution.num_steps + num_steps
        if not is_sequence(fn) or unwrap(fn)[0].num_steps != needed:
            raise ValueError(
                f"site {name!r}: with future= its distribution must span {site.distribution.num_steps} + {num_steps} = "
                f"{needed} steps, not {getattr(unwrap(fn)[0], 'num_steps', None)}. Does future hold every argument "
                "that sets the length?"
            )
        distribution = sequence_distribution(fn, jnp.shape(site.value))[0].continuing(site.distribution)
        answers[name] = distribution.forecast(keys[name], site.value)
        return answers[name]["value"]

    def longer_value(site):
        name = site["name"]
        if site["type"] == "param":
            return draw.get(name)
        if site["type"] != "sample" or site["is_observed"]:
            return None
        if name in present:
            return _append(present[name], carry_on(name, site["fn"]), num_steps)
        if name not in trace:
            raise ValueError(f"with future= the model has the latent site {name!r}, which it does not have without")
        if name in draw and site["fn"].shape() != trace[name]["fn"].shape():
            raise ValueError(
                f"site {name!r} has shape {trace[name]['fn'].shape()}, and with future= {site['fn'].shape()}: only "
                "sequence distributions are carried on. Write its time course as one of them"
            )
        return draw.get(name)

    try:
        longer = replay(future_key, model, {}, *arguments, substitute_fn=longer_value)
    except ValueError as error:
        raise ValueError(
            f"with future=: {error}. Every argument with a time axis needs its future too, a mask as well (mask=None will do: what was missing stays so)"
        ) from error
    for name in present:
        if name not in answers:
            carry_on(name, longer[name]["fn"])
    return answers | _downstream(downstream_key, trace, longer, present, num_steps)


def _append(site, ahead, num_steps):
    """The value of a series with its forecast after its own end."""
    time_axis = site.axes.time
    if site.distribution.lengths is None:
        return jnp.concatenate([site.value, ahead], time_axis)
    padding = [(0, num_steps if axis == time_axis else 0) for axis in range(site.value.ndim)]
    index = jnp.arange(site.value.shape[time_axis] + num_steps) - site.distribution.lengths[..., None]
    index = jnp.broadcast_to(index, site.value.shape[:time_axis] + index.shape[-1:])
    index = index.reshape(index.shape + (1,) * (site.value.ndim - time_axis - 1))
    gathered = jnp.take_along_axis(ahead, jnp.clip(index, 0, num_steps - 1), time_axis)
    return jnp.where((index >= 0) & (index < num_steps), gathered, jnp.pad(site.value, padding))


def _downstream(key, trace, longer, present, num_steps):
    """The future of observed sites that are no sequences but follow time."""
    answers = {}
    for name, site in trace.items():
        if site["type"] != "sample" or not site["is_observed"] or name in present or name not in longer:
            continue
        time_axis = grown_axis(site, longer[name], num_steps)
        if time_axis is None:
            continue
        value = longer[name]["value"]
        if longer[name]["is_observed"]:
            key, draw_key = random.split(key)
            value = longer[name]["fn"].sample(draw_key)
        answers[name] = {"value": _last_steps(value, time_axis, num_steps, present)}
    return answers


def _last_steps(value, time_axis, num_steps, present):
    """The last ``num_steps`` of each series, which ends where a latent series beside it ends."""
    lead, first = value.shape[:time_axis], jnp.asarray(value.shape[time_axis] - num_steps)
    for site in present.values():
        lengths = site.distribution.lengths
        if not site.observed and lengths is not None and lengths.shape == lead[len(lead) - lengths.ndim :]:
            first = first + lengths - site.distribution.num_steps
            break
    index = jnp.broadcast_to(first[..., None] + jnp.arange(num_steps), lead + (num_steps,))
    return jnp.take_along_axis(value, index.reshape(index.shape + (1,) * (value.ndim - time_axis - 1)), time_axis)
