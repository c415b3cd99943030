"""How many lags pay? Held-out log-likelihood against the number of lags, on a switching process with long memory.

Two linear dynamics of four dimensions, seen in ten channels under much noise, so that a good prediction averages over many
steps. Every model is conditioned on the same first steps and scored on the same others.
"""

import numpy as np
from _common import NUM_ITERS, TOL, is_quick, print_table, small_noise
from jax import random

from tsppl.inference import select_low_rank

NUM_CHANNELS, DIMENSION, STAYS, PROCESS_NOISE, NOISE = 10, 4, 0.99, 0.2, 1.0
MODELS = {"CP-SALT, rank 6": 6, "Tucker-SALT, rank 4": (4, 4, 4), "dense ARHMM": None}


def simulate(num_steps, seed=0):
    """Channels ``(T, N)`` of two slowly decaying rotations that take turns; the trajectory goes on through switches."""
    generator = np.random.default_rng(seed)
    angles = np.array([[0.1, 0.3], [0.6, 0.9]])
    dynamics = np.zeros((2, DIMENSION, DIMENSION))
    for state, plane in np.ndindex(2, 2):
        cosine, sine = np.cos(angles[state, plane]), np.sin(angles[state, plane])
        at = slice(2 * plane, 2 * plane + 2)
        dynamics[state, at, at] = 0.98 * np.array([[cosine, -sine], [sine, cosine]])
    emission = generator.normal(size=(NUM_CHANNELS, DIMENSION))
    states = np.cumsum(generator.random(num_steps) > STAYS) % 2
    trajectory = np.zeros((num_steps, DIMENSION))
    for t in range(1, num_steps):
        drift = PROCESS_NOISE * generator.normal(size=DIMENSION)
        trajectory[t] = dynamics[states[t]] @ trajectory[t - 1] + drift
    return trajectory @ emission.T + NOISE * generator.normal(size=(num_steps, NUM_CHANNELS))


def rows(models, all_lags, num_train, num_test, num_restarts):
    """One row for each number of lags: numbers in the weights and nats per unseen step of each model."""
    series = simulate(num_train + num_test)
    train, test = series[:num_train], series[num_train:]
    found = select_low_rank(
        train,
        test,
        ranks=models.values(),
        num_lags=all_lags,
        num_states=2,
        key=random.key(0),
        priors=small_noise(train, 2),
        num_restarts=num_restarts,
        num_iters=NUM_ITERS,
        tol=TOL,
        progress_bar=False,
    )
    counts, scores = (array.reshape(len(all_lags), -1) for array in (found.num_weights, found.held_out))
    for num_lags, own_counts, own_scores in zip(all_lags, counts, scores, strict=True):
        pairs = zip(own_counts, own_scores, strict=True)
        yield [num_lags, *(cell for count, score in pairs for cell in (f"{count:,}", f"{score:.3f}"))]


def main():
    """Print the numbers of the weights and the nats per unseen step, by number of lags."""
    quick = is_quick(__doc__)
    num_train = 1000 if quick else 3000
    models = {name: MODELS[name] for name in MODELS if not (quick and name.startswith("Tucker"))}
    print(f"{num_train:,} steps to fit, nats per unseen step:\n")
    columns = ["lags", *(cell for name in models for cell in (f"numbers, {name}", name))]
    print_table(columns, rows(models, (1, 5) if quick else (1, 3, 8, 20), num_train, num_train, 1 if quick else 2))


if __name__ == "__main__":
    main()
