"""Evaluation: has a saved model solve problems of the test split, and counts what the checker finds.

    python -m train.evaluate checkpoint=runs/pretrain/pretrain-1a2b3c4d problems=512

`checkpoint` is a run folder (its last checkpoint is taken) or a checkpoints/step-N folder. Results go to a run folder:
summary.json holds counts and rates with 95% intervals by number of operations, samples.jsonl some rollouts.

`context=gold` (a recipe of `synth.contexts.sections`) tells the model that context before each problem, and solves the same
problems without any beside: `gain` is the difference of the two rates. `context=null` is whatever the data says.
`passes.samples=64` adds pass@1 to pass@64 (`train.evaluation.pass_at_k`). `ood=2` also asks `problems` problems of exactly two
operations more than the data's most, in the same vocabulary. (Other data of that vocabulary:
`data.overrides.NAME=VALUE`.)
"""

import sys
from dataclasses import dataclass, field
from typing import Any

from synth.contexts.sections import parse
from synth.store.files import read_json
from train.config.compose import REQUIRED, plain, run_entry
from train.core import checkpoint
from train.core.torch_setup import set_up
from train.data.batches import DataConfig, check_vocabulary
from train.evaluation.evaluator import BATCH, Sampling, check_context_length, evaluate, held_out_loss, write_samples
from train.evaluation.pass_at_k import PassConfig, measure_passes
from train.runs.run_folder import OutConfig, open_run
from train.statistics import paired_difference


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of the command."""

    checkpoint: str = REQUIRED
    data: DataConfig = field(default_factory=DataConfig)
    problems: int = 512
    samples: int = 32
    split: str = "test"
    sampling: Sampling = field(default_factory=Sampling)
    batch: int = BATCH
    context: str | None = None
    ood: int = 0
    threads: int = 1
    device: str = "cpu"
    out: OutConfig = field(default_factory=lambda: OutConfig("runs/evaluate", "evaluate"))
    passes: PassConfig = field(default_factory=PassConfig)

    def __post_init__(self):
        for name in ("problems", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: accepted: 1 or more")
        for name in ("samples", "ood"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: accepted: 0 or more")
        if self.split not in ("train", "test"):
            raise ValueError(f"split={self.split}: accepted: train, test")
        if self.context is not None:
            parse(self.context)


def main(config: EvaluateConfig) -> None:
    """Evaluates one checkpoint into a run folder; a complete one is only shown again."""
    device = set_up(config.threads, config.device)
    check_vocabulary(checkpoint.notes(config.checkpoint), config.data, config.checkpoint)
    model = checkpoint.load_model(config.checkpoint, device=device)
    told = config.data if config.context is None else config.data.with_context(config.context)
    source = told.source(config.split, "evaluation")
    harder = None
    if config.ood:
        harder = told.with_more_ops(config.ood).source(config.split, "evaluation")
        check_context_length(harder, config.problems, model.config.context, f"ood={config.ood}")
    inputs = {"checkpoint": checkpoint.weights_digest(config.checkpoint)}
    seeds = {"data": config.data.seed, "sampling": config.sampling.seed}
    run = open_run(plain(config), inputs, seeds, config.data.fingerprint())
    if not run.complete:
        done = evaluate(model, source, range(config.problems), config.sampling, config.batch)
        write_samples(run.path, done.samples(source, config.samples))
        loss = held_out_loss(model, source, range(config.problems), config.batch)
        verdicts = {"index": done.index.tolist(), "right": done.verdicts.right.astype(int).tolist()}
        summary = {**done.summary(), "held_out": loss, "verdicts": verdicts}
        if config.passes.samples:
            summary["passes"] = measure_passes(model, source, config.passes, config.sampling.seed, config.batch)
        if config.context not in (None, "none"):
            bare = config.data.with_context("none").source(config.split, "evaluation")
            without = evaluate(model, bare, range(config.problems), config.sampling, config.batch)
            summary["without"] = without.summary()
            summary["gain"] = paired_difference(done.verdicts.right, without.verdicts.right)._asdict()
        if harder is not None:
            summary["ood"] = evaluate(model, harder, range(config.problems), config.sampling, config.batch).summary()
        run.write_json("summary.json", summary)
    print(table(read_json(run.path / "summary.json")))
    print(run.path)


def table(summary: dict[str, Any]) -> str:
    """The result for a person: a line for each number of operations and one for all."""

    def line(name: str, n: int, full: dict[str, float], answer: float, floor: float) -> str:
        interval = f"{full['rate']:6.1%} [{full['low']:5.1%}, {full['high']:6.1%}]"
        return f"{name:>4} {n:6} {interval:>24} {answer:8.1%} {floor:8.1%}"

    lines = [f"{'ops':>4} {'n':>6} {'fully right [95%]':>24} {'answer':>8} {'floor':>8}"]
    for row in summary["by_ops"]:
        n = row["n"]
        lines.append(line(str(row["ops"]), n, row["full"], row["answer_right"] / n, row["floor_right"] / n))
    lines.append(line("all", summary["n"], summary["full"], summary["answer"]["rate"], summary["floor"]))
    kl = summary["held_out"].get("kl")  # left out where the generator's law has no closed form
    lines.append(
        f"length {summary['length_mean']:.1f} tokens, cut off {summary['truncation']:.1%}, looping "
        f"{summary['repetition']:.1%}" + (f", KL to oracle {kl:.4f} nats a token" if kl is not None else "")
    )
    if "passes" in summary:
        passes = summary["passes"]
        rates = (f"@{k} {r['rate']:.1%} [{r['low']:.1%}, {r['high']:.1%}]" for k, r in passes["at"].items())
        lines.append(f"pass of {passes['samples']} samples, {passes['problems']} problems: " + ", ".join(rates))
    if "ood" in summary:
        row, full = summary["ood"]["by_ops"][0], summary["ood"]["full"]
        lines.append(line(str(row["ops"]), row["n"], full, row["answer_right"] / row["n"], summary["ood"]["floor"]))
    if "gain" in summary:
        gain, full = summary["gain"], summary["without"]["full"]
        lines.append(
            f"without context {full['rate']:.1%} [{full['low']:.1%}, {full['high']:.1%}]; with it "
            f"{gain['value']:+.1%} [{gain['low']:+.1%}, {gain['high']:+.1%}]"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_entry("evaluate", EvaluateConfig, main, __doc__ or ""))
