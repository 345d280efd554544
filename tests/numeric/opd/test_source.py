"""Sources beyond fresh samples: cached, used again, replayed, blended, spliced, revised, cut short."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from synth.contexts.sections import cut, written
from synth.dataset import Source
from synth.spec import preset
from synth.world import vocabulary as W
from synth.world.vocabulary import EOS
from tests.helpers.opd_batches import STUDENT, gradient, model, objective
from train.opd.checks import Schedule
from train.opd.divergence.divergence import DivergenceConfig
from train.opd.method import Method
from train.opd.rollouts import ORIGINS, positions
from train.opd.source.rollout_buffer import SOURCES, Drawer
from train.opd.source.samplers import Prompts, SourceConfig
from train.opd.teacher.teacher_models import Frozen


def test_cached_responses_are_those_of_the_first_student_and_equal_fresh_ones_at_step_0(source, prompts):
    student, teacher = model(source, 0), model(source, 1)
    pg = {"support": "sampled", "estimator": "pg"}
    fresh = objective(Method("tm", STUDENT, divergence=DivergenceConfig(**pg)), prompts, student, teacher)
    for form in (DivergenceConfig(**pg, ratio=False), DivergenceConfig(**pg, clip=0.2)):
        cached = SourceConfig("cached", samples=1, temperature=1.0, cycle=2)
        o = objective(Method("lightning", cached, divergence=form), prompts, student, teacher)
        torch.testing.assert_close(gradient(o, student)[1], gradient(fresh, student)[1], atol=1e-6, rtol=1e-4)
        moved = model(source, 5)
        again, cost = o.drawer(moved, 2)[:2]
        assert torch.equal(again.tokens_BT, o.drawer(student, 0)[0].tokens_BT) and cost == 0.0
        assert not torch.equal(again.tokens_BT, o.drawer(moved, 1)[0].tokens_BT)


def test_a_batch_is_used_again_with_the_probabilities_it_was_drawn_with(source, prompts):
    config = replace(STUDENT, reuse=2)
    drawer = Drawer(prompts, config, None)
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
    config = SourceConfig("replay", samples=1, temperature=1.0, capacity=3, refresh=refresh)
    drawer, student = Drawer(prompts, config, None), model(source, 0)
    seen = [drawer(student, step)[1:] for step in range(40)]
    fresh = [cost > 0 for cost, _ in seen]
    assert fresh[0] and 8 <= sum(fresh) <= 24 and len(drawer.kept) == 3
    for step, (cost, batch) in enumerate(seen):
        assert batch == step if cost else batch < step
    other = Drawer(replace(prompts, stream=Source(preset("med"), seed=0)), config, None)
    with pytest.raises(ValueError, match="another vocabulary"):
        other.load_state_dict(drawer.state_dict())


def test_a_blend_draws_from_the_mixture_of_both_models(source):
    """Frequencies of the first token, and the log-probability that each token is recorded with."""
    many = Prompts(source, 1, 6, 0)
    student, teacher, share = model(source, 0), model(source, 1), 0.4
    config = SourceConfig("blend", samples=4000, temperature=1.0, share=share)
    rollouts, _ = SOURCES["blend"](many, config, 0, student, teacher)
    row_N, time_N = positions(rollouts.length_B)
    with torch.no_grad():
        both = [Frozen(deepcopy(m)).law(rollouts, student)(slice(None)).exp() for m in (student, teacher)]
    law_NV = (1 - share) * both[0] + share * both[1]
    token_N = rollouts.response_BR[row_N, time_N]
    wanted_N = law_NV.gather(-1, token_N[:, None]).squeeze(-1).log()
    torch.testing.assert_close(rollouts.behaviour_BR[row_N, time_N], wanted_N, atol=1e-4, rtol=1e-4)
    first = torch.bincount(token_N[time_N == 0], minlength=law_NV.shape[1]) / 4000
    error = (law_NV[0] * (1 - law_NV[0]) / 4000).sqrt()
    assert ((first - law_NV[0]).abs() < 5 * error + 1e-3).all()
    assert (rollouts.response_BR[rollouts.finished_B].eq(EOS).sum(1) == 1).all()


def test_a_spliced_response_is_the_student_s_up_to_the_cut_and_right_ones_stay(source, prompts, monkeypatch):
    student, teacher = model(source, 0), model(source, 1)
    own, _ = SOURCES["student"](prompts, replace(STUDENT, samples=2), 0, student, None)
    config = SourceConfig("spliced", samples=2, temperature=1.0)
    rollouts, _ = SOURCES["spliced"](prompts, config, 0, student, teacher)
    assert not own.verdicts.right.any() and (rollouts.origin_B == ORIGINS.index("spliced")).all()
    cuts = []
    for row in range(len(own)):
        a, b = own.response_BR[row].tolist(), rollouts.response_BR[row].tolist()
        cuts.append(next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a)))
    assert len(set(cuts)) > 2 and int(rollouts.length_B.max()) <= prompts.max_new
    scored_by_student = Frozen(deepcopy(student)).law(rollouts, student)(slice(None))
    row_N, time_N = positions(rollouts.length_B)
    token_N = rollouts.response_BR[row_N, time_N]
    q_N = scored_by_student.gather(-1, token_N[:, None]).squeeze(-1)
    p_N = Frozen(teacher).law(rollouts, student)(slice(None)).gather(-1, token_N[:, None]).squeeze(-1)
    mu_N = rollouts.behaviour_BR[row_N, time_N]
    assert (torch.minimum((mu_N - q_N).abs(), (mu_N - p_N).abs()) < 1e-4).all(), "each token is one model's"


def test_a_revision_reads_the_try_and_its_flag(source, prompts):
    student, config = model(source, 0), SourceConfig("revision", samples=1, temperature=1.0, revisions=2)
    rollouts, _ = SOURCES["revision"](prompts, config, 0, student, None)
    tries, _ = SOURCES["student"](prompts, STUDENT, 0, student, None)
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
    longest_at = [int(SOURCES["student"](prompts, config, k, model(source, 0), None)[0].length_B.max()) for k in (0, 5)]
    assert longest_at[0] <= 6 < longest_at[1] <= 15
