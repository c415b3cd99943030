"""EM for linear-Gaussian state-space models (Shumway and Stoffer 1982), from roots of the smoothed covariances.

The M-step is three regressions: of the first step on a constant, of each step on the one before, of the observations
on the trajectory. The rows of a regression are the smoothed means, and the columns of a root of the smoothed joint
covariance, so that covariances are nowhere subtracted from one another.
"""

import copy

import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from tsppl.distributions.gaussians import gaussian_parameters
from tsppl.distributions.sequence import time_axis_of_mask
from tsppl.distributions.wrappers import leaf_of, rewrap
from tsppl.inference.expectation_maximization.arguments import refuse_batch
from tsppl.inference.expectation_maximization.ascent import climb
from tsppl.inference.expectation_maximization.emission_parameters import as_real, open_parameters, parameters, rebuild
from tsppl.inference.expectation_maximization.gaussian_regression import (
    complete,
    expected_log_density,
    maximize_regression,
    regression,
)
from tsppl.inference.expectation_maximization.maximization import (
    below,
    covariance_prior,
    is_conjugate,
    log_prior as noise_log_prior,
)


def expected_trajectory(distribution, value):
    """Log-likelihood summed over series, and the posterior of the trajectory as a chain."""
    return distribution.log_prob_steps(value).sum(), distribution.posterior_chain(value)


def linear_gaussian_names(distribution):
    """Names of the parameters of a :class:`~tsppl.distributions.LinearGaussianSSM`; ``noise_matrix`` is always held."""
    noises = [f"{noise}.{name}" for noise, _ in _REGRESSIONS for name in parameters(getattr(distribution, noise))]
    return tuple(matrix for _, matrix in _REGRESSIONS if matrix) + tuple(noises)


def _is_held(distribution, argument, fixed):
    own = [name for name in linear_gaussian_names(distribution) if name.startswith(argument + ".")]
    return argument in fixed or set(own) <= set(fixed)


def prepare_linear_gaussian(distribution, fixed):
    """The distribution with every parameter at its full shape, after checking that EM has an answer."""
    prepared = copy.copy(distribution)
    for noise_name, matrix_name in _REGRESSIONS:
        noise = getattr(distribution, noise_name)
        if not _is_held(distribution, noise_name, fixed):
            refuse_batch(noise_name, noise.batch_shape, 0, varies=noise_name in distribution.time_varying)
            if not isinstance(leaf_of(open_parameters(noise, ())), dist.Normal | dist.MultivariateNormal):
                raise NotImplementedError(
                    f"{noise_name} is not Normal or MultivariateNormal, which EM estimates: hold it with "
                    f"fixed=({noise_name!r},)"
                )
        if not noise.batch_shape:
            setattr(prepared, noise_name, open_parameters(noise, ()))
        if matrix_name is not None:
            matrix = as_real(getattr(distribution, matrix_name))
            setattr(prepared, matrix_name, matrix)
            if matrix_name not in fixed:
                batch = matrix.shape[: matrix.ndim - _matrix_ndim(distribution, matrix_name)]
                refuse_batch(matrix_name, batch, 0, varies=matrix_name in distribution.time_varying)
                _refuse_varying_noise(distribution, noise_name, matrix_name)
    return prepared


def _matrix_ndim(distribution, name):
    return 1 if name == "emission_matrix" and distribution.event_dim == 1 else 2


def _refuse_varying_noise(distribution, noise_name, matrix_name):
    batches = {noise_name: getattr(distribution, noise_name).batch_shape}
    if matrix_name == "transition_matrix" and distribution.noise_matrix is not None:
        batches["noise_matrix"] = distribution.noise_matrix.shape[:-2]
    for name, batch in batches.items():
        if batch:
            raise NotImplementedError(
                f"{matrix_name} is to be estimated, and {name} varies in time or has a batch (shape {batch}): hold "
                f"both with fixed=({matrix_name!r}, {noise_name!r})"
            )


def maximize_linear_gaussian(distribution, value, statistics, priors, fixed):
    """M-step of a linear-Gaussian state-space model."""
    updated = copy.copy(distribution)
    for noise_name, matrix_name in _REGRESSIONS:
        matrix_is_held = matrix_name is None or matrix_name in fixed
        if matrix_is_held and _is_held(distribution, noise_name, fixed):
            continue
        data = _ROWS[noise_name](distribution, value, statistics)
        noise, matrix = _maximize_block(distribution, data, noise_name, matrix_name, priors, fixed)
        setattr(updated, noise_name, noise)
        if not matrix_is_held:
            setattr(updated, matrix_name, matrix)
    return updated


def _maximize_block(distribution, data, noise_name, matrix_name, priors, fixed):
    """New noise and matrix from one regression, whose slopes are the change of the matrix."""
    noise = getattr(distribution, noise_name)
    leaf, size = leaf_of(noise), data.totals.shape[0]
    if isinstance(leaf, dist.Normal):
        spread_name, loc, spread = "scale", leaf.loc.reshape(size), leaf.scale.reshape(size)
    else:
        spread_name, (loc, spread) = "scale_tril", gaussian_parameters(noise)
    num_slopes = data.factor.shape[-1] - 1 - (size if data.factor.ndim == 2 else 1)
    coefficients = jnp.concatenate([jnp.zeros((size, num_slopes), loc.dtype), loc[:, None]], axis=1)
    noise_is_held = _is_held(distribution, noise_name, fixed)
    loc_is_free, spread_is_free = (
        not noise_is_held and f"{noise_name}.{name}" not in fixed for name in ("loc", spread_name)
    )
    is_free = (matrix_name not in fixed,) * num_slopes + (loc_is_free,)
    priors = {name: prior for name, prior in priors.items() if name.split(".")[0] in (noise_name, matrix_name)}
    conjugate = {f"{noise_name}.covariance_matrix": dist.InverseWishart} if spread_name == "scale_tril" else {}

    def unpack(coefficients, spread):
        matrix = _changed(distribution, matrix_name, coefficients[:, :-1])
        if noise_is_held:
            return noise, matrix
        found = {"loc": coefficients[:, -1], spread_name: spread}
        return rewrap(noise, rebuild(leaf, {n: a.reshape(getattr(leaf, n).shape) for n, a in found.items()})), matrix

    if all(is_conjugate(name, prior, conjugate) for name, prior in priors.items()):
        prior = covariance_prior(priors.get(f"{noise_name}.covariance_matrix"), spread)
        found = maximize_regression(
            data, coefficients, spread, free=is_free, spread_is_free=spread_is_free, prior=prior
        )
        return unpack(*found)

    def of_values(values):
        return jnp.where(jnp.array(is_free), values["coefficients"], coefficients), values.get("spread", spread)

    def objective(values):
        new_noise, matrix = unpack(*of_values(values))
        total = expected_log_density(data, *of_values(values)) + noise_log_prior(new_noise, below(noise_name, priors))
        return total + priors[matrix_name].log_prob(matrix).sum() if matrix_name in priors else total

    spread_limit = constraints.positive if spread_name == "scale" else constraints.lower_cholesky
    values = {"coefficients": coefficients} | ({"spread": spread} if spread_is_free else {})
    return unpack(*of_values(climb(objective, values, {"coefficients": constraints.real, "spread": spread_limit})))


def _changed(distribution, matrix_name, slopes):
    """The matrix after a change; the transition matrix changes only where noise reaches."""
    if matrix_name is None:
        return None
    matrix = getattr(distribution, matrix_name)
    if matrix_name == "transition_matrix" and distribution.noise_matrix is not None:
        slopes = distribution.noise_matrix @ slopes
    return matrix + (slopes[0] if _matrix_ndim(distribution, matrix_name) == 1 else slopes)


def _initial_rows(distribution, value, statistics):
    means, roots = statistics.means[..., :1, :], statistics.roots[..., :1, :, :]
    return _collect(means[..., :0], means, [(roots[..., :0, :], roots)], jnp.ones(means.shape[:-1], means.dtype))


def _transition_rows(distribution, value, statistics):
    """Regression of the noise, as it is under the current matrix, on the step before."""
    means, roots = statistics.means, statistics.roots[..., :-1, :, :]
    matrix = _at_steps(distribution.transition_matrix, "transition_matrix" in distribution.time_varying)
    moved = means[..., 1:, :] - _times(matrix, means[..., :-1, :])
    changes, noise = (statistics.weights - matrix) @ roots, statistics.kernel_roots
    if distribution.noise_matrix is not None:
        into = jnp.linalg.pinv(_at_steps(distribution.noise_matrix, "noise_matrix" in distribution.time_varying))
        moved, changes, noise = _times(into, moved), into @ changes, into @ noise
    weights = jnp.ones(moved.shape[:-1], moved.dtype)
    if distribution.lengths is not None:
        arrivals = jnp.arange(1, distribution.num_steps)
        weights = jnp.where(arrivals < distribution.lengths[..., None], weights, 0.0)
    unmoved = jnp.zeros(roots.shape[:-1] + noise.shape[-1:], roots.dtype)
    return _collect(means[..., :-1, :], moved, [(roots, changes), (unmoved, noise)], weights)


def _emission_rows(distribution, value, statistics):
    """Regression of the residuals under the current matrix on the trajectory."""
    means, roots = statistics.means, statistics.roots
    value, observed = distribution.as_channels(value)
    value = value if observed is None else jnp.where(observed, value, 0)
    matrix = distribution.emission_matrix
    matrix = matrix[..., None, :] if distribution.event_dim == 1 else matrix
    matrix = _at_steps(matrix, "emission_matrix" in distribution.time_varying)
    predicted, slopes = _times(matrix, means), matrix @ roots
    value = jnp.broadcast_to(value, predicted.shape)
    weights = jnp.ones(predicted.shape[:-1], means.dtype)
    if observed is None:
        return _collect(means, value - predicted, [(roots, -slopes)], weights)
    weights = jnp.where(observed.any(-1), weights, 0.0)
    if not _mask_is_elementwise(distribution):
        return _collect(means, value - predicted, [(roots, -slopes)], weights)
    if isinstance(leaf_of(distribution.emission_noise), dist.Normal):
        weights = jnp.where(observed, jnp.ones_like(predicted), 0.0)
        return _collect(means, value - predicted, [(roots, -slopes)], weights)
    loc, scale_tril = gaussian_parameters(distribution.emission_noise)
    flat = [
        array.reshape(-1, array.shape[-1])
        for array in (predicted + loc, value, jnp.broadcast_to(observed, value.shape))
    ]
    completed, kept = complete(flat[0], scale_tril, *flat[1:])
    completed, kept = completed.reshape(value.shape), kept.reshape(value.shape + value.shape[-1:])
    unmoved = jnp.zeros(roots.shape[:-1] + value.shape[-1:], roots.dtype)
    columns = [(roots, kept @ slopes - slopes), (unmoved, kept @ scale_tril)]
    return _collect(means, completed - predicted, columns, weights)


def _mask_is_elementwise(distribution):
    mask = distribution.observed_mask
    if mask is None or distribution.event_dim == 1:
        return False
    return time_axis_of_mask(mask.shape, distribution.event_shape) == mask.ndim - 2


def _at_steps(array, varies):
    """A matrix, or a batch of matrices, with a time axis."""
    return array if varies else array[..., None, :, :]


def _times(matrix, vector):
    return jnp.einsum("...ij,...j->...i", matrix, vector)


def _collect(inputs, outputs, columns, weights):
    """The regression of outputs on inputs and a one, with columns of a root of their joint covariance as further rows.

    Args:
        inputs: means ``(..., T, p)``.
        outputs: means ``(..., T, N)``.
        columns: pairs ``(..., T, p, M)``, ``(..., T, N, M)``.
        weights: ``(..., T)``, or ``(..., T, N)`` for each output.
    """
    one = jnp.ones_like(outputs[..., :1])
    rows_in, rows_out = [jnp.concatenate([inputs, one], axis=-1)[..., None, :]], [outputs[..., None, :]]
    for into, out in columns:
        into = jnp.concatenate([into, jnp.zeros_like(into[..., :1, :] if into.shape[-2] else out[..., :1, :])], axis=-2)
        rows_in.append(jnp.swapaxes(into, -1, -2))
        rows_out.append(jnp.swapaxes(out, -1, -2))
    rows_in, rows_out = jnp.concatenate(rows_in, axis=-2), jnp.concatenate(rows_out, axis=-2)
    step_ndim = outputs.ndim - 1
    row_weights = jnp.broadcast_to(jnp.expand_dims(weights, step_ndim), rows_out.shape[:-1] + weights.shape[step_ndim:])
    return regression(
        rows_in.reshape(-1, rows_in.shape[-1]),
        rows_out.reshape(-1, rows_out.shape[-1]),
        row_weights.reshape((-1,) + weights.shape[step_ndim:]),
        weights.sum(tuple(range(step_ndim))),
    )


_REGRESSIONS = (("initial", None), ("transition_noise", "transition_matrix"), ("emission_noise", "emission_matrix"))
_ROWS = {"initial": _initial_rows, "transition_noise": _transition_rows, "emission_noise": _emission_rows}


def linear_gaussian_log_prior(distribution, priors):
    """Log prior density of all parameters."""
    total = 0.0
    for noise_name, matrix_name in _REGRESSIONS:
        total += noise_log_prior(getattr(distribution, noise_name), below(noise_name, priors))
        if matrix_name in priors:
            total += priors[matrix_name].log_prob(getattr(distribution, matrix_name)).sum()
    return total
