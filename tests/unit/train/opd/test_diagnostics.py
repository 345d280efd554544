"""Diagnostics of distillation against brute-force restatements of their definitions, and their table."""

import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from synth.judge.checker import MALFORMED
from synth.world.vocabulary import EOS
from tests.helpers import opd_batches
from tests.helpers.opd_batches import FOUR, GOLD, STUDENT, model, objective
from train.evaluation.repetition import ZLIB_RATIO, ZLIB_TAIL, compressible, periods, repetitive, zlib_ratio
from train.opd.diagnostics.measures import LARGE_KL, PositionMeasures, by_ops, places, response_measures, token_measures
from train.opd.divergence.interface_and_topk import NLL, Divergence, NoDivergence
from train.opd.divergence.kl_and_jsd import ForwardKL, ReverseKL
from train.opd.divergence.sampled_kl import PolicyGradient
from train.opd.log_probs import Scored
from train.opd.loss_terms import DistillationTerm, LossTerm, outcome_term, signal_shares, term_measures
from train.opd.method import Method
from train.opd.metrics import METRICS, definition, main
from train.opd.outcome.outcome import GRPO
from train.opd.teacher.external_and_oracle import NoTeacher
from train.statistics import auroc


def made_up(vocabulary: int = 12, positions: int = 7, seed: int = 0) -> Scored:
    """Random distributions at the positions of two rows of 4 and 3 tokens."""
    g = torch.Generator().manual_seed(seed)
    q_NV, p_NV = torch.randn(2, positions, vocabulary, generator=g).mul(2).log_softmax(-1)
    token_N = torch.randint(0, vocabulary, (positions,), generator=g)
    row_N, time_N = torch.tensor([0] * 4 + [1] * 3), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    behaviour_N = q_NV.gather(-1, token_N[:, None]).squeeze(-1) + 0.3 * torch.randn(positions, generator=g)
    return Scored(q_NV, p_NV, None, token_N, behaviour_N, row_N, time_N)


def test_measures_of_a_position_are_what_the_table_says():
    scored = made_up()
    found = {name: value.tolist() for name, value in token_measures(scored, eos=1).items()}
    for n in range(7):
        q, p, y = scored.student_NV[n].exp().tolist(), scored.teacher_NV[n].exp().tolist(), int(scored.token_N[n])
        h_q, h_p = (-sum(x * math.log(x) for x in law) for law in (q, p))
        top_q, top_p = (set(sorted(range(12), key=lambda v, law=law: -law[v])[:8]) for law in (q, p))
        both = top_q & top_p
        mass_q, mass_p = sum(q[v] for v in both), sum(p[v] for v in both)
        wanted = {
            "student_entropy": h_q, "teacher_entropy": h_p, "entropy_gap": abs(h_q - h_p),
            "rkl": sum(a * math.log(a / b) for a, b in zip(q, p, strict=True)),
            "fkl": sum(b * math.log(b / a) for a, b in zip(q, p, strict=True)),
            "advantage": math.log(p[y] / q[y]), "log_q": math.log(q[y]), "log_eos": math.log(q[1]),
            "overlap": len(both) / 8, "overlap_mass": mass_q,
            "overlap_advantage": sum(p[v] / mass_p * math.log(q[v] / mass_q / (p[v] / mass_p)) for v in both),
        }  # fmt: skip
        assert set(wanted) == set(found)
        for name, value in wanted.items():
            assert found[name][n] == pytest.approx(value, abs=1e-5), name


def test_without_a_teacher_there_are_no_measures_of_one():
    assert set(token_measures(made_up()._replace(teacher_NV=None), eos=1)) == {"student_entropy", "log_q", "log_eos"}


def test_positions_that_a_clip_changes_and_signs_that_disagree():
    scored, advantage_B = made_up(), torch.tensor([1.0, -1.0])
    y_N1 = scored.token_N[:, None]
    d_N = (scored.teacher_NV.gather(-1, y_N1) - scored.student_NV.gather(-1, y_N1)).squeeze(-1)
    count_BR = torch.zeros(2, 4)

    def clipped(divergence: Divergence) -> list[float]:
        found = term_measures([DistillationTerm("divergence", count_BR, divergence)], scored)
        assert set(found) == {"clip_divergence"}
        return found["clip_divergence"].tolist()

    assert clipped(PolicyGradient(adv_clip=1.0)) == (d_N.abs() > 1.0).float().tolist()
    rho_N = (scored.student_NV.gather(-1, y_N1).squeeze(-1) - scored.behaviour_N).exp()
    stopped = [(r > 1.2 and d > 0) or (r < 0.8 and d < 0) for r, d in zip(rho_N.tolist(), d_N.tolist(), strict=True)]
    assert clipped(PolicyGradient(clip=0.2)) == [float(x) for x in stopped] and any(stopped) and not all(stopped)
    entries_NV = scored.teacher_NV.exp() * (scored.teacher_NV - scored.student_NV)
    assert clipped(ForwardKL(entry_clip=0.2)) == (entries_NV > 0.2).any(-1).float().tolist()
    advantage_BR, guest_B = advantage_B[:, None].expand_as(count_BR), torch.zeros_like(advantage_B, dtype=torch.bool)
    terms = [
        DistillationTerm("divergence", count_BR, ReverseKL()),
        outcome_term(GRPO(), count_BR, advantage_BR, guest_B),
    ]
    found = term_measures(terms, scored)
    assert set(found) == {"sign_conflict"}
    assert found["sign_conflict"].tolist() == [
        float(a * d < 0) for a, d in zip([1] * 4 + [-1] * 3, d_N.tolist(), strict=True)
    ]
    found = term_measures([outcome_term(GRPO(clip=0.2), count_BR, advantage_BR, guest_B)], scored)
    wanted = [
        (r > 1.2 and a > 0) or (r < 0.8 and a < 0) for r, a in zip(rho_N.tolist(), [1] * 4 + [-1] * 3, strict=True)
    ]
    assert found["clip_share"].tolist() == [float(x) for x in wanted]
    both = [DistillationTerm(str(k), count_BR, PolicyGradient(adv_clip=k)) for k in (1.0, 0.5)]
    assert term_measures(both, scored)["clip_divergence"].tolist() == (d_N.abs() > 0.5).float().tolist()


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    for _ in range(20):
        score_N, positive_N = rng.integers(0, 5, 30).astype(float), rng.random(30) < 0.3
        pairs = [(a > b) + 0.5 * (a == b) for a in score_N[positive_N] for b in score_N[~positive_N]]
        assert auroc(score_N, positive_N) == pytest.approx(np.mean(pairs) if pairs else np.nan, nan_ok=True)
    assert np.isnan(auroc(np.ones(3), np.ones(3, dtype=bool))) and np.isnan(auroc(np.ones(0), np.ones(0, dtype=bool)))


def test_the_positions__of_a_step_against_loops_over_its_tokens(prompts, source):
    """Each mean over a real batch, micro-batched, against plain Python over the same tokens; half the responses are
    golds of which some have a wrong number, so that there are first mistakes and ends."""
    student, teacher = model(source, 0), model(source, 1)
    rollouts, _ = GOLD.draw(prompts, 0, student, None)
    tokens_BT = rollouts.tokens_BT.clone()
    for row in (0, 2, 3, 4):  # the result of the last step is wrong
        response = rollouts.response_BR[row]
        numbers = (response >= source.world.first_number) & (response < source.world.first_number + 7)
        place = int(rollouts.prompt_B[row]) + int(numbers.nonzero()[-2])
        tokens_BT[row, place] = source.world.first_number + (tokens_BT[row, place] - source.world.first_number + 1) % 7
    rollouts = replace(rollouts, tokens_BT=tokens_BT, origin_B=torch.zeros_like(rollouts.origin_B))
    length_B, response_BR = rollouts.length_B.numpy(), rollouts.response_BR.numpy()
    rollouts = replace(rollouts, verdicts=prompts.tokens.check(rollouts.problems, response_BR, length_B))
    v = rollouts.verdicts
    assert (v.first_mistake >= 0).sum() >= 2 and v.first_mistake.max() > 0 and v.right.any()

    positions_, lines = PositionMeasures(rollouts), {}
    for index_M in rollouts.chunks(2):
        part = rollouts.rows(index_M)
        with torch.no_grad():
            target = opd_batches.scored(teacher, (None, None), part).student_NV
            scored = opd_batches.scored(student, (lambda at, target=target: target[at], None), part)
        positions_.add(index_M, scored, token_measures(scored, EOS))
        for n in range(len(scored.token_N)):
            lines[int(index_M[scored.row_N[n]]), int(scored.time_N[n])] = (scored.student_NV[n], target[n])
    found = positions_.means()

    cells = sorted(lines)
    assert cells == [(b, t) for b in range(len(length_B)) for t in range(length_B[b])]
    rkl = {c: float((lines[c][0].exp() * (lines[c][0] - lines[c][1])).sum()) for c in cells}
    d = {c: float(lines[c][1][response_BR[c]] - lines[c][0][response_BR[c]]) for c in cells}
    assert found["rkl"] == pytest.approx(np.mean(list(rkl.values())), rel=1e-4)
    assert found["advantage"] == pytest.approx(np.mean(list(d.values())), rel=1e-4)
    assert found["rkl_large"] == np.mean([x > LARGE_KL for x in rkl.values()])
    ends = [c for c in cells if response_BR[c] == EOS]
    eos = {c: float(lines[c][0][EOS].exp()) for c in cells}
    assert found["eos"] == pytest.approx(np.mean([eos[c] for c in ends]), rel=1e-4)
    assert found["eos_after_answer"] == pytest.approx(found["eos"])  # golds stop right there
    rho = [math.exp(float(lines[c][0][response_BR[c]]) - float(rollouts.behaviour_BR[c])) for c in cells]
    assert found["ess"] == pytest.approx(sum(rho) ** 2 / (len(rho) * sum(r * r for r in rho)), rel=1e-3)
    groups: dict[str, list] = {"before": [], "at": [], "after": []}
    for b, t in cells:
        if v.first_mistake[b] >= 0:
            start, stop = v.start[b, v.first_mistake[b]], v.stop[b, v.first_mistake[b]]
            groups["before" if t < start else "at" if t < stop else "after"].append((b, t))
    total = sum(rkl[c] for group in groups.values() for c in group)
    for name, group in groups.items():
        assert found[f"rkl_{name}"] == pytest.approx(np.mean([rkl[c] for c in group]), rel=1e-4)
        assert found[f"mass_{name}"] == pytest.approx(sum(rkl[c] for c in group) / total, rel=1e-4)
    others = groups["before"] + groups["after"]
    for name, signal in (("rkl", rkl), ("advantage", {c: -d[c] for c in cells})):
        pairs = [(signal[a] > signal[b]) + 0.5 * (signal[a] == signal[b]) for a in groups["at"] for b in others]
        assert found[f"auroc_{name}"] == pytest.approx(np.mean(pairs), abs=1e-3)
    assert "advantage_repetitive" not in found and found["advantage_normal"] == pytest.approx(found["advantage"])

    # the responses themselves
    measures = response_measures(rollouts)
    assert measures["length_median"] == np.median(length_B) and measures["length_mean"] == length_B.mean()
    assert (
        measures["length_right"] == length_B[v.right].mean() and measures["length_wrong"] == length_B[~v.right].mean()
    )
    kinds = [int(k) for b in range(len(v.steps)) for k in v.kind[b, : v.steps[b]]]
    assert measures["accuracy_step"] == pytest.approx(np.mean([k < MALFORMED for k in kinds]))
    wrong = [b for b in range(len(v.steps)) if v.first_mistake[b] >= 0]
    assert measures["first_mistake_token"] == np.mean([v.start[b, v.first_mistake[b]] for b in wrong])
    assert measures["first_mistake_step"] == np.mean([v.first_mistake[b] for b in wrong])
    rows = by_ops(v, rollouts.problems.ops)
    assert sum(r["n"] for r in rows) == len(length_B) and sum(r["steps"] for r in rows) == v.steps.sum()
    assert sum(r["steps_right"] for r in rows) == sum(k < MALFORMED for k in kinds)
    place_BR = places(v, length_B, response_BR.shape[1])
    assert [(place_BR == k).sum() for k in (0, 1, 2)] == [len(groups[k]) for k in ("before", "at", "after")]


def test_what_a_loop_covers_and_its_own_mean_advantage():
    rows = [list(range(20, 40)) + [3, 4, 5] * 20, list(range(10, 50)), [7] * 40]
    width = max(map(len, rows))
    tokens, length = np.array([r + [0] * (width - len(r)) for r in rows]), np.array([len(r) for r in rows])
    covered = repetitive(tokens, length)
    for row, start, count in ((0, 23, 57), (1, 0, 0), (2, 1, 39)):
        assert covered[row].sum() == count and (count == 0 or covered[row, start : length[row]].all())
    stumbling = [1, 2] * 10 + [9] + [1, 2] * 20
    covered = repetitive(np.array([stumbling]), np.array([len(stumbling)]))[0]
    same = [i >= 2 and stumbling[i] == stumbling[i - 2] for i in range(len(stumbling))]
    starts = [i for i in range(2, len(stumbling)) if same[i] and np.mean(same[i:]) >= 0.9]
    assert covered.tolist() == [i >= starts[0] for i in range(len(stumbling))]


def test_the_published_detector_is_a_ratio_of_bytes_of_the_tail_alone():
    rng = np.random.default_rng(0)
    loop, text = [500, 501] * 100, rng.integers(0, 20, 200).tolist()
    raw = bytes([0, 1] * (ZLIB_TAIL // 2))
    assert zlib_ratio(loop) == ZLIB_TAIL / len(zlib.compress(raw)) > ZLIB_RATIO > zlib_ratio(text) > 1.0
    assert zlib_ratio(text + loop[:ZLIB_TAIL]) == zlib_ratio(loop) and zlib_ratio([5] * ZLIB_TAIL) == 0.0
    assert zlib_ratio([5] * 512, tail=256) == pytest.approx(21.3, abs=0.1)  # the table of the method's description
    tokens = np.array([loop, text, [5] * 200])
    assert compressible(tokens, np.array([200, 200, 128])).tolist() == [True, False, False]
    assert compressible(tokens, np.array([200, 200, 200]), ratio=10.0).tolist() == [False, False, True]
    assert periods(tokens, np.array([200, 200, 200])).tolist() == [2, 0, 1]


def test_every_definition_has_a_unit_and_the_table_prints(capsys):
    assert all(m.unit and m.meaning and m.source for m in METRICS.values())
    assert main([]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(METRICS) + 2
    assert main(["x"]) == 2 and "takes no arguments" in capsys.readouterr().err
    assert definition("loss_divergence") is METRICS["loss_NAME"] and definition("rkl").unit == "nats/token"
    assert definition("nonsense") is None


def test_a_step_logs_only_what_is_defined_and_finite_for_methods_with_and_without_teacher(prompts, source):
    teachers = {"rkl", "fkl", "advantage", "overlap", "teacher_entropy", "rkl_large", "overlap_advantage"}
    for method, teacher, has in (
        (Method("opd", STUDENT), [model(source, 1)], True),
        (Method("sft", GOLD, teacher=NoTeacher(), divergence=NLL()), [], False),
        (Method("grpo", FOUR, teacher=NoTeacher(), divergence=NoDivergence(),
                outcome=GRPO()), [], False),
    ):  # fmt: skip
        metrics = objective(method, prompts, model(source, 0), *teacher)(model(source, 0), 0).metrics
        assert all(definition(key) is not None for key in metrics), [k for k in metrics if definition(k) is None]
        assert all(math.isfinite(value) for value in metrics.values() if not isinstance(value, list))
        assert (teachers <= set(metrics)) == has and (has or not teachers & set(metrics))
        assert ("accuracy_step" in metrics) == (method.source != GOLD)


def test_the_shares_of_responses_and_prompts_that_teach():
    group_B, count_BR = torch.tensor([0, 0, 1, 1, 2, 2]), torch.ones(6, 3)
    advantage_BR = torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0, 0.0])[:, None].expand(6, 3)
    outcome = outcome_term(GRPO(), count_BR, advantage_BR, torch.zeros(6, dtype=torch.bool))
    one_BR = torch.zeros(6, 3)
    one_BR[4, 2] = 0.1
    one_token = DistillationTerm("divergence", one_BR, ReverseKL())
    brake = LossTerm("ref_kl", count_BR, lambda scored: scored.log_q_N)
    assert signal_shares([outcome, brake], group_B) == {"signal": pytest.approx(2 / 6), "signal_groups": 1 / 3}
    assert signal_shares([outcome, one_token], group_B) == {"signal": 0.5, "signal_groups": 2 / 3}
    assert signal_shares([brake], group_B) == {"signal": 0.0, "signal_groups": 0.0}
