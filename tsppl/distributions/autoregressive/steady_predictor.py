"""The steady-state Kalman predictor of a linear-Gaussian model as a low-rank autoregression, and the ranks it needs.

Once its covariances have settled, the filter predicts ``y_t`` by ``sum_l C Gamma^(l-1) A K y_{t-l}`` plus a constant, with
gain ``K`` and ``Gamma = A (I - K C)``: a tensor over lags of low rank (Lee, Warrington, Glaser and Linderman 2023). Worked out
in NumPy in float64, whatever the dtype of the model.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import solve_discrete_are

from tsppl.distributions.gaussians import gaussian_parameters
from tsppl.distributions.shapes import is_concrete

LARGEST_RADIUS = 1 - 1e-6
STRETCH = 1024


class SteadyPredictor(NamedTuple):
    """``y_t = emission (Gamma^(l-1) gain) y_{t-l}`` summed over lags, plus ``bias``, plus noise of ``covariance``.

    Shapes: ``emission`` ``(..., N, D)``, ``gamma`` ``(..., D, D)``, ``gain`` (that is ``A K``) ``(..., D, N)``, ``mean``
    ``(..., D)`` (where the trajectory rests), ``offset`` ``(..., D)`` (what enters the predicted trajectory at each step
    beside the data), ``bias`` ``(..., N)`` of the emission, ``covariance`` ``(..., N, N)`` of the innovations.
    """

    emission: Any
    gamma: Any
    gain: Any
    mean: Any
    offset: Any
    bias: Any
    covariance: Any


class LowRankReport(NamedTuple):
    """What ``low_rank_report`` finds; with a batch of models every field has the batch in front.

    Attributes:
        eigenvalues: of ``Gamma``, complex ``(..., D)``, largest first.
        num_real: number of real eigenvalues.
        num_pairs: number of complex pairs.
        tucker_rank: ``num_real + 2 num_pairs`` suffices for a Tucker tensor.
        cp_rank: ``num_real + 3 num_pairs`` suffices for a CP tensor.
        truncation_error: largest sum over the lags left out of the absolute weights of one channel on another: as much
            as a channel that stays within 1 of its mean can add to a prediction.
    """

    eigenvalues: Any
    num_real: Any
    num_pairs: Any
    tucker_rank: Any
    cp_rank: Any
    truncation_error: Any


def low_rank_report(ssm, num_lags) -> LowRankReport:
    """Ranks and lags that a low-rank autoregression needs to predict like a linear-Gaussian model.

    Args:
        ssm: :class:`LinearGaussianSSM` in which nothing varies in time.
        num_lags: number of lags ``L`` that are kept.

    Returns:
        :class:`LowRankReport`. The error falls like the largest absolute eigenvalue to the power ``L``.

    Raises:
        ValueError: as :meth:`SALT.from_linear_gaussian`.

    Source: Lee, Warrington, Glaser and Linderman (NeurIPS 2023), on linear dynamical systems.

    >>> import jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> level = dist.Normal(jnp.zeros(1), 1.0).to_event(1)
    >>> walk = tsd.LinearGaussianSSM(level, jnp.eye(1), level, jnp.ones((1, 1)), level, num_steps=50)
    >>> report = tsd.low_rank_report(walk, 10)
    >>> report.eigenvalues.real.round(3).tolist(), int(report.cp_rank), float(report.truncation_error.round(6))
    ([0.382], 1, 6.6e-05)
    """
    predictor = steady_predictor(ssm)
    eigenvalues = np.linalg.eigvals(predictor.gamma).astype(complex)
    order = np.argsort(-np.abs(eigenvalues), axis=-1, kind="stable")
    eigenvalues = np.take_along_axis(eigenvalues, order, axis=-1)
    num_real, num_pairs = (eigenvalues.imag == 0).sum(-1), (eigenvalues.imag > 0).sum(-1)
    error = np.vectorize(_left_out_by, signature="(n,d),(d,d),(d,n),()->()")(*predictor[:3], num_lags)
    return LowRankReport(
        eigenvalues, num_real, num_pairs, num_real + 2 * num_pairs, num_real + 3 * num_pairs, np.asarray(error)
    )


def _left_out_by(emission, gamma, gain, num_lags):
    """Largest entry of ``sum_{l > L} |C Gamma^(l-1) gain|``."""
    powers = _powers(gamma, STRETCH)
    stride = powers[-1] @ gamma
    total, state = np.zeros((emission.shape[0], gain.shape[1])), np.linalg.matrix_power(gamma, num_lags) @ gain
    while True:
        added = np.abs(emission @ powers @ state).sum(0)
        total, state = total + added, stride @ state
        if added.max() <= 1e-9 * total.max():
            return total.max()


def _powers(matrix, count):
    """``(..., count, D, D)``: the powers 0 to ``count - 1``."""
    powers = [np.broadcast_to(np.eye(matrix.shape[-1]), matrix.shape)]
    for _ in range(count - 1):
        powers.append(matrix @ powers[-1])
    return np.stack(powers, -3)


def factors_of_predictor(predictor, num_lags):
    """Tucker factors of the predictor's tensor: output ``(..., 1, N, D)``, input, lag and core, with one state.

    The powers of ``Gamma`` span at most ``D`` dimensions (Cayley and Hamilton), which their singular vectors find also
    where ``Gamma`` has no basis of eigenvectors.
    """
    emission, gamma, gain = predictor[:3]
    size = gamma.shape[-1]
    powers = _powers(gamma, num_lags)
    flat = powers.reshape(powers.shape[:-2] + (size**2,))
    left, values, right = np.linalg.svd(flat, full_matrices=False)
    rank = min(num_lags, size)
    lag = left[..., :rank] * values[..., None, :rank]
    core = np.moveaxis(right[..., :rank, :].reshape(right.shape[:-2] + (rank, size, size)), -3, -1)
    factors = emission, np.swapaxes(gain, -1, -2), lag, core
    return [
        np.expand_dims(factor, factor.ndim - core_ndim) for factor, core_ndim in zip(factors, (2, 2, 2, 3), strict=True)
    ]


def bias_of_predictor(predictor, num_lags):
    """Constant term ``(..., N)`` with the trajectory at its mean before the lags that are kept."""
    powers = _powers(predictor.gamma, num_lags)
    column = predictor.mean[..., None]
    before = np.linalg.matrix_power(predictor.gamma, num_lags) @ column
    trajectory = before + (powers @ predictor.offset[..., None, :, None]).sum(-3)
    return predictor.bias + (predictor.emission @ trajectory)[..., 0]


def steady_predictor(ssm) -> SteadyPredictor:
    """The predictor of a constant linear-Gaussian model once its filter has settled.

    Raises:
        ValueError: if an argument varies in time, is traced, if the series is scalar, or if the filter never settles.
    """
    if ssm.time_varying:
        raise ValueError(
            f"{ssm.time_varying[0]} varies in time, and a steady-state predictor needs constant arguments: build a "
            "LinearGaussianSSM without time_varying"
        )
    if ssm.event_dim != 2:
        raise ValueError(
            f"emission_noise has event shape {ssm.emission_noise.event_shape}: give the series one channel, "
            "emission_matrix (..., 1, D) and emission_noise of event (1,)"
        )
    offset, root = gaussian_parameters(ssm.transition_noise)
    bias, emission_root = gaussian_parameters(ssm.emission_noise)
    arrays = [ssm.transition_matrix, offset, root, ssm.emission_matrix, bias, emission_root]
    if ssm.noise_matrix is not None:
        arrays.append(ssm.noise_matrix)
    if not is_concrete(arrays):
        raise ValueError("the arguments of the LinearGaussianSSM are traced: build the predictor outside jit and grad")
    transition, offset, root, emission, bias, emission_root, *noise_matrix = (np.asarray(a, np.float64) for a in arrays)
    if noise_matrix:
        offset, root = (noise_matrix[0] @ offset[..., None])[..., 0], noise_matrix[0] @ root
    noise = root @ np.swapaxes(root, -1, -2)
    emission_noise = emission_root @ np.swapaxes(emission_root, -1, -2)
    gain, covariance = np.vectorize(_settled, signature="(d,d),(d,d),(n,d),(n,n)->(d,n),(n,n)")(
        transition, noise, emission, emission_noise
    )
    gamma = transition - gain @ emission
    # Least squares: dynamics with an eigenvalue of 1 have no mean, and rest where they are.
    mean = np.linalg.pinv(np.eye(transition.shape[-1]) - transition) @ offset[..., None]
    offset = offset - (gain @ bias[..., None])[..., 0]
    return SteadyPredictor(emission, gamma, gain, mean[..., 0], offset, bias, covariance)


def _settled(transition, noise, emission, emission_noise):
    """``A K`` and the covariance of the innovations, of one model."""
    refusal = (
        "the Kalman filter of this LinearGaussianSSM never settles, so it has no steady-state predictor: each part of the "
        "trajectory that does not die out must be seen by emission_matrix and be driven by transition_noise"
    )
    try:
        predicted = solve_discrete_are(transition.T, emission.T, noise, emission_noise)
    except np.linalg.LinAlgError as error:
        raise ValueError(f"{refusal} ({error})") from None
    covariance = emission @ predicted @ emission.T + emission_noise
    gain = np.linalg.solve(covariance, emission @ predicted @ transition.T).T
    radius = np.abs(np.linalg.eigvals(transition - gain @ emission)).max()
    if not radius <= LARGEST_RADIUS:
        raise ValueError(f"{refusal} (the largest eigenvalue of Gamma is {radius:.9g})")
    return gain, covariance
