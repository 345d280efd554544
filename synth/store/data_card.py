"""The data card of a folder of shards: README.md in Hugging Face form, with statistics and figures.

The card's `configs` make `datasets.load_dataset(DIR)` read the parquet of the shards. All numbers are counted from the
shards themselves, so the same shards give the same card; its text is `data_card.md.jinja`.
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from synth.problem.arrays import N_SENTENCES
from synth.spec import Spec
from synth.store.shards import PARQUET, Shards
from synth.world.vocabulary import SPECIALS

TEMPLATE = Path(__file__).with_name("data_card.md.jinja")
FEATURES = Path(__file__).with_name("data_card_features.yaml")  # the parquet schema as Hugging Face declares features
FIGURES = ("operations", "lengths", "answers")
BLUE, ORANGE = "#2f6fae", "#e08a1e"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def statistics(shards: Shards) -> dict[str, np.ndarray]:
    """One number for each document: ops, edges, needed parameters, answer (-1 undetermined), prompt and response
    tokens, tokens with loss, and the generator's log-probability of the response."""
    columns: dict[str, list[np.ndarray]] = defaultdict(list)
    for documents in shards:
        p, starts = documents.problems, documents.offsets[:-1]
        columns["operations"].append(p.ops)
        columns["sentences"].append(p.scalars[:, N_SENTENCES])
        columns["needed parameters"].append(p.needed.clip(0).sum(axis=1))
        columns["answer"].append(p.answer)
        columns["prompt tokens"].append(documents.prompt)
        columns["response tokens"].append(np.diff(documents.offsets) - documents.prompt)
        columns["loss"].append(np.add.reduceat(documents.loss, starts))
        columns["logp"].append(np.add.reduceat(documents.logp, starts))
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def write(folder: Path, manifest: dict, shards: Shards) -> None:
    """Write README.md and the figures it shows."""
    numbers = statistics(shards)
    (folder / "figures").mkdir(exist_ok=True)
    _draw(folder / "figures", numbers, shards.spec)
    (folder / "README.md").write_text(_text(manifest, numbers, shards.spec), encoding="utf-8")


def _text(manifest: dict, numbers: dict[str, np.ndarray], spec: Spec) -> str:
    from jinja2 import Template

    floor = -float(numbers["logp"].sum()) / max(int(numbers["loss"].sum()), 1)
    known = f"{floor:.4f} nats per token" if np.isfinite(floor) else "without closed form (published solution order)"
    ops, counts = np.unique(numbers["operations"], return_counts=True)
    rows = [
        (name, f"{v.mean():.2f}", v.min(), f"{np.median(v):.0f}", f"{np.percentile(v, 95):.0f}", v.max())
        for name, v in numbers.items()
        if name not in ("loss", "logp")
    ]
    return Template(TEMPLATE.read_text(encoding="utf-8"), keep_trailing_newline=True).render(
        manifest=manifest, spec=spec, rows=rows, figures=FIGURES, entropy=known, parquet=PARQUET,
        size=next((name for most, name in SIZES if manifest["documents"] < most), "1M<n<10M"),
        ops=[(k, n, f"{n / counts.sum():.4f}") for k, n in zip(ops, counts, strict=True)],
        specials=len(SPECIALS), settings=json.dumps(manifest["spec"], indent=2),
        features=FEATURES.read_text(encoding="utf-8"),
    )  # fmt: skip


def _draw(folder: Path, numbers: dict[str, np.ndarray], spec: Spec) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for name in FIGURES:
        figure = Figure(figsize=(6.4, 3.2), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylabel("problems")
        if name == "operations":
            ops, counts = np.unique(numbers["operations"], return_counts=True)
            axes.bar(ops, counts, color=BLUE, width=0.8)
            axes.set(xlabel="operations of the shortest solution", title="How long the reasoning is")
        elif name == "lengths":
            lengths = [numbers["prompt tokens"], numbers["response tokens"]]
            bins = np.linspace(0, max(int(v.max()) for v in lengths) + 1, 50).tolist()
            for values, label, colour in zip(lengths, ("problem", "solution"), (BLUE, ORANGE), strict=True):
                axes.hist(values, bins=bins, label=label, color=colour, alpha=0.65)
            axes.legend(frameon=False)
            axes.set(xlabel="tokens", title="How long the texts are")
        else:
            values = numbers["answer"][numbers["answer"] >= 0]
            axes.bar(np.arange(spec.modulus), np.bincount(values, minlength=spec.modulus), color=BLUE, width=0.8)
            undetermined = int((numbers["answer"] < 0).sum())
            more = f" ({undetermined} undetermined)" if undetermined else ""
            axes.set(xlabel=f"answer modulo {spec.modulus}", title=f"What the answers are{more}")
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
