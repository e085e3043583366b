"""Training on arrays: state, losses, optimiser, averages and the train step."""
