"""A store: files of known size and checksum beside a sealed JSON header that names them. No pickle anywhere.

The header is written last, and makes a store whole. Whoever writes one by hand can seal it too, so nothing in it is
believed: it is checked against a schema before anything is made of it, and every file against its size and sha256.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from multiebm.core.errors import CheckpointError, MultiebmError
from multiebm.core.files import LARGEST_JSON, check_sha256, check_size, read_sealed, reading, sealed

_LISTED = 8  # tensors named per kind of misfit; the rest is counted
_SHOWN = 60  # characters of a value in a message
_TYPES = {"BOOL": "bool", "BF16": "bfloat16", "U8": "uint8"}  # what the format calls the types of torch
_TYPES |= {f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("float", "int") for bits in (8, 16, 32, 64)}


class StoredFile(BaseModel):
    """A file of a store: its name in the folder of the header, its size and checksum."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Header(BaseModel):
    """What every header says; a kind of store adds what is its own. `release`: of the package that wrote it."""

    model_config = ConfigDict(extra="forbid", strict=True)
    format: str
    version: int
    release: str
    files: Annotated[list[StoredFile], Field(min_length=1)]


H = TypeVar("H", bound=Header)


@dataclass(frozen=True)
class Store(Generic[H]):
    """A kind of store: the schema of its header, what `format` and `version` this says, `what` a message calls it, the
    `way_out` where one is damaged, the error it is refused with, and the `largest` header in bytes.
    """

    schema: type[H]
    format: str
    version: int
    what: str
    way_out: str
    refuse: type[MultiebmError] = CheckpointError
    largest: int = LARGEST_JSON

    def header(self, values: dict[str, Any], files: Iterable[StoredFile]) -> bytes:
        """Return the header that says `values` and names `files`."""
        about = {"format": self.format, "version": self.version, "release": version("multiebm")}
        return sealed(about | values | {"files": [file.model_dump() for file in files]})

    def pack(self, name: str, values: dict[str, Any], file: str, tensors: dict[str, Tensor]) -> dict[str, bytes]:
        """Return the content of a `file` of tensors of any shapes, and of the header `name` that says `values`, in the
        order in which they are to be written. `{}` in `file` becomes a part of its checksum.
        """
        seen: set[int] = set()
        plain = {}
        for key, tensor in tensors.items():  # contiguous and on the CPU; tied weights, which share memory, are copied
            flat = tensor.detach().cpu().contiguous()
            storage = flat.untyped_storage().data_ptr()
            plain[key] = flat.clone() if storage in seen else flat
            seen.add(storage)
        data = safetensors.torch.save(plain)
        digest = hashlib.sha256(data).hexdigest()
        stored = StoredFile(name=file.format(digest[:12]), bytes=len(data), sha256=digest)
        return {stored.name: data, name: self.header(values, [stored])}

    def read(self, file: Path) -> H:
        """Return the header in `file`; an error says what it holds, what was expected, and the fix."""
        with reading(file, self.refuse, self.way_out):
            values, whole = read_sealed(file, self.largest)
            if (found := values.get("format")) != self.format:
                raise self.refuse(f"{file}: got format {found!r:.80}, expected {self.format!r}; this is no {self.what}")
            if (found := values.get("version")) != self.version:
                release = f"{values.get('release', 'run.json of its run names it')!s:.80}"
                raise self.refuse(
                    f"{file}: got {self.what} version {found!r:.80}, expected {self.version}; load it with the "
                    f"multiebm release that wrote it ({release}), or train again"
                )
            if not whole:
                raise ValueError("damaged: its values do not match its sha256")
            try:
                return self.schema.model_validate(values)
            except ValidationError as error:
                raise ValueError(said(error)) from error

    def tensors(self, folder: Path, file: StoredFile) -> dict[str, Tensor]:
        """Return the tensors, of any shapes, in a `file` of a store, verified."""
        path = folder / file.name
        with reading(path, self.refuse, self.way_out):
            check_size(path, file.bytes)
            data = path.read_bytes()
            check_sha256(hashlib.sha256(data).hexdigest(), file.sha256)
            try:
                return safetensors.torch.load(data)
            except SafetensorError as error:
                raise ValueError(f"not readable as safetensors ({error})") from error

    def described(self, folder: Path, file: StoredFile) -> dict[str, str]:
        """Return type and shape of the tensors in a `file`, as `describe` does, without reading these."""
        path = folder / file.name
        with reading(path, self.refuse, self.way_out):
            check_size(path, file.bytes)
            try:
                with safe_open(path, framework="pt") as tensors:
                    slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
                    types = {name: _TYPES.get(s.get_dtype(), s.get_dtype()) for name, s in slices.items()}
                    return {name: f"{types[name]} {list(s.get_shape())}" for name, s in slices.items()}
            except (SafetensorError, RuntimeError) as error:  # the latter where there are not as many addresses
                raise ValueError(f"not readable as safetensors ({error})") from error


def said(error: ValidationError) -> str:
    """Return the first problem pydantic found, as key, what was given and what was expected."""
    first = error.errors(include_url=False)[0]
    text = "nothing" if first["type"] == "missing" else repr(first["input"])
    got = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
    where = "".join(f"{part}." for part in first["loc"])[:-1]
    return f"{where or 'all'}: got {got}, expected: {first['msg'].removeprefix('Input should be ')}"


def describe(tensor: Tensor) -> str:
    """Return type and shape of a tensor: "float32 [2, 3]"."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def misfits(got: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Return a line for each tensor, described by name, that is wrong, missing or unexpected; of many the first."""
    wrong = [f"{n}: got {got[n]}, expected {expected[n]}" for n in expected if n in got and got[n] != expected[n]]
    missing = [f"{n}: missing, expected {expected[n]}" for n in expected if n not in got]
    unexpected = [f"{n}: unexpected, got {got[n]}" for n in got if n not in expected]
    found: list[str] = []
    for lines in (wrong, missing, unexpected):
        found += lines[:_LISTED] + ([f"... and {len(lines) - _LISTED} more like it"] if len(lines) > _LISTED else [])
    return found
