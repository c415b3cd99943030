"""deer_scan against jax.lax.scan: values, derivatives, and what happens where no solver can win."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax, random
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import log_density

from tests.helpers import assert_allclose
from tsppl.nn import gru_cell, gru_cell_diagonal, init_gru_cell, init_lstm_cell, lstm_cell, lstm_cell_pairs
from tsppl.recurrence import deer_scan, linear_recurrence, lyapunov_exponent
from tsppl.recurrence.damping import filter_gains
from tsppl.recurrence.flat_step import flat_step
from tsppl.recurrence.sweeps import solve_by_sweeps

SOLVERS = ("scan", "chunked", "newton", "quasi", "elk", "quasi-elk", "jacobi", "picard")
N = 3


def gru_problem(num_steps, seed=0):
    """A GRU whose output is not its carry, so that outputs take their own path."""
    key = random.key(seed)
    params = init_gru_cell(key, N, N)

    def step_with(params):
        def step(h, x):
            h_next = gru_cell(params, h, x)
            return h_next, {"state": h_next, "mixed": h.sum() * x}

        return step

    return step_with, params, 0.1 * jnp.ones(N), random.normal(random.fold_in(key, 1), (num_steps, N))


def lstm_problem(num_steps):
    params = init_lstm_cell(random.key(0), N, N)

    def step_with(params):
        def step(carry, x):
            carry = lstm_cell(params, carry, x)
            return carry, carry[1]

        return step

    return step_with, params, (jnp.zeros(N), jnp.zeros(N)), random.normal(random.key(1), (num_steps, N))


def tanh_problem(num_steps):
    weights = 1.2 * random.orthogonal(random.key(0), N)

    def step_with(weights):
        def step(h, x):
            h = jnp.tanh(weights @ h + x)
            return h, h

        return step

    return step_with, weights, jnp.zeros(N), random.normal(random.key(1), (num_steps, N))


def logistic_problem(num_steps, rate=3.5):
    """A map with a stable cycle of length four; chaotic at a rate of 4."""

    def step_with(rate):
        def step(x, _):
            x = rate * x * (1 - x)
            return x, x

        return step

    return step_with, jnp.asarray(rate), jnp.asarray(0.3), jnp.zeros((num_steps, 0))


PROBLEMS = {"gru": gru_problem, "lstm": lstm_problem, "tanh": tanh_problem, "logistic": logistic_problem}


def gradients_and_values(scan, step_with):
    """Gradients of a loss that weighs all values differently, so that no error can cancel, beside the values."""

    def loss(params, init, xs):
        values = scan(step_with(params), init, xs)[:2]
        flat, _ = ravel_pytree(values)
        return jnp.sum(jnp.sin(jnp.arange(flat.size)) * flat**2), values

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))


QUICK = {("gru", 17), ("logistic", 1), ("logistic", 17)}
CASES = [
    pytest.param(problem, num_steps, marks=[] if (problem, num_steps) in QUICK else pytest.mark.slow)
    for problem in PROBLEMS
    for num_steps in (1, 2, 3, 17, 1000)
]


@pytest.mark.parametrize(("problem", "num_steps"), CASES)
def test_values_and_gradients_are_those_of_the_loop(problem, num_steps):
    step_with, *arguments = PROBLEMS[problem](num_steps)
    gradients, values = gradients_and_values(lax.scan, step_with)(*arguments)
    gradients, _ = ravel_pytree(gradients)
    for solver in SOLVERS:
        actual_gradients, actual = gradients_and_values(partial(deer_scan, solver=solver), step_with)(*arguments)
        assert_allclose(actual, values, rtol=0, atol=1e-8)
        error = ravel_pytree(actual_gradients)[0] - gradients
        assert jnp.abs(error).max() < 1e-6 * jnp.abs(gradients).max(), solver


@pytest.mark.parametrize("size", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_second_derivatives_and_forward_mode(size):
    """States beyond sixteen dimensions take the adjoint that stores no Jacobians."""
    weights = 0.5 * random.orthogonal(random.key(0), size)
    xs = random.normal(random.key(1), (40, size))

    def total(scan, gain):
        def step(h, x):
            h = jnp.tanh(gain * weights @ h + x)
            return h, h

        return (scan(step, jnp.zeros(size), xs)[1] ** 3).sum()

    derivatives = (jax.grad, jax.jacfwd, jax.hessian)
    for derivative in derivatives:
        expected = jax.jit(derivative(lambda gain: total(lax.scan, gain)))(0.9)
        for solver in ("chunked", "newton"):
            actual = jax.jit(
                derivative(lambda gain, solver=solver: total(lambda *a: deer_scan(*a, solver=solver), gain))
            )(0.9)
            assert_allclose(actual, expected, rtol=1e-7)


@pytest.mark.parametrize("solver", ["newton", "quasi", "jacobi", "picard"])
def test_as_many_steps_are_exact_as_there_were_sweeps(solver):
    step_with, params, init, xs = tanh_problem(30)
    expected = lax.scan(step_with(params), init, xs)[1]
    for sweeps in (1, 4, 9):
        *_, info = deer_scan(step_with(params), init, xs, solver=solver, max_iters=sweeps, tol=1e-300, return_info=True)
        assert info.iterations == sweeps
        assert not info.converged
        last = deer_scan_without_fallback(step_with(params), init, xs, solver, sweeps)
        assert_allclose(last[:sweeps], expected[:sweeps], rtol=1e-12)
        assert sweeps > 1 or np.abs(last - expected).max() > 0.1


def deer_scan_without_fallback(f, init, xs, solver, max_iters):
    """The last iterate itself, which the public function never returns."""
    flat = flat_step(f, init, xs)
    guess = jnp.zeros((len(xs), flat.start.size))
    options = {"tol": 0.0, "max_iters": max_iters, "damping": "auto", "jacobian": "products"}
    advance = lambda state, x: flat.advance(flat.captured, state, x)  # noqa: E731
    return solve_by_sweeps(solver, advance, flat.start, xs, len(xs), guess, flat.unravel, **options).states


@pytest.mark.parametrize("solver", SOLVERS[1:])
def test_chaos_is_never_answered_with_a_wrong_value(solver):
    """States that each follow from the one before to rounding may lie anywhere on a chaotic attractor."""
    step_with, rate, init, xs = logistic_problem(300, rate=4.0)
    expected = lax.scan(step_with(rate), init, xs)[1]
    _, values, info = jax.jit(
        lambda rate: deer_scan(step_with(rate), init, xs, solver=solver, return_info=True, max_iters=300)
    )(rate)
    assert info.converged or info.lyapunov_exponent > 0.5
    # The loop itself is only reproducible to rounding, which chaos doubles at every step.
    assert_allclose(values[:30], expected[:30], rtol=0, atol=1e-5)
    loop = values[1:] - 4 * values[:-1] * (1 - values[:-1])
    assert np.abs(loop).max() < 1e-12
    if not info.converged:
        nan = deer_scan(step_with(rate), init, xs, solver=solver, on_failure="nan", max_iters=300)[1]
        assert np.isnan(nan).all()


@pytest.mark.parametrize("solver", ["newton", "quasi", "elk"])
def test_a_pseudo_trajectory_of_a_chaotic_map_does_not_count_as_converged(solver):
    """The guess has residuals of 1e-13 and is far from the trajectory."""
    step_with, rate, init, xs = logistic_problem(300, rate=4.0)
    pseudo = []
    x = float(init)
    for _ in range(300):
        x = 4 * x * (1 - x) + 1e-13
        pseudo.append(x)
    _, values, info = deer_scan(
        step_with(rate), init, xs, solver=solver, guess=jnp.asarray(pseudo), tol=1e-12, return_info=True
    )
    assert not info.converged
    assert_allclose(values, lax.scan(step_with(rate), init, xs)[1], rtol=0, atol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS[1:])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_slow_departure_from_an_unstable_point(solver, dtype):
    """Beside the point, where guesses lie, states follow from one another to any tolerance; the trajectory ends elsewhere."""

    def step(x, _):
        x = jnp.tanh(1.05 * x)
        return x, x

    init = jnp.array(1e-12, dtype)
    solve = jax.jit(lambda init: deer_scan(step, init, length=2000, solver=solver)[1])
    assert_allclose(
        solve(init), lax.scan(step, init, length=2000)[1], rtol=0, atol=1e-4 if dtype == jnp.float32 else 1e-8
    )


@pytest.mark.parametrize(
    ("cell", "gain", "runs", "converged"),
    [("gru", 1, True, True), ("gru", 8, False, False), ("tanh", 1, False, True)],
    ids=["forgets", "chaotic", "cheap"],
)
def test_auto_takes_stretches_where_they_pay_and_gives_up_at_once(cell, gain, runs, converged):
    """A GRU of eight units costs enough, a net of tanh does not; where nothing is forgotten no stretch is run."""
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), init_gru_cell(random.key(0), 8, 8))
    xs = random.normal(random.key(1), (4000, 8), jnp.float32)

    def advance(h, x):
        return gru_cell(jax.tree.map(lambda leaf: gain * leaf, params), h, x) if cell == "gru" else jnp.tanh(h / 2 + x)

    def solve(xs):
        return deer_scan(lambda h, x: 2 * (advance(h, x),), jnp.zeros(8, jnp.float32), xs, return_info=True)

    _, states, info = jax.jit(solve)(xs)
    assert info.converged == converged
    assert (info.iterations > 0) == runs
    # Rounding parts chaotic trajectories, so each step is compared.
    assert_allclose(states[1:], jax.vmap(advance)(states[:-1], xs[1:]), rtol=0, atol=1e-5)
    assert_allclose(states[0], advance(jnp.zeros(8, jnp.float32), xs[0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("solver", ["chunked", "newton", "quasi", "jacobi"])
def test_states_that_are_not_numbers_on_the_way(solver):
    """The first guess, 0, is where this cell is not defined; its trajectory never comes near."""

    def step(x, u):
        x = 1 + 0.3 * jnp.log(x) + u
        return x, x

    xs = 0.2 * jnp.sin(jnp.arange(80.0))
    expected = lax.scan(step, 1.0, xs)[1]
    assert_allclose(deer_scan(step, 1.0, xs, solver=solver)[1], expected, rtol=0, atol=1e-8)


def test_easy_and_hard_members_of_a_batch():
    step_with, _, init, xs = logistic_problem(200)
    rates = jnp.array([2.5, 3.5, 4.0])

    def solve(rate):
        return deer_scan(step_with(rate), init, xs, solver="newton", return_info=True)[1:]

    values, info = jax.jit(jax.vmap(solve))(rates)
    assert info.converged[:2].all()
    for rate, row in zip(rates[:2], values, strict=False):
        assert_allclose(row, solve(rate)[0], rtol=0, atol=1e-9)
    assert_allclose(values[2], lax.scan(step_with(4.0), init, xs)[1], rtol=0, atol=1e-2)
    gradients = jax.vmap(jax.grad(lambda rate: solve(rate)[0].sum()))(rates[:2])
    expected = [jax.grad(lambda rate: lax.scan(step_with(rate), init, xs)[1].sum())(rate) for rate in rates[:2]]
    assert_allclose(gradients, jnp.stack(expected), rtol=1e-6)


def test_nested_batches_that_share_the_inputs():
    step_with, _, _, xs = tanh_problem(50)
    weights = 0.7 * random.normal(random.key(3), (2, 2, N, N)) / N**0.5
    starts = random.normal(random.key(4), (2, N))

    def solve(scan, weights, start):
        return scan(step_with(weights), start, xs)[1]

    batched = [
        jax.vmap(jax.vmap(lambda w, s, scan=scan: solve(scan, w, s), (0, None)), (0, 0))(weights, starts)
        for scan in (lax.scan, lambda *a: deer_scan(*a, solver="chunked", num_chunks=5))
    ]
    assert_allclose(batched[1], batched[0], rtol=0, atol=1e-8)


@pytest.mark.smoke
def test_what_lax_scan_accepts():
    """Reverse, no inputs, scalars of weak type, integer inputs, nothing to do."""

    def step(x, i):
        x = 0.5 * x + jnp.cos(x) + (0 if i is None else i % 3)
        return x, (x, i)

    for scan_arguments in [
        {"xs": jnp.arange(40), "reverse": True},
        {"length": 40},
        {"xs": jnp.arange(40), "length": 40},
        {"xs": jnp.arange(0)},
    ]:
        expected = lax.scan(step, 1.0, **scan_arguments)
        for solver in ("chunked", "newton", "quasi"):
            actual = deer_scan(step, 1.0, **scan_arguments, solver=solver)
            assert jax.tree.map(jnp.dtype, actual) == jax.tree.map(jnp.dtype, expected)
            assert_allclose(actual, expected, rtol=0, atol=1e-8)


@pytest.mark.smoke
def test_windows_are_solved_one_after_another():
    step_with, params, init, xs = gru_problem(50)
    expected = lax.scan(step_with(params), init, xs)
    carry, ys, info = deer_scan(step_with(params), init, xs, solver="newton", window=16, return_info=True)
    assert_allclose((carry, ys), expected, rtol=0, atol=1e-8)
    assert info.converged
    assert_allclose(
        deer_scan(step_with(params), init, xs, solver="quasi", window=16, reverse=True),
        lax.scan(step_with(params), init, xs, reverse=True),
        rtol=0,
        atol=1e-8,
    )


def test_parts_of_the_jacobian():
    step_with, params, init, xs = gru_problem(200)
    expected = lax.scan(step_with(params), init, xs)[1]["state"]
    counts = {}
    for jacobian in ("products", "hutchinson", lambda h, x: gru_cell_diagonal(params, h, x)):
        _, ys, info = deer_scan(step_with(params), init, xs, solver="quasi", jacobian=jacobian, return_info=True)
        assert_allclose(ys["state"], expected, rtol=0, atol=1e-8)
        assert info.converged
        counts[str(jacobian)[:9]] = int(info.iterations)
    assert counts["products"] == counts["<function"] <= counts["hutchinso"]

    step_with, params, init, xs = lstm_problem(200)
    expected = lax.scan(step_with(params), init, xs)[1]
    counts = []
    for jacobian in ("products", "pairs", lambda carry, x: lstm_cell_pairs(params, carry, x)):
        _, ys, info = deer_scan(step_with(params), init, xs, solver="quasi", jacobian=jacobian, return_info=True)
        assert_allclose(ys, expected, rtol=0, atol=1e-8)
        counts.append(int(info.iterations))
    assert counts[1] == counts[2] < counts[0]


def test_a_good_guess_saves_sweeps():
    step_with, params, init, xs = gru_problem(200)
    answer = lax.scan(step_with(params), init, xs)[1]["state"]
    sweeps = [
        deer_scan(step_with(params), init, xs, solver="newton", guess=guess, return_info=True)[2].iterations
        for guess in (None, answer + 1e-3)
    ]
    assert sweeps[1] < sweeps[0]


def test_memory_of_quasi_is_free_of_jacobians():
    size, num_steps = 64, 100_000
    weights = jnp.eye(size) * 0.5

    def solve(weights, xs):
        def step(h, x):
            h = jnp.tanh(weights @ h + x)
            return h, h

        return deer_scan(step, jnp.zeros(size), xs, solver="quasi")[1]

    arguments = weights, jax.ShapeDtypeStruct((num_steps, size), weights.dtype)
    for function in (solve, jax.grad(lambda *a: solve(*a).sum())):
        text = jax.jit(function).lower(*arguments).compile().as_text()
        sizes = [np.prod([int(d) for d in shape.split(",")]) for shape in re.findall(r"f64\[([0-9,]+)\]", text)]
        assert num_steps * size in sizes
        assert max(sizes) <= 4 * num_steps * size


def test_lyapunov_exponents():
    """That of the logistic map at a rate of 4 is log 2."""
    step_with, rate, init, xs = logistic_problem(4000, rate=4.0)
    assert_allclose(lyapunov_exponent(step_with(rate), init, xs), jnp.log(2.0), atol=0.02)
    from_critical_point = lyapunov_exponent(step_with(rate), 0.5, jnp.zeros((1000, 0)))
    assert np.isfinite(from_critical_point)
    step_with, params, init, xs = gru_problem(1000)
    *_, info = deer_scan(step_with(params), init, xs, solver="chunked", return_info=True)
    assert_allclose(info.lyapunov_exponent, lyapunov_exponent(step_with(params), init, xs), atol=0.05)


@pytest.mark.parametrize("method", ["sequential", "parallel"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 3), (6, 2, 2, 2)], ids=["diagonal", "full", "blocks"])
def test_linear_recurrences(shape, reverse, method):
    weights = random.normal(random.key(0), shape)
    offsets = random.normal(random.key(1), shape[:-1] if len(shape) > 2 else shape)
    init = random.normal(random.key(2), offsets.shape[1:])

    def loop(weights, offsets, init):
        states, state = [None] * 6, init
        for t in reversed(range(6)) if reverse else range(6):
            product = weights[t] * state if len(shape) == 2 else jnp.einsum("...ij,...j->...i", weights[t], state)
            state = states[t] = product + offsets[t]
        return jnp.stack(states)

    def ours(*arguments):
        return linear_recurrence(*arguments, reverse=reverse, method=method)

    assert_allclose(ours(weights, offsets, init), loop(weights, offsets, init), rtol=1e-10, atol=1e-12)
    gradients = [
        jax.grad(lambda *a, f=f: jnp.sum(jnp.cos(f(*a))), (0, 1, 2))(weights, offsets, init) for f in (ours, loop)
    ]
    assert_allclose(*gradients, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"init": 1}, TypeError, "init has dtype int"),
        ({"f": lambda x, _: ((x, x), x)}, TypeError, "same structure"),
        ({"f": lambda x, _: x}, TypeError, "must return a pair .* returns a ShapeDtypeStruct"),
        ({"f": lambda x, _: (x, x, x)}, TypeError, "must return a pair .* a tuple of 3"),
        ({"tol": -1.0}, ValueError, "tol must be a positive number"),
        ({"max_iters": 0}, ValueError, "max_iters must be a positive whole number"),
        ({"f": lambda x, _: (jnp.ones(2), x), "init": jnp.ones(3)}, TypeError, "shapes and dtypes"),
        ({"solver": "deer"}, ValueError, "solver must be one of"),
        ({"xs": None}, ValueError, "pass length"),
        ({"length": 4}, ValueError, "must agree"),
        ({"solver": "chunked", "guess": jnp.ones(5)}, ValueError, "guess is for"),
        ({"solver": "newton", "guess": jnp.ones(4)}, ValueError, "leading time axis"),
        ({"solver": "quasi", "jacobian": "pairs"}, ValueError, "two arrays of one shape"),
        ({"on_failure": "raise"}, ValueError, "on_failure"),
        ({"window": 0}, ValueError, "positive whole number"),
        ({"solver": "elk", "damping": -1.0}, ValueError, "positive"),
    ],
)
def test_bad_input_says_what_to_change(arguments, error, message):
    arguments = {"f": lambda x, u: (x / 2 + u, x), "init": 1.0, "xs": jnp.ones(5), "solver": "newton"} | arguments
    if arguments["init"] is not None and jnp.asarray(arguments["init"]).dtype == int:
        arguments["f"] = lambda x, u: (x, u)
    with pytest.raises(error, match=message):
        deer_scan(**arguments)


@pytest.mark.parametrize("solver", ["scan", "newton"])
@pytest.mark.parametrize(
    ("statement", "name"),
    [
        (lambda: numpyro.sample("noise", dist.Normal()), "noise"),
        (lambda: numpyro.deterministic("state", 0.0), "state"),
        (lambda: random.uniform(numpyro.prng_key()), "prng_key"),
    ],
)
def test_statements_of_numpyro_inside_are_refused(solver, statement, name):
    """Traced once for all steps, they would give every step the same number."""

    def model():
        noise = numpyro.sample("noises", dist.Normal().expand([5]).to_event(1))
        return deer_scan(lambda x, u: (x / 2 + u + statement(), x), jnp.zeros(()), noise, solver=solver)

    with pytest.raises(ValueError, match=f"'{name}', but is traced once for all steps"):
        numpyro.handlers.seed(model, 0)()


def test_a_model_evaluated_inside_is_its_own_affair():
    """Its sites are known to its own handlers alone, as in a sampler's step."""

    def inner(x):
        numpyro.sample("x", dist.Normal())
        numpyro.sample("y", dist.Normal(x), obs=0.5)

    def model():
        def step(x, u):
            x = x / 2 + u + 0.1 * log_density(inner, (x,), {}, {"x": x})[0]
            return x, x

        return deer_scan(step, jnp.zeros(()), jnp.ones(4), solver="newton")[1]

    states = numpyro.handlers.trace(numpyro.handlers.seed(model, 0))
    assert not states.get_trace()
    assert jnp.isfinite(model()).all()


@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 3), (7, 2, 2, 2)], ids=["diagonal", "full", "blocks"])
def test_gains_of_damped_sweeps_by_an_associative_scan(shape, monkeypatch):
    """The form for other devices, against the loop that a CPU takes."""
    weights = random.normal(random.key(0), shape)
    by_loop = filter_gains(weights, 0.3)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert_allclose(filter_gains(weights, 0.3), by_loop, rtol=1e-8, atol=1e-10)
