"""Scripts that measure the package; some share what they count and time."""
