"""Every sequence distribution with parameters, one row each, for the generic laws of `test_distributions.py`.

A new distribution is one more row. `build(parameters)` takes a dict of unconstrained arrays and accepts any common batch
axes on the left of all of them. All rows share `NUM_STEPS` and few event shapes, because compile time is what tests cost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.tree_util import Partial

import tsppl.distributions as tsd

NUM_STEPS, NUM_STATES, SIZE = 5, 3, 2
STEP_MASK = jnp.array([True, False, True, True, False])
ENTRY_MASK = jnp.array([[True, True], [False, True], [True, False], [False, False], [True, True]])


def real(rng, shape):
    return rng.normal(size=shape)


def counts(rng, shape):
    return rng.poisson(2.0, shape)


def binary(rng, shape):
    return rng.integers(2, size=shape)


def states(rng, shape):
    return rng.integers(NUM_STATES, size=shape)


def angles(rng, shape):
    return rng.uniform(0.1, 3.0, size=shape)


@dataclass(frozen=True, eq=False)
class Row:
    """One distribution and what it can do.

    Attributes:
        name: shown in the test's id.
        build: function of a dict of parameters, and of keyword arguments that are passed on (mask, num_steps).
        shapes: name -> shape of each parameter, without batch.
        draw_value: function of a NumPy generator and a shape: any series inside the support.
        latents: keys of `sample_latents`; empty if it raises.
        sampleable: False for a density given the first steps.
        left_out: whether there are exact left-out terms; `"mask"` if a step's term is also the effect of masking it.
        completes: False if missing values cannot be drawn.
        smoke: belongs to the quick subset.
        slow: a variant whose laws only run with the slow tests.
    """

    name: str
    build: Callable
    shapes: dict
    draw_value: Callable = real
    latents: tuple = ("states",)
    sampleable: bool = True
    left_out: bool | str = "mask"
    completes: bool = True
    smoke: bool = False
    slow: bool = False

    def parameters(self, seed=0, batch=(), dtype=float):
        """Random unconstrained parameters."""
        rng = np.random.default_rng(seed)
        return {name: rng.normal(size=batch + shape).astype(dtype) for name, shape in self.shapes.items()}

    @cached_property
    def distribution(self):
        return self.build(self.parameters())

    @cached_property
    def value(self):
        """One series, numbers in masked entries included."""
        return self.draw_value(np.random.default_rng(1), self.distribution.event_shape)


CHAIN = {"initial": (NUM_STATES,), "transition": (NUM_STATES, NUM_STATES)}
VARYING_CHAIN = {"initial": (NUM_STATES,), "transition": (NUM_STEPS - 1, NUM_STATES, NUM_STATES)}


def probs(p):
    return {"initial_probs": jax.nn.softmax(p["initial"]), "transition_probs": jax.nn.softmax(p["transition"])}


def logits(p):
    return {"initial_logits": p["initial"], "transition_logits": p["transition"]}


def scale_tril(flat):
    """Cholesky factors `(..., N, N)` of covariances from unconstrained arrays of that shape."""
    return jnp.tril(0.3 * flat, -1) + jnp.where(np.eye(flat.shape[-1], dtype=bool), jnp.exp(0.2 * flat), 0.0)


def poisson(p):
    return dist.Poisson(jnp.exp(1.0 + 0.5 * p["rate"]))


def categorical(p):
    return dist.Categorical(logits=p["kind"])


def diagonal(p):
    """Independent components."""
    return dist.Normal(p["loc"], jnp.exp(0.2 * p["scale"])).to_event(1)


def normal(p):
    """Correlated components."""
    return dist.MultivariateNormal(p["loc"], scale_tril=scale_tril(p["scale"]))


DIAGONAL = {"loc": (NUM_STATES, SIZE), "scale": (NUM_STATES, SIZE)}
NORMAL = {"loc": (NUM_STATES, SIZE), "scale": (NUM_STATES, SIZE, SIZE)}


def hidden_markov(emission, chain=probs, **fixed):
    def build(p, **keywords):
        return tsd.HiddenMarkov(emission=emission(p), **chain(p), **{"num_steps": NUM_STEPS, **fixed, **keywords})

    return build


def streams(p):
    return tsd.Streams(
        step=dist.LogNormal(p["step"], jnp.full_like(p["step"], 0.7)),
        turn=dist.VonMises(p["turn"], jnp.exp(p["concentration"])),
    )


def markov_chain(**fixed):
    def build(p, **keywords):
        return tsd.MarkovChain(**probs(p), **{"num_steps": NUM_STEPS, **fixed, **keywords})

    return build


def autoregression(noise, initial=None, **fixed):
    def build(p, **keywords):
        start = None if initial is None else initial(p)
        arguments = {"num_steps": NUM_STEPS, "initial": start, **fixed, **keywords}
        return tsd.AutoregressiveHMM(weights=0.4 * p["weights"], noise=noise(p), **probs(p), **arguments)

    return build


def mean_switching(p, **keywords):
    arguments = {"num_steps": NUM_STEPS, **keywords}
    return tsd.MeanSwitchingAutoregression(
        means=p["means"], weights=0.4 * p["weights"], noise=scalar_normal(p), **probs(p), **arguments
    )


def semi_markov(p, **keywords):
    arguments = {"num_steps": NUM_STEPS, "max_duration": 2, **keywords}
    return tsd.HiddenSemiMarkov(durations=poisson(p), emission=scalar_normal(p), **logits(p), **arguments)


def low_rank(noise, start, core=False, **fixed):
    def build(p, **keywords):
        factors = (p[name] for name in ("outputs", "inputs", "lags"))
        arguments = {"num_steps": NUM_STEPS, "initial": start(p), "core": p["core"] if core else None, **fixed}
        return tsd.SALT(*probs(p).values(), *factors, noise(p), **(arguments | keywords))

    return build


def start_lags(p):
    return dist.Normal(p["start"], jnp.ones_like(p["start"])).to_event(2)


def student(p):
    return dist.StudentT(jnp.full_like(p["loc"], 6.0), p["loc"], jnp.exp(0.2 * p["scale"])).to_event(1)


def start_block(p):
    return dist.Normal(p["start"], jnp.ones_like(p["start"])).to_event(1)


def scalar_normal(p):
    return dist.Normal(p["loc"], jnp.exp(0.2 * p["scale"]))


SCALAR = {"loc": (NUM_STATES,), "scale": (NUM_STATES,)}


def switching_dynamics(p, **keywords):
    initial, transitions = probs(p).values()
    arguments = {"num_steps": NUM_STEPS, **keywords}
    return tsd.SwitchingLinearDynamics(initial, transitions, 0.4 * p["weights"], normal(p), start_block(p), **arguments)


def recurrent_dynamics(p, **keywords):
    initial, transitions = probs(p)["initial_probs"], tsd.RecurrentTransitions(p["transition"], p["recurrence"])
    arguments = {"num_steps": NUM_STEPS, **keywords}
    return tsd.SwitchingLinearDynamics(
        initial, transitions, 0.4 * p["weights"], diagonal(p), start_block(p), **arguments
    )


def gaussian(loc, scale):
    """A correlated Gaussian of one pair of arrays."""
    return dist.MultivariateNormal(loc, scale_tril=scale_tril(scale))


def gaussian_chain(**fixed):
    def build(p, **keywords):
        noise = gaussian(p["bias"], p["noise"])
        arguments = {"num_steps": NUM_STEPS, **fixed, **keywords}
        return tsd.LinearGaussianChain(gaussian(p["start"], p["spread"]), 0.5 * p["weights"], noise, **arguments)

    return build


def state_space(emission_noise, **fixed):
    def build(p, **keywords):
        driven = {"noise_matrix": p["noise_matrix"]} if "noise_matrix" in p else {}
        return tsd.LinearGaussianSSM(
            gaussian(p["start"], p["spread"]),
            0.5 * p["weights"],
            gaussian(p["bias"], p["noise"]),
            p["emission"],
            emission_noise(p),
            **{"num_steps": NUM_STEPS, **driven, **fixed, **keywords},
        )

    return build


def with_batch(p, shapes):
    """The batch shape of parameters, and the parameters with as many axes of batch each."""
    batch = np.broadcast_shapes(*(p[name].shape[: p[name].ndim - len(shape)] for name, shape in shapes.items()))
    missing = {name: len(batch) + len(shape) - p[name].ndim for name, shape in shapes.items()}
    return batch, {name: p[name].reshape((1,) * missing[name] + p[name].shape) for name in shapes}


def bounded_move(weights, state, _):
    return jnp.tanh(weights @ state)


def nonlinear_dynamics(p, **keywords):
    batch, p = with_batch(p, BOUNDED_MOVES)
    move, scale = Partial(bounded_move, p["weights"]), jnp.exp(0.2 * p["scale"])[..., None, :]
    return tsd.NonlinearDynamics(
        move, p["initial"], scale, **{"num_steps": NUM_STEPS, "batch_shape": batch, **keywords}
    )


def network_move(weights, state, previous, driven):
    # Unbounded data would let the draws explode.
    fed = jnp.log1p(jnp.abs(previous)).sum()
    return jnp.tanh(weights @ state + fed + (0.0 if driven is None else driven))


def network_normal(readout, state):
    mean = readout @ state
    return dist.Normal(mean, jnp.ones_like(mean)).to_event(1)


def network_counts(readout, state):
    return dist.Poisson(jnp.exp(readout @ state)).to_event(1)


def mean_count(readout, state):
    return jnp.exp(readout @ state)


def network_correlated(readout, state):
    return dist.MultivariateNormal(readout @ state, scale_tril=jnp.array([[1, 0], [0.5, 1]], readout.dtype))


def recurrent_series(emission, shapes, missing=None, **fixed):
    def build(p, **keywords):
        batch, p = with_batch(p, shapes)
        fed = missing if missing is None or not callable(missing) else Partial(missing, p["readout"])
        arguments = {"num_steps": NUM_STEPS, "batch_shape": batch, "inputs": p.get("inputs"), "missing": fed, **fixed}
        law = Partial(network_move, p["weights"]), p["initial"], Partial(emission, p["readout"])
        return tsd.RecurrentSeries(*law, **(arguments | keywords))

    return build


BOUNDED_MOVES = {"initial": (SIZE,), "weights": (SIZE, SIZE), "scale": (SIZE,)}
NETWORK = {"initial": (SIZE,), "weights": (SIZE, SIZE), "readout": (SIZE, SIZE)}
DRIVEN_NETWORK = NETWORK | {"inputs": (NUM_STEPS,)}

ONE_LAG = {"weights": (NUM_STATES, 1, SIZE, SIZE)}
TWO_LAGS = {"weights": (NUM_STATES, 2, SIZE, SIZE)}
MOVES = NUM_STEPS - 1
GAUSSIAN_CHAIN = {
    "start": (SIZE,),
    "spread": (SIZE, SIZE),
    "weights": (SIZE, SIZE),
    "bias": (SIZE,),
    "noise": (SIZE, SIZE),
}
START = {"start": (NUM_STATES, SIZE)}

ROWS = [
    Row("HiddenMarkov", hidden_markov(poisson), {**CHAIN, "rate": (NUM_STATES,)}, draw_value=counts, smoke=True),
    Row(
        "HiddenMarkov logits, lengths",
        hidden_markov(categorical, logits, lengths=3),
        {**CHAIN, "kind": (NUM_STATES, 2)},
        draw_value=binary,
    ),
    Row(
        "HiddenMarkov masked, parallel",
        hidden_markov(scalar_normal, mask=STEP_MASK, method="parallel"),
        {**CHAIN, **SCALAR},
        slow=True,
    ),
    Row(
        "HiddenMarkov time-varying",
        hidden_markov(normal, time_varying=("emission", "transition_probs")),
        {**VARYING_CHAIN, "loc": (NUM_STEPS, NUM_STATES, SIZE), "scale": (NUM_STEPS, NUM_STATES, SIZE, SIZE)},
    ),
    Row("HiddenMarkov entries masked", hidden_markov(diagonal, mask=ENTRY_MASK), {**CHAIN, **DIAGONAL}),
    Row(
        "HiddenMarkov multivariate entries masked",
        hidden_markov(normal, mask=ENTRY_MASK),
        {**CHAIN, **NORMAL},
        slow=True,
    ),
    Row(
        "HiddenMarkov Streams",
        hidden_markov(streams, mask=ENTRY_MASK),
        {**CHAIN, "step": (NUM_STATES,), "turn": (NUM_STATES,), "concentration": (NUM_STATES,)},
        draw_value=angles,
    ),
    Row("MarkovChain", markov_chain(), CHAIN, draw_value=states, latents=(), left_out=True),
    Row(
        "MarkovChain time-varying",
        markov_chain(time_varying=("transition_probs",)),
        VARYING_CHAIN,
        draw_value=states,
        latents=(),
        left_out=True,
        slow=True,
    ),
    Row(
        "AutoregressiveHMM given the first steps",
        autoregression(normal),
        {**CHAIN, **NORMAL, **TWO_LAGS},
        sampleable=False,
        left_out=True,
    ),
    Row(
        "AutoregressiveHMM",
        autoregression(normal, start_block),
        {**CHAIN, **NORMAL, **ONE_LAG, **START},
        left_out=True,
    ),
    Row(
        "AutoregressiveHMM scalar",
        autoregression(scalar_normal, start_block),
        {**CHAIN, **SCALAR, "weights": (NUM_STATES, 2), "start": (NUM_STATES, 2)},
        left_out=False,
        slow=True,
    ),
    Row(
        "AutoregressiveHMM StudentT",
        autoregression(student, start_block, time_varying=("transition_probs",)),
        {**VARYING_CHAIN, **DIAGONAL, **ONE_LAG, **START},
        left_out=False,
        slow=True,
    ),
    Row(
        "AutoregressiveHMM masked",
        autoregression(normal, mask=jnp.array([True, True, True, False, True]), num_conditioned=1),
        {**CHAIN, **NORMAL, **ONE_LAG},
        sampleable=False,
        left_out=True,
        completes=False,
    ),
    Row(
        "MeanSwitchingAutoregression",
        mean_switching,
        {**CHAIN, **SCALAR, "means": (NUM_STATES,), "weights": (NUM_STATES, 2)},
        sampleable=False,
        left_out=False,
        slow=True,
    ),
    Row("HiddenSemiMarkov", semi_markov, {**CHAIN, **SCALAR, "rate": (NUM_STATES,)}),
    Row(
        "SALT",
        low_rank(normal, start_block),
        {
            **CHAIN,
            **NORMAL,
            **START,
            "outputs": (NUM_STATES, SIZE, 1),
            "inputs": (NUM_STATES, SIZE, 1),
            "lags": (NUM_STATES, 1, 1),
        },
        left_out=True,
    ),
    Row(
        "SALT Tucker, shared outputs, StudentT, lengths",
        low_rank(student, start_lags, core=True, lengths=4, time_varying=("transition_probs",)),
        {
            **VARYING_CHAIN,
            **DIAGONAL,
            "start": (NUM_STATES, 2, SIZE),
            "outputs": (1, SIZE, 2),
            "inputs": (NUM_STATES, SIZE, 1),
            "lags": (NUM_STATES, 2, 1),
            "core": (NUM_STATES, 2, 1, 1),
        },
        left_out=False,
        slow=True,
    ),
    Row(
        "SwitchingLinearDynamics",
        switching_dynamics,
        {**CHAIN, **NORMAL, **START, "weights": (NUM_STATES, SIZE, SIZE)},
        left_out=True,
    ),
    Row(
        "SwitchingLinearDynamics recurrent",
        recurrent_dynamics,
        {**CHAIN, **DIAGONAL, **START, "weights": (NUM_STATES, SIZE, SIZE), "recurrence": (NUM_STATES, SIZE)},
        left_out=False,
        slow=True,
    ),
    Row("LinearGaussianChain", gaussian_chain(), GAUSSIAN_CHAIN, latents=(), left_out=True),
    Row(
        "LinearGaussianChain time-varying, parallel",
        gaussian_chain(time_varying=("weights", "noise"), method="parallel"),
        {**GAUSSIAN_CHAIN, "weights": (MOVES, SIZE, SIZE), "bias": (MOVES, SIZE), "noise": (MOVES, SIZE, SIZE)},
        latents=(),
        left_out=True,
        slow=True,
    ),
    Row(
        "LinearGaussianSSM",
        state_space(lambda p: gaussian(p["loc"], p["scale"]), mask=ENTRY_MASK),
        {**GAUSSIAN_CHAIN, "emission": (SIZE, SIZE), "loc": (SIZE,), "scale": (SIZE, SIZE)},
        latents=("trajectory",),
    ),
    Row(
        "LinearGaussianSSM driven, scalar, time-varying, lengths",
        state_space(scalar_normal, time_varying=("emission_matrix", "emission_noise"), lengths=3),
        {
            **GAUSSIAN_CHAIN,
            "bias": (1,),
            "noise": (1, 1),
            "noise_matrix": (SIZE, 1),
            "emission": (NUM_STEPS, SIZE),
            "loc": (NUM_STEPS,),
            "scale": (NUM_STEPS,),
        },
        latents=("trajectory",),
    ),
    Row("NonlinearDynamics", nonlinear_dynamics, BOUNDED_MOVES, latents=(), left_out=False),
    Row("RecurrentSeries", recurrent_series(network_normal, NETWORK), NETWORK, latents=(), left_out=False),
    Row(
        "RecurrentSeries driven counts, entries masked",
        recurrent_series(network_counts, DRIVEN_NETWORK, missing=mean_count, mask=ENTRY_MASK),
        DRIVEN_NETWORK,
        draw_value=counts,
        latents=(),
        left_out=False,
    ),
    Row(
        "RecurrentSeries correlated, entries masked, lengths",
        recurrent_series(network_correlated, NETWORK, missing=0.5, mask=ENTRY_MASK, lengths=4),
        NETWORK,
        latents=(),
        left_out=False,
        slow=True,
    ),
    Row(
        "RecurrentSeries lengths",
        recurrent_series(network_normal, NETWORK, lengths=3),
        NETWORK,
        latents=(),
        left_out=False,
        slow=True,
    ),
]

_ONE_STEP = "the law of one step, not of a series: tests/distributions/emissions"
_POINTS = "a law of points, not of steps: tests/distributions/points"
_PRIOR = "the law of parameters: tests/distributions/priors"
_CLUSTER = "a family of clusters, no distribution: tests/points/clusters"
_WINDOW = "where points are looked for, no distribution: tests/points/windows"

WITHOUT_ROW = {
    "ClusterIntensity": "a function of the process that NeymanScott.given_events returns: tests/distributions/points",
    "ClusterLabels": _POINTS,
    "ClusteredPoints": _POINTS,
    "Cluster": _CLUSTER,
    "DocumentCluster": _CLUSTER,
    "ExpectedCounts": "an answer of NeymanScott, no distribution",
    "GaussianCluster": _CLUSTER,
    "GaussianInverseWishartCluster": _CLUSTER,
    "InhomogeneousPoissonProcess": _POINTS,
    "Intervals": _WINDOW,
    "LowRankReport": "an answer of low_rank_report, no distribution",
    "MatrixNormalInverseWishart": _PRIOR,
    "NeymanScott": _POINTS,
    "NormalInverseWishart": _PRIOR,
    "PiecewisePoissonProcess": _POINTS,
    "PointCount": _POINTS,
    "PointPattern": "a draw of NeymanScott, no distribution",
    "PointProcess": "the contract of point processes: its subclasses are tested",
    "PoissonLike": "what Poisson processes share: its subclasses are tested",
    "PoissonPoints": _POINTS,
    "PoissonProcess": _POINTS,
    "Polygon": _WINDOW,
    "RecurrentTransitions": "an argument of SwitchingLinearDynamics, in the row of which it is tested",
    "Regions": _WINDOW,
    "SequenceCluster": _CLUSTER,
    "SequenceDistribution": "the contract: its subclasses are tested",
    "Streams": _ONE_STEP,
    "UnseenPoints": _POINTS,
    "WrappedCauchy": _ONE_STEP,
    "Window": _WINDOW,
    "ZeroInflated": _ONE_STEP,
}
"""Why a class of :mod:`tsppl.distributions` has no row."""
