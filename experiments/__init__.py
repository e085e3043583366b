"""Experiments on the claims of the papers, each with a command, `python -m experiments.run_...`."""
