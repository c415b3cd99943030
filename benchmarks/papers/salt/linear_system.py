"""A linear dynamical system as a low-rank autoregression: is the fit best at the ranks that theory predicts?

7 latent dimensions turn, and are seen in 10 noisy channels. The steady-state Kalman predictor is a tensor over lags: its
Tucker rank is 7, and its CP rank at most 7 plus one for each pair of complex eigenvalues. The tensor itself is approximated
at each rank, and SALT with one state is fitted to simulated series at each rank; errors are relative to the tensor's norm.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from _common import FACTORS, build, is_quick, print_table, weight_arrays
from jax import lax, random

import tsppl.distributions as tsd
from tsppl.inference import low_rank_factors
from tsppl.inference.expectation_maximization.low_rank_regression import (
    FIELDS,
    Factors,
    coefficients_of_states,
    maximize_low_rank_regression,
)

D, N, SERIES_LENGTH = 7, 10, 500
PROCESS_VARIANCE = 1e-2


def rotation(generator):
    """A random rotation of the latent space."""
    matrix = np.linalg.qr(generator.normal(size=(D, D)))[0]
    matrix[:, 0] *= np.linalg.det(matrix)
    return matrix


def linear_system(seed=0):
    """Dynamics that are a product of four rotations, and unit observation noise."""
    generator = np.random.default_rng(seed)
    turn = np.linalg.multi_dot([rotation(generator) for _ in range(4)])
    emission = generator.normal(size=(N, D))
    sizes = (D, 1.0), (D, PROCESS_VARIANCE**0.5), (N, 1.0)
    start, drift, noise = (dist.Normal(jnp.zeros(size), scale).to_event(1) for size, scale in sizes)
    return tsd.LinearGaussianSSM(start, jnp.asarray(turn), drift, jnp.asarray(emission), noise, num_steps=SERIES_LENGTH)


def relative_error(weights, truth):
    """Norm of the difference over the norm of the truth."""
    return float(jnp.linalg.norm((weights - truth).ravel()) / jnp.linalg.norm(truth.ravel()))


def approximation(weights, ranks):
    """Factors of the best approximation found: orthogonal iteration for Tucker, Gauss-Newton steps for CP."""
    return cp_approximation(weights, ranks) if isinstance(ranks, int) else low_rank_factors(weights, ranks)


def dense(factors):
    """The tensor of these factors."""
    chain, noise = (jnp.ones(1), jnp.ones((1, 1))), dist.Normal(jnp.zeros(N), 1.0).to_event(1)
    return build(factors, chain, noise, num_steps=100).weights


def cp_approximation(weights, rank, num_starts=2):
    """Factors of the best CP approximation from random starts, each with a state axis of one.

    Alternating least squares stalls near tensors of complex pairs; damped Gauss-Newton steps do not (Tomasi and Bro 2006). They
    act on the core of the Tucker form of the ranks of the system, which for its own predictor is exact.
    """
    tucker = low_rank_factors(weights, (D, D, D))
    scale = jnp.linalg.norm(tucker["core"])
    starts = 0.5 * random.normal(random.key(rank), (num_starts, 3 * D * rank))
    found = [_best_cp(start, tucker["core"][0] / scale) for start in starts]
    flat, _ = min(found, key=lambda pair: float(pair[1]))
    columns = scale ** (1 / 3) * flat.reshape(3, D, rank)
    return {name: tucker[name] @ column for name, column in zip(FACTORS, columns, strict=True)}


@jax.jit
def _best_cp(start, core):
    def residual(flat):
        return (jnp.einsum("ir,jr,kr->ijk", *flat.reshape(3, D, -1)) - core).ravel()

    def step(carry, _):
        flat, damping = carry
        now, slopes = residual(flat), jax.jacfwd(residual)(flat)
        curvature = slopes.T @ slopes + damping * jnp.eye(flat.size)
        moved = flat - jax.scipy.linalg.solve(curvature, slopes.T @ now, assume_a="pos")
        better = jnp.linalg.norm(residual(moved)) < jnp.linalg.norm(now)
        damping = jnp.clip(jnp.where(better, damping / 3, damping * 4), 1e-14, 1e3)
        return (jnp.where(better, moved, flat), damping), None

    (flat, _), _ = lax.scan(step, (start, 1e-2), length=200)
    return flat, jnp.linalg.norm(residual(flat))


def second_moments(series, num_lags):
    """Sums of products of rows ``[1, lags, outputs]`` over all steps that have their lags: all that a fit needs."""
    num_steps = series.shape[1]
    lags = [series[:, num_lags - 1 - lag : num_steps - 1 - lag] for lag in range(num_lags)]
    rows = jnp.concatenate([jnp.ones_like(series[:, num_lags:, :1]), *lags, series[:, num_lags:]], axis=-1)
    return jnp.einsum("sta,stb->ab", rows, rows)


def spread(coefficients, offset, products):
    """Mean products of the residuals."""
    residual = jnp.concatenate([-offset[:, None], -coefficients, jnp.eye(N)], axis=1)
    return residual @ products @ residual.T / products[0, 0]


def random_start(key, ranks, num_lags):
    """Random factors."""
    arrays = weight_arrays(ranks, 1, num_lags, N)
    keys = random.split(key, len(arrays))
    return {
        name: 0.3 * random.normal(own, array.shape) for own, (name, array) in zip(keys, arrays.items(), strict=True)
    }


def unrestricted(products):
    """Dense weights ``(1, L, N, N)`` of least squares."""
    gram, across = products[:-N, :-N], products[:-N, -N:]
    return jnp.linalg.solve(gram, across)[1:].reshape(1, -1, N, N).swapaxes(-1, -2)


@jax.jit
def fitted(products, arrays):
    """Coefficients, constant term and covariance of the regression from one start, as EM with one state finds them."""
    factors = Factors(**{field: arrays.get(name) for name, field in FIELDS.items()})
    free = tuple(field for name, field in FIELDS.items() if name in arrays) + ("offset",)

    def improve(carry, _):
        factors, offset, covariance = carry
        root = jnp.linalg.cholesky(covariance)[None]
        factors, offset = maximize_low_rank_regression(
            factors, offset, products[None], root, priors={}, free=free, num_sweeps=25
        )
        return (factors, offset, spread(coefficients_of_states(factors, 1)[0], offset[0], products)), None

    start = factors, jnp.zeros((1, N)), jnp.eye(N)
    (factors, offset, covariance), _ = lax.scan(improve, start, length=20)
    return coefficients_of_states(factors, 1)[0], offset[0], covariance


def mean_log_density(fit, products):
    """Nats per step of the regression."""
    coefficients, offset, covariance = fit
    found = spread(coefficients, offset, products)
    distances = jnp.trace(jnp.linalg.solve(covariance, found))
    return -0.5 * float(N * jnp.log(2 * jnp.pi) + jnp.linalg.slogdet(covariance)[1] + distances)


def rank_rows(system, num_lags, ranks, train, test, num_random):
    """One row for each rank: error of the best approximation found, of the best fit, and what the fit predicts worse.

    Of the fits to the training series, from random starts and from the approximation of least squares, the one of greatest
    likelihood there is taken; the last column names its start.
    """
    truth = tsd.SALT.from_linear_gaussian(system, num_lags).weights
    coefficients = truth[0].swapaxes(0, 1).reshape(N, -1)
    kalman = float(system.log_prob_steps(test)[:, num_lags:].mean())
    seen, unseen = second_moments(train, num_lags), second_moments(test, num_lags)
    for rank in ranks:
        starts = {"least squares": approximation(unrestricted(seen), rank)}
        for number, key in enumerate(random.split(random.key(1), num_random)):
            starts[f"random {number}"] = random_start(key, rank, num_lags)
        fits = {name: fitted(seen, start) for name, start in starts.items()}
        name, best = max(fits.items(), key=lambda pair: mean_log_density(pair[1], seen))
        errors = relative_error(dense(approximation(truth, rank)), truth), relative_error(best[0], coefficients)
        lost = kalman - mean_log_density(best, unseen)
        kind = f"CP {rank}" if isinstance(rank, int) else f"Tucker {rank[0]}"
        yield [kind, f"{errors[0]:.1e}", f"{errors[1]:.3f}", f"{lost:.4f}", name]


def truncation_table(system, num_lags):
    """How the part of the predictor beyond ``L`` lags falls; returns the predicted ranks in words."""
    reports = {lags: tsd.low_rank_report(system, lags) for lags in num_lags}
    report = reports[num_lags[0]]
    radius = abs(report.eigenvalues[0])
    rows = (
        [lags, f"{found.truncation_error:.1e}", f"{found.truncation_error / radius**lags:.2f}"]
        for lags, found in reports.items()
    )
    print_table(["lags L", "truncation error", f"error / {radius:.3f}^L"], rows)
    return (
        f"Eigenvalues of Gamma: {int(report.num_real)} real, {int(report.num_pairs)} pairs. Predicted: Tucker rank "
        f"{int(report.tucker_rank)}, CP rank at most {int(report.cp_rank)}.\n"
    )


def main():
    """Print how the truncation error falls, and the error against rank."""
    quick = is_quick(__doc__)
    system = linear_system()
    print(truncation_table(system, (5, 10, 15, 20, 30, 40, 50)))
    num_lags, num_train = (8, 10) if quick else (12, 60)
    series = system.expand([num_train + 20]).sample(random.key(0))
    ranks = (10, (7,) * 3) if quick else (*range(8, 12), *((rank,) * 3 for rank in range(5, 9)))
    print(f"{num_lags} lags, {num_train * SERIES_LENGTH:,} steps to fit:\n")
    columns = [
        "rank",
        "error of the best approximation",
        "error of the fit",
        "nats per step lost to Kalman",
        "best start",
    ]
    print_table(columns, rank_rows(system, num_lags, ranks, series[20:], series[:20], 1 if quick else 2))


if __name__ == "__main__":
    main()
