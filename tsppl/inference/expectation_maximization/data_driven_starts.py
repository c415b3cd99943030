"""Starting points read off the data: clusters of observations, clusters of regressions, principal components."""

import warnings
from functools import partial, singledispatch

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from tsppl.distributions.autoregressive.autoregressive_hmm import AutoregressiveHMM
from tsppl.distributions.autoregressive.salt import SALT
from tsppl.distributions.hidden_markov.hidden_markov import HiddenMarkov
from tsppl.distributions.hidden_markov.steps import flatten_steps
from tsppl.distributions.linear_gaussian.linear_gaussian_ssm import LinearGaussianSSM, PosteriorChain
from tsppl.distributions.shapes import is_concrete, typed_key
from tsppl.distributions.wrappers import leaf_of
from tsppl.inference.expectation_maximization.arguments import resolve_fixed
from tsppl.inference.expectation_maximization.families import prepare, steps_of
from tsppl.inference.expectation_maximization.low_rank_starts import regression_start
from tsppl.inference.expectation_maximization.markov_switching import StateStatistics

_CERTAINTY = 0.9
_BLUR = 0.3
_WINDOW = 5
_MAX_INPUTS = 50


def data_driven_start(key, distribution, value, *, fixed=()):
    """Parameters of a distribution from a first rough look at the data, to start EM, SVI or MCMC from.

    ``HiddenMarkov``: k-means clusters of the observations, one for each state, numbered by their centres; for
    categories clusters of their indicators. ``AutoregressiveHMM``: clusters of steps that follow the same regression on
    the past (Spaeth 1979; where the past has many entries, on its latest 50), or k-means clusters of levels and changes
    from step to step, whichever gives the likelier parameters. In both classes, these are those of one M-step in which a
    step belongs to its cluster with probability 0.9. ``SALT``: the same clusters, and the factors of a ridge regression in
    each. ``LinearGaussianSSM``: principal components as trajectory, missing entries filled in by the components, then the
    regressions on it. Different keys give different starts.

    Args:
        key: random key.
        distribution: gives class, shapes and families; the parameters that ``fixed`` names are kept.
        value: the data; neither it nor the distribution may be traced by jit.
        fixed: as in :func:`~tsppl.inference.em`.

    Returns:
        a distribution of the same class.

    Raises:
        ValueError: if a step has fewer channels than a trajectory that is to be found has dimensions.

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> from tsppl.inference import data_driven_start
    >>> counts = jnp.array([1, 0, 2, 1, 9, 8, 11, 1, 1, 0])
    >>> template = tsd.HiddenMarkov(jnp.full(2, 0.5), jnp.full((2, 2), 0.5), dist.Poisson(jnp.ones(2)), num_steps=10)
    >>> data_driven_start(jax.random.key(0), template, counts).emission.rate.round(1).tolist()
    [1.0, 8.4]
    """
    starts = list(data_driven_starts(key, distribution, value, fixed=fixed))
    return starts[0] if len(starts) == 1 else max(starts, key=lambda found: float(_log_prob(found, value)))


def data_driven_starts(key, distribution, value, *, fixed):
    """One start of each kind that there is for a class, as :func:`data_driven_start` describes them.

    The likelier start need not lead to the better optimum, so restarts go through all kinds.
    """
    if not is_concrete(distribution, value):
        raise TypeError("data_driven_start looks at the data and cannot be traced by jit or vmap")
    steps = steps_of(distribution)
    fixed = resolve_fixed(fixed, steps.names(distribution))
    value = distribution.check_value(value)
    start = prepare(distribution, value, fixed)
    generator = _generator(key)
    start_key = jax.random.key(int(generator.integers(2**31)))
    for rough in _rough_states(start)(generator, start, value, fixed):
        yield _from_rough(start_key, start, value, rough, fixed=fixed)


@partial(jax.jit, static_argnames="fixed")
def _from_rough(key, distribution, value, statistics, *, fixed):
    """Parameters of one M-step."""
    if isinstance(distribution, SALT):
        distribution = regression_start(key, distribution, value, statistics.state_probs, fixed=fixed)
    updated = steps_of(distribution).maximize(distribution, value, statistics, {}, fixed)
    return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), updated, distribution)


@jax.jit
def _log_prob(distribution, value):
    return jnp.nan_to_num(distribution.log_prob(value), nan=-jnp.inf).sum()


def _generator(key):
    return np.random.default_rng(np.asarray(jax.random.key_data(typed_key(key))).tolist())


@singledispatch
def _rough_states(distribution):
    """Function of a generator, a distribution, data and held names, which yields statistics of first rough states."""
    raise TypeError(f"no start is found for a {type(distribution).__name__}: give its parameters by hand")


_rough_states.register(HiddenMarkov, lambda distribution: _hidden_markov)
_rough_states.register(AutoregressiveHMM, lambda distribution: _autoregressive)
_rough_states.register(SALT, lambda distribution: _autoregressive)
_rough_states.register(LinearGaussianSSM, lambda distribution: _linear_gaussian)


def _hidden_markov(generator, distribution, value, fixed):
    probs = _no_preference(distribution, value)
    rows, weights, observed = map(_as_numpy, flatten_steps(distribution, value, probs))
    features = _features(leaf_of(distribution.emission), rows, observed)
    yield _statistics(_k_means(generator, features, weights.sum(1) > 0, probs.shape[-1]), distribution, probs)


def _autoregressive(generator, distribution, value, fixed):
    probs = _no_preference(distribution, value)
    rows = distribution.regression_rows(value, probs.shape[:-2])
    inputs, outputs, weights, observed = map(_as_numpy, (rows.inputs, rows.outputs, rows.weights(probs), rows.observed))
    outputs = outputs if observed is None else np.where(observed, outputs, 0)
    kept = outputs.shape[1] * max(1, min(distribution.num_lags, _MAX_INPUTS // outputs.shape[1]))
    inputs = np.concatenate([inputs[:, :kept], inputs[:, -1:]], axis=1)
    used = weights.sum(1) > 0
    for find in (_regression_clusters, _clusters_in_phase_space):
        labels = _for_all_steps(find(generator, inputs[used], outputs[used], probs.shape[-1]), used)
        missing = probs.shape[-2] - labels.size // max(int(np.prod(probs.shape[:-2])), 1)
        labels = labels.reshape(probs.shape[:-2] + (-1,))
        yield _statistics(np.concatenate([labels[..., :1]] * missing + [labels], axis=-1), distribution, probs)


def _no_preference(distribution, value):
    _, _, log_likelihoods = distribution.potentials(value)
    lead = jnp.broadcast_shapes(log_likelihoods.shape[:-2], distribution.batch_shape)
    return jnp.full(lead + log_likelihoods.shape[-2:], 1 / distribution.num_states, log_likelihoods.dtype)


def _as_numpy(array):
    return None if array is None else np.asarray(array)


def _features(leaf, rows, observed):
    """Observations as points ``(n, F)`` of unit variance; categories as indicators, gaps filled by the column mean."""
    if isinstance(leaf, dist.CategoricalProbs | dist.CategoricalLogits):
        rows = np.eye(leaf.probs.shape[-1])[rows]
    points = rows.reshape(rows.shape[0], -1).astype(float)
    if observed is not None:
        seen = observed.reshape(points.shape)
        means = (points * seen).sum(0) / np.maximum(seen.sum(0), 1)
        points = np.where(seen, points, means)
    return points / _positive(points.std(0))


def _positive(scales):
    return np.where(scales > 0, scales, 1.0)


def _k_means(generator, points, used, num_clusters):
    """Labels ``(n,)`` in the order of the clusters' centres; steps not used take the label of the step before."""
    centres, labels = np.unique(points[used], axis=0, return_inverse=True)
    if len(centres) > num_clusters:
        from scipy.cluster.vq import kmeans2  # slow to import, and seldom needed

        num_rounds = int(generator.integers(1, 11))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "One of the clusters is empty")
            centres, labels = kmeans2(points[used], num_clusters, iter=num_rounds, minit="++", seed=generator)
    rank = np.argsort(np.lexsort(centres.T[::-1]))
    return _for_all_steps(rank[labels], used)


def _for_all_steps(labels, used):
    """Labels of the steps that are used, as labels of all: others take that of the step before."""
    whole = np.full(used.size, -1)
    whole[used] = labels
    last = np.maximum.accumulate(np.where(used, np.arange(used.size), -1))
    return np.where(last >= 0, whole[last], 0)


def _regression_clusters(generator, inputs, outputs, num_clusters, num_rounds=10):
    """Labels ``(n,)`` of clusters of steps: ridge regressions, then assignment to the smallest residual, in turn."""
    n, p = inputs.shape
    scale = _positive(outputs.std(0))
    ridge = 1e-3 * n * np.diag((inputs**2).mean(0) + np.finfo(float).tiny)
    length = min(max(4 * p, n // (4 * num_clusters)), n)
    begins = generator.integers(0, n - length + 1, num_clusters)
    labels = np.full(n, -1)
    for cluster, begin in enumerate(begins):
        labels[begin : begin + length] = cluster
    for _ in range(num_rounds):
        losses = np.empty((n, num_clusters))
        for cluster in range(num_clusters):
            own = labels == cluster
            gram = inputs[own].T @ inputs[own] + ridge * max(own.sum(), 1) / n
            residuals = (outputs - inputs @ np.linalg.solve(gram, inputs[own].T @ outputs[own])) / scale
            losses[:, cluster] = (residuals**2).sum(1)
        labels = _smoothed(losses).argmin(1)
    return labels


def _clusters_in_phase_space(generator, inputs, outputs, num_clusters):
    """Labels ``(n,)`` of k-means clusters of smoothed levels and changes; both weigh the same, and so do channels."""
    parts = outputs, outputs - inputs[:, : outputs.shape[1]]
    smooth = [_smoothed(part / _positive(outputs.std(0))) for part in parts]
    points = np.concatenate([part / _positive(part.std()) for part in smooth], axis=1)
    return _k_means(generator, points, np.ones(len(points), bool), num_clusters)


def _smoothed(series):
    """Means over a window of steps."""
    from scipy.ndimage import uniform_filter1d  # slow to import, and seldom needed

    return uniform_filter1d(series, _WINDOW, axis=0)


def _statistics(labels, distribution, probs):
    """Expected counts when each step is in the state of its label with probability 0.9."""
    num_states = probs.shape[-1]
    labels = jnp.asarray(labels).reshape(probs.shape[:-1])
    states = _CERTAINTY * jax.nn.one_hot(labels, num_states, dtype=probs.dtype) + (1 - _CERTAINTY) / num_states
    pairs = states[..., :-1, :, None] * states[..., 1:, None, :]
    if distribution.lengths is not None:
        arrivals = jnp.arange(distribution.num_steps - pairs.shape[-3], distribution.num_steps)
        pairs = jnp.where((arrivals < distribution.lengths[..., None])[..., None, None], pairs, 0.0)
    first = states[..., 0, :].reshape(-1, num_states).sum(0)
    return StateStatistics(first, pairs.reshape(-1, num_states, num_states).sum(0), states)


def _linear_gaussian(generator, distribution, value, fixed):
    """Statistics of a trajectory of principal components, blurred by a part of its spread so that no covariance is singular."""
    if distribution.noise_matrix is not None:
        raise NotImplementedError("no start is found for a model with noise_matrix: give its parameters by hand")
    value, observed = map(_as_numpy, distribution.as_channels(value))
    lead = np.broadcast_shapes(value.shape[:-2], distribution.batch_shape)
    value = np.broadcast_to(value, lead + value.shape[-2:])
    observed = np.ones(value.shape, bool) if observed is None else np.broadcast_to(observed, value.shape)
    points, observed = (array.reshape(-1, value.shape[-1]) for array in (value, observed))
    size = distribution.initial.event_shape[0]
    if "emission_matrix" in fixed:
        filled, loc = _fill_by_means(points, observed)
        matrix = np.asarray(distribution.emission_matrix).reshape(-1, size)
        trajectory = (filled - loc) @ np.linalg.pinv(matrix).T
    else:
        trajectory = _principal_components(points, observed, size)
        trajectory = trajectory @ np.linalg.qr(generator.normal(size=(size, size)))[0]
    trajectory = trajectory.reshape(value.shape[:-1] + (size,))
    if "transition_noise.loc" in fixed or "transition_noise" in fixed:
        steps = np.diff(trajectory, axis=-2).reshape(-1, size).std(0)
        wanted = np.asarray(distribution.transition_noise.variance) ** 0.5
        trajectory = trajectory * (np.broadcast_to(wanted, (size,)) / _positive(steps))
    means = jnp.asarray(trajectory, distribution.transition_matrix.dtype)
    spread = _BLUR * np.diag(trajectory.reshape(-1, size).std(0)).astype(means.dtype)
    roots = jnp.broadcast_to(spread, means.shape + (size,))
    yield PosteriorChain(means, roots, jnp.zeros_like(roots[..., 1:, :, :]), roots[..., 1:, :, :])


def _fill_by_means(points, observed):
    means = (np.where(observed, points, 0)).sum(0) / np.maximum(observed.sum(0), 1)
    return np.where(observed, points, means), means


def _principal_components(points, observed, size, num_rounds=20):
    """Scores of unit variance ``(n, size)``; missing entries are filled by the components, round by round."""
    if size > points.shape[1]:
        raise ValueError(
            f"the trajectory has {size} dimensions and an observation {points.shape[1]} channels: there are too few "
            "principal components. Give the parameters by hand"
        )
    filled, _ = _fill_by_means(points, observed)
    for _ in range(1 if observed.all() else num_rounds):
        means = filled.mean(0)
        left, scales, right = np.linalg.svd(filled - means, full_matrices=False)
        filled = np.where(observed, points, means + (left[:, :size] * scales[:size]) @ right[:size])
    return left[:, :size] * np.sqrt(points.shape[0])
