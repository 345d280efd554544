"""Evaluation during training: what is measured on held-out problems every so many steps, for the log.

Try: `python -m train.opd.metrics`, which defines the numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.gpt import GPT
from synth.dataset import Source
from synth.ranges import BadSetting, Count, Positive, settings
from train.core.budget_and_ledger import TrainState
from train.data.batches import DataConfig
from train.evaluation.evaluator import (
    Evaluation,
    PassConfig,
    check_context_length,
    evaluate,
    held_out_loss,
    pass_rates_of,
    sample_solutions,
    write_samples,
)


@settings
class EvaluationCallbackConfig:
    """Every `every` steps (0: never): greedy solutions of `problems` problems and the loss on `documents` documents.

    All are from the test split's stream `validation`, which no final evaluation reads. samples: rollouts to write down.
    samples_per_problem: solutions at temperature 1 of each of the first `sampled_problems` problems, for pass@k; ood:
    greedy solutions of as many problems with exactly this many operations above the data's most (0: not measured).
    best: the run ends with the checkpoint that solved most of them (early stopping), the start included, not the last.
    """

    every: Count = 500  # steps between evaluations, 0 for none before the end
    problems: Positive = 128  # solved greedily
    documents: Positive = 256  # for the held-out loss
    samples: Count = 16
    samples_per_problem: Count = 0
    sampled_problems: Positive = 32  # of which several solutions are drawn
    ood: Count = 0
    best: bool = False

    def __post_init__(self) -> None:
        if self.best and self.every == 0:
            raise BadSetting("best=true with every=0: nothing is evaluated; accepted: every of 1 or more")


MeasureSamples = Callable[[GPT, Evaluation], Mapping[str, Any]]
GREEDY = ("n", "step", "floor", "length_mean", "truncation", "repetition", "by_ops")  # logged as eval_NAME
HELD_OUT = {"loss": "held_out_loss", "floor": "held_out_floor", "kl": "kl_to_oracle", "eos": "eos_gold"}


@dataclass(frozen=True)
class EvaluationCallback:
    """The loop's `evaluate`: numbers for the log, and the newest rollouts in samples.jsonl of `run` (None: nowhere).
    ood: harder problems (None: not measured). measure_samples: measures more on the solutions drawn for pass@k."""

    source: Source
    config: EvaluationCallbackConfig
    run: Path | None
    ood: Source | None = None
    measure_samples: MeasureSamples | None = None

    def __call__(self, model: GPT, state: TrainState) -> dict[str, Any]:
        """held_out_loss, held_out_floor, kl_to_oracle (nats a token), eos_gold; `eval_*` of greedy solutions;
        eval_pass_K of sampled ones, eval_ood of harder problems."""
        loss = held_out_loss(model, self.source, range(self.config.documents))
        row = {HELD_OUT[name]: value for name, value in loss.items()}
        greedy = evaluate(model, self.source, range(self.config.problems))
        if self.run is not None:
            write_samples(self.run, greedy.samples(self.source, self.config.samples), step=state.step)
        summary = greedy.summary()
        row |= {f"eval_{name}": summary[name]["rate"] for name in ("full", "published", "answer")}
        row |= {f"eval_{name}": summary[name] for name in GREEDY}
        if samples := self.config.samples_per_problem:
            drawn = sample_solutions(model, self.source, PassConfig(samples, self.config.sampled_problems), seed=0)
            found = pass_rates_of(drawn, samples)
            row |= {f"eval_pass_{k}": rate["rate"] for k, rate in found["at"].items()}
            row |= {"eval_pass_n": samples, "eval_pass_by_ops": found["by_ops"]}
            row |= self.measure_samples(model, drawn) if self.measure_samples else {}
        if self.ood is not None:
            harder = evaluate(model, self.ood, range(self.config.sampled_problems)).summary()
            row |= {"eval_ood": harder["full"]["rate"], "eval_ood_answer": harder["answer"]["rate"]}
        return row


def harder_problems(data: DataConfig, config: EvaluationCallbackConfig, context: int) -> Source | None:
    """The problems of `evaluate.ood`, None where it is 0. Raises ValueError when they do not fit the context."""
    if config.ood == 0 or config.every == 0:
        return None
    source = data.with_more_ops(config.ood, "evaluate.ood").source("test", "validation")
    check_context_length(source, config.sampled_problems, context, f"evaluate.ood={config.ood}")
    return source
