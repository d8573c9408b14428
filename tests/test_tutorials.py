"""The tutorials run as they stand, block after block."""

import re
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).resolve().parents[1] / "docs" / "tutorials"


@pytest.fixture
def run_page(tmp_path, monkeypatch, capsys):
    """Return what runs the page of a name block after block, in an empty folder, and gives its names and its output."""
    monkeypatch.chdir(tmp_path)

    def run(name):
        page, found = TUTORIALS / f"{name}.md", {"__name__": "tutorial"}
        blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
        assert len(blocks) >= 5
        for block in blocks:
            exec(compile(block, page.name, "exec"), found)
        return found, capsys.readouterr().out

    return run


def test_every_page_has_a_test():
    assert {page.stem for page in TUTORIALS.glob("*.md")} == {"own-data", "captions"}


def test_own_data(run_page, tmp_path):
    _, said = run_page("own-data")
    assert "mean: 10 numbers; worst: 10 numbers" in said
    error, ridge = map(
        float, re.search(r"from `mean`: ([\d.]+) standard deviations, ridge regression ([\d.]+)", said).groups()
    )
    assert error < 1.1 * ridge
    assert 0.8 < float(re.search(r"90 % intervals: ([\d.]+)", said)[1]) < 1
    assert float(re.search(r"shuffled ones: ([\d.]+)", said)[1]) > 0.9
    assert float(re.search(r"read rightly: ([\d.]+)", said)[1]) > 0.85
    assert "has not been measured" not in (tmp_path / "tumours" / "report.html").read_text()


def test_captions(run_page):
    found, said = run_page("captions")
    assert "picture: 8x8 RGB pictures; caption: captions of up to 11 of 15 words; 160 rows to train, 40 to test" in said
    assert "squares: got images/new.png: not in captions.csv; expected a picture and a caption in each row" in said
    assert "% of parts missing" in said
    assert float(re.search(r"right as a whole: ([\d.]+)", said)[1]) > 0.4  # 1 in 24 by chance
    pictures = found["pictures"]
    assert pictures[0, :, 0, 4].mean() > 0.8 > 0.2 > pictures[1, :, 0, 4].mean()
    assert pictures[0, :, 3, 1].argmax() == 0
    assert pictures[1, :, 3, 6].argmax() == 2
