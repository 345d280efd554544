"""Sources beyond fresh samples: cached, used again, replayed, blended, spliced, revised, cut short."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from synth.contexts.context_tokens import cut, written
from synth.dataset import Source
from synth.spec import preset
from synth.world import vocabulary as W
from synth.world.vocabulary import EOS
from tests.helpers.opd_batches import STUDENT, gradient, model, objective
from train.opd.divergence.sampled_kl import PolicyGradient
from train.opd.method import Method
from train.opd.rollout_batch import ORIGINS, Prompts, positions
from train.opd.schedule import Schedule
from train.opd.source.mixed_samplers import Revision, Spliced, TokenMixture
from train.opd.source.replay_buffer import BatchSource, Replay
from train.opd.source.rollout_sampling import CachedSampler
from train.opd.teacher.teacher import Frozen


def test_cached_responses_are_those_of_the_first_student_and_equal_fresh_ones_at_step_0(source, prompts):
    student, teacher = model(source, 0), model(source, 1)
    fresh = objective(Method("tm", STUDENT, divergence=PolicyGradient()), prompts, student, teacher)
    for form in (PolicyGradient(ratio=False), PolicyGradient(clip=0.2)):
        cached = CachedSampler(cycle=2)
        o = objective(Method("lightning", cached, divergence=form), prompts, student, teacher)
        torch.testing.assert_close(gradient(o, student)[1], gradient(fresh, student)[1], atol=1e-6, rtol=1e-4)
        moved = model(source, 5)
        again, cost = o.source(moved, 2)[:2]
        assert torch.equal(again.tokens_BT, o.source(student, 0)[0].tokens_BT) and cost == 0.0
        assert not torch.equal(again.tokens_BT, o.source(moved, 1)[0].tokens_BT)


def test_a_batch_is_used_again_with_the_probabilities_it_was_drawn_with(source, prompts):
    config = replace(STUDENT, reuse=2)
    drawer = BatchSource(prompts, config, None)
    first, cost, batch = drawer(model(source, 0), 4)
    again, nothing, same = drawer(model(source, 1), 5)
    assert batch == same == 2 and cost > 0 and nothing == 0.0
    for name in ("tokens_BT", "behaviour_BR", "group_B", "trainable_BR"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    np.testing.assert_array_equal(first.verdicts.kind, again.verdicts.kind)
    np.testing.assert_array_equal(first.problems.value, again.problems.value)
    assert drawer(model(source, 1), 6)[2] == 3


def test_a_replay_keeps_some_batches_and_refuses_another_vocabulary(source, prompts):
    refresh = Schedule(1.0, 0.2, 10)
    config = Replay(capacity=3, refresh=refresh)
    drawer, student = BatchSource(prompts, config, None), model(source, 0)
    seen = [drawer(student, step)[1:] for step in range(40)]
    fresh = [cost > 0 for cost, _ in seen]
    assert fresh[0] and 8 <= sum(fresh) <= 24 and len(drawer.kept) == 3
    for step, (cost, batch) in enumerate(seen):
        assert batch == step if cost else batch < step
    other = BatchSource(replace(prompts, stream=Source(preset("med"), seed=0)), config, None)
    with pytest.raises(ValueError, match="another vocabulary"):
        other.load_state_dict(drawer.state_dict())


def test_a_blend_draws_from_the_mixture_of_both_models(source):
    """Frequencies of the first token, and the log-probability that each token is recorded with."""
    many = Prompts(source, 1, 6, 0)
    student, teacher, share = model(source, 0), model(source, 1), 0.4
    config = TokenMixture(samples=4000, share=share)
    rollouts, _ = config.draw(many, 0, student, teacher)
    row_N, time_N = positions(rollouts.length_B)
    with torch.no_grad():
        both = [Frozen(deepcopy(m)).log_probs(rollouts, student)(slice(None)).exp() for m in (student, teacher)]
    p_NV = (1 - share) * both[0] + share * both[1]
    token_N = rollouts.response_BR[row_N, time_N]
    wanted_N = p_NV.gather(-1, token_N[:, None]).squeeze(-1).log()
    torch.testing.assert_close(rollouts.behaviour_BR[row_N, time_N], wanted_N, atol=1e-4, rtol=1e-4)
    first = torch.bincount(token_N[time_N == 0], minlength=p_NV.shape[1]) / 4000
    error = (p_NV[0] * (1 - p_NV[0]) / 4000).sqrt()
    assert ((first - p_NV[0]).abs() < 5 * error + 1e-3).all()
    assert (rollouts.response_BR[rollouts.finished_B].eq(EOS).sum(1) == 1).all()


def test_a_spliced_response_is_the_student_s_up_to_the_cut_and_right_ones_stay(source, prompts, monkeypatch):
    student, teacher = model(source, 0), model(source, 1)
    own, _ = replace(STUDENT, samples=2).draw(prompts, 0, student, None)
    config = Spliced(samples=2)
    rollouts, _ = config.draw(prompts, 0, student, teacher)
    assert not own.verdicts.right.any() and (rollouts.origin_B == ORIGINS.index("spliced")).all()
    cuts = []
    for row in range(len(own)):
        a, b = own.response_BR[row].tolist(), rollouts.response_BR[row].tolist()
        cuts.append(next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a)))
    assert len(set(cuts)) > 2 and int(rollouts.length_B.max()) <= prompts.max_new
    scored_by_student = Frozen(deepcopy(student)).log_probs(rollouts, student)(slice(None))
    row_N, time_N = positions(rollouts.length_B)
    token_N = rollouts.response_BR[row_N, time_N]
    q_N = scored_by_student.gather(-1, token_N[:, None]).squeeze(-1)
    p_N = Frozen(teacher).log_probs(rollouts, student)(slice(None)).gather(-1, token_N[:, None]).squeeze(-1)
    mu_N = rollouts.behaviour_BR[row_N, time_N]
    assert (torch.minimum((mu_N - q_N).abs(), (mu_N - p_N).abs()) < 1e-4).all(), "each token is one model's"


def test_a_revision_reads_the_try_and_its_flag(source, prompts):
    student, config = model(source, 0), Revision(revisions=2)
    rollouts, _ = config.draw(prompts, 0, model(source, 1), student)  # by the first student, not by the present one
    live, _ = replace(config, tries="live").draw(prompts, 0, student, None)
    assert torch.equal(live.tokens_BT, rollouts.tokens_BT) and config.model == "initial"
    tries, _ = STUDENT.draw(prompts, 0, student, None)
    assert len(rollouts) == 5 * 2 * 2
    for i in range(10):
        y0 = written(tries.response_BR[i // 2].tolist())
        flagged = [*y0, W.WRONG]
        context, bare = cut(rollouts.tokens_BT[i, : rollouts.prompt_B[i]].tolist())
        assert context == [W.ATTEMPT, *flagged]
        assert rollouts.tokens_BT[i + 10, : rollouts.prompt_B[i + 10]].tolist() == bare
        n, m = int(rollouts.length_B[i]), int(rollouts.length_B[i + 10])
        assert rollouts.response_BR[i + 10, :m].tolist() == flagged + rollouts.response_BR[i, :n].tolist()
        assert rollouts.verdicts.right[i] == rollouts.verdicts.right[i + 10]


def test_a_prefix_grows_with_the_step(source, prompts):
    config = replace(STUDENT, length=Schedule(0.25, 1.0, 10))
    longest_at = [int(config.draw(prompts, k, model(source, 0), None)[0].length_B.max()) for k in (0, 5)]
    assert longest_at[0] <= 6 < longest_at[1] <= 15
    golds = prompts.documents(0)
    half = round(0.5 * float(np.median(np.diff(golds.offsets) - golds.prompt)))
    for processes in (1, 2):  # each with its share of the prompts, and the budget of all
        parts = [prompts.share(rank, processes) for rank in range(processes)]
        by_gold = replace(STUDENT, length=Schedule(0.5, 3.0, 10), length_of="gold")
        assert max(int(by_gold.draw(p, 0, model(source, 0), None)[0].length_B.max()) for p in parts) == half


def test_temperatures_change_with_the_step(source, prompts):
    student, teacher = model(source, 0), model(source, 1)
    config = Spliced(temperatures=Schedule(0.5, 1.0, 2, jump=True))
    for step, temperature in ((1, 0.5), (2, 1.0)):
        samplers = config, Spliced(temperature=temperature)
        rollouts, wanted = (sampler.draw(prompts, step, student, teacher)[0] for sampler in samplers)
        assert torch.equal(rollouts.tokens_BT, wanted.tokens_BT)
