"""A file of released numbers, its batch through our parts, and how far the two losses are apart.

Legend: B rows, R response columns, V vocabulary, N response positions.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from synth.judge.checker import Verdicts
from tests.helpers.opd_methods import method as composed
from train.core.loop import SINGLE_PROCESS
from train.opd.log_probs import Scored, measure
from train.opd.method import Method
from train.opd.objective import weigh
from train.opd.rollout_batch import ORIGINS, Rollouts, positions

TOLERANCE = 1e-6
END, PROMPT = 1, 2  # the end token of the files; tokens of the prompt that is put before the responses


class File:
    """The arrays of a golden file as tensors, numbers as numbers."""

    def __init__(self, arrays: Mapping[str, np.ndarray], rows: slice = slice(None), padded: bool = False) -> None:
        self.arrays, self.rows, self.padded = arrays, rows, padded

    @classmethod
    def read(cls, path: Path) -> "File":
        """Raises ValueError, in one line, where it is no npz file of plain arrays."""
        try:
            with np.load(path) as arrays:
                return cls(dict(arrays.items()))
        except (OSError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as fault:
            raise ValueError(f"{path}: cannot be read as an npz file of arrays ({type(fault).__name__})") from fault

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def setting(self, name: str) -> float:
        return float(self.arrays[f"in_{name}"])

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name][self.rows])

    @property
    def length_B(self) -> Tensor:
        """Positions of each row; where the release has some on padding, all of them, to be learned from or not."""
        length_B = self.tensor("in_lengths")
        return torch.full_like(length_B, self.arrays["in_tokens"].shape[1]) if self.padded else length_B

    @property
    def off_policy(self) -> bool:
        """Whether the tokens come from another distribution than the student's."""
        return "in_on_policy" not in self or self.setting("on_policy") == 0

    def log_probs(self, model: str) -> Tensor:
        """float64[N, V] of `student`, `teacher` or `reference` at the response positions."""
        return torch.log_softmax(self.tensor(f"in_{model}_logits")[positions(self.length_B)], dim=-1)

    def tokens(self) -> float:
        return float(self.length_B.sum())


@cache
def has_forms(name: str) -> bool:
    """Whether a method has one form after its paper and one after its release."""
    return composed(name).faithful is not None


@dataclass(frozen=True)
class Variant:
    """One loss of a file, `out_NAME_loss` and `out_NAME_grad` ("": `out_loss`), and how our parts come to it.

    method, overrides: as on the command line. scale: of our loss, where the release divides by another number.
    constant: what the release's value has beyond ours, without gradient. from_student: the tokens count as drawn from
    the student as it is, whatever the file says. has_context: bool[B], rows whose teacher reads something. signals:
    what is measured before the loss, where the file gives it. micro_batches: rows of each; their losses are averaged.
    value: whether the loss itself is compared, not its gradient alone. step: of the run, for what changes with it.
    padded: padding has positions, too. form: which of a method's two forms is meant.
    """

    name: str
    method: str
    overrides: Sequence[str] = ()
    scale: float = 1.0
    constant: float = 0.0
    from_student: bool = False
    has_context: Tensor | None = None
    micro_batches: tuple[int, ...] = ()
    value: bool = True
    step: int = 0
    padded: bool = False
    form: str = "release"
    signals: Mapping[str, Tensor] | None = None

    def composed(self) -> Method:
        form = [f"faithful={self.form}"] if has_forms(self.method) else []
        return composed(self.method, *(f"method.{o}" for o in [*form, *self.overrides]))

    def output(self, what: str) -> str:
        return f"out_{self.name}_{what}" if self.name else f"out_{what}"


@dataclass(frozen=True)
class Difference:
    """Relative differences; None where the release has no such number."""

    name: str
    loss: float | None
    gradient: float | None

    @property
    def equal(self) -> bool:
        found = [x for x in (self.loss, self.gradient) if x is not None]
        return bool(found) and all(x <= TOLERANCE for x in found)  # nan is not equal


def batch(file: File, student_NV: Tensor, from_student: bool) -> tuple[Rollouts, Scored]:
    """The rollouts and the scored record of a file: each response behind a prompt of a few tokens."""
    length_B = file.length_B
    row_N, time_N = positions(length_B)
    response_BR = file.tensor("in_tokens")
    B, R = response_BR.shape
    token_N = response_BR[row_N, time_N]
    behaviour_BR, older_NV = torch.zeros(B, R, dtype=torch.float64), None
    given = [name for name in ("in_behaviour_logp", "in_old_logp") if name in file and not from_student]
    old = [name for name in ("old", "rollout") if f"in_{name}_logits" in file and not from_student]
    if given:
        behaviour_BR = file.tensor(given[0]).double()
    else:
        drew_NV = student_NV.detach()
        if old:
            drew_NV = older_NV = file.log_probs(old[0])
        if "in_teacher_mixed_alpha" in file:
            share = file.setting("teacher_mixed_alpha")
            drew_NV = torch.log((1.0 - share) * drew_NV.exp() + share * file.log_probs("teacher").exp())
        behaviour_BR[row_N, time_N] = drew_NV.gather(-1, token_N[:, None]).squeeze(-1)
    right_B = file.tensor("in_reward").numpy() > 0.5 if "in_reward" in file else np.zeros(B, dtype=bool)
    verdicts = Verdicts(*([np.zeros(B)] * len(Verdicts._fields)))._replace(right=right_B, answer_right=right_B)
    rollouts = Rollouts(
        tokens_BT=torch.cat([torch.zeros(B, PROMPT, dtype=torch.long), response_BR], dim=1),
        prompt_B=torch.full((B,), PROMPT),
        length_B=length_B,
        trainable_BR=file.tensor("in_mask"),
        behaviour_BR=behaviour_BR,
        group_B=file.tensor("in_group").long() if "in_group" in file else torch.zeros(B, dtype=torch.long),
        origin_B=ORIGINS.index("teacher") * written_by_teacher(file).long(),
        problems=None,
        verdicts=verdicts,
        eos=END,
    )  # fmt: skip
    teacher_NV = file.log_probs("teacher") if "in_teacher_logits" in file else None
    reference_NV = file.log_probs("reference") if "in_reference_logits" in file else None
    tracks = (token_N, behaviour_BR[row_N, time_N], row_N, time_N)
    return rollouts, Scored(student_NV, teacher_NV, reference_NV, *tracks, older_NV)


def written_by_teacher(file: File) -> Tensor:
    """bool[B]: rows that the file says are the teacher's."""
    name = next((name for name in ("in_off_policy_rows", "in_chosen_rows") if name in file), None)
    return torch.zeros(len(file.length_B), dtype=torch.bool) if name is None else file.tensor(name)


def loss_of(file: File, variant: Variant, method: Method, z_BRV: Tensor) -> Tensor:
    """The loss of a batch by our parts, as `train.opd.objective` sums it."""
    student_NV = torch.log_softmax(z_BRV[positions(file.length_B)] / method.source.trained_at, dim=-1)
    rollouts, scored = batch(file, student_NV, variant.from_student)
    if method.scores and scored.teacher_NV is None and variant.signals is None:
        raise KeyError("in_teacher_logits")
    if scored.teacher_NV is not None:
        target_NV = method.teacher.transform(scored.teacher_NV, scored.reference_NV)
        scored = scored._replace(teacher_NV=target_NV)
    blocks = [(torch.arange(len(rollouts)), scored)]
    needs = set() if variant.signals else method.needs
    signals = measure(needs, rollouts, blocks, student_NV.shape[-1], SINGLE_PROCESS, variant.signals)
    has_target_BR = None
    if variant.has_context is not None:
        has_target_BR = variant.has_context[:, None].expand(rollouts.trainable_BR.shape)
    max_new = int(file.setting("max_new")) if "in_max_new" in file else z_BRV.shape[1]
    terms = weigh(method, rollouts, max_new, variant.step, signals, has_target_BR)
    return sum((term(scored) for term in terms), torch.zeros((), dtype=torch.float64))


def ours(file: File, variant: Variant) -> tuple[float, Tensor]:
    """Our loss and its gradient with respect to the student's logits."""
    method = variant.composed()
    z_BRV = file.tensor("in_student_logits").clone().requires_grad_()
    stops = np.cumsum(variant.micro_batches or [len(z_BRV)]).tolist()
    parts = [slice(a, b) for a, b in zip([0, *stops], stops, strict=False)]
    losses = [loss_of(File(file.arrays, rows, variant.padded), variant, method, z_BRV[rows]) for rows in parts]
    loss = variant.scale * sum(losses) / len(losses)
    (gradient_BRV,) = torch.autograd.grad(loss, z_BRV)
    return loss.item() + variant.constant, gradient_BRV


def difference(file: File, variant: Variant) -> Difference:
    """How far our loss is from the release's. The loss is compared relative to itself or, where it is about zero (as
    that of a policy gradient on fresh samples), to the largest entry of its gradient."""
    loss, gradient_BRV = ours(file, variant)
    loss_off = gradient_off = None
    scale = float(gradient_BRV.abs().max())
    if variant.output("grad") in file:
        released_BRV = file.tensor(variant.output("grad"))
        scale = float(released_BRV.abs().max())
        gradient_off = float((gradient_BRV - released_BRV).abs().max()) / max(scale, 1e-30)
    if variant.value:
        released = float(file.arrays[variant.output("loss")])
        loss_off = abs(loss - released) / max(abs(released), scale, 1e-30)
    return Difference(variant.name, loss_off, gradient_off)
