"""Poisson processes against closed forms, their draws against their densities, and residuals of every member."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from matplotlib.path import Path
from numpyro import handlers
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.util import log_density
from scipy import integrate, stats
from scipy.special import gammaln

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tsppl.points.clusters.gaussian_mass import correlated_normal_mass

EDGES, RATES = np.array([0.0, 1.0, 1.5, 4.0]), np.array([2.0, 8.0, 0.5])
GRID = (np.array([0.0, 1.0, 3.0]), np.array([-1.0, 0.5, 1.0, 2.0]))
CELLS = np.array([[1.0, 4.0, 0.0], [3.0, 0.2, 6.0]])
CORNERS = np.array([[0.0, 0.0], [3.0, 0.5], [1.5, 1.0], [2.5, 3.0], [0.5, 2.0]])
EVERYWHERE = np.array([-np.inf, np.inf])


def ramp(slope, time):
    return 1.0 + slope * time


def hill(place):
    return 2.0 - (place[0] - 0.3) ** 2 - place[0] * place[1]


MEMBERS = {
    "homogeneous": tsd.PoissonProcess(3.0, (1.0, 5.0)),
    "box": tsd.PoissonProcess(3.0, ((0.0, -1.0), (1.0, 1.5))),
    "polygon": tsd.PoissonProcess(2.0, tsd.Polygon(CORNERS)),
    "polygon and time": tsd.PoissonProcess(2.0, tsd.Polygon(CORNERS, times=(1.0, 2.0))),
    "cells in time": tsd.PiecewisePoissonProcess(RATES, EDGES),
    "cells in space": tsd.PiecewisePoissonProcess(CELLS, GRID),
    "function of time": tsd.InhomogeneousPoissonProcess(jax.tree_util.Partial(ramp, 0.5), (0.0, 3.0)),
    "function of space": tsd.InhomogeneousPoissonProcess(hill, ((-1.0, 0.0), (1.0, 2.0)), num_panels=4),
}


def test_points_expected_have_their_closed_forms():
    """In all and on a part of the window, with infinite ends, beyond the window, and on nothing."""
    cells, space, wave = MEMBERS["cells in time"], MEMBERS["cells in space"], MEMBERS["function of time"]
    expected = [
        (MEMBERS["homogeneous"], [12.0, 12.0, 3.0 * 1.5, 0.0], [EVERYWHERE, (2.0, 3.5), (6.0, 7.0)]),
        (cells, [7.25, 7.25, 0.5 * 2.0 + 0.2 * 8.0, 0.0], [EVERYWHERE, (0.5, 1.2), (5.0, 6.0)]),
        (space, [24.7, 24.7, 4.0 * 0.25 + 0.2 * 0.5 * 0.5, 0.0], [
            np.stack([EVERYWHERE] * 2, 1), ((0.5, 0.5), (1.5, 1.0)), ((0.0, 3.0), (1.0, 4.0)),
        ]),
        (wave, [2 * np.e * np.expm1(1.5), 2 * np.e * np.expm1(1.5), 2 * (np.exp(2.0) - np.exp(1.25)), 0.0], [
            EVERYWHERE, (0.5, 2.0), (-2.0, -1.0),
        ]),
    ]  # fmt: skip
    for process, wanted, windows in expected:
        found = [process.compensator()] + [process.compensator(jnp.array(window)) for window in windows]
        assert_allclose(jnp.array(found), np.array(wanted), rtol=1e-12, atol=1e-12)


def test_quadrature_errs_as_stated():
    """Exact for a polynomial of degree 15; below 1e-12 for waves as long as a panel; and in two dimensions."""
    power = tsd.InhomogeneousPoissonProcess(lambda time: 15 * jnp.log(time), (0.0, 2.0), num_panels=1)
    assert_allclose(power.compensator(), 2.0**16 / 16, rtol=1e-13)
    wave = tsd.InhomogeneousPoissonProcess(lambda time: jnp.sin(8 * time), (0.0, np.pi), num_panels=26)
    assert_allclose(wave.compensator(), np.pi * np.i0(1.0), rtol=1e-12)
    found = MEMBERS["function of space"].compensator(jnp.array([[-0.5, -1.0], [0.7, 1.5]]))
    wanted = integrate.dblquad(lambda y, x: np.exp(2 - (x - 0.3) ** 2 - x * y), -0.5, 0.7, 0.0, 1.5, epsabs=1e-13)[0]
    assert_allclose(found, wanted, rtol=1e-12)


def test_the_density_is_that_of_its_sites():
    """Written out, as the sum of sites, and outside of the window; the order of points does not matter."""
    points = np.array([0.5, 1.2, 1.3, 3.0])
    process = MEMBERS["cells in time"]
    wanted = np.log([2.0, 8.0, 8.0, 0.5]).sum() - 7.25 - gammaln(5)
    assert_allclose(process.log_prob(points), wanted)
    assert_allclose(process.log_prob(points[::-1]), wanted)
    assert_allclose(process.log_prob(points[1:3], jnp.array([1.1, 2.0])), 2 * np.log(8.0) - 3.45 - np.log(2))
    assert process.log_prob(np.array([5.0])) == process.log_prob(points, jnp.array([0.0, 2.0])) == -np.inf
    found, trace = log_density(lambda points: process.sample("x", points), (points,), {}, {})
    assert list(trace) == ["x_count", "x"]
    assert_allclose(found, wanted)
    assert_allclose(
        process.points(4).log_prob(np.stack([points, points])),
        np.full(2, wanted + 7.25 - 4 * np.log(7.25) + gammaln(5)),
    )
    drawn = handlers.trace(handlers.seed(lambda: process.sample("x"), 0)).get_trace()
    assert drawn["x"]["value"].shape == (int(drawn["x_count"]["value"]),)
    with pytest.raises(ValueError, match="pass num_points="):
        jax.jit(lambda key: handlers.seed(lambda: process.sample("x"), key)())(random.key(0))


def test_patterns_may_be_empty():
    for process in (tsd.PiecewisePoissonProcess(CELLS, GRID), MEMBERS["homogeneous"], MEMBERS["polygon and time"]):
        few = process.thinned(1e-9)
        empty = few.simulate(random.key(0))
        assert empty.shape == (0, *process.point_shape)
        assert_allclose(few.log_prob(empty), -few.compensator())
        assert few.residuals(empty).shape == (0,)


def gamma_model(points):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    function = jax.tree_util.Partial(lambda log_rate, slope, time: log_rate + slope * time, jnp.log(rate), slope)
    tsd.InhomogeneousPoissonProcess(function, (0.0, 3.0), num_panels=4).sample("x", points)


@pytest.mark.slow
def test_nuts_and_svi_learn_rates():
    """Against a grid over both parameters."""
    points = np.array([0.2, 0.5, 1.0, 1.7, 1.8, 2.0, 2.2, 2.4, 2.5, 2.6, 2.8, 2.9])
    rates, slopes = np.meshgrid(np.linspace(0.01, 8, 400), np.linspace(-3, 3, 401), indexing="ij")
    expected = rates * np.expm1(3 * slopes) / np.where(slopes == 0, 1.0, slopes)
    expected[slopes == 0] = 3 * rates[slopes == 0]
    log_post = 12 * np.log(rates) + slopes * points.sum() - expected + np.log(rates) - rates - slopes**2 / 2
    weights = np.exp(log_post - log_post.max())
    means = [float((weights * values).sum() / weights.sum()) for values in (rates, slopes)]
    mcmc = MCMC(NUTS(gamma_model), num_warmup=300, num_samples=2000, progress_bar=False)
    mcmc.run(random.key(0), points)
    for name, mean in zip(("rate", "slope"), means, strict=True):
        draws = np.asarray(mcmc.get_samples()[name])
        batches = draws.reshape(20, -1).mean(1)
        assert abs(draws.mean() - mean) < 4.5 * batches.std(ddof=1) / np.sqrt(20), name
    guide = AutoNormal(gamma_model)
    result = SVI(gamma_model, guide, numpyro.optim.Adam(0.02), Trace_ELBO(8)).run(
        random.key(1), 1500, points, progress_bar=False
    )
    assert abs(float(guide.median(result.params)["slope"]) - means[1]) < 0.15


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "cells in time" else [pytest.mark.slow]) for name in MEMBERS]
)
def test_draws_have_uniform_residuals(name):
    """Rescaled points over their number expected are uniform; counts are Poisson; and so for a part of the window."""
    process = MEMBERS[name]
    total = float(process.compensator())
    counts = np.asarray(process.count().sample(random.key(0), (400,)))
    points = jax.jit(jax.vmap(process.sample_point))(random.split(random.key(1), int(counts.sum())))
    rescaled = np.asarray(jax.jit(process.rescaled)(points)) / total
    assert (np.diff(rescaled) >= 0).all()
    assert stats.kstest(rescaled, "uniform").pvalue > 1e-3
    assert stats.kstest(np.diff(rescaled * counts.sum(), prepend=0.0), "expon").pvalue > 1e-3
    low, high = (np.asarray(end, float) for end in (process.window.bounds if "polygon" in name else process.window))
    part = jnp.stack([low + 0.3 * (high - low), low + 0.8 * (high - low)])
    inside = np.all(((points >= part[0]) & (points <= part[1])).reshape(len(points), -1), axis=1)
    some, expected = points[inside], float(process.compensator(part))
    assert stats.binomtest(int(inside.sum()), len(points), expected / total).pvalue > 1e-3
    assert stats.kstest(process.rescaled(some, part) / expected, "uniform").pvalue > 1e-3
    pattern = process.simulate(random.key(2))
    assert pattern.shape[1:] == process.point_shape
    assert bool(jnp.isfinite(process.log_prob(pattern)))


def test_a_pattern_goes_on_from_its_last_point():
    process = tsd.PoissonProcess(50.0, (0.0, 10.0))
    points = jnp.array([0.5, 2.0])
    longer = process.sample_given_history(random.key(0), points, 6.0)
    assert_allclose(longer[:2], points)
    assert 2.0 < longer[2] < 2.3
    assert 5.7 < longer[-1] <= 6.0
    assert abs(len(longer) - 202) < 4.5 * np.sqrt(200)
    later = process.sample_given_history(random.key(0), points, 6.0, since=5.0)
    assert later[2] > 5.0


def test_processes_are_pytrees():
    """Functions with parameters pass through jit without compiling anew; gradients reach them."""
    num_traced = 0

    @jax.jit
    def expected(process):
        nonlocal num_traced
        num_traced += 1
        return process.thinned(0.5).compensator()

    def make(slope):
        return tsd.InhomogeneousPoissonProcess(partial(ramp, slope), (0.0, 3.0))

    found = [expected(make(slope)) for slope in (0.5, 0.25)]
    assert_allclose(jnp.array(found), np.e * np.array([np.expm1(1.5), 2 * np.expm1(0.75)]))
    assert num_traced == 1
    found = jax.grad(lambda slope: make(slope).log_prob(jnp.array([0.5, 2.0])))(0.5)
    wanted = 2.5 - np.e * (3 * np.exp(1.5) / 0.5 - np.expm1(1.5) / 0.25)
    assert_allclose(found, wanted, rtol=1e-9)
    for process in (MEMBERS["cells in space"], MEMBERS["polygon and time"]):
        assert_allclose(jax.jit(lambda process: process.thinned(0.5).compensator())(process), process.compensator() / 2)


def test_polygons_know_their_area_and_what_is_inside():
    """Area by the shoelace formula, overlaps with boxes and insides by a fine grid, either way round."""
    polygon = tsd.Polygon(CORNERS)
    x, y = CORNERS.T
    assert_allclose(polygon.volume, abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
    axes = [(np.arange(600) + 0.5017) / 600 * 3.0] * 2
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    inside = np.asarray(jax.vmap(polygon.contains)(jnp.asarray(places)))
    assert (inside == Path(CORNERS).contains_points(places)).all()
    for box in [
        ((0.4, -1.0), (1.7, np.inf)),
        ((-np.inf, 0.7), (np.inf, 1.6)),
        ((1.0, 0.8), (2.2, 2.4)),
        ((4, 0), (5, 1)),
    ]:
        box = np.array(box, float)
        wanted = (inside & np.all((places >= box[0]) & (places <= box[1]), 1)).sum() * (3 / 600) ** 2
        assert_allclose(tsd.Polygon(CORNERS[::-1]).overlap(box), wanted, atol=0.01)
        whole = np.concatenate([np.array([[0.5], [9.0]]), box], 1)
        assert_allclose(tsd.Polygon(CORNERS, times=(0.0, 2.0)).overlap(whole), 1.5 * polygon.overlap(box))
    closed = tsd.Polygon(np.concatenate([CORNERS, CORNERS[:1]]))
    assert closed.vertices.shape == (5, 2)


class Ring:
    """As Shapely has it."""

    def __init__(self, coords):
        self.coords = coords


class Shape:
    """As Shapely has it."""

    def __init__(self, exterior, interiors=()):
        self.exterior, self.interiors = Ring(exterior), [Ring(one) for one in interiors]


def test_polygons_of_shapely_are_windows():
    process = tsd.PoissonProcess(2.0, Shape([*map(tuple, CORNERS), tuple(CORNERS[0])]))
    assert_allclose(process.compensator(), MEMBERS["polygon"].compensator())
    with pytest.raises(NotImplementedError, match="holes"):
        tsd.Polygon(Shape(CORNERS, [CORNERS / 2]))


def test_the_mass_of_a_correlated_gaussian_by_integration():
    mean, root = np.array([0.3, -0.5]), np.array([[0.5, 0.0], [-2.0, 0.1]])
    boxes = [((-0.2, -np.inf), (0.6, np.inf)), ((-np.inf, -1.0), (0.4, 1.0)), ((0.0, -2.0), (np.inf, np.inf))]
    for box in boxes:
        (left, below), (right, above) = box = np.array(box)

        def slice_mass(u, below=below, above=above):
            ends = (np.array([below, above]) - mean[1] - root[1, 0] * u) / root[1, 1]
            return stats.norm.pdf(u) * np.diff(stats.norm.cdf(ends))[0]

        ends = np.clip((np.array([left, right]) - mean[0]) / root[0, 0], -10, 10)
        wanted = integrate.quad(slice_mass, *ends, points=np.linspace(*ends, 50)[1:-1], epsabs=1e-13, limit=400)[0]
        assert_allclose(correlated_normal_mass(mean, root, box), wanted, atol=1e-11)
    with pytest.raises(NotImplementedError, match="not in 3"):
        correlated_normal_mass(np.zeros(3), np.eye(3), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: tsd.PoissonProcess(np.ones(2), (0.0, 1.0)), ValueError, r"PiecewisePoissonProcess\(rates, edges\)"),
        (lambda: tsd.PoissonProcess(1.0, (1.0, 0.0)), ValueError, "is empty"),
        (lambda: tsd.PoissonProcess(1.0, (0.0, 1.0, 2.0)), ValueError, r"window has shape \(3,\)"),
        (lambda: tsd.PiecewisePoissonProcess(RATES, EDGES[:-1]), ValueError, r"rates has shape \(3,\) and edges \[\(3,\)"),
        (lambda: tsd.PiecewisePoissonProcess(RATES, EDGES[::-1]), ValueError, "do not increase"),
        (lambda: tsd.InhomogeneousPoissonProcess(2.0, (0.0, 1.0)), TypeError, "pass a function"),
        (lambda: tsd.InhomogeneousPoissonProcess(hill, tsd.Polygon(CORNERS)), NotImplementedError, "use a box"),
        (lambda: tsd.Polygon(CORNERS[:2]), ValueError, "at least three corners"),
        (lambda: tsd.Polygon(CORNERS[[0, 2, 1, 4, 3]]), ValueError, "cross"),
        (lambda: tsd.Polygon(CORNERS, times=1.0), ValueError, "times has shape"),
        (lambda: MEMBERS["box"].log_prob(np.ones(3)), ValueError, r"points has shape \(3,\); the shape \(N, 2\)"),
        (lambda: MEMBERS["homogeneous"].residuals(np.ones(3), (2.0, 3.0)), ValueError, "3 points are outside"),
        (
            lambda: MEMBERS["polygon"].log_prob(np.ones((1, 2)), tsd.Polygon(CORNERS)), NotImplementedError,
            "intervals and boxes, not in polygons",
        ),
        (lambda: tsd.PointProcess().sample("x"), NotImplementedError, "use numpyro.factor"),
    ],
)  # fmt: skip
def test_mistakes(make, error, message):
    with pytest.raises(error, match=message):
        make()
