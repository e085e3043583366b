"""Grids of runs: what a sweep asks for, what of it is done, how long the rest takes, doing it."""
