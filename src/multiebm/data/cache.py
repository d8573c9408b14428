"""Arrays that are slow to build, kept on disk: memory-mapped .npy files beside a manifest of their checksums.

A cache is built in a temporary folder and renamed into place, so it is there whole or not at all. It is verified, sizes
and sha256, whenever it is opened; one that fails is set aside, built again, and the reason is logged as a warning.
Where nothing can be written, a warning says so and the arrays are built in memory, to the same checksums.
"""

import atexit
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from multiebm.core.errors import DataError
from multiebm.core.files import read_json, remove_stale, why_not_written

logger = logging.getLogger(__name__)

Builder = Callable[[], Iterator[tuple[str, NDArray[Any]]]]

FORMAT = 1
CHOOSE = "set MULTIEBM_CACHE to a folder that can be written"  # the way out of a cache that cannot be
_HASH_BLOCK = 1 << 20
_LEFTOVER = re.compile(r".+-[0-9a-f]{16}\.(building|damaged)-\w+")


def cache_root() -> Path:
    """Return the folder of everything cached: $MULTIEBM_CACHE, else multiebm/ in the user's cache directory.

    A user without a home has a warning and a folder that is removed at the end of the process.
    """
    chosen, folder = os.environ.get("MULTIEBM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if chosen:
            return Path(chosen).expanduser()
        return Path(folder or Path.home() / ".cache").expanduser() / "multiebm"
    except RuntimeError as error:
        return _homeless(str(error))


@cache
def _homeless(problem: str) -> Path:
    logger.warning("no cache is kept beyond this process (%s); %s", problem, CHOOSE)
    folder = tempfile.mkdtemp(prefix="multiebm-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def cached_arrays(
    root: Path, name: str, identity: dict[str, Any], build: Builder, want: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return arrays `want`, memory-mapped copy-on-write, and their sha256, by name.

    `identity` is JSON that says what the arrays were made from; `build` yields (name, array) one at a time and is
    called when there is no whole cache of that identity under `root`. Where none can be written a warning is logged,
    and the arrays are in memory.
    """
    folder = root / f"{name}-{_text_sha256(_canonical(identity))[:16]}"
    try:
        remove_stale(path for path in root.glob("*-*.*-*") if _LEFTOVER.fullmatch(path.name))
        if folder.exists():
            try:
                return _open(folder, identity, want)
            except (DataError, OSError) as problem:
                logger.warning("%s; building it again", problem)
                _set_aside(folder)
        _build(folder, identity, build)
    except OSError as error:
        logger.warning(
            "cache %s: %s; the data is built in memory, in every process anew: free space, or choose another folder by "
            "cache_folder, or %s",
            folder,
            why_not_written(error),
            CHOOSE,
        )
        return _in_memory(build, want)
    return _open(folder, identity, want)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def combined_sha256(parts: dict[str, str]) -> str:
    """Return one sha256 of several named texts, independent of their order."""
    return _text_sha256(_canonical(parts))


def _open(
    folder: Path, identity: dict[str, Any], want: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    manifest = _read_manifest(folder, identity)
    arrays, sums = {}, {}
    for name in want:
        path, expected = folder / f"{name}.npy", manifest["files"].get(name, {})
        size = path.stat().st_size if path.exists() else 0
        if size != expected.get("bytes"):
            raise DataError(f"cache {path}: got {size} bytes, expected {expected.get('bytes')}")
        if (found := file_sha256(path)) != expected["sha256"]:
            raise DataError(f"cache {path}: got sha256 {found[:12]}, expected {expected['sha256'][:12]}")
        # Copy-on-write, because torch warns about memory it may not write to; the file itself stays as it is.
        arrays[name] = np.load(path, mmap_mode="c", allow_pickle=False)
        sums[name] = expected["sha256"]
    return arrays, sums


def _in_memory(build: Builder, want: Sequence[str]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return what `_open` would, had the arrays been written."""
    arrays, sums = {}, {}
    try:
        for name, array in build():
            if name in want:
                arrays[name], written = array, _Hashed()
                np.save(written, array, allow_pickle=False)
                sums[name] = written.digest.hexdigest()
    except OSError as error:
        raise DataError(f"the data cannot be built: {error}; repair what it is built from") from error
    return arrays, sums


class _Hashed:
    """A file of which the checksum is all that is kept."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.digest.update(data)


def _read_manifest(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = read_json(path)
        named = (manifest["format"], manifest["identity"])
        for entry in manifest["files"].values():
            if not (isinstance(entry["bytes"], int) and isinstance(entry["sha256"], str)):
                raise TypeError("bytes, sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"cache {path}: got no readable manifest ({error}), expected format {FORMAT}") from error
    if named != (FORMAT, json.loads(_canonical(identity))):
        raise DataError(f"cache {path}: got the manifest of other data, expected that of this folder's name")
    return dict(manifest)


def _build(folder: Path, identity: dict[str, Any], build: Builder) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.building-", dir=folder.parent))
    try:
        files = {}
        for name, array in build():
            path = building / f"{name}.npy"
            with path.open("wb") as file:
                np.save(file, array, allow_pickle=False)
                _flush(file)
            files[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        with (building / "manifest.json").open("wb") as file:
            file.write(json.dumps({"format": FORMAT, "identity": identity, "files": files}, indent=1).encode())
            _flush(file)
        _rename(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _rename(building: Path, folder: Path) -> None:
    """Put the finished folder in place; where another process was faster, its equal result stays."""
    try:
        building.rename(folder)
    except OSError:
        if not (folder / "manifest.json").exists():
            raise


def _set_aside(folder: Path) -> None:
    """Remove a damaged cache, by a rename first, so that no other process finds it half removed."""
    aside = Path(tempfile.mkdtemp(prefix=f"{folder.name}.damaged-", dir=folder.parent))
    with suppress(FileNotFoundError):  # another process was faster
        folder.rename(aside / folder.name)
    shutil.rmtree(aside, ignore_errors=True)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _canonical(identity: dict[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
