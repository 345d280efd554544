"""task=merge: what lies between a distilled model, a fine-tuned one and where both began? (BAI, 2509.00309)

    python -m probes.run task=merge checkpoint=OPD merge.sft=SFT merge.base=STUDENT

theta = b (a sft + (1 - a) model) + (1 - b) base on a grid of a and b. All three must have grown from the same weights:
others lie in different valleys, and the loss between them shows it. For each: greedy answers to held-out problems
(right, length, cut off), the loss on held-out documents, `barrier`, how much higher that is than the same mixture of
the three models' own losses, and the KL of the distilled model to it along the distilled model's answers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from models.gpt import GPT
from probes.analyses.parts import Parts
from probes.analyses.responses import Written, budget, draw, laws
from probes.analyses.settings import given
from probes.analyses.tables import cell
from probes.runs import CaptionedFigure, ClusterBootstrap, held_out_loss, merge_models
from probes.settings import ProbeConfig
from synth.dataset import Source

NAME = "merge"
DOCUMENTS = 256  # of the held-out loss


def checkpoints(config: ProbeConfig) -> dict[str, str]:
    """The fine-tuned model and where both began."""
    return given(config, NAME, "sft", "base")


def run(config: ProbeConfig, models: Mapping[str, GPT], parts: Parts) -> dict[str, Any]:
    """Table `grid`. Raises ValueError for models of different shapes."""
    c, three = config.merge, [models[name] for name in ("model", "merge.sft", "merge.base")]
    for setting in ("merge.sft", "merge.base"):
        if models[setting].config != models["model"].config:
            raise ValueError(f"{setting}: is no model of the shape of model={config.model}; accepted: one of the same")
    source = config.data.with_context("none").source("test", NAME)
    documents = source.documents(range(c.problems))
    most = budget(models["model"], documents, "model")

    def answers(model: GPT, label: str) -> Written:
        settings = {"samples": 1, "budget": most, "temperature": 0.0, "seed": config.seed}
        return draw(model, documents, source.world, parts, label=label, **settings)

    own = answers(models["model"], "distilled")
    loss = [parts.of(f"loss {i}", lambda m=m: _loss(m, source)) for i, m in enumerate(three)]
    rows, cells = [], [(a, b) for b in c.weights for a in c.weights if b > 0 or a == c.weights[0]]
    for a, b in tqdm(cells, desc="grid", unit=" models", disable=None):
        share = (b * (1 - a), b * a, 1 - b)
        distilled, sft, base = three
        model = merge_models(merge_models(sft, distilled, a), base, b)
        written = answers(model, f"a={a:g} b={b:g}")
        found = parts.of(f"a={a:g} b={b:g}", lambda model=model: [_loss(model, source), _kl(three[0], model, own)])
        draws = ClusterBootstrap(written.row)
        row = {"a": a, "b": b, "right": cell(draws.rate(written.verdicts.right))}
        row |= {"length": cell(draws.ratio(written.lengths.astype(float))), "cut_off": cell(draws.rate(~written.ended))}
        barrier = found[0] - float(np.dot(share, loss))
        rows.append(row | {"loss": found[0], "barrier": barrier, "kl_from_distilled": found[1]})
    note = f"{c.problems} problems, greedy; theta = b (a sft + (1-a) distilled) + (1-b) base; b = 0 is the base alone"
    return {"tables": {"grid": rows}, "notes": [note]}


def _loss(model: GPT, source: Source) -> float:
    return held_out_loss(model, source, range(DOCUMENTS))["loss"]


def _kl(distilled: GPT, model: GPT, written: Written) -> float:
    """Mean KL of the distilled model to the other, nats a token of the distilled one's answers."""
    prompts = written.prompts()
    of_distilled = dict(laws(distilled, prompts, written.responses))
    total, tokens = 0.0, 0
    for n, q_RV in laws(model, prompts, written.responses):
        p_RV = of_distilled.pop(n)
        total, tokens = total + float((p_RV.exp() * (p_RV - q_RV)).sum()), tokens + len(p_RV)
    return total / tokens


def figure(summary: Mapping[str, Any]) -> CaptionedFigure:
    """Maps of right answers, length and barrier over a and b."""
    rows = [row for row in summary["tables"]["grid"] if row["b"] > 0]
    a, b = (sorted({row[name] for row in rows}) for name in ("a", "b"))
    drawn = Figure(figsize=(10.5, 3.6), layout="constrained")
    panels = {
        "right": lambda row: row["right"]["value"],
        "length": lambda row: row["length"]["value"],
        "barrier, nats": lambda row: row["barrier"],
    }
    for ax, (name, value) in zip(drawn.subplots(1, 3), panels.items(), strict=True):
        grid = np.full((len(b), len(a)), np.nan)
        for row in rows:
            grid[b.index(row["b"]), a.index(row["a"])] = value(row)
        image = ax.imshow(grid, origin="lower", cmap="cividis", aspect="auto")
        for (i, j), number in np.ndenumerate(grid):
            ax.text(
                j,
                i,
                f"{number:.2f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if number < np.nanmean(grid) else "black",
            )
        ax.set_xticks(range(len(a)), [f"{x:g}" for x in a])
        ax.set_yticks(range(len(b)), [f"{x:g}" for x in b])
        ax.set(title=name, xlabel="a: share of the fine-tuned", ylabel="b: share of the two")
        ax.grid(False)
        drawn.colorbar(image, ax=ax)
    n = rows[0]["right"]["n"] if rows else 0
    caption = f"1 - b is the share of the base. Greedy answers to {n} held-out problems; intervals in tables/grid.csv."
    return CaptionedFigure(drawn, "Between a distilled model, a fine-tuned one and their base", caption)
