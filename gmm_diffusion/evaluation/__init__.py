"""Scores of trained models, each beside its floor: real data scored the same way."""
