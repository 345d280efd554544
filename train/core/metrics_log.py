"""The written record of a run: one line of metrics a logged step, the ledger, and a progress bar for whoever watches.

`metrics.jsonl` holds each step once, also over kills: on resume the lines after the checkpoint's step are dropped, and
a checkpoint is only written after the lines before it are on disk. The bar shows on a terminal and nowhere else.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from synth.store.files import finite, read_json_lines, write_json_lines
from train.core.state import Budget, TrainState
from train.runs.run_folder import RunFolder


class MetricsLog:
    """Writes for one run, as a context manager. `record(step, values)` once for each logged step, in order.

    A `quiet` one writes and shows nothing: of many processes, one does.
    """

    def __init__(self, run: RunFolder, state: TrainState, budget: Budget, quiet: bool = False):
        self.run, self.budget = run, budget
        self.quiet = quiet
        self.path = run.path / "metrics.jsonl" if not quiet else Path(os.devnull)
        kept = [line for line in read_json_lines(self.path) if line["step"] <= state.step]
        if self.path.is_file():
            write_json_lines(self.path, kept)
        self.last_step = kept[-1]["step"] if kept else -1
        self._file = self.path.open("a", encoding="utf-8")
        self._bar = tqdm(
            total=budget.amount,
            initial=state.spent(budget),
            unit=f" {budget.unit}",
            unit_scale=True,
            desc=run.path.name,
            disable=True if quiet else None,
            dynamic_ncols=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()
        self._file.close()

    def record(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds the line of this step; numbers that are not finite become null, which JSON can hold."""
        if step <= self.last_step:  # the step-0 evaluation of a run that was killed before its first checkpoint
            return
        self._file.write(json.dumps({"step": step, **finite(values)}) + "\n")
        self._file.flush()
        self.last_step = step

    def show(self, state: TrainState, tokens_per_second: float) -> None:
        """Moves the bar, which knows the time left from the budget."""
        self._bar.update(min(state.spent(self.budget), self.budget.amount) - self._bar.n)
        if state.smooth_loss is not None:
            self._bar.set_postfix_str(
                f"step {state.step} loss {state.smooth_loss:.3f} {tokens_per_second:,.0f} tokens/s", refresh=False
            )

    def settle(self, state: TrainState) -> None:
        """Makes everything up to this step durable; called before a checkpoint is written."""
        if self.quiet:
            return
        os.fsync(self._file.fileno())
        self.run.write_json("ledger.json", state.state_dict()["ledger"])
