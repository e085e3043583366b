"""How all processes of a run end when one does, since none can go on without the others.

Who fails tells the others why, through the coordination service, and a thread of each listens. Who
is killed tells nothing: what devices compute together may fail at once, and JAX misses a lost
process after half a minute at most. Then it ends the process by `abort`, as it does at once where
process 0 is lost; a handler makes status 1 and a sentence of that.
"""

import atexit
import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

from gmm_diffusion.errors import InputError, RunError, out_of_memory
from gmm_diffusion.processes import agreeing

_FAILED = "gmm_diffusion/failed"
_POLL_SECONDS = 1.0
# For what another process has to say to arrive after its sockets broke.
_NEWS_SECONDS = 3.0
_MOST = 200  # characters of what JAX says
# Whoever says why this process ends may itself wait for a coordination service that is gone.
_SPEAKING_SECONDS = 10.0

# Held by the thread that says why this process ends; nobody says it twice.
_speaking = threading.Lock()
_handlers: list[Any] = []  # C does not keep them alive.


def end(message: str, status: int) -> None:
    """Ends the process from any thread: nobody waits for processes that are gone."""
    _speaking.acquire(timeout=_SPEAKING_SECONDS)
    print(message, file=sys.stderr, flush=True)
    _leave(status)


def at_once(error: BaseException) -> BaseException:
    """`error`, after whose report the process does not wait for the others."""
    status = 2 if isinstance(error, InputError) else 1
    if isinstance(error, KeyboardInterrupt):
        status = 128 + signal.SIGINT
    # After the report Python comes to this before JAX's own, which would wait.
    atexit.register(_leave, status)
    return error


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Within the block the failure of one process is that of all.

    Raises:
      InputError, RunError: as another process did.
      RunError: another process is lost.
    """
    _make_abort_an_end()
    stop = threading.Event()
    listener = threading.Thread(target=_listen, args=(stop,), daemon=True)
    listener.start()
    try:
        yield
    except BaseException as error:
        _speaking.acquire()
        told = _tell(error)
        if told is error:
            raise
        raise told from error
    stop.set()
    listener.join()


def _tell(error):
    """Tells the others of an error; returns it, or what was behind it in another process."""
    refused = out_of_memory(error)
    if refused is not None:
        error = refused
    elif isinstance(error, jax.errors.JaxRuntimeError):
        note = _news(_NEWS_SECONDS)
        if note is None:
            cause = str(error).splitlines()[0][:_MOST].rstrip(".")
            error = RunError(f"JAX cannot go on, as when another process is lost: {cause}.")
        else:
            error = (InputError if note["status"] == 2 else RunError)(_sentence(note))
    status = 2 if isinstance(error, InputError) else 1
    note = {"status": status, "sentence": str(error) or type(error).__name__}
    with contextlib.suppress(Exception):
        agreeing.client().key_value_set(f"{_FAILED}/{jax.process_index()}", json.dumps(note))
    _linger()
    at_once(error)
    return error


def _linger():
    """The first process takes the notes along: it stays until the others have read them."""
    if agreeing.is_first():
        time.sleep(2.5 * _POLL_SECONDS)


def _news(seconds):
    """What another process left; None if there is nothing within so many seconds."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(Exception):
            for key, text in agreeing.client().key_value_dir_get(_FAILED):
                process = int(key.rsplit("/", 1)[1])
                if process != jax.process_index():
                    return {"process": process, **json.loads(text)}
        if time.monotonic() >= end:
            return None
        time.sleep(0.1)


def _sentence(note):
    return f"Process {note['process']} has ended: {note['sentence']}"


def _listen(stop):
    while not stop.wait(_POLL_SECONDS):
        note = _news(0)
        if note is not None and _speaking.acquire(blocking=False):
            word = "Error" if note["status"] == 2 else "Failed"
            print(f"{word}: {_sentence(note)}", file=sys.stderr, flush=True)
            _linger()
            _leave(note["status"])


def _make_abort_an_end():
    """JAX's threads call `abort` where the others are lost; Python's own handlers come too late."""
    if _handlers:
        return
    message = "Failed: Another process of the run is lost, and none can go on without the others."
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: end(message, 1))
    _handlers.append(handler)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)


def _leave(status):
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)
