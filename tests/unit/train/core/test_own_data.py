"""Commands that read a checkpoint take the data that it was trained on, unless told otherwise."""

import json

import pytest

from probes.run import TASKS
from train.config.compose import load
from train.core import zoo_paths
from train.data.batches import DataConfig
from train.evaluate import EvaluateConfig
from train.opd.run import OpdConfig

ZOO = zoo_paths.names()


def data_of(*words: str) -> DataConfig:
    return load("evaluate", EvaluateConfig, words).data


@pytest.mark.parametrize("name", ZOO)
def test_a_model_of_the_zoo_is_judged_on_the_data_of_its_card(name):
    card = json.loads((zoo_paths.ZOO / name / "card.json").read_text())["data"]
    found = data_of(f"checkpoint=zoo/{name}")
    assert (found.preset, found.overrides, found.seed, found.tokens) == (card["preset"], card["overrides"], 0, "phrase")
    assert load("opd", OpdConfig, ["method=oracle", f"student=zoo/{name}"]).data == found
    for task in TASKS.values():
        words = [f"model=zoo/{name}", f"task={task.config.task}"]
        assert load("probe", task.config, words).data == found


def test_given_settings_change_the_data_and_a_given_preset_replaces_it():
    six = data_of("checkpoint=zoo/six-teacher")
    assert six.overrides["ops"] == 6
    changed = data_of("checkpoint=zoo/six-teacher", "data.overrides.ops=4", "data.seed=7")
    assert changed == DataConfig("tiny", six.overrides | {"ops": 4}, 7)
    for words in (["data=tiny"], ["data.preset=tiny"]):
        assert data_of("checkpoint=zoo/six-teacher", *words) == DataConfig("tiny")
    assert data_of("checkpoint=zoo/six-teacher", "data=study").overrides != six.overrides


def test_a_checkpoint_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="checkpoint=zoo/none: is not in the zoo"):
        data_of("checkpoint=zoo/none")
    with pytest.raises(ValueError, match="student=runs/none: does not exist"):
        load("opd", OpdConfig, ["method=oracle", "student=runs/none"])
