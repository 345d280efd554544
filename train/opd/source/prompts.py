"""The prompts of a step, the random numbers of answering them, and the record that responses become.

The invariant that matters: a step's prompts are stream indices, and its random numbers are addressed by
(seed, use, step). So the rollouts of step k are a function of the weights and k alone, and a resumed run draws the same
ones.

Legend: B rows, R response columns.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.gpt import GPT
from synth.dataset import Source
from synth.documents import Documents
from synth.kernel.rng import key
from synth.problem.arrays import Problems
from synth.store.encodings import Encoding, encoding_of
from train.core.state import forward_flops
from train.data.batches import pad
from train.opd.rollouts import ORIGINS, Rollouts, join


@dataclass(frozen=True)
class Prompts:
    """Where prompts come from, and the limits of answering them.

    stream: problems and documents by index. count: prompts of a step. max_new: the budget of a response in tokens,
    its end included. seed: of the rollouts. first, stop: which of a step's prompts are meant, all where stop is null;
    of several processes each draws responses to a share of them.
    """

    stream: Source
    count: int
    max_new: int
    seed: int
    first: int = 0
    stop: int | None = None

    @property
    def tokens(self) -> Encoding:
        """What the stream's documents are written in."""
        return encoding_of(self.stream)

    def documents(self, step: int) -> Documents:
        """The documents of a step: indices step * count + first to step * count + stop."""
        start = step * self.count
        return self.stream.documents(range(start + self.first, start + (self.stop or self.count)))

    def share(self, rank: int, world_size: int) -> "Prompts":
        """The prompts of one of `world_size` processes."""
        return replace(self, first=self.count * rank // world_size, stop=self.count * (rank + 1) // world_size)

    def chance(self, use: str, step: int) -> float:
        """A uniform number from [0, 1), of one use in one step."""
        return key(self.seed, use, step) / 2.0**63  # `key` has 63 bits

    def generator(self, use: str, step: int, each: int = 0) -> torch.Generator:
        """The random numbers of one use in one step; `each` of them belong to every prompt, in order."""
        found = torch.Generator().manual_seed(key(self.seed, use, step))
        if self.first * each:
            torch.rand(self.first * each, generator=found)
        return found


def spans(documents: Documents) -> np.ndarray:
    """Offsets int64[2 N + 1] that cut the documents' tokens into prompt, response, prompt, response, ..."""
    starts = np.asarray(documents.offsets[:-1], dtype=np.int64)
    cuts = np.stack([starts, starts + documents.prompt], axis=1)
    return np.append(cuts.ravel(), documents.offsets[-1])


def responses_of(documents: Documents, values: np.ndarray, device: torch.device) -> Tensor:
    """A per-token array of the documents at their responses, padded with zeros: [B, R]."""
    rows_B = np.arange(len(documents.prompt)) * 2 + 1
    return torch.from_numpy(pad(values, spans(documents), rows_B, 0)).to(device)


def repeated_prompts(documents: Documents, times: int) -> list[list[int]]:
    """Every prompt `times` times."""
    prompts_N = np.split(documents.tokens, spans(documents)[1:-1])[::2]
    return [tokens for prompt in prompts_N for tokens in [prompt.tolist()] * times]


def assemble(
    prompts: Prompts,
    texts: list[list[int]],
    problems: Problems,
    response_BR: Tensor,
    length_B: Tensor,
    behaviour_BR: Tensor,
    group_B: Tensor,
    origin: str,
) -> Rollouts:
    """The record of responses to the prompts `texts`, with the checker's verdicts."""
    tokens = prompts.tokens
    tokens_BT, prompt_B = join(texts, response_BR, length_B, tokens.pad)
    return Rollouts(
        tokens_BT=tokens_BT,
        prompt_B=prompt_B,
        length_B=length_B,
        trainable_BR=torch.arange(response_BR.shape[1], device=length_B.device) < length_B[:, None],
        behaviour_BR=behaviour_BR,
        group_B=group_B,
        origin_B=torch.full_like(group_B, ORIGINS.index(origin)),
        problems=problems,
        verdicts=tokens.check(problems, response_BR.cpu().numpy(), length_B.cpu().numpy()),
        eos=tokens.eos,
        pad=tokens.pad,
    )


def generation_flops(model: GPT, prompt_B: Tensor, length_B: Tensor, times: int) -> float:
    """What sampling took. A prompt is read once for all its samples, and the last token of a response never."""
    once = forward_flops(model.config, prompt_B[::times])
    return forward_flops(model.config, prompt_B + length_B - 1) - (times - 1) * once
