"""task=merge: what lies between a distilled model, a fine-tuned one and where both began? (BAI, 2509.00309)

    python -m probes.run task=merge checkpoint=OPD merge.sft=SFT merge.base=STUDENT

theta = b (a sft + (1 - a) model) + (1 - b) base on a grid of a and b. All three must have grown from the same weights:
others lie in different valleys, and the loss between them shows it. For each: greedy answers to held-out problems
(right, length, cut off), the loss on held-out documents, `barrier`, how much higher that is than the same mixture of
the three models' own losses, and the KL of the distilled model to it along the distilled model's answers.
"""

from typing import Annotated, Any

import numpy as np
from matplotlib.figure import Figure

from models.gpt import GPT
from probes.analyses.responses import Responses, next_token_logprobs, response_budget, sample_responses
from probes.runs import CaptionedFigure, ClusterBootstrap, ResumeLog, held_out_loss, merge_models
from probes.settings import ProbeConfig
from probes.tables import cells
from probes.tasks.task import Models, Summary, task_of
from synth.dataset import Source
from synth.kernel.progress import Progress
from synth.ranges import Filled, Positive, Share, settings

DOCUMENTS = 256  # of the held-out loss


@settings
class Settings:
    """Weights b (a sft + (1-a) model) + (1-b) base, for a, b in `weights`; `model` is the distilled one."""

    sft: str | None = None  # the model tuned on solutions
    base: str | None = None  # the model both come from
    weights: Annotated[tuple[Share, ...], Filled] = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the mixtures
    problems: Positive = 300  # how many


def run(config: ProbeConfig, c: Settings, models: Models, log: ResumeLog) -> dict[str, Any]:
    """Table `grid`. Raises ValueError for models of different shapes."""
    distilled, sft, base = three = [models[name] for name in ("model", "merge.sft", "merge.base")]
    for setting in ("merge.sft", "merge.base"):
        if models[setting].config != distilled.config:
            raise ValueError(f"{setting}: is no model of the shape of model={config.model}; accepted: one of the same")
    source = config.data.with_context("none").source("test", "merge")
    documents = source.documents(range(c.problems))
    budget = response_budget(distilled, documents, "model")

    def answers(model: GPT, label: str) -> Responses:
        return sample_responses(model, documents, source.world, log, label, budget, config.seed)

    own = answers(distilled, "distilled")
    loss = [log.once(f"loss {i}", lambda m=model: _loss(m, source)) for i, model in enumerate(three)]
    rows, grid = [], [(a, b) for b in c.weights for a in c.weights if b > 0 or a == c.weights[0]]
    for a, b in Progress(grid, desc="grid", unit=" models"):
        model = merge_models(merge_models(sft, distilled, a), base, b)
        found = answers(model, f"a={a:g} b={b:g}")
        own_loss, kl = log.once(f"a={a:g} b={b:g}", lambda m=model: [_loss(m, source), _kl(distilled, m, own)])
        bootstrap = ClusterBootstrap(found.row)
        measured = {"right": bootstrap.rate(found.verdicts.right)}
        measured |= {"length": bootstrap.ratio(found.lengths.astype(float)), "cut_off": bootstrap.rate(~found.ended)}
        barrier = own_loss - float(np.dot((b * (1 - a), b * a, 1 - b), loss))
        losses = {"loss": own_loss, "barrier": barrier, "kl_from_distilled": kl}
        rows.append({"a": a, "b": b} | cells(measured) | losses)
    note = f"{c.problems} problems, greedy; theta = b (a sft + (1-a) distilled) + (1-b) base; b = 0 is the base alone"
    return {"tables": {"grid": rows}, "notes": [note]}


def _loss(model: GPT, source: Source) -> float:
    return held_out_loss(model, source, range(DOCUMENTS))["loss"]


def _kl(distilled: GPT, model: GPT, responses: Responses) -> float:
    """Mean KL of the distilled model to the other, nats a token of the distilled one's answers."""
    prompts = responses.prompts()
    of_distilled = dict(next_token_logprobs(distilled, prompts, responses.tokens))
    total, tokens = 0.0, 0
    for n, q_RV in next_token_logprobs(model, prompts, responses.tokens):
        p_RV = of_distilled.pop(n)
        total, tokens = total + float((p_RV.exp() * (p_RV - q_RV)).sum()), tokens + len(p_RV)
    return total / tokens


def figure(summary: Summary) -> CaptionedFigure:
    """Maps of right answers, length and barrier over a and b."""
    rows = [row for row in summary["tables"]["grid"] if row["b"] > 0]
    a, b = (sorted({row[name] for row in rows}) for name in ("a", "b"))
    drawn = Figure(figsize=(10.5, 3.6), layout="constrained")
    values = [(row["right"]["value"], row["length"]["value"], row["barrier"]) for row in rows]
    for k, (ax, name) in enumerate(zip(drawn.subplots(1, 3), ("right", "length", "barrier, nats"), strict=True)):
        grid = np.full((len(b), len(a)), np.nan)
        for row, value in zip(rows, values, strict=True):
            grid[b.index(row["b"]), a.index(row["a"])] = value[k]
        image = ax.imshow(grid, origin="lower", cmap="cividis", aspect="auto")
        for (i, j), number in np.ndenumerate(grid):
            color = "white" if number < np.nanmean(grid) else "black"
            ax.text(j, i, f"{number:.2f}", ha="center", va="center", fontsize=8, color=color)
        ax.set_xticks(range(len(a)), [f"{x:g}" for x in a])
        ax.set_yticks(range(len(b)), [f"{x:g}" for x in b])
        ax.set(title=name, xlabel="a: share of the fine-tuned", ylabel="b: share of the two")
        ax.grid(False)
        drawn.colorbar(image, ax=ax)
    n = rows[0]["right"]["n"] if rows else 0
    caption = f"1 - b is the share of the base. Greedy answers to {n} held-out problems; intervals in tables/grid.csv."
    return CaptionedFigure(drawn, "Between a distilled model, a fine-tuned one and their base", caption)


TASK = task_of("merge", Settings, run, figure, needs=("sft", "base"))
