"""Contexts: right by the checker, drawn by address, told before the same problem and solution, and never learned."""

import dataclasses
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from synth.contexts import context_tokens as S
from synth.contexts import privileged as C
from synth.dataset import Source
from synth.documents import CONTEXT_SEGMENT
from synth.judge.checker import KINDS, check, check_responses, reason
from synth.kernel.rng import generators
from synth.spec import preset
from synth.world import vocabulary as W
from train.data.batches import DataConfig, collate

RANDOM = {"letter_order": "random", "ops": 5, "edges": 8}
COUNT = 300
EVERYTHING = "gold+partial+final+success3+failure2+attempt+hint"


def source(recipe, **settings):
    mixture = recipe if isinstance(recipe, dict) else {recipe: 1.0}
    return Source(preset("tiny", contexts=mixture, **{**RANDOM, **settings}), seed=2)


def told(recipe, **settings):
    """(documents, sections of each by marker) of a stream with one recipe."""
    documents = source(recipe, **settings).documents(range(COUNT))
    return documents, [cut_sections(S.cut(documents.prompt_tokens(i))[0]) for i in range(COUNT)]


def cut_sections(tokens):
    starts = [i for i, t in enumerate(tokens) if t in S.MARKERS.values()]
    return [(tokens[a], tokens[a + 1 : b]) for a, b in pairwise([*starts, len(tokens)])]


def verdict(documents, i, steps):
    row = np.array([[*steps, W.EOS]])
    return check(documents.problems.take(i), source("none").world, row, np.array([row.size]))


# --- what stands in the sections ----------------------------------------------------------------------------------


def test_solutions_are_right_and_failures_wrong_by_the_checker():
    documents, contexts = told(EVERYTHING)
    seen = Counter()
    for i, found in enumerate(contexts):
        markers = [marker for marker, _ in found]
        expected = [W.GOLD, W.PARTIAL, W.FINAL, *[W.SUCCESS] * 3, *[W.FAILURE] * 2, W.ATTEMPT, W.HINT]
        assert markers == expected
        for marker, tokens in found:
            if marker == W.ATTEMPT:
                tokens, flag = tokens[:-1], tokens[-1]
                assert flag == (W.RIGHT if verdict(documents, i, tokens).right[0] else W.WRONG)
                seen[W.SPECIALS[flag]] += 1
            elif marker in (W.GOLD, W.SUCCESS):
                assert verdict(documents, i, tokens).right[0]
            elif marker == W.FAILURE:
                judged = verdict(documents, i, tokens)
                assert not judged.right[0]
                seen[reason(judged, 0)] += 1
            elif marker == W.PARTIAL:
                judged = verdict(documents, i, tokens)
                assert judged.first_mistake[0] == -1
                assert 1 <= judged.steps[0] <= max(1, documents.problems.scalars[i, 4] - 1)
            else:
                assert tokens == [W.ANSWER, source("none").world.first_number + documents.problems.answer[i]]
    assert 0.4 < seen["<right>"] / COUNT < 0.6
    assert {"wrong answer", "ends early", "not ready", "wrong arithmetic"} <= set(seen)


def test_feedback_names_the_first_wrong_step_and_its_kind():
    documents, contexts = told("attempt+feedback")
    kinds = Counter()
    order = [*KINDS[3:], "ends early", "ends late", "ends never", "wrong answer"]
    for i, found in enumerate(contexts):
        (_, tokens), (marker, feedback) = found
        assert marker == W.FEEDBACK and tokens[-1] == W.WRONG
        judged = verdict(documents, i, tokens[:-1])
        assert feedback[-1] == W.FIRST_KIND + order.index(reason(judged, 0))
        first = judged.first_mistake[0]
        if first >= 0:
            step = tokens[judged.start[0, first] : judged.stop[0, first]]
            assert feedback[:-1] == [t for t in step if t >= source("none").world.first_name]
        else:
            assert len(feedback) == 1
        kinds[reason(judged, 0)] += 1
    assert len(kinds) >= 5


def test_feedback_alone_is_that_of_the_same_unseen_attempt():
    _, both = told("attempt+feedback")
    _, alone = told("feedback")
    assert [found[1:] for found in both] == alone


def test_a_wrong_hint_claims_another_number():
    documents, contexts = told("wrong_hint")
    claimed = np.array([found[0][1][1] for found in contexts]) - source("none").world.first_number
    assert (claimed != documents.problems.answer).all()
    offset = (claimed - documents.problems.answer) % 7
    assert stats.chisquare(np.bincount(offset, minlength=7)[1:]).pvalue > 1e-3


def test_gold_is_independent_of_the_target_so_it_repeats_it_by_chance_only():
    """Two draws of one distribution agree with probability E[p(target)]; with random letters hardly ever."""
    wide = preset("med", ops=6, edges=12, exact_ops=True, letter_order="ordered", contexts={"gold": 1})
    same, chances = 0, []
    documents = Source(wide, seed=2).documents(range(COUNT))
    for i in range(COUNT):
        chance = np.exp(documents.logp[documents.offsets[i] : documents.offsets[i + 1]].sum())
        if chance < 1 - 1e-9:
            chances.append(chance)
            gold = S.cut(documents.prompt_tokens(i))[0][1:]
            same += gold == S.written(documents.response(i))
    assert len(chances) > 100
    assert abs(same - sum(chances)) < 3.3 * np.sqrt(sum(p * (1 - p) for p in chances))
    documents, contexts = told("gold")
    copies = [found[0][1] == S.written(documents.response(i)) for i, found in enumerate(contexts)]
    assert np.mean(copies) < 0.05  # a solution of one letter agrees once in 16
    assert not any(c for c, n in zip(copies, documents.problems.ops, strict=True) if n > 2)


def test_concise_asks_for_the_shortest_solution_and_nothing_else_does():
    short, _ = told("concise+gold", shortest=False)
    long = source("none", shortest=False).documents(range(COUNT))
    needed = short.problems.scalars[:, 4]
    for documents, at_most in ((short, True), (long, False)):
        rows = [documents.response(i) for i in range(COUNT)]
        judged = check_responses(documents.problems, source("none").world, rows)
        assert judged.right.all()
        assert (judged.steps == needed).all() if at_most else (judged.unneeded > 0).mean() > 0.3
    assert np.array_equal(short.problems.value, long.problems.value)
    assert np.isfinite(short.logp).all() and (short.loss[short.segment >= 3] == 1).all()
    with pytest.raises(ValueError, match=r"concise asks for nothing with shortest=True; accepted: shortest=False"):
        source("concise")


@pytest.mark.parametrize(
    "settings",
    [{"missing_premise": 1.0}, {"retry_kind": "slip", "retry_rate": 0.5, "uncorrected": 0.5}, {"retry_rate": 0.5}],
)
def test_contexts_hold_with_missing_premises_and_mistakes_in_the_stream(settings):
    documents, contexts = told("gold+failure2+attempt+feedback+hint", **settings)
    for i, found in enumerate(contexts):
        sections = dict(found)
        assert verdict(documents, i, sections[W.GOLD]).right[0]
        assert not verdict(documents, i, sections[W.FAILURE]).right[0]
        assert not verdict(documents, i, sections[W.ATTEMPT][:-1]).right[0]
        assert sections[W.HINT] == sections[W.GOLD][-2:]


# --- the documents ------------------------------------------------------------------------------------------------


def test_problem_solution_and_prices_are_the_same_with_and_without():
    bare = source("none").documents(range(COUNT))
    for recipe in (EVERYTHING, "feedback", "wrong_hint"):
        documents = source(recipe).documents(range(COUNT))
        inside = documents.segment != CONTEXT_SEGMENT
        for track in C.TRACKS:
            assert np.array_equal(getattr(documents, track)[inside], getattr(bare, track), equal_nan=True)
        for ours, theirs in zip(documents.problems, bare.problems, strict=True):
            assert np.array_equal(ours, theirs)
        for i in range(COUNT):
            assert documents.prompt_tokens(i)[-1] == W.SOLUTION
            assert (
                documents.prompt[i] == bare.prompt[i] + (~inside)[documents.offsets[i] : documents.offsets[i + 1]].sum()
            )


def test_context_tokens_carry_no_loss_no_price_no_step():
    documents = source(EVERYTHING).documents(range(COUNT))
    outside = documents.segment == CONTEXT_SEGMENT
    assert outside.sum() > 20 * COUNT
    assert not documents.loss[outside].any() and not documents.logp[outside].any()
    assert (documents.step[outside] == -1).all() and (documents.param[outside] == -1).all()
    for loss_on in ("solution", "all"):
        batch = collate(documents, np.arange(COUNT), loss_on)
        for i, row in enumerate(batch.loss_BT.numpy()):
            context = len(S.cut(documents.prompt_tokens(i))[0])
            assert not row[:context].any()
            assert row[documents.prompt[i] : np.diff(documents.offsets)[i]].all()


def test_a_context_is_addressed_by_seed_stream_and_index():
    mixed = source({"none": 1, EVERYTHING: 1, "feedback": 1, "success2": 1})
    base = mixed.documents(range(40))
    part = mixed.documents([17, 3, 33])
    for k, i in enumerate((17, 3, 33)):
        assert np.array_equal(part.prompt_tokens(k), base.prompt_tokens(i))
    other = Source(mixed.spec, seed=3).documents(range(40))
    stream = Source(mixed.spec, seed=2, stream="validation").documents(range(40))
    assert not np.array_equal(other.tokens, base.tokens) and not np.array_equal(stream.tokens, base.tokens)


def test_recipes_are_drawn_with_their_weights():
    mixed = source({"none": 4, "gold": 2, "final": 1, "attempt+feedback": 3, "hint": 0})
    counted = Counter(C.recipes(mixed, range(4000)))
    assert set(counted) == {"none", "gold", "final", "attempt+feedback"}
    expected = [1600, 800, 400, 1200]
    assert stats.chisquare([counted[r] for r in ("none", "gold", "final", "attempt+feedback")], expected).pvalue > 1e-3
    documents = mixed.documents(range(500))
    for i, recipe in enumerate(C.recipes(mixed, range(500))):
        markers = [marker for marker, _ in cut_sections(S.cut(documents.prompt_tokens(i))[0])]
        assert markers == [S.MARKERS[name] for name, _ in S.parse(recipe)]


def test_the_ready_made_mixture_fits_the_models(root):
    import yaml

    data = DataConfig(**yaml.safe_load((root / "configs/data/contexts.yaml").read_text()))
    context = yaml.safe_load((root / "configs/model/nano.yaml").read_text())["context"]
    assert np.diff(data.source("train").documents(range(1000)).offsets).max() < context


# --- given rollouts -----------------------------------------------------------------------------------------------

PLAIN = source("none")
PROBLEMS = PLAIN.problems(range(30))


def group(i, recipe="success2+failure1", size=8):
    """Responses to one problem, right and wrong, some of the same text."""
    problem = PROBLEMS.take(i)
    many = problem.repeat(size)
    right, _ = C.solutions(PLAIN, many, np.arange(size), "group")
    wrong, _ = C.failures(PLAIN, many, np.arange(size), "group")
    responses = [*right[: size // 2], *wrong[: size // 2], right[0], wrong[0][:-1]]
    everyone = problem.repeat(len(responses))
    return problem, responses, check_responses(everyone, PLAIN.world, responses)


@given(st.integers(0, 29), st.integers(0, 9))
def test_the_response_that_is_scored_is_never_its_own_peer(i, own):
    problem, responses, verdicts = group(i)
    made = C.material(PLAIN.world, problem, responses, verdicts, own, generators(0, "peers", [i])[0])
    mine = S.written(responses[own])
    texts = [S.written(r) for r in responses]
    assert mine not in made.success and mine not in made.failure
    assert len(made.success) + len(made.failure) == sum(text != mine for text in texts)
    for text in made.success:
        assert any(text == t and verdicts.right[j] for j, t in enumerate(texts))
    for text in made.failure:
        assert any(text == t and not verdicts.right[j] for j, t in enumerate(texts))
    assert made.attempt == mine and made.attempt_right == bool(verdicts.right[own])
    assert bool(made.feedback) != made.attempt_right
    built = S.build("success3+failure2+attempt", made)
    assert sum(mine == s[1:] for s in built) == 0 and built[-1][1:-1] == mine
    assert built[-1][-1] == (W.RIGHT if verdicts.right[own] else W.WRONG)


def test_teachers_and_pretraining_write_a_section_alike():
    documents = source("attempt+feedback").documents(range(20))
    for i in range(20):
        context, prompt = S.cut(documents.prompt_tokens(i))
        attempt = [*cut_sections(context)[0][1][:-1], W.EOS]
        problem = documents.problems.take(i)
        judged = check_responses(problem, PLAIN.world, [attempt])
        made = C.material(PLAIN.world, problem, [attempt], judged, 0, generators(0, "x", [i])[0])
        assert S.compose(S.build("attempt+feedback", made), prompt) == documents.prompt_tokens(i).tolist()


def test_a_group_without_what_is_asked_for_gives_no_section():
    problem, responses, _ = group(3)
    right = responses[:1]
    judged = check_responses(problem, PLAIN.world, right)
    made = C.material(PLAIN.world, problem, right, judged, 0, generators(0, "x", [0])[0], gold=responses[1])
    assert S.build("success2+failure1", made) == [] == S.build("feedback", made)
    assert S.build("gold", made) == [[W.GOLD, *S.written(responses[1])]]
    with pytest.raises(ValueError, match=r"own=1 is no row of a group of 1; accepted: 0 to 0"):
        C.material(PLAIN.world, problem, right, judged, 1, generators(0, "x", [0])[0])
    wrong = [*responses[0][:-2], W.EOS]
    with pytest.raises(ValueError, match=r"gold response is wrong.*accepted: a right one"):
        C.material(PLAIN.world, problem, right, judged, 0, generators(0, "x", [0])[0], gold=wrong)


# --- recipes and text ---------------------------------------------------------------------------------------------


def test_recipes_are_parsed_and_mixtures_normalised():
    assert S.parse("none") == ()
    assert S.parse("success2+failure+gold") == (("success", 2), ("failure", 1), ("gold", 1))
    assert S.mixture({"none": 3, "gold": 1}) == (("gold", 0.25), ("none", 0.75))
    assert S.mixture({"none": 1}) == S.mixture({}) == S.mixture(()) == ()
    spec = preset("tiny", contexts={"none": 1, "gold": 1})
    assert type(spec)(**dataclasses.asdict(spec)) == spec


@pytest.mark.parametrize("recipe", ["", "golden", "gold+gold", "success4", "success0", "gold2", "none+gold", "gold+"])
def test_unknown_recipes_are_refused(recipe):
    with pytest.raises(ValueError, match=r"is no section to add; accepted: none, or sections joined by \+: gold"):
        S.parse(recipe)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"gold": -1}, "contexts.gold=-1 is not possible; accepted: a weight of 0 or more"),
        ({"gold": True}, "contexts.gold=True"),
        ({"gold": float("nan")}, "contexts.gold=nan"),
        ({"gold": 0.0}, "contexts: all weights are 0; accepted"),
        ("gold", "contexts='gold' is no mixture; accepted"),
        (3, "contexts=3 is no mixture; accepted"),
    ],
)
def test_impossible_mixtures_are_refused(setting, words):
    with pytest.raises(ValueError, match=words):
        preset("tiny", contexts=setting)


def test_text_of_a_context_reads_back():
    documents = source(EVERYTHING + "+feedback").documents(range(30))
    for i in range(30):
        tokens, prompt = S.cut(documents.prompt_tokens(i))
        text = S.render(PLAIN.world, tokens)
        assert text.startswith("<gold> Define ") and text.count("\n<success> ") == 3
        assert S.read(PLAIN.world, text) == tokens
        assert S.compose([S.read(PLAIN.world, text)], prompt) == documents.prompt_tokens(i).tolist()
    with pytest.raises(ValueError, match="do not begin with <problem>"):
        S.compose([[W.CONCISE]], documents.prompt_tokens(0))
