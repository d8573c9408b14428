"""Arrays that are slow to build, kept on disk: memory-mapped .npy files beside a manifest of their checksums.

A cache is there whole or not at all, and verified whenever it is opened; one that fails is set aside, built again, and
the reason is logged as a warning. Where nothing can be written, a warning says so and the arrays are built in memory,
to the same checksums.
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
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from multiebm.core import files
from multiebm.core.errors import DataError
from multiebm.core.store import Header, Store, StoredFile
from multiebm.data.npz import expanded

logger = logging.getLogger(__name__)

Builder = Callable[[], Iterator[tuple[str, NDArray[Any]]]]
Found = tuple[dict[str, NDArray[Any]], dict[str, str]]  # arrays and their sha256, by name

CHOOSE = "set MULTIEBM_CACHE to a folder that can be written"  # the way out of a cache that cannot be
_MANIFEST = "manifest.json"
# what a kill left: by this release, or by those before
_LEFTOVER = re.compile(rf"{re.escape(files.ASIDE)}.+|.+-[0-9a-f]{{16}}\.(building|damaged)-\w+")


class _Manifest(Header):
    identity: dict[str, Any]


_STORE = Store(_Manifest, "multiebm-arrays", 2, "cache of this release", "it is replaced", DataError)


def cache_root() -> Path:
    """Return the folder of everything cached: $MULTIEBM_CACHE, else multiebm/ in the user's cache directory.

    A user without a home has a warning and a folder that is removed at the end of the process.
    """
    chosen = os.environ.get("MULTIEBM_CACHE")
    try:
        return (Path(chosen) if chosen else user_cache_path("multiebm", appauthor=False)).expanduser()
    except RuntimeError as error:
        return _homeless(str(error))


@cache
def _homeless(problem: str) -> Path:
    logger.warning("no cache is kept beyond this process (%s); %s", problem, CHOOSE)
    folder = tempfile.mkdtemp(prefix="multiebm-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def cached_arrays(
    root: str | Path | None, name: str, identity: dict[str, Any], build: Builder, want: Sequence[str]
) -> Found:
    """Return arrays `want`, memory-mapped copy-on-write, and their sha256, by name.

    `identity` is JSON that says what the arrays were made from; `build` yields (name, array) one at a time and is
    called when there is no whole cache of that identity under `root` (None: `cache_root`). Where none can be written a
    warning is logged, and the arrays are in memory.
    """
    root = cache_root() if root is None else expanded(root)
    folder = root / f"{name}-{files.sha256_of_json(identity)[:16]}"
    try:
        files.remove_stale(path for path in root.glob("*-*") if _LEFTOVER.fullmatch(path.name))
        if folder.exists():
            try:
                return _open(folder, identity, want)
            except DataError as problem:
                logger.warning("a cache is damaged, or of another release; building it again: %s", problem)
                files.discard(folder)
        root.mkdir(parents=True, exist_ok=True)
        with files.whole_folder(folder, keep=True) as aside:
            stored = []
            for key, array in build():
                path = aside / f"{key}.npy"
                np.save(path, array, allow_pickle=False)
                stored.append(StoredFile(name=path.name, bytes=path.stat().st_size, sha256=files.file_sha256(path)))
            (aside / _MANIFEST).write_bytes(_STORE.header({"identity": identity}, stored))
    except OSError as error:
        anew = "the data is built in memory, in every process anew"
        way_out = f"free space, or choose another folder by cache_folder, or {CHOOSE}"
        logger.warning("cache %s: %s; %s: %s", folder, files.why_not_written(error), anew, way_out)
        return _in_memory(build, want)
    return _open(folder, identity, want)


def _open(folder: Path, identity: dict[str, Any], want: Sequence[str]) -> Found:
    """Return verified arrays; DataError where anything is not as it was written."""
    manifest, arrays, sums = _STORE.read(folder / _MANIFEST), {}, {}
    if manifest.identity != json.loads(json.dumps(identity)):
        raise DataError(f"{folder / _MANIFEST}: got that of other data; {_STORE.way_out}")
    stored = {file.name: file for file in manifest.files}
    for name in want:
        path = folder / f"{name}.npy"
        with files.reading(path, DataError, _STORE.way_out):
            if path.name not in stored:
                raise ValueError(f"not in {_MANIFEST}")
            files.check_size(path, stored[path.name].bytes)
            files.check_sha256(files.file_sha256(path), stored[path.name].sha256)
            # Copy-on-write, because torch warns about memory it may not write to; the file itself stays as it is.
            arrays[name], sums[name] = np.load(path, mmap_mode="c", allow_pickle=False), stored[path.name].sha256
    return arrays, sums


def _in_memory(build: Builder, want: Sequence[str]) -> Found:
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
