"""Metrics of samples. Each takes plain numpy arrays; a floor is the same call on held-out data."""
