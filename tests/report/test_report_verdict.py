"""The sentences that a page begins with: each says what was measured, and no more."""

from dataclasses import replace

import pytest
from report_standin import html, inside, make_evaluation, make_record, make_scene

from multiebm.evaluation.result import Result
from multiebm.evaluation.verdict import use_of_code
from multiebm.report.page import render
from multiebm.report.record import RollBack
from multiebm.report.summary import (
    NO_EVALUATION,
    agreement,
    ending,
    headline_cards,
    headline_section,
    use_of_energy,
    verdict,
)
from multiebm.training.steps import total_steps

END = {"to_step": 30, "seconds": 75.0}


def measured(**results: tuple[float, float]):
    evaluation = make_evaluation()
    found = {key.replace("__", "/"): Result(*value, 2000) for key, value in results.items()}
    return replace(evaluation, results=evaluation.results | found)


@pytest.mark.parametrize(
    ("reason", "good", "said"),
    [
        ("finished", True, "Training ended as planned: 30 of 12,010 steps in 1 min 15 s."),
        ("budget", False, "Training ended when its time budget was spent: 30 of 12,010 steps in 1 min 15 s."),
        ("interrupted", False, "Training was interrupted and has not ended: 30 of 12,010 steps in 1 min 15 s."),
        ("failed", False, "Training failed: 30 of 12,010 steps in 1 min 15 s."),
    ],
)
def test_how_training_ended_comes_first(reason: str, good: bool, said: str):
    record = make_record(origin={"sessions": [{"reason": "interrupted"}, END | {"reason": reason}]})
    planned = total_steps(record.experiment.training.phases)
    assert ending(record) == (good, said.replace("12,010", f"{planned:,}"))
    if reason == "budget":  # with all of its steps it is as good as planned
        assert ending(make_record(origin={"sessions": [END | {"reason": reason, "to_step": planned}]}))[0]
    twice = ending(record._replace(rollbacks=[RollBack(5, 2), RollBack(9, 4)]))[1]
    assert twice.endswith("1 min 15 s; the guard rolled it back 2 times.")


def test_phases_that_never_began_are_named():
    record = make_record(origin={"sessions": [END | {"reason": "budget", "to_step": 8}]})
    good, said = ending(record)
    assert not good
    assert said.endswith(" in 1 min 15 s. Nothing has learned in phases that never began: cooperative.")


def test_a_folder_without_run_json_leaves_the_end_open():
    good, said = ending(make_record())
    assert not good
    assert said.startswith("How training ended was not noted: 30 of")


def test_joint_coherence_stands_beside_that_of_real_items_as_the_same_judges_read_them():
    good, said = agreement(measured(real__joint_coherence=(0.95, 0.005)))
    assert not good
    assert said == (
        "The parts of a Gen sample (prior and generator) agree in class 75% as often as those of real items: joint "
        "coherence 0.712 ± 0.020; the ceiling, real items: 0.950 ± 0.010."
    )
    good, said = agreement(measured(real__joint_coherence=(0.73, 0.005)))  # 1.96 sqrt(0.005^2 + 0.01^2) = 0.022
    assert good
    assert "agree in class as often as those of real items" in said
    good, _ = agreement(measured(real__joint_coherence=(0.735, 0.005)))
    assert not good


def test_what_robust_judges_say_stands_beside_it():
    _, said = agreement(measured(real__joint_coherence=(0.95, 0.005), gen__robust_coherence=(0.6, 0.01)))
    assert said.endswith("0.950 ± 0.010. Judges that read under noise and blur say 0.600 ± 0.020.")
    robust = {"gen__robust_coherence": (0.6, 0.01), "real__robust_coherence": (0.9, 0.005)}
    _, said = agreement(measured(real__joint_coherence=(0.95, 0.005), **robust))
    assert said.endswith("say 0.600 ± 0.020, of real items 0.900 ± 0.010.")


def test_a_chain_that_pleases_plain_judges_alone_is_seen_by_robust_ones():
    chain = {"ebm__joint_coherence": (0.9, 0.01), "gen__robust_coherence": (0.7, 0.01)}
    good, said = use_of_energy(measured(**chain, ebm__robust_coherence=(0.6, 0.01)))
    assert not good
    assert "is better in joint coherence but worse in robust coherence" in said
    good, said = use_of_energy(measured(**chain, ebm__robust_coherence=(0.8, 0.01)))
    assert good
    assert "better in joint coherence and robust coherence" in said


def test_the_page_says_of_how_many_sets_of_judges_coherence_is_the_mean():
    def said(sets):
        return html(headline_section(make_scene(evaluation=replace(measured(), judge_sets=sets))))

    assert "mean over 3 sets of judges;" in said((3, 1))
    assert "mean over 3 sets of judges, robust over 2;" in said((3, 2))
    assert not any("sets of judges" in said(sets) for sets in ((1, 0), None))


def test_agreement_by_few_classes_is_no_good_news():
    good, said = agreement(measured(real__joint_coherence=(0.7, 0.01), gen__label_entropy=(0.31, 0.01)))
    assert not good
    assert said.endswith("But samples show few classes (label entropy 0.31), which agree easily.")


def test_what_was_not_measured_is_said_with_its_reason():
    nothing = replace(make_evaluation(), results={}, skipped={"joint_coherence, fcd": "no judges for it"})
    assert agreement(nothing) == (False, "Whether the parts of a sample agree was not measured: no judges for it.")
    assert use_of_energy(nothing) == (False, "Whether the energy is of use was not measured.")
    assert use_of_code(nothing) is None


def test_the_energy_is_of_use_where_its_chain_changes_a_number_by_more_than_its_error():
    good, said = use_of_energy(measured(ebm__fcd=(139.0, 1.0)))  # 3.3 better, of an error of 2.8
    assert good
    assert said == (
        "EBM, Gen after the chains, is better in FCD (Gen to EBM: FCD 142.3 ± 2.0 to 139.0 ± 2.0, joint coherence "
        "0.712 ± 0.020 to 0.700 ± 0.020)."
    )
    assert "makes no difference that these samples can show" in use_of_energy(measured(ebm__fcd=(140.0, 1.0)))[1]
    good, said = use_of_energy(measured(ebm__fcd=(139.0, 1.0), ebm__joint_coherence=(0.6, 0.01)))
    assert not good
    assert "better in FCD but worse in joint coherence" in said
    assert not any("EBM" in said for _, said in verdict(make_scene(energy=False, evaluation=make_evaluation())))


def test_a_collapsed_code_is_said():
    good, said = use_of_code(measured(latent__kl=(0.004, 0.001), latent__active_units=(0, 0), latent__units=(16, 0)))
    assert not good
    assert said.startswith("The shared code has collapsed (0.004 nats an item, 0 of 16 latents")
    good, said = use_of_code(measured(latent__kl=(12.3, 0.1), latent__active_units=(9, 0), latent__units=(16, 0)))
    assert good
    assert said == "The shared code tells items apart: 12.3 nats an item, 9 of 16 latents are in use."


def test_the_page_begins_with_the_verdict_the_trust_and_the_ceiling():
    evaluation = measured(real__joint_coherence=(0.95, 0.005), latent__kl=(12.3, 0.1))
    scene = make_scene(evaluation=evaluation)
    head = inside(render(scene), "headline")
    assert head.index("Verdict") < head.index("Coherence can be trusted") < head.index('class="columns cards"')
    for good, sentence in verdict(scene):
        assert f'<p class="{"good" if good else "bad"}">{sentence}</p>' in head
    assert len(verdict(scene)) == 4
    cards = {card.title: card.parts[0].rows for card in headline_cards(evaluation)}
    assert cards["Joint coherence"][-1] == ("Real", "0.950 ± 0.010")
    assert verdict(make_scene())[-1] == (False, NO_EVALUATION)


def test_no_caption_promises_what_curves_of_good_runs_break():
    page = render(make_scene(evaluation=make_evaluation()))
    for promise in ("not come back up", "none of them drifting", "should stay near zero", "EBM should"):
        assert promise not in page
