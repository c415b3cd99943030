"""Whether an update draws from the model's own conditional distribution: tried, not assumed."""

from functools import cached_property

import jax
from jax import random
from numpyro.infer import init_to_uniform

from tsppl.inference.gibbs.block import NUM_CHECKS, NotConjugateError, exactly, in_double
from tsppl.inference.gibbs.states.complete_data import CompleteData
from tsppl.sites.trace import latent_sites, replay


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
            self.args, self.kwargs = jax.tree.map(in_double, (args, dict(kwargs)))

    @cached_property
    def points(self):
        """Values of all latent sites at several points."""
        with exactly():
            draw = jax.jit(lambda key: _values_inside(self._model, key, self.args, self.kwargs))
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
                    found = float(update_ratio(values, states, new))
                except NotConjugateError as error:
                    raise NotConjugateError(f"{_describe(update)}: {error}") from None
                here = float(log_joint(values, states))
                expected = float(log_joint({**values, **new}, states)) - here
            if not abs(found - expected) < 1e-7 * (1 + abs(expected) + abs(here)):
                raise NotConjugateError(
                    f"{_describe(update)}: between two values the model's joint density changes by {expected:.6g} nats and "
                    f"that of the update by {found:.6g}, so the model uses them in another way"
                )

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


def _values_inside(model, key, args, kwargs):
    """Values of all latent sites, not far from the middle of their supports."""
    trace = replay(key, model, {}, args, kwargs, substitute_fn=init_to_uniform)
    return {name: site["value"] for name, site in latent_sites(trace).items()}


def _describe(update):
    return f"{', '.join(update.sites)} cannot be drawn by {type(update).__name__}"
