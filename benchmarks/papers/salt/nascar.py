"""NASCAR: a point drives round a track of two turns and two straights, seen in ten noisy channels.

Four linear dynamics in two dimensions; where the point is decides which comes next, clockwise (Linderman et al. 2017).
Which of them a step follows is to be found from the channels. A fit is scored on a series that it has not seen.
"""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from _common import COLUMNS, compare, is_quick, print_table
from jax import random

import tsppl.distributions as tsd

NUM_CHANNELS, NUM_LAGS, NOISE = 10, 5, 0.03
MODELS = {"CP-SALT, rank 3": 3, "Tucker-SALT, rank 2": (2, 2, 2), "dense ARHMM": None}


def track(num_steps):
    """The trajectory's distribution: turns about (2, 0) and (-2, 0), straights above and below."""
    centres, angles = np.array([[2.0, 0.0], [-2.0, 0.0]]), np.array([np.pi / 24, np.pi / 48])
    turns = np.array([[[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]] for angle in angles])
    weights = np.concatenate([turns, np.broadcast_to(np.eye(2), (2, 2, 2))])
    offsets = np.concatenate([centres - np.einsum("kij,kj->ki", turns, centres), [[0.1, 0.0], [-0.25, 0.0]]])
    directions = np.array([[100.0, 0.0], [-100.0, 0.0], [0.0, 10.0], [0.0, -10.0]])
    return tsd.SwitchingLinearDynamics(
        jnp.array([0.0, 0.0, 1.0, 0.0]),
        tsd.RecurrentTransitions(jnp.array([[-200.0, -200.0, 0.0, 0.0]]), jnp.asarray(directions)),
        jnp.asarray(weights),
        dist.Normal(jnp.asarray(offsets), 1e-2).to_event(1),
        dist.Normal(jnp.array([0.0, 1.0]), 1e-3**0.5).to_event(1),
        num_steps=num_steps,
    )


def simulate(num_steps, seed):
    """Channels ``(T, N)`` and states ``(T,)``; the channels see the track in the same way for all seeds."""
    trajectory, latents = track(num_steps).sample_with_latents(random.key(seed))
    emission = random.normal(random.key(100), (NUM_CHANNELS, 2))
    noise = NOISE * random.normal(random.key(seed + 1000), (num_steps, NUM_CHANNELS))
    return trajectory @ emission.T + noise, latents["states"]


def main():
    """Print states recovered and log-likelihood against the length of the training series."""
    quick = is_quick(__doc__)
    lengths, num_series, num_test = ((400,), 1, 1000) if quick else ((500, 1500, 4000), 3, 3000)
    models = {name: MODELS[name] for name in MODELS if not (quick and name.startswith("Tucker"))}
    trains = [np.asarray(simulate(max(lengths), seed)[0]) for seed in range(num_series)]
    test, states = simulate(num_test, seed=100)
    sizes = {"num_states": 4, "num_lags": NUM_LAGS, "num_restarts": 1 if quick else 4}
    print("Mean over training series, and range.\n")
    print_table(COLUMNS, compare(models, trains, lengths, np.asarray(test), states, **sizes))


if __name__ == "__main__":
    main()
