"""Runs that share one compiled program, and models of several sizes in one program."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import numpyro.util
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS

import tsppl
import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tsppl.inference import compile_once, run_in_chunks

COUNTS = jnp.array([1, 0, 2, 9, 11, 8, 1, 0])
ROOM = 3
FEW = {"num_warmup": 20, "num_samples": 20, "progress_bar": False}


def model(counts, num_states, num_seen):
    initial = numpyro.sample("initial", dist.Dirichlet(jnp.ones(ROOM)))
    rows = numpyro.sample("rows", tsd.sticky_dirichlet(ROOM, stickiness=2.0))
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.4).expand([ROOM]).to_event(1))
    initial, rows = (tsd.restrict_states(probs, num_states) for probs in (initial, rows))
    series = tsd.HiddenMarkov(initial, rows, dist.Poisson(rate), num_steps=len(COUNTS), lengths=num_seen)
    numpyro.sample("counts", series, obs=counts)


@pytest.fixture
def compilations():
    """Seconds of each program that has been compiled."""
    seconds = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seconds
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("num_states", [1, 2, 3])
def test_states_out_of_use_leave_the_model_of_those_in_use(num_states):
    """Density, terms and gradients; rows and rates of other states change nothing."""
    rng = np.random.default_rng(num_states)
    initial, rows = rng.dirichlet(np.ones(ROOM)), rng.dirichlet(np.ones(ROOM), ROOM)
    rate = jnp.array([1.0, 9.0, 3.0])

    def restricted(rows):
        arrays = (tsd.restrict_states(probs, num_states) for probs in (initial, rows))
        return tsd.HiddenMarkov(*arrays, dist.Poisson(rate), num_steps=len(COUNTS))

    def smaller(rows):
        few, first = rows[:num_states, :num_states], initial[:num_states]
        few = few / few.sum(-1, keepdims=True)
        return tsd.HiddenMarkov(first / first.sum(), few, dist.Poisson(rate[:num_states]), num_steps=len(COUNTS))

    one, other = restricted(rows), smaller(rows)
    assert_allclose(one.log_prob(COUNTS), other.log_prob(COUNTS))
    assert_allclose(one.log_prob_left_out(COUNTS), other.log_prob_left_out(COUNTS))
    assert one.latent_mode(COUNTS)["states"].tolist() == other.latent_mode(COUNTS)["states"].tolist()
    slopes = (jax.grad(lambda rows, make=make: make(rows).log_prob(COUNTS))(rows) for make in (restricted, smaller))
    assert_allclose(*slopes, atol=1e-12)


def test_a_restricted_dirichlet_is_the_smaller_dirichlet():
    whole = dist.Dirichlet(jnp.array([4.0, 2.0, 1.0])).sample(random.key(0), (4000,))
    found, expected = tsd.restrict_states(whole, 2), dist.Dirichlet(jnp.array([4.0, 2.0]))
    assert (found[:, 2] == 0).all()
    assert abs(found[:, :2].mean(0) - expected.mean).max() < 4.5 * np.sqrt(expected.variance[0] / 4000)
    assert found[:, 0].var() == pytest.approx(float(expected.variance[0]), rel=0.15)
    assert jnp.isfinite(tsd.restrict_states(jnp.array([0.0, 1.0]), 1)).all()


@pytest.mark.parametrize("num_states", [0, 4])
def test_numbers_of_states_out_of_range_are_named(num_states):
    with pytest.raises(ValueError, match=f"num_states is {num_states}; it must be from 1 to 3"):
        tsd.restrict_states(jnp.ones(3) / 3, num_states)
    with pytest.raises(TypeError, match="must be an integer"):
        tsd.restrict_states(jnp.ones(3) / 3, 1.5)


@pytest.mark.parametrize(
    ("num_chains", "chain_method"),
    [
        (2, "vectorized"),
        pytest.param(1, "sequential", marks=pytest.mark.slow),
        pytest.param(2, jax.vmap, marks=pytest.mark.slow),
    ],
)
def test_every_number_of_states_and_fold_runs_the_same_program(compilations, num_chains, chain_method):
    """The second run compiles next to nothing, and its draws are those of a run outside."""

    def make():
        return MCMC(NUTS(model), num_chains=num_chains, chain_method=chain_method, jit_model_args=True, **FEW)

    mcmc, cases = make(), [(2, 8), (1, 8), (3, 6)]
    with compile_once():
        for number, case in enumerate(cases):
            before = len(compilations)
            mcmc.run(random.key(0), COUNTS, *map(jnp.asarray, case))
            compiled = len(compilations) - before
            assert compiled > 15 if number == 0 else compiled < 6, case
    alone = make()
    alone.run(random.key(0), COUNTS, *map(jnp.asarray, cases[-1]))
    assert_allclose(mcmc.get_samples()["rate"], alone.get_samples()["rate"])


@pytest.mark.slow
def test_what_is_asked_after_sampling_shares_a_program_too(compilations):
    """Trees of the second number of states compile nothing large, and hold what a closed-over model would give."""
    mcmc, trees = MCMC(NUTS(model), num_chains=2, chain_method="vectorized", jit_model_args=True, **FEW), {}
    for num_states in (1, 2):
        mcmc.run(random.key(num_states), COUNTS, num_states, len(COUNTS))
        before = len(compilations)
        trees[num_states] = tsppl.to_arviz(mcmc)
        assert (len(compilations) == before) == (num_states == 2)
    draws = mcmc.get_samples(group_by_chain=True)
    closed = tsppl.to_arviz(draws, model, (COUNTS, 2, len(COUNTS)))
    for group in ("log_likelihood", "one_step_ahead"):
        assert_allclose(trees[2][group]["counts"].values, closed[group]["counts"].values)
    assert (np.asarray(trees[1]["posterior"]["counts_states"]) == 0).all()
    assert np.asarray(trees[2]["posterior"]["counts_states"]).max() == 1


def test_chunks_share_a_program(compilations, tmp_path):
    """A run of more chunks compiles no more often; NumPyro is left as it was."""
    numbers, untouched = [], numpyro.util.maybe_jit
    for num_samples in (10, 40):
        mcmc, before = MCMC(NUTS(model), **FEW | {"num_samples": num_samples}), len(compilations)
        run_in_chunks(mcmc, random.key(0), COUNTS, 2, 8, path=tmp_path / str(num_samples), chunk_size=5)
        numbers.append(len(compilations) - before)
    assert numbers[1] <= numbers[0]
    assert numpyro.util.maybe_jit is untouched
