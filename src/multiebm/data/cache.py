"""Arrays that are slow to build, kept on disk: memory-mapped .npy files beside a manifest of their checksums.

A cache is built in a temporary folder and renamed into place, so it is there whole or not at all. It is verified, sizes
and sha256, whenever it is opened; one that fails is set aside, built again, and the reason is logged as a warning.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from multiebm.core.errors import DataError

logger = logging.getLogger(__name__)

Builder = Callable[[], Iterator[tuple[str, NDArray[Any]]]]

FORMAT = 1
STALE_SECONDS = 3600.0  # a temporary folder this old belongs to a build that was killed
_HASH_BLOCK = 1 << 20


def cache_root() -> Path:
    """Return the folder of everything cached: $MULTIEBM_CACHE, else multiebm/ in the user's cache directory."""
    if chosen := os.environ.get("MULTIEBM_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "multiebm"


def cached_arrays(
    root: Path, name: str, identity: dict[str, Any], build: Builder, want: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return arrays `want`, memory-mapped copy-on-write, and their sha256, by name.

    `identity` is JSON that says what the arrays were made from; `build` yields (name, array) one at a time and is
    called when there is no whole cache of that identity under `root`. DataError when the disk refuses the cache.
    """
    folder = root / f"{name}-{_text_sha256(_canonical(identity))[:16]}"
    if folder.exists():
        try:
            return _open(folder, identity, want)
        except DataError as problem:
            logger.warning("%s; building it again", problem)
            _set_aside(folder)
    try:
        _build(folder, identity, build)
    except OSError as error:
        raise DataError(
            f"cache {folder}: got {error.strerror or error} while writing, expected a writable folder with room for "
            f"the data; free space, or choose another folder by cache_folder or the MULTIEBM_CACHE variable"
        ) from error
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


def _read_manifest(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        named = (manifest["format"], manifest["identity"])
        if not all({"bytes", "sha256"} <= set(entry) for entry in manifest["files"].values()):
            raise KeyError("bytes, sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"cache {path}: got no readable manifest ({error}), expected format {FORMAT}") from error
    if named != (FORMAT, json.loads(_canonical(identity))):
        raise DataError(f"cache {path}: got the manifest of other data, expected that of this folder's name")
    return dict(manifest)


def _build(folder: Path, identity: dict[str, Any], build: Builder) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
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
    folder.rename(aside / folder.name)
    shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    for left in folder.parent.glob(f"{folder.name}.*-*"):
        if time.time() - left.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _canonical(identity: dict[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
