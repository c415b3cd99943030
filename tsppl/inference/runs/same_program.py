"""One notion of "the same program": what a function, a model or a kernel consists of, down to code, numbers and words.

:func:`look_inside` says of one value what it is and which values it holds; :func:`digest` follows these to the end. What comes
with an installed package is known by its name there, everything else by what it does, whatever it is called and wherever it is.
"""

import copyreg
import functools
import hashlib
import weakref
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from numpyro.infer import MCMC
from numpyro.infer.mcmc import MCMCKernel

from tsppl.inference.runs.code_contents import (
    UsedModule,
    arguments_of,
    as_used,
    assigned_by,
    inside_class,
    inside_code,
    inside_function,
    name_of_installed,
)

_WORDS = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented), range)
_WRAPPERS = type(jax.jit(abs)), type(functools.cache(abs))


class IncomparableError(ValueError):
    """A value of which nobody can say whether it is the same in another process."""


def digest(value, *, what="value", known=(), instead=lambda value, error: None) -> str:
    """A word that is the same, in every process, for values that do the same.

    Args:
        value: functions, models, kernels, arrays, data frames, and whatever is made of these.
        what: how an error calls the value.
        known: objects that count as the same wherever they are met inside.
        instead: ``instead(value, error)`` may give a word for a value, in place of what it consists of; ``error`` is None, or
            the reason why it cannot be compared.

    Raises:
        IncomparableError: if it holds something that cannot be compared: an open file, a generator, a traced array.

    >>> from functools import partial
    >>> from tsppl.inference.runs.same_program import digest
    >>> def scaled(scale):
    ...     return lambda x: scale * x
    >>> digest(scaled(2.0)) == digest(scaled(2.0)), digest(scaled(2.0)) == digest(scaled(3.0))
    (True, False)
    """
    finished = {id(one): _hashed(b"known", str(number).encode()) for number, one in enumerate(known)}
    begun, alive = {}, list(known)

    def of(value, trail):
        if type(value) in _WORDS:
            return _hashed(type(value).__name__.encode(), repr(value).encode())
        itself = value if isinstance(value, UsedModule) else id(value)
        if itself in finished:
            return finished[itself]
        if itself in begun:
            return _hashed(b"around", str(begun[itself]).encode())
        alive.append(value)  # so that no other object takes its id
        begun[itself] = len(begun)
        word, parts = inside(value, trail)
        words = [_hashed(name.encode(), of(part, (*trail, name) if name else trail)) for name, part in parts]
        words = sorted(words) if isinstance(value, set | frozenset) else words
        del begun[itself]
        finished[itself] = _hashed(word if isinstance(word, bytes) else word.encode(), *words)
        return finished[itself]

    def inside(value, trail):
        word = instead(value, None)
        if word is not None:
            return word, []
        try:
            return look_inside(value)
        except IncomparableError as error:
            word = instead(value, error)
            if word is not None:
                return word, []
            place = f"{what}: {' > '.join(trail)}" if trail else what
            raise IncomparableError(
                f"the {place} is {error}, of which nobody can say whether it is the same in another process. Replace it by what "
                "was read or computed from it: arrays, numbers, words, or functions of these"
            ) from None

    return of(value, ()).hex()


def identity(value) -> str:
    """:func:`digest` within this process: arrays that cannot change, and what cannot be compared, are what they are."""

    def instead(value, error):
        if isinstance(value, MCMC):  # its draws and counters are no part of the program
            return f"{id(value)} {value.num_warmup} {value.num_chains} {value.chain_method}"
        return str(id(value)) if error is not None or isinstance(value, jax.Array) else None

    return digest(value, instead=instead)


def look_inside(value):
    """What a value is, as text or bytes, and the values that it holds, each with a name.

    Raises:
        IncomparableError: if that cannot be said.
    """
    if isinstance(value, jax.core.Tracer):
        raise IncomparableError("an array that is being traced")
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _array(value)
    if (known := name_of_installed(value)) is not None:
        return known, []
    kind = type(value)
    if kind in (list, tuple):
        return kind.__name__, [("", part) for part in value]
    if kind in (dict, MappingProxyType):
        words = [(key if isinstance(key, str) else "", part) for key, part in value.items()]
        return "dict", [("", list(value)), *words]
    if kind in (set, frozenset):
        return "set", [("", part) for part in value]
    if kind is CodeType:
        return inside_code(value)
    if isinstance(value, UsedModule):
        names = sorted(name for name in value.names if hasattr(value.module, name))
        return "module", [(name, as_used(getattr(value.module, name), value.names)) for name in names]
    if isinstance(value, ModuleType):
        return f"module {value.__name__}", []
    if isinstance(value, functools.partial):
        named = [(name, value.keywords[name]) for name in sorted(value.keywords)]
        return "partial", [("", value.func), ("", value.args), *named]
    if isinstance(value, FunctionType):
        return inside_function(value)
    if isinstance(value, MethodType | BuiltinFunctionType):
        owner = value.__self__ if not isinstance(value.__self__, ModuleType) else value.__self__.__name__
        return f"method {value.__name__}", [("", owner), ("", getattr(value, "__func__", None))]
    if isinstance(value, type):
        return inside_class(value)
    if isinstance(value, property):
        return "property", [("", value.fget), ("", value.fset), ("", value.fdel)]
    if isinstance(value, functools.cached_property):
        return "property", [("", value.func)]
    if isinstance(value, staticmethod | classmethod):
        return kind.__name__, [("", value.__func__)]
    if kind in _WRAPPERS:
        return "wrapper", [("", value.__wrapped__)]
    if isinstance(value, jax.Device):
        return f"device {value}", []
    if (table := _table(value)) is not None:
        return table
    if isinstance(value, MCMCKernel):
        return "kernel", [("", kind), *_options(value)]
    return _object(value)


def _hashed(*pieces):
    found = hashlib.sha256()
    for piece in pieces:
        found.update(len(piece).to_bytes(8, "little"))
        found.update(piece)
    return found.digest()


def _array(value):
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return f"key {random.key_impl(value)}", [("", random.key_data(value))]
    if isinstance(value, np.ma.MaskedArray):
        return "masked array", [("", value.filled()), ("", np.ma.getmaskarray(value))]
    value = np.asarray(value)
    word = f"array {value.dtype}{value.shape}".encode()
    return (word, [("", part) for part in value.ravel()]) if value.dtype.hasobject else (word + value.tobytes(), [])


def _object(value):
    """By what :mod:`pickle` would keep of it, but for what the class computes when it is first asked for."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # each class has an exception of its own for this
        raise IncomparableError(f"a {type(value).__name__}") from None
    if isinstance(reduced, str):
        return f"{type(value).__name__} {reduced}", []
    make, arguments, state, *items = (*reduced, None, None, None)[:5]
    make = "object" if make is copyreg.__newobj__ else make
    parts = [("", make), ("", arguments)]
    states = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    for one in states:
        parts += _attributes(type(value), one) if one is None or isinstance(one, dict) else [("", one)]
    for iterator in items:
        parts.append(("", None if iterator is None else list(iterator)))
    return "object", parts


def _attributes(owner, values):
    def is_computed(name):
        member = getattr(owner, name, None)
        asked = hasattr(type(member), "__get__") and not hasattr(type(member), "__set__")
        return asked and not isinstance(member, FunctionType)

    def is_kept(name, value):
        by_name = name == "__wrapped__" or not name.startswith("__")
        return by_name and not isinstance(value, weakref.ref | None) and not is_computed(name)

    pairs = ((str(name), value) for name, value in (values or {}).items())
    return sorted(((name, value) for name, value in pairs if is_kept(name, value)), key=lambda pair: pair[0])


def _options(kernel):
    """Attributes of a kernel but those that its methods set, which are found anew in every run."""
    given, found = set(), set()
    for owner in type(kernel).__mro__:
        for name, method in vars(owner).items():
            code = getattr(method, "__code__", None)
            if name == "__init__" and code is not None:
                given |= set(arguments_of(code))
            elif name != "wrap_model" and code is not None:
                found |= assigned_by(code)
    found -= given | {f"_{name}" for name in given}
    return _attributes(type(kernel), {name: value for name, value in vars(kernel).items() if name not in found})


def _table(value):
    """Data frames by values: what they hold inside depends on what was done with them."""
    packages = {kind.__module__.partition(".")[0] for kind in type(value).__mro__}
    if "pandas" in packages and hasattr(value, "columns"):
        series = [(str(name), value.iloc[:, place]) for place, name in enumerate(value.columns)]
        return "frame", [("", value.columns), ("", value.index), *series]
    if "pandas" in packages and hasattr(value, "dtype"):
        about = [(name, getattr(value, name, None)) for name in ("name", "index")]
        return f"column {value.dtype}", [*about, ("", list(getattr(value, "names", ()))), ("", value.to_numpy())]
    if "polars" in packages and hasattr(value, "to_dict"):
        return f"frame {value.dtypes}", [("", value.to_dict(as_series=False))]
    if "polars" in packages and hasattr(value, "to_list"):
        return f"column {value.dtype}", [("", value.name), ("", value.to_list())]
    if "xarray" in packages and hasattr(value, "to_dict"):
        return "labelled arrays", [("", value.to_dict(data="array"))]
    return None
