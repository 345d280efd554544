"""Which states the student learns at: the source part of a method.

The invariant that matters: a step's prompts are stream indices, and its random numbers are addressed by
(seed, 'rollout', step). So the rollouts of step k are a function of the weights and k alone, and a resumed run draws
the same ones.

Legend: B rows, R response columns.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.gpt import GPT
from models.sampling import sample
from synth.dataset import Documents, Source
from synth.encoding import encoding_of
from synth.hashing import key
from synth.problem import Problems
from train.data import pad
from train.flops import forward_flops
from train.opd.rollouts import ORIGINS, Rollouts, join
from train.opd.settings import only, require

KEY_RANGE = 2.0**63  # synth.hashing.key is below this


@dataclass(frozen=True)
class SourceConfig:
    """Who answers the prompts. Settings of other kinds must stay null.

    kind: student (fresh samples) | teacher (samples of the teacher) | gold (the stream's own documents) | mix.
    samples: responses per prompt; temperature: of sampling, 0 for greedy (kinds that sample).
    share: with mix, the probability that a step's batch is the student's, else it is gold (GKD's lambda).
    """

    kind: str
    samples: int | None = None
    temperature: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        require("source.kind", self.kind, SOURCES)
        sampling = "source.kind=student, teacher or mix"
        only("source.samples", self.samples, self.kind != "gold", sampling)
        only("source.temperature", self.temperature, self.kind != "gold", sampling)
        only("source.share", self.share, self.kind == "mix", "source.kind=mix")
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"source.samples={self.samples}: accepted are whole numbers from 1")
        if self.temperature is not None and self.temperature < 0.0:
            raise ValueError(f"source.temperature={self.temperature}: accepted are numbers from 0 (greedy)")
        if self.share is not None and not 0.0 <= self.share <= 1.0:
            raise ValueError(f"source.share={self.share}: accepted are numbers from 0 (all gold) to 1 (all student)")


@dataclass(frozen=True)
class Prompts:
    """Where prompts come from, and the limits of answering them.

    stream: problems and documents by index. count: prompts of a step. max_new: the budget of a response in tokens,
    its end included. seed: of the rollouts.
    """

    stream: Source
    count: int
    max_new: int
    seed: int

    def documents(self, step: int) -> Documents:
        """The documents of a step: indices step * count to (step + 1) * count."""
        return self.stream.documents(range(step * self.count, (step + 1) * self.count))


def spans(documents: Documents) -> np.ndarray:
    """Offsets int64[2 N + 1] that cut the documents' tokens into prompt, response, prompt, response, ..."""
    starts = np.asarray(documents.offsets[:-1], dtype=np.int64)
    cuts = np.stack([starts, starts + documents.prompt], axis=1)
    return np.append(cuts.ravel(), documents.offsets[-1])


def responses_of(documents: Documents, values: np.ndarray, device: torch.device) -> Tensor:
    """A per-token array of the documents at their responses, padded with zeros: [B, R]."""
    rows_B = np.arange(len(documents.prompt)) * 2 + 1
    return torch.from_numpy(pad(values, spans(documents), rows_B, 0)).to(device)


def answered_by(prompts: Prompts, config: SourceConfig, step: int, model: GPT, who: str) -> tuple[Rollouts, float]:
    """Sample `config.samples` responses to each of the step's prompts from a model."""
    documents, times, temperature = prompts.documents(step), config.samples, config.temperature
    assert times is not None and temperature is not None
    device, tokens = next(model.parameters()).device, encoding_of(prompts.stream)
    prompts_N = np.split(documents.tokens, spans(documents)[1:-1])[::2]
    asked = [ids for prompt in prompts_N for ids in [prompt.tolist()] * times]
    drawn = sample(
        model,
        asked,
        prompts.max_new,
        temperature=temperature,
        eos=tokens.eos,
        pad=tokens.pad,
        generator=torch.Generator().manual_seed(key(prompts.seed, "rollout", step)),
    )
    tokens_BT, prompt_B = join(asked, drawn.tokens_BT, drawn.lengths_B, tokens.pad)
    problems = Problems(*(np.repeat(field, times, axis=0) for field in documents.problems))
    rows_B = torch.arange(len(asked), device=device)
    rollouts = Rollouts(
        tokens_BT=tokens_BT,
        prompt_B=prompt_B,
        length_B=drawn.lengths_B,
        trainable_BR=torch.arange(drawn.tokens_BT.shape[1], device=device) < drawn.lengths_B[:, None],
        behaviour_BR=drawn.sampling_logprobs_BT,
        group_B=rows_B // times,
        origin_B=torch.full_like(rows_B, ORIGINS.index(who)),
        problems=problems,
        verdicts=tokens.check(problems, drawn.tokens_BT.cpu().numpy(), drawn.lengths_B.cpu().numpy()),
        eos=tokens.eos,
        pad=tokens.pad,
    )
    return rollouts, generation_flops(model, prompt_B, drawn.lengths_B, times)


def generation_flops(model: GPT, prompt_B: Tensor, length_B: Tensor, times: int) -> float:
    """What sampling took. A prompt is read once for all its samples, and the last token of a response never."""
    once = forward_flops(model.config, prompt_B[::times])
    return forward_flops(model.config, prompt_B + length_B - 1) - (times - 1) * once


def student(prompts: Prompts, config: SourceConfig, step: int, model: GPT, teacher: GPT | None):
    """Fresh samples of the student as it is now: on-policy."""
    return answered_by(prompts, config, step, model, "student")


def teacher(prompts: Prompts, config: SourceConfig, step: int, model: GPT, teacher: GPT | None):
    """Samples of the teacher: sequence-level distillation (Kim and Rush, 1606.07947)."""
    assert teacher is not None
    return answered_by(prompts, config, step, teacher, "teacher")


def gold(prompts: Prompts, config: SourceConfig, step: int, model: GPT, teacher: GPT | None):
    """The documents that the stream itself holds for the step's prompts. Costs nothing to make."""
    documents, device = prompts.documents(step), next(model.parameters()).device
    count, tokens = len(documents.prompt), encoding_of(prompts.stream)
    padded_BT = pad(documents.tokens, documents.offsets, np.arange(count), tokens.pad)
    tokens_BT = torch.from_numpy(padded_BT).long().to(device)
    prompt_B = torch.from_numpy(documents.prompt).long().to(device)
    length_B = torch.from_numpy(np.diff(documents.offsets)).long().to(device) - prompt_B
    response_BR = responses_of(documents, documents.tokens, device)
    rows_B = torch.arange(count, device=device)
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


def mix(prompts: Prompts, config: SourceConfig, step: int, model: GPT, teacher: GPT | None):
    """GKD's mixture (2306.13649): with probability `share`, drawn per batch, the student answers, else gold."""
    assert config.share is not None
    chance = key(prompts.seed, "mix", step) / KEY_RANGE
    return (student if chance < config.share else gold)(prompts, config, step, model, teacher)


SOURCES = {"student": student, "teacher": teacher, "gold": gold, "mix": mix}
