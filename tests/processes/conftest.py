"""Runs of two processes, and those of `tests/faults` in one."""

import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "faults")]
