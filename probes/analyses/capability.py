"""task=capability: did a model become more accurate, or able to do more? (2505.14216; pass@k of Chen et al. 2021)

    python -m probes.run task=capability checkpoint=OPD capability.before=STUDENT

Both models answer each held-out problem n times. Where c answers are right, accuracy is the mean of c / n, and
capability at k (pass@k) the mean of 1 - C(n-c, k) / C(n, k), an unbiased estimate of the chance that at least one of k
answers is right. A problem is out of reach when none of the n is right; its rate is then below 1 - 0.05^(1/n) with 95%
confidence. Table `transitions` puts problems into bins by their rate before, and shows the rates of each bin before and
after. Bins come from the even draws and rates from the odd ones: with the same draws for both, a bin of low rates holds
problems with bad luck, and their return to the mean would look like a gain.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from matplotlib.figure import Figure

from probes.analyses.responses import response_budget, sample_responses
from probes.runs import BLUE, GREY, CaptionedFigure, ClusterBootstrap, ResumeLog, pass_at_k
from probes.settings import ProbeConfig
from probes.tables import Rows, cells, percent_axis, plot_bars, plot_intervals
from probes.tasks.task import Models, Summary, task_of
from synth.problem.arrays import DIFFERENCE, MULTIPLY, Problems
from synth.ranges import AboveZero, BadSetting, Filled, Positive, settings

BINS = ("none", "to 25%", "to 50%", "to 75%", "below all", "all")


@settings
class Settings:
    """`model` is the model after, `before` what it was made from. `k`: of pass@k, at most `samples`."""

    before: str | None = None  # the model before distillation
    problems: Positive = 200  # how many
    samples: Positive = 32  # of each problem, for pass@k
    temperature: AboveZero = 1.0  # of the samples
    k: Annotated[tuple[int, ...], Filled] = (1, 4, 32)

    def __post_init__(self) -> None:
        if not all(1 <= k <= self.samples for k in self.k):
            raise BadSetting(f"k={list(self.k)}: accepted: a list of numbers from 1 to {self.samples}")


def run(config: ProbeConfig, c: Settings, models: Models, log: ResumeLog) -> dict[str, Any]:
    """Tables `accuracy` and `transitions`."""
    source = config.data.source("test", "capability")
    documents = source.documents(range(c.problems))
    right_PN = {}
    for name, setting in (("before", "capability.before"), ("after", "model")):
        budget, draws = response_budget(models[setting], documents, setting), (c.samples, c.temperature)
        responses = sample_responses(models[setting], documents, source.world, log, name, budget, config.seed, *draws)
        right_PN[name] = responses.verdicts.right.reshape(c.problems, c.samples)
    ops = documents.problems.ops
    groups = {"all": np.ones(len(ops), dtype=bool)} | {str(k): ops == k for k in np.unique(ops)}
    groups |= by_operation(documents.problems)
    accuracy = [{"ops": name} | row for name, among in groups.items() for row in gains(right_PN, among, c.k)]
    bound = 1 - 0.05 ** (1 / c.samples)
    asked = f"{c.problems} problems, {c.samples} answers each at temperature {c.temperature:g}"
    notes = [f"{asked}; out of reach: none of them right, so a rate below {bound:.3f} (95%)"]
    return {"tables": {"accuracy": accuracy, "transitions": transitions(right_PN)}, "notes": notes}


def by_operation(problems: Problems) -> dict[str, np.ndarray]:
    """Problems whose solution multiplies, subtracts, or does neither, bool[P] each: what a world can withhold."""
    needed_PX = problems.needed > 0
    two_factors_PX = (problems.terms[..., 1] >= 0).any(-1)  # of an abstract parameter
    product = (((problems.constant_op == MULTIPLY) | two_factors_PX) & needed_PX).any(1)
    difference = ((problems.combine == DIFFERENCE) & needed_PX).any(1)
    found = {"with products": product, "with differences": difference, "with neither": ~(product | difference)}
    return {name: among for name, among in found.items() if among.any()}


def gains(right_PN: Mapping[str, np.ndarray], among: np.ndarray, ks: tuple[int, ...]) -> Rows:
    """A row each for accuracy, capability at every k and what is out of reach: before, after and the difference."""
    n = right_PN["before"].shape[1]
    count = {name: right[among].sum(1) for name, right in right_PN.items()}
    measures = {"accuracy": lambda c: c / n} | {f"pass@{k}": lambda c, k=k: pass_at_k(c, n, k) for k in ks}
    measures["out of reach"] = lambda c: (c == 0).astype(float)
    bootstrap, rows = ClusterBootstrap(np.arange(int(among.sum()))), []
    for name, measure in measures.items():
        before, after = measure(count["before"]), measure(count["after"])
        found = {"before": before, "after": after, "gain": after - before}
        estimates = {c: bootstrap.ratio(value, within=(-1 if c == "gain" else 0, 1)) for c, value in found.items()}
        if name == "out of reach":  # yes or no for each problem: where all are alike, a bootstrap has no width
            estimates |= {"before": bootstrap.rate(before > 0), "after": bootstrap.rate(after > 0)}
        rows.append({"measure": name} | cells(estimates))
    return rows


def bin_of(right: np.ndarray, n: int) -> np.ndarray:
    """Index into BINS of c right out of n."""
    between = 1 + np.minimum(3, np.ceil(4 * right / n) - 1)
    return np.select([right == 0, right == n], [0, len(BINS) - 1], between).astype(int)


def transitions(right_PN: Mapping[str, np.ndarray]) -> Rows:
    """For each bin of the rate before: mean rate before and after, and how many problems end in each bin."""
    even, odd = slice(0, None, 2), slice(1, None, 2)
    before, after = right_PN["before"], right_PN["after"]
    if before.shape[1] < 2:
        return []
    first = bin_of(before[:, even].sum(1), before[:, even].shape[1])
    last = bin_of(after[:, odd].sum(1), after[:, odd].shape[1])
    rows = []
    for k, name in enumerate(BINS):
        inside = first == k
        bootstrap = ClusterBootstrap(np.flatnonzero(inside))
        rates = {"before": before[inside][:, odd].mean(1), "after": after[inside][:, odd].mean(1)}
        rates["gain"] = rates["after"] - rates["before"]
        row = {"right_before": name, "problems": int(inside.sum())}
        row |= cells({column: bootstrap.ratio(value) for column, value in rates.items()})
        rows.append(row | {f"to {end}": int((last[inside] == j).sum()) for j, end in enumerate(BINS)})
    return rows


def figure(summary: Summary) -> CaptionedFigure:
    """pass@k before and after, and the gain for each bin of difficulty."""
    drawn = Figure(figsize=(9.6, 3.8), layout="constrained")
    curves, moves = drawn.subplots(1, 2)
    rows = [r for r in summary["tables"]["accuracy"] if r["ops"] == "all" and r["measure"].startswith("pass@")]
    rows = [row | {"k": int(row["measure"].removeprefix("pass@"))} for row in rows]
    for column, color, marker in (("before", GREY, "s"), ("after", BLUE, "o")):
        plot_intervals(curves, rows, "k", column, color=color, marker=marker, label=column)
    n = f", n = {rows[0]['before']['n']}" if rows else ""
    curves.set(title=f"pass@k{n}", xlabel="k", ylim=(-0.03, 1.03), xscale="log")
    curves.set_xticks([row["k"] for row in rows], [str(row["k"]) for row in rows], minor=False)
    curves.legend()
    rows = [row for row in summary["tables"]["transitions"] if row["problems"]]
    names = [f"{row['right_before']}\nn={row['problems']}" for row in rows]
    plot_bars(moves, [row["gain"] for row in rows], names, color=BLUE)
    moves.axhline(0, color="black", lw=1)
    moves.set(title="gain in success rate, by rate before")
    percent_axis(curves, moves)
    caption = "95% bootstrap intervals over problems. Bins are made of the even draws, rates of the odd ones."
    return CaptionedFigure(drawn, "Accuracy and capability, before and after", caption)


TASK = task_of("capability", Settings, run, figure, needs=("before",))
