"""The small parts of distillation on hand-made batches: positions, weights, advantages, and the checks of a method."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from synth.world.vocabulary import EOS, PAD
from tests.helpers.opd_methods import FAITHFUL, NAMES, method
from train.config.compose import CONFIGS
from train.config.schema import build, merge, missing
from train.opd.diff import difference
from train.opd.divergence.interface_and_topk import NLL, NoDivergence, StudentTopK
from train.opd.divergence.kl_and_jsd import ForwardKL, ReverseKL
from train.opd.divergence.sampled_kl import K2, PolicyGradient
from train.opd.method import Method, Term
from train.opd.objective import weigh
from train.opd.outcome.outcome import GRPO, RLCSD, DrGRPO, OutcomeConfig, drgrpo_advantage, grpo_advantage
from train.opd.regularizer import RegularizerConfig
from train.opd.rollout_batch import Rollouts, join, positions, responses
from train.opd.schedule import Schedule
from train.opd.source.mixed_samplers import Revision
from train.opd.source.rollout_sampling import GoldDocuments, Sampler, StudentSampler, TeacherSampler
from train.opd.table import main
from train.opd.teacher.external_and_oracle import ExternalTeacher, NoTeacher, OracleTeacher
from train.opd.teacher.self_teachers import EmaTeacher, InitialStudent
from train.opd.teacher.teacher import TeacherConfig
from train.opd.teacher.transforms import Power, Temper
from train.opd.topd import LookAhead
from train.opd.weight.sample_weights import Contrast, Finished, Right, Success
from train.opd.weight.token_weights import BeforeMistake, ImportanceWeight
from train.opd.weight.weight import WeightConfig, coefficients

STUDENT = StudentSampler()
GOLD = GoldDocuments()


def batch(*rows: tuple[list[int], list[int]], right: list[bool] | None = None) -> Rollouts:
    """Rollouts from (prompt, response) pairs; response tokens 90 and above are masked by their document."""
    n_response = max(len(response) for _, response in rows)
    response_BR = torch.tensor([response + [PAD] * (n_response - len(response)) for _, response in rows])
    length_B = torch.tensor([len(response) for _, response in rows])
    tokens_BT, prompt_B = join([prompt for prompt, _ in rows], response_BR, length_B)
    inside_BR = torch.arange(n_response) < length_B[:, None]
    flags = np.array(right if right is not None else [True] * len(rows))
    return Rollouts(
        tokens_BT=tokens_BT,
        prompt_B=prompt_B,
        length_B=length_B,
        trainable_BR=inside_BR & (response_BR < 90),
        behaviour_BR=torch.zeros(inside_BR.shape),
        group_B=torch.arange(len(rows)) // 2,
        origin_B=torch.zeros(len(rows), dtype=torch.long),
        problems=(np.arange(len(rows)),),
        verdicts=SimpleNamespace(right=flags, answer_right=~flags),
    )


THREE = [([10, 11, 12], [20, 21, EOS]), ([10], [30, EOS]), ([10, 11], [40, 91, 42, 43])]


def test_join_and_responses_are_inverse_and_pad_on_the_right():
    rollouts = batch(*THREE)
    assert rollouts.tokens_BT.tolist() == [
        [10, 11, 12, 20, 21, EOS],
        [10, 30, EOS, PAD, PAD, PAD],
        [10, 11, 40, 91, 42, 43],
    ]
    assert rollouts.prompt_B.tolist() == [3, 1, 2]
    assert rollouts.response_BR.tolist() == [[20, 21, EOS, PAD], [30, EOS, PAD, PAD], [40, 91, 42, 43]]
    assert torch.equal(rollouts.response_BR, responses(rollouts.tokens_BT[:, :], rollouts.prompt_B, rollouts.length_B))


def test_positions_run_row_after_row():
    row_N, time_N = positions(torch.tensor([3, 1, 2]))
    assert row_N.tolist() == [0, 0, 0, 1, 2, 2]
    assert time_N.tolist() == [0, 1, 2, 0, 0, 1]


def test_finished_means_ended_by_the_end_token():
    assert batch(*THREE).finished_B.tolist() == [True, True, False]


def test_chunks_cover_every_row_once_with_similar_lengths():
    rollouts = batch(*THREE, ([10] * 5, [50] * 9))
    chunks = rollouts.chunks(2)
    assert [len(chunk) for chunk in chunks] == [2, 2]
    assert sorted(torch.cat(chunks).tolist()) == [0, 1, 2, 3]
    assert chunks[1].tolist()[-1] == 3
    assert [chunk.tolist() for chunk in rollouts.chunks(0)] == [[1, 0, 2, 3]]


@pytest.mark.parametrize("normaliser, row_sums", [("token", [3 / 8, 2 / 8, 3 / 8]), ("sequence", [1 / 3] * 3)])
def test_normalisers_share_out_one(normaliser, row_sums):
    """Prompt and padding have no weight, the end token has one, a token masked by its document has none."""
    c_BR = coefficients(batch(*THREE), WeightConfig(normaliser=normaliser), max_new=10)
    assert c_BR.sum(dim=1).tolist() == pytest.approx(row_sums)
    assert (c_BR > 0).tolist() == [[True, True, True, False], [True, True, False, False], [True, False, True, True]]
    first = c_BR[0, :3]
    assert first.tolist() == pytest.approx([first[0].item()] * 3), "the end token weighs as much as any other"


def test_constant_normaliser_does_not_look_at_lengths():
    c_BR = coefficients(batch(*THREE), WeightConfig(normaliser="constant"), max_new=10)
    assert c_BR[c_BR > 0].tolist() == pytest.approx([1 / 30] * 8)


def test_sample_weights_leave_responses_out_of_the_normaliser_too():
    rollouts = batch(*THREE, right=[False, True, True])
    for sample, kept in ((Finished(), [0, 1]), (Right(), [1, 2])):
        c_BR = coefficients(rollouts, WeightConfig(sample=[sample]), max_new=10)
        assert (c_BR.sum(dim=1) > 0).nonzero().squeeze(1).tolist() == kept
        assert c_BR.sum().item() == pytest.approx(1.0)
    nothing = batch(*THREE, right=[False] * 3)
    for normaliser in ("token", "sequence", "constant"):
        assert coefficients(nothing, WeightConfig(sample=[Right()], normaliser=normaliser), 10).abs().sum() == 0


def test_advantages_are_relative_to_the_group():
    reward_B, group_B = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 0, 0, 1, 1])
    assert drgrpo_advantage(reward_B, group_B).tolist() == pytest.approx([0.75, -0.25, -0.25, -0.25, 0.0, 0.0])
    scaled = grpo_advantage(reward_B, group_B)
    deviation = np.std([1.0, 0.0, 0.0, 0.0], ddof=1)  # unbiased, as verl and TRL
    assert scaled.tolist() == pytest.approx([0.75 / deviation] + [-0.25 / deviation] * 3 + [0.0, 0.0], rel=1e-4)


def test_equal_rewards_in_every_group_give_no_outcome_term():
    made = Method("x", replace(STUDENT, samples=2), NoTeacher(), NoDivergence(),
                    outcome=GRPO())  # fmt: skip
    (term,) = weigh(made, batch(*THREE, THREE[0], right=[True, True, False, False]), 10)
    assert term.advantage_BR.abs().max() == 0
    (term,) = weigh(made, batch(*THREE, THREE[0], right=[True, False, False, False]), 10)
    assert term.advantage_BR[:2].abs().min() > 0


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"source": GOLD, "divergence": PolicyGradient()}, "source=gold"),
        ({"source": replace(STUDENT, temperature=0.0),
          "divergence": K2()}, "temperature above 0"),
        ({"source": GOLD, "divergence": NLL()}, "teacher=external has no effect"),
        ({"teacher": NoTeacher()}, "divergence=rkl needs a teacher"),
        ({"source": TeacherSampler(), "teacher": NoTeacher(),
          "divergence": NLL()}, "source=teacher needs a teacher"),
        ({"source": TeacherSampler(), "teacher": ExternalTeacher(transform=Temper(temperature=2.0)),
          "divergence": NLL()}, "teacher.transform=temper has no effect"),
        ({"teacher": ExternalTeacher(transform=Power(normalised=False))}, "is no distribution"),
        ({"teacher": NoTeacher(), "divergence": NoDivergence()}, "nothing to learn"),
        ({"teacher": OracleTeacher(policy="continue")}, "rules tokens out, which rkl cannot bear"),
        ({"teacher": InitialStudent(context="gold"), "divergence": NLL(),
          "source": TeacherSampler()}, "teacher.context=gold has no effect"),
        ({"source": TeacherSampler(), "teacher": EmaTeacher(rate=0.1)}, "one frozen teacher"),
        ({"teacher": InitialStudent(context="success1")}, "source.samples above 1, got 1"),
        ({"teacher": InitialStudent(context="gold", contrast="failure1")}, "outcome=none reads none"),
        ({"teacher": InitialStudent(context="success1"), "source": replace(STUDENT, samples=4),
          "outcome": RLCSD()}, "compares teacher.context and contrast"),
        ({"teacher": InitialStudent(context="success1", contrast="failure1"), "outcome": RLCSD(),
          "source": replace(STUDENT, samples=2)}, "source.samples above 2, got 2"),
        ({"weight": WeightConfig(sample=[Success()])}, "shows no right peers"),
        ({"weight": WeightConfig(sample=[Contrast()])}, "compares responses to one prompt"),
        ({"weight": WeightConfig(token=[ImportanceWeight(cap=2.0)])}, "has nothing to act on"),
        ({"divergence": PolicyGradient(clip=0.2)}, "has nothing to act on"),
        ({"divergence": PolicyGradient(ratio=False)}, "changes nothing here"),
        ({"teacher": NoTeacher(), "source": Revision(revisions=2),
          "divergence": NLL(), "weight": WeightConfig(token=[BeforeMistake()])}, "two solutions"),
        ({"teacher": InitialStudent(), "fork": LookAhead()}, "accepted: teacher=external"),
        ({"divergence": NoDivergence(), "schedule": Schedule(1.0, 0.0, 5), "teacher": NoTeacher(),
          "source": replace(STUDENT, samples=4), "outcome": GRPO()}, "put the first term in divergence"),
        ({"divergence": NoDivergence(), "teacher": NoTeacher(),
          "source": replace(STUDENT, samples=4), "outcome": GRPO(combiner="mask")}, "joins two terms"),
        ({"outcome": DrGRPO()}, "source.samples above 1"),
        ({"source": replace(STUDENT, samples=4), "teacher": NoTeacher(), "outcome": GRPO(),
          "divergence": NoDivergence(), "weight": WeightConfig(sample=[Right()])}, r"weight.sample=\[.right"),
    ],
)  # fmt: skip
def test_combinations_that_mean_nothing_are_refused(parts, message):
    with pytest.raises(ValueError, match=message) as caught:
        Method(**({"name": "x", "source": STUDENT} | parts))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "part, settings, message",
    [
        (Sampler, "buffer", "part=buffer is not known.*accepted: gold, solutions, student, teacher, cached, mix"),
        (Sampler, {"kind": "gold", "samples": 2}, "part.samples=2: unknown setting"),
        (Sampler, {"kind": "mix", "share": 2.0}, "share=2.0"),
        (Sampler, {"kind": "student", "samples": 0}, "samples=0"),
        (Sampler, {"kind": "student", "temperature": -1.0}, "temperature=-1.0"),
        (Sampler, {"kind": "replay", "refresh": None}, "part.refresh=null: a group of settings"),
        (Sampler, {"kind": "gold", "reuse": 2}, "part.reuse=2: unknown setting"),
        (Sampler, {"kind": "revision", "reuse": 2}, "part.reuse=2: unknown setting"),
        (Sampler, {"kind": "teacher", "top_p": 0.9}, "part.top_p=0.9: unknown setting"),
        (Sampler, {"kind": "student", "top_p": 1.0}, "top_p=1.0"),
        (Sampler, {"kind": "blend", "temperature": 0.0}, "a mixture is of two distributions"),
        (Sampler, {"kind": "student", "length": {"start": 0.0, "end": 1.0, "steps": 5}}, "source.length"),
        (TeacherConfig, "sibling", "part=sibling is not known.*accepted: none, oracle, external, init, ema"),
        (TeacherConfig, {"kind": "external", "context": "gould"}, "gould.*accepted: none"),
        (TeacherConfig, {"kind": "init", "transform": {"kind": "temper", "temperature": 0.0}}, "temperature=0.0"),
        (TeacherConfig, {"kind": "external", "transform": {"temperature": 2.0}}, "part.transform.temperature=2.0: unk"),
        (TeacherConfig, {"kind": "sync", "every": 0}, "every=0"),
        (TeacherConfig, {"kind": "oracle", "policy": "guess"}, "policy=guess.*accepted: continue"),
        (TeacherConfig, {"kind": "oracle", "context": "gold"}, "part.context=gold: unknown setting"),
        (TeacherConfig, {"kind": "init", "route": "ops"}, "part.route=ops: unknown setting"),
        (TeacherConfig, {"kind": "external", "route": {"kind": "ops", "bounds": [3, 2]}}, "teacher.route.bounds"),
        (WeightConfig, {"token": ["entropy"]}, "part.token.0=entropy is not known.*accepted: first, special"),
        (WeightConfig, {"sample": ["best"]}, "part.sample.0=best is not known.*accepted: finished, right, wrong"),
        (WeightConfig, {"normaliser": "mean"}, "normaliser=mean.*accepted: token, sequence, constant"),
        (WeightConfig, {"token": ["tip", "tip"]}, "each name once"),
        (WeightConfig, {"over": "batch"}, "weight.over=batch"),
        (RegularizerConfig, {"ref_kl": -0.1}, "ref_kl=-0.1"),
        (RegularizerConfig, {"entropy_top": 0.1}, "regularizer.entropy_top=0.1 has no effect"),
        (OutcomeConfig, "ppo", "part=ppo is not known.*accepted: none, grpo, drgrpo"),
        (
            OutcomeConfig,
            {"kind": "grpo", "combiner": "max"},
            "combiner=max.*accepted: add, convex, mask, route",
        ),
        (OutcomeConfig, {"kind": "grpo", "reward": "style"}, "reward=style.*accepted: strict, answer"),
        (OutcomeConfig, {"kind": "grpo", "weight": 0.0}, "weight=0.0"),
        (OutcomeConfig, {"kind": "none", "weight": 2.0}, "part.weight=2.0: unknown setting"),
        (
            OutcomeConfig,
            {"kind": "grpo", "modulate": {"kind": "trrd", "bound": 0.1}},
            "part.modulate.bound=0.1: unknown",
        ),
        (OutcomeConfig, {"kind": "grpo", "clip_high": 0.3}, "clip_high=0.3 has no effect"),
        (OutcomeConfig, {"kind": "grpo", "combiner": "convex"}, "outcome.weight=1.0"),
        (Schedule, {"start": 1.0}, "part.end: needs a value"),
        (Schedule, {"start": 1.0, "end": 1.0, "steps": 5}, "nothing changes"),
        (Schedule, {"start": 1.0, "end": 0.0, "steps": 0}, "steps=0"),
        (LookAhead, {"tokens": 0}, "tokens=0"),
        (Term, {"divergence": "none"}, "also.divergence=none"),
        (Term, {"divergence": "fkl", "coefficient": 0.0}, "coefficient=0.0"),
    ],
)
def test_unknown_names_and_values_are_refused_with_what_is_accepted(part, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        values = merge(part, None, settings, "part")
        needed = missing(values, "part")
        if needed:
            raise ValueError(f"{needed[0]}: needs a value")
        build(part, values)
    assert "\n" not in str(caught.value)


def test_top_k_must_be_smaller_than_the_vocabulary():
    made = Method("x", STUDENT, divergence=ReverseKL(support=StudentTopK(k=8, rest="tail")))
    made.check_vocabulary(9)
    with pytest.raises(ValueError, match=r"divergence.support.k=8.*from 1 to 7"):
        made.check_vocabulary(8)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_file_loads_is_short_and_says_what_it_is(name):
    text = (CONFIGS / "method" / f"{name}.yaml").read_text(encoding="utf-8")
    header = "".join(line for line in text.splitlines() if line.startswith("#"))
    assert (len(text.splitlines()) <= 15 and "Certain" in header) or "Likely" in header
    made = method(name)
    assert made.name == name and bool(made.faithful) == bool(made.release or made.paper) <= bool(made.deviates)


@pytest.mark.parametrize("name", FAITHFUL)
def test_the_other_form_of_a_method_is_one_word_and_settings_inside_it_hold(name):
    made, other = method(name), "paper" if method(name).faithful == "release" else "release"
    switched = method(name, f"method.faithful={other}")
    assert switched.faithful == other and replace(switched, faithful=made.faithful) != made
    assert method(name, f"method.faithful={made.faithful}") == made


def test_a_form_acts_before_what_is_set_inside_it_and_needs_a_method_that_has_it():
    words = ["method.divergence.clip=0.3", "method.faithful=release"]
    assert method("exopd", *words).divergence.clip == 0.3 and method("exopd", *words).source.reuse == 2
    with pytest.raises(ValueError, match="faithful=release: this method has one form"):
        method("opd", "method.faithful=release")


def test_the_table_of_methods_has_a_row_for_each_with_its_paper(capsys):
    assert main(["gkd", "scope", "opd_then_rl"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[2].startswith("| `gkd` | mix, share 0.5 |  | jsd, beta 0.5 | normaliser sequence |")
    assert (
        "2306.13649" in shown[2]
        and "**paper**: The release" in shown[2]
        and "rkl + nll" in shown[3]
        and "times 1.0→0.0 at 60" in shown[4]
    )
    assert main([]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(NAMES) + 2
    assert main(["gkd@release"]) == 0 and "**release**: The release" in capsys.readouterr().out
    assert difference("gkd", "gkd@release") == [("weight.normaliser", "sequence", "token")]
    assert main(["nope"]) == 2 and "nope: no such method" in capsys.readouterr().err


def test_the_quickstart_s_arms_are_what_they_are_called():
    opd, kd, sft = method("opd"), method("kd"), method("sft")
    assert (opd.source, opd.divergence, opd.weight) == (STUDENT, ReverseKL(), WeightConfig())
    assert (kd.source, kd.divergence, kd.teacher) == (GOLD, ForwardKL(), opd.teacher)
    assert (sft.source, sft.divergence, sft.needs_teacher) == (GOLD, NLL(), False)
