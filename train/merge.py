"""Merging: a weighted mean of two checkpoints of one shape, as a checkpoint that every command can start from.

    python -m train.merge first=runs/opd/sft-1a2b3c4d second=runs/opd/opd-5e6f7a8b share=0.5
    python -m train.opd.run student=runs/merge/merge-9c0d1e2f method=grpo

theta = share * first + (1 - share) * second, tensor by tensor. BAI (2509.00309) is two merges and then reinforcement:
theta1 of the fine-tuned and the distilled model (its share `alpha`), theta0 of theta1 and the base (its share `beta`),
and method=grpo from theta0. Merging makes sense only between models that started from the same weights. The merged
model has no optimiser state and an empty ledger.
"""

if __name__ == "__main__":  # before torch is imported
    from train.config.early import early

    early("merge")

import sys
from dataclasses import field

import torch

from models.gpt import GPT
from synth.ranges import Share, settings
from train.config.compose import REQUIRED, plain, run_entry
from train.core import checkpoint
from train.core.torch_setup import set_up
from train.runs.run_folder import OutConfig, open_run


@settings
class MergeConfig:
    """Settings of the command. `first`, `second`: run folders or checkpoints; `share`: of the first, from 0 to 1."""

    first: str = REQUIRED
    second: str = REQUIRED
    share: Share = 0.5
    out: OutConfig = field(default_factory=lambda: OutConfig("runs/merge", "merge"))


@torch.no_grad()
def merge_models(first: GPT, second: GPT, share: float) -> GPT:
    """share * first + (1 - share) * second, a new model on the first's device, in evaluation mode. Raises ValueError
    when their shapes differ."""
    for name, value in plain(first.config).items():
        other = plain(second.config)[name]
        if value != other:
            raise ValueError(f"second: a model of {name}={other}; accepted: the first's, {name}={value}")
    model = GPT(first.config).to(first.embed.weight.device).eval()
    for merged, a, b in zip(model.parameters(), first.parameters(), second.parameters(), strict=True):
        merged.copy_(torch.lerp(b, a, share))
    return model


def main(config: MergeConfig) -> None:
    """Writes the merged checkpoint into a run folder; a complete one is left as it is."""
    set_up()
    paths = {"first": config.first, "second": config.second}
    notes = {name: checkpoint.notes(path, name) for name, path in paths.items()}
    if notes["first"].get("vocabulary") != notes["second"].get("vocabulary"):
        accepted = f"a checkpoint with data settings like {notes['first'].get('data')}"
        text = f"second={config.second}: its vocabulary is not the one of first={config.first}; accepted: {accepted}"
        raise ValueError(text)
    first, second = (checkpoint.load_model(path, name) for name, path in paths.items())
    model = merge_models(first, second, config.share)
    inputs = {name: checkpoint.weights_digest(path, name) for name, path in paths.items()}
    with open_run(plain(config), inputs, entry="train.merge", kind="merge") as run:
        checkpoint.write_untrained(run, model, notes["first"], share=config.share)


if __name__ == "__main__":
    sys.exit(run_entry("merge", MergeConfig, main, __doc__ or ""))
