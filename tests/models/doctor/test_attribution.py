"""Attribution on made-up trials: specific causes, generic changes, and two faults at once."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest

from evenkeel.models.doctor.attribution import Attribution, attribute_causes
from evenkeel.models.doctor.interventions import PRIOR_FOUND, PRIOR_UNLIKELY, PRIOR_UNUSUAL, Intervention, RunEvidence
from evenkeel.models.doctor.trials import Trial
from evenkeel.models.stability.diagnosis import Finding, Suspect
from tests.models.doctor.cases import MadeUpSplit, network, run_evidence

IMAGES = 1000


def trial(intervention: Intervention, accuracy: float, loss: float = 1.0) -> Trial:
    split = intervention.flags.get("data.train_split", "validation")
    run = types.SimpleNamespace(
        validated=[(100, accuracy, loss)],
        correct=np.arange(IMAGES) < round(accuracy * IMAGES),
        losses=np.full(IMAGES, loss),
        config=types.SimpleNamespace(data=types.SimpleNamespace(validation_split=split)),
        loss=np.ones(3),
        gradient_norm=np.ones(3),
        step=100,
        first_step=0,
        data=types.SimpleNamespace(classes=range(10), validation=MadeUpSplit(np.arange(IMAGES) % 10)),
    )
    return Trial(intervention, run)


SLOWER = Intervention("learning_rate_high", {"optimizer.learning_rate": 0.025}, generic=True)
CLIPPED = Intervention("learning_rate_high", {"optimizer.clip_norm": 1.0}, generic=True)
MOMENTUM = Intervention("momentum", {"optimizer.momentum": 0.9}, PRIOR_UNUSUAL, ("momentum 0.999",))
ADAM = Intervention("optimizer", {"optimizer.name": "adam"}, PRIOR_UNLIKELY, generic=True)
UNCHANGED = trial(Intervention("", {}), 0.1)


def attribute(
    *tried: Trial,
    joint: Trial | None = None,
    ablations: tuple[Trial, ...] = (),
    evidence: RunEvidence | None = None,
    unchanged: Trial = UNCHANGED,
):
    found = attribute_causes(evidence or run_evidence(), unchanged, list(tried), joint, list(ablations))
    return found.suspects, found.fix


def cause_names(suspects: tuple[Suspect, ...]) -> list[str]:
    return [suspect.cause for suspect in suspects]


def test_the_change_that_helps_names_its_cause_and_is_the_fix() -> None:
    suspects, fix = attribute(trial(SLOWER, 0.12), trial(MOMENTUM, 0.6))
    assert cause_names(suspects)[0] == "momentum"
    assert suspects[0].probability > 0.9
    assert fix == {"optimizer.momentum": 0.9}
    assert suspects[0].evidence[-1] == "with this one change, accuracy after 100 steps is 60.0% instead of 10.0%"


def test_a_specific_change_that_does_worse_than_the_control_arm_explains_nothing() -> None:
    assert cause_names(attribute(trial(SLOWER, 0.6), trial(MOMENTUM, 0.3))[0])[0] == "learning_rate_high"
    assert cause_names(attribute(trial(SLOWER, 0.6), trial(MOMENTUM, 0.59))[0])[0] == "momentum"


def test_a_generic_change_is_named_only_if_nothing_else_helps() -> None:
    assert cause_names(attribute(trial(ADAM, 0.6), trial(MOMENTUM, 0.55))[0])[0] == "momentum"
    suspects, fix = attribute(trial(ADAM, 0.6), trial(SLOWER, 0.1))
    assert cause_names(suspects) == ["optimizer"]
    assert fix == {"optimizer.name": "adam"}


def test_an_exploded_run_that_a_change_brings_back_to_guessing_is_not_cured() -> None:
    exploded = trial(Intervention("", {}), 0.1, loss=math.inf)
    relu = Intervention("unbounded_activation", {"model.patch": "relu"}, PRIOR_UNUSUAL)
    norm = Intervention("no_normalization", {"model.patch": "batch_norm"}, PRIOR_UNUSUAL)
    suspects, fix = attribute(trial(relu, 0.25, loss=2.1), trial(norm, 0.11, loss=2.3), unchanged=exploded)
    assert cause_names(suspects)[0] == "unbounded_activation"
    assert suspects[0].probability > 0.85
    assert fix == {"model.patch": "relu"}
    assert attribute(trial(norm, 0.11, loss=2.3), unchanged=exploded) == ((), {})


def test_without_a_change_that_helps_there_is_no_suspect() -> None:
    assert attribute(trial(SLOWER, 0.11), trial(CLIPPED, 0.1), trial(MOMENTUM, 0.1)) == ((), {})


def test_two_faults_at_once_are_both_found_by_ablation() -> None:
    scale = Intervention("input_scale", {"data.normalize": True}, PRIOR_UNUSUAL)
    joint = trial(Intervention("", {**scale.flags, **SLOWER.flags}), 0.7)
    rate = Intervention("learning_rate_high", {"optimizer.learning_rate": 0.003})
    ablations = (
        trial(Intervention("learning_rate_high", scale.flags), 0.1),
        trial(Intervention("input_scale", rate.flags), 0.3),
    )
    suspects, fix = attribute(
        trial(SLOWER, 0.1), trial(rate, 0.12), trial(scale, 0.1), joint=joint, ablations=ablations
    )
    assert set(cause_names(suspects)) == {"learning_rate_high", "input_scale"}
    assert all("with all other changes but without this one" in suspect.evidence[-1] for suspect in suspects)
    assert all(suspect.together for suspect in suspects)
    assert fix == joint.intervention.flags
    assert not attribute(trial(SLOWER, 0.12), trial(MOMENTUM, 0.6))[0][0].together


def test_a_finding_without_intervention_is_a_suspect() -> None:
    finding = Finding("replicas", False, "a batch of 3 on 2", "must divide", "use 4", causes=("replica_batch",))
    suspects, fix = attribute(trial(SLOWER, 0.1), evidence=run_evidence(findings=(finding,)))
    assert cause_names(suspects) == ["replica_batch"]
    assert suspects[0].replay is None
    assert finding.line in suspects[0].evidence
    assert fix == {}


def test_a_patch_comes_with_the_edit_of_the_source() -> None:
    intervention = Intervention("output_activation", {"model.patch": "logits"}, PRIOR_FOUND)
    (suspect,), _ = attribute(
        trial(intervention, 0.6), evidence=run_evidence(network=network(activation="softmax", name="out"))
    )
    assert suspect.edit == "Dense 'out': activation='softmax' -> 'linear'"
    assert suspect.flags == ["--model.patch=logits"]


def test_a_cure_precedes_a_demonstration_of_the_cause() -> None:
    """Even if held-out images give a higher accuracy: that cures nothing."""
    cure = Intervention("train_validation_skew", {"data.standardize": True})
    shown = Intervention("train_validation_skew", {"data.train_split": "train[:80%]"}, cures=False)
    for tried in ((trial(cure, 0.6), trial(shown, 0.8)), (trial(shown, 0.8), trial(cure, 0.6))):
        (suspect, *_), fix = attribute(*tried, trial(CLIPPED, 0.61))
        assert suspect.replay is not None
        assert suspect.replay.flags == cure.flags == fix
    in_vain, _ = attribute(trial(cure, 0.1), trial(shown, 0.8))
    assert not in_vain or in_vain[0].replay is None


@pytest.mark.parametrize(("accuracy", "own"), [(0.78, True), (0.75, False)])
def test_the_fix_is_that_of_the_most_probable_cause_unless_another_is_clearly_better(
    accuracy: float, own: bool
) -> None:
    other = Intervention("dropout", {"model.dropout": 0.0})
    suspects, fix = attribute(trial(MOMENTUM, accuracy), trial(other, 0.8))
    assert suspects[0].cause == "momentum"
    assert fix == (MOMENTUM if own else other).flags


LEARNS = trial(Intervention("", {}), 0.45)
LEAKY = Intervention(
    "dying_activation", {"model.patch": "leaky_relu"}, PRIOR_UNUSUAL, ("60% of a layer's units are dead",)
)
FASTER = Intervention("learning_rate_low", {"optimizer.learning_rate": 0.8})


def weigh(*tried: Trial, unchanged: Trial = LEARNS, **evidence) -> Attribution:
    return attribute_causes(run_evidence(**evidence), unchanged, list(tried), None, [])


def test_a_small_gain_on_a_run_that_learns_is_no_fault() -> None:
    found = weigh(trial(LEAKY, 0.48), trial(SLOWER, 0.44))
    assert found.suspects == ()
    assert found.fix == {}
    assert found.sound > 0.8
    assert found.improvements == ()  # within the noise of one seed


def test_a_certain_gain_on_a_sound_run_is_told_as_an_improvement() -> None:
    better, again = trial(LEAKY, 0.51), trial(LEAKY, 0.51)
    better.repeats.append(again.run)
    unchanged = trial(Intervention("", {}), 0.45)
    unchanged.repeats.append(trial(Intervention("", {}), 0.45).run)
    found = weigh(better, unchanged=unchanged)
    assert found.suspects == ()
    assert found.sound > 0.5
    assert found.improvements == (better,)


def test_the_same_gain_is_a_cause_where_an_alarm_speaks() -> None:
    found = weigh(trial(LEAKY, 0.52), alarm_kinds=frozenset({"dying"}))
    assert cause_names(found.suspects)[0] == "dying_activation"
    assert found.fix == LEAKY.flags


def test_a_large_gain_is_a_cause_without_any_alarm() -> None:
    found = weigh(trial(LEAKY, 0.7))
    assert cause_names(found.suspects)[0] == "dying_activation"
    assert found.sound < 0.1


def test_a_gain_that_both_seeds_show_counts_beside_a_larger_one_that_is_luck() -> None:
    """A rate ten times too high with BatchNorm: the validation of the unchanged run jumps, and so do its gains."""
    unchanged = trial(Intervention("", {}), 0.228, loss=3.36)
    unchanged.repeats = [trial(Intervention("", {}), 0.302, loss=2.1).run]
    lower = Intervention("learning_rate_high", {"optimizer.learning_rate": 0.001})
    rarely, always = trial(lower, 0.435, loss=1.58), trial(SLOWER, 0.425, loss=1.7)
    rarely.repeats, always.repeats = [trial(lower, 0.31, loss=2.1).run], [trial(SLOWER, 0.40, loss=1.8).run]
    assert not rarely.gain_over(unchanged).is_significant
    found = weigh(rarely, always, unchanged=unchanged)
    assert cause_names(found.suspects)[0] == "learning_rate_high"
    assert found.sound < 0.1


def test_a_validation_loss_above_that_of_guessing_is_no_sound_run() -> None:
    def sound(loss: float) -> float:
        return weigh(trial(LEAKY, 0.45, loss=loss), unchanged=trial(Intervention("", {}), 0.44, loss=loss)).sound

    assert sound(2.2) > 0.9
    assert sound(2.4) < 0.6


def test_a_run_that_has_learnt_nothing_is_not_sound() -> None:
    found = weigh(trial(SLOWER, 0.1), trial(LEAKY, 0.1), unchanged=UNCHANGED)
    assert found.sound == 0
    assert found.suspects == ()
    assert found.unknown == 1


def test_faster_learning_in_a_small_part_of_a_long_run_is_no_fault() -> None:
    """A published recipe of 2,500 slow steps: eight times the rate does better in the first 100 of them."""
    assert weigh(trial(FASTER, 0.65), total_steps=2500).suspects == ()
    assert cause_names(weigh(trial(FASTER, 0.65), total_steps=100).suspects) == ["learning_rate_low"]
    stalled = weigh(trial(FASTER, 0.65), total_steps=2500, alarm_kinds=frozenset({"small_updates"}))
    assert cause_names(stalled.suspects) == ["learning_rate_low"]


def test_a_found_cause_with_a_change_that_does_no_good_is_dropped() -> None:
    outliers = Intervention(
        "outlier_images", {"data.drop": "outliers"}, PRIOR_FOUND, ("5% of the images are outliers",)
    )
    finding = Finding("outlier_images", False, "5%", "none", "drop them", causes=("outlier_images",))
    assert weigh(trial(outliers, 0.44), findings=(finding,)).suspects == ()
    assert cause_names(weigh(trial(outliers, 0.6), findings=(finding,)).suspects) == ["outlier_images"]
    assert cause_names(weigh(trial(outliers, 0.1), findings=(finding,), unchanged=UNCHANGED).suspects) == [
        "outlier_images"
    ], "where nothing does any good, the check is all there is"
