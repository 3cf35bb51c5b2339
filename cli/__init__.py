"""The command line: one file a verb."""

from time import perf_counter

STARTED = perf_counter()  # the time of a short command is mostly that of its imports
