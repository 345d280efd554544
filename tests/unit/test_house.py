"""The rules of the house as tests: directions of imports, sizes, names, complete modules, READMEs that tell the truth.

Each rule is a function that lists what breaks it, and is also tried on something that does.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.helpers.commands import environment
from tests.helpers.import_graph import PACKAGES, cycles, import_graph, violations
from tests.helpers.paths import ROOT

MAX_LINES, MAX_FILES = 400, 15
SAYS_NOTHING = {"utils", "util", "helpers", "misc", "common", "base", "core", "lib", "tools"}

# A package and what it may not import. An exception is one module and one target, named here.
FORBIDDEN = {
    "synth": ("torch", "hydra", "omegaconf", "transformers", "models", "train", "probes"),
    "models": ("hydra", "omegaconf", "synth", "train", "probes"),
    "train": ("hydra", "probes"),
    "probes": ("hydra", "train"),
    "train.core": ("train.opd", "train.recipes", "train.report"),
    "train.data": ("train.opd", "train.recipes", "train.report"),
    "train.runs": ("train.opd", "train.recipes", "train.report"),
    "train.evaluation": ("train.opd", "train.recipes", "train.report"),
    "train.opd": ("train.recipes", "train.report"),
    "train.recipes": ("train.opd", "train.report"),
    "train.report": ("train.opd",),
}
ALLOWED = {
    ("synth.store.hf_tokenizer", "transformers"),
    ("synth.tokenizer", "transformers"),
    ("train.config.compose", "hydra"),
    ("probes.runs", "train"),
    ("train.opd.smoke_overrides", "train.recipes"),
}
# Cycles of imports that only type annotations need. A new one is not accepted.
FOR_TYPES = [
    ["train.opd.divergence.divergence", "train.opd.divergence.estimators"],
    ["train.opd.teacher.targets", "train.opd.teacher.transforms"],
    ["train.opd.weight.sample_weights", "train.opd.weight.token_weights", "train.opd.weight.weight"],
]

SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
READMES = {package: ROOT / package / "README.md" for package in PACKAGES}


def name_of(path: Path, root: Path = ROOT) -> str:
    return path.relative_to(root).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


# --- imports --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph():
    return import_graph()


def test_imports_go_in_one_direction(graph):
    assert violations(graph, FORBIDDEN, ALLOWED) == []


def test_no_module_is_part_of_an_import_cycle(graph):
    assert [group for group in cycles(graph) if group not in FOR_TYPES] == []


def test_a_planted_cycle_and_a_planted_import_are_found(tmp_path):
    """Inside functions, for types alone and through `importlib` too."""
    files = {
        "synth/a.py": "def f():\n    from synth import b",
        "synth/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from synth.c import X",
        "synth/c.py": "import importlib\nX = importlib.import_module('synth.a')",
        "synth/d.py": "from synth.a import f\nimport torch.nn as nn",
        "models/m.py": "from synth.world.vocabulary import World\nfrom models import n",
        "models/n.py": "",
        "train/report/x.py": "",
        "train/core/y.py": "from train.report import x",
        "train/config/compose.py": "import hydra",
        "probes/z.py": "from train.core.y import x",
        "probes/runs.py": "from train.core.y import x",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    graph = import_graph(tmp_path)
    assert cycles(graph) == [["synth.a", "synth.b", "synth.c"]]
    assert violations(graph, FORBIDDEN, ALLOWED) == [
        "models.m imports synth.world.vocabulary",
        "probes.z imports train.core.y",
        "synth.d imports torch.nn",
        "train.core.y imports train.report.x",
    ]


def test_the_world_is_there_without_torch():
    """Drawing, writing, judging and storing problems loads neither torch nor transformers."""
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in SOURCES if p.is_relative_to(ROOT / "synth")]
    wanted = [m for m in modules if (m, "transformers") not in ALLOWED and not m.endswith("__init__")]
    code = f"import importlib, sys; [importlib.import_module(m) for m in {wanted}]; "
    code += "print(sorted({'torch', 'transformers', 'hydra'} & sys.modules.keys()), len(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment(GLASSHOUSE_JIT="0")
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[] ") and len(wanted) > 30


# --- files ----------------------------------------------------------------------------------------------------------


def too_long(path: Path, text: str) -> list[str]:
    lines = len(text.splitlines())
    return [f"{name_of(path)} has {lines} lines; accepted: {MAX_LINES} or fewer"] if lines > MAX_LINES else []


def nameless(paths: Iterable[Path], root: Path = ROOT) -> list[str]:
    """Modules whose name says nothing, or that share name and parent folder's name with another."""
    paths = [p for p in paths if p.name not in ("__init__.py", "__main__.py", "conftest.py")]
    full = [f"{p.parent.name}/{p.name}" if p.name != "run.py" else name_of(p, root) for p in paths]
    return [
        name_of(p, root)
        for p, key in zip(paths, full, strict=True)
        if p.stem in SAYS_NOTHING or full.count(key) > 1 or not re.fullmatch(r"[a-z][a-z0-9_]*", p.stem)
    ]


def crowded(paths: Iterable[Path]) -> list[str]:
    folders = [p.parent for p in paths]
    return sorted({f"{f.name}: {folders.count(f)} files" for f in folders if folders.count(f) > MAX_FILES})


def without_a_counterpart(tests: Iterable[Path], root: Path = ROOT) -> list[str]:
    """Folders of unit tests that are no folder of the code: the tests of synth/draw stand in tests/unit/synth/draw."""
    folders = {
        p.parent.relative_to(root / "tests" / "unit") for p in tests if p.is_relative_to(root / "tests" / "unit")
    }
    return sorted(folder.as_posix() for folder in folders if not (root / folder).is_dir())


def test_a_file_is_short_enough_to_read():
    assert [s for p in SOURCES + TESTS for s in too_long(p, p.read_text(encoding="utf-8"))] == []


def test_a_file_has_a_name_of_its_own():
    assert nameless(SOURCES) == []
    assert nameless(p for p in TESTS if p.parent.name == "helpers") == []


def test_a_folder_of_unit_tests_is_one_of_the_code():
    assert without_a_counterpart(TESTS) == []


def test_rules_of_files_notice_what_breaks_them(tmp_path):
    assert too_long(ROOT / "synth" / "x.py", "a\n" * 401) == ["synth/x.py has 401 lines; accepted: 400 or fewer"]
    assert too_long(ROOT / "synth" / "x.py", "a\n" * 400) == []
    names = [
        "synth/utils.py",
        "synth/store/x.py",
        "train/store/x.py",
        "train/y.py",
        "train/opd/run.py",
        "probes/run.py",
    ]
    assert nameless(ROOT / name for name in names) == ["synth/utils.py", "synth/store/x.py", "train/store/x.py"]
    assert crowded([tmp_path / f"{k}.py" for k in range(16)]) == [f"{tmp_path.name}: 16 files"]
    misplaced = [ROOT / "tests" / "unit" / "synth" / "nothing" / "test_x.py", ROOT / "tests" / "unit" / "test_y.py"]
    assert without_a_counterpart(misplaced) == ["synth/nothing"]


# --- modules --------------------------------------------------------------------------------------------------------


def unfinished(tree: ast.AST) -> list[int]:
    """Lines that stand for code that is not there: NotImplementedError, or a function whose body is only `...`."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            lines.append(node.lineno)
        if isinstance(node, ast.FunctionDef) and not is_declaration(node):
            body = [s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
            if not body and len(node.body) == 1 and node.body[0].value.value is Ellipsis:
                lines.append(node.lineno)
    return lines


def is_declaration(node: ast.FunctionDef) -> bool:
    return any(isinstance(d, ast.Name) and d.id in ("overload", "abstractmethod") for d in node.decorator_list)


def global_randomness(tree: ast.AST) -> list[int]:
    """Lines that use a generator shared by the whole process: `random.x`, `np.random.seed` and its like."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(alias.name == "random" for alias in node.names):
            lines.append(node.lineno)
        if isinstance(node, ast.Attribute) and re.fullmatch(r"(np|numpy)\.random\.[a-z]\w*", ast.unparse(node)):
            lines += [node.lineno] if node.attr != "default_rng" else []
    return lines


def test_a_module_says_what_it_is_and_is_complete():
    bad = []
    for path in SOURCES:
        tree, source = parsed(path), path.read_text(encoding="utf-8")
        bad += [f"{name_of(path)}: no docstring"] if source.strip() and not ast.get_docstring(tree) else []
        bad += [f"{name_of(path)}:{line}: unfinished" for line in unfinished(tree)]
        bad += [f"{name_of(path)}:{line}: a generator of the whole process" for line in global_randomness(tree)]
        bad += [f"{name_of(path)}: {word}" for word in ("TO" + "DO", "FIX" + "ME") if word in source]
    assert bad == []


def test_rules_of_modules_notice_what_breaks_them():
    assert unfinished(ast.parse("def f():\n    raise NotImplementedError")) == [2]
    assert unfinished(ast.parse("def f():\n    ...")) == [1]
    assert unfinished(ast.parse("def f():\n    'doc'\n    return 1")) == []
    assert global_randomness(ast.parse("import numpy as np\nnp.random.seed(1)")) == [2]
    assert global_randomness(ast.parse("import random")) == [1]
    assert global_randomness(ast.parse("import numpy as np\nnp.random.default_rng(1)")) == []
    assert global_randomness(ast.parse("import numpy as np\nx: np.random.Generator")) == []


# --- pages ----------------------------------------------------------------------------------------------------------


def dead_references(page: str, folder: Path) -> list[str]:
    """Files, modules and links that a page names and that are not there; a file may be named by the end of its path."""
    every = [name_of(p) for p in SOURCES + TESTS]
    files = {f for f in re.findall(r"`([\w/.-]+\.py)`", page) if not any(f"/{e}".endswith(f"/{f}") for e in every)}
    modules = set(re.findall(r"python -m ([a-z][\w.]*)", page)) - {"pytest", "pip", "http.server", "ruff"}
    modules = {m for m in modules if not {f"{m.replace('.', '/')}{end}" for end in (".py", "/__main__.py")} & {*every}}
    links = {link for link in re.findall(r"\]\(([\w/.-]+)(?:#[\w-]*)?\)", page) if not (folder / link).exists()}
    return sorted(files | modules | links)


def commands(paths: Iterable[Path]) -> list[str]:
    """Modules that are started as `python -m MODULE`."""
    entries = [p for p in paths if '\nif __name__ == "__main__":' in p.read_text(encoding="utf-8")]
    return [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__") for p in entries]


def test_what_a_readme_names_is_there():
    pages = [ROOT / "README.md", *READMES.values(), ROOT / "tests" / "bench" / "README.md"]
    assert {name_of(p): dead_references(p.read_text(encoding="utf-8"), p.parent) for p in pages} == {
        name_of(p): [] for p in pages
    }


def test_a_readme_shows_every_command_of_its_room():
    entries = commands(p for p in SOURCES if p.name != "fork_server.py")  # which the recipe starts, no person
    assert len(entries) > 15
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    unseen = [m for m in entries if m not in front + READMES[m.split(".")[0]].read_text(encoding="utf-8")]
    assert unseen == []


def test_rules_of_pages_notice_what_breaks_them():
    page = "See `nothing.py`, `gpt.py`, `models/gpt.py`, [a](synth/README.md), [b](gone.md), python -m train.gone"
    assert dead_references(page, ROOT) == ["gone.md", "nothing.py", "train.gone"]
