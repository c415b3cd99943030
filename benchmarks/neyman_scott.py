"""Neyman-Scott processes: points per second in one Gibbs sweep over labels, and the cost of the density that NUTS sees.

Gaussian clusters of width 0.1 in time, one event per unit of time with 20 points on average, two background points. And
sequences of spikes (PPSeq) of the size of the songbird data: 22 seconds, 75 neurons, two types, some 30 sequences of 100
spikes. A sweep visits every point once; it starts from the labels that the points were drawn with.
"""

import argparse
import importlib.util
import os
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from _timing import _emit, _environment, _row, write_section
from jax import random

import tsppl.distributions as tsd
from tsppl.points import chunk_layout, sweep_labels, sweep_labels_chunked, sweep_labels_numba

NUM_CALLS = 21
NUM_SERIAL = 2_000


def make(length, edges="exact", scale=0.1):
    return tsd.NeymanScott(1.0, dist.Gamma(4.0, 0.2), tsd.GaussianCluster(scale, edges=edges), 2.0, (0.0, length))


def _seconds(function, *arguments):
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(NUM_CALLS):
        start = time.process_time(), time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    return np.median(times, axis=0)


def measure(sweep, process, pattern, number=None, **options):
    """Points, processor and wall seconds of a sweep over the first points of a pattern, and slots that were missing."""
    points, labels = pattern.points[:number], pattern.labels[:number]

    @jax.jit
    def run(key, labels, points):
        return sweep(key, process.cluster, labels, points, process.window, process.rates, **options)

    arguments = random.key(1), labels, points
    return len(points), *_seconds(run, *arguments), int(run(*arguments).overflow)


def on_the_line(length, edges):
    """Rows of chunked and compiled sweeps."""
    process = make(length, edges)
    pattern = process.simulate(random.key(0))
    layout = chunk_layout(np.asarray(pattern.points), 1.2, reaches_per_chunk=2.0, num_slots=16)
    yield f"chunked, edges {edges}", *measure(sweep_labels_chunked, process, pattern, layout=layout)
    if has_numba():
        yield f"numba, edges {edges}", *measure(sweep_labels_numba, process, pattern, reach=1.2)


def sequences(edges):
    """The same for sequences of spikes, one after the other in JAX."""
    keys = random.split(random.key(3), 2)
    cluster = tsd.SequenceCluster(
        jnp.full(2, 0.5),
        dist.Dirichlet(jnp.full((2, 75), 0.3)).sample(keys[0]),
        random.uniform(keys[1], (2, 75), minval=-0.4, maxval=0.4),
        jnp.full((2, 75), 0.1),
        edges=edges,
    )
    process = tsd.NeymanScott(1.4, dist.Gamma(10.0, 0.1), cluster, 20.0, (0.0, 22.2))
    run = partial(measure, process=process, pattern=process.simulate(random.key(0)), max_clusters=64)
    yield f"sequences, serial, 64 slots, edges {edges}", *run(sweep_labels)
    if has_numba():
        yield f"sequences, numba, edges {edges}", *run(sweep_labels_numba, reach=jnp.inf)


def has_numba():
    return importlib.util.find_spec("numba") is not None


def density(length):
    """Points, seconds of value and gradient of the joint density, and of the sum of the three sites."""
    pattern = make(length).simulate(random.key(0))
    number = len(pattern.points)

    def joint(scale):
        return make(length, scale=scale).log_joint(pattern.labels, pattern.points)

    def sites(scale):
        process = make(length, scale=scale)
        count = process.count(largest=number).log_prob(number)
        return (
            count
            + process.labels(number).log_prob(pattern.labels)
            + process.points(pattern.labels).log_prob(pattern.points)
        )

    return number, *(_seconds(jax.jit(jax.value_and_grad(function)), jnp.array(0.1))[1] for function in (joint, sites))


def main():
    """Print the tables; keep those of a full run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, only printed")
    quick = parser.parse_args().quick
    heading = f"Neyman-Scott processes, float32, XLA flags: {os.environ.get('XLA_FLAGS') or 'default'}"
    lines = [_emit(f"## {heading}\n"), _emit(_environment(["numpyro", "numba"] if has_numba() else ["numpyro"]) + "\n")]
    lengths = (50.0, 200.0) if quick else (500.0, 5_000.0, 50_000.0)
    header = ["sweep", "points", "ms, wall", "points / s, wall", "points / s of processor time", "missing slots"]
    lines += [_emit(_row(header)), _emit("|---" + "|---:" * 5 + "|")]
    rows = [row for edges in ("ignored", "exact") for length in lengths for row in on_the_line(length, edges)]
    process = make(lengths[0])
    slots = {"number": NUM_SERIAL, "max_clusters": 256}
    rows.append(("serial, 256 slots", *measure(sweep_labels, process, process.simulate(random.key(0)), **slots)))
    rows += [row for edges in ("ignored", "exact") for row in sequences(edges)]
    for name, number, processor, wall, missing in rows:
        cells = [
            name,
            f"{number:,}",
            f"{1e3 * wall:.1f}",
            f"{number / wall:.2g}",
            f"{number / processor:.2g}",
            f"{missing}",
        ]
        lines.append(_emit(_row(cells)))
    lines += [
        _emit(""),
        _emit(_row(["value and gradient", "points", "joint, ms", "three sites, ms"])),
        _emit("|---" + "|---:" * 3 + "|"),
    ]
    for length in lengths[:2]:
        number, joint, sites = density(length)
        lines.append(_emit(_row(["width", f"{number:,}", f"{1e3 * joint:.1f}", f"{1e3 * sites:.1f}"])))
    if not quick:
        write_section(heading, "\n".join(lines))


if __name__ == "__main__":
    main()
