"""Log-probabilities of student, teacher and reference at the same response positions, a block of positions at a time.

No batch's log-probabilities over the vocabulary live all at once: unembedding, log-softmax and loss go forward and
backward in each block before the next is begun; what stays of a block is its gradient with respect to the hidden states
and the unembedding. Equal to one pass over all positions to rounding; where all fit into one block it is that pass.
Signals are what must be known of a whole batch before its coefficients are: one pass without gradient measures them.

Legend: B rows, R response columns, N response positions, n those of a block, C channels, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import log
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.core.distributed import Group
from train.opd.rollout_batch import Rollouts, positions

LogProbs = Callable[[slice], Tensor]  # log-probabilities float32[n, V] at some of a batch's response positions
Targets = tuple[
    LogProbs | None, ...
]  # of the teacher, after its transform; the student at step 0; as it drew the batch


def of_token(log_probs_NV: Tensor, token_N: Tensor) -> Tensor:
    """The log-probability of one token at each position: float[N]."""
    return log_probs_NV.gather(-1, token_N[:, None]).squeeze(-1)


def entropy(log_probs_NV: Tensor) -> Tensor:
    """Entropy of each position's distribution, in nats: float[N]."""
    return -(log_probs_NV.exp() * log_probs_NV).sum(dim=-1)


def kl(a_NV: Tensor, b_NV: Tensor) -> Tensor:
    """KL(a, b) = sum_v a(v) log(a(v) / b(v)) over the whole vocabulary, in nats: float[N]."""
    return (a_NV.exp() * (a_NV - b_NV)).sum(dim=-1)


def jsd(a_NV: Tensor, b_NV: Tensor) -> Tensor:
    """Jensen-Shannon divergence over the whole vocabulary, in nats, at most log 2: float[N]."""
    m_NV = torch.logaddexp(a_NV, b_NV) - log(2.0)
    return 0.5 * (kl(a_NV, m_NV) + kl(b_NV, m_NV))


class Scored(NamedTuple):
    """Log-probabilities at N response positions, row after row: all of a batch's, or a block of them.

    student_NV: float32, with gradient. teacher_NV: the target after its transform, or None without a teacher.
    reference_NV: the student at step 0, or None where nothing asks for it. token_N: the response tokens.
    behaviour_N: their log-probability when they were drawn. row_N, time_N: which row, which response position.
    older_NV: the student that drew the batch, or None where it is the present one or nothing asks for it.
    """

    student_NV: Tensor
    teacher_NV: Tensor | None
    reference_NV: Tensor | None
    token_N: Tensor
    behaviour_N: Tensor
    row_N: Tensor
    time_N: Tensor
    older_NV: Tensor | None = None

    @property
    def old_NV(self) -> Tensor:
        """The log-probabilities of the student that drew the batch, without gradient."""
        return (self.student_NV if self.older_NV is None else self.older_NV).detach()

    @property
    def target_NV(self) -> Tensor:
        """The teacher's log-probabilities, for losses that every method with a teacher may have."""
        if self.teacher_NV is None:
            raise RuntimeError("no teacher scored these positions")
        return self.teacher_NV

    @property
    def log_q_N(self) -> Tensor:
        """log q(y) of the response tokens, with gradient."""
        return of_token(self.student_NV, self.token_N)

    @property
    def log_p_N(self) -> Tensor:
        """log p(y) of the response tokens under the teacher's target."""
        return of_token(self.target_NV, self.token_N)


class MicroBatchScores:
    """A micro-batch to be scored: the student's hidden states, with gradient, and its targets.

    hidden: `teacher.HiddenStates` of the student, or what averages its gradients over processes.
    Log-probabilities are made for a block of positions at a time, by `at`.
    """

    def __init__(self, hidden: nn.Module, targets: Targets, rollouts: Rollouts) -> None:
        self.hidden_NC = hidden(rollouts.tokens_BT, rollouts.prompt_B, rollouts.length_B)
        self.targets = targets
        self.row_N, self.time_N = positions(rollouts.length_B)
        self.token_N = rollouts.tokens_BT[self.row_N, rollouts.prompt_B[self.row_N] + self.time_N]
        self.behaviour_N = rollouts.behaviour_BR[self.row_N, self.time_N]

    def at(self, block: slice, student_nV: Tensor) -> Scored:
        """The record of some positions, given the student's log-probabilities there."""
        teacher, reference, *old = (None if log_probs is None else log_probs(block) for log_probs in self.targets)
        tracks = (self.token_N, self.behaviour_N, self.row_N, self.time_N)
        return Scored(student_nV, teacher, reference, *(track_N[block] for track_N in tracks), *old)


@torch.no_grad()
def advantage(scored: Scored) -> Tensor:
    """d = log p(y) - log q(y): what the teacher gives the response's token above the student, float[N]."""
    return scored.log_p_N - scored.log_q_N


ENTRIES = {"cpu": 2**22, "cuda": 2**26}  # log-probabilities of a block: 16 MB, 256 MB


def next_token_log_probs(hidden_NC: Tensor, unembedding_VC: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities of the next token, float32[N, V]."""
    return torch.log_softmax(F.linear(hidden_NC, unembedding_VC).float() / temperature, dim=-1)


def blocks(length_B: Tensor, vocabulary: int, whole_rows: bool = False) -> list[slice]:
    """Slices of the N = length_B.sum() positions of at most ENTRIES log-probabilities.

    whole_rows: never cut a response, for estimators that look at what follows; a long one is a block of its own.
    """
    most = max(1, ENTRIES[length_B.device.type] // vocabulary)
    ends = length_B.cumsum(0).tolist()
    if not whole_rows:
        ends = [*range(most, ends[-1], most), ends[-1]]
    found, start = [], 0
    for end, after in zip(ends, [*ends[1:], None], strict=True):
        if after is None or after - start > most:
            found.append(slice(start, end))
            start = end
    return found


def token_log_probs(log_probs: LogProbs, rollouts: Rollouts, vocabulary: int) -> Tensor:
    """The log-probability of every response token, a block at a time: float[N]."""
    token_N = rollouts.response_BR[positions(rollouts.length_B)]
    return torch.cat([of_token(log_probs(at), token_N[at]) for at in blocks(rollouts.length_B, vocabulary)])


class _Recorded(torch.autograd.Function):
    """A scalar whose gradients with respect to two tensors have been computed already."""

    @staticmethod
    def forward(ctx, value: Tensor, slope_a: Tensor, slope_b: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(slope_a, slope_b)
        return value.clone()

    @staticmethod
    def backward(ctx, outer: Tensor):
        slope_a, slope_b = ctx.saved_tensors
        return None, None, None, outer * slope_a, outer * slope_b


class BlockwiseLoss:
    """A sum over blocks of positions, with gradient to the hidden states and the unembedding.

        >>> total = BlockwiseLoss(hidden_NC, unembedding_VC, blocks)
        >>> for block in total:
        ...     total.add(loss_of(total.log_probs()))   # goes backward at once
        >>> total.loss()                                # a scalar whose backward costs nothing more

    What a block makes should be let go before the next one: nothing but numbers stays of it.
    """

    def __init__(
        self, hidden_NC: Tensor, unembedding_VC: Tensor, blocks: list[slice], temperature: float = 1.0
    ) -> None:
        self.hidden_NC, self.unembedding_VC, self.blocks = hidden_NC, unembedding_VC, blocks
        self.temperature = temperature
        self._weight = unembedding_VC.detach().requires_grad_()
        self._slopes: list[Tensor] = []
        self._total = torch.zeros((), device=hidden_NC.device)

    def __iter__(self) -> Iterator[slice]:
        for block in self.blocks:
            self._hidden_nC = self.hidden_NC.detach()[block].requires_grad_()
            yield block

    def log_probs(self) -> Tensor:
        """Log-probabilities of the next token at the present block, with gradient: float32[n, V]."""
        return next_token_log_probs(self._hidden_nC, self._weight, self.temperature)

    def add(self, loss: Tensor) -> None:
        """The loss of the present block."""
        loss.backward()
        self._slopes.append(cast(Tensor, self._hidden_nC.grad))
        self._total += loss.detach()

    def loss(self) -> Tensor:
        """The sum, once every block has been added."""
        return _Recorded.apply(
            self._total, torch.cat(self._slopes), self._weight.grad, self.hidden_NC, self.unembedding_VC
        )


def favourite_rank(scored: Scored) -> Tensor:
    """How many tokens the teacher finds likelier than the student's favourite: float[N]."""
    favourite_N1 = scored.student_NV.argmax(dim=-1, keepdim=True)
    return (scored.target_NV > scored.target_NV.gather(-1, favourite_N1)).sum(dim=-1).float()


MEASURES: dict[str, Callable[[Scored], Tensor]] = {
    "student_entropy": lambda s: entropy(s.student_NV),
    "teacher_entropy": lambda s: entropy(s.target_NV),
    "rkl": lambda s: kl(s.student_NV, s.target_NV),
    "jsd": lambda s: jsd(s.student_NV, s.target_NV),
    "log_q": lambda s: s.log_q_N,
    "log_p": lambda s: s.log_p_N,
    "favourite_rank": favourite_rank,
}
OF_TEACHER = {"teacher_entropy", "rkl", "jsd", "log_p", "favourite_rank", "log_p_contrast"}  # signals of it


@dataclass(frozen=True)
class Signals:
    """float[B, R] by name, zero on padding, and the size of the vocabulary."""

    values: dict[Any, Tensor]
    vocabulary: int

    def __getitem__(self, name: Any) -> Tensor:
        return self.values[name]

    def mean(self, name: str, rollouts: Rollouts) -> Tensor:
        """The mean over each response's tokens: float[B]."""
        return self[name].sum(dim=1) / rollouts.length_B.clamp(min=1)


@torch.no_grad()
def measure(
    needs: set[Any],
    rollouts: Rollouts,
    blocks: Iterable[tuple[Tensor, Scored]],
    vocabulary: int,
    group: Group,
    more: Mapping[str, Tensor] | None = None,
) -> Signals:
    """The signals of a batch.

    Args:
        needs: names of MEASURES, or what measures itself.
        blocks: the positions that this process scores, each with the rows of its micro-batch.
        group: whose processes score the others.
        more: further signals, of the positions that this process scores.
    """
    values = {name: torch.zeros_like(rollouts.behaviour_BR) for name in needs - (more or {}).keys()}
    for index_M, scored in blocks:
        for name, value_BR in values.items():
            value_N = MEASURES[name](scored) if isinstance(name, str) else name.measure(scored)
            value_BR[index_M[scored.row_N], scored.time_N] = value_N.to(value_BR.dtype)
    values |= more or {}
    if group.world_size > 1:
        every = group.gather({name: value_BR.cpu() for name, value_BR in values.items()})
        values = {name: torch.stack([own[name] for own in every]).sum(0).to(values[name].device) for name in values}
    return Signals(values, vocabulary)
