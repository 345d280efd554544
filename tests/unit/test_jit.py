"""The compile cache of a file is keyed by every file that its kernels can reach, and by no other."""

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
