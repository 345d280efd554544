"""Distillation: goes on from a student checkpoint with any method of `configs/method/`, at a given budget.

    python -m train.opd.run student=runs/pretrain/student-1a2b3c4d teacher=runs/pretrain/teacher-5e6f7a8b method=opd
    python -m train.opd.run method=gkd scale=smoke        # a few small steps of any method, with models of the zoo
    torchrun --nproc-per-node=2 -m train.opd.run ...      # the same loss and weights, see train/core/distributed.py

`method=kd` and `method=sft` are the controls that every claim needs beside it: `budget.flops` makes the arms equal in
compute. A method whose teacher reads a context first measures whether the checkpoint can use it (skill.json). Rollouts
are logged as text with the checker's verdicts in samples.jsonl. The same command again continues a run that was killed,
and does nothing once it is complete.
"""

if __name__ == "__main__":  # before torch is imported
    from train.config.early import early
    from train.runs.scaled import rewrite

    early("opd", rewrite)

import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import field
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch

from models.gpt import GPT
from synth.dataset import Source
from synth.ranges import Count, Positive, Range, settings
from synth.spec import Spec
from synth.store.encodings import PHRASE
from train.config.compose import REQUIRED, plain, run_entry
from train.core import checkpoint
from train.core.budget_and_ledger import Budget
from train.core.distributed import Group, process_group
from train.core.event_logs import EventLogs, Name
from train.core.loop import open_together, summary, train
from train.core.optimizer import OptimConfig
from train.core.torch_setup import set_up
from train.data.batches import CHECKED, DataConfig, check_length, check_vocabulary, vocabulary_notes
from train.evaluation.callback import EvaluationCallback, harder_problems
from train.opd import metrics
from train.opd.diagnostics.recovery import OpdPeriodicConfig, Recovery
from train.opd.diagnostics.rollout_log import SampleLog
from train.opd.method import Method
from train.opd.objective import Objective
from train.opd.rollout_batch import Prompts
from train.opd.source.rollout_sampling import GoldDocuments
from train.opd.teacher.context import check_skill, described, longest, measure_skill
from train.opd.teacher.self_teachers import Synced
from train.opd.teacher.teacher import Teacher, frozen
from train.runs.results import Run, outcome
from train.runs.run_folder import RunFolder, TrainingOutConfig, run_path
from train.runs.scaled import rewrite


@settings
class SkillConfig:
    """The check of a context: on how many problems, and whether a checkpoint that cannot use it stops the run."""

    problems: Annotated[int, Range(2)] = 256  # to measure on what the context brings
    stop: bool = True  # whether a context that brings nothing ends the run


@settings
class OpdConfig:
    """Settings of the command. `student`, `teacher`: run folders or checkpoints; null where the method has no teacher.

    teachers: further ones, for methods that route between several. prompts: of a step. max_new: budget of a response in
    tokens. micro_batch: most rows of one forward pass, 0 for all; it changes speed and memory, and the result only by
    rounding. Rows are sorted by length, so small ones pad less: faster on a CPU, where a GPU wants many rows.
    log: where the rows of metrics.jsonl go as well: tensorboard, wandb (extra `log`, `train.core.event_logs`).
    """

    method: Method
    student: str = REQUIRED
    teacher: str | None = None
    seed: int = 0  # of the rollouts
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    budget: Budget = field(default_factory=lambda: Budget(steps=150))
    prompts: Positive = 64
    max_new: Positive = 96
    micro_batch: Count = 16
    evaluate: OpdPeriodicConfig = field(
        default_factory=lambda: OpdPeriodicConfig(every=25, samples_per_problem=4, ood=1, continuations=1)
    )
    threads: int = 1  # of the CPU
    device: str = "cpu"  # cpu, cuda or cuda:N
    out: TrainingOutConfig = field(
        default_factory=lambda: TrainingOutConfig("runs/opd", "{method}", log_every=1, save_every=25)
    )
    teachers: list[str] = field(default_factory=list)
    skill: SkillConfig = field(default_factory=SkillConfig)
    distinct_prompts: Positive | None = None  # only the first so many prompts of the stream, in epochs; null: no end
    log: list[Name] = field(default_factory=list)  # also to tensorboard, wandb (extra `log`)
    complete = staticmethod(partial(checkpoint.take_data, "student"))

    def __post_init__(self) -> None:
        if self.teacher is None and self.method.needs_teacher:
            raise ValueError(
                f"teacher=null: method={self.method.name} needs one; accepted: a run folder or a checkpoint"
            )
        if self.teacher is not None and not self.method.needs_teacher:
            raise ValueError(f"teacher={self.teacher}: has no effect with method={self.method.name}; accepted: null")
        if self.teachers and self.method.teacher.route is None:
            raise ValueError(
                f"teachers={self.teachers}: have no effect with method.teacher.route=null; accepted: [], or a route"
            )
        if self.method.phrases_only and self.data.tokens != PHRASE:
            raise ValueError(
                f"data.tokens={self.data.tokens}: method={self.method.name} reads phrases; accepted: {PHRASE}"
            )
        if self.skill != SkillConfig() and self.method.teacher.context == "none":
            raise ValueError("skill: has no effect with method.teacher.context=none; accepted: the defaults")

    @property
    def inputs(self) -> dict[str, str]:
        """The checkpoints that the run depends on: setting -> digest of the weights."""
        paths = {"student": self.student, "teacher": self.teacher}
        found = {name: checkpoint.weights_digest(path, name) for name, path in paths.items() if path is not None}
        if self.teachers:
            found["teachers"] = " ".join(checkpoint.weights_digest(path, "teachers") for path in self.teachers)
        return found

    def source(self, split: str, stream: str) -> Source:
        """The data; without contexts of its own where the method puts them there."""
        data = self.data.with_context("none") if self.method.needs_bare_prompts else self.data
        return data.source(split, stream)


def build(config: OpdConfig, source: Source, device: torch.device) -> tuple[GPT, Teacher, GPT | None]:
    """The student to train, the frozen models to score with, and the one that the source needs, if it needs one.

    Raises ValueError when a checkpoint is missing, of another world, or its context is too short.
    """
    student = load(config.student, "student", config, source, device)
    paths = [] if config.teacher is None else [config.teacher, *config.teachers]
    external = [load(path, "teacher", config, source, device) for path in paths]
    return student.train(), *frozen_models(config.method, student, external, source.spec)


def frozen_models(
    method: Method, student: GPT, external: Sequence[GPT], spec: Spec | None
) -> tuple[Teacher, GPT | None]:
    """What scores the responses and the model that the source needs, for a student as it is at step 0."""
    scoring = method.teacher.scoring_model(student, external, spec)
    reference = deepcopy(student) if method.needs_reference else None
    source_model = None
    if method.source.model == "teacher" and scoring is not None:
        source_model = scoring.models[0]
    elif method.source.model == "initial":
        source_model = frozen(deepcopy(student))
    old = Synced(student, method.source.reuse) if method.needs_old else None
    teacher = Teacher(method.teacher, scoring if method.scores else None, reference, old)
    teacher.choice = None if scoring is None else scoring.choice
    return teacher, source_model


def load(path: str, setting: str, config: OpdConfig, source: Source, device: torch.device) -> GPT:
    """The model of a checkpoint, if it belongs to the data's world and has room for what it will read."""
    check_vocabulary(checkpoint.notes(path, setting), config.data, path)
    model = checkpoint.load_model(path, setting, str(device))
    check_length(source, model.config.context, "model.context")
    documents, method = source.documents(range(CHECKED)), config.method
    prompt = int(documents.prompt.max())
    gold = int((np.diff(documents.offsets) - documents.prompt).max())
    reads = method.teacher.is_self or setting == "teacher"
    recipes = [method.teacher.context if reads else "none", method.source.context if setting == "student" else "none"]
    recipe = max(recipes, key=lambda sections: longest(sections, config.max_new, gold))
    context = longest(recipe, config.max_new, gold)
    if prompt + context + config.max_new > model.config.context:
        per_token = longest(recipe, 1, gold) - longest(recipe, 0, gold) + 1
        most = (model.config.context - prompt - longest(recipe, 0, gold)) // per_token
        contexts = f" and contexts up to {context}" if context else ""
        raise ValueError(
            f"max_new={config.max_new}: prompts have up to {prompt} tokens{contexts}, and {setting}={path} reads "
            f"{model.config.context}; accepted: up to {most}"
            + ("" if most > 0 else ": none; another method, or a model with a longer context")
        )
    return model


def main(config: OpdConfig) -> None:
    """Trains the student into a run folder; a complete one is left as it is."""
    with process_group(set_up(config.threads, config.device, distributed=True)) as group:
        if config.prompts < group.world_size:
            raise ValueError(
                f"prompts={config.prompts}: fewer than the {group.world_size} processes; "
                f"accepted: {group.world_size} or more"
            )
        logs = EventLogs(config.log, plain(config), metrics.described, metrics.table())
        group.from_main(logs.check)
        source = config.source("train", "distillation")
        config.method.check_vocabulary(config.data.encoding().size)
        student, teacher, source_model = build(config, source, group.device)
        validation, follow = config.source("test", "validation"), None
        harder = harder_problems(config.data, config.evaluate, student.config.context)
        if config.evaluate.continuations and teacher.model is not None:
            follow = Recovery(teacher, validation, config.evaluate.continuations, config.seed)
        skill = group.from_main(lambda: skill_of(config, student, teacher))
        seeds = {"rollouts": config.seed, "data": config.data.seed}
        given = plain(config), config.inputs, seeds, config.data.fingerprint()
        with open_together(group, "train.opd.run", "distillation", *given) as run:
            if skill is not None and group.is_main:
                run.write_json("skill.json", skill)
            if teacher.choice is not None and group.is_main:
                run.write_json("teacher_choice.json", teacher.choice)
            if not run.complete:
                # where the batches are documents, the rollouts worth reading are those of the evaluation
                written = run.path if isinstance(config.method.source, GoldDocuments) and group.is_main else None
                judge = EvaluationCallback(validation, config.evaluate, written, harder, follow)
                distil(config, run, source, (student, teacher, source_model), judge, group, logs)
            if group.is_main:
                print(f"{outcome(Run(run.path))}\n{run.path}")


def skill_of(config: OpdConfig, student: GPT, teacher: Teacher) -> dict[str, Any] | None:
    """What the teacher's context brings, where there is one and it was not measured before.

    Raises ValueError where it brings nothing, unless `skill.stop` is off.
    """
    context = config.method.teacher.context
    if context == "none" or (run_path(plain(config), config.inputs) / "skill.json").exists():
        return None
    reader = student if config.method.teacher.is_self or teacher.model is None else teacher.model.models[0]
    skill = measure_skill(reader, config.data, context, config.skill.problems)
    if config.skill.stop:
        check_skill(skill)
    print(described(skill), file=sys.stderr)
    return skill


def distil(
    config: OpdConfig,
    run: RunFolder,
    source: Source,
    models: tuple[GPT, Teacher, GPT | None],
    judge: EvaluationCallback,
    group: Group,
    logs: EventLogs | None = None,
) -> None:
    """Trains to the end of the budget and writes the summary; `models` as `build` returns them."""
    student, teacher, source_model = models
    prompts = Prompts(
        source,
        config.prompts,
        config.max_new,
        config.seed,
        distinct=config.distinct_prompts,
        gold=config.data.documents,
    )
    kept = config.evaluate.every, config.evaluate.samples
    log = SampleLog(run.path / "samples.jsonl", config.data.encoding(), *kept, index=prompts.index)
    on_batch = log if group.is_main else None
    objective = Objective(config.method, prompts, teacher, source_model, config.micro_batch, on_batch, group)
    state = train(
        run,
        student,
        objective,
        config.optim,
        config.budget,
        config.out,
        evaluate=judge,
        evaluate_every=config.evaluate.every,
        keep_best=config.evaluate.best,
        notes=vocabulary_notes(config.data),
        group=group,
        logs=logs,
    )
    if group.is_main:
        run.write_json("summary.json", summary(run, student, state))


def entry(argv: Sequence[str] | None = None) -> int:
    """The command: its exit code."""
    return run_entry("opd", OpdConfig, main, __doc__ or "", argv, rewrite)


if __name__ == "__main__":
    sys.exit(entry())
