"""Pretraining: next-token prediction on fresh documents, from random weights or from a checkpoint.

    python -m train.pretrain data=tiny model=nano optim=muon budget.tokens=1_000_000 out.name=student

The loss is logged beside the oracle's entropy on the same tokens, so `excess` is the distance from what can be known,
in nats a token. The same command again continues a run that was killed, and does nothing once it is complete.

Legend: B documents, T positions, N loss positions, V vocabulary.
"""

import dataclasses
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from models.gpt import GPT, GPTConfig, n_params
from train import checkpoint
from train.config import REQUIRED, plain, run_entry
from train.data import BatchConfig, Batches, DataConfig, check_world, world_notes
from train.evaluation import Periodic, PeriodicConfig
from train.flops import training_flops
from train.loop import StepOutput, last_row, train
from train.machine import set_up
from train.optim import OptimConfig
from train.rundir import RunDir, TrainingOut, open_run
from train.state import Budget, TrainState

CHECKED = 2048  # documents whose length is compared with the model's context before anything starts


# The model's settings are those of `GPTConfig`, but for the vocabulary, which the data decides.
ModelConfig = dataclasses.make_dataclass(
    "ModelConfig",
    [
        (f.name, f.type, field(default=REQUIRED if f.default is dataclasses.MISSING else f.default))
        for f in dataclasses.fields(GPTConfig)
        if f.name != "vocab_size"
    ],
    frozen=True,
)


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of the command. `init`: a checkpoint whose weights to start from (the optimiser starts fresh)."""

    seed: int = 0  # of the initial weights
    init: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    budget: Budget = field(default_factory=lambda: Budget(steps=1000))
    batch: BatchConfig = field(default_factory=BatchConfig)
    evaluate: PeriodicConfig = field(default_factory=PeriodicConfig)
    compile: bool = False
    threads: int = 1
    device: str = "cpu"
    out: TrainingOut = field(default_factory=lambda: TrainingOut("runs/pretrain", "pretrain"))


class NextToken:
    """The objective of pretraining: mean cross-entropy of the loss tokens of batch `step`."""

    def __init__(self, batches: Batches, device: torch.device, compiled: bool = False):
        self.batches, self.device, self.compiled = batches, device, compiled
        self._forward: nn.Module | None = None

    def __call__(self, model: GPT, step: int) -> StepOutput:
        batch = self.batches.batch(step).to(self.device)
        at_N = batch.loss_BT[:, 1:].flatten().nonzero().squeeze(1)
        logits_NV = self._model(model)(batch.tokens_BT[:, :-1], at_N=at_N)
        losses_N = F.cross_entropy(logits_NV, batch.tokens_BT[:, 1:].flatten()[at_N], reduction="none")
        solution_N = batch.solution_BT[:, 1:].flatten()[at_N]
        solution_loss = losses_N.detach()[solution_N].mean().item()
        metrics = {"floor": batch.floor, "excess": solution_loss - batch.floor}
        flops = training_flops(model.config, batch.length_B)
        return StepOutput(losses_N.mean(), metrics, batch.tokens, {"update": flops})

    def _model(self, model: GPT) -> nn.Module:
        if not self.compiled:
            return model
        if self._forward is None:
            self._forward = torch.compile(model, dynamic=True)
        return self._forward


def build(config: PretrainConfig) -> tuple[PretrainConfig, GPT]:
    """The model to train, and the config with the model settings that it really has.

    Raises ValueError when the checkpoint of `init` is missing or of another world.
    """
    if config.init is None:
        return config, GPT(GPTConfig(vocab_size=config.data.encoding().size, **plain(config.model)), config.seed)
    check_world(checkpoint.notes(config.init, "init"), config.data, config.init)
    model = checkpoint.load_model(config.init, "init")
    settings = {k: v for k, v in plain(model.config).items() if k != "vocab_size"}
    if settings != plain(config.model):
        print(f"warning: the model settings are those of init={config.init}", file=sys.stderr)
    return replace(config, model=ModelConfig(**settings)), model.train()


def main(config: PretrainConfig) -> None:
    """Trains one model into a run folder; a complete one is left as it is."""
    device = set_up(config.threads, config.device)
    config, model = build(config)
    source = config.data.source("train")
    check_context(model, source)
    inputs = {"init": checkpoint.digest(config.init, "init")} if config.init else {}
    run = open_run(plain(config), inputs, {"weights": config.seed, "data": config.data.seed}, config.data.fingerprint())
    if not run.complete:
        model.to(device)
        objective = NextToken(Batches(source, config.batch), device, config.compile)
        periodic = Periodic(config.data.source("test", "validation"), config.evaluate, run.path)
        state = train(
            run,
            model,
            objective,
            config.optim,
            config.budget,
            config.out,
            evaluate=periodic,
            evaluate_every=config.evaluate.every,
            notes=world_notes(config.data),
        )
        run.write_json("summary.json", summary(run, model, state))
    print(run.path)


def check_context(model: GPT, source: Any) -> None:
    """Raises ValueError when documents are longer than the model can read."""
    offsets = source.documents(range(CHECKED)).offsets
    longest = int((offsets[1:] - offsets[:-1]).max())
    if longest > model.config.context:
        raise ValueError(f"model.context={model.config.context}: documents have up to {longest} tokens; accepted: more")


def summary(run: RunDir, model: GPT, state: TrainState) -> dict[str, Any]:
    """What the run came to: size, cost, and the last line of its log."""
    return {
        "parameters": n_params(model.config),
        "steps": state.step,
        "tokens": state.tokens,
        "flops": state.flops,
        "ledger": state.state_dict()["ledger"],
        "last": last_row(run),
    }


if __name__ == "__main__":
    sys.exit(run_entry("pretrain", PretrainConfig, main, __doc__ or ""))
