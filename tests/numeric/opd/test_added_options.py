"""Options that newer methods brought: moving targets, token and sample weights, rewards, sources of two authors."""

from collections import Counter
from copy import deepcopy
from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch

from synth.judge.checker import MALFORMED
from synth.problem.arrays import dependencies
from tests.helpers.opd_batches import FOUR, GOLD, V, logits, model, objective, pair, record, right_rows
from train.opd.divergence.interface_and_topk import NoDivergence
from train.opd.divergence.kl_and_jsd import TAID, ForwardKL, ReverseKL, Veto
from train.opd.divergence.sampled_kl import PolicyGradient
from train.opd.log_probs import Signals, favourite_rank
from train.opd.method import Method, Term
from train.opd.objective import weigh
from train.opd.outcome.outcome import GRPO, RLCSD, DrGRPO, ProcessGRPO
from train.opd.rollout_batch import ORIGINS, agrees
from train.opd.schedule import Schedule
from train.opd.source.mixed_samplers import Interleaved, Privileged, Rescued, WithTeacher
from train.opd.source.replay_buffer import Adaptive, BatchSource
from train.opd.teacher.context import add_contexts
from train.opd.teacher.self_teachers import SyncedTeacher
from train.opd.teacher.teacher import Frozen
from train.opd.weight.sample_weights import NotAbove, Unsolved, WrittenBy
from train.opd.weight.token_weights import Accepted, Confident, Disfavoured, Favoured, Structure, uses
from train.opd.weight.weight import WeightConfig, coefficients


def drawn(source, prompts):
    rollouts, _ = FOUR.draw(prompts, 0, model(source, 0), None)
    return right_rows(rollouts, [0, 4, 5, 6, 7])  # the first prompt is mixed, the second solved, the others not


def test_taid_s_share_never_falls_keeps_to_its_line_and_rises_with_progress():
    config = TAID(start=0.2, end=0.9, steps=20, alpha=0.1, momentum=0.5)
    falling, level = (config.shares([4.0 * base**k for k in range(21)]) for base in (0.8, 1.0))
    assert falling[0] == 0.2 and falling == sorted(falling) and falling[-1] == pytest.approx(0.9)
    assert all(share >= 0.2 + 0.7 * k / 20 - 1e-12 for k, share in enumerate(level))
    assert all(a > b for a, b in zip(falling[1:8], level[1:8], strict=True))
    moved = config.at(5, [4.0 * 0.8**k for k in range(5)])
    assert moved.start == falling[4] and config.at(0, []) is config


def test_veto_is_its_kl_without_power_and_pulls_to_the_sharpened_teacher():
    z_NV, p_NV = pair()
    for reverse, plain in ((False, ForwardKL()), (True, ReverseKL())):
        veto = Veto(power=0.8, steps=10, reverse=reverse)
        torch.testing.assert_close(veto.at(10, [])(record(z_NV, p_NV)), plain(record(z_NV, p_NV)))
        assert veto.at(5, []).power == pytest.approx(0.4)
        fixed_NV = (p_NV / (1.0 - 0.8)).requires_grad_()  # q proportional to p^(1 / (1 - b)) is where it rests
        (slope,) = torch.autograd.grad(veto(record(fixed_NV, p_NV)).sum(), fixed_NV)
        assert slope.abs().max() < 1e-9


def test_favoured_and_disfavoured_tokens_are_all_tokens_once(source, prompts):
    rollouts = drawn(source, prompts)
    shape = rollouts.behaviour_BR.shape
    signals = Signals({name: -torch.rand(shape, generator=torch.Generator().manual_seed(i)) for i, name in
                       enumerate(("log_p", "log_q"))}, V)  # fmt: skip
    up_BR, down_BR = (weight(rollouts, signals) for weight in (Favoured(), Disfavoured()))
    assert torch.equal(up_BR + down_BR, torch.ones(shape)) and 0.0 < up_BR.mean() < 1.0
    assert torch.equal(up_BR > 0, signals["log_p"] > signals["log_q"])
    assert not Favoured(threshold=1.0)(rollouts, signals).any()


def test_a_token_is_accepted_where_the_teacher_ranks_the_student_s_favourite_high(source, prompts):
    z_NV, p_NV = logits(1, 50, V), torch.log_softmax(logits(2, 50, V), dim=-1)
    rank_N = favourite_rank(record(z_NV, p_NV))
    order_NV = p_NV.argsort(dim=-1, descending=True)
    assert rank_N.tolist() == [float(order_NV[i].tolist().index(int(z_NV[i].argmax()))) for i in range(50)]
    rollouts = drawn(source, prompts)
    rank_BR = torch.arange(rollouts.behaviour_BR.numel()).reshape(rollouts.behaviour_BR.shape) % 4
    weight_BR = Accepted(k=2, rejected=0.25)(rollouts, Signals({"favourite_rank": rank_BR}, V))
    assert torch.equal(weight_BR, torch.where(rank_BR < 2, 1.0, 0.25))


def test_confident_weights_have_mean_one_over_the_tokens_that_count(source, prompts):
    rollouts = drawn(source, prompts)
    entropy_BR = torch.rand(rollouts.behaviour_BR.shape, generator=torch.Generator().manual_seed(0))
    signals = Signals({"teacher_entropy": entropy_BR}, V)
    for sample in ([], [NotAbove()]):
        plain, weighed = (
            coefficients(rollouts, WeightConfig(token, sample, "token"), 24, signals) for token in ([], [Confident()])
        )
        torch.testing.assert_close(weighed.sum(), plain.sum())
        ratio_N = (weighed / plain)[plain > 0]
        wanted_N = (-entropy_BR).exp()[plain > 0]
        torch.testing.assert_close(ratio_N, wanted_N / wanted_N.mean())


def test_over_the_batch_rows_without_a_target_are_counted_but_not_learned(source, prompts):
    rollouts = drawn(source, prompts)
    inside_BR, told_BR = rollouts.trainable_BR, rollouts.trainable_BR & (rollouts.group_B > 0)[:, None]
    for over, among_BR in (("batch", inside_BR), ("kept", told_BR & (NotAbove()(rollouts, None) > 0)[:, None])):
        found_BR = coefficients(rollouts, WeightConfig(sample=[NotAbove()], over=over), 24, None, told_BR)
        torch.testing.assert_close(found_BR, told_BR.float() / among_BR.sum())


def test_sample_weights_of_groups_and_origins(source, prompts):
    rollouts, none = drawn(source, prompts), Signals({}, V)
    assert Unsolved()(rollouts, none).tolist() == [0.0] * 8 + [1.0] * (len(rollouts) - 8)
    assert NotAbove()(rollouts, none).tolist() == [0.0] + [1.0] * (len(rollouts) - 1)
    authors = torch.arange(len(rollouts)) % 3
    by_teacher = WrittenBy(origin="teacher")(replace(rollouts, origin_B=authors), none)
    assert by_teacher.tolist() == [float(a == ORIGINS.index("teacher")) for a in authors.tolist()]


def test_structure_counts_the_needed_parameters_that_depend_on_a_step(source, prompts):
    gold, _ = GOLD.draw(prompts, 0, model(source, 0), None)
    counts = uses(gold.problems)
    for row in range(len(gold)):
        problem = gold.problems.take(row)
        needed = {int(slot) for slot in problem.topo[0] if slot >= 0}
        below = {slot: set(dependencies(problem, slot)) for slot in needed}
        for _ in needed:
            below = {slot: found.union(*(below.get(x, set()) for x in found)) for slot, found in below.items()}
        for slot in range(counts.shape[1]):
            assert counts[row, slot] == sum(slot in found for found in below.values())
    weight_BR = Structure(strength=0.5)(gold, Signals({}, V))
    row, step = 0, 0
    start, param = int(gold.verdicts.start[row, step]), int(gold.verdicts.param[row, step])
    assert weight_BR[row, start] == 1.0 + 0.5 * counts[row, param] and counts[0].max() > 0
    assert weight_BR[0, int(gold.length_B[0]) - 1] == 1.0  # the end belongs to no step


def test_the_majority_needs_no_truth(source, prompts):
    rollouts = drawn(source, prompts)
    answers = np.full(len(rollouts), -1)
    answers[:12] = [3, 3, 5, -1, -1, -1, -1, 2, 4, 4, 6, 6]
    rollouts = replace(rollouts, verdicts=rollouts.verdicts._replace(answer=answers))
    assert agrees(rollouts).tolist() == [1, 1, 0, 0, 0, 0, 0, 1] + [0] * (len(rollouts) - 8)


def test_process_rewards_add_up_over_the_steps_that_end_later(source, prompts):
    rollouts = drawn(source, prompts)
    outcome, v = ProcessGRPO(), rollouts.verdicts
    _, advantage_BR = outcome.positions(rollouts, 24, None)
    for g in rollouts.group_B.unique().tolist():
        rows = (rollouts.group_B == g).nonzero().squeeze(1).tolist()
        found = [(row, int(v.stop[row, s]) - 1, float(v.kind[row, s] < MALFORMED)) for row in rows
                 for s in range(v.kind.shape[1]) if v.kind[row, s] >= 0]  # fmt: skip
        found += [(row, int(rollouts.length_B[row]) - 1, float(v.right[row])) for row in rows]
        reward = torch.tensor([r for _, _, r in found])
        scaled = (reward - reward.mean()) / (reward.std() + 1e-6)
        for row in rows:
            for t in range(int(rollouts.length_B[row])):
                wanted = sum(float(s) for s, (b, end, _) in zip(scaled, found, strict=True) if b == row and end >= t)
                assert advantage_BR[row, t] == pytest.approx(wanted, abs=1e-4)


def test_a_floor_bounds_the_reward_from_below_alone():
    z_NV, p_NV = logits(1, 200, V), torch.log_softmax(3 * logits(2, 200, V), dim=-1)
    scored = record(z_NV, p_NV)
    d_N = (scored.log_p_N - scored.log_q_N).detach()
    bound = log(0.2 / 0.8)
    assert d_N.min() < bound and d_N.max() > -bound
    torch.testing.assert_close(PolicyGradient(floor=0.2).advantage(scored)[0], d_N.clamp(min=bound))


def test_a_further_term_may_have_a_schedule_of_its_own(source, prompts):
    off, on = (Schedule(a, 1.0 - a, 5, jump=True) for a in (1.0, 0.0))
    made = Method("m", FOUR, also=[Term(ForwardKL(), schedule=on)], schedule=off, coefficient=0.5)
    rollouts = drawn(source, prompts)
    assert [term.name for term in weigh(made, rollouts, 24, 4)] == ["divergence"]
    assert [term.name for term in weigh(made, rollouts, 24, 5)] == ["also_1_fkl"]
    assert weigh(made, rollouts, 24, 0)[0].count_BR.sum() == pytest.approx(0.5)


def test_an_interleaved_token_is_the_student_s_inside_the_teacher_s_top_and_the_teacher_s_outside():
    q_NV, p_NV = (torch.log_softmax(logits(i, 20, V), dim=-1) for i in (1, 2))
    kept_NV = torch.zeros_like(p_NV).scatter(-1, p_NV.topk(3).indices, 1.0)
    mixed_NV = Interleaved(k=3).mixed(q_NV, p_NV).exp()
    refused_N1 = ((1 - kept_NV) * q_NV.exp()).sum(-1, keepdim=True)
    torch.testing.assert_close(mixed_NV, kept_NV * q_NV.exp() + refused_N1 * p_NV.exp())
    torch.testing.assert_close(mixed_NV.sum(-1), torch.ones(20, dtype=mixed_NV.dtype))
    torch.testing.assert_close(Interleaved(k=V).mixed(q_NV, p_NV), q_NV)


def test_student_and_teacher_answer_in_one_group(source, prompts):
    student, teacher = model(source, 0), model(source, 1)
    rollouts, _ = WithTeacher(samples=3, guests=1).draw(prompts, 0, student, teacher)
    assert Counter(rollouts.group_B.tolist()) == dict.fromkeys(range(prompts.count), 4)
    assert Counter(rollouts.origin_B.tolist()) == {0: 3 * prompts.count, ORIGINS.index("teacher"): prompts.count}
    for author, writer in (("student", student), ("teacher", teacher)):
        rows = rollouts.rows((rollouts.origin_B == ORIGINS.index(author)).nonzero().squeeze(1))
        log_NV = Frozen(writer).log_probs(rows, writer)(slice(None))
        own_N = log_NV.gather(-1, rows.response_BR[rows.trainable_BR][:, None]).squeeze(-1)
        torch.testing.assert_close(own_N, rows.behaviour_BR[rows.trainable_BR], atol=1e-4, rtol=1e-4)


def test_privileged_responses_stand_behind_the_bare_prompt_with_the_chance_they_had_given_the_context(source, prompts):
    student = model(source, 0)
    rollouts, _ = Privileged(samples=2).draw(prompts, 3, student, None)
    bare, _ = GOLD.draw(prompts, 3, student, None)
    assert torch.equal(rollouts.prompt_B, bare.prompt_B.repeat_interleave(2)) and not rollouts.has_context_B.any()
    informed = add_contexts(rollouts, "gold", prompts, 3, 512)
    log_NV = Frozen(student).log_probs(informed, student)(slice(None))
    own_N = log_NV.gather(-1, rollouts.response_BR[rollouts.trainable_BR][:, None]).squeeze(-1)
    torch.testing.assert_close(own_N, rollouts.behaviour_BR[rollouts.trainable_BR], atol=1e-4, rtol=1e-4)


def test_rescues_are_right_answer_unsolved_prompts_and_stay_out_of_the_outcome(source, prompts, monkeypatch):
    from synth.store import encodings
    from tests.helpers.opd_methods import judged

    monkeypatch.setattr(encodings, "check", judged)
    student = model(source, 0)
    steps = (Rescued(samples=2, tries=3).draw(prompts, step, student, None)[0] for step in range(20))
    rollouts = next(batch for batch in steps if (batch.origin_B == ORIGINS.index("privileged")).any())
    rescue_B = rollouts.origin_B == ORIGINS.index("privileged")
    right_B = torch.as_tensor(rollouts.verdicts.right)
    assert right_B[rescue_B].all()
    for g in rollouts.group_B[rescue_B].tolist():
        assert not right_B[(rollouts.group_B == g) & ~rescue_B].any()
    for outcome in (GRPO(), DrGRPO()):
        count_BR, advantage_BR = outcome.positions(rollouts, 24, None)
        assert not count_BR[rescue_B].any() and not advantage_BR[rescue_B].any()
        alone = outcome.positions(rollouts.rows((~rescue_B).nonzero().squeeze(1)), 24, None)
        torch.testing.assert_close(advantage_BR[~rescue_B][:, : alone[1].shape[1]], alone[1])
        torch.testing.assert_close(count_BR[~rescue_B][:, : alone[0].shape[1]], alone[0])


def test_a_contrast_compares_a_right_hint_with_the_mean_over_wrong_ones(source, prompts, monkeypatch):
    """The signal by hand, and an outcome without it where no wrong sibling exists."""
    student = model(source, 0)
    teacher = SyncedTeacher(every=1, context="success1", contrast="failure1", contrasts=3)
    made = Method("m", FOUR, teacher, NoDivergence(), outcome=RLCSD(tau=1.0, delta=0.0))
    rollouts = drawn(source, prompts)
    monkeypatch.setattr(type(FOUR), "draw", lambda *_: (rollouts, 0.0))
    o = objective(made, prompts, student)
    _, step = o._score(o._draw(student, 0)[0])
    inside_BR = rollouts.trainable_BR
    own_BR, found_BR = torch.zeros_like(rollouts.behaviour_BR), step.signals["log_p_contrast"]
    for k in range(3):
        told = add_contexts(rollouts, "failure1", prompts, 0, 512, f"contrast {k}")
        log_NV = Frozen(deepcopy(student)).log_probs(told, student)(slice(None))
        own_BR[rollouts.trainable_BR] += (
            log_NV.gather(-1, rollouts.response_BR[rollouts.trainable_BR][:, None])[:, 0].exp() / 3
        )
    shown_B = told.has_context_B & step.rollouts.has_context_B  # the first row is right alone: no right sibling
    assert 0 < shown_B.sum() < len(rollouts) and not found_BR[~shown_B].any()
    inside_BR = inside_BR & shown_B[:, None]
    torch.testing.assert_close(found_BR[inside_BR], own_BR[inside_BR].log(), atol=1e-4, rtol=1e-4)
    count_BR, advantage_BR = made.outcome.positions(rollouts, 24, step.signals)
    plain_BR = GRPO().positions(rollouts, 24, None)[1]
    assert torch.equal(advantage_BR[0], plain_BR[0].to(advantage_BR)) and told.has_context_B[0]
    assert (advantage_BR.sign() * plain_BR.sign() >= 0).all() and not advantage_BR[plain_BR == 0].any()
    assert not torch.equal(advantage_BR, plain_BR.to(advantage_BR)) and count_BR.sum() == pytest.approx(2.0)


def test_an_adaptive_source_begins_with_documents_and_rises_when_the_held_out_loss_does_not_fall(source, prompts):
    config = Adaptive(capacity=2, rise=0.5, epsilon=0.0, every=2, steps=20)
    drawer, student = BatchSource(prompts, config, None), model(source, 0)
    gold = [drawer(student, step)[0] for step in range(2)]
    assert (
        all((batch.origin_B == ORIGINS.index("gold")).all() for batch in gold) and drawer.memory["threshold"][0] == 0.0
    )
    found = []
    for step in range(2, 14):  # the student stands still, so its loss does not fall
        rollouts, cost, batch = drawer(student, step)
        found.append("gold" if (rollouts.origin_B == ORIGINS.index("gold")).all() else "new" if cost else "kept")
        assert (batch < step) == (found[-1] == "kept")
    assert drawer.memory["threshold"][0] == 1.0 and {"new", "kept"} <= set(found) and len(drawer.kept) == 2
    other = BatchSource(prompts, config, None)
    other.load_state_dict(drawer.state_dict())
    assert torch.equal(other(student, 14)[0].tokens_BT, drawer(student, 14)[0].tokens_BT)
