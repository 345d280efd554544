"""The prompts of a step and the one batch record of distillation: their responses, who wrote them, the checker's word.

Two invariants. Response token t (from 0) of row b stands at column prompt_B[b] + t of `tokens_BT`, and the model's
output at column prompt_B[b] + t - 1 predicts it; rows are padded on the right only, and a response includes its
end-of-sequence token or was cut at the token budget. A step's prompts are stream indices, and its random numbers are
addressed by (seed, use, step): its rollouts are a function of weights and step, so a resumed run draws the same ones.

Legend: B rows, T columns (prompt and response), R response columns, N response positions, row after row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.gpt import GPT
from synth.dataset import Source
from synth.documents import Documents
from synth.judge.checker import Verdicts
from synth.kernel.rng import key
from synth.problem.arrays import Problems, concatenate
from synth.store.encodings import Encoding, encoding_of
from synth.world.vocabulary import EOS, PAD
from train.core.budget_and_ledger import forward_flops
from train.data.batches import in_epochs, pad

NO_ANSWER = -1  # in `Verdicts.answer`
ORIGINS = ("student", "gold", "teacher", "spliced", "revision", "privileged")  # who wrote a response


@dataclass(frozen=True)
class Rollouts:
    """Responses of one step. All tensors are on one device.

    tokens_BT: int64, prompt and response, padded with `pad`.
    prompt_B, length_B: int64, tokens of the prompt and of the response (its end-of-sequence token counted).
    trainable_BR: bool, response tokens that may be learned from: False on padding, and on the tokens that a document's
        own label mask leaves out.
    behaviour_BR: float32, log-probability of each response token under the distribution it was drawn from (for gold
        documents the generator's own), 0 on padding.
    group_B: int64, which prompt of the step the row answers.
    origin_B: int64, index in ORIGINS.
    problems: what is asked, one for each row.
    verdicts: the checker's judgement of each row.
    judge: what counts as right: the final answer, or with `strict` every step, too.
    first: index in the stream of the prompt of group 0.
    eos, pad: the end-of-sequence and the padding token.
    context: what a teacher reads before the prompt of each row, tokens of its sections; () without any
        (`teacher/context.py`).
    score_B: what a judge that learns gives each row (`outcome/rewards.py`), None without one.
    """

    tokens_BT: Tensor
    prompt_B: Tensor
    length_B: Tensor
    trainable_BR: Tensor
    behaviour_BR: Tensor
    group_B: Tensor
    origin_B: Tensor
    problems: Problems
    verdicts: Verdicts
    eos: int = EOS
    pad: int = PAD
    judge: str = "strict"
    first: int = 0
    context: tuple[tuple[int, ...], ...] = ()
    score_B: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompt_B)

    @property
    def right(self) -> np.ndarray:
        """bool[B]: which responses count as right."""
        return self.verdicts.right if self.judge == "strict" else self.verdicts.answer_right

    @property
    def has_context_B(self) -> Tensor:
        """bool[B]: whether the teacher reads anything beyond the prompt."""
        return torch.tensor([len(context) > 0 for context in self.context or [()] * len(self)]).to(self.prompt_B.device)

    def with_contexts(self) -> tuple[Tensor, Tensor]:
        """Tokens and prompt lengths as the teacher reads them; the same tensors where no row has a context."""
        if not any(self.context):
            return self.tokens_BT, self.prompt_B
        lengths, tokens = self.prompt_B.tolist(), self.tokens_BT.tolist()
        prompts = [[*c, *row[:n]] for c, row, n in zip(self.context, tokens, lengths, strict=True)]
        return join(prompts, self.response_BR, self.length_B, self.pad)

    @property
    def response_BR(self) -> Tensor:
        """int64[B, R]: the responses alone, padded with `pad`."""
        return responses(self.tokens_BT, self.prompt_B, self.length_B, self.pad)

    @property
    def finished_B(self) -> Tensor:
        """bool[B]: whether the response ended by itself, that is by its end-of-sequence token."""
        last_B1 = (self.prompt_B + self.length_B - 1)[:, None]
        return (self.tokens_BT.gather(1, last_B1).squeeze(1) == self.eos) & (self.length_B > 0)

    def rows(self, index_M: Tensor) -> "Rollouts":
        """The chosen rows, in that order, with columns that only padded other rows cut off."""
        take = index_M.cpu().numpy()
        n_columns = int((self.prompt_B + self.length_B)[index_M].max())
        n_response = int(self.length_B[index_M].max())
        return replace(
            self,
            tokens_BT=self.tokens_BT[index_M, :n_columns],
            trainable_BR=self.trainable_BR[index_M, :n_response],
            behaviour_BR=self.behaviour_BR[index_M, :n_response],
            problems=self.problems.take(take),
            verdicts=Verdicts(*(field[take] for field in self.verdicts)),
            context=tuple(self.context[row] for row in take) if self.context else (),
            score_B=None if self.score_B is None else self.score_B[index_M],
            **{name: getattr(self, name)[index_M] for name in ("prompt_B", "length_B", "group_B", "origin_B")},
        )

    def chunks(self, size: int, rank: int = 0, world_size: int = 1) -> list[Tensor]:
        """Row indices in blocks of at most `size` rows (0: all at once), sorted by length so that blocks pad little.

        Of `world_size` processes each takes every `world_size`-th row in that order, so that all have as much to do.
        """
        order_B = torch.argsort(self.prompt_B + self.length_B, stable=True)[rank::world_size]
        return list(order_B.split(size or len(self)))


def judged_right(rollouts: Rollouts) -> Tensor:
    """float[B]: 1 for the responses that count as right."""
    return torch.as_tensor(rollouts.right, device=rollouts.prompt_B.device).float()


def agrees(rollouts: Rollouts) -> Tensor:
    """float[B]: 1 where the written answer is the most frequent one of its group, which needs no truth; 0 on a tie."""
    written, group = rollouts.verdicts.answer, rollouts.group_B.cpu().numpy()
    found = np.zeros(len(written), dtype=np.float32)
    for g in np.unique(group):
        votes, counts = np.unique(written[(group == g) & (written != NO_ANSWER)], return_counts=True)
        if len(votes) and (counts == counts.max()).sum() == 1:
            found[(group == g) & (written == votes[counts.argmax()])] = 1.0
    return torch.from_numpy(found).to(rollouts.prompt_B.device)


def votes(answer_PN: np.ndarray) -> np.ndarray:
    """How many of a problem's N samples gave the same answer as each: int[P, N], 0 where there is none."""
    same_PNN = (answer_PN[:, :, None] == answer_PN[:, None, :]) & (answer_PN != NO_ANSWER)[:, None, :]
    return same_PNN.sum(axis=2) * (answer_PN != NO_ANSWER)


def group_mean(value_B: Tensor, group_B: Tensor) -> Tensor:
    """The mean over each row's group, at each row: float[B]."""
    total = torch.zeros(int(group_B.max()) + 1, dtype=value_B.dtype, device=value_B.device).index_add(
        0, group_B, value_B
    )
    count = torch.zeros_like(total).index_add(0, group_B, torch.ones_like(value_B))
    return (total / count.clamp(min=1.0))[group_B]


def positions(length_B: Tensor) -> tuple[Tensor, Tensor]:
    """Row and response column of every response position, row after row: two int64[N] with N = length_B.sum()."""
    row_N = torch.repeat_interleave(torch.arange(len(length_B), device=length_B.device), length_B)
    start_B = length_B.cumsum(0) - length_B
    return row_N, torch.arange(len(row_N), device=length_B.device) - start_B[row_N]


def responses(tokens_BT: Tensor, prompt_B: Tensor, length_B: Tensor, pad: int = PAD) -> Tensor:
    """int64[B, R]: the response part of each row, padded with `pad`."""
    n_response = int(length_B.max()) if len(length_B) else 0
    column_R = torch.arange(n_response, device=tokens_BT.device)
    at_BR = (prompt_B[:, None] + column_R).clamp(max=tokens_BT.shape[1] - 1)
    return tokens_BT.gather(1, at_BR).masked_fill(column_R >= length_B[:, None], pad)


def join(
    prompts: Sequence[Sequence[int]], response_BR: Tensor, length_B: Tensor, pad: int = PAD
) -> tuple[Tensor, Tensor]:
    """Prompts with their responses behind them.

    Returns:
        int64[B, T] padded on the right with `pad`, and the prompts' lengths int64[B].
    """
    device = response_BR.device
    prompt_B = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.long, device=device)
    n_columns = int((prompt_B + length_B).max())
    tokens_BT = torch.full((len(prompts), n_columns), pad, dtype=torch.long, device=device)
    flat = torch.as_tensor(np.concatenate(prompts), dtype=torch.long, device=device)
    tokens_BT[positions(prompt_B)] = flat
    row_N, time_N = positions(length_B)
    tokens_BT[row_N, prompt_B[row_N] + time_N] = response_BR[row_N, time_N]
    return tokens_BT, prompt_B


@dataclass(frozen=True)
class Prompts:
    """Where prompts come from, and the limits of answering them.

    stream: problems and documents by index. count: prompts of a step. max_new: the budget of a response in tokens,
    its end included. seed: of the rollouts. judge: what counts as right (`Rollouts`). first, stop: which of a step's
    prompts are meant, all where stop is null; of several processes each draws responses to a share of them.
    distinct: how many prompts there are (`distinct_prompts`), gold: how many documents to learn from
    (`data.documents`): the first of the stream, in epochs; null: they do not end.
    """

    stream: Source
    count: int
    max_new: int
    seed: int
    judge: str = "strict"
    first: int = 0
    stop: int | None = None
    distinct: int | None = None
    gold: int | None = None

    @property
    def tokens(self) -> Encoding:
        """What the stream's documents are written in."""
        return encoding_of(self.stream)

    def documents(self, step: int) -> Documents:
        """The problems to answer in a step: places step * count + first to step * count + stop of the prompts."""
        return self.stream.documents(in_epochs(self._places(step), self.distinct, self.stream.seed))

    def gold_documents(self, step: int) -> Documents:
        """The documents to learn from in a step: the same places of the gold documents."""
        return self.stream.documents(in_epochs(self._places(step), self.gold, self.stream.seed))

    def index(self, place: int) -> int:
        """Which document of the stream stands at a place of the prompts."""
        return int(in_epochs([place], self.distinct, self.stream.seed)[0])

    def _places(self, step: int) -> np.ndarray:
        return step * self.count + np.arange(self.first, self.stop or self.count)

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
        judge=prompts.judge,
        eos=tokens.eos,
        pad=tokens.pad,
    )


TRACKS = ("tokens_BT", "prompt_B", "length_B", "trainable_BR", "behaviour_BR", "group_B", "origin_B")


def stacked(parts: list[dict[str, Tensor]], pad: int) -> dict[str, Tensor]:
    """The tracks of several batches as those of one, row after row."""
    whole = {}
    for name in TRACKS:
        tracks, fill = [part[name] for part in parts], pad if name == "tokens_BT" else 0
        if tracks[0].ndim > 1:
            width = max(track.shape[1] for track in tracks)
            tracks = [F.pad(track, (0, width - track.shape[1]), value=fill) for track in tracks]
        whole[name] = torch.cat(tracks)
    return whole


def judged(tracks: Mapping[str, Tensor], problems: Problems, prompts: Prompts) -> Rollouts:
    """The record of some tracks, with the checker's verdicts."""
    tokens, track = prompts.tokens, dict(tracks)
    own = responses(track["tokens_BT"], track["prompt_B"], track["length_B"], tokens.pad).cpu().numpy()
    verdicts = tokens.check(problems, own, track["length_B"].cpu().numpy())
    common = {"judge": prompts.judge, "eos": tokens.eos, "pad": tokens.pad}
    return Rollouts(problems=problems, verdicts=verdicts, **track, **common)  # type: ignore[arg-type]


def together(parts: Sequence[Rollouts], prompts: Prompts) -> Rollouts:
    """Batches of responses to the same prompts as one, prompt after prompt."""
    tracks = stacked([{name: getattr(part, name) for name in TRACKS} for part in parts], prompts.tokens.pad)
    order_B = tracks["group_B"].argsort(stable=True)
    problems = concatenate([part.problems for part in parts]).take(order_B.cpu().numpy())
    return judged({name: track[order_B] for name, track in tracks.items()}, problems, prompts)


def generation_flops(model: GPT, prompt_B: Tensor, length_B: Tensor, times: int) -> float:
    """What sampling took. A prompt is read once for all its samples, and the last token of a response never."""
    once = forward_flops(model.config, prompt_B[::times])
    return forward_flops(model.config, prompt_B + length_B - 1) - (times - 1) * once
