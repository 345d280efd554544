"""The objective of distillation on real batches of small models: alignment, invariances, gradients, resume."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models import GPT, GPTConfig
from models.decode.sampling import token_logprobs
from synth.dataset import Source
from synth.spec import preset
from synth.store.files import read_json_lines
from synth.world.vocabulary import EOS, PAD
from train.core.budget_and_ledger import Budget, forward_flops, training_flops
from train.core.loop import train
from train.core.optimizer import OptimConfig
from train.data.batches import BatchConfig, Batches
from train.opd.diagnostics.rollout_log import SampleLog
from train.opd.divergence.interface_and_topk import NLL, NoDivergence, StudentTopK
from train.opd.divergence.kl_and_jsd import JSD, ForwardKL, ReverseKL
from train.opd.divergence.sampled_kl import PolicyGradient
from train.opd.method import Method
from train.opd.objective import Objective
from train.opd.outcome.outcome import GRPO, DrGRPO
from train.opd.outcome.rewards import Answer
from train.opd.regularizer import RegularizerConfig
from train.opd.rollout_batch import ORIGINS, Prompts, Rollouts
from train.opd.source.mixed_samplers import StudentOrGold
from train.opd.source.rollout_sampling import GoldDocuments, StudentSampler
from train.opd.teacher.external_and_oracle import ExternalTeacher, NoTeacher
from train.opd.teacher.self_teachers import InitialStudent
from train.opd.teacher.teacher import Frozen, Teacher, log_probs_of
from train.opd.weight.sample_weights import Finished
from train.opd.weight.weight import WeightConfig
from train.pretrain import NextToken
from train.runs.run_folder import TrainingOutConfig, open_run

STUDENT = StudentSampler()
GOLD = GoldDocuments()
NO_TEACHER = NoTeacher()
METHODS = {
    "rkl": Method("rkl", STUDENT),
    "jsd-sequence": Method("jsd", STUDENT, divergence=JSD(beta=0.3),
                           weight=WeightConfig(normaliser="sequence")),
    "topk-constant": Method("topk", STUDENT, weight=WeightConfig(normaliser="constant"),
                            divergence=ReverseKL(support=StudentTopK(k=4, rest="tail"))),
    "pg-finished": Method("pg", replace(STUDENT, samples=3, temperature=0.8), weight=WeightConfig(sample=[Finished()]),
                          divergence=PolicyGradient(adv_clip=1.0)),
    "regularized": Method("reg", GOLD, divergence=ForwardKL(), teacher=ExternalTeacher(),
                          regularizer=RegularizerConfig(ref_kl=0.1, gold_nll=0.2, entropy=0.05)),
    "grpo": Method("grpo", replace(STUDENT, samples=4), outcome=GRPO(reward=Answer(), weight=0.5)),
}  # fmt: skip


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(preset("tiny", ops=2, edges=4), seed=0, split="train", stream="distillation")


def model(source: Source, seed: int, width: int = 16) -> GPT:
    config = GPTConfig(len(source.world.vocabulary), n_layer=1, n_head=2, n_embd=width, context=128, init_std=0.3)
    return GPT(config, seed)


def objective(method: Method, source: Source, count: int = 6, micro_batch: int = 0, seed: int = 0, **more) -> Objective:
    reference = model(source, 7) if method.needs_reference else None
    scorer = Frozen(model(source, 1, width=24)) if method.divergence.needs_teacher else None
    teacher = Teacher(method.teacher, scorer, reference)
    return Objective(method, Prompts(source, count, 30, seed), teacher, micro_batch=micro_batch, **more)


def loss_and_gradient(objective: Objective, student: GPT, step: int = 0) -> tuple[float, torch.Tensor]:
    student.zero_grad()
    output = objective(student, step)
    output.loss.backward()
    return output.loss.item(), torch.cat([p.grad.flatten() for p in student.parameters()])


def drawn(method: Method, source: Source, student: GPT, count: int = 6, step: int = 0) -> Rollouts:
    return method.source.draw(Prompts(source, count, 30, 0), step, student, None)[0]


def widened(rollouts: Rollouts, extra: int) -> Rollouts:
    """The same batch with more padding, of tokens that would hurt if anything read them."""
    pad = torch.nn.functional.pad
    return replace(
        rollouts,
        tokens_BT=pad(rollouts.tokens_BT, (0, extra), value=PAD),
        trainable_BR=pad(rollouts.trainable_BR, (0, extra), value=False),
        behaviour_BR=pad(rollouts.behaviour_BR, (0, extra), value=-50.0),
    )


def test_reverse_kl_loss_is_the_mean_over_response_positions_end_token_included(source):
    """The whole path against one row at a time: logits at index prompt + t - 1 predict response token t."""
    student, method = model(source, 0), METHODS["rkl"]
    o = objective(method, source)
    rollouts = drawn(method, source, student)
    assert len(set(rollouts.prompt_B.tolist())) > 1, "prompts of one length would not test the alignment"
    assert rollouts.finished_B.any() and not rollouts.finished_B.all()
    total, count = 0.0, 0
    for row in range(len(rollouts)):
        start, n = int(rollouts.prompt_B[row]), int(rollouts.length_B[row])
        tokens_1T = rollouts.tokens_BT[row : row + 1, : start + n]
        with torch.no_grad():
            q, p = (torch.log_softmax(m(tokens_1T)[0], dim=-1) for m in (student, o.teacher.model.models[0]))
        for t in range(n):
            at = start + t - 1
            total += float((q[at].exp() * (q[at] - p[at])).sum())
            count += 1
    output = o(student, 0)
    assert output.loss.item() == pytest.approx(total / count, rel=1e-5)
    assert output.metrics["rkl"] == pytest.approx(total / count, rel=1e-5)
    assert count == int(rollouts.length_B.sum())


def test_a_teacher_with_a_longer_prompt_scores_the_same_response_positions(source):
    teacher, rollouts = model(source, 1), drawn(METHODS["rkl"], source, model(source, 0))
    contexts = [[9] * (row % 3) for row in range(len(rollouts))]
    rows = [[*c, *t[: p + n]] for c, t, p, n in zip(contexts, rollouts.tokens_BT.tolist(),
            rollouts.prompt_B.tolist(), rollouts.length_B.tolist(), strict=True)]  # fmt: skip
    width = max(map(len, rows))
    tokens_BT = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    prompt_B = rollouts.prompt_B + torch.tensor([len(c) for c in contexts])
    with torch.no_grad():
        got_NV = log_probs_of(teacher, tokens_BT, prompt_B, rollouts.length_B)(slice(None))
        n = 0
        for row, context in zip(rows, contexts, strict=True):
            alone_TV = torch.log_softmax(teacher(torch.tensor([row]))[0], dim=-1)
            length = int(rollouts.length_B[rows.index(row)])
            first = len(row) - length
            assert len(context) <= first
            torch.testing.assert_close(got_NV[n : n + length], alone_TV[first - 1 : first + length - 1])
            n += length
    assert n == len(got_NV)


def test_sampling_log_probabilities_are_those_of_the_forward_pass(source):
    student = model(source, 0)
    rollouts = drawn(METHODS["rkl"], source, student)
    with torch.no_grad():
        logp_BT = token_logprobs(student, rollouts.tokens_BT)
    for row in range(len(rollouts)):
        start, n = int(rollouts.prompt_B[row]) - 1, int(rollouts.length_B[row])
        torch.testing.assert_close(
            rollouts.behaviour_BR[row, :n], logp_BT[row, start : start + n], atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_change_nothing(name, source):
    student, size = model(source, 0), {}
    for micro_batch in (0, 1, 4):
        size[micro_batch] = loss_and_gradient(objective(METHODS[name], source, micro_batch=micro_batch), student)
    assert size[0][1].norm() > 1e-4
    for micro_batch in (1, 4):
        assert size[micro_batch][0] == pytest.approx(size[0][0], rel=1e-5, abs=1e-6)
        torch.testing.assert_close(size[micro_batch][1], size[0][1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["rkl", "pg-finished", "grpo"])
def test_padding_and_order_change_nothing(name, source, monkeypatch):
    student, method = model(source, 0), METHODS[name]
    rollouts = drawn(method, source, student)
    order_B = torch.randperm(len(rollouts), generator=torch.Generator().manual_seed(1))
    results = []
    for batch in (rollouts, widened(rollouts, 5), rollouts.rows(order_B)):
        monkeypatch.setattr(StudentSampler, "draw", lambda *_, batch=batch: (batch, 0.0))
        results.append(loss_and_gradient(objective(method, source), student))
    for loss, gradient in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-5, abs=1e-6)
        torch.testing.assert_close(gradient, results[0][1], atol=1e-5, rtol=1e-4)


def test_the_end_token_is_learned_and_padding_is_not(source):
    """Gradient reaches the end token's unembedding from its position; nothing reaches the embedding of padding."""
    student = model(source, 0)
    student.zero_grad()
    objective(Method("nll", GOLD, NO_TEACHER, NLL()), source)(student, 0).loss.backward()
    assert student.embed.weight.grad[EOS].norm() > 1e-3
    untied = GPT(replace(student.config, tied=False), 0)
    objective(Method("nll", GOLD, NO_TEACHER, NLL()), source)(untied, 0).loss.backward()
    assert untied.embed.weight.grad[PAD].norm() == 0


def test_teacher_and_reference_are_frozen_and_unchanged(source):
    o, student = objective(METHODS["regularized"], source), model(source, 0)
    before = [deepcopy(m.state_dict()) for m in (o.teacher.model.models[0], o.teacher.reference)]
    o(student, 0).loss.backward()
    for frozen, state in zip((o.teacher.model.models[0], o.teacher.reference), before, strict=True):
        assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())
        assert all(torch.equal(value, state[name]) for name, value in frozen.state_dict().items())


def test_a_student_that_is_its_own_teacher_has_nothing_to_learn(source):
    student, method = model(source, 0), Method("self", STUDENT, InitialStudent())
    o = Objective(method, Prompts(source, 6, 30, 0), Teacher(method.teacher, Frozen(deepcopy(student)), None))
    loss, gradient = loss_and_gradient(o, student)
    assert abs(loss) < 1e-6 and gradient.abs().max() < 1e-6


def test_one_address_gives_one_loss(source):
    student, o = model(source, 0), objective(METHODS["rkl"], source)
    first, again = (loss_and_gradient(o, student, step=3) for _ in range(2))
    assert first[0] == again[0] and torch.equal(first[1], again[1])
    assert o(student, 4).loss.item() != first[0]
    assert objective(METHODS["rkl"], source, seed=1)(student, 3).loss.item() != first[0]


def test_the_mixture_is_drawn_per_batch_with_its_share(source):
    student, config = model(source, 0), StudentOrGold(share=0.3)
    origins = []
    for step in range(60):
        rollouts, _ = config.draw(Prompts(source, 2, 2, 0), step, student, None)
        assert len(set(rollouts.origin_B.tolist())) == 1
        origins.append(ORIGINS[rollouts.origin_B[0]])
    assert 8 <= origins.count("student") <= 28 and set(origins) == {"student", "gold"}


def test_gold_rollouts_are_the_documents(source):
    rollouts, cost = GOLD.draw(Prompts(source, 5, 14, 0), 2, model(source, 0), None)
    documents = source.documents(range(10, 15))
    for row in range(5):
        start, stop = documents.offsets[row : row + 2]
        n, prompt = stop - start, documents.prompt[row]
        assert rollouts.tokens_BT[row, :n].tolist() == documents.tokens[start:stop].tolist()
        assert int(rollouts.prompt_B[row]) == prompt and int(rollouts.length_B[row]) == n - prompt
        got = rollouts.behaviour_BR[row, : n - prompt].numpy()
        np.testing.assert_allclose(got, documents.logp[start + prompt : stop], rtol=1e-6)
    assert rollouts.verdicts.right.all() and cost == 0.0


def test_continued_pretraining_is_pretraining_s_loss(source):
    student = model(source, 0)
    masked = Source(preset("tiny", ops=2, edges=4, retry_rate=0.5, mask_mistakes="step"), seed=0, stream="distillation")
    ours = objective(Method("sft", GOLD, NO_TEACHER, NLL()), masked, count=8)(student, 0)
    batches = Batches(masked, BatchConfig(documents=8, bucket=1))
    theirs = NextToken(batches, torch.device("cpu"))(student, 0)
    assert ours.loss.item() == pytest.approx(theirs.loss.item(), rel=1e-6)
    assert ours.tokens == theirs.tokens


def test_the_ledger_counts_generation_teacher_and_update(source):
    student, method = model(source, 0), Method("two", replace(STUDENT, samples=2))
    o = objective(method, source, count=3)
    rollouts = drawn(method, source, student, count=3)
    output = o(student, 0)
    read_B = rollouts.prompt_B + rollouts.length_B - 1
    assert output.flops["update"] == training_flops(student.config, read_B)
    assert output.flops["teacher"] == forward_flops(o.teacher.model.models[0].config, read_B)
    prompts_once = forward_flops(student.config, rollouts.prompt_B[::2])
    assert output.flops["generation"] == forward_flops(student.config, read_B) - prompts_once
    assert output.tokens == int((rollouts.prompt_B + rollouts.length_B).sum())
    assert output.tokens_by_kind["generation"] == int(rollouts.length_B.sum())


def test_policy_gradient_makes_rewarded_responses_likelier(source, monkeypatch):
    method = Method("pg", replace(STUDENT, samples=2), NO_TEACHER, NoDivergence(),
                    outcome=DrGRPO())  # fmt: skip
    student = model(source, 0)
    rollouts = drawn(method, source, student, count=2)
    right = np.array([True, False, False, True])
    rollouts = replace(rollouts, verdicts=rollouts.verdicts._replace(right=right))
    monkeypatch.setattr(StudentSampler, "draw", lambda *_: (rollouts, 0.0))

    def likelihood() -> torch.Tensor:
        with torch.no_grad():
            logp_BT = token_logprobs(student, rollouts.tokens_BT)
        time_T = torch.arange(1, rollouts.tokens_BT.shape[1])
        inside = (time_T >= rollouts.prompt_B[:, None]) & (time_T < (rollouts.prompt_B + rollouts.length_B)[:, None])
        return (logp_BT * inside).sum(1)

    before = likelihood()
    objective(method, source, count=2)(student, 0).loss.backward()
    with torch.no_grad():
        for p in student.parameters():
            p -= 0.05 * p.grad
    change = likelihood() - before
    assert (change[torch.tensor(right)].sum() > change[~torch.tensor(right)].sum()).item()


OUT = TrainingOutConfig(log_every=1, save_every=2, keep=0)


def distil(folder: Path, source: Source, steps: int, stop_at: int | None = None) -> GPT:
    """A run of `steps` steps in `folder`, optionally killed in the middle of step `stop_at`."""
    config = {"out": {"folder": str(folder)}, "steps": steps}
    run = open_run(config, entry="tests", kind="distillation")
    log = SampleLog(run.path / "samples.jsonl", source.world, every=1, count=2)

    def watch(step: int, rollouts: Rollouts) -> None:
        log(step, rollouts)
        if step == stop_at:
            raise KeyboardInterrupt

    student = model(source, 0)
    o = objective(METHODS["rkl"], source, micro_batch=4, on_batch=watch)
    try:
        train(run, student, o, OptimConfig(lr=1e-2), Budget(steps=steps), OUT)
    finally:
        run.close()
    return student


def test_a_killed_run_ends_with_the_same_weights_log_and_samples(source, tmp_path):
    whole = distil(tmp_path / "whole", source, 5)
    with pytest.raises(KeyboardInterrupt):
        distil(tmp_path / "killed", source, 5, stop_at=3)
    resumed = distil(tmp_path / "killed", source, 5)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    samples = [(tmp_path / name / "samples.jsonl").read_text() for name in ("whole", "killed")]
    assert samples[0] == samples[1] and len(samples[0].splitlines()) == 10
    losses = [[row["loss"] for row in read_json_lines(tmp_path / n / "metrics.jsonl")] for n in ("whole", "killed")]
    assert losses[0] == losses[1] and len(losses[0]) == 5


def test_distillation_brings_the_student_closer_to_its_teacher(source, tmp_path):
    distil(tmp_path / "run", source, 24)
    rkl = [row["rkl"] for row in read_json_lines(tmp_path / "run" / "metrics.jsonl")]
    assert np.mean(rkl[-5:]) < 0.7 * np.mean(rkl[:5]), rkl
