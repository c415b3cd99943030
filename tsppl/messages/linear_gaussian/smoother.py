"""What a whole sequence says about the trajectory: backward information, smoothing, draws and left-out terms.

Notation in :mod:`tsppl.messages.linear_gaussian.steps`. The backward pass carries the information of the later observations
about ``x_t`` (a two-filter form; Fraser and Potter 1969). It turns the chain of the trajectory into its posterior
chain, which is again an affine-Gaussian chain: marginals and draws are then those of a chain. No covariance is
inverted, so noise of lower dimension, and predictions that are singular, are exact.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Bool, Float

from tsppl.messages.certified import certified
from tsppl.messages.linear_gaussian.chain import Marginals, chain_from_noise, chain_marginals, chain_noise
from tsppl.messages.linear_gaussian.filter import kalman_filter
from tsppl.messages.linear_gaussian.parallel import scan_elements, step_elements
from tsppl.messages.linear_gaussian.roots import inverse_lower, lower_root
from tsppl.messages.linear_gaussian.steady import num_transient_steps
from tsppl.messages.linear_gaussian.steady_paths import steady_draw, steady_smoother
from tsppl.messages.linear_gaussian.steps import (
    AffineGaussian,
    Gaussian,
    Information,
    absorb,
    each_step,
    first_row,
    hide_unobserved,
    join_time,
    later_rows,
    observation_information,
    observe,
    split_time,
    tilt,
)
from tsppl.messages.methods import LINEAR_GAUSSIAN_METHODS, linear_gaussian_method, resolve_method


class Backward(NamedTuple):
    """Rows ``t = 0 .. T-2`` of the backward pass.

    ``messages`` is the information about ``x_t`` from everything after it; ``arrivals`` all information about
    ``x_{t+1}`` but that of the step into it; ``kernels`` the law of ``x_{t+1}`` given ``x_t`` and that information.
    """

    messages: Information
    arrivals: Information
    kernels: AffineGaussian
    log_normalizers: Float[Array, " S"]


class TiltedChain(NamedTuple):
    """A chain multiplied by information about each step: again a chain, with time-varying ``dynamics``.

    ``arrivals`` is all information about ``x_{t+1}``, for ``t = 0 .. T-2``, but that of the step into it.
    """

    initial: Gaussian
    dynamics: AffineGaussian
    arrivals: Information
    log_normalizer: Float[Array, ""]


def backward_information(dynamics: AffineGaussian, information: Information, *, method: str = "auto") -> Backward:
    """Pass information about ``x_1 .. x_{T-1}``, one row each, backward through the chain."""
    if resolve_method(method, LINEAR_GAUSSIAN_METHODS) == "parallel":
        messages = scan_elements(step_elements(dynamics, information), reverse=True).information
        later = later_rows(_append(messages, information.nothing()))
        arrivals = jax.vmap(lambda own, others: own.times(others))(information, later)
        kernels, _, log_normalizers = each_step(absorb, dynamics, arrivals)
        return Backward(messages, arrivals, kernels, log_normalizers)
    constant, varying = split_time(dynamics)

    def step(message, inputs):
        row, own = inputs
        arrival = own.times(message)
        kernel, message, log_normalizer = absorb(join_time(constant, row), arrival)
        return message, Backward(message, arrival, kernel, log_normalizer)

    return lax.scan(step, information.nothing(), (varying, information), reverse=True)[1]


def _append(rows, last):
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), rows, last)


def tilt_chain(
    initial: Gaussian, dynamics: AffineGaussian, information: Information, *, method: str = "auto"
) -> TiltedChain:
    """Multiply a chain by ``exp(-x_t' J_t x_t / 2 + h_t' x_t)`` at every step and renormalise.

    Args:
        initial: of the first step.
        dynamics: fields constant or with ``T - 1`` rows.
        information: one row for each of the ``T`` steps; a precision may be singular or zero.
        method: ``"auto"``, ``"sequential"``, ``"steady"`` or ``"parallel"``.
    """
    backward = backward_information(dynamics, later_rows(information), method=method)
    messages = _append(backward.messages, information.nothing())
    start, log_normalizer = tilt(initial, first_row(information).times(first_row(messages)))
    total = log_normalizer + backward.log_normalizers.sum()
    return TiltedChain(start, backward.kernels, backward.arrivals, total)


def _deviations(filtered, initial, dynamics, emission, values):
    """The same model for ``x_t`` minus its filtered mean, so that information never meets large numbers."""
    centre = lax.stop_gradient(filtered.filtered.mean)
    drift = each_step(
        lambda step, here, there: step.weights @ here + step.bias - there, dynamics, centre[:-1], centre[1:]
    )
    values = each_step(lambda step, value, here: value - step.weights @ here, emission, values, centre)
    return centre, Gaussian(initial.mean - centre[0], initial.root), dynamics._replace(bias=drift), values


def posterior_chain(initial, dynamics, emission, values, observed, method):
    filtered = kalman_filter(initial, dynamics, emission, values, observed, method=method)
    centre, initial, dynamics, values = _deviations(filtered, initial, dynamics, emission, values)
    information = each_step(observation_information, emission, values, observed)
    return centre, tilt_chain(initial, dynamics, information, method=method)


def kalman_smoother(
    initial: Gaussian,
    dynamics: AffineGaussian,
    emission: AffineGaussian,
    values: Float[Array, "T N"],
    observed: Bool[Array, "T N"] | None = None,
    *,
    method: str = "auto",
) -> Marginals:
    """Means, Cholesky factors and lag-one covariances of the trajectory given the whole sequence.

    Arguments as in :func:`~tsppl.messages.kalman_filter`.
    """
    method = linear_gaussian_method(method, dynamics, emission, len(values), observed)
    if method == "steady":
        steady = partial(steady_smoother, num_transient_steps(len(values)))
        return _certified(steady, _smoother)(initial, dynamics, emission, values)
    return _smoother(initial, dynamics, emission, values, observed, method=method)


def _smoother(initial, dynamics, emission, values, observed=None, *, method="sequential"):
    centre, posterior = posterior_chain(initial, dynamics, emission, values, observed, method)
    marginals = chain_marginals(posterior.initial, posterior.dynamics, values.shape[0], method=method)
    return marginals._replace(means=centre + marginals.means)


def _certified(fast, slow):
    """As ``fast`` where it vouches for its answer, else as ``slow``; differentiated as ``slow``."""
    function = jax.custom_jvp(certified(fast, slow))
    function.defjvp(lambda arguments, tangents: jax.jvp(slow, arguments, tangents))
    return function


def sample_trajectory(
    key,
    initial: Gaussian,
    dynamics: AffineGaussian,
    emission: AffineGaussian,
    values: Float[Array, "T N"],
    observed: Bool[Array, "T N"] | None = None,
    *,
    method: str = "auto",
) -> Float[Array, "T D"]:
    """Draw a trajectory from its posterior: backward information, forward sampling.

    Arguments as in :func:`~tsppl.messages.kalman_filter`, after a random key; both methods use the same random numbers.
    """
    method = linear_gaussian_method(method, dynamics, emission, len(values), observed)
    noise = chain_noise(key, initial, dynamics, len(values))
    if method == "steady":
        steady = partial(steady_draw, num_transient_steps(len(values)))
        return _certified(steady, _draw)(*noise, initial, dynamics, emission, values)
    return _draw(*noise, initial, dynamics, emission, values, observed, method=method)


def _draw(first_noise, noise, initial, dynamics, emission, values, observed=None, *, method="sequential"):
    centre, posterior = posterior_chain(initial, dynamics, emission, values, observed, method)
    return centre + chain_from_noise(first_noise, noise, *posterior[:2], method=method)


def kalman_left_out(
    initial: Gaussian,
    dynamics: AffineGaussian,
    emission: AffineGaussian,
    values: Float[Array, "T N"],
    observed: Bool[Array, "T N"] | None = None,
    *,
    method: str = "auto",
) -> Float[Array, " T"]:
    """``log p(y_t | all other observations)`` of the observed entries of every step, ``(T,)``.

    The prediction from the past times the information from the future, in which ``y_t`` never took part: nothing is
    subtracted, as it would be in a form that starts from the smoothed marginals.
    Arguments as in :func:`~tsppl.messages.kalman_filter`.
    """
    filtered = kalman_filter(initial, dynamics, emission, values, observed, method=method)
    centre, _, dynamics, values = _deviations(filtered, initial, dynamics, emission, values)
    information = each_step(observation_information, emission, values, observed)
    backward = backward_information(dynamics, later_rows(information), method=method)
    messages = _append(backward.messages, information.nothing())

    def score(step, value, mean, root, message, entries=None):
        cavity, _ = tilt(Gaussian(mean, root), message)
        return observe(cavity, step, value, entries)[1]

    means = filtered.predicted.mean - centre
    return each_step(score, emission, values, means, filtered.predicted.root, messages, observed)


def simulate_observations(key, emission: AffineGaussian, trajectory: Float[Array, "T D"]) -> Float[Array, "T N"]:
    """Draw an observation of every step of a trajectory."""
    noise = random.normal(key, (trajectory.shape[0], emission.root.shape[-1]), trajectory.dtype)
    return each_step(
        lambda step, x, noise: step.weights @ x + step.bias + step.root @ noise, emission, trajectory, noise
    )


def complete_observations(
    key,
    emission: AffineGaussian,
    trajectory: Float[Array, "T D"],
    values: Float[Array, "T N"],
    observed: Bool[Array, "T N"],
) -> Float[Array, "T N"]:
    """Draw the entries that were not observed, given the trajectory and the observed entries of the same step."""
    draws = simulate_observations(key, emission, trajectory)

    def complete(step, draw, value, entries):
        """A draw of everything, corrected by what the observed entries say about it (Matheron's rule)."""
        _, noise, misfit = hide_unobserved(step, value - draw, entries)
        whitener = inverse_lower(lower_root(noise, noise.shape[0]))
        weights = whitener.T @ (whitener @ misfit)
        correction = step.root @ (step.root.T @ jnp.where(entries, weights, 0))
        return jnp.where(entries, value, draw + correction)

    return each_step(complete, emission, draws, values, observed)
