"""Recovery, futures, premises, merging and collapse against planted truth, brute force and the oracle."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from models.hooks import capture, edit
from probes.analyses import collapse, futures, premise, recovery, state_steering
from probes.analyses.responses import Responses, sample_responses
from probes.analyses.state_steering import DIRECTION, RANDOM, steer
from probes.readout.linear import fit_probes
from probes.runs import ResumeLog
from probes.settings import ProbeConfig, QueryConfig
from synth.judge.checker import UNDETERMINED, check_responses
from synth.oracle.next_token import Oracle
from synth.world.vocabulary import ANSWER, EOS, STOP
from tests.helpers.graded_responses import BAD, DOCUMENTS, GOLD, SOURCE, WORLD, model, responses
from train.data.batches import DataConfig
from train.merge import merge_models
from train.statistics import ClusterBootstrap

# --- recovery -------------------------------------------------------------------------------------------------------


def test_the_oracle_recovers_from_every_sound_prefix():
    oracle, group = Oracle(SOURCE.spec), responses(BAD)
    assert not group.verdicts.right.any()
    for cut in (0.0, 0.3, 0.7):
        prefixes = [r[: int(cut * len(r))] for r in group.tokens]
        sound = recovery.is_sound(oracle, DOCUMENTS.problems, prefixes)
        ends = recovery.finish(oracle, DOCUMENTS, np.arange(30), prefixes, 200, 1.0, 0)
        texts = [[*prefix, *end] for prefix, end in zip(prefixes, ends, strict=True)]
        verdicts = check_responses(DOCUMENTS.problems, WORLD, texts)
        assert sound.any() and verdicts.right[sound].all(), cut
        assert recovery.clean_behind(verdicts, np.zeros(30, dtype=int))[verdicts.right].all()
    assert sound.mean() < 0.7, "by then many a mistake is written"


def test_a_mistake_before_the_cut_is_not_one_behind_it():
    group = responses(BAD)
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
    told = ClusterBootstrap(np.arange(60)).auroc(fork.astype(float), fork)
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
    group, student, teacher = responses(GOLD), model(0), model(1)
    found = futures.candidates(group, student, teacher, 0.1, 10_000, 256)
    total = sum(len(r) for r in group.tokens)
    assert len(found.row) == round(0.1 * total) and (np.diff(found.kl) <= 0).all()
    n, t = int(found.row[0]), int(found.place[0])
    text = torch.tensor([[*group.prompts()[n], *group.tokens[n][:t]]])
    with torch.no_grad():
        q, p = (m(text)[0, -1].log_softmax(-1) for m in (student, teacher))
    assert found.kl[0] == pytest.approx(float((q.exp() * (q - p)).sum()), abs=1e-5)
    assert found.entropy[0] == pytest.approx(float(-(q.exp() * q).sum()), abs=1e-5)
    assert len(futures.candidates(group, student, teacher, 1.0, 7, 256).row) == 7


def test_the_teachers_advantage_is_paired_and_among_the_prefixes_of_a_state():
    teacher, student = np.array([1, 1, 0, 1, 0, 0], bool), np.array([1, 0, 0, 0, 1, 0], bool)
    sound, row = np.array([True, False, True]), np.repeat(np.arange(3), 2)
    among = recovery.by_soundness(sound, row)
    assert among[recovery.SOUND].tolist() == [True, True, False, False, True, True]
    found = recovery.advantage(teacher, student, among[recovery.SOUND], row)
    assert found.value == (1 - 1) / 4 and found.n == 4 and found.low < 0 < found.high
    assert recovery.advantage(teacher, student, among[recovery.BROKEN], row).value == 0.5
    alike = recovery.advantage(teacher, teacher, np.ones(6, bool), row)
    assert alike.value == 0 and -alike.low == alike.high < 1, "paired: the same endings differ by nothing"
    assert recovery.by_soundness(None, row)["all"].all()


# --- premise, merge, collapse ---------------------------------------------------------------------------------------


def test_twins_differ_in_one_premise_and_a_perfect_abstainer_has_perfect_rates():
    whole, missing = premise.twins(DataConfig("tiny"), 40)
    assert 10 < len(whole) == len(missing)
    assert np.array_equal(whole.problems.items, missing.problems.items)
    assert (missing.problems.scalars[:, 3] == whole.problems.scalars[:, 3] - 1).all(), "one sentence fewer"
    rows = np.arange(len(whole))
    pair = []
    for documents in (missing, whole):
        tokens = [documents.response(i).tolist() for i in rows]
        pair.append(Responses(documents, rows, tokens, check_responses(documents.problems, WORLD, tokens)))
    found = {name: cell["value"] for name, cell in premise.behaviour(*pair).items()}
    assert found["abstains"] == found["precision"] == found["right_missing"] == found["right_whole"] == 1.0
    assert found["false_alarms"] == found["cut_off_missing"] == found["repeats_whole"] == 0.0
    assert 0.2 < found["length_ratio"] < 1.0
    in_time = premise.abstentions(pair[0])
    assert in_time == {"abstained": len(whole), "too_early": 0, "in_time": len(whole)}
    assert (pair[0].verdicts.answer == UNDETERMINED).all()


def test_who_abstains_before_all_is_derived_is_too_early():
    missing = premise.twins(DataConfig("tiny", {"ops": 8, "edges": 14}), 300)[1]
    rows, gold = np.arange(len(missing)), [missing.response(i).tolist() for i in range(len(missing))]
    v = check_responses(missing.problems, WORLD, gold)
    some = v.steps > 0  # the generator derives what it can
    hasty = [g[: v.start[i, 0]] + g[v.stop[i, v.steps[i] - 1] :] if some[i] else g for i, g in enumerate(gold)]
    found = premise.abstentions(Responses(missing, rows, hasty, check_responses(missing.problems, WORLD, hasty)))
    early = int(some.sum())
    assert 5 < early < len(rows)
    assert found == {"abstained": len(rows), "too_early": early, "in_time": len(rows) - early}


def test_two_merges_are_one_mixture_and_their_ends_are_the_models():
    """theta = b (a sft + (1 - a) distilled) + (1 - b) base, as BAI writes it."""
    distilled, sft, base = (model(seed) for seed in range(3))
    found = merge_models(merge_models(sft, distilled, 0.5), base, 0.75)
    for name, weight in found.named_parameters():
        parts = [dict(m.named_parameters())[name] for m in (distilled, sft, base)]
        assert torch.allclose(weight, 0.375 * parts[0] + 0.375 * parts[1] + 0.25 * parts[2], atol=1e-6)
    end = merge_models(merge_models(sft, distilled, 1.0), base, 1.0)
    assert all(torch.equal(x, y) for x, y in zip(end.parameters(), sft.parameters(), strict=True))


def test_an_edit_changes_what_passes_and_only_inside():
    m, tokens = model(), torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        plain = m(tokens)
        for site in ("hook_embed", "blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"):
            with edit(m, site, lambda x: x + 1.0), capture(m, [site]):
                pushed = m(tokens)
            assert not torch.allclose(pushed, plain)
        assert torch.equal(m(tokens), plain)
    with pytest.raises(ValueError, match="hook='x'"), edit(m, "x", lambda x: x):
        pass


def test_a_push_towards_the_end_token_ends_answers_and_a_random_one_does_not(tmp_path):
    m = model()
    direction = m.embed.weight[EOS].detach().numpy() - m.embed.weight.mean(0).detach().numpy()
    direction = direction / np.linalg.norm(direction)
    some = SOURCE.documents(range(8))
    log = ResumeLog(tmp_path / "metrics.jsonl")

    def answer(label):
        return sample_responses(m, some, WORLD, log, label, budget=20, seed=0)

    rows = steer(m, "blocks.1.hook_resid_post", direction, 1.0, (50.0,), 2, 0, answer)
    ends = {row["push"]: row["ends"]["value"] for row in rows}
    assert ends["none"] < 0.5 and ends[DIRECTION] == 1.0 and list(ends)[2:] == [f"{RANDOM} 1", f"{RANDOM} 2"]
    assert max(ends[f"{RANDOM} 1"], ends[f"{RANDOM} 2"]) < 0.8
    change = next(row["ends_change"] for row in rows if row["push"] == DIRECTION)
    assert change["value"] == pytest.approx(1 - ends["none"])
    assert np.mean(answer("again").ended) == ends["none"], "the steering is gone afterwards"


def test_what_fades_first_is_read_off_the_rows():
    def row(state, step, layer, own, frozen, high, random=0.6):
        cells = {"own": {"value": own, "low": own - 0.02, "n": 9}, "frozen": {"value": frozen, "n": 9}}
        changes = {"change": {"high": high}, "frozen_change": {"high": -0.1 if frozen < 0.75 else 0.0}}
        same = {"validation": own, "majority": 0.5, "random_weights": random}
        return {"state": state, "step": step, "layer": layer} | cells | changes | same

    steps = (0, 10, 20, 30)
    high = {0: 0.0, 10: -0.1, 20: -0.1, 30: -0.1}
    rows = [row("known", s, 1, 0.9 - 0.009 * s, 0.9 - 0.03 * s, high[s]) for s in steps]
    rows += [row("known", s, 0, 0.95, 0.95, 0.0) for s in steps]  # the embedding is no choice
    passing = {0: 0.0, 10: -0.1, 20: 0.0, 30: 0.0}
    rows += [row("value", s, 1, {10: 0.5}.get(s, 0.9), 0.9, passing[s]) for s in steps]
    rows += [row("nece", s, 1, 0.61 - 0.001 * s, 0.5, -0.1) for s in steps]  # no more than random weights tell
    log = [{"step": s, "length_mean": 20.0 + (s > 12) * 10, "truncation": 0.0, "loss": 1.0} for s in range(1, 31)]
    found = {row["what"]: row for row in collapse.fading_order(rows, log)}
    assert found["known (own)"]["layer"] == 1 and found["known (own)"]["control"] == 0.6
    assert (found["known (own)"]["lower_from"], found["known (own)"]["half_gone"]) == (10, 20)
    assert (found["known (frozen)"]["lower_from"], found["known (frozen)"]["half_gone"]) == (10, 10)
    assert found["value (own)"]["lower_from"] is found["value (own)"]["half_gone"] is None, "it came back"
    assert not found["nece (own)"]["readable"] and found["nece (frozen)"]["half_gone"] is None
    assert found["length_mean (log)"]["moves"] == 13 and found["truncation (log)"]["moves"] is None
    assert found["repetition (log)"]["moves"] is None
    embedding = collapse.fading(rows, "known", 0, "own")
    assert (embedding["layer"], embedding["lower_from"], embedding["half_gone"]) == (0, None, None)
    assert collapse.fading(rows, "known", 1, "own") == found["known (own)"]


@pytest.mark.parametrize("student", ["zoo/tiny-student-0", None, "nowhere", "zoo/gone"])
def test_the_course_starts_at_the_student_wherever_it_is_kept(tmp_path, student):
    (tmp_path / "config.yaml").write_text(f"student: {student or 'null'}\n")
    steps = (5, 10, 15, 20)
    lines = [
        json.dumps({"step": step, "path": f"checkpoints/step-{step}", "sha256": {"state.json": "0"}}) for step in steps
    ]
    (tmp_path / "checkpoints.jsonl").write_text("\n".join(lines) + "\n")
    for step in steps[1:]:  # the first has been pruned
        (tmp_path / "checkpoints" / f"step-{step}").mkdir(parents=True)
    found = collapse.checkpoints_of(tmp_path, 0)
    assert list(found) == [*([0] if student == "zoo/tiny-student-0" else []), 10, 15, 20]
    assert list(collapse.checkpoints_of(tmp_path, 2)) == [min(found), 20]
    assert all(path.is_dir() for path in found.values())


def test_done_is_asked_after_the_last_step_and_after_one_before_it():
    config = ProbeConfig(model="x", data=DataConfig("tiny", {"ops": 4, "edges": 8}))
    config = replace(config, probe=replace(config.probe, queries=QueryConfig(fit=30, validation=20, test=20)))
    pieces = state_steering.queries_of("done", config)
    table, stop = pieces.fit, int(WORLD.phrases[STOP])
    documents = table.documents
    behind = state_steering._endings(table, "done", WORLD)[:, 0]
    assert (behind == stop).all() and 0.4 < table.label.mean() < 0.6 and len(np.unique(table.row)) == len(table)
    for q in range(len(table)):
        begin = documents.offsets[table.row[q]]
        following = int(documents.tokens[begin + table.cut[q] + 1])
        assert (following == ANSWER) == bool(table.label[q])
        assert table.cut[q] >= documents.prompt[table.row[q]]


def test_a_planted_direction_is_found_and_a_frozen_probe_reads_it_only_where_it_was():
    rng = np.random.default_rng(5)
    label = rng.integers(0, 2, 300)
    way = rng.standard_normal(8)
    way /= np.linalg.norm(way)
    states = torch.from_numpy((rng.standard_normal((1, 300, 8)) + 6 * label[None, :, None] * way).astype(np.float32))
    found = fit_probes([states, states], [label, label], 2, (1e-3,))
    assert (found.predict(states) == label).mean() > 0.97 and found.direction(0) @ way > 0.9
    assert (found.predict(states.flip(-1)) == label).mean() < 0.9
