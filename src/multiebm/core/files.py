"""Files are written whole or not at all: aside, synced to the disk, then renamed. Checksums say that they stayed so."""

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from multiebm.core.errors import OutputError

ASIDE = ".aside-"  # begins the name of what is not whole yet; what a kill leaves of it is ours to remove
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL}  # of this file system
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


class Held(NamedTuple):
    """An open file that nobody else holds: close `handle` to let go. `fresh`: it was made just now; `locked`: False
    where the file system has no locks, so that others may think they hold it too.
    """

    handle: int
    fresh: bool
    locked: bool


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that there is never half a file of that name. OSError when it cannot be written."""
    with written_whole(path) as aside:
        aside.write_bytes(data)


def write_output(path: Path, data: bytes, way_out: str = "free space or repair the folder") -> None:
    """`replace_file` for a result of the user's; its folder is made. OutputError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)
    except OSError as error:
        raise OutputError(f"{path}: {why_not_written(error)}; {way_out}") from error


def try_output(path: Path, way_out: str) -> None:
    """Raise OutputError unless a file `path` can be written, before the work that it is for. Nothing is left behind."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        aside = there / f"{ASIDE}{path.name}"
        held = hold(aside, wait=True)
        aside.unlink(missing_ok=True)
        os.close(held.handle)
    except OSError as error:
        raise OutputError(f"{path}: {why_not_written(error)}; {way_out}") from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give the path of a file to write; on leaving it is synced and renamed to `path`, after an error it is removed.

    What `path` held before stays whole until then. Its name has the ending of `path`, which some writers go by. Of two
    that write `path` at once the second waits.
    """
    aside = path.with_name(f"{ASIDE}{path.name}")
    held = hold(aside, wait=True)
    try:
        yield aside
        with aside.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
        os.close(held.handle)


def hold(path: Path, wait: bool) -> Held:
    """Open or make the file `path` and lock it until its handle is closed or the process ends, however it ends.

    BlockingIOError where another holds it and this one does not `wait`; OSError where it is a link, or cannot be made.
    """
    while True:
        fresh = True
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666)
        except FileExistsError:
            fresh = False
            try:
                handle = os.open(path, os.O_RDWR | _NO_LINK)
            except FileNotFoundError:  # let go in between
                continue
        try:
            locked = _lock(handle, wait)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.lstat()):
                    return Held(handle, fresh, locked)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # of a file that its holder has removed or renamed since


def _lock(handle: int, wait: bool) -> bool:
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def why_not_written(error: OSError) -> str:
    """Return what to tell the user of a write that failed: "the disk is full" or "cannot be written (...)"."""
    return "the disk is full" if error.errno in _FULL else f"cannot be written ({error.strerror or error})"


def sha256_of_json(values: Any) -> str:
    """Return the sha256 of plain values (what JSON can hold), independent of the order of keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
