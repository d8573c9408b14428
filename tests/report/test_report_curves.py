from report_standin import WARMUP, html, make_experiment, make_lines, make_record, make_scene, phases

from multiebm.report.curves import curves_section, training_panels
from multiebm.report.record import RollBack


def panels(**changes):
    return {panel.title: panel for panel in training_panels(make_record(**changes))}


def section(**changes) -> str:
    return html(curves_section(make_scene(**changes)))


def test_a_curve_shows_exactly_the_logged_points():
    found = panels()
    (bound,) = found["Bound"].series
    assert (bound.label, list(bound.x)) == ("bound alone", [2, 4, 6, 8, 10])
    assert list(bound.y) == [98.0, 96.0, 94.0, 92.0, 90.0]
    (gap,) = found["Energy gap"].series
    assert list(gap.y) == [line["energy/gap"] for line in make_lines() if "energy/gap" in line]
    assert [s.label for s in found["Log-likelihood"].series] == ["up"]


def test_panels_without_data_are_left_out():
    assert set(panels()) == {"Bound", "Energies", "Energy gap", "Log-likelihood"}
    assert panels(lines=[]) == {}


def test_points_that_were_not_finite_are_passed_over():
    lines = [{"step": s, "energy/gap": None if s == 2 else 1.0} for s in (1, 2, 3)]
    (gap,) = panels(lines=lines)["Energy gap"].series
    assert list(gap.x) == [1, 3]


def test_the_change_of_phase_and_roll_backs_are_marked_where_the_chart_reaches():
    lines = [{"step": s, "log_likelihood/up": 1.0} for s in range(0, 40, 2)]
    found = panels(lines=lines, rollbacks=[RollBack(35, 20), RollBack(99, 90)])
    marks = found["Log-likelihood"].marks
    assert [(m.x, m.label, m.fault) for m in marks] == [(WARMUP, "cooperative", False), (20, "", True)]
    assert panels()["Energies"].marks == []  # begins after the warm-up


def test_a_phase_that_comes_again_begins_where_it_does():
    again = make_experiment(training={"phases": [*phases(10), {"kind": "bound", "steps": 20}]})
    lines = [{"step": s, "log_likelihood/up": 1.0} for s in range(0, 330, 2)]
    marks = panels(lines=lines, experiment=again)["Log-likelihood"].marks
    assert [(m.x, m.label) for m in marks] == [(10, "cooperative"), (310, "bound")]


def test_the_section_says_what_the_lines_mean():
    plain = section()
    assert "A dotted line is where a phase begins: cooperative at step 10." in plain
    assert "The guard never had to roll back." in plain
    rolled = section(rollbacks=[RollBack(25, 20)])
    assert "roll-backs of the guard after a divergence: step 25 back to 20." in rolled
    cold = section(experiment=make_experiment(training={"phases": phases(0)}))
    assert "All steps are of one phase: cooperative." in cold
    warm = section(experiment=make_experiment(training={"phases": phases(500)}))
    assert "All steps are of one phase: bound." in warm


def test_a_run_without_metrics_has_a_sentence_instead():
    empty = section(lines=[])
    assert "Left out: the run folder has no metrics.jsonl" in empty
    assert "<svg" not in empty
