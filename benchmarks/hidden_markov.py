"""Hidden Markov messages beside dynamax, hmmlearn and NumPyro.

All libraries get the same probabilities and the same log-likelihoods, and return the same quantities. hmmlearn has
float64 only and no gradient: its E-step, which gives the same numbers, stands for it. The operation "model, value and
gradient" is a distribution of this library beside NumPyro's ``scan`` with enumeration: Gaussian emissions, the gradient
with respect to probabilities and means.
"""

from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from _timing import OURS, Benchmark, Case, Comparison, Entry, assert_close, run

from tsppl.distributions import HiddenMarkov
from tsppl.messages import hidden_markov_smooth, log_normalizer, most_likely_path, sample_path

OPERATIONS = ("value", "value and gradient", "smoother", "FFBS", "Viterbi")
TOLERANCE = {"float32": 2e-3, "float64": 1e-8}


def simulate(case, dtype):
    """Initial and transition probabilities and log-likelihoods of a sticky chain with Gaussian emissions."""
    size, num_steps, batch = case
    generator = np.random.default_rng(size)
    initial = np.full(size, 1 / size)
    transition = 0.9 * np.eye(size) + 0.1 * generator.dirichlet(np.ones(size), size)
    states = np.empty((batch, num_steps), int)
    states[:, 0] = generator.integers(size, size=batch)
    cumulative, uniform = transition.cumsum(axis=1), generator.random((batch, num_steps))
    for step in range(1, num_steps):
        states[:, step] = (uniform[:, step, None] > cumulative[states[:, step - 1], :-1]).sum(axis=1)
    means = np.linspace(-2, 2, size)
    values = means[states] + generator.standard_normal(states.shape)
    log_likelihoods = -0.5 * (values[..., None] - means) ** 2 - 0.5 * np.log(2 * np.pi)
    return tuple(array.astype(dtype) for array in (initial, transition, log_likelihoods))


def tsppl_functions():
    def in_logs(function):
        return lambda key, initial, transition, log_likelihoods: function(
            jnp.log(initial), jnp.log(transition), log_likelihoods
        )

    def draw(key, initial, transition, log_likelihoods):
        return sample_path(key, jnp.log(initial), jnp.log(transition), log_likelihoods)

    return {
        "value": in_logs(log_normalizer),
        "smoother": in_logs(lambda *arguments: hidden_markov_smooth(*arguments).state_probs),
        "FFBS": draw,
        "Viterbi": in_logs(most_likely_path),
    }


def dynamax_functions():
    from dynamax.hidden_markov_model import inference

    return {
        "value": lambda key, *arguments: inference.hmm_filter(*arguments).marginal_loglik,
        "smoother": lambda key, *arguments: inference.hmm_two_filter_smoother(*arguments).smoothed_probs,
        "FFBS": lambda key, *arguments: inference.hmm_posterior_sample(key, *arguments)[1],
        "Viterbi": lambda key, *arguments: inference.hmm_posterior_mode(*arguments),
    }


def jax_entry(functions, operation, key, data, batch):
    """One jitted function for the whole operation, so that what is not returned is not computed."""
    function = functions["value" if operation == "value and gradient" else operation]
    initial, transition, log_likelihoods = data
    if batch == 1:
        log_likelihoods = log_likelihoods[0]
    else:
        key = jax.random.split(key, batch)
        function = jax.vmap(function, in_axes=(0, None, None, 0))
    arguments = key, *map(jnp.asarray, (initial, transition, log_likelihoods))
    if operation == "value and gradient":
        return Entry(jax.jit(jax.value_and_grad(lambda *a: function(*a).sum(), argnums=(1, 2, 3))), arguments)
    return Entry(jax.jit(function), arguments)


def hmmlearn_entry(operation, initial, transition, log_likelihoods):
    """hmmlearn's compiled routines in scaling form, called as its models call them, one sequence after another."""
    from hmmlearn import _hmmc

    def value(log_likelihoods):
        return _hmmc.forward_scaling(initial, transition, np.exp(log_likelihoods))[0]

    def forward_backward(log_likelihoods):
        likelihoods = np.exp(log_likelihoods)
        log_prob, filtered, scaling = _hmmc.forward_scaling(initial, transition, likelihoods)
        backward = _hmmc.backward_scaling(initial, transition, likelihoods, scaling)
        state_probs = filtered * backward
        state_probs /= state_probs.sum(axis=1, keepdims=True)
        return log_prob, filtered, backward, likelihoods, state_probs

    def expectations(log_likelihoods):
        log_prob, filtered, backward, likelihoods, state_probs = forward_backward(log_likelihoods)
        counts = _hmmc.compute_scaling_xi_sum(filtered, transition, backward, likelihoods)
        return log_prob, state_probs[0], counts, state_probs

    def value_and_gradient(sequences):
        values, starts, counts, state_probs = zip(*map(expectations, sequences), strict=True)
        return sum(values), (sum(starts) / initial, sum(counts) / transition, np.stack(state_probs).squeeze())

    each = {
        "value": value,
        "smoother": lambda sequence: forward_backward(sequence)[-1],
        "Viterbi": lambda sequence: _hmmc.viterbi(initial, transition, sequence)[1],
    }
    if operation == "value and gradient":
        return Entry(value_and_gradient, (log_likelihoods,))
    function = each[operation]
    return Entry(
        lambda sequences: np.stack([function(sequence) for sequence in sequences]).squeeze(), (log_likelihoods,)
    )


def model_entries(case, dtype):
    """The same model as a distribution of this library and as a NumPyro program whose states are enumerated."""
    initial, transition, _ = simulate(case._replace(num_steps=2), dtype)
    means = np.linspace(-2, 2, case.size).astype(dtype)
    values = np.random.default_rng(1).normal(scale=2, size=case.num_steps).astype(dtype)
    arguments = tuple(map(jnp.asarray, (initial, transition, means, values)))

    def ours(initial, transition, means, values):
        emission = dist.Normal(means, 1.0)
        return HiddenMarkov(initial, transition, emission, num_steps=len(values), validate_args=False).log_prob(values)

    def enumerated(initial, transition, means, values):
        from numpyro.contrib.control_flow import scan
        from numpyro.contrib.funsor import enum
        from numpyro.contrib.funsor.infer_util import log_density

        rows = jnp.concatenate([initial[None], transition])

        def step(row, value):
            state = numpyro.sample("state", dist.Categorical(rows[row]), infer={"enumerate": "parallel"})
            numpyro.sample("value", dist.Normal(means[state], 1.0), obs=value)
            return state + 1, None

        return log_density(enum(lambda: scan(step, 0, values), -1), (), {}, {})[0]

    return {
        name: Entry(jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2))), arguments)
        for name, function in ((OURS, ours), ("numpyro", enumerated))
    }


def path_score(data, paths):
    """Total log probability of paths and data, in float64."""
    initial, transition, log_likelihoods = (np.asarray(array, np.float64) for array in data)
    paths = np.asarray(paths).reshape(log_likelihoods.shape[:2])
    emissions = np.take_along_axis(log_likelihoods, paths[..., None], axis=-1).sum()
    return np.log(initial[paths[:, 0]]).sum() + np.log(transition[paths[:, :-1], paths[:, 1:]]).sum() + emissions


def comparisons(case, dtype, libraries):
    data = simulate(case, dtype)
    key = jax.random.key(0)
    state_probs = None

    def check(operation, outputs):
        nonlocal state_probs
        ours = outputs[OURS]
        if operation == "smoother":
            state_probs = np.asarray(ours).reshape(data[2].shape)
        if operation == "Viterbi":
            outputs = {name: path_score(data, paths) for name, paths in outputs.items()}
        if operation == "FFBS":
            # The posterior probability of a drawn state has the same mean whichever way the path is drawn.
            expected = (state_probs**2).sum(axis=-1).mean()
            for name, paths in outputs.items():
                drawn = np.take_along_axis(state_probs, np.asarray(paths).reshape(*state_probs.shape[:2], 1), -1).mean()
                assert abs(drawn - expected) < 3 / np.sqrt(state_probs[..., 0].size), (name, case, drawn, expected)
            return
        for name, output in outputs.items():
            assert_close(f"{operation}: {name} and {OURS}, {case}", outputs[OURS], output, TOLERANCE[dtype])

    def check_model(outputs):
        """Looser: a float32 gradient by differentiating a long loop is wrong in the third digit."""
        tolerance = 10 * TOLERANCE[dtype]
        assert_close(f"model: numpyro and {OURS}, {case}", outputs[OURS], outputs["numpyro"], tolerance)

    functions = {OURS: tsppl_functions()} | ({"dynamax": dynamax_functions()} if "dynamax" in libraries else {})
    for operation in OPERATIONS:
        entries = {name: jax_entry(functions[name], operation, key, data, case.batch) for name in functions}
        if "hmmlearn" in libraries and operation != "FFBS":
            entries["hmmlearn"] = hmmlearn_entry(operation, *data)
        yield Comparison(operation, entries, lambda outputs, operation=operation: check(operation, outputs))
    if case.batch == 1 and case.size <= 10 and "numpyro" in libraries and find_spec("funsor"):
        operation = "model, value and gradient"
        yield Comparison(operation, model_entries(case, dtype), check_model)


BENCHMARK = Benchmark(
    title="Hidden Markov models",
    size_name="K",
    peers={
        "dynamax": ("float32", "float64"),
        "hmmlearn": ("float64",),
        "numpyro": ("float32", "float64"),
    },
    quick_cases=(Case(2, 1_000, 1), Case(10, 1_000, 1), Case(4, 1_000, 16)),
    full_cases=(
        *(Case(size, 1_000, 1) for size in (2, 4, 10, 50)),
        *(Case(size, 100_000, 1) for size in (2, 4, 10)),
        Case(50, 20_000, 1),
        *(Case(size, 1_000, 256) for size in (2, 4, 10)),
        Case(50, 100, 256),
    ),
    comparisons=comparisons,
    notes="To bound the run, K = 50 has 20,000 steps where others have 100,000, and 100 where others have a batch of 1,000.",
)

if __name__ == "__main__":
    run(BENCHMARK)
