"""Files and folders are written whole or not at all: aside, synced to the disk, then renamed. Checksums say that they
stayed so. What is read may have been made by anybody: it is bounded before it is parsed.
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
from secrets import token_hex
from typing import Any, NamedTuple

from multiebm.core.errors import MultiebmError, OutputError

ASIDE = ".aside-"  # begins the name of what is not whole yet; what a kill leaves of it is ours to remove
OLD = f"{ASIDE}old-"  # begins the name of a folder that another is about to replace
STALE_SECONDS = 3600.0  # what is not whole and was not touched for this long belongs to a process that was killed
LARGEST_JSON = 16 * 2**20  # bytes; a parser makes twenty times as much of them in memory
SEAL = "sha256"  # key of the checksum of a sealed file
FREE = "free space or repair the folder"
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


def why_not_written(error: OSError) -> str:
    """Return what to tell the user of a write that failed: "the disk is full" or "cannot be written (...)"."""
    return "the disk is full" if error.errno in _FULL else f"cannot be written ({error.strerror or error})"


@contextmanager
def writing(path: Path, way_out: str = FREE) -> Iterator[None]:
    """Inside, what keeps a result of the user's from being written at `path` becomes an OutputError that says so."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: {why_not_written(error)}; {way_out}") from error


@contextmanager
def reading(path: Path, refuse: type[MultiebmError], way_out: str) -> Iterator[None]:
    """Inside, OSError and ValueError of reading `path` become an error of type `refuse` that says what is wrong."""
    try:
        yield
    except OSError as error:
        raise refuse(f"{path}: cannot be read ({error.strerror or error}); {way_out}") from error
    except ValueError as error:
        raise refuse(f"{path}: {error}; {way_out}") from error


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path`, of which there is never half a file. OSError when it cannot be written."""
    with written_whole(path) as aside:
        aside.write_bytes(data)


def write_output(path: Path, data: bytes, way_out: str = FREE) -> None:
    """`replace_file` for a result of the user's; its folder is made. OutputError when it cannot be written."""
    with writing(path, way_out):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)


def write_json(path: Path, values: dict[str, Any], way_out: str = FREE) -> None:
    """Write a JSON file as `write_output` does."""
    write_output(path, (json.dumps(values, indent=1) + "\n").encode(), way_out)


def try_output(path: Path, way_out: str) -> None:
    """Raise OutputError unless a file `path` can be written, before the work that it is for. Nothing is left behind."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    with writing(path, way_out):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        aside = there / f"{ASIDE}{path.name}"
        held = hold(aside, wait=True)
        aside.unlink(missing_ok=True)
        os.close(held.handle)


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
        _sync(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
        os.close(held.handle)


@contextmanager
def whole_folder(folder: Path, keep: bool = False) -> Iterator[Path]:
    """Give a new folder to fill with files; on leaving they are synced and it is renamed to `folder`.

    After an error it is removed. What was at `folder` is set aside just before, comes back if the new one cannot take
    its place (after a kill by `put_back`), and is removed in the end; or `keep`, and it stays, as whoever was faster
    has made the same.
    """
    aside, old = folder.with_name(f"{ASIDE}{folder.name}-{token_hex(4)}"), folder.with_name(f"{OLD}{folder.name}")
    aside.mkdir()
    try:
        yield aside
        for path in (*aside.iterdir(), aside):
            _sync(path)
        if not (keep and folder.is_dir()):
            if folder.exists():  # a folder cannot be replaced in one call
                os.replace(folder, old)
            try:
                os.replace(aside, folder)
            except OSError:
                with suppress(OSError):
                    os.replace(old, folder)
                raise
            _sync(folder.parent)
            remove(old)
    finally:
        with suppress(OSError):
            remove(aside)


def put_back(parent: Path) -> None:
    """Undo, in the folder `parent`, the replacements of folders that a kill has stopped between their two renames."""
    for old in parent.glob(f"{OLD}*"):
        target = parent / old.name.removeprefix(OLD)
        if not target.exists():
            os.replace(old, target)


def discard(folder: Path) -> None:
    """Remove a folder, by a rename first, so that nobody finds half of it. One that is gone by then is no error."""
    aside = folder.with_name(f"{ASIDE}{folder.name}-{token_hex(4)}")
    with suppress(FileNotFoundError):
        os.replace(folder, aside)
        remove(aside)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def hold(path: Path, wait: bool) -> Held:
    """Open or make the file `path` and lock it until its handle is closed or the process ends, however it ends.

    BlockingIOError where another holds it and this one does not `wait`; OSError where it is a link, or cannot be made.
    """
    while True:
        try:
            handle, fresh = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666), True
        except FileExistsError:
            try:
                handle, fresh = os.open(path, os.O_RDWR | _NO_LINK), False
            except FileNotFoundError:  # let go in between
                continue
        locked = held = False
        try:
            if sys.platform != "win32":
                import fcntl

                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                    locked = True
                except OSError as error:
                    if error.errno not in _NO_LOCKS:
                        raise
            with suppress(FileNotFoundError):
                held = os.path.samestat(os.fstat(handle), path.lstat())
            if held:
                return Held(handle, fresh, locked)
        finally:
            if not held:
                os.close(handle)  # of a file that its holder has removed or renamed since, or that cannot be locked


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


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(values: Any) -> str:
    """Return the sha256 of plain values (what JSON can hold), independent of the order of keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_json(file: Path, largest: int = LARGEST_JSON) -> Any:
    """Return what a JSON file holds.

    OSError where it cannot be read; ValueError says why it is refused: no JSON, above `largest` bytes, nested too deep,
    or with an integer of more digits than anything here has.
    """
    return parse_json(_read(file, largest))


def sealed(values: dict[str, Any]) -> bytes:
    """Return `values` as JSON whose last entry is a checksum of all others, for `read_sealed`."""
    seal = _seal(json.dumps(values).encode())
    return (json.dumps(values | {SEAL: seal}, indent=1) + "\n").encode()


def read_sealed(file: Path, largest: int = LARGEST_JSON) -> tuple[dict[str, Any], bool]:
    """Return what `sealed` was given, and whether it is unchanged: every key, and every number digit by digit.

    OSError and ValueError as `read_json`; the latter also where it is no JSON object.
    """
    data = _read(file, largest)
    values = parse_json(data)
    if not isinstance(values, dict):
        raise ValueError(f"not readable as JSON (got {type(values).__name__}, expected an object)")
    return values, values.pop(SEAL, None) == _seal(data)


def check_size(file: Path, size: int) -> None:
    """Raise ValueError unless `file` has `size` bytes, with what is wrong; OSError where it cannot be looked at."""
    found = file.stat().st_size
    if not file.is_file():
        raise ValueError("not a file")  # a pipe would never end
    if found != size:
        raise ValueError(f"{'truncated' if found < size else 'too long'}: got {found} bytes, expected {size}")


def check_sha256(got: str, expected: str) -> None:
    """Raise ValueError unless these checksums are one."""
    if got != expected:
        raise ValueError(f"damaged: got sha256 {got[:16]}, expected {expected[:16]}")


def _seal(data: bytes) -> str:
    values = parse_json(data, lambda text: ["number", text])  # two texts of one number are two contents
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


def parse_json(data: bytes, number: Callable[[str], Any] | None = None) -> Any:
    """Return what JSON text holds, `number` of each number's text; ValueError as `read_json`."""
    depth = 0
    for bracket in _STRING.sub(b"", data).translate(None, delete=_NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > _DEEPEST:  # far below where parsers, and what walks their results, give up
            raise ValueError(f"not readable as JSON (nested more than {_DEEPEST} deep)")
    try:
        return json.loads(data, parse_int=number or _integer, parse_float=number, parse_constant=number)
    except ValueError as error:
        raise ValueError(f"not readable as JSON ({error})") from error


def _integer(text: str) -> int:
    if len(text) > _LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)
