"""The Lorenz attractor seen in twenty noisy channels: which of its two lobes is the trajectory on?

Two states are fitted without labels; the lobe is the sign of the first coordinate. Training series of several lengths.
A step of the series is five of the solver's, 0.05 in time: at 0.01 the lobes move alike within the noise.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from _common import COLUMNS, compare, is_quick, print_table
from jax import lax, random

NUM_CHANNELS, NUM_LAGS, NOISE, STEP, STRIDE = 20, 3, 0.1, 0.01, 5
MODELS = {"CP-SALT, rank 5": 5, "Tucker-SALT, rank 3": (3, 3, 3), "dense ARHMM": None}


def velocity(position):
    """The equations of Lorenz (1963)."""
    x, y, z = position
    return jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])


@partial(jax.jit, static_argnums=0)
def attractor(num_steps):
    """Standardised coordinates of each fifth step of the classical Runge-Kutta method, after 200 that are dropped."""

    def advance(position, _):
        first = velocity(position)
        second = velocity(position + STEP / 2 * first)
        third = velocity(position + STEP / 2 * second)
        fourth = velocity(position + STEP * third)
        position = position + STEP / 6 * (first + 2 * second + 2 * third + fourth)
        return position, position

    _, path = lax.scan(advance, jnp.array([1.0, 1.0, 25.0]), length=STRIDE * (200 + num_steps))
    path = path[::STRIDE][200:]
    return (path - path.mean(0)) / path.std(0)


def simulate(num_steps, num_series):
    """Stretches of one path, end to end: channels ``(num_series, T, N)`` and lobes ``(num_series, T)``."""
    path = attractor(num_steps * num_series)
    emission = random.normal(random.key(0), (NUM_CHANNELS, 3))
    series = path @ emission.T + NOISE * random.normal(random.key(1), (len(path), NUM_CHANNELS))
    lobes = np.asarray(path[:, 0] > 0).astype(int)
    return np.asarray(series).reshape(num_series, num_steps, -1), lobes.reshape(num_series, num_steps)


def main():
    """Print lobes recovered and log-likelihood against the length of the training series."""
    quick = is_quick(__doc__)
    lengths, num_series = ((300,), 1) if quick else ((300, 1000, 3000), 3)
    models = {name: MODELS[name] for name in MODELS if not (quick and name.startswith("Tucker"))}
    series, lobes = simulate(max(lengths), num_series + 1)
    sizes = {"num_states": 2, "num_lags": NUM_LAGS, "num_restarts": 1 if quick else 3}
    print("Mean over training series, and range; states are lobes.\n")
    print_table(COLUMNS, compare(models, series[:-1], lengths, series[-1], lobes[-1], **sizes))


if __name__ == "__main__":
    main()
