import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from report_standin import (
    PICTURES,
    VECTORS,
    data_uris,
    inside,
    make_dataset,
    make_evaluation,
    make_experiment,
    make_record,
    make_scene,
)

from multiebm.core.errors import CheckpointError, ConfigError, OutputError
from multiebm.core.files import write_json
from multiebm.core.keys import RUN
from multiebm.experiments.folder import describe_run
from multiebm.experiments.load import dump_experiment
from multiebm.experiments.saved import save_pretrained
from multiebm.modalities.base import Shows
from multiebm.modalities.vector import Vector
from multiebm.report.page import render, write_report
from small_models import small_model

ORDER = ["headline", "samples", "cross", "chains", "interpolation", "curves", "metrics", "configuration"]
VOID = {"img", "meta", "link", "br", "hr", "input"}


class Tags(HTMLParser):
    """Collect attributes and check that every element is closed in turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page() -> str:
    return render(make_scene(evaluation=make_evaluation()))


def test_all_sections_are_there_in_order_and_linked(page: str):
    assert re.findall(r'<section id="(\w+)">', page) == ORDER
    assert re.findall(r'<a href="#(\w+)">', page) == ORDER[1:]


def test_each_section_has_its_pictures(page: str):
    m = len(PICTURES)
    expected = {"samples": 4 * m, "cross": 2 * m * (m + 1), "chains": 3 * 2 * m, "interpolation": 2 * m}
    assert {name: len(data_uris(inside(page, name))) for name in ORDER} == {
        name: expected.get(name, 0) for name in ORDER
    }


def test_the_page_is_whole_and_refers_to_nothing_outside(page: str):
    references = [v for k, v in Tags(page).attributes if k in ("src", "href", "xlink:href", "action", "data", "poster")]
    assert all(v is not None and v.startswith(("data:image/png;base64,", "#")) for v in references)
    assert "http" not in page
    assert "<script" not in page
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_the_page_is_for_both_modes_and_for_phones(page: str):
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport" content="width=device-width' in page
    assert "$" not in re.sub(r"data:image[^\"]*", "", page)  # nothing of the template is left over


def test_every_picture_says_what_it_shows(page: str):
    assert page.count("<img") == len(re.findall(r'<img src="[^"]*" alt="[^"]+"', page))


def test_the_same_run_gives_the_same_page(page: str):
    assert render(make_scene(evaluation=make_evaluation())) == page


def test_a_bare_model_gives_a_page_that_says_what_is_missing():
    model = small_model(PICTURES, private=0, energy=None).eval()
    scene = make_scene()._replace(model=model, record=make_record(lines=[]))
    bare = render(scene)
    Tags(bare)
    for sentence in (
        "multiebm evaluate",
        "Left out: the run folder has no metrics.jsonl",
    ):
        assert sentence in bare
    assert "EBM" not in bare
    assert "the model has no energy" not in bare
    assert len(data_uris(inside(bare, "samples"))) == 2 * len(PICTURES)


@pytest.mark.parametrize(
    ("data", "title"), [("mine.csv", "mine.csv: trial"), ("arrays", "trial: up, down"), ("trial", "trial: up, down")]
)
def test_the_title_names_the_run_and_its_parts_where_data_have_no_name(data: str, title: str):
    scene = make_scene(name="trial")
    page = render(scene._replace(dataset=replace(scene.dataset, name=data)))
    assert f"<title>{title}</title>" in page


def test_names_of_a_user_are_escaped_everywhere(monkeypatch):
    """Modalities cannot bear such names; the page escapes them all the same."""
    monkeypatch.setattr("multiebm.experiments.build.name_problem", lambda name: None)
    evil = 'a"><script>$x</script>'
    modalities = {evil: PICTURES["up"], "b": PICTURES["down"], f"{evil}v": VECTORS["left"]}
    named = {name: replace(m, name=name) for name, m in modalities.items()}
    lines = [{"step": s, f"log_likelihood/{evil}": 1.0, "log_likelihood/b": 2.0} for s in (1, 2)]
    scene = make_scene(named, name=evil, lines=lines, config_text=evil, evaluation=make_evaluation(tuple(named)))
    page = render(scene)
    Tags(page)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 20


@dataclass(frozen=True)
class Words(Vector):
    """A kind that shows itself as text."""

    shows: ClassVar[Shows] = "text"

    def show(self, raw):
        return [f"<i>{value:.1f}\nwords" for value in raw[:, 0].tolist()]


def test_texts_are_listed_and_escaped_wherever_pictures_are_drawn():
    page = render(make_scene({"up": PICTURES["up"], "caption": Words("caption", (2,))}))
    Tags(page)
    assert "<i>" not in page
    assert all(re.fullmatch(r"&lt;i&gt;-?\d+\.\d words", line) for line in re.findall("<li>(.*?)</li>", page))
    lists = {name: [ul.count("<li>") for ul in inside(page, name).split('<ul class="lines">')[1:]] for name in ORDER}
    assert lists["samples"] == [8, 8, 8]  # Gen, EBM and real
    assert lists["cross"] == [4] * 6  # given once and generated twice, before and after the data chain
    assert lists["interpolation"] == [8]
    assert len(lists["chains"]) == 9  # three chains at three steps


def write_run_folder(folder: Path) -> Path:
    folder.mkdir()
    dataset, model = make_dataset(PICTURES), make_scene().model
    experiment = make_experiment()
    (folder / "config.yaml").write_text(dump_experiment(experiment))
    write_json(folder / RUN, describe_run(dataset, model, experiment))
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss/elbo": 2.0}\n{"step": 2, "loss/elbo": 1.0}\n')
    save_pretrained(model, folder / "model")
    return folder


def test_a_run_folder_gets_its_page_of_what_was_saved(tmp_path: Path):
    folder = write_run_folder(tmp_path / "trial")
    file = write_report(folder, dataset=make_dataset(PICTURES))
    assert file == folder / "report.html"
    saved = file.read_text()
    Tags(saved)
    assert "<h1>small: trial</h1>" in saved
    assert data_uris(inside(saved, "samples")) == data_uris(inside(render(make_scene()), "samples"))
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.yaml",
        "metrics.jsonl",
        "model",
        "report.html",
        "run.json",
    ]


def test_other_data_than_the_runs_are_refused(tmp_path: Path):
    folder = write_run_folder(tmp_path / "trial")
    other = replace(make_dataset(PICTURES), fingerprint="e" * 64)
    with pytest.raises(ConfigError, match="fingerprint"):
        write_report(folder, dataset=other)
    assert not (folder / "report.html").exists()


def test_a_run_on_data_of_python_gets_a_page_without_them_that_says_how_to_get_the_rest(tmp_path: Path, caplog):
    folder = write_run_folder(tmp_path / "trial")
    page = write_report(folder, progress=False).read_text()  # the configuration names polydigits
    Tags(page)
    assert "the report leaves out what needs the run's data" in caplog.text
    assert "write_report(folder, dataset=...)" in inside(page, "headline")
    assert "small, up 3 x 8 x 8, down 1 x 8 x 8, 40 training items" in inside(page, "headline")
    assert "<h1>small: trial</h1>" in page
    assert "Data: Somebody (2020)" in page
    for name in ("samples", "cross", "chains"):
        assert "it needs the run&#39;s data, which are not at hand" in inside(page, name)
    whole = render(make_scene())
    gen = data_uris(inside(whole, "samples"))[:2]
    assert data_uris(inside(page, "samples"))[:2] == gen
    assert data_uris(inside(page, "interpolation")) == data_uris(inside(whole, "interpolation"))
    assert data_uris(inside(page, "cross")) == []
    assert inside(page, "chains").count("<svg") == 2  # of the data chain and of the prior's


def test_a_run_without_a_model_and_a_folder_without_a_run_are_refused(tmp_path: Path):
    with pytest.raises(OutputError, match="expected a run folder"):
        write_report(tmp_path)
    (tmp_path / "config.yaml").write_text(dump_experiment(make_experiment()))
    with pytest.raises(CheckpointError):
        write_report(tmp_path)


def test_a_model_that_diverged_still_gets_a_page():
    scene = make_scene(PICTURES | VECTORS)
    with torch.no_grad():
        for part in (scene.model.energy, scene.model.generator.decoders["up"]):
            next(part.parameters()).fill_(torch.nan)  # type: ignore[union-attr]
    page = render(scene)
    Tags(page)
    assert "Mean energy nan at the start" in page
