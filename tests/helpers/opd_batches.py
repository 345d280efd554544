"""What the tests of distillation share: a small world, its prompts, small models, and the gradient of a step."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.gpt import GPT, GPTConfig
from synth.dataset import Source
from synth.spec import preset
from train.opd.log_probs import MicroBatchScores, Scored, Targets, next_token_log_probs
from train.opd.method import Method
from train.opd.objective import Objective
from train.opd.rollout_batch import Prompts, Rollouts
from train.opd.run import frozen_models
from train.opd.source.rollout_sampling import GoldDocuments, StudentSampler
from train.opd.teacher.teacher import HiddenStates

STUDENT = StudentSampler()
FOUR = StudentSampler(samples=4)
GOLD = GoldDocuments()


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(preset("tiny", ops=3, edges=6), seed=0, split="train", stream="distillation")


@pytest.fixture(scope="module")
def prompts(source) -> Prompts:
    return Prompts(source, 5, 24, 0)


def model(source: Source, seed: int, width: int = 16) -> GPT:
    config = GPTConfig(len(source.world.vocabulary), n_layer=1, n_head=2, n_embd=width, context=512, init_std=0.3)
    return GPT(config, seed)


def gradient(o: Objective, student: GPT, step: int = 0) -> tuple[float, torch.Tensor]:
    student.zero_grad()
    output = o(student, step)
    output.loss.backward()
    return output.loss.item(), torch.cat([p.grad.flatten() for p in student.parameters()])


def objective(method: Method, prompts: Prompts, student: GPT, *external: GPT) -> Objective:
    return Objective(method, prompts, *frozen_models(method, student, external, prompts.stream.spec))


def scored(student: GPT, targets: Targets, rollouts: Rollouts) -> Scored:
    """All positions at once, with the student's graph."""
    scores = MicroBatchScores(HiddenStates(student), targets, rollouts)
    return scores.at(slice(None), next_token_log_probs(scores.hidden_NC, student.unembedding))


def right_rows(rollouts: Rollouts, rows: list[int]) -> Rollouts:
    """The same batch where exactly these rows count as right."""
    right = np.isin(np.arange(len(rollouts)), rows)
    return replace(rollouts, verdicts=rollouts.verdicts._replace(right=right, answer_right=right))


V = 7  # symbols of the vocabularies on which divergences are checked in float64


def logits(seed: int, *shape: int) -> torch.Tensor:
    return 1.5 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def record(z_NV: torch.Tensor, p_NV: torch.Tensor, token_N: torch.Tensor | None = None) -> Scored:
    """Student logits and teacher log-probabilities as a scored record; tokens count as drawn from the student."""
    student_NV = torch.log_softmax(z_NV, dim=-1)
    token_N = torch.zeros(len(z_NV), dtype=torch.long) if token_N is None else token_N
    behaviour_N = student_NV.detach().gather(-1, token_N[:, None]).squeeze(-1)
    row_N = torch.zeros_like(token_N)
    return Scored(student_NV, p_NV, None, token_N, behaviour_N, row_N, row_N)


def pair(seed: int = 0, n: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    return logits(seed, n, V).requires_grad_(), torch.log_softmax(logits(seed + 1, n, V), dim=-1)
