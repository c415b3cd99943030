"""The package as a whole: what it imports, and what its faces export."""

import pkgutil
import subprocess
import sys
from importlib import import_module
from types import ModuleType

import pytest

import tsppl

ROOMS = [name for _, name, is_package in pkgutil.iter_modules(tsppl.__path__) if is_package]
SLOW_TO_IMPORT = (
    "arviz",
    "xarray",
    "pandas",
    "matplotlib",
    "scipy.stats",
    "optax",
    "flax",
    "numba",
    "tensorflow_probability",
)


def test_importing_tsppl_imports_nothing_that_only_some_need():
    code = f"import sys, tsppl; print(*(name for name in {SLOW_TO_IMPORT} if name in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_no_face_exports_a_name_that_is_also_one_of_its_modules(room):
    """``import a.b`` would otherwise mean one thing before, and another after ``from a import b``."""
    face = import_module(f"tsppl.{room}" if room else "tsppl")
    modules = {name for _, name, _ in pkgutil.iter_modules(face.__path__)}
    assert [name for name in modules if not isinstance(getattr(face, name, tsppl), ModuleType)] == []


def test_only_rooms_of_the_first_floor_export():
    """``tsppl.models.structural`` is a face of its own: users write ``from tsppl import structural``."""
    for room in ROOMS:
        path = import_module(f"tsppl.{room}").__path__
        for _, name, is_package in pkgutil.walk_packages(path, f"tsppl.{room}."):
            if is_package and name != "tsppl.models.structural":
                assert not [n for n in vars(import_module(name)) if isinstance(getattr(import_module(name), n), type)]
