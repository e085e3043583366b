"""The long set: `GMM_DIFFUSION_FAULTS=N python -m pytest -n 0 -s tests/faults/test_long.py`.

N kills (a quarter of them while a checkpoint is being written), N/8 within a snapshot, N/4
processes that get no more memory, and each file of the newest checkpoint damaged in each way. It
prints the figures of docs/reliability.md.
"""

import collections
import contextlib
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest
import runs

from gmm_diffusion.commands import train
from gmm_diffusion.runs import storage

NUMBER = int(os.environ.get("GMM_DIFFUSION_FAULTS", "0"))
pytestmark = pytest.mark.skipif(not NUMBER, reason="GMM_DIFFUSION_FAULTS is not set")


def is_saving(workdir):
    return any((workdir / "checkpoints").glob("*tmp*"))


def start(workdir, **streams):
    return subprocess.Popen(
        runs.command(workdir),
        cwd=runs.REPOSITORY,
        env=runs.environment(),
        stdout=subprocess.DEVNULL,
        **streams,
    )


def kill(workdir, seconds, in_a_save):
    """Starts the run and kills it; whether that was before its end, and in a save."""
    process = start(workdir, stderr=subprocess.DEVNULL)
    end = time.monotonic() + (60 if in_a_save else seconds)
    while time.monotonic() < end and process.poll() is None:
        if in_a_save and is_saving(workdir):
            break
    lived = process.poll() is None
    process.kill()
    process.wait()
    return lived, is_saving(workdir)


def test_kills(straight, tmp_path):
    draw = random.Random(0)
    begun = time.monotonic()
    runs.finish(runs.command(tmp_path / "timed"))
    whole = time.monotonic() - begun
    alive = saving = survived = 0
    for number in range(NUMBER):
        workdir = tmp_path / str(number)
        lived, saved = kill(workdir, draw.uniform(0, whole), number % 4 == 0)
        alive, saving = alive + lived, saving + saved
        result = runs.finish(runs.command(workdir))
        assert result.returncode == 0, result.stderr
        runs.assert_same(workdir, straight)
        survived += 1
        shutil.rmtree(workdir)
    print(f"\n{NUMBER} kills, {alive} before the end, {saving} in a save: {survived} survived")


# A run that is killed when so many bytes of this file are written, before it has its name.
KILLED = """
import os, runpy, signal, sys
name, size = sys.argv[1], int(sys.argv[2])
del sys.argv[1:3]
replace = os.replace
def killed(source, target):
    if os.path.basename(target) == name:
        os.truncate(source, size)
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = killed
runpy.run_module("gmm_diffusion.main", run_name="__main__")
"""


def test_kills_in_a_snapshot(straight, tmp_path):
    draw = random.Random(2)
    files = sorted((straight / "snapshots").iterdir())
    survived = 0
    for number in range(-(-NUMBER // 8)):
        workdir, file = tmp_path / str(number), draw.choice(files)
        size = draw.randrange(file.stat().st_size + 1)
        program = [sys.executable, "-c", KILLED, file.name, str(size)]
        killed = runs.finish([*program, *runs.command(workdir)[3:]])
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        left = {p.name: p.stat().st_size for p in (workdir / "snapshots").iterdir()}
        assert left[f"{file.name}.tmp"] == size
        assert file.name not in left
        result = runs.finish(runs.command(workdir))
        assert result.returncode == 0, result.stderr
        runs.assert_same(workdir, straight)
        survived += 1
        shutil.rmtree(workdir)
    print(f"\n{survived} kills within a snapshot: {survived} survived")


def refuse_memory(workdir, seconds, spare):
    """Starts the run, whose memory may after a while grow by `spare` bytes only; its status."""
    process = start(workdir, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        pages = pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[0]
        most = int(pages) * os.sysconf("SC_PAGE_SIZE") + spare
        resource.prlimit(process.pid, resource.RLIMIT_AS, (most, most))
    try:
        _, errors = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
        return "hung", errors
    return process.returncode, errors


def test_memory_that_is_refused(straight, tmp_path):
    draw = random.Random(1)
    begun = time.monotonic()
    runs.finish(runs.command(tmp_path / "timed"))
    whole = time.monotonic() - begun
    outcomes = collections.Counter()
    for number in range(-(-NUMBER // 4)):
        workdir = tmp_path / str(number)
        seconds, spare = draw.uniform(0, whole), draw.choice((0, 2**20, 2**24, 2**27))
        status, errors = refuse_memory(workdir, seconds, spare)
        said = status == 1 and "Traceback" not in errors and "not enough memory" in errors
        outcomes["a sentence" if said else f"status {status}"] += 1
        result = runs.finish(runs.command(workdir))
        assert result.returncode == 0, result.stderr
        runs.assert_same(workdir, straight)
        shutil.rmtree(workdir)
    print(f"\nno more memory: {dict(outcomes)}; {sum(outcomes.values())} survived")


def flip(path):
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def halve(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def remove(path):
    path.unlink()


def test_each_file_of_the_newest_checkpoint(straight, tmp_path, make_config, monkeypatch):
    present = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: present)
    config = runs.configure(make_config("tiny"))
    newest = straight / "checkpoints" / str(runs.STEPS)
    files = sorted(p.relative_to(straight) for p in newest.rglob("*") if p.is_file())
    tried = aside = 0
    for file in files:
        for damage in (flip, halve, empty, remove):
            workdir = tmp_path / "run"
            shutil.copytree(straight, workdir)
            damage(workdir / file)
            train.train(config, workdir)
            runs.assert_same(workdir, straight)
            tried += 1
            aside += bool(storage.steps(workdir / "checkpoints" / "damaged"))
            shutil.rmtree(workdir)
    print(f"\n{tried} damages of {len(files)} files, {aside} moved aside: {tried} survived")
