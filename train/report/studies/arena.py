"""Many arms from one student, ranked by what each gained for the compute it spent: one table, one figure.

For a recipe that names `controls`. Gains are in fully correct solutions, paired by problem with the student before;
leads over a control are paired likewise. Intervals redraw seeds, then problems (`train.statistics.nested_mean`);
p-values come from the same draws and are corrected over all arms of a control (Holm 1979). Evaluations of the same
model on other data than the arm was trained on are out of distribution. Try: `python -m train.report runs/arena`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from train.plotting import BLUE, GREY, KINDS_OF_WORK, ORANGE, CaptionedFigure
from train.report import page
from train.report.estimates import Missing
from train.report.stage_styles import label
from train.runs.results import Experiment, Run, read_json, run_folder_name
from train.statistics import Estimate, nested_draws, nested_mean
from train.tables import NONE, plural

HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo")  # beside the colours, for print
UNIT = 1e12  # FLOPs that a gain is divided by


class Lead(NamedTuple):
    """An arm against a control: points with their interval, and Holm's p over all arms."""

    rate: Estimate
    p: float


class Ranked(NamedTuple):
    """One arm over all seeds that have it; out, gain_out, passes, kl, skill are None or empty if not measured."""

    stage: str
    seeds: int
    full: Estimate
    gain: Estimate
    out: Estimate | None
    gain_out: Estimate | None
    passes: dict[str, float]
    kl: float | None
    length: float
    flops: dict[str, float]
    cpu: float
    skill: float | None
    leads: dict[str, Lead]

    @property
    def spent(self) -> float:
        return sum(self.flops.values())

    @property
    def per_flop(self) -> float:
        """Gain for 1e12 FLOPs; without compute it is 0."""
        return self.gain.value * UNIT / self.spent if self.spent else 0.0


def wanted(experiments: list[Experiment]) -> bool:
    """Whether the recipe asks for a ranking of its arms."""
    return any(e.plan.get("controls") for e in experiments)


def ranked(experiments: list[Experiment]) -> list[Ranked]:
    """Every evaluated arm, most gained per FLOP first. Raises Missing when there is none."""
    arms = list(dict.fromkeys(run.name for e in experiments for run in e.arms()))
    rows = [row for stage in arms if (row := _row(experiments, stage)) is not None]
    if not rows:
        raise Missing("no arm that was evaluated on the same problems as the student before")
    controls = next(e.plan["controls"] for e in experiments if e.plan.get("controls"))
    leads = {control: _leads(experiments, control, [row.stage for row in rows]) for control in controls}
    rows = [row._replace(leads={c: leads[c][row.stage] for c in controls if row.stage in leads[c]}) for row in rows]
    return sorted(rows, key=lambda row: -row.per_flop)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: name -> adjusted p."""
    adjusted, largest = {}, 0.0
    for i, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - i) * p_values[name]))
        adjusted[name] = largest
    return adjusted


def _row(experiments: list[Experiment], stage: str) -> Ranked | None:
    """What is known of one arm; None where no seed has it and its student judged on the same problems."""
    found = [(e, e.runs[stage]) for e in experiments if stage in e.runs]
    found = [(e, run) for e, run in found if _pair(e, run, False) is not None]
    if not found:
        return None
    inside = [_pair(e, run, False) for e, run in found]
    outside = [pair for e, run in found if (pair := _pair(e, run, True)) is not None]
    runs, summaries = [run for _, run in found], [after.summary for after, _ in inside]
    kl = [s["held_out"]["kl"] for s in summaries if "kl" in s.get("held_out", {})]
    at = [s["passes"]["at"] for s in summaries if "passes" in s]
    kinds = dict.fromkeys(kind for run in runs for kind in run.ledger.get("flops", {}))
    skills = [_skill(run) for run in runs if _skill(run) is not None]
    return Ranked(
        stage,
        len(found),
        nested_mean([_right(after) for after, _ in inside]),
        nested_mean([_right(after) - _right(before) for after, before in inside]),
        nested_mean([_right(after) for after, _ in outside]) if outside else None,
        nested_mean([_right(after) - _right(before) for after, before in outside]) if outside else None,
        {k: float(np.mean([one[k]["rate"] for one in at])) for k in list(at[0] if at else {})[::2]},
        float(np.mean(kl)) if kl else None,
        float(np.mean([s["length_mean"] for s in summaries])),
        {kind: float(np.mean([run.ledger["flops"].get(kind, 0.0) for run in runs])) for kind in kinds},
        float(np.mean([run.total("cpu_seconds") for run in runs])),
        float(np.mean(skills)) if skills else None,
        {},
    )


def _leads(experiments: list[Experiment], control: str, stages: Sequence[str]) -> dict[str, Lead]:
    """The arms against one control, on the seeds that have both."""
    rates, p_values = {}, {}
    for stage in (s for s in stages if s != control):
        both = [(e, e.runs[stage], e.runs[control]) for e in experiments if {stage, control} <= e.runs.keys()]
        pairs = [(_evaluation(e, arm), _evaluation(e, against)) for e, arm, against in both]
        pairs = [(a, b) for a, b in pairs if a and b and _problems(a) == _problems(b)]
        if not pairs:
            continue
        value, drawn_D = nested_draws([_right(a) - _right(b) for a, b in pairs])
        low, high = np.quantile(drawn_D, [0.025, 0.975])
        rates[stage] = Estimate(value, float(low), float(high), sum(len(_right(a)) for a, _ in pairs))
        tail = min(np.mean(drawn_D <= 0), np.mean(drawn_D >= 0))
        p_values[stage] = min(1.0, 2 * max(float(tail), 1 / len(drawn_D)))
    adjusted = holm(p_values)
    return {stage: Lead(rate, adjusted[stage]) for stage, rate in rates.items()}


def _pair(experiment: Experiment, arm: Run, outside: bool) -> tuple[Run, Run] | None:
    """The evaluations of an arm and of the student it started from, if both saw the same problems."""
    after = _evaluation(experiment, arm, outside)
    if after is None:
        return None
    student = run_folder_name(str(arm.config.get("student")))
    for run in experiment.of("evaluation"):
        if run_folder_name(str(run.config.get("checkpoint"))) == student and _problems(run) == _problems(after):
            return after, run
    return None


def _evaluation(experiment: Experiment, arm: Run, outside: bool = False) -> Run | None:
    """The first evaluation of an arm on data like those it was trained on, or (`outside`) on others."""
    for run in experiment.of("evaluation"):
        judges = run_folder_name(str(run.config.get("checkpoint"))) == arm.folder.name
        if judges and (_world(run) != _world(arm)) == outside:
            return run
    return None


def _world(run: Run) -> tuple:
    data = run.config.get("data") or {}
    return data.get("preset"), data.get("overrides"), data.get("tokens")


def _problems(evaluation: Run) -> tuple:
    """What tells which problems were judged."""
    data = evaluation.config.get("data") or {}
    index = (evaluation.summary.get("verdicts") or {}).get("index", [])
    return evaluation.manifest.get("data"), data.get("seed"), evaluation.config.get("split"), *index


def _right(evaluation: Run) -> np.ndarray:
    return np.array(evaluation.summary["verdicts"]["right"], dtype=float)


def _skill(run: Run) -> float | None:
    """What the teacher's context adds to the checkpoint's own accuracy, where a method has one."""
    return (read_json(run.folder / "skill.json").get("gain") or {}).get("value")


def table(experiments: list[Experiment]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table, best first."""
    rows = ranked(experiments)
    controls = list(dict.fromkeys(control for row in rows for control in row.leads))
    optional = {
        "out of distribution [95%]": lambda r: _percent(r.out) if r.out else NONE,
        "pass@k": lambda r: ", ".join(f"{k}: {100 * v:.1f}" for k, v in r.passes.items()) or NONE,
        "KL to oracle": lambda r: f"{r.kl:.4f}" if r.kl is not None else NONE,
        "what the context adds": lambda r: _points(r.skill) if r.skill is not None else NONE,
    }
    shown = {name: cell for name, cell in optional.items() if any(cell(row) != NONE for row in rows)}
    head = ["arm", "gain per 1e12 FLOPs", "gain, points [95%]", "fully correct [95%]", *shown, "length", "FLOPs"]
    head += ["CPU s", *(f"against {label(experiments, c)}, points [95%], p" for c in controls), "seeds"]
    cells = [
        [
            label(experiments, row.stage),
            _points(row.per_flop),
            _points(*row.gain[:3]),
            _percent(row.full),
            *(cell(row) for cell in shown.values()),
            f"{row.length:.1f}",
            f"{row.spent:.2e}",
            f"{row.cpu:.0f}",
            *(_against(row.leads.get(control)) for control in controls),
            str(row.seeds),
        ]
        for row in rows
    ]
    return head, cells


def _points(value: float, low: float | None = None, high: float | None = None) -> str:
    return f"{100 * value:+.1f}" + ("" if low is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]")


def _percent(rate: Estimate) -> str:
    return f"{rate.value:.1%} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def _against(lead: Lead | None) -> str:
    return NONE if lead is None else f"{_points(*lead.rate[:3])}, p {'< 0.01' if lead.p < 0.01 else f'{lead.p:.2f}'}"


def section(experiments: list[Experiment]) -> list[str]:
    """The table on the page, and how to read it."""
    head, rows = table(experiments)
    count = len(experiments)
    text = (
        f"Sorted by gain over the student before for 1e12 FLOPs of distillation: generation, teacher and update count. "
        f"{plural(count, 'seed')}; intervals redraw seeds, then problems, and few seeds make them narrow. p is Holm's "
        f"over all {len(rows)} arms. pass@k in percent, from samples at temperature 1."
    )
    return [page.table(head, rows), page.paragraph(text, "soft")]


def markdown(experiments: list[Experiment]) -> str:
    """The same table for a README."""
    head, rows = table(experiments)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def forest(experiments: list[Experiment]) -> CaptionedFigure:
    """Gain of every arm with its interval, in and out of distribution, and what it spent."""
    rows = ranked(experiments)
    kinds = list(dict.fromkeys(kind for row in rows for kind in row.flops))
    figure = Figure(figsize=(7.5, 1.6 + 0.27 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2.2, 1))
    _gains(left, [row.gain for row in rows], 0.0, BLUE, "o", BLUE, "as trained")
    outside = [(i, row.gain_out) for i, row in enumerate(rows) if row.gain_out is not None]
    if outside:
        _gains(
            left,
            [rate for _, rate in outside],
            0.28,
            ORANGE,
            "D",
            "white",
            "out of distribution",
            [i for i, _ in outside],
        )
    left.axvline(0, color="black", lw=0.8)
    for control, style in zip(dict.fromkeys(c for row in rows for c in row.leads), ("--", ":", "-."), strict=False):
        for row in (row for row in rows if row.stage == control):
            left.axvline(100 * row.gain.value, color=GREY, lw=1, ls=style, label=label(experiments, control))
    start = np.zeros(len(rows))
    for i, kind in enumerate(kinds):
        width = np.array([row.flops.get(kind, 0.0) for row in rows])
        look = {
            "color": KINDS_OF_WORK[i % len(KINDS_OF_WORK)],
            "hatch": HATCHES[i % len(HATCHES)],
            "edgecolor": "white",
        }
        right.barh(range(len(rows)), width, left=start, height=0.7, label=kind, lw=0.3, **look)
        start += width
    left.set_yticks(range(len(rows)), [label(experiments, row.stage) for row in rows], fontsize=9)
    left.set(title="gain over the student before, points", ylim=(len(rows) - 0.4, -0.7))
    right.set(title="FLOPs spent")
    for ax in (left, right):
        ax.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8.5)
    sizes = sorted({row.gain.n for row in rows})
    caption = (
        f"Best gain per FLOP first. Fully correct solutions, n = {' or '.join(map(str, sizes))} problems over "
        f"{plural(len(experiments), 'seed')}, paired with the student before; 95% intervals redraw seeds, then "
        "problems. Vertical lines: the controls."
    )
    return CaptionedFigure(figure, "What every arm gained, and what it spent", caption)


def _gains(
    ax: Any,
    rates: list[Estimate],
    shift: float,
    color: str,
    marker: str,
    face: str,
    name: str,
    rows: list[int] | None = None,
) -> None:
    y = np.array(range(len(rates)) if rows is None else rows) + shift
    value = 100 * np.array([rate.value for rate in rates])
    error = 100 * np.array([[max(0.0, r.value - r.low) for r in rates], [max(0.0, r.high - r.value) for r in rates]])
    look = {"color": color, "mfc": face, "marker": marker, "ms": 4.5, "elinewidth": 1.2, "ls": "none"}
    ax.errorbar(value, y, xerr=error, label=name, **look)
