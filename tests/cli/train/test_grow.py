"""`train.grow` and `questions` as a user meets them: a grown model of the zoo learns from several questions a text."""

import pytest

from synth.store.files import read_json
from train.config.compose import load
from train.core import checkpoint
from train.grow import GrowConfig
from train.grow import main as grow
from train.pretrain import PretrainConfig
from train.pretrain import main as pretrain


def test_a_grown_model_learns_from_several_questions(tmp_path):
    grow(load("grow", GrowConfig, ["checkpoint=zoo/tiny-student-0", "n_layer=5", f"out.folder={tmp_path}/grown"]))
    assert checkpoint.load_model(f"{tmp_path}/grown").config.n_layer == 5
    words = [f"init={tmp_path}/grown", "questions.count=3", "batch.documents=4", "batch.bucket=2", "evaluate.every=0"]
    run = [f"out.folder={tmp_path}/run", "out.save_every=2"]
    pretrain(load("pretrain", PretrainConfig, [*words, *run, "budget.steps=3"]))
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["steps"] == 3 and summary["last"]["excess"] > 0 and summary["last"]["targets"] > 0
    assert read_json(tmp_path / "grown" / "manifest.json")["kind"] == "grow"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["questions.count=0"], "questions.count=0"),
        (["questions.count=2", "batch.packing=concat"], "batch.packing=none"),
        (["questions.target=law"], "questions.target=law"),
    ],
)
def test_what_questions_cannot_do_is_one_line(words, named):
    with pytest.raises(ValueError, match=named):
        load("pretrain", PretrainConfig, words)


def test_data_that_cannot_be_asked_anew_leave_no_folder(tmp_path):
    words = ["questions.count=2", "data.overrides.missing_premise=0.5", f"out.root={tmp_path}/runs"]
    with pytest.raises(ValueError, match="missing_premise=0"):
        pretrain(load("pretrain", PretrainConfig, words))
    assert not (tmp_path / "runs").exists()
