"""`data.documents`: the first documents of the stream, in epochs of an addressed order; prompts stay endless."""

from dataclasses import replace

import numpy as np
import pytest

from synth.dataset import Source
from synth.spec import preset
from tests.helpers import opd_batches
from tests.helpers.opd_methods import PROMPTS, method, objective
from train.config.compose import load
from train.data.batches import BatchConfig, Batches, in_epochs
from train.opd.rollout_batch import Prompts
from train.opd.source.rollout_sampling import GoldDocuments, OwnResponses
from train.pretrain import PretrainConfig
from train.runs.run_folder import config_hash

SOURCE = Source(preset("tiny"), 3)


def test_an_epoch_has_every_document_once_and_the_next_has_another_order():
    found = in_epochs(range(30), 10, 1).reshape(3, 10)
    assert (np.sort(found, 1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in found.tolist()}) == 3
    assert (in_epochs(range(7, 23), 10, 1) == found.ravel()[7:23]).all()  # a function of the place, so a run resumes
    assert not (in_epochs(range(30), 10, 2) == found.ravel()).all()
    assert (in_epochs(range(5, 9), None, 1) == np.arange(5, 9)).all()


@pytest.mark.parametrize("packing", ["none", "documents"])
def test_batches_hold_only_the_first_documents(packing):
    config = BatchConfig(documents=4, bucket=2, packing=packing, window=None if packing == "none" else 128)
    few = Batches(SOURCE, config, limit=6)
    rows = {tuple(row[row != 0]) for k in range(6) for row in few.batch(k).tokens_BT.numpy()}
    documents = SOURCE.documents(range(6))
    known = {tuple(documents.tokens[a:b]) for a, b in zip(documents.offsets[:-1], documents.offsets[1:], strict=True)}
    assert (rows == known) if packing == "none" else all(any(k == r[: len(k)] for k in known) for r in rows)
    assert (few.batch(5).tokens_BT == Batches(SOURCE, config, limit=6).batch(5).tokens_BT).all()


def test_gold_is_limited_and_prompts_are_not():
    student = opd_batches.model(SOURCE, 0)
    prompts = Prompts(SOURCE, 5, 24, 0, gold=3)
    gold = [GoldDocuments().draw(prompts, step, student, None)[0] for step in range(6)]
    texts = {tuple(row[:n].tolist()) for g in gold for row, n in zip(g.tokens_BT, g.prompt_B + g.length_B, strict=True)}
    assert len(texts) == 3
    own = OwnResponses().draw(prompts, 2, student, None)[0]
    endless = OwnResponses().draw(replace(prompts, gold=None), 2, student, None)[0]
    assert (own.tokens_BT == endless.tokens_BT).all()


def test_prompts_are_limited_by_their_own_setting_and_gold_is_not():
    student = opd_batches.model(SOURCE, 0)
    prompts = Prompts(SOURCE, 5, 24, 0, distinct=3)
    shown, answers = set(), set()
    for step in range(6):
        rollouts = OwnResponses().draw(prompts, step, student, None)[0]
        for row, n, end in zip(rollouts.tokens_BT, rollouts.prompt_B, rollouts.length_B, strict=True):
            shown.add(tuple(row[:n].tolist()))
            answers.add(tuple(row[n : n + end].tolist()))
    assert len(shown) == 3 < len(answers), "the same prompts, answered anew"
    gold = [GoldDocuments().draw(prompts, step, student, None)[0] for step in range(6)]
    assert len({tuple(row.tolist()) for g in gold for row in g.tokens_BT}) > 3
    starts = SOURCE.documents([prompts.index(7)])
    assert tuple(starts.tokens[: starts.prompt[0]].tolist()) in shown


NLL = ["method.regularizer.gold_nll=0.1"]


@pytest.mark.parametrize(
    ("name", "words", "in_a_step"), [("sft", [], {4}), ("opd", [], {0}), ("gkd", [], {0, 4}), ("opd", NLL, {4})]
)
def test_the_ledger_counts_gold_documents(name, words, in_a_step):
    student = opd_batches.model(SOURCE, 0)
    found = objective(method(name, *words), SOURCE, student)
    assert {found(student, step).documents for step in range(6)} == in_a_step and PROMPTS == 4


def test_a_run_without_limit_has_the_hash_that_it_had_before():
    old = {"data": {"preset": "tiny"}, "seed": 0}
    new = {"data": {"preset": "tiny", "documents": None}, "seed": 0, "questions": None}
    assert config_hash(new) == config_hash(old)
    assert config_hash({"data": {"preset": "tiny", "documents": 5}, "seed": 0}) != config_hash(old)


def test_no_documents_is_one_line():
    with pytest.raises(ValueError, match=r"data\.documents=0: accepted: 1 or more"):
        load("pretrain", PretrainConfig, ["data.documents=0"])
    with pytest.raises(ValueError, match=r"data\.documents=null"):
        load("pretrain", PretrainConfig, ["data.documents=9", "questions.count=2"])
