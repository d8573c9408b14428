"""Files are written whole or not at all: aside, synced to the disk, then renamed. Checksums say that they stayed so.

What is read may have been made by anybody: it is bounded before it is parsed.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from multiebm.core.errors import OutputError

ASIDE = ".aside-"  # begins the name of what is not whole yet; what a kill leaves of it is ours to remove
STALE_SECONDS = 3600.0  # what is not whole and was not touched for this long belongs to a process that was killed
LARGEST_JSON = 16 * 2**20  # bytes; a parser makes twenty times as much of them in memory
SEAL = "sha256"  # key of the checksum of a sealed file
_LONGEST_INTEGER = 40  # digits, enough for 128 bits
_DEEPEST = 100  # brackets in brackets
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+("|\\?\Z)', re.DOTALL)  # one without an end goes on to the end: no second look
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


def remove_stale(leftovers: Iterable[Path]) -> None:
    """Remove the files and folders among `leftovers` that nobody touched for STALE_SECONDS, where that is allowed."""
    for left in leftovers:
        with suppress(OSError):
            if time.time() - left.lstat().st_mtime > STALE_SECONDS:
                remove(left)


def why_not_written(error: OSError) -> str:
    """Return what to tell the user of a write that failed: "the disk is full" or "cannot be written (...)"."""
    return "the disk is full" if error.errno in _FULL else f"cannot be written ({error.strerror or error})"


def sha256_of_json(values: Any) -> str:
    """Return the sha256 of plain values (what JSON can hold), independent of the order of keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_json(file: Path, largest: int = LARGEST_JSON) -> Any:
    """Return what a JSON file holds.

    OSError where it cannot be read; ValueError says why it is refused: no JSON, above `largest` bytes, nested too deep,
    or with an integer of more digits than anything here has.
    """
    return _parse(_read(file, largest))


def sealed(values: dict[str, Any]) -> bytes:
    """Return `values` as JSON whose last entry is a checksum of all others, for `read_sealed`."""
    seal = _seal(json.dumps(values).encode())
    return (json.dumps(values | {SEAL: seal}, indent=1) + "\n").encode()


def read_sealed(file: Path, largest: int = LARGEST_JSON) -> tuple[dict[str, Any], bool]:
    """Return what `sealed` was given, and whether it is unchanged: every key, and every number digit by digit.

    OSError and ValueError as `read_json`; the latter also where it is no JSON object.
    """
    data = _read(file, largest)
    values = _parse(data)
    if not isinstance(values, dict):
        raise ValueError(f"got {type(values).__name__}, expected an object")
    return values, values.pop(SEAL, None) == _seal(data)


def check_size(file: Path, size: int) -> None:
    """Raise ValueError unless `file` has `size` bytes, with what is wrong; OSError where it cannot be looked at."""
    found = file.stat().st_size
    if not file.is_file():
        raise ValueError("not a file")  # a pipe would never end
    if found != size:
        raise ValueError(f"{'truncated' if found < size else 'too long'}: got {found} bytes, expected {size}")


def read_verified(file: Path, size: int, sha256: str) -> bytes:
    """Return the content of `file`; ValueError says that it has another size or checksum, OSError cannot be read."""
    check_size(file, size)
    data = file.read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != sha256:
        raise ValueError(f"damaged: got sha256 {digest[:16]}, expected {sha256[:16]}")
    return data


def _seal(data: bytes) -> str:
    def as_written(text: str) -> list[str]:  # two texts of one number are two contents
        return ["number", text]

    values = _parse(data, as_written)
    values.pop(SEAL, None)
    return sha256_of_json(values)


def _read(file: Path, largest: int) -> bytes:
    if file.exists() and not file.is_file():
        raise ValueError("not a file")  # a pipe would never end
    with file.open("rb") as stream:
        data = stream.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"larger than {largest} bytes")
    return data


def _parse(data: bytes, number: Callable[[str], Any] | None = None) -> Any:
    depth = 0
    for bracket in _STRING.sub(b"", data).translate(None, delete=_NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > _DEEPEST:  # far below where parsers, and what walks their results, give up
            raise ValueError(f"nested more than {_DEEPEST} deep")
    return json.loads(data, parse_int=number or _integer, parse_float=number, parse_constant=number)


def _integer(text: str) -> int:
    if len(text) > _LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)
