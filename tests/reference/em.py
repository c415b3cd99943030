"""One step of expectation maximisation the slow way: enumerated state paths, dense joint Gaussians, plain moments.

Series come as lists, each cut to its own length, so nothing is padded.
"""

import numpy as np

from tests.reference import hidden_markov
from tests.reference.linear_gaussian import DenseModel


def expected_states(initial, transition, log_likelihoods):
    """Expected counts of first states and of transitions, and the state probabilities ``(T, K)`` of every series."""
    first, pairs, probs = np.zeros(initial.shape), np.zeros(transition.shape), []
    for terms in log_likelihoods:
        potentials = np.log(initial), np.log(transition), terms
        probs.append(hidden_markov.smoothed(*potentials))
        first += probs[-1][0]
        pairs += hidden_markov.pair_marginals(*potentials).sum(0)
    return first, pairs, probs


def weighted_sums(values, weights, state, function=lambda value: value):
    """Sum of ``function(value)`` over all series, weighted by the probability of a state, and of the weights.

    None is a missing step.
    """
    total, mass = 0.0, 0.0
    for series, probs in zip(values, weights, strict=True):
        for value, prob in zip(series, probs, strict=True):
            if value is not None:
                total = total + prob[state] * function(value)
                mass += prob[state]
    return total, mass


def weighted_mean(*arguments):
    """The ratio of :func:`weighted_sums`."""
    total, mass = weighted_sums(*arguments)
    return total / mass


def complete(mean, covariance, value, observed):
    """Mean and covariance of a Gaussian vector given some of its entries."""
    seen, hidden = np.flatnonzero(observed), np.flatnonzero(~observed)
    gain = covariance[np.ix_(hidden, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    completed, spread = np.where(observed, value, 0.0), np.zeros_like(covariance)
    completed[hidden] = mean[hidden] + gain @ (value[seen] - mean[seen])
    spread[np.ix_(hidden, hidden)] = covariance[np.ix_(hidden, hidden)] - gain @ covariance[np.ix_(seen, hidden)]
    return completed, spread


def regression(moments):
    """Coefficients and noise covariance from expected ``x x'``, ``y x'``, ``y y'`` and the number of observations."""
    inputs, across, outputs, count = moments
    coefficients = across @ np.linalg.inv(inputs)
    return coefficients, (outputs - coefficients @ across.T) / count


def low_rank_weights(factors):
    """Coefficients ``(S, L, N, N)`` from ``output``, ``input``, ``lag`` and ``core`` (None for CP), ``S`` 1 or ``K``."""
    output, inputs, lag, core = (factors[name] for name in ("output", "input", "lag", "core"))
    if core is None:
        core = np.zeros((1,) + output.shape[-1:] * 3)
        core[0][np.diag_indices(output.shape[-1], 3)] = 1.0
    num_states = max(len(factor) for factor in (output, inputs, lag, core))
    whole = [np.broadcast_to(factor, (num_states,) + factor.shape[1:]) for factor in (output, inputs, lag, core)]
    return np.einsum("kid,kje,klf,kdef->klij", *whole)


def low_rank_block(factors, field, offset, past, outputs, weights, covariance, prior=None, *, joint_offset):
    """The block of a low-rank regression that maximises density times prior, by one dense least-squares problem.

    Each column of the design is the prediction of all steps in all states when one entry of the block is 1 and the
    others 0. `past` is ``(n, L, N)``, `weights` ``(n, K)``, `prior` a pair of location and scale; with `joint_offset`
    the constant term is unknown as well. Returns the block and the constant term.
    """
    num_states, size = weights.shape[1], outputs.shape[1]
    root = [np.linalg.inv(np.linalg.cholesky(matrix)) for matrix in covariance]

    def whiten(prediction):
        """Of ``(K, n, N)``, as one long vector."""
        rows = [np.sqrt(weights[:, k, None]) * (prediction[k] @ root[k].T) for k in range(num_states)]
        return np.concatenate(rows).ravel()

    def predict(block):
        tensor = low_rank_weights(factors | {field: block})
        tensor = np.broadcast_to(tensor, (num_states,) + tensor.shape[1:])
        return np.einsum("klij,nlj->kni", tensor, past)

    block = factors[field]
    columns = [whiten(predict(unit.reshape(block.shape))) for unit in np.eye(block.size)]
    ones = np.ones((1, len(outputs), 1))
    target = np.stack([outputs if joint_offset else outputs - offset[k] for k in range(num_states)])
    if joint_offset:
        columns += [whiten(unit.reshape(num_states, 1, size) * ones) for unit in np.eye(num_states * size)]
    design, target = np.stack(columns, 1), whiten(target)
    if prior is not None:
        loc, scale = (np.broadcast_to(array, block.shape).ravel() for array in prior)
        design = np.vstack([design, np.eye(block.size, design.shape[1]) / scale[:, None]])
        target = np.append(target, loc / scale)
    solution = np.linalg.lstsq(design, target, rcond=None)[0]
    offset = solution[block.size :].reshape(num_states, size) if joint_offset else offset
    return solution[: block.size].reshape(block.shape), offset


def linear_gaussian_step(parameters, values, observed, *, diagonal):
    """New parameters of a linear-Gaussian model.

    `parameters` is a dict of `mean`, `covariance`, `weights`, `bias`, `noise`, `emission_weights`, `emission_bias`,
    `emission_noise`. Where noise is `diagonal`, missing entries of an observation are left out of the regression of
    their channel; otherwise they are completed given the trajectory.
    """
    p = parameters
    size, channels = len(p["mean"]), len(p["emission_bias"])
    firsts, first_spreads = [], []
    moves = [0.0, 0.0, 0.0, 0]
    looks = [[0.0, 0.0, 0.0, 0] for _ in range(channels if diagonal else 1)]
    for value, seen in zip(values, observed, strict=True):
        steps = len(value)
        repeat = lambda name, rows: [p[name]] * rows  # noqa: E731
        model = DenseModel(
            p["mean"],
            p["covariance"],
            *(repeat(name, steps - 1) for name in ("weights", "bias", "noise")),
            *(repeat(name, steps) for name in ("emission_weights", "emission_bias", "emission_noise")),
        )
        mean, covariance = model.posterior(value, seen)
        means = mean.reshape(steps, size)

        def block(t, s, covariance=covariance):
            return covariance[t * size : (t + 1) * size, s * size : (s + 1) * size]

        firsts.append(means[0])
        first_spreads.append(block(0, 0))
        for t in range(steps):
            x = np.append(means[t], 1.0)
            second = np.outer(x, x)
            second[:size, :size] += block(t, t)
            if t < steps - 1:
                across = np.outer(means[t + 1], x)
                across[:, :size] += block(t + 1, t)
                after = np.outer(means[t + 1], means[t + 1]) + block(t + 1, t + 1)
                moves = [a + b for a, b in zip(moves, (second, across, after, 1), strict=True)]
            predicted = np.column_stack([p["emission_weights"], p["emission_bias"]])
            if diagonal:
                for n in np.flatnonzero(seen[t]):
                    terms = second, value[t, n] * x[None], np.array([[value[t, n] ** 2]]), 1
                    looks[n] = [a + b for a, b in zip(looks[n], terms, strict=True)]
            elif seen[t].any():
                # y = offset + slope (x, 1) + a draw with covariance `spread`
                offset, spread = complete(np.zeros(channels), p["emission_noise"], value[t], seen[t])
                slope = np.column_stack(
                    [
                        complete(column, p["emission_noise"], np.zeros(channels), seen[t])[0] * ~seen[t]
                        for column in predicted.T
                    ]
                )
                y_x = np.outer(offset, x) + slope @ second
                y_y = spread + np.outer(offset, offset) + slope @ np.outer(x, offset) + y_x @ slope.T
                looks[0] = [a + b for a, b in zip(looks[0], (second, y_x, y_y, 1), strict=True)]
    fitted, noise = regression(moves)
    lines = [regression(moments) for moments in looks]
    emission = np.vstack([line[0] for line in lines])
    emission_noise = np.diag([line[1][0, 0] for line in lines]) if diagonal else lines[0][1]
    mean = np.mean(firsts, 0)
    covariance = np.mean(first_spreads, 0) + np.cov(np.array(firsts).T, bias=True)
    keep = np.eye(size) if diagonal else 1.0
    return {
        "mean": mean,
        "covariance": covariance * keep,
        "weights": fitted[:, :size],
        "bias": fitted[:, size],
        "noise": noise * keep,
        "emission_weights": emission[:, :size],
        "emission_bias": emission[:, size],
        "emission_noise": emission_noise,
    }
