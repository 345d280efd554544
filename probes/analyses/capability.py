"""task=capability: did a model become more accurate, or able to do more? (2505.14216; pass@k of Chen et al. 2021)

    python -m probes.run task=capability checkpoint=OPD capability.before=STUDENT

Both models answer each held-out problem many times. c of n right: accuracy is the mean of c / n, capability at k the
mean of 1 - C(n-c, k) / C(n, k), the unbiased chance that one of k is right. Then how the success rates of single
problems move from before to after, by bins of the rate before; a problem is out of reach when none of n is right, and
its rate then below 1 - 0.05^(1/n) with 95% confidence. To estimate and to bin by the same draws would show a return to
the mean as a gain, so the bins come from the even draws and the rates before and after from the odd ones.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from models.gpt import GPT
from probes.analyses.parts import Parts
from probes.analyses.responses import budget, draw
from probes.analyses.settings import given
from probes.analyses.tables import cell, rate_of
from probes.runs import BLUE, GREY, CaptionedFigure, ClusterBootstrap, Estimate, error_bars, pass_at_k
from probes.settings import ProbeConfig
from synth.problem.arrays import DIFFERENCE, MULTIPLY, Problems

NAME = "capability"
BINS = ("none", "to 25%", "to 50%", "to 75%", "below all", "all")


def checkpoints(config: ProbeConfig) -> dict[str, str]:
    """The model before."""
    return given(config, NAME, "before")


def run(config: ProbeConfig, models: Mapping[str, GPT], parts: Parts) -> dict[str, Any]:
    """Tables `accuracy` and `transitions`."""
    c = config.capability
    source = config.data.source("test", NAME)
    documents = source.documents(range(c.problems))
    right_PN = {}
    for name, setting in (("before", "capability.before"), ("after", "model")):
        most = budget(models[setting], documents, setting)
        settings = {"samples": c.samples, "budget": most, "temperature": c.temperature, "seed": config.seed}
        written = draw(models[setting], documents, source.world, parts, label=name, **settings)
        right_PN[name] = written.verdicts.right.reshape(c.problems, c.samples)
    ops = documents.problems.ops
    groups = {"all": np.ones(len(ops), dtype=bool)} | {str(k): ops == k for k in np.unique(ops)}
    groups |= needing(documents.problems)
    accuracy = [{"ops": name} | row for name, of in groups.items() for row in gains(right_PN, of, c.k)]
    bound = 1 - 0.05 ** (1 / c.samples)
    return {
        "tables": {"accuracy": accuracy, "transitions": transitions(right_PN)},
        "notes": [
            f"{c.problems} problems, {c.samples} answers each at temperature {c.temperature:g}; out of reach: none of "
            f"them right, so a rate below {bound:.3f} (95%)"
        ],
    }


def needing(problems: Problems) -> dict[str, np.ndarray]:
    """Problems whose solution multiplies, subtracts, or does neither, bool[P] each: what a world can withhold."""
    needed_PX = problems.needed > 0
    two_factors_PX = (problems.terms[..., 1] >= 0).any(-1)  # of an abstract parameter
    product = (((problems.constant_op == MULTIPLY) | two_factors_PX) & needed_PX).any(1)
    difference = ((problems.combine == DIFFERENCE) & needed_PX).any(1)
    found = {"with products": product, "with differences": difference, "with neither": ~(product | difference)}
    return {name: of for name, of in found.items() if of.any()}


def gains(right_PN: Mapping[str, np.ndarray], of: np.ndarray, ks: tuple[int, ...]) -> list[dict[str, Any]]:
    """A row each for accuracy, capability at every k and what is out of reach: before, after and the difference."""
    n = right_PN["before"].shape[1]
    count = {name: right[of].sum(1) for name, right in right_PN.items()}
    measures = {"accuracy": lambda c: c / n} | {f"pass@{k}": lambda c, k=k: pass_at_k(c, n, k) for k in ks}
    measures["out of reach"] = lambda c: (c == 0).astype(float)
    draws, rows = ClusterBootstrap(np.arange(int(of.sum()))), []
    for name, measure in measures.items():
        before, after = measure(count["before"]), measure(count["after"])
        values = {"before": before, "after": after, "gain": after - before}
        rates = {what: draws.ratio(value, within=(-1 if what == "gain" else 0, 1)) for what, value in values.items()}
        if name == "out of reach":  # yes or no: where all are alike the interval is not of no width
            rates |= {"before": draws.rate(before > 0), "after": draws.rate(after > 0)}
        rows.append({"measure": name} | {what: cell(rate) for what, rate in rates.items()})
    return rows


def bin_of(right: np.ndarray, n: int) -> np.ndarray:
    """Index into BINS of c right out of n."""
    share = right / n
    return np.select([right == 0, right == n], [0, len(BINS) - 1], 1 + np.minimum(3, np.ceil(4 * share) - 1)).astype(
        int
    )


def transitions(right_PN: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """For each bin of the rate before: mean rate before and after, and how many problems end in each bin."""
    even, odd = slice(0, None, 2), slice(1, None, 2)
    before, after = right_PN["before"], right_PN["after"]
    if before.shape[1] < 2:
        return []
    first = bin_of(before[:, even].sum(1), before[:, even].shape[1])
    last = bin_of(after[:, odd].sum(1), after[:, odd].shape[1])
    rows = []
    for k, name in enumerate(BINS):
        mine = first == k
        draws = ClusterBootstrap(np.flatnonzero(mine))
        rates = {"before": before[mine][:, odd].mean(1), "after": after[mine][:, odd].mean(1)}
        rates["gain"] = rates["after"] - rates["before"]
        row = {"right_before": name, "problems": int(mine.sum())}
        row |= {what: cell(draws.ratio(value)) for what, value in rates.items()}
        rows.append(row | {f"to {end}": int((last[mine] == j).sum()) for j, end in enumerate(BINS)})
    return rows


def figure(summary: Mapping[str, Any]) -> CaptionedFigure:
    """pass@k before and after, and the gain for each bin of difficulty."""
    drawn = Figure(figsize=(9.6, 3.8), layout="constrained")
    curves, moves = drawn.subplots(1, 2)
    rows = [r for r in summary["tables"]["accuracy"] if r["ops"] == "all" and r["measure"].startswith("pass@")]
    for what, color, marker in (("before", GREY, "s"), ("after", BLUE, "o")):
        value, error = error_bars([rate_of(row[what]) for row in rows])
        curves.errorbar([int(r["measure"][5:]) for r in rows], value, error, color=color, marker=marker, label=what)
    n = f", n = {rows[0]['before']['n']}" if rows else ""
    curves.set(title=f"pass@k{n}", xlabel="k", ylim=(-0.03, 1.03), xscale="log")
    curves.set_xticks([int(r["measure"][5:]) for r in rows], [r["measure"][5:] for r in rows], minor=False)
    curves.legend()
    rows = [row for row in summary["tables"]["transitions"] if row["problems"]]
    rates: list[Estimate] = [rate_of(row["gain"]) for row in rows]
    value, error = error_bars(rates)
    if rows:
        moves.bar(range(len(rows)), value, yerr=error, color=BLUE, ecolor="black", width=0.7)
    moves.set_xticks(range(len(rows)), [f"{r['right_before']}\nn={r['problems']}" for r in rows], fontsize=9)
    moves.axhline(0, color="black", lw=1)
    moves.set(title="gain in success rate, by rate before")
    for ax in (curves, moves):
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    caption = "95% bootstrap intervals over problems. Bins are made of the even draws, rates of the odd ones."
    return CaptionedFigure(drawn, "Accuracy and capability, before and after", caption)
