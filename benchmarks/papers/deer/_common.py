"""What the scripts share: the command line, tables, and an untrained GRU driven by noise."""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from tsppl.nn import gru_cell, init_gru_cell

sys.path.append(str(Path(__file__).parents[2]))
from _timing import _environment, _row  # noqa: E402


def is_quick(title, *, float64):
    """Read the command line, choose the precision, and say where the numbers come from."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--quick", action="store_true", help="small sizes, about a minute at most")
    quick = parser.parse_args().quick
    jax.config.update("jax_enable_x64", float64)
    print(_environment([]) + "\n", flush=True)
    return quick


def print_table(columns, rows, *, num_text=1):
    """Print a markdown table, row by row as they come: the first ``num_text`` columns are text, the others numbers."""
    print(_row(columns) + "\n" + "|---" * num_text + "|---:" * (len(columns) - num_text) + "|", flush=True)
    for row in rows:
        print(_row([str(cell) for cell in row]), flush=True)
    print(flush=True)


def driven_gru(num_units, num_steps, *, seed=0, batch=()):
    """Weights, standard normal inputs of as many channels as units, and the start at zero."""
    weights_key, inputs_key = jax.random.split(jax.random.key(seed))
    params = init_gru_cell(weights_key, num_units, num_units)
    inputs = jax.random.normal(inputs_key, (*batch, num_steps, num_units))
    return params, inputs, jnp.zeros(num_units)


def gru_body(params):
    """The body of a loop that returns all states."""

    def body(carry, x):
        carry = gru_cell(params, carry, x)
        return carry, carry

    return body
