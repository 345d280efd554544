"""Near-future guidance, TOPD (2606.00305): is a high-loss token a real fork, or another wording of the same step?

From the state before a high-loss token student and teacher each write a short future. The verifier says whether both
have then derived the same things rightly: if so the token is a surface mismatch and gets no weight; if not the student
also follows the teacher's future, by forward KL. The paper compares futures by optimal transport between embeddings;
the verifier's state is the exact answer to the same question (ours). Eta, gamma and the share are inferred.

Legend: B rows, R response columns, F forks, K tokens of a future.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.decode.sampling import sample
from models.gpt import GPT
from synth.judge.checker import MALFORMED, Verdicts
from synth.ragged import pad_rows
from train.opd.checks import positive, unit
from train.opd.rollouts import Rollouts, join
from train.opd.signals import Signals
from train.opd.source.samplers import Prompts, generation_flops, generator
from train.opd.weight.token_weights import top


@dataclass(frozen=True)
class ForkConfig:
    """candidates: share of positions of the highest reverse KL; limit: how many of them are looked at in a batch.

    tokens: of a future. eta: weight of a teacher's future, gamma: discount of its tokens.
    """

    candidates: float = 0.2
    limit: int = 64
    tokens: int = 16
    eta: float = 0.5
    gamma: float = 0.95

    def __post_init__(self) -> None:
        unit("fork.candidates", self.candidates)
        for name in ("limit", "tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"fork.{name}={getattr(self, name)}: accepted are whole numbers from 1")
        positive("fork.eta", self.eta)
        if not 0.0 < self.gamma <= 1.0:
            raise ValueError(f"fork.gamma={self.gamma}: accepted are numbers above 0, up to 1")


class Forks(NamedTuple):
    """weight_BR: 0 at surface mismatches, else 1. futures: the teacher's at each fork, None without forks, with the
    position that each starts from. looked, real: how many candidates, how many forks. flops: of writing the futures."""

    weight_BR: Tensor
    futures: Rollouts | None
    at: tuple[Tensor, Tensor]
    looked: int
    real: int
    flops: float


def states(verdicts: Verdicts, lengths: np.ndarray, ended: np.ndarray) -> list[tuple]:
    """What each text has derived: parameters of its right steps, whether a step is wrong, whether the answer is there.

    A last step that the window cuts off says nothing yet and is left out.
    """
    found = []
    for row, (length, over) in enumerate(zip(lengths, ended, strict=True)):
        spans = zip(verdicts.kind[row], verdicts.param[row], verdicts.start[row], verdicts.stop[row], strict=True)
        whole = [(kind, param) for kind, param, start, stop in spans if start >= 0 and (over or stop < length)]
        right = frozenset(int(param) for kind, param in whole if kind < MALFORMED)
        found.append((right, any(kind >= MALFORMED for kind, _ in whole), bool(over and verdicts.answer_right[row])))
    return found


def look(
    rollouts: Rollouts, signals: Signals, config: ForkConfig, student: GPT, teacher: GPT, prompts: Prompts, step: int
) -> Forks:
    """Compares the futures of student and teacher at the batch's high-loss tokens."""
    weight_BR = torch.ones_like(rollouts.behaviour_BR)
    room = min(student.config.context, teacher.config.context) - config.tokens
    chosen_BR = top(signals["rkl"], config.candidates, rollouts) > 0
    place_R = torch.arange(weight_BR.shape[1], device=weight_BR.device)
    chosen_BR &= rollouts.prompt_B[:, None] + place_R <= room
    row_N, time_N = chosen_BR.nonzero(as_tuple=True)
    best_N = signals["rkl"][row_N, time_N].argsort(descending=True, stable=True)[: config.limit]
    row_N, time_N = row_N[best_N], time_N[best_N]
    if len(row_N) == 0:
        return Forks(weight_BR, None, (row_N, time_N), 0, 0, 0.0)
    tokens, texts_BT = prompts.tokens, rollouts.tokens_BT.tolist()
    starts, cuts = rollouts.prompt_B.tolist(), time_N.tolist()
    rows = row_N.tolist()
    prefixes = [texts_BT[row][: starts[row] + t] for row, t in zip(rows, cuts, strict=True)]
    problems = rollouts.problems.take(rows)
    derived, flops, drawn = [], 0.0, None
    prefix_N = torch.tensor([len(prefix) for prefix in prefixes])
    for name, model in (("student", student), ("teacher", teacher)):
        dice = generator(prompts, f"future {name}", step)
        drawn = sample(model, prefixes, config.tokens, temperature=1.0, eos=tokens.eos, pad=tokens.pad, generator=dice)
        flops += generation_flops(model, prefix_N, drawn.lengths_B.cpu(), 1)
        futures = zip(drawn.tokens_BT.tolist(), drawn.lengths_B.tolist(), strict=True)
        texts = [
            [*prefix[starts[row] :], *future[:n]]
            for row, prefix, (future, n) in zip(rows, prefixes, futures, strict=True)
        ]
        lengths = np.array([len(text) for text in texts])
        verdicts = tokens.check(problems, pad_rows(texts, tokens.pad), lengths)
        derived.append(states(verdicts, lengths, drawn.finished_B.cpu().numpy()))
    assert drawn is not None
    fork_N = torch.tensor([a != b for a, b in zip(*derived, strict=True)], device=row_N.device)
    weight_BR[row_N[~fork_N], time_N[~fork_N]] = 0.0
    at, real = (row_N[fork_N], time_N[fork_N]), int(fork_N.sum())
    if real == 0:
        return Forks(weight_BR, None, at, len(rows), 0, flops)
    real_F = fork_N.nonzero().squeeze(1).tolist()
    length_F = drawn.lengths_B[fork_N]
    response_FK = drawn.tokens_BT[fork_N, : int(length_F.max())]
    tokens_FT, prompt_F = join([prefixes[i] for i in real_F], response_FK, length_F)
    written = Rollouts(
        tokens_BT=tokens_FT,
        prompt_B=prompt_F,
        length_B=length_F,
        trainable_BR=torch.arange(response_FK.shape[1], device=length_F.device) < length_F[:, None],
        behaviour_BR=drawn.sampling_logprobs_BT[fork_N, : response_FK.shape[1]],
        group_B=rollouts.group_B[at[0]],
        origin_B=rollouts.origin_B[at[0]],
        problems=problems.take(real_F),
        verdicts=Verdicts(*(field[real_F] for field in verdicts)),
        eos=tokens.eos,
        pad=tokens.pad,
    )
    return Forks(weight_BR, written, at, len(rows), real, flops)


def future_coefficients(forks: Forks, config: ForkConfig, counts_BR: Tensor) -> Tensor:
    """What the tokens of each future count: eta gamma^k / K of what the token before which it starts counts: [F, K]."""
    assert forks.futures is not None
    inside_FK = forks.futures.trainable_BR.float()
    place_K = torch.arange(inside_FK.shape[1], device=inside_FK.device)
    share_FK = config.eta * config.gamma**place_K * inside_FK / forks.futures.length_B[:, None]
    return share_FK * counts_BR[forks.at][:, None]
