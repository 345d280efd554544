"""Whether a run may go on with another budget and end as if it had been asked for at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synth.store.files import read_json
from train.core import checkpoint
from train.core.budget_and_ledger import Budget, TrainState
from train.core.optimizer import Schedule


def check_budget(run: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises ValueError, with the reason, where the steps that were taken would have been others under the budget of
    `now`. before, now: the settings of a training run, `optim` and `budget` among them."""
    if (found := checkpoint.latest(run)) is None:
        return
    state, old, new = TrainState(), Budget(**before["budget"]), Budget(**now["budget"])
    state.load_state_dict(read_json(found / checkpoint.STATE)["state"])
    asked = f"budget.{new.unit}={new.amount:g}"
    if (spent := state.spent(new)) > new.amount:
        raise ValueError(f"{asked}: {run} has spent {spent:g} already; accepted: more, or a new folder")
    schedule = Schedule(**before["optim"]["schedule"])
    if not schedule.is_flat_until(max(state.progress(old), state.progress(new))):
        what = f"its learning rates up to step {state.step} depend on its budget of {old.amount:g} {old.unit}"
        accepted = "optim.schedule.warmup=0 and shape=constant, or shape=wsd before its last optim.schedule.decay"
        raise ValueError(f"{asked}: {run} cannot go on so: {what}; accepted: runs with {accepted}, or a new folder")
