"""Linear-Gaussian models the slow way: one dense joint Gaussian of everything, conditioned by the textbook formula."""

import numpy as np


class DenseModel:
    """The joint law of a trajectory ``(T, D)`` and its observations ``(T, N)`` as one mean and one covariance matrix.

    `weights`, `bias`, `noise_covariance` have T - 1 rows; `emission_*` have T rows.
    """

    def __init__(
        self,
        initial_mean,
        initial_covariance,
        weights,
        bias,
        noise_covariance,
        emission_weights=None,
        emission_bias=None,
        emission_covariance=None,
    ):
        self.num_steps, self.size = len(weights) + 1, len(initial_mean)
        steps, size = self.num_steps, self.size
        mean = [np.asarray(initial_mean)]
        # Row t of `sources` writes x_t as a combination of x_0 and the noises of all steps.
        sources = [np.hstack([np.eye(size), np.zeros((size, size * (steps - 1)))])]
        covariance = np.zeros((steps * size, steps * size))
        covariance[:size, :size] = initial_covariance
        for t in range(steps - 1):
            mean.append(weights[t] @ mean[t] + bias[t])
            here = slice((t + 1) * size, (t + 2) * size)
            row = weights[t] @ sources[t]
            row[:, here] += np.eye(size)
            sources.append(row)
            covariance[here, here] = noise_covariance[t]
        sources, self.mean = np.vstack(sources), np.concatenate(mean)
        self.covariance = sources @ covariance @ sources.T
        if emission_weights is not None:
            channels = len(emission_bias[0])
            look = np.zeros((steps * channels, steps * size))
            noise = np.zeros((steps * channels, steps * channels))
            for t in range(steps):
                here = slice(t * channels, (t + 1) * channels)
                look[here, t * size : (t + 1) * size] = emission_weights[t]
                noise[here, here] = emission_covariance[t]
            self.channels = channels
            self.observation_mean = look @ self.mean + np.concatenate(emission_bias)
            self.observation_covariance = look @ self.covariance @ look.T + noise
            self.across = self.covariance @ look.T

    def log_prob(self, values, observed):
        """Log density of the observed entries of `values`, ``(T, N)``."""
        index = np.flatnonzero(observed.ravel())
        return normal_log_density(
            values.ravel()[index], self.observation_mean[index], self.observation_covariance[np.ix_(index, index)]
        )

    def log_prob_steps(self, values, observed):
        """``log p(y_t | y_<t)`` of the observed entries."""
        totals = [0.0]
        for t in range(self.num_steps):
            past = observed.copy()
            past[t + 1 :] = False
            totals.append(self.log_prob(values, past))
        return np.diff(totals)

    def log_prob_left_out(self, values, observed):
        """``log p(y_t | all other observations)`` of the observed entries."""
        total, terms = self.log_prob(values, observed), []
        for t in range(self.num_steps):
            others = observed.copy()
            others[t] = False
            terms.append(total - self.log_prob(values, others))
        return np.array(terms)

    def posterior(self, values, observed):
        """Mean and covariance of the whole trajectory given the observed entries."""
        index = np.flatnonzero(observed.ravel())
        residual = values.ravel()[index] - self.observation_mean[index]
        return condition(
            self.mean,
            self.covariance,
            self.across[:, index],
            self.observation_covariance[np.ix_(index, index)],
            residual,
        )

    def filtered(self, values, observed):
        """Mean and covariance of each ``x_t`` given ``y_<=t``."""
        means, covariances = [], []
        for t in range(self.num_steps):
            past = observed.copy()
            past[t + 1 :] = False
            mean, covariance = self.posterior(values, past)
            here = slice(t * self.size, (t + 1) * self.size)
            means.append(mean[here])
            covariances.append(covariance[here, here])
        return np.array(means), np.array(covariances)

    def missing(self, values, observed):
        """Mean and covariance of the entries not observed, given those that were."""
        seen, hidden = np.flatnonzero(observed.ravel()), np.flatnonzero(~observed.ravel())
        covariance = self.observation_covariance
        return condition(
            self.observation_mean[hidden],
            covariance[np.ix_(hidden, hidden)],
            covariance[np.ix_(hidden, seen)],
            covariance[np.ix_(seen, seen)],
            values.ravel()[seen] - self.observation_mean[seen],
        )


def condition(mean, covariance, across, known_covariance, residual):
    """Law of one block given another that is `residual` away from its mean."""
    gain = np.linalg.solve(known_covariance, across.T).T if len(residual) else across
    return mean + gain @ residual, covariance - gain @ across.T


def normal_log_density(value, mean, covariance):
    """Log density of a multivariate normal; zero for an empty vector."""
    if not len(value):
        return 0.0
    sign, log_determinant = np.linalg.slogdet(covariance)
    assert sign > 0, "the covariance is not positive definite"
    residual = value - mean
    quadratic = residual @ np.linalg.solve(covariance, residual)
    return -0.5 * (quadratic + log_determinant + len(value) * np.log(2 * np.pi))


def blocks(mean, covariance, size):
    """Means ``(T, D)``, covariances ``(T, D, D)`` and ``Cov(x_{t+1}, x_t)`` of a trajectory's joint law."""
    steps = len(mean) // size
    tiles = covariance.reshape(steps, size, steps, size).transpose(0, 2, 1, 3)
    index = np.arange(steps)
    return mean.reshape(steps, size), tiles[index, index], tiles[index[1:], index[:-1]]


def normal_divergence(mean, covariance, other_mean, other_covariance):
    """Kullback-Leibler divergence of one multivariate normal from another."""
    solved = np.linalg.solve(other_covariance, covariance)
    difference = other_mean - mean
    quadratic = difference @ np.linalg.solve(other_covariance, difference)
    return 0.5 * (np.trace(solved) + quadratic - len(mean) - np.linalg.slogdet(solved)[1])
