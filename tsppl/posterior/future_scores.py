"""How well a model would have predicted each step, had it been fitted to the steps before alone."""

from typing import Any, NamedTuple

import numpy as np

from tsppl.posterior.stacking import reweighted_densities

_UNRELIABLE = 0.7


class FutureScores(NamedTuple):
    """Scores of the steps from ``first`` on; ``print`` it.

    Attributes:
        first: the first step scored.
        densities: ``(T - first,)``, log density of each step given those before, in nats; summed over sequences.
        khat: ``(T - first,)``, Pareto k-hat, the greatest from the end of what the fit had seen up to this step; above 0.7 the
            density is not reliable.
        num_seen: int ``(T - first,)``, how many steps the fit had seen that the density is from.
    """

    first: int
    densities: Any
    khat: Any
    num_seen: Any

    @property
    def refit_at(self):
        """Number of steps to fit anew to, because the last unreliable density follows them; None if all are reliable."""
        unreliable = np.flatnonzero(self.khat > _UNRELIABLE)
        return None if not len(unreliable) else self.first + int(unreliable[-1])

    @property
    def score(self):
        """Sum of the densities; NaN while one is not reliable."""
        return float(self.densities.sum()) if self.refit_at is None else np.nan

    def __str__(self):
        steps = f"steps {self.first} to {self.first + len(self.densities) - 1}, each given those before: "
        if self.refit_at is None:
            return steps + f"{self.score:.1f} nats"
        number = int((self.khat > _UNRELIABLE).sum())
        return steps + (
            f"{number} not reliable (k-hat above {_UNRELIABLE}). Fit the model to the first {self.refit_at} steps, score all steps "
            f"under it, and pass (terms, {self.refit_at}) too"
        )


def leave_future_out(fits, *, first) -> FutureScores:
    """Log density of each step given the steps before, with parameters that have seen no more than these.

    Instead of a fit for every step, the draws of one fit are weighted by the densities of the steps that it has seen too
    many or too few (Buerkner, Gabry and Vehtari 2020, *Journal of Statistical Computation and Simulation* 90). Where
    k-hat says that the weights are not reliable, ``print`` says to how many steps to fit anew; each step is taken
    from the fit of least k-hat.

    Args:
        fits: list of ``(terms, num_seen)``: the one-step terms of all steps, from
            ``tsppl.log_likelihood(key, model, posterior, *args, kind="one-step")[site]``, and how many steps the posterior was
            fitted to. The steps seen must be the first; several sequences share their time.
        first: first step to score; before, the fit would rest on too few.

    Returns:
        :class:`FutureScores`. Differences between models in ``densities`` are what to compare.

    Raises:
        ValueError: if there are no fits, ``first`` is no step, or fits differ in their number of steps.

    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, tsppl, tsppl.distributions as tsd
    >>> def model(y):
    ...     rate = numpyro.sample("rate", dist.Gamma(2.0, 0.2))
    ...     one = jnp.ones((1, 1))
    ...     numpyro.sample("y", tsd.HiddenMarkov(one[0], one, dist.Poisson(rate[None]), num_steps=4), obs=y)
    >>> key, draws, y = jax.random.key(0), {"rate": jnp.full(50, 5.0)}, jnp.array([4, 6, 5, 3])
    >>> terms = tsppl.log_likelihood(key, model, draws, y, kind="one-step")["y"]
    >>> print(tsppl.leave_future_out([(terms, 4)], first=2))
    steps 2 to 3, each given those before: -3.7 nats
    """
    if not len(fits):
        raise ValueError("fits is empty: pass a list of (terms, num_seen)")
    summed = [(_by_step(terms), num_seen) for terms, num_seen in fits]
    num_steps = summed[0][0].shape[1]
    for terms, num_seen in summed:
        if terms.shape[1] != num_steps or not 0 < num_seen <= num_steps:
            raise ValueError(
                f"a fit to {num_seen} steps has terms of {terms.shape[1]} steps, the first fit of {num_steps}: score all "
                "steps under each fit"
            )
    if not 0 <= first < num_steps:
        raise ValueError(f"first is {first}; it must be one of the {num_steps} steps")
    densities, khat = (np.stack(part) for part in zip(*(_of_fit(*fit, first) for fit in summed), strict=True))
    best, column = khat.argmin(0), np.arange(num_steps - first)
    seen = np.array([num_seen for _, num_seen in summed])
    return FutureScores(first, densities[best, column], khat[best, column], seen[best])


def _by_step(found):
    """``(S, T)``: terms of all sequences, summed."""
    terms, scored = np.asarray(found.terms, float), np.asarray(found.scored)
    num_draws = int(np.prod(terms.shape[: terms.ndim - scored.ndim]))
    return terms.reshape(num_draws, -1, terms.shape[-1]).sum(1)


def _of_fit(terms, num_seen, first):
    """Densities and k-hat of the steps from ``first`` on: weights forget the steps seen from there, or learn those not seen.

    The further a step from the end of what was seen, the less reliable: its k-hat is the greatest on the way there.
    """
    before = np.concatenate([np.zeros((len(terms), 1)), np.cumsum(terms, 1)], 1)
    densities, khat = reweighted_densities(before[:, first:-1] - before[:, num_seen, None], terms[:, first:])
    end = max(num_seen - first, 0)
    back, ahead = np.maximum.accumulate(khat[:end][::-1])[::-1], np.maximum.accumulate(khat[end:])
    return densities, np.concatenate([back, ahead])
