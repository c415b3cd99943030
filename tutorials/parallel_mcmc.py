"""
A whole Markov chain at once
============================

A chain of MCMC is a recurrence: every draw is a function of the draw before it and of random numbers, which can all be drawn
beforehand. So ``deer_scan`` can find all draws together, by sweeps over the whole chain, as in Zoltowski et al. (2025,
Parallelizing MCMC across the sequence length). Here a Metropolis-adjusted Langevin chain (MALA) is run so in several ways and
held against the plain loop, draw by draw: sweeps needed, largest difference, accept decisions that differ.

    python tutorials/parallel_mcmc.py            # 2,000 draws, two minutes, mostly compilation
    python tutorials/parallel_mcmc.py --quick    # 300 draws, over one minute
"""

import argparse
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax, random
from numpyro.diagnostics import effective_sample_size
from numpyro.infer.util import log_density

import tsppl
from tsppl.recurrence import deer_scan

parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
parser.add_argument("--quick", action="store_true", help="300 draws instead of 2,000")
lengths = (30, 100, 300) if parser.parse_args().quick else (30, 100, 300, 1000, 2000)
num_draws = lengths[-1]

jax.config.update("jax_enable_x64", True)

# %%
# The posterior: earthquakes of a year, given how many there were in each of the five years before. Active decades make
# neighbouring years alike, so the predictors are correlated, and so are their weights.

NUM_LAGS = 5
yearly, _ = tsppl.datasets.earthquakes()
counts = jnp.asarray(yearly[NUM_LAGS:], float)
lagged = np.log(np.lib.stride_tricks.sliding_window_view(yearly[:-1], NUM_LAGS)[:, ::-1])
predictors = jnp.column_stack([np.ones(len(counts)), (lagged - lagged.mean(0)) / lagged.std(0)])
mean_log_rate = float(jnp.log(counts.mean()))


def model(predictors, counts):
    weights = numpyro.sample("weights", dist.Normal(0, 1).expand([NUM_LAGS + 1]).to_event(1))
    numpyro.sample("counts", dist.Poisson(jnp.exp(mean_log_rate + predictors @ weights)).to_event(1), obs=counts)


def log_posterior(weights):
    data = predictors.astype(weights.dtype), counts.astype(weights.dtype)
    return log_density(model, data, {}, {"weights": weights})[0]


@jax.jit
def find_mode(weights):
    def newton_step(_, weights):
        return weights - jnp.linalg.solve(jax.hessian(log_posterior)(weights), jax.grad(log_posterior)(weights))

    return lax.fori_loop(0, 20, newton_step, weights)


mode = find_mode(jnp.zeros(NUM_LAGS + 1))
curvatures, eigenvectors = jnp.linalg.eigh(-jax.hessian(log_posterior)(mode))
step_size = float(1.3 / jnp.sqrt(curvatures[-1]))

# %%
# One step of MALA as the body of a loop: a move up the gradient, noise, and a decision whether to stay. ``basis`` has the
# axes in which the draws are written down, one per column. The derivative of ``jnp.where`` is that of the branch taken: the
# identity after a rejection. A straight-through derivative, which the paper takes, also counts how a draw moves the decision;
# it leaves the draws as they are and changes only the way in which they are found.


def mala_step(basis, straight_through=False):
    value_and_gradient = jax.value_and_grad(lambda draw: log_posterior(basis @ draw))

    def step(draw, randomness):
        noise, log_uniform = randomness
        value, gradient = value_and_gradient(draw)
        forward = draw + 0.5 * step_size**2 * gradient
        proposal = forward + step_size * noise @ basis
        proposal_value, proposal_gradient = value_and_gradient(proposal)
        backward = proposal + 0.5 * step_size**2 * proposal_gradient
        there, back = ((proposal - forward) ** 2).sum(), ((draw - backward) ** 2).sum()
        margin = proposal_value - value + (there - back) / (2 * step_size**2) - log_uniform
        accepted = margin > 0
        new = jnp.where(accepted, proposal, draw)
        if straight_through:
            soft = jax.nn.sigmoid(margin)
            new += (soft - lax.stop_gradient(soft)) * (proposal - draw)
        return new, (new, accepted)

    return step


noise_key, uniform_key = random.split(random.key(0))
noise = random.normal(noise_key, (num_draws, NUM_LAGS + 1))
log_uniform = jnp.log(random.uniform(uniform_key, (num_draws,)))

# %%
# The same chain in several ways. Newton's method takes the Jacobian of every step, quasi-Newton its diagonal, Jacobi none of
# it; ``"chunked"`` runs stretches of the chain side by side until they join. A diagonal serves only where coordinates hardly
# mix: the weights do, the eigenvectors of the Hessian at the mode do not. All sweeps start from the mode, repeated, and a chain
# that has not settled would come out as NaN.


class Way(NamedTuple):
    solver: str
    basis: jax.Array = jnp.eye(NUM_LAGS + 1)
    straight_through: bool = False
    dtype: type = jnp.float64

    def program(self):
        """Compiled ``(noise, log_uniform, max_iters) -> draws, accepted, info``, whose draws are weights in any basis."""

        @jax.jit
        def run(noise, log_uniform, max_iters):
            basis, start, *randomness = (x.astype(self.dtype) for x in (self.basis, mode, noise, log_uniform))
            step = mala_step(basis, self.straight_through)
            if self.solver == "scan":
                draws, accepted = lax.scan(step, start @ basis, randomness)[1]
                return draws @ basis.T, accepted, None
            if self.solver == "chunked":
                how = {"max_iters": len(noise)}
            else:
                how = {"max_iters": max_iters, "guess": jnp.tile(start @ basis, (len(noise), 1))}
            _, (draws, accepted), info = deer_scan(
                step, start @ basis, randomness, solver=self.solver, on_failure="nan", return_info=True, **how
            )
            return draws @ basis.T, accepted, info

        return run


ways = {
    "Newton": Way("newton"),
    "Newton, straight-through": Way("newton", straight_through=True),
    "quasi-Newton along eigenvectors": Way("quasi", eigenvectors),
    "quasi-Newton along weights": Way("quasi"),
    "Jacobi": Way("jacobi"),
    "chunked": Way("chunked"),
    "Newton, float32": Way("newton", dtype=jnp.float32),
}


def timed(program, *arguments):
    """What the program answers, and the milliseconds of its second call."""
    jax.block_until_ready(program(*arguments))
    begun = time.perf_counter()
    answer = jax.block_until_ready(program(*arguments))
    return answer, 1e3 * (time.perf_counter() - begun)


(expected, expected_accepted, _), loop_milliseconds = timed(Way("scan").program(), noise, log_uniform, num_draws)
print(f"{num_draws:,} draws of {NUM_LAGS + 1} weights, {100 * expected_accepted.mean():.0f} % accepted\n")
print(f"{'':>31} {'sweeps':>6} {'settled':>7} {'difference':>10} {'other decisions':>15} {'ms':>8}")
print(f"{'plain loop':>31} {'':>6} {'':>7} {'':>10} {'':>15} {loop_milliseconds:8.1f}")
programs, found, sweeps = {}, {}, {}
for name, way in ways.items():
    programs[name] = way.program()
    (draws, accepted, info), milliseconds = timed(programs[name], noise, log_uniform, num_draws)
    found[name], sweeps[name] = draws, int(info.iterations)
    print(
        f"{name:>31} {sweeps[name]:>6} {'yes' if info.converged else 'no':>7} {jnp.abs(draws - expected).max():10.1e} "
        f"{int((accepted != expected_accepted).sum()):>15} {milliseconds:8.1f}"
    )

# %%
# What to take from the table:
#
# - A handful of Newton sweeps gives the chain of the loop, with the same decisions. Along the eigenvectors the diagonal does
#   nearly as well, for memory that grows with the number of weights and not with its square. Over twelve random keys
#   2,000 draws took 6 to 11 and 9 to 14 sweeps.
# - Along the weights the diagonal fails: most draws wait until the exact ones reach them, nearly one sweep per draw. Jacobi's
#   sweeps level off at the memory of the chain, here some 250 draws.
# - The straight-through derivative is not needed, and took more sweeps: 13 to 15 over these keys.
# - A run of ``"chunked"`` is a loop over a stretch, about the square root of the number of draws; sweeps are one step deep.
# - In float32 a decision may be tipped by the rounding of the log density, which differs from program to program. None was
#   with these keys. With the constants left out of the Poisson probabilities, so that the log density is in the thousands
#   and not the hundreds, 3 of 2,000 decisions differed from those of a float32 loop, and draws by up to 0.03, though the
#   solver had settled. It then finds another MALA chain, as good as the loop's, and one with it again after 70 draws. Use
#   float64 where the chains must be equal.
# - On a CPU the plain loop is the fastest of all. Sweeps are for machines that take thousands of draws at a time, and even
#   there a way that needs hundreds of them has little to gain.

# %%
# How the residual falls, and how the sweeps grow with the chain. No draw depends on a later one, so the sweeps for a chain
# cut at draw t tell when the first t draws of the long one are settled.

shown = ("Newton", "quasi-Newton along eigenvectors", "Jacobi", "quasi-Newton along weights")
residuals, needed = {}, {}
for name in shown:
    limits = np.unique(np.geomspace(1, sweeps[name], 12).astype(int))
    residuals[name] = limits, [float(programs[name](noise, log_uniform, n)[2].residual) for n in limits]
    infos = [programs[name](noise[:n], log_uniform[:n], n)[2] for n in lengths]
    needed[name] = [int(info.iterations) for info in infos]
print(f"\nsweeps until the first {', '.join(f'{n:,}' for n in lengths)} draws are settled:")
for name in shown:
    print(f"{name:>31} " + " ".join(f"{count:>6}" for count in needed[name]))

# %%
# The posterior itself: how much the logarithm of this year's rate rises with one standard deviation of an earlier year's.

draws = np.asarray(found["Newton"])
print(f"\n{'weight of':>15} {'mean':>7} {'sd':>6} {'sd at mode':>10} {'ESS':>5}")
at_mode = np.sqrt(np.diag(np.linalg.inv(-jax.hessian(log_posterior)(mode))))
labels = ["level", *(f"{lag} year{'s' * (lag > 1)} before" for lag in range(1, NUM_LAGS + 1))]
for label, column, laplace in zip(labels, draws.T, at_mode, strict=True):
    ess = effective_sample_size(column[None])
    print(f"{label:>15} {column.mean():7.3f} {column.std():6.3f} {laplace:10.3f} {ess:5.0f}")

# %%
# The figure: draws of both chains, residuals, sweeps.

figure, axes = plt.subplot_mosaic([["chain", "chain"], ["residual", "sweeps"]], figsize=(11, 7.5), layout="constrained")
window = np.arange(min(150, num_draws))
axes["chain"].step(window, expected[window, 1], where="mid", color="0.75", linewidth=5, label="plain loop")
label = f"{sweeps['Newton']} Newton sweeps over all draws"
axes["chain"].step(window, draws[window, 1], where="mid", color="tab:blue", linewidth=1, label=label)
rejected = window[~np.asarray(expected_accepted)[window]]
axes["chain"].plot(rejected, draws[rejected, 1], "x", color="tab:red", label="proposal rejected, draw repeated")
axes["chain"].margins(y=0.15)
axes["chain"].set(
    xlabel="draw",
    ylabel="weight of the year before",
    title=f"The first {len(window)} of {num_draws:,} draws: the chain found at once lies on that of the loop",
)
axes["chain"].legend(ncols=3, loc="lower right", fontsize=8)

for name in shown:
    axes["residual"].loglog(*residuals[name], "o-", markersize=4, label=name)
    axes["sweeps"].loglog(lengths, needed[name], "o-", markersize=4, label=name)
axes["residual"].axhline(1e-10, color="black", linestyle=":", label="settled below")
axes["residual"].set(
    xlabel="sweeps over the chain",
    ylabel="largest residual of a draw",
    title=f"{num_draws:,} draws: does each follow from the one before?",
)
axes["residual"].legend(fontsize=8, loc=(0.34, 0.03))
axes["sweeps"].plot(lengths, lengths, color="black", linestyle=":", label="one sweep per draw: nothing gained")
axes["sweeps"].set(
    xlabel="draws in the chain", ylabel="sweeps until all are settled", title="Do longer chains need more sweeps?"
)
axes["sweeps"].legend(fontsize=8)
figure.savefig("parallel_mcmc.png", dpi=150)
print("\nfigure saved to parallel_mcmc.png")
