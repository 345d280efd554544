"""Batches: right shapes and masks, every document once, and a pure function of the step."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.world.vocabulary import EOS, PAD, SOLUTION
from train.data.batches import BatchConfig, Batches, DataConfig, check_vocabulary, collate, pad, vocabulary_notes

DATA = DataConfig("tiny", {"ops": 2, "edges": 4}, seed=3)
SOURCE = DATA.source("train")


def batches(**settings):
    return Batches(SOURCE, BatchConfig(**{"documents": 4, "bucket": 3, **settings}))


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=8), st.data())
def test_pad_is_the_rows_with_fill_behind(rows, data):
    offsets = np.cumsum([0, *map(len, rows)])
    chosen = np.array(data.draw(st.lists(st.sampled_from(range(len(rows))), min_size=1, max_size=5)))
    padded = pad(np.concatenate(rows), offsets, chosen, -1)
    width = max(len(rows[i]) for i in chosen)
    assert padded.tolist() == [rows[i] + [-1] * (width - len(rows[i])) for i in chosen]


def test_a_batch_holds_documents_and_masks_what_is_no_target():
    batch = batches().batch(0)
    for tokens, loss in zip(batch.tokens_BT.numpy(), batch.loss_BT.numpy(), strict=True):
        end = int((tokens == EOS).argmax())
        prompt = int((tokens == SOLUTION).argmax()) + 1
        assert (tokens[end + 1 :] == PAD).all() and (tokens[: end + 1] != PAD).all()
        assert loss.tolist() == [prompt <= t <= end for t in range(len(tokens))]
    assert batch.tokens == int((batch.tokens_BT != PAD).sum())
    assert batch.tokens_BT.dtype.is_signed and bool((batch.solution_BT == batch.loss_BT).all())


def test_loss_on_all_adds_the_prompt_but_the_first_token():
    solution, everything = batches().batch(1), batches(loss_on="all").batch(1)
    assert bool((everything.solution_BT == solution.loss_BT).all()) and everything.floor == solution.floor
    targets = everything.tokens_BT != PAD
    targets[:, 0] = False
    assert bool((everything.loss_BT == targets).all())


def test_masked_mistakes_are_no_targets():
    data = DataConfig("tiny", {"retry_rate": 0.5, "mask_mistakes": "step"})
    documents = data.source("train").documents(range(40))
    rows = np.arange(40)
    masked_BT = pad((documents.segment >= 3) & (documents.loss == 0), documents.offsets, rows, False)
    assert masked_BT.sum() > 10
    for loss_on in ("solution", "all"):
        assert not (collate(documents, rows, loss_on).loss_BT.numpy() & masked_BT).any()


def test_the_floor_is_the_mean_surprise_of_the_generator():
    documents = DataConfig("tiny", {"letter_order": "random"}).source("train").documents(range(30))
    rows = np.arange(10, 20)
    batch = collate(documents, rows)
    inside = np.concatenate([np.arange(documents.offsets[i], documents.offsets[i + 1]) for i in rows])
    inside = inside[documents.loss[inside] == 1]
    assert batch.floor == pytest.approx(-documents.logp[inside].sum() / len(inside)) and batch.floor > 0


def test_a_chunk_uses_every_document_once_and_pads_little():
    stream = batches(documents=8, bucket=4)
    chunk = [stream.batch(k) for k in range(4)]
    rows = {tuple(t for t in row if t != PAD) for b in chunk for row in b.tokens_BT.tolist()}
    documents = SOURCE.documents(range(32))
    assert rows == {
        tuple(documents.tokens[a:b].tolist()) for a, b in zip(documents.offsets, documents.offsets[1:], strict=False)
    }
    padded = sum(b.tokens_BT.numel() - b.tokens for b in chunk)
    plain = [collate(documents, np.arange(i, i + 8)) for i in range(0, 32, 8)]
    assert padded < 0.7 * sum(b.tokens_BT.numel() - b.tokens for b in plain)


def test_batches_are_a_function_of_the_step_alone():
    forwards, backwards = batches(), batches()
    first = [forwards.batch(k) for k in range(9)]
    for k in (8, 0, 5, 3, 1):
        again = backwards.batch(k)
        for field in dataclasses.fields(again):
            a, b = getattr(again, field.name), getattr(first[k], field.name)
            assert bool((a == b).all()) if hasattr(a, "shape") else a == b
    widths = [b.tokens_BT.shape[1] for b in first]
    assert any(widths[i : i + 3] != sorted(widths[i : i + 3]) for i in (0, 3, 6))  # the order is shuffled


def test_other_seeds_streams_and_splits_are_other_documents():
    def first(data, split="train", stream="data"):
        return data.source(split, stream).documents(range(8)).tokens.tolist()

    base = first(DATA)
    assert first(DATA) == base
    assert first(dataclasses.replace(DATA, seed=4)) != base
    assert first(DATA, stream="validation") != base
    assert first(DATA, split="test") != base


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DataConfig("huge"), "preset='huge'.*accepted: hard, med, tiny"),
        (lambda: DataConfig("tiny", {"opps": 3}), "'opps'.*accepted"),
        (lambda: DataConfig("tiny", {"retry_rate": 1.5}), "retry_rate=1.5"),
        (lambda: BatchConfig(documents=0), r"documents=0"),
        (lambda: BatchConfig(loss_on="prompt"), r"loss_on=prompt: accepted: solution, all"),
    ],
)
def test_impossible_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_checkpoint_is_only_read_in_a_world_of_its_vocabulary():
    check_vocabulary(vocabulary_notes(DATA), DataConfig("tiny", {"ops": 4}), "x")
    with pytest.raises(ValueError, match=r"data\.preset=med: its vocabulary is not the one runs/x was trained with"):
        check_vocabulary(vocabulary_notes(DATA), DataConfig("med"), "runs/x")
