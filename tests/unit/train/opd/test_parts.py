"""The small parts of distillation on hand-made batches: positions, weights, advantages, and the checks of a method."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from synth.world.vocabulary import EOS, PAD
from train.config.compose import CONFIGS, load
from train.opd.checks import Schedule
from train.opd.divergence.divergence import DivergenceConfig
from train.opd.method import Method, Term
from train.opd.objective import weigh
from train.opd.outcome import OutcomeConfig, drgrpo, grpo
from train.opd.regularizer import RegularizerConfig
from train.opd.rollouts import Rollouts, join, positions, responses
from train.opd.run import OpdConfig
from train.opd.source.samplers import SourceConfig
from train.opd.table import main
from train.opd.teacher.targets import TeacherConfig
from train.opd.topd import ForkConfig
from train.opd.weight.weight import WeightConfig, coefficients

STUDENT = SourceConfig("student", samples=1, temperature=1.0)
GOLD = SourceConfig("gold")


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
    for sample, kept in (("finished", [0, 1]), ("right", [1, 2])):
        c_BR = coefficients(rollouts, WeightConfig(sample=[sample]), max_new=10)
        assert (c_BR.sum(dim=1) > 0).nonzero().squeeze(1).tolist() == kept
        assert c_BR.sum().item() == pytest.approx(1.0)
    nothing = batch(*THREE, right=[False] * 3)
    for normaliser in ("token", "sequence", "constant"):
        assert coefficients(nothing, WeightConfig(sample=["right"], normaliser=normaliser), 10).abs().sum() == 0


def test_advantages_are_relative_to_the_group():
    reward_B, group_B = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 0, 0, 1, 1])
    assert drgrpo(reward_B, group_B).tolist() == pytest.approx([0.75, -0.25, -0.25, -0.25, 0.0, 0.0])
    scaled = grpo(reward_B, group_B)
    deviation = np.std([1.0, 0.0, 0.0, 0.0])
    assert scaled.tolist() == pytest.approx([0.75 / deviation] + [-0.25 / deviation] * 3 + [0.0, 0.0], rel=1e-4)


def test_equal_rewards_in_every_group_give_no_outcome_term():
    method = Method("x", replace(STUDENT, samples=2), TeacherConfig("none"), DivergenceConfig("none"),
                    outcome=OutcomeConfig("grpo"))  # fmt: skip
    counts = weigh(method, batch(*THREE, THREE[0], right=[True, True, False, False]), 10)
    assert counts.advantage_B.abs().max() == 0
    counts = weigh(method, batch(*THREE, THREE[0], right=[True, False, False, False]), 10)
    assert counts.advantage_B[:2].abs().min() > 0


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"source": GOLD, "divergence": DivergenceConfig(support="sampled", estimator="pg")}, "source.kind=gold"),
        ({"source": replace(STUDENT, temperature=0.0),
          "divergence": DivergenceConfig(support="sampled", estimator="k2")}, "temperature above 0"),
        ({"source": GOLD, "divergence": DivergenceConfig("nll")}, "teacher.params=external has no effect"),
        ({"teacher": TeacherConfig("none")}, "divergence.kind=rkl needs a teacher"),
        ({"source": SourceConfig("teacher", 1, 1.0), "teacher": TeacherConfig("none"),
          "divergence": DivergenceConfig("nll")}, "source.kind=teacher needs a teacher"),
        ({"source": SourceConfig("teacher", 1, 1.0), "teacher": TeacherConfig(transform="temper", temperature=2.0),
          "divergence": DivergenceConfig("nll")}, "teacher.transform=temper has no effect"),
        ({"teacher": TeacherConfig("none"), "divergence": DivergenceConfig("none")}, "nothing to learn"),
        ({"teacher": TeacherConfig("oracle", policy="continue")}, "rules tokens out, which rkl cannot bear"),
        ({"teacher": TeacherConfig("init", context="gold"), "divergence": DivergenceConfig("nll"),
          "source": SourceConfig("teacher", 1, 1.0)}, "teacher.context=gold has no effect"),
        ({"source": SourceConfig("teacher", 1, 1.0), "teacher": TeacherConfig("ema", rate=0.1)}, "one frozen teacher"),
        ({"teacher": TeacherConfig("init", context="success1")}, "source.samples above 1, got 1"),
        ({"weight": WeightConfig(sample=["success"])}, "shows no right peers"),
        ({"weight": WeightConfig(sample=["contrast"])}, "compares responses to one prompt"),
        ({"weight": WeightConfig(token=["importance"], cap=2.0)}, "has nothing to act on"),
        ({"divergence": DivergenceConfig(support="sampled", estimator="pg", clip=0.2)}, "has nothing to act on"),
        ({"divergence": DivergenceConfig(support="sampled", estimator="pg", ratio=False)}, "changes nothing here"),
        ({"teacher": TeacherConfig("none"), "source": SourceConfig("revision", 1, 1.0, revisions=2),
          "divergence": DivergenceConfig("nll"), "weight": WeightConfig(token=["before_mistake"])}, "two solutions"),
        ({"teacher": TeacherConfig("init"), "fork": ForkConfig()}, "accepted: teacher.params=external"),
        ({"divergence": DivergenceConfig("none"), "schedule": Schedule(1.0, 0.0, 5), "teacher": TeacherConfig("none"),
          "source": replace(STUDENT, samples=4), "outcome": OutcomeConfig("grpo")}, "put the first term in divergence"),
        ({"divergence": DivergenceConfig("none"), "teacher": TeacherConfig("none"),
          "source": replace(STUDENT, samples=4), "outcome": OutcomeConfig("grpo", combiner="mask")}, "joins two terms"),
        ({"outcome": OutcomeConfig("drgrpo")}, "source.samples above 1"),
        ({"source": replace(STUDENT, samples=4), "teacher": TeacherConfig("none"), "outcome": OutcomeConfig("grpo"),
          "divergence": DivergenceConfig("none"), "weight": WeightConfig(sample=["right"])}, r"weight.sample=\[.right"),
    ],
)  # fmt: skip
def test_combinations_that_mean_nothing_are_refused(parts, message):
    with pytest.raises(ValueError, match=message) as caught:
        Method(**({"name": "x", "source": STUDENT} | parts))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SourceConfig("buffer"), "source.kind=buffer.*accepted: student, teacher, gold, mix, cached"),
        (lambda: SourceConfig("student", temperature=1.0), "source.samples=null"),
        (lambda: SourceConfig("gold", samples=2), "source.samples=2 has no effect"),
        (lambda: SourceConfig("mix", 1, 1.0), "source.share=null"),
        (lambda: SourceConfig("mix", 1, 1.0, share=2.0), "source.share=2.0"),
        (lambda: SourceConfig("student", 0, 1.0), "source.samples=0"),
        (lambda: SourceConfig("student", 1, -1.0), "source.temperature=-1.0"),
        (lambda: TeacherConfig("sibling"), "teacher.params=sibling.*accepted: external, oracle, init, ema, sync"),
        (lambda: TeacherConfig(context="gould"), "gould.*accepted: none"),
        (lambda: TeacherConfig(transform="power"), "teacher.power=null"),
        (lambda: TeacherConfig(transform="temper", temperature=0.0), "teacher.temperature=0.0"),
        (lambda: TeacherConfig(temperature=2.0), "teacher.temperature=2.0 has no effect"),
        (lambda: WeightConfig(token=["entropy"]), "weight.token=entropy.*accepted: first, special"),
        (lambda: WeightConfig(sample=["best"]), "weight.sample=best.*accepted: finished, right, wrong"),
        (lambda: WeightConfig(normaliser="mean"), "weight.normaliser=mean.*accepted: token, sequence, constant"),
        (lambda: RegularizerConfig(ref_kl=-0.1), "regularizer.ref_kl=-0.1"),
        (lambda: OutcomeConfig("ppo"), "outcome.kind=ppo.*accepted: none, grpo, drgrpo"),
        (lambda: OutcomeConfig("grpo", combiner="max"), "outcome.combiner=max.*accepted: add, convex, mask, route"),
        (lambda: OutcomeConfig("grpo", reward="style"), "outcome.reward=style.*accepted: strict, answer"),
        (lambda: OutcomeConfig("grpo", weight=0.0), "outcome.weight=0.0"),
        (lambda: OutcomeConfig("none", weight=2.0), "without effect"),
        (lambda: OutcomeConfig("none", clip=0.2), "without effect"),
        (lambda: OutcomeConfig("grpo", modulate="trrd"), "outcome.mix=null"),
        (lambda: OutcomeConfig("grpo", modulate="rlsd", mix=0.5), "outcome.bound=null"),
        (lambda: OutcomeConfig("grpo", clip_high=0.3), "outcome.clip_high=0.3 has no effect"),
        (lambda: OutcomeConfig("grpo", combiner="convex"), "outcome.weight=1.0"),
        (lambda: TeacherConfig("ema"), "teacher.rate=null"),
        (lambda: TeacherConfig("sync", every=0), "teacher.every=0"),
        (lambda: TeacherConfig("oracle"), "teacher.policy=null"),
        (lambda: TeacherConfig("oracle", policy="guess"), "teacher.policy=guess.*accepted: continue"),
        (lambda: TeacherConfig("oracle", policy="correct", context="gold"), "teacher.context=gold has no effect"),
        (lambda: TeacherConfig("init", route="ops", bounds=[2]), "teacher.route=ops has no effect"),
        (lambda: TeacherConfig(route="ops", bounds=[3, 2]), "teacher.bounds"),
        (lambda: TeacherConfig(transform="mix"), "teacher.share=null"),
        (lambda: SourceConfig("replay", 1, 1.0, capacity=2), "source.refresh=null"),
        (lambda: SourceConfig("gold", reuse=2), "repeats batches by itself"),
        (lambda: SourceConfig("revision", 1, 1.0, revisions=1, reuse=2), "source.reuse=2: a revision"),
        (lambda: SourceConfig("teacher", 1, 1.0, top_p=0.9), "source.top_p=0.9 has no effect"),
        (lambda: SourceConfig("student", 1, 1.0, top_p=1.0), "source.top_p=1.0"),
        (lambda: SourceConfig("blend", 1, 0.0, share=0.2), "a blend is of two distributions"),
        (lambda: SourceConfig("student", 1, 1.0, length=Schedule(0.0, 1.0, 5)), "source.length"),
        (lambda: Schedule(1.0, 1.0, 5), "nothing changes"),
        (lambda: Schedule(1.0, 0.0, 0), "schedule steps=0"),
        (lambda: WeightConfig(token=["first"]), "weight.skip=null"),
        (lambda: WeightConfig(skip=2), "weight.skip=2 has no effect"),
        (lambda: WeightConfig(token=["tip", "opener"], share=0.5), "share a setting"),
        (lambda: WeightConfig(token=["tip", "tip"], share=0.5), "each name once"),
        (lambda: WeightConfig(over="batch"), "weight.over=batch"),
        (lambda: RegularizerConfig(entropy_top=0.1), "regularizer.entropy_top=0.1 has no effect"),
        (lambda: ForkConfig(tokens=0), "fork.tokens=0"),
        (lambda: Term(DivergenceConfig("none")), "also.divergence.kind=none"),
        (lambda: Term(DivergenceConfig("fkl"), coefficient=0.0), "also.coefficient=0.0"),
    ],
)
def test_unknown_names_and_values_are_refused_with_what_is_accepted(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_top_k_must_be_smaller_than_the_vocabulary():
    method = Method("x", STUDENT, divergence=DivergenceConfig("rkl", "student_topk", k=8, rest="tail"))
    method.check_vocabulary(9)
    with pytest.raises(ValueError, match=r"divergence.k=8.*from 1 to 7"):
        method.check_vocabulary(8)


METHODS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_file_loads_is_short_and_says_what_it_is(name):
    text = (CONFIGS / "method" / f"{name}.yaml").read_text(encoding="utf-8")
    header = "".join(line for line in text.splitlines() if line.startswith("#"))
    assert (len(text.splitlines()) <= 15 and "Certain" in header) or "Likely" in header
    needs = ["teacher=t"] if "params: external" in text else []
    needs += ["teachers=[u]"] if "route: ops" in text else []
    config = load("opd", OpdConfig, ["student=s", f"method={name}", *needs])
    assert config.method.name == name


def test_the_table_of_methods_has_a_row_for_each_with_its_paper(capsys):
    assert main(["gkd", "scope", "opd_then_rl"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[2].startswith("| `gkd` | mix, share 0.5 |  | jsd, beta 0.5 | normaliser sequence |")
    assert "2306.13649" in shown[2] and "rkl + nll" in shown[3] and "times 1.0→0.0 at 60" in shown[4]
    assert main([]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(METHODS) + 2
    assert main(["nope"]) == 2 and "nope: no such method" in capsys.readouterr().err


def test_the_quickstart_s_arms_are_what_they_are_called():
    def method(name: str, *words: str) -> Method:
        return load("opd", OpdConfig, ["student=s", f"method={name}", *words]).method

    opd, kd, sft = method("opd", "teacher=t"), method("kd", "teacher=t"), method("sft")
    assert (opd.source, opd.divergence, opd.weight) == (STUDENT, DivergenceConfig("rkl"), WeightConfig())
    assert (kd.source, kd.divergence, kd.teacher) == (GOLD, DivergenceConfig("fkl"), opd.teacher)
    assert (sft.source, sft.divergence, sft.needs_teacher) == (GOLD, DivergenceConfig("nll"), False)
