"""Signal, provenance, capability and their intervals against planted truth, brute force and other libraries."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from probes.analyses import capability, provenance, signal, teacher_contexts
from probes.analyses.responses import response_logprobs, step_means
from probes.analyses.signal import MEASURES, measures
from probes.tables import tables_csv, tables_text
from synth.contexts import context_tokens as S
from synth.judge.checker import MALFORMED
from synth.world.vocabulary import FAILURE, SUCCESS
from tests.helpers.graded_responses import BAD, DOCUMENTS, GOLD, SOURCE, model, responses
from train.statistics import CLUSTER_DRAWS, ClusterBootstrap

# --- intervals and tables -------------------------------------------------------------------------------------------


def test_auroc_is_that_of_scikit_learn_and_its_draws_are_too():
    rng = np.random.default_rng(0)
    score, positive, cluster = rng.integers(0, 6, 80), rng.random(80) < 0.4, rng.integers(0, 20, 80)
    draws = ClusterBootstrap(cluster, draws=40)
    found = draws.auroc(score, positive)
    assert found.value == pytest.approx(roc_auc_score(positive, score))
    weight_DQ = draws._weight_DG[:, draws._place_Q]
    ours = [roc_auc_score(positive, score, sample_weight=w) for w in weight_DQ]
    assert [found.low, found.high] == pytest.approx(np.quantile(ours, [0.025, 0.975]), abs=1e-6)
    assert np.isnan(draws.auroc(score, np.ones(80, dtype=bool)).value)


def test_a_ratio_has_the_width_that_theory_says():
    rng = np.random.default_rng(1)
    value = rng.normal(3, 2, 400)
    found = ClusterBootstrap(np.arange(400)).ratio(value)
    half = 1.96 * value.std() / 20
    assert found.value == pytest.approx(value.mean()) and found.n == 400 and CLUSTER_DRAWS == 2000
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    together = ClusterBootstrap(np.repeat(np.arange(100), 4)).ratio(np.repeat(value[:100], 4))
    assert (together.high - together.low) > 1.5 * (found.high - found.low), "four copies are one measurement"
    assert ClusterBootstrap(np.arange(4)).ratio(np.ones(4), np.zeros(4)).n == 0
    alike = ClusterBootstrap(np.arange(4)).ratio(np.zeros(4), within=(-1, 1))
    assert alike.value == 0 and -1 < alike.low < 0 < alike.high < 1, "four that are alike leave some doubt"


def test_tables_are_lines_and_csv():
    row = {"name": "a", "rate": {"value": 0.5, "low": 0.25, "high": None, "n": 3}, "k": 2}
    assert tables_csv([row]) == "name,rate,rate_low,rate_high,rate_n,k\na,0.5,0.25,,3,2\n"
    assert tables_text({"t": [row]})[2] == "  a     0.500 [0.250, nan] n=3  2"


# --- signal ---------------------------------------------------------------------------------------------------------


def test_the_eight_measures_are_those_of_scipy_and_scikit_learn():
    rng = np.random.default_rng(2)
    for _ in range(20):
        score, right = -rng.integers(1, 6, 8).astype(float), np.array([0, 1, *rng.integers(0, 2, 6)])
        if len(set(score)) == 1:
            continue
        found = measures(score, right == 1)
        assert tuple(found) == MEASURES
        assert found["spearman"] == pytest.approx(stats.spearmanr(score, right)[0])
        assert found["kendall"] == pytest.approx(stats.kendalltau(score, right)[0])
        assert found["point_biserial"] == pytest.approx(stats.pointbiserialr(right, score)[0])
        assert found["auc"] == pytest.approx(roc_auc_score(right, score))
        pairs = [(a > b) for a, b in itertools.product(score[right == 1], score[right == 0])]
        assert found["pairs"] == pytest.approx(np.mean(pairs))
        assert found["top1"] == pytest.approx(right[score == score.max()].mean())
    perfect = measures(np.array([-1.0, -1.0, -3.0]), np.array([True, True, False]))
    assert [perfect[m] for m in ("spearman", "kendall", "pairs", "auc", "top1")] == [pytest.approx(1.0)] * 5
    assert perfect["brier_minmax"] == 0.0
    flat = measures(np.zeros(2), np.array([True, False]))
    assert (flat["spearman"], flat["auc"], flat["pairs"], flat["brier_sigmoid"]) == (0.0, 0.5, 0.0, 0.25)


def test_contexts_hold_what_they_say_and_never_the_response_itself():
    fresh = [[s.tolist() for s in _solutions(k)] for k in ("second", "third", "fourth")]
    group = responses(GOLD, *fresh, BAD)
    rng = np.random.default_rng(0)
    found = teacher_contexts.peers_of(group, rng)
    texts = [tuple(S.written(r)) for r in group.tokens]
    for n, own in enumerate(found):
        mine = group.row[n]
        assert all(group.row[m] == mine and texts[m] != texts[n] for m in own.right + own.wrong)
        assert all(group.verdicts.right[m] for m in own.right + own.foreign)
        assert not group.verdicts.right[own.wrong].any() and group.row[own.foreign[0]] != mine
        both = teacher_contexts.context_tokens("solution_failure", group, own, rng)
        if own.right and own.wrong:
            assert both.count(SUCCESS) == 1 and both.count(FAILURE) == 1
            assert both[1 : 1 + len(texts[own.right[0]])] == list(texts[own.right[0]])
        else:
            assert both is None
        if len(own.right) > 1:
            first, another = (
                teacher_contexts.context_tokens(k, group, own, rng) for k in ("solution", "another_solution")
            )
            assert first != another and another[1:] == list(texts[own.right[1]])
        assert teacher_contexts.context_tokens("base", group, own, rng) == []
        verdict = teacher_contexts.context_tokens("failure_verdict", group, own, rng)
        assert (verdict is None) == (not own.wrong)
    matched = [teacher_contexts.context_tokens("successes_matched", group, own, rng) for own in found]
    assert all(context.count(SUCCESS) == 3 and FAILURE not in context for context in matched if context)
    assert sum(context is not None for context in matched) > 5


def _solutions(stream):
    fresh = SOURCE.solve(DOCUMENTS.problems, stream, range(30))
    return [fresh.response(i) for i in range(30)]


def test_a_score_that_knows_the_verdict_is_perfect_and_the_first_mistake_is_singled_out():
    group = responses(GOLD, BAD)
    score = np.where(group.verdicts.right, -1.0, -2.0)
    found = signal.quality(score, group)
    assert found["auc"]["value"] == 1.0 and found["top1"]["value"] == 1.0 and found["items"] == 60
    assert signal.quality(np.where(group.verdicts.right, np.nan, score), group)["auc"]["n"] == 0
    base = [np.full(len(r), -1.0) for r in group.tokens]
    told = [logp.copy() for logp in base]
    for n, first in enumerate(group.verdicts.first_mistake):
        if first >= 0:
            told[n][group.verdicts.start[n, first] : group.verdicts.stop[n, first]] -= 0.5
    found = signal.step_changes(group, base, told)
    assert found["first_mistake"]["value"] == pytest.approx(-0.5) and found["steps_before"]["value"] == 0.0
    assert found["difference"]["value"] == pytest.approx(-0.5) and found["difference"]["high"] < -0.4


# --- provenance -----------------------------------------------------------------------------------------------------


def test_steps_get_their_class_from_hand_made_probabilities():
    teacher, student, distilled = np.log(
        [[0.9, 0.1, 0.3, 0.3, 0.5, np.nan], [0.1, 0.9, 0.2, 0.4, 0.4, np.nan], [0.9, 0.1, 0.9, 0.1, 0.5, np.nan]]
    )
    named = [provenance.CLASSES[k] if k >= 0 else None for k in provenance.classify(teacher, student, distilled, 2.0)]
    assert named == ["teacher", "student", "boosted", "damped", "shared", None]
    assert provenance.classify(teacher, student, distilled, 20.0).tolist()[:5] == [4, 4, 4, 4, 4]


def test_classes_crossed_with_mistakes_and_the_area_are_what_was_planted():
    group = responses(GOLD, BAD)
    v = group.verdicts
    wrong = v.kind >= MALFORMED
    class_NS = np.where(v.kind < 0, -1, np.where(wrong, 2, 4))  # every mistake is boosted, all else shared
    rows = {row["class"]: row for row in provenance.cross_with_mistakes(group, class_NS)}
    assert rows["boosted"]["mistakes"]["value"] == 1.0 and rows["shared"]["mistakes"]["value"] == 0.0
    assert rows["boosted"]["share"]["value"] == pytest.approx(wrong.sum() / (v.kind >= 0).sum())
    assert rows["teacher"]["mistakes"]["n"] == 0
    by_right = np.where(v.kind < 0, -1, np.where(v.right[:, None], 0, 1))  # right answers are the teacher's
    area = {row["class"]: row["area"]["value"] for row in provenance.areas(group, by_right, 2)}
    assert area == {"teacher": 1.0, "student": -1.0, "boosted": 0.0, "damped": 0.0, "shared": 0.0}
    first = provenance.by_position(group, by_right, 1)
    assert [(r["answers"], r["teacher"]["value"]) for r in first] == [("right", 1.0), ("wrong", 0.0)]


def test_log_probabilities_are_those_of_one_text_at_a_time():
    group, m = responses(GOLD, BAD), model()
    found = response_logprobs(m, group.prompts(), group.tokens)
    for n in (0, 7, 33):
        prompt, response = group.prompts()[n], group.tokens[n]
        with torch.no_grad():
            logp = m(torch.tensor([[*prompt, *response]])).log_softmax(-1)[0, len(prompt) - 1 : -1]
        assert found[n] == pytest.approx(logp[range(len(response)), response].numpy(), abs=1e-5)
    means, v = step_means(group, found), group.verdicts
    assert means[7, 0] == pytest.approx(found[7][v.start[7, 0] : v.stop[7, 0]].mean())
    assert np.array_equal(np.isnan(means), v.kind < 0)


# --- capability -----------------------------------------------------------------------------------------------------


def test_gains_and_transitions_are_counted_by_hand():
    before = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]], dtype=bool)
    after = np.array([[0, 0, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1]], dtype=bool)
    right = {"before": before, "after": after}
    rows = {row["measure"]: row for row in capability.gains(right, np.ones(3, dtype=bool), (1, 4))}
    assert rows["accuracy"]["gain"]["value"] == pytest.approx((0.25 + 0.75 + 0) / 3)
    assert rows["pass@4"]["before"]["value"] == pytest.approx(2 / 3) and rows["pass@4"]["after"]["value"] == 1.0
    assert rows["out of reach"]["before"]["value"] == pytest.approx(1 / 3)
    moved = {row["right_before"]: row for row in capability.transitions(right)}
    assert [moved[b]["problems"] for b in ("none", "to 50%", "all")] == [1, 1, 1]
    assert moved["none"]["to to 50%"] == 1 and moved["all"]["to all"] == 1
    assert moved["none"]["after"]["value"] == 0.5, "the odd draws alone"
    assert capability.bin_of(np.arange(9), 8).tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 5]
