"""Pretraining on the generator's exact law, with several questions about every text (train/questions.py).

    python -m train.climb data=tiny questions.count=4 budget.tokens=1_000_000
    python -m train.climb init=RUN questions.target=sampled questions.count=1

As train.pretrain in everything else: `init`, schedule, evaluation, checkpoints. `excess` in the log is the KL from the
law to the model on the batch where the law is the target. One process, no packing. Tokens count each text once.
"""

import sys
from dataclasses import dataclass, field

from models.branches import branched_logits
from models.gpt import GPT
from train import checkpoint
from train.config import plain, run_entry
from train.data import world_notes
from train.flops import forward_flops
from train.loop import StepOutput, train
from train.machine import set_up
from train.periodic import Periodic, harder_problems
from train.pretrain import PretrainConfig, build, check_context, summary
from train.questions import QuestionBatches, QuestionsConfig, law_loss
from train.rundir import open_run


@dataclass(frozen=True)
class ClimbConfig(PretrainConfig):
    """The settings of pretraining, and those of the questions."""

    questions: QuestionsConfig = field(default_factory=QuestionsConfig)

    def __post_init__(self):
        super().__post_init__()
        b = self.batch
        if b.packing != "none" or b.loss_on != "solution" or b.micro or self.compile or self.lora is not None:
            raise ValueError("climb: accepted: batch.packing=none, loss_on=solution, micro=0, compile=false, no lora")
        if self.precision != "float32" or self.data.tokens != "phrase":
            raise ValueError("climb: accepted: precision=float32, data.tokens=phrase")


class AskedTokens:
    """Mean cross-entropy to the targets of batch `step`."""

    def __init__(self, batches: QuestionBatches):
        self.batches = batches

    def __call__(self, model: GPT, step: int) -> StepOutput:
        b = self.batches.batch(step)
        logits_NV = branched_logits(model, b.branches)
        loss = law_loss(logits_NV, b.entry_n, b.entry_id, b.entry_p) / b.targets
        c = model.config
        text, whole, continued = (forward_flops(c, x) for x in (b.text_length, b.whole_length, b.continued_length))
        metrics = {"floor": b.floor, "excess": float(loss.detach()) - b.floor, "targets": b.targets}
        return StepOutput(loss, metrics, b.tokens, {"update": 3 * (text + whole - continued)})


def main(config: ClimbConfig) -> None:
    """Trains one model into a run folder; a complete one is left as it is."""
    set_up(config.threads, config.device, config.precision)
    config, model = build(config)
    source = config.data.source("train")
    check_context(model, source)
    c = model.config
    batches = QuestionBatches(
        source, config.batch.documents, config.batch.bucket, config.questions, max(c.token_shift, c.conv)
    )
    harder = harder_problems(config.data, config.evaluate, c.context)
    inputs = {"init": checkpoint.digest(config.init, "init")} if config.init else {}
    seeds = {"weights": config.seed, "data": config.data.seed}
    run = open_run(plain(config), inputs, seeds, config.data.fingerprint())
    if not run.complete:
        state = train(
            run,
            model,
            AskedTokens(batches),
            config.optim,
            config.budget,
            config.out,
            evaluate=Periodic(config.data.source("test", "validation"), config.evaluate, run.path, harder),
            evaluate_every=config.evaluate.every,
            notes=world_notes(config.data),
        )
        run.write_json("summary.json", summary(run, model, state))
    print(run.path)


if __name__ == "__main__":
    sys.exit(run_entry("climb", ClimbConfig, main, __doc__ or ""))
