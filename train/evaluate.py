"""Evaluation: a saved model solves problems of the test split, and the checker's verdicts are counted.

    python -m train.evaluate checkpoint=runs/pretrain/pretrain-1a2b3c4d problems=512

`checkpoint` is a run folder (its last checkpoint is taken) or a checkpoints/step-N folder. The problems are of the data
it was trained on, unless `data=NAME` says otherwise. Results go to a run folder: summary.json holds counts and rates
with 95% intervals by number of operations, samples.jsonl some rollouts.

`context=gold` (a recipe of `synth.contexts.context_tokens`) puts that context before each problem, and solves the same
problems without one too: `gain` is the difference of the two rates. With `context=null` the data decide.
`passes.samples=64` adds pass@1 to pass@64 (`train.evaluation.evaluator`). `ood=2` adds `problems` problems with exactly
two operations more than the data's most, in the same vocabulary; `data.overrides.NAME=VALUE` changes the data.
"""

if __name__ == "__main__":  # before torch is imported
    from train.config.early import early

    early("evaluate")

import sys
from collections.abc import Mapping
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from models.gpt import GPT
from synth.contexts.context_tokens import parse
from synth.dataset import Source
from synth.ranges import Count, Positive, settings
from train.config.compose import REQUIRED, plain, run_entry
from train.core import checkpoint
from train.core.checkpoint import take_data
from train.core.torch_setup import set_up
from train.data.batches import DataConfig, check_vocabulary
from train.evaluation import evaluator
from train.evaluation.evaluator import Evaluation, PassConfig, Sampling
from train.runs.results import Run, described, outcome
from train.runs.run_folder import OutConfig, open_run
from train.statistics import paired_difference


@settings
class EvaluateConfig:
    """Settings of the command."""

    checkpoint: str = REQUIRED  # a run folder (its last checkpoint), a checkpoints/step-N folder, or zoo/NAME
    data: DataConfig = field(default_factory=DataConfig)
    problems: Positive = 512  # how many to solve
    samples: Count = 32  # rollouts to write down
    split: Literal["train", "test"] = "test"  # whose problems
    sampling: Sampling = field(default_factory=Sampling)
    batch: Positive = evaluator.BATCH  # problems solved side by side: speed and memory, not the result
    context: str | None = None  # recipe of privileged sections before each problem, `gold` for instance
    ood: Count = 0  # also problems with exactly so many operations more than the data's most
    threads: int = 1  # of the CPU
    device: str = "cpu"  # cpu, cuda or cuda:N
    out: OutConfig = field(default_factory=lambda: OutConfig("runs/evaluate", "evaluate"))
    passes: PassConfig = field(default_factory=PassConfig)
    complete = staticmethod(partial(take_data, "checkpoint"))

    def __post_init__(self) -> None:
        if self.context is not None:
            parse(self.context)


def main(config: EvaluateConfig) -> None:
    """Evaluates one checkpoint into a run folder; a complete one is only shown again."""
    device = set_up(config.threads, config.device)
    notes = checkpoint.notes(config.checkpoint)
    check_vocabulary(notes, config.data, config.checkpoint)
    model = checkpoint.load_model(config.checkpoint, device=device)
    data = config.data if config.context is None else config.data.with_context(config.context)
    harder = None
    if config.ood:
        harder = data.with_more_ops(config.ood).source(config.split, "evaluation")
        evaluator.check_context_length(harder, config.problems, model.config.context, f"ood={config.ood}")
    inputs = {"checkpoint": checkpoint.weights_digest(config.checkpoint)}
    seeds = {"data": config.data.seed, "sampling": config.sampling.seed}
    fingerprint = config.data.fingerprint()
    with open_run(plain(config), inputs, seeds, fingerprint, entry="train.evaluate", kind="evaluation") as run:
        if not run.complete:
            summary = measure(config, model, data.source(config.split, "evaluation"), harder, run.path)
            run.write_json("summary.json", summary)
    print(table(Run(run.path).summary))
    trained = described(notes.get("data") or {})
    other = "" if trained == described(plain(config.data)) else f" (it was trained on {trained})"
    print(outcome(Run(run.path)) + other)
    print(run.path)


def measure(config: EvaluateConfig, model: GPT, source: Source, harder: Source | None, folder: Path) -> dict[str, Any]:
    """The summary of all that the config asks for; some rollouts go to samples.jsonl of `folder`."""

    def solve(problems: Source) -> Evaluation:
        return evaluator.evaluate(model, problems, range(config.problems), config.sampling, config.batch)

    done = solve(source)
    evaluator.write_samples(folder, done.samples(source, config.samples))
    summary = done.summary()
    summary["held_out"] = evaluator.held_out_loss(model, source, range(config.problems), config.batch)
    summary["verdicts"] = {"index": done.index.tolist(), "right": done.verdicts.right.astype(int).tolist()}
    if samples := config.passes.samples:
        drawn = evaluator.sample_solutions(model, source, config.passes, config.sampling.seed, config.batch)
        summary["passes"] = evaluator.pass_rates_of(drawn, samples)
    if config.context not in (None, "none"):
        bare = solve(config.data.with_context("none").source(config.split, "evaluation"))
        summary["without"] = bare.summary()
        summary["gain"] = paired_difference(done.verdicts.right, bare.verdicts.right)._asdict()
    if harder is not None:
        summary["ood"] = solve(harder).summary()
    return summary


def table(summary: Mapping[str, Any]) -> str:
    """The result for a person: a line for each number of operations, one for all, and one for each thing more."""
    lines = [f"{'ops':>4} {'n':>6} {'fully right [95%]':>24} {'answer':>8} {'floor':>8}"]
    lines += [_line(str(row["ops"]), row, row["n"]) for row in summary["by_ops"]]
    everything = {**summary, "answer_right": summary["answer"]["rate"], "floor_right": summary["floor"]}
    lines.append(_line("all", everything, 1))
    ending = f"length {summary['length_mean']:.1f} tokens, cut off {summary['truncation']:.1%}"
    ending += f", looping {summary['repetition']:.1%}"
    kl = summary["held_out"].get("kl")  # left out where the generator's distribution has no closed form
    lines.append(ending + (f", KL to oracle {kl:.4f} nats a token" if kl is not None else ""))
    if passes := summary.get("passes"):
        rates = (f"@{k} {_interval(rate, '.1%')}" for k, rate in passes["at"].items())
        lines.append(f"pass of {passes['samples']} samples, {passes['problems']} problems: " + ", ".join(rates))
    if "ood" in summary:
        row = summary["ood"]["by_ops"][0]
        lines.append(_line(str(row["ops"]), row | {"full": summary["ood"]["full"]}, row["n"]))
    if "gain" in summary:
        gain = _interval({"rate": summary["gain"]["value"], **summary["gain"]}, "+.1%")
        lines.append(f"without context {_interval(summary['without']['full'], '.1%')}; with it {gain}")
    return "\n".join(lines)


def _line(name: str, row: Mapping[str, Any], n: int) -> str:
    full = row["full"]
    interval = f"{full['rate']:6.1%} [{full['low']:5.1%}, {full['high']:6.1%}]"
    return f"{name:>4} {row['n']:6} {interval:>24} {row['answer_right'] / n:8.1%} {row['floor_right'] / n:8.1%}"


def _interval(rate: Mapping[str, float], form: str) -> str:
    return f"{rate['rate']:{form}} [{rate['low']:{form}}, {rate['high']:{form}}]"


if __name__ == "__main__":
    sys.exit(run_entry("evaluate", EvaluateConfig, main, __doc__ or ""))
