"""`python -m synth.explain`: the oracle's account of solutions, and one line for what it cannot read."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from synth.dataset import Source
from synth.oracle.next_token import Oracle
from synth.spec import preset
from synth.store.writers import record

SPEC = preset("med", ops=5, edges=8, exact_ops=True, retry_rate=0.3)


def run(*words: str, text: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "synth.explain", *words], input=text, capture_output=True, text=True, check=False,
        env=os.environ | {"GLASSHOUSE_JIT": "0"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def made():
    source = Source(SPEC, 4, "all")
    documents = source.documents(range(3))
    return source, documents, [record(source, documents, i, i) for i in range(3)]


def test_totals_are_the_oracle_s(made):
    _, documents, records = made
    done = run("-", "--retry-rate", "0.3", text="\n".join(map(json.dumps, records)))
    assert done.returncode == 0, done.stderr
    totals = [line for line in done.stdout.splitlines() if "log-probability" in line]
    next_token = Oracle(SPEC).documents(documents)
    for i, line in enumerate(totals):
        tokens = documents.response(i)[:-3]  # the text ends before <answer>
        here = slice(next_token.rows[i], next_token.rows[i] + len(tokens))
        entropy = next_token.entropy()[here].sum()
        logp = documents.logp[documents.offsets[i] + documents.prompt[i] :][: len(tokens)].sum()
        assert f"{len(tokens)} tokens, log-probability {logp:.3f}, entropy along it {entropy:.3f} nats" in line


def test_an_impossible_token_is_placed_and_the_policy_answers_it(made):
    _, _, records = made
    text = records[0]["solution"]
    letter = text.split(" as ")[1][0]
    wrong = {**records[0], "solution": text.split(" as ")[0] + f" as {letter}; so {letter} = 3 + 3 = 3 + 3 = 7."}
    for policy, word in (("continue", "(continued)"), ("correct", "(corrected)"), ("abstain", "(abstained)")):
        done = run("-", "--retry-rate", "0.3", "--policy", policy, text=json.dumps(wrong))
        assert done.returncode == 0, done.stderr
        assert word in done.stdout and "impossible at token" in done.stdout


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        ({"solution": " Define Nobody's Thing as k."}, [], "no token of world"),
        ({"solution": None}, [], "no text under the key 'solution'"),
        ({"modulus": 1}, [], "'modulus': 1; accepted"),
        ({}, ["--retry-rate", "2"], "--retry-rate: 2 is not possible"),
        ({}, ["--uncorrected", "0.5"], "uncorrected=0.5 is not possible with retry_kind='retry'"),
        ({}, ["--policy", "guess"], "invalid choice: 'guess'"),
    ],
)
def test_bad_input_is_one_line(made, change, words, message):
    done = run("-", *words, text=json.dumps({**made[2][0], **change}))
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and message in done.stderr


def test_letters_of_a_smaller_world_are_likelier(made):
    few = run("-", "--letters", "10", "--retry-rate", "0.3", text=json.dumps(made[2][0])).stdout
    many = run("-", "--retry-rate", "0.3", text=json.dumps(made[2][0])).stdout
    entropies = [float(out.split("entropy along it ")[1].split()[0]) for out in (few, many)]
    assert np.isfinite(entropies).all() and entropies[0] < entropies[1]
