"""NUTS finds the truth again: data made in NumPy from known parameters, one model of each kind."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.diagnostics import split_gelman_rubin
from numpyro.infer import MCMC, NUTS, init_to_median, init_to_value

import tsppl
import tsppl.distributions as tsd
from tests.helpers import assert_allclose

pytestmark = pytest.mark.slow


def run_nuts(model, data, *, init_strategy=init_to_median, num_warmup=300, num_samples=300, max_tree_depth=8):
    """Two chains at once; ``(MCMC, draws by chain)``."""
    kernel = NUTS(model, init_strategy=init_strategy, max_tree_depth=max_tree_depth)
    mcmc = MCMC(
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(random.key(0), **data)
    return mcmc, {name: np.asarray(values) for name, values in mcmc.get_samples(group_by_chain=True).items()}


def assert_recovered(draws, truth, *, within, largest_rhat=1.1):
    """Every entry has converged, and its posterior holds the truth with a deviation below ``within``."""
    for name, true in truth.items():
        spread, error = draws[name].std((0, 1)), draws[name].mean((0, 1)) - true
        assert np.all(split_gelman_rubin(draws[name]) < largest_rhat), f"{name} has not converged"
        assert np.all(np.abs(error) < 3.5 * spread), f"{name}: off by {error}, deviation {spread}"
        assert np.all(spread < within[name]), f"{name}: deviation {spread}"


def simulate_states(generator, initial_probs, transition_at, num_steps):
    states = [generator.choice(len(initial_probs), p=initial_probs)]
    for t in range(1, num_steps):
        states.append(generator.choice(len(initial_probs), p=transition_at(t)[states[-1]]))
    return np.array(states)


NUM_SUBJECTS, NUM_SEQUENCES, LONGEST = 8, 40, 40


def choices_of_subjects(choices, stimulus, cue, subject, observed, lengths):
    """A GLM-HMM: the stimulus drives choices, by state; the cue on arrival drives transitions into state 0."""
    slope = numpyro.sample("slope", dist.Normal(jnp.array([2.0, 0.0]), 1.0).to_event(1))
    bias = numpyro.sample("bias", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    stay = numpyro.sample("stay", dist.Normal(jnp.full(2, 1.5), 1.0).to_event(1))
    cue_weight = numpyro.sample("cue_weight", dist.Normal(0.0, 2.0))
    spread = numpyro.sample("spread", dist.HalfNormal(1.0))
    with numpyro.plate("subjects", NUM_SUBJECTS):
        offset = numpyro.sample("offset", dist.Normal(0.0, 1.0))
    offset = numpyro.deterministic("subject_bias", spread * offset)
    logits = slope * stimulus[..., None] + bias + offset[subject][:, None, None]
    into = cue[:, 1:, None, None] * cue_weight * jnp.array([1.0, 0.0])
    with numpyro.plate("sequences", NUM_SEQUENCES):
        model = tsd.HiddenMarkov(
            initial_logits=jnp.zeros(2),
            transition_logits=jnp.diag(stay) + into,
            emission=dist.Bernoulli(logits=logits),
            num_steps=LONGEST,
            time_varying=("emission", "transition_logits"),
            mask=observed,
            lengths=lengths,
        )
        numpyro.sample("choices", model, obs=choices)


CHOICE_TRUTH = {
    "slope": np.array([3.0, 0.2]),
    "bias": np.array([0.0, -0.8]),
    "stay": np.array([2.0, 2.5]),
    "cue_weight": 2.0,
    "subject_bias": np.linspace(-1.0, 1.0, NUM_SUBJECTS),
}


def simulate_choices(generator):
    """The arguments of ``choices_of_subjects`` and the states; what is masked or past the end is garbage."""
    shape = (NUM_SEQUENCES, LONGEST)
    stimulus, cue = generator.normal(size=shape), generator.normal(size=shape)
    subject, lengths = np.arange(NUM_SEQUENCES) % NUM_SUBJECTS, generator.choice([20, 30, 40], NUM_SEQUENCES)
    observed, states = generator.random(shape) < 0.9, np.zeros(shape, int)
    for i in range(NUM_SEQUENCES):

        def transition_at(t, i=i):
            logits = np.diag(CHOICE_TRUTH["stay"])
            logits[:, 0] += CHOICE_TRUTH["cue_weight"] * cue[i, t]
            return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

        states[i] = simulate_states(generator, [0.5, 0.5], transition_at, LONGEST)
    logits = CHOICE_TRUTH["slope"][states] * stimulus + CHOICE_TRUTH["bias"][states]
    logits += CHOICE_TRUTH["subject_bias"][subject][:, None]
    choices = (generator.random(shape) < 1 / (1 + np.exp(-logits))).astype(int)
    within = np.arange(LONGEST) < lengths[:, None]
    choices = np.where(within & observed, choices, 7)
    data = {"choices": choices, "stimulus": stimulus, "cue": cue, "subject": subject}
    return data | {"observed": observed, "lengths": lengths}, states, within


def test_glm_hmm_of_ragged_sequences_and_subjects():
    data, states, within = simulate_choices(np.random.default_rng(0))
    data = jax.tree.map(jnp.asarray, data)
    mcmc, draws = run_nuts(choices_of_subjects, data)
    within_deviation = {"slope": 0.6, "bias": 0.5, "stay": 0.6, "cue_weight": 0.6, "subject_bias": 0.6}
    assert_recovered(draws, CHOICE_TRUTH, within=within_deviation)

    def accuracy(draws):
        marginals = tsppl.posterior_latents(random.key(1), choices_of_subjects, draws, what="marginals", **data)
        probs = np.asarray(marginals["choices"]["state_probs"])
        return (probs.mean(tuple(range(probs.ndim - 3))).argmax(-1) == states)[within].mean()

    best = (np.asarray(true_model(data).latent_marginals(data["choices"])["state_probs"]).argmax(-1) == states)[within]
    found = accuracy({name: values[:, ::10] for name, values in draws.items()})
    assert found > max(0.75, best.mean() - 0.03), (found, best.mean())


def true_model(data):
    """The distribution of the choices under the true parameters."""
    parameters = CHOICE_TRUTH | {"spread": 1.0, "offset": CHOICE_TRUTH["subject_bias"]}
    with handlers.trace() as trace, handlers.seed(rng_seed=0), handlers.substitute(data=parameters):
        choices_of_subjects(**data)
    return trace["choices"]["fn"]


def test_glm_hmm_equals_the_sum_of_single_runs():
    data = simulate_choices(np.random.default_rng(0))[0]
    logits = CHOICE_TRUTH["slope"] * data["stimulus"][..., None] + CHOICE_TRUTH["bias"]
    logits += CHOICE_TRUTH["subject_bias"][data["subject"]][:, None, None]
    total = 0.0
    for i, length in enumerate(data["lengths"]):
        into = CHOICE_TRUTH["cue_weight"] * data["cue"][i, 1:length, None, None] * np.array([1.0, 0.0])
        single = tsd.HiddenMarkov(
            initial_logits=np.zeros(2),
            transition_logits=np.diag(CHOICE_TRUTH["stay"]) + into,
            emission=dist.Bernoulli(logits=logits[i, :length]),
            num_steps=int(length),
            time_varying=("emission", "transition_logits"),
            mask=data["observed"][i, :length],
        )
        total += single.log_prob(data["choices"][i, :length])
    whole = true_model(jax.tree.map(jnp.asarray, data)).log_prob(data["choices"])
    assert_allclose(whole.sum(), total)


def rotation(angle, modulus):
    return modulus * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


STAY = np.array([0.95, 0.9])
TRANSITION = np.array([[0.95, 0.05], [0.1, 0.9]])
SPINS = np.stack([rotation(0.2, 0.98), rotation(0.9, 0.9)])


def two_state_transitions(stay):
    return jnp.stack([jnp.stack([stay[0], 1 - stay[0]]), jnp.stack([1 - stay[1], stay[1]])])


def simulate_spins(generator, num_steps, bias, scale):
    """A switching rotation with Gaussian noise: the trajectory and the states."""
    states = simulate_states(generator, [0.5, 0.5], lambda t: TRANSITION, num_steps)
    x = np.zeros((num_steps, 2))
    x[0] = generator.normal(size=2)
    for t in range(1, num_steps):
        x[t] = SPINS[states[t]] @ x[t - 1] + bias[states[t]] + scale[states[t]] * generator.normal(size=2)
    return x, states


def switching_autoregression(y):
    """Two regimes that the prior tells apart, slow turns from fast ones."""
    turns = jnp.stack([jnp.asarray(rotation(angle, 0.9)) for angle in (0.3, 1.0)])
    weights = numpyro.sample("weights", dist.Normal(turns, 0.5).to_event(3))
    bias = numpyro.sample("bias", dist.Normal(jnp.zeros((2, 2)), 1.0).to_event(2))
    scale = numpyro.sample("scale", dist.LogNormal(jnp.full(2, -1.0), 0.7).to_event(1))
    stay = numpyro.sample("stay", dist.Beta(5.0, 1.0).expand([2]).to_event(1))
    model = tsd.AutoregressiveHMM(
        jnp.full(2, 0.5),
        two_state_transitions(stay),
        weights[:, None],
        dist.Normal(bias, scale[:, None]).to_event(1),
        num_steps=len(y),
    )
    numpyro.sample("y", model, obs=y)


def test_autoregressive_hmm():
    bias, scale = np.array([[0.2, 0.0], [0.0, -0.3]]), np.array([0.2, 0.4])
    y, states = simulate_spins(np.random.default_rng(1), 250, bias, scale)
    data = {"y": jnp.asarray(y)}
    _, draws = run_nuts(switching_autoregression, data)
    truth = {"weights": SPINS, "bias": bias, "scale": scale, "stay": STAY}
    assert_recovered(draws, truth, within={"weights": 0.12, "bias": 0.12, "scale": 0.06, "stay": 0.06})
    thinned = {name: values[:, ::10] for name, values in draws.items()}
    marginals = tsppl.posterior_latents(random.key(1), switching_autoregression, thinned, what="marginals", **data)
    probs = np.asarray(marginals["y"]["state_probs"]).mean((0, 1))[1:]
    assert (probs.argmax(-1) == states[1:]).mean() > 0.9


def cycle_plus_noise(y, mask):
    persistence = numpyro.sample("persistence", dist.Uniform(0.0, 1.0))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    noise_scale = numpyro.sample("noise_scale", dist.HalfNormal(1.0))
    level = numpyro.sample("level", dist.Normal(0.0, 5.0))
    model = tsd.LinearGaussianSSM(
        dist.Normal(jnp.zeros(1), scale / jnp.sqrt(1 - persistence**2)).to_event(1),
        persistence[None, None],
        dist.Normal(jnp.zeros(1), scale).to_event(1),
        jnp.ones(1),
        dist.Normal(level, noise_scale),
        num_steps=len(y),
        mask=mask,
    )
    numpyro.sample("y", model, obs=y)


def test_linear_gaussian_model_with_gaps():
    # Seed 2 fails: its maximum likelihood persistence is 0.70 (truth 0.9), also by statsmodels. One series shows that the
    # fit works on an ordinary draw; whether intervals are right on average is the business of test_calibration.py.
    generator = np.random.default_rng(5)
    truth = {"persistence": 0.9, "scale": 0.5, "noise_scale": 0.4, "level": 2.0}
    x = np.zeros(250)
    for t in range(1, len(x)):
        x[t] = truth["persistence"] * x[t - 1] + truth["scale"] * generator.normal()
    y = truth["level"] + x + truth["noise_scale"] * generator.normal(size=len(x))
    mask = generator.random(len(x)) < 0.8
    data = {"y": jnp.asarray(np.where(mask, y, np.nan)), "mask": jnp.asarray(mask)}
    _, draws = run_nuts(cycle_plus_noise, data, num_samples=500)
    # The wide limit: as the persistence nears one the data say nothing of the level, so its standard deviation has a long tail.
    assert_recovered(draws, truth, within={"persistence": 0.1, "scale": 0.12, "noise_scale": 0.12, "level": 1.2})
    thinned = {name: values[:, ::10] for name, values in draws.items()}
    smoothed = tsppl.posterior_latents(random.key(1), cycle_plus_noise, thinned, what="marginals", **data)
    mean = np.asarray(smoothed["y"]["trajectory_mean"])[..., 0].mean((0, 1))
    level = draws["level"].mean()
    assert np.sqrt(np.mean((mean + level - x - truth["level"]) ** 2)) < truth["noise_scale"]


NUM_CHANNELS = 6


def switching_dynamics(y):
    """The scale of the dynamics' noise is fixed and the emission matrix is free."""
    weights = numpyro.sample("weights", dist.Normal(0.9 * jnp.eye(2), 0.5).expand([2, 2, 2]).to_event(3))
    stay = numpyro.sample("stay", dist.Beta(5.0, 1.0).expand([2]).to_event(1))
    emission_matrix = numpyro.sample("emission_matrix", dist.Normal(0.0, 1.0).expand([NUM_CHANNELS, 2]).to_event(2))
    noise_scale = numpyro.sample("noise_scale", dist.HalfNormal(1.0))
    dynamics = tsd.SwitchingLinearDynamics(
        jnp.full(2, 0.5),
        two_state_transitions(stay),
        weights,
        dist.Normal(jnp.zeros(2), 0.4).to_event(1),
        dist.Normal(jnp.zeros(2), 1.0).to_event(1),
        num_steps=len(y),
    )
    x = numpyro.sample("x", dynamics)
    numpyro.sample("y", dist.Normal(x @ emission_matrix.T, noise_scale).to_event(2), obs=y)


def test_latent_switching_linear_dynamics():
    """What is identified: the noiseless channels, the noise, and trace and determinant of each regime's dynamics."""
    generator = np.random.default_rng(3)
    x, _ = simulate_spins(generator, 120, np.zeros((2, 2)), np.full(2, 0.4))
    signal = x @ generator.normal(size=(NUM_CHANNELS, 2)).T
    y = signal + 0.3 * generator.normal(size=signal.shape)
    start_x, start_matrix = principal_components(y, 2)
    start = init_to_value(values={"x": start_x, "emission_matrix": start_matrix})
    _, draws = run_nuts(switching_dynamics, {"y": jnp.asarray(y)}, init_strategy=start, max_tree_depth=7)
    order = np.trace(draws["weights"], axis1=-2, axis2=-1).argsort(-1)[..., ::-1]
    weights = np.take_along_axis(draws["weights"], order[..., None, None], 2)
    found = {
        "noise_scale": draws["noise_scale"],
        "traces": np.trace(weights, axis1=-2, axis2=-1),
        "determinants": np.linalg.det(weights),
        "stay": np.take_along_axis(draws["stay"], order, 2),
    }
    truth = {
        "noise_scale": 0.3,
        "traces": np.trace(SPINS, axis1=-2, axis2=-1),
        "determinants": np.linalg.det(SPINS),
        "stay": STAY,
    }
    assert_recovered(found, truth, within={"noise_scale": 0.03, "traces": 0.3, "determinants": 0.3, "stay": 0.15})
    channels = np.einsum("...td,...nd->...tn", draws["x"], draws["emission_matrix"])
    assert np.sqrt(np.mean((channels.mean((0, 1)) - signal) ** 2)) < 0.25


def principal_components(y, size):
    """A trajectory of unit variance and an emission matrix whose product is closest to ``y``."""
    left, singular, right = np.linalg.svd(y, full_matrices=False)
    root = np.sqrt(len(y))
    return jnp.asarray(left[:, :size] * root), jnp.asarray(right[:size].T * singular[:size] / root)
