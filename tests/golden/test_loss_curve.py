"""Fifty training steps that must not change by accident: a refactoring that moves the loss has a bug or a reason.

The curve is stored with a hash of the data it was made on, so a failure says which of the two moved. To accept a new
curve on purpose: `GOLDEN=write python -m pytest tests/golden/test_loss_curve.py`, and say why in the commit.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from models import gpt
from models.decode import cpu_kernels
from models.fused import forward
from models.gpt import GPT, GPTConfig
from synth.dataset import Source
from synth.spec import Spec
from synth.store.files import read_json_lines
from train.config.compose import plain
from train.core.budget_and_ledger import Budget
from train.core.loop import train
from train.core.optimizer import MuonConfig, OptimConfig, Schedule
from train.core.torch_setup import set_up
from train.data.batches import BatchConfig, Batches
from train.pretrain import NextToken
from train.runs.run_folder import TrainingOutConfig, open_run

GOLDEN = Path(__file__).with_name("loss_curve.json")
STEPS = 50
# Everything that matters is written out, so that presets and defaults may change without a word from this test.
DATA = {
    "world": "english", "modulus": 7, "categorisations": 1, "subcategories": 1, "names": 8, "letters": 16,
    "letter_order": "random", "ops": 2, "exact_ops": False, "edges": 4, "max_depth": 3, "max_width": 2, "order": "pq",
    "perm_level": 5, "solution_order": "uniform", "retry_rate": 0.0, "retry_kind": "retry", "mask_mistakes": "none",
    "split_by": "problem",
}  # fmt: skip
MODEL = {
    "n_layer": 2, "n_head": 2, "n_embd": 32, "context": 256, "norm": "rmsnorm", "mlp": "relu2", "mlp_ratio": 4.0,
    "rope_base": 1000.0, "rope_fraction": 0.5, "qk_norm": True, "tied": False, "token_shift": 2, "conv": 0,
    "init_std": 0.02, "bias": False,
}  # fmt: skip
SCHEDULE = Schedule("wsd", warmup_steps=10, decay=0.5)
OPTIM = {
    "muon": OptimConfig(5e-3, 0.9, 0.99, 1e-8, 0.0, 1.0, MuonConfig(0.03, 0.95, 0.01, 5), SCHEDULE),
    "adamw": OptimConfig(5e-3, 0.9, 0.99, 1e-8, 0.01, 1.0, None, SCHEDULE),
}


def curve(folder: Path, optim: str) -> dict:
    """Loss and gradient norm of every step, and the hash of the tokens that they were computed on."""
    source = Source(Spec(**DATA), seed=0, split="train")
    batches = Batches(source, BatchConfig(documents=4, bucket=4, loss_on="solution"))
    model = GPT(GPTConfig(vocab_size=len(source.world.vocabulary), **MODEL), seed=0)
    out = TrainingOutConfig(log_every=1, folder=str(folder))
    run = open_run({"optim": plain(OPTIM[optim]), "out": plain(out)}, entry="tests", kind="training")
    train(run, model, NextToken(batches, set_up()), OPTIM[optim], Budget(steps=STEPS), out)
    run.close()
    digest = hashlib.sha256()
    for k in range(STEPS):
        digest.update(batches.batch(k).tokens_BT.numpy().astype("<i4").tobytes())
    rows = read_json_lines(run.path / "metrics.jsonl")
    return {"data": digest.hexdigest(), "loss": [r["loss"] for r in rows], "grad_norm": [r["grad_norm"] for r in rows]}


@pytest.fixture(scope="module", params=["muon", "adamw"])
def curves(request, tmp_path_factory):
    """The curve by the modules, as it was made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt, "shortcut", None)
        found = curve(tmp_path_factory.mktemp("golden") / request.param, request.param)
    stored = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("GOLDEN") == "write":
        stored[request.param] = found
        GOLDEN.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
    return found, stored[request.param]


def test_the_data_is_the_one_the_curve_was_made_on(curves):
    found, stored = curves
    assert found["data"] == stored["data"], (
        "the generator gives other documents: the loss curve says nothing until it is renewed"
    )


def test_the_first_steps_are_the_same(curves):
    found, stored = curves
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(found[name][:10], stored[name][:10], rtol=1e-4)


def test_the_whole_curve_is_the_same(curves):
    """Other processors sum in another order, and fifty steps amplify that; a change of the method is far larger."""
    found, stored = curves
    np.testing.assert_allclose(found["loss"], stored["loss"], rtol=1e-2)
    assert stored["loss"][-1] < 0.5 * stored["loss"][0]


@pytest.mark.skipif(not cpu_kernels.COMPILED, reason="compiled loops are off")
@pytest.mark.parametrize("optim", OPTIM)
def test_the_compiled_pass_has_the_curve_within_rounding(optim, tmp_path, monkeypatch):
    stored, taken, run = json.loads(GOLDEN.read_text())[optim], [], forward.run
    monkeypatch.setattr(forward, "run", lambda *arguments: taken.append(1) or run(*arguments))
    found = curve(tmp_path / optim, optim)
    assert len(taken) >= STEPS, "the modules took the steps"
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(found[name][:10], stored[name][:10], rtol=1e-4)
    np.testing.assert_allclose(found["loss"], stored["loss"], rtol=1e-2)
