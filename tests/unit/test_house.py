"""The rules of the house as tests: directions of imports, sizes, names, complete modules, READMEs that tell the truth.

Each rule is a function that lists what breaks it, and is also tried on something that does. Style and types are held by
`make lint`, which reads the same contracts of imports (import-linter, in pyproject.toml).
"""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.helpers.commands import environment
from tests.helpers.import_graph import PACKAGES, cycles, import_graph
from tests.helpers.paths import ROOT

MAX_LINES, MAX_FILES, MAX_FUNCTION = 400, 15, 60
SAYS_NOTHING = {"utils", "util", "helpers", "misc", "common", "base", "core", "lib", "tools"}

# For each contract of import-linter in pyproject.toml a module and an import that breaks it.
AGAINST_A_CONTRACT = {
    "packages": ("models/flops.py", "import synth.spec"),
    "inside models": ("models/ops.py", "import models.gpt"),
    "inside train": ("train/core/loop.py", "def f():\n    import train.opd.objective"),
    "no circle among siblings": ("synth/world/vocabulary.py", "if False:\n    import synth.dataset"),
    "probes reads train through one module": ("probes/tasks/layers.py", "import train.merge"),
    "only commands read the report": ("train/zoo.py", "from train.report import page"),
    "synth without torch": ("synth/spec.py", "import torch.nn as nn"),
    "Hydra in one folder": ("train/recipe.py", "import hydra"),
}

SOURCES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
TESTS = sorted(p for p in (ROOT / "tests").rglob("*.py") if ROOT / "tests" / "golden" / "runs" not in p.parents)
READMES = {package: ROOT / package / "README.md" for package in PACKAGES}


def name_of(path: Path, root: Path = ROOT) -> str:
    return path.relative_to(root).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


# --- imports --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph():
    return import_graph()


def contracts(root: Path) -> dict[str, str]:
    """KEPT or BROKEN for every contract of import-linter."""
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment(PYTHONPATH=str(root)))
    return dict(re.findall(r"^(.+) (KEPT|BROKEN)", done.stdout, re.MULTILINE))


def test_imports_keep_every_contract():
    assert contracts(ROOT) == dict.fromkeys(AGAINST_A_CONTRACT, "KEPT")


def test_a_planted_import_breaks_its_contract(tmp_path):
    for path in SOURCES:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8"))
    for name, line in AGAINST_A_CONTRACT.values():
        with (tmp_path / name).open("a") as file:
            file.write(f"\n{line}\n")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert contracts(tmp_path) == dict.fromkeys(AGAINST_A_CONTRACT, "BROKEN")


def test_no_module_is_part_of_an_import_cycle(graph):
    assert cycles(graph) == []


def test_a_planted_cycle_is_found(tmp_path):
    """Inside functions, for types alone and through `importlib` too."""
    files = {
        "a.py": "def f():\n    from synth import b",
        "b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from synth.c import X",
        "c.py": "import importlib\nX = importlib.import_module('synth.a')",
        "d.py": "from synth.a import f",
    }
    (tmp_path / "synth").mkdir()
    for name, text in files.items():
        (tmp_path / "synth" / name).write_text(text)
    assert cycles(import_graph(tmp_path)) == [["synth.a", "synth.b", "synth.c"]]


def test_the_world_is_there_without_torch():
    """Drawing, writing, judging and storing problems loads neither torch nor transformers."""
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in SOURCES if p.is_relative_to(ROOT / "synth")]
    wanted = [m for m in modules if m != "synth.store.hf_tokenizer" and not m.endswith("__init__")]
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


def crowded(paths: Iterable[Path], root: Path = ROOT) -> list[str]:
    folders = Counter(name_of(p.parent, root) for p in paths)
    return sorted(
        f"{folder}: {count} files; accepted: {MAX_FILES}" for folder, count in folders.items() if count > MAX_FILES
    )


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


def test_a_folder_is_small_enough_to_survey():
    assert crowded(SOURCES + TESTS) == []


def test_a_folder_of_unit_tests_is_one_of_the_code():
    assert without_a_counterpart(TESTS) == []


def test_rules_of_files_notice_what_breaks_them():
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
    assert crowded(ROOT / "synth" / f"{k}.py" for k in range(16)) == ["synth: 16 files; accepted: 15"]
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


def long_functions(tree: ast.AST) -> list[str]:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    lengths = [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in functions]
    return [f"{name}, {lines} lines" for name, lines in lengths if lines > MAX_FUNCTION]


def test_a_function_fits_on_a_screen():
    assert [f"{name_of(p)}: {f}" for p in SOURCES for f in long_functions(parsed(p))] == []


def test_a_module_is_complete():
    assert [f"{name_of(p)}:{line}: unfinished" for p in SOURCES for line in unfinished(parsed(p))] == []


def test_rules_of_modules_notice_what_breaks_them():
    assert unfinished(ast.parse("def f():\n    raise NotImplementedError")) == [2]
    assert unfinished(ast.parse("def f():\n    ...")) == [1]
    assert unfinished(ast.parse("def f():\n    'doc'\n    return 1")) == []
    assert long_functions(ast.parse("def f():\n" + "    x = 1\n" * 60)) == ["f, 61 lines"]
    assert long_functions(ast.parse("def f():\n" + "    x = 1\n" * 59)) == []


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
    pages = [
        ROOT / "README.md",
        *READMES.values(),
        ROOT / "tests" / "README.md",
        ROOT / "tests" / "bench" / "README.md",
    ]
    assert {name_of(p): dead_references(p.read_text(encoding="utf-8"), p.parent) for p in pages} == {
        name_of(p): [] for p in pages
    }


def test_a_readme_shows_every_command_of_its_room():
    entries = commands(SOURCES)
    assert len(entries) > 15
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    unseen = [m for m in entries if m not in front + READMES[m.split(".")[0]].read_text(encoding="utf-8")]
    assert unseen == []


def test_rules_of_pages_notice_what_breaks_them():
    page = "See `nothing.py`, `gpt.py`, `models/gpt.py`, [a](synth/README.md), [b](gone.md), python -m train.gone"
    assert dead_references(page, ROOT) == ["gone.md", "nothing.py", "train.gone"]
