"""Sequences divided over eight devices, and over two processes, against one device."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.messages.sharded_worker import CHECKS, SLOW_CHECKS
from tests.scripts import QUICK_TO_COMPILE, environment, printed_by

ROOT = Path(__file__).parents[2]


def start(arguments, num_devices):
    variables = environment(f"--xla_force_host_platform_device_count={num_devices}", *QUICK_TO_COMPILE)
    variables |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}
    command = [sys.executable, "-m", "tests.messages.sharded_worker", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def results(names):
    """The traceback, or None, of every one of these checks, all run in one process with eight devices."""
    output, errors = start(["checks", *names], num_devices=8).communicate(timeout=600)
    assert output, errors[-3000:]
    return json.loads(output.splitlines()[-1])


@pytest.mark.slow
def test_over_eight_devices():
    failures = {name: failure for name, failure in results(tuple(CHECKS)).items() if failure is not None}
    assert not failures, "\n".join(f"{name}: {failure}" for name, failure in failures.items())


@pytest.mark.slow
def test_over_eight_devices_slowly():
    failures = {name: failure for name, failure in results(tuple(SLOW_CHECKS)).items() if failure is not None}
    assert not failures, "\n".join(f"{name}: {failure}" for name, failure in failures.items())


@pytest.mark.slow
def test_over_two_processes():
    try:
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
    except OSError as error:
        pytest.skip(f"two processes meet at a local socket, and none can be opened: {error}")
    workers = [start(["process", str(index), str(port)], num_devices=2) for index in range(2)]
    try:
        errors = [worker.communicate(timeout=300)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, error in zip(workers, errors, strict=True):
        assert worker.returncode == 0, error[-3000:]


@pytest.mark.slow
def test_tutorial_agrees_with_one_device(tmp_path):
    printed = printed_by(ROOT / "tutorials" / "several_devices.py", folder=tmp_path, flags=QUICK_TO_COMPILE)
    assert "8 devices" in printed
    differences = [float(number) for number in re.findall(r"largest difference.*: (\S+)", printed)]
    assert len(differences) == 4
    assert max(differences) < 1e-9
    for one, other in re.findall(r"log-likelihood (\S+), on one device (\S+)", printed):
        assert one == other
