"""Draws of labels as partitions: who is together with whom, one partition for all draws, clusters matched with known events."""

import jax.numpy as jnp
import numpy as np
from scipy import sparse

from tsppl.points import canonical_labels

BATCH = 64
NO_FIELDS = ("labels", "num_clusters", "num_background")


def co_assignment(labels) -> sparse.csr_array:
    """Share of the draws in which two points are in one cluster.

    Sparse: only pairs that ever were together are stored. On the diagonal is the probability that a point belongs to a
    cluster at all; two points of the background are not together.

    Args:
        labels: int ``(..., N)``, draws of labels, -1 for background.

    Returns:
        ``scipy.sparse.csr_array`` ``(N, N)``; ``.toarray()`` is fine for a few thousand points.

    Raises:
        ValueError: if labels are not integers, or there is no draw.

    >>> import numpy as np, tsppl
    >>> tsppl.co_assignment(np.array([[0, 0, -1], [0, 1, 1]])).toarray().tolist()
    [[1.0, 0.5, 0.0], [0.5, 1.0, 0.5], [0.0, 0.5, 0.5]]
    """
    labels = one_row_each_draw(labels)
    total = sparse.csr_array((labels.shape[1],) * 2)
    for begin in range(0, len(labels), BATCH):
        members = _memberships(labels[begin : begin + BATCH])
        total = total + members @ members.T
    return total / len(labels)


def least_squares_labels(labels, together=None) -> np.ndarray:
    """The draw whose partition is nearest to the co-assignment probabilities, in squares summed over all pairs.

    Dahl 2006, "Model-based clustering for expression data via a Dirichlet process mixture model". A point with itself counts
    as a pair too, so that points which are mostly background are so in the result.

    Args:
        labels: int ``(..., N)``, draws of labels, -1 for background.
        together: of :func:`co_assignment`, if known already.

    Returns:
        int32 ``(N,)``, numbered by first appearance, -1 for background.

    Raises:
        ValueError: if labels are not integers, or there is no draw.

    >>> import numpy as np, tsppl
    >>> tsppl.least_squares_labels(np.array([[0, 0, -1], [0, 1, 1], [0, 0, -1]])).tolist()
    [0, 0, -1]
    """
    labels = one_row_each_draw(labels)
    together = co_assignment(labels) if together is None else together
    loss = []
    for begin in range(0, len(labels), BATCH):
        drawn = labels[begin : begin + BATCH]
        members = _memberships(drawn)
        inside = members.multiply(together @ members).sum(0)
        loss.append((members.sum(0) ** 2 - 2 * inside).reshape(len(drawn), -1).sum(1))
    return np.asarray(canonical_labels(jnp.asarray(labels[np.concatenate(loss).argmin()], jnp.int32)))


def match_events(estimate, events):
    """For each cluster of one partition, its event in every draw: that of most of its points.

    Args:
        estimate: int ``(N,)``, such as :func:`least_squares_labels` gives.
        events: the dict of one site of :func:`posterior_events`.

    Returns:
        dict: the fields of the events, ``"size"`` and ``"amplitude"``, with the leading axes of the draws, then a cluster of
        ``estimate``. Where most of its points are background: 0 for ``"size"``, else NaN or -1.

    >>> import numpy as np, tsppl
    >>> events = {"labels": np.array([[0, 0, 1, 1], [0, 0, 0, -1]]), "centre": np.array([[0.5, 2.0], [0.7, np.nan]])}
    >>> tsppl.match_events(np.array([0, 0, -1, -1]), events)["centre"].tolist()
    [[0.5], [0.7]]
    """
    estimate, labels = np.asarray(estimate), np.asarray(events["labels"])
    lead = labels.shape[:-1]
    rows, draws = one_row_each_draw(labels) + 1, np.arange(int(np.prod(lead)))
    fields = {name: np.asarray(array) for name, array in events.items() if name not in NO_FIELDS}
    chosen = []
    for label in range(estimate.max(initial=-1) + 1):
        counts = np.zeros((len(draws), rows.max(initial=0) + 1), np.int32)
        np.add.at(counts, (draws[:, None], rows[:, estimate == label]), 1)
        chosen.append(counts.argmax(1))
    chosen = np.array(chosen, int).reshape(-1, len(draws)).T
    matched = {}
    for name, array in fields.items():
        flat = array.reshape((len(draws),) + array.shape[len(lead) :])
        filler = 0 if name == "size" else np.nan if np.issubdtype(array.dtype, np.floating) else -1
        with_none = np.concatenate([np.full_like(flat[:, :1], filler), flat], 1)
        matched[name] = with_none[draws[:, None], chosen].reshape(
            lead + chosen.shape[1:] + array.shape[len(lead) + 1 :]
        )
    return matched


def _memberships(labels):
    """``(N, draws * K)``: 1 where a point is in a cluster of a draw."""
    num_clusters = labels.max(initial=0) + 1
    draw, point = np.nonzero(labels >= 0)
    column = draw * num_clusters + labels[draw, point]
    shape = labels.shape[1], len(labels) * int(num_clusters)
    return sparse.csr_array((np.ones(len(point)), (point, column)), shape=shape)


def one_row_each_draw(labels):
    """Labels as int ``(draws, N)``."""
    labels = np.asarray(labels)
    if labels.ndim == 0 or labels.size == 0 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}; pass integers (..., N), at least one draw of one point, with "
            "-1 for background"
        )
    return labels.reshape(-1, labels.shape[-1])
