import re

import numpy as np
import pytest
from report_standin import html

from multiebm.report.figures import (
    PALETTE,
    Cloud,
    Level,
    Mark,
    Panel,
    Series,
    draw_clouds,
    draw_panel,
    draw_points,
    height,
)

PANEL = Panel(
    "Energy <of> things",
    "step",
    "energy",
    [
        Series("Gen", [0, 1, 2], [3.0, 2.0, 1.0], 0, [2.5, 1.5, 0.5], [3.5, 2.5, 1.5]),
        Series("EBM", [0, 1], [1.0, 1.0], 1),
    ],
    [Mark(1, "half"), Mark(2, "", fault=True)],
    [Level(1.5, "data", 2)],
)


@pytest.fixture(scope="module")
def svg() -> str:
    return html(draw_panel(PANEL))


def test_a_chart_refers_to_nothing_outside_and_takes_its_colours_from_the_page(svg: str):
    assert "http" not in svg
    assert "xlink" not in svg
    assert not any(colour in svg for colour in PALETTE)
    for variable in ("currentColor", "var(--line)", "var(--series-0)", "var(--series-1)", "var(--series-2)"):
        assert variable in svg
    assert "font-family" not in svg


def test_a_chart_says_what_it_is_and_labels_its_axes_and_lines(svg: str):
    assert 'role="img" aria-label="Energy &lt;of&gt; things"' in svg
    for label in ("step", "energy", "Gen", "EBM", "data", "half"):
        assert f">{label}</text>" in svg.replace("> ", ">")


def test_the_same_panel_gives_the_same_chart(svg: str):
    assert html(draw_panel(PANEL)) == svg


def test_no_two_charts_share_an_id_that_something_refers_to():
    one, other = html(draw_panel(PANEL)), html(draw_panel(PANEL._replace(title="Another")))
    ids = [set(re.findall(r'id="([^"]+)"', svg)) for svg in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', one)) <= ids[0]


def test_a_single_line_needs_no_legend():
    alone = html(draw_panel(PANEL._replace(series=PANEL.series[:1], levels=())))
    assert ">Gen</text>" not in alone


def test_the_height_covers_lines_bands_and_levels():
    assert height(PANEL) == (0.5, 3.5)
    assert height(PANEL._replace(levels=[Level(-4.0, "")])) == (-4.0, 3.5)


def test_a_settled_panel_disregards_the_first_tenth_and_what_is_not_finite():
    falling = Series("", list(range(20)), [1000.0, 500.0, *[2.0] * 17, float("nan")])
    panel = Panel("", "", "", [falling])
    assert height(panel) == (2.0, 1000.0)
    assert height(panel._replace(settled=True)) == (2.0, 2.0)


def test_a_scatter_chart_draws_every_point_over_the_reference():
    points = np.arange(14.0).reshape(7, 2)  # 7 of each kind, over 3 real ones in both panels
    svg = html(draw_clouds("points", [Cloud("Gen", points, 0), Cloud("EBM", points, 1)], points[:3]))
    assert svg.count("fill: var(--series-0)") == 7
    assert svg.count("fill: var(--series-1)") == 7


def test_labels_of_marks_side_by_side_lie_apart_and_each_is_written_once():
    points = {"one": [(0.0, 0.0)], "two": [(0.1, 0.0)], "far": [(9.0, 9.0), (8.0, 9.0)]}
    svg = html(draw_points("marks", points, "x", "y"))
    places = {name: re.findall(rf'y="([\d.]+)" [^>]*>{name}<', svg) for name in ("one", "two", "far")}
    assert [len(found) for found in places.values()] == [1, 1, 1]
    assert abs(float(places["one"][0]) - float(places["two"][0])) > 8.5  # the size of the letters


def test_points_may_be_coloured_by_class():
    svg = html(draw_clouds("c", [Cloud("", np.zeros((4, 2)), 0, np.array([0, 1, 1, 7]))], np.zeros((1, 2))))
    assert svg.count("fill: var(--series-1)") == 3  # class 7 takes the second of six colours again


def test_vectors_of_one_value_become_histograms():
    values = np.linspace(0, 1, 50)[:, None]
    assert ">density</text>" in html(draw_clouds("h", [Cloud("Gen", values, 0)], values))
    assert ">value 1</text>" in html(draw_clouds("h", [Cloud("Gen", values, 0)], values))
    assert ">age</text>" in html(draw_clouds("h", [Cloud("Gen", values, 0)], values, ["age"]))
    both = html(draw_clouds("h", [Cloud("Gen", np.zeros((3, 2)), 0)], np.zeros((1, 2)), ["age", "weight", "more"]))
    assert ">age</text>" in both
    assert ">weight</text>" in both


def test_a_dollar_sign_in_a_name_is_a_dollar_sign():
    assert ">price $ or $<" in html(draw_panel(PANEL._replace(x_label="price $ or $"))).replace("> ", ">").replace(
        " <", "<"
    )


def test_names_in_any_script_are_kept_as_texts_without_a_warning():
    assert ">温度</text>" in html(draw_panel(PANEL._replace(y_label="温度"))).replace("> ", ">").replace(" <", "<")
