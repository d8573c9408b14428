"""The tutorials run as they stand, block after block."""

import re
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).resolve().parents[1] / "docs" / "tutorials"


@pytest.mark.parametrize("page", sorted(TUTORIALS.glob("*.md")), ids=lambda page: page.stem)
def test_a_tutorial_runs_and_says_what_it_says(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found: dict = {"__name__": "tutorial"}
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 5
    for block in blocks:
        exec(compile(block, page.name, "exec"), found)
    said = capsys.readouterr().out
    assert "mean: 10 numbers; worst: 10 numbers" in said
    error, ridge = map(
        float, re.search(r"from `mean`: ([\d.]+) standard deviations, ridge regression ([\d.]+)", said).groups()
    )
    assert error < 1.1 * ridge
    assert 0.8 < float(re.search(r"90 % intervals: ([\d.]+)", said)[1]) < 1
    assert float(re.search(r"shuffled ones: ([\d.]+)", said)[1]) > 0.9
    assert float(re.search(r"read rightly: ([\d.]+)", said)[1]) > 0.85
    assert "has not been measured" not in (tmp_path / "tumours" / "report.html").read_text()
