"""Maximum likelihood and maximum a posteriori estimates by expectation maximisation."""

import warnings
from functools import partial
from itertools import chain, islice
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Bool, Float

from tsppl.distributions.sequence import SequenceDistribution
from tsppl.distributions.shapes import is_concrete
from tsppl.inference.expectation_maximization.arguments import resolve_fixed, resolve_priors
from tsppl.inference.expectation_maximization.data_driven_starts import data_driven_starts
from tsppl.inference.expectation_maximization.families import prepare, steps_of


class EMResult(NamedTuple):
    """What :func:`em` returns.

    ``distribution`` has the class and the parametrisation of the one given. ``log_likelihoods`` starts with that of the
    given distribution and never falls; with priors, their log densities are part of it. Traced by jit or vmap it has
    ``num_iters + 1`` entries, of which the last repeat. ``restarts`` holds the last log-likelihood of every start.
    """

    distribution: SequenceDistribution
    log_likelihoods: Float[Array, " I"]
    converged: Bool[Array, ""]
    restarts: Float[Array, " R"]


def em(distribution, value, *, num_iters=200, tol=1e-6, priors=None, fixed=(), num_restarts=1, key=None):
    """Fit a distribution's parameters to data by expectation maximisation (Dempster, Laird and Rubin 1977).

    The distribution given is the starting point. The hidden states or the hidden trajectory, and missing observations,
    are averaged over, so masks, ``lengths`` and elementwise gaps need nothing special. Series in a batch share one set
    of parameters.

    ============================ ============================================================================
    class                        parameters
    ============================ ============================================================================
    ``HiddenMarkov``             ``initial_probs``, ``transition_probs``, ``emission.<argument>``
    ``AutoregressiveHMM``        ``initial_probs``, ``transition_probs``, ``weights``, ``noise.<argument>``
    ``SALT``                     ``initial_probs``, ``transition_probs``, ``output_factors``, ``input_factors``,
                                 ``lag_factors``, ``core`` (Tucker), ``noise.<argument>``
    ``LinearGaussianSSM``        ``initial.<argument>``, ``transition_matrix``, ``transition_noise.<argument>``,
                                 ``emission_matrix``, ``emission_noise.<argument>``
    ============================ ============================================================================

    ``<argument>`` is that of the NumPyro family: ``"emission.rate"`` of Poisson. Every state gets parameters of its
    own: numbers given once for several states are starting values. M-steps are exact for Poisson, Bernoulli,
    Categorical, Normal (also ``.to_event(1)``) and MultivariateNormal emissions, each stream of ``Streams`` included,
    and for autoregressions and linear-Gaussian models with Gaussian noise; other families climb by gradient steps that
    never lower the objective. Probabilities that are zero stay zero.

    The factors of SALT move one after the other, each to its exact maximum (Lee et al. 2023). A factor with one state
    axis entry stays shared by all states. Normal priors on the factors, of any location and scale, are exact too: a
    scale that falls with the lag, ``priors={"lag_factors": Normal(0, scale[:, None])}``, is a lag penalty.

    ``initial`` of an autoregression and ``noise_matrix`` are held. With a ``noise_matrix``, the transition matrix
    changes only where the noise reaches, so that companion forms stay what they are. ``initial`` of a linear-Gaussian
    model is seen once in each series: hold it where there are few.

    Args:
        distribution: one of the classes above, with parameters to start from.
        value: the data, as for ``distribution.log_prob``.
        num_iters: greatest number of iterations.
        tol: stop when an iteration gains no more than this, in nats for each scored step.
        priors: ``name -> distribution`` for posterior modes instead of maximum likelihood. Exact: Dirichlet for
            ``initial_probs`` and ``transition_probs`` (a density over probabilities, also where the model has logits),
            Gamma for a Poisson rate, Beta for Bernoulli and Dirichlet for categorical ``probs``, InverseWishart for the
            ``covariance_matrix`` of a MultivariateNormal. Any other prior is climbed by gradient steps. A prior on the
            covariance or scale keeps a state from collapsing onto one observation.
        fixed: names of parameters to hold, or of whole arguments (``("emission",)``). Arguments that vary in time or
            have a batch must be held.
        num_restarts: number of starts, run side by side; the first is the distribution given, the others are drawn from
            the data, for an autoregression by clusters of regressions and of levels in turn
            (:func:`~tsppl.inference.data_driven_start`). The best result is returned.
        key: random key for the restarts.

    Returns:
        :class:`EMResult`.

    Raises:
        TypeError: for another class of distribution.
        NotImplementedError: if a parameter that varies in time or has a batch is not held.
        ValueError: for unknown names, priors without a mode, or data that are impossible at the start.

    >>> import jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> from tsppl.inference import em
    >>> counts = jnp.array([1, 0, 2, 1, 9, 8, 11, 1, 1, 0])
    >>> start = tsd.HiddenMarkov(
    ...     jnp.full(2, 0.5), jnp.full((2, 2), 0.5), dist.Poisson(jnp.array([2.0, 5.0])), num_steps=10
    ... )
    >>> em(start, counts).distribution.emission.rate.round(1).tolist()
    [0.9, 9.3]
    """
    steps = steps_of(distribution)
    names = steps.names(distribution)
    fixed, priors = resolve_fixed(fixed, names), resolve_priors(priors, names)
    value = distribution.check_value(value)
    start = prepare(distribution, value, fixed)
    _check_priors(start, priors)
    if num_restarts == 1:
        run = _run(start, value, priors, tol, num_iters=num_iters, fixed=fixed)
        return _report(run, run.objective[None])
    if key is None:
        raise ValueError("num_restarts needs key=, a random key")
    keys = random.split(key, num_restarts - 1)
    found = chain.from_iterable(data_driven_starts(own, distribution, value, fixed=fixed) for own in keys)
    starts = [start, *islice(found, num_restarts - 1)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    runs = _run_all(stacked, value, priors, tol, num_iters=num_iters, fixed=fixed)
    objectives = jnp.where(runs.failed, -jnp.inf, runs.objective)
    best = jnp.argmax(objectives)
    return _report(jax.tree.map(lambda leaf: leaf[best], runs), runs.objective)


@jax.jit
def _log_prior(distribution, priors):
    return jnp.asarray(steps_of(distribution).log_prior(distribution, priors))


def _check_priors(start, priors):
    try:
        log_prior = _log_prior(start, priors)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"priors do not fit the parameters: {error}") from error
    if is_concrete(log_prior) and log_prior == -jnp.inf:
        raise ValueError("the starting distribution has density zero under priors: start inside their support")


def _report(run, objectives):
    repeated = jnp.where(jnp.arange(run.trace.shape[0]) < run.iteration, run.trace, run.objective)
    if not is_concrete(run):
        return EMResult(run.best, repeated, run.converged, objectives)
    if run.objective == -jnp.inf:
        raise ValueError("value is impossible under the starting distribution: its log-likelihood is not finite")
    if run.failed:
        warnings.warn(
            f"em stopped after {int(run.iteration) - 1} iterations because the log-likelihood was no longer finite, "
            "and returns the last result before that. Most likely it has no maximum: a state has collapsed onto few "
            "observations. Use fewer states, or a prior on the scale, such as "
            "priors={'emission.covariance_matrix': InverseWishart(...)}",
            stacklevel=3,
        )
    return EMResult(run.best, repeated[: int(run.iteration)], run.converged, objectives)


class _Run(NamedTuple):
    """State of the loop: ``best`` is the last distribution known to be good, ``trial`` the one to evaluate next."""

    iteration: Array
    best: SequenceDistribution
    trial: SequenceDistribution
    objective: Array
    trace: Array
    converged: Array
    failed: Array


@partial(jax.jit, static_argnames=("num_iters", "fixed"))
def _run(start, value, priors, tol, *, num_iters, fixed):
    steps = steps_of(start)
    threshold = tol * start.scored_steps(value).sum()
    leaves = jax.tree.leaves(start)
    dtype = jnp.result_type(*(leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)))

    def go_on(run):
        return ~(run.converged | run.failed) & (run.iteration <= num_iters)

    def iterate(run):
        objective, statistics = steps.expect(run.trial, value)
        objective += steps.log_prior(run.trial, priors)
        gain = objective - run.objective
        failed = ~jnp.isfinite(objective)
        better = (gain >= 0) & ~failed
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), run.trial, run.best)
        trial = steps.maximize(run.trial, value, statistics, priors, fixed)
        trial = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), trial, run.trial)
        objective = jnp.where(better, objective, run.objective)
        trace = run.trace.at[run.iteration].set(objective)
        return _Run(run.iteration + 1, best, trial, objective, trace, (gain <= threshold) & ~failed, failed)

    first = _Run(
        iteration=jnp.zeros((), jnp.int32),
        best=start,
        trial=start,
        objective=jnp.full((), -jnp.inf, dtype),
        trace=jnp.zeros((num_iters + 1,), dtype),
        converged=jnp.zeros((), bool),
        failed=jnp.zeros((), bool),
    )
    return lax.while_loop(go_on, iterate, first)


@partial(jax.jit, static_argnames=("num_iters", "fixed"))
def _run_all(starts, value, priors, tol, *, num_iters, fixed):
    return jax.vmap(lambda start: _run(start, value, priors, tol, num_iters=num_iters, fixed=fixed))(starts)
