"""Memory in huge pages: when a command starts itself again, and that it stays the same process."""

import os
import pathlib
import subprocess
import sys

import pytest

from gmm_diffusion import huge_pages

REPOSITORY = pathlib.Path(__file__).parents[1]


@pytest.fixture
def on_request(tmp_path, monkeypatch):
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: ("glibc", "2.36"))
    file = tmp_path / "enabled"
    file.write_text("always [madvise] never\n")
    return file


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"JAX_PLATFORMS": "cpu"}, "glibc.malloc.hugetlb=1"),
        (
            {"GLIBC_TUNABLES": "glibc.malloc.check=3"},
            "glibc.malloc.check=3:glibc.malloc.hugetlb=1",
        ),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, None),
        ({"JAX_PLATFORMS": "tpu"}, None),
    ],
)
def test_what_is_asked_for(on_request, given, expected):
    asked = huge_pages.environment({"HOME": "/", **given}, on_request)
    if expected is None:
        assert asked is None
    else:
        assert asked == {"HOME": "/", **given, "GLIBC_TUNABLES": expected}
        assert huge_pages.environment(asked, on_request) is None, "once"


@pytest.mark.parametrize("text", ["[always] madvise never", "always madvise [never]", None])
def test_systems_that_give_them_to_all_or_nobody(on_request, text):
    on_request.unlink() if text is None else on_request.write_text(text)
    assert huge_pages.environment({}, on_request) is None


@pytest.mark.parametrize("library", [("glibc", "2.34"), ("", ""), ("musl", "1.2")])
def test_other_libraries(on_request, monkeypatch, library):
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: library)
    assert huge_pages.environment({}, on_request) is None


def test_the_process_and_its_arguments_stay(tmp_path):
    """What a command finds after it started itself again, where the system has huge pages."""
    script = tmp_path / "a script.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "from gmm_diffusion import huge_pages\n"
        "print(os.getpid(), flush=True)\n"
        "given = huge_pages.environment\n"
        "huge_pages.environment = lambda e: None if 'AGAIN' in e else {**e, 'AGAIN': '1'}\n"
        "huge_pages.start_again()\n"
        "print(os.getpid(), sys.argv[1:], sys.flags.optimize)\n"
    )
    line = [sys.executable, "-O", str(script), "--a=b c", ""]
    environment = {k: v for k, v in os.environ.items() if k != "AGAIN"}
    result = subprocess.run(
        line, capture_output=True, text=True, env=environment, cwd=REPOSITORY, check=True
    )
    first, second, last = result.stdout.splitlines()
    assert first == second
    assert last == f"{first} ['--a=b c', ''] 1"
