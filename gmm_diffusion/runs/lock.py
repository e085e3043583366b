"""One training run at a time in a directory.

The file `training.lock` names the process. While that lives it holds the file locked (flock): the
system lets go of it when the process ends, however it ends, so that a lock outlives neither a kill
nor a reboot, and a process number that is given out again means nothing.

Between machines that share a disk the same holds wherever the file system passes locks on (NFS
from version 3 on, Lustre mounted with `flock`, GPFS, CephFS). For those that do not, a thread
touches the file every few seconds. A process that finds the file of another machine, not locked,
watches for two dozen seconds whether it is touched. Only that its time changes counts, not which
time it is: clocks may differ, and be set back. What neither way can notice is a process of another
machine, without locks between them, that stands still for so long; when it goes on it finds
another name in the file, and stops before it saves.

In a bucket there are no locks, but what is done to an object on a condition is done at once. The
file is made if there is none, and marked every few seconds instead of touched. One that nobody
marks for two dozen seconds is removed, if it is still the same then. So after a kill the next run
waits for so long, and only a process that was cut off from the bucket for longer can find another
name in the file; it stops before it saves.
"""

import contextlib
import datetime
import fcntl
import json
import logging
import os
import pathlib
import platform
import secrets
import threading
import time
from collections.abc import Iterator

from gmm_diffusion import paths
from gmm_diffusion.errors import InputError, RunError

log = logging.getLogger(__name__)

NAME = "training.lock"
_TOUCH_SECONDS = 5.0
_WATCH_SECONDS = 24.0
# Other machines may see a new file so much later.
_APPEAR_SECONDS = 20.0
_BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id")


class Lock:
    """The right to train in a directory; see `hold`.

    Attributes:
      token: names it in the file.
    """

    def __init__(self, path: pathlib.Path, token: str):
        self._path, self.token = path, token

    def check(self) -> None:
        """Raises RunError if another process has taken the directory over."""
        owner = _owner(self._path)
        if owner.get("token") not in (self.token, None):
            raise RunError(
                f"{_name(owner)} has taken over {self._path.parent} while this process stood still."
            )


@contextlib.contextmanager
def hold(workdir: str | os.PathLike) -> Iterator[Lock]:
    """Keeps other training runs out of `workdir`, which is made if need be, within the block.

    Raises:
      InputError: another process trains there, or the directory cannot be written.
    """
    folder = paths.of(workdir)
    path = folder / NAME
    if paths.in_bucket(path):
        with _hold_object(path, workdir) as lock:
            yield lock
        return
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _open_locked(path)
    except OSError as error:
        raise InputError(f"--workdir {workdir} cannot be written: {error.strerror}.") from error
    token = secrets.token_hex(8)
    stop = threading.Event()
    try:
        try:
            _write(descriptor, token)
        except OSError as error:
            raise InputError(f"--workdir {workdir} cannot be written: {error.strerror}.") from error
        lock = Lock(path, token)
        lock.check()  # Where there are no locks another may have come at the same moment.
        touch = (lambda: os.utime(path), stop)
        threading.Thread(target=_touch, args=touch, daemon=True).start()
        yield lock
    finally:
        stop.set()
        with contextlib.suppress(OSError):
            if _owner(path).get("token") == token:
                path.unlink()
            for place in made:
                place.rmdir()  # Only if nothing came into it.
        os.close(descriptor)


@contextlib.contextmanager
def _hold_object(path, workdir):
    token = secrets.token_hex(8)
    try:
        generation = _create(path, token)
    except OSError as error:
        raise InputError(f"--workdir {workdir} cannot be written: {error.strerror}.") from error
    stop = threading.Event()
    try:
        touch = (lambda: path.mark(generation, secrets.token_hex(8)), stop)
        threading.Thread(target=_touch, args=touch, daemon=True).start()
        yield Lock(path, token)
    finally:
        stop.set()
        with contextlib.suppress(OSError):
            path.unlink_generation(generation)


def _create(path, token):
    """Makes the object; returns its generation."""
    while True:
        with contextlib.suppress(FileExistsError):
            return path.create(_text(token))
        # Its owner may remove it meanwhile, or another process take it over.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            generation, _ = path.version()
            _watch(path, path.version)
            path.unlink_generation(generation)


def see(workdir: str | os.PathLike, token: str) -> None:
    """Waits a little for the lock of another process of the same run to appear.

    Raises:
      InputError: it does not: the directory is another one there.
    """
    path = paths.of(workdir) / NAME
    end = time.monotonic() + _APPEAR_SECONDS
    while _owner(path).get("token") != token:
        if time.monotonic() > end:
            raise InputError(
                f"--workdir {workdir} is not the same directory for all processes: what the first "
                "one wrote there does not appear; it must be on a disk that all share, or in a "
                "bucket."
            )
        with contextlib.suppress(OSError):
            os.listdir(path.parent)  # NFS looks again.
        time.sleep(0.1)


def _open_locked(path):
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            locked = _lock(descriptor, path)
            # Its owner may have removed it between our opening and our locking.
            if _is_same(descriptor, path):
                _refuse_if_touched(path, locked)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor, path):
    """Whether the file system has locks; the file is then ours."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _taken(path) from None
    except OSError:
        return False
    return True


def _is_same(descriptor, path):
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _refuse_if_touched(path, locked):
    """Watches a file that this machine's locks say nothing about."""
    owner = _owner(path)
    if not owner or (locked and owner.get("boot") == _boot()):
        return
    _watch(path, lambda: _time_of(path))


def _watch(path, state):
    """Refuses the file of a process that lives: its state changes."""
    log.info("%s left %s; waiting to see whether it lives.", _name(_owner(path)), path)
    first = state()
    end = time.monotonic() + _WATCH_SECONDS
    while time.monotonic() < end:
        time.sleep(min(1.0, _WATCH_SECONDS / 10))
        if state() != first:
            raise _taken(path)


def _time_of(path):
    # Opened anew: on NFS that is when another machine's changes are seen.
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns


def _write(descriptor, token):
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, _text(token), 0)


def _text(token):
    started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    owner = {
        "pid": os.getpid(),
        "host": platform.node(),
        "started": started,
        "boot": _boot(),
        "token": token,
    }
    return json.dumps(owner).encode()


def _touch(once, stop):
    while not stop.wait(_TOUCH_SECONDS):
        with contextlib.suppress(OSError):
            once()


def _owner(path):
    """What the file says; nothing where it is not whole."""
    try:
        owner = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _taken(path):
    owner = _owner(path)
    for _ in range(10):  # Its owner may be writing it.
        if owner:
            break
        time.sleep(0.05)
        owner = _owner(path)
    return InputError(
        f"--workdir {path.parent} is in use: {_name(owner)} trains there. Wait for it or stop it, "
        "or use another directory; sampling and evaluating are possible meanwhile."
    )


def _name(owner):
    if not owner:
        return "another process"
    return f"process {owner.get('pid')} on {owner.get('host')}, started at {owner.get('started')},"


def _boot():
    """Names this machine since it was started."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return platform.node()
