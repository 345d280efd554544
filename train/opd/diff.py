"""In which parts two methods differ: settings that only one has or that have another value.

python -m train.opd.diff opd gkd
python -m train.opd.diff scope scope@release      # the two forms of a method (`faithful`)
"""

import sys
from typing import Any

from synth.exit_codes import run_command
from train.config.schema import plain
from train.opd.table import read, short
from train.runs.run_folder import METHOD_WORDS
from train.tables import Table


def flat(value: Any, where: str = "") -> dict[str, str]:
    """Nested settings by dotted name."""
    if isinstance(value, dict) and value:
        return {key: item for name, inside in value.items() for key, item in flat(inside, f"{where}.{name}").items()}
    if isinstance(value, list) and value:
        return {key: item for i, inside in enumerate(value) for key, item in flat(inside, f"{where}.{i}").items()}
    return {where.lstrip("."): short(value)}


def difference(one: str, other: str) -> list[tuple[str, str, str]]:
    """Setting, its value in each method ("" where it has none), part by part; empty for methods of the same choices."""
    words = ("name", *METHOD_WORDS)
    a, b = (flat({n: v for n, v in plain(read(name)).items() if n not in words}) for name in (one, other))
    names = [*a, *(name for name in b if name not in a)]
    return [(n, a.get(n, ""), b.get(n, "")) for n in names if a.get(n) != b.get(n)]


def main(argv: list[str]) -> int:
    """Prints the table; 2 and one line for anything but two methods."""
    if {"-h", "--help"} & set(argv):
        print((__doc__ or "").strip())
        return 0
    try:
        if len(argv) != 2:
            raise ValueError(f"{' '.join(argv) or 'nothing'}: accepted are the names of two methods")
        rows = difference(*argv)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(Table(["setting", *argv], ([f"`{name}`", a, b] for name, a, b in rows)).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
