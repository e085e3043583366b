"""Bars and lines of long work."""

import io

import pytest

from gmm_diffusion import stages


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_line_each_ten_seconds_says_how_long_is_left():
    clock, stream = Clock(), io.StringIO()
    with stages.watched("Work", 10, stream=stream, clock=clock) as tick:
        for _ in range(10):
            tick()
            clock.now += 4
    # Due at 12, 24 and 36 s, when 3, 6 and 9 parts are done.
    assert stream.getvalue().splitlines() == [
        "Work: 3 of 10  0:00:28 left",
        "Work: 6 of 10  0:00:16 left",
        "Work: 9 of 10  0:00:04 left",
    ]


def test_compiling_in_the_first_part_does_not_count():
    """Judges of a toy size were announced with three and a half hours left."""
    clock, stream = Clock(), io.StringIO()
    with stages.watched("Work", 40, stream=stream, clock=clock) as tick:
        for i in range(40):
            tick()
            clock.now += 1 if i else 12
    assert stream.getvalue().splitlines() == [
        "Work: 1 of 40",
        "Work: 11 of 40  0:00:29 left",
        "Work: 21 of 40  0:00:19 left",
        "Work: 31 of 40  0:00:09 left",
    ]


def test_short_work_and_other_processes_say_nothing():
    clock, stream = Clock(), io.StringIO()
    with stages.watched("Work", 2, stream=stream, clock=clock) as tick:
        tick()
        clock.now += 9
        tick()
    with stages.watched("Work", 9, shown=False, stream=stream, clock=clock) as tick:
        for _ in range(9):
            tick()
            clock.now += 60
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_that_goes_away():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with stages.watched("Work", 3, stream=stream) as tick:
        for _ in range(3):
            tick()
    assert "Work:   0%" in stream.getvalue()
    assert stream.getvalue().endswith("\r")


def test_what_poll_raises_ends_the_work():
    def poll():
        raise TimeoutError

    with pytest.raises(TimeoutError), stages.watched("Work", 3, poll) as tick:
        tick()
