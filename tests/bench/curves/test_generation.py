"""What does a problem cost, the more operations it has? Documents with tokens, exactly so many operations."""

from synth.dataset import Source
from tests.bench.curves.points import curve, memory
from tests.bench.plot_generate_speed import at, objects, seconds_each

OPS, COUNT = (2, 8, 16, 32, 64), 600
COLUMNS = ("operations", "documents/s", "object graph/s", "ratio", "MiB of 600 documents")


def test_generation_against_operations():
    rows = []
    for ops in OPS:
        source = Source(at(ops), 0, "train")
        ours, peer = 1 / seconds_each(source, COUNT), 1 / objects(None, True, 12, ops)
        rows.append((ops, ours, peer, ours / peer, memory(lambda source=source: source.documents(range(COUNT)))))
    print(curve("generation", "Generation against operations", COLUMNS, rows, COLUMNS[1:3]))
