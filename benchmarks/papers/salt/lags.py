"""How many lags pay? Held-out log-likelihood against the number of lags, on a switching process with long memory.

Two linear dynamics of four dimensions, seen in ten channels under much noise, so that a good prediction averages over many
steps. Every model is conditioned on the same first steps and scored on the same others.
"""

import numpy as np
from _common import fit, is_quick, print_table

NUM_CHANNELS, DIMENSION, STAYS, PROCESS_NOISE, NOISE = 10, 4, 0.99, 0.2, 1.0
MODELS = {"CP-SALT, rank 6": 6, "Tucker-SALT, rank 4": 4, "dense ARHMM": None}


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


def rows(all_lags, num_train, num_test, num_restarts):
    """One row for each number of lags: nats per unseen step of each model."""
    series = simulate(num_train + num_test)
    train, test = series[:num_train], series[num_train:]
    sizes = {"num_states": 2, "num_conditioned": max(all_lags), "num_restarts": num_restarts}
    for num_lags in all_lags:
        cells = []
        for rank in MODELS.values():
            ranks = (rank, rank, min(rank, num_lags)) if rank == DIMENSION else rank
            found = fit(train, test, ranks, num_lags=num_lags, **sizes)
            cells += [f"{found.num_weights:,}", f"{found.held_out:.3f}"]
        yield [num_lags, *cells]


def main():
    """Print the numbers of the weights and the nats per unseen step, by number of lags."""
    quick = is_quick(__doc__)
    num_train = 1000 if quick else 3000
    print(f"{num_train:,} steps to fit, nats per unseen step:\n")
    columns = ["lags", *(cell for name in MODELS for cell in (f"numbers, {name}", name))]
    print_table(columns, rows((1, 5) if quick else (1, 2, 5, 10, 20), num_train, num_train, 1 if quick else 2))


if __name__ == "__main__":
    main()
