"""What each class answers about a series together with its hidden states, and what classes of one's own inherit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.special import logsumexp

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tsppl.distributions.hidden_markov.hidden_semi_markov import with_ages
from tsppl.distributions.hidden_markov.markov_switching import MarkovSwitching
from tsppl.inference import ProbabilityUpdate, RateUpdate, StateGibbs, data_driven_start, em
from tsppl.inference.expectation_maximization.data_driven_starts import _rough_states
from tsppl.inference.expectation_maximization.families import steps_of
from tsppl.inference.expectation_maximization.maximization import maximize_emission
from tsppl.inference.gibbs.states.conjugacy import Conjugacy

K, T = 2, 4
INITIAL, ROWS = jnp.array([0.4, 0.6]), jnp.array([[0.8, 0.2], [0.3, 0.7]])
RATE = jnp.array([1.0, 6.0])
COUNTS = jnp.array([0, 5, 7, 1])
LEVELS = dist.Normal(jnp.array([-1.0, 1.0]), 0.5)
STAYS = dist.Poisson(jnp.array([0.5, 2.0]))
SERIES = jnp.array([0.2, 1.0, -0.5, 0.3])
VECTORS = SERIES[:, None]
MATRIX, VECTOR = jnp.full((K, 1, 1), 0.5), dist.Normal(jnp.array([[-1.0], [1.0]]), 0.5).to_event(1)
FACTORS = jnp.full((K, 1, 1), 0.5)
ONE = dist.Normal(jnp.zeros(1), 1.0).to_event(1)
RULE = tsd.RecurrentTransitions(jnp.zeros((K, K)), jnp.array([[1.0], [-1.0]]))

# Model, value, and whether: states plain, density of data and states, rows of a regression, EM, starts from the data.
TABLE = {
    "HiddenMarkov": (tsd.HiddenMarkov(INITIAL, ROWS, VECTOR, num_steps=T), VECTORS, "11111"),
    "HiddenMarkov scalar": (tsd.HiddenMarkov(INITIAL, ROWS, LEVELS, num_steps=T), SERIES, "11011"),
    "HiddenSemiMarkov": (
        tsd.HiddenSemiMarkov(INITIAL, 1 - jnp.eye(K), STAYS, LEVELS, num_steps=T, max_duration=2), SERIES, "00000",
    ),
    "AutoregressiveHMM": (tsd.AutoregressiveHMM(INITIAL, ROWS, MATRIX[..., 0], LEVELS, num_steps=T), SERIES, "11111"),
    "MeanSwitchingAutoregression": (
        tsd.MeanSwitchingAutoregression(INITIAL, ROWS, RATE, MATRIX[..., 0], LEVELS, num_steps=T), SERIES, "00000",
    ),
    "SALT": (tsd.SALT(INITIAL, ROWS, FACTORS, FACTORS, FACTORS, VECTOR, num_steps=T), VECTORS, "11111"),
    "SwitchingLinearDynamics": (
        tsd.SwitchingLinearDynamics(INITIAL, ROWS, MATRIX, VECTOR, ONE, num_steps=T), VECTORS, "11100",
    ),
    "SwitchingLinearDynamics recurrent": (
        tsd.SwitchingLinearDynamics(INITIAL, RULE, MATRIX, VECTOR, ONE, num_steps=T), VECTORS, "11100",
    ),
}  # fmt: skip
NO_STATES = {"LinearGaussianChain", "LinearGaussianSSM", "MarkovChain", "NonlinearDynamics", "RecurrentSeries"}


def refuses(error, question):
    try:
        question()
    except error:
        return True
    return False


def test_every_sequence_distribution_has_a_row_or_no_states_that_are_summed_out():
    classes = {
        name for name, cls in vars(tsd).items() if isinstance(cls, type) and issubclass(cls, tsd.SequenceDistribution)
    }
    assert classes - {"SequenceDistribution"} - NO_STATES == {name.split()[0] for name in TABLE}


@pytest.mark.parametrize("name", TABLE)
def test_which_class_answers_what(name):
    model, value, expected = TABLE[name]
    states = jnp.zeros(T, jnp.int32)
    answers = (
        model.has_plain_states,
        not refuses(NotImplementedError, lambda: model.complete_log_prob(value, states)),
        not refuses(NotImplementedError, lambda: model.regression_rows(value)),
        not refuses(TypeError, lambda: steps_of(model)),
        not refuses(TypeError, lambda: _rough_states(model)) and model.has_plain_states,
    )
    assert answers == tuple(digit == "1" for digit in expected)
    log_initial, log_transition, log_likelihoods = model.potentials(value)
    chain = model.state_chain(value)
    assert log_likelihoods.shape[-1:] == log_initial.shape == log_transition.shape[-1:]
    assert log_transition.ndim == 2 + chain.varies
    assert (chain.reported is None) == model.has_plain_states


@pytest.mark.parametrize("name", ["HiddenMarkov scalar", "AutoregressiveHMM", "SwitchingLinearDynamics recurrent"])
def test_densities_of_data_and_states_sum_to_that_of_the_data(name):
    model, value, _ = TABLE[name]
    free = T - model._first_state
    paths = np.array(list(itertools.product(range(K), repeat=free)))
    paths = np.concatenate([np.full((len(paths), T - free), -1), paths], axis=1)
    terms = jax.jit(model.complete_log_prob)(jnp.broadcast_to(value, (len(paths),) + value.shape), paths)
    assert_allclose(logsumexp(terms), model.log_prob(value))


def test_the_posterior_chain_of_a_trajectory_has_its_marginals():
    noise = dist.Normal(0.0, 0.5)
    model = tsd.LinearGaussianSSM(ONE, 0.9 * jnp.eye(1), ONE, jnp.ones(1), noise, num_steps=T, mask=SERIES != 1.0)
    chain, marginals = model.posterior_chain(SERIES), model.latent_marginals(SERIES)
    assert_allclose(chain.means, marginals["trajectory_mean"])
    assert_allclose(jnp.square(chain.roots).sum(-1), jnp.square(marginals["trajectory_scale_tril"]).sum(-1))
    assert chain.weights.shape == (T - 1, 1, 1)
    assert steps_of(model)
    assert _rough_states(model)


@pytest.mark.parametrize("name", sorted(NO_STATES - {"LinearGaussianSSM"}))
def test_em_and_starts_refuse_what_they_do_not_know(name):
    stranger = object.__new__(getattr(tsd, name))
    assert refuses(TypeError, lambda: steps_of(stranger))
    assert refuses(TypeError, lambda: _rough_states(stranger))


def test_no_transition_after_the_end_of_a_series_counts():
    whole = tsd.HiddenMarkov(INITIAL, ROWS, LEVELS, num_steps=T, lengths=jnp.array(2))
    short = tsd.HiddenMarkov(INITIAL, ROWS, LEVELS, num_steps=2)
    states = jnp.array([0, 1, 1, 0])
    assert_allclose(whole.complete_log_prob(SERIES, states), short.complete_log_prob(SERIES[:2], states[:2]))


class Watched(tsd.HiddenMarkov):
    """A user's own hidden Markov model, with a question of its own."""

    def time_in_states(self, value):
        """Expected number of steps in each state."""
        return self.latent_marginals(value)["state_probs"].sum(-2)


class Aged(tsd.HiddenMarkov):
    """A user's own model whose states last for other than geometric times."""

    def state_chain(self, value=None):
        """States and their ages."""
        return with_ages(super().state_chain(value), STAYS, 2)


def watched(cls, rate=RATE, rows=ROWS):
    return cls(INITIAL, rows, dist.Poisson(rate), num_steps=T)


def test_a_class_of_ones_own_keeps_em_and_starts():
    own, plain = watched(Watched), watched(tsd.HiddenMarkov)
    found, wanted = (em(model, COUNTS, num_iters=3, tol=-1.0).distribution for model in (own, plain))
    assert isinstance(found, Watched)
    assert_allclose(found.time_in_states(COUNTS).sum(), T)
    assert_allclose(found.emission.rate, wanted.emission.rate)
    started = [data_driven_start(jax.random.key(0), model, COUNTS) for model in (own, plain)]
    assert isinstance(started[0], Watched)
    assert_allclose(started[0].emission.rate, started[1].emission.rate)


def of_class(cls):
    def model(counts):
        rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones((K, K))).to_event(1))
        rate = numpyro.sample("rate", dist.Gamma(jnp.array([1.0, 5.0])).to_event(1))
        numpyro.sample("y", watched(cls, rate, rows), obs=counts)

    return model


UPDATES = [ProbabilityUpdate("rows", "transition_probs"), RateUpdate("rate")]


def test_a_class_of_ones_own_keeps_its_gibbs_updates():
    conjugacy = Conjugacy(of_class(Watched), (COUNTS,), {})
    for update in UPDATES:
        conjugacy.check(update, "y")


def test_a_class_whose_states_are_not_plain_is_refused_by_name():
    model = watched(Aged)
    semi = tsd.HiddenSemiMarkov(INITIAL, 1 - jnp.eye(K), STAYS, dist.Poisson(RATE), num_steps=T, max_duration=2)
    assert_allclose(model.log_prob(COUNTS), semi.log_prob(COUNTS))
    assert model.latent_marginals(COUNTS)["state_probs"].shape == (T, K)
    with pytest.raises(TypeError, match="states of a Aged are no Markov chain by themselves"):
        em(model, COUNTS)
    with pytest.raises(NotImplementedError, match="states of a Aged are no Markov chain by themselves"):
        model.complete_log_prob(COUNTS, jnp.zeros(T, int))
    block = StateGibbs(of_class(Aged), "y", UPDATES, check=False)
    with pytest.raises(ValueError, match="site 'y' is a Aged, observed: a Gibbs block of states needs"):
        block.init(jax.random.key(0), 0, {"rows": ROWS, "rate": RATE}, (COUNTS,), {})


def test_a_semi_markov_model_is_no_hidden_markov_model():
    assert not issubclass(tsd.HiddenSemiMarkov, tsd.HiddenMarkov)
    assert not issubclass(tsd.MeanSwitchingAutoregression, tsd.AutoregressiveHMM)
    assert issubclass(tsd.HiddenSemiMarkov, MarkovSwitching)


class SamePoisson(dist.Poisson):
    """A family of one's own that keeps the density."""


class HalfPoisson(dist.Poisson):
    """A family of one's own with a density of its own: counts come twice as often."""

    def log_prob(self, value):
        """Of a Poisson distribution of twice the rate."""
        return dist.Poisson(2 * self.rate).log_prob(value)


def test_an_emission_of_ones_own_keeps_the_exact_step_where_it_keeps_the_density():
    weights = jnp.ones((T, 1))
    fitted = [maximize_emission(cls(jnp.array([2.0])), COUNTS, weights) for cls in (SamePoisson, HalfPoisson)]
    assert_allclose(fitted[0].rate, COUNTS.mean(keepdims=True), rtol=1e-12)
    assert_allclose(fitted[1].rate, COUNTS.mean(keepdims=True) / 2, rtol=1e-3)


def test_transitions_that_read_the_series_need_all_of_it():
    """Whatever the class: a mask and left-out terms would need the moves averaged over what was not seen. It may end early."""
    model = tsd.HiddenMarkov(INITIAL, ROWS, VECTOR, num_steps=T)
    model.transition_probs = RULE
    assert jnp.isfinite(model.log_prob(VECTORS))
    with pytest.raises(NotImplementedError, match="left-out terms have no closed form"):
        model.log_prob_left_out(VECTORS)
    masked = tsd.HiddenMarkov(INITIAL, ROWS, VECTOR, num_steps=T, mask=np.array([True, True, False, True]))
    masked.transition_probs = RULE
    with pytest.raises(NotImplementedError, match="must be observed"):
        masked.log_prob(VECTORS)
    short, early = (
        tsd.HiddenMarkov(INITIAL, ROWS, VECTOR, num_steps=n, lengths=end) for n, end in ((2, None), (T, np.array(2)))
    )
    short.transition_probs = early.transition_probs = RULE
    assert_allclose(early.log_prob(VECTORS.at[2:].set(jnp.nan)), short.log_prob(VECTORS[:2]))
