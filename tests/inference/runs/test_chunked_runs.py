"""Runs in chunks give the draws of one run, go on after a kill, and refuse to go on with something else."""

import shutil
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS

import tsppl
import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.scripts import environment
from tsppl.inference import auto_gibbs, read_chunks, run_in_chunks

KEY = jax.random.key(0)
VALUE = np.array([0.3, -1.2, 0.8, 2.0])


def model(value):
    loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.deterministic("ratio", loc / scale)
    numpyro.sample("y", dist.Normal(loc, scale).expand([4]).to_event(1), obs=value)


def wider(value):
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.deterministic("ratio", loc / scale)
    numpyro.sample("y", dist.Normal(loc, scale).expand([4]).to_event(1), obs=value)


def sampler(num_samples=20, kernel=None, **options):
    defaults = {"num_warmup": 20, "num_chains": 2, "chain_method": "vectorized", "progress_bar": False}
    return MCMC(kernel or NUTS(model), num_samples=num_samples, **(defaults | options))


def chunked(path, mcmc=None, key=KEY, value=VALUE, chunk_size=8):
    return run_in_chunks(mcmc or sampler(), key, value, path=path, chunk_size=chunk_size, progress_bar=False)


@pytest.fixture(scope="module")
def uninterrupted():
    mcmc = sampler(thinning=2)
    mcmc.run(KEY, VALUE)
    return mcmc.get_samples(group_by_chain=True)


def test_draws_are_those_of_one_run_also_when_it_is_extended_and_read_again(tmp_path, uninterrupted):
    assert uninterrupted["loc"].shape == (2, 10)
    short = chunked(tmp_path, sampler(num_samples=8, thinning=2))
    assert_allclose(short.get_samples(group_by_chain=True), jax.tree.map(lambda x: x[:, :4], uninterrupted))
    whole = chunked(tmp_path, sampler(thinning=2))
    assert_allclose(whole.get_samples(group_by_chain=True), uninterrupted)
    assert_allclose(read_chunks(tmp_path), jax.tree.map(np.asarray, uninterrupted))
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    again = chunked(tmp_path, whole)
    assert_allclose(again.get_samples(), jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), uninterrupted))
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before
    assert tsppl.to_arviz(whole)["posterior"]["ratio"].shape == (2, 10)


def test_another_run_is_not_continued(tmp_path):
    chunked(tmp_path, sampler(num_samples=2), chunk_size=20)
    for words, options in {
        "data": {"value": VALUE + 1e-9},
        "key": {"key": jax.random.key(1)},
        "model": {"mcmc": sampler(kernel=NUTS(wider))},
        "kernel": {"mcmc": sampler(kernel=NUTS(model, target_accept_prob=0.9))},
        "number of chains": {"mcmc": sampler(num_chains=1)},
        "warm-up steps": {"mcmc": sampler(num_warmup=21)},
        "chunk_size": {"chunk_size": 5},
    }.items():
        with pytest.raises(ValueError, match=f"differs from this one in: {words}. Give"):
            chunked(tmp_path, **{"chunk_size": 20, **options})
    with pytest.raises(ValueError, match="multiple of the thinning, 3"):
        chunked(tmp_path, sampler(thinning=3))
    with pytest.raises(FileNotFoundError, match="no draws"):
        read_chunks(tmp_path / "nothing")


KILLED = """
    import os, signal
    from tests.inference.runs import test_chunked_runs as own
    from tsppl.inference.runs import chunked_runs

    whole = chunked_runs._write
    def write_until_killed(path, tree, written=[]):
        written.append(path)
        if len(written) == {writes}:
            path.with_suffix(".partial").write_bytes(b"half of a chunk")
            os.kill(os.getpid(), signal.SIGKILL)
        whole(path, tree)
    chunked_runs._write = write_until_killed
    own.chunked({path!r}, own.sampler(thinning=2))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("writes", "saved"), [(2, 8), (7, 28)], ids=["warm-up", "draws"])
def test_killed_run_goes_on_with_at_most_one_chunk_lost(tmp_path, uninterrupted, writes, saved):
    script = textwrap.dedent(KILLED).format(path=str(tmp_path), writes=writes)
    run = subprocess.run([sys.executable, "-c", script], env=environment() | {"JAX_ENABLE_X64": "1"}, timeout=300)
    assert run.returncode == -signal.SIGKILL
    mcmc = sampler(thinning=2)
    steps = []
    plain, mcmc.run = mcmc.run, lambda *args, **kwargs: steps.append(mcmc.num_samples) or plain(*args, **kwargs)
    chunked(tmp_path, mcmc)
    assert sum(steps) == 40 - saved
    assert_allclose(mcmc.get_samples(group_by_chain=True), uninterrupted)


@pytest.mark.slow
def test_gibbs_kernels_run_in_chunks_too(tmp_path):
    def switching(counts):
        rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones((2, 2))).to_event(1))
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5).expand([2]).to_event(1))
        series = tsd.HiddenMarkov(jnp.ones(2) / 2, rows, dist.Poisson(rate), num_steps=6)
        numpyro.sample("counts", series, obs=counts)

    counts = jnp.array([1, 0, 2, 9, 7, 8])
    kernel = auto_gibbs(switching, counts)
    options = {"kernel": kernel, "num_samples": 6, "num_warmup": 3, "chain_method": jax.vmap}
    mcmc = sampler(**options)
    mcmc.run(KEY, counts)
    own = chunked(tmp_path, sampler(**options), value=counts, chunk_size=2)
    assert_allclose(own.get_samples(), mcmc.get_samples())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished")
    chunked(path, chunk_size=10)
    return path


@pytest.mark.parametrize("name", ["state.pkl", "draws_000000000.pkl", "draws_000000010.pkl"])
def test_a_damaged_file_is_named_and_left_alone(tmp_path, finished, name):
    path = shutil.copytree(finished, tmp_path / "run")
    whole = (path / name).read_bytes()
    half, swapped = whole[: len(whole) // 2], bytearray(whole)
    swapped[-20] ^= 1
    for damaged in (half, b"", bytes(swapped)):
        (path / name).write_bytes(damaged)
        for again in (lambda: chunked(path, chunk_size=10), lambda: read_chunks(path)):
            with pytest.raises(ValueError, match=f"{name} is damaged, half written"):
                again()
        assert (path / name).read_bytes() == damaged
    (path / name).unlink()
    if name != "state.pkl":
        with pytest.raises(ValueError, match=f"{name} is missing"):
            chunked(path, chunk_size=10)


def test_draws_without_a_state_are_those_of_this_run_or_left_alone(tmp_path, finished):
    path = shutil.copytree(finished, tmp_path / "run")
    (path / "state.pkl").unlink()
    with pytest.raises(ValueError, match=r"differs from this one in: data\. Give"):
        chunked(path, chunk_size=10, value=VALUE + 1)
