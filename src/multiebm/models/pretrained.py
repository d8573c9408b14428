"""A trained model as a folder: `model.json` says what it is, a safetensors file holds the weights. No pickle anywhere.

`model.json` names its weights file, whose name contains a part of its checksum. Renaming `model.json` into place is
therefore the one moment at which a save happens: before it the folder holds the old model, after it the new one.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from multiebm.core.errors import CheckpointError, ConfigError, OutputError
from multiebm.core.files import replace_file, why_not_written
from multiebm.core.modality import Modality
from multiebm.nn.precision import precision_of

FORMAT = "multiebm-model"
VERSION = 1
HEADER = "model.json"
_WEIGHTS = "weights-{}.safetensors"


class Pretrained(NamedTuple):
    """The verified content of a folder. `blueprint` is what the builder of the model was given, as plain values."""

    blueprint: dict[str, Any]
    modalities: dict[str, Modality]
    precision: str
    tensors: dict[str, Tensor]


def write_pretrained(
    model: nn.Module, modalities: dict[str, Modality], blueprint: dict[str, Any], folder: Path
) -> None:
    """Write `model` so that `read_pretrained` returns these very tensors; a kill at any moment leaves a whole model.

    OutputError when the folder holds other things, or cannot be written (what it held before is then intact).
    """
    if not blueprint:
        raise ConfigError("save_pretrained: got a model put together by hand, expected one from multiebm.build")
    if folder.exists() and not (folder / HEADER).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder}: got a folder with other files, expected a new or empty one; choose another name")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    data = safetensors.torch.save(state)
    digest = hashlib.sha256(data).hexdigest()
    weights = folder / _WEIGHTS.format(digest[:12])
    header = {
        "format": FORMAT,
        "version": VERSION,
        "model": blueprint,
        "precision": precision_of(model),
        "modalities": [m.to_json() for m in modalities.values()],
        "weights": {"file": weights.name, "bytes": len(data), "sha256": digest},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(weights, data)
        replace_file(folder / HEADER, json.dumps(header, indent=1).encode())
        for old in folder.glob(_WEIGHTS.format("*")):
            if old != weights:
                old.unlink()
    except OSError as error:
        raise OutputError(
            f"{folder}: {why_not_written(error)}; free space or choose another folder, then save again"
        ) from error


def read_pretrained(folder: Path) -> Pretrained:
    """Read and verify a folder; CheckpointError names the file, what it holds, what was expected, and the fix."""
    header = _read_header(folder / HEADER)
    expected = header["weights"]
    file = folder / Path(expected["file"]).name  # a name only: a header cannot point outside its folder
    data = _read_bytes(file)
    if len(data) != expected["bytes"]:
        what = "truncated" if len(data) < expected["bytes"] else "too long"
        raise CheckpointError(
            f"{file}: {what}: got {len(data)} bytes, expected {expected['bytes']}; copy it again or save it again"
        )
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected["sha256"]:
        raise CheckpointError(
            f"{file}: damaged: got sha256 {digest[:16]}, expected {expected['sha256'][:16]}; "
            "copy it again or save it again"
        )
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{file}: not readable as safetensors ({error}); save it again") from error
    modalities = [Modality.from_json(values) for values in header["modalities"]]
    return Pretrained(header["model"], {m.name: m for m in modalities}, header["precision"], tensors)


def load_weights(model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Copy `tensors` into `model`, layouts kept; CheckpointError lists misfit names and shapes, nothing changed."""
    own = model.state_dict()
    problems = [f"{name}: missing" for name in own if name not in tensors]
    problems += [f"{name}: unexpected" for name in tensors if name not in own]
    problems += [
        f"{name}: got {list(tensors[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        listed = "\n  ".join(problems[:8] + ([f"... and {len(problems) - 8} more"] if len(problems) > 8 else []))
        raise CheckpointError(
            f"{where}: the weights are of another architecture than the one described in {HEADER}:\n  {listed}\n"
            "Restore the model.json that was saved with them."
        )
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def _read_header(file: Path) -> dict[str, Any]:
    try:
        header = json.loads(_read_bytes(file))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file}: not readable as JSON ({error}); copy it again or save it again") from error
    kind = header.get("format") if isinstance(header, dict) else None
    if kind != FORMAT:
        raise CheckpointError(f"{file}: got format {kind!r}, expected {FORMAT!r}; this is not a saved model")
    if header.get("version") != VERSION:
        raise CheckpointError(
            f"{file}: got model version {header.get('version')!r}, expected {VERSION}; load it with the multiebm "
            "release that wrote it, or train again"
        )
    if missing := [key for key in ("model", "precision", "modalities", "weights") if key not in header]:
        raise CheckpointError(f"{file}: damaged: {', '.join(missing)} missing; copy it again or save it again")
    return header


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{file}: cannot be read ({error.strerror}); expected a folder that save_pretrained wrote"
        ) from error
