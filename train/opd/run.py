"""Distillation: goes on from a student checkpoint with any method of `configs/method/`, at a given budget.

    python -m train.opd.run student=runs/pretrain/student-1a2b3c4d teacher=runs/pretrain/teacher-5e6f7a8b method=opd

`method=kd` and `method=sft` are the controls that every claim needs beside it: `budget.flops` makes the arms equal in
compute. Rollouts are logged as text with the checker's verdicts in samples.jsonl. The same command again continues a
run that was killed, and does nothing once it is complete.
"""

import sys
from copy import deepcopy
from dataclasses import dataclass, field

import torch

from models.gpt import GPT
from synth.dataset import Source
from train import checkpoint
from train.config import REQUIRED, plain, run_entry
from train.data import DataConfig, check_world, world_notes
from train.evaluation import Periodic, PeriodicConfig
from train.loop import train
from train.machine import set_up
from train.opd.method import Method, Objective
from train.opd.samples import SampleLog
from train.opd.source import Prompts
from train.opd.teacher import PARAMS, Teacher
from train.optim import OptimConfig
from train.pretrain import CHECKED, check_context, summary
from train.rundir import TrainingOut, open_run
from train.state import Budget


@dataclass(frozen=True)
class OpdConfig:
    """Settings of the command. `student`, `teacher`: run folders or checkpoints; null where the method has no teacher.

    prompts: of a step. max_new: budget of a response in tokens. micro_batch: most rows of one forward pass, 0 for all;
    it changes speed and memory, and the result only by rounding.
    """

    method: Method
    student: str = REQUIRED
    teacher: str | None = None
    seed: int = 0  # of the rollouts
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    budget: Budget = field(default_factory=lambda: Budget(steps=100))
    prompts: int = 64
    max_new: int = 96
    micro_batch: int = 0
    evaluate: PeriodicConfig = field(default_factory=PeriodicConfig)
    threads: int = 1
    device: str = "cpu"
    out: TrainingOut = field(default_factory=lambda: TrainingOut("runs/opd", "opd"))

    def __post_init__(self) -> None:
        for name, least in (("prompts", 1), ("max_new", 1), ("micro_batch", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: accepted: {least} or more")
        if self.teacher is None and self.method.needs_teacher:
            raise ValueError(
                f"teacher=null: method={self.method.name} needs one; accepted: a run folder or a checkpoint"
            )
        if self.teacher is not None and not self.method.needs_teacher:
            raise ValueError(f"teacher={self.teacher}: has no effect with method={self.method.name}; accepted: null")

    @property
    def inputs(self) -> dict[str, str]:
        """The checkpoints that the run depends on: setting -> digest of the weights."""
        paths = {"student": self.student, "teacher": self.teacher}
        return {name: checkpoint.digest(path, name) for name, path in paths.items() if path is not None}


def build(config: OpdConfig, source: Source, device: torch.device) -> tuple[GPT, Teacher, GPT | None]:
    """The student to train, the frozen models to score with, and the one that writes the responses, if one does.

    Raises ValueError when a checkpoint is missing, of another world, or its context is too short.
    """
    method = config.method
    student = load(config.student, "student", config, source, device)
    external = None if config.teacher is None else load(config.teacher, "teacher", config, source, device)
    model = PARAMS[method.teacher.params](student, external) if method.teacher.params != "none" else None
    reference = deepcopy(student) if method.needs_reference else None
    scorer = model if method.divergence.needs_teacher else None
    author = model if method.source.kind == "teacher" else None
    return student.train(), Teacher(method.teacher, scorer, reference), author


def load(path: str, setting: str, config: OpdConfig, source: Source, device: torch.device) -> GPT:
    """The model of a checkpoint, if it belongs to the data's world and has room for its documents and responses."""
    check_world(checkpoint.notes(path, setting), config.data, path)
    model = checkpoint.load_model(path, setting, str(device))
    check_context(model, source)
    longest = int(source.documents(range(CHECKED)).prompt.max())
    if longest + config.max_new > model.config.context:
        raise ValueError(
            f"max_new={config.max_new}: prompts have up to {longest} tokens and {setting}={path} reads "
            f"{model.config.context}; accepted: up to {model.config.context - longest}"
        )
    return model


def main(config: OpdConfig) -> None:
    """Trains the student into a run folder; a complete one is left as it is."""
    device = set_up(config.threads, config.device)
    source = config.data.source("train", "distillation")
    tokens = config.data.encoding()
    config.method.check_vocabulary(tokens.size)
    student, teacher, author = build(config, source, device)
    seeds = {"rollouts": config.seed, "data": config.data.seed}
    run = open_run(plain(config), config.inputs, seeds, config.data.fingerprint())
    if not run.complete:
        log = SampleLog(
            run.path / "samples.jsonl", tokens, config.evaluate.every, config.evaluate.samples, config.prompts
        )
        objective = Objective(
            config.method,
            Prompts(source, config.prompts, config.max_new, config.seed),
            teacher,
            author,
            config.micro_batch,
            watch=log,
        )
        # where the batches are documents, the rollouts worth reading are those of the evaluation
        written = run.path if config.method.source.kind == "gold" else None
        state = train(
            run,
            student,
            objective,
            config.optim,
            config.budget,
            config.out,
            evaluate=Periodic(config.data.source("test", "validation"), config.evaluate, written),
            evaluate_every=config.evaluate.every,
            notes=world_notes(config.data),
        )
        run.write_json("summary.json", summary(run, student, state))
    print(run.path)


if __name__ == "__main__":
    sys.exit(run_entry("opd", OpdConfig, main, __doc__ or ""))
