"""Every method of configs/method on small random models: its objective and its verdicts, for tests of invariances."""

import functools

import numpy as np
import torch
import yaml

from models import GPT
from synth.dataset import Source
from synth.judge.checker import check
from tests.helpers.opd_batches import model
from train.config.compose import CONFIGS, load
from train.config.schema import build
from train.core.distributed import Group
from train.core.loop import SINGLE_PROCESS
from train.opd.method import Method
from train.opd.objective import Objective
from train.opd.rollout_batch import Prompts
from train.opd.run import OpdConfig, frozen_models

FILES = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((CONFIGS / "method").glob("*.yaml"))
}
NAMES = list(FILES)
FAITHFUL = {name: form for name, content in FILES.items() if (form := content.get("faithful"))}  # to what, by default
PROMPTS, MAX_NEW = 4, 16


@functools.cache
def method(name: str, *words: str) -> Method:
    """The method of a file, as the command reads it."""
    bare = build(Method, FILES[name])
    needs = ["teacher=t"] if bare.needs_teacher else []
    needs += ["teachers=[u]"] if bare.teacher.route else []
    return load("opd", OpdConfig, ["student=s", "data=tiny", f"method={name}", *needs, *words]).method


def objective(
    method: Method, source: Source, student: GPT, micro_batch: int = 0, group: Group = SINGLE_PROCESS
) -> Objective:
    external = [model(source, 1, width=24), model(source, 2, width=24)]
    count = 0 if not method.needs_teacher else 2 if method.teacher.route else 1
    teacher, source_model = frozen_models(method, student, external[:count], source.spec)
    return Objective(method, Prompts(source, PROMPTS, MAX_NEW, 0), teacher, source_model, micro_batch, group=group)


def descend(student: GPT, rate: float = 0.02) -> None:
    with torch.no_grad():
        for p in student.parameters():
            p -= rate * p.grad.clamp(-1.0, 1.0)


def judged(problems, world, tokens, lengths):
    """Verdicts and answers by the sum of a response's tokens: random models are right, and agree, now and then."""
    verdicts = check(problems, world, tokens, lengths)
    sums = np.array([int(sum(map(int, row[:n]))) for row, n in zip(tokens, lengths, strict=True)])
    return verdicts._replace(right=sums % 2 == 1, answer_right=sums % 2 == 1, answer=sums % 3)
