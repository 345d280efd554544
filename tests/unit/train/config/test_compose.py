"""Settings: groups, words and types become a dataclass, and whatever is wrong is said in one line."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import pytest
import yaml

from train.config.compose import REQUIRED, load, plain, resolved, run_entry, show
from train.config.schema import Choice, build
from train.core.budget_and_ledger import Budget, Diverged
from train.opd.run import OpdConfig
from train.pretrain import PretrainConfig
from train.recipe import RecipeConfig


@dataclass(frozen=True)
class Size:
    width: int = 4
    shape: str = "round"


@dataclass(frozen=True)
class Extra:
    rate: float = 0.5


class Shape(Choice):
    refused: ClassVar = {"hexagon": "too hard to draw"}


@dataclass(frozen=True)
class Circle(Shape, kind="circle"):
    radius: float = 1.0
    colour: str = "red"

    def __post_init__(self):
        if self.radius < 0:
            raise ValueError(f"shape.radius={self.radius}: accepted: 0 or more")


@dataclass(frozen=True)
class Box(Shape, kind="box"):
    width: float = 2.0
    colour: str = "blue"


@dataclass(frozen=True)
class Problem:
    ops: int = 1
    exact: bool = False
    world: str = "english"


@dataclass(frozen=True)
class Toy:
    seed: int = 0
    lr: float = 0.1
    fast: bool = False
    path: str | None = None
    size: Size = field(default_factory=Size)
    extra: Extra | None = None
    budget: Budget = field(default_factory=lambda: Budget(steps=5))
    free: dict[str, Any] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=list)
    shape: Shape = field(default_factory=Circle)
    shapes: list[Shape] = field(default_factory=list)
    spare: Shape | None = None
    typed: Annotated[dict[str, Any], Problem] = field(default_factory=dict)

    def __post_init__(self):
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: accepted: 0 or more")


@dataclass(frozen=True)
class Needy:
    checkpoint: str = REQUIRED


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "size").mkdir()
    (tmp_path / "toy.yaml").write_text("defaults: [{size: small}, _self_]\nlr: 0.2\n")
    (tmp_path / "size" / "small.yaml").write_text("width: 2\n")
    (tmp_path / "size" / "big.yaml").write_text("width: 64\nshape: square\n")
    (tmp_path / "needy.yaml").write_text("defaults: [_self_]\n")
    (tmp_path / "bad.yaml").write_text("defaults: [_self_]\nlearning_rate: 1\n")
    return tmp_path


def test_dataclass_then_yaml_then_group_then_words(folder):
    toy = load("toy", Toy, [], folder)
    assert (toy.seed, toy.lr, toy.size) == (0, 0.2, Size(2))
    toy = load("toy", Toy, ["size=big", "size.width=8", "lr=1e-3", "fast=true"], folder)
    assert (toy.size, toy.lr, toy.fast) == (Size(8, "square"), 1e-3, True)


@pytest.mark.parametrize("text", ["runs/a=b", "runs/x y", "12", "a, b: [c", "it's"])
def test_a_text_setting_takes_any_text(folder, text):
    assert load("toy", Toy, [f"path={text}"], folder).path == text


def test_null_lists_and_open_mappings(folder):
    toy = load("toy", Toy, ["path=null", "numbers=[1, 2]", "free.ops=3", "free.rate=0.5", "free.name=x"], folder)
    assert toy.path is None and toy.numbers == [1, 2] and toy.free == {"ops": 3, "rate": 0.5, "name": "x"}


def test_an_optional_group_can_be_filled_by_yaml(folder):
    (folder / "toy.yaml").write_text("defaults: [{size: small}, _self_]\nextra: {rate: 0.9}\n")
    assert load("toy", Toy, [], folder).extra == Extra(0.9)
    assert load("toy", Toy, ["extra.rate=0.1"], folder).extra == Extra(0.1)
    assert load("toy", Toy, ["extra=null"], folder).extra is None


def test_an_optional_group_can_be_given_whole_or_by_one_setting(folder):
    for word, wanted in (
        ("extra.rate=0.1", Extra(0.1)),
        ("extra={rate: 0.2}", Extra(0.2)),
        ("extra={}", Extra()),
        ("extra=null", None),
    ):
        assert load("toy", Toy, [word], folder).extra == wanted


def test_a_choice_is_replaced_by_name_switched_by_kind_and_set_by_setting(folder):
    def shape(*words: str) -> Shape:
        return load("toy", Toy, list(words), folder).shape

    assert shape("shape=box") == Box() and shape("shape={kind: box, width: 3}") == Box(3.0)
    assert shape("shape.radius=2") == Circle(2.0)
    with pytest.raises(ValueError, match=r"shape\.radius=2: unknown setting"):
        shape("shape.radius=2", "shape.kind=box")
    assert shape("shape.kind=box") == Box(2.0, "red"), "what both options have stays"
    assert shape("shape.width=5", "shape=box") == Box(5.0), "the option is chosen first, wherever it stands"
    (folder / "toy.yaml").write_text("defaults: [{size: small}, _self_]\nshape: {kind: box, width: 7}\n")
    assert shape() == Box(7.0) and shape("shape=circle") == Circle() and shape("shape=box") == Box()


def test_lists_of_choices_and_choices_that_may_be_null(folder):
    toy = load(
        "toy", Toy, ["shapes=[circle, {kind: box, width: 9}]", "shapes.box.width=4", "shapes.0.radius=2"], folder
    )
    assert toy.shapes == [Circle(2.0), Box(4.0)] and toy.spare is None
    assert load("toy", Toy, ["spare=box"], folder).spare == Box()
    assert load("toy", Toy, ["spare.kind=box", "spare.width=3"], folder).spare == Box(3.0)
    with pytest.raises(ValueError, match=r"spare.width=3: spare is null; accepted: spare=NAME with circle, box"):
        load("toy", Toy, ["spare.width=3"], folder)


def test_a_choice_survives_the_way_to_plain_data_and_back(folder):
    toy = load("toy", Toy, ["shape=box", "shapes=[box]", "spare=circle"], folder)
    assert plain(toy)["shape"] == {"kind": "box", "width": 2.0, "colour": "blue"}
    assert build(Toy, plain(toy)) == toy


def test_open_mappings_have_types_and_text_is_text(folder):
    typed = load("toy", Toy, ["typed.ops=3", "typed.exact=true", "typed.world=/x/my world #1: a.json"], folder).typed
    assert typed == {"ops": 3, "exact": True, "world": "/x/my world #1: a.json"}
    assert load("toy", Toy, ["free.path=/x/te #1", "free.list=[1, a]"], folder).free == {
        "path": "/x/te #1",
        "list": [1, "a"],
    }
    assert load("toy", Toy, ["seed=010"], folder).seed == 10


def test_one_budget_on_the_command_line_replaces_the_default(folder):
    assert load("toy", Toy, ["budget.tokens=1_000"], folder).budget == Budget(tokens=1000)
    with pytest.raises(ValueError, match=r"budget\.tokens/steps: 2 of tokens, steps and flops"):
        load("toy", Toy, ["budget.tokens=10", "budget.steps=3"], folder)
    with pytest.raises(ValueError, match="0 of tokens, steps and flops"):
        load("toy", Toy, ["budget.steps=null"], folder)


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("sed=1", ["sed=1", "unknown setting", "did you mean seed?", "accepted: seed, lr"]),
        ("size.widht=1", ["size.widht=1", "did you mean width?", "size.width, size.shape"]),
        ("nothing.there=1", ["nothing.there=1", "unknown setting"]),
        ("seed.x=1", ["seed.x=1", "seed has no settings inside it"]),
        ("extra.rat=1", ["extra.rat=1", "did you mean rate?", "accepted: extra.rate"]),
        ("extra=3", ["extra=3", "a group of settings", "extra.rate"]),
        ("extra={rat: 1}", ["extra.rat=1", "did you mean rate?"]),
        ("shape=disk", ["shape=disk is not known", "accepted: circle, box"]),
        ("shape=hexagon", ["shape=hexagon", "too hard to draw", "accepted: circle, box"]),
        ("shape.kind=bax", ["shape.kind=bax is not known", "did you mean box?", "accepted: circle, box"]),
        ("shape.width=2", ["shape.width=2", "unknown setting", "accepted: shape.radius"]),
        ("shape={kind: box, radius: 2}", ["shape.radius=2", "accepted: shape.width"]),
        ("shape.radius=-1", ["shape.radius=-1.0: accepted"]),
        ("shapes=[circle, bax]", ["shapes.1=bax is not known", "did you mean box?"]),
        ("typed.ops=many", ["typed.ops=many", "expected an integer"]),
        ("typed.ops=inf", ["typed.ops=inf", "expected an integer"]),
        ("typed.ops=.inf", ["typed.ops=.inf", "expected an integer"]),
        ("typed.exact=2", ["typed.exact=2", "expected true or false"]),
        ("free.a=[1", ["free.a=[1"]),
        ("seed=abc", ["seed=abc", "expected an integer"]),
        ("seed=1.5", ["seed=1.5", "expected an integer"]),
        ("seed=null", ["seed=null", "expected an integer"]),
        ("lr=big", ["lr=big", "expected a number"]),
        ("fast=7up", ["fast=7up", "expected true or false"]),
        ("numbers=3", ["numbers=3", "expected a list"]),
        ("size=medium", ["size=medium", "no such option", "accepted: big, small"]),
        ("seed", ["seed: not understood"]),
        ("numbers=1,2", ["numbers=1,2: several values", "accepted: numbers=[1,2], or -m for a run with each"]),
        ("lr=0.1,0.2", ["lr=0.1,0.2: several values", "accepted: a number, or -m for a run with each"]),
        ("size=big,small", ["size=big,small: several values", "one of big, small, or -m"]),
        ("size/width=3", ["size/width=3: size/width is no group of files", "size.width=VALUE"]),
        ("+sed=1", ["sed=1: unknown setting (did you mean seed?)"]),
        ("~sed", ["~sed: unknown setting (did you mean seed?)"]),
        ("~free.a", ["~free.a: there is none; accepted: nothing"]),
        ("--sed", ["--sed: not understood; accepted: key=value"]),
        ("--seed=1", ["--seed=1: not understood"]),
        ("=1", ["=1: not understood"]),
        ("seed=-1", ["seed=-1: accepted: 0 or more"]),
        ("budget=3", ["budget=3", "a group of settings", "budget.tokens"]),
        ("seed=[1", ["seed=[1"]),
        ("seed=${lr}", ["seed=0.2: expected an integer"]),
        ("seed=${lrr}", ["Interpolation key 'lrr' not found"]),
        ("path=${oc.env:GLASSHOUSE_NO_SUCH_NAME}", ["GLASSHOUSE_NO_SUCH_NAME"]),
        ("seed=", ["seed=: expected an integer"]),
    ],
)
def test_bad_words_are_one_line_on_stderr_and_exit_code_2(folder, capsys, word, parts):
    ran = []
    assert run_entry("toy", Toy, ran.append, "doc", [word], folder=folder) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and not ran
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    for part in parts:
        assert part in captured.err


def test_a_wrong_yaml_file_is_an_error_too(folder):
    with pytest.raises(ValueError, match=r"bad\.yaml.*learning_rate"):
        load("bad", Toy, [], folder)


def test_a_missing_setting_is_named_but_can_be_shown(folder):
    with pytest.raises(ValueError, match=r"checkpoint: needs a value; give checkpoint=\.\.\."):
        load("needy", Needy, [], folder)
    assert yaml.safe_load(show("needy", Needy, [], folder)) == {"checkpoint": "???"}


def test_show_is_the_whole_resolved_config(folder):
    shown = yaml.safe_load(show("toy", Toy, ["size=big"], folder))
    assert shown == plain(load("toy", Toy, ["size=big"], folder))


def test_exit_codes(folder, capsys):

    def fails(error):
        def main(config):
            raise error

        return main

    assert run_entry("toy", Toy, lambda config: None, "doc", [], folder=folder) == 0
    assert run_entry("toy", Toy, fails(ValueError("two\nlines")), "doc", [], folder=folder) == 2
    assert capsys.readouterr().err == "error: two; lines\n"
    assert run_entry("toy", Toy, fails(Diverged("loss nan")), "doc", [], folder=folder) == 1
    assert run_entry("toy", Toy, fails(KeyboardInterrupt()), "doc", [], folder=folder) == 130
    with pytest.raises(ValueError):
        run_entry("toy", Toy, fails(ValueError("x")), "doc", ["--traceback"], folder=folder)
    with pytest.raises(ZeroDivisionError):  # a bug is not the user's input
        run_entry("toy", Toy, fails(ZeroDivisionError()), "doc", [], folder=folder)


def test_a_name_in_an_open_mapping_may_have_dots(folder):
    (folder / "toy.yaml").write_text("defaults: [_self_]\nfree: {a.b: 1, group: {c: 2}}\n")
    free = load("toy", Toy, ["free.a.b=3", "free.x.y=4", "free.group.c=5", "free.z=6"], folder).free
    assert free == {"a.b": 3, "x.y": 4, "group": {"c": 5}, "z": 6}
    (folder / "toy.yaml").write_text("defaults: [_self_]\nfree: {model: tiny, set: {data.overrides: {ops: 1}}}\n")
    free = load("toy", Toy, ["free.model.n_layer=2", "free.set.data.overrides.ops=2"], folder).free
    assert free == {"model": "tiny", "model.n_layer": 2, "set": {"data.overrides": {"ops": 2}}}


def test_plus_and_tilde_and_lists_and_numbers_are_hydra_s(folder):
    toy = load("toy", Toy, ["+free.a=1", "++seed=3", "numbers=[1,2,3_000]", "extra={rate: 0.2}", "~lr"], folder)
    assert (toy.free, toy.seed, toy.numbers, toy.extra) == ({"a": 1}, 3, [1, 2, 3000], Extra(0.2))
    assert toy.lr == 0.1, "the dataclass's own, not that of toy.yaml"
    assert load("toy", Toy, ["~size"], folder).size == Size()
    (folder / "toy.yaml").write_text("defaults: [_self_]\nfree: {a: 1, b.c: 2}\nnumbers: [1, 2]\n")
    assert load("toy", Toy, ["~free.b.c", "~numbers.0"], folder) == Toy(free={"a": 1}, numbers=[2])
    for text, whole in (("300_000", 300_000), ("3e5", 300_000), ("'7'", 7), ("010", 10)):
        assert load("toy", Toy, [f"seed={text}"], folder).seed == whole


def test_interpolations_are_filled_in_and_have_types(folder, monkeypatch):
    monkeypatch.setenv("TOY_NAME", "ada")
    words = ["seed=${numbers.0}", "numbers=[4,5]", "path=${oc.env:TOY_NAME}/${seed}", "extra.rate=${lr}"]
    toy = load("toy", Toy, words, folder)
    assert (toy.seed, toy.path, toy.extra) == (4, "ada/4", Extra(0.2))


def test_a_file_of_one_s_own_may_lie_anywhere(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("GLASSHOUSE_CONFIGS", raising=False)
    own = tmp_path / "elsewhere" / "size"
    own.mkdir(parents=True)
    (own / "huge.yaml").write_text("width: 999\n")
    assert load("toy", Toy, [f"size={own}/huge.yaml", "size.shape=flat"], folder).size == Size(999, "flat")
    with pytest.raises(ValueError, match=r"no such option.*or the path of a YAML file"):
        load("toy", Toy, ["size=huge"], folder)
    with pytest.raises(ValueError, match=r"cannot be read"):
        load("toy", Toy, [f"size={own}/none.yaml"], folder)
    monkeypatch.setenv("GLASSHOUSE_CONFIGS", str(own.parent))
    assert load("toy", Toy, ["size=huge"], folder).size == Size(999)
    monkeypatch.setenv("GLASSHOUSE_CONFIGS", "")
    ran = []
    assert run_entry("toy", Toy, ran.append, "", ["size=huge", "--config-dir", str(own.parent)], folder=folder) == 0
    assert ran[0].size == Size(999)
    assert run_entry("toy", Toy, ran.append, "", ["--config-dir", "/no/such"], folder=folder) == 2
    assert "--config-dir=/no/such: is no folder" in capsys.readouterr().err


def test_hydra_s_views_and_completion(folder, capsys, monkeypatch):
    def said(*words: str) -> str:
        assert run_entry("toy", Toy, print, "", list(words), folder=folder) == 0
        return capsys.readouterr().out

    assert yaml.safe_load(said("--cfg", "job", "seed=4"))["seed"] == 4
    assert said("--cfg", "job", "-p", "size") == "# @package size\nwidth: 2\nshape: round\n"
    assert "path: 0.2\n" in said("--cfg", "job", "--resolve", "path=${lr}")
    assert yaml.safe_load(said("--cfg", "hydra"))["hydra"]["output_subdir"] is None
    assert "complete -o nospace" in said("--shell-completion", "install=bash")
    for line, found in (("size=", "size=big size=small"), ("see", "seed="), ("size.w", "size.width=")):
        monkeypatch.setenv("COMP_LINE", f"python -m train.toy {line}")
        monkeypatch.setenv("COMP_POINT", "100")
        assert set(found.split()) <= set(said("--shell-completion", "query=bash").split())  # beside files of one's own


@pytest.mark.parametrize(
    ("name", "words", "where", "value"),
    [
        ("opd", ["method=opd", "method.schedule={start: 1.0, end: 0.0, steps: 60}"], "method.schedule.steps", 60),
        ("opd", ["method=opd", "method.source.length.end=0.5"], "method.source.length.end", 0.5),
        ("opd", ["method=opd", "method.fork={}"], "method.fork.tokens", 16),
        ("opd", ["method=grpo", "method.outcome.schedule.steps=7"], "method.outcome.schedule.steps", 7),
        ("recipe", ["recipe.stages.teacher.set.model.n_layer=2"], "given.teacher.model.n_layer", 2),
        ("recipe", ["stages.opd.set.optim.beta1=0.8"], "given.opd.optim.beta1", 0.8),
        ("recipe", ["start.teacher=/x/te #1"], "start.teacher", "/x/te #1"),
        ("pretrain", ["data.overrides.world=/x/my world #1: a"], "data.overrides.world", "/x/my world #1: a"),
        ("pretrain", ["seed=010", "budget.tokens=3e5"], "seed", 10),
    ],
)  # fmt: skip
def test_optional_groups_open_mappings_and_text_at_any_depth(name, words, where, value):
    found: Any = resolved(name, {"opd": OpdConfig, "recipe": RecipeConfig, "pretrain": PretrainConfig}[name], words)
    path = where.split(".")
    while path:
        size = next(i for i in range(len(path), 0, -1) if ".".join(path[:i]) in found)
        found, path = found[".".join(path[:size])], path[size:]
    assert found == value


@pytest.mark.parametrize(
    "words",
    [
        ["data.overrides.retry_rate=high"],
        ["data.overrides.exact_ops=inf"],
        ["data.overrides.exact_ops=3"],
        ['optim.lr="'],
    ],
)
def test_open_mappings_refuse_wrong_types(words):
    with pytest.raises(ValueError, match=r"expected|not understood"):
        load("pretrain", PretrainConfig, words)


@pytest.mark.parametrize(
    ("name", "schema", "word", "choices"),
    [
        ("opd", OpdConfig, "method.divergence.support.rest", "renorm, tail, general"),
        ("opd", OpdConfig, "method.divergence", "fkl, rkl"),
        ("pretrain", PretrainConfig, "model.norm", "rmsnorm, layernorm"),
        ("pretrain", PretrainConfig, "model.mlp", "gelu, swiglu, relu2"),
        ("pretrain", PretrainConfig, "batch.packing", "none, documents, concat"),
    ],
)
def test_a_choice_that_is_needed_names_what_there_is_in_place_of_null(name, schema, word, choices):
    words = (
        ["method=rethinking", "student=zoo/tiny-student-0", "teacher=zoo/tiny-teacher-0"]
        if name == "opd"
        else ["model=nano"]
    )
    with pytest.raises(ValueError, match=f"^{re.escape(word)}=null: expected .*{choices}"):
        load(name, schema, [*words, f"{word}=null"])
