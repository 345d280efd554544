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

from train.config import load, plain
from train.data import Batches
from train.loop import train
from train.machine import set_up
from train.pretrain import NextToken, PretrainConfig, build
from train.rundir import open_run, read_lines

GOLDEN = Path(__file__).with_name("loss_curve.json")
STEPS = 50
WORDS = ["data=smoke", "model=smoke", f"budget.steps={STEPS}", "batch.documents=4", "batch.bucket=4", "out.log_every=1"]


def curve(folder: Path, optim: str) -> dict:
    """Loss and gradient norm of every step, and the hash of the tokens that they were computed on."""
    config, model = build(load("pretrain", PretrainConfig, [*WORDS, f"optim={optim}", f"out.folder={folder}"]))
    batches = Batches(config.data.source("train"), config.batch)
    run = open_run(plain(config))
    train(run, model, NextToken(batches, set_up()), config.optim, config.budget, config.out)
    run.close()
    digest = hashlib.sha256()
    for k in range(STEPS):
        digest.update(batches.batch(k).tokens_BT.numpy().astype("<i4").tobytes())
    rows = read_lines(run.path / "metrics.jsonl")
    return {"data": digest.hexdigest(), "loss": [r["loss"] for r in rows], "grad_norm": [r["grad_norm"] for r in rows]}


@pytest.fixture(scope="module", params=["muon", "adamw"])
def curves(request, tmp_path_factory):
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
