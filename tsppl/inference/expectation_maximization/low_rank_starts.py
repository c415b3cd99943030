"""Low-rank tensors to start from: factors of dense weights, factors of regressions by state, and ranks that grow.

Notation: a tensor ``(K, N, N, L)`` over outputs, inputs and lags for each state. A factor with a state axis of 1 is
shared; its equations are summed over the states.
"""

import copy
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax, random
from jax.scipy.linalg import cho_factor, cho_solve

from tsppl.distributions.shapes import typed_key
from tsppl.inference.expectation_maximization.low_rank_regression import FIELDS, Factors, maximize_low_rank_regression

FACTORS = ("output_factors", "input_factors", "lag_factors")
_RIDGE = 1e-2
_NUM_SWEEPS = 20
_PERTURBATION = 0.1
_MODES = ("kijl,kje,klf->kief", "kijl,kid,klf->kjdf", "kijl,kid,kje->klde")
_PAIRS = ("kijl,kjr,klr->kir", "kijl,kir,klr->kjr", "kijl,kir,kjr->klr")


def low_rank_factors(weights, ranks, *, shared=(), num_sweeps=50):
    """Factors of low rank that come close to dense autoregressive weights, to start a SALT from.

    Args:
        weights: ``(K, L, N, N)``, as ``AutoregressiveHMM.weights``.
        ranks: an integer for a CP decomposition, ``(D1, D2, D3)`` for Tucker: at most ``(N, N, L)``.
        shared: names, of ``"output_factors"``, ``"input_factors"``, ``"lag_factors"``, that all states have in common.
        num_sweeps: sweeps of higher-order orthogonal iteration (Tucker), of alternating least squares (CP).

    Returns:
        the arguments of :class:`~tsppl.distributions.SALT` by name; ``core`` is None for CP. Tucker factors have
        orthonormal columns. The start of both is the higher-order singular value decomposition (De Lathauwer, De Moor
        and Vandewalle 2000; Kolda and Bader 2009, figures 3.3 and 4.4), so the result is the same each time.

    Raises:
        ValueError: if the shape of ``weights`` or ``ranks`` does not fit, or ``shared`` names no factor.

    >>> import jax.numpy as jnp
    >>> from tsppl.inference import low_rank_factors
    >>> weights = 0.5 ** jnp.arange(3.0)[:, None, None] * jnp.ones((1, 3, 2, 2))
    >>> factors = low_rank_factors(weights, (1, 1, 1))
    >>> abs(factors["core"]).round(3).item(), factors["lag_factors"].shape
    (2.291, (1, 3, 1))
    """
    weights = jnp.asarray(weights)
    if weights.ndim != 4 or weights.shape[-1] != weights.shape[-2]:
        raise ValueError(f"weights has shape {weights.shape}; it must be (K, L, N, N)")
    sizes = (weights.shape[-1], weights.shape[-1], weights.shape[1])
    _check_ranks(ranks, sizes)
    unknown = [name for name in shared if name not in FACTORS]
    if unknown:
        raise ValueError(f"shared names {unknown[0]!r}; the factors are {FACTORS}")
    is_shared = tuple(name in shared for name in FACTORS)
    tensor = weights.transpose(0, 2, 3, 1)
    decompose = _cp if isinstance(ranks, int) else _tucker
    factors = decompose(tensor, ranks if isinstance(ranks, int) else tuple(ranks), is_shared, num_sweeps)
    return dict(zip((*FACTORS, "core"), factors, strict=True))


def _check_ranks(ranks, sizes):
    if isinstance(ranks, int):
        if ranks < 1:
            raise ValueError(f"ranks is {ranks}; it must be at least 1")
    elif len(ranks) != 3 or any(not 1 <= rank <= size for rank, size in zip(ranks, sizes, strict=True)):
        raise ValueError(
            f"ranks is {tuple(ranks)}; pass an integer for CP, or for Tucker three ranks from 1 to (N, N, L) = {sizes}"
        )


def _leading(tensor, rank, shared):
    """Leading left singular vectors of unfoldings ``(K, n, ...)``, of all states side by side where shared."""
    unfolded = tensor.reshape(tensor.shape[:2] + (-1,))
    gram = jnp.einsum("kna,kma->knm", unfolded, unfolded)
    return jnp.linalg.eigh(gram.sum(0, keepdims=True) if shared else gram)[1][..., ::-1][..., :rank]


def _of_states(factors, num_states):
    return [jnp.broadcast_to(factor, (num_states,) + factor.shape[1:]) for factor in factors]


def _higher_order_svd(tensor, ranks, is_shared):
    unfoldings = (tensor, tensor.transpose(0, 2, 1, 3), tensor.transpose(0, 3, 1, 2))
    return [_leading(*arguments) for arguments in zip(unfoldings, ranks, is_shared, strict=True)]


@partial(jax.jit, static_argnums=(1, 2, 3))
def _tucker(tensor, ranks, is_shared, num_sweeps):
    def sweep(_, factors):
        for mode in range(3):
            others = [f for i, f in enumerate(_of_states(factors, len(tensor))) if i != mode]
            projected = jnp.einsum(_MODES[mode], tensor, *others)
            factors = factors[:mode] + [_leading(projected, ranks[mode], is_shared[mode])] + factors[mode + 1 :]
        return factors

    factors = lax.fori_loop(0, num_sweeps, sweep, _higher_order_svd(tensor, ranks, is_shared))
    core = jnp.einsum("kijl,kid,kje,klf->kdef", tensor, *_of_states(factors, len(tensor)))
    return *factors, core


@partial(jax.jit, static_argnums=(1, 2, 3))
def _cp(tensor, rank, is_shared, num_sweeps):
    def sweep(_, factors):
        for mode in range(3):
            every = _of_states(factors, len(tensor))
            others = [f for i, f in enumerate(every) if i != mode]
            right = jnp.einsum(_PAIRS[mode], tensor, *others)
            gram = jnp.prod(jnp.stack([jnp.einsum("kna,knb->kab", f, f) for f in others]), 0)
            if is_shared[mode]:
                right, gram = right.sum(0, keepdims=True), gram.sum(0, keepdims=True)
            factors = factors[:mode] + [_solve_columns(gram, right)] + factors[mode + 1 :]
        return factors

    factors = _higher_order_svd(tensor, (rank,) * 3, is_shared)
    factors = [_with_columns(random.key(mode), factor, rank) for mode, factor in enumerate(factors)]
    return *lax.fori_loop(0, num_sweeps, sweep, factors), None


def _solve_columns(gram, right):
    """Least squares by normal equations, damped where columns have become collinear."""
    size = gram.shape[-1]
    scale = jnp.trace(gram, axis1=-2, axis2=-1)[:, None, None] / size
    damping = 10 * size * jnp.finfo(gram.dtype).eps * jnp.where(scale > 0, scale, 1.0)
    solve = jax.vmap(lambda gram, right: cho_solve(cho_factor(gram, lower=True), right.T).T)
    return solve(gram + damping * jnp.eye(size, dtype=gram.dtype), right)


def _with_columns(key, factor, rank, scale=None):
    """The factor with further columns, random, up to ``rank``."""
    missing = rank - factor.shape[-1]
    scale = factor.shape[-2] ** -0.5 if scale is None else scale
    columns = scale * random.normal(key, factor.shape[:-1] + (missing,), factor.dtype)
    return jnp.concatenate([factor, columns], axis=-1)


def grow_rank(distribution, ranks, key):
    """A SALT of higher rank and the same density, to go on with EM from.

    New columns are random, of the size of those that are there, and what joins them to the rest is zero: the core, or for
    CP the lag factors.

    Args:
        distribution: :class:`~tsppl.distributions.SALT`.
        ranks: the new rank, an integer for CP or ``(D1, D2, D3)`` for Tucker; none below the present one.
        key: random key.

    Returns:
        :class:`~tsppl.distributions.SALT`.

    Raises:
        ValueError: if a rank falls, or ``ranks`` is of the other kind.

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> from tsppl.inference import grow_rank
    >>> noise = dist.Normal(jnp.zeros(3), 1.0).to_event(1)
    >>> arrays = jnp.ones((1, 3, 1)), jnp.ones((1, 3, 1)), jnp.ones((1, 4, 1))
    >>> model = tsd.SALT(jnp.ones(1), jnp.ones((1, 1)), *arrays, noise, num_steps=9)
    >>> grow_rank(model, 2, jax.random.key(0)).lag_factors[0].tolist()
    [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
    """
    factors = [getattr(distribution, name) for name in FACTORS]
    present = tuple(factor.shape[-1] for factor in factors)
    is_cp = distribution.core is None
    wanted = (ranks,) * 3 if isinstance(ranks, int) else tuple(ranks)
    added = [new - old for new, old in zip(wanted, present, strict=True)] if len(wanted) == 3 else [-1]
    if isinstance(ranks, int) != is_cp or min(added) < 0:
        kind = f"CP: pass an integer from {present[0]}" if is_cp else f"Tucker: pass three ranks from {present}"
        raise ValueError(f"ranks is {ranks}, and this SALT is {kind} up")
    grown = copy.copy(distribution)
    for name, factor, rank, own_key in zip(FACTORS, factors, wanted, random.split(typed_key(key), 3), strict=True):
        scale = jnp.sqrt((factor**2).mean(-1, keepdims=True))
        joins = is_cp and name == "lag_factors"
        setattr(grown, name, _with_columns(own_key, factor, rank, 0.0 if joins else scale))
    if not is_cp:
        lead = [(0, 0)] * (distribution.core.ndim - 3)
        grown.core = jnp.pad(distribution.core, lead + [(0, more) for more in added])
    return grown


def regression_start(key, distribution, value, state_probs, fixed):
    """A SALT whose factors are those of a ridge regression by state, moved on to the best low-rank regression.

    Args:
        key: random key for a perturbation, so that several starts differ.
        distribution: gives shapes, and the factors that ``fixed`` names.
        value: the data.
        state_probs: ``(..., T', K)``, how much a step belongs to a state.
        fixed: names of the parameters to hold.
    """
    lagged = distribution.regression_rows(value, state_probs.shape[:-2])
    outputs, weights, observed = lagged.outputs, lagged.weights(state_probs), lagged.observed
    if observed is not None:
        outputs = jnp.where(observed, outputs, (observed * outputs).sum(0) / jnp.maximum(observed.sum(0), 1))
    size, num_lags, num_states = outputs.shape[1], distribution.num_lags, distribution.num_states
    shift = outputs.mean(0)
    rows = [jnp.ones_like(outputs[:, :1]), lagged.inputs[:, :-1] - jnp.tile(shift, num_lags), outputs - shift]
    rows = jnp.concatenate(rows, axis=1)
    products = lax.map(lambda weights: rows.T @ (weights[:, None] * rows), weights.T)
    dense = jax.vmap(partial(_ridge_regression, size=size))(products)
    weights = dense.reshape(num_states, num_lags, size, size).swapaxes(-1, -2)
    ranks = distribution.lag_factors.shape[-1] if distribution.core is None else distribution.core.shape[-3:]
    shared = [name for name in FACTORS if getattr(distribution, name).shape[-3] == 1]
    factors = low_rank_factors(weights, ranks, shared=shared)
    if distribution.core is not None and distribution.core.shape[-4] == 1:
        factors["core"] = factors["core"].mean(0, keepdims=True)
    for name, own_key in zip(FACTORS, random.split(key, 3), strict=True):
        factor = factors[name]
        noise = random.normal(own_key, factor.shape, factor.dtype)
        factors[name] = factor + _PERTURBATION * jnp.sqrt((factor**2).mean(-1, keepdims=True)) * noise
    factors |= {name: getattr(distribution, name) for name in factors if name in fixed}
    free = [field for name, field in FIELDS.items() if name not in fixed and factors[name] is not None]
    scales = outputs.std(0)
    moved, _ = maximize_low_rank_regression(
        Factors(**{field: factors[name] for name, field in FIELDS.items()}),
        jnp.zeros((num_states, size), outputs.dtype),
        products,
        jnp.broadcast_to(jnp.diag(jnp.where(scales > 0, scales, 1.0)), (num_states, size, size)),
        priors={},
        free=(*free, "offset"),
        num_sweeps=_NUM_SWEEPS,
    )
    start = copy.copy(distribution)
    for name, field in FIELDS.items():
        setattr(start, name, getattr(moved, field))
    return start


def _ridge_regression(products, size):
    """Coefficients ``(L N, N)`` of the lags about their means, shrunk a little towards zero."""
    total = jnp.maximum(products[0, 0], jnp.finfo(products.dtype).tiny)
    centred = products[1:, 1:] - jnp.outer(products[0, 1:], products[0, 1:]) / total
    gram, across = centred[:-size, :-size], centred[:-size, -size:]
    ridge = _RIDGE * jnp.trace(gram) / len(gram)
    return jnp.linalg.solve(gram + jnp.where(ridge > 0, ridge, 1.0) * jnp.eye(len(gram), dtype=gram.dtype), across)
