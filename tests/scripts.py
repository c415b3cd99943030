"""Scripts in processes of their own."""

import os
import subprocess
import sys

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
