"""`python -m synth.explain`: the oracle's account of records, and one line for each bad input."""

import json

import pytest

from synth import export
from synth.dataset import Source
from synth.spec import preset

SPEC = preset("med", ops=4, retry_rate=0.3)
MADE_WITH = ("--retry-rate", "0.3")


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "records.jsonl"
    export.write_lines(SPEC, 0, "all", 0, 3, 1, str(path))
    return path


def test_the_generator_s_solutions_have_its_log_probability(command, records):
    done = command("synth.explain", records, *MADE_WITH)
    assert (done.returncode, done.stderr) == (0, "")
    documents = Source(SPEC, 0, "all").documents(range(3))
    for i in range(3):
        logp = documents.logp[documents.offsets[i] : documents.offsets[i + 1]].sum()
        assert f"log-probability {logp:.3f}, entropy" in done.stdout
    assert done.stdout.count("else ") >= 3


def test_what_cannot_be_is_said_and_continued(command, records):
    rows = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["said"] = row["solution"] + " Define BACK 7."
    records.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = command("synth.explain", records, "--field", "said", "--policy", "correct", *MADE_WITH)
    assert done.returncode == 0
    assert done.stdout.count("impossible at token") == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--uncorrected", "7"), "--uncorrected: 7 is not possible; accepted: 0 <= rate <= 1"),
        (("--letters", "0"), "--letters: 0 is not possible; accepted: a whole number from 1 to 104"),
        (("--retry-rate", "1"), "--retry-rate: 1 is not possible; accepted: 0 <= rate < 1"),
        (("--field", "none"), "line 1: no text under the key 'none'"),
        (("--field", "said"), "line 3: no token of world 'english' at character 0: 'nonsense'"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_printed(command, records, arguments, words):
    rows = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["said"] = row["solution"]
    rows[2]["said"] = "nonsense"
    records.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = command("synth.explain", records, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and words in done.stderr
