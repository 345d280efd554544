"""Several questions about one text: the same logits, losses and distributions as documents that stand alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.branches import Branches, Group, branched_logits
from models.gpt import GPT, GPTConfig
from synth.dataset import Source
from synth.draw.split import problem_bin
from synth.oracle.next_token import Oracle
from synth.problem_source import SPLITS
from synth.questions import other_questions
from synth.spec import preset
from train.data.batches import BatchConfig, Batches
from train.data.questions import QuestionBatches, QuestionsConfig, sparse_cross_entropy, text_lengths
from train.pretrain import NextToken

SPEC = preset("tiny", ops=6, edges=12, max_depth=4, max_width=4, modulus=23, letters=52, letter_order="random")
SOURCE = Source(SPEC, 5)
SHAPES = {
    "plain": {"norm": "layernorm", "bias": True},
    "house": {"token_shift": 3, "conv": 2, "qk_norm": True, "mlp": "relu2", "rope_fraction": 0.5, "tied": False},
}


def made(name, size):
    model = GPT(GPTConfig(size, 2, 2, 16, 300, **SHAPES[name]), seed=1)
    with torch.no_grad():  # mixes and scales start as nothing, which would hide a leak
        for n, p in model.named_parameters():
            if p.ndim == 1 or n.endswith("shift"):
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(n))) * 0.3)
    return model


@pytest.mark.parametrize("name", SHAPES)
def test_a_continuation_has_the_logits_of_its_document_alone(name):
    model, generator = made(name, 13), torch.Generator().manual_seed(2)

    def drawn(n):
        return torch.randint(1, 13, (n,), generator=generator)

    texts = [drawn(n) for n in (7, 4, 9)]
    text_BP = torch.stack([F.pad(t, (9 - len(t), 0)) for t in texts])
    groups, expected = [], []
    for lengths, of in (((4, 5), (1, 0)), ((8, 6, 7), (2, 1, 2))):
        q = max(lengths)
        tokens = [drawn(n) for n in lengths]
        at = [m * q + i for m, n in enumerate(lengths) for i in range(2, n)]
        groups.append(
            Group(torch.stack([F.pad(t, (0, q - len(t))) for t in tokens]), torch.tensor(of), torch.tensor(at))
        )
        for t, b in zip(tokens, of, strict=True):
            expected.append(model(torch.cat((texts[b], t))[None])[0, len(texts[b]) + 2 :])
    found = branched_logits(model, Branches(text_BP, torch.tensor([7, 4, 9]), groups))
    expected = torch.cat(expected)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weights = list(model.parameters())
    found_grads, expected_grads = (torch.autograd.grad(x.sin().sum(), weights) for x in (found, expected))
    for a, b in zip(found_grads, expected_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_other_questions_keep_the_text_and_the_split():
    first = SOURCE.documents(range(200))
    lengths, before, seen = text_lengths(first), [], [set() for _ in range(200)]
    for problems in other_questions(SOURCE, first.problems, range(200), 3):
        documents = SOURCE.solve(problems, "again", range(200))
        assert (text_lengths(documents) == lengths).all()
        for i in range(200):
            text = slice(0, lengths[i])
            a, b = (d.tokens[d.offsets[i] : d.offsets[i + 1]] for d in (first, documents))
            assert (a[text] == b[text]).all()
            seen[i].add(int(problems.query[i]))
            low, high = SPLITS["train"]
            assert low <= problem_bin(problems.take(i)) <= high
        assert problems.ops.max() <= SPEC.ops
        assert (documents.problems.answer == documents.problems.value[np.arange(200), problems.query]).all()
        before.append(problems.query.copy())
    assert np.mean([len(s) for s in seen]) > 2.8  # few problems have too few parameters
    hard = other_questions(SOURCE, first.problems, range(200), 1, tries=40, hardest_of=4)[0]
    easy = other_questions(SOURCE, first.problems, range(200), 1, tries=40)[0]
    assert hard.ops.mean() > easy.ops.mean() + 0.5


def test_one_question_and_sampled_targets_are_pretraining():
    model = made("house", SOURCE.world.size)
    asked = QuestionBatches(SOURCE, 8, 1, QuestionsConfig(target="sampled", groups=3), least=3).batch(4)
    loss = (
        sparse_cross_entropy(branched_logits(model, asked.branches), asked.entry_n, asked.entry_id, asked.entry_p)
        / asked.targets
    )
    other = NextToken(Batches(SOURCE, BatchConfig(documents=8, bucket=1)), torch.device("cpu"))(model, 4)
    torch.testing.assert_close(loss, other.loss)
    assert asked.tokens == other.tokens and asked.floor == pytest.approx(other.metrics["floor"])
    weights = list(model.parameters())
    for a, b in zip(*(torch.autograd.grad(x, weights) for x in (loss, other.loss)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_the_oracle_s_distribution_as_target():
    batches = QuestionBatches(SOURCE, 4, 2, QuestionsConfig(count=3), least=3)
    b = batches.batch(3)
    total = torch.zeros(b.targets).index_add_(0, b.entry_n, b.entry_p)
    torch.testing.assert_close(total, torch.ones(b.targets))
    logits = torch.randn(b.targets, SOURCE.world.size, generator=torch.Generator().manual_seed(0), requires_grad=True)
    dense = torch.zeros(logits.shape).index_put_((b.entry_n, b.entry_id), b.entry_p)
    expected = F.cross_entropy(logits, dense, reduction="sum")
    found = sparse_cross_entropy(logits, b.entry_n, b.entry_id, b.entry_p)
    torch.testing.assert_close(found, expected)
    for a, e in zip(*(torch.autograd.grad(x, logits) for x in (found, expected)), strict=True):
        torch.testing.assert_close(a, e)
    # the sampled targets of the same batch lie inside the distributions, and the batch is a pure function of its number
    same = QuestionBatches(SOURCE, 4, 2, QuestionsConfig(count=3, target="sampled"), least=3).batch(3)
    assert (dense[same.entry_n, same.entry_id] > 0).all()
    batches.batch(0)
    assert (batches.batch(3).branches.text_BP == b.branches.text_BP).all()
    entropy = Oracle(SPEC).entropy(SOURCE.documents(range(4))).sum()
    alone = QuestionBatches(SOURCE, 4, 1, QuestionsConfig(), least=3).batch(0)
    assert alone.floor * alone.targets == pytest.approx(float(entropy), rel=1e-5)


def test_a_share_of_the_texts_is_of_the_most_operations():
    batches = QuestionBatches(SOURCE, 8, 4, QuestionsConfig(exact=0.5, count=2), least=3)
    (documents, _, _), (others, _, _) = batches._load(1)[0]
    assert (documents.problems.ops == 6).sum() >= 16 and documents.problems.ops.min() < 4
    assert others.problems.ops.mean() < documents.problems.ops.mean()
    assert all(SPLITS["train"][0] <= problem_bin(documents.problems.take(i)) <= SPLITS["train"][1] for i in range(32))
