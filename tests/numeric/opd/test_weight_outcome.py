"""Outcomes, schedules, weights and forks of distillation on real batches of small models."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from synth.dataset import Source
from synth.judge.checker import check_responses
from synth.world import vocabulary as W
from synth.world.vocabulary import EOS
from tests.helpers.opd_batches import FOUR, STUDENT, gradient, model, objective, right_rows
from tests.helpers.opd_batches import scored as scored_all
from train.opd.divergence.interface_and_topk import NLL, NoDivergence
from train.opd.divergence.kl_and_jsd import ReverseKL
from train.opd.log_probs import Scored, Signals
from train.opd.method import Method
from train.opd.objective import weigh
from train.opd.outcome.outcome import GRPO, RLSD, TRRD, DrGRPO
from train.opd.outcome.rewards import Answer
from train.opd.regularizer import RegularizerConfig
from train.opd.rollout_batch import Prompts, Rollouts
from train.opd.schedule import Schedule
from train.opd.teacher.external_and_oracle import ExternalTeacher, NoTeacher
from train.opd.teacher.teacher import Frozen, Teacher
from train.opd.topd import LookAhead, derived, find_forks, future_coefficients
from train.opd.weight.sample_weights import Contrast, Paced, Right, SampleWeight, StudentPerplexity
from train.opd.weight.token_weights import (
    AfterMistake,
    BeforeMistake,
    DropFirst,
    DropSpecial,
    EarlyTokens,
    EntropyGap,
    ImportanceWeight,
    Opener,
    Tip,
    TipDraw,
    TokenWeight,
    TopTeacherEntropy,
)
from train.opd.weight.weight import WeightConfig, coefficients


def scored_pair(source: Source, prompts: Prompts) -> tuple[Scored, Rollouts]:
    student, teacher = model(source, 0), model(source, 1)
    rollouts, _ = FOUR.draw(prompts, 0, student, None)
    rollouts = right_rows(rollouts, [0, 5, 6])
    targets = Teacher(ExternalTeacher(), Frozen(teacher)).targets(rollouts, student)
    return scored_all(model(source, 4), targets, rollouts), rollouts


def test_trrd_with_all_its_share_on_the_student_is_grpo_and_rlsd_with_none_too(source, prompts):
    scored, rollouts = scored_pair(source, prompts)
    advantage_B = torch.randn(len(rollouts), generator=torch.Generator().manual_seed(0))
    advantage_BR = advantage_B[:, None].expand_as(rollouts.response_BR)
    plain = GRPO(clip=0.2).policy_gradient(scored, advantage_BR)
    trrd = GRPO(clip=0.2, modulate=TRRD(mix=1.0)).policy_gradient(scored, advantage_BR)
    rlsd = GRPO(clip=0.2, modulate=RLSD(mix=0.0, bound=0.2)).policy_gradient(scored, advantage_BR)
    torch.testing.assert_close(trrd, plain)
    torch.testing.assert_close(rlsd, plain)
    half = GRPO(clip=0.2, modulate=TRRD(mix=0.5)).policy_gradient(scored, advantage_BR)
    assert not torch.allclose(half, plain)


def test_combiners_share_out_rows_between_teacher_and_reward(source, prompts):
    _, rollouts = scored_pair(source, prompts)
    right_B = torch.as_tensor(rollouts.verdicts.right).float()
    for name, wanted in {
        "add": (1 + 0 * right_B, 0.5 + 0 * right_B),
        "convex": (0.5 + 0 * right_B, 0.5 + 0 * right_B),
        "mask": (1 - right_B, 0.5 + 0 * right_B),
        "route": (1 - right_B, 0.5 * right_B),
    }.items():
        m = Method("x", FOUR, outcome=DrGRPO(combiner=name, weight=0.5))
        (distilled, outcome), plain_BR = weigh(m, rollouts, 24), coefficients(rollouts, WeightConfig(), 24)
        torch.testing.assert_close(distilled.count_BR, wanted[0][:, None] * plain_BR)
        outcome_BR = coefficients(rollouts, WeightConfig(normaliser="constant"), 24)
        torch.testing.assert_close(outcome.count_BR, wanted[1][:, None] * outcome_BR)


def test_a_switch_leaves_the_teacher_unasked_and_the_reward_alone(source, prompts):
    student, teacher = model(source, 0), model(source, 1)
    switch = {"steps": 2, "jump": True}
    m = Method("x", FOUR, schedule=Schedule(1.0, 0.0, **switch), divergence=ReverseKL(),
               outcome=GRPO(schedule=Schedule(0.0, 1.0, **switch)))  # fmt: skip
    o = objective(m, prompts, student, teacher)
    before, after = o(student, 1), o(student, 2)
    assert before.flops["teacher"] > 0 and after.flops["teacher"] == 0.0
    assert "loss_divergence" in before.metrics and "loss_divergence" not in after.metrics
    assert before.metrics["loss_outcome"] == 0.0
    assert [Schedule(0.0, 1.0, 4).at(k) for k in (0, 2, 4, 9)] == [0.0, 0.5, 1.0, 1.0]


def test_a_group_of_equal_rewards_gives_no_gradient(source, prompts):
    student = model(source, 0)
    m = Method("x", FOUR, NoTeacher(), NoDivergence(), outcome=GRPO())
    loss, slope = gradient(objective(m, prompts, student), student)
    assert loss == 0.0 and slope.abs().max() == 0.0


def test_token_and_sample_weights_are_what_they_say(source, prompts):
    _, rollouts = scored_pair(source, prompts)
    shape, generator = rollouts.behaviour_BR.shape, torch.Generator().manual_seed(0)
    inside = rollouts.trainable_BR
    names = ("student_entropy", "teacher_entropy", "rkl", "log_q", "log_p")
    values = {name: torch.rand(shape, generator=generator) * inside for name in names}
    for name in ("log_q", "log_p"):
        values[name] = -values[name]
    signals = Signals(values, 100)

    def weights(weight: TokenWeight) -> torch.Tensor:
        plain_BR = coefficients(rollouts, WeightConfig(), 24)
        return coefficients(rollouts, WeightConfig(token=[weight]), 24, signals) / plain_BR.max()

    def kept(weight: TokenWeight) -> torch.Tensor:
        """1 at the tokens that count; those that are dropped are not in the denominator either."""
        count_BR = coefficients(rollouts, WeightConfig(token=[weight]), 24, signals)
        assert count_BR.sum().item() == pytest.approx(1.0)
        return count_BR / count_BR.max()

    place = torch.arange(shape[1])[None].expand(shape)
    torch.testing.assert_close(kept(DropFirst(skip=3)), ((place >= 3) & inside).float())
    special = (rollouts.response_BR < len(W.SPECIALS)) & (rollouts.response_BR != EOS)
    torch.testing.assert_close(kept(DropSpecial()), (~special & inside).float())
    chosen = rollouts.response_BR == EOS
    torch.testing.assert_close(kept(DropSpecial(tokens=[EOS], first_only=True)), (~chosen & inside).float())
    assert (rollouts.response_BR[inside] == EOS).any()
    for weight in (Tip(share=0.25), TopTeacherEntropy(share=0.25)):
        kept = weights(weight)
        assert kept.sum().item() == pytest.approx(0.25 * inside.sum().item(), abs=1.0)
    top = weights(TopTeacherEntropy(share=0.25)) > 0
    assert values["teacher_entropy"][top].min() >= values["teacher_entropy"][inside & ~top].max()
    gap = torch.sigmoid(values["student_entropy"] - values["teacher_entropy"]) * inside
    torch.testing.assert_close(weights(EntropyGap()), gap)
    opener = weights(Opener(share=0.1)) > 0
    for row in range(len(rollouts)):
        entropy_R, n = values["student_entropy"][row], int(opener[row].sum())
        assert opener[row, :n].all() and entropy_R[: n - 1].sum() < 0.1 * entropy_R.sum() <= entropy_R[:n].sum() + 1e-6
    early = weights(EarlyTokens(gamma=0.5))
    size = (values["log_p"] - values["log_q"]).abs()
    torch.testing.assert_close(early, (1 + 0.5 * (1 - (size.cumsum(1) - size) / size.sum(1, keepdim=True))) * inside)
    ratio = (values["log_q"] - rollouts.behaviour_BR).exp().clamp(max=2.0) * inside
    torch.testing.assert_close(weights(ImportanceWeight(cap=2.0)), ratio)
    before, after = (weights(weight) for weight in (BeforeMistake(), AfterMistake()))
    torch.testing.assert_close(before + after, inside.float())
    for row, step in enumerate(rollouts.verdicts.first_mistake):
        start = int(rollouts.verdicts.start[row, step]) if step >= 0 else shape[1]
        assert int(before[row].sum()) == min(start, int(inside[row].sum()))


def test_of_the_tip_draw_as_many_as_asked_for_are_drawn_and_the_likelier_more_often(source, prompts):
    _, rollouts = scored_pair(source, prompts)
    inside_BR = rollouts.trainable_BR
    surely_BR = inside_BR & (torch.arange(inside_BR.shape[1]) < 2)
    values = {name: torch.where(surely_BR, 1.0, 1e-6) * inside_BR for name in ("student_entropy", "jsd")}
    drawn_BR, again_BR = (TipDraw(share=0.5)(rollouts, Signals(values, 100)) for _ in range(2))
    assert torch.equal(drawn_BR, again_BR) and drawn_BR.sum() == int(0.5 * inside_BR.sum())
    assert drawn_BR[surely_BR].all() and not drawn_BR[~inside_BR].any()


def test_what_counts_as_right_is_the_answer_or_every_step(source, prompts):
    _, rollouts = scored_pair(source, prompts)
    verdicts = rollouts.verdicts._replace(answer_right=~rollouts.verdicts.right)
    strict, answer = (replace(rollouts, verdicts=verdicts, judge=judge) for judge in ("strict", "answer"))
    assert Right()(strict, Signals({}, 0)).tolist() == (1.0 - Right()(answer, Signals({}, 0))).tolist()
    assert GRPO().rewards(answer).tolist() == GRPO(reward=Answer()).rewards(strict).tolist()
    m = Method("x", FOUR, NoTeacher(), NoDivergence(), outcome=GRPO())
    assert m.judge == objective(m, prompts, model(source, 0)).prompts.judge == "answer"


def test_a_tempered_student_is_trained_at_the_temperature_that_it_was_sampled_at(source, prompts):
    student, tempered = model(source, 0), replace(STUDENT, temperature=0.5, tempered=True)
    o = objective(Method("x", tempered, NoTeacher(), NLL()), prompts, student)
    rollouts = o.source(student, 0)[0]
    wanted = -rollouts.behaviour_BR.sum() / rollouts.length_B.sum()
    assert gradient(o, student)[0] == pytest.approx(wanted.item(), rel=1e-4)
    assert not tempered.off_policy and replace(tempered, tempered=False).off_policy


def test_sample_weights_compare_responses_of_their_own_group(source, prompts):
    _, rollouts = scored_pair(source, prompts)
    inside = rollouts.trainable_BR.float()
    generator = torch.Generator().manual_seed(1)
    values = {name: -torch.rand(inside.shape, generator=generator) * inside for name in ("log_q", "log_p")}
    signals, rate = Signals(values, 100), torch.tensor([0.25, 0.5, 0.0, 0.0, 0.0]).repeat_interleave(4)

    def weights(weight: SampleWeight) -> torch.Tensor:
        config = WeightConfig(sample=[weight], normaliser="constant")
        return coefficients(rollouts, config, 24, signals)[:, 0] * 20 * 24

    torch.testing.assert_close(weights(Paced(alpha=1.0, beta=2.0)), rate * (1 - rate) ** 2)
    assert weights(Contrast()).tolist() == [1.0] * 8 + [0.0] * 12
    right = torch.as_tensor(rollouts.verdicts.right)
    mean = values["log_q"].sum(1) / rollouts.length_B
    for row in range(20):
        same = [i for i in range(4 * (row // 4), 4 * (row // 4) + 4) if right[i] == right[row]]
        wanted = (-mean[row]).exp() / torch.stack([(-mean[i]).exp() for i in same]).mean()
        assert weights(StudentPerplexity(tau=1.0))[row].item() == pytest.approx(wanted.item(), rel=1e-4)
    one = coefficients(rollouts, WeightConfig(sample=[Right()]), 24)
    both = coefficients(rollouts, WeightConfig(sample=[Right()], over="batch"), 24)
    assert one.sum().item() == pytest.approx(1.0)
    share = inside[right].sum() / inside.sum()
    assert both.sum().item() == pytest.approx(share.item())


def test_forks_are_where_the_futures_differ_and_their_futures_are_the_teacher_s(source, prompts):
    student, teacher = model(source, 0), model(source, 1)
    rollouts, _ = STUDENT.draw(prompts, 0, student, None)
    rkl = torch.rand(rollouts.behaviour_BR.shape, generator=torch.Generator().manual_seed(0)) * rollouts.trainable_BR
    config, signals = LookAhead(candidates=0.3, limit=12, tokens=10), Signals({"rkl": rkl}, 100)
    forks = find_forks(rollouts, signals, config, student, teacher, prompts, 0)
    assert forks.looked == 12 and forks.real + int((forks.weight_BR == 0).sum()) == 12
    same = find_forks(rollouts, signals, config, student, student, prompts, 0)
    assert same.flops > 0
    if forks.futures is not None:
        row_F, time_F = forks.at
        for f in range(forks.real):
            start = int(rollouts.prompt_B[row_F[f]] + time_F[f])
            assert int(forks.futures.prompt_B[f]) == start
            assert torch.equal(forks.futures.tokens_BT[f, :start], rollouts.tokens_BT[row_F[f], :start])
        counts = future_coefficients(forks, config, torch.full_like(rkl, 2.0))
        n = int(forks.futures.length_B[0])
        wanted = 2.0 * config.eta * config.gamma ** torch.arange(n) / n
        torch.testing.assert_close(counts[0, :n], wanted)


def test_the_state_of_a_text_is_what_it_has_derived(source):
    documents = source.documents(range(6))
    responses = [documents.response(i) for i in range(6)]
    verdicts = check_responses(documents.problems, source.world, responses)
    lengths = np.array([len(r) for r in responses])
    whole = derived(verdicts, lengths, np.ones(6, dtype=bool))
    for i, (params, wrong, answered) in enumerate(whole):
        assert params == set(verdicts.param[i, : verdicts.steps[i]].tolist()) and not wrong and answered
    halves = [r[: len(r) // 2] for r in responses]
    half = derived(check_responses(documents.problems, source.world, halves), lengths // 2, np.zeros(6, dtype=bool))
    assert all(a[0] <= b[0] and not a[1] for a, b in zip(half, whole, strict=True))


def test_where_the_teacher_is_not_asked_regularizers_are_still_measured(source, prompts):
    student, switch = model(source, 0), Schedule(1.0, 0.0, 1, jump=True)
    m = Method("x", STUDENT, weight=WeightConfig(token=[EntropyGap()]), schedule=switch,
               regularizer=RegularizerConfig(entropy=-0.1, entropy_top=0.2))  # fmt: skip
    output = objective(m, prompts, student, model(source, 1))(student, 1)
    assert output.flops["teacher"] == 0.0 and "loss_divergence" not in output.metrics
    assert output.metrics["loss_entropy"] > 0.0
