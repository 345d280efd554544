"""Stages over lists: names, items in settings, references between copies, parts, and what is refused.

Try: `python -m pytest tests/unit/train/recipes/test_grid.py`.
"""

from pathlib import Path

import pytest

from synth.store.files import read_json
from train.recipe import RecipeConfig, RecipeFile, ScaleFile, StageConfig, main, stages_of

LISTS = {"methods": ["opd", "kd"], "rates": [0.1, 0.2]}


def recipe(stages: dict, lists: dict | None = None, **more) -> RecipeConfig:
    made = {name: StageConfig(**{"entry": "stand_in", **stage}) for name, stage in stages.items()}
    lists = {"methods": ["opd", "kd"]} if lists is None else lists
    file = RecipeFile(name="demo", title="Demo", stages=made, lists=lists)
    return RecipeConfig(recipe=file, scale=ScaleFile(name="cpu"), **more)


def test_a_stage_over_two_lists_is_copied_for_every_pair_with_its_items():
    grid = {
        "over": ["methods", "rates"],
        "set": {"method": "{methods}", "lr": "{rates}"},
        "label": "{methods} at {rates}",
    }
    stages = stages_of(recipe({"arm": grid}, LISTS))
    assert [one.name for one in stages] == ["arm-opd-0.1", "arm-opd-0.2", "arm-kd-0.1", "arm-kd-0.2"]
    assert stages[3].settings == {"method": "kd", "lr": 0.2} and stages[3].label == "kd at 0.2"


def test_references_follow_the_items_and_after_waits_for_all_copies():
    stages = {
        "base": {},
        "arm": {"over": ["methods"], "set": {"student": "@base"}},
        "eval": {"over": ["methods", "rates"], "set": {"checkpoint": "@arm", "others": ["{methods}"]}},
        "table": {"after": ["arm"]},
        "check": {"over": ["methods"], "after": ["eval"]},
    }
    found = {one.name: one for one in stages_of(recipe(stages, LISTS))}
    assert found["eval-kd-0.2"].settings == {"checkpoint": "@arm-kd", "others": ["kd"]}
    assert found["arm-kd"].inputs == {"base"}
    assert found["table"].inputs == {"arm-opd", "arm-kd"}
    assert found["check-kd"].inputs == {"eval-kd-0.1", "eval-kd-0.2"}


def test_settings_of_one_item_reach_its_copies_alone():
    arm = {
        "over": ["methods"],
        "set": {"teacher": "@big", "n": 1},
        "each": {"kd": {"teacher": None, "optim": {"lr": 1}}},
    }
    found = {one.name: one.settings for one in stages_of(recipe({"big": {}, "arm": arm}))}
    assert found["arm-opd"] == {"teacher": "@big", "n": 1}
    assert found["arm-kd"] == {"teacher": None, "n": 1, "optim.lr": 1}


def test_a_list_cut_down_leaves_the_other_copies_out():
    config = recipe({"arm": {"over": ["methods"]}, "one": {}}, only={"methods": ["kd"]})
    assert [one.name for one in stages_of(config, config.only)] == ["arm-kd", "one"]
    assert [one.name for one in stages_of(config)] == ["arm-opd", "arm-kd", "one"]


@pytest.mark.parametrize(
    ("stages", "lists", "more", "said"),
    [
        ({"arm": {"over": ["methds"]}}, None, {}, "recipe.lists.methods: no stage is over it; accepted: methds"),
        ({"arm": {"over": ["methods", "x"]}}, None, {}, "recipe.stages.arm.over=x: no such list; accepted: methods"),
        ({"arm": {"over": ["methods"]}}, {"methods": ["a", "a"]}, {}, "accepted: at least one item, each once"),
        ({"arm": {"over": ["methods"]}}, {"methods": ["a/b"]}, {}, "item 'a/b'; accepted: letters, digits"),
        ({"arm": {"over": ["seed"]}}, {"seed": ["a"]}, {}, "{seed} is the recipe's own"),
        (
            {"arm": {"over": ["methods"], "set": {"a": "{rates}"}}},
            None,
            {},
            "is not over a list rates; accepted: methods",
        ),
        ({"arm": {"over": ["methods"], "each": {"sft": {}}}}, None, {}, "each.sft: is no item of methods"),
        ({"arm": {"over": ["methods"]}, "b": {"set": {"x": "@arm"}}}, None, {}, "accepted: @arm-ITEM"),
        ({"arm": {"over": ["methods"]}}, None, {"only": {"methods": ["sft"]}}, "methods=sft: not in the recipe's list"),
        ({"arm": {"over": ["methods"]}}, None, {"only": {"sizes": [1]}}, "only.sizes: the recipe has no such list"),
        (
            {"arm": {"over": ["methods"]}},
            None,
            {"only": {"methods": []}},
            "methods=[]: accepted: at least one of opd, kd",
        ),
        ({"arm": {"over": ["methods"]}}, None, {"seeds": 0}, "seeds=0: accepted: 1 or more"),
    ],
)
def test_what_is_refused_and_why(stages, lists, more, said):
    with pytest.raises(ValueError) as refused:
        recipe(stages, lists, **more)
    assert said in str(refused.value)


STAND_IN = '''
"""A stage that makes a run folder at once."""
import json, sys
from pathlib import Path

words = dict(word.split("=", 1) for word in sys.argv[1:])
folder = Path(words["out.root"]) / f"{words['out.name']}-{int(words['seed']):08d}"
folder.mkdir(parents=True)
(folder / "config.yaml").write_text(json.dumps(words))
(folder / "summary.json").write_text("{}")
Path(words["out.path_file"]).write_text(str(folder))
'''


def test_parts_and_seeds_add_up_in_one_folder(tmp_path, monkeypatch):
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    arm = {"over": ["methods"], "set": {"seed": "@seed", "path": "zoo/student-{seed}"}}

    def run(**more) -> dict[str, list[str]]:
        main(recipe({"arm": arm}, out=str(tmp_path / "runs"), **more))
        plans = sorted((tmp_path / "runs" / "demo").glob("plan-seed*.json"))
        return {p.stem: [row["name"] for row in read_json(p)["stages"] if "folder" in row] for p in plans}

    assert run(only={"methods": ["kd"]}) == {"plan-seed0": ["arm-kd"]}
    assert run(only={"methods": ["opd"]}, seeds=2) == {"plan-seed0": ["arm-opd", "arm-kd"], "plan-seed1": ["arm-opd"]}
    config = Path(tmp_path / "runs/demo/arm-opd-00000001/config.yaml").read_text()
    assert "zoo/student-1" in config
