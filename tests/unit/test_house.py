"""The rules of the house as tests: file sizes, import direction, names, docstrings, test tiers.

Each rule is a function of the parsed source, so a rule is also tested on a small piece of source that breaks it.
Try: `python -m pytest tests/unit/test_house.py`.
"""

import ast
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

ROOMS = ("synth", "models", "train", "probes")
MAX_LINES = 400
NAMELESS = {"utils.py", "util.py", "helpers.py", "misc.py", "common.py"}

# What a room may not import. An exception to a rule is one file, named here.
FORBIDDEN = {
    "synth": {"torch", "hydra", "omegaconf", "models", "train", "probes", "transformers"},
    "models": {"hydra", "omegaconf", "synth", "train", "probes"},
    "train": {"probes", "hydra"},
    "probes": {"hydra"},
    "tests": set(),
}
ALLOWED = {("synth/store/hf_tokenizer.py", "transformers"), ("train/config/compose.py", "hydra")}

SOURCES = sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> set[str]:
    """Top-level packages that a module imports, at any depth of nesting; relative imports count as none."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def against_the_line(path: str, tree: ast.AST) -> set[str]:
    """The imports of `path` that go against the direction synth -> models -> train -> probes."""
    bad = imported(tree) & FORBIDDEN[path.split("/")[0]]
    return {name for name in bad if (path, name) not in ALLOWED}


def unfinished(tree: ast.AST) -> list[int]:
    """Lines that stand for code that is not there: NotImplementedError, or a function whose body is only `...`."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            lines.append(node.lineno)
        if isinstance(node, ast.FunctionDef) and not _is_overload(node):
            body = [s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
            if not body and len(node.body) == 1 and node.body[0].value.value is Ellipsis:
                lines.append(node.lineno)
    return lines


def _is_overload(node: ast.FunctionDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id in ("overload", "abstractmethod") for d in node.decorator_list)


def global_randomness(tree: ast.AST) -> list[int]:
    """Lines that use a generator shared by the whole process: `random.x`, `np.random.seed` and its like."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(alias.name == "random" for alias in node.names):
            lines.append(node.lineno)
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Attribute)
            and node.value.attr == "random"
            and isinstance(node.value.value, ast.Name)
            and node.value.value.id in ("np", "numpy")
            and node.attr[0].islower()
            and node.attr != "default_rng"
        ):
            lines.append(node.lineno)
    return lines


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=_name)
def test_a_file_is_short_enough_to_read(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{_name(path)} has {lines} lines; the house allows {MAX_LINES}"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_imports_go_in_a_straight_line(path):
    bad = against_the_line(_name(path), _parse(path))
    assert not bad, f"{_name(path)} imports {', '.join(sorted(bad))}"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_a_module_is_complete_and_says_what_it_is(path):
    tree = _parse(path)
    source = path.read_text(encoding="utf-8")
    assert source.strip() == "" or ast.get_docstring(tree), f"{_name(path)} has no docstring"
    assert not unfinished(tree), f"{_name(path)} is unfinished at lines {unfinished(tree)}"
    assert "TO" + "DO" not in source and "FIX" + "ME" not in source
    assert not global_randomness(tree), f"{_name(path)} uses a global generator at lines {global_randomness(tree)}"


def test_every_file_has_a_name_of_its_own():
    nameless = [_name(p) for p in SOURCES + TESTS if p.name in NAMELESS]
    assert not nameless


def test_every_room_is_a_package_with_code():
    for room in ROOMS:
        assert any(p.name != "__init__.py" for p in (ROOT / room).glob("*.py")), f"{room}/ has no code"


@pytest.mark.parametrize("tier", ["unit", "numeric", "golden", "cli", "bench"])
def test_every_tier_of_tests_is_present(tier):
    assert list((ROOT / "tests" / tier).glob("test_*.py")), f"tests/{tier} has no test file"


def test_the_rules_notice_what_breaks_them():
    assert against_the_line("synth/x.py", ast.parse("def f():\n    import torch.nn as nn")) == {"torch"}
    assert against_the_line("models/x.py", ast.parse("from synth.world.vocabulary import World")) == {"synth"}
    assert against_the_line("train/x.py", ast.parse("from probes import run")) == {"probes"}
    assert against_the_line("train/config/compose.py", ast.parse("import hydra")) == set()
    assert unfinished(ast.parse("def f():\n    raise NotImplementedError")) == [2]
    assert unfinished(ast.parse("def f():\n    ...")) == [1]
    assert unfinished(ast.parse("def f():\n    'doc'\n    return 1")) == []
    assert global_randomness(ast.parse("import numpy as np\nnp.random.seed(1)")) == [2]
    assert global_randomness(ast.parse("import numpy as np\nnp.random.default_rng(1)")) == []


def test_a_readme_names_every_file():
    """The tree is the documentation: a file that is not in it is not found."""
    pages = {room: (ROOT / "README.md").read_text() for room in ROOMS}
    for room in ROOMS:
        page = ROOT / room / "README.md"
        pages[room] += page.read_text() if page.is_file() else ""
    nameless = [p for p in SOURCES if p.name not in pages[_name(p).split("/")[0]] and not p.name.startswith("__")]
    assert [_name(p) for p in nameless] == []
