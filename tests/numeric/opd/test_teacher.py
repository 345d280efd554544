"""Teachers that follow the student, are told something, are routed, or are exact."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from synth.contexts.context_tokens import cut, written
from synth.oracle.next_token import Oracle
from synth.world import vocabulary as W
from tests.helpers import opd_batches
from tests.helpers.opd_batches import FOUR, GOLD, STUDENT, gradient, model, objective, right_rows
from train.opd.divergence.kl_and_jsd import JSD, ForwardKL
from train.opd.method import Method
from train.opd.objective import weigh
from train.opd.rollout_batch import positions
from train.opd.source.rollout_sampling import TeacherSampler
from train.opd.teacher.context import add_contexts, longest
from train.opd.teacher.external_and_oracle import (
    IMPOSSIBLE,
    ExternalTeacher,
    OracleTeacher,
    RouteByOps,
    RouteToLikeliest,
)
from train.opd.teacher.self_teachers import EmaTeacher, InitialStudent, LiveTeacher, SyncedTeacher, TrustRegionTeacher
from train.opd.teacher.teacher import Frozen
from train.opd.weight.sample_weights import Success
from train.opd.weight.weight import WeightConfig

# --- parameters ---------------------------------------------------------------------------------------------------


def test_an_averaged_teacher_follows_by_its_rate_and_a_synced_one_by_its_period(source):
    student = model(source, 0)
    first = deepcopy(student.embed.weight.data if hasattr(student.embed, "weight") else None)
    ema, sync = (config.scoring_model(student, (), None) for config in (EmaTeacher(rate=0.25), SyncedTeacher(every=2)))
    wanted = first.clone()
    for step in range(1, 5):
        with torch.no_grad():
            student.embed.weight += 1.0
        for params in (ema, sync):
            params.follow(student, step)
            params.follow(student, step)  # a step that is begun again changes nothing
        wanted = 0.75 * wanted + 0.25 * student.embed.weight.data
        torch.testing.assert_close(ema.models[0].embed.weight.data, wanted)
        torch.testing.assert_close(sync.models[0].embed.weight.data, first + (step // 2 * 2))
    assert all(not p.requires_grad for m in (ema.models[0], sync.models[0]) for p in m.parameters())


def test_a_trust_region_lies_between_the_first_student_and_the_present_one(source, prompts):
    student = model(source, 0)
    rollouts, _ = STUDENT.draw(prompts, 0, student, None)
    trust, first, now = (
        TrustRegionTeacher(rate=0.3).scoring_model(student, (), None),
        deepcopy(student),
        model(source, 3),
    )
    with torch.no_grad():
        p_NV, a_NV, b_NV = (
            params.log_probs(rollouts, now)(slice(None)) for params in (trust, Frozen(first), Frozen(deepcopy(now)))
        )
    wanted = a_NV.exp() ** 0.7 * b_NV.exp() ** 0.3
    torch.testing.assert_close(p_NV.exp(), wanted / wanted.sum(-1, keepdim=True))


@pytest.mark.parametrize("kind", [InitialStudent, LiveTeacher, EmaTeacher, TrustRegionTeacher, SyncedTeacher])
def test_a_student_that_teaches_itself_without_context_has_nothing_to_learn_at_first(kind, source, prompts):
    student = model(source, 0)
    loss, slope = gradient(objective(Method("x", STUDENT, kind()), prompts, student), student)
    assert abs(loss) < 1e-6 and slope.abs().max() < 1e-5


def test_a_told_teacher_has_something_to_teach_and_hands_on_no_gradient(source, prompts):
    student = model(source, 0)
    o = objective(Method("x", STUDENT, InitialStudent(context="gold")), prompts, student)
    loss, slope = gradient(o, student)
    assert loss > 1e-3 and slope.norm() > 1e-3
    assert all(p.grad is None for p in o.teacher.model.models[0].parameters())


def test_problems_go_to_the_teacher_of_their_size(source, prompts):
    student, models = model(source, 0), [model(source, 1), model(source, 2, width=24)]
    rollouts, _ = STUDENT.draw(prompts, 0, student, None)
    routed = ExternalTeacher(route=RouteByOps(bounds=[2])).scoring_model(student, models, None)
    assert len(set(rollouts.problems.ops.tolist())) > 1
    row_N, _ = positions(rollouts.length_B)
    with torch.no_grad():
        got, each = (
            routed.log_probs(rollouts, student)(slice(None)),
            [Frozen(m).log_probs(rollouts, student)(slice(None)) for m in models],
        )
    small_N = torch.as_tensor(rollouts.problems.ops <= 2)[row_N]
    torch.testing.assert_close(got, torch.where(small_N[:, None], *each), atol=1e-5, rtol=1e-4)
    assert [int(rows.sum()) for _, rows in routed.readers(rollouts, student)] == [
        int((rollouts.problems.ops <= 2).sum()), int((rollouts.problems.ops > 2).sum())]  # fmt: skip


def test_the_likeliest_teacher_is_the_one_that_wrote_the_response(source, prompts):
    models = [model(source, seed) for seed in (1, 2, 3)]
    routed = ExternalTeacher(route=RouteToLikeliest()).scoring_model(models[0], models, None)
    for author in models:
        rollouts, _ = TeacherSampler().draw(prompts, 0, models[0], author)
        with torch.no_grad():
            got, own = (
                routed.log_probs(rollouts, models[0])(slice(None)),
                Frozen(author).log_probs(rollouts, models[0])(slice(None)),
            )
        row_N, _ = positions(rollouts.length_B)
        same = [torch.allclose(got[row_N == row], own[row_N == row], atol=1e-5) for row in range(len(rollouts))]
        assert sum(same) >= len(same) - 1


def test_the_number_of_checkpoints_must_be_the_route_s(source):
    student = model(source, 0)
    with pytest.raises(ValueError, match=r"1 checkpoints with teacher.route=ops; accepted: 2"):
        ExternalTeacher(route=RouteByOps(bounds=[2])).scoring_model(student, [student], None)
    with pytest.raises(ValueError, match=r"2 checkpoints with teacher.route=null; accepted: 1"):
        ExternalTeacher().scoring_model(student, [student, student], None)


# --- the oracle ---------------------------------------------------------------------------------------------------


def test_the_oracle_gives_gold_its_own_law_and_knows_the_entropy_of_the_data(source, prompts):
    student = model(source, 0)
    rollouts, _ = GOLD.draw(prompts, 0, student, None)
    params = OracleTeacher(policy="abstain").scoring_model(student, (), source.spec)
    p_NV = params.log_probs(rollouts, student)(slice(None))
    torch.testing.assert_close(p_NV.exp().sum(-1), torch.ones(len(p_NV)))
    assert params.has_target(rollouts).sum() == rollouts.length_B.sum()
    row_N, time_N = positions(rollouts.length_B)
    token_N = rollouts.response_BR[row_N, time_N]
    own_N = p_NV.gather(-1, token_N[:, None]).squeeze(-1)
    torch.testing.assert_close(own_N, rollouts.behaviour_BR[row_N, time_N], atol=1e-5, rtol=1e-5)


def test_what_follows_an_impossible_token_is_not_learned_where_the_oracle_abstains(source, prompts):
    student = model(source, 0)
    rollouts, _ = STUDENT.draw(prompts, 0, student, None)
    lost = {}
    for policy in ("continue", "abstain"):
        m = Method("x", STUDENT, OracleTeacher(policy=policy), ForwardKL())
        o = objective(m, prompts, student)
        has_target_BR = o.teacher.has_target(rollouts)
        law = Oracle(source.spec, policy)(rollouts.problems, [r[:n] for r, n in zip(rollouts.response_BR.numpy(),
              rollouts.length_B.tolist(), strict=True)])  # fmt: skip
        for row in range(len(rollouts)):
            n = int(rollouts.length_B[row])
            status = law.status[law.rows[row] : law.rows[row + 1] - 1]
            assert has_target_BR[row, :n].tolist() == (status != 3).tolist() and not has_target_BR[row, n:].any()
        counts_BR = weigh(m, rollouts, 24, has_target_BR=has_target_BR)[0].count_BR
        assert ((counts_BR > 0) == has_target_BR).all() and counts_BR.sum().item() == pytest.approx(1.0)
        lost[policy] = int((~has_target_BR).sum())
        output = o(student, 0)
        assert output.loss.item() > 0 and output.flops["teacher"] == 0.0 and 0 < output.metrics["has_target"] <= 1
    assert lost["abstain"] > lost["continue"]


def test_the_oracle_s_forward_kl_falls_to_zero_for_a_student_that_knows_the_law(source, prompts):
    student = model(source, 0)
    rollouts, _ = GOLD.draw(prompts, 0, student, None)
    params = OracleTeacher(policy="continue").scoring_model(student, (), source.spec)
    law = params.log_probs(rollouts, student)
    p_NV = law(slice(None))
    torch.testing.assert_close(torch.cat([law(slice(0, 7)), law(slice(7, len(p_NV)))]), p_NV, rtol=0, atol=0)
    assert p_NV.min() == IMPOSSIBLE and (p_NV.exp() * (p_NV - p_NV)).sum() == 0
    scored = opd_batches.scored(student, (law, None), rollouts)
    assert torch.isfinite(ForwardKL()(scored)).all()
    assert torch.isfinite(JSD(beta=0.5)(scored)).all()


# --- contexts -----------------------------------------------------------------------------------------------------


def test_peers_are_the_others_never_the_response_itself(source, prompts):
    student = model(source, 0)
    rollouts, _ = FOUR.draw(prompts, 0, student, None)
    rollouts = right_rows(rollouts, [0, 1, 2, 5])
    shown = add_contexts(rollouts, "success2+failure1", prompts, 0, 10_000)
    responses = [written(r) for r in rollouts.response_BR.tolist()]
    for row, context in enumerate(shown.context):
        group = [i for i in range(4 * (row // 4), 4 * (row // 4) + 4) if responses[i] != responses[row]]
        parts, right = split(context, responses), rollouts.verdicts.right
        peers = {W.SUCCESS: [i for i in group if right[i]], W.FAILURE: [i for i in group if not right[i]]}
        for marker, text in parts:
            assert text in [responses[i] for i in peers[marker]] and text != responses[row]
        assert sum(m == W.SUCCESS for m, _ in parts) == min(2, len(peers[W.SUCCESS]))
        assert sum(m == W.FAILURE for m, _ in parts) == min(1, len(peers[W.FAILURE]))
    assert shown.has_context_B.tolist() == [len(c) > 0 for c in shown.context]


def split(context: tuple[int, ...], texts: list[list[int]]) -> list[tuple[int, list[int]]]:
    """(marker, tokens) of peer sections, of which the tokens are known texts (which may hold markers themselves)."""
    parts, rest = [], list(context)
    while rest:
        marker, text = rest[0], max((t for t in texts if rest[1 : 1 + len(t)] == t), key=len)
        parts.append((marker, text))
        rest = rest[1 + len(text) :]
    return parts


def test_an_attempt_is_the_scored_response_and_gold_is_right_and_the_same_every_time(source, prompts):
    student = model(source, 0)
    rollouts, _ = FOUR.draw(prompts, 3, student, None)
    attempts = add_contexts(rollouts, "attempt", prompts, 3, 10_000).context
    for row, context in enumerate(attempts):
        response = written(rollouts.response_BR[row].tolist())
        flag = W.RIGHT if rollouts.verdicts.right[row] else W.WRONG
        assert list(context) == [W.ATTEMPT, *response, flag]
    golds = add_contexts(rollouts, "gold", prompts, 3, 10_000)
    assert golds.context == add_contexts(rollouts, "gold", prompts, 3, 10_000).context
    assert all(c[0] == W.GOLD for c in golds.context) and len(set(golds.context)) == 5
    other = add_contexts(FOUR.draw(prompts, 4, student, None)[0], "gold", prompts, 4, 10_000)
    assert set(other.context) != set(golds.context)
    limit = longest("gold", 24, max(len(c) for c in golds.context) - 1)
    assert max(len(c) for c in golds.context) <= limit
    assert max(len(c) for c in attempts) <= longest("attempt", 24, 0)


def test_the_teacher_reads_the_context_at_the_same_response_positions(source, prompts):
    student, teacher = model(source, 0), model(source, 1)
    rollouts = add_contexts(STUDENT.draw(prompts, 0, student, None)[0], "gold", prompts, 0, 10_000)
    with torch.no_grad():
        got_NV, n = Frozen(teacher).log_probs(rollouts, student)(slice(None)), 0
        for row, context in enumerate(rollouts.context):
            p, length = int(rollouts.prompt_B[row]), int(rollouts.length_B[row])
            text = torch.tensor([[*context, *rollouts.tokens_BT[row, : p + length].tolist()]])
            alone_TV = torch.log_softmax(teacher(text)[0], dim=-1)
            start = len(context) + p - 1
            torch.testing.assert_close(got_NV[n : n + length], alone_TV[start : start + length], atol=1e-5, rtol=1e-4)
            n += length
    prompt = rollouts.tokens_BT[0, : rollouts.prompt_B[0]].tolist()
    assert cut(prompt)[0] == [], "the student's own prompt has no context"


def test_of_several_recipes_the_first_that_is_at_hand_is_read(source, prompts):
    rollouts = right_rows(FOUR.draw(prompts, 0, model(source, 0), None)[0], [0])
    peers, feedback, either = (
        add_contexts(rollouts, recipe, prompts, 0, 10_000).context
        for recipe in ("success1", "feedback", "success1/feedback")
    )
    assert any(peers) and either == tuple(peer or told for peer, told in zip(peers, feedback, strict=True))
    assert longest("success1/feedback", 24, 0) == longest("success1", 24, 0) > longest("feedback", 24, 0)


def test_a_row_that_was_told_nothing_or_has_no_room_counts_nothing(source, prompts):
    student = model(source, 0)
    m = Method("x", FOUR, InitialStudent(context="success1"), weight=WeightConfig(sample=[Success()]))
    rollouts = right_rows(FOUR.draw(prompts, 0, student, None)[0], [0])
    shown = add_contexts(rollouts, "success1", prompts, 0, 10_000)
    assert shown.has_context_B.tolist() == [False, True, True, True] + [False] * 16
    o = objective(m, prompts, student)
    counts_BR = weigh(m, shown, 24, has_target_BR=o.teacher.has_target(shown))[0].count_BR
    assert (counts_BR.sum(1) > 0).tolist() == shown.has_context_B.tolist()
    plain = weigh(replace(m, weight=WeightConfig()), shown, 24, has_target_BR=o.teacher.has_target(shown))[0].count_BR
    assert torch.equal(plain, counts_BR)
    assert not add_contexts(rollouts, "success1", prompts, 0, 60).has_context_B.any()
