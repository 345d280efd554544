"""`python -m synth.check` as a user runs it: the summary, verdict lines, exit codes, one line for bad input."""

import importlib
import json
from subprocess import CompletedProcess

import pytest

from synth import check
from synth import generate as generator
from synth.dataset import Source
from synth.exit_codes import run_command
from synth.spec import preset
from synth.store import writers

MAINS = {"synth.generate": generator.main, "synth.check": check.main}


@pytest.fixture
def command(capsys, monkeypatch):
    """The commands as their modules end, in this process."""

    def run(module: str, *arguments: object, **variables: str) -> CompletedProcess[str]:
        for name, value in ({"GLASSHOUSE_JIT": "1"} | variables).items():
            monkeypatch.setenv(name, value)
        code = run_command(lambda: MAINS[module]([*map(str, arguments)]))
        out, err = capsys.readouterr()
        return CompletedProcess([module], code, out, err)

    return run


def generate(command, *arguments: str) -> list[dict]:
    done = command("synth.generate", *arguments, "--out", "-", GLASSHOUSE_JIT="0")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def records(command) -> list[dict]:
    return generate(command, "--ops", "4", "--retry-rate", "0.5", "--seed", "2", "--count", "6")


def write(path, records) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in records) + "\n", encoding="utf-8")
    return str(path)


def test_right_solutions(command, tmp_path, records):
    done = command("synth.check", write(tmp_path / "x.jsonl", records), "--strict", "--all")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and done.stderr == "" and len(lines) == 7
    for line, r in zip(lines[1:], records, strict=True):
        back = f", {len(r['mistakes'])} taken back" if r["mistakes"] else ""
        assert line == f"{r['id']}: right{back}"
    assert lines[0] == "6 solutions, 6 right, 6 right as published"


def test_wrong_solutions_are_shown_with_the_first_mistake(command, tmp_path, records):
    sentences = records[0]["solution"].split(". ")
    value = int(sentences[-1].rstrip(".").split(" ")[-1])
    changed = [
        records[0] | {"other": records[0]["solution"].removesuffix(f"{value}.") + f"{(value + 1) % 23}."},
        records[1] | {"other": "\ud800 Not a sentence\nof the world. " + records[1]["solution"].lstrip()},
        records[2] | {"other": ""},
        records[3] | {"other": records[3]["solution"]},
    ]
    path = write(tmp_path / "x.jsonl", changed)
    done = command("synth.check", path, "--field", "other", "--all", "--reading", "strict")
    count, *lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 4
    assert f": wrong, step {len(sentences)} wrong " in lines[0] and sentences[-1].rstrip(".")[:30].strip() in lines[0]
    assert lines[1].endswith("wrong, step 1 malformed: \\ud800 Not a sentence of the world.")
    assert lines[2].endswith(": wrong, ends early")
    assert ": right" in lines[3]
    assert count.startswith("4 solutions, 1 right, 1 right as published; first mistakes: ")
    assert "malformed 1" in count and "ends early 1" in count
    again = command("synth.check", path, "--field", "other", "--strict", "--reading", "strict")
    assert again.returncode == 1 and again.stdout.splitlines() == [count, *lines[:3]]


def test_a_file_of_many_records_and_small_worlds(command, tmp_path):
    records = generate(command, "--preset", "tiny", "--count", "120")
    done = command("synth.check", write(tmp_path / "x.jsonl", records), "--strict")
    assert (done.returncode, done.stdout) == (0, "120 solutions, 120 right, 120 right as published\n")
    broken = write(tmp_path / "x.jsonl", [r | {"solution": ""} if i < 30 else r for i, r in enumerate(records)])
    count, *lines, more = command("synth.check", broken).stdout.splitlines()
    assert count == "120 solutions, 90 right, 90 right as published; first mistakes: ends early 30"
    assert [line.split(":")[0] for line in lines] == [r["id"] for r in records[:20]]
    assert more == "and 10 more that are wrong; --all names every record"


def test_bad_input_is_one_line_and_exit_code_2(command, tmp_path, records):
    good = records[0]
    cases = {
        "not JSON": ("{oops", "line 1 is not JSON"),
        "no object": ("[1]", "line 1 is no record"),
        "empty": ("\n", "holds no record"),
        "no modulus": (json.dumps({"solution": "x"}), "bad or missing field 'modulus': None; accepted: 2 to 997"),
        "no field": (json.dumps({"modulus": 23}), "line 1: no text under the key 'solution'"),
        "no layers": (json.dumps({"modulus": 23, "solution": "x"}), "bad or missing field 'layers'"),
        "huge": (json.dumps(good | {"ops": 10**30}), "line 1: "),
        "unknown name": (json.dumps(good | {"query": "Nobody's Nothing"}), "bad or missing field"),
        "second line": (json.dumps(good) + "\n" + json.dumps(good | {"solution": 7}), "line 2: no text"),
    }
    for name, (text, message) in cases.items():
        path = tmp_path / "bad.jsonl"
        path.write_text(text, encoding="utf-8")
        done = command("synth.check", str(path))
        assert done.returncode == 2 and done.stdout == "", name
        assert len(done.stderr.splitlines()) == 1 and message in done.stderr, (name, done.stderr)


def test_missing_files_arguments_and_help(command, tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for arguments, message in (
        ([str(tmp_path / "none.jsonl")], "cannot be read"),
        ([str(tmp_path)], "cannot be read"),
        ([str(tmp_path / "binary")], "is not UTF-8 text"),
        ([], "required: FILE"),
        (["x", "--wrong"], "--wrong"),
    ):
        done = command("synth.check", *arguments)
        assert done.returncode == 2 and done.stdout == "", arguments
        assert len(done.stderr.splitlines()) == 1 and message in done.stderr, done.stderr
    done = command("synth.check", "--help")
    assert done.returncode == 0 and "examples:" in done.stdout


def verdicts(capsys, records, tmp_path, *words: str) -> list[str]:
    capsys.readouterr()
    assert run_command(lambda: check.main([write(tmp_path / "y.jsonl", records), *words])) == 0
    return capsys.readouterr().out.splitlines()


def responses(r: dict) -> dict[str, str]:
    """What a model may have written, and a decoder may have left of it."""
    text, answer = r["solution"], r["answer"]
    whole = f"{text}<answer> {answer}<eos>"
    return {
        "special tokens kept": whole,
        "skipped": f"{text} {answer}",
        "padded": f"{whole}<pad><pad>",
        "the whole sequence": f"<pad><pad><problem>{r['problem']}<solution>{whole}",
        "the whole sequence, skipped": f"{r['problem']}{text} {answer}",
        "no end": f"{text}<answer> {answer}",
        "spaces": f"  {text}  ",
        "a line each": text.strip().replace(". ", ".\n"),
        "windows": "\ufeff" + whole.replace(". ", ".\r\n") + "\r\n",
        "blank lines": text.replace(". ", ".\n\n") + "\n\n",
        "tabs": text.replace(" ", "\t"),
    }


def test_a_whole_response_is_judged(records, tmp_path, capsys):
    """Strictly, too: special tokens kept or skipped and white space decide nothing; the answer does."""
    for name in responses(records[0]):
        asked = [r | {"completion": responses(r)[name], "solution": None} for r in records]
        for reading in ("strict", "tolerant"):
            lines = verdicts(capsys, asked, tmp_path, "--reading", reading)
            assert lines[0] == "6 solutions, 6 right, 6 right as published", (name, reading, lines)
    for form in ("{0}<answer> {1}<eos>", "{0} {1}", "{0}\n{1}", "{0}\nAnswer: {1}"):
        wrong = [r | {"solution": form.format(r["solution"], (r["answer"] + 1) % 23)} for r in records]
        lines = verdicts(capsys, wrong, tmp_path)
        assert all("wrong, wrong answer" in line for line in lines[1:]), lines
    cut_off = [r | {"solution": r["solution"] + "<answer>"} for r in records]
    assert verdicts(capsys, cut_off, tmp_path)[0].startswith("6 solutions, 0 right")


def test_text_around_is_forgiven_unless_the_reading_is_strict(records, tmp_path, capsys):
    around = [r | {"solution": f"Sure, here it is:{r['solution']} I hope this helps!"} for r in records]
    assert verdicts(capsys, around, tmp_path)[0] == (
        "6 solutions, 6 right (0 in the strict reading), 6 right as published"
    )
    strict = verdicts(capsys, around, tmp_path, "--reading", "strict")
    assert strict[0].startswith("6 solutions, 0 right, 0 right as published; first mistakes: malformed 6")


@pytest.mark.parametrize("command_name", ["check", "explain", "audit"])
def test_every_command_reads_every_form_of_a_file(command_name, tmp_path, capsys):
    """Byte order mark, line ends, blank lines, white space in a line, no last line end."""
    source = Source(preset("tiny"), 0)
    rows = [json.dumps(r) for r in writers.records(source, 0, 3)]
    main = importlib.import_module(f"synth.{command_name}").main
    outputs = set()
    for text in (
        "\n".join(rows), "\n".join(rows) + "\n", "\r\n".join(rows) + "\r\n", "\ufeff" + "\n".join(rows),
        "\n\n" + "\n \n\t\n".join(rows) + "\n\n", "\n".join(f"  {row} " for row in rows), "\r".join(rows),
    ):  # fmt: skip
        path = tmp_path / "records.jsonl"
        path.write_bytes(text.encode("utf-8"))
        assert run_command(lambda path=path: main([str(path)])) == 0
        outputs.add(capsys.readouterr().out)
    assert len(outputs) == 1
    for text, message in (("\n\n", "no record"), ("\n{oops", "line 2 is not JSON"), ("\n[]", "line 2 is no record")):
        path.write_text(text)
        assert run_command(lambda: main([str(path)])) == 2
        said = capsys.readouterr()
        assert message in said.err and said.err.count("\n") == 1 and said.out == ""
