"""Cost of a problem against its operations, kernels and object graph, as a table and a figure.

    python -m tests.bench.plot_generate_speed [--out .readme/generate-speed.png]

Process time of one core, best of three (kernels) or once (object graph), documents with tokens, fixed operations.
"""

import argparse
import math
import random
import time
from pathlib import Path

from synth.dataset import Source
from synth.spec import Spec, preset
from tests.bench.object_graph import generate

OPS = (2, 4, 8, 16, 24, 32, 48, 64)


def at(ops: int) -> Spec:
    """med at a fixed number of operations, with edges and letters enough for it."""
    return preset("med", ops=ops, exact_ops=True, edges=min(48, max(20, -(-4 * ops // 3))), letters=104)


def seconds_each(source: Source, count: int, method: str = "documents") -> float:
    """Seconds of process time for one problem."""
    make, best = getattr(source, method), float("inf")
    make(range(2))  # compiles
    for _ in range(3):
        start = time.process_time()
        make(range(count))
        best = min(best, time.process_time() - start)
    return best / count


def kernels(ops: int, count: int = 600) -> float:
    """Seconds for one document of exactly `ops` operations."""
    return seconds_each(Source(at(ops), 0, "train"), count)


def objects(spec: Spec | None, exact: bool, count: int, ops: int = 0) -> float:
    """Seconds for one problem of the object graph, of `spec` or of exactly `ops` operations."""
    spec = spec or at(ops)
    rng, world = random.Random(0), spec.load_world()
    start = time.process_time()
    for _ in range(count):
        generate(rng, spec, world, exact)
    return (time.process_time() - start) / count


def exponent(seconds: list[float]) -> float:
    """Power of the operations that the cost grows with, from 8 to 64: one is linear."""
    return math.log(seconds[-1] / seconds[2]) / math.log(OPS[-1] / OPS[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(".readme/generate-speed.png"), metavar="PNG")
    args = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = {"kernels": [kernels(ops) for ops in OPS], "object graph": [objects(None, True, 30, ops) for ops in OPS]}
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, seconds in lines.items():
        print(f"{name:12s}", *(f"{ops}: {1e6 * s:,.0f}" for ops, s in zip(OPS, seconds, strict=True)), "microseconds")
        axes.loglog(OPS, [1e6 * s for s in seconds], "o-", label=f"{name}: ops^{exponent(seconds):.2f} from 8 to 64")
    axes.loglog(OPS, [1e6 * lines["kernels"][2] * ops / 8 for ops in OPS], "k:", label="linear")
    axes.set_xticks(OPS, [str(ops) for ops in OPS])
    axes.minorticks_off()
    axes.set_xlabel("operations")
    axes.set_ylabel("microseconds per problem, one core")
    axes.legend()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=150)
    print(args.out)


if __name__ == "__main__":
    main()
