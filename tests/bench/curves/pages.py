"""The curves of a session as parts of the page: a heading, a table and a picture each."""

import datetime
import math
from pathlib import Path

from tests.bench.curves.points import shown

BEGIN, END = "<!-- curves -->", "<!-- end of curves -->"


def rewritten(text: str, curves: list[dict], machine: str) -> str:
    """`text` with these curves among its own, which are kept where none of that name was measured. Raises ValueError
    where it has no place for them."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"--table: the file has no lines {BEGIN} and {END}; accepted: tests/bench/README.md")
    before, rest = text.split(BEGIN, 1)
    kept, after = rest.split(END, 1)
    parts = {part.split("\n", 1)[0]: part.strip() for part in kept.split("### ")[1:]}
    parts |= {found["title"]: section(found, machine) for found in curves}
    return f"{before}{BEGIN}\n\n" + "\n\n".join(f"### {part}" for part in parts.values()) + f"\n\n{END}{after}"


def section(found: dict, machine: str) -> str:
    """Title, table, date and picture of one curve."""
    head = f"| {' | '.join(found['columns'])} |\n{'|---' * len(found['columns'])}|"
    rows = [f"| {' | '.join('' if math.isnan(n) else shown(n) for n in row)} |" for row in found["rows"]]
    picture = f"![{found['title']}](curves/{found['curve']}.png)"
    return "\n".join((found["title"], "", head, *rows, "", f"{datetime.date.today()}, {machine}.", "", picture))


def picture(found: dict, folder: Path) -> Path:
    """The drawn columns against the first one, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    xs = [row[0] for row in found["rows"]]
    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    for name in found["drawn"]:
        at = found["columns"].index(name)
        axes.plot(xs, [row[at] for row in found["rows"]], "o-", label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(xs, [shown(x) for x in xs])
    axes.minorticks_off()
    axes.set_xlabel(found["columns"][0])
    axes.legend(fontsize="small")
    path = folder / f"{found['curve']}.png"
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)
    return path
