"""Evaluation during training: what the loop measures on held-out problems every so many steps, for the log.

Try: `python -m train.opd.metrics`, which defines the numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.gpt import GPT
from synth.dataset import Source
from train.core.state import TrainState
from train.data.batches import DataConfig
from train.evaluation.evaluator import Evaluation, check_context_length, evaluate, held_out_loss, write_samples
from train.evaluation.pass_at_k import PassConfig, passes_of, sampled


@dataclass(frozen=True)
class EvaluationCallbackConfig:
    """Evaluation during training, every `every` steps (0: never): greedy solutions of `problems` problems, and the loss
    on `documents` documents, all from the test split's own stream `validation`, which no final evaluation reads.

    samples_per_problem: solutions at temperature 1 of each of the first `sampled_problems` problems, for pass@k (0: not
    measured). ood: greedy solutions of as many problems of exactly this many operations above the data's most (0: not
    measured)."""

    every: int = 500
    problems: int = 128
    documents: int = 256
    samples: int = 16
    samples_per_problem: int = 0
    sampled_problems: int = 32
    ood: int = 0

    def __post_init__(self):
        for name, least in (
            ("every", 0), ("problems", 1), ("documents", 1), ("samples", 0), ("samples_per_problem", 0),
            ("sampled_problems", 1), ("ood", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"evaluate.{name}={getattr(self, name)}: accepted: {least} or more")


Follow = Callable[[GPT, Evaluation], Mapping[str, Any]]


class EvaluationCallback:
    """The loop's `evaluate`: numbers for the log, and the newest rollouts in samples.jsonl of `run` (None: nowhere).

    `ood` are harder problems (None: not measured); `follow` measures more on the sampled solutions.
    """

    def __init__(
        self,
        source: Source,
        config: EvaluationCallbackConfig,
        run: Path | None,
        ood: Source | None = None,
        follow: Follow | None = None,
    ):
        self.source, self.config, self.run = source, config, run
        self.ood, self.follow = ood, follow

    def __call__(self, model: GPT, state: TrainState) -> dict[str, Any]:
        """held_out_loss, held_out_floor, kl_to_oracle (nats a token), eos_gold, and `eval_*`, a summary of greedy
        solutions; eval_pass_K of sampled ones, eval_ood of harder problems."""
        config = self.config
        loss = held_out_loss(model, self.source, range(config.documents))
        done = evaluate(model, self.source, range(config.problems))
        if self.run is not None:
            write_samples(self.run, done.samples(self.source, config.samples), step=state.step)
        summary = done.summary()
        flat = {f"eval_{k}": summary[k]["rate"] for k in ("full", "published", "answer")}
        names = ("n", "step", "floor", "length_mean", "truncation", "repetition", "by_ops")
        flat |= {f"eval_{k}": summary[k] for k in names}
        if config.samples_per_problem:
            drawn = sampled(model, self.source, PassConfig(config.samples_per_problem, config.sampled_problems), seed=0)
            found = passes_of(drawn, config.samples_per_problem)
            flat |= {f"eval_pass_{k}": rate["rate"] for k, rate in found["at"].items()}
            flat |= {"eval_pass_n": config.samples_per_problem, "eval_pass_by_ops": found["by_ops"]}
            flat |= {} if self.follow is None else self.follow(model, drawn)
        if self.ood is not None:
            harder = evaluate(model, self.ood, range(config.sampled_problems)).summary()
            flat |= {"eval_ood": harder["full"]["rate"], "eval_ood_answer": harder["answer"]["rate"]}
        names = {"loss": "held_out_loss", "floor": "held_out_floor", "kl": "kl_to_oracle", "eos": "eos_gold"}
        return {names[k]: value for k, value in loss.items()} | flat


def harder_problems(data: DataConfig, config: EvaluationCallbackConfig, context: int) -> Source | None:
    """The problems of `evaluate.ood`, None where it is 0. Raises ValueError when they do not fit the context."""
    if config.ood == 0 or config.every == 0:
        return None
    source = data.with_more_ops(config.ood, "evaluate.ood").source("test", "validation")
    check_context_length(source, config.sampled_problems, context, f"evaluate.ood={config.ood}")
    return source
