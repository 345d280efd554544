"""Packing, micro-batches and the shares of processes change how a batch is laid out, never what is learnt from it."""

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.gpt import GPT, GPTConfig
from synth.world.vocabulary import EOS, PAD
from train.core.torch_setup import set_up
from train.data.batches import Batch, BatchConfig, Batches, DataConfig, collate, end_to_end, first_fit, spans
from train.pretrain import NextToken

SOURCE = DataConfig("tiny", {"ops": 2, "edges": 4, "letter_order": "random"}, seed=3).source("train")
MODEL = GPT(GPTConfig(len(SOURCE.world.vocabulary), 2, 2, 16, 256, token_shift=2, conv=2, qk_norm=True), seed=1)
with torch.no_grad():
    for _p in (p for n, p in MODEL.named_parameters() if n.endswith("shift")):
        _p.fill_(0.3)
DEVICE = set_up()


def config(**settings):
    return BatchConfig(**{"documents": 12, "bucket": 2, "packing": "documents", "window": 256, **settings})


class Fixed:
    """Batches of one batch."""

    config = BatchConfig()

    def __init__(self, batch: Batch):
        self.it = batch

    def batch(self, k: int) -> Batch:
        return self.it


def learnt(batch: Batch, **settings):
    """(output, gradients) of one step."""
    MODEL.zero_grad()
    output = NextToken(Fixed(batch), DEVICE, **settings)(MODEL, 0)
    output.loss.backward()
    return output, [p.grad.clone() for p in MODEL.parameters()]


def agree(one, other, rtol=1e-4):
    (a, a_grads), (b, b_grads) = one, other
    assert a.loss.item() == pytest.approx(b.loss.item(), rel=rtol)
    assert a.metrics == pytest.approx(b.metrics, rel=rtol)
    assert a.tokens == b.tokens and a.flops == pytest.approx(b.flops)
    for x, y in zip(a_grads, b_grads, strict=True):
        torch.testing.assert_close(x, y, rtol=10 * rtol, atol=rtol / 10)


def contents(documents, rows):
    return sorted(documents.tokens[documents.offsets[i] : documents.offsets[i + 1]].tolist() for i in rows)


def unpacked(batch: Batch):
    """The documents of a batch whose segments are numbered."""
    found = []
    for tokens, segments in zip(batch.tokens_BT.tolist(), batch.segments_BT.tolist(), strict=True):
        of = [
            [t for t, s in zip(tokens, segments, strict=True) if s == n and t != PAD] for n in range(max(segments) + 1)
        ]
        found += [row for row in of if row]
    return sorted(found)


@pytest.mark.parametrize("loss_on", ["solution", "all"])
def test_packed_documents_give_the_loss_and_gradient_of_documents_alone(loss_on):
    batches = Batches(SOURCE, config(loss_on=loss_on))
    for k in range(3):
        packed, rows = batches.batch(k), np.arange(12 * k, 12 * (k + 1))
        alone = collate(SOURCE.documents(range(36)), rows, loss_on)
        assert len(packed.tokens_BT) < 12 and unpacked(packed) == contents(SOURCE.documents(range(36)), rows)
        agree(learnt(packed), learnt(alone))


def test_concatenation_is_the_stream_cut_into_windows():
    documents = SOURCE.documents(range(12))
    batch = Batches(SOURCE, config(packing="concat", window=70)).batch(0)
    assert batch.segments_BT is None and batch.tokens_BT.shape[1] == 70
    stream = batch.tokens_BT.flatten()
    assert stream[stream != PAD].tolist() == documents.tokens.tolist()
    assert bool((batch.tokens_BT[:-1] != PAD).all()) and batch.tokens == len(documents.tokens)
    assert int(batch.solution_BT.sum()) == int(documents.loss.sum())
    counted = batch.solution_BT[:, 1:]
    logp = np.zeros(batch.tokens_BT.numel())
    logp[: len(documents.logp)] = np.where(documents.loss == 1, documents.logp, 0.0)
    expected = -logp.reshape(-1, 70)[:, 1:].sum() / int(counted.sum())
    assert batch.floor == pytest.approx(expected)
    assert int((batch.tokens_BT == EOS).sum()) == 12


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(20, 50))
def test_layouts_put_every_document_in_a_place_of_its_own(lengths, window):
    lengths = np.array(lengths)
    for layout, whole in ((first_fit, True), (end_to_end, False)):
        cell, rows = layout(lengths, window)
        taken = spans(cell, lengths)
        assert len(set(taken.tolist())) == len(taken) == lengths.sum() and taken.max() < rows * window
        if whole:
            assert (cell // window == (cell + lengths - 1) // window).all()
            assert rows <= 2 * -(-lengths.sum() // window)


@pytest.mark.parametrize("packing", ["none", "documents", "concat"])
@pytest.mark.parametrize("world", [2, 3])
def test_the_shares_of_the_processes_are_the_batch(packing, world):
    settings = config(packing=packing, window=None if packing == "none" else 90)
    single = Batches(SOURCE, settings)
    shares = [Batches(SOURCE, settings, rank, world) for rank in range(world)]
    for k in (0, 3, 1):
        batch, parts = single.batch(k), [share.batch(k) for share in shares]
        assert sum(p.tokens for p in parts) == batch.tokens
        targets = [int(p.solution_BT[:, 1:].sum()) for p in parts]
        assert sum(targets) == int(batch.solution_BT[:, 1:].sum())
        floor = sum(p.floor * n for p, n in zip(parts, targets, strict=True)) / sum(targets)
        assert floor == pytest.approx(batch.floor)
        if packing == "documents":
            assert sorted(chain.from_iterable(map(unpacked, parts))) == unpacked(batch)
        else:
            rows = [[t for t in row if t != PAD] for p in parts for row in p.tokens_BT.tolist()]
            assert sorted(rows) == sorted([t for t in row if t != PAD] for row in batch.tokens_BT.tolist())


@pytest.mark.parametrize("packing", ["none", "documents"])
def test_micro_batches_change_nothing_but_rounding(packing):
    batch = Batches(SOURCE, config(packing=packing, window=None if packing == "none" else 90)).batch(0)
    whole = learnt(batch)
    for rows in (1, 5, 100):
        agree(learnt(batch, micro=rows), whole)
    assert [len(p.tokens_BT) for p in batch.parts(5)][:2] == [5, 5 if len(batch.tokens_BT) >= 10 else 1]


def test_bfloat16_is_near_and_leaves_float32_gradients():
    batch = Batches(SOURCE, config(packing="none", window=None)).batch(0)
    (half, grads), (single, _) = learnt(batch, precision="bfloat16"), learnt(batch)
    assert half.loss.item() != single.loss.item()
    assert half.loss.item() == pytest.approx(single.loss.item(), rel=1e-2)
    assert all(g.dtype == torch.float32 for g in grads)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BatchConfig(packing="tight"), r"packing=tight: accepted: none, documents, concat"),
        (lambda: BatchConfig(window=64), r"batch\.window=64 with batch\.packing=none: accepted: null"),
        (lambda: config(window=1), r"batch\.window=1 with batch\.packing=documents: accepted: 2 or more"),
        (lambda: BatchConfig(micro=-1), r"micro=-1"),
        (lambda: config(window=300).with_window(256), r"batch\.window=300: the model reads 256; accepted: up to 256"),
        (lambda: Batches(SOURCE, config(window=20)).batch(0), r"batch\.window=20: a document has \d+ tokens"),
        (lambda: Batches(SOURCE, config(documents=3), 0, 4), r"batch\.documents=3: fewer than the 4 processes"),
        (
            lambda: Batches(SOURCE, config(packing="concat", window=2000), 0, 4).batch(0),
            r"batch\.documents=12: fill 1 windows of 2000 tokens, fewer than there are processes",
        ),
    ],
)
def test_impossible_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
