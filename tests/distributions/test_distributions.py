"""Laws that every sequence distribution obeys, over the rows of `distribution_table.py`.

What a row needs compiled is compiled once and shared: compile time is what these tests cost.
"""

import inspect
import pickle
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from jax.flatten_util import ravel_pytree
from numpyro import handlers, optim
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.util import log_density

import tsppl.distributions as tsd
from tests.distribution_table import NUM_STEPS, ROWS, WITHOUT_ROW
from tests.helpers import assert_allclose

KEY = random.key(0)
CLASSES = sorted({type(row.distribution) for row in ROWS}, key=lambda cls: cls.__name__)


def select(condition=lambda row: True):
    """Parametrise a test over the rows that satisfy a condition."""
    rows = []
    for row in filter(condition, ROWS):
        marks = [mark for mark, wanted in ((pytest.mark.smoke, row.smoke), (pytest.mark.slow, row.slow)) if wanted]
        rows.append(pytest.param(row, id=row.name, marks=marks))
    return pytest.mark.parametrize("row", rows)


every_row = select()
one_row_of_each_class = select(lambda row: row.name == type(row.distribution).__name__)
with_missing_entries = select(lambda row: row.distribution.observed_entries() is not None)


def ask(row, distribution, value, key):
    """Every question of the contract that the row answers."""
    answers = {
        "scored": distribution.scored_steps(value),
        "log_prob": distribution.log_prob(value),
        "steps": distribution.log_prob_steps(value),
    }
    if row.left_out:
        answers["left_out"] = distribution.log_prob_left_out(value)
    if row.completes:
        answers["completed"] = distribution.sample_missing(key, value)
    if row.latents:
        answers["latents"] = distribution.sample_latents(key, value)
        answers["mode"] = distribution.latent_mode(value)
        answers["smoothed"] = distribution.latent_marginals(value)
        answers["filtered"] = distribution.latent_marginals(value, given="past")
    return answers


@cache
def answers_of(row):
    """The answers, with the distribution as an argument of `jit`."""
    return jax.jit(lambda distribution, value: ask(row, distribution, value, KEY))(row.distribution, row.value)


@cache
def value_and_gradient_of(row):
    """Log density and its gradient in the parameters; the distribution is built inside `jit`, as in a model."""
    return jax.jit(jax.value_and_grad(lambda parameters, value: row.build(parameters).log_prob(value)))


@cache
def draws_of(row):
    """Series and latents drawn together, and the gradient of the log density at each series."""
    # Many parallel scans at once can block the thread pool of XLA on a CPU for good (jaxlib 0.10).
    num_draws = 500 if row.distribution.method == "parallel" else 4000

    def draw(parameters):
        values, latents = row.build(parameters).sample_with_latents(KEY, (num_draws,))
        gradient = jax.grad(lambda parameters, value: row.build(parameters).log_prob(value))
        return values, latents, jax.vmap(gradient, in_axes=(None, 0))(parameters, values)

    return jax.jit(draw)(row.parameters())


def entries_observed(row):
    entries = row.distribution.observed_entries()
    return np.broadcast_to(True if entries is None else entries, row.value.shape)


def stacked(*trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def test_every_public_class_has_a_row_or_a_reason():
    """A new class of `tsppl.distributions` is one more row, or says in `WITHOUT_ROW` why it is none."""
    public = {name for name, member in vars(tsd).items() if isinstance(member, type)}
    with_row = {cls.__name__ for cls in CLASSES}
    assert public - with_row == WITHOUT_ROW.keys()


# Answers


@every_row
def test_shapes_and_dtypes(row):
    distribution, answers = row.distribution, answers_of(row)
    assert distribution.batch_shape == ()
    assert distribution.event_shape[0] == distribution.num_steps == NUM_STEPS
    assert answers["log_prob"].shape == ()
    assert answers["scored"].shape == answers["steps"].shape == (NUM_STEPS,)
    assert answers["scored"].dtype == bool
    latents = answers.get("latents", {})
    assert set(latents) == set(row.latents)
    for name, array in latents.items():
        assert array.shape[0] == NUM_STEPS
        assert array.shape == answers["mode"][name].shape
        assert array.dtype == answers["mode"][name].dtype == (jnp.int32 if name == "states" else float)


@every_row
def test_batch_and_float32(row):
    """With batched float32 parameters every answer has the batch in front; with float32 data too it is float32."""
    value = row.value.astype(np.float32) if row.value.dtype == float else row.value
    parameters = row.parameters(batch=(2,), dtype=np.float32)
    answers = jax.eval_shape(lambda p, y: ask(row, row.build(p), y, KEY), parameters, value)
    for single, batched in zip(jax.tree.leaves(answers_of(row)), jax.tree.leaves(answers), strict=True):
        assert batched.shape == (2,) + single.shape
        assert value.dtype == int or batched.dtype != jnp.float64


@every_row
def test_any_parameter_may_carry_the_batch(row):
    for name in row.shapes:
        parameters = row.parameters() | {name: row.parameters(batch=(2,))[name]}
        shape = jax.eval_shape(lambda p, y: row.build(p).log_prob(y), parameters, row.value).shape
        assert shape == (2,), name


@one_row_of_each_class
def test_jit_changes_nothing(row):
    """The distribution as an argument of `jit`, built inside it, and without it."""
    eager = row.distribution.log_prob(row.value)
    assert_allclose(answers_of(row)["log_prob"], eager)
    assert_allclose(value_and_gradient_of(row)(row.parameters(), row.value)[0], eager)


@every_row
def test_steps_sum_to_the_whole(row):
    answers = answers_of(row)
    scored = answers["scored"]
    assert scored.any()
    assert_allclose(answers["steps"].sum(), answers["log_prob"])
    assert ((answers["steps"] != 0) == scored).all()


@every_row
def test_left_out_terms(row):
    """Zero where not scored; where masking is exact, a term is what masking its step takes away."""
    if not row.left_out:
        with pytest.raises(NotImplementedError, match="log_prob_steps"):
            row.distribution.log_prob_left_out(row.value)
        return
    answers = answers_of(row)
    assert ((answers["left_out"] != 0) == answers["scored"]).all()
    if row.left_out == "mask":
        others = ~np.eye(NUM_STEPS, dtype=bool).reshape((NUM_STEPS, NUM_STEPS) + (1,) * (row.value.ndim - 1))
        masks = entries_observed(row) & others
        without = jax.jit(jax.vmap(lambda mask: row.build(row.parameters(), mask=mask).log_prob(row.value)))(masks)
        assert_allclose(answers["left_out"], answers["log_prob"] - without)


@select(lambda row: "states" in row.latents)
def test_state_probabilities(row):
    answers = answers_of(row)
    smoothed, filtered = answers["smoothed"]["state_probs"], answers["filtered"]["state_probs"]
    has_state = answers["latents"]["states"] >= 0
    assert has_state[-1]
    assert_allclose(smoothed[has_state].sum(-1), 1.0)
    assert_allclose(filtered[has_state].sum(-1), 1.0)
    assert_allclose(filtered[-1], smoothed[-1])
    assert jnp.isnan(smoothed[~has_state]).all()
    assert ((answers["mode"]["states"] >= 0) == has_state).all()


@every_row
def test_what_cannot_be_answered_is_refused(row):
    distribution = row.distribution
    if not row.latents:
        for question in (distribution.latent_marginals, distribution.latent_mode):
            with pytest.raises(NotImplementedError, match=type(distribution).__name__):
                question(row.value)
        with pytest.raises(NotImplementedError, match=type(distribution).__name__):
            distribution.sample_latents(KEY, row.value)
    else:
        with pytest.raises(ValueError, match="given must be"):
            distribution.latent_marginals(row.value, given="future")
    if not row.sampleable:
        with pytest.raises(NotImplementedError, match="initial"):
            distribution.sample(KEY)
    if not row.completes:
        with pytest.raises(NotImplementedError, match="missing"):
            distribution.sample_missing(KEY, row.value)
    with pytest.raises(ValueError, match="must end in the event shape"):
        distribution.log_prob(row.value[:-1])


@select(lambda row: row.completes)
def test_observed_entries_are_kept_and_the_others_drawn(row):
    completed, observed = answers_of(row)["completed"], entries_observed(row)
    assert completed.dtype == row.value.dtype
    np.testing.assert_array_equal(completed[observed], row.value[observed])
    if row.value.dtype == float:
        assert (completed != row.value)[~observed].all()


@select(lambda row: row.completes)
def test_forecast(row):
    """By a distribution that spans the future, and by a number of steps where nothing varies in time."""
    distribution, event = row.distribution, row.distribution.event_shape[1:]
    future = jax.eval_shape(lambda value: distribution.forecast(KEY, value), row.value[:-2])
    assert future["value"].shape == (2,) + event
    assert set(future) == {"value", *row.latents}
    assert all(array.shape[0] == 2 for array in future.values())
    if distribution.time_varying:
        with pytest.raises(ValueError, match="varies in time"):
            distribution.forecast(KEY, row.value, 2)
    else:
        longer = jax.eval_shape(lambda value: distribution.forecast(KEY, value, 4), row.value)
        assert longer["value"].shape == (4,) + event
    with pytest.raises(ValueError, match=r"T \+ h steps"):
        distribution.forecast(KEY, row.value)


# Derivatives and missing values


@every_row
def test_gradient_equals_finite_differences(row):
    function = value_and_gradient_of(row)
    point, unravel = ravel_pytree(row.parameters())
    direction = np.random.default_rng(2).normal(size=point.shape)
    slope = direction @ ravel_pytree(function(row.parameters(), row.value)[1])[0]
    ahead, behind = (function(unravel(point + step * direction), row.value)[0] for step in (1e-5, -1e-5))
    assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-7)


@with_missing_entries
def test_missing_entries_may_hold_anything(row):
    desired = value_and_gradient_of(row)(row.parameters(), row.value)
    assert all(jnp.isfinite(array).all() for array in jax.tree.leaves(desired))
    for filling in [-7, 10**6] if row.value.dtype == int else [np.nan, np.inf, -1e30, 0.0]:
        value = np.where(entries_observed(row), row.value, filling).astype(row.value.dtype)
        assert_allclose(value_and_gradient_of(row)(row.parameters(), value), desired)
        row.distribution.check_value(value)


# Draws


@select(lambda row: row.sampleable)
def test_draws(row):
    values, latents, _ = draws_of(row)
    assert values.shape[1:] == row.distribution.event_shape
    assert jnp.issubdtype(values.dtype, np.integer if row.value.dtype == int else float)
    assert all(array.shape[1] == NUM_STEPS for array in latents.values())
    assert jax.vmap(row.distribution.support)(values).all()
    assert len(np.unique(np.asarray(values[:100]).reshape(100, -1), axis=0)) > 1


@select(lambda row: row.sampleable)
def test_score_of_draws_has_mean_zero(row):
    """`E grad log p(y) = 0` for y drawn from p, in every parameter: `sample` and `log_prob` are the same model."""
    for name, score in draws_of(row)[2].items():
        error = score.std(0) / np.sqrt(len(score))
        assert (error > 0).any(), f"{name} has no effect"
        assert (abs(score.mean(0)) <= 4.5 * error + 1e-12).all(), name


# Batches


@every_row
def test_batch_equals_a_loop(row):
    """Batched parameters, and `vmap` over distributions, against one series at a time."""
    single = [row.parameters(seed) for seed in (0, 1)]
    values = [row.value, row.draw_value(np.random.default_rng(3), row.value.shape)]
    desired = [value_and_gradient_of(row)(*pair)[0] for pair in zip(single, values, strict=True)]

    @jax.jit
    def batched(parameters, values, distributions):
        each = jax.vmap(lambda distribution, y: distribution.log_prob(y))(distributions, values)
        return row.build(parameters).log_prob(values), each

    distributions = stacked(*(row.build(parameters) for parameters in single))
    for actual in batched(stacked(*single), np.stack(values), distributions):
        assert_allclose(actual, np.array(desired))


@one_row_of_each_class
def test_wrappers(row):
    """`expand`, `to_event` and `mask` act as on any distribution."""
    single = [row.parameters(seed) for seed in (0, 1)]
    terms = np.array([value_and_gradient_of(row)(parameters, row.value)[0] for parameters in single])

    @jax.jit
    def wrapped(parameters, value):
        distribution = row.build(parameters)
        return {
            "expand": distribution.expand((3, 2)).log_prob(value),
            "to_event": distribution.to_event(1).log_prob(value),
            "mask": distribution.mask(np.array([False, True])).log_prob(value),
        }

    desired = {"expand": np.stack([terms] * 3), "to_event": terms.sum(), "mask": terms * [0.0, 1.0]}
    assert_allclose(wrapped(stacked(*single), np.stack([row.value] * 2)), desired)


@every_row
def test_expand_keeps_the_class(row):
    expanded = row.distribution.expand((2, 3))
    assert type(expanded) is type(row.distribution)
    assert expanded.batch_shape == (2, 3)
    assert expanded.event_shape == row.distribution.event_shape
    assert expanded.expand((2, 3)) is expanded
    assert expanded.expand((4, 2, 3)).batch_shape == (4, 2, 3)
    with pytest.raises(ValueError, match="cannot expand"):
        expanded.expand((5, 3))
    if row.sampleable:
        shape = jax.eval_shape(lambda key: expanded.sample(key, (4,)), KEY).shape
        assert shape == (4, 2, 3) + expanded.event_shape


@one_row_of_each_class
def test_a_plate_holds_the_class_itself(row):
    """With parameters of each series, with shared parameters, and under a mask over series."""
    value = np.stack([row.value] * 2)
    sites = []

    def model(distribution, keep):
        with numpyro.plate("series", 2), handlers.mask(mask=keep):
            numpyro.sample("y", distribution, obs=value)

    @jax.jit
    def densities(parameters, keep):
        shared = jax.tree.map(lambda array: array[0], parameters)
        results = []
        for distribution in (row.build(parameters), row.build(shared)):
            density, trace = log_density(model, (distribution, keep), {}, {})
            results.append(density)
            sites.append(trace["y"]["fn"].base_dist)
        return results

    single = [row.parameters(seed) for seed in (0, 1)]
    terms = [float(value_and_gradient_of(row)(parameters, row.value)[0]) for parameters in single]
    for keep in (np.array([True, True]), np.array([False, True])):
        assert_allclose(densities(stacked(*single), keep), [keep @ terms, keep.sum() * terms[0]])
    for fn in sites:
        assert type(fn) is type(row.distribution)
        assert fn.batch_shape == (2,)


# Plumbing


@every_row
def test_pickle(row):
    expanded = row.distribution.expand((2,))
    copy = pickle.loads(pickle.dumps(expanded))
    assert type(copy) is type(expanded)
    assert (copy.batch_shape, copy.event_shape) == (expanded.batch_shape, expanded.event_shape)
    assert jax.tree.structure(copy) == jax.tree.structure(expanded)
    assert jax.tree.all(jax.tree.map(np.array_equal, copy, expanded))


@every_row
def test_every_array_is_a_pytree_leaf(row):
    fields = type(row.distribution).gather_pytree_data_fields()
    static = type(row.distribution).gather_pytree_aux_fields()
    for name, attribute in vars(row.distribution).items():
        if not all(isinstance(leaf, (bool, int, str)) for leaf in jax.tree.leaves(attribute)):
            assert name in fields, f"{name} must be in pytree_data_fields"
        assert name in fields or name in static or name.startswith("_"), f"{name} is lost by jit"
    leaves, structure = jax.tree.flatten(row.distribution)
    rebuilt = jax.tree.unflatten(structure, leaves)
    assert rebuilt.batch_shape == row.distribution.batch_shape
    assert vars(rebuilt).keys() == vars(row.distribution).keys() | set(fields) | set(static)


@every_row
def test_no_attribute_hides_one_of_numpyro(row):
    assert not {name for name in vars(row.distribution) if not name.startswith("_")} & set(dir(dist.Distribution))


@every_row
def test_reparametrised_and_discrete_only_where_it_is(row):
    reparametrised = ("LinearGaussianChain", "NonlinearDynamics")
    assert row.distribution.has_rsample == (type(row.distribution).__name__ in reparametrised)
    assert row.distribution.is_discrete == (row.value.dtype == int)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_same_keywords_everywhere(cls):
    keywords = inspect.signature(cls).parameters
    wanted = {"num_steps", "validate_args"}
    if cls.__name__ in ("NonlinearDynamics", "RecurrentSeries"):
        # Their inputs always vary in time.
        wanted |= {"inputs", "batch_shape", "solver"}
    else:
        wanted |= {"time_varying", "method"} - ({"method"} if cls.__name__ == "MarkovChain" else set())
    if hasattr(cls, "num_states"):
        wanted |= {"initial_logits", "transition_logits"}
    if cls.__name__ not in ("MarkovChain", "SwitchingLinearDynamics", "LinearGaussianChain", "NonlinearDynamics"):
        wanted |= {"mask", "lengths"}
    assert wanted <= keywords.keys()
    for name in wanted:
        assert keywords[name].kind is inspect.Parameter.KEYWORD_ONLY
    assert keywords["num_steps"].default is inspect.Parameter.empty
    assert cls.__doc__
    assert ">>>" in cls.__doc__


@select(lambda row: row.smoke)
def test_svi_with_a_subsampled_plate(row):
    data = np.stack([row.draw_value(np.random.default_rng(seed), row.value.shape) for seed in range(4)])

    def model(data):
        parameters = {
            name: numpyro.sample(name, dist.Normal(0.0, 1.0).expand(shape).to_event())
            for name, shape in row.shapes.items()
        }
        with numpyro.plate("series", 4, subsample_size=2) as index:
            numpyro.sample("y", row.build(parameters), obs=data[index])

    svi = SVI(model, AutoNormal(model), optim.Adam(0.05), Trace_ELBO())
    losses = jax.jit(lambda data: svi.run(KEY, 200, data, progress_bar=False).losses)(data)
    assert jnp.isfinite(losses).all()
    assert losses[-50:].mean() < losses[:50].mean()
