"""Slow, obvious Neyman-Scott processes: every partition, and clusters integrated over a grid of their events."""

import itertools
import math

import numpy as np
from scipy.special import logsumexp


def all_labels(num_points, *, first_new=0):
    """Every way to divide points into clusters and background (-1), numbered by first appearance."""
    if num_points == 0:
        yield ()
        return
    for label in range(-1, first_new + 1):
        for rest in all_labels(num_points - 1, first_new=first_new + (label == first_new)):
            yield (label, *rest)


def log_joint(labels, points, *, events, concentration, rate, background, log_marginal, log_background):
    """Log density of points as a set together with their labels, written factor by factor.

    ``events`` and ``background`` are numbers expected on the whole window; ``log_marginal(points)`` is the log density of
    the points of one cluster and ``log_background(point)`` that of a background point.
    """
    labels = np.asarray(labels)
    total = -background - events * (1 - (rate / (1 + rate)) ** concentration)
    for point in points[labels < 0]:
        total += math.log(background) + log_background(point)
    for label in range(labels.max(initial=-1) + 1):
        own = points[labels == label]
        total += math.log(events) + math.lgamma(concentration + len(own)) - math.lgamma(concentration)
        total += concentration * math.log(rate) - (concentration + len(own)) * math.log(1 + rate)
        total += log_marginal(own)
    return total


def posterior(points, **parameters):
    """All labels, their posterior probabilities, and the log evidence of the points as a set."""
    labels = list(all_labels(len(points)))
    joint = np.array([log_joint(one, points, **parameters) for one in labels])
    evidence = logsumexp(joint)
    return np.array(labels), np.exp(joint - evidence), evidence


def count_probs(largest, *, events, concentration, rate, background):
    """Probabilities of 0 to ``largest`` points, from sizes of clusters: Panjer's recursion."""

    def of_size(size):
        log_prob = math.lgamma(concentration + size) - math.lgamma(concentration) - math.lgamma(size + 1)
        log_prob += concentration * math.log(rate / (1 + rate)) - size * math.log(1 + rate)
        return events * math.exp(log_prob) + background * (size == 1)

    probs = [math.exp(-background - events * (1 - (rate / (1 + rate)) ** concentration))]
    for count in range(1, largest + 1):
        terms = [size * of_size(size) * probs[count - size] for size in range(1, count + 1)]
        probs.append(sum(terms) / count)
    return np.array(probs)


def log_marginal_on_grid(log_density, grid, weights):
    """Log marginal density of a cluster's points by summing over events.

    ``log_density(points, event)`` is the log density of all points given an event; ``weights`` are prior masses of the
    events of ``grid``.
    """
    return lambda points: logsumexp([log_density(points, event) for event in grid], b=weights)


def product_grid(*axes):
    """Every combination of entries of several grids, as rows."""
    return np.array(list(itertools.product(*axes)))


def cluster_count_probs(num_points, *, events, concentration, rate, background):
    """Probabilities ``(K, n0)`` of clusters and of background points among a known number of points, wherever they are.

    The point with the highest number is in a cluster of ``size``, with any of the others: a recursion over sizes.
    """

    def log_weight(size):
        of_size = math.lgamma(concentration + size) - math.lgamma(concentration)
        return math.log(events) + of_size + concentration * math.log(rate) - (concentration + size) * math.log(1 + rate)

    clustered = np.zeros((num_points + 1, num_points + 1))  # weights by points and clusters
    clustered[0, 0] = 1.0
    for count in range(1, num_points + 1):
        for size in range(1, count + 1):
            ways = math.comb(count - 1, size - 1) * math.exp(log_weight(size))
            clustered[count, 1:] += ways * clustered[count - size, :-1]
    alone = np.arange(num_points + 1)
    choices = np.array([math.comb(num_points, count) * background**count for count in alone])
    weights = (choices[:, None] * clustered[num_points - alone]).T
    return weights / weights.sum()
