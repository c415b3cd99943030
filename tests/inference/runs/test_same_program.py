"""Runs go on only with the same program: every way in which two programs differ, and ways in which they do not."""

import dataclasses
import functools
import runpy
import subprocess
import sys
import textwrap
from types import FunctionType, ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax import random
from numpyro import handlers
from numpyro.infer import MCMC, NUTS, Gibbs
from numpyro.infer.mcmc import MCMCKernel

import tsppl.distributions as tsd
from tests.scripts import environment
from tsppl.inference import LabelGibbs, ProbabilityUpdate, RateUpdate, StateGibbs, run_in_chunks
from tsppl.inference.runs.same_program import IncomparableError, digest, identity


class StillState(NamedTuple):
    z: dict
    rng_key: jax.Array


class Still(MCMCKernel):
    """Nothing moves, so nothing takes long to compile."""

    sample_field = "z"

    def __init__(self, model, inner=None):
        self.model, self.inner = model, inner

    def init(self, rng_key, num_warmup, init_params, model_args, model_kwargs):
        self.found = random.key_data(rng_key)
        return StillState({"x": jnp.zeros(())}, rng_key)

    def sample(self, state, model_args, model_kwargs):
        return state


def run(path, model, *args, inner=None):
    mcmc = MCMC(Still(model, inner), num_warmup=0, num_samples=1, progress_bar=False)
    return run_in_chunks(mcmc, random.key(0), *args, path=path, chunk_size=1, progress_bar=False)


SCALE = 1.0


def scaled(y, scale=1.0):
    numpyro.sample("y", dist.Normal(0.0, scale), obs=y)


def closed(scale):
    return lambda y: scaled(y, scale)


def reads_global(y):
    scaled(y, SCALE)


def with_globals(function, **names):
    """The function as it stands in a file of its own."""
    return FunctionType(function.__code__, {**function.__globals__, **names}, argdefs=function.__defaults__)


def calls_helper(scale):
    return with_globals(reads_global, scaled=with_globals(reads_global, SCALE=scale))


def has_default(scale):
    def model(y, scale=scale):
        scaled(y, scale)

    return model


class Model:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, y):
        scaled(y, self.scale)

    def method(self, y):
        scaled(y, self.scale)


def with_class_attribute(scale):
    class Other(Model):
        factor = scale

        def __call__(self, y):
            scaled(y, self.factor)

    return Other(0.0)


@dataclasses.dataclass(frozen=True)
class Options:
    scale: float


def uses_module(scale):
    module = ModuleType("someones_helpers")
    module.scale = scale
    return with_globals(lambda y: scaled(y, helpers.scale), helpers=module)  # noqa: F821


def imports_inside(scale):
    def model(y):
        import someones_helpers

        scaled(y, someones_helpers.scale)

    sys.modules["someones_helpers"] = ModuleType("someones_helpers")
    sys.modules["someones_helpers"].scale = scale
    return model


WAYS = {
    "partial": lambda scale: functools.partial(scaled, scale=scale),
    "partial, by place": lambda scale: functools.partial(scaled, scale),
    "closure": closed,
    "closure, array": lambda scale: closed(jnp.array([1.0, scale])),
    "closure, pytree": lambda scale: closed({"a": [np.zeros(2), (scale,)]}),
    "closure, dataclass": lambda scale: closed(Options(scale)),
    "closure, frame": lambda scale: closed(pd.DataFrame({"a": [1.0, scale], "b": ["u", "v"]})),
    "closure, distribution": lambda scale: closed(dist.Gamma(2.0, scale)),
    "closure, process": lambda scale: closed(
        tsd.NeymanScott(scale, dist.Gamma(2.0, 0.5), tsd.GaussianCluster(0.2), 0.4, (0.0, 5.0))
    ),
    "global": lambda scale: with_globals(reads_global, SCALE=scale),
    "global, dict": lambda scale: with_globals(reads_global, SCALE={"one": (scale, "word")}),
    "helper": calls_helper,
    "module": uses_module,
    "import inside": imports_inside,
    "default": has_default,
    "callable object": Model,
    "attribute of the class": with_class_attribute,
    "bound method": lambda scale: Model(scale).method,
    "jit": lambda scale: jax.jit(closed(scale)),
    "condition": lambda scale: handlers.condition(scaled, data={"x": scale}),
    "substitute": lambda scale: handlers.substitute(scaled, data={"x": scale}),
    "another handler": lambda scale: (handlers.block if scale == 1.0 else handlers.trace)(scaled),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_of_another_model_is_not_continued(way, tmp_path):
    run(tmp_path, WAYS[way](1.0), 0.0)
    run(tmp_path, WAYS[way](1.0), 0.0)
    with pytest.raises(ValueError, match=r"differs from this one in: model\. Give"):
        run(tmp_path, WAYS[way](10.0), 0.0)


def test_nor_one_of_other_data(tmp_path):
    def frame(value):
        counts = np.where(np.arange(100) == 50, value, 0)
        return pd.DataFrame({"count": counts, "kind": pd.Categorical(["u", "v"] * 50)}, index=list(range(100, 200)))

    run(tmp_path, scaled, frame(2))
    run(tmp_path, scaled, frame(2))
    for other in (frame(3), frame(2).rename(index={150: 300}), frame(2).astype({"count": float})):
        with pytest.raises(ValueError, match=r"differs from this one in: data\. Give"):
            run(tmp_path, scaled, other)


def times_model(points):
    process = tsd.NeymanScott(0.4, dist.Gamma(2.0, 0.5), tsd.GaussianCluster(0.2), 0.4, (0.0, 5.0))
    process.sample("x", points)


def states(*updates, **options):
    return Gibbs([(StateGibbs(scaled, "y", updates, **options), ["rows"])])


def labels(**options):
    return Gibbs([(LabelGibbs(times_model, "x", **options), ["x_labels"])])


@pytest.mark.parametrize(
    ("make", "one", "other"),
    [
        (labels, {"num_sweeps": 1}, {"num_sweeps": 50}),
        (labels, {"reach": 1.0}, {"reach": 2.0}),
        (labels, {"method": "serial"}, {"method": "chunked"}),
        (labels, {"max_clusters": 3}, {"max_clusters": 4}),
        (labels, {"annealing": (2.0,)}, {"annealing": (2.0, 3.0)}),
        (functools.partial(NUTS, scaled), {"max_tree_depth": 5}, {"max_tree_depth": (5, 6)}),
        (functools.partial(NUTS, scaled), {"inverse_mass_matrix": np.ones(1)}, {"inverse_mass_matrix": 2 * np.ones(1)}),
    ],
)
def test_nor_one_of_a_kernel_with_other_options(make, one, other, tmp_path):
    run(tmp_path, scaled, 0.0, inner=make(**one))
    run(tmp_path, scaled, 0.0, inner=make(**one))
    with pytest.raises(ValueError, match=r"differs from this one in: kernel\. Give"):
        run(tmp_path, scaled, 0.0, inner=make(**other))


def test_updates_of_a_block_count():
    rows, rate = ProbabilityUpdate("rows", "transition_probs"), RateUpdate("rows")
    assert digest(states(rows)) == digest(states(ProbabilityUpdate("rows", "transition_probs")))
    assert (
        len({digest(states(rows)), digest(states(rate)), digest(states(ProbabilityUpdate("rows", "initial_probs")))})
        == 3
    )


def test_versions_and_devices_are_named(tmp_path, monkeypatch):
    run(tmp_path, scaled, 0.0)
    monkeypatch.setattr(numpyro, "__version__", "0.99")
    monkeypatch.setattr(jax, "local_device_count", lambda: 64)
    message = r"differs from this one in: number of devices, version of numpyro\. Give"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, scaled, 0.0)


def test_what_cannot_be_compared_is_refused_and_named(tmp_path):
    with open(__file__) as file:
        for model, what in (
            (closed(file), "the model: scale is a TextIOWrapper"),
            (closed({"numbers": [0, 1], "more": (i for i in range(2))}), "scale > more is a generator"),
        ):
            with pytest.raises(ValueError, match=f"{what}, of which nobody .*arrays, numbers, words"):
                run(tmp_path, model, 0.0)
        assert identity(closed(file)) == identity(closed(file))
        with pytest.raises(IncomparableError):
            digest(file)


def test_looking_changes_nothing_and_use_changes_no_answer():
    """What objects remember of what they were asked is no part of them."""
    normal = dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2))
    before = digest(normal)
    assert normal.precision_matrix.shape == (2, 2)
    assert digest(normal) == before

    class Sum:
        @functools.cached_property
        def total(self):
            return 1.0

    found, before = Sum(), digest(Sum())
    assert found.total == 1.0
    assert digest(found) == before
    around = {"itself": None, "value": 1.0}
    around["itself"] = around
    assert digest(around) == digest(around)
    assert digest({1, "a", 2.5}) == digest({2.5, "a", 1})


SCRIPT = """
    import dataclasses, functools, sys
    import jax, jax.numpy as jnp, numpy as np, numpyro, numpyro.distributions as dist, pandas as pd
    from numpyro.infer import MCMC, NUTS
    import tsppl

    @dataclasses.dataclass
    class Prior:
        words: frozenset = frozenset({"loc", "scale", "more"})
        law: object = dataclasses.field(default_factory=lambda: dist.Normal(0.0, 1.0))

    FRAME, WORDS = pd.DataFrame({"y": [0.1, -0.3]}), {"one", "two", "three"}

    def helper(prior):
        return prior.law if WORDS else None

    def model(prior, shift=0.0):
        numpyro.sample("x", helper(prior))
        numpyro.sample("y", dist.Normal(shift, 1.0), obs=FRAME["y"].to_numpy())

    model = numpyro.handlers.condition(functools.partial(model, Prior()), data={"nothing": jnp.zeros(2)})
    mcmc = MCMC(NUTS(model), num_warmup=2, num_samples=2, progress_bar=False)
    run, steps = mcmc.run, []
    mcmc.run = lambda *args, **kwargs: steps.append(mcmc.num_samples) or run(*args, **kwargs)
    tsppl.inference.run_in_chunks(mcmc, jax.random.key(0), path=sys.argv[1], chunk_size=1, progress_bar=False)
"""


@pytest.mark.slow
def test_the_same_script_in_another_process_goes_on(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    variables = environment() | {"JAX_ENABLE_X64": "1", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, script, tmp_path / "run"], env=variables, check=True, timeout=300)
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "run")])
    assert runpy.run_path(str(script), run_name="__main__")["steps"] == []
