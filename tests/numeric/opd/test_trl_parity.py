"""Losses against TRL's (the dev extra), where both define the same thing: value and gradient.

GKD's generalised JSD, SDPO's top-k with and without a tail, its capped ratio and sampled form, GRPO's and Dr.GRPO's
clipped objective, IW-OPD's weights. Not the same thing: TRL's group standard deviation is the unbiased one plus 1e-4.
"""

from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from synth.world.vocabulary import PAD
from train.opd.divergence.interface_and_topk import StudentTopK
from train.opd.divergence.kl_and_jsd import JSD
from train.opd.divergence.sampled_kl import PolicyGradient
from train.opd.log_probs import Scored, Signals
from train.opd.outcome.outcome import GRPO
from train.opd.rollout_batch import Rollouts
from train.opd.weight.token_weights import EarlyTokens, ImportanceWeight
from train.opd.weight.weight import WeightConfig, coefficients

B, R, V, MAX_NEW = 3, 6, 11, 9
LENGTHS = torch.tensor([6, 2, 4])


@pytest.fixture(scope="module")
def trl():
    """TRL's losses. It is loaded here, not above: that takes longer than all of these tests."""
    pytest.importorskip("trl")
    from trl import GRPOTrainer
    from trl.experimental.gkd import GKDTrainer
    from trl.experimental.iw_opd import IWOPDTrainer
    from trl.experimental.sdpo import loss_utils

    return SimpleNamespace(grpo=GRPOTrainer, gkd=GKDTrainer, iw_opd=IWOPDTrainer, sdpo=loss_utils)


class Case:
    """Random logits of student and teacher [B, R, V], tokens and sampling log-probabilities of ragged responses."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.student_BRV = (2.0 * torch.randn(B, R, V, generator=generator, dtype=torch.float64)).requires_grad_()
        self.teacher_BRV = 2.0 * torch.randn(B, R, V, generator=generator, dtype=torch.float64)
        self.token_BR = torch.randint(0, V, (B, R), generator=generator)
        self.mask_BR = torch.arange(R) < LENGTHS[:, None]
        self.labels_BR = self.token_BR.masked_fill(~self.mask_BR, -100)
        self.logq_BR = self._token(self.student_BRV)
        self.logp_BR = self._token(self.teacher_BRV)
        self.behaviour_BR = self.logq_BR.detach() + 0.4 * torch.randn(B, R, generator=generator, dtype=torch.float64)
        self.advantage_B = torch.randn(B, generator=generator, dtype=torch.float64)
        row_N, time_N = self.mask_BR.nonzero(as_tuple=True)
        self.scored = Scored(
            self.student_BRV.log_softmax(-1)[row_N, time_N],
            self.teacher_BRV.log_softmax(-1)[row_N, time_N],
            None,
            self.token_BR[row_N, time_N],
            self.behaviour_BR[row_N, time_N],
            row_N,
            time_N,
        )
        self.rollouts = Rollouts(
            tokens_BT=torch.nn.functional.pad(self.token_BR + 40, (1, 0), value=PAD),
            prompt_B=torch.ones(B, dtype=torch.long),
            length_B=LENGTHS,
            trainable_BR=self.mask_BR,
            behaviour_BR=self.behaviour_BR * self.mask_BR,
            group_B=torch.zeros(B, dtype=torch.long),
            origin_B=torch.zeros(B, dtype=torch.long),
            problems=(np.zeros(B),),
            verdicts=SimpleNamespace(right=np.zeros(B, dtype=bool)),
        )

    def _token(self, z_BRV: torch.Tensor) -> torch.Tensor:
        return z_BRV.log_softmax(-1).gather(-1, self.token_BR[..., None]).squeeze(-1)

    def ours(self, value_N: torch.Tensor, weight: WeightConfig | None = None) -> torch.Tensor:
        """The weighted sum of per-position values, with the house's coefficients."""
        signals = Signals({"log_q": self.logq_BR.detach() * self.mask_BR, "log_p": self.logp_BR * self.mask_BR}, V)
        count_BR = coefficients(self.rollouts, weight or WeightConfig(), MAX_NEW, signals)
        return (count_BR[self.scored.row_N, self.scored.time_N] * value_N).sum()

    def same(self, ours: torch.Tensor, theirs: torch.Tensor, value: bool = True) -> None:
        """Both scalars and their gradients agree; with `value` off, the gradients alone."""
        if value:
            assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
        slopes = [torch.autograd.grad(loss, self.student_BRV, retain_graph=True)[0] for loss in (ours, theirs)]
        assert slopes[1].abs().max() > 1e-4
        torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-7)


@pytest.fixture(params=[0, 1, 2])
def case(request) -> Case:
    return Case(request.param)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_generalised_jsd_is_gkd_s(case, beta, trl):
    theirs = trl.gkd.generalized_jsd_loss(case.student_BRV, case.teacher_BRV, case.labels_BR, beta=beta)
    case.same(case.ours(JSD(beta=beta)(case.scored)), theirs)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rest", ["tail", "renorm"])
def test_top_k_with_and_without_a_tail_is_sdpo_s(case, alpha, rest, trl):
    theirs_BR = trl.sdpo.compute_topk_self_distillation_loss(
        case.student_BRV,
        case.teacher_BRV,
        distillation_topk=4,
        distillation_alpha=alpha,
        distillation_add_tail=rest == "tail",
    )
    config = JSD(beta=alpha, support=StudentTopK(k=4, rest=rest))
    case.same(case.ours(config(case.scored)), theirs_BR[case.mask_BR].mean())


def test_the_capped_ratio_is_sdpo_s(case, trl):
    full_BR = trl.sdpo.compute_full_logit_self_distillation_loss(
        case.student_BRV, case.teacher_BRV, distillation_alpha=0.5
    )
    theirs_BR = trl.sdpo.apply_importance_sampling_clipping(full_BR, case.logq_BR, case.behaviour_BR, 1.1)
    ours_N = JSD(beta=0.5)(case.scored)
    weight = WeightConfig(token=[ImportanceWeight(cap=1.1)])
    case.same(case.ours(ours_N, weight), theirs_BR[case.mask_BR].mean())


def test_the_sampled_form_has_sdpo_s_gradient(case, trl):
    theirs_BR = trl.sdpo.compute_sampled_token_self_distillation_loss(
        case.student_BRV, case.teacher_BRV, case.token_BR, distillation_alpha=1.0
    )
    on_policy = case.scored._replace(behaviour_N=case.logq_BR.detach()[case.mask_BR])
    ours_N = PolicyGradient()(on_policy)
    case.same(case.ours(ours_N), theirs_BR[case.mask_BR].mean(), value=False)


@pytest.mark.parametrize("loss_type, normaliser", [("grpo", "sequence"), ("dr_grpo", "constant"), ("bnpo", "token")])
@pytest.mark.parametrize("high", [0.2, 0.28])
def test_the_clipped_objective_is_grpo_s(case, loss_type, normaliser, high, trl):
    trainer = MagicMock()
    trainer._get_per_token_logps_and_entropies.return_value = (case.logq_BR, torch.zeros(B, R), None)
    trainer.top_entropy_quantile, trainer.beta, trainer.off_policy_mask_threshold = 1.0, 0.0, None
    trainer.importance_sampling_level, trainer.loss_type = "token", loss_type
    trainer.epsilon_low, trainer.epsilon_high, trainer.args.delta = 0.2, high, None
    trainer.use_vllm = trainer._entropy_bonus_enabled = trainer.aux_loss_enabled = False
    trainer.current_gradient_accumulation_steps, trainer.max_completion_length = 1, MAX_NEW
    trainer.accelerator.gather.side_effect = lambda x: x
    inputs = {
        "prompt_ids": torch.zeros(B, 1, dtype=torch.long),
        "prompt_mask": torch.ones(B, 1, dtype=torch.long),
        "completion_ids": case.token_BR,
        "completion_mask": case.mask_BR.long(),
        "advantages": case.advantage_B,
        "old_per_token_logps": case.behaviour_BR,
    }
    theirs = trl.grpo._compute_loss(trainer, MagicMock(), inputs)
    config, advantage_BR = GRPO(clip=0.2, clip_high=high), case.advantage_B[:, None].expand(B, R)
    ours_N = config.policy_gradient(case.scored, advantage_BR)
    case.same(case.ours(ours_N, WeightConfig(normaliser=normaliser)), theirs)
    free_N = GRPO().policy_gradient(case.scored, advantage_BR)
    assert not torch.allclose(ours_N, free_N), "the clip had nothing to act on"


def test_early_weights_are_iw_opd_s(case, trl):
    trainer = MagicMock()
    trainer.temperature, trainer.iw_opd_gamma, trainer.iw_opd_epsilon = 1.0, 0.5, 1e-12
    theirs = trl.iw_opd._compute_iw_opd_loss(
        trainer,
        student_logits=case.student_BRV,
        completion_tokens=case.token_BR,
        labels=case.labels_BR,
        teacher_actual_logprobs=case.logp_BR,
        num_items_in_batch=int(case.mask_BR.sum()),
    )
    on_policy = case.scored._replace(behaviour_N=case.logq_BR.detach()[case.mask_BR])
    ours_N = PolicyGradient()(on_policy)
    case.same(case.ours(ours_N, WeightConfig(token=[EarlyTokens(gamma=0.5)])), theirs, value=False)
