"""What functions, classes and modules consist of: instructions, constants, and everything that they use by name."""

import dis
import importlib
import sys
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import NamedTuple

VERSIONED = ("jax", "jaxlib", "numpyro", "tsppl")


class UsedModule(NamedTuple):
    """What a function may use of a module: the names that stand in its code."""

    module: ModuleType
    names: frozenset


def as_used(value, names):
    """A value, or, if it is a module that is not installed, what code with these names may use of it."""
    is_own = isinstance(value, ModuleType) and not _is_installed(value.__name__)
    return UsedModule(value, names) if is_own else value


def inside_function(function):
    """Its code, defaults, closure and attributes, and, of a function that is not installed, the globals and modules it uses."""
    code, parts = function.__code__, [("", function.__code__), ("", function.__defaults__)]
    parts.append(("", function.__kwdefaults__))
    names = _names(code)
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            parts.append((name, as_used(cell.cell_contents, names)))
        except ValueError:  # a name that is not bound yet
            continue
    parts += [(name, part) for name, part in sorted(vars(function).items()) if not name.startswith("__")]
    around = function.__globals__
    if not _is_installed(str(around.get("__name__"))):
        found = {name: around[name] for name in _globals(code) if name in around}
        found |= dict(_imports(code, around.get("__package__")))
        parts += [(name, as_used(part, names)) for name, part in sorted(found.items())]
    return "function", parts


def inside_code(code):
    """Its instructions, names and constants."""
    words = [code.co_code, repr((code.co_names, code.co_freevars, arguments_of(code), code.co_flags)).encode()]
    return b"code" + b" ".join(words), [("", constant) for constant in code.co_consts]


def arguments_of(code):
    """Names of a function's arguments."""
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def assigned_by(code):
    """Names of attributes that a function sets."""
    return {step.argval for step in _steps(code) if step.opname == "STORE_ATTR"}


def inside_class(value):
    """Its bases, methods and attributes."""
    descriptors = GetSetDescriptorType | MemberDescriptorType
    parts = [("", base) for base in value.__bases__]
    for name, member in sorted(vars(value).items()):
        is_method = isinstance(member, FunctionType | property | staticmethod | classmethod)
        if is_method or not (name.startswith("__") or name == "_abc_impl" or isinstance(member, descriptors)):
            parts.append((name, member))
    return f"class {value.__name__}", parts


@lru_cache(maxsize=4096)
def _steps(code):
    """Instructions of a function and of the functions inside."""
    inner = [step for constant in code.co_consts if isinstance(constant, CodeType) for step in _steps(constant)]
    return [*dis.get_instructions(code), *inner]


def _globals(code):
    return {step.argval for step in _steps(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}


def _names(code):
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return frozenset(code.co_names).union(*inner)


def _imports(code, package):
    """Modules that a function imports when it runs."""
    steps = _steps(code)
    for level, _, step in zip(steps, steps[1:], steps[2:], strict=False):
        if step.opname == "IMPORT_NAME":
            name = "." * level.argval + step.argval
            try:
                yield name, importlib.import_module(name, package)
            except ImportError:
                continue


@lru_cache(maxsize=4096)
def _is_installed(module):
    """Whether a module comes with Python, tsppl or an installed package, which have versions."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top == "tsppl":
        return True
    found = sys.modules.get(top)
    places = [*getattr(found, "__path__", []), getattr(found, "__file__", None) or ""]
    return any({"site-packages", "dist-packages"} & set(Path(place).parts) for place in places)


def name_of_installed(value):
    """Name, and version, of what an installed package calls by this name; None for everything else."""
    if isinstance(value, ModuleType):
        module, names = value.__name__, []
    else:
        module, names = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if not isinstance(module, str) or not isinstance(names, str):
            return None
        names = names.split(".")
    if not _is_installed(module):
        return None
    found = sys.modules.get(module)
    for name in names:
        found = getattr(found, name, None)
    if found is not value:
        return None
    top = module.partition(".")[0]
    version = "" if top in VERSIONED else getattr(sys.modules[top], "__version__", "")
    return ".".join([module, *names]) + f" {version}"
