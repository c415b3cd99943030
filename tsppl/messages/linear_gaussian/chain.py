"""A Gaussian Markov chain over a trajectory: marginals, draws, densities, entropy and divergence.

Notation in :mod:`tsppl.messages.linear_gaussian.steps`. Densities, entropy and divergence need roots that are Cholesky
factors, so noise in every dimension; marginals and draws take noise of any dimension.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Bool, Float

from tsppl.messages.linear_gaussian.parallel import scan_kernels
from tsppl.messages.linear_gaussian.roots import lower_root, solve_lower, square
from tsppl.messages.linear_gaussian.steps import (
    LOG_TWO_PI,
    AffineGaussian,
    Gaussian,
    each_step,
    join_time,
    log_determinant,
    normal_log_density,
    observe,
    predict,
    prepend,
    split_time,
)
from tsppl.messages.methods import LINEAR_GAUSSIAN_METHODS, resolve_method
from tsppl.recurrence.affine import scan_affine


class Marginals(NamedTuple):
    """Means ``(T, D)``, Cholesky factors ``(T, D, D)``, and ``Cov(x_{t+1}, x_t)``, ``(T-1, D, D)``."""

    means: Float[Array, "T D"]
    scale_trils: Float[Array, "T D D"]
    cross_covariances: Float[Array, "S D D"]


def chain_gaussians(initial: Gaussian, dynamics: AffineGaussian, num_steps: int, *, method: str = "auto") -> Gaussian:
    """Each step's marginal as a :class:`Gaussian` with a leading time axis; its roots stand for covariances only."""
    if resolve_method(method, LINEAR_GAUSSIAN_METHODS) == "parallel":
        steps = _each_row(dynamics, num_steps)
        size = initial.mean.shape[0]
        start = AffineGaussian(jnp.zeros((size, size), initial.mean.dtype), initial.mean, square(initial.root))
        kernels = scan_kernels(prepend(start, steps._replace(root=square(steps.root))))
        return Gaussian(kernels.bias, kernels.root)
    constant, varying = split_time(dynamics)
    start = Gaussian(initial.mean, square(initial.root))

    def step(gaussian, row):
        gaussian = predict(gaussian, join_time(constant, row))
        return gaussian, gaussian

    return prepend(start, lax.scan(step, start, varying, length=num_steps - 1)[1])


def _each_row(dynamics, num_steps):
    shapes = (dynamics.weights.shape[-2:], dynamics.bias.shape[-1:], dynamics.root.shape[-2:])
    return AffineGaussian(
        *(jnp.broadcast_to(array, (num_steps - 1,) + shape) for array, shape in zip(dynamics, shapes, strict=True))
    )


def chain_marginals(initial: Gaussian, dynamics: AffineGaussian, num_steps: int, *, method: str = "auto") -> Marginals:
    """Marginal of each step and lag-one covariances.

    Args:
        initial: of the first step.
        dynamics: fields constant or with ``num_steps - 1`` rows.
        num_steps: number of steps ``T``.
        method: ``"auto"``, ``"sequential"`` or ``"parallel"``.
    """
    gaussians = chain_gaussians(initial, dynamics, num_steps, method=method)
    lagged = each_step(lambda step, root: (step.weights @ root) @ root.T, dynamics, gaussians.root[:-1])
    return Marginals(gaussians.mean, lower_root(gaussians.root, initial.mean.shape[0]), lagged)


def simulate_chain(
    key,
    initial: Gaussian,
    dynamics: AffineGaussian,
    num_steps: int,
    *,
    values: Float[Array, "T D"] | None = None,
    known: Bool[Array, " T"] | None = None,
    method: str = "auto",
) -> Float[Array, "T D"]:
    """Draw a trajectory, a differentiable function of the parameters.

    Args:
        key: random key.
        initial: of the first step.
        dynamics: fields constant or with ``num_steps - 1`` rows.
        num_steps: number of steps ``T``.
        values: trajectory to keep where ``known``. A step that is drawn depends on the step before it alone, so
            the known steps must come first.
        known: True = keep, ``(T,)``.
        method: both methods use the same random numbers.
    """
    first_noise, noise = chain_noise(key, initial, dynamics, num_steps)
    return chain_from_noise(first_noise, noise, initial, dynamics, values=values, known=known, method=method)


def chain_noise(key, initial: Gaussian, dynamics: AffineGaussian, num_steps: int):
    """Standard normal variates that drive a chain: of its first step and of the others, one row each."""
    first_key, rest_key = random.split(key)
    first = random.normal(first_key, initial.root.shape[-1:], initial.mean.dtype)
    return first, random.normal(rest_key, (num_steps - 1, dynamics.root.shape[-1]), initial.mean.dtype)


def chain_from_noise(first_noise, noise, initial, dynamics, *, values=None, known=None, method="auto"):
    """The trajectory that given variates drive; see :func:`simulate_chain`."""
    first = initial.mean + initial.root @ first_noise
    kept = None
    if known is not None:
        first = jnp.where(known[0], values[0], first)
        kept = (values[1:], known[1:])

    def move(step, noise, kept=None):
        weights, offset = step.weights, step.bias + step.root @ noise
        if kept is None:
            return weights, offset
        return jnp.where(kept[1], 0, weights), jnp.where(kept[1], kept[0], offset)

    if resolve_method(method, LINEAR_GAUSSIAN_METHODS) == "parallel":
        return scan_affine(
            *prepend((jnp.zeros_like(initial.root @ initial.root.T), first), each_step(move, dynamics, noise, kept))
        )
    constant, varying = split_time(dynamics)

    def step(previous, inputs):
        row, noise, kept = inputs
        weights, offset = move(join_time(constant, row), noise, kept)
        current = weights @ previous + offset
        return current, current

    return prepend(first, lax.scan(step, first, (varying, noise, kept))[1])


def chain_log_prob_steps(
    initial: Gaussian, dynamics: AffineGaussian, trajectory: Float[Array, "T D"]
) -> Float[Array, " T"]:
    """``log p(x_t | x_{t-1})`` for every step, ``(T,)``."""

    def density(step, before, after):
        return normal_log_density(after, Gaussian(step.weights @ before + step.bias, step.root))

    rest = each_step(density, dynamics, trajectory[:-1], trajectory[1:])
    return prepend(normal_log_density(trajectory[0], initial), rest)


def chain_left_out(initial: Gaussian, dynamics: AffineGaussian, trajectory: Float[Array, "T D"]) -> Float[Array, " T"]:
    """``log p(x_t | all other steps)``, which are its two neighbours, for every step, ``(T,)``."""
    size = trajectory.shape[1]

    def from_the_past(step, before):
        return Gaussian(step.weights @ before + step.bias, step.root)

    predicted = prepend(initial, each_step(from_the_past, dynamics, trajectory[:-1]))

    def density(step, value, mean, root, after):
        cavity, _ = observe(Gaussian(mean, root), step, after)
        return normal_log_density(value, Gaussian(cavity.mean, lower_root(cavity.root, size)))

    steps = each_step(density, dynamics, trajectory[:-1], predicted.mean[:-1], predicted.root[:-1], trajectory[1:])
    last = normal_log_density(trajectory[-1], Gaussian(predicted.mean[-1], predicted.root[-1]))
    return jnp.append(steps, last)


def chain_entropy(initial: Gaussian, dynamics: AffineGaussian, num_steps: int) -> Float[Array, ""]:
    """Differential entropy of the whole trajectory, in nats."""
    roots = _each_row(dynamics, num_steps).root
    log_scales = log_determinant(initial.root) + jnp.log(jnp.diagonal(roots, axis1=-2, axis2=-1)).sum()
    return log_scales + 0.5 * num_steps * initial.mean.shape[0] * (1 + LOG_TWO_PI)


def chain_divergence(
    initial: Gaussian, dynamics: AffineGaussian, other_initial: Gaussian, other_dynamics: AffineGaussian, num_steps: int
) -> Float[Array, ""]:
    """Kullback-Leibler divergence of one chain from another, ``E[log p - log q]`` under the first, in nats.

    The sum over steps of the divergence of the conditional laws, averaged over the first chain's marginals; either
    chain may be constant or time-varying.
    """
    gaussians = chain_gaussians(initial, dynamics, num_steps)
    start = _normal_divergence(initial.root, other_initial.root, initial.mean - other_initial.mean)

    def divergence(step, other, mean, root):
        weights = step.weights - other.weights
        drift = weights @ mean + step.bias - other.bias
        spread = _squares(solve_lower(other.root, weights @ root))
        return _normal_divergence(step.root, other.root, drift) + 0.5 * spread

    rows = _each_row(other_dynamics, num_steps)
    return start + each_step(divergence, dynamics, rows, gaussians.mean[:-1], gaussians.root[:-1]).sum()


def _normal_divergence(root, other_root, difference):
    quadratic = _squares(solve_lower(other_root, root)) + _squares(solve_lower(other_root, difference))
    return 0.5 * (quadratic - root.shape[0]) + log_determinant(other_root) - log_determinant(root)


def _squares(array):
    return (array * array).sum()
