"""Readers that leave, closed streams and poor encodings: the work is done, and says no more."""

import io
import logging
import os
import pathlib
import sys

import pytest

from gmm_diffusion import command_line
from gmm_diffusion.errors import InputError, RunError


@pytest.fixture(autouse=True)
def the_log_stays(monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    monkeypatch.setattr(root, "level", root.level)


def left_alone():
    """A pipe that nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    return open(write, "w")


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text):
        raise OSError(28, "No space left on device")


def talkative(done):
    def work(argv):
        for _ in range(1000):
            print("a line of output", flush=True)
            logging.getLogger("x").warning("a line of log")
        print("and something on standard error", file=sys.stderr)
        done.append(True)

    return work


@pytest.mark.parametrize("streams", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_a_reader_that_leaves(streams, monkeypatch):
    kept = {name: io.StringIO() for name in ("stdout", "stderr")}
    for name in kept:
        stream = left_alone() if name in streams else kept[name]
        monkeypatch.setattr(sys, name, stream)
        monkeypatch.setattr(sys, f"__{name}__", stream)
    before, done = (sys.stdout, sys.stderr), []
    assert command_line.run(["x"], __file__, talkative(done)) == 0
    assert done
    assert (sys.stdout, sys.stderr) == before
    for name in streams:
        # What Python does at exit, which would end in status 120.
        getattr(sys, name).flush()
        getattr(sys, name).close()
        kept.pop(name)
    assert all("a line of" in stream.getvalue() for stream in kept.values())
    assert "Traceback" not in "".join(stream.getvalue() for stream in kept.values())


def test_failures_keep_their_status(monkeypatch):
    def fail(error):
        def work(argv):
            raise error

        return work

    for error, status in ((InputError("no."), 2), (RunError("no."), 1), (OSError(28, "no"), 1)):
        for stream in (left_alone(), None):
            monkeypatch.setattr(sys, "stdout", stream)
            monkeypatch.setattr(sys, "stderr", stream)
            assert command_line.run(["x"], __file__, fail(error)) == status
            assert sys.stderr is stream


def test_streams_that_were_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    done = []
    assert command_line.run(["x"], __file__, talkative(done)) == 0
    assert done
    assert sys.stdout is None


def test_output_that_is_lost_is_said(monkeypatch):
    err, done = io.StringIO(), []
    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(sys, "stderr", err)
    assert command_line.run(["x"], __file__, talkative(done)) == 1
    assert done
    assert err.getvalue().endswith("Failed: Standard output was lost: No space left on device.\n")


def test_an_encoding_without_the_letter(monkeypatch):
    octets = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(octets, encoding="ascii"))
    name = "Müller \udcff 猫"
    assert command_line.run(["x"], __file__, lambda argv: print(name)) == 0
    sys.stdout.flush()
    assert octets.getvalue() == b"M\\xfcller \\udcff \\u732b\n"


def test_an_os_error_is_a_sentence(monkeypatch):
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)

    def work(argv):
        pathlib.Path("/no/such/file").read_text()

    assert command_line.run(["x"], __file__, work) == 1
    assert err.getvalue() == "Failed: /no/such/file: No such file or directory.\n"


def test_help_is_the_docstring(capsys):
    assert command_line.run(["x", "--help"], __file__, None) == 0
    assert capsys.readouterr().out.strip() == __doc__.strip()
