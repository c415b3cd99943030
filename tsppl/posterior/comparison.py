"""Models compared on the same kind of terms and the same steps, or not at all."""

from typing import Any, NamedTuple

import numpy as np

from tsppl.posterior.draws import tree_groups
from tsppl.posterior.stacking import left_out_densities, stacking_weights

_GROUPS = {"left-out": "log_likelihood", "one-step": "one_step_ahead"}
_UNRELIABLE = 0.7


class Comparison(NamedTuple):
    """Models in falling order of their score; ``print`` it.

    Attributes:
        names: of the models.
        scores: ``(K,)``, sum of the log densities of what was left out, in nats; greater is better.
        errors: ``(K,)``, standard error of the sum.
        below: ``(K,)``, by how much each is below the best.
        below_errors: ``(K,)``, standard error of that difference, from differences term by term.
        weights: ``(K,)``, stacking weights.
        unreliable: int ``(K,)``, terms whose Pareto k-hat is above 0.7; where there are many, fit the model anew without them.
        num_terms: number of terms, the same for all.
        kind: ``"left-out"`` or ``"one-step"``.
        leave_out: ``"step"`` or ``"sequence"``.
    """

    names: tuple
    scores: Any
    errors: Any
    below: Any
    below_errors: Any
    weights: Any
    unreliable: Any
    num_terms: int
    kind: str
    leave_out: str

    def __str__(self):
        width = max(len("model"), *map(len, self.names)) + 2
        head = (
            f"{'model':{width}}{'score':>10}{'error':>8}{'below best':>12}{'error':>8}{'weight':>8}{'k-hat > 0.7':>13}"
        )
        columns = (self.scores, self.errors, self.below, self.below_errors, self.weights, self.unreliable)
        rows = [
            f"{name:{width}}{score:>10.1f}{error:>8.1f}{below:>12.1f}{below_error:>8.1f}{weight:>8.2f}{bad:>13}"
            for name, score, error, below, below_error, weight, bad in zip(self.names, *columns, strict=True)
        ]
        unit = "steps" if self.leave_out == "step" else "sequences"
        return "\n".join([f"{self.kind} terms of the same {self.num_terms} {unit}, in nats", head, *rows])


def compare(trees, *, kind=None, steps="same", leave_out="step", site=None) -> Comparison:
    """Compare models by how well they predict what is left out, on the same terms for all.

    Left-out terms tell how likely a step is given all the others, one-step terms given the past. These are different
    questions, whose answers differ by many nats, and k-hat does not warn; so they are never mixed. The draws are
    weighted, for each term, as if it had not been seen (Pareto-smoothed importance sampling, Vehtari, Gelman and
    Gabry 2017). Leaving out one step of a long series favours too many states: with many sequences leave out a
    whole one.

    Args:
        trees: dict, name of a model -> tree from :func:`tsppl.to_arviz`.
        kind: ``"left-out"`` or ``"one-step"``; by default left-out terms if all models have them.
        steps: ``"same"``: refuse if the models score different steps, as autoregressions of different order do;
            ``"common"``: compare on those that all score.
        leave_out: ``"step"`` or ``"sequence"``, which sums the one-step terms of each sequence to its log-likelihood.
        site: name of the observed site; needed where a model has several.

    Returns:
        :class:`Comparison`.

    Raises:
        ValueError: if kinds, steps or data differ; the message says what each model stores and what to pass.

    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist, tsppl, tsppl.distributions as tsd
    >>> def model(y, num_states):
    ...     rate = numpyro.sample("rate", dist.Gamma(2.0, 0.2).expand([num_states]).to_event(1))
    ...     probs = jnp.full((num_states, num_states), 1 / num_states)
    ...     numpyro.sample("y", tsd.HiddenMarkov(probs[0], probs, dist.Poisson(rate), num_steps=4), obs=y)
    >>> y, one, two = jnp.array([1, 0, 19, 21]), jnp.full((1, 9, 1), 10.0), jnp.tile(jnp.array([1.0, 20.0]), (1, 9, 1))
    >>> trees = {f"{k} states": tsppl.to_arviz({"rate": r}, model, (y, k)) for k, r in [(1, one), (2, two)]}
    >>> print(tsppl.compare(trees))
    left-out terms of the same 4 steps, in nats
    model          score   error  below best   error  weight  k-hat > 0.7
    2 states        -9.7     1.4         0.0     0.0    1.00            0
    1 states       -30.3     3.2        20.7     4.4    0.00            0
    """
    if kind not in (None, *_GROUPS) or steps not in ("same", "common") or leave_out not in ("step", "sequence"):
        raise ValueError(
            f"kind is {kind!r}, steps {steps!r}, leave_out {leave_out!r}; they must be 'left-out' or 'one-step', 'same' or "
            "'common', 'step' or 'sequence'"
        )
    if not isinstance(trees, dict) or len(trees) < 2:
        raise ValueError("pass a dict of two or more trees from tsppl.to_arviz, by name of the model")
    if leave_out == "sequence":
        if kind == "left-out":
            raise ValueError("left-out terms do not sum to the log-likelihood of a sequence: pass kind='one-step'")
        kind = "one-step"
    stored = {name: _stored_terms(name, tree, site) for name, tree in trees.items()}
    kind = _common_kind(stored, kind)
    _check_same_data({name: tree_groups(tree) for name, tree in trees.items()}, stored, kind)
    terms, places = _on_common_steps({name: terms[kind] for name, terms in stored.items()}, kind, steps)
    if leave_out == "sequence":
        terms = _by_sequence(terms, places)
    found = {name: left_out_densities(of_model) for name, of_model in terms.items()}
    return _ranked({name: d for name, (d, _) in found.items()}, {n: k for n, (_, k) in found.items()}, kind, leave_out)


class _Terms(NamedTuple):
    site: str
    values: Any
    places: list
    labels: tuple


def _stored_terms(name, tree, site):
    """``kind -> _Terms`` that a tree has of the site."""
    groups = tree_groups(tree)
    stored = {}
    for kind, group in _GROUPS.items():
        if group not in groups:
            continue
        dataset = groups[group]
        if dataset.attrs.get("kind") != kind:
            raise ValueError(
                f"the group {group} of {name!r} does not say that it holds {kind} terms: use tsppl.to_arviz"
            )
        sites = [str(variable) for variable in dataset.data_vars]
        if site is not None and site not in sites:
            continue
        if site is None and len(sites) > 1:
            raise ValueError(f"{name!r} has terms of {sites}: pass site= with one of them")
        own = sites[0] if site is None else site
        array = dataset[own].transpose("chain", "draw", ...)
        axis = array.dims[2]
        columns = {
            str(label).removeprefix(f"{own}_"): array.coords[label].values.tolist()
            for label in array.coords
            if array.coords[label].dims == (axis,) and label != axis
        }
        values = array.values.reshape(-1, array.shape[2])
        labels = tuple(sorted(columns))
        places = list(zip(*(columns[label] for label in labels), strict=True))
        stored[kind] = _Terms(own, values, places, labels)
    if not stored:
        raise ValueError(
            f"{name!r} has no terms to compare{'' if site is None else f' of site {site!r}'}: make it by tsppl.to_arviz with the "
            "model and its arguments"
        )
    return stored


def _described(stored):
    words = [
        f"{name} stores " + " and ".join(f"{kind} terms of {len(terms.places)} steps" for kind, terms in kinds.items())
        for name, kinds in stored.items()
    ]
    return ", ".join(words)


def _common_kind(stored, kind):
    shared = [other for other in _GROUPS if all(other in kinds for kinds in stored.values())]
    first = next(other for other in _GROUPS if any(other in kinds for kinds in stored.values()))
    if kind in shared or (kind is None and first in shared):
        return kind or first
    advice = f": compare(..., kind={shared[0]!r})" if shared else ": these cannot be compared"
    raise ValueError(_described(stored) + advice)


def _on_common_steps(terms, kind, steps):
    """``name -> (S, N)`` on the steps that all models score, and the places of these."""
    labels = {of_model.labels for of_model in terms.values()}
    if len(labels) > 1:
        raise ValueError(f"the steps of the models have different coordinates, {sorted(labels)}: use the same dims")
    common = set.intersection(*(set(of_model.places) for of_model in terms.values()))
    if not common:
        raise ValueError("the models have no scored step in common; give to_arviz the same coords")
    if steps == "same" and any(len(of_model.places) != len(common) for of_model in terms.values()):
        raise ValueError(
            _described({name: {kind: of_model} for name, of_model in terms.items()})
            + f": compare(..., kind={kind!r}, steps='common') uses the {len(common)} steps that all have"
        )
    places = [place for place in next(iter(terms.values())).places if place in common]
    columns = {}
    for name, of_model in terms.items():
        index = {place: column for column, place in enumerate(of_model.places)}
        columns[name] = of_model.values[:, [index[place] for place in places]]
    return columns, (next(iter(labels)), places)


def _by_sequence(terms, places):
    labels, places = places
    if "time" not in labels or len(labels) == 1:
        raise ValueError(
            f"the steps have the coordinates {labels}: leave_out='sequence' needs 'time' and that of sequences"
        )
    time = labels.index("time")
    sequences = [place[:time] + place[time + 1 :] for place in places]
    number = {sequence: index for index, sequence in enumerate(dict.fromkeys(sequences))}
    columns = np.array([number[sequence] for sequence in sequences])
    sums = {name: np.zeros((len(values), len(number))) for name, values in terms.items()}
    for name, values in terms.items():
        np.add.at(sums[name], (slice(None), columns), values)
    return sums


def _check_same_data(groups, stored, kind):
    """Raise if data of one shape have other values in one model than in the first."""
    observed = {name: groups[name]["observed_data"][stored[name][kind].site].values for name in groups}
    first = next(iter(observed))
    for name, values in observed.items():
        if values.shape == observed[first].shape and not np.array_equal(
            *(np.asarray(array, float) for array in (values, observed[first])), equal_nan=True
        ):
            raise ValueError(
                f"{first!r} and {name!r} were fitted to different data: densities of other data do not compare"
            )


def _ranked(densities, khats, kind, leave_out):
    table = np.stack(list(densities.values()), -1)
    order = np.argsort(-table.sum(0))
    names, table = np.array(list(densities))[order], table[:, order]
    num_terms = len(table)
    behind = table[:, :1] - table
    return Comparison(
        tuple(map(str, names)),
        table.sum(0),
        np.sqrt(num_terms) * table.std(0),
        behind.sum(0),
        np.sqrt(num_terms) * behind.std(0),
        stacking_weights(table),
        np.array([int((khats[name] > _UNRELIABLE).sum()) for name in names]),
        num_terms,
        kind,
        leave_out,
    )
