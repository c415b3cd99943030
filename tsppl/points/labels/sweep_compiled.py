"""The loops of :mod:`tsppl.points.labels.sweep_numba`, compiled by numba.

All compiled functions are in this file: numba keeps them on disk, and notices changes of the file itself only. Everything is in
double precision. A cluster is homed in the cell of its first point; a point sees the clusters whose home is its own cell or
one of the ``neighbours``, which are differences of cell numbers. The clusters of a cell are a list linked both ways, so
that it never overflows.
"""

import inspect
import math

import numpy as np
from numba import njit

OPEN = -2
NEGLIGIBLE = 36.0  # nats: rounding of double precision
LARGE = 300.0
FAR_INSIDE = 9.0  # standard errors: the mass outside is lost to rounding
LOG_ROOT_TAU = 0.5 * math.log(2 * math.pi)


def compiled(function):
    """Compile, and keep the result on disk where a folder for it can be written; type checks of tests are taken off."""
    function = inspect.unwrap(function)
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        return njit(nogil=True, error_model="numpy")(function)


@compiled
def visiting_order(cell, num_cells, uniform):
    """Points cell by cell, in random order within each."""
    num_points = len(cell)
    end = np.zeros(num_cells + 1, np.int64)
    for point in range(num_points):
        end[cell[point] + 1] += 1
    for place in range(num_cells):
        end[place + 1] += end[place]
    begin = end.copy()
    order = np.empty(num_points, np.int64)
    for point in range(num_points):
        # From the inside out: each newcomer takes the place of a random one, which goes last.
        first, last = begin[cell[point]], end[cell[point]]
        other = first + int(uniform[point] * (last - first + 1))
        order[last] = order[other]
        order[other] = point
        end[cell[point]] += 1
    return order


@compiled
def canonical(slot):
    """Number labels by first appearance."""
    numbers = np.full(len(slot), -1, np.int32)
    labels = np.full(len(slot), -1, np.int32)
    found = 0
    for point in range(len(slot)):
        if slot[point] >= 0:
            if numbers[slot[point]] < 0:
                numbers[slot[point]] = found
                found += 1
            labels[point] = numbers[slot[point]]
    return labels


@compiled
def log_mass(low, high):
    """``log(Phi(high) - Phi(low))`` for ``low < high``, accurate in both tails."""
    if low + high > 0:
        low, high = -high, -low
    if high > -20:
        return math.log(0.5 * (math.erfc(-high * math.sqrt(0.5)) - math.erfc(-low * math.sqrt(0.5))))
    near = -(1 - (1 - 3 * (1 - 5 / high**2) / high**2) / high**2) / high
    far = 0.0 if low < -1e100 else -(1 - (1 - 3 * (1 - 5 / low**2) / low**2) / low**2) / low
    ratio = near - math.exp(0.5 * (high - low) * (high + low)) * far
    return math.log(ratio) - 0.5 * high**2 - LOG_ROOT_TAU


@compiled
def attach(cluster, cell, home, head, after, before):
    """Put a cluster on the list of a cell."""
    home[cluster] = cell
    after[cluster], before[cluster] = head[cell], -1
    if head[cell] >= 0:
        before[head[cell]] = cluster
    head[cell] = cluster


@compiled
def detach(cluster, home, head, after, before):
    """Take a cluster off the list of its cell."""
    if before[cluster] >= 0:
        after[before[cluster]] = after[cluster]
    else:
        head[home[cluster]] = after[cluster]
    if after[cluster] >= 0:
        before[after[cluster]] = before[cluster]


@compiled
def is_near(difference, neighbours):
    """Is a difference of cell numbers one of neighbouring cells?"""
    for near in neighbours:
        if difference == near:
            return True
    return False


@compiled
def weigh_options(apart, opening):
    """The larger of two log weights, and relative to it the weight of background, and of background or a new cluster."""
    if apart >= opening:
        return (apart, 1.0, 1.0 + math.exp(opening - apart)) if apart > -np.inf else (apart, 0.0, 0.0)
    sum_apart = math.exp(apart - opening)
    return opening, sum_apart, sum_apart + 1.0


@compiled
def raise_reference(higher, reference, total, sum_apart, sum_options, cumulative, count):
    """A reference, sums of weights relative to it, and cumulative sums (in place): all relative to a higher one instead."""
    factor = math.exp(reference - higher)
    cumulative[:count] *= factor
    return higher, total * factor, sum_apart * factor, sum_options * factor


@compiled
def draw(level, sum_apart, sum_options, near, cumulative, count):
    """One of the clusters ``near``, -1 for background, ``OPEN`` for a new cluster: the first whose sum of weights is above."""
    if level < sum_apart:
        return -1
    if level < sum_options:
        return OPEN
    if count == 0:
        return OPEN if sum_options > sum_apart else -1
    place = 0
    while place < count - 1 and cumulative[place] <= level:
        place += 1
    return near[place]


@compiled
def free_slots(size):
    """Slots without a cluster, the last one first, and how many."""
    free, num_free = np.empty(len(size), np.int64), 0
    for cluster in range(len(size) - 1, -1, -1):
        if size[cluster] == 0:
            free[num_free] = cluster
            num_free += 1
    return free, num_free


@compiled
def gaussian_edge(means, point, size, low, high):
    """Change of the log mass of a cluster's centre in the window when a point joins it, or opens it if ``size`` is 0."""
    change, root, root_with = 0.0, math.sqrt(size), math.sqrt(size + 1)
    for axis in range(len(point)):
        mean = means[axis]
        mean_with = mean + (point[axis] - mean) / (size + 1)
        change += log_mass((low[axis] - mean_with) * root_with, (high[axis] - mean_with) * root_with)
        if size > 0:
            change -= log_mass((low[axis] - mean) * root, (high[axis] - mean) * root)
    return change


@compiled
def sweep_gaussian(slot, num_slots, visits, apart, new, log_join, points, axes, low, high):
    """Draw ``slot``, the label of every point, in place; points and window in units of the cluster's width.

    ``visits`` are cells of points, their number, neighbours, the order of points, and a uniform number for each. ``apart`` is the
    log weight of the background for each point, ``new`` that of a new cluster, ``log_join[n]`` that of one with ``n`` points
    for a point in its middle, where edges are far; ``low`` and ``high`` are infinite where there are none. ``axes`` is a
    tuple, so that loops over it are unrolled. Returns how often something did not fit in.
    """
    cell, num_cells, neighbours, order, uniform = visits
    num_points = len(points)
    shrink, inverse = np.zeros((2, num_points + 1))
    for number in range(1, num_points + 1):
        inverse[number], shrink[number] = 1.0 / number, 0.5 * number / (number + 1.0)
    inner_low, inner_high = low + FAR_INSIDE, high - FAR_INSIDE
    size, mean = np.zeros(num_slots, np.int64), np.zeros((num_slots, len(axes)))
    home, after, before = np.empty((3, num_slots), np.int64)
    head = np.full(num_cells, -1)
    for index in range(num_points):
        cluster = slot[index]
        if cluster >= 0:
            if size[cluster] == 0:
                attach(cluster, cell[index], home, head, after, before)
            size[cluster] += 1
            for axis in axes:
                mean[cluster, axis] += (points[index, axis] - mean[cluster, axis]) * inverse[size[cluster]]
    free, num_free = free_slots(size)
    near, cumulative = np.empty(num_slots, np.int64), np.empty(num_slots)
    missing = 0

    for index in order:
        old = slot[index]
        if old >= 0:
            if not is_near(home[old] - cell[index], neighbours):
                missing += 1
                continue
            size[old] -= 1
            if size[old] == 0:
                detach(old, home, head, after, before)
                free[num_free] = old
                num_free += 1
            for axis in axes:
                mean[old, axis] -= (points[index, axis] - mean[old, axis]) * inverse[size[old]]
        is_at_edge = False
        for axis in axes:
            is_at_edge |= points[index, axis] < inner_low[axis] or points[index, axis] > inner_high[axis]
        opening = -np.inf
        if num_free == 0:
            missing += 1
        else:
            opening = new + (gaussian_edge(points[index], points[index], 0, low, high) if is_at_edge else 0.0)
        reference, sum_apart, sum_options = weigh_options(apart[index], opening)
        total, count = sum_options, 0
        for difference in neighbours:
            cluster = head[cell[index] + difference]
            while cluster >= 0:
                number, distance, feels_edge = size[cluster], 0.0, is_at_edge
                for axis in axes:
                    place = mean[cluster, axis]
                    distance += (points[index, axis] - place) ** 2
                    feels_edge |= place < inner_low[axis] or place > inner_high[axis]
                weight = log_join[number] - shrink[number] * distance
                if feels_edge:
                    weight += gaussian_edge(mean[cluster], points[index], number, low, high)
                if weight > reference + LARGE:
                    sums = total, sum_apart, sum_options, cumulative, count
                    reference, total, sum_apart, sum_options = raise_reference(weight, reference, *sums)
                if weight > reference - NEGLIGIBLE:
                    total += math.exp(weight - reference)
                    near[count], cumulative[count] = cluster, total
                    count += 1
                cluster = after[cluster]
        chosen = draw(uniform[index] * total, sum_apart, sum_options, near, cumulative, count)
        if chosen == OPEN:
            num_free -= 1
            chosen = free[num_free]
            attach(chosen, cell[index], home, head, after, before)
            mean[chosen] = 0.0
        if chosen >= 0:
            size[chosen] += 1
            for axis in axes:
                mean[chosen, axis] += (points[index, axis] - mean[chosen, axis]) * inverse[size[chosen]]
        slot[index] = chosen
    return missing


@compiled
def count_spike(sign, cluster, time, neuron, offsets, precisions, heights, precision, pull, log_scale):
    """Add a spike, timed from the cluster's origin, to its statistics of every kind; take it out if ``sign`` is -1."""
    for kind in range(offsets.shape[1]):
        delay = time - offsets[neuron, kind]
        own = precisions[neuron, kind]
        precision[cluster, kind] += sign * own
        pull[cluster, kind] += sign * own * delay
        log_scale[cluster, kind] += sign * (heights[neuron, kind] - 0.5 * own * delay**2)


@compiled
def start_mass(mean, precision, low, high):
    """Log mass of a cluster's start in the window."""
    before, beyond = low - mean, high - mean
    enough = FAR_INSIDE**2 / precision
    if before < 0 and beyond > 0 and before**2 > enough and beyond**2 > enough:
        return 0.0
    root = math.sqrt(precision)
    return log_mass(before * root, beyond * root)


@compiled
def log_add(one, other):
    """Log of the sum of two numbers whose logs these are."""
    larger, smaller = max(one, other), min(one, other)
    return larger if smaller == -np.inf else larger + math.log1p(math.exp(smaller - larger))


@compiled
def weigh_kinds(cluster, precision, pull, log_scale, log_kind, log_prior, low, high):
    """Log probability of each kind given a cluster's spikes, less the log mass of its start."""
    evidence = -np.inf
    for kind in range(len(log_prior)):
        own = precision[cluster, kind]
        mean = pull[cluster, kind] / own
        weight = log_prior[kind] + log_scale[cluster, kind] + 0.5 * (pull[cluster, kind] * mean - math.log(own))
        log_kind[cluster, kind] = weight
        evidence = log_add(evidence, weight + start_mass(mean, own, low, high))
    for kind in range(len(log_prior)):
        log_kind[cluster, kind] -= evidence


@compiled
def sweep_sequences(slot, num_slots, visits, apart, new, log_size, times, neurons, tables, log_prior, low, high):
    """Draw ``slot``, the label of every spike, in place. A kind is a type with a warp.

    As for Gaussian clusters, but ``new`` lacks what depends on the spike, and ``log_size[n]`` is the log of ``a + n``.
    ``tables`` are offsets, precisions and log probabilities by neuron and kind.
    """
    cell, num_cells, neighbours, order, uniform = visits
    offsets, precisions, log_probs = tables
    num_kinds = len(log_prior)
    heights = log_probs + 0.5 * np.log(precisions) - LOG_ROOT_TAU
    size, origin = np.zeros(num_slots, np.int64), np.zeros(num_slots)
    precision, pull, log_scale, log_kind = np.zeros((4, num_slots, num_kinds))
    home, after, before = np.empty((3, num_slots), np.int64)
    head = np.full(num_cells, -1)
    for index in range(len(times)):
        cluster = slot[index]
        if cluster >= 0:
            if size[cluster] == 0:
                attach(cluster, cell[index], home, head, after, before)
                origin[cluster] = times[index]
            size[cluster] += 1
            time = times[index] - origin[cluster]
            count_spike(1.0, cluster, time, neurons[index], offsets, precisions, heights, precision, pull, log_scale)
    for cluster in range(num_slots):
        if size[cluster] > 0:
            first, last = low - origin[cluster], high - origin[cluster]
            weigh_kinds(cluster, precision, pull, log_scale, log_kind, log_prior, first, last)
    free, num_free = free_slots(size)
    near, cumulative = np.empty(num_slots, np.int64), np.empty(num_slots)
    terms, shares = np.empty(num_kinds), np.empty(num_kinds)
    missing = 0

    for index in order:
        neuron, old = neurons[index], slot[index]
        if old >= 0:
            if not is_near(home[old] - cell[index], neighbours):
                missing += 1
                continue
            size[old] -= 1
            if size[old] == 0:
                detach(old, home, head, after, before)
                precision[old], pull[old], log_scale[old] = 0.0, 0.0, 0.0
                free[num_free] = old
                num_free += 1
            else:
                time, first, last = times[index] - origin[old], low - origin[old], high - origin[old]
                count_spike(-1.0, old, time, neuron, offsets, precisions, heights, precision, pull, log_scale)
                weigh_kinds(old, precision, pull, log_scale, log_kind, log_prior, first, last)
        opening = -np.inf
        if num_free == 0:
            missing += 1
        else:
            for kind in range(num_kinds):
                term = new + log_prior[kind] + log_probs[neuron, kind]
                term += start_mass(times[index] - offsets[neuron, kind], precisions[neuron, kind], low, high)
                opening = log_add(opening, term)
        reference, sum_apart, sum_options = weigh_options(apart[index], opening)
        total, count = sum_options, 0
        for difference in neighbours:
            cluster = head[cell[index] + difference]
            while cluster >= 0:
                time, first, last = times[index] - origin[cluster], low - origin[cluster], high - origin[cluster]
                best = -np.inf
                for kind in range(num_kinds):
                    own, with_spike = precisions[neuron, kind], precisions[neuron, kind] + precision[cluster, kind]
                    mean = pull[cluster, kind] / precision[cluster, kind]
                    shares[kind] = precision[cluster, kind] / with_spike
                    delay = time - offsets[neuron, kind] - mean
                    term = log_kind[cluster, kind] + heights[neuron, kind] - 0.5 * own * shares[kind] * delay**2
                    terms[kind] = term + start_mass(mean + delay * (1 - shares[kind]), with_spike, first, last)
                    best = max(best, terms[kind])
                best += log_size[size[cluster]]
                if best > reference + LARGE:
                    sums = total, sum_apart, sum_options, cumulative, count
                    reference, total, sum_apart, sum_options = raise_reference(best, reference, *sums)
                if best > reference - NEGLIGIBLE:
                    for kind in range(num_kinds):
                        weight = terms[kind] + log_size[size[cluster]] - reference
                        if weight > -NEGLIGIBLE:
                            total += math.exp(weight) * math.sqrt(shares[kind])
                    near[count], cumulative[count] = cluster, total
                    count += 1
                cluster = after[cluster]
        chosen = draw(uniform[index] * total, sum_apart, sum_options, near, cumulative, count)
        if chosen == OPEN:
            num_free -= 1
            chosen = free[num_free]
            attach(chosen, cell[index], home, head, after, before)
            origin[chosen] = times[index]
        if chosen >= 0:
            size[chosen] += 1
            time, first, last = times[index] - origin[chosen], low - origin[chosen], high - origin[chosen]
            count_spike(1.0, chosen, time, neuron, offsets, precisions, heights, precision, pull, log_scale)
            weigh_kinds(chosen, precision, pull, log_scale, log_kind, log_prior, first, last)
        slot[index] = chosen
    return missing
