"""A saved model comes back as it was, alone; a folder that is damaged or of another kind says so."""

import hashlib
import json
import math
import os
import re
import resource
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import multiebm
from multiebm.core.errors import CheckpointError, ConfigError, DivergenceError, OutputError
from multiebm.core.files import sealed
from multiebm.core.random import item_generators
from multiebm.experiments.build import find_device
from multiebm.experiments.saved import find_model, from_pretrained, save_pretrained
from multiebm.modalities import Vector
from multiebm.models.model import MultimodalModel
from multiebm.models.saving import HEADER, check_model_folder
from multiebm.nn.precision import Mixed, set_precision
from small_models import energy_prior, mixed, random_views, small_model, whole


def everything(model: MultimodalModel) -> list[torch.Tensor]:
    """What every part of a model returns for one input."""
    model.eval()
    batch = whole(random_views(model.modalities, 3))
    latents = model.infer_latents(batch, item_generators(0, 3), latent_steps=2)
    refined, _ = model.refine_data(model.decode(latents), item_generators(1, 3))
    energies = model.log_density_unnorm(batch.views)
    return [*latents.values(), *refined.values(), energies, *model.sample(2, None).values()]


def saved_model(folder: Path, **sections: Any) -> MultimodalModel:
    modalities = mixed() | {"left": Vector("left", (2,), (1.0, -2.0), (0.5, 3.0))}
    model = small_model(modalities, prior=energy_prior(), **sections)
    save_pretrained(model, folder)
    return model


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the description as one who knows how to seal it."""
    header = json.loads((folder / HEADER).read_text())
    del header["sha256"]
    change(header)
    (folder / HEADER).write_bytes(sealed(header))


def put(values: Any, path: str, value: Any) -> None:
    """Set what is at a dotted path of nested values."""
    *above, last = path.split(".")
    for key in above:
        values = values[int(key) if isinstance(values, list) else key]
    values[int(last) if isinstance(values, list) else last] = value


def refusal(folder: Path) -> str:
    """Why a folder is not loaded."""
    with pytest.raises(CheckpointError) as raised:
        from_pretrained(folder)
    return str(raised.value)


def weights_file(folder: Path) -> Path:
    (file,) = folder.glob("weights-*.safetensors")
    return file


def test_a_temperature_set_after_building_is_saved(tmp_path: Path):
    model = small_model(mixed())
    model.generator.temperature = 0.25
    save_pretrained(model, tmp_path / "model")
    assert torch.equal(from_pretrained(tmp_path / "model").sample(2)["left"], model.sample(2)["left"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("folder", ["model", "run/model"])
def test_a_model_comes_back_with_the_same_outputs_bit_for_bit(folder: str, precision: str, tmp_path: Path):
    model = small_model(mixed() | {"left": Vector("left", (2,), (1.0, -2.0), (0.5, 3.0))}, private=1)
    set_precision(model, precision)
    with torch.no_grad():
        model.displacement.fill_(0.0123)  # what steering left
    save_pretrained(model, tmp_path / folder)
    again = from_pretrained(tmp_path / folder.partition("/")[0])
    assert again.modalities == model.modalities
    assert {part.bf16 for part in again.modules() if isinstance(part, Mixed)} == {precision == "bf16"}
    for ours, theirs in zip(everything(model), everything(again), strict=True):
        assert torch.equal(ours, theirs)


def test_saving_again_replaces_the_model_and_nothing_else(tmp_path: Path):
    saved_model(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    second = saved_model(tmp_path, shared=4)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["README.md", HEADER, weights_file(tmp_path).name])
    assert torch.equal(from_pretrained(tmp_path).state_dict()["displacement"], second.displacement)
    assert from_pretrained(tmp_path).generator.prior.dim == 4  # type: ignore[union-attr]


def test_a_save_that_is_killed_before_its_last_rename_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = everything(saved_model(tmp_path))
    real = multiebm.models.saving.replace_file  # type: ignore[attr-defined]

    def killed(path: Path, data: bytes) -> None:
        if path.name == HEADER:
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr("multiebm.models.saving.replace_file", killed)
    with pytest.raises(OutputError, match="the disk is full"):
        saved_model(tmp_path, shared=4)
    for ours, theirs in zip(before, everything(from_pretrained(tmp_path)), strict=True):
        assert torch.equal(ours, theirs)


def test_a_folder_with_other_things_is_not_written_to(tmp_path: Path):
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(OutputError, match="got a folder with other files, expected a new or empty one"):
        saved_model(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_truncated_or_altered_file_is_named_with_sizes_and_checksums(tmp_path: Path):
    saved_model(tmp_path)
    file = weights_file(tmp_path)
    data = file.read_bytes()
    file.write_bytes(data[:-7])
    with pytest.raises(CheckpointError, match=f"truncated: got {len(data) - 7} bytes, expected {len(data)}") as raised:
        from_pretrained(tmp_path)
    assert str(file) in str(raised.value)
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"damaged: got sha256 \w{16}, expected \w{16}; copy it again"):
        from_pretrained(tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        from_pretrained(tmp_path)


def test_another_version_or_format_is_refused(tmp_path: Path):
    saved_model(tmp_path)
    edit(tmp_path, lambda header: header.update(version=1))
    release = re.escape(version("multiebm"))
    said = rf"got saved model version 1, expected 3; load it with the multiebm release that wrote it \({release}\)"
    with pytest.raises(CheckpointError, match=said):
        from_pretrained(tmp_path)
    edit(tmp_path, lambda header: header.update(format="other"))
    with pytest.raises(CheckpointError, match="got format 'other', expected 'multiebm-model'"):
        from_pretrained(tmp_path)
    (tmp_path / HEADER).write_text("{")
    with pytest.raises(CheckpointError, match="not readable as JSON"):
        from_pretrained(tmp_path)


def test_weights_of_another_architecture_are_refused_and_the_shapes_named(tmp_path: Path):
    saved_model(tmp_path)
    edit(tmp_path, lambda header: header["model"].update(shared=5))
    with pytest.raises(CheckpointError, match="of another architecture") as raised:
        from_pretrained(tmp_path)
    assert "got float32 [8, 3], expected float32 [8, 5]" in str(raised.value)  # the first layer of the prior's tilt
    edit(tmp_path, lambda header: header["model"].update(shared=3, energy=None))
    with pytest.raises(CheckpointError, match="unexpected"):
        from_pretrained(tmp_path)
    edit(tmp_path, lambda header: header["model"].update(colour="red"))
    with pytest.raises(CheckpointError, match="a description this release does not know .model.colour"):
        from_pretrained(tmp_path)
    edit(tmp_path, lambda header: header.pop("files"))
    with pytest.raises(CheckpointError, match="files: got nothing, expected"):
        from_pretrained(tmp_path)


def test_no_character_of_a_description_can_change_unseen(tmp_path: Path):
    """Also not the last digit of a number, where the next one would be rounded to the same."""
    modalities = mixed(1) | {"left": Vector("left", (2,), (0.1 + 0.2, 1e22), (2 / 3, 1e-7))}
    save_pretrained(small_model(modalities, private=0, energy=None), tmp_path)
    file = tmp_path / HEADER
    text = file.read_text()
    for i, old in enumerate(text):
        if old.isdigit() or (not old.isspace() and i % 4 == 0):
            new = str((int(old) + 1) % 10) if old.isdigit() else chr(ord(old) ^ 1)
            file.write_text(text[:i] + new + text[i + 1 :])
            assert str(file) in refusal(tmp_path), text[max(0, i - 10) : i + 10]
    file.write_text(text.replace("\n", "\r\n"))  # as some tools leave texts: the same values
    assert from_pretrained(tmp_path).modalities == modalities


def test_a_key_that_is_removed_or_added_is_seen(tmp_path: Path):
    saved_model(tmp_path)
    whole = json.loads((tmp_path / HEADER).read_text())
    for section in ("", "model", "model.prior", "files.0", "modalities.0"):
        keys = whole
        for key in section.split(".") if section else ():
            keys = keys[int(key) if isinstance(keys, list) else key]
        for changed in [*keys, "new"]:
            less = {key: value for key, value in keys.items() if key != changed}
            other = json.loads(json.dumps(whole))
            if section:
                put(other, section, less if changed in keys else keys | {"new": 1})
            else:
                other = less if changed in keys else keys | {"new": 1}
            (tmp_path / HEADER).write_text(json.dumps(other))
            assert HEADER in refusal(tmp_path)


WRONG = {
    "files": ["a text", None, [], {}, [{}, {}]],
    "files.0.name": ["../../etc/passwd", "/etc/passwd", "weights-xyz.safetensors", 3],
    "files.0.bytes": ["12", -1, 1.5, True],
    "files.0.sha256": [3, "abc"],
    "precision": ["fp8", None],
    "modalities": [{}, [], ["left"], "left"],
    "modalities.1.kind": ["sound", 3, None],
    "modalities.1.name": ["", 5, None, "\ud800", "../x", "/etc/x", "a.b", "face", "shared"],
    "modalities.0.shape": [[3, 8], [3, -8, 8], [0, 8, 8], [3.0, 8, 8], [True, 8, 8], "3", None, [3, 10**9, 10**9]],
    "modalities.1.shape": [[10**9], [10**30], [], [[2]], [3]],
    "modalities.1.loc": [[1.0], [1.0, 2.0, 3.0], ["a", 1.0], None, 0.0, [1.0, math.inf], [1.0, math.nan]],
    "modalities.1.scale": [[1.0, 0.0], [1.0, -1.0], [1.0, math.nan], [1.0], [], None],
    "model": [[], None, "demo"],
    "model.shared": ["3", 0, -1, 10**12, 10**30, 2.5],
    "model.likelihood.scale": [math.inf, 0.0, "0.3"],
    "model.likelihood.weights": [{"nobody": 1.0}, {"\ud800": 1.0}, {"face": -1.0}],
    "model.networks.vector.width": [30_000],
    "model.networks.picture.width": [10**6],
    "model.energy.width": [10**5],
    "model.energy.blocks": [1, 10**9],
    "model.prior.layers": [10**9],
    "model.prior.components": [1000],
}


def test_whatever_a_sealed_description_says_is_checked_before_anything_is_built(tmp_path: Path):
    """Each answer within a second, all of them within the memory a process of torch has anyway."""
    saved_model(tmp_path)
    whole = (tmp_path / HEADER).read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path, values in WRONG.items():
        for value in values:
            edit(tmp_path, lambda header, path=path, value=value: put(header, path, value))
            began = time.perf_counter()
            text = refusal(tmp_path)
            assert time.perf_counter() - began < 3, path  # some hundredths; the machine may be busy
            assert HEADER in text, text
            text.encode()  # can be printed
            (tmp_path / HEADER).write_bytes(whole)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert from_pretrained(tmp_path).modalities["left"].loc == (1.0, -2.0)


def test_what_was_given_and_expected_is_said(tmp_path: Path):
    saved_model(tmp_path)
    whole = (tmp_path / HEADER).read_bytes()
    for path, value, expected in [
        ("files", "a text", "files: got 'a text', expected: a valid list"),
        (
            "modalities.1.kind",
            "sound",
            "1.*got kind 'sound', expected picture or text or category or counts or vector; .* package to install",
        ),
        ("modalities.1.scale", [1.0, 0.0], "modalities.1.*scale.*expected: greater than 0"),
        ("modalities.1.loc", [1.0], "modalities.1.*loc: got 1 of them, expected 2,"),
        ("model.networks.vector.width", 30_000, "it is larger than they are"),
    ]:
        edit(tmp_path, lambda header, path=path, value=value: put(header, path, value))
        assert re.search(expected, refusal(tmp_path))
        (tmp_path / HEADER).write_bytes(whole)


def test_json_that_no_parser_takes_is_refused(tmp_path: Path):
    saved_model(tmp_path)
    for text in [
        "[" * 10**6,
        '{"a":' * 10**5,
        '{"version": ' + "9" * 5000 + "}",
        '"' * 10**6,
        "\xff",
        "",
        "[]",
        "null",
    ]:
        (tmp_path / HEADER).write_bytes(text.encode("latin-1"))
        assert str(tmp_path / HEADER) in refusal(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(value: float, tmp_path: Path):
    model = saved_model(tmp_path)
    file = weights_file(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with torch.no_grad():
        next(model.generator.decoders["left"].parameters()).view(-1)[0] = value
    with pytest.raises(DivergenceError, match="generator.decoders.left.*nothing was saved"):
        save_pretrained(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    file.write_bytes(data)
    entry = {"name": file.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(tmp_path, lambda header: header.update(files=[entry]))
    assert "not finite (in generator.decoders.left" in refusal(tmp_path)


def test_a_weights_file_that_is_none_or_claims_too_much_is_refused_before_it_is_read(tmp_path: Path):
    saved_model(tmp_path)
    file = weights_file(tmp_path)

    def claims(size: int) -> None:
        edit(tmp_path, lambda header: header["files"][0].update(bytes=size))

    header = json.dumps({"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    with file.open("wb") as stream:  # four terabytes, none of which are on the disk
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + 4 * 10**12)
    claims(8 + len(header) + 4 * 10**12)
    assert re.search("x: unexpected|unable to mmap", refusal(tmp_path))  # by how many addresses there are
    file.write_bytes(b"\xff" * 100)
    claims(100)
    assert "not readable as safetensors" in refusal(tmp_path)
    file.unlink()
    os.mkfifo(file)
    claims(0)
    assert "not a file" in refusal(tmp_path)


def test_weights_of_another_type_are_refused(tmp_path: Path):
    model = saved_model(tmp_path)
    data = safetensors.torch.save({n: t.double().contiguous() for n, t in model.state_dict().items()})
    weights_file(tmp_path).write_bytes(data)
    entry = {"name": weights_file(tmp_path).name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(tmp_path, lambda header: header.update(files=[entry]))
    assert "got float64 [4], expected float32 [4]" in refusal(tmp_path)


LEFT = {  # what a kill leaves, by the step of the save before which it came
    "weights, half": lambda weights, header: {f".aside-123-456-{weights[0]}": weights[1][:99]},
    "weights, half, by an older release": lambda weights, header: {f".aside-{weights[0]}": weights[1][:99]},
    "weights": lambda weights, header: {weights[0]: weights[1]},
    "weights and half a description": lambda weights, header: {
        weights[0]: weights[1],
        f".aside-1-2-{HEADER}": header[:9],
    },
    "weights of two saves": lambda weights, header: {weights[0]: weights[1], "weights-0123456789ab.safetensors": b"x"},
    "all, before tidying": lambda weights, header: {
        weights[0]: weights[1],
        HEADER: header,
        "weights-0123456789ab.safetensors": b"old",
    },
}


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_what_a_killed_save_left_is_its_own(left: Any, tmp_path: Path):
    model = saved_model(tmp_path / "whole")
    weights, header = weights_file(tmp_path / "whole"), (tmp_path / "whole" / HEADER).read_bytes()
    (tmp_path / "model").mkdir()
    for name, content in left((weights.name, weights.read_bytes()), header).items():
        (tmp_path / "model" / name).write_bytes(content)
    check_model_folder(tmp_path / "model")
    save_pretrained(model, tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [HEADER, weights.name]
    assert from_pretrained(tmp_path / "model").modalities == model.modalities


def test_a_folder_with_a_foreign_file_beside_leavings_is_refused(tmp_path: Path):
    (tmp_path / "weights-0123456789ab.safetensors").write_bytes(b"x")
    (tmp_path / "weights-mine.safetensors").write_bytes(b"x")
    with pytest.raises(OutputError, match="it has 'weights-mine.safetensors'"):
        saved_model(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_loaded_model_is_in_evaluation_mode_and_scoring_leaves_it_as_it_was(tmp_path: Path):
    saved_model(tmp_path)
    model = from_pretrained(tmp_path)
    assert not any(part.training for part in model.modules())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    views = random_views(model.modalities, 4)
    first = model.log_density_unnorm(views)
    for _ in range(5):
        assert torch.equal(model.log_density_unnorm(views), first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("turned", ["half", "double", "bfloat16"])
def test_weights_turned_into_another_type_are_not_saved(turned: str, tmp_path: Path):
    saved_model(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = getattr(from_pretrained(tmp_path), turned)()
    with pytest.raises(ConfigError, match=r"expected torch.float32; call model.float\(\)"):
        save_pretrained(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_model_loaded_in_inference_mode_or_under_another_default_is_the_same(tmp_path: Path):
    saved_model(tmp_path)
    expected = everything(from_pretrained(tmp_path))
    with torch.inference_mode():
        inside = from_pretrained(tmp_path)
    torch.set_default_dtype(torch.float64)
    try:
        wide = from_pretrained(tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    for model in (inside, wide):
        assert all(torch.equal(a, b) for a, b in zip(everything(model), expected, strict=True))


def test_devices_are_named_alike_everywhere(tmp_path: Path):
    saved_model(tmp_path)
    for device in ("auto", "cpu", torch.device("cpu")):
        assert from_pretrained(tmp_path, device=device).device == find_device(device)
    for wrong in ("tpu", "cuda:99", torch.device("meta"), torch.device("cuda:99"), None, 0):
        with pytest.raises(ConfigError, match="device: got"):
            from_pretrained(tmp_path, device=wrong)  # type: ignore[arg-type]


def test_a_folder_without_a_model_says_what_it_is(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no such folder"):
        find_model(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="a folder without a model"):
        find_model(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="--resume"):
        find_model(tmp_path)


def test_a_model_put_together_by_hand_cannot_be_saved_and_says_why(tmp_path: Path):
    built = small_model(mixed())
    by_hand = MultimodalModel(
        built.modalities, built.inference, built.generator, built.energy, built.data_chain, built.latent_chain
    )
    with pytest.raises(ConfigError, match="expected one from multiebm.build"):
        save_pretrained(by_hand, tmp_path / "model")
