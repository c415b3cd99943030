"""The Lorenz attractor seen in twenty noisy channels: which of its two lobes is the trajectory on?

Two states are fitted without labels; the lobe is the sign of the first coordinate. Training series of several lengths.
"""

import jax
import jax.numpy as jnp
import numpy as np
from _common import accuracy, fit, is_quick, nats_per_step, print_table
from jax import lax, random

NUM_CHANNELS, NUM_LAGS, NOISE, STEP, BURN_IN = 20, 5, 0.1**0.5, 0.01, 1000
MODELS = {"CP-SALT, rank 5": 5, "Tucker-SALT, rank 3": (3, 3, 3), "dense ARHMM": None}


def velocity(position):
    """The equations of Lorenz (1963)."""
    x, y, z = position
    return jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])


@jax.jit
def attractor():
    """Standardised coordinates of 20,000 steps by the classical Runge-Kutta method, after 1,000 that are dropped."""

    def advance(position, _):
        first = velocity(position)
        second = velocity(position + STEP / 2 * first)
        third = velocity(position + STEP / 2 * second)
        fourth = velocity(position + STEP * third)
        position = position + STEP / 6 * (first + 2 * second + 2 * third + fourth)
        return position, position

    _, path = lax.scan(advance, jnp.array([1.0, 1.0, 25.0]), length=BURN_IN + 20_000)
    path = path[BURN_IN:]
    return (path - path.mean(0)) / path.std(0)


def simulate():
    """Channels ``(20_000, N)`` and lobes ``(20_000,)``."""
    path = attractor()
    emission = random.normal(random.key(0), (NUM_CHANNELS, 3))
    series = path @ emission.T + NOISE * random.normal(random.key(1), (len(path), NUM_CHANNELS))
    return np.asarray(series), np.asarray(path[:, 0] > 0).astype(int)


def rows(lengths, num_test, num_restarts):
    """One row for each model and length of the training series; the test series is the end of the path."""
    series, lobes = simulate()
    test, states = series[-num_test:], lobes[-num_test:]
    for length in lengths:
        train = series[:length]
        for name, ranks in MODELS.items():
            found = fit(train, test, ranks, num_states=2, num_lags=NUM_LAGS, num_restarts=num_restarts)
            model = found.distribution
            yield [
                name,
                f"{found.num_weights:,}",
                f"{length:,}",
                f"{accuracy(model, test, states):.3f}",
                f"{nats_per_step(model, train):.3f}",
                f"{found.held_out:.3f}",
            ]


def main():
    """Print accuracy and log-likelihood against the length of the training series."""
    quick = is_quick(__doc__)
    columns = ["model", "numbers", "steps", "lobe right", "nats per step, seen", "nats per step, unseen"]
    lengths = (500,) if quick else (500, 2000, 6000)
    print_table(columns, rows(lengths, 1000 if quick else 5000, 1 if quick else 3))


if __name__ == "__main__":
    main()
