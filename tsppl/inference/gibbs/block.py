"""One protocol for blocks of :class:`numpyro.infer.Gibbs`: what they share is here, and a new block brings its arithmetic alone.

A block derives from :class:`GibbsBlock` and supplies

- ``sites``: names of the sites that it draws;
- a state: a NamedTuple that begins with ``z``, their values, and ends with ``rng_key=None``; what stands between is to be looked
  at (``extra_fields=("block_states.0.states",)``);
- ``start(keys, values, args, kwargs)``, the state at first values, and ``draw(keys, state, args, kwargs)``, the next one;
  ``num_keys`` says how many keys each of the two uses;
- ``compare(values, args, kwargs)``, which raises unless the block draws from the model's own conditional distribution: at
  :func:`random_values` of all sites, computed :func:`exactly`, by :func:`check_ratio`.

A draw may use more than its sites: paths of states, events, Polya-gamma variables, particles. It draws these anew from
``state.z`` and the values of other blocks, uses them, and forgets them, so that other blocks see the model with all that
integrated out, and may come in any order. What is kept in the state is never conditioned on.
"""

import copy
from abc import abstractmethod
from contextlib import contextmanager

import jax
import jax.numpy as jnp
from jax import random
from numpyro.infer import init_to_uniform
from numpyro.infer.mcmc import MCMCKernel

from tsppl.sites.trace import latent_sites, replay
from tsppl.upstream import GIBBS_SITES_KWARG

NUM_CHECKS = 2
TOLERANCE, SINGLE_TOLERANCE = 1e-7, 1e-5


class NotConjugateError(ValueError):
    """A site whose conditional distribution is not the one that a Gibbs update would draw from."""


class GibbsBlock(MCMCKernel):
    """A block of ``numpyro.infer.Gibbs``; the module says what a class of blocks supplies.

    Args:
        model: NumPyro model.
        check: whether to compare the block with the model before the first draw.
    """

    sample_field = "z"
    num_keys = 1, 1

    def __init__(self, model, *, check=True):
        self.model, self._check = model, check

    @property
    @abstractmethod
    def sites(self):
        """Names of the sites that the block owns."""

    @abstractmethod
    def compare(self, values, args, kwargs):
        """Raise unless the block draws from the model's own conditional distribution.

        Args:
            values: of the block's sites, to start from.
            args, kwargs: arguments of the model, without values of other blocks.
        """

    @abstractmethod
    def start(self, keys, values, args, kwargs):
        """The first state."""

    @abstractmethod
    def draw(self, keys, state, args, kwargs):
        """The next state."""

    def check_given(self, names):
        """Raise unless values of these sites are what the block starts from."""
        unfit = set(self.sites) ^ names
        if unfit:
            raise ValueError(f"the block draws {list(self.sites)}; the sites {sorted(unfit)} do not fit")

    def init(self, rng_key, num_warmup, init_params, model_args, model_kwargs):
        """Compare the block with the model, and start."""
        kwargs = dict(model_kwargs or {})
        self.check_given(set(init_params or {}))
        values = {name: jnp.asarray(value) for name, value in init_params.items()}
        if self._check:
            others_left_out = {name: value for name, value in kwargs.items() if name != GIBBS_SITES_KWARG}
            self.compare(values, model_args, others_left_out)
        rng_key, keys = _next_keys(rng_key, self.num_keys[0])
        return self.start(keys, values, model_args, kwargs)._replace(rng_key=rng_key)

    def sample(self, state, model_args, model_kwargs):
        """One draw."""
        rng_key, keys = _next_keys(state.rng_key, self.num_keys[1])
        return self.draw(keys, state, model_args, dict(model_kwargs or {}))._replace(rng_key=rng_key)

    def refresh(self, state, model_args, model_kwargs):
        """Nothing is cached."""
        return state

    def wrap_model(self, wrapper):
        """A copy whose model is wrapped."""
        kernel = copy.copy(self)
        kernel.model = wrapper(self.model)
        return kernel

    def get_constrain_fn(self, model_args, model_kwargs):
        """Values are constrained already."""
        return lambda values: values


def _next_keys(rng_key, number):
    """The key to split next time, and keys to use now."""
    rng_key, *keys = random.split(rng_key, number + 1) if number else [rng_key]
    return rng_key, keys


@contextmanager
def exactly():
    """Computing now, even while a chain is being traced, and in double precision."""
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        yield


def in_double(tree):
    """The same with real arrays in double precision."""

    def one(leaf):
        is_real = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, jnp.float64) if is_real else leaf

    return jax.tree.map(one, tree)


def random_values(model, key, args, kwargs, *, given=None, near=init_to_uniform):
    """Values of all latent sites at a random point: those of ``given``, the others by ``near``, a strategy of NumPyro."""
    trace = replay(key, model, given or {}, args, kwargs, substitute_fn=near)
    return {name: site["value"] for name, site in latent_sites(trace).items()}


def check_ratio(found, before, after, *, subject, reason="uses them in another way", constants=()):
    """Raise unless the log ratio of the densities that a block draws from is that of the model's joint densities.

    Args:
        found: of the block's densities at another point and at a first one.
        before, after: log joint density at the first point and at the other.
        subject: what cannot be drawn, in the words of the error.
        reason: what the model does then, in the same words.
        constants: arrays that the densities were computed from. Those made outside of the model keep the precision in which
            they were made.

    Raises:
        NotConjugateError: if they differ by more than rounding.
    """
    leaves = map(jnp.result_type, jax.tree.leaves(constants))
    in_single = any(jnp.issubdtype(dtype, jnp.floating) and dtype != jnp.float64 for dtype in leaves)
    expected, found = float(after) - float(before), float(found)
    size = 1 + abs(float(before)) + abs(float(after))
    if not abs(found - expected) < (SINGLE_TOLERANCE if in_single else TOLERANCE) * size:
        raise NotConjugateError(
            f"{subject}: between two values the model's joint density changes by {expected:.6g} nats and that of the update by "
            f"{found:.6g}, so the model {reason}"
        )
