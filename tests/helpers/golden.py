"""Released objectives against ours: a file of numbers in, the same batch through our parts, the differences out.

    python -m tests.helpers.golden tests/golden/released/opd-1.npz ...

A file `METHOD-anything.npz` holds the inputs and settings of one released function (`in_*`) and what it gave (`out_*`;
`tests/golden/released/README.md`). Its batch goes through the six parts as configs/method composes them, with the
settings of the file as overrides that a user could type, in float64. Printed: the largest difference of the loss and of
its gradient at every student logit, relative to the largest entry of the release. Exit code 1 beyond 1e-6, or where a
file cannot be read or its method is not known.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.helpers.released_objectives.golden_files import Difference, File, difference
from tests.helpers.released_objectives.golden_methods import OTHER, REGISTRY


def name_of(path: Path) -> str:
    """The method of a file: what stands before the last dash of its name."""
    return path.stem.rpartition("-")[0] or path.stem


def compare(path: Path) -> list[Difference]:
    """Every loss of a file. Raises ValueError, in one line, where it cannot be read or its method is not known."""
    name = name_of(path)
    if name not in REGISTRY | OTHER:
        raise ValueError(f"{path}: no parts of ours for {name}; known: {', '.join(sorted(REGISTRY | OTHER))}")
    file = File.read(path)
    try:
        if name in OTHER:
            return OTHER[name](file)
        return [difference(file, variant) for variant in REGISTRY[name](file)]
    except ValueError as fault:
        raise ValueError(f"{path}: {fault}") from fault
    except KeyError as missing:
        raise ValueError(f"{path}: has no array {missing.args[0]}") from missing


def main(paths: Sequence[str]) -> int:
    """Prints a line for each loss of each file; 1 where one is unequal or a file is refused."""
    if not paths:
        print("usage: python -m tests.helpers.golden FILE.npz ...", file=sys.stderr)
        return 2
    worst = 0
    for path in map(Path, paths):
        try:
            found = compare(path)
        except ValueError as fault:
            print(f"error: {fault}", file=sys.stderr)
            worst = 1
            continue
        for d in found:
            shown = " ".join("       -" if x is None else f"{x:8.1e}" for x in (d.loss, d.gradient))
            print(f"{path.stem:16} {d.name or 'main':20} loss, gradient {shown}  {'equal' if d.equal else 'UNEQUAL'}")
            worst |= not d.equal
    return int(worst)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
