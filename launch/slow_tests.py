"""Writes the list of slow tests, those that `launch/test.sh --fast` leaves out.

    launch/test.sh --junitxml=times.xml
    python launch/slow_tests.py times.xml > tests/slow.txt

What a fixture takes counts for the test that asks first, and for another once that one is left out:
a second run, `launch/test.sh --fast --junitxml=fast.xml`, and both files together, put that right.
"""

import collections
import sys
import xml.etree.ElementTree as xml

# Seconds of all tests that are left: of 3 minutes on two cores, what starting up does not take.
BUDGET = 240


def durations(paths: list[str]) -> dict[str, float]:
    """Seconds by `folder/test_file.py::test_name`, all parameters together, at the longest."""
    longest: dict[str, float] = {}
    for path in paths:
        total: dict[str, float] = collections.defaultdict(float)
        for case in xml.parse(path).iter("testcase"):
            file = case.get("classname", "").removeprefix("tests.").replace(".", "/")
            name = case.get("name", "").partition("[")[0]
            total[f"{file}.py::{name}"] += float(case.get("time", 0))
        for name, seconds in total.items():
            longest[name] = max(seconds, longest.get(name, 0))
    return longest


def slow(seconds: dict[str, float], budget: float) -> list[str]:
    """The fewest tests without which the others take at most `budget` seconds, sorted by name."""
    left, chosen = sum(seconds.values()), []
    for name in sorted(seconds, key=seconds.get, reverse=True):
        if left <= budget:
            break
        left -= seconds[name]
        chosen.append(name)
    return sorted(chosen)


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(__doc__)
    print("\n".join(slow(durations(sys.argv[1:]), BUDGET)))
