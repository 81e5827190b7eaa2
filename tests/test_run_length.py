"""Runs that were too short say so, with the setting to raise."""

import pytest

from geoseg.options import TrainOptions
from geoseg.training.run_length import describe_short_run
from geoseg.training.score_names import label_score


def rows(*scores, steps=100):
    """One epoch per score; None where an epoch was not validated."""
    return [
        {"epoch": epoch, "step": epoch * steps}
        | ({} if score is None else {"val_score": score, "val_f1": score})
        for epoch, score in enumerate(scores, start=1)
    ]


def test_a_run_of_few_steps_says_so():
    found = describe_short_run(rows(0.1, steps=31), TrainOptions(epochs=1), minutes=0.3)
    assert found == (
        "this run was too short: 31 steps are few, some hundred are usual (ten minutes or more); "
        "continue it with --resume --set train.epochs=20"
    )


def test_a_run_whose_score_was_rising_says_so():
    rising = rows(0.1, 0.2, 0.25, 0.3, None, 0.4)
    found = describe_short_run(rising, TrainOptions(max_minutes=5), minutes=5.2)
    assert found == (
        "the validation score was still rising, from 0.30 to 0.40, so a longer run may be better; "
        "continue it with --resume --set train.max_minutes=10"
    )
    both = describe_short_run(rows(0.1, 0.2, 0.3, steps=9), TrainOptions(patience=2), minutes=5)
    assert "27 steps are few, some hundred are usual (ten minutes or more), and the" in both
    assert both.endswith(" --set train.patience=45")


@pytest.mark.parametrize(
    ("minutes", "steps", "longer"),
    [(3, 3, 30), (0.2, 1, 10), (20, 4, 60), (7, 150, 30), (90, 100, 180)],
)
def test_minutes_are_suggested_with_measure(minutes, steps, longer):
    """A busy machine makes few steps: extrapolated, 3 steps in 3 minutes would be 600 minutes."""
    options = TrainOptions(max_minutes=minutes)
    found = describe_short_run(rows(0.1, steps=steps), options, minutes=minutes + 0.1)
    assert found.endswith(f"(ten minutes or more); continue it with --resume --set "
                          f"train.max_minutes={longer}")  # fmt: skip


@pytest.mark.parametrize(
    "scores", [(0.5, 0.6, 0.6, 0.63), (0.2, 0.7, 0.7, 0.4), (None, None, None, 0.4), (0.4,) * 2]
)
def test_a_run_of_usual_length_says_nothing(scores):
    assert describe_short_run(rows(*scores, steps=200), TrainOptions(), minutes=9) is None
    assert describe_short_run([], TrainOptions(), minutes=0) is None


def test_the_ious_of_buildings_and_of_classes_have_different_names():
    assert label_score("val_iou", {"val_iou": 0.5, "val_f1": 0.3}) == "val pixel IoU"
    assert label_score("val_f1", {"val_iou": 0.5, "val_f1": 0.3}) == "val building F1"
    assert label_score("val_iou", {"val_iou": 0.5}) == "val mean IoU of classes"
