"""Bad input gives a clear error that says what to change, never a wrong number: one row for each mistake."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density

import tsppl
import tsppl.distributions as tsd

K, T = 3, 6
PI, P = jnp.full(K, 1 / K), jnp.full((K, K), 1 / K)
RATES = dist.Poisson(jnp.arange(1.0, 4.0))
COUNTS = np.arange(T)
LEVELS = dist.Normal(jnp.zeros(K), 1.0)


def hmm(emission=RATES, initial_probs=PI, transition_probs=P, **options):
    return tsd.HiddenMarkov(initial_probs, transition_probs, emission, num_steps=options.pop("num_steps", T), **options)


def autoregression(num_lags=2, **options):
    return tsd.AutoregressiveHMM(PI, P, jnp.zeros((K, num_lags)), LEVELS, num_steps=T, **options)


def local_level(**options):
    one = dist.Normal(jnp.zeros(1), 1.0).to_event(1)
    defaults = {
        "initial": one,
        "transition_matrix": jnp.eye(1),
        "transition_noise": one,
        "emission_matrix": jnp.ones(1),
    }
    return tsd.LinearGaussianSSM(**(defaults | options), emission_noise=dist.Normal(0.0, 1.0), num_steps=T)


def with_nan(step):
    return np.where(np.arange(T) == step, np.nan, 1.0)


MISTAKES = {
    "emission lacks the state axis": (
        lambda: hmm(dist.Poisson(jnp.ones((4, T)))),
        ValueError,
        r"batch shape \(4, 6\); its last axis must be the 3 states.*\(4, 6, 3\).*time_varying=\('emission',\)",
    ),
    "time axis of the transitions not declared": (
        lambda: hmm(transition_probs=jnp.full((T - 1, K, K), 1 / K)),
        ValueError,
        r"transition_probs has 5 entries.*num_steps is 6.*add 'transition_probs' to time_varying",
    ),
    "time axis of the emission not declared": (
        lambda: hmm(dist.Poisson(jnp.ones((T, K)))),
        ValueError,
        "add 'emission' to time_varying",
    ),
    "T rows of transitions where T - 1 are needed": (
        lambda: hmm(transition_probs=jnp.full((T, K, K), 1 / K), time_varying=("transition_probs",)),
        ValueError,
        "has 6 steps; 5 are needed.*drop the first row",
    ),
    "T rows of transitions, not declared": (
        lambda: hmm(transition_probs=jnp.full((T, K, K), 1 / K)),
        ValueError,
        "add 'transition_probs' to time_varying",
    ),
    "channels that are not an event": (lambda: hmm(dist.Normal(jnp.zeros((K, 2)), 1.0)), ValueError, r"to_event\(1\)"),
    "unknown name in time_varying": (lambda: hmm(time_varying=("rate",)), ValueError, "no argument 'rate'"),
    "time_varying is a string": (lambda: hmm(time_varying="emission"), TypeError, r"time_varying=\('emission',\)"),
    "emission is an array": (lambda: hmm(jnp.ones(K)), TypeError, "emission must be a NumPyro distribution"),
    "initial and transition disagree": (lambda: hmm(initial_probs=jnp.ones(2) / 2), ValueError, r"\(2,\).*\(3, 3\)"),
    "rows do not sum to one": (
        lambda: hmm(transition_probs=P.at[1, 0].set(0.3)),
        ValueError,
        "transition_probs must be probabilities: a row sums to 0.96.* at state 1",
    ),
    "both probabilities and logits": (lambda: hmm(transition_logits=P), ValueError, "not both"),
    "batches that do not fit": (
        lambda: hmm(dist.Poisson(jnp.ones((4, K))), initial_probs=jnp.full((5, K), 1 / K)),
        ValueError,
        r"\(4,\).*\(5,\)",
    ),
    "mask of the wrong length": (lambda: hmm(mask=np.ones(T + 1, bool)), ValueError, r"mask has shape \(7,\)"),
    "length zero": (lambda: hmm(lengths=np.array([3, 0])), ValueError, "lengths is 0 at index .1,"),
    "length beyond the series": (lambda: hmm(lengths=np.array([T + 1])), ValueError, "lengths is 7 at index .0,"),
    "NaN in the logits of transitions": (
        lambda: hmm(transition_probs=None, transition_logits=P.at[2, 1].set(jnp.nan)),
        ValueError,
        r"transition_logits is NaN at index \(2, 1\).*covariates cannot be masked",
    ),
    "NaN in a parameter of the emission": (
        lambda: hmm(dist.Poisson(jnp.array([1.0, jnp.nan, 2.0]))),
        ValueError,
        "Poisson distribution got invalid rate",
    ),
    "neither probabilities nor logits": (lambda: hmm(initial_probs=None), ValueError, "either initial_probs or initial_logits"),
    "lengths that are not whole": (lambda: hmm(lengths=np.array([3.0])), TypeError, "lengths must be integers"),
    "mask of another batch": (
        lambda: hmm(dist.Poisson(jnp.ones((4, K))), mask=np.ones((3, T), bool)),
        ValueError,
        r"mask has batch shape \(3,\).*\(4,\)",
    ),
    "lengths of another batch": (
        lambda: hmm(dist.Poisson(jnp.ones((4, K))), lengths=np.array([T, T])),
        ValueError,
        r"lengths has batch shape \(2,\).*\(4,\)",
    ),
    "a time axis that is not there": (
        lambda: hmm(time_varying=("transition_probs",)),
        ValueError,
        r"transition_probs is named in time_varying.*\(3, 3\).*\(..., 5, 3, 3\)",
    ),
    "a state beyond the last": (
        lambda: tsd.MarkovChain(PI, P, num_steps=T).log_prob(COUNTS),
        ValueError,
        "state 3 at step 3 is not one of the 3 states, 0 to 2",
    ),
    "states that are not whole": (
        lambda: tsd.MarkovChain(PI, P, num_steps=T).log_prob(np.zeros(T)),
        TypeError,
        "integer states",
    ),
    "no stream": (lambda: tsd.Streams(), ValueError, "at least one stream"),
    "a stream of matrices": (
        lambda: tsd.Streams(a=dist.Normal(jnp.zeros((2, 2)), 1.0).to_event(2)),
        ValueError,
        r"stream 'a' has event shape \(2, 2\)",
    ),
    "unknown method": (lambda: hmm(method="fast"), ValueError, "method must be one of"),
    "NaN that the mask calls observed": (
        lambda: hmm(LEVELS).log_prob(np.stack([np.ones(T), with_nan(4)])),
        ValueError,
        "NaN at sequence 1, step 4.*tsppl.nan_to_mask",
    ),
    "counts that are not whole": (lambda: hmm().log_prob(COUNTS + 0.5), ValueError, "step 0 .value 0.5.*standardise"),
    "negative counts": (lambda: hmm().log_prob(COUNTS - 2), ValueError, "step 0 .value -2.*Counts"),
    "angles in degrees": (
        lambda: hmm(dist.VonMises(0.0, jnp.ones(K))).log_prob(np.linspace(0, 180, T)),
        ValueError,
        "degrees",
    ),
    "zero for a positive family": (
        lambda: hmm(dist.Gamma(2.0, jnp.ones(K))).log_prob(np.array([1.0, 0.0, 1, 1, 1, 1])),
        ValueError,
        "step 1 .value 0.0.*Gamma has no mass at 0: wrap it, tsd.ZeroInflated",
    ),
    "an angle in degrees in one of several streams": (
        lambda: hmm(tsd.Streams(step=dist.Gamma(2.0, jnp.ones(K)), turn=tsd.WrappedCauchy(0.0, 0.5))).log_prob(
            np.stack([np.ones(T), 45.0 * np.arange(T)], -1)
        ),
        ValueError,
        "step 1, channel 1 .value 45.0.*WrappedCauchy.*degrees",
    ),
    "zero inflation of counts": (
        lambda: tsd.ZeroInflated(dist.Poisson(1.0), 0.5),
        ValueError,
        "base is a Poisson.*ZeroInflatedDistribution",
    ),
    "a negative rate": (
        lambda: tsd.transition_probs_from_rates(jnp.array([[0.0, -1.0], [2.0, 0.0]]), jnp.ones(2)),
        ValueError,
        "rates has the entry -1.0",
    ),
    "value of the wrong shape": (lambda: hmm().log_prob(COUNTS[:-1]), ValueError, r"\(5,\).*event shape \(6,\)"),
    "value of another batch": (
        lambda: hmm().expand((4,)).log_prob(np.stack([COUNTS] * 3)),
        ValueError,
        r"\(3, 6\).*\(4,\)",
    ),
    "expand to a smaller batch": (lambda: hmm().expand((4,)).expand((2,)), ValueError, r"\(4,\) to \(2,\)"),
    "entries missing in dependent components": (
        lambda: hmm(dist.Dirichlet(jnp.ones((K, 2))), mask=np.ones((T, 2), bool)).log_prob(np.full((T, 2), 0.5)),
        NotImplementedError,
        "neither independent nor Gaussian",
    ),
    "forecast without the future of a covariate": (
        lambda: hmm(dist.Poisson(jnp.ones((T, K))), time_varying=("emission",)).forecast(jax.random.key(0), COUNTS, 2),
        ValueError,
        r"emission varies in time.*6 \+ 2 steps",
    ),
    "more lags than steps": (lambda: autoregression(T), ValueError, "6 lags and num_steps is 6"),
    "weights of another size": (
        lambda: tsd.AutoregressiveHMM(PI, P, jnp.zeros((K, 1, 2, 2)), LEVELS, num_steps=T),
        ValueError,
        r"weights.*\(3, 1, 2, 2\).*event shape \(\).*\(3, L\) for a scalar series",
    ),
    "initial of the wrong event": (
        lambda: autoregression(initial=dist.Normal(0.0, 1.0)),
        ValueError,
        r"initial has event shape \(\); with 2 lags it must be \(2,\)",
    ),
    "fewer steps conditioned on than lags": (lambda: autoregression(num_conditioned=1), ValueError, "num_conditioned"),
    "filtered marginals by another name": (lambda: hmm().latent_marginals(COUNTS, given="filtered"), ValueError, "'past'"),
    "noise that is not Gaussian": (
        lambda: local_level(transition_noise=dist.StudentT(4.0, jnp.zeros(1), 1.0).to_event(1)),
        TypeError,
        "transition_noise|Gaussian|MultivariateNormal",
    ),
    "noise of scale zero": (
        lambda: local_level(transition_noise=dist.Normal(jnp.zeros(1), 0.0, validate_args=False).to_event(1)),
        ValueError,
        "noise_matrix",
    ),
    "transition matrix of another size": (lambda: local_level(transition_matrix=jnp.eye(2)), ValueError, r"\(2, 2\)"),
    "no left-out terms": (
        lambda: tsd.AutoregressiveHMM(PI, P, jnp.zeros((K, 1)), dist.Laplace(0.0, jnp.ones(K)), num_steps=T)
        .log_prob_left_out(np.ones(T)),
        NotImplementedError,
        "log_prob_steps gives one-step-ahead terms",
    ),
    "padding one sequence": (lambda: tsppl.pad(jnp.ones(5)), ValueError, "pad needs lists of sequences"),
    "padding of unequal variables": (lambda: tsppl.pad([[1, 2], [3]], [[1], [2]]), ValueError, "different lengths"),
}  # fmt: skip


@pytest.mark.smoke
@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_named_with_what_to_do(name):
    attempt, error, message = MISTAKES[name]
    with pytest.raises(error, match=f"(?s){message}"):
        attempt()


def test_series_without_an_observed_step_warns():
    with pytest.warns(UserWarning, match="sequence 1 has no observed step"):
        hmm(mask=np.array([[True] * T, [False] * T]))


def test_mistakes_in_data_are_found_under_mcmc_too():
    def model(value):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0).expand([K]).to_event(1))
        numpyro.sample("y", hmm(dist.Poisson(rate)), obs=value)

    with pytest.raises(ValueError, match="standardise"):
        MCMC(NUTS(model), num_warmup=1, num_samples=1, progress_bar=False).run(jax.random.key(0), COUNTS + 0.5)


def test_a_latent_series_whose_support_depends_on_the_state_is_refused():
    def model():
        numpyro.sample("x", hmm(dist.Uniform(0.0, jnp.arange(1.0, 4.0))))

    with pytest.raises(NotImplementedError, match="support of this emission depends on the state"):
        MCMC(NUTS(model), num_warmup=1, num_samples=1, progress_bar=False).run(jax.random.key(0))


def test_a_plate_of_another_size_is_named():
    def model(value):
        with numpyro.plate("sessions", 4):
            numpyro.sample("y", hmm(), obs=value)

    with pytest.raises(ValueError, match=r"'y': \(4, 6\) vs \(3, 6\)"):
        numpyro.infer.util.log_density(model, (np.stack([COUNTS] * 3),), {}, {})


def test_nothing_is_looked_at_under_jit():
    """Values that are traced cannot be checked, and tracing does not fail."""
    log_prob = jax.jit(lambda rates, value: hmm(dist.Poisson(rates), mask=COUNTS > 0).log_prob(value))
    assert not jnp.isnan(log_prob(jnp.ones(K), np.maximum(COUNTS - 2, -1)))


def test_an_explicit_path_under_nuts_is_refused_by_name():
    """NumPyro's own words; what to use instead stands in the docstring of MarkovChain."""

    def model():
        numpyro.sample("z", tsd.MarkovChain(PI, P, num_steps=T))

    with pytest.raises(RuntimeError, match="MarkovChain distribution at site z"):
        MCMC(NUTS(model), num_warmup=1, num_samples=1, progress_bar=False).run(jax.random.key(0))


@pytest.mark.parametrize("wrapper", ["plate", "handlers.mask", "obs_mask"])
def test_a_series_is_never_counted_once_for_each_step(wrapper):
    def model():
        if wrapper == "plate":
            with numpyro.plate("time", T):
                numpyro.sample("y", hmm(), obs=COUNTS)
        elif wrapper == "handlers.mask":
            with numpyro.handlers.mask(mask=np.ones(T, bool)):
                numpyro.sample("y", hmm(), obs=COUNTS)
        else:
            numpyro.sample("y", hmm(), obs=COUNTS, obs_mask=np.arange(T) < 4)

    with pytest.raises(ValueError, match="counted once for each step"):
        log_density(numpyro.handlers.seed(model, 0), (), {}, {})


def test_one_series_under_several_parameters_is_scored_by_each():
    assert hmm(dist.Poisson(jnp.ones((T, 1))), initial_probs=jnp.full((T, K), 1 / K)).log_prob(COUNTS).shape == (T,)
