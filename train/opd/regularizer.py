"""What else must hold while the student follows its target: the regularizer part of a method.

Position regularizers read the scored record of the response positions; `gold_nll` is an ordinary negative
log-likelihood on the documents that belong to the step's prompts, with a forward pass of its own. Those on the
student's distribution count every response position with the method's normaliser, whatever distillation leaves out.

Legend: B rows, R response columns, N response positions, V vocabulary.
"""

from collections.abc import Callable

from torch import Tensor

from synth.ranges import NotNegative, settings
from train.opd.divergence.interface_and_topk import NLL
from train.opd.log_probs import Scored, Signals, kl, of_token
from train.opd.loss_terms import LossBatch, LossTerm, Step
from train.opd.rollout_batch import Rollouts
from train.opd.schedule import OpenShare
from train.opd.source.rollout_sampling import GoldDocuments
from train.opd.weight.sample_weights import FirstPair, Wrong
from train.opd.weight.token_weights import columns, quantile
from train.opd.weight.weight import WeightConfig, coefficients


def reference_kl(scored: Scored) -> Tensor:
    """KL(q, r) over the full vocabulary at the batch's own states, r the student at step 0 (StableOPD, 2604.08527)."""
    if scored.reference_NV is None:
        raise RuntimeError("regularizer.ref_kl: the student at step 0 was not scored")
    return kl(scored.student_NV, scored.reference_NV)


def negative_entropy(scored: Scored) -> Tensor:
    """sum q log q: minimising it keeps the student's distribution broad; a negative coefficient sharpens it."""
    return (scored.student_NV.exp() * scored.student_NV).sum(dim=-1)


def log_likelihood(scored: Scored) -> Tensor:
    """log q(y): minimising it on wrong responses makes them unlikely (REDI, 2505.24850). Unbounded: train shortly."""
    return scored.log_q_N


def reference_k2(scored: Scored) -> Tensor:
    """Half the squared log(q/r) of the sampled token: in expectation the gradient of KL(q, r) (SDPG, 2606.04036)."""
    return 0.5 * log_to_reference(scored) ** 2


def reference_k3(scored: Scored) -> Tensor:
    """r/q - 1 - log(r/q) of the sampled token: in expectation the gradient of KL(r, q); the usual one of GRPO."""
    d_N = log_to_reference(scored)
    return (-d_N).exp() - 1.0 + d_N


def log_to_reference(scored: Scored) -> Tensor:
    """log q(y) - log r(y): float[N]."""
    if scored.reference_NV is None:
        raise RuntimeError("regularizer.ref_k2, ref_k3: the student at step 0 was not scored")
    return scored.log_q_N - of_token(scored.reference_NV, scored.token_N)


POSITION: dict[str, Callable[[Scored], Tensor]] = {
    "ref_kl": reference_kl,
    "ref_k2": reference_k2,
    "ref_k3": reference_k3,
    "entropy": negative_entropy,
    "unlikelihood": log_likelihood,
}


@settings
class RegularizerConfig:
    """Coefficients, 0 for off: ref_kl (KL to the student at step 0; ref_k2, ref_k3: sampled), gold_nll (NLL of the
    step's documents), entropy (of the student, positive: kept high, negative: pushed down), unlikelihood (of the first
    wrong response to each prompt that has right ones too, the mean over each, then over them).

    entropy_top: only the share of positions where it is highest, and their mean; entropy_all: and where it is as high
    among those that are not learned from.
    """

    ref_kl: NotNegative = 0.0  # of the KL to the student at step 0
    ref_k2: NotNegative = 0.0
    ref_k3: NotNegative = 0.0
    gold_nll: NotNegative = 0.0  # of the negative log-likelihood of the step's documents
    entropy: float = 0.0  # of the student's entropy: above 0 kept high, below pushed down
    unlikelihood: NotNegative = 0.0  # of the first wrong response where there are right ones
    entropy_top: OpenShare | None = None
    entropy_all: bool = False

    def __post_init__(self) -> None:
        if self.entropy_all and self.entropy_top is None:
            raise ValueError("regularizer.entropy_all=true has no effect without regularizer.entropy_top")
        if self.entropy_top is not None and self.entropy == 0.0:
            raise ValueError(
                f"regularizer.entropy_top={self.entropy_top} has no effect with regularizer.entropy=0; accepted: null"
            )

    @property
    def needs_reference(self) -> bool:
        """Whether the student at step 0 must be scored."""
        return max(self.ref_kl, self.ref_k2, self.ref_k3) > 0.0

    @property
    def needs(self) -> set[str]:
        """Signals that must be measured first."""
        return {"student_entropy"} if self.entropy_top is not None else set()

    @property
    def active(self) -> list[str]:
        """Names of the position regularizers that are switched on."""
        return [name for name in POSITION if getattr(self, name) != 0.0]


def regularizer_terms(
    rollouts: Rollouts, config: RegularizerConfig, normaliser: str, max_new: int, signals: Signals | None
) -> list[LossTerm]:
    """The position regularizers that are switched on, each with its coefficient in the counts."""
    terms = []
    for name in config.active:
        if name == "unlikelihood":
            count_BR = coefficients(
                rollouts, WeightConfig(sample=[Wrong(), FirstPair()], normaliser="sequence"), max_new
            )
        elif name == "entropy" and config.entropy_top is not None and signals is not None:
            entropy_BR, inside_BR = signals["student_entropy"], rollouts.trainable_BR
            least = quantile(entropy_BR[inside_BR], config.entropy_top)
            kept_BR = columns(rollouts) < rollouts.length_B[:, None] if config.entropy_all else inside_BR
            count_BR = ((entropy_BR >= least) & kept_BR).to(entropy_BR.dtype)
            count_BR = count_BR / count_BR.sum().clamp(min=1.0)
        else:
            count_BR = coefficients(rollouts, WeightConfig(normaliser=normaliser), max_new)
        terms.append(LossTerm(name, getattr(config, name) * count_BR, POSITION[name]))
    return terms


@settings
class GoldLikelihood:
    """`coefficient` times the negative log-likelihood of the documents that belong to the step's prompts."""

    coefficient: float
    normaliser: str

    def extend(self, batches: list[LossBatch], step: Step) -> list[LossBatch]:
        """The documents as a further batch, without teacher."""
        rollouts, _ = GoldDocuments().draw(step.prompts, step.batch, step.model, None)
        count_BR = coefficients(rollouts, WeightConfig(normaliser=self.normaliser), step.prompts.max_new)
        terms = [LossTerm("gold_nll", count_BR, NLL(), self.coefficient)]
        return [*batches, LossBatch(rollouts, step.parts(rollouts, asks=False), terms)]
