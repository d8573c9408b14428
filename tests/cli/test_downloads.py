"""`multiebm data`: what is there, what is missing, and where to have it, before any training."""

from pathlib import Path

import pytest

from multiebm.cli.main import main
from multiebm.data import DATASETS, DOWNLOADS
from multiebm.data.downloads import Download, Needed, is_whole
from small_downloads import write_coco, write_mnist_svhn


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0)


def test_a_whole_download_says_how_to_train_and_exits_with_0(tmp_path, capsys):
    write_mnist_svhn(tmp_path, list(range(10)), [10, *range(1, 10)])
    assert run("data", "mnist_svhn", "--root", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "missing" not in out
    assert out.count("there  ") == 6
    assert f"all there: multiebm train mnist-svhn data.settings.folder={tmp_path} --out RUN" in out


def test_what_is_missing_is_named_with_link_licence_and_citation_and_exits_with_1(tmp_path, capsys):
    write_mnist_svhn(tmp_path, list(range(10)), [10, *range(1, 10)], test=False)
    assert run("data", "mnist_svhn", "--root", str(tmp_path)) == 1
    out, err = capsys.readouterr()
    assert [line.split()[1] for line in out.splitlines() if line.startswith("  missing")] == ["svhn/test_32x32.mat"]
    assert "link: http://ufldl.stanford.edu/housenumbers/" in out
    assert "licence: non-commercial use only" in out
    assert "citation: Y. Netzer" in out
    assert err == f"some of mnist_svhn is missing in {tmp_path}; download it from the link\n"


def test_pictures_are_counted(tmp_path, capsys):
    write_coco(tmp_path, n=3)
    assert run("data", "coco", "--root", str(tmp_path)) == 1
    out = capsys.readouterr().out
    assert "  there    annotations/captions_val2017.json\n" in out
    assert "  missing  train2017/*.jpg: 3 of 118,287 files\n" in out


def test_an_unknown_name_and_a_folder_that_is_not_there(tmp_path, capsys):
    assert run("data", "cup", "--root", str(tmp_path)) == 2
    assert "Did you mean 'cub'?" in " ".join(capsys.readouterr().err.split())
    assert run("data", "cub", "--root", str(tmp_path / "nowhere")) == 1
    assert "missing  CUB_200_2011/images/*/*.jpg: 0 of 11,788 files" in capsys.readouterr().out


def test_any_one_of_several_places_will_do(tmp_path: Path):
    def download(count: int) -> tuple[Download]:
        return (Download("a", "b", "c", "d", "e", (Needed(("x/*.txt", "y/*.txt"), count),)),)

    for name in ("y/1.txt", "y/2.txt", "x/1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert is_whole(tmp_path, download(2))
    assert not is_whole(tmp_path, download(3))


def test_every_download_is_of_a_data_set_and_says_all():
    for name in DOWNLOADS:
        assert name in DATASETS
        for of in DOWNLOADS[name]:
            assert of.files
            assert of.link.startswith("http")
            assert all((of.title, of.size, of.licence, of.citation))
