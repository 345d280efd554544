"""A judge that learns, a trained reader, a choice among teachers, solutions to choose from, what sources read."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from synth.store import encodings
from tests.helpers.opd_batches import GOLD, V, gradient, logits, model, objective, pair, record
from tests.helpers.opd_methods import judged, method
from train.config.schema import defaults
from train.core import checkpoint
from train.opd.divergence.kl_and_jsd import AdaptiveKL
from train.opd.log_probs import Signals, kl
from train.opd.outcome.outcome import GRPO, RLCSD, DrGRPO
from train.opd.outcome.rewards import Discriminator, pairs
from train.opd.rollout_batch import ORIGINS, positions
from train.opd.source.mixed_samplers import StudentOrGold, WithTeacher
from train.opd.source.replay_buffer import BatchSource
from train.opd.source.rollout_sampling import FreshSolutions, Sampler
from train.opd.teacher.context import add_contexts
from train.opd.teacher.external_and_oracle import ExternalTeacher, Selection
from train.opd.teacher.teacher import HiddenStates
from train.opd.test_time import Demonstrated, Pool, nearest
from train.opd.weight.sample_weights import Likeliest, OfOps
from train.opd.weight.weight import NORMALISERS

NONE = Signals({}, V)


@pytest.fixture(scope="module")
def paired(source, prompts):
    """Three responses of the student and one of the teacher to each prompt."""
    return WithTeacher(samples=3).draw(prompts, 0, model(source, 0), model(source, 1))[0]


def test_a_discriminator_learns_the_pairs_of_each_prompt_and_scores_before_it_learns(source, prompts, paired):
    student, losses = model(source, 0), []
    judge, cut = (Discriminator(lr=0.01).judges(prompts, size)[0] for size in (0, 3))
    before = [p.clone() for p in student.parameters()]
    for step in range(8):
        found, in_pieces = judge(student, paired), cut(student, paired)
        if step == 0:
            torch.testing.assert_close(in_pieces.rollouts.score_B, found.rollouts.score_B)
        s = found.rollouts.score_B.tolist()
        wanted = [np.log1p(np.exp(s[j] - s[i])) for i, j in pairs(paired).nonzero().tolist()]
        assert len(wanted) == 3 * prompts.count and found.loss == pytest.approx(np.mean(wanted))
        losses.append(found.loss)
    assert losses[-1] < 0.7 * losses[0] and found.shares["discriminator_wins"] > 0.8 and found.flops > 0
    assert all(torch.equal(p, old) for p, old in zip(student.parameters(), before, strict=True))


def test_the_teacher_s_responses_are_in_no_group_of_a_learned_reward(source, paired):
    outcome = GRPO(reward=Discriminator())
    own_B = paired.origin_B == ORIGINS.index("student")
    score_B = torch.randn(len(paired), generator=torch.Generator().manual_seed(0))
    count_BR, advantage_BR = outcome.positions(replace(paired, score_B=score_B), 24, None)
    alone = replace(paired, score_B=score_B).rows(own_B.nonzero().squeeze(1))
    wanted = outcome.positions(alone, 24, None)
    width = wanted[0].shape[1]
    torch.testing.assert_close(advantage_BR[own_B][:, :width], wanted[1])
    torch.testing.assert_close(count_BR[own_B][:, :width], wanted[0])
    assert not count_BR[~own_B].any()
    with pytest.raises(ValueError, match="combiner=mask: a learned reward"):
        GRPO(reward=Discriminator(), combiner="mask")
    with pytest.raises(ValueError, match="source=student has none of these; accepted: source=with_teacher"):
        method("grpo", "method.outcome.reward=discriminator")


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_every_outcome_s_normaliser_knows_of_its_own_rows_alone(normaliser, source, paired):
    apart = replace(paired, origin_B=torch.where(paired.origin_B == ORIGINS.index("teacher"), 5, paired.origin_B))
    assert ORIGINS[5] == "privileged"
    own_B = apart.origin_B != 5
    for outcome in (GRPO(normaliser=normaliser), DrGRPO(normaliser=normaliser)):
        count_BR, _ = outcome.positions(apart, 24, None)
        inside_BR = apart.trainable_BR[own_B].float()
        torch.testing.assert_close(count_BR[own_B], inside_BR * NORMALISERS[normaliser](inside_BR, 24))
        assert not count_BR[~own_B].any()
    e_BR = torch.randn(apart.behaviour_BR.shape, generator=torch.Generator().manual_seed(1)) * apart.trainable_BR
    signals = Signals({"log_p": e_BR - 5.0, "log_p_contrast": torch.full_like(e_BR, -5.0)}, V)
    outcome = RLCSD(normaliser=normaliser, tau=1.0, delta=0.2)
    count_BR, _ = outcome.positions(apart, 24, signals)
    moved_BR = apart.trainable_BR & ((0.5 * torch.tanh(e_BR)).abs() > 0.2)
    parts = [mask_BR[own_B].float() for mask_BR in (moved_BR, apart.trainable_BR & ~moved_BR)]
    torch.testing.assert_close(count_BR[own_B], sum(m * NORMALISERS[normaliser](m, 24) for m in parts))


def test_a_trained_reader_has_its_share_of_both_losses(source, prompts, monkeypatch):
    """a J_T + (1 - a) J_S: the teacher's half by hand, from the log-probabilities at both prompts."""
    monkeypatch.setattr(encodings, "check", judged)
    student, words = model(source, 0), ("method.source.samples=3", "method.outcome.clip=null")
    gradients = {}
    for share in (0.0, 0.25, 1.0):
        o = objective(method("pi_distill", *words, f"method.teacher.trained={share}"), prompts, student)
        gradients[share] = gradient(o, student)[1]
    torch.testing.assert_close(gradients[0.25], 0.75 * gradients[0.0] + 0.25 * gradients[1.0], atol=1e-6, rtol=1e-4)
    rollouts, _ = o.method.source.draw(o.prompts, 0, student, None)
    rollouts = add_contexts(rollouts, "gold", o.prompts, 0, 512)
    count_BR, advantage_BR = o.method.outcome.positions(rollouts, 24, None)
    at = positions(rollouts.length_B)
    p_NV, q_NV = (
        torch.log_softmax(HiddenStates(student)(*read, rollouts.length_B) @ student.unembedding.T, dim=-1)
        for read in (rollouts.with_contexts(), (rollouts.tokens_BT, rollouts.prompt_B))
    )
    own_N = p_NV.gather(1, rollouts.response_BR[at][:, None])[:, 0]
    loss = 0.25 * kl(p_NV, q_NV.detach()).mean()  # beta, the mean over tokens
    loss = loss - (count_BR[at] * advantage_BR[at] * (own_N - own_N.detach()).exp()).sum()
    student.zero_grad()
    loss.backward()
    wanted = torch.cat([p.grad.flatten() for p in student.parameters()])
    torch.testing.assert_close(gradients[1.0], wanted, atol=1e-5, rtol=1e-3)
    with pytest.raises(ValueError, match=r"trained=0\.5: without a context"):
        method("sdpg", "method.teacher.trained=0.5", "method.teacher.context=none")


@pytest.mark.parametrize("by", ["agreement", "student"])
def test_the_teacher_is_chosen_that_agrees_with_itself_or_that_the_student_finds_likely(by, source):
    trained, student = (checkpoint.load_model(f"zoo/tiny-{name}-0", name, "cpu") for name in ("teacher", "student"))
    spec = replace(source.spec, edges=9)
    route = Selection(problems=12, samples=3, by=by)
    for place, teachers in ((0, [trained, model(source, 1)]), (1, [model(source, 1), trained])):
        found = ExternalTeacher(route=route).scoring_model(student, teachers, spec)
        assert found.choice["chosen"] == place == int(np.argmax(found.choice["scores"]))
        assert found.models == [trained]
    again = ExternalTeacher(route=route).scoring_model(student, teachers, spec).choice
    assert again == found.choice and ExternalTeacher(route=route).one_model
    with pytest.raises(ValueError, match=r"teachers: 1 checkpoints with teacher\.route=selected; accepted: 2"):
        ExternalTeacher(route=route).scoring_model(student, [trained], spec)


def test_fresh_solutions_are_right_in_other_orders_and_one_of_each_prompt_is_chosen(source, prompts):
    free = replace(prompts, stream=type(source)(replace(source.spec, letter_order="random"), 0, stream="x"))
    rollouts, cost = FreshSolutions(samples=4).draw(free, 2, model(source, 0), None)
    gold, _ = GOLD.draw(free, 2, model(source, 0), None)
    assert rollouts.verdicts.right.all() and cost == 0.0
    assert torch.equal(rollouts.prompt_B, gold.prompt_B.repeat_interleave(4))
    texts = {tuple(row) for row in rollouts.response_BR.tolist()}
    assert len(texts) > prompts.count, "all solutions of a prompt are one"
    log_q_BR = torch.randn(rollouts.behaviour_BR.shape, generator=torch.Generator().manual_seed(0))
    signals = Signals({"log_q": log_q_BR * rollouts.trainable_BR}, V)
    mean_GS = signals.mean("log_q", rollouts).reshape(-1, 4)
    for least, best_G in ((False, mean_GS.argmax(1)), (True, mean_GS.argmin(1))):
        chosen_GS = Likeliest(least=least)(rollouts, signals).reshape(-1, 4)
        assert torch.equal(chosen_GS, torch.nn.functional.one_hot(best_G, 4).float())
    ops = rollouts.problems.ops
    for least, most in ((1, 2), (2, None), (3, 3)):
        wanted = (ops >= least) & (ops <= (most or 99))
        assert OfOps(least=least, most=most)(rollouts, NONE).tolist() == wanted.astype(float).tolist()


def test_few_gold_documents_keep_their_problems_when_a_batch_comes_back(source, prompts):
    drawer, student = BatchSource(replace(prompts, gold=3), StudentOrGold(share=0.0, reuse=2), None), model(source, 0)
    for step in (2, 4):
        (first, _, _), (again, _, _) = drawer(student, step), drawer(student, step + 1)
        assert torch.equal(first.tokens_BT, again.tokens_BT) and again.verdicts.right.all()
        np.testing.assert_array_equal(first.problems.value, again.problems.value)


OPTIONS = {"adaptive": {"epsilon": 0.0, "every": 1, "rise": 0.5, "steps": 50}, "cached": {"cycle": 2}}


@pytest.mark.parametrize("kind", Sampler.options)
def test_a_source_reads_every_setting_that_it_has(kind, source, prompts, monkeypatch):
    monkeypatch.setattr(encodings, "check", judged)
    sampler, read = Sampler.options[kind](**OPTIONS.get(kind, {})), set()
    drawer = BatchSource(replace(prompts, count=2, max_new=6), sampler, model(source, 1))

    def noted(self: Sampler, name: str):
        read.add(name)
        return object.__getattribute__(self, name)

    monkeypatch.setattr(Sampler, "__getattribute__", noted)
    student = model(source, 0)
    for step in range(6):
        drawer(student, step)
    assert defaults(type(sampler)).keys() - {"kind", "tempered"} <= read  # tempered: read by the loss


def test_the_head_of_adaptive_kl_is_the_likeliest_tokens_up_to_its_share_or_what_the_other_end_leaves():
    z_NV, p_NV = pair(3, 40)
    for from_least in (False, True):
        found_N = AdaptiveKL(head_share=0.5, from_least=from_least)(record(z_NV, p_NV)).detach()
        q_NV = torch.log_softmax(z_NV, dim=-1).detach()
        for n in range(40):
            order, mass, part = p_NV[n].argsort(descending=not from_least).tolist(), 0.0, []
            for place, v in enumerate(order):
                mass += float(p_NV[n, v].exp())
                if mass <= 0.5 or (place == 0 and not from_least):
                    part.append(v)
            gap_V = (p_NV[n].exp() - q_NV[n].exp()).abs()
            share = float(gap_V[part].sum() / gap_V.sum())
            head = 1.0 - share if from_least else share
            forward, reverse = kl(p_NV[n : n + 1], q_NV[n : n + 1]), kl(q_NV[n : n + 1], p_NV[n : n + 1])
            assert float(found_N[n]) == pytest.approx(head * float(forward) + (1 - head) * float(reverse), abs=1e-9)
    assert torch.isfinite(AdaptiveKL()(record(logits(1, 4, V), torch.log_softmax(logits(1, 4, V), -1)))).all()


def test_demonstrations_are_the_nearest_problems_of_the_pool_before_the_prompt(source):
    pool_documents, asked = source.documents(range(20)), source.documents(range(40, 44))
    pool = Pool(pool_documents.problems, [np.full(3 + i % 2, 7 + i, dtype=np.int32) for i in range(20)])
    shown = Demonstrated(source, pool, 2).documents(range(40, 44))
    near = nearest(asked.problems, pool.problems, 2)
    for i in range(4):
        wanted = [*pool.tokens[near[i, 0]], *pool.tokens[near[i, 1]], *asked.prompt_tokens(i)]
        assert shown.prompt_tokens(i).tolist() == [int(t) for t in wanted]
        assert shown.response(i).tolist() == asked.response(i).tolist()
    same = nearest(pool_documents.problems, pool.problems, 1)[:, 0]
    features = pool_documents.problems.scalars[:, [0, 2, 3, 4, 5]]
    assert (features[same] == features).all()
