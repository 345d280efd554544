"""The compile cache of a file is keyed by every file that its kernels can reach, and by no other."""

import ast

import pytest

from synth.kernel import jit
from synth.kernel.jit import sources


def test_a_module_depends_on_all_it_imports_directly_or_not():
    assert sources("kernel.rng") == {"kernel.rng", "kernel.jit"}
    expected = {"draw.problems", "draw.graph", "draw.split", "problem.arrays", "problem.clauses", "kernel.rng"}
    assert expected | {"world.vocabulary", "kernel.jit", "draw.expressions"} <= sources("draw.problems")


def test_a_kernel_that_nobody_calls_is_in_no_other_key():
    assert "judge.checker" not in sources("draw.problems")
    assert "draw.problems" not in sources("judge.checker")


def test_imports_of_packages_of_submodules_and_over_several_lines_count(tmp_path, monkeypatch):
    monkeypatch.setattr("synth.kernel.jit.PACKAGE", tmp_path)
    text = "from synth import b as c, d\nfrom synth.e.f import (\n    x,\n)\nfrom synth.g import h\n"
    text += "import synth.i.j\nimport numpy\n"
    for name, source in {"a": text, "b": "", "d": "", "e/f": "", "g/h": "", "i/j": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(source)
    assert sources("a") == {"a", "b", "d", "e.f", "g.h", "i.j"}


def test_a_file_is_read_once_however_many_import_it(tmp_path, monkeypatch):
    """Every command asks for each of fifteen modules; reading all that each imports took a second of its start."""
    texts = {"a": "from synth import b, c", "b": "from synth import d", "c": "from synth import d", "d": ""}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    parsed = []
    monkeypatch.setattr(jit, "PACKAGE", tmp_path)
    monkeypatch.setattr(jit.ast, "parse", lambda text, whole=ast.parse: parsed.append(text) or whole(text))
    assert [sources(name) for name in "abcd"] == [{"a", "b", "c", "d"}, {"b", "d"}, {"c", "d"}, {"d"}]
    assert len(parsed) == 4


@pytest.mark.parametrize("mode", [0o700, 0o777])
def test_machine_code_lies_beside_the_package_or_where_only_this_user_writes(tmp_path, monkeypatch, mode):
    """numba unpickles it, so nobody else may have put it there."""
    find, package = jit.cache_home.__wrapped__, tmp_path / "package"
    package.mkdir()
    assert find(package) == package / "__pycache__"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("os.access", lambda path, _: path != package)
    own = tmp_path / "glasshouse"
    own.mkdir()
    own.chmod(mode)
    found = find(package)
    assert (found == own) == (mode == 0o700) and not found.stat().st_mode & 0o022
