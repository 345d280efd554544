"""Which states the student learns at: the source part of a method.

The invariant that matters: a step's prompts are stream indices, and its random numbers are addressed by
(seed, 'rollout', step). So the rollouts of step k are a function of the weights and k alone, and a resumed run draws
the same ones.

Legend: B rows, R response columns.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.decode.sampling import sample
from models.gpt import GPT
from synth.dataset import Source
from synth.documents import Documents
from synth.kernel.rng import key
from synth.problem.arrays import Problems
from synth.store.encodings import Encoding, encoding_of
from train.core.batch_flops import forward_flops
from train.data.addressed import uniform
from train.data.batches import pad
from train.opd.checks import Schedule, at_step, only, require, unit
from train.opd.rollouts import ORIGINS, Rollouts, join

KINDS = ("student", "teacher", "gold", "mix", "cached", "blend", "spliced", "revision", "replay")  # made in draw.py
ON_POLICY = ("student", "replay")  # kinds whose tokens the student itself draws, now or in an earlier step
MODEL_OF = {
    "teacher": "teacher",
    "blend": "teacher",
    "spliced": "teacher",
    "cached": "initial",
}  # which model they need


@dataclass(frozen=True)
class SourceConfig:
    """Who answers the prompts. Settings of other kinds must stay null.

    kind: student (fresh samples) | teacher (samples of the teacher) | gold (the stream's own documents) | mix (student
        or gold) | cached (samples of the student at step 0) | blend (each token of student or teacher) | spliced (wrong
        responses cut and finished by the teacher) | revision (responses, and what the student makes of them when it
        reads them with their verdict) | replay (the student's, kept for later steps too).
    samples: responses per prompt; temperature: of sampling, 0 for greedy (all kinds but gold); top_p: of the student.
    share: mix: the probability that a step's batch is the student's (GKD's lambda); blend: the teacher's share.
    revisions: of each response. cycle: cached: batches before they repeat, null for never.
    capacity, refresh: replay: batches kept, and the probability of a new one, which may change with the step.
    length: share of the budget `max_new` that a response may take, as it changes with the step (prefix distillation).
    reuse: steps that learn from one batch.
    """

    kind: str
    samples: int | None = None
    temperature: float | None = None
    share: float | None = None
    top_p: float | None = None
    revisions: int | None = None
    cycle: int | None = None
    capacity: int | None = None
    refresh: Schedule | None = None
    length: Schedule | None = None
    reuse: int = 1

    def __post_init__(self) -> None:
        require("source.kind", self.kind, KINDS)
        sampling = "source.kind=" + ", ".join(kind for kind in KINDS if kind != "gold")
        only("source.samples", self.samples, self.kind != "gold", sampling)
        only("source.temperature", self.temperature, self.kind != "gold", sampling)
        only("source.share", self.share, self.kind in ("mix", "blend"), "source.kind=mix or blend")
        only("source.revisions", self.revisions, self.kind == "revision", "source.kind=revision")
        only("source.capacity", self.capacity, self.kind == "replay", "source.kind=replay")
        only("source.refresh", self.refresh, self.kind == "replay", "source.kind=replay")
        for name, kinds in (
            ("top_p", ("student", "replay", "cached", "mix")),
            ("length", ("student", "replay")),
            ("cycle", ("cached",)),
        ):
            if getattr(self, name) is not None:
                only(f"source.{name}", getattr(self, name), self.kind in kinds, "source.kind=" + ", ".join(kinds))
        self._check_numbers()

    def _check_numbers(self) -> None:
        for name in ("samples", "reuse", "revisions", "cycle", "capacity"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"source.{name}={value}: accepted are whole numbers from 1")
        if self.temperature is not None and self.temperature < 0.0:
            raise ValueError(f"source.temperature={self.temperature}: accepted are numbers from 0 (greedy)")
        if self.kind == "blend" and self.temperature == 0.0:
            raise ValueError("source.temperature=0.0: a blend is of two distributions; accepted: numbers above 0")
        if self.share is not None and not 0.0 <= self.share <= 1.0:
            raise ValueError(f"source.share={self.share}: accepted are numbers from 0 to 1")
        unit("source.top_p", self.top_p)
        for name in ("refresh", "length"):
            schedule = getattr(self, name)
            if schedule is not None and max(schedule.start, schedule.end) > 1.0:
                raise ValueError(f"source.{name}: accepted are shares from 0 to 1")
        if self.length is not None and min(self.length.start, self.length.end) == 0.0:
            raise ValueError("source.length: accepted are shares above 0, up to 1")
        if self.reuse > 1 and self.kind == "revision":
            raise ValueError(f"source.reuse={self.reuse}: a revision's verdict is not its text's alone; accepted: 1")
        if self.reuse > 1 and self.kind in ("gold", "replay", "cached"):
            raise ValueError(
                f"source.reuse={self.reuse}: source.kind={self.kind} repeats batches by itself; accepted: 1"
            )

    @property
    def off_policy(self) -> bool:
        """Whether tokens come from another distribution than the student's at temperature 1 as it is now."""
        changed = self.temperature != 1.0 or self.top_p is not None
        return self.kind not in ON_POLICY or changed or self.reuse > 1 or self.kind == "replay"

    def budget(self, max_new: int, step: int) -> int:
        """Tokens of a response at a step."""
        return max(1, round(max_new * at_step(self.length, step)))


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

    def share(self, rank: int, world: int) -> "Prompts":
        """The prompts of one of `world` processes."""
        return replace(self, first=self.count * rank // world, stop=self.count * (rank + 1) // world)


def chance_of(prompts: Prompts, what: str, step: int) -> float:
    """A uniform number from [0, 1), of one use in one step."""
    return uniform(prompts.seed, what, step)


def spans(documents: Documents) -> np.ndarray:
    """Offsets int64[2 N + 1] that cut the documents' tokens into prompt, response, prompt, response, ..."""
    starts = np.asarray(documents.offsets[:-1], dtype=np.int64)
    cuts = np.stack([starts, starts + documents.prompt], axis=1)
    return np.append(cuts.ravel(), documents.offsets[-1])


def responses_of(documents: Documents, values: np.ndarray, device: torch.device) -> Tensor:
    """A per-token array of the documents at their responses, padded with zeros: [B, R]."""
    rows_B = np.arange(len(documents.prompt)) * 2 + 1
    return torch.from_numpy(pad(values, spans(documents), rows_B, 0)).to(device)


def generator(prompts: Prompts, what: str, step: int, each: int = 0) -> torch.Generator:
    """The random numbers of one use in one step; `each` of them belong to every prompt, in order."""
    dice = torch.Generator().manual_seed(key(prompts.seed, what, step))
    if prompts.first * each:
        torch.rand(prompts.first * each, generator=dice)
    return dice


def asked(documents: Documents, times: int) -> list[list[int]]:
    """Every prompt `times` times."""
    prompts_N = np.split(documents.tokens, spans(documents)[1:-1])[::2]
    return [tokens for prompt in prompts_N for tokens in [prompt.tolist()] * times]


def repeated(documents: Documents, times: int) -> Problems:
    """Every problem `times` times."""
    return documents.problems.repeat(times)


def assemble(
    prompts: Prompts,
    texts: list[list[int]],
    problems: Problems,
    response_BR: Tensor,
    length_B: Tensor,
    behaviour_BR: Tensor,
    group_B: Tensor,
    who: str,
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
        origin_B=torch.full_like(group_B, ORIGINS.index(who)),
        problems=problems,
        verdicts=tokens.check(problems, response_BR.cpu().numpy(), length_B.cpu().numpy()),
        eos=tokens.eos,
        pad=tokens.pad,
    )


def answered_by(prompts: Prompts, config: SourceConfig, step: int, model: GPT, who: str) -> tuple[Rollouts, float]:
    """Sample `config.samples` responses to each of the step's prompts from a model."""
    documents, times, temperature = prompts.documents(step), config.samples, config.temperature
    assert times is not None and temperature is not None
    texts, budget = asked(documents, times), config.budget(prompts.max_new, step)
    drawn = sample(
        model,
        texts,
        budget,
        temperature=temperature,
        top_p=1.0 if config.top_p is None else config.top_p,
        eos=prompts.tokens.eos,
        pad=prompts.tokens.pad,
        generator=generator(prompts, "rollout", step, times * budget),
    )
    group_B = prompts.first + torch.arange(len(texts), device=drawn.lengths_B.device) // times
    problems, behaviour_BR = repeated(documents, times), drawn.sampling_logprobs_BT
    rollouts = assemble(prompts, texts, problems, drawn.tokens_BT, drawn.lengths_B, behaviour_BR, group_B, who)
    return rollouts, generation_flops(model, rollouts.prompt_B, drawn.lengths_B, times)


def generation_flops(model: GPT, prompt_B: Tensor, length_B: Tensor, times: int) -> float:
    """What sampling took. A prompt is read once for all its samples, and the last token of a response never."""
    once = forward_flops(model.config, prompt_B[::times])
    return forward_flops(model.config, prompt_B + length_B - 1) - (times - 1) * once


def student(prompts: Prompts, config: SourceConfig, step: int, model: GPT, author: GPT | None):
    """Fresh samples of the student as it is now: on-policy."""
    return answered_by(prompts, config, step, model, "student")


def teacher(prompts: Prompts, config: SourceConfig, step: int, model: GPT, author: GPT | None):
    """Samples of the teacher: sequence-level distillation (Kim and Rush, 1606.07947)."""
    assert author is not None
    return answered_by(prompts, config, step, author, "teacher")


def cached(prompts: Prompts, config: SourceConfig, step: int, model: GPT, author: GPT | None):
    """Samples of the student at step 0 (Lightning OPD, 2604.13010); with `cycle`, the same ones again and again.

    Nothing is stored: batch i is a function of the frozen weights and i. A repeat costs nothing in the ledger.
    """
    assert author is not None
    batch = step if config.cycle is None else step % config.cycle
    rollouts, flops = answered_by(prompts, config, batch, author, "student")
    return rollouts, flops if batch == step else 0.0


def gold(prompts: Prompts, config: SourceConfig, step: int, model: GPT, author: GPT | None):
    """The documents that the stream itself holds for the step's prompts. Costs nothing to make."""
    documents, device = prompts.documents(step), next(model.parameters()).device
    count, tokens = len(documents.prompt), prompts.tokens
    padded_BT = pad(documents.tokens, documents.offsets, np.arange(count), tokens.pad)
    tokens_BT = torch.from_numpy(padded_BT).long().to(device)
    prompt_B = torch.from_numpy(documents.prompt).long().to(device)
    length_B = torch.from_numpy(np.diff(documents.offsets)).long().to(device) - prompt_B
    response_BR = responses_of(documents, documents.tokens, device)
    rows_B = prompts.first + torch.arange(count, device=device)
    rollouts = Rollouts(
        tokens_BT=tokens_BT,
        prompt_B=prompt_B,
        length_B=length_B,
        trainable_BR=responses_of(documents, documents.loss, device) > 0,
        behaviour_BR=responses_of(documents, documents.logp, device).float(),
        group_B=rows_B,
        origin_B=torch.full_like(rows_B, ORIGINS.index("gold")),
        problems=documents.problems,
        verdicts=tokens.check(documents.problems, response_BR.cpu().numpy(), length_B.cpu().numpy()),
        eos=tokens.eos,
        pad=tokens.pad,
    )
    return rollouts, 0.0


def mix(prompts: Prompts, config: SourceConfig, step: int, model: GPT, author: GPT | None):
    """GKD's mixture (2306.13649): with probability `share`, drawn per batch, the student answers, else gold."""
    assert config.share is not None
    chance = chance_of(prompts, "mix", step)
    return (student if chance < config.share else gold)(prompts, config, step, model, author)
