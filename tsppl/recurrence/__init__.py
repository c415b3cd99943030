"""Nonlinear recurrences evaluated many steps at a time, DEER, ELK and multiple shooting behind one ``deer_scan``."""

from tsppl.recurrence.affine import linear_recurrence as linear_recurrence
from tsppl.recurrence.lyapunov import lyapunov_exponent as lyapunov_exponent
from tsppl.recurrence.nonlinear import RecurrenceInfo as RecurrenceInfo, deer_scan as deer_scan
