"""The long set: `GMM_DIFFUSION_FAULTS=N python -m pytest -n 0 -s tests/faults/test_long.py`.

N kills (a quarter of them while a checkpoint is being written), N/4 within a snapshot, N/4
processes that get no more memory, and each file of the newest checkpoint damaged in each way. It
prints the figures of docs/reliability.md.
"""

import collections
import concurrent.futures
import contextlib
import functools
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import time

import jax
import pytest
import runs

from gmm_diffusion.commands import train
from gmm_diffusion.runs import storage

NUMBER = int(os.environ.get("GMM_DIFFUSION_FAULTS", "0"))
pytestmark = pytest.mark.skipif(not NUMBER, reason="GMM_DIFFUSION_FAULTS is not set")
# About what a save takes.
SAVE_SECONDS = 0.1
TOGETHER = 6


def start(workdir, **streams):
    return subprocess.Popen(
        runs.command(workdir),
        cwd=runs.REPOSITORY,
        env=runs.environment(),
        stdout=subprocess.DEVNULL,
        **streams,
    )


@pytest.fixture
def forks(monkeypatch):
    """The environment that `runs.fork` needs."""
    for name, value in runs.environment().items():
        monkeypatch.setenv(name, value)


def is_saving(workdir, step):
    return any((workdir / "checkpoints").glob(f"{step}.*tmp*"))


def kill(workdir, seconds, step=None):
    """Kills a run after so many seconds: of its own, or of the save of `step`.

    Returns whether it lived until then, and whether a save was under way.
    """
    process = runs.fork(workdir)
    if step is not None:
        while process.is_alive() and not is_saving(workdir, step):
            time.sleep(0.002)
    process.join(seconds)
    lived = process.is_alive()
    process.kill()
    process.join()
    return lived, is_saving(workdir, "*")


def finish(workdir, status=0, before=None):
    """Starts the run, which must end with this status."""
    process = runs.fork(workdir, before)
    process.join(runs.SECONDS)
    assert process.exitcode == status, pathlib.Path(f"{workdir}.log").read_text()


def side_by_side(work, items):
    """`work` of each, several at once: more than half of a run is waiting where others run, too."""
    with concurrent.futures.ThreadPoolExecutor(TOGETHER) as pool:
        yield from pool.map(work, items)


def assert_survived(workdir, straight):
    """It ended like the run that nothing happened to."""
    runs.assert_same(workdir, straight)
    shutil.rmtree(workdir)


def test_kills(straight, tmp_path, forks):
    draw = random.Random(0)
    finish(tmp_path / "first")  # It imports, and compiles.
    begun = time.monotonic()
    list(side_by_side(finish, [tmp_path / f"timed {i}" for i in range(TOGETHER)]))
    whole = time.monotonic() - begun
    kills, tried = collections.Counter(), 0

    def kill_and_resume(given):
        workdir, *moment = given
        seen = kill(workdir, *moment)
        finish(workdir)
        return workdir, *seen

    for kind, number in (("in a save", NUMBER // 4), ("at any moment", NUMBER - NUMBER // 4)):
        while (missing := number - kills[kind]) > 0:
            given = []
            for _ in range(missing):
                moment = (draw.uniform(0, whole),)
                if kind == "in a save":
                    moment = (draw.uniform(0, SAVE_SECONDS), draw.choice((8, 16, 24)))
                given.append((tmp_path / str(tried), *moment))
                tried += 1
            assert tried < 4 * NUMBER + 10, kills
            for workdir, lived, saving in side_by_side(kill_and_resume, given):
                # One that came too late is not counted, and yet must do no harm.
                assert_survived(workdir, straight)
                if lived:
                    kills["in a save" if saving else "at any moment"] += 1
                    print(f"{dict(kills)} of {tried} survived", flush=True)


def cut(name, size):
    """Lets the process be killed when `size` bytes of a file are written, which has no name yet."""
    replace = os.replace

    def killed(source, target):
        if os.path.basename(target) == name:
            os.truncate(source, size)
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = killed


def test_kills_in_a_snapshot(straight, tmp_path, forks):
    draw = random.Random(2)
    files = sorted((straight / "snapshots").iterdir())
    given = []
    for number in range(-(-NUMBER // 4)):
        file = draw.choice(files)
        size = draw.randrange(file.stat().st_size + 1)
        given.append((tmp_path / str(number), file.name, size))

    def kill_and_resume(given):
        workdir, name, size = given
        finish(workdir, -signal.SIGKILL, functools.partial(cut, name, size))
        left = {p.name: p.stat().st_size for p in (workdir / "snapshots").iterdir()}
        assert left[f"{name}.tmp"] == size
        assert name not in left
        finish(workdir)
        return workdir

    for number, workdir in enumerate(side_by_side(kill_and_resume, given)):
        assert_survived(workdir, straight)
        print(f"{number + 1} kills within a snapshot survived", flush=True)


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
