"""Scripts, tutorials among them, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parent.parent / "tutorials"

QUICK_TO_COMPILE = ("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true")


def environment(*flags):
    """That of this process, with more flags for XLA."""
    return os.environ | {"XLA_FLAGS": " ".join((os.environ.get("XLA_FLAGS", ""), *flags))}


def printed_by(script, *arguments, folder=None, flags=()):
    """What a script prints that runs from beginning to end."""
    command = [sys.executable, str(script), *arguments]
    run = subprocess.run(command, cwd=folder, env=environment(*flags), capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


def run_tutorial(name, folder, *arguments):
    """What a tutorial prints."""
    return printed_by(TUTORIALS / name, *arguments, folder=folder)


def need_data(name, monkeypatch):
    """Read a file that is otherwise downloaded from the folder TSPPL_DATA, or one beside the repository; skip without."""
    folder = Path(os.environ.get("TSPPL_DATA") or TUTORIALS.parent.parent / "shared" / "data")
    if not list(folder.glob(f"**/{name}")):
        pytest.skip(f"{name} is not at hand: name its folder in TSPPL_DATA")
    monkeypatch.setenv("TSPPL_DATA", str(folder))


def is_figure(path):
    """Is there a picture with something on it?"""
    return path.stat().st_size > 20_000
