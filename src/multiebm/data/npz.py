"""Archives of arrays, .npz: read from users, who may hand over anything, and written.

What a file declares is compared with what it can hold, and with a limit, before memory is taken: MAX_BYTES, or the
environment variable MULTIEBM_MAX_BYTES.
"""

import io
import math
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from multiebm.core.errors import DataError, OutputError
from multiebm.core.files import why_not_written, written_whole
from multiebm.core.handed import Array

MAX_BYTES = 8 << 30  # that a file, or a folder of pictures, may unpack to
MAX_BYTES_VARIABLE = "MULTIEBM_MAX_BYTES"  # in the environment, another number of bytes
_SHRINKS = 100  # times that an archive of more than _SMALL bytes may be smaller than what is in it
_SMALL = 256 << 20  # bytes
_HEADER = 1 << 16  # bytes within which the header of an array ends
BROKEN = (
    *(ValueError, TypeError, KeyError, IndexError, EOFError, SyntaxError, OverflowError, RuntimeError, TokenError),
    *(zipfile.BadZipFile, zlib.error, struct.error, MemoryError),
)  # what numpy, zipfile and Pillow raise on files that are damaged, or made to do damage


def expanded(path: str | Path) -> Path:
    """Return `path` with ~ replaced by the home folder, where there is one; DataError for what is no path."""
    if not isinstance(path, str | os.PathLike):
        raise DataError(f"path: got {type(path).__name__}, expected text or a pathlib.Path; correct it")
    return Path(os.path.expanduser(path))


def read_npz(path: str | Path) -> dict[str, Array]:
    """Return the arrays [...] of an .npz file, of any shapes, by name.

    DataError when it cannot be read, is damaged, holds Python objects or anything but arrays, or declares more than it
    holds or than is allowed (MAX_BYTES).
    """
    path = expanded(path)
    try:
        if not path.is_file():  # a pipe would never end
            what = "a folder" if path.is_dir() else "no such file"
            raise DataError(f"{path}: got {what}, expected an .npz; correct the path, or write one by numpy.savez")
        with path.open("rb") as stored, warnings.catch_warnings():
            if stored.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise ValueError("one bare array without names")
            with zipfile.ZipFile(stored) as archive:
                members = archive.infolist()
                check_bytes(path, sum(info.file_size for info in members), path.stat().st_size)
                warnings.simplefilter("ignore")  # numpy's, of headers that Python 2 wrote
                arrays: dict[str, Array] = {}
                for info in members:
                    name = info.filename.removesuffix(".npy")
                    if name in arrays:
                        raise ValueError(f"two arrays called {name!r} in it")
                    arrays[name] = _read_member(archive, info)
                return arrays
    except (OSError, *BROKEN) as error:
        problem, fix = str(error) or type(error).__name__, " of plain arrays; write it by numpy.savez"
        if isinstance(error, OSError):
            problem, fix = error.strerror or problem, "; make it readable, or correct the path"
        raise DataError(f"{path}: got a file that cannot be read ({problem}), expected an .npz{fix}") from error


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    """Return one array, of which nothing is allocated before its header agrees with the size of the member."""
    if not info.filename.endswith(".npy"):
        raise ValueError(f"{info.filename!r} in it, which is no .npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others reserve what memory they like
        raise ValueError(f"{info.filename!r} in it, compressed by a method that numpy does not use")
    with archive.open(info) as member:
        start = io.BytesIO(member.read(_HEADER))
    version = npy.read_magic(start)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{info.filename}: format {version[0]}.{version[1]} of an array")
    shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(start)
    if dtype.hasobject and not dtype.names:
        fix = "make numbers or texts of them, .astype(float) or .astype(str), NaN or empty where one is missing"
        raise ValueError(f"{info.filename}: values of type object; {fix}")
    if dtype.names:
        raise ValueError(f"{info.filename}: values of type {dtype}; write each field of records by itself")
    if dtype.hasobject or dtype.subdtype or not dtype.itemsize:
        raise ValueError(f"{info.filename}: values of type {dtype}")
    holds = info.file_size - start.tell()
    if min(shape, default=0) < 0 or 0 in shape[1:] or math.prod(shape) * dtype.itemsize != holds:
        raise ValueError(f"{info.filename}: shape {shape} of {dtype} declared, and {holds} bytes of values")
    with archive.open(info) as member:
        return np.asarray(npy.read_array(member, allow_pickle=False))


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays [...] to an .npz, whole or not at all, under any names that stay inside the archive (`file` is one).

    Its folder is made. OutputError when it cannot be written.
    """
    for name in arrays:
        if not name or name.startswith("..") or set(name) & set("/\\:\0"):
            raise OutputError(f"{path}: got an array called {name!r}, expected a name without / \\ : in it; rename it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as aside, zipfile.ZipFile(aside, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    npy.write_array(member, np.asanyarray(array), allow_pickle=False)
    except OSError as error:
        raise OutputError(f"{path}: {why_not_written(error)}; choose another place") from error


def check_bytes(path: Path, declared: int, stored: int | None = None) -> None:
    """Raise DataError if `path`, an archive of `stored` bytes, declares more than is allowed and likely."""
    given = os.environ.get(MAX_BYTES_VARIABLE)
    if given and not given.isdecimal():
        raise DataError(f"{MAX_BYTES_VARIABLE}: got {given!r}, expected a number of bytes such as {MAX_BYTES}")
    likely = MAX_BYTES if stored is None else max(_SMALL, _SHRINKS * stored)
    allowed = int(given) if given else min(MAX_BYTES, likely)
    if declared > allowed:
        size = "" if stored is None else f" of a file of {stored:,}"
        raise DataError(
            f"{path}: got {declared:,} bytes to unpack{size}, expected at most {allowed:,}; if it is what you think, "
            f"set the environment variable {MAX_BYTES_VARIABLE}={declared}"
        )
