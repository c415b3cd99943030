"""Mistakes in cluster processes are named when they are made, not after a run."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import tsppl.distributions as tsd

SIZE = dist.Gamma(4.0, 0.5)
WINDOW = (0.0, 10.0)


def spikes(probs=0.5, widths=0.1, warps=None):
    return tsd.SequenceCluster(
        jnp.ones(1), jnp.full((1, 2), probs), jnp.array([[0.0, 0.3]]), jnp.full((1, 2), widths), warps=warps
    )


MISTAKES = {
    "negative event rate": (
        lambda: tsd.NeymanScott(-1.0, SIZE, tsd.GaussianCluster(0.3), 0.5, WINDOW),
        "event_rate is -1",
    ),
    "negative background": (
        lambda: tsd.NeymanScott(1.0, SIZE, tsd.GaussianCluster(0.3), -0.5, WINDOW),
        "background_rate is -0.5",
    ),
    "negative scale": (lambda: tsd.GaussianCluster(-0.3), "scale has the entry -0.3"),
    "negative widths": (lambda: spikes(widths=-0.1), "widths has the entry -0.1"),
    "negative warp": (lambda: spikes(warps=jnp.array([-1.0, 1.0])), "warps has the entry -1.0"),
    "rows that do not sum to one": (lambda: spikes(probs=1.0), "neuron_probs must be probabilities.*2 to 2"),
}


@pytest.mark.smoke
@pytest.mark.parametrize("name", MISTAKES)
def test_parameters_that_cannot_be(name):
    make, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[1.0, 0.0], [2.0, 2.0]], "point 1 has neuron 2; neurons are whole numbers from 0 to 1"),
        ([[0.0, 1.5]], "point 0 has neuron 1.5"),
        ([[1.0, 0.0], [np.nan, 0.0]], "point 1 is NaN"),
    ],
)
def test_points_that_cannot_be(points, message):
    process = tsd.NeymanScott(0.2, SIZE, spikes(), 0.5, WINDOW)
    with pytest.raises(ValueError, match=message):
        process.sample("x", jnp.array(points))


def test_parameters_may_be_traced_and_times_whole():
    def density(scale, rate):
        process = tsd.NeymanScott(rate, SIZE, tsd.GaussianCluster(scale), rate, WINDOW)
        return process.log_joint(jnp.array([0, 0]), jnp.array([1.0, 1.2]))

    assert np.isfinite(jax.jit(jax.grad(density))(0.3, 0.5))
    process = tsd.NeymanScott(0.2, SIZE, tsd.GaussianCluster(0.3), 0.5, WINDOW)
    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as trace:
        process.sample("x", jnp.array([1, 2, 2]))
    assert jnp.issubdtype(trace["x"]["value"].dtype, jnp.floating)


SINGLE = """
    import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, tsppl.distributions as tsd
    from tsppl.inference import LabelGibbs

    offsets = jnp.array([[0.0, 0.3, 0.6]])
    cluster = tsd.SequenceCluster(jnp.ones(1), jnp.full((1, 3), 1 / 3), offsets, jnp.full((1, 3), 0.1))
    process = tsd.NeymanScott(0.2, dist.Gamma(4.0, 0.5), cluster, 0.5, (0.0, 10.0))

    def model(x):
        process.sample("x", x)

    kernel = numpyro.infer.Gibbs([(LabelGibbs(model, "x"), ["x_labels"])])
    mcmc = numpyro.infer.MCMC(kernel, num_warmup=1, num_samples=1, progress_bar=False)
    mcmc.run(jax.random.key(0), process.simulate(jax.random.key(0)).points)
"""


@pytest.mark.slow
def test_process_in_single_precision_made_outside_of_the_model_is_accepted():
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SINGLE)],
        env=os.environ | {"JAX_ENABLE_X64": "0", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-500:]
