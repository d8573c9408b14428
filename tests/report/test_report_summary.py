import re
from dataclasses import replace

import pytest
from report_standin import PICTURES, html, make_evaluation, make_experiment, make_record, make_scene

from multiebm.evaluation.result import Result
from multiebm.experiments.load import load_experiment
from multiebm.report.record import duration, with_interval
from multiebm.report.summary import (
    NO_EVALUATION,
    flatten,
    headline_cards,
    headline_section,
    heat_table,
    metrics_section,
    nearest_preset,
    origin_facts,
    origin_section,
    run_facts,
    trust_statement,
)


def test_coherence_is_trusted_from_95_percent_of_every_judge():
    trusted, words = trust_statement({"up": 0.95, "down": 0.99})
    assert trusted
    assert words.startswith("Coherence can be trusted")
    assert "up 0.950, down 0.990" in words


def test_one_judge_below_95_percent_is_enough_to_distrust_and_is_named():
    trusted, words = trust_statement({"up": 0.9499, "down": 0.99})
    assert not trusted
    assert words.startswith("Coherence is not to be trusted: the judges of up read less than 95%")
    assert 'class="warning">Coherence is not to be trusted' in html(
        headline_section(make_scene(evaluation=make_evaluation(accuracy=0.93)))
    )
    assert 'class="trust">Coherence can be trusted' in html(headline_section(make_scene(evaluation=make_evaluation())))


def test_a_data_set_without_judges_says_what_was_not_measured():
    assert trust_statement(None) == (False, "No judges: coherence and FCD were not measured for this data set.")


def test_a_value_comes_with_the_half_width_of_its_95_percent_interval():
    assert with_interval(Result(0.7123, 0.01, 2000)) == "0.712 ± 0.020"
    assert with_interval(Result(142.34, 1.0, 2000)) == "142.3 ± 2.0"


@pytest.mark.parametrize(
    ("seconds", "said"), [(45.2, "45 s"), (302, "5 min 02 s"), (3900, "1 h 05 min"), (59.7, "1 min 00 s")]
)
def test_durations_read_well(seconds: float, said: str):
    assert duration(seconds) == said


def test_the_headline_holds_the_facts_of_the_run():
    facts = dict(run_facts(make_scene()))
    assert facts["Data set"] == "small, up 3 x 8 x 8, down 1 x 8 x 8, 40 training items"
    assert facts["Steps"] == "30; planned: 10 bound, 300 cooperative"
    assert facts["Training time"] == "15 s"
    assert facts["Parameters"].startswith("generator ")
    same = PICTURES | {"up2": PICTURES["up"], "down": PICTURES["up"]}
    assert dict(run_facts(make_scene(same)))["Data set"].startswith("small, 3 picture modalities of 3 x 8 x 8,")


def test_the_preset_is_named_with_what_was_changed():
    preset = load_experiment("toy2d")
    assert nearest_preset(preset) == "toy2d"
    assert nearest_preset(preset.model_copy(update={"seed": 7})) == "toy2d, with another seed"


def test_the_headline_says_at_which_temperature_samples_were_drawn():
    scene = make_scene(evaluation=make_evaluation())
    assert "temperature" not in html(headline_section(scene))
    scene.model.generator.temperature = 0.25
    assert "Samples are drawn at temperature 0.25 of the prior" in html(headline_section(scene))


def test_headline_cards_hold_gen_and_ebm_side_by_side_and_only_what_was_measured():
    cards = {card.title: card.parts[0].rows for card in headline_cards(make_evaluation())}
    assert list(cards) == ["Joint coherence", "Conditional coherence", "Label entropy", "FCD"]
    assert cards["Joint coherence"] == [("Gen", "0.712 ± 0.020"), ("EBM", "0.700 ± 0.020")]
    assert cards["FCD"] == [("Gen", "142.3 ± 2.0")]


def test_a_run_that_was_not_measured_says_which_command_does():
    assert "multiebm evaluate" in NO_EVALUATION
    assert NO_EVALUATION in html(headline_section(make_scene()))
    assert NO_EVALUATION in html(metrics_section(make_scene()))


def test_every_number_is_in_the_metrics_with_its_count_and_what_is_missing_has_its_reason():
    evaluation = make_evaluation()
    section = html(metrics_section(make_scene(evaluation=evaluation)))
    flat = section.split("<details>")[1]
    assert f"All {len(evaluation.results)} numbers by name" in flat
    for name in evaluation.results:
        assert f'<th scope="row">{name.replace(">", "&gt;")}</th>' in flat
    assert "2,000" in flat
    assert "no Inception weights" in section


def test_the_table_of_joint_samples_has_a_column_for_what_was_measured_only():
    evaluation = make_evaluation()
    gen = replace(evaluation, results={k: v for k, v in evaluation.results.items() if not k.startswith("ebm/")})
    heads = [
        re.findall(r"<th[^>]*>([^<]+)</th>", html(metrics_section(make_scene(evaluation=e))).split("<tbody>")[0])
        for e in (evaluation, gen)
    ]
    assert heads == [["Gen", "EBM"], ["Gen"]]


def test_the_heat_table_shows_each_pair_in_its_place_stronger_where_higher():
    pairs = {("a", "b"): Result(0.25, 0.1, 10), ("b", "a"): Result(1.0, 0.0, 10)}
    rows = html(heat_table(pairs)).split("<tr>")[2:]
    assert [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in rows] == [["", "0.25"], ["1.00", ""]]
    strengths = [float(x) for x in re.findall(r"rgba\(0,114,178,([\d.]+)\)", html(heat_table(pairs)))]
    assert strengths == [pytest.approx(0.55 / 16, abs=1e-3), pytest.approx(0.55)]


def test_the_origin_lists_seed_commands_versions_and_hardware_and_the_whole_configuration():
    origin = {
        "versions": {"torch": "2.13.0"},
        "hardware": {"processor": "A & B", "gpu": None},
        "seed": 3,
        "sessions": [
            {
                "command": ["multiebm", "train", "x y"],
                "started": "today",
                "from_step": 0,
                "to_step": 5,
                "reason": "finished",
            }
        ],
    }
    facts = origin_facts(make_record(origin=origin))
    assert facts == [
        ("seed", "3"),
        ("command", "multiebm train 'x y'"),
        ("started", "today, steps 0 to 5, finished"),
        ("versions.torch", "2.13.0"),
        ("hardware.processor", "A & B"),
    ]
    section = html(origin_section(make_scene(origin=origin, config_text="data: {name: <b>}\n")))
    assert "A &amp; B" in section
    assert "<pre>data: {name: &lt;b&gt;}</pre>" in section


def test_nested_values_become_dotted_lines():
    values = {"a": {"b": 1, "c": [1, 2]}, "d": None, "e": [{"long": 1}]}
    assert flatten(values) == [("a.b", "1"), ("a.c", "1, 2")]


def test_an_experiment_far_from_every_preset_is_given_no_name():
    changes = {
        "model": {"shared": 7, "private": 5, "family": "laplace", "energy": None, "latent_chain": {"steps": 77}},
        "training": {"batch_size": 13, "log_every": 17},
        "seed": 99,
    }
    assert nearest_preset(make_experiment(**changes)) == ""
