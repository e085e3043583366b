"""The directory of a run: what is written there, and read again."""
