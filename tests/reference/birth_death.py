"""Reversible jumps over explicit events in time: another route to the posterior of a Neyman-Scott process, slow and plain.

The state is every event, with or without points, and its amplitude. Births and deaths leave the Poisson density of points
given events alone; then points choose events, which are drawn anew given them, and the choice is forgotten.
"""

import math

import numpy as np


def birth_death_draws(
    generator, points, num_draws, *, event_rate, concentration, rate, background_rate, scale, window, num_jumps=8
):
    """``(K, n0)`` of ``num_draws`` successive states: events with points, and points without an event.

    Args:
        generator: NumPy generator.
        points: ``(N,)``.
        event_rate, background_rate: events, and background points, expected per unit of time.
        concentration, rate: of amplitudes, a gamma distribution.
        scale: standard deviation of points around their event.
        window: ``(low, high)``; events are inside of it.
        num_jumps: births and deaths proposed between two states.
    """
    low, high = window
    expected_events = event_rate * (high - low)
    centres, amplitudes = np.zeros(0), np.zeros(0)

    def intensities(centres, amplitudes):
        """``(N, K + 1)``: of each event at each point, and of the background."""
        away = (points[:, None] - centres) / scale
        near = amplitudes * np.exp(-0.5 * away**2) / (scale * math.sqrt(2 * math.pi))
        return np.column_stack([near, np.full(len(points), background_rate)])

    def log_density(centres, amplitudes):
        return np.log(intensities(centres, amplitudes).sum(1)).sum() - amplitudes.sum()

    draws = np.zeros((num_draws, 2), int)
    for draw in range(num_draws):
        for _ in range(num_jumps):
            number = len(centres)
            if generator.random() < 0.5:  # a birth from the prior, undone by the death of one in number + 1
                more = np.append(centres, generator.uniform(low, high))
                larger = np.append(amplitudes, generator.gamma(concentration, 1 / rate))
                log_ratio = math.log(expected_events / (number + 1))
            elif number:
                chosen = generator.integers(number)
                more, larger = np.delete(centres, chosen), np.delete(amplitudes, chosen)
                log_ratio = math.log(number / expected_events)
            else:
                continue
            log_ratio += log_density(more, larger) - log_density(centres, amplitudes)
            if math.log(generator.random()) < log_ratio:
                centres, amplitudes = more, larger
        cumulative = intensities(centres, amplitudes).cumsum(1)
        owner = (cumulative < generator.random((len(points), 1)) * cumulative[:, -1:]).sum(1)
        sizes = np.bincount(owner, minlength=len(centres) + 1)
        draws[draw] = (sizes[:-1] > 0).sum(), sizes[-1]
        amplitudes = generator.gamma(concentration + sizes[:-1], 1 / (rate + 1))
        for event in range(len(centres)):
            own = points[owner == event]
            while True:
                if len(own):
                    place = generator.normal(own.mean(), scale / math.sqrt(len(own)))
                else:
                    place = generator.uniform(low, high)
                if low <= place <= high:
                    break
            centres[event] = place
    return draws
