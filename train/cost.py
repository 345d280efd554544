"""What a training run would cost: floating-point operations by formula, time from an assumed or a measured rate.

usage: python -m train.cost [RUN ...] [--tokens 39.3e9] [--window 768] [--peak 989e12] [--share 0.45] [--measure]

The first table has every model of configs/model: its size, the operations of a training token and of the whole run, and
the days of one device that does `share` of its `peak` rate; both are the reader's numbers, nothing is measured. The
second table has the RUN folders: the rates that they did reach, from their ledgers, and what the tokens would take at
that rate. --measure adds the rate at which this machine multiplies matrices, and the runs' share of it.

Example: python -m train.cost runs/pretrain/* --measure
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from models.flops import flops_per_token, n_params
from models.gpt import GPTConfig
from synth.spec import preset
from train.config.compose import CONFIGS
from train.runs.results import Run, is_run

# Defaults: the med runs of Physics of Language Models, part 2.1 (100k steps of 512 windows of 768 tokens); the dense
# bf16 rate of an H100 or H200 SXM as its data sheet gives it; the share is this house's aim, not a result.
TOKENS, WINDOW, PEAK, SHARE = 512 * 768 * 100_000, 768, 989e12, 0.45
DAY = 86_400.0
SIDE = {"cpu": 1536, "cuda": 8192}  # of the matrices that are multiplied to measure a device


def training_flops_per_token(config: GPTConfig, window: int) -> float:
    """Three forward passes; a token of a full window attends to (window + 1) / 2 positions on average."""
    return 3 * flops_per_token(config, (window + 1) / 2)


def models(folder: Path = CONFIGS / "model") -> dict[str, GPTConfig]:
    """Every model of the folder, with the vocabulary of the published world, by size."""
    vocabulary = len(preset("med").load_world().vocabulary)
    found = {p.stem: GPTConfig(vocabulary, **yaml.safe_load(p.read_text())) for p in sorted(folder.glob("*.yaml"))}
    return dict(sorted(found.items(), key=lambda item: n_params(item[1])))


def projected(tokens: float, window: int, rate: float) -> list[list[str]]:
    """The first table: one row for each model at `rate` operations a second."""
    rows = [["model", "weights", "FLOPs/token", "FLOPs", "device days", "8 devices"]]
    for name, config in models().items():
        each = training_flops_per_token(config, window)
        days = tokens * each / rate / DAY
        row = [name, f"{n_params(config) / 1e6:.2f}M", f"{each:.3g}", f"{tokens * each:.3g}"]
        rows.append([*row, f"{days:.3g}", f"{days / 8:.3g}"])
    return rows


def measured(runs: Sequence[Run], tokens: float, machine: float | None) -> list[list[str]]:
    """The second table: what runs reached while they updated weights, and the days of the tokens at that rate."""
    rows = [["run", "tokens/s", "FLOP/s", "share of this machine", "days for the tokens"]]
    for run in runs:
        spent = {column: run.ledger.get(column, {}).get("update", 0.0) for column in ("tokens", "flops", "seconds")}
        if not spent["seconds"]:
            continue
        speed, rate = spent["tokens"] / spent["seconds"], spent["flops"] / spent["seconds"]
        share = f"{rate / machine:.1%}" if machine else ""
        rows.append([run.folder.name, f"{speed:,.0f}", f"{rate:.3g}", share, f"{tokens / speed / DAY:.3g}"])
    return rows


def matmul_rate(seconds: float = 1.0) -> float:
    """Operations a second of this machine's matrix products: bf16 on a GPU, float32 in one thread on a CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side, dtype = SIDE[device.type], torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.set_num_threads(1)
    a = torch.ones(side, side, dtype=dtype, device=device)
    best, deadline = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first one left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command: exit code 0, or 2 on bad input."""
    about, _, rest = (__doc__ or "").partition("\n\nusage: ")
    parser = argparse.ArgumentParser(
        prog="python -m train.cost",
        description=about,
        epilog=rest.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folders of train.pretrain, whose rates to use")
    parser.add_argument("--tokens", type=float, default=TOKENS, help=f"of the run (default: {TOKENS:.3g})")
    parser.add_argument("--window", type=int, default=WINDOW, help=f"tokens of a sequence (default: {WINDOW})")
    parser.add_argument("--peak", type=float, default=PEAK, help=f"FLOP/s of a device (default: {PEAK:.3g})")
    parser.add_argument("--share", type=float, default=SHARE, help=f"of the peak that is reached (default: {SHARE})")
    parser.add_argument("--measure", action="store_true", help="measure the matrix products of this machine")
    try:
        given = parser.parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    for name in ("tokens", "window", "peak"):
        if not getattr(given, name) > 0:
            return _refuse(f"--{name} {getattr(given, name)}: accepted: above 0")
    if not 0 < given.share <= 1:
        return _refuse(f"--share {given.share}: accepted: above 0, up to 1")
    for path in given.runs:
        if not is_run(Path(path)):
            return _refuse(f"{path}: is not a run folder; accepted: folders that train.pretrain wrote")
    rate = given.peak * given.share
    print(f"{given.tokens:.3g} tokens in windows of {given.window}, at {rate:.3g} FLOP/s (assumed):\n")
    print(table(projected(given.tokens, given.window, rate)))
    machine = matmul_rate() if given.measure else None
    if machine:
        print(f"\nThis machine multiplies matrices at {machine:.3g} FLOP/s (measured now).")
    if given.runs:
        print("\nMeasured, from the ledgers:\n")
        print(table(measured([Run(Path(path)) for path in given.runs], given.tokens, machine)))
    return 0


def _refuse(words: str) -> int:
    print(f"error: {words}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
