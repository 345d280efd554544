"""`train.merge` as a user meets it: the weights it writes, what starts from them, and what it refuses."""

import pytest
import torch

from train import evaluate, merge, pretrain
from train.config.compose import run_entry
from train.core import checkpoint
from train.opd import run as opd_run

SMALL = ["model.context=400", "budget.steps=2", "batch.documents=2", "batch.bucket=1", "evaluate.every=0"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Checkpoints of two models of one shape, of one that is wider, and of one that reads another world."""
    root = tmp_path_factory.mktemp("models")
    made = {"a": "data=smoke seed=0", "b": "data=smoke seed=1", "wide": "data=smoke model.n_embd=48",
            "other": "data=med"}  # fmt: skip
    for name, more in made.items():
        words = ["model=smoke", *more.split(), *SMALL, f"out.root={root}", f"out.name={name}"]
        assert run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", words) == 0
    return {folder.name.split("-")[0]: folder for folder in root.iterdir()}


def run(*words) -> int:
    return run_entry("merge", merge.MergeConfig, merge.main, merge.__doc__ or "", [str(word) for word in words])


def weights(folder):
    return dict(checkpoint.load_model(folder).named_parameters())


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_weights_lie_between_the_two(models, tmp_path, share):
    words = [f"first={models['a']}", f"second={models['b']}", f"share={share}", f"out.folder={tmp_path / 'm'}"]
    assert run(*words) == 0
    a, b, got = weights(models["a"]), weights(models["b"]), weights(tmp_path / "m")
    assert not torch.equal(a["embed.weight"], b["embed.weight"])
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, share * a[name] + (1 - share) * b[name])
    before = (tmp_path / "m" / "checkpoints.jsonl").read_text()
    assert run(*words) == 0 and (tmp_path / "m" / "checkpoints.jsonl").read_text() == before


def test_reinforcement_and_evaluation_start_from_two_merges(models, tmp_path, command):
    """BAI: (fine-tuned, distilled), then (that, base), then GRPO."""
    done = command("train.merge", f"first={models['a']}", f"second={models['b']}", f"out.folder={tmp_path / 'one'}")
    assert done.returncode == 0 and done.stdout.strip() == str(tmp_path / "one"), done.stderr
    assert run(f"first={tmp_path / 'one'}", f"second={models['a']}", "share=0.8", f"out.folder={tmp_path / 'two'}") == 0
    words = ["data=smoke", f"student={tmp_path / 'two'}", "method=grpo", "prompts=2", "max_new=8", "budget.steps=1"]
    words += ["evaluate.every=0", f"out.folder={tmp_path / 'rl'}"]
    assert run_entry("opd", opd_run.OpdConfig, opd_run.main, "", words) == 0
    words = ["data=smoke", f"checkpoint={tmp_path / 'two'}", "problems=4", f"out.folder={tmp_path / 'judged'}"]
    assert run_entry("evaluate", evaluate.EvaluateConfig, evaluate.main, "", words) == 0


@pytest.mark.parametrize(
    "words, message",
    [
        (["second={wide}"], "second: a model of n_embd=48; accepted: the first's, n_embd=32"),
        (["second={other}"], "its vocabulary is not the one of first="),
        (["second={b}", "share=1.5"], "share=1.5: accepted: 0 to 1"),
        (["second=nowhere"], "second=nowhere: does not exist"),
        ([], "second: needs a value"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(models, tmp_path, capsys, words, message):
    assert run(f"first={models['a']}", *[word.format(**models) for word in words], f"out.folder={tmp_path / 'm'}") == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.count("\n") == 1 and shown.out == ""
    assert list(tmp_path.iterdir()) == []
