"""Whether an update draws from the model's own conditional distribution: tried, not assumed."""

from functools import cached_property

import jax
from jax import random

from tsppl.inference.gibbs.block import (
    NUM_CHECKS,
    NotConjugateError,
    check_ratio,
    exactly,
    in_double,
    random_values,
)
from tsppl.inference.gibbs.states.complete_data import CompleteData


class Conjugacy:
    """Compares updates with a model's joint density of data, states and parameters.

    At two points that differ in an update's sites, with states drawn at the first, the log ratio of the model's joint
    densities must be that of the densities that the update draws from. Everything is computed in double precision, whatever
    the dtype of the arguments, with fixed random keys.

    Args:
        model: NumPyro model.
        args, kwargs: arguments of the model.
    """

    def __init__(self, model, args, kwargs):
        self._model = model
        self._checked = {}
        with exactly():
            self.args, self.kwargs = in_double((args, dict(kwargs)))

    @cached_property
    def points(self):
        """Values of all latent sites at several points."""
        with exactly():
            draw = jax.jit(lambda key: random_values(self._model, key, self.args, self.kwargs))
            return [draw(random.key(seed)) for seed in range(2 * NUM_CHECKS)]

    def check(self, update, sequence):
        """Raise unless ``update`` fits, given the states of ``sequence``.

        Raises:
            ValueError: if the model has no such site.
            NotConjugateError: if a prior is of another family, or the two log ratios differ.
        """

        @jax.jit
        def update_ratio(values, states, new):
            data = self._data(values, sequence)
            old = {name: values[name] for name in update.sites}
            return update.log_density(new, data, states) - update.log_density(old, data, states)

        unknown = [name for name in update.sites if name not in self.points[0]]
        if unknown:
            raise ValueError(
                f"the model has no latent site {unknown[0]!r}; its latent sites are {list(self.points[0])}"
            )
        log_joint, paths = self._of_sequence(sequence)
        for values, other, states in zip(self.points[::2], self.points[1::2], paths, strict=True):
            with exactly():
                new = {name: other[name] for name in update.sites}
                try:
                    found = update_ratio(values, states, new)
                except NotConjugateError as error:
                    raise NotConjugateError(f"{_describe(update)}: {error}") from None
                before, after = log_joint(values, states), log_joint({**values, **new}, states)
                check_ratio(found, before, after, subject=_describe(update))

    def _of_sequence(self, sequence):
        """The joint density as a function of values and states, and states at every other point."""
        if sequence not in self._checked:
            with exactly():
                draw_states = jax.jit(lambda key, values: self._data(values, sequence).draw_states(key))
                paths = [draw_states(random.key(seed), values) for seed, values in enumerate(self.points[::2])]
            log_joint = jax.jit(lambda values, states: self._data(values, sequence).log_joint(states))
            self._checked[sequence] = log_joint, paths
        return self._checked[sequence]

    def _data(self, values, sequence):
        return CompleteData(self._model, sequence, self.args, self.kwargs, values)


def _describe(update):
    return f"{', '.join(update.sites)} cannot be drawn by {type(update).__name__}"
