"""Evaluation: answers are matched to their problems, counts add up, and the held-out loss is what it says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.decode.sampling import Samples
from models.gpt import GPT, GPTConfig
from synth.oracle.next_token import Oracle
from synth.store.files import read_json_lines
from tests.helpers.untrained_models import SMALL_WORLD, perturbed
from train.core.budget_and_ledger import TrainState
from train.data.batches import DataConfig
from train.evaluation import evaluator
from train.evaluation.callback import EvaluationCallback, EvaluationCallbackConfig
from train.evaluation.evaluator import Sampling, check_context_length, evaluate, held_out_loss

SOURCE = DataConfig("tiny", {"ops": 2, "edges": 4}).source("test", "validation")
N = 24
MODEL = GPT(GPTConfig(len(SOURCE.world.vocabulary), n_layer=1, n_head=2, n_embd=16, context=256))


def answering(responses):
    """A stand-in for `sample` that gives each prompt the response listed for it, cut at the budget."""

    def sample(model, prompts, max_new_tokens, *, eos, pad, **settings):
        rows = [responses[tuple(p)][:max_new_tokens] for p in prompts]
        tokens = torch.full((len(rows), max(map(len, rows))), pad)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
        lengths = torch.tensor([len(row) for row in rows])
        finished = torch.tensor([row[-1] == eos for row in rows])
        zeros = torch.zeros(tokens.shape)
        return Samples(tokens, lengths, zeros, zeros, finished)

    return sample


def gold():
    documents = SOURCE.documents(range(N))
    return {tuple(documents.prompt_tokens(i).tolist()): documents.response(i).tolist() for i in range(N)}


def test_right_answers_are_found_right_whatever_the_batching(monkeypatch):
    monkeypatch.setattr(evaluator, "sample", answering(gold()))
    for batch in (5, 128):
        done = evaluate(MODEL, SOURCE, range(N), batch=batch)
        summary = done.summary()
        assert summary["full"]["rate"] == summary["answer"]["rate"] == 1.0 and summary["truncation"] == 0.0
        assert summary["full"]["high"] == 1.0 > summary["full"]["low"] > 0.8
        assert sum(row["n"] for row in summary["by_ops"]) == N == sum(row["right"] for row in summary["by_ops"])
        documents = SOURCE.documents(range(N))
        assert done.length.tolist() == [len(documents.response(i)) for i in range(N)]
        answers, counts = np.unique(documents.problems.answer, return_counts=True)
        assert summary["floor"] == counts.max() / N and summary["floor_answer"] in answers[counts == counts.max()]


def test_some_wrong_some_cut_off_are_counted_in_their_own_rows(monkeypatch):
    responses, documents = gold(), SOURCE.documents(range(N))
    for i in (3, 7):  # a wrong final answer
        row = responses[tuple(documents.prompt_tokens(i).tolist())]
        wrong = SOURCE.world.first_number + (int(documents.problems.answer[i]) + 1) % SOURCE.world.modulus
        row[-2] = wrong
    row = responses[tuple(documents.prompt_tokens(11).tolist())]
    row[:] = row[:1] * 500  # never ends
    monkeypatch.setattr(evaluator, "sample", answering(responses))
    done = evaluate(MODEL, SOURCE, range(N))
    assert np.flatnonzero(~done.verdicts.right).tolist() == [3, 7, 11]
    summary = done.summary()
    assert summary["truncation"] == pytest.approx(1 / N) and summary["repetition"] == pytest.approx(1 / N)
    assert summary["full"]["rate"] == pytest.approx((N - 3) / N)
    by_ops = {row["ops"]: row for row in summary["by_ops"]}
    for ops in (1, 2):
        lost = sum(int(documents.problems.ops[i]) == ops for i in (3, 7, 11))
        assert by_ops[ops]["n"] - by_ops[ops]["right"] == lost
    records = done.samples(SOURCE, 12)
    assert len(records) == 12 and [r["right"] for r in records] == [i not in (3, 7, 11) for i in range(12)]
    assert not records[11]["finished"] and records[0]["steps"][0]["kind"] == "right"
    assert {r["finish_reason"] for r in records} <= {"stop", "length"} and records[11]["finish_reason"] == "length"
    assert records[0]["prompt"] == SOURCE.world.decode(documents.prompt_tokens(0))


def test_held_out_loss_is_the_mean_over_solution_tokens_and_the_floor_is_the_generators():
    source = DataConfig("tiny", {"ops": 2, "edges": 4, "letter_order": "random"}).source("test", "validation")
    model = GPT(GPTConfig(len(source.world.vocabulary), n_layer=1, n_head=2, n_embd=16, context=256))
    documents, losses, logp, ends = source.documents(range(10)), [], [], []
    for i in range(10):
        tokens = torch.tensor(documents.tokens[documents.offsets[i] : documents.offsets[i + 1]], dtype=torch.long)
        with torch.no_grad():
            loss = F.cross_entropy(model(tokens[None, :-1])[0], tokens[1:], reduction="none")
        losses += loss[documents.prompt[i] - 1 :].tolist()
        ends.append(float((-loss[-1]).exp()))
        logp += documents.logp[documents.offsets[i] + documents.prompt[i] : documents.offsets[i + 1]].tolist()
    found = held_out_loss(model, source, range(10), batch=3)
    assert found["eos"] == pytest.approx(np.mean(ends), rel=1e-4)
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["floor"] == pytest.approx(-np.mean(logp), rel=1e-6) and found["floor"] > 0
    law = Oracle(source.spec).documents(documents)
    logq, steps = [], [len(documents.response(i)) for i in range(10)]
    for i in range(10):
        tokens = torch.tensor(documents.tokens[documents.offsets[i] : documents.offsets[i + 1]], dtype=torch.long)
        with torch.no_grad():
            logq.append(model(tokens[None])[0, documents.prompt[i] - 1 :].log_softmax(-1).numpy())
    kl = law.kl(np.concatenate(logq))
    kept = np.concatenate([np.arange(law.rows[i], law.rows[i] + steps[i]) for i in range(10)])
    assert found["kl"] == pytest.approx(kl[kept].mean(), rel=1e-5)


class Generator(torch.nn.Module):
    """The oracle as a model: the generator's own law behind every prefix it has seen, sharpened by `power`."""

    def __init__(self, source, documents, power=1.0):
        super().__init__()
        law, self.config = Oracle(source.spec).documents(documents), MODEL.config
        dense, self.logits = power * torch.from_numpy(law.log_probs(len(source.world.vocabulary))).clamp(min=-80.0), {}
        for i in range(len(documents)):
            whole = documents.tokens[documents.offsets[i] : documents.offsets[i + 1]].tolist()
            for t in range(len(documents.response(i))):
                self.logits[tuple(whole[: documents.prompt[i] + t])] = dense[law.rows[i] + t]
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, tokens_BT, at_N):
        width, rows = tokens_BT.shape[1], tokens_BT.tolist()
        return torch.stack([self.logits[tuple(rows[n // width][: n % width + 1])] for n in at_N.tolist()])


def test_the_distance_to_the_oracle_is_zero_for_the_generator_itself_and_less_noisy_than_loss_minus_floor():
    source = DataConfig("tiny", {"ops": 2, "edges": 4, "letter_order": "random"}).source("test", "validation")
    documents = source.documents(range(12))
    assert held_out_loss(Generator(source, documents), source, range(12), batch=5)["kl"] == pytest.approx(0, abs=1e-6)
    other = held_out_loss(Generator(source, documents, power=0.0), source, range(12))
    size = len(source.world.vocabulary)
    assert other["loss"] == pytest.approx(np.log(size), rel=1e-5)
    assert other["kl"] == pytest.approx(np.log(size) - other["floor"], rel=0.05)


def test_no_distance_is_given_where_the_law_has_no_closed_form():
    source = DataConfig("tiny", {"ops": 2, "edges": 4, "solution_order": "published"}).source("test", "validation")
    assert "kl" not in held_out_loss(MODEL, source, range(4))
    assert "kl_to_oracle" not in EvaluationCallback(
        source, EvaluationCallbackConfig(every=1, problems=2, documents=4), None
    )(MODEL, TrainState())


def test_periodic_evaluation_is_repeatable_and_writes_the_newest_rollouts(tmp_path):
    periodic = EvaluationCallback(
        SOURCE, EvaluationCallbackConfig(every=1, problems=6, documents=8, samples=2), tmp_path
    )
    first = periodic(MODEL, TrainState(step=1))
    assert periodic(MODEL, TrainState(step=2)) == first
    assert {"held_out_loss", "held_out_floor", "kl_to_oracle", "eval_full", "eval_by_ops"} <= set(first)
    lines = read_json_lines(tmp_path / "samples.jsonl")
    assert [line["step"] for line in lines] == [2, 2] and [line["index"] for line in lines] == [0, 1]


def test_sampled_evaluation_depends_on_its_seed_alone():
    def tokens(seed):
        sampling = Sampling(temperature=1.0, max_new_tokens=6, seed=seed)
        return evaluate(MODEL, SOURCE, range(6), sampling, batch=4).tokens_NR.tolist()

    assert tokens(0) == tokens(0) != tokens(1)


def test_beams_search_what_greedy_does_not_and_are_drawn_at_temperature_one():
    def tokens(**settings):
        return evaluate(MODEL, SOURCE, range(6), Sampling(max_new_tokens=6, **settings)).tokens_NR.tolist()

    assert tokens(beams=4) == tokens(beams=4, seed=1) != tokens()
    assert tokens(beams=4, temperature=1.0) != tokens(beams=4, temperature=1.0, seed=1)


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"max_new_tokens": 0}, {"beams": 0},
        {"beams": 4, "temperature": 0.5}, {"beams": 4, "top_k": 3},
    ],
)  # fmt: skip
def test_impossible_sampling_is_refused(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}="):
        Sampling(**bad)


def test_problems_that_a_model_cannot_read_are_refused_by_name():
    check_context_length(SOURCE, 4, 256, "ood=1")
    with pytest.raises(ValueError, match=r"^ood=1: such problems have up to \d+ tokens, the model reads 30"):
        check_context_length(SOURCE, 4, 30, "ood=1")


def test_what_costs_samples_is_measured_only_when_asked_for():
    config = EvaluationCallbackConfig(every=1, problems=2, documents=4, samples_per_problem=2, sampled_problems=3)
    asked = []
    follow = lambda model, drawn: asked.append(drawn.index.tolist()) or {"more": 1}  # noqa: E731
    harder = DataConfig("tiny", {"ops": 2, "edges": 4}).with_more_ops(1).source("test", "validation")
    found = EvaluationCallback(SOURCE, config, None, harder, follow)(MODEL, TrainState())
    assert asked == [[0, 0, 1, 1, 2, 2]] and found["more"] == 1
    assert {"eval_pass_1", "eval_pass_2", "eval_pass_by_ops", "eval_ood"} <= set(found)
    assert set(harder.documents(range(8)).problems.ops) == {3}
    bare = EvaluationCallback(SOURCE, EvaluationCallbackConfig(every=1, problems=2, documents=4), None)(
        MODEL, TrainState()
    )
    assert (
        not {key for key in bare if "pass" in key or "ood" in key or key == "more"} and 0.0 <= bare["eos_gold"] <= 1.0
    )


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(1.0, beams=3), Sampling(0.7, top_k=5, top_p=0.9)])
def test_draws_belong_to_the_problem_and_not_to_the_batch(sampling):
    """Alone, in a batch, in another order, and beside other problems a problem is drawn the same solution; asked twice
    it is drawn another one."""
    model = perturbed(GPT(GPTConfig(SMALL_WORLD.spec().load_world().size, 1, 2, 8, 256), 0))
    source = SMALL_WORLD.source("test")
    sampling = replace(sampling, max_new_tokens=12)
    whole = evaluate(model, source, [0, 1, 2, 3, 4, 0], sampling)
    single = evaluate(model, source, [0, 1, 2, 3, 4, 0], sampling, batch=1)
    assert (whole.tokens_NR == single.tokens_NR).all()
    some = evaluate(model, source, [4, 0, 2], sampling)
    assert (some.tokens_NR == whole.tokens_NR[[4, 0, 2]]).all()
    assert (whole.tokens_NR[0] != whole.tokens_NR[5]).any()
