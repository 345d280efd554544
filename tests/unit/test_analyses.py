"""Analyses of distillation against planted truth: hand-made probabilities, brute force, other libraries, the oracle."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from models.gpt import GPT, GPTConfig
from models.sites import capture, edit
from probes.analyses import capability, collapse, fading, futures, merge, peers, premise, provenance, recovery, signal
from probes.analyses.parts import Parts
from probes.analyses.pushing import DIRECTION, RANDOM, push
from probes.analyses.ranking import METRICS, metrics
from probes.analyses.tables import as_csv, lines
from probes.analyses.written import Written, draw, logprobs, step_means
from probes.settings import ProbeConfig, QueryConfig
from synth import sections as S
from synth.checker import MALFORMED, UNDETERMINED
from synth.dataset import Source
from synth.oracle import Oracle
from synth.peers import failures, judge
from synth.spec import preset
from synth.world import ANSWER, EOS, FAILURE, STOP, SUCCESS
from train.data import DataConfig
from train.intervals import CLUSTER_DRAWS, Clusters

SOURCE = Source(preset("tiny", letter_order="random"), 3, "test", "analyses")
WORLD = SOURCE.world
DOCUMENTS = SOURCE.documents(range(30))
GOLD = [DOCUMENTS.response(i).tolist() for i in range(30)]
BAD = failures(SOURCE, DOCUMENTS.problems, np.arange(30), "bad")[0]


def written(*groups):
    """One response of each group to every document, beside each other."""
    row = np.repeat(np.arange(30), len(groups))
    responses = [list(map(int, group[i])) for i in range(30) for group in groups]
    problems = type(DOCUMENTS.problems)(*(a[row] for a in DOCUMENTS.problems))
    return Written(DOCUMENTS, row, responses, judge(problems, WORLD, responses))


def model(seed=0):
    return GPT(GPTConfig(WORLD.size, 2, 2, 16, 256), seed).eval()


# --- intervals and tables -------------------------------------------------------------------------------------------


def test_auroc_is_that_of_scikit_learn_and_its_draws_are_too():
    rng = np.random.default_rng(0)
    score, positive, cluster = rng.integers(0, 6, 80), rng.random(80) < 0.4, rng.integers(0, 20, 80)
    draws = Clusters(cluster, draws=40)
    found = draws.auroc(score, positive)
    assert found.value == pytest.approx(roc_auc_score(positive, score))
    weight_DQ = draws._weight_DG[:, draws._place_Q]
    ours = [roc_auc_score(positive, score, sample_weight=w) for w in weight_DQ]
    assert [found.low, found.high] == pytest.approx(np.quantile(ours, [0.025, 0.975]), abs=1e-6)
    assert np.isnan(draws.auroc(score, np.ones(80, dtype=bool)).value)


def test_a_ratio_has_the_width_that_theory_says():
    rng = np.random.default_rng(1)
    value = rng.normal(3, 2, 400)
    found = Clusters(np.arange(400)).ratio(value)
    half = 1.96 * value.std() / 20
    assert found.value == pytest.approx(value.mean()) and found.n == 400 and CLUSTER_DRAWS == 2000
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    together = Clusters(np.repeat(np.arange(100), 4)).ratio(np.repeat(value[:100], 4))
    assert (together.high - together.low) > 1.5 * (found.high - found.low), "four copies are one measurement"
    assert Clusters(np.arange(4)).ratio(np.ones(4), np.zeros(4)).n == 0
    assert Clusters(np.arange(4)).ratio(np.zeros(4))[:3] == (0.0, 0.0, 0.0)


def test_tables_are_lines_and_csv():
    row = {"name": "a", "rate": {"value": 0.5, "low": 0.25, "high": None, "n": 3}, "k": 2}
    assert as_csv([row]) == "name,rate,rate_low,rate_high,rate_n,k\na,0.5,0.25,,3,2\n"
    assert lines({"t": [row]})[2] == "  a     0.500 [0.250, nan] n=3  2"


def test_a_part_is_made_once(tmp_path):
    made = []
    for _ in range(2):
        parts = Parts(tmp_path / "metrics.jsonl")
        assert parts.of("a", lambda: made.append(1) or {"x": float("nan")}) == {"x": None}
    assert len(made) == 1


# --- signal ---------------------------------------------------------------------------------------------------------


def test_the_eight_measures_are_those_of_scipy_and_scikit_learn():
    rng = np.random.default_rng(2)
    for _ in range(20):
        score, right = -rng.integers(1, 6, 8).astype(float), np.array([0, 1, *rng.integers(0, 2, 6)])
        if len(set(score)) == 1:
            continue
        found = metrics(score, right == 1)
        assert tuple(found) == METRICS
        assert found["spearman"] == pytest.approx(stats.spearmanr(score, right)[0])
        assert found["kendall"] == pytest.approx(stats.kendalltau(score, right)[0])
        assert found["point_biserial"] == pytest.approx(stats.pointbiserialr(right, score)[0])
        assert found["auc"] == pytest.approx(roc_auc_score(right, score))
        pairs = [(a > b) for a, b in itertools.product(score[right == 1], score[right == 0])]
        assert found["pairs"] == pytest.approx(np.mean(pairs))
        assert found["top1"] == pytest.approx(right[score == score.max()].mean())
    perfect = metrics(np.array([-1.0, -1.0, -3.0]), np.array([True, True, False]))
    assert [perfect[m] for m in ("spearman", "kendall", "pairs", "auc", "top1")] == [pytest.approx(1.0)] * 5
    assert perfect["brier_minmax"] == 0.0
    flat = metrics(np.zeros(2), np.array([True, False]))
    assert (flat["spearman"], flat["auc"], flat["pairs"], flat["brier_sigmoid"]) == (0.0, 0.5, 0.0, 0.25)


def test_contexts_hold_what_they_say_and_never_the_response_itself():
    fresh = [[s.tolist() for s in _solutions(k)] for k in ("second", "third", "fourth")]
    group = written(GOLD, *fresh, BAD)
    rng = np.random.default_rng(0)
    found = peers.peers_of(group, rng)
    texts = [tuple(S.written(r)) for r in group.responses]
    for n, own in enumerate(found):
        mine = group.row[n]
        assert all(group.row[m] == mine and texts[m] != texts[n] for m in own.right + own.wrong)
        assert all(group.verdicts.right[m] for m in own.right + own.foreign)
        assert not group.verdicts.right[own.wrong].any() and group.row[own.foreign[0]] != mine
        both = peers.sections("solution_failure", group, own, rng)
        if own.right and own.wrong:
            assert both.count(SUCCESS) == 1 and both.count(FAILURE) == 1
            assert both[1 : 1 + len(texts[own.right[0]])] == list(texts[own.right[0]])
        else:
            assert both is None
        if len(own.right) > 1:
            first, another = (peers.sections(k, group, own, rng) for k in ("solution", "another_solution"))
            assert first != another and another[1:] == list(texts[own.right[1]])
        assert peers.sections("base", group, own, rng) == []
        verdict = peers.sections("failure_verdict", group, own, rng)
        assert (verdict is None) == (not own.wrong)
    matched = [peers.sections("successes_matched", group, own, rng) for own in found]
    assert all(context.count(SUCCESS) == 3 and FAILURE not in context for context in matched if context)
    assert sum(context is not None for context in matched) > 5


def _solutions(stream):
    fresh = SOURCE.solve(DOCUMENTS.problems, stream, range(30))
    return [fresh.response(i) for i in range(30)]


def test_a_score_that_knows_the_verdict_is_perfect_and_the_first_mistake_is_singled_out():
    group = written(GOLD, BAD)
    score = np.where(group.verdicts.right, -1.0, -2.0)
    found = signal.quality(score, group)
    assert found["auc"]["value"] == 1.0 and found["top1"]["value"] == 1.0 and found["items"] == 60
    assert signal.quality(np.where(group.verdicts.right, np.nan, score), group)["auc"]["n"] == 0
    base = [np.full(len(r), -1.0) for r in group.responses]
    told = [logp.copy() for logp in base]
    for n, first in enumerate(group.verdicts.first_mistake):
        if first >= 0:
            told[n][group.verdicts.start[n, first] : group.verdicts.stop[n, first]] -= 0.5
    found = signal.steps(group, base, told)
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
    group = written(GOLD, BAD)
    v = group.verdicts
    wrong = v.kind >= MALFORMED
    class_NS = np.where(v.kind < 0, -1, np.where(wrong, 2, 4))  # every mistake is boosted, all else shared
    rows = {row["class"]: row for row in provenance.crossed(group, class_NS)}
    assert rows["boosted"]["mistakes"]["value"] == 1.0 and rows["shared"]["mistakes"]["value"] == 0.0
    assert rows["boosted"]["share"]["value"] == pytest.approx(wrong.sum() / (v.kind >= 0).sum())
    assert rows["teacher"]["mistakes"]["n"] == 0
    by_right = np.where(v.kind < 0, -1, np.where(v.right[:, None], 0, 1))  # right answers are the teacher's
    area = {row["class"]: row["area"]["value"] for row in provenance.areas(group, by_right, 2)}
    assert area == {"teacher": 1.0, "student": -1.0, "boosted": 0.0, "damped": 0.0, "shared": 0.0}
    first = provenance.by_position(group, by_right, 1)
    assert [(r["answers"], r["teacher"]["value"]) for r in first] == [("right", 1.0), ("wrong", 0.0)]


def test_log_probabilities_are_those_of_one_text_at_a_time():
    group, m = written(GOLD, BAD), model()
    found = logprobs(m, group.prompts(), group.responses)
    for n in (0, 7, 33):
        prompt, response = group.prompts()[n], group.responses[n]
        with torch.no_grad():
            logp = m(torch.tensor([[*prompt, *response]])).log_softmax(-1)[0, len(prompt) - 1 : -1]
        assert found[n] == pytest.approx(logp[range(len(response)), response].numpy(), abs=1e-5)
    means, v = step_means(group, found), group.verdicts
    assert means[7, 0] == pytest.approx(found[7][v.start[7, 0] : v.stop[7, 0]].mean())
    assert np.array_equal(np.isnan(means), v.kind < 0)


# --- capability -----------------------------------------------------------------------------------------------------


def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_one():
    n = 6
    for count, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = [any(i < count for i in subset) for subset in itertools.combinations(range(n), k)]
        assert capability.pass_at(np.array([count]), n, k)[0] == pytest.approx(np.mean(subsets))


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


# --- recovery -------------------------------------------------------------------------------------------------------


def test_the_oracle_recovers_from_every_sound_prefix():
    oracle, group = Oracle(SOURCE.spec), written(BAD)
    assert not group.verdicts.right.any()
    for cut in (0.0, 0.3, 0.7):
        prefixes = [r[: int(cut * len(r))] for r in group.responses]
        sound = recovery.soundness(oracle, DOCUMENTS.problems, prefixes)
        ends = recovery.finish(oracle, DOCUMENTS, np.arange(30), prefixes, 200, 1.0, 0)
        texts = [[*prefix, *end] for prefix, end in zip(prefixes, ends, strict=True)]
        verdicts = judge(DOCUMENTS.problems, WORLD, texts)
        assert sound.any() and verdicts.right[sound].all(), cut
        assert recovery.clean_behind(verdicts, np.zeros(30, dtype=int))[verdicts.right].all()
    assert sound.mean() < 0.7, "by then many a mistake is written"


def test_a_mistake_before_the_cut_is_not_one_behind_it():
    group = written(BAD)
    v, first = group.verdicts, group.verdicts.first_mistake
    some = np.flatnonzero((first >= 0) & (v.ending == 0))
    at = np.where(first >= 0, v.start[np.arange(30), np.maximum(first, 0)], 0)
    assert not recovery.clean_behind(v, at)[some].any()
    late = np.where(first >= 0, v.stop.max(1), 0)
    assert recovery.clean_behind(v, late)[some].all()


def test_a_model_finishes_what_it_is_given_and_no_more():
    starts = [r[:3] for r in GOLD]
    ends = recovery.finish(model(), DOCUMENTS, np.arange(30), starts, 10, 1.0, 0)
    assert all(0 < len(end) <= 7 for end in ends)


# --- futures --------------------------------------------------------------------------------------------------------


def test_a_detector_that_sees_the_oracles_states_is_perfect_and_the_curve_says_so():
    rng = np.random.default_rng(3)
    fork = rng.random(60) < 0.3
    told = Clusters(np.arange(60)).auroc(fork.astype(float), fork)
    assert told.value == 1.0
    score = rng.random(60) + fork
    points = futures.roc("x", score, fork)
    x, y = ([p[k] for p in points] for k in ("false_alarms", "found"))
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(fork, score), abs=0.03)
    assert futures.roc("x", score, np.ones(60, dtype=bool)) == []


def test_transport_is_nought_between_equal_futures_and_the_assignment_between_others():
    rng = np.random.default_rng(4)
    embedding = torch.from_numpy(rng.normal(size=(12, 5)))
    same = futures.transport(embedding, [[1, 2, 3]], [[3, 1, 2]])
    assert same[0] == pytest.approx(0.0, abs=1e-3)
    a, b = [1, 2, 3, 4], [5, 6, 7, 8]
    unit = torch.nn.functional.normalize(embedding, dim=-1)
    cost = (1 - unit[a] @ unit[b].T).numpy()
    best = min(cost[range(4), list(p)].mean() for p in itertools.permutations(range(4)))
    found = futures.transport(embedding, [a, [1]], [b, [2, 3]])
    assert best <= found[0] + 1e-6 and found[0] < best + 0.15
    assert found[1] == pytest.approx(float((1 - unit[[1]] @ unit[[2, 3]].T).mean()), abs=1e-6)
    assert futures.uncommon([1, 1, 2], [1, 3]) == pytest.approx(1 - 1 / 4) and futures.uncommon([], []) == 1.0


def test_candidates_are_the_tokens_of_highest_reverse_kl():
    group, student, teacher = written(GOLD), model(0), model(1)
    found = futures.candidates(group, student, teacher, 0.1, 10_000, 256)
    total = sum(len(r) for r in group.responses)
    assert len(found.row) == round(0.1 * total) and (np.diff(found.kl) <= 0).all()
    n, t = int(found.row[0]), int(found.place[0])
    text = torch.tensor([[*group.prompts()[n], *group.responses[n][:t]]])
    with torch.no_grad():
        q, p = (m(text)[0, -1].log_softmax(-1) for m in (student, teacher))
    assert found.kl[0] == pytest.approx(float((q.exp() * (q - p)).sum()), abs=1e-5)
    assert found.entropy[0] == pytest.approx(float(-(q.exp() * q).sum()), abs=1e-5)
    assert len(futures.candidates(group, student, teacher, 1.0, 7, 256).row) == 7


# --- premise, merge, collapse ---------------------------------------------------------------------------------------


def test_twins_differ_in_one_premise_and_a_perfect_abstainer_has_perfect_rates():
    config = SimpleNamespace(data=DataConfig("tiny"), premise=SimpleNamespace(problems=40))
    whole, missing = premise.twins(config)
    assert 10 < len(whole) == len(missing)
    assert np.array_equal(whole.problems.items, missing.problems.items)
    assert (missing.problems.scalars[:, 3] == whole.problems.scalars[:, 3] - 1).all(), "one sentence fewer"
    rows = np.arange(len(whole))
    pair = []
    for documents in (missing, whole):
        responses = [documents.response(i).tolist() for i in rows]
        pair.append(Written(documents, rows, responses, judge(documents.problems, WORLD, responses)))
    found = {name: cell["value"] for name, cell in premise.behaviour(*pair).items()}
    assert found["abstains"] == found["precision"] == found["right_missing"] == found["right_whole"] == 1.0
    assert found["false_alarms"] == found["cut_off_missing"] == found["repeats_whole"] == 0.0
    assert 0.2 < found["length_ratio"] < 1.0
    in_time = premise.suspicion(pair[0])[0]
    assert in_time == {"abstained": len(whole), "too_early": 0, "in_time": len(whole)}
    assert (pair[0].verdicts.answer == UNDETERMINED).all()


def test_a_mixture_of_weights_is_one_and_its_ends_are_the_models():
    a, b, c = (model(seed) for seed in range(3))
    half = merge.mixed([a, b, c], (0.5, 0.25, 0.25))
    for name, weight in half.named_parameters():
        parts = [dict(m.named_parameters())[name] for m in (a, b, c)]
        assert torch.allclose(weight, 0.5 * parts[0] + 0.25 * parts[1] + 0.25 * parts[2], atol=1e-6)
    end = merge.mixed([a, b, c], (0.0, 1.0, 0.0))
    assert all(torch.equal(x, y) for x, y in zip(end.parameters(), b.parameters(), strict=True))


def test_an_edit_changes_what_passes_and_only_inside():
    m, tokens = model(), torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        plain = m(tokens)
        for site in ("hook_embed", "blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"):
            with edit(m, site, lambda x: x + 1.0), capture(m, [site]):
                pushed = m(tokens)
            assert not torch.allclose(pushed, plain)
        assert torch.equal(m(tokens), plain)
    with pytest.raises(ValueError, match="site='x'"), edit(m, "x", lambda x: x):
        pass


def test_a_push_towards_the_end_token_ends_answers_and_a_random_one_does_not(tmp_path):
    m = model()
    direction = m.embed.weight[EOS].detach().numpy() - m.embed.weight.mean(0).detach().numpy()
    direction = direction / np.linalg.norm(direction)
    some = SOURCE.documents(range(8))
    rest = (some, WORLD, Parts(tmp_path / "metrics.jsonl"), "x", 20, 0)
    rows = push(m, "blocks.1.hook_resid_post", direction, 1.0, (50.0,), 2, *rest)
    ends = {row["push"]: row["ends"]["value"] for row in rows}
    assert ends["none"] < 0.5 and ends[DIRECTION] == 1.0 and ends[RANDOM] < 0.8
    change = next(row["ends_change"] for row in rows if row["push"] == DIRECTION)
    assert change["value"] == pytest.approx(1 - ends["none"])
    again = draw(m, some, WORLD, Parts(tmp_path / "other"), samples=1, budget=20, temperature=0.0, seed=0, label="y")
    assert np.mean(again.ended) == ends["none"], "the push is gone afterwards"


def test_what_fades_first_is_read_off_the_rows():
    def row(state, step, layer, own, frozen, high):
        cells = {"own": {"value": own, "n": 9}, "frozen": {"value": frozen, "n": 9}, "change": {"high": high}}
        return {"state": state, "step": step, "layer": layer, "validation": own, "majority": 0.5} | cells

    rows = [row("known", s, 1, 0.9 - 0.009 * s, 0.9 - 0.03 * s, 0.0 if s < 20 else -0.1) for s in (0, 10, 20, 30)]
    rows += [row("known", s, 0, 0.6, 0.6, 0.0) for s in (0, 10, 20, 30)]
    log = [{"step": s, "length_mean": 20.0 + (s > 12) * 10, "truncation": 0.0, "loss": 1.0} for s in range(1, 31)]
    found = {row["what"]: row for row in collapse.order(rows, log)}
    assert found["known (own)"]["layer"] == 1
    assert (found["known (own)"]["lower_from"], found["known (own)"]["half_gone"]) == (20, 30)
    assert found["known (frozen)"]["half_gone"] == 10
    assert found["length_mean (log)"]["moves"] == 13 and found["truncation (log)"]["moves"] is None
    assert found["repetition (log)"]["moves"] is None


def test_done_is_asked_after_the_last_step_and_after_one_before_it():
    config = ProbeConfig(model="x", data=DataConfig("tiny", {"ops": 4, "edges": 8}))
    config = replace(config, probe=replace(config.probe, queries=QueryConfig(fit=30, validation=20, test=20)))
    pieces = fading.questions("done", config)
    table, stop = pieces.fit, int(WORLD.phrases[STOP])
    documents = table.documents
    behind = fading._endings(table, "done", WORLD)[:, 0]
    assert (behind == stop).all() and 0.4 < table.label.mean() < 0.6 and len(np.unique(table.row)) == len(table)
    for q in range(len(table)):
        begin = documents.offsets[table.row[q]]
        following = int(documents.tokens[begin + table.cut[q] + 1])
        assert (following == ANSWER) == bool(table.label[q])
        assert table.cut[q] >= documents.prompt[table.row[q]]


def test_a_planted_direction_is_found_and_a_frozen_probe_reads_it_only_where_it_was():
    rng = np.random.default_rng(5)
    label = rng.integers(0, 2, 300)
    table = SimpleNamespace(label=label)
    pieces = SimpleNamespace(fit=table, validation=table, test=table)
    way = rng.standard_normal(8)
    way /= np.linalg.norm(way)
    states = torch.from_numpy((rng.standard_normal((1, 300, 8)) + 6 * label[None, :, None] * way).astype(np.float32))
    found = fading.reading([states] * 3, pieces, 2, (1e-3,), torch.device("cpu"))
    assert found.right_SQ.mean() > 0.97 and found.direction(0) @ way > 0.9
    assert (found.predict(states.flip(-1)) == label).mean() < 0.9
