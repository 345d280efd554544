"""The teacher's success from the student's prefixes: cut at the right place, continued by the right model, counted."""

import numpy as np
import pytest
import torch

from models.decode.sampling import Samples
from tests.helpers.opd_batches import model
from train.evaluation.evaluator import Evaluation
from train.opd.diagnostics import recovery
from train.opd.diagnostics.recovery import OpdPeriodicConfig, Recovery
from train.opd.teacher.external_and_oracle import ExternalTeacher, OracleTeacher, RouteByOps
from train.opd.teacher.self_teachers import InitialStudent, LiveTeacher, TrustRegionTeacher
from train.opd.teacher.teacher import Teacher, TeacherConfig

N = 8


def drawn(source) -> Evaluation:
    """Golds whose last step has a wrong result, but for the first two; the problems are asked one by one."""
    documents = source.documents(range(N))
    golds = [documents.response(i).tolist() for i in range(N)]
    length = np.array([len(row) for row in golds])
    tokens_NR = np.zeros((N, 2 * length.max()), dtype=np.int64)
    for i, row in enumerate(golds):
        tokens_NR[i, : len(row)] = row
        numbers = [t for t, token in enumerate(row) if 0 <= token - source.world.first_number < 7]
        if i >= 2:
            at = numbers[-2]
            tokens_NR[i, at] = source.world.first_number + (row[at] - source.world.first_number + 1) % 7
    encoding = recovery.encoding_of(source)
    problems = documents.problems
    verdicts = encoding.check(problems, tokens_NR, length)
    assert (verdicts.first_mistake >= 0).tolist() == [False] * 2 + [True] * (N - 2)
    every = np.arange(N)
    return Evaluation(
        every, problems.ops, problems.answer, tokens_NR, length, np.ones(N, dtype=bool), verdicts, documents
    )


@pytest.fixture
def asked(monkeypatch, source):
    """A stand-in for `sample` that goes on as the gold does, and notes which model was asked what."""
    documents, seen = source.documents(range(N)), []

    def sample(model, prompts, max_new_tokens, *, generator, eos, pad):
        rows = []
        for text in prompts:
            i = next(i for i in range(N) if text[: documents.prompt[i]] == documents.prompt_tokens(i).tolist())
            seen.append((model, i, len(text) - int(documents.prompt[i])))
            rows.append(documents.response(i).tolist()[seen[-1][2] :][:max_new_tokens])
        tokens = torch.full((len(rows), max(map(len, rows))), pad)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
        zeros = torch.zeros(tokens.shape)
        lengths = torch.tensor([len(row) for row in rows])
        return Samples(tokens, lengths, zeros, zeros, torch.ones(len(rows), dtype=torch.bool))

    monkeypatch.setattr(recovery, "sample", sample)
    return seen


def teacher(source, config: TeacherConfig, *models) -> Teacher:
    return Teacher(config, config.scoring_model(model(source, 0), models, source.spec))


def test_a_teacher_that_goes_on_as_the_gold_does_succeeds_from_cuts_at_the_first_wrong_step(source, asked):
    done, one = drawn(source), model(source, 1)
    found = Recovery(teacher(source, ExternalTeacher(), one), source, 3, 0)(model(source, 0), done)
    assert found["teacher_full_before"] == found["teacher_answer_before"] == found["teacher_answer_after"] == 1.0
    assert found["teacher_prefixes"] == N - 2
    v = done.verdicts
    spans = [(i, v.start[i, v.first_mistake[i]], v.stop[i, v.first_mistake[i]]) for i in range(2, N)]
    assert sorted((i, n) for _, i, n in asked) == sorted((i, n) for i, a, b in spans for n in (a, b) for _ in range(3))


def test_a_teacher_that_never_ends_has_no_success(source, monkeypatch):
    one = model(source, 1)
    found = Recovery(teacher(source, ExternalTeacher(), one), source, 1, 0)(model(source, 0), drawn(source))
    assert found["teacher_full_before"] < 0.5 and found["teacher_prefixes"] == N - 2


def test_each_response_is_continued_by_the_model_that_teaches_it(source, asked):
    models = [model(source, 1), model(source, 2)]
    done = drawn(source)
    Recovery(teacher(source, ExternalTeacher(route=RouteByOps(bounds=[1])), *models), source, 1, 0)(
        model(source, 0), done
    )
    assert asked and all((who is models[0]) == (done.ops[i] <= 1) for who, i, _ in asked)
    asked.clear()
    student = model(source, 0)
    found = Recovery(teacher(source, LiveTeacher()), source, 1, 0)(student, done)
    assert found and all(who is student for who, _, _ in asked)


def test_no_success_is_given_where_no_single_model_could_write_or_nothing_is_wrong(source, asked):
    done = drawn(source)
    for config in (OracleTeacher(policy="continue"), TrustRegionTeacher(rate=0.5)):
        assert Recovery(teacher(source, config), source, 1, 0)(model(source, 0), done) == {}
    right = Evaluation(*(vars(done)[f] if f != "verdicts" else done.verdicts._replace(
        first_mistake=np.full(N, -1, dtype=np.int32)) for f in vars(done)))  # fmt: skip
    assert Recovery(teacher(source, ExternalTeacher(), model(source, 1)), source, 1, 0)(model(source, 0), right) == {}


def test_a_self_teacher_reads_its_context_before_it_goes_on(source, monkeypatch):
    texts = []
    keep = recovery.sample
    monkeypatch.setattr(
        recovery, "sample", lambda m, prompts, *a, **k: texts.extend(prompts) or keep(m, prompts, *a, **k)
    )
    done, student = drawn(source), model(source, 0)
    Recovery(teacher(source, InitialStudent(context="gold")), source, 1, 0)(student, done)
    gold = source.world.vocabulary.index("<gold>")
    assert texts and all(text[0] == gold for text in texts)


def test_settings_without_effect_are_refused():
    with pytest.raises(ValueError, match=r"evaluate.continuations=1 has no effect with evaluate.samples_per_problem=0"):
        OpdPeriodicConfig(continuations=1)
    with pytest.raises(ValueError, match=r"continuations=-1: accepted: 0 or more"):
        OpdPeriodicConfig(continuations=-1, samples_per_problem=1)
