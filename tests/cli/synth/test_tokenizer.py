"""Other tokens as a user meets them: `synth.tokenizer`, shards, and a model that learns words or a BPE."""

import json

import numpy as np
import pytest
from transformers import AutoTokenizer

from synth.spec import preset
from synth.store.encodings import encoding, source
from synth.store.files import read_json_lines
from synth.store.writers import read_shards
from train import evaluate, pretrain
from train.config.compose import run_entry
from train.opd import run as opd

pytestmark = pytest.mark.timeout(600)  # the first command may have to compile the checker

SMALL = [
    "data=smoke", "model=smoke", "model.context=512", "budget.steps=4", "batch.documents=4", "batch.bucket=2",
    "evaluate.every=2", "evaluate.problems=4", "evaluate.documents=8", "evaluate.samples=2", "out.save_every=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    """A BPE of the tiny world, written by the command."""
    from synth.tokenizer import main

    folder = tmp_path_factory.mktemp("tokenizer") / "bpe"
    main(["--preset", "tiny", "--tokens", "bpe", "--merges", "200", "--out", str(folder)])
    return folder


@pytest.mark.parametrize("tokens", ["word", "bpe"])
def test_pretrain_evaluate_and_distil(tokens, bpe, tmp_path, capsys):
    kind = f"data.tokens={bpe if tokens == 'bpe' else tokens}"
    words = [*SMALL, kind, f"out.root={tmp_path}"]
    assert run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", words) == 0, capsys.readouterr().err
    run = next(tmp_path.glob("pretrain-*"))
    rows = read_json_lines(run / "metrics.jsonl")
    assert np.isfinite(rows[-1]["loss"]) and any("kl_to_oracle" in row for row in rows)

    judged = [f"checkpoint={run}", "data=smoke", kind, "problems=4", f"out.root={tmp_path}"]
    assert run_entry("evaluate", evaluate.EvaluateConfig, evaluate.main, "", judged) == 0, capsys.readouterr().err
    folder = next(tmp_path.glob("evaluate-*"))
    sample = read_json_lines(folder / "samples.jsonl")[0]
    assert sample["prompt"].startswith(" ") and "How many" in sample["prompt"]
    assert json.loads((folder / "summary.json").read_text())["held_out"]["kl"] > 0

    distil = [
        f"student={run}", f"teacher={run}", "method=opd", "data=smoke", kind, "budget.steps=2", "prompts=4",
        "max_new=24", "evaluate.every=1", "evaluate.problems=4", "evaluate.documents=4", "evaluate.samples=1",
        f"out.root={tmp_path}",
    ]  # fmt: skip
    assert run_entry("opd", opd.OpdConfig, opd.main, "", distil) == 0, capsys.readouterr().err
    assert read_json_lines(next(tmp_path.glob("opd-????????")) / "metrics.jsonl")

    other = [f"checkpoint={run}", "data=smoke", "problems=4", f"out.root={tmp_path}"]
    assert run_entry("evaluate", evaluate.EvaluateConfig, evaluate.main, "", other) == 2
    assert "its vocabulary is not the one" in capsys.readouterr().err


def test_a_right_solution_in_other_tokens_is_right(bpe):
    """The evaluation's own path, with the stream's solutions in place of a model's."""
    stream = source(preset("tiny"), 0, "test", tokens=str(bpe))
    d = stream.documents(range(20))
    rows = [d.response(i) for i in range(20)]
    padded = np.array([[*r, *[0] * (max(map(len, rows)) - len(r))] for r in rows])
    assert stream.encoding.check(d.problems, padded, np.array([len(r) for r in rows])).right.all()


def test_shards_in_other_tokens(command, bpe, tmp_path):
    out = tmp_path / "shards"
    words = ["--preset", "tiny", "--count", "30", "--tokens", str(bpe), "--out", f"{out}/"]
    done = command("synth.generate", *words)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    written = read_shards(out, verify=True)[0]
    tokens, offsets = written.tokens, written.offsets
    assert manifest["tokens"] == len(tokens) == len(written.logp) == offsets[-1]
    assert manifest["encoding"]["markers"]["<problem>"] == tokens[0]
    way = encoding("phrase", preset("tiny").load_world())
    first = source(preset("tiny"), 0, "all").documents([0])
    read = AutoTokenizer.from_pretrained(out / "tokenizer").decode(tokens[: offsets[1]], skip_special_tokens=True)
    assert read == way.decode(first.tokens)


def test_the_command_writes_a_tokenizer_and_measures(command, tmp_path):
    done = command("synth.tokenizer", "--preset", "tiny", "--out", tmp_path / "phrases")
    assert done.returncode == 0 and done.stdout == done.stderr == ""
    world = preset("tiny").load_world()
    assert len(AutoTokenizer.from_pretrained(tmp_path / "phrases")) == world.size
    done = command("synth.tokenizer", "--preset", "tiny", "--measure", "20", "--tokens", "phrase", "word")
    assert done.returncode == 0, done.stderr
    phrase, word = [line.split() for line in done.stdout.splitlines()[1:]]
    assert phrase[:2] == ["phrase", str(world.size)] and float(word[2]) > 1.3 * float(phrase[2])


BAD = [
    ("synth.tokenizer", ["--tokens", "word"], "required"),
    ("synth.tokenizer", ["--tokens", "gpt3", "--out", "x"], "--tokens gpt3"),
    ("synth.tokenizer", ["--merges", "5", "--out", "x"], "--merges 5"),
    ("synth.tokenizer", ["--out", "README.md"], "exists already"),
    ("synth.tokenizer", ["--preset", "huge", "--out", "x"], "preset='huge'"),
    ("synth.tokenizer", ["--measure", "2", "--tokens", "no/where"], "tokens=no/where"),
    ("synth.generate", ["--tokens", "word"], "--tokens word"),
    ("synth.generate", ["--tokens", "no/where", "--out", "x_shards/"], "tokens=no/where"),
    ("train.pretrain", ["data.tokens=no/where"], "data.tokens=no/where"),
    ("train.pretrain", ["data.tokens=configs"], "data.tokens=configs"),
    ("probes.run", ["model=zoo/tiny-student-0", "data.tokens=word"], "data.tokens=word"),
]


@pytest.mark.parametrize(("module", "arguments", "named"), BAD, ids=[" ".join(a) for _, a, _ in BAD])
def test_bad_input_is_one_line(command, module, arguments, named):
    done = command(module, *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and named in done.stderr, done.stderr
