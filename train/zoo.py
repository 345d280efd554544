"""The model zoo: small trained models that come with the code. `zoo/NAME` can be given wherever a checkpoint can.

    python -m train.zoo                                           # lists it; every hash is checked
    python -m train.evaluate checkpoint=zoo/tiny-teacher-0 data=tiny
    python -m train.zoo name=NAME run=RUN evaluation=EVALUATION   # adds a finished run, with its card

A model of the zoo is a training run's folder without the optimiser's moments: config, manifest, a thinned log, ledger,
summary, the weights, and README.md, its card: recipe, seeds, curve, accuracy by operations, hashes.
"""

if __name__ == "__main__":  # before torch is imported
    from train.config.early import early

    early("zoo")

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synth.store.files import as_record, atomic_path, atomic_write, read_json, sha256, write_json, write_json_lines
from train.config.compose import run_entry
from train.core import checkpoint, zoo_paths
from train.runs import sha256sums
from train.runs.results import Run, counts
from train.statistics import wilson
from train.tables import Table, format_interval

MOST = 25_000_000  # bytes of weights in all
EVERY = 20  # of the log's lines without an evaluation, one in this many is kept
COPIED = ("config.yaml", "ledger.json", "summary.json")


@dataclass(frozen=True)
class ZooConfig:
    """Settings of the command. Without a name it lists the zoo."""

    name: str | None = None  # of the model
    run: str | None = None  # the run folder it comes from
    evaluation: str | None = None  # the run folder of its evaluation
    about: str = ""  # a sentence for its card

    def __post_init__(self) -> None:
        given = [self.name, self.run, self.evaluation]
        if any(given) and not all(given):
            raise ValueError("name, run, evaluation: go together; accepted: all of them, or none to list the zoo")
        if self.name and not self.name.replace("-", "").isalnum():
            raise ValueError(f"name={self.name}: accepted: letters, digits and -")


def main(config: ZooConfig) -> None:
    """Lists the zoo, or adds a model to it."""
    if config.name and config.run and config.evaluation:
        add(config, config.name, config.run, config.evaluation)
    head = ["name", "weights", "tokens", "fully correct [95%]", "in a sentence"]
    print(Table(head, map(row, zoo_paths.names())).text("lrrl"))


def row(name: str) -> list[str]:
    """A model's row of the list. Raises ValueError when its files have changed."""
    step = checkpoint.find(f"zoo/{name}")
    folder = step.parent.parent
    sha256sums.check(folder)
    if checkpoint.latest(folder) != step:
        raise ValueError(f"zoo/{name}: its files are not the ones that were put there; accepted: a fresh checkout")
    card = as_record(folder / "card.json", read_json(folder / "card.json"))
    right, n = card["right"], card["n"]
    rate = f"{format_interval(wilson(right, n))} n={n}"
    return [name, f"{card['parameters']:,}", f"{card['tokens'] / 1e6:.1f}M", rate, card["about"]]


def add(config: ZooConfig, name: str, path: str, judged_by: str) -> Path:
    """Copies a run into the zoo with its card. Raises ValueError, with nothing written, when it is not accepted."""
    step = checkpoint.find(path, "run")
    run, evaluation = Run(step.parent.parent), Run(Path(judged_by))
    if not run.complete or run.kind not in ("training", "distillation"):
        raise ValueError(f"run={config.run}: accepted: a finished run of train.pretrain or train.opd.run")
    judged = evaluation.manifest.get("inputs", {}).values()
    done = evaluation.kind == "evaluation" and evaluation.complete
    if not done or checkpoint.weights_digest(run.folder) not in judged:
        raise ValueError(f"evaluation={config.evaluation}: accepted: a finished train.evaluate of run={config.run}")
    target = zoo_paths.ZOO / name
    size = (step / checkpoint.MODEL_FILES[0]).stat().st_size
    others = [p for p in zoo_paths.ZOO.glob("*/checkpoints/*/model.safetensors") if target not in p.parents]
    total = size + sum(p.stat().st_size for p in others)
    if total > MOST:
        raise ValueError(f"run={config.run}: the zoo would hold {total:,} bytes; accepted: at most {MOST:,}")
    with atomic_path(target) as temporary:
        _write(temporary, step, run, evaluation, config)
        shutil.rmtree(target, ignore_errors=True)
    return target


def _write(folder: Path, step: Path, run: Run, evaluation: Run, config: ZooConfig) -> None:
    saved = folder / "checkpoints" / step.name
    saved.mkdir(parents=True)
    for name in checkpoint.MODEL_FILES:
        shutil.copyfile(step / name, saved / name)
    hashes = {name: sha256(saved / name) for name in checkpoint.MODEL_FILES}
    index = {"step": int(step.name.split("-")[1]), "path": f"checkpoints/{step.name}", "sha256": hashes}
    write_json_lines(folder / checkpoint.INDEX, [index])
    for name in COPIED:
        shutil.copyfile(run.folder / name, folder / name)
    write_json(folder / "manifest.json", {k: v for k, v in run.manifest.items() if k != "resumed"})
    log = [row for i, row in enumerate(run.metrics) if i % EVERY == 0 or "kl_to_oracle" in row]
    write_json_lines(folder / "metrics.jsonl", log)
    card = card_of(run, evaluation, hashes, config)
    write_json(folder / "card.json", card)
    atomic_write(folder / "README.md", page(str(config.name), card))
    sha256sums.write(folder, sha256sums.of_files(folder, unlisted=()))


def card_of(run: Run, evaluation: Run, hashes: dict[str, str], config: ZooConfig) -> dict[str, Any]:
    """What the card says, as JSON."""
    by_ops = [{key: row[key] for key in ("ops", "right", "n")} for row in evaluation.summary["by_ops"]]
    rows = [row for row in run.metrics if "kl_to_oracle" in row]
    command = [word for word in evaluation.manifest["command"] if "out." not in word]
    right, n = counts(evaluation)
    card = {"about": config.about, "command": run.manifest["command"], "commit": run.manifest.get("commit")}
    card |= {"seeds": run.manifest.get("seeds"), "data": {"preset": run.config["data"]["preset"]}}
    card["data"]["overrides"] = run.config["data"].get("overrides") or {}
    card |= {key: run.summary[key] for key in ("parameters", "steps", "tokens", "flops")}
    return card | {
        "right": right,
        "n": n,
        "by_ops": by_ops,
        "evaluation": [f"checkpoint=zoo/{config.name}" if w.startswith("checkpoint=") else w for w in command],
        "curve": [[row["tokens"], round(row["kl_to_oracle"], 5), row["eval_full"]] for row in rows],
        "sha256": hashes,
    }


def page(name: str, card: dict[str, Any]) -> str:
    """The card as Markdown."""
    rows = [[str(row["ops"]), f"{row['right'] / row['n']:.1%}", str(row["n"])] for row in card["by_ops"]]
    by_ops = Table(["operations", "fully correct", "n"], rows).markdown()
    rows = [[f"{tokens / 1e6:.2f}M", f"{kl:.4f}", f"{full:.1%}"] for tokens, kl, full in thinned(card["curve"])]
    curve = Table(["tokens", "KL to oracle, nats a token", "fully correct"], rows).markdown()
    rate = format_interval(wilson(card["right"], card["n"]))
    hashes = "\n".join(f"    {value}  {file}" for file, value in card["sha256"].items())
    template = Path(__file__).with_name("templates").joinpath("zoo_card.md").read_text(encoding="utf-8")
    text = {key: " ".join(card[key]) for key in ("command", "evaluation")}
    return template.format(**card | text, name=name, rate=rate, table=by_ops, points=curve, files=hashes)


def thinned(rows: list[Any]) -> list[Any]:
    """At most twelve of the rows, evenly, the first and the last among them."""
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(12, len(rows))).round().astype(int)]


if __name__ == "__main__":
    sys.exit(run_entry("zoo", ZooConfig, main, __doc__ or ""))
