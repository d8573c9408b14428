"""Tables of held-out parts: what the model makes of them beside regression, neighbours and the mean."""

from dataclasses import replace

from report_standin import html, inside, make_evaluation, make_scene

from multiebm.evaluation.result import Evaluation, Result
from multiebm.report.filled import filled_blocks, more_blocks
from multiebm.report.page import render
from multiebm.report.summary import headline_cards, verdict

OF_S = {"rmse": 0.5, "regression": 0.6, "neighbours": 0.7, "mean": 1.0, "over_regression": 0.17, "r2": 0.75}
OF_C = {"log_loss": 0.4, "regression": 0.3, "mean": 0.7, "over_regression": -0.3, "r2": 0.4, "accuracy": 0.9}


def evaluation(**more: float) -> Evaluation:
    values = {f"fill/{key}/s": value for key, value in OF_S.items()}
    values |= {f"fill/{key}/c": value for key, value in OF_C.items()}
    values |= {"fill/coverage90/s": 0.88, "fill/log_likelihood/s": -12.5, "belong/match/s": 0.9, "two_sample": 0.55}
    values |= {f"fill/{key}/s/c": value + 0.1 for key, value in OF_S.items()} | more
    return Evaluation({name: Result(v, 0.01, 400) for name, v in values.items()}, {}, None, "mine", 0, 1.0)


def test_a_row_a_part_beside_what_else_predicts_it():
    (block,) = filled_blocks(evaluation())
    table = block.parts[0]
    marked = [[cell.content for cell in row if not isinstance(cell, str)] for row in table.rows]
    assert marked == [["0.500 ± 0.020"], ["0.300 ± 0.020"]]  # the smallest error of each part
    rows = [[cell if isinstance(cell, str) else cell.content for cell in row] for row in table.rows]
    assert table.head == ["", "model", "regression", "10 neighbours", "the mean", "R2", "within 90%", "match"]
    assert rows == [
        [
            *("s", "0.500 ± 0.020", "0.600 ± 0.020", "0.700 ± 0.020", "1.000 ± 0.020", "0.750 ± 0.020"),
            *("0.880 ± 0.020", "0.900 ± 0.020"),
        ],
        ["c (log loss)", "0.400 ± 0.020", "0.300 ± 0.020", "", "0.700 ± 0.020", "0.400 ± 0.020", "", ""],
    ]


def test_the_rest_stands_below_and_single_given_parts_by_pair():
    more, alone = more_blocks(evaluation())
    assert more.parts[0].head == ["", "R2", "nats", "accuracy", "within 90%", "match"]
    assert more.parts[0].rows[0][2] == "-12.5 ± 0.0"
    assert more.parts[0].rows[1][3] == "0.900 ± 0.020"
    assert alone.title == "Filled in from one part alone"
    (row,) = alone.parts[0].rows
    assert [row[0], row[1].content, *row[2:]] == [
        *("s from c", "0.600 ± 0.020", "0.700 ± 0.020", "0.800 ± 0.020", "1.100 ± 0.020", "0.850 ± 0.020")
    ]


def test_variety_stands_with_the_parts_and_on_no_card_of_its_own():
    found = evaluation(**{"gen/variety": 0.4, "gen/variety/s": 0.4})
    assert filled_blocks(found)[0].parts[0].head[-1] == "variety"
    assert headline_cards(found) == []
    assert [card.title for card in headline_cards(make_evaluation())][0] == "Joint coherence"


def test_nothing_is_drawn_of_what_was_not_measured():
    assert filled_blocks(make_evaluation()) == more_blocks(make_evaluation()) == []


def test_the_page_begins_with_whether_it_works_and_speaks_of_no_judges():
    scene = make_scene(evaluation=evaluation())
    head = inside(render(scene), "headline")
    first, *_ = sentences = verdict(scene)
    assert first == (
        False,
        "Compared with regression on the same held-out rows, the model is better for s by 17%; worse for c by 30%.",
    )
    at = [head.index(f'<p class="{"good" if good else "bad"}">{words}</p>') for good, words in sentences]
    assert at == sorted(at)
    assert head.index("Verdict") < at[0]
    assert at[-1] < head.index("Held-out parts, filled in")
    assert "judge" not in head
    assert "joint coherence" not in head
    assert [words.split(":")[0] for _, words in sentences[-2:]] == ["How training ended was not noted", "Try next"]


def test_labels_add_agreement_after_what_needs_none():
    both = evaluation()
    labelled = make_evaluation()
    both = replace(labelled, results=labelled.results | both.results)
    words = [words for _, words in verdict(make_scene(evaluation=both))]
    starts = ("Compared with", "Filling in s", "Filling in c", "Intervals", "Samples", "The parts of", "EBM", "How")
    assert [start for start, told in zip(starts, words, strict=False) if told.startswith(start)] == list(starts)
    assert "Filled in from one part alone" in html(filled_blocks(both)[0]) + html(more_blocks(both)[1])
