"""Arguments that describe how a linear-Gaussian trajectory moves: checked once, read as arrays at use."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tsppl.distributions.gaussians import check_scales, gaussian_parameters
from tsppl.distributions.shapes import parameter_batch
from tsppl.messages.linear_gaussian.steps import AffineGaussian, Gaussian


class Names(NamedTuple):
    """What a class calls the arguments."""

    weights: str
    noise: str


def check_dynamics(initial, weights, noise, noise_matrix, names, *, num_steps, time_varying):
    """Batch shapes of the arguments, ``name -> batch``, after checking that their own shapes fit each other.

    Raises:
        TypeError: if ``initial`` or the noise is not Gaussian.
        ValueError: naming two arguments and their shapes.
    """
    gaussian_parameters(initial, "initial")
    check_scales(names.noise, noise, "use noise_matrix for the components that are driven, (..., D, R), and noise of R")
    if len(initial.event_shape) != 1:
        raise ValueError(f"initial has event shape {initial.event_shape}; (D,) is needed: add .to_event(1)")
    (size,) = initial.event_shape
    if weights.shape[-2:] != (size, size):
        raise ValueError(
            f"{names.weights} has shape {weights.shape} and initial has event shape {initial.event_shape}: "
            f"{names.weights} must end in ({size}, {size})"
        )
    if len(noise.event_shape) != 1:
        raise ValueError(f"{names.noise} has event shape {noise.event_shape}; (D,) is needed: add .to_event(1)")
    rows = num_steps - 1
    common = {"num_steps": num_steps, "rows": rows, "time_varying": time_varying}
    batches = {
        "initial": initial.batch_shape,
        names.weights: parameter_batch(names.weights, weights.shape, (size, size), **common),
        names.noise: parameter_batch(names.noise, noise.batch_shape, (), **common),
    }
    if noise_matrix is None:
        if "noise_matrix" in time_varying:
            raise ValueError("noise_matrix is named in time_varying, but was not passed")
        if noise.event_shape != (size,):
            raise ValueError(
                f"{names.noise} has event shape {noise.event_shape} and initial has event shape {initial.event_shape}: "
                f"they must be equal, or pass noise_matrix of shape (..., {size}, {noise.event_shape[0]})"
            )
        return batches
    if noise_matrix.ndim < 2 or noise_matrix.shape[-2:] != (size,) + noise.event_shape:
        raise ValueError(
            f"noise_matrix has shape {noise_matrix.shape}, initial has event shape {initial.event_shape} and "
            f"{names.noise} has event shape {noise.event_shape}: noise_matrix must end in "
            f"({size}, {noise.event_shape[0]})"
        )
    core = (size,) + noise.event_shape
    batches["noise_matrix"] = parameter_batch("noise_matrix", noise_matrix.shape, core, **common)
    return batches


class Dynamics(NamedTuple):
    """Arrays of a chain, batch axes included; ``noise_*`` are those of ``w`` in ``x' = A x + G w``."""

    mean: jax.Array
    root: jax.Array
    weights: jax.Array
    noise_loc: jax.Array
    noise_root: jax.Array
    noise_matrix: jax.Array | None


def read_dynamics(initial, weights, noise, noise_matrix, names, time_varying):
    """:class:`Dynamics`, and the signature of its arrays for ``jnp.vectorize``."""
    weights_axis, noise_axis, matrix_axis = (
        "s," if name in time_varying else "" for name in (names.weights, names.noise, "noise_matrix")
    )
    signature = f"(d),(d,d),({weights_axis}d,d),({noise_axis}r),({noise_axis}r,r)"
    if noise_matrix is not None:
        signature += f",({matrix_axis}d,r)"
    return Dynamics(*gaussian_parameters(initial), weights, *gaussian_parameters(noise), noise_matrix), signature


def as_steps(dynamics: Dynamics) -> tuple[Gaussian, AffineGaussian]:
    """One sequence's ``(initial, dynamics)`` as the messages take them."""
    mean, root, weights, loc, noise_root, matrix = dynamics
    if matrix is not None:
        loc, noise_root = (matrix @ loc[..., None])[..., 0], matrix @ noise_root
    return Gaussian(mean, root), AffineGaussian(weights, loc, noise_root)


def with_common_dtype(*arrays):
    """The arrays with all numbers in their common floating dtype; None, booleans and keys are left alone."""
    numbers = [array for array in arrays if array is not None and jnp.issubdtype(array.dtype, jnp.number)]
    dtype = jnp.result_type(*numbers, 0.0)
    return tuple(array.astype(dtype) if any(array is number for number in numbers) else array for array in arrays)
