"""The forms of this library's own algorithms beside one another: does ``method="auto"`` take the fastest?

The column tsppl is ``"auto"``. Associative scans are left out: on a CPU they lose at every size, and take minutes to
compile at the longer ones.
"""

import hidden_markov
import jax
import jax.numpy as jnp
import linear_gaussian
from _timing import OURS, Benchmark, Case, Comparison, Entry, assert_close, run

from tsppl.messages import kalman_log_likelihood, log_normalizer

FORMS = (
    "sequential",
    "fast",
)  # fast: in chunks for hidden Markov models, with settled covariances for linear-Gaussian ones
TOLERANCE = {"float32": 1e-2, "float64": 1e-6}  # a gradient is a sum over steps that nearly cancels


def hidden_markov_value(form):
    method = "chunked" if form == "fast" else form

    def value(initial, transition, log_likelihoods):
        return log_normalizer(jnp.log(initial), jnp.log(transition), log_likelihoods, method=method)

    return value


def linear_gaussian_value(form):
    method = "steady" if form == "fast" else form

    def value(model, values):
        return kalman_log_likelihood(*linear_gaussian.parts(model), values, method=method)

    return value


def comparisons(case, dtype, libraries):
    for label, module, build in (
        ("HMM", hidden_markov, hidden_markov_value),
        ("linear-Gaussian", linear_gaussian, linear_gaussian_value),
    ):
        if label == "linear-Gaussian" and case.size > 4:
            continue
        *parameters, data = module.simulate(case, dtype)
        arguments = (*(jax.tree.map(jnp.asarray, parameter) for parameter in parameters), jnp.asarray(data))
        in_axes = (*(None for _ in parameters), 0)
        entries = {}
        for name, form in zip(libraries, ("auto", *FORMS), strict=True):
            whole = jax.vmap(build(form), in_axes)
            gradient = jax.value_and_grad(
                lambda *a, whole=whole: whole(*a).sum(), argnums=tuple(range(len(parameters)))
            )
            entries[name] = Entry(jax.jit(gradient), arguments)

        def check(outputs, label=label):
            for name in FORMS:
                assert_close(f"{label}: {name}, {case}", outputs[OURS], outputs[name], TOLERANCE[dtype])

        yield Comparison(f"{label}, value and gradient", entries, check)


BENCHMARK = Benchmark(
    title="Forms of one algorithm",
    size_name="K or D",
    peers={},
    forms=FORMS,
    quick_cases=(Case(2, 1_000, 1), Case(4, 10_000, 1)),
    full_cases=(
        *(Case(size, num_steps, 1) for num_steps in (1_000, 100_000) for size in (2, 4, 10)),
        Case(50, 20_000, 1),
        Case(4, 20_000, 4),
        *(Case(size, 1_000, 256) for size in (4, 10)),
    ),
    comparisons=comparisons,
)

if __name__ == "__main__":
    run(BENCHMARK)
