"""Small models and hand-made draws for the tests of what people do after sampling."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import tsppl.distributions as tsd

NUM_STEPS = 6
COUNTS = np.array([[1, 0, 7, 9, 8, 1], [6, 7, 0, 2, 1, 0], [2, 1, 1, 8, 0, 6]])
LENGTHS = np.array([6, 3, 5])


def poisson_sessions(counts, lengths=None, mask=None, num_states=2):
    """Sessions of counts with common rates and transitions."""
    initial_probs = numpyro.sample("initial_probs", dist.Dirichlet(jnp.ones(num_states)))
    transition_probs = numpyro.sample(
        "transition_probs", dist.Dirichlet(jnp.ones((num_states, num_states))).to_event(1)
    )
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.4).expand([num_states]).to_event(1))
    numpyro.deterministic("log_rate", jnp.log(rate))
    with numpyro.plate("session", len(counts)):
        series = tsd.HiddenMarkov(
            initial_probs, transition_probs, dist.Poisson(rate), num_steps=counts.shape[-1], lengths=lengths, mask=mask
        )
        numpyro.sample("counts", series, obs=counts)


def session_draws(chains=2, size=3, seed=0):
    """Draws of the parameters of `poisson_sessions`, grouped by chain; state 0 has the low rate."""
    rng = np.random.default_rng(seed)
    stay = rng.beta(8, 2, (chains, size, 2))
    transition_probs = np.stack(
        [np.stack([stay[..., 0], 1 - stay[..., 0]], -1), np.stack([1 - stay[..., 1], stay[..., 1]], -1)], -2
    )
    rate = np.stack([rng.gamma(20, 0.05, (chains, size)), rng.gamma(70, 0.1, (chains, size))], -1)
    return {
        "initial_probs": rng.dirichlet([2, 2], (chains, size)),
        "transition_probs": transition_probs,
        "rate": rate,
        "log_rate": np.log(rate),
    }


def flattened(draws):
    """Draws without the axis of chains."""
    return {name: array.reshape((-1,) + array.shape[2:]) for name, array in draws.items()}


def session_series(draw, **kwargs):
    """The distribution of the counts at one draw, written out."""
    return tsd.HiddenMarkov(
        draw["initial_probs"], draw["transition_probs"], dist.Poisson(draw["rate"]), num_steps=NUM_STEPS, **kwargs
    )


def covariate_model(y, covariates, num_steps):
    """One series whose emission and transitions depend on covariates ``(T,)``."""
    slope = numpyro.sample("slope", dist.Normal(0, 1).expand([2]).to_event(1))
    stay = numpyro.sample("stay", dist.Normal(2, 1))
    logits = jnp.eye(2) * (stay + covariates[1:, None, None])
    emission = dist.Normal(jnp.array([0.0, 5.0]) + slope * covariates[:, None], 0.5)
    series = tsd.HiddenMarkov(
        jnp.array([0.5, 0.5]),
        emission=emission,
        transition_logits=logits,
        num_steps=num_steps,
        time_varying=("emission", "transition_logits"),
    )
    numpyro.sample("y", series, obs=y)


def switching_trajectories(y, num_steps):
    """Three trajectories with switching dynamics that nobody observes, seen tenfold with little noise."""
    dynamics = numpyro.sample("dynamics", dist.Normal(0.0, 1.0).expand([3, 2, 2]).to_event(3))
    noise, initial = dist.Normal(jnp.zeros((3, 2)), 0.01).to_event(1), dist.Normal(jnp.zeros(2), 1.0).to_event(1)
    with numpyro.plate("trial", 3):
        prior = tsd.SwitchingLinearDynamics(
            jnp.full(3, 1 / 3), jnp.full((3, 3), 1 / 3), dynamics, noise, initial, num_steps=num_steps
        )
        x = numpyro.sample("x", prior)
        numpyro.sample("y", dist.Normal(10 * x, 0.01).to_event(2), obs=y)


def trajectory_draws(size=4):
    """Draws of `switching_trajectories`, all with the same dynamics in every state."""
    rng = np.random.default_rng(0)
    dynamics = np.broadcast_to([[0.9, 0.0], [0.1, 0.8]], (size, 3, 2, 2))
    return {"dynamics": dynamics, "x": rng.normal(size=(size, 3, 4, 2))}
