"""A model's own solutions: what each step knew, which sentences are taken back, what is counted."""

import numpy as np
import pytest
import torch

from models.gpt import GPT, GPTConfig
from probes.queries.labels import TASKS
from probes.queries.model_solutions import Steps, padded_solutions
from probes.queries.table import Queries
from probes.tasks import detection, mistakes, retry_upon_regret
from probes.tasks.detection import AFTER, BEFORE, FittedProbe
from synth.dataset import Source
from synth.judge.checker import KINDS, NOT_READY, RETRY, RIGHT, UNKNOWN, UNNEEDED
from synth.problem.arrays import INSTANCES, SLOTS
from synth.spec import preset
from synth.world.vocabulary import AS, BACK, DEFINE, EOS, SOLUTION, STOP

SOURCE = Source(preset("tiny", ops=4, edges=8, retry_rate=0.3), 2, "train", "probe")
WORLD = SOURCE.world
DOCUMENTS = SOURCE.documents(range(40))


def sentences(i):
    """Token lists of the steps of document i, and of what follows them."""
    at = range(DOCUMENTS.offsets[i] + DOCUMENTS.prompt[i], DOCUMENTS.offsets[i + 1])
    steps: dict = {}
    for n in at:
        steps.setdefault(int(DOCUMENTS.step[n]), []).append(int(DOCUMENTS.tokens[n]))
    rest = steps.pop(-1)
    return [steps[k] for k in sorted(steps)], rest


def written(change=lambda i, steps: steps):
    """Solutions made of the generator's own, after `change` of each one's steps."""
    responses = []
    for i in range(len(DOCUMENTS)):
        steps, rest = sentences(i)
        responses.append([t for step in change(i, steps) for t in step] + rest)
    return padded_solutions(DOCUMENTS, WORLD, responses, max(map(len, responses)))


def unready(i):
    """A parameter of problem i that nothing is known for at the start, or None."""
    p = DOCUMENTS.problems
    for slot in range(SLOTS):
        if p.exists[i, slot] and p.n_terms[i, slot] > 0:
            return p.slot_names()[i, slot].tolist()
    return None


def with_a_premature_step(i, steps):
    """The first real step is done for a parameter that is not ready."""
    name, body = unready(i), next(s for s in steps if WORLD.phrases[BACK] not in s)
    define, keep = [int(WORLD.phrases[DEFINE])], body[3:]
    return [[*define, *name, *keep], *steps] if name else steps


def test_steps_of_the_generators_own_solutions_are_what_the_document_says():
    steps = Steps.of(written(), WORLD)
    assert set(steps.kind) == {RIGHT, RETRY} and not steps.first_mistake.any() and steps.before_mistake.all()
    for task in ("known", "can_next", "nece_next"):
        queries = steps.queries(steps.start)
        assert isinstance(queries, Queries)
        label = steps.labels(task, queries, WORLD.modulus)
        assert (label == (task != "known"))[steps.kind == RIGHT].all()
        if task != "known":
            assert not label[(steps.kind == RETRY) & (steps.slot >= INSTANCES)].all()
    assert not steps.labels("can_next", steps.queries(steps.start), WORLD.modulus)[steps.kind == RETRY].any()
    for m in (0, 3, len(steps) - 1):
        text, i = steps.queries(steps.start).text(m), steps.row[m]
        before = sum(len(s) for s in sentences(i)[0][: steps.number[m]])
        assert np.array_equal(text, DOCUMENTS.tokens[DOCUMENTS.offsets[i] :][: DOCUMENTS.prompt[i] + before])
        assert WORLD.name_of(*steps.name[m]) in WORLD.decode(sentences(i)[0][steps.number[m]])


def test_the_perfect_detector_doubts_what_could_not_come_and_nothing_else():
    steps = Steps.of(written(with_a_premature_step), WORLD)
    first = steps.take(np.flatnonzero(steps.first_mistake))
    assert (first.kind == NOT_READY).mean() > 0.9
    named = steps.take(np.flatnonzero((steps.name[:, 0] >= 0) & (steps.kind != RETRY) & steps.before_mistake))
    could = named.labels("can_next", named.queries(named.start), WORLD.modulus) == 1
    repeated = np.array([KINDS[k] == "repeated" for k in named.kind])
    assert np.array_equal(retry_upon_regret.perfect(named, 0), ~could | repeated)


def model():
    return GPT(GPTConfig(WORLD.size, 1, 1, 16, 512), 0)


def scripted(monkeypatch, replies):
    """`continue_texts` gives the replies in their order, one list for each call."""
    calls = []

    def continued(model, texts, most, **settings):
        calls.append((texts, most, settings))
        return replies(len(calls), texts)

    monkeypatch.setattr(retry_upon_regret, "continue_texts", continued)
    return calls


def test_a_doubted_sentence_is_drawn_anew_and_the_rest_is_kept(monkeypatch):
    start = written(with_a_premature_step)
    wrong = np.flatnonzero(~start.verdicts.right)
    right = [[t for step in sentences(i)[0] for t in step] + sentences(i)[1] for i in range(len(DOCUMENTS))]

    def replies(call, texts):
        """First the right first sentence, then the right rest."""
        found = []
        for text in texts:
            i = next(i for i in wrong if text[: DOCUMENTS.prompt[i]] == DOCUMENTS.prompt_tokens(i).tolist())
            done = len(text) - DOCUMENTS.prompt[i]
            assert text[DOCUMENTS.prompt[i] :] == right[i][:done]
            rest = right[i][done:]
            found.append(rest[: rest.index(int(WORLD.phrases[STOP])) + 1] if call % 2 else rest)
        return found

    calls = scripted(monkeypatch, replies)
    outcome = retry_upon_regret.with_regret(model(), WORLD, start, retry_upon_regret.perfect, 3, 1.0, 0)
    assert outcome.solutions.verdicts.right.all() and len(calls) == 2
    assert outcome.retries_N.tolist() == [int(i in wrong) for i in range(len(DOCUMENTS))]
    assert calls[0][2]["temperature"] == 1.0 and calls[0][2]["eos"] == WORLD.phrases[STOP]
    assert "temperature" not in calls[1][2], "greedily"


def test_retries_are_used_up_and_the_last_text_stays(monkeypatch):
    start = written(with_a_premature_step)
    wrong = ~start.verdicts.right
    tails = {tuple(DOCUMENTS.prompt_tokens(i).tolist()): start.response(i).tolist() for i in np.flatnonzero(wrong)}

    def replies(call, texts):
        found = []
        for text in texts:
            prompt = next(p for p in tails if tuple(text[: len(p)]) == p)
            rest = tails[prompt][len(text) - len(prompt) :]
            found.append(rest[: rest.index(int(WORLD.phrases[STOP])) + 1] if call % 2 else rest)
        return found

    scripted(monkeypatch, replies)
    outcome = retry_upon_regret.with_regret(model(), WORLD, start, retry_upon_regret.perfect, 4, 1.0, 0)
    assert np.array_equal(outcome.retries_N, 4 * wrong) and np.array_equal(outcome.solutions.tokens_NR, start.tokens_NR)
    never = retry_upon_regret.with_regret(model(), WORLD, start, retry_upon_regret.chance(0.0, 0), 4, 1.0, 0)
    assert not never.retries_N.any() and never.solutions is start


def test_a_real_model_goes_through_all_of_it():
    small = model()
    start = retry_upon_regret.written_by(small, DOCUMENTS, WORLD, 40)
    for detector in (retry_upon_regret.perfect, retry_upon_regret.chance(0.7, 0)):
        outcome = retry_upon_regret.with_regret(small, WORLD, start, detector, 3, 1.0, 0)
        again = retry_upon_regret.with_regret(small, WORLD, start, detector, 3, 1.0, 0)
        assert np.array_equal(outcome.solutions.tokens_NR, again.solutions.tokens_NR)
        assert outcome.retries_N.max() <= 3 and outcome.solutions.length_N.max() <= 40
    texts = [DOCUMENTS.prompt_tokens(0).tolist()]
    assert EOS not in retry_upon_regret.continue_texts(small, texts, 30)[0][:-1]


def test_what_a_probe_says_of_first_mistakes_and_unneeded_steps_is_counted():
    steps = Steps.of(written(lambda i, own: with_a_premature_step(i, own) if i % 4 else own), WORLD)

    def always(label):
        return FittedProbe(lambda queries: np.full(len(queries), label), np.zeros(0, bool))

    for label in (0, 1):
        asked = {(task, when): always(label) for task in mistakes.TASKS for when in (BEFORE, AFTER)}
        found = detection.first_wrong(steps, asked, WORLD)
        assert found["can_next"]["accuracy"] == 1 - label and found["can_next"]["n"] > 20
        seen = detection.found_and_suspected(steps, asked["can_next", BEFORE], "can_next", WORLD)
        assert seen["found"]["accuracy"] == seen["suspected"]["accuracy"] == 1 - label
        assert detection.unneeded(steps, asked["nece", BEFORE])["n"] == (steps.kind == UNNEEDED).sum()
    counted = mistakes.taxonomy(steps.solutions)
    assert counted["wrong"] == sum(r["n"] for r in counted["by_ops"]) == (~steps.solutions.verdicts.right).sum()
    assert {r["kind"] for r in counted["by_ops"]} <= {*KINDS, "ends early", "ends late", "ends never", "wrong answer"}


def test_a_response_near_the_budget_cuts_no_other_short(monkeypatch):
    """Nine of ten tokens written, and none: the second one has room for all ten, the first for one."""
    asked = []

    def continued(model, texts, most, **draws):
        asked.append((len(texts), most, draws))
        return [[7] * most for _ in texts]

    monkeypatch.setattr(retry_upon_regret, "continue_texts", continued)
    for most, lengths in ((None, (10, 10)), (4, (10, 4))):
        responses = [[5] * 9, []]
        retry_upon_regret._go_on(model(), DOCUMENTS, responses, np.arange(2), 10, most, temperature=1.0)
        assert tuple(map(len, responses)) == lengths
    assert [room for _, room, _ in asked] == [10, 4]
    assert all(draws == {"temperature": 1.0, "seed": 0} for *_, draws in asked)


def test_responses_that_are_finished_one_by_one_do_not_share_their_noise(monkeypatch):
    """Where the context is too short for all at once, each has a call of its own, and a seed of its own."""
    seeds = []

    def continued(model, texts, most, seed, **draws):
        seeds.append((len(texts), seed))
        return [[7] * most for _ in texts]

    monkeypatch.setattr(retry_upon_regret, "continue_texts", continued)
    small = model()
    retry_upon_regret._go_on(small, DOCUMENTS, [[5], [5]], np.arange(2), small.config.context, temperature=1.0, seed=40)
    assert seeds == [(1, 40), (1, 41)]


def test_a_parameter_that_does_not_exist_has_the_label_no():
    names = WORLD.pool.ravel()[:2].tolist()
    body = sentences(0)[0][-1]
    define = [int(WORLD.phrases[DEFINE])]
    made_up = [*define, *names[::-1], *body[3:]]
    solutions = padded_solutions(DOCUMENTS, WORLD, [made_up] * len(DOCUMENTS), len(made_up))
    steps = Steps.of(solutions, WORLD)
    unknown = steps.take(np.flatnonzero(steps.kind == UNKNOWN))
    assert len(unknown) > 20 and (unknown.slot == -1).all()
    queries = unknown.queries(unknown.start)
    assert not any(unknown.labels(task, queries, WORLD.modulus).any() for task in TASKS if task not in ("value", "dep"))
    assert retry_upon_regret.perfect(unknown, 0).all() and (queries.name == names[::-1]).all()
    assert queries.text(0)[-1] == SOLUTION and int(WORLD.phrases[AS]) == body[3]


@pytest.mark.parametrize("n", [0, 1])
def test_a_text_stops_at_the_end_of_the_document(n, monkeypatch):
    tokens = torch.tensor([[7, EOS, 9, 9]] * 2)
    samples = type("S", (), {"tokens_BT": tokens, "lengths_B": torch.tensor([4, 1])})
    monkeypatch.setattr(retry_upon_regret, "sample", lambda *args, **settings: samples)
    assert retry_upon_regret.continue_texts(model(), [[1], [1]], 4)[n] == [[7, EOS], [7]][n]
