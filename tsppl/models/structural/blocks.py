"""The components of structural time series (Harvey 1989, chapter 2)."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.linalg import block_diag

from tsppl.models.structural.structure import Block, Matrices, Structure


def level(*, scale=None, name="level"):
    """A random walk: ``level[t+1] = level[t] + scale * noise``.

    Args:
        scale: prior of the scale of a step, ``HalfNormal(0.3 * scale of the data)`` by default; a number fixes it, and 0
            makes the level constant.
        name: of the component.
    """

    def matrices(params, loc, scale):
        return Matrices(jnp.eye(1), *_noise(jnp.eye(1), params["scale"]), jnp.full(1, loc), jnp.full(1, 10.0 * scale))

    return _one(name, (name,), [1.0], {"scale": _half_normal(scale, 0.3)}, matrices)


def trend(*, smooth=False, level_scale=None, slope_scale=None, name="level"):
    """A level that moves by a slope, which is a random walk itself (local linear trend).

    Args:
        smooth: True for a level that moves by its slope alone (integrated random walk).
        level_scale, slope_scale: priors of the scales of the steps of both, ``HalfNormal`` of 0.3 and of 0.1 times the
            scale of the data by default, or numbers.
        name: of the component.
    """
    priors = {} if smooth else {"scale": _half_normal(level_scale, 0.3)}
    priors["slope_scale"] = _half_normal(slope_scale, 0.1)

    def matrices(params, loc, scale):
        noise = _noise(jnp.eye(2), params.get("scale", 0.0), params["slope_scale"])
        start = jnp.array([loc, 0.0]), jnp.array([10.0, 1.0]) * scale
        return Matrices(jnp.array([[1.0, 1.0], [0.0, 1.0]]), *noise, *start)

    return _one(name, (name, f"{name} slope"), [1.0, 0.0], priors, matrices)


def seasonal(period, *, harmonics=None, scale=None, name="seasonal"):
    """A pattern that repeats every ``period`` steps and drifts.

    Args:
        period: number of steps, 12 for months.
        harmonics: None for a value of each season, which sum to noise over a period (``period - 1`` dimensions). A number
            for that many sines and cosines instead, at most ``period / 2``: a smooth pattern of few dimensions; the
            period may then be any number.
        scale: prior of the scale of the drift, ``HalfNormal(0.1 * scale of the data)`` by default; a number fixes it, and
            0 makes the pattern the same in all periods.
        name: of the component.
    """
    if harmonics is None:
        if period != int(period) or period < 2:
            raise ValueError(f"period is {period}; without harmonics it must be a whole number of steps, 2 or more")
        size = int(period) - 1
        latent = (name, *(f"{name} lag {lag}" for lag in range(1, size)))
        observed = np.eye(size)[0]
        transition = np.eye(size, k=-1)
        transition[0] = -1.0
        driven = np.eye(size)[:, :1]
    else:
        if not 1 <= harmonics <= period / 2:
            raise ValueError(f"harmonics is {harmonics}; it must be from 1 to half the period, {period / 2:g}")
        turns = [_rotation(2 * np.pi * (1 + harmonic) / period) for harmonic in range(harmonics)]
        latent = tuple(f"{name} {kind} {1 + i}" for i in range(harmonics) for kind in ("cosine", "sine"))
        if 2 * harmonics == period:  # the sine of the fastest wave is zero at every step
            turns[-1], latent = turns[-1][:1, :1], latent[:-1]
        transition = np.asarray(block_diag(*turns))
        observed = np.concatenate([np.eye(len(turn))[0] for turn in turns])
        driven = np.eye(len(transition))

    def matrices(params, loc, scale):
        start = jnp.zeros(len(transition)), jnp.full(len(transition), 1.0 * scale)
        return Matrices(jnp.asarray(transition), *_noise(driven, *[params["scale"]] * driven.shape[1]), *start)

    return _one(name, latent, observed, {"scale": _half_normal(scale, 0.1)}, matrices)


def cycle(low, high, *, scale=None, damping=None, name="cycle"):
    """A damped wave of unknown period: a rotation by ``2 pi / period`` each step, shrunk by ``damping``, with noise.

    It starts from its stationary distribution (Harvey 1989, section 2.3.3).

    Args:
        low, high: bounds of the period, in steps; its prior is uniform between them.
        scale: prior of the scale of the noise, ``HalfNormal(0.3 * scale of the data)`` by default, or a number above 0.
        damping: prior of the factor, between 0 and 1, ``Beta(9, 1)`` by default, or a number below 1.
        name: of the component.
    """
    priors = {
        "period": dist.Uniform(float(low), float(high)),
        "damping": dist.Beta(9.0, 1.0) if damping is None else damping,
        "scale": _half_normal(scale, 0.3),
    }

    def matrices(params, loc, scale):
        turn = params["damping"] * _rotation(2 * jnp.pi / params["period"], jnp)
        spread = params["scale"] / jnp.sqrt(1 - jnp.square(params["damping"]))
        return Matrices(turn, *_noise(jnp.eye(2), *[params["scale"]] * 2), jnp.zeros(2), jnp.full(2, 1.0) * spread)

    return _one(name, (name, f"{name} quadrature"), [1.0, 0.0], priors, matrices)


def autoregression(order, *, weights=None, scale=None, name="autoregression"):
    """A stretch of memory around the other components: ``u[t] = sum_l weights[l] u[t-1-l] + scale * noise``.

    Args:
        order: number of lags.
        weights: prior of the weights, event ``(order,)``; ``Normal(0, 0.5)`` by default, or numbers.
        scale: prior of the noise's scale, ``HalfNormal(scale of the data)`` by default, or a number above 0.
        name: of the component.
    """
    if weights is None:
        weights = dist.Normal(0.0, 0.5).expand([order]).to_event(1)
    latent = (name, *(f"{name} lag {lag}" for lag in range(1, order)))

    def matrices(params, loc, scale):
        companion = jnp.eye(order, k=-1).at[0].set(jnp.asarray(params["weights"]))
        start = jnp.zeros(order), jnp.full(order, 1.0 * scale)
        return Matrices(companion, *_noise(jnp.eye(order)[:, :1], params["scale"]), *start)

    return _one(name, latent, np.eye(order)[0], {"weights": weights, "scale": _half_normal(scale, 1.0)}, matrices)


def regression(covariates, *, coefficients=None, name="regression"):
    """Covariates with constant coefficients; they move the mean of the series and hide nothing.

    Args:
        covariates: ``(..., T, P)``, finite at every step. For a forecast pass those of the future too.
        coefficients: prior of the coefficients, event ``(P,)``; ``Normal(0, 2.5 * scale of the data)`` by default, meant
            for covariates of unit variance; or numbers.
        name: of the component.
    """
    covariates = jnp.asarray(covariates)
    if covariates.ndim < 2:
        raise ValueError(
            f"covariates have shape {covariates.shape}; they must be (T, P): use covariates[:, None] for one"
        )
    size = covariates.shape[-1]
    if coefficients is None:
        coefficients = lambda scale: dist.Normal(0.0, 2.5 * scale).expand([size]).to_event(1)  # noqa: E731
    return Structure((Block(name, (), np.zeros(0), {"coefficients": coefficients}, None, covariates),))


def _one(name, latent_names, observed, priors, matrices):
    return Structure((Block(name, latent_names, np.asarray(observed, float), priors, matrices),))


def _half_normal(prior, share):
    return (lambda scale: dist.HalfNormal(share * scale)) if prior is None else prior


def _noise(columns, *scales):
    """Noise matrix and scales without the noises whose scale is the number 0."""
    kept = [i for i, scale in enumerate(scales) if not (isinstance(scale, int | float) and scale == 0)]
    columns = jnp.asarray(columns, float)[:, jnp.asarray(kept, int)]
    return columns, jnp.stack([jnp.asarray(scales[i], columns.dtype) for i in kept]) if kept else jnp.zeros(0)


def _rotation(angle, numpy=np):
    cosine, sine = numpy.cos(angle), numpy.sin(angle)
    return numpy.stack([numpy.stack([cosine, sine]), numpy.stack([-sine, cosine])])
