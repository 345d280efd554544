"""The data card of a folder of shards: README.md in Hugging Face form, with statistics and figures.

The card's `configs` make `datasets.load_dataset(DIR)` read the parquet of the shards. All numbers are counted from the
shards themselves, so the same shards give the same card.
"""

import json
from pathlib import Path

import numpy as np

from synth.problem.arrays import N_SENTENCES
from synth.spec import Spec
from synth.store.shards import PARQUET, Shards
from synth.world.vocabulary import SPECIALS

FIGURES = ("operations", "lengths", "answers")
BLUE, ORANGE = "#2f6fae", "#e08a1e"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def statistics(shards: Shards) -> dict[str, np.ndarray]:
    """One number for each document: ops, edges, needed parameters, answer (-1 undetermined), prompt and response
    tokens, tokens with loss, and the generator's log-probability of the response."""
    columns: dict[str, list[np.ndarray]] = {}
    for documents in shards:
        p, starts = documents.problems, documents.offsets[:-1]
        response = np.diff(documents.offsets) - documents.prompt
        found = {
            "operations": p.ops, "sentences": p.scalars[:, N_SENTENCES],
            "needed parameters": p.needed.clip(0).sum(axis=1), "answer": p.answer,
            "prompt tokens": documents.prompt, "response tokens": response,
            "loss": np.add.reduceat(documents.loss, starts), "logp": np.add.reduceat(documents.logp, starts),
        }  # fmt: skip
        for name, values in found.items():
            columns.setdefault(name, []).append(np.asarray(values))
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def write(folder: Path, manifest: dict, shards: Shards) -> None:
    """Write README.md and the figures it shows."""
    numbers = statistics(shards)
    (folder / "figures").mkdir(exist_ok=True)
    _draw(folder / "figures", numbers, shards.spec)
    (folder / "README.md").write_text(_text(manifest, numbers, shards.spec), encoding="utf-8")


def _front(manifest: dict) -> str:
    size = next((name for most, name in SIZES if manifest["documents"] < most), "1M<n<10M")
    split = "test" if manifest["split"] == "test" else "train"  # "all" is no name of a split there
    lines = ["license: mit", "language: [en]", "task_categories: [text-generation]"]
    lines += ["tags: [synthetic, mathematics, reasoning]", f"size_categories: [{size}]"]
    if manifest["parquet"]:
        lines += ["configs:", "  - config_name: default", "    data_files:", f"      - split: {split}"]
        lines += [f"        path: shard-*/{PARQUET}"]
    return "\n".join(["---", *lines, "---"])


def _text(manifest: dict, numbers: dict[str, np.ndarray], spec: Spec) -> str:
    floor = -float(numbers["logp"].sum()) / max(int(numbers["loss"].sum()), 1)
    known = f"{floor:.4f} nats per token" if np.isfinite(floor) else "without closed form (published solution order)"
    first, last = manifest["first"], manifest["first"] + manifest["documents"] - 1
    ops, counts = np.unique(numbers["operations"], return_counts=True)
    shown = [n for n in numbers if n not in ("loss", "logp")]
    rows = [
        f"| {name} | {v.mean():.2f} | {v.min()} | {np.median(v):.0f} | {np.percentile(v, 95):.0f} | {v.max()} |"
        for name in shown
        for v in [numbers[name]]
    ]
    code = manifest["code"]
    commit = f", commit {code['commit']}" if code["commit"] else ""
    reading = "from synth.store.shards import read_shards\n\nshards = read_shards(DIR, verify=True)\n"
    reading += "shards[0].prompt_tokens(0)"
    if manifest["parquet"]:
        reading += "\n\nimport datasets\n\ndatasets.load_dataset(DIR)"
    figures = "\n".join(f"![{name}](figures/{name}.png)" for name in FIGURES)
    return f"""{_front(manifest)}

# Synthetic grade-school maths: {manifest["documents"]} problems, {manifest["tokens"]} tokens

Problems of the `{manifest["world"]}` world with up to {spec.ops} operations modulo {spec.modulus}, each with its full
solution and the truth about it: parameters, dependencies, values, what is needed, inserted mistakes.

Split `{manifest["split"]}`, seed {manifest["seed"]}, documents {first} to {last} of the stream, entropy of the
solutions {known}.
Made by version {code["version"]}{commit} (source {code["source"]}), spec `{manifest["spec_hash"]}`.

| per problem | mean | least | median | 95% | most |
|---|---|---|---|---|---|
{chr(10).join(rows)}

{figures}

| operations | problems | share |
|---|---|---|
{chr(10).join(f"| {k} | {n} | {n / counts.sum():.4f} |" for k, n in zip(ops, counts, strict=True))}

## Files

One folder for each shard with one `.npy` for each array, aligned token by token: `offsets.npy` cuts documents,
`prompt.npy` their prompts, `problems.npy` is the truth of each problem. `vocabulary.json` is the text of each token id
(the first {len(SPECIALS)} are markers), `manifest.json` has the counts and SHA-256 of every file.

```python
{reading}
```

`python -m synth.audit DIR` proves every record again, from its text alone.

## Settings

```json
{json.dumps(manifest["spec"], indent=2)}
```
"""


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
