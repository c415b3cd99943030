"""Fair timing, shared by the benchmark scripts.

Every library runs the same operation on the same arrays, in one process, with the same dtype and flags, turn by turn,
so that whatever else the machine does falls on all of them. Compile time is measured apart from run time.
"""

import argparse
import datetime
import importlib.util
import os
import platform
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

OURS = "tsppl"
COMPILED = (OURS, "dynamax", "numpyro")
RESULTS = Path(__file__).parent / "results.md"
TURN_SECONDS = 0.002
MAX_CALLS = 100
MAX_ROUNDS = 30


class Case(NamedTuple):
    """One size of the problem: states or dimensions, steps of a sequence, sequences."""

    size: int
    num_steps: int
    batch: int


class Entry(NamedTuple):
    """How one library runs an operation; compile time is reported for functions from ``jax.jit``."""

    function: Callable
    arguments: tuple


class Timing(NamedTuple):
    """Of one entry; ``temporary_bytes`` is what XLA sets aside beside arguments and outputs."""

    seconds: float
    compile_seconds: float | None
    output: Any
    temporary_bytes: int | None


class Comparison(NamedTuple):
    """An operation, each library's entry (this library's first), and a check that raises if their outputs disagree."""

    operation: str
    entries: dict[str, Entry]
    check: Callable[[dict[str, Any]], None]


class Benchmark(NamedTuple):
    """``peers`` maps a library to the dtypes it has; ``comparisons(case, dtype, libraries)`` builds the operations.

    ``forms`` are other ways of this library to do the same, compared like peers.
    """

    title: str
    size_name: str
    peers: dict[str, tuple[str, ...]]
    quick_cases: tuple[Case, ...]
    full_cases: tuple[Case, ...]
    comparisons: Callable[[Case, str, list[str]], Iterable[Comparison]]
    notes: str = ""
    forms: tuple[str, ...] = ()


def compare(entries: dict[str, Entry], seconds: float, min_rounds: int) -> dict[str, Timing]:
    """Compile every entry from empty caches, then run all in turn for about ``seconds``, and take medians.

    A turn is as many calls as last some milliseconds. The order is reversed from round to round.
    """
    ready, compile_seconds = {}, {}
    for name, entry in entries.items():
        ready[name], compile_seconds[name] = _compile(entry)
    calls, outputs = {}, {}
    for name, entry in ready.items():
        warm_up, outputs[name] = _timed(entry)
        again = _timed(entry)[0] if warm_up < seconds else warm_up
        calls[name] = int(np.clip(TURN_SECONDS / again, 1, MAX_CALLS))
    turns = {name: [] for name in ready}
    deadline = time.perf_counter() + seconds
    names = list(ready)
    for index in range(MAX_ROUNDS):
        if index >= min_rounds and time.perf_counter() > deadline:
            break
        for name in names[:: -1 if index % 2 else 1]:
            turns[name].append(_timed(ready[name], calls[name])[0])
    return {
        name: Timing(median(turns[name]), compile_seconds[name], outputs[name], _temporary_bytes(ready[name]))
        for name in names
    }


def _temporary_bytes(entry):
    analysis = getattr(entry.function, "memory_analysis", lambda: None)()
    return analysis and analysis.temp_size_in_bytes


def _compile(entry):
    """Trace and compile a function from ``jax.jit``, with the seconds it took; pass any other function on."""
    if not hasattr(entry.function, "lower"):
        return entry, None
    jax.clear_caches()
    start = time.perf_counter()
    compiled = entry.function.lower(*entry.arguments).compile()
    return Entry(compiled, entry.arguments), time.perf_counter() - start


def _timed(entry, calls=1):
    """Mean seconds of so many calls in a row, and the last output."""
    start = time.perf_counter()
    for _ in range(calls):
        output = jax.block_until_ready(entry.function(*entry.arguments))
    return (time.perf_counter() - start) / calls, output


def assert_close(label: str, expected, actual, tolerance: float) -> None:
    """Compare two trees of arrays leaf by leaf, relative to the largest entry of each leaf."""
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * np.abs(a).max(), err_msg=label)


def run(benchmark: Benchmark) -> None:
    """Parse the command line, time every case and operation, print the tables, and keep those of a full run."""
    parser = argparse.ArgumentParser(description=benchmark.title)
    parser.add_argument("--quick", action="store_true", help="a small grid, under a minute; results are only printed")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "float64"), default=["float32", "float64"])
    parser.add_argument(
        "--operations", nargs="+", metavar="NAME", help="only these operations, as the tables name them"
    )
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    installed = [name for name in benchmark.peers if importlib.util.find_spec(name)]
    left_out = [f"{name} is not installed: left out." for name in benchmark.peers if name not in installed]
    flags = os.environ.get("XLA_FLAGS") or "default"
    heading = f"{benchmark.title}, XLA flags: {flags}"
    parts = [_emit("\n".join([f"## {heading}\n", _environment(installed), *left_out, benchmark.notes]).rstrip() + "\n")]
    for dtype in options.dtype:
        parts += [_emit(f"### {dtype}\n"), *_table(benchmark, dtype, installed, options.quick, options.operations)]
    if not options.quick:
        write_section(heading, "\n".join(parts))
        print(f"Written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


def _table(benchmark, dtype, installed, quick, chosen):
    """Lines of one dtype's table, and a summary for each peer; printed as they come."""
    jax.config.update("jax_enable_x64", dtype == "float64")
    jax.block_until_ready(jax.jit(jnp.sin)(jnp.ones(3)))
    peers = [name for name in installed if dtype in benchmark.peers[name]] + list(benchmark.forms)
    compiled = [name for name in [OURS, *peers] if name in COMPILED + benchmark.forms]
    columns = ["operation", benchmark.size_name, "T", "batch", *(f"{name}, ns/step" for name in [OURS, *peers])]
    columns += [f"{name} / {OURS}" for name in peers] + [f"{name} compile, s" for name in compiled]
    rule = "|---" + "|---:" * (len(columns) - 1) + "|"
    lines = [_emit(_row(columns)), _emit(rule)]
    ratios = {name: {} for name in peers}
    for case in benchmark.quick_cases if quick else benchmark.full_cases:
        for operation, entries, check in benchmark.comparisons(case, dtype, [OURS, *peers]):
            if chosen and operation not in chosen:
                continue
            timings = compare(entries, *((0.1, 3) if quick else (0.4, 3)))
            check({name: timing.output for name, timing in timings.items()})
            relative = {n: timings[n].seconds / timings[OURS].seconds for n in peers if n in timings}
            for name, ratio in relative.items():
                ratios[name].setdefault(operation, []).append(ratio)
            cells = [operation, *(f"{number:,}" for number in case)]
            per_step = 1e9 / (case.num_steps * case.batch)
            cells += [_number(timings[n].seconds * per_step) if n in timings else "none" for n in [OURS, *peers]]
            cells += [f"{relative[n]:.2f}" if n in relative else "" for n in peers]
            cells += [f"{timings[n].compile_seconds:.2f}" if n in timings else "" for n in compiled]
            lines.append(_emit(_row(cells)))
    return lines + [_emit("")] + [_emit(_summary(name, values)) for name, values in ratios.items()]


def _summary(peer, ratios):
    """Wins and losses against one peer, by operation; within 10 % counts as equal."""
    lines = [f"{peer} / {OURS} by operation (above 1: {OURS} is faster; equal: within 10 %)\n"]
    lines += [
        _row(["operation", "faster", "equal", "slower", "lowest", "median", "highest"]),
        "|---" + "|---:" * 6 + "|",
    ]
    for operation, values in ratios.items():
        faster, slower = sum(value > 1.1 for value in values), sum(value < 1 / 1.1 for value in values)
        spread = [f"{value:.2f}" for value in (min(values), median(values), max(values))]
        lines.append(_row([operation, *map(str, (faster, len(values) - faster - slower, slower)), *spread]))
    return "\n".join(lines) + "\n"


def _number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _row(cells):
    return "| " + " | ".join(cells) + " |"


def _emit(line):
    print(line, flush=True)
    return line


def _environment(installed):
    """The machine, the versions and the date, in one paragraph."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    versions = ", ".join(f"{name} {version(name)}" for name in ["jax", "jaxlib", "numpy", *installed])
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    now = datetime.datetime.now(datetime.UTC)
    return (
        f"{cpu}, {os.cpu_count()} cores, backend {jax.default_backend()}; "
        f"Python {platform.python_version()}, {versions}; load at the start {load}; {now:%Y-%m-%d %H:%M} UTC."
    )


def write_section(heading: str, text: str) -> None:
    """Replace the section of ``results.md`` that has this heading, or append it."""
    kept = RESULTS.read_text() if RESULTS.exists() else "# Benchmark results\n"
    intro, *sections = kept.split("\n## ")
    sections = [section for section in sections if section.split("\n", 1)[0] != heading]
    sections.append(text.removeprefix("## "))
    RESULTS.write_text("\n## ".join([intro, *(section.rstrip() + "\n" for section in sections)]))
