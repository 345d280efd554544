"""What else must hold while the student follows its target: the regularizer part of a method.

Position regularizers read the scored record of the response positions; `gold_nll` is an ordinary negative
log-likelihood on the documents that belong to the step's prompts, with a forward pass of its own. All are averaged
over every response position with the method's normaliser, whatever responses the distillation term leaves out.

Legend: N response positions, V vocabulary.
"""

from dataclasses import dataclass

from torch import Tensor

from train.opd.divergence import kl_entries
from train.opd.teacher import Scored


def reference_kl(scored: Scored) -> Tensor:
    """KL(q, r) over the full vocabulary at the batch's own states, r the student at step 0 (StableOPD, 2604.08527)."""
    assert scored.reference_NV is not None
    return kl_entries(scored.student_NV, scored.reference_NV).sum(dim=-1)


def negative_entropy(scored: Scored) -> Tensor:
    """sum q log q: minimising it keeps the student's distribution broad; a negative coefficient sharpens it."""
    return (scored.student_NV.exp() * scored.student_NV).sum(dim=-1)


POSITION = {"ref_kl": reference_kl, "entropy": negative_entropy}


@dataclass(frozen=True)
class RegularizerConfig:
    """Coefficients, 0 for off: ref_kl (KL to the student at step 0), gold_nll (NLL of the step's documents), entropy
    (of the student, positive: kept high, negative: pushed down)."""

    ref_kl: float = 0.0
    gold_nll: float = 0.0
    entropy: float = 0.0

    def __post_init__(self) -> None:
        for name in ("ref_kl", "gold_nll"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"regularizer.{name}={getattr(self, name)}: accepted are numbers from 0 (off)")

    @property
    def needs_reference(self) -> bool:
        """Whether the student at step 0 must be scored."""
        return self.ref_kl > 0.0


def regularization(scored: Scored, config: RegularizerConfig) -> dict[str, Tensor]:
    """The position regularizers that are switched on, by name, each already times its coefficient: float[N]."""
    return {
        name: getattr(config, name) * function(scored)
        for name, function in POSITION.items()
        if getattr(config, name) != 0.0
    }
