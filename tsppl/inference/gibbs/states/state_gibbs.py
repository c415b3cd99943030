"""A block for ``numpyro.infer.Gibbs``: hidden states, then the parameters that are conjugate given them."""

from typing import Any, NamedTuple

import jax

from tsppl.inference.gibbs.block import GibbsBlock
from tsppl.inference.gibbs.states.complete_data import CompleteData
from tsppl.inference.gibbs.states.conjugacy import Conjugacy


class StateGibbsState(NamedTuple):
    """Values of the block's sites, the path of hidden states they were drawn given, and the next random key."""

    z: dict
    states: Any
    rng_key: jax.Array | None = None


class StateGibbs(GibbsBlock):
    """Draws the hidden states of a sequence by forward-backward sampling, then parameters given the states, in turn.

    The sequence is an ordinary observed site whose states are summed out; they are drawn anew in every sweep, used, and
    forgotten. So other blocks, NUTS say, own the remaining sites with the states still summed out, and the order of
    blocks does not matter. The last path is in the state: ``MCMC.run(..., extra_fields=("block_states.0.states",))``
    collects it.

    Before the first sweep every update is compared with the model's own joint density, at two draws from the prior: an
    update that does not fit is an error, never a wrong sampler.

    Args:
        model: NumPyro model.
        site: name of the sequence: an observed HiddenMarkov, AutoregressiveHMM or SALT.
        updates: of :mod:`tsppl.inference.gibbs.states.conjugate_updates`, in the order in which they are drawn.
        check: False leaves that comparison out, where it was made before; it takes some seconds of compilation.

    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> from numpyro.infer import MCMC, Gibbs
    >>> from tsppl.inference import ProbabilityUpdate, RateUpdate, StateGibbs
    >>> def model(counts):
    ...     rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones((2, 2))).to_event(1))
    ...     rate = numpyro.sample("rate", dist.Gamma(jnp.array([1.0, 5.0])).to_event(1))
    ...     emission = dist.Poisson(rate)
    ...     numpyro.sample("y", tsd.HiddenMarkov(jnp.full(2, 0.5), rows, emission, num_steps=len(counts)), obs=counts)
    >>> block = StateGibbs(model, "y", [ProbabilityUpdate("rows", "transition_probs"), RateUpdate("rate")])
    >>> mcmc = MCMC(Gibbs([(block, ["rows", "rate"])]), num_warmup=50, num_samples=100, progress_bar=False)
    >>> mcmc.run(jax.random.key(0), jnp.array([0, 1, 1, 0, 9, 7, 8, 9]))
    >>> mcmc.get_samples()["rate"].shape
    (100, 2)
    """

    def __init__(self, model, site, updates, *, check=True):
        super().__init__(model, check=check)
        self._site, self._updates = site, tuple(updates)
        names = [name for update in self._updates for name in update.sites]
        if len(set(names)) < len(names):
            raise ValueError(f"every site is drawn by one update; {names} names one twice")

    @property
    def updates(self):
        """The updates, in order."""
        return self._updates

    @property
    def sites(self):
        """Names of the sites that the block owns."""
        return tuple(name for update in self._updates for name in update.sites)

    @property
    def num_keys(self):
        """For the first path; for a path and every update."""
        return 1, 1 + len(self._updates)

    def compare(self, values, args, kwargs):
        """Raise unless every update is that of the model."""
        conjugacy = Conjugacy(self.model, args, kwargs)
        for update in self._updates:
            conjugacy.check(update, self._site)

    def start(self, keys, values, args, kwargs):
        """Draw states at the first values."""
        states = CompleteData(self.model, self._site, args, kwargs, values).draw_states(keys[0])
        return StateGibbsState(values, states)

    def draw(self, keys, state, args, kwargs):
        """One sweep."""
        states_key, *keys = keys
        data = CompleteData(self.model, self._site, args, kwargs, state.z)
        states = data.draw_states(states_key)
        for key, update in zip(keys, self._updates, strict=True):
            drawn = update.draw(key, data, states)
            data = data.at({name: value.astype(state.z[name].dtype) for name, value in drawn.items()})
        return StateGibbsState(data.values, states)

    def __repr__(self):
        lines = [f"states of {self._site}: forward-backward, inside the block", *map(str, self._updates)]
        return "\n".join(lines)
