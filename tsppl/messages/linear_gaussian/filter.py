"""The Kalman filter in square-root form, sequential and parallel in time.

Notation in :mod:`tsppl.messages.linear_gaussian.steps`.
"""

from typing import NamedTuple

from jax import lax
from jaxtyping import Array, Bool, Float

from tsppl.messages.linear_gaussian.parallel import first_element, scan_elements, step_elements
from tsppl.messages.linear_gaussian.steps import (
    AffineGaussian,
    Gaussian,
    each_step,
    earlier_rows,
    first_row,
    join_time,
    later_rows,
    observation_information,
    observe,
    predict,
    prepend,
    split_time,
)
from tsppl.messages.methods import LINEAR_GAUSSIAN_METHODS, resolve_method


class Filtered(NamedTuple):
    """``log p(y_t | y_<t)``, and ``x_t`` given ``y_<t`` and given ``y_<=t``, all with a leading time axis."""

    log_normalizers: Float[Array, " T"]
    predicted: Gaussian
    filtered: Gaussian


def kalman_filter(
    initial: Gaussian,
    dynamics: AffineGaussian,
    emission: AffineGaussian,
    values: Float[Array, "T N"],
    observed: Bool[Array, "T N"] | None = None,
    *,
    method: str = "auto",
) -> Filtered:
    """Filter the trajectory.

    Args:
        initial: of the first step.
        dynamics: fields constant or with ``T - 1`` rows.
        emission: fields constant or with ``T`` rows.
        values: observations ``(T, N)``, finite also where they are not observed.
        observed: True = observed, ``(T, N)``; None if every entry was.
        method: ``"auto"``, ``"sequential"`` (Kalman 1960, in array form) or ``"parallel"`` (Sarkka and Garcia-Fernandez
            2021, in the square-root form of Yaghoobi et al. 2022).

    Returns:
        :class:`Filtered`. The log-likelihood is ``log_normalizers.sum()``. The roots stand for covariances, and are to
        be differentiated only through them.

    >>> import jax.numpy as jnp
    >>> from tsppl.messages import AffineGaussian, Gaussian, kalman_filter
    >>> one = jnp.eye(1)
    >>> step = AffineGaussian(one, jnp.zeros(1), one)
    >>> kalman_filter(Gaussian(jnp.zeros(1), one), step, step, jnp.ones((3, 1))).filtered.mean[:, 0].round(3).tolist()
    [0.5, 0.8, 0.923]
    """
    if resolve_method(method, LINEAR_GAUSSIAN_METHODS) == "parallel":
        return _parallel_filter(initial, dynamics, emission, values, observed)
    return _sequential_filter(initial, dynamics, emission, values, observed)


def _sequential_filter(initial, dynamics, emission, values, observed):
    (moves, moving), (looks, looking) = split_time(dynamics), split_time(emission)
    looking = (looking, values, observed)

    def update(predicted, inputs):
        row, value, entries = inputs
        filtered, log_density = observe(predicted, join_time(looks, row), value, entries)
        return filtered, Filtered(log_density, predicted, filtered)

    def step(filtered, inputs):
        row, inputs = inputs
        return update(predict(filtered, join_time(moves, row)), inputs)

    filtered, first = update(initial, first_row(looking))
    _, rest = lax.scan(step, filtered, (moving, later_rows(looking)))
    return prepend(first, rest)


def _parallel_filter(initial, dynamics, emission, values, observed):
    information = each_step(observation_information, emission, values, observed)
    later = step_elements(dynamics, later_rows(information))
    elements = prepend(first_element(initial, first_row(information)), later)
    kernels = scan_elements(elements).kernel
    filtered = Gaussian(kernels.bias, kernels.root)
    predicted = prepend(initial, each_step(lambda step, past: predict(past, step), dynamics, earlier_rows(filtered)))

    def score(step, predicted, value, entries=None):
        return observe(predicted, step, value, entries)[1]

    return Filtered(each_step(score, emission, predicted, values, observed), predicted, filtered)
