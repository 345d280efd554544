"""The compile cache of a file is keyed by every file that its kernels can reach, and by no other."""

import ast

from synth import jit
from synth.jit import sources


def test_a_module_depends_on_all_it_imports_directly_or_not():
    assert sources("hashing") == {"hashing", "jit"}
    assert {"sample", "structure", "problem", "split", "clauses", "hashing", "world", "jit"} <= sources("sample")


def test_a_kernel_that_nobody_calls_is_in_no_other_key():
    assert "checker" not in sources("sample")
    assert "sample" not in sources("checker")


def test_imports_of_the_package_and_over_several_lines_count(tmp_path, monkeypatch):
    monkeypatch.setattr("synth.jit.HERE", tmp_path)
    (tmp_path / "a.py").write_text("from synth import b as c, d\nfrom synth.e import (\n    x,\n)\nimport numpy\n")
    for name in "bde":
        (tmp_path / f"{name}.py").write_text("")
    assert sources("a") == set("abde")


def test_a_file_is_read_once_however_many_import_it(tmp_path, monkeypatch):
    """Every command asks for each of fifteen modules; reading all that each imports took a second of its start."""
    texts = {"a": "from synth import b, c", "b": "from synth import d", "c": "from synth import d", "d": ""}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    parsed = []
    monkeypatch.setattr(jit, "HERE", tmp_path)
    monkeypatch.setattr(jit.ast, "parse", lambda text, whole=ast.parse: parsed.append(text) or whole(text))
    assert [sources(name) for name in "abcd"] == [{"a", "b", "c", "d"}, {"b", "d"}, {"c", "d"}, {"d"}]
    assert len(parsed) == 4
