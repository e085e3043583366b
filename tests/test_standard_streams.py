"""Streams that fail, and a program that does not notice."""

import io
import logging
import os
import subprocess
import sys

import pytest

from gmm_diffusion import standard_streams


class Broken(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "full"), ValueError("closed")])
def test_what_cannot_be_written_is_dropped(error, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Broken(error))
    with standard_streams.unfailing() as (out, err):
        print("lost", file=sys.stderr)
        logging.StreamHandler(sys.stderr).emit(logging.makeLogRecord({"msg": "lost"}))
        sys.stderr.flush()
        assert not sys.stderr.isatty()
    assert err.failed
    assert not out.failed
    assert isinstance(sys.stderr, Broken)


def test_no_stream_at_all(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with standard_streams.unfailing() as (_, err):
        print("lost", file=sys.stderr)
        assert err.failed
        assert not sys.stderr.isatty()


def test_what_can_be_written_is(monkeypatch):
    narrow = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    with standard_streams.unfailing() as (out, _):
        print("plain")
        print("ü \udcff")
    assert narrow.buffer.getvalue() == b"plain\n\\xfc \\udcff\n"
    assert not out.failed


def test_nothing_is_left_to_fail_when_python_ends():
    read, write = os.pipe()
    os.close(read)
    code = (
        "from gmm_diffusion import standard_streams\n"
        "with standard_streams.unfailing():\n"
        "    print('x' * 100)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (result.returncode, result.stderr) == (0, b"")


def test_a_closed_descriptor_is_not_given_to_a_file(tmp_path):
    code = (
        "import os\n"
        "from gmm_diffusion import standard_streams\n"
        "standard_streams.occupy_closed()\n"
        f"assert os.open({str(tmp_path / 'file')!r}, os.O_CREAT | os.O_WRONLY) > 2\n"
        "os.write(2, b'lost')\n"
    )
    subprocess.run(["sh", "-c", '"$0" -c "$1" 2>&- <&-', sys.executable, code], check=True)
    assert (tmp_path / "file").read_bytes() == b""
