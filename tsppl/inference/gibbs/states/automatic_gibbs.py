"""A Gibbs kernel read off the user's model: conjugate sites exactly, given hidden states, and NUTS for the rest."""

from itertools import permutations, product
from typing import NamedTuple

import jax
import numpyro.distributions as dist
from jax import random
from numpyro.infer import NUTS, Gibbs

from tsppl.distributions.priors.matrix_normal_inverse_wishart import MatrixNormalInverseWishart
from tsppl.distributions.wrappers import innermost, unwrap
from tsppl.inference.gibbs.block import NotConjugateError, exactly
from tsppl.inference.gibbs.states.complete_data import has_plain_states
from tsppl.inference.gibbs.states.conjugacy import Conjugacy
from tsppl.inference.gibbs.states.conjugate_updates import (
    GaussianUpdate,
    HierarchicalRowsUpdate,
    ProbabilityUpdate,
    RateUpdate,
    RegressionUpdate,
)
from tsppl.inference.gibbs.states.state_gibbs import StateGibbs
from tsppl.sites.trace import latent_sites, replay, sequence_sites

_FLAT_OR_GAUSSIAN = (dist.ImproperUniform, dist.Normal, dist.MultivariateNormal)


class AutoGibbs(Gibbs):
    """A :class:`numpyro.infer.Gibbs` whose ``repr`` is its plan."""

    def __init__(self, blocks, plan):
        super().__init__(blocks)
        self.plan = plan

    def __repr__(self):
        return self.plan


def auto_gibbs(model, *args, nuts=None, **kwargs):
    """A Gibbs kernel for a model with hidden Markov states, its blocks chosen by looking at the model.

    For every observed ``HiddenMarkov`` or ``AutoregressiveHMM`` (and the transitions of a ``SALT``) the states are drawn by
    forward-backward sampling, and given them, exactly:

    ==================================================================== =============================================
    sites                                                                update
    ==================================================================== =============================================
    Dirichlet transition rows or initial probabilities                   Dirichlet
    Dirichlet rows around a Dirichlet site (sticky or not), both         weak-limit hierarchical Dirichlet process
    MatrixNormalInverseWishart or NormalInverseWishart; or InverseWishart matrix-normal inverse-Wishart
    and a MatrixNormal whose ``scale_tril_row`` is its Cholesky factor
    Gamma rates of Poisson, Beta probabilities of Bernoulli emissions    Gamma, Beta
    missing values of the series, with a flat or Gaussian prior          Gaussian
    ==================================================================== =============================================

    All other sites go to one NUTS block, which sees the model with states summed out. What a site is to the model is found by
    trying: an update is taken if the density that it draws from is the model's own conditional density, to rounding, at
    draws from the prior; so the names of sites, and how arrays are cut and stacked on the way, do not matter. ``print(kernel)``
    shows the plan, and why a site that looks conjugate is not.

    Args:
        model: NumPyro model.
        args: its arguments.
        nuts: ``nuts(model)`` makes the kernel of the remaining sites; NUTS with default settings if None.
        kwargs: its keyword arguments.

    Returns:
        a kernel for ``numpyro.infer.MCMC``. With several chains use ``chain_method="sequential"``, ``"parallel"`` or
        ``jax.vmap``: NumPyro's Gibbs refuses ``"vectorized"``. ``extra_fields=("block_states.0.states",)`` collects paths.

    Raises:
        ValueError: if the model has no observed sequence with hidden states, or nothing in it is conjugate.

    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> from tsppl.inference import auto_gibbs
    >>> def model(y):
    ...     rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones((2, 2))).to_event(1))
    ...     prior = tsd.NormalInverseWishart(jnp.zeros(1), 0.1, 3.0, jnp.eye(1))
    ...     loc, covariance = prior.split(numpyro.sample("emission", prior.expand([2]).to_event(1)))
    ...     emission = dist.MultivariateNormal(loc, covariance)
    ...     numpyro.sample("y", tsd.HiddenMarkov(jnp.full(2, 0.5), rows, emission, num_steps=len(y)), obs=y)
    >>> print(auto_gibbs(model, jnp.array([[0.1], [0.2], [4.0], [4.1]])))
    states of y: forward-backward, inside the block
    rows: Dirichlet, transition_probs given the states
    emission: matrix-normal inverse-Wishart, given the states
    """
    conjugacy = Conjugacy(model, args, kwargs)
    latent, sequences = _survey(model, conjugacy)
    blocks, lines, notes, taken = [], [], {}, set()
    for site in sequences:
        updates = []
        for update in _candidates(latent, site):
            if taken & set(update.sites):
                continue
            try:
                conjugacy.check(update, site)
            except NotConjugateError as error:
                notes.setdefault(update.sites, str(error))
                continue
            updates.append(update)
            taken |= set(update.sites)
        if updates:
            block = StateGibbs(model, site, updates, check=False)
            blocks.append((block, block.sites))
            lines.append(repr(block))
    if not blocks:
        reasons = "".join(f"\n{reason}" for reason in notes.values())
        raise ValueError(f"nothing in the model is conjugate given hidden states: use NUTS alone.{reasons}")
    rest = [name for name in latent if name not in taken]
    if rest:
        blocks.append(((nuts or NUTS)(model), rest))
        lines.append(f"{', '.join(rest)}: NUTS, states summed out")
    lines += [f"({reason})" for sites, reason in notes.items() if not set(sites) & taken]
    return AutoGibbs(blocks, "\n".join(lines))


class _Latent(NamedTuple):
    """Family and shape of a latent site, and the sequences whose observed value depends on it."""

    family: type
    shape: tuple
    enters: list


def _survey(model, conjugacy):
    """The latent sites by name, and the names of the observed sequences with hidden states."""
    families = {}

    def observed(values):
        trace = replay(random.key(0), model, values, conjugacy.args, conjugacy.kwargs)
        families.update({name: _family(site["fn"]) for name, site in latent_sites(trace).items()})
        return {name: site.value for name, site in sequence_sites(trace).items() if has_plain_states(site)}

    with exactly():
        observed, (values, others, *_) = jax.jit(observed), conjugacy.points
        series = observed(values)
        latent = {name: _Latent(family, values[name].shape, []) for name, family in families.items()}
        for name, site in latent.items():
            if issubclass(site.family, _FLAT_OR_GAUSSIAN):
                moved = observed({**values, name: others[name]})
                site.enters.extend(sequence for sequence in series if (moved[sequence] != series[sequence]).any())
    return latent, list(series)


def _candidates(latent, sequence):
    """Updates that the families of the priors allow, the larger ones first."""

    def of(*wanted):
        return [name for name, site in latent.items() if issubclass(site.family, wanted)]

    for base, rows in permutations(of(dist.Dirichlet), 2):
        if len(latent[base].shape) == 1 and len(latent[rows].shape) == 2:
            yield HierarchicalRowsUpdate(base, rows)
    for name in of(dist.Dirichlet):
        yield ProbabilityUpdate(name, "initial_probs" if len(latent[name].shape) == 1 else "transition_probs")
    for name in of(MatrixNormalInverseWishart):
        yield RegressionUpdate(name)
    for coefficients, covariance in product(of(dist.MatrixNormal), of(dist.InverseWishart)):
        yield RegressionUpdate(coefficients, covariance)
    for name in of(dist.Gamma, dist.Beta):
        yield RateUpdate(name)
    for name in of(*_FLAT_OR_GAUSSIAN):
        if sequence in latent[name].enters:
            yield GaussianUpdate(name)


def _family(fn):
    return type(innermost(unwrap(fn)[0]))
