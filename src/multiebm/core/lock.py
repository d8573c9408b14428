"""One writer a folder: `.lock` says who it is, and the operating system lets go of it when the process ends."""

import json
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from multiebm.core.errors import OutputError
from multiebm.core.files import Held, hold, why_not_written

LOCK = ".lock"
_MOST = 10_000  # bytes of a lock file that are read; one of ours is far shorter
_NAMED_SECONDS = 2.0  # within which whoever has locked the file has written its name into it

logger = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path, force: bool = False) -> Iterator[None]:
    """Inside, nobody else writes to `folder`, which is made where it is not there, and removed again if it stays empty.

    OutputError, naming process, host and since when, where another holds it. What a process that was killed here left
    is taken over with a warning. Where that cannot be told (it ran on another host, or the file system has no locks) it
    takes `force`, which no process that is alive on this host gives way to.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: got a file, expected a folder for the run; choose another name")
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    file = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = hold(file, wait=False)
    except BlockingIOError as error:
        raise OutputError(f"{folder}: in use by {_said(_holder(file))}; wait until it has ended, or stop it") from error
    except OSError as error:
        _leave(missing)
        raise OutputError(f"{folder}: {why_not_written(error)}; choose another with --out") from error
    try:
        _take_over(file, held, force)
        yield
        file.unlink(missing_ok=True)
    except _NotOursError as error:
        raise OutputError(str(error)) from None
    except BaseException:
        with suppress(OSError):
            file.unlink(missing_ok=True)
        raise
    finally:
        os.close(held.handle)
        _leave(missing)


class _NotOursError(Exception):
    """The lock stays where it is."""


def _take_over(file: Path, held: Held, force: bool) -> None:
    """Write this process into the lock file, unless the one that is named there may still be at work."""
    before = {} if held.fresh else _read(file)
    here = before.get("host") == socket.gethostname()
    doubtful = not held.fresh if not held.locked else bool(before) and not here
    if doubtful and here and _alive(before.get("pid")):
        raise _NotOursError(f"{file.parent}: in use by {_said(before)}; wait until it has ended, or stop it")
    if doubtful and not force:
        raise _NotOursError(
            f"{file.parent}: locked by {_said(before)}, of which cannot be told from here whether it still runs; if it "
            f"has ended, take over with --force (in Python force=True), or delete {file}"
        )
    if before:
        logger.warning("%s: left by %s; taken over", file, _said(before))
    now = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    data = json.dumps(now | {"command": shlex.join(sys.argv)}).encode()
    try:
        os.ftruncate(held.handle, 0)
        os.pwrite(held.handle, data, 0)
    except OSError as error:
        raise OutputError(f"{file}: {why_not_written(error)}; free space or choose another folder") from error


def _read(file: Path) -> dict[str, Any]:
    """Return what the lock file says, {} where it says nothing."""
    try:
        with file.open("rb") as stream:
            values = json.loads(stream.read(_MOST))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _holder(file: Path) -> dict[str, Any]:
    """Return what the lock file says of who holds it. One that came a moment ago has yet to write its name there."""
    deadline = time.monotonic() + _NAMED_SECONDS
    while True:
        said = _read(file)
        dead = said.get("host") == socket.gethostname() and not _alive(said.get("pid"))
        if said and not dead:
            return said
        if time.monotonic() > deadline:
            return {}
        time.sleep(0.02)


def _said(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    if holder.get("pid") == os.getpid() and holder.get("host") == socket.gethostname():
        return f"this very process ({os.getpid()}), in another thread or call"
    known = {key: str(holder.get(key, "?"))[:200] for key in ("pid", "host", "started", "command")}
    return "process {pid} on {host} since {started} ({command})".format(**known)


def _alive(pid: Any) -> bool:
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def _leave(made: list[Path]) -> None:
    """Remove the folders that were made here, innermost first, as far as they are empty."""
    for path in made:
        with suppress(OSError):
            path.rmdir()
