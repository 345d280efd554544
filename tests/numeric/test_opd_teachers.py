"""Teachers that follow the student, are told something, are routed, or are exact; and the sources that remember."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from models import GPT, GPTConfig
from synth import world as W
from synth.context import judge
from synth.dataset import Source
from synth.oracle import Oracle
from synth.sections import cut, written
from synth.spec import preset
from synth.world import EOS
from train.opd.contexts import longest, told
from train.opd.divergence import DivergenceConfig, divergence
from train.opd.draw import SOURCES, Drawer
from train.opd.fork import ForkConfig, future_coefficients, look, states
from train.opd.method import Method
from train.opd.objective import Objective, weigh
from train.opd.outcome import OutcomeConfig, policy_gradient
from train.opd.params import IMPOSSIBLE, Frozen
from train.opd.regularizer import RegularizerConfig
from train.opd.rollouts import ORIGINS, Rollouts, positions
from train.opd.run import cast
from train.opd.settings import Schedule
from train.opd.signals import Signals
from train.opd.source import Prompts, SourceConfig, gold
from train.opd.teacher import Scored, Teacher, TeacherConfig, make, score
from train.opd.weight import WeightConfig, coefficients

STUDENT = SourceConfig("student", samples=1, temperature=1.0)
FOUR = replace(STUDENT, samples=4)
GOLD = SourceConfig("gold")


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(preset("tiny", ops=3, edges=6), seed=0, split="train", stream="distillation")


@pytest.fixture(scope="module")
def prompts(source) -> Prompts:
    return Prompts(source, 5, 24, 0)


def model(source: Source, seed: int, width: int = 16) -> GPT:
    config = GPTConfig(len(source.world.vocabulary), n_layer=1, n_head=2, n_embd=width, context=512, init_std=0.3)
    return GPT(config, seed)


def gradient(o: Objective, student: GPT, step: int = 0) -> tuple[float, torch.Tensor]:
    student.zero_grad()
    output = o(student, step)
    output.loss.backward()
    return output.loss.item(), torch.cat([p.grad.flatten() for p in student.parameters()])


def objective(method: Method, prompts: Prompts, student: GPT, *external: GPT) -> Objective:
    return Objective(method, prompts, *cast(method, student, external, prompts.stream.spec))


def right_rows(rollouts: Rollouts, rows: list[int]) -> Rollouts:
    """The same batch where exactly these rows count as right."""
    right = np.isin(np.arange(len(rollouts)), rows)
    return replace(rollouts, verdicts=rollouts.verdicts._replace(right=right))


# --- parameters ---------------------------------------------------------------------------------------------------


def test_an_averaged_teacher_follows_by_its_rate_and_a_synced_one_by_its_period(source):
    student = model(source, 0)
    first = deepcopy(student.embed.weight.data if hasattr(student.embed, "weight") else None)
    ema, sync = (make(TeacherConfig(p, **s), student) for p, s in (("ema", {"rate": 0.25}), ("sync", {"every": 2})))
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
    rollouts, _ = SOURCES["student"](prompts, STUDENT, 0, student, None)
    trust, first, now = make(TeacherConfig("trust", rate=0.3), student), deepcopy(student), model(source, 3)
    with torch.no_grad():
        p_NV, a_NV, b_NV = (params.logprobs(rollouts, now) for params in (trust, Frozen(first), Frozen(deepcopy(now))))
    wanted = a_NV.exp() ** 0.7 * b_NV.exp() ** 0.3
    torch.testing.assert_close(p_NV.exp(), wanted / wanted.sum(-1, keepdim=True))


@pytest.mark.parametrize("params", ["init", "live", "ema", "trust", "sync"])
def test_a_student_that_teaches_itself_without_context_has_nothing_to_learn_at_first(params, source, prompts):
    settings = {"ema": {"rate": 0.1}, "trust": {"rate": 0.1}, "sync": {"every": 3}}.get(params, {})
    student = model(source, 0)
    loss, slope = gradient(
        objective(Method("x", STUDENT, TeacherConfig(params, **settings)), prompts, student), student
    )
    assert abs(loss) < 1e-6 and slope.abs().max() < 1e-5


def test_a_told_teacher_has_something_to_teach_and_hands_on_no_gradient(source, prompts):
    student = model(source, 0)
    o = objective(Method("x", STUDENT, TeacherConfig("init", context="gold")), prompts, student)
    loss, slope = gradient(o, student)
    assert loss > 1e-3 and slope.norm() > 1e-3
    assert all(p.grad is None for p in o.teacher.params.models[0].parameters())


def test_problems_go_to_the_teacher_of_their_size(source, prompts):
    student, models = model(source, 0), [model(source, 1), model(source, 2, width=24)]
    rollouts, _ = SOURCES["student"](prompts, STUDENT, 0, student, None)
    routed = make(TeacherConfig(route="ops", bounds=[2]), student, models)
    assert len(set(rollouts.problems.ops.tolist())) > 1
    row_N, _ = positions(rollouts.length_B)
    with torch.no_grad():
        got, each = routed.logprobs(rollouts, student), [Frozen(m).logprobs(rollouts, student) for m in models]
    small_N = torch.as_tensor(rollouts.problems.ops <= 2)[row_N]
    torch.testing.assert_close(got, torch.where(small_N[:, None], *each), atol=1e-5, rtol=1e-4)
    assert [int(rows.sum()) for _, rows in routed.reads(rollouts, student)] == [
        int((rollouts.problems.ops <= 2).sum()), int((rollouts.problems.ops > 2).sum())]  # fmt: skip


def test_the_likeliest_teacher_is_the_one_that_wrote_the_response(source, prompts):
    models = [model(source, seed) for seed in (1, 2, 3)]
    routed = make(TeacherConfig(route="likeliest"), models[0], models)
    for author in models:
        rollouts, _ = SOURCES["teacher"](prompts, SourceConfig("teacher", 1, 1.0), 0, models[0], author)
        with torch.no_grad():
            got, own = routed.logprobs(rollouts, models[0]), Frozen(author).logprobs(rollouts, models[0])
        row_N, _ = positions(rollouts.length_B)
        same = [torch.allclose(got[row_N == row], own[row_N == row], atol=1e-5) for row in range(len(rollouts))]
        assert sum(same) >= len(same) - 1


def test_the_number_of_checkpoints_must_be_the_route_s(source):
    student = model(source, 0)
    with pytest.raises(ValueError, match=r"1 checkpoints with teacher.route=ops; accepted: 2"):
        make(TeacherConfig(route="ops", bounds=[2]), student, [student])
    with pytest.raises(ValueError, match=r"2 checkpoints with teacher.route=None; accepted: 1"):
        make(TeacherConfig(), student, [student, student])


# --- the oracle ---------------------------------------------------------------------------------------------------


def test_the_oracle_gives_gold_its_own_law_and_knows_the_entropy_of_the_data(source, prompts):
    student = model(source, 0)
    rollouts, _ = gold(prompts, GOLD, 0, student, None)
    params = make(TeacherConfig("oracle", policy="abstain"), student, (), source.spec)
    p_NV = params.logprobs(rollouts, student)
    torch.testing.assert_close(p_NV.exp().sum(-1), torch.ones(len(p_NV)))
    assert params.known(rollouts).sum() == rollouts.length_B.sum()
    row_N, time_N = positions(rollouts.length_B)
    token_N = rollouts.response_BR[row_N, time_N]
    own_N = p_NV.gather(-1, token_N[:, None]).squeeze(-1)
    torch.testing.assert_close(own_N, rollouts.behaviour_BR[row_N, time_N], atol=1e-5, rtol=1e-5)


def test_what_follows_an_impossible_token_is_not_learned_where_the_oracle_abstains(source, prompts):
    student = model(source, 0)
    rollouts, _ = SOURCES["student"](prompts, STUDENT, 0, student, None)
    lost = {}
    for policy in ("continue", "abstain"):
        m = Method("x", STUDENT, TeacherConfig("oracle", policy=policy), DivergenceConfig("fkl"))
        o = objective(m, prompts, student)
        known_BR = o.teacher.known(rollouts)
        law = Oracle(source.spec, policy)(rollouts.problems, [r[:n] for r, n in zip(rollouts.response_BR.numpy(),
              rollouts.length_B.tolist(), strict=True)])  # fmt: skip
        for row in range(len(rollouts)):
            n = int(rollouts.length_B[row])
            status = law.status[law.rows[row] : law.rows[row + 1] - 1]
            assert known_BR[row, :n].tolist() == (status != 3).tolist() and not known_BR[row, n:].any()
        counts_BR = weigh(m, rollouts, 24, known_BR=known_BR).terms[0]
        assert ((counts_BR > 0) == known_BR).all() and counts_BR.sum().item() == pytest.approx(1.0)
        lost[policy] = int((~known_BR).sum())
        output = o(student, 0)
        assert output.loss.item() > 0 and output.flops["teacher"] == 0.0 and 0 < output.metrics["known"] <= 1
    assert lost["abstain"] > lost["continue"]


def test_the_oracle_s_forward_kl_falls_to_zero_for_a_student_that_knows_the_law(source, prompts):
    student = model(source, 0)
    rollouts, _ = gold(prompts, GOLD, 0, student, None)
    params = make(TeacherConfig("oracle", policy="continue"), student, (), source.spec)
    p_NV = params.logprobs(rollouts, student)
    assert p_NV.min() == IMPOSSIBLE and (p_NV.exp() * (p_NV - p_NV)).sum() == 0
    scored = score(student, (p_NV, None), rollouts)
    assert torch.isfinite(divergence(scored, DivergenceConfig("fkl"))).all()
    assert torch.isfinite(divergence(scored, DivergenceConfig("jsd", beta=0.5))).all()


# --- contexts -----------------------------------------------------------------------------------------------------


def test_peers_are_the_others_never_the_response_itself(source, prompts):
    student = model(source, 0)
    rollouts, _ = SOURCES["student"](prompts, FOUR, 0, student, None)
    rollouts = right_rows(rollouts, [0, 1, 2, 5])
    shown = told(rollouts, "success2+failure1", prompts, 0, 10_000)
    responses = [written(r) for r in rollouts.response_BR.tolist()]
    for row, context in enumerate(shown.context):
        group = [i for i in range(4 * (row // 4), 4 * (row // 4) + 4) if responses[i] != responses[row]]
        parts, right = split(context, responses), rollouts.verdicts.right
        peers = {W.SUCCESS: [i for i in group if right[i]], W.FAILURE: [i for i in group if not right[i]]}
        for marker, text in parts:
            assert text in [responses[i] for i in peers[marker]] and text != responses[row]
        assert sum(m == W.SUCCESS for m, _ in parts) == min(2, len(peers[W.SUCCESS]))
        assert sum(m == W.FAILURE for m, _ in parts) == min(1, len(peers[W.FAILURE]))
    assert shown.told_B.tolist() == [len(c) > 0 for c in shown.context]


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
    rollouts, _ = SOURCES["student"](prompts, FOUR, 3, student, None)
    attempts = told(rollouts, "attempt", prompts, 3, 10_000).context
    for row, context in enumerate(attempts):
        response = written(rollouts.response_BR[row].tolist())
        flag = W.RIGHT if rollouts.verdicts.right[row] else W.WRONG
        assert list(context) == [W.ATTEMPT, *response, flag]
    golds = told(rollouts, "gold", prompts, 3, 10_000)
    assert golds.context == told(rollouts, "gold", prompts, 3, 10_000).context
    assert all(c[0] == W.GOLD for c in golds.context) and len(set(golds.context)) == 5
    other = told(SOURCES["student"](prompts, FOUR, 4, student, None)[0], "gold", prompts, 4, 10_000)
    assert set(other.context) != set(golds.context)
    limit = longest("gold", 24, max(len(c) for c in golds.context) - 1)
    assert max(len(c) for c in golds.context) <= limit
    assert max(len(c) for c in attempts) <= longest("attempt", 24, 0)


def test_the_teacher_reads_the_context_at_the_same_response_positions(source, prompts):
    student, teacher = model(source, 0), model(source, 1)
    rollouts = told(SOURCES["student"](prompts, STUDENT, 0, student, None)[0], "gold", prompts, 0, 10_000)
    with torch.no_grad():
        got_NV, n = Frozen(teacher).logprobs(rollouts, student), 0
        for row, context in enumerate(rollouts.context):
            p, length = int(rollouts.prompt_B[row]), int(rollouts.length_B[row])
            text = torch.tensor([[*context, *rollouts.tokens_BT[row, : p + length].tolist()]])
            alone_TV = torch.log_softmax(teacher(text)[0], dim=-1)
            start = len(context) + p - 1
            torch.testing.assert_close(got_NV[n : n + length], alone_TV[start : start + length], atol=1e-5, rtol=1e-4)
            n += length
    prompt = rollouts.tokens_BT[0, : rollouts.prompt_B[0]].tolist()
    assert cut(prompt)[0] == [], "the student's own prompt has no context"


def test_a_row_that_was_told_nothing_or_has_no_room_counts_nothing(source, prompts):
    student = model(source, 0)
    m = Method("x", FOUR, TeacherConfig("init", context="success1"), weight=WeightConfig(sample=["success"]))
    rollouts = right_rows(SOURCES["student"](prompts, FOUR, 0, student, None)[0], [0])
    shown = told(rollouts, "success1", prompts, 0, 10_000)
    assert shown.told_B.tolist() == [False, True, True, True] + [False] * 16
    o = objective(m, prompts, student)
    counts_BR = weigh(m, shown, 24, known_BR=o.teacher.known(shown)).terms[0]
    assert (counts_BR.sum(1) > 0).tolist() == shown.told_B.tolist()
    plain = weigh(replace(m, weight=WeightConfig()), shown, 24, known_BR=o.teacher.known(shown)).terms[0]
    assert torch.equal(plain, counts_BR)
    assert not told(rollouts, "success1", prompts, 0, 60).told_B.any()


# --- sources ------------------------------------------------------------------------------------------------------


def test_cached_responses_are_those_of_the_first_student_and_equal_fresh_ones_at_step_0(source, prompts):
    student, teacher = model(source, 0), model(source, 1)
    pg = {"support": "sampled", "estimator": "pg"}
    fresh = objective(Method("tm", STUDENT, divergence=DivergenceConfig(**pg)), prompts, student, teacher)
    for form in (DivergenceConfig(**pg, ratio=False), DivergenceConfig(**pg, clip=0.2)):
        cached = SourceConfig("cached", samples=1, temperature=1.0, cycle=2)
        o = objective(Method("lightning", cached, divergence=form), prompts, student, teacher)
        torch.testing.assert_close(gradient(o, student)[1], gradient(fresh, student)[1], atol=1e-6, rtol=1e-4)
        moved = model(source, 5)
        again, cost = o.drawer(moved, 2)[:2]
        assert torch.equal(again.tokens_BT, o.drawer(student, 0)[0].tokens_BT) and cost == 0.0
        assert not torch.equal(again.tokens_BT, o.drawer(moved, 1)[0].tokens_BT)


def test_a_batch_is_used_again_with_the_probabilities_it_was_drawn_with(source, prompts):
    config = replace(STUDENT, reuse=2)
    drawer = Drawer(prompts, config, None)
    first, cost, batch = drawer(model(source, 0), 4)
    again, nothing, same = drawer(model(source, 1), 5)
    assert batch == same == 2 and cost > 0 and nothing == 0.0
    for name in ("tokens_BT", "behaviour_BR", "group_B", "trainable_BR"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    np.testing.assert_array_equal(first.verdicts.kind, again.verdicts.kind)
    np.testing.assert_array_equal(first.problems.value, again.problems.value)
    assert drawer(model(source, 1), 6)[2] == 3


def test_a_replay_keeps_some_batches_and_refuses_another_vocabulary(source, prompts):
    refresh = Schedule(1.0, 0.2, 10)
    config = SourceConfig("replay", samples=1, temperature=1.0, capacity=3, refresh=refresh)
    drawer, student = Drawer(prompts, config, None), model(source, 0)
    seen = [drawer(student, step)[1:] for step in range(40)]
    fresh = [cost > 0 for cost, _ in seen]
    assert fresh[0] and 8 <= sum(fresh) <= 24 and len(drawer.kept) == 3
    for step, (cost, batch) in enumerate(seen):
        assert batch == step if cost else batch < step
    other = Drawer(replace(prompts, stream=Source(preset("med"), seed=0)), config, None)
    with pytest.raises(ValueError, match="another vocabulary"):
        other.load_state_dict(drawer.state_dict())


def test_a_blend_draws_from_the_mixture_of_both_models(source):
    """Frequencies of the first token, and the log-probability that each token is recorded with."""
    many = Prompts(source, 1, 6, 0)
    student, teacher, share = model(source, 0), model(source, 1), 0.4
    config = SourceConfig("blend", samples=4000, temperature=1.0, share=share)
    rollouts, _ = SOURCES["blend"](many, config, 0, student, teacher)
    row_N, time_N = positions(rollouts.length_B)
    with torch.no_grad():
        both = [Frozen(deepcopy(m)).logprobs(rollouts, student).exp() for m in (student, teacher)]
    law_NV = (1 - share) * both[0] + share * both[1]
    token_N = rollouts.response_BR[row_N, time_N]
    wanted_N = law_NV.gather(-1, token_N[:, None]).squeeze(-1).log()
    torch.testing.assert_close(rollouts.behaviour_BR[row_N, time_N], wanted_N, atol=1e-4, rtol=1e-4)
    first = torch.bincount(token_N[time_N == 0], minlength=law_NV.shape[1]) / 4000
    error = (law_NV[0] * (1 - law_NV[0]) / 4000).sqrt()
    assert ((first - law_NV[0]).abs() < 5 * error + 1e-3).all()
    assert (rollouts.response_BR[rollouts.finished_B].eq(EOS).sum(1) == 1).all()


def test_a_spliced_response_is_the_student_s_up_to_the_cut_and_right_ones_stay(source, prompts, monkeypatch):
    student, teacher = model(source, 0), model(source, 1)
    own, _ = SOURCES["student"](prompts, replace(STUDENT, samples=2), 0, student, None)
    config = SourceConfig("spliced", samples=2, temperature=1.0)
    rollouts, _ = SOURCES["spliced"](prompts, config, 0, student, teacher)
    assert not own.verdicts.right.any() and (rollouts.origin_B == ORIGINS.index("spliced")).all()
    cuts = []
    for row in range(len(own)):
        a, b = own.response_BR[row].tolist(), rollouts.response_BR[row].tolist()
        cuts.append(next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a)))
    assert len(set(cuts)) > 2 and int(rollouts.length_B.max()) <= prompts.max_new
    scored_by_student = Frozen(deepcopy(student)).logprobs(rollouts, student)
    row_N, time_N = positions(rollouts.length_B)
    token_N = rollouts.response_BR[row_N, time_N]
    q_N = scored_by_student.gather(-1, token_N[:, None]).squeeze(-1)
    p_N = Frozen(teacher).logprobs(rollouts, student).gather(-1, token_N[:, None]).squeeze(-1)
    mu_N = rollouts.behaviour_BR[row_N, time_N]
    assert (torch.minimum((mu_N - q_N).abs(), (mu_N - p_N).abs()) < 1e-4).all(), "each token is one model's"


def test_a_revision_reads_the_try_and_its_flag(source, prompts):
    student, config = model(source, 0), SourceConfig("revision", samples=1, temperature=1.0, revisions=2)
    rollouts, _ = SOURCES["revision"](prompts, config, 0, student, None)
    tries, _ = SOURCES["student"](prompts, STUDENT, 0, student, None)
    assert len(rollouts) == 5 * 2 * 2
    for i in range(10):
        y0 = written(tries.response_BR[i // 2].tolist())
        flagged = [*y0, W.WRONG]
        context, bare = cut(rollouts.tokens_BT[i, : rollouts.prompt_B[i]].tolist())
        assert context == [W.ATTEMPT, *flagged]
        assert rollouts.tokens_BT[i + 10, : rollouts.prompt_B[i + 10]].tolist() == bare
        n, m = int(rollouts.length_B[i]), int(rollouts.length_B[i + 10])
        assert rollouts.response_BR[i + 10, :m].tolist() == flagged + rollouts.response_BR[i, :n].tolist()
        assert rollouts.verdicts.right[i] == rollouts.verdicts.right[i + 10]


def test_a_prefix_grows_with_the_step(source, prompts):
    config = replace(STUDENT, length=Schedule(0.25, 1.0, 10))
    longest_at = [int(SOURCES["student"](prompts, config, k, model(source, 0), None)[0].length_B.max()) for k in (0, 5)]
    assert longest_at[0] <= 6 < longest_at[1] <= 15


# --- outcome, weights, forks --------------------------------------------------------------------------------------


def scored_pair(source: Source, prompts: Prompts) -> tuple[Scored, Rollouts]:
    student, teacher = model(source, 0), model(source, 1)
    rollouts, _ = SOURCES["student"](prompts, FOUR, 0, student, None)
    rollouts = right_rows(rollouts, [0, 5, 6])
    targets = Teacher(TeacherConfig(), Frozen(teacher)).targets(rollouts, student)
    return score(model(source, 4), targets, rollouts), rollouts


def test_trrd_with_all_its_share_on_the_student_is_grpo_and_rlsd_with_none_too(source, prompts):
    scored, rollouts = scored_pair(source, prompts)
    advantage_B = torch.randn(len(rollouts), generator=torch.Generator().manual_seed(0))
    plain = policy_gradient(scored, advantage_B, OutcomeConfig("grpo", clip=0.2))
    trrd = policy_gradient(scored, advantage_B, OutcomeConfig("grpo", modulate="trrd", mix=1.0, clip=0.2))
    rlsd = policy_gradient(scored, advantage_B, OutcomeConfig("grpo", modulate="rlsd", mix=0.0, bound=0.2, clip=0.2))
    torch.testing.assert_close(trrd, plain)
    torch.testing.assert_close(rlsd, plain)
    half = policy_gradient(scored, advantage_B, OutcomeConfig("grpo", modulate="trrd", mix=0.5, clip=0.2))
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
        m = Method("x", FOUR, outcome=OutcomeConfig("drgrpo", combiner=name, weight=0.5))
        counts, plain_BR = weigh(m, rollouts, 24), coefficients(rollouts, WeightConfig(), 24)
        torch.testing.assert_close(counts.terms[0], wanted[0][:, None] * plain_BR)
        outcome_BR = coefficients(rollouts, WeightConfig(normaliser="constant"), 24)
        torch.testing.assert_close(counts.outcome_BR, wanted[1][:, None] * outcome_BR)


def test_a_switch_leaves_the_teacher_unasked_and_the_reward_alone(source, prompts):
    student, teacher = model(source, 0), model(source, 1)
    switch = {"steps": 2, "jump": True}
    m = Method("x", FOUR, schedule=Schedule(1.0, 0.0, **switch), divergence=DivergenceConfig("rkl"),
               outcome=OutcomeConfig("grpo", schedule=Schedule(0.0, 1.0, **switch)))  # fmt: skip
    o = objective(m, prompts, student, teacher)
    before, after = o(student, 1), o(student, 2)
    assert before.flops["teacher"] > 0 and after.flops["teacher"] == 0.0
    assert "loss_divergence" in before.metrics and "loss_divergence" not in after.metrics
    assert before.metrics["loss_outcome"] == 0.0
    assert [Schedule(0.0, 1.0, 4).at(k) for k in (0, 2, 4, 9)] == [0.0, 0.5, 1.0, 1.0]


def test_a_group_of_equal_rewards_gives_no_gradient(source, prompts):
    student = model(source, 0)
    m = Method("x", FOUR, TeacherConfig("none"), DivergenceConfig("none"), outcome=OutcomeConfig("grpo"))
    loss, slope = gradient(objective(m, prompts, student), student)
    assert loss == 0.0 and slope.abs().max() == 0.0


def test_token_and_sample_weights_are_what_they_say(source, prompts):
    _, rollouts = scored_pair(source, prompts)
    shape, dice = rollouts.behaviour_BR.shape, torch.Generator().manual_seed(0)
    inside = rollouts.trainable_BR
    names = ("student_entropy", "teacher_entropy", "rkl", "log_q", "log_p")
    values = {name: torch.rand(shape, generator=dice) * inside for name in names}
    for name in ("log_q", "log_p"):
        values[name] = -values[name]
    signals = Signals(values, 100)

    def weights(**settings) -> torch.Tensor:
        plain_BR = coefficients(rollouts, WeightConfig(over="kept"), 24)
        return coefficients(rollouts, WeightConfig(**settings), 24, signals) / plain_BR.max()

    place = torch.arange(shape[1])[None].expand(shape)
    torch.testing.assert_close(weights(token=["first"], skip=3), ((place >= 3) & inside).float())
    special = (rollouts.response_BR < len(W.SPECIALS)) & (rollouts.response_BR != EOS)
    torch.testing.assert_close(weights(token=["special"]), (~special & inside).float())
    assert (rollouts.response_BR[inside] == EOS).any()
    for name, settings in (("tip", {}), ("teacher_entropy", {})):
        kept = weights(token=[name], share=0.25, **settings)
        assert kept.sum().item() == pytest.approx(0.25 * inside.sum().item(), abs=1.0)
    top = weights(token=["teacher_entropy"], share=0.25) > 0
    assert values["teacher_entropy"][top].min() >= values["teacher_entropy"][inside & ~top].max()
    gap = torch.sigmoid(values["student_entropy"] - values["teacher_entropy"]) * inside
    torch.testing.assert_close(weights(token=["entropy_gap"]), gap)
    opener = weights(token=["opener"], share=0.1) > 0
    for row in range(len(rollouts)):
        entropy_R, n = values["student_entropy"][row], int(opener[row].sum())
        assert opener[row, :n].all() and entropy_R[: n - 1].sum() < 0.1 * entropy_R.sum() <= entropy_R[:n].sum() + 1e-6
    early = weights(token=["early"], gamma=0.5)
    size = (values["log_p"] - values["log_q"]).abs()
    torch.testing.assert_close(early, (1 + 0.5 * (1 - (size.cumsum(1) - size) / size.sum(1, keepdim=True))) * inside)
    ratio = (values["log_q"] - rollouts.behaviour_BR).exp().clamp(max=2.0) * inside
    torch.testing.assert_close(weights(token=["importance"], cap=2.0), ratio)
    before, after = (weights(token=[f"{side}_mistake"]) for side in ("before", "after"))
    torch.testing.assert_close(before + after, inside.float())
    for row, step in enumerate(rollouts.verdicts.first_mistake):
        start = int(rollouts.verdicts.start[row, step]) if step >= 0 else shape[1]
        assert int(before[row].sum()) == min(start, int(inside[row].sum()))


def test_sample_weights_compare_responses_of_their_own_group(source, prompts):
    _, rollouts = scored_pair(source, prompts)
    inside = rollouts.trainable_BR.float()
    dice = torch.Generator().manual_seed(1)
    values = {name: -torch.rand(inside.shape, generator=dice) * inside for name in ("log_q", "log_p")}
    signals, rate = Signals(values, 100), torch.tensor([0.25, 0.5, 0.0, 0.0, 0.0]).repeat_interleave(4)

    def weights(*names: str, **settings) -> torch.Tensor:
        config = WeightConfig(sample=list(names), normaliser="constant", **settings)
        return coefficients(rollouts, config, 24, signals)[:, 0] * 20 * 24

    torch.testing.assert_close(weights("paced", alpha=1.0, beta=2.0), rate * (1 - rate) ** 2)
    assert weights("contrast").tolist() == [1.0] * 8 + [0.0] * 12
    right = torch.as_tensor(rollouts.verdicts.right)
    mean = values["log_q"].sum(1) / rollouts.length_B
    for row in range(20):
        same = [i for i in range(4 * (row // 4), 4 * (row // 4) + 4) if right[i] == right[row]]
        wanted = (-mean[row]).exp() / torch.stack([(-mean[i]).exp() for i in same]).mean()
        assert weights("student_ppl", tau=1.0)[row].item() == pytest.approx(wanted.item(), rel=1e-4)
    one = coefficients(rollouts, WeightConfig(sample=["right"]), 24)
    both = coefficients(rollouts, WeightConfig(sample=["right"], over="batch"), 24)
    assert one.sum().item() == pytest.approx(1.0)
    share = inside[right].sum() / inside.sum()
    assert both.sum().item() == pytest.approx(share.item())


def test_forks_are_where_the_futures_differ_and_their_futures_are_the_teacher_s(source, prompts):
    student, teacher = model(source, 0), model(source, 1)
    rollouts, _ = SOURCES["student"](prompts, STUDENT, 0, student, None)
    rkl = torch.rand(rollouts.behaviour_BR.shape, generator=torch.Generator().manual_seed(0)) * rollouts.trainable_BR
    config, signals = ForkConfig(candidates=0.3, limit=12, tokens=10), Signals({"rkl": rkl}, 100)
    forks = look(rollouts, signals, config, student, teacher, prompts, 0)
    assert forks.looked == 12 and forks.real + int((forks.weight_BR == 0).sum()) == 12
    same = look(rollouts, signals, config, student, student, prompts, 0)
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
    verdicts = judge(documents.problems, source.world, responses)
    lengths = np.array([len(r) for r in responses])
    whole = states(verdicts, lengths, np.ones(6, dtype=bool))
    for i, (params, wrong, answered) in enumerate(whole):
        assert params == set(verdicts.param[i, : verdicts.steps[i]].tolist()) and not wrong and answered
    halves = [r[: len(r) // 2] for r in responses]
    half = states(judge(documents.problems, source.world, halves), lengths // 2, np.zeros(6, dtype=bool))
    assert all(a[0] <= b[0] and not a[1] for a, b in zip(half, whole, strict=True))


def test_where_the_teacher_is_not_asked_regularizers_are_still_measured(source, prompts):
    student, switch = model(source, 0), Schedule(1.0, 0.0, 1, jump=True)
    m = Method("x", STUDENT, weight=WeightConfig(token=["entropy_gap"]), schedule=switch,
               regularizer=RegularizerConfig(entropy=-0.1, entropy_top=0.2))  # fmt: skip
    output = objective(m, prompts, student, model(source, 1))(student, 1)
    assert output.flops["teacher"] == 0.0 and "loss_divergence" not in output.metrics
    assert output.metrics["loss_entropy"] > 0.0
