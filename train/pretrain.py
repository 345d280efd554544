"""Pretraining: next-token prediction on fresh documents, from random weights or from a checkpoint.

    python -m train.pretrain data=tiny model=nano optim=muon budget.tokens=1_000_000 out.name=student
    torchrun --nproc-per-node=2 -m train.pretrain data=tiny model=nano        # see train/core/distributed.py

The log has the loss and the generator's entropy on the same tokens (`floor`); `excess` is their difference, in nats a
token. The same command again continues a run that was killed, and does nothing once it is complete.

Legend: B documents, T positions, N loss positions, V vocabulary.
"""

if __name__ == "__main__":  # before torch is imported
    from train.config.early import early

    early("pretrain")

import dataclasses
import sys
from dataclasses import field, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.branches import branched_logits
from models.gpt import GPT, GPTConfig
from synth.dataset import Source
from synth.ranges import settings
from train.config.compose import REQUIRED, plain, run_entry
from train.core import checkpoint
from train.core.budget_and_ledger import Budget, forward_flops, training_flops
from train.core.distributed import Group, gradients_averaged, process_group, replicate, shard
from train.core.event_logs import EventLogs, Name
from train.core.extend_vocabulary import extend_vocabulary
from train.core.loop import SINGLE_PROCESS, Objective, StepOutput, open_together, summary, train
from train.core.lora import LoraConfig, add_lora
from train.core.optimizer import OptimConfig
from train.core.torch_setup import Precision, set_up, use_deterministic_kernels
from train.data.batches import (
    Batch,
    BatchConfig,
    Batches,
    DataConfig,
    check_defect,
    check_length,
    check_vocabulary,
    vocabulary_notes,
)
from train.data.questions import QuestionBatches, QuestionsConfig, sparse_cross_entropy
from train.evaluation.callback import EvaluationCallback, EvaluationCallbackConfig, harder_problems
from train.opd import metrics
from train.runs.results import Run, outcome
from train.runs.run_folder import RunFolder, TrainingOutConfig

# The settings of `GPTConfig` without the vocabulary, which the data decide.
_FIELDS = [f for f in dataclasses.fields(GPTConfig) if f.name != "vocab_size"]
_DEFAULTS = [field(default=REQUIRED if f.default is dataclasses.MISSING else f.default) for f in _FIELDS]
ModelConfig = dataclasses.make_dataclass(
    "ModelConfig",
    [(f.name, f.type, default) for f, default in zip(_FIELDS, _DEFAULTS, strict=True)],
    frozen=True,
    namespace={"documented": GPTConfig},  # where `--help` finds the words
)


@settings
class PretrainConfig:
    """Settings of the command.

    model: its shape.
    init: a checkpoint whose weights to start from (the optimiser starts fresh). The model's settings are then the
    checkpoint's; only `model.context` may be larger, for positions have no weights.
    init_vocabulary: `same` refuses a checkpoint of another vocabulary; `extend` keeps the rows of the tokens that both
    have, by their text, and initialises those of new tokens (`train.core.extend_vocabulary`).
    lora: train low-rank updates of these weights only.
    questions: ask several questions about every text, with the oracle's distribution as target; null: the documents.
    precision: of the matrix products; weights, sums and the optimiser stay float32.
    log: where the rows of metrics.jsonl go as well: tensorboard, wandb (extra `log`, `train.core.event_logs`).
    parallel: with several processes, whole weights in each (ddp) or in shards (fsdp).
    """

    seed: int = 0  # of the initial weights
    init: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)  # pyright: ignore[reportInvalidTypeForm]: of make_dataclass
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(spike=2.0))
    budget: Budget = field(default_factory=lambda: Budget(tokens=2_000_000))
    batch: BatchConfig = field(default_factory=BatchConfig)
    evaluate: EvaluationCallbackConfig = field(default_factory=EvaluationCallbackConfig)
    compile: bool = False  # torch.compile; pays on a GPU and in long runs
    threads: int = 1  # of the CPU
    device: str = "cpu"  # cpu, cuda or cuda:N
    out: TrainingOutConfig = field(default_factory=lambda: TrainingOutConfig("runs/pretrain", "pretrain"))
    precision: Precision = "float32"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    init_vocabulary: Literal["same", "extend"] = "same"
    lora: LoraConfig | None = None
    questions: QuestionsConfig | None = None
    log: list[Name] = field(default_factory=list)  # also to tensorboard, wandb (extra `log`)

    def __post_init__(self) -> None:
        plain_batches = self.batch.packing == "none" and self.batch.loss_on == "solution" and not self.batch.micro
        plain_model = self.precision == "float32" and not self.compile and self.lora is None and self.device == "cpu"
        plain_data = self.data.tokens == "phrase" and self.data.documents is None
        if self.questions is not None and not (plain_batches and plain_model and plain_data):
            raise ValueError(
                "questions: accepted: batch.packing=none, batch.loss_on=solution, batch.micro=0, precision=float32, "
                "device=cpu, compile=false, lora=null, data.tokens=phrase, data.documents=null; or questions=null"
            )
        if self.init_vocabulary != "same" and self.init is None:
            raise ValueError(f"init_vocabulary={self.init_vocabulary} without init: accepted: same, or init=CHECKPOINT")
        if self.lora is not None:
            if self.init is None:
                raise ValueError("lora: updates trained weights; accepted: init=RUN, or lora=null")
            if self.optim.muon is not None:
                raise ValueError("lora: Muon is for whole matrices; accepted: optim=adamw")
            if self.parallel == "fsdp" or self.compile or self.init_vocabulary != "same":
                raise ValueError("lora: accepted: parallel=ddp, compile=false, init_vocabulary=same")


class NextToken:
    """The objective of pretraining: mean cross-entropy of the loss tokens of batch `step`, over all processes.

    micro: most rows of one forward pass, 0 for all. On return the gradients of all micro-batches but the last are in
    `.grad`; the returned loss has the value of all and the graph of the last. Its value and gradient are scaled so that
    their mean over the processes is that of the whole batch.
    """

    def __init__(self, batches: Batches, device: torch.device, compiled: bool = False, precision: Precision = "float32",
                 micro: int = 0, group: Group = SINGLE_PROCESS):  # fmt: skip
        self.batches, self.device, self.compiled, self.micro, self.group = batches, device, compiled, micro, group
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
        self._forward: nn.Module | None = None

    def __call__(self, model: GPT, step: int) -> StepOutput:
        batch = self.batches.batch(step).to(self.device)
        solutions = int(batch.solution_BT[:, 1:].sum())
        counts = [batch.loss_BT[:, 1:].sum().item(), solutions, batch.floor * solutions, batch.tokens]
        flops = training_flops(model.config, batch.length_B)
        n_targets, n_solutions, floor, tokens, flops = self.group.sum([*counts, flops])
        forward, parts = self._wrapped(model), batch.parts(self.micro)
        loss, solution_loss = torch.zeros((), device=self.device), 0.0
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            with gradients_averaged(model, forward, last):
                part_loss, part_solution = self._sums(forward, part)
                part_loss = part_loss / (max(1.0, n_targets) / self.group.world_size)
                if not last:
                    part_loss.backward()
                    part_loss = part_loss.detach()
            loss, solution_loss = loss + part_loss, solution_loss + part_solution
        (solution_loss,) = self.group.sum([solution_loss])
        floor, solution_loss = floor / max(1.0, n_solutions), solution_loss / max(1.0, n_solutions)
        metrics = {"floor": floor, "excess": solution_loss - floor}
        return StepOutput(loss, metrics, int(tokens), {"update": flops}, documents=self.batches.config.documents)

    def _sums(self, forward: nn.Module, batch: Batch) -> tuple[Tensor, float]:
        """The summed loss of the targets, with its graph, and of the solution tokens among them."""
        at_N = batch.loss_BT[:, 1:].flatten().nonzero().squeeze(1)
        segments_BT = None if batch.segments_BT is None else batch.segments_BT[:, :-1]
        with self.autocast:
            logits_NV = forward(batch.tokens_BT[:, :-1], at_N=at_N, segments_BT=segments_BT)
        losses_N = F.cross_entropy(logits_NV, batch.tokens_BT[:, 1:].flatten()[at_N], reduction="none")
        solution_N = batch.solution_BT[:, 1:].flatten()[at_N]
        return losses_N.sum(), losses_N.detach()[solution_N].sum().item()

    def _wrapped(self, model: GPT) -> nn.Module:
        """The model, compiled and replicated as asked; made on the first step, after a checkpoint was loaded."""
        if self._forward is None:
            if self.compiled:
                use_deterministic_kernels(self.group.device.type, compiled=True)
            forward = cast(nn.Module, torch.compile(model, dynamic=True)) if self.compiled else model
            self._forward = replicate(forward, model, self.group)
        return self._forward


class AskedTokens:
    """The objective with `questions`: mean cross-entropy to the targets of batch `step`; `excess` is then the KL from
    the oracle to the model. Tokens count each text once."""

    def __init__(self, batches: QuestionBatches) -> None:
        self.batches = batches

    def __call__(self, model: GPT, step: int) -> StepOutput:
        b = self.batches.batch(step)
        logits_NV = branched_logits(model, b.branches)
        loss = sparse_cross_entropy(logits_NV, b.entry_n, b.entry_id, b.entry_p) / b.targets
        read = (b.branches.length_B, b.whole_M, b.continued_M)
        text, whole, continued = (forward_flops(model.config, tokens) for tokens in read)
        metrics = {"floor": b.floor, "excess": loss.item() - b.floor, "targets": b.targets}
        return StepOutput(
            loss, metrics, b.tokens, {"update": 3 * (text + whole - continued)}, documents=self.batches.size
        )


def build(config: PretrainConfig) -> tuple[PretrainConfig, GPT]:
    """The config with the settings that the model has, and the model to train. Raises ValueError when the checkpoint of
    `init` is missing or has another vocabulary."""
    if config.init is None:
        return config, GPT(GPTConfig(vocab_size=config.data.encoding().size, **plain(config.model)), config.seed)
    notes = checkpoint.notes(config.init, "init")
    if config.init_vocabulary == "same":
        check_vocabulary(notes, config.data, config.init)
    model = checkpoint.load_model(config.init, "init")
    if notes.get("vocabulary") != vocabulary_notes(config.data)["vocabulary"]:
        model = extend_vocabulary(model, notes, config.data, config.init, config.seed)
    model.config = replace(model.config, context=max(model.config.context, config.model.context))
    settings = {k: v for k, v in plain(model.config).items() if k != "vocab_size"}
    if settings != plain(config.model):
        print(f"warning: the model settings are those of init={config.init}", file=sys.stderr)
    if config.lora is not None:
        add_lora(model, config.lora, config.seed)
    return replace(config, model=ModelConfig(**settings)), model.train()


def main(config: PretrainConfig) -> None:
    """Trains one model into a run folder; a complete one is left as it is."""
    device = set_up(config.threads, config.device, config.precision, distributed=True)
    with process_group(device) as group:
        logs = EventLogs(config.log, plain(config), metrics.described, metrics.table())
        group.from_main(logs.check)
        config, model = build(config)
        source = config.data.source("train")
        check_length(source, model.config.context, "model.context")
        batch = config.batch.with_window(model.config.context)
        check_defect(source, batch, model.config.context)
        if batch.packing == "documents":
            check_length(source, batch.window or 0, "batch.window")
        objective = build_objective(config, source, batch, model.config, group)
        harder = harder_problems(config.data, config.evaluate, model.config.context)
        inputs = {"init": checkpoint.weights_digest(config.init, "init")} if config.init else {}
        seeds = {"weights": config.seed, "data": config.data.seed}
        given = plain(config), inputs, seeds, config.data.fingerprint()
        with open_together(group, "train.pretrain", "training", *given) as run:
            if not run.complete:
                run_training(config, run, model, objective, group, harder, logs)
            if group.is_main:
                print(f"{outcome(Run(run.path))}\n{run.path}")


def build_objective(
    config: PretrainConfig, source: Source, batch: BatchConfig, model: GPTConfig, group: Group
) -> Objective:
    """What a step learns from: the tokens of documents, or several questions about each text."""
    if config.questions is None:
        batches = Batches(source, batch, group.rank, group.world_size, config.data.documents)
        return NextToken(batches, group.device, config.compile, config.precision, batch.micro, group)
    if group.world_size > 1:
        raise ValueError(f"questions: {group.world_size} processes; accepted: one, or questions=null")
    least = max(model.token_shift, model.conv)
    return AskedTokens(QuestionBatches(source, batch.documents, batch.bucket, config.questions, least))


def run_training(
    config: PretrainConfig,
    run: RunFolder,
    model: GPT,
    objective: Objective,
    group: Group,
    harder: Source | None,
    logs: EventLogs | None = None,
) -> None:
    """Trains to the end of the budget and writes the summary; `harder`: the problems of `evaluate.ood`."""
    model.to(group.device)
    if config.parallel == "fsdp" and group.world_size > 1:
        shard(model, group)
    written = run.path if group.is_main else None
    judge = EvaluationCallback(config.data.source("test", "validation"), config.evaluate, written, harder)
    state = train(
        run, model, objective, config.optim, config.budget, config.out,
        evaluate=judge, evaluate_every=config.evaluate.every,
        keep_best=config.evaluate.best, notes=vocabulary_notes(config.data), group=group, logs=logs,
    )  # fmt: skip
    if group.is_main:
        run.write_json("summary.json", summary(run, model, state))


if __name__ == "__main__":
    sys.exit(run_entry("pretrain", PretrainConfig, main, __doc__ or ""))
