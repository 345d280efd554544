"""What a training run would cost: floating-point operations by formula, time from an assumed or a measured rate.

The first table has every model of configs/model: its size, the operations of a training token and of the whole run, and
the days of one device that reaches `share` of its `peak` rate; both numbers are assumed. The second table has the RUN
folders: the rates that they reached, from their ledgers, and the time for the tokens at that rate. --measure adds the
rate of matrix products on this machine, and the runs' share of it.

Example: python -m train.cost runs/pretrain/* --measure
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from models.flops import n_params, training_flops_per_token
from models.sizes import read_sizes
from synth.cli import Parser, fail
from synth.exit_codes import run_command
from synth.spec import preset
from synth.store.files import naming
from train.runs.results import Run, is_run
from train.tables import Table

# Defaults: the med runs of Physics of Language Models, part 2.1 (100k steps of 512 windows of 768 tokens); the dense
# bf16 rate of an H100 or H200 SXM from its data sheet; the share is an aim, not a result.
TOKENS, WINDOW, PEAK, SHARE = 512 * 768 * 100_000, 768, 989e12, 0.45
DAY = 86_400.0
SIDE = {"cpu": 1536, "cuda": 8192}  # rows and columns of the matrices that are multiplied to measure a device


def projected(tokens: float, window: int, rate: float) -> Table:
    """The first table: one row for each model, with the vocabulary of the published world, at `rate` FLOP/s."""
    rows = []
    for name, config in read_sizes(len(preset("med").load_world().vocabulary)).items():
        each = training_flops_per_token(config, window)
        days = tokens * each / rate / DAY
        numbers = [f"{value:.3g}" for value in (each, tokens * each, days, days / 8)]
        rows.append([name, f"{n_params(config) / 1e6:.2f}M", *numbers])
    return Table(["model", "weights", "FLOPs/token", "FLOPs", "device days", "8 devices"], rows)


def measured(runs: Sequence[Run], tokens: float, machine: float | None) -> Table:
    """The second table: the rates of runs while they updated weights, and the days of the tokens at that rate."""
    rows = []
    for run in runs:
        with naming(run.folder / "ledger.json"):
            spent = {column: run.ledger.get(column, {}).get("update", 0.0) for column in ("tokens", "flops", "seconds")}
        if not spent["seconds"]:
            continue
        speed, rate = spent["tokens"] / spent["seconds"], spent["flops"] / spent["seconds"]
        share = f"{rate / machine:.1%}" if machine else ""
        rows.append([run.folder.name, f"{speed:,.0f}", f"{rate:.3g}", share, f"{tokens / speed / DAY:.3g}"])
    return Table(["run", "tokens/s", "FLOP/s", "share of this machine", "days for the tokens"], rows)


def matmul_rate(seconds: float = 1.0) -> float:
    """Operations a second of this machine's matrix products: bf16 on a GPU, float32 in one thread on a CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side, dtype = SIDE[device.type], torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.set_num_threads(1)
    a = torch.ones(side, side, dtype=dtype, device=device)
    best, deadline = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def main(argv: Sequence[str] | None = None) -> int:
    """The command: exit code 0; raises SystemExit on bad input."""
    parser = Parser("train.cost", __doc__, "")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folders of train.pretrain, whose rates to use")
    parser.add_argument("--tokens", type=float, default=TOKENS, help=f"of the run (default: {TOKENS:.3g})")
    parser.add_argument("--window", type=int, default=WINDOW, help=f"tokens of a sequence (default: {WINDOW})")
    parser.add_argument("--peak", type=float, default=PEAK, help=f"FLOP/s of a device (default: {PEAK:.3g})")
    parser.add_argument("--share", type=float, default=SHARE, help=f"of the peak that is reached (default: {SHARE})")
    parser.add_argument("--measure", action="store_true", help="measure the matrix products of this machine")
    given = parser.parse_args(argv)
    for name in ("tokens", "window", "peak"):
        if not getattr(given, name) > 0:
            fail(f"--{name} {getattr(given, name)}: accepted: above 0")
    if not 0 < given.share <= 1:
        fail(f"--share {given.share}: accepted: above 0, up to 1")
    for path in given.runs:
        if not is_run(Path(path)):
            fail(f"{path}: is not a run folder; accepted: folders that train.pretrain wrote")
    rate = given.peak * given.share
    print(f"{given.tokens:.3g} tokens in windows of {given.window}, at {rate:.3g} FLOP/s (assumed):\n")
    print(projected(given.tokens, given.window, rate).text("lr"))
    machine = matmul_rate() if given.measure else None
    if machine:
        print(f"\nThis machine multiplies matrices at {machine:.3g} FLOP/s (measured now).")
    if given.runs:
        print("\nMeasured, from the ledgers:\n")
        print(measured([Run(Path(path)) for path in given.runs], given.tokens, machine).text("lr"))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
