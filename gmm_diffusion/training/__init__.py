"""Training: state, optimiser, parameter averages, checkpoints, and what a person watches."""
