"""`python -m synth.generate` as a user meets it: pages to read, JSON lines, files, and one line for every mistake."""

import json
import os
import re

import numpy as np
import pytest

from synth import cli, generate
from synth.dataset import Source
from synth.judge.audit_record import audit_record
from synth.kernel import jit
from synth.spec import preset
from synth.store import writers
from synth.world.vocabulary import FOLDER

BAD = [
    (["--ops", "0"], "0"),
    (["--ops", "x"], "x"),
    (["--ops", "65"], "65"),
    (["--ops", "1.5"], "1.5"),
    (["--ops"], "--ops"),
    (["--preset", "gigantic"], "gigantic"),
    (["--retry-rate", "1.5"], "1.5"),
    (["--retry-rate", "-0.1"], "-0.1"),
    (["--retry-rate", "nan"], "nan"),
    (["--retry-kind", "sometimes"], "sometimes"),
    (["--edges", "1"], "1"),
    (["--edges", "49"], "49"),
    (["--modulus", "1"], "1"),
    (["--count", "0"], "0"),
    (["--start", "-1"], "-1"),
    (["--seed", "x"], "x"),
    (["--split", "dev"], "dev"),
    (["--order", "qq"], "qq"),
    (["--workers", "0"], "0"),
    (["--solution-order", "any"], "any"),
    (["--context", "golden"], "golden"),
    (["--context", "concise"], "concise"),
    (["--opz", "3"], "--opz"),
    (["--op", "3"], "--op"),
    (["ops=3"], "ops=3"),
    (["--ops", "30", "--edges", "5"], "ops=30"),
    (["--ops", "6", "--edges", "2", "--exact-ops"], "ops=6"),
    (["--preset", "tiny", "--ops", "50"], "50"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in; the JIT switch that the command may set is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLASSHOUSE_JIT", os.environ.get("GLASSHOUSE_JIT", "1"))
    return tmp_path


def refused(capsys, *arguments: str) -> str:
    """The one line of a refused command."""
    with pytest.raises(SystemExit) as stopped:
        generate.main(list(arguments))
    out, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert out == ""
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    return err


@pytest.mark.parametrize(("arguments", "named"), BAD, ids=[" ".join(a) for a, _ in BAD])
@pytest.mark.parametrize("out", [(), ("--out", "new.jsonl")], ids=["", "out"])
def test_bad_input_is_one_line_and_writes_nothing(here, capsys, arguments, named, out):
    line = refused(capsys, *out, *arguments)
    assert named in line
    assert "accepted" in line
    assert list(here.iterdir()) == []


def test_existing_and_impossible_outputs_are_refused(here, capsys):
    (here / "old.jsonl").write_text("kept")
    (here / "folder").mkdir()
    for path in ("old.jsonl", "folder", "folder/", "nowhere/x.jsonl", "x.txt", "x.csv"):
        line = refused(capsys, "--count", "1", "--out", path)
        assert path.split("/")[0] in line
        assert "accepted" in line
    assert (here / "old.jsonl").read_text() == "kept"
    assert {p.name for p in here.iterdir()} == {"old.jsonl", "folder"}
    assert not any((here / "folder").iterdir())


def test_errors_of_a_real_process(command, tmp_path):
    done = command("synth.generate", "--preset", "med", "--ops", "0", "--out", tmp_path / "x.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --ops: 0 is not possible; accepted: a whole number from 1 to 64\n"
    assert list(tmp_path.iterdir()) == []


def test_help_shows_an_example(command):
    done = command("synth.generate", "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "python -m synth.generate --ops 15" in done.stdout
    for option in ("--exact-ops", "--edges", "--count", "--seed", "--split", "--order", "--retry-rate", "--retry-kind"):
        assert option in done.stdout


def test_what_has_to_be_compiled_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jit, "ENABLED", True)
    monkeypatch.setattr(jit, "_cache_folder", lambda module: str(tmp_path / module))
    cli.say_when_compiling("judge.checker")
    assert capsys.readouterr().err == "compiling synth.judge.checker, once: some minutes\n"
    (tmp_path / "judge.checker" / "place").mkdir(parents=True)
    (tmp_path / "judge.checker" / "place" / "kernel.nbc").touch()
    cli.say_when_compiling("judge.checker")
    monkeypatch.setattr(jit, "ENABLED", False)
    cli.say_when_compiling("oracle.next_token")
    assert capsys.readouterr().err == ""


def test_the_command_of_the_readme_prints_pages(command):
    done = command("synth.generate", "--ops", "15")
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())  # as it reads, whatever the line breaks
    pages = text.split("Problem ")[1:]
    assert len(pages) == 3
    source, start = Source(preset("med"), 0, "all"), int(pages[0].split()[0])
    assert start == int(np.argmax(source.problems(range(50)).ops >= 4))  # the first thing shown is worth a look
    for page, record in zip(pages, writers.records(source, start, start + 3), strict=True):
        assert record["problem"].strip() in page
        assert page.endswith(f"Answer {record['answer']}") or f"Answer {record['answer']} " in page
        assert f"{record['ops']} operation" in page and "drawn from 1 to 15" in page
        for p in record["parameters"]:
            if p["needed"] or p["kind"] == "instance":
                assert f"{p['name']} = {p['value']}" in page
    assert "\x1b" not in done.stdout


def test_inserted_mistakes_are_marked(command):
    done = command("synth.generate", "--ops", "8", "--retry-rate", "0.6", "--count", "4", "--seed", "3")
    source = Source(preset("med", ops=8, retry_rate=0.6), 3, "all")
    mistakes = [m for record in writers.records(source, 0, 4) for m in record["mistakes"]]
    text = " ".join(done.stdout.split())
    assert len(mistakes) > 2
    assert text.count("<- mistake") == text.count("as BACK.") == len(mistakes)
    for m in mistakes:
        assert f"Define {m['parameter']} as BACK. <- mistake" in text


def test_a_context_stands_before_the_problem_and_in_the_record(command):
    arguments = ("--preset", "tiny", "--context", "attempt+feedback", "--count", "2", "--start", "0")
    page = " ".join(command("synth.generate", *arguments).stdout.split())
    lines = command("synth.generate", *arguments, "--out", "-").stdout.splitlines()
    bare = command("synth.generate", *arguments[:2], *arguments[4:], "--out", "-").stdout.splitlines()
    for line, plain in zip(map(json.loads, lines), map(json.loads, bare), strict=True):
        assert list(audit_record(line)) == []
        assert line.pop("context_recipe") == "attempt+feedback"
        context = line.pop("context")
        assert context.startswith("<attempt> ") and "\n<feedback> " in context
        assert f"Context {' '.join(context.split())} Problem" in page
        assert line.pop("id") != plain.pop("id")
        assert line == plain


def test_json_lines_to_standard_output(command):
    arguments = ("--preset", "hard", "--order", "qp", "--split", "test", "--seed", "5", "--start", "2", "--count", "3")
    done = command("synth.generate", *arguments, "--retry-rate", "0.2", "--solution-order", "published", "--out", "-")
    assert (done.returncode, done.stderr) == (0, "")
    spec = preset("hard", order="qp", retry_rate=0.2, solution_order="published")
    wanted = list(writers.records(Source(spec, 5, "test"), 2, 5))
    assert [json.loads(line) for line in done.stdout.splitlines()] == wanted


def test_files_do_not_depend_on_the_number_of_workers(command, tmp_path):
    for workers, name in (("1", "a.jsonl"), ("2", "b.jsonl")):
        done = command(
            "synth.generate",
            "--preset",
            "tiny",
            "--count",
            "1200",
            "--workers",
            workers,
            "--out",
            tmp_path / name,
            timeout=250,
        )
        assert (done.returncode, done.stdout) == (0, f"1,200 problems in {tmp_path / name}\n"), done.stderr
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1200


def test_shards_from_the_command(here, capsys):
    generate.main(["--preset", "tiny", "--count", "12", "--out", "shards/"])
    assert capsys.readouterr().out == "12 problems in shards/\n"
    assert json.loads((here / "shards" / "manifest.json").read_text())["documents"] == 12
    generate.main(["--preset", "tiny", "--count", "12", "--out", "shards/"])  # finished already: the same again
    assert capsys.readouterr().out == "12 problems in shards/\n"
    line = refused(capsys, "--preset", "tiny", "--count", "13", "--out", "shards/")
    assert "documents=12, not 13; accepted" in line


def test_a_world_of_ones_own_and_its_faults(here, capsys):
    data = json.loads((FOLDER / "voyage.json").read_text(encoding="utf-8"))
    data["name"], data["categorisations"] = "mine", data["categorisations"][:2]
    (here / "mine.json").write_text(json.dumps(data), encoding="utf-8")
    generate.main(["--world", "mine.json", "--count", "3", "--out", "-"])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["world"] for r in records] == ["mine"] * 3
    assert all(r["problem"].startswith(" The count of every") for r in records)
    assert "does not exist; accepted: english, voyage" in refused(capsys, "--world", "atlantis")
    data["phrases"]["plus"], data["possessive"] = "", 3
    (here / "bad.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        generate.main(["--world", "bad.json"])
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert len(lines) == 2
    assert "possessive: 3; accepted" in lines[0]
    assert "plus is empty" in lines[1]


def test_a_figure_is_drawn(here, capsys):
    generate.main(["--ops", "6", "--figure", "graph.svg"])
    assert capsys.readouterr().out.count("Problem ") == 1
    generate.main(["--ops", "3", "--count", "2", "--start", "4", "--figure", "g.svg"])
    assert {p.name for p in here.iterdir()} == {"graph.svg", "g-4.svg", "g-5.svg"}
    capsys.readouterr()
    for arguments, named in (
        (("x.gif",), ".png, .svg, .pdf"),
        (("no/x.png",), "no"),
        (("x.png", "--out", "-"), "--out"),
    ):
        assert named in refused(capsys, "--figure", *arguments)


def test_exact_operations_and_edges(here, capsys):
    generate.main(["--ops", "6", "--exact-ops", "--edges", "9", "--count", "4", "--out", "-"])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["ops"] for r in records] == [6] * 4
    assert max(r["edges"] for r in records) <= 9


def test_a_reader_that_stops_is_no_error(root):
    import subprocess
    import sys

    line = f"{sys.executable} -m synth.generate --count 20 --preset tiny --out - | head -n 1"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=root, timeout=60)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
