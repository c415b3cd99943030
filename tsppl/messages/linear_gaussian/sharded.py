"""Linear-Gaussian evidence, its derivative, filter and smoother for a sequence whose time axis is divided over devices.

The summary of a block is an :class:`~tsppl.messages.linear_gaussian.parallel.Element`: the law of the next block's first
``x`` given this block's first ``x`` and its observations, and what those observations say about that first ``x``. The
gathered summaries give each device the Gaussian of its first ``x`` given all blocks before, and the information of all
blocks after about the ``x`` that follows its last. With the one as initial Gaussian and the other as the observation of
one more step, the algorithms of one device are right on every block.

The derivative of ``log p(y)`` by what one block holds is that of ``log integral past * block * future``, in which past
and future are constants: each device differentiates its own block, and nothing differentiates the exchange. Notation in
:mod:`tsppl.messages.linear_gaussian.steps`. Summaries hold ``x`` itself, not its deviation from a filtered mean, so in float32
a level far larger than the noise is better subtracted first.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from tsppl.messages.certified import with_gradient
from tsppl.messages.linear_gaussian.chain import Marginals, chain_marginals
from tsppl.messages.linear_gaussian.filter import Filtered, kalman_filter
from tsppl.messages.linear_gaussian.information import InformationRoot
from tsppl.messages.linear_gaussian.parallel import Element, join
from tsppl.messages.linear_gaussian.roots import square
from tsppl.messages.linear_gaussian.smoother import tilt_chain
from tsppl.messages.linear_gaussian.steps import (
    AffineGaussian,
    Gaussian,
    absorb,
    each_step,
    join_time,
    observation_information,
    predict,
    split_time,
    tilt,
)
from tsppl.messages.sharded_time import TimeAxis, check_rows, time_axis


def sharded_kalman_log_likelihood(
    initial: Gaussian,
    dynamics: AffineGaussian,
    emission: AffineGaussian,
    values: Float[Array, "T N"],
    observed: Bool[Array, "T N"] | None = None,
    *,
    mesh,
    axis_name: str = "time",
) -> Float[Array, ""]:
    """``log p(y)`` of one sequence whose steps are divided over devices.

    First derivatives, in forward and in reverse mode, are taken by each device of its own block; second derivatives
    are traced through the filter, with every device doing the work of all. Compiled for each mesh and shape.

    Args:
        initial: of the first step, held by every device.
        dynamics: constant fields are held by every device. A field that varies has ``T`` rows, sharded along time: row
            ``t`` moves ``x_t`` to ``x_{t+1}``, and the last, which must be finite, is not used.
        emission: constant fields are held by every device; a field that varies has ``T`` rows, sharded along time.
        values: observations ``(T, N)``, sharded along time, finite also where they are not observed.
        observed: True = observed, ``(T, N)``, sharded along time; None if every entry was.
        mesh: a ``jax.sharding.Mesh``.
        axis_name: the mesh axis that stands for time; its size divides ``T``.

    Returns:
        the same scalar on every device.

    Raises:
        ValueError: the devices cannot share the steps evenly, or a field has neither its constant shape nor ``T`` rows.

    >>> import jax, jax.numpy as jnp
    >>> from tsppl.messages import AffineGaussian, Gaussian
    >>> from tsppl.messages import sharded_kalman_log_likelihood
    >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("time",))
    >>> one, zero = jnp.eye(1), jnp.zeros(1)
    >>> step = AffineGaussian(one, zero, one)
    >>> float(sharded_kalman_log_likelihood(Gaussian(zero, one), step, step, jnp.zeros((1, 1)), mesh=mesh))
    -1.2655...
    """
    axis = _axis(mesh, axis_name, dynamics, emission, values, observed)
    return _log_likelihood(axis, initial, dynamics, emission, values, observed)


def sharded_kalman_filter(
    initial: Gaussian,
    dynamics: AffineGaussian,
    emission: AffineGaussian,
    values: Float[Array, "T N"],
    observed: Bool[Array, "T N"] | None = None,
    *,
    mesh,
    axis_name: str = "time",
) -> Filtered:
    """Filter a trajectory whose steps are divided over devices.

    Arguments as in :func:`sharded_kalman_log_likelihood`; result as in :func:`~tsppl.messages.kalman_filter`, every
    array sharded along time.
    """
    axis = _axis(mesh, axis_name, dynamics, emission, values, observed)
    return _on_blocks(axis, _filter_block, axis.sharded, initial, dynamics, emission, values, observed)


def sharded_kalman_smoother(
    initial: Gaussian,
    dynamics: AffineGaussian,
    emission: AffineGaussian,
    values: Float[Array, "T N"],
    observed: Bool[Array, "T N"] | None = None,
    *,
    mesh,
    axis_name: str = "time",
) -> Marginals:
    """Means, Cholesky factors and lag-one covariances given the whole sequence, whose steps are divided over devices.

    Arguments as in :func:`sharded_kalman_log_likelihood`; result as in :func:`~tsppl.messages.kalman_smoother`, every
    array sharded along time. So that devices share them evenly, ``cross_covariances`` has ``T`` rows, the last zero.
    """
    axis = _axis(mesh, axis_name, dynamics, emission, values, observed)
    return _on_blocks(axis, _smooth_block, axis.sharded, initial, dynamics, emission, values, observed)


def _axis(mesh, axis_name, dynamics, emission, values, observed) -> TimeAxis:
    padding = "rows that observed, an argument, marks False"
    axis = time_axis(mesh, axis_name, "values", values, padding)
    num_steps = values.shape[0]
    for name, step in (("dynamics", dynamics), ("emission", emission)):
        for field, ndim in (("weights", 2), ("bias", 1), ("root", 2)):
            check_rows(f"{name}.{field}", getattr(step, field), ndim, num_steps)
    if observed is not None and observed.shape != values.shape:
        raise ValueError(f"observed has shape {observed.shape} and values {values.shape}; they must be equal")
    return axis


@partial(jax.jit, static_argnums=(0, 1, 2))
def _on_blocks(axis, function, out_specs, *model):
    return axis.map(partial(function, axis), _specs(axis, model), out_specs)(*model)


@partial(jax.jit, static_argnums=0)
def _log_likelihood(axis, initial, dynamics, emission, values, observed):
    # A custom rule must not close over a traced array, so the mask is an argument, and a number for it to have a tangent.
    weights = None if observed is None else observed.astype(values.dtype)
    leaves, structure = jax.tree.flatten((initial, dynamics, emission, values, weights))

    def model_from(leaves):
        *model, weights = structure.unflatten(leaves)
        return *model, None if weights is None else weights > 0.5

    def value(*leaves, function=_block_value):
        return _on_blocks(axis, function, axis.shared, *model_from(leaves))

    def gradient(*leaves):
        model = model_from(leaves)
        specs = _specs(axis, model)
        value, gradients = axis.map(partial(_block_gradient, axis), specs, (axis.shared, specs[:-1]))(*model)
        unmoved = None if weights is None else jnp.zeros_like(weights)
        return value, tuple(jax.tree.leaves((*gradients, unmoved)))

    reference = jax.value_and_grad(partial(value, function=_value_in_turns), argnums=tuple(range(len(leaves))))
    return with_gradient(value, gradient, reference)(*leaves)


def _specs(axis, model):
    initial, dynamics, emission, values, observed = model
    moving, looking = (
        AffineGaussian(*(axis.spec(array, ndim) for array, ndim in zip(step, (2, 1, 2), strict=True)))
        for step in (dynamics, emission)
    )
    return Gaussian(axis.shared, axis.shared), moving, looking, axis.sharded, None if observed is None else axis.sharded


class Surroundings(NamedTuple):
    """What the other blocks say about this one.

    ``first`` is its first ``x`` given all blocks before; ``later`` the information of all blocks after about the ``x``
    that follows its last.
    """

    first: Gaussian
    later: InformationRoot


def _surroundings(axis, initial, dynamics, emission, values, observed) -> Surroundings:
    elements = axis.gather(_summary(dynamics, emission, values, observed))

    def forward(first, element):
        informed, _ = tilt(first, element.information)
        return predict(informed, element.kernel), first

    def backward(later, element):
        return element.information.times(absorb(element.kernel, later)[1]), later

    _, first = lax.scan(forward, _squared(initial), elements)
    _, later = lax.scan(backward, elements.information.nothing(), elements, reverse=True)
    return axis.own(Surroundings(first, later))


def _summary(dynamics, emission, values, observed) -> Element:
    """The element of a block: every step is observed and then moves on, the last into the next block."""
    constant, varying = split_time(dynamics)
    information = each_step(observation_information, emission, values, observed)
    size, dtype = dynamics.bias.shape[-1], values.dtype
    stay = AffineGaussian(jnp.eye(size, dtype=dtype), jnp.zeros(size, dtype), jnp.zeros((size, size), dtype))

    def step(element, inputs):
        row, information = inputs
        move = join_time(constant, row)
        return join(element, Element(move._replace(root=square(move.root)), information)), None

    return lax.scan(step, Element(stay, information.nothing()), (varying, information))[0]


def _squared(gaussian):
    return Gaussian(gaussian.mean, square(gaussian.root))


def _split_moves(dynamics) -> tuple[AffineGaussian, AffineGaussian]:
    """The moves within a block, and the one that leaves it."""
    constant, varying = split_time(dynamics)
    inner, leaving = (jax.tree.map(lambda rows, at=at: rows[at], varying) for at in (slice(-1), -1))
    return join_time(constant, inner), join_time(constant, leaving)


def _filter_block(axis, *model) -> Filtered:
    return _filter_from(_surroundings(axis, *model).first, *model[1:])[0]


def _filter_from(first, dynamics, emission, values, observed) -> tuple[Filtered, Gaussian]:
    """The filter of a block, and the ``x`` that follows it given the block and all before."""
    inner, leaving = _split_moves(dynamics)
    filtered = kalman_filter(first, inner, emission, values, observed)
    return filtered, predict(jax.tree.map(lambda rows: rows[-1], filtered.filtered), leaving)


def _block_value(axis, *model):
    return axis.sum(_filter_block(axis, *model).log_normalizers.sum())


def _value_in_turns(axis, initial, *block):
    """As :func:`_block_value`, but each block waits for the one before it.

    This is the work of all devices on each of them; but where noise is singular, so is the root of a block's summary,
    and has no second derivative.
    """

    def take_turn(first, _):
        following = _filter_from(first, *block)[1]
        passed = axis.from_device_before(following)
        return jax.tree.map(partial(jnp.where, axis.is_first()), start, passed), None

    start = _squared(initial)
    first, _ = lax.scan(take_turn, start, None, length=axis.size - 1)
    return axis.sum(_filter_from(first, *block)[0].log_normalizers.sum())


def _block_gradient(axis, initial, dynamics, emission, values, observed):
    """``(log p(y), its gradient)``; the parts of the gradient that belong to steps are those of this block."""
    surroundings = _surroundings(axis, initial, dynamics, emission, values, observed)

    def log_evidence(initial, *block):
        first = jax.tree.map(partial(jnp.where, axis.is_first()), _squared(initial), surroundings.first)
        filtered, following = _filter_from(first, *block, observed)
        centre = lax.stop_gradient(following.mean)
        _, log_later = tilt(following._replace(mean=following.mean - centre), _relative(surroundings.later, centre))
        value = filtered.log_normalizers.sum()
        return value + log_later, value

    arguments = (initial, dynamics, emission, values)
    gradients, value = jax.grad(log_evidence, argnums=(0, 1, 2, 3), has_aux=True)(*arguments)
    specs = _specs(axis, (*arguments, None))[:-1]
    leaves, structure = jax.tree.flatten(gradients)
    is_shared = [spec == axis.shared for spec in jax.tree.leaves(specs)]
    value, totals = axis.sum((value, [leaf for leaf, shared in zip(leaves, is_shared, strict=True) if shared]))
    totals = iter(totals)
    leaves = [next(totals) if shared else leaf for leaf, shared in zip(leaves, is_shared, strict=True)]
    return value, structure.unflatten(leaves)


def _relative(information, centre) -> InformationRoot:
    """Information about ``x`` as information about ``x - centre``."""
    return information._replace(shift=information.shift - centre @ information.root)


def _smooth_block(axis, initial, dynamics, emission, values, observed) -> Marginals:
    """The chain of a block and the ``x`` that follows it, which the later blocks observe, as deviations from the filter."""
    first, later = _surroundings(axis, initial, dynamics, emission, values, observed)
    filtered, following = _filter_from(first, dynamics, emission, values, observed)
    centre = lax.stop_gradient(jnp.concatenate([filtered.filtered.mean, following.mean[None]]))

    def drift(step, here, there):
        return step.weights @ here + step.bias - there

    def inform(step, value, here, entries=None):
        information = observation_information(step, value - step.weights @ here, entries)
        width = max(information.shift.shape[0], later.shift.shape[0])
        return _widen(information, width)

    moves = dynamics._replace(bias=each_step(drift, dynamics, centre[:-1], centre[1:]))
    information = each_step(inform, emission, values, centre[:-1], observed)
    end = _widen(_relative(later, centre[-1]), information.shift.shape[1])
    information = jax.tree.map(lambda rows, last: jnp.concatenate([rows, last[None]]), information, end)
    posterior = tilt_chain(Gaussian(first.mean - centre[0], first.root), moves, information)
    marginals = chain_marginals(posterior.initial, posterior.dynamics, values.shape[0] + 1)
    crossing = marginals.cross_covariances
    last = jnp.where(axis.is_last(), 0, crossing[-1])
    return Marginals(centre[:-1] + marginals.means[:-1], marginals.scale_trils[:-1], crossing.at[-1].set(last))


def _widen(information, width) -> InformationRoot:
    """The same information with columns of zeros."""
    extra = width - information.shift.shape[0]
    return InformationRoot(jnp.pad(information.root, ((0, 0), (0, extra))), jnp.pad(information.shift, (0, extra)))
