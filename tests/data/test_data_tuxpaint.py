"""Stamps of Tux Paint: what belongs to one, what is missing where, and sounds as pictures."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile
import torch
from PIL import Image

from multiebm.core.errors import ConfigError, DataError
from multiebm.data import load_dataset
from multiebm.data.picture_files import read_on_white
from multiebm.data.sound_files import SECONDS, read_sound, spectrogram
from multiebm.data.tuxpaint import find_stamps, read_captions
from small_downloads import COLOURS, TONES, write_tuxpaint, write_wav

PARTS = ("picture", "caption", "sound", "speech")
STAMPS = Path("/usr/share/tuxpaint/stamps")


@pytest.fixture
def folder(tmp_path):
    return write_tuxpaint(tmp_path / "files")


def load(folder: Path, cache: Path, **settings):
    small = {"folder": str(folder), "cache_folder": str(cache), "size": 16, "min_count": 1}
    return load_dataset("tuxpaint", small | settings)


def rows_by_caption(data) -> dict[str, tuple[str, int]]:
    return {
        said: (split, row)
        for split in ("train", "test")
        for row, said in enumerate(data.modalities["caption"].show(data.split(split).views["caption"]))
    }


def present(data, caption: str) -> dict[str, bool]:
    split, row = rows_by_caption(data)[caption]
    return dict(zip(data.modalities, data.split(split).present[row].tolist(), strict=True))


def test_parts_are_missing_where_stamps_have_no_file(folder, tmp_path):
    data = load(folder, tmp_path / "cache", language="fr")
    assert (tuple(data.modalities), len(data.train), len(data.test), data.n_classes) == (PARTS, 10, 2, None)
    for kind in ("oiseau", "grenouille"):
        for i in range(6):
            expected = {"picture": i > 0, "caption": True, "sound": i % 2 == 1, "speech": i < 5}
            assert present(data, f"voici {kind} {i}.") == expected
    counts = data.train.present.sum(0) + data.test.present.sum(0)
    assert counts.tolist() == [10, 12, 6, 10]


def test_english_is_the_first_line_and_a_part_without_any_file_is_left_out(folder, tmp_path):
    data = load(folder, tmp_path / "cache")
    assert tuple(data.modalities) == PARTS[:3]  # nobody speaks English here
    assert tuple(load(folder, tmp_path / "cache", sounds=False).modalities) == PARTS[:2]
    assert sorted(rows_by_caption(data)) == [f"a {kind} called {i}." for kind in ("bird", "frog") for i in range(6)]
    file = folder / "animals" / "frog_2.txt"
    assert read_captions(file) == {"en": "A frog called 2.", "fr": "Voici grenouille 2."}


def test_values_are_those_of_the_files(folder, tmp_path):
    data = load(folder, tmp_path / "cache", size=40)
    stamps = find_stamps(folder, "en", True)
    assert [s.files.get("picture", Path("-")).stem for s in stamps[:3]] == ["-", "bird_1", "bird_2"]
    assert [s.captions["en"] for s in stamps[5:7]] == ["A bird called 5.", "A frog called 0."]
    split, row = rows_by_caption(data)["a bird called 3."]
    picture, sound = (data.split(split).views[part][row].numpy() for part in ("picture", "sound"))
    assert (picture[:, 0, 0] == 255).all()  # white
    assert np.array_equal(picture[:, 20, 20], COLOURS[0])
    assert np.array_equal(sound, spectrogram(*read_sound(folder / "animals" / "birds" / "bird_3.wav"), 40))
    split, row = rows_by_caption(data)["a bird called 0."]
    assert not data.split(split).views["picture"][row].any()


def test_the_same_folder_gives_the_same_split_and_a_file_that_changed_another_cache(folder, tmp_path):
    one, again, anew = (load(folder, tmp_path / cache) for cache in ("cache", "cache", "other"))
    assert one.fingerprint == again.fingerprint == anew.fingerprint
    assert rows_by_caption(one) == rows_by_caption(anew)
    assert (len(load(folder, tmp_path / "cache", limit=5).train), len(one.train)) == (4, 10)
    write_wav(folder / "animals" / "frog_1.wav", 2000)
    assert load(folder, tmp_path / "cache").fingerprint != one.fingerprint


def test_a_tone_is_a_line_at_its_height_and_silence_is_black(tmp_path):
    write_wav(tmp_path / "tone.wav", 1000, seconds=1.0)
    samples, rate = read_sound(tmp_path / "tone.wav")
    assert (rate, len(samples)) == (8000, 8000)
    assert np.abs(samples).max() == pytest.approx(20_000 / 32_767, abs=1e-3)
    picture = spectrogram(samples, rate, 64)[0].astype(int)
    mel = 2595 * np.log10(1 + np.array([50, 8000, 1000]) / 700)
    height = (mel[2] - mel[0]) / (mel[1] - mel[0]) * 65 - 1  # bands from the lowest
    assert picture[:, 10].argmax() == pytest.approx(63 - height, abs=1)
    assert picture[:, 10].max() >= 250
    assert (picture[:, 40:] == 0).all()  # silent from 1 s of SECONDS on
    assert SECONDS == 2
    assert not spectrogram(np.zeros(100), rate, 16).any()
    loud, quiet = (spectrogram(factor * samples, rate, 32) for factor in (1.0, 0.01))
    assert np.array_equal(loud, quiet)


def test_channels_are_averaged_and_other_rates_are_read_alike(tmp_path):
    write_wav(tmp_path / "mono.wav", TONES["frog"], rate=8000)
    write_wav(tmp_path / "fast.wav", TONES["frog"], rate=22_050)
    mono, fast = (read_sound(tmp_path / name) for name in ("mono.wav", "fast.wav"))
    scipy.io.wavfile.write(tmp_path / "two.wav", 8000, np.stack([mono[0], 0 * mono[0]], 1).astype(np.float32))
    assert np.allclose(read_sound(tmp_path / "two.wav")[0], mono[0] / 2, atol=1e-6)
    alike = np.abs(spectrogram(*mono, 32).astype(int)[:, :, :6] - spectrogram(*fast, 32)[:, :, :6])
    assert alike[:, 20:].mean() < 5


def test_a_picture_lies_whole_on_a_white_square(tmp_path):
    Image.new("RGB", (20, 10), (0, 0, 0)).save(tmp_path / "wide.png")
    wide = read_on_white(tmp_path / "wide.png", 20)
    assert wide.shape == (3, 20, 20)
    assert (wide[:, 5:15] == 0).all()
    assert (wide[:, :5] == 255).all()
    assert (wide[:, 15:] == 255).all()
    Image.new("LA", (10, 10), (0, 128)).save(tmp_path / "half.png")
    assert read_on_white(tmp_path / "half.png", 4)[0, 0, 0] == pytest.approx(127, abs=1)


def test_what_cannot_be_read_is_named_before_work_starts(folder, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"nowhere: got 0 stamps, .* install tuxpaint-stamps-default, or set"):
        load(tmp_path / "nowhere", tmp_path / "cache")
    with pytest.raises(ConfigError, match=re.escape("tuxpaint.language: got 'fi', expected one of which there are")):
        load(folder, tmp_path / "cache", language="fi")
    with pytest.raises(ConfigError, match="tuxpaint.size: got 0, expected 1 to 512"):
        load(folder, tmp_path / "cache", size=0)
    file = folder / "animals" / "frog_2.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError, match=r"frog_2.png: got .*, expected a readable picture; install or unpack it again"):
        load(folder, tmp_path / "cache")
    sound = folder / "animals" / "frog_1.wav"
    sound.write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"frog_1.wav: got .*, expected a readable sound; install or unpack it again"):
        load(folder, tmp_path / "cache")
    sound.rename(sound.with_suffix(".ogg"))
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(DataError, match=r"frog_1.ogg: got Ogg Vorbis, .*multiebm\[sounds\].*settings.sounds=false"):
        load(folder, tmp_path / "cache")


def test_the_collection_of_debian_is_read_where_it_is_installed(tmp_path):
    if not STAMPS.is_dir():
        pytest.skip(f"no stamps at {STAMPS}; apt-get install tuxpaint-stamps-default")
    data = load(STAMPS, tmp_path, sounds=False, limit=40)
    assert (len(data.train), len(data.test)) == (32, 8)
    stamps = find_stamps(STAMPS, "en", True)
    frog = next(s for s in stamps if s.files.get("picture") == STAMPS / "animals/amphibians/frog.png")
    assert frog.captions["en"] == "A frog."
    assert frog.files["sound"] == STAMPS / "animals/amphibians/frog.ogg"
    assert torch.is_tensor(data.train.views["picture"])
