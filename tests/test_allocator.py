"""The allocator's settings: when a command starts itself again, and that it stays one process."""

import os
import pathlib
import subprocess
import sys

import pytest

from gmm_diffusion import allocator

REPOSITORY = pathlib.Path(__file__).parents[1]

PAGES, ARENAS = "glibc.malloc.hugetlb=1", "glibc.malloc.arena_max=3"


@pytest.fixture
def on_request(tmp_path, monkeypatch):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    file = tmp_path / "enabled"
    file.write_text("always [madvise] never\n")
    return file


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, f"{PAGES}:{ARENAS}"),
        ({"JAX_PLATFORMS": "cpu"}, f"{PAGES}:{ARENAS}"),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=3"}, f"glibc.malloc.check=3:{PAGES}:{ARENAS}"),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, f"glibc.malloc.hugetlb=0:{ARENAS}"),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=9"}, f"glibc.malloc.arena_max=9:{PAGES}"),
        ({"MALLOC_ARENA_MAX": "9"}, PAGES),
        ({"MALLOC_ARENA_MAX": "9", "GLIBC_TUNABLES": PAGES}, None),
        ({"JAX_PLATFORMS": "tpu"}, None),
    ],
)
def test_what_is_asked_for(on_request, given, expected):
    asked = allocator.environment({"HOME": "/", **given}, on_request)
    if expected is None:
        assert asked is None
    else:
        assert asked == {"HOME": "/", **given, "GLIBC_TUNABLES": expected}
        assert allocator.environment(asked, on_request) is None, "once"


@pytest.mark.parametrize("text", ["[always] madvise never", "always madvise [never]", None])
def test_systems_that_give_huge_pages_to_all_or_nobody(on_request, text):
    on_request.unlink() if text is None else on_request.write_text(text)
    assert allocator.environment({}, on_request) == {"GLIBC_TUNABLES": ARENAS}


def test_one_core_has_one_arena(on_request, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert allocator.environment({}, on_request)["GLIBC_TUNABLES"].endswith("arena_max=1")


@pytest.mark.parametrize("library", [("glibc", "2.34"), ("", ""), ("musl", "1.2")])
def test_other_libraries(on_request, monkeypatch, library):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: library)
    assert allocator.environment({}, on_request) is None


def test_the_process_and_its_arguments_stay(tmp_path):
    """What a command finds after it started itself again, where the system has huge pages."""
    script = tmp_path / "a script.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "from gmm_diffusion import allocator\n"
        "print(os.getpid(), flush=True)\n"
        "given = allocator.environment\n"
        "allocator.environment = lambda e: None if 'AGAIN' in e else {**e, 'AGAIN': '1'}\n"
        "allocator.start_again()\n"
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
