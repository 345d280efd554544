"""The log of a run: metrics.jsonl, ledger.json, and a progress bar on a terminal.

`metrics.jsonl` holds each step once, also over kills: on resume the lines after the checkpoint's step are dropped, and
a checkpoint is only written after the lines before it are on disk.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from synth.store.files import finite, read_json_lines, write_json_lines
from train.core.state import Budget, TrainState
from train.runs.run_folder import RunFolder


class MetricsLog:
    """A context manager; `record(step, values)` once for each logged step, in order. `quiet`: writes nothing."""

    def __init__(self, run: RunFolder, state: TrainState, budget: Budget, quiet: bool = False):
        self.run, self.budget, self.quiet = run, budget, quiet
        path = Path(os.devnull) if quiet else run.path / "metrics.jsonl"
        kept = [line for line in read_json_lines(path) if line["step"] <= state.step]
        if path.is_file():
            write_json_lines(path, kept)
        self.last_step = kept[-1]["step"] if kept else -1
        self._file = path.open("a", encoding="utf-8")
        self._bar = tqdm(
            total=budget.amount,
            initial=state.spent(budget),
            unit=f" {budget.unit}",
            unit_scale=True,
            desc=run.path.name,
            disable=True if quiet else None,
            dynamic_ncols=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._file.close()

    def record(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds the line of this step; numbers that are not finite become null."""
        if step <= self.last_step:  # the evaluation at step 0 of a run that was killed before its first checkpoint
            return
        self._file.write(json.dumps({"step": step, **finite(values)}) + "\n")
        self._file.flush()
        self.last_step = step

    def show(self, state: TrainState, tokens_per_second: float) -> None:
        """Moves the progress bar."""
        self._bar.update(min(state.spent(self.budget), self.budget.amount) - self._bar.n)
        if state.smooth_loss is not None:
            self._bar.set_postfix_str(
                f"step {state.step} loss {state.smooth_loss:.3f} {tokens_per_second:,.0f} tokens/s", refresh=False
            )

    def flush(self, state: TrainState) -> None:
        """Makes everything up to this step durable; called before a checkpoint is written."""
        if not self.quiet:
            os.fsync(self._file.fileno())
            self.run.write_json("ledger.json", state.state_dict()["ledger"])
