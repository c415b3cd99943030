"""Closed-form Kullback-Leibler divergences between Gaussian chains, registered with NumPyro's ``kl_divergence``.

``TraceMeanField_ELBO`` falls back to a Monte Carlo estimate without a word where no closed form is registered, so
chains that are masked, or have batch axes turned into event axes, on one side only are registered too.
"""

import jax.numpy as jnp
from numpyro.distributions import Independent, MaskedDistribution
from numpyro.distributions.kl import kl_divergence
from numpyro.distributions.util import sum_rightmost

from tsppl.distributions.linear_gaussian.linear_gaussian_chain import LinearGaussianChain
from tsppl.distributions.wrappers import peel
from tsppl.messages.linear_gaussian.chain import chain_divergence
from tsppl.messages.linear_gaussian.steps import AffineGaussian, Gaussian
from tsppl.upstream import mask_of


@kl_divergence.register(LinearGaussianChain, LinearGaussianChain)
def _chain_chain(p, q):
    if p.event_shape != q.event_shape:
        raise ValueError(f"the chains have event shapes {p.event_shape} and {q.event_shape}; they must be equal")
    (arrays, signature), (others, other_signature) = p._density_arrays(), q._density_arrays()

    def core(*arrays):
        first, second = ((Gaussian(*part[:2]), AffineGaussian(*part[2:])) for part in (arrays[:5], arrays[5:]))
        return chain_divergence(*first, *second, p.num_steps)

    dtype = jnp.result_type(*arrays, *others)
    arrays = [array.astype(dtype) for array in (*arrays, *others)]
    divergence = jnp.vectorize(core, signature=f"{signature},{other_signature}->()")(*arrays)
    return jnp.broadcast_to(divergence, jnp.broadcast_shapes(divergence.shape, p.batch_shape, q.batch_shape))


def _holds_chain(distribution):
    return isinstance(peel(distribution, MaskedDistribution, Independent), LinearGaussianChain)


def _entropy(distribution):
    if isinstance(distribution, MaskedDistribution):
        return jnp.where(mask_of(distribution), _entropy(distribution.base_dist), 0)
    if isinstance(distribution, Independent):
        return sum_rightmost(_entropy(distribution.base_dist), distribution.reinterpreted_batch_ndims)
    return distribution.entropy()


def _masked_first(p, q):
    """``E[mask log p - log q]``: what is masked in ``p`` leaves the cross entropy."""
    divergence = kl_divergence(p.base_dist, q)
    return divergence + jnp.where(mask_of(p), 0, _entropy(p.base_dist))


def _masked_second(p, q):
    """``E[log p - mask log q]``: what is masked in ``q`` leaves the negative entropy."""
    return jnp.where(mask_of(q), kl_divergence(p, q.base_dist), -_entropy(p))


def _independent_first(p, q):
    return sum_rightmost(kl_divergence(p.base_dist, q), p.reinterpreted_batch_ndims)


def _independent_second(p, q):
    return sum_rightmost(kl_divergence(p, q.base_dist), q.reinterpreted_batch_ndims)


def _register(first, second, rule):
    """Register ``rule`` for chains alone: other distributions keep having no closed form here."""

    @kl_divergence.register(first, second)
    def divergence(p, q):
        if not (_holds_chain(p) and _holds_chain(q)):
            raise NotImplementedError(f"no closed form for {type(p).__name__} and {type(q).__name__}")
        return rule(p, q)


_register(MaskedDistribution, LinearGaussianChain, _masked_first)
_register(MaskedDistribution, Independent, _masked_first)
_register(LinearGaussianChain, MaskedDistribution, _masked_second)
_register(Independent, MaskedDistribution, _masked_second)
_register(Independent, LinearGaussianChain, _independent_first)
_register(LinearGaussianChain, Independent, _independent_second)
