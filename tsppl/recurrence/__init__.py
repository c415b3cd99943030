"""Nonlinear recurrences evaluated many steps at a time: DEER, ELK and multiple shooting behind one ``deer_scan``."""

from .deer_scan import RecurrenceInfo, deer_scan
from .linear_recurrence import linear_recurrence
from .lyapunov import lyapunov_exponent

__all__ = ["RecurrenceInfo", "deer_scan", "linear_recurrence", "lyapunov_exponent"]
