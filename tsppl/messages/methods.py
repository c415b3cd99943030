"""The one place that chooses an algorithm: from shapes, dtype and backend, never from values."""

METHODS = ("auto", "sequential", "parallel")


def check_method(method: str) -> str:
    """Return ``method`` if it is known, else raise a ValueError that lists what is."""
    if method == "chunked":
        raise ValueError("method='chunked' is not available yet: use 'sequential', 'parallel' or 'auto'")
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, not {method!r}")
    return method


def resolve_method(method: str) -> str:
    """Turn ``"auto"`` into ``"sequential"``, the faster form on a CPU; pass ``"parallel"`` on an accelerator."""
    check_method(method)
    return "sequential" if method == "auto" else method
