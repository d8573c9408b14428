"""Files are written whole or not at all: aside, synced to the disk, then renamed. Checksums say that they stayed so."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ASIDE = ".aside-"  # begins the name of what is not whole yet; what a kill leaves of it is ours to remove
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that there is never half a file of that name. OSError when it cannot be written."""
    with written_whole(path) as aside:
        aside.write_bytes(data)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give the path of a file to write; on leaving it is synced and renamed to `path`, after an error it is removed.

    What `path` held before stays whole until then. Its name has the ending of `path`, which some writers go by.
    """
    aside = path.with_name(f"{ASIDE}{path.name}")
    try:
        yield aside
        with aside.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def why_not_written(error: OSError) -> str:
    """Return what to tell the user of a write that failed: "the disk is full" or "cannot be written (...)"."""
    return "the disk is full" if error.errno in _FULL else f"cannot be written ({error.strerror or error})"


def sha256_of_json(values: Any) -> str:
    """Return the sha256 of plain values (what JSON can hold), independent of the order of keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
