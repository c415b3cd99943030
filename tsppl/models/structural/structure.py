"""A sum of components as one linear-Gaussian model: matrices, names of what is hidden, priors in units of the data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.linalg import block_diag

from tsppl.distributions import LinearGaussianSSM


class Matrices(NamedTuple):
    """One block's share of a linear-Gaussian model, of ``D`` dimensions driven by ``R`` noises.

    ``transition`` is ``(D, D)``, ``noise_matrix`` ``(D, R)``, ``noise_scales`` ``(R,)``; ``initial_loc`` and
    ``initial_scale`` are ``(D,)``.
    """

    transition: Any
    noise_matrix: Any
    noise_scales: Any
    initial_loc: Any
    initial_scale: Any


@dataclass(frozen=True, eq=False)
class Block:
    """One component: what it is called, what it hides, its parameters, and its matrices given these.

    Attributes:
        name: of the component; its parameters are called ``<name>_<parameter>``.
        latent_names: names of its ``D`` dimensions.
        observed: ``(D,)``, how its dimensions add up to the component.
        priors: parameter -> a distribution, a number that fixes it, or a function of the scale of the data that gives a
            distribution.
        matrices: function of the parameters and of the location and scale of the data, which returns :class:`Matrices`;
            None for a regression.
        covariates: ``(..., T, P)`` of a regression, or None.
    """

    name: str
    latent_names: tuple[str, ...]
    observed: np.ndarray
    priors: Mapping[str, Any]
    matrices: Callable | None
    covariates: Any = None


@dataclass(frozen=True, eq=False)
class Structure:
    """A sum of components, made by adding :func:`level`, :func:`trend`, :func:`seasonal` and others.

    >>> import jax.numpy as jnp, numpyro
    >>> from tsppl import structural
    >>> blocks = structural.level() + structural.seasonal(4)
    >>> blocks.latent_names
    ('level', 'seasonal', 'seasonal lag 1', 'seasonal lag 2')
    >>> params = {"level_scale": 0.5, "seasonal_scale": 0.1, "noise_scale": 1.0}
    >>> blocks.distribution(params, num_steps=3).log_prob(jnp.array([0.2, 0.4, -0.1])).round(3).item()
    -6.819
    """

    blocks: tuple[Block, ...]

    def __post_init__(self):
        names = [block.name for block in self.blocks]
        repeated = {name for name in names if names.count(name) > 1}
        if repeated:
            raise ValueError(f"two components are called {sorted(repeated)[0]!r}: give one of them another name=")

    def __add__(self, other):
        if not isinstance(other, Structure):
            return NotImplemented
        return Structure(self.blocks + other.blocks)

    @property
    def latent_names(self):
        """Names of the trajectory's dimensions."""
        return tuple(name for block in self.blocks for name in block.latent_names)

    def sample_params(self, *, scale=1.0, noise_scale=None):
        """NumPyro statements for the parameters of all components, inside a model.

        Args:
            scale: scale of the data, their standard deviation say: priors are in its units.
            noise_scale: prior of the scale of the observations' noise, ``HalfNormal(scale)`` by default, or a number.

        Returns:
            dict: name -> value.
        """
        priors = {f"{block.name}_{name}": prior for block in self.blocks for name, prior in block.priors.items()}
        priors["noise_scale"] = (lambda scale: dist.HalfNormal(scale)) if noise_scale is None else noise_scale
        return {name: _sample(name, prior, scale) for name, prior in priors.items()}

    def distribution(self, params, *, num_steps, loc=0.0, scale=1.0, mask=None, lengths=None, method="auto"):
        """The series as a :class:`~tsppl.distributions.LinearGaussianSSM` whose trajectory is :attr:`latent_names`.

        ``to_arviz(..., coords={"latent": blocks.latent_names})`` names them there.

        Args:
            params: dict as from :meth:`sample_params`.
            num_steps: number of steps ``T``.
            loc, scale: location and scale of the data: levels start from a normal distribution at ``loc``, ten scales wide, the
                other components within about one scale of zero. With a start that is ever wider the sum of
                ``log_prob_steps`` without the first steps tends to the diffuse likelihood of statsmodels.
            mask, lengths, method: as in ``LinearGaussianSSM``.
        """
        parts, offset = [], 0.0
        for block in self.blocks:
            own = {name: params[f"{block.name}_{name}"] for name in block.priors}
            if block.covariates is not None:
                self._check_covariates(block, num_steps)
                offset = offset + jnp.einsum("...tp,...p->...t", block.covariates, own["coefficients"])
            else:
                parts.append(block.matrices(own, loc, scale))
        if not parts:
            raise ValueError("a regression alone has nothing that varies in time: add level(), or another component")
        transition, noise_matrix = (block_diag(*(part[i] for part in parts)) for i in range(2))
        noise_scales, initial_loc, initial_scale = (
            jnp.concatenate([jnp.atleast_1d(part[i]) for part in parts]) for i in range(2, 5)
        )
        driven = noise_matrix.shape[1] > 0
        if not driven:  # a model without noise still needs one to name: it moves nothing
            noise_matrix, noise_scales = jnp.zeros((len(transition), 1)), jnp.ones(1)
        return LinearGaussianSSM(
            dist.Normal(initial_loc, initial_scale).to_event(1),
            transition,
            dist.Normal(0.0, noise_scales).to_event(1),
            self._observed,
            dist.Normal(offset, params["noise_scale"]),
            num_steps=num_steps,
            noise_matrix=noise_matrix,
            time_varying=("emission_noise",) if jnp.ndim(offset) else (),
            mask=mask,
            lengths=lengths,
            method=method,
        )

    def sample_distribution(self, *, num_steps, loc=0.0, scale=1.0, noise_scale=None, **options):
        """:meth:`distribution` with parameters from :meth:`sample_params`: one line of a NumPyro model.

        >>> import numpyro
        >>> from tsppl import structural
        >>> def model(y, num_steps):
        ...     blocks = structural.trend(smooth=True) + structural.seasonal(12)
        ...     series = blocks.sample_distribution(num_steps=num_steps, loc=300.0, scale=10.0)
        ...     numpyro.sample("y", series, obs=y)
        """
        params = self.sample_params(scale=scale, noise_scale=noise_scale)
        return self.distribution(params, num_steps=num_steps, loc=loc, scale=scale, **options)

    def components(self, trajectory, params=None):
        """What each component adds to the series.

        Args:
            trajectory: ``(..., T, D)``, from ``posterior_latents`` or ``forecast``.
            params: parameters or draws of them, needed for regressions: ``params["<name>_coefficients"]`` with the
                leading axes of ``trajectory``.

        Returns:
            dict: name of the component -> ``(..., T)``; regressions only where ``params`` is given.
        """
        found, start = {}, 0
        for block in self.blocks:
            if block.covariates is None:
                size = len(block.latent_names)
                found[block.name] = trajectory[..., start : start + size] @ jnp.asarray(
                    block.observed, trajectory.dtype
                )
                start += size
            elif params is not None:
                coefficients = params[f"{block.name}_coefficients"]
                found[block.name] = jnp.einsum("...tp,...p->...t", block.covariates, coefficients)
        return found

    @property
    def _observed(self):
        return jnp.concatenate([jnp.asarray(block.observed, float) for block in self.blocks])

    @staticmethod
    def _check_covariates(block, num_steps):
        if jnp.ndim(block.covariates) < 2 or block.covariates.shape[-2] != num_steps:
            raise ValueError(
                f"the covariates of {block.name!r} have shape {jnp.shape(block.covariates)}; it must end in ({num_steps}, P): "
                "a row for each step, those to be forecast included"
            )


def _sample(name, prior, scale):
    if not isinstance(prior, dist.Distribution) and callable(prior):
        prior = prior(scale)
    return numpyro.sample(name, prior) if isinstance(prior, dist.Distribution) else prior
