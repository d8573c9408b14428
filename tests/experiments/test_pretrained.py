"""A saved model comes back as it was, alone; a folder that is damaged or of another kind says so."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import multiebm
from multiebm.core.errors import CheckpointError, ConfigError, OutputError
from multiebm.core.modality import Modality
from multiebm.core.random import item_generators
from multiebm.experiments.pretrained import find_model, from_pretrained, save_pretrained
from multiebm.models.model import MultimodalModel
from multiebm.models.pretrained import HEADER
from multiebm.nn.precision import Mixed, set_precision
from small_models import energy_prior, mixed, random_views, small_model, whole


def everything(model: MultimodalModel) -> list[torch.Tensor]:
    """What every part of a model returns for one input."""
    model.eval()
    batch = whole(random_views(model.modalities, 3))
    latents = model.infer_latents(batch, item_generators(0, 3), refine_steps=2)
    refined, _ = model.refine_data(model.decode(latents), item_generators(1, 3))
    energies = model.log_density_unnorm(batch.views)
    return [*latents.values(), *refined.values(), energies, *model.sample(2, None).values()]


def saved_model(folder: Path, **sections: Any) -> MultimodalModel:
    modalities = mixed() | {"left": Modality("left", "vector", (2,), (1.0, -2.0), (0.5, 3.0))}
    model = small_model(modalities, prior=energy_prior(), **sections)
    save_pretrained(model, folder)
    return model


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    header = json.loads((folder / HEADER).read_text())
    change(header)
    (folder / HEADER).write_text(json.dumps(header))


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
    model = small_model(mixed() | {"left": Modality("left", "vector", (2,), (1.0, -2.0), (0.5, 3.0))}, private=1)
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
    real = multiebm.models.pretrained.replace_file  # type: ignore[attr-defined]

    def killed(path: Path, data: bytes) -> None:
        if path.name == HEADER:
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr("multiebm.models.pretrained.replace_file", killed)
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
    edit(tmp_path, lambda header: header.update(version=2))
    with pytest.raises(CheckpointError, match="got model version 2, expected 1; load it with the multiebm release"):
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
    assert "got [8, 3], expected [8, 5]" in str(raised.value)  # the first layer of the prior's tilt
    edit(tmp_path, lambda header: header["model"].update(shared=3, energy=None))
    with pytest.raises(CheckpointError, match="unexpected"):
        from_pretrained(tmp_path)
    edit(tmp_path, lambda header: header["model"].update(colour="red"))
    with pytest.raises(CheckpointError, match="a description this release does not know .model.colour"):
        from_pretrained(tmp_path)
    edit(tmp_path, lambda header: header.pop("weights"))
    with pytest.raises(CheckpointError, match="weights missing"):
        from_pretrained(tmp_path)


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
