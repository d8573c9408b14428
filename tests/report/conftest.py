"""Charts of pages are laid out by a pass of their own, which takes half of their time and changes no content."""

import pytest

from multiebm.report import figures

LAID_OUT = ("test_report_figures", "test_report_page", "test_report_curves")  # as users have them


@pytest.fixture(autouse=True)
def quick_charts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.module.__name__.rpartition(".")[2] not in LAID_OUT:
        plain = figures.Figure
        monkeypatch.setattr(figures, "Figure", lambda figsize, layout: plain(figsize=figsize))
