"""Problems with a missing premise, against the complete problem of the same index and definitions in plain Python."""

import numpy as np
import pytest
from scipy import stats

from synth.dataset import Source
from synth.judge.audit_record import audit_record
from synth.judge.check_text import check_text
from synth.judge.checker import EARLY, ENDED, LATE, MALFORMED, NEVER, NOT_READY, UNDETERMINED, check
from synth.problem import arrays as P
from synth.problem.arrays import INSTANCES, MISSING, SPLIT_BIN, dependencies
from synth.problem.records import from_record, to_record
from synth.spec import preset
from synth.store import writers
from synth.view.text import show
from synth.world import vocabulary as W

COUNT = 400
COMPLETE = Source(preset("med"), 3, "train")
SOURCE = Source(preset("med", missing_premise=1.0), 3, "train")
DOCUMENTS, WHOLE = SOURCE.documents(range(COUNT)), COMPLETE.problems(range(COUNT))
WORLD = SOURCE.world
LOST = DOCUMENTS.problems.scalars[:, MISSING]
SOME = [i for i in range(COUNT) if LOST[i] >= 0]


def candidates(problem) -> list[int]:
    """Instances that may be taken away from a complete problem: named by a needed sentence, or else the query."""
    needed = [s for s in range(INSTANCES) if problem.needed[0, s]]
    named = {f for s in needed for f in dependencies(problem, s) if f < INSTANCES}
    query = int(problem.query[0])
    return sorted(named) or ([query] if query < INSTANCES else [])


def derivable(problem) -> set[int]:
    """What follows from the sentences of an incomplete problem."""
    known: set[int] = set()
    while True:
        more = {
            int(s) for s in np.flatnonzero(problem.exists[0]) if set(dependencies(problem, int(s))) <= known
        } - known
        if not more:
            return known
        known |= more


def test_what_is_taken_away_is_uniform_over_what_may_be():
    ranks = []
    random = np.random.default_rng(0)
    for i in range(COUNT):
        allowed = candidates(WHOLE.take(i))
        assert (LOST[i] in allowed) if allowed else LOST[i] < 0
        if len(allowed) > 1:
            ranks.append((allowed.index(LOST[i]) + random.random()) / len(allowed))
    assert len(ranks) > 100 and stats.kstest(ranks, "uniform").pvalue > 1e-4
    assert any(LOST[i] == WHOLE.query[i] for i in SOME) and len(SOME) < COUNT


def test_nothing_else_changes():
    """The same structure, names, sentences but one, query and split bin; values of what can still be derived."""
    incomplete = DOCUMENTS.problems
    for field in ("widths", "items", "categories", "exists"):
        assert np.array_equal(getattr(incomplete, field), getattr(WHOLE, field))
    assert np.array_equal(incomplete.query, WHOLE.query)
    assert np.array_equal(incomplete.scalars[:, SPLIT_BIN], WHOLE.scalars[:, SPLIT_BIN])
    for i in SOME:
        problem, whole = incomplete.take(i), WHOLE.take(i)
        count, known = int(problem.scalars[0, P.N_SENTENCES]), derivable(problem)
        assert count == whole.scalars[0, P.N_SENTENCES] - 1 == problem.scalars[0, P.EDGES] - 1
        assert [s for s in whole.sentences[0] if s not in (-1, LOST[i])] == list(problem.sentences[0, :count])
        assert (problem.sentences[0, count:] == -1).all()
        assert int(problem.query[0]) not in known and problem.answer[0] == -1
        for s in np.flatnonzero(problem.exists[0]):
            assert problem.value[0, s] == (whole.value[0, s] if s in known else -1)
        above, stack = set(), [int(problem.query[0])]
        while stack:
            if (s := stack.pop()) not in above:
                above.add(s)
                stack += dependencies(problem, s)
        needed = above & known
        assert set(np.flatnonzero(problem.needed[0])) == needed
        order = [int(s) for s in whole.topo[0] if s in needed]
        assert [int(s) for s in problem.topo[0] if s >= 0] == order and problem.scalars[0, P.N_NEEDED] == len(order)


def test_the_solution_derives_what_it_can_and_says_so():
    phrase, stop = WORLD.phrases[[W.UNDETERMINED, W.STOP]]
    for i in SOME:
        problem, response = DOCUMENTS.problems.take(i), DOCUMENTS.response(i)
        span = slice(DOCUMENTS.offsets[i], DOCUMENTS.offsets[i + 1])
        assert list(response[-5:]) == [phrase, stop, W.ANSWER, phrase, W.EOS]
        steps = DOCUMENTS.param[span][(DOCUMENTS.segment[span] == 3)]
        assert set(steps) - {-1} == set(np.flatnonzero(problem.needed[0]))
        text = WORLD.decode(response[:-3])
        assert text.endswith(" Undetermined.") and text.count(";") == problem.ops[0]
        assert DOCUMENTS.logp[span][-5:].sum() == 0
    assert (DOCUMENTS.mistake == 0).all() and np.isfinite(DOCUMENTS.logp).all()


def test_the_rate_is_the_share_of_those_that_can():
    problems = Source(preset("med", missing_premise=0.3), 3, "train").problems(range(COUNT))
    lost = (problems.scalars[:, MISSING] >= 0)[SOME]
    assert stats.binomtest(int(lost.sum()), len(SOME), 0.3).pvalue > 1e-4
    assert np.array_equal(problems.items, WHOLE.items)


@pytest.mark.parametrize("settings", [{}, {"order": "qp"}, {"retry_rate": 0.3}, {"shortest": False}], ids=str)
def test_records_are_proved_and_read_back(settings):
    source = Source(preset("med", missing_premise=0.7, **settings), 5, "all")
    documents = source.documents(range(50))
    for i in range(50):
        record = writers.record(source, documents, i, i)
        assert not list(audit_record(record)), record
        problem = from_record(record, source.world)
        assert to_record(problem, source.world, record["order"]).items() <= record.items()
        assert (record["missing"] is None) == (record["answer"] is not None) == (problem.answer[0] >= 0)
        assert check_text(problem, source.world, record["solution"]).right[0]
        assert check(problem, source.world, [documents.response(i)], [10**6]).right[0]
        page = show(source, documents, i, i, False)
        assert page.endswith("Answer  undetermined") == (record["missing"] is not None) == ("not given" in page)


def incomplete_record(**settings) -> tuple[Source, dict]:
    """A record with a missing premise that is not the query, and three steps or more."""
    source = Source(preset("med", missing_premise=1.0, ops=12, exact_ops=True, **settings), 5, "all")
    records = writers.records(source, 0, 60)
    return source, next(r for r in records if r["missing"] not in (None, r["query"]) and len(r["needed_order"]) > 2)


def test_records_that_contradict_themselves_are_refused():
    source, record = incomplete_record()
    rows = {p["name"]: p for p in record["parameters"]}

    def changed(name: str, **fields) -> dict:
        return {**record, "parameters": [{**p, **fields} if p["name"] == name else p for p in rows.values()]}

    given = next(n for n, p in rows.items() if p["kind"] == "instance" and n != record["missing"])
    abstract = next(n for n, p in rows.items() if p["kind"] == "abstract")
    for wrong in (
        {**record, "missing": None},
        {**record, "missing": given},
        {**record, "missing": "Nobody's Thing"},
        changed(record["missing"], given=True),
        changed(record["missing"], value=3),
        changed(record["missing"], constant=3),
        changed(record["missing"], terms=[[given]]),
        changed(record["query"], value=3),
        changed(given, given=False),
        changed(abstract, given=False) | {"missing": abstract},
    ):
        with pytest.raises(ValueError, match="bad or missing field"):
            from_record(wrong, source.world)
        assert list(audit_record(wrong))
    assert list(audit_record({**record, "solution": record["solution"].replace(" Undetermined.", "")}))


def respond(text: str, answer: int) -> list[int]:
    return [*WORLD.encode(text), W.ANSWER, answer, W.EOS]


def test_the_end_of_an_incomplete_problem_is_judged():
    _, record = incomplete_record()
    problem, word = from_record(record, WORLD), int(WORLD.phrases[W.UNDETERMINED])
    said, number = " Undetermined.", WORLD.first_number + 4
    body = record["solution"].removesuffix(said)
    steps = [f" Define {s}" for s in body.split(" Define ")[1:]]
    short, back = "".join(steps[:-1]), f" Define {record['missing']} as BACK."
    letter = next(x for x in W.letter_names(52) if f" {x} " not in body and f" {x};" not in body)
    guess = f" Define {record['missing']} as {letter}; so {letter} = 4."
    for text, answer, ending, answer_right, right, first in (
        (body + said, word, ENDED, True, True, -1),
        (back + body + said, word, ENDED, True, True, -1),
        (body + back + said, word, ENDED, True, True, -1),
        (body + said, number, ENDED, False, False, -1),
        (body + said, W.EOS, ENDED, False, False, -1),
        (body, word, EARLY, True, False, -1),
        (body, number, EARLY, False, False, -1),
        (short + said, word, EARLY, True, False, -1),
        (said, word, EARLY, True, False, -1),
        ("", word, EARLY, True, False, -1),
        (short + said + steps[-1], word, EARLY, True, False, -1),
        (body + said + said, word, EARLY, True, False, -1),
        (body + said + back, word, LATE, True, False, -1),
        (body + guess + said, word, ENDED, True, False, NOT_READY),
        (body + " Undetermined", word, ENDED, True, False, MALFORMED),
        (body + said[:-1] + " Undetermined.", word, EARLY, True, False, MALFORMED),
    ):
        tokens = respond(text, answer)
        v = check(problem, WORLD, [tokens], [len(tokens)])
        kind = v.kind[0, v.first_mistake[0]] if v.first_mistake[0] >= 0 else -1
        found = (v.ending[0], v.answer_right[0], v.right[0], kind)
        assert found == (ending, answer_right, right, first), (text[-60:], found)
        assert v.published[0] or not right
        assert (v.answer[0] == UNDETERMINED) == (answer == word)
    cut = respond(body + said, word)[:-1]
    assert check(problem, WORLD, [cut], [len(cut)]).ending[0] == NEVER
    for answer, right in ((None, True), (UNDETERMINED, True), (-1, False), (4, False)):
        assert check_text(problem, WORLD, body + said, answer).right[0] == right
    assert not check_text(problem, WORLD, body).right[0]


def test_a_complete_problem_is_not_undetermined():
    documents, word = COMPLETE.documents(range(30)), int(WORLD.phrases[W.UNDETERMINED])
    for i in range(30):
        problem, response = documents.problems.take(i), documents.response(i)
        text, number = WORLD.decode(response[:-3]), int(response[-2])
        last = text.rindex(" Define")
        for words, answer, ending in (
            (text[:last] + " Undetermined.", word, EARLY),
            (text[:last] + " Undetermined.", number, EARLY),
            (" Undetermined." + text, number, LATE),
            (text + " Undetermined.", number, LATE),
            (text, word, ENDED),
        ):
            v = check(problem, WORLD, [respond(words, answer)], [10**6])
            assert v.ending[0] == ending and not v.right[0] and not v.published[0]
            assert v.answer_right[0] == (answer == number) and v.first_mistake[0] == -1
