"""The bar and the lines, with a clock of our own."""

import io

from gmm_diffusion.commands.progress import Progress
from gmm_diffusion.commands.training_clock import TrainingClock


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_at_intervals_with_rate_and_time_left():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(100, 0, stream, every_seconds=10, clock=clock)
    for step in range(1, 41):
        progress.update(step, 0.5 / step, 32)
        clock.now += 1
    # From the update at 0 s: one line each 10 s, each time 10 steps of 32 images later.
    assert stream.getvalue().splitlines() == [
        "step 1/100  loss 0.5",
        "step 11/100  loss 0.04545  32 images/s  0:01:29 left",
        "step 21/100  loss 0.02381  32 images/s  0:01:19 left",
        "step 31/100  loss 0.01613  32 images/s  0:01:09 left",
    ]


def test_the_last_step_gets_a_line():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(3, 0, stream, every_seconds=1000, clock=clock)
    for step in (1, 2, 3):
        progress.update(step, 1.0, 10)
        clock.now += 2
    progress.close()
    assert stream.getvalue().splitlines()[1:] == ["step 3/3  loss 1  5 images/s  0:00:00 left"]


def test_a_run_of_one_call_divides_by_nothing():
    stream = io.StringIO()
    Progress(8, 0, stream, clock=Clock()).update(8, 1.0, 256)
    assert stream.getvalue() == "step 8/8  loss 1\n"


def test_a_resumed_run_counts_only_its_own_steps():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(1000, 900, stream, every_seconds=1, clock=clock)
    progress.update(910, 1.0, 10)
    clock.now += 5
    progress.update(920, 1.0, 10)
    assert stream.getvalue().splitlines()[-1].endswith("2 images/s  0:00:40 left")


def test_what_is_not_training_does_not_count():
    clock, stream = Clock(), io.StringIO()
    training = TrainingClock(clock)
    progress = Progress(100, 0, stream, every_seconds=10, clock=training)
    with training.paused():  # Before the first update.
        clock.now += 50
    for step in (1, 2, 3):
        progress.update(step, 1.0, 30)
        with training.paused():
            clock.now += 1000
        clock.now += 5
    assert stream.getvalue().splitlines()[1:] == ["step 3/100  loss 1  6 images/s  0:08:05 left"]


def test_notes_are_lines_of_their_own():
    stream = io.StringIO()
    Progress(10, 0, stream).note("Interrupted.")
    assert stream.getvalue() == "Interrupted.\n"


def test_a_terminal_gets_a_bar():
    clock, stream = Clock(), Terminal()
    progress = Progress(50, 10, stream, clock=clock)
    progress.update(20, 0.25, 100)
    clock.now += 2
    progress.update(30, 0.125, 100)
    progress.note("a note")
    progress.update(50, 0.0625, 200)
    progress.close()
    text = stream.getvalue()
    assert "10/50" in text
    assert "50/50" in text
    assert "loss 0.0625  50 images/s" in text
    assert "a note\n" in text
    assert "\r" in text


def test_standard_error_is_the_default(capsys):
    Progress(10, 0).note("to stderr")
    assert capsys.readouterr().err == "to stderr\n"
