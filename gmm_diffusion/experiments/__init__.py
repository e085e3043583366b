"""Experiments on the claims of the papers; `launch/` has a command for each."""
