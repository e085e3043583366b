"""How long a call takes."""

import statistics
import time
from collections.abc import Callable


def median_seconds(call: Callable[[], object], least: int = 5, seconds: float = 1.0) -> float:
    """Median over `least` calls, or as many as `seconds` hold, after one that may compile."""
    call()
    times: list[float] = []
    while len(times) < least or sum(times) < seconds:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
