"""Sites that can be drawn exactly, given the hidden states and everything else.

Each update names its sites and answers two questions about :class:`~tsppl.inference.gibbs.states.complete_data.CompleteData`:
``draw`` new values, and the ``log_density`` of values, up to a constant, under the distribution drawn from.
:class:`~tsppl.inference.gibbs.states.conjugacy.Conjugacy` compares the second with the model's own joint density: an update that does not fit the model
raises, whatever the names of the sites are.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import random

from tsppl.conjugate import draw_probabilities, draw_shared_tables, draw_table_counts, transition_counts
from tsppl.distributions import HiddenMarkov
from tsppl.distributions.hidden_markov.steps import flatten_steps
from tsppl.inference.gibbs.block import NotConjugateError
from tsppl.inference.gibbs.states.state_regression import regression_conditional

MAX_GAUSSIAN_ENTRIES = 500


@dataclass(frozen=True)
class ProbabilityUpdate:
    """Initial or transition probabilities with Dirichlet priors."""

    site: str
    argument: str

    @property
    def sites(self):
        """Names of the sites that are drawn."""
        return (self.site,)

    def __str__(self):
        return f"{self.site}: Dirichlet, {self.argument} given the states"

    def _concentration(self, data, states):
        prior, batch_shape = data.prior(self.site, dist.Dirichlet)
        starts, transitions = _counts(data, states)
        counts = starts if self.argument == "initial_probs" else transitions
        if jnp.shape(data.trace[self.site]["value"]) != counts.shape:
            raise NotConjugateError(f"its shape is not that of {self.argument}, {counts.shape}")
        return jnp.broadcast_to(prior.concentration, batch_shape + counts.shape[-1:]) + counts

    def draw(self, key, data, states):
        """New values, by site."""
        return {self.site: draw_probabilities(key, self._concentration(data, states))}

    def log_density(self, values, data, states):
        """Log density of values."""
        return dist.Dirichlet(self._concentration(data, states)).log_prob(values[self.site]).sum()


@dataclass(frozen=True)
class HierarchicalRowsUpdate:
    """Transition rows and the shared ``Dirichlet`` base of a (sticky) hierarchical Dirichlet process, weak limit.

    ``transition_probs[i] ~ Dirichlet(alpha base + own[i])``, with any non-negative ``own``, such as ``kappa`` times the
    identity; ``alpha`` and ``own`` may come from other sites. Both are read off the model.
    """

    base: str
    rows: str

    @property
    def sites(self):
        """Names of the sites that are drawn."""
        return (self.base, self.rows)

    def __str__(self):
        return f"{self.base}, {self.rows}: weak-limit hierarchical Dirichlet process, transition_probs given the states"

    def _concentrations(self, data, base):
        """The rows' concentration from the shared base, and what is theirs alone: the map is affine, so both are exact."""

        def of(base):
            prior, batch_shape = data.at({self.base: base}).prior(self.rows, dist.Dirichlet)
            return jnp.broadcast_to(prior.concentration, batch_shape + base.shape)

        whole, shared = jax.jvp(of, (base,), (base,))
        return shared, jnp.maximum(whole - shared, 0.0)

    def draw(self, key, data, states):
        """New values, by site."""
        table_key, dish_key, base_key, rows_key = random.split(key, 4)
        _, transitions = _counts(data, states)
        shared, own = self._concentrations(data, data.values[self.base])
        tables = draw_table_counts(table_key, transitions, shared + own, states.size)
        tables = draw_shared_tables(dish_key, tables, shared, own)
        prior, _ = data.prior(self.base, dist.Dirichlet)
        base = draw_probabilities(base_key, prior.concentration + tables.sum(0))
        shared, own = self._concentrations(data, base)
        return {self.base: base, self.rows: draw_probabilities(rows_key, shared + own + transitions)}

    def log_density(self, values, data, states):
        """Log density of values."""
        base, rows = values[self.base], values[self.rows]
        _, transitions = _counts(data, states)
        if rows.shape != transitions.shape:
            raise NotConjugateError(
                f"{self.rows} has shape {rows.shape}, not that of transition_probs, {transitions.shape}"
            )
        shared, own = self._concentrations(data, base)
        prior, _ = data.prior(self.base, dist.Dirichlet)
        return (
            prior.log_prob(base)
            + dist.Dirichlet(shared + own).log_prob(rows).sum()
            + jnp.where(transitions > 0, transitions * jnp.log(rows), 0.0).sum()
        )


@dataclass(frozen=True)
class RegressionUpdate:
    """Coefficients and noise covariance of a Gaussian autoregression, or mean and covariance of a Gaussian emission.

    Either one site, :class:`~tsppl.distributions.MatrixNormalInverseWishart` or ``NormalInverseWishart``, or two: an
    ``InverseWishart`` covariance, and a ``MatrixNormal`` whose ``scale_tril_row`` is its Cholesky factor. Inputs are the
    lags and a constant, as in :func:`tsppl.distributions.lag_weights`, or the constant alone.
    """

    coefficients: str
    covariance: str | None = None

    @property
    def sites(self):
        """Names of the sites that are drawn."""
        return (self.coefficients,) if self.covariance is None else (self.covariance, self.coefficients)

    def __str__(self):
        return f"{', '.join(self.sites)}: matrix-normal inverse-Wishart, given the states"

    def draw(self, key, data, states):
        """New values, by site."""
        conditional = regression_conditional(data, states, self.coefficients, self.covariance)
        drawn = conditional.sample(key)
        if self.covariance is None:
            return {self.coefficients: drawn}
        coefficients, covariance = conditional.split(drawn)
        return {self.covariance: covariance, self.coefficients: coefficients}

    def log_density(self, values, data, states):
        """Log density of values."""
        conditional = regression_conditional(data, states, self.coefficients, self.covariance)
        value = values[self.coefficients]
        if self.covariance is not None:
            value = jnp.concatenate([value, values[self.covariance]], axis=-1)
        return conditional.log_prob(value).sum()


def _counts(data, states):
    distribution = data.distribution
    return transition_counts(states, distribution.num_states, distribution.lengths)


@dataclass(frozen=True)
class RateUpdate:
    """Poisson rates with Gamma priors, or Bernoulli probabilities with Beta priors, of a hidden Markov emission."""

    site: str

    @property
    def sites(self):
        """Names of the sites that are drawn."""
        return (self.site,)

    def __str__(self):
        return f"{self.site}: Gamma (Poisson) or Beta (Bernoulli), given the states"

    def _conditional(self, data, states):
        distribution = data.distribution
        prior, batch_shape = data.prior(self.site, dist.Gamma | dist.Beta)
        shape = (distribution.num_states,) + distribution.event_shape[1:]
        if not isinstance(distribution, HiddenMarkov) or batch_shape != shape:
            raise NotConjugateError(f"its batch is {batch_shape}; rates of each state have {shape}")
        one_hot = jax.nn.one_hot(states, distribution.num_states)
        value, weights, observed = flatten_steps(distribution, data.sequence.value, one_hot)
        seen = jnp.ones(value.shape) if observed is None else observed
        totals = jnp.einsum("nk,n...->k...", weights, seen * value)
        counts = jnp.einsum("nk,n...->k...", weights, seen * jnp.ones(value.shape))
        if isinstance(prior, dist.Gamma):
            return dist.Gamma(prior.concentration + totals, prior.rate + counts)
        return dist.Beta(prior.concentration1 + totals, prior.concentration0 + counts - totals)

    def draw(self, key, data, states):
        """New values, by site."""
        return {self.site: self._conditional(data, states).sample(key)}

    def log_density(self, values, data, states):
        """Log density of values."""
        return self._conditional(data, states).log_prob(values[self.site]).sum()


@dataclass(frozen=True)
class GaussianUpdate:
    """A site in which the joint density is exactly quadratic: missing values of an autoregression, say.

    Mean and covariance are read off the second derivative of the model's joint density, so the work grows with the
    number of entries times that of one evaluation.
    """

    site: str

    @property
    def sites(self):
        """Names of the sites that are drawn."""
        return (self.site,)

    def __str__(self):
        return f"{self.site}: Gaussian, given the states"

    def _conditional(self, data, states):
        origin = jnp.zeros_like(data.values[self.site])
        if origin.size > MAX_GAUSSIAN_ENTRIES:
            raise NotConjugateError(f"it has {origin.size} entries, and more than {MAX_GAUSSIAN_ENTRIES} take too long")

        def log_joint(flat):
            return data.at({self.site: flat.reshape(origin.shape)}).log_joint(states)

        flat = origin.reshape(-1)
        precision = -jax.hessian(log_joint)(flat)
        factor = jnp.linalg.cholesky(precision)
        return jax.scipy.linalg.cho_solve((factor, True), jax.grad(log_joint)(flat)), factor

    def draw(self, key, data, states):
        """New values, by site."""
        mean, factor = self._conditional(data, states)
        noise = random.normal(key, mean.shape, mean.dtype)
        drawn = mean + jax.scipy.linalg.solve_triangular(factor, noise, lower=True, trans=1)
        return {self.site: drawn.reshape(data.values[self.site].shape)}

    def log_density(self, values, data, states):
        """Log density of values."""
        mean, factor = self._conditional(data, states)
        return dist.MultivariateNormal(mean, precision_matrix=factor @ factor.T).log_prob(values[self.site].reshape(-1))
