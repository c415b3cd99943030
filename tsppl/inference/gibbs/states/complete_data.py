"""A model's joint density with the hidden states of one sequence written out, which is where conjugacy shows."""

from functools import cached_property

from jax import random

from tsppl.distributions.hidden_markov.markov_switching import MarkovSwitching
from tsppl.distributions.wrappers import innermost, unwrap
from tsppl.inference.gibbs.block import NotConjugateError
from tsppl.sites.trace import replay, sequence_sites


class CompleteData:
    """A user's model at given values of its latent sites, beside a path of hidden states.

    Args:
        model: NumPyro model.
        site: name of an observed sequence with hidden states.
        args, kwargs: arguments of the model.
        values: constrained values of all latent sites that the model does not hold already.
    """

    def __init__(self, model, site, args, kwargs, values):
        self._model, self._site, self._args, self._kwargs = model, site, args, kwargs
        self.values = values

    @cached_property
    def trace(self):
        """The model replayed."""
        return replay(random.key(0), self._model, self.values, self._args, self._kwargs)

    @cached_property
    def sequence(self):
        """The :class:`~tsppl.sites.trace.SequenceSite`.

        Raises:
            ValueError: if there is none of this name, or it has no hidden states that are summed out.
        """
        sites = sequence_sites(self.trace)
        if self._site not in sites:
            raise ValueError(f"the model has no sequence site {self._site!r}; its sequences are {list(sites)}")
        found = sites[self._site]
        if not has_plain_states(found):
            raise ValueError(
                f"site {self._site!r} is a {type(found.distribution).__name__}, "
                f"{'observed' if found.observed else 'latent'}: a Gibbs block of states needs an observed HiddenMarkov, "
                "AutoregressiveHMM or SALT"
            )
        if self.trace[self._site]["scale"] is not None:
            raise ValueError(f"site {self._site!r} is subsampled or scaled, for which no Gibbs update is exact")
        return found

    @property
    def distribution(self):
        """The distribution of the sequence."""
        return self.sequence.distribution

    def at(self, values):
        """The same with other values at some sites."""
        return CompleteData(self._model, self._site, self._args, self._kwargs, {**self.values, **values})

    def prior(self, site, family):
        """The prior of a site, freed of wrappers, and the shape of its batch.

        Raises:
            NotConjugateError: if it is masked or of another family.
        """
        base, mask = unwrap(self.trace[site]["fn"])
        batch_shape = base.batch_shape
        base = innermost(base)
        if mask is not None or not isinstance(base, family):
            kind = "masked" if mask is not None else f"a {type(base).__name__}"
            raise NotConjugateError(f"its prior is {kind}, not a {family.__name__}")
        return base, batch_shape

    def draw_states(self, key):
        """The hidden states given everything else, int32 ``(..., T)``."""
        return self.distribution.sample_latents(key, self.sequence.value)["states"]

    def log_joint(self, states):
        """Log density of all sites and of ``states``."""
        others = [
            site["fn"].log_prob(site["value"]).sum()
            for name, site in self.trace.items()
            if site["type"] == "sample" and name != self._site
        ]
        return sum(others) + self.distribution.complete_log_prob(self.sequence.value, states).sum()


def has_plain_states(site):
    """Whether a sequence is observed and its states, which are summed out, are those of a Markov chain themselves."""
    return site.observed and isinstance(site.distribution, MarkovSwitching) and site.distribution.has_plain_states
