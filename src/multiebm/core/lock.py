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
from multiebm.core.files import Held, hold, read_json, writing

LOCK = ".lock"
ANOTHER = "another with --out (in Python out=)"  # folder of a run
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
        with writing(folder, f"choose {ANOTHER}"):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                held = hold(file, wait=False)
            except BlockingIOError as error:
                raise _in_use(folder, _holder(file)) from error
        try:
            _take_over(file, held, force)
            try:
                yield
            finally:
                with suppress(OSError):
                    file.unlink(missing_ok=True)
        finally:
            os.close(held.handle)
    finally:
        for path in missing:  # the folders that were made here, innermost first, as far as they are empty
            with suppress(OSError):
                path.rmdir()


def _take_over(file: Path, held: Held, force: bool) -> None:
    """Write this process into the lock file, unless the one that is named there may still be at work."""
    before = {} if held.fresh else _read(file)
    here = before.get("host") == socket.gethostname()
    doubtful = not held.fresh if not held.locked else bool(before) and not here
    if doubtful and here and _alive(before.get("pid")):
        raise _in_use(file.parent, before)
    if doubtful and not force:
        raise OutputError(
            f"{file.parent}: locked by {_said(before)}, of which cannot be told from here whether it still runs; if it "
            f"has ended, take over with --force (in Python force=True), or delete {file}"
        )
    if before:
        logger.warning("%s: left by %s; taken over", file, _said(before))
    now = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    data = json.dumps(now | {"command": shlex.join(sys.argv)}).encode()
    with writing(file):
        try:
            os.ftruncate(held.handle, 0)
            os.pwrite(held.handle, data, 0)
        except OSError:
            file.unlink()
            raise


def _in_use(folder: Path, holder: dict[str, Any]) -> OutputError:
    return OutputError(f"{folder}: in use by {_said(holder)}; wait until it has ended, or stop it")


def _read(file: Path) -> dict[str, Any]:
    """Return what the lock file says, {} where it says nothing."""
    try:
        values = read_json(file, _MOST)
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _holder(file: Path) -> dict[str, Any]:
    """Return what the lock file says of who holds it. One that came a moment ago has yet to write its name there."""
    deadline = time.monotonic() + _NAMED_SECONDS
    while time.monotonic() < deadline:
        said = _read(file)
        if said and (said.get("host") != socket.gethostname() or _alive(said.get("pid"))):
            return said
        time.sleep(0.02)
    return {}


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
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # else it is somebody else's
    return True
