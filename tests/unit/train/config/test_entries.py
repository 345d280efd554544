"""The YAML of a command says which files its settings come from; what a setting is by default, its dataclass says."""

import pytest
import yaml

from probes.glass import GlassConfig
from probes.settings import ProbeConfig
from train.config.compose import CONFIGS
from train.config.schema import defaults, missing
from train.evaluate import EvaluateConfig
from train.export import ExportConfig
from train.grow import GrowConfig
from train.merge import MergeConfig
from train.opd.run import OpdConfig
from train.opd.test_time import BaselinesConfig
from train.pretrain import PretrainConfig
from train.recipe import RecipeConfig
from train.zoo import ZooConfig

ENTRIES = {
    "evaluate": EvaluateConfig, "export": ExportConfig, "glass": GlassConfig, "grow": GrowConfig,
    "merge": MergeConfig, "opd": OpdConfig,
    "pretrain": PretrainConfig, "probe": ProbeConfig, "recipe": RecipeConfig,
    "test_time": BaselinesConfig, "zoo": ZooConfig,
}  # fmt: skip


def said_twice(given: dict, base: dict, where: str = "") -> list[str]:
    """Settings of a YAML file that repeat the dataclass's default, or contradict it."""
    found = []
    for name, value in given.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict) and base[name]:
            found += said_twice(value, base[name], f"{where}{name}.")
        elif name in base:
            how = "repeats" if value == base[name] else f"contradicts {base[name]} with"
            found.append(f"{where}{name} {how} {value}")
    return found


def test_every_command_is_here():
    assert set(ENTRIES) == {path.stem for path in CONFIGS.glob("*.yaml")}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_command_s_yaml_neither_repeats_nor_contradicts_a_default(name):
    given = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    groups = given.pop("defaults")
    assert given == {} and groups[-1] == "_self_"
    assert said_twice(given, defaults(ENTRIES[name])) == []


def test_both_kinds_are_found():
    base = {"seed": 0, "out": {"root": "runs", "keep": 2}}
    assert said_twice({"seed": 0, "out": {"keep": 3}}, base) == ["seed repeats 0", "out.keep contradicts 2 with 3"]
    assert missing(defaults(OpdConfig)) == ["method", "student"]
