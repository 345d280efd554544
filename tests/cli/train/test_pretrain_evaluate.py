"""`train.pretrain` and `train.evaluate` as a user meets them: help, results, and what goes wrong."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from synth.store.files import read_json_lines
from tests.helpers.paths import ROOT
from tests.helpers.run_folders import modified
from train import evaluate, pretrain
from train.config.compose import run_entry
from train.core import checkpoint

SMALL = [
    "data=smoke", "model=smoke", "budget.steps=6", "batch.documents=4", "batch.bucket=2",
    "evaluate.every=3", "evaluate.problems=4", "evaluate.documents=8", "evaluate.samples=2", "out.save_every=3",
]  # fmt: skip


pytestmark = pytest.mark.timeout(600)  # the first command may have to compile the checker


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder made in this process; the commands below run on it."""
    root = tmp_path_factory.mktemp("runs")
    assert run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", [*SMALL, f"out.root={root}"]) == 0
    return next(root.glob("pretrain-*"))


def test_a_run_folder_is_complete_and_doing_it_again_changes_nothing(command, tmp_path):
    first = command("train.pretrain", *SMALL, f"out.root={tmp_path}", timeout=500)
    assert first.returncode == 0, first.stderr
    folder = next(tmp_path.glob("pretrain-*"))
    came_out, path = first.stdout.splitlines()
    assert came_out.startswith("pretrain on data tiny ops=2 edges=4: 6 steps, ") and "n = 4 held-out" in came_out
    assert path == str(folder) and first.stderr == ""
    names = {p.name for p in folder.iterdir()} - {".lock"}
    assert names == {
        "config.yaml", "manifest.json", "metrics.jsonl", "checkpoints.jsonl", "checkpoints", "samples.jsonl",
        "ledger.json", "summary.json", "SHA256SUMS",
    }  # fmt: skip
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["command"][:3] == ["python", "-m", "train.pretrain"] and manifest["seeds"] == {
        "weights": 0,
        "data": 0,
    }
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["n_embd"] == 32
    assert json.loads((folder / "summary.json").read_text())["steps"] == 6
    sample = read_json_lines(folder / "samples.jsonl")[0]
    assert {
        "index",
        "ops",
        "prompt",
        "response",
        "answer",
        "right",
        "finished",
        "finish_reason",
        "steps",
        "step",
    } <= set(sample)
    before = modified(folder)
    again = command("train.pretrain", *SMALL, f"out.root={tmp_path}")
    assert again.returncode == 0 and again.stdout == first.stdout
    assert modified(folder) == before


def test_evaluate_counts_and_shows(command, trained, tmp_path):
    words = [f"checkpoint={trained}", "data=smoke", "problems=12", "samples=3", f"out.root={tmp_path}"]
    done = command("train.evaluate", *words)
    assert done.returncode == 0, done.stderr
    *table, came_out, path = done.stdout.splitlines()
    assert came_out.startswith(f"{trained} on data tiny ") and came_out.endswith("] fully right, n = 12")
    assert "fully right" in table[0] and table[-2].split()[:2] == ["all", "12"]
    summary = json.loads((next(tmp_path.glob("evaluate-*")) / "summary.json").read_text())
    assert path == str(next(tmp_path.glob("evaluate-*")))
    assert summary["n"] == 12 == sum(row["n"] for row in summary["by_ops"]) == len(summary["verdicts"]["right"])
    assert summary["full"]["low"] <= summary["full"]["rate"] <= summary["full"]["high"] <= 1
    assert summary["floor"] >= 1 / 7 and summary["held_out"]["kl"] > 0
    assert len(read_json_lines(next(tmp_path.glob("evaluate-*")) / "samples.jsonl")) == 3


def test_evaluate_samples_several_solutions_and_asks_harder_problems(trained, tmp_path, capsys):
    words = [f"checkpoint={trained}", "data=smoke", "problems=6", f"out.root={tmp_path}", "sampling.max_new_tokens=20"]
    words += ["passes.samples=4", "passes.problems=3", "ood=1"]
    assert run_entry("evaluate", evaluate.EvaluateConfig, evaluate.main, "", words) == 0
    shown = capsys.readouterr().out
    summary = json.loads((next(tmp_path.glob("evaluate-*")) / "summary.json").read_text())
    assert summary["passes"]["problems"] == 3 and list(summary["passes"]["at"]) == ["1", "2", "4"]
    assert [row["ops"] for row in summary["ood"]["by_ops"]] == [3] and summary["ood"]["n"] == 6
    assert max(row["ops"] for row in summary["by_ops"]) == 2
    assert "pass of 4 samples, 3 problems: @1 " in shown and "\n   3      6" in shown
    assert run_entry("evaluate", evaluate.EvaluateConfig, evaluate.main, "", [*words, "ood=20"]) == 2
    error = capsys.readouterr().err
    assert "ood=20: letters=16 is too few" in error and error.count("\n") == 1


def test_evaluate_with_a_context_and_without(trained, tmp_path, capsys):
    words = [f"checkpoint={trained}", "data=smoke", "problems=12", "samples=3", f"out.root={tmp_path}"]
    for more in ("context=gold", "context=none"):
        assert run_entry("evaluate", evaluate.EvaluateConfig, evaluate.main, "", [*words, more]) == 0
    told, bare = sorted(
        (json.loads(p.read_text()) for p in tmp_path.glob("*/summary.json")), key=lambda s: "gain" not in s
    )
    without = {key: value for key, value in bare.items() if key not in ("held_out", "verdicts")}
    assert told["without"] == without and told["gain"]["n"] == 12
    assert told["gain"]["value"] == pytest.approx(told["full"]["rate"] - bare["full"]["rate"])
    assert "without context" in capsys.readouterr().out
    samples = [read_json_lines(p)[0] for p in tmp_path.glob("*/samples.jsonl")]
    assert sorted(s.get("context", "")[:6] for s in samples) == ["", "<gold>"]
    assert samples[0]["prompt"] == samples[1]["prompt"]
    assert run_entry("evaluate", evaluate.EvaluateConfig, evaluate.main, "", [*words, "context=golden"]) == 2
    assert "'golden' is no section" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["train.pretrain", "train.evaluate"])
def test_help_has_an_example_and_every_setting(command, module):
    done = command(module, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert f"python -m {module} " in done.stdout and "data=" in done.stdout and "smoke" in done.stdout
    assert "threads: 1" in done.stdout and "--show" in done.stdout


def test_show_prints_the_resolved_config_and_writes_nothing(command, tmp_path):
    done = command("train.pretrain", "--show", "optim=adamw", "budget.steps=9", f"out.root={tmp_path}")
    shown = yaml.safe_load(done.stdout)
    assert shown["optim"]["muon"] is None and shown["budget"] == {"tokens": None, "steps": 9, "flops": None}
    assert not list(tmp_path.iterdir())


def test_an_error_is_one_line_and_code_2_for_the_shell_too(command, tmp_path):
    done = command("train.pretrain", "optim.lrr=1", f"out.root={tmp_path}")
    assert done.returncode == 2 and done.stdout == "" and not list(tmp_path.iterdir())
    assert done.stderr.startswith("error: optim.lrr=1: unknown setting (did you mean lr?); accepted: optim.lr, ")
    assert done.stderr.count("\n") == 1


BAD = [
    (pretrain, ["data=huge"], "data=huge: no such option; accepted: bare, concise, contexts, hard, med, overnight"),
    (pretrain, ["data.preset=huge"], "preset='huge'"),
    (pretrain, ["data.overrides.retry_rate=1.5"], "retry_rate=1.5"),
    (pretrain, ["data.overrides.opps=3"], "'opps'"),
    (pretrain, ["model.n_head=3"], "n_head=3"),
    (pretrain, ["model.context=8"], "model.context=8: documents have up to"),
    (pretrain, ["optim.muon.momentum=2"], "optim.muon.momentum=2"),
    (pretrain, ["budget.steps=0"], "budget.steps=0"),
    (pretrain, ["budget.steps=5", "budget.tokens=5"], "budget.tokens/steps"),
    (pretrain, ["batch.loss_on=some"], "batch.loss_on=some: accepted: solution, all"),
    (pretrain, ["batch.packing=tight"], "batch.packing=tight: accepted: none, documents, concat"),
    (pretrain, ["batch.packing=documents", "batch.window=9000"], "batch.window=9000: the model reads"),
    (pretrain, ["batch.packing=documents", "batch.window=16"], "batch.window=16: documents have up to"),
    (pretrain, ["precision=half"], "precision=half: accepted: float32, bfloat16"),
    (pretrain, ["parallel=pp"], "parallel=pp: accepted: ddp, fsdp"),
    (pretrain, ["optim.ema=1"], "optim.ema=1"),
    (pretrain, ["optim.spike=-1"], "optim.spike=-1"),
    (pretrain, ["evaluate.problems=0"], "evaluate.problems=0"),
    (pretrain, ["threads=0"], "threads=0"),
    (pretrain, ["device=tpu"], "device=tpu: accepted: cpu, cuda"),
    (pretrain, ["out.keep=-1"], "out.keep=-1"),
    (pretrain, ["out.name=a/b"], "out.name=a/b"),
    (pretrain, ["init=no/such/run"], "init=no/such/run: does not exist"),
    (pretrain, ["init_vocabulary=extend"], "init_vocabulary=extend without init: accepted: same, or init=CHECKPOINT"),
    (pretrain, ["model=huge"], "model=huge: no such option"),
    (pretrain, ["optim.clip=nan"], "optim.clip=nan: accepted: 0 or more"),
    (pretrain, ["optim.lr=inf"], "optim.lr=inf: accepted: above 0"),
    (pretrain, ["budget.flops=inf"], "budget.flops=inf: accepted: a number above 0"),
    (pretrain, ["init_vocabulary=any"], "init_vocabulary=any: accepted: same, extend"),
    (evaluate, [], "checkpoint: needs a value"),
    (evaluate, ["checkpoint=no/such/run"], "checkpoint=no/such/run: does not exist"),
    (evaluate, ["checkpoint=.", "split=all"], "split=all: accepted: train, test"),
    (evaluate, ["checkpoint=.", "sampling.top_p=0"], "sampling.top_p=0"),
    (evaluate, ["checkpoint=."], "checkpoint=.: holds no complete checkpoint"),
]


@pytest.mark.parametrize(("entry", "words", "say"), BAD, ids=[f"{w[-1] if w else 'nothing'}" for _, w, _ in BAD])
def test_bad_input_is_one_line_that_names_setting_value_and_what_is_accepted(entry, words, say, tmp_path, capsys):
    name, schema = ("pretrain", pretrain.PretrainConfig) if entry is pretrain else ("evaluate", evaluate.EvaluateConfig)
    small = SMALL if entry is pretrain else ["data=smoke"]
    small = [w for w in small if w.split(".")[0] != words[0].split(".")[0]] if words and "budget" in words[0] else small
    assert run_entry(name, schema, entry.main, "", [*small, f"out.root={tmp_path / 'runs'}", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert say in captured.err
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_config_is_refused(trained, capsys):
    before = modified(trained)
    words = [*SMALL, f"out.folder={trained}", "seed=5"]
    assert run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", words) == 2
    assert "is a run of another config (seed is 0 there and 5 here)" in capsys.readouterr().err
    assert modified(trained) == before


def test_a_checkpoint_of_another_world_is_refused(trained, tmp_path, capsys):
    words = [f"checkpoint={trained}", "data=med", f"out.root={tmp_path}"]
    assert run_entry("evaluate", evaluate.EvaluateConfig, evaluate.main, "", words) == 2
    assert "its vocabulary is not the one" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_continuing_from_a_checkpoint_takes_its_model_and_its_weights(trained, tmp_path, capsys):
    words = [*SMALL, f"init={trained}", "model=nano", "budget.steps=2", f"out.root={tmp_path}"]
    assert run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", words) == 0
    assert "warning: the model settings are those of init=" in capsys.readouterr().err
    folder = next(tmp_path.glob("pretrain-*"))
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["n_embd"] == 32
    first, last = read_json_lines(folder / "metrics.jsonl")[0], read_json_lines(trained / "metrics.jsonl")[-1]
    assert first["step"] == 0 and first["held_out_loss"] == last["held_out_loss"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["inputs"]) == {"init"}
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained, moved)
    words = [w if not w.startswith("init=") else f"init={moved}" for w in words]
    assert run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", words) == 0
    assert len(list(tmp_path.glob("pretrain-*"))) == 1  # the same weights under another path are the same work


def test_a_model_climbs_to_a_larger_vocabulary_and_to_longer_documents(trained, tmp_path, capsys):
    """The context may grow too; the first evaluation is already better than that of random weights."""
    harder = ["data.overrides.modulus=11", "data.overrides.names=9", f"out.root={tmp_path}", "budget.steps=2"]
    start = [*SMALL, *harder, f"init={trained}", "model.context=300"]
    assert run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", start) == 2
    assert "its vocabulary is not the one" in capsys.readouterr().err and not list(tmp_path.iterdir())
    for words in ([*start, "init_vocabulary=extend"], [*SMALL, *harder]):
        assert run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", words) == 0
    capsys.readouterr()
    folders = [*tmp_path.glob("pretrain-*")]
    configs = [yaml.safe_load((f / "config.yaml").read_text()) for f in folders]
    losses = {
        c["init_vocabulary"]: read_json_lines(f / "metrics.jsonl")[0]["held_out_loss"]
        for f, c in zip(folders, configs, strict=True)
    }
    assert losses["extend"] < losses["same"]
    assert {c["init_vocabulary"]: c["model"]["context"] for c in configs} == {"extend": 300, "same": 256}


def test_a_disk_without_room_is_one_line(tmp_path):
    """No file may grow beyond a few hundred bytes, which the log of the first steps does."""
    code = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY));"
        "sys.argv = ['train.pretrain', *sys.argv[1:]]; runpy.run_module('train.pretrain', run_name='__main__')"
    )
    words = [
        *SMALL,
        "out.log_every=1",
        "budget.steps=60",
        "evaluate.every=0",
        "out.save_every=0",
        f"out.root={tmp_path}",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ") and "cannot be written (File too large" in done.stderr


def test_half_precision_learns_the_same(trained, tmp_path):
    """bfloat16 products on a CPU: the loss falls along that of float32, the weights stay float32."""
    words = [*SMALL, "precision=bfloat16", f"out.root={tmp_path}"]
    assert run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", words) == 0
    folder = next(tmp_path.glob("pretrain-*"))
    half, single = (read_json_lines(f / "metrics.jsonl")[-1]["held_out_loss"] for f in (folder, trained))
    assert half == pytest.approx(single, rel=0.02) and half != single
    assert half < read_json_lines(folder / "metrics.jsonl")[0]["held_out_loss"]
    assert {str(p.dtype) for p in checkpoint.load_model(folder).parameters()} == {"torch.float32"}


def test_divergence_is_one_line_and_code_1(tmp_path, capsys):
    words = [*SMALL, "optim=adamw", "optim.lr=1e30", "optim.schedule.warmup_steps=0", f"out.root={tmp_path}"]
    assert run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", words) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: training diverged at step") and err.count("\n") == 1 and "optim.lr=1e+30" in err
