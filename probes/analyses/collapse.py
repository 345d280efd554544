"""task=collapse: what fades inside a model while its distillation collapses, and does it cause what one sees?

    python -m probes.run task=collapse checkpoint=runs/collapse/opd-1a2b3c4d

reads the checkpoints of a run that kept them (`out.keep=0 out.save_every=10`), and as step 0 the student that it began
from. At each: linear probes of `known`, `value`, `nece_next` and `done` at every layer, fitted anew (`own`: is it still
there?) and as fitted at step 0 (`frozen`: is it still where it was?), and greedy answers: length, cut off, looping,
right. Table `order` says when each state is first clearly lower than at step 0 (95%, paired by query) and when half of
its margin over the most frequent label is gone, beside the step at which length, cut-off and repetition depart from
their start in the run's own log. Last, steering along `done` while the first and the last checkpoint write: does it
make answers end, or go on? (`probes.analyses.state_steering`)
"""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.gpt import GPT
from probes import runs
from probes.analyses import state_steering as states
from probes.analyses.responses import Responses, response_budget, sample_responses
from probes.analyses.state_steering import DIRECTION, DONE, NOTHING, RANDOM, STATES, rates
from probes.readout.activations import RESIDUAL, chosen_sites, layer_of
from probes.readout.controls import majority, random_weights
from probes.runs import BLUE, CYCLE, GREY, CaptionedFigure, ClusterBootstrap, ResumeLog, checkpoint, zoo_paths
from probes.settings import ProbeConfig
from probes.tables import Row, Rows, cells, percent_axis, plot_intervals
from probes.tasks.task import Models, Summary, task_of
from synth.kernel.progress import Progress
from synth.ranges import BadSetting, Count, Filled, OneOf, Positive, settings


@settings
class Settings:
    """`model` is the run folder of a distillation that kept its checkpoints (`out.keep=0`).

    `states`: what is read at each checkpoint. `most`: checkpoints that are read, evenly spread, the first and the last
    among them (0: all).

    `strengths`: of steering along `done`, in standard deviations of the hidden states along it; `random`: directions of
    equal norm beside it. `problems` that are answered at each checkpoint and while it is steered.
    """

    states: Annotated[tuple[Annotated[str, OneOf(*STATES)], ...], Filled] = STATES
    most: Count = 6
    strengths: Annotated[tuple[float, ...], Filled] = (-8.0, -4.0, 4.0, 8.0)
    random: Positive = 3
    problems: Positive = 100  # how many

    def __post_init__(self) -> None:
        if self.most == 1:
            raise BadSetting("most=1: accepted: 0 (all), or 2 or more")
        if 0 in self.strengths:
            raise BadSetting(f"strengths={list(self.strengths)}: accepted: a list of numbers other than 0")


def check(config: ProbeConfig) -> None:
    """Raises ValueError for a model that is not a run folder."""
    if not (Path(config.model) / checkpoint.INDEX).is_file():
        raise ValueError(
            f"model={config.model}: task=collapse reads the checkpoints of a run; accepted: a run folder that kept them"
        )


def checkpoints_of(run: Path, most: int) -> dict[int, Path]:
    """Step -> checkpoint, in order: the student as step 0 where it is still there, then those that the run kept."""
    config = runs.Run(run).config
    found = {}
    if config.get("student"):
        with suppress(ValueError):  # a model that the zoo no longer has
            found[0] = zoo_paths.expand(config["student"], "student")
    found |= {line["step"]: run / line["path"] for line in checkpoint.index_lines(run)}
    steps = sorted(step for step, path in found.items() if path.exists())
    if len(steps) < 2:
        raise ValueError(f"model={run}: has {len(steps)} checkpoints; accepted: two or more, of a run with out.keep=0")
    chosen = np.unique(np.linspace(0, len(steps) - 1, most).round().astype(int)) if most else range(len(steps))
    return {steps[i]: found[steps[i]] for i in chosen}


def run(config: ProbeConfig, c: Settings, models: Models, log: ResumeLog) -> dict[str, Any]:
    """Tables `probes`, `behaviour`, `order`, `layers` and `push`."""
    device = str(models["model"].embed.weight.device)
    paths = checkpoints_of(Path(config.model), c.most)
    model = {step: checkpoint.load_model(path, "model", device) for step, path in paths.items()}
    source = config.data.with_context("none").source("test", "collapse")
    documents = source.documents(range(c.problems))
    budget = min(response_budget(m, documents, "model") for m in model.values())

    def answers(step: int, label: str) -> Responses:
        return sample_responses(model[step], documents, source.world, log, f"step {step}{label}", budget, config.seed)

    rows = []
    for name in Progress(c.states, desc="states", unit=" states"):
        rows += log.once(f"state {name}", lambda name=name: probe_rows(name, config, model))
    behaviour = [{"step": step} | rates(answers(step, "")) for step in model]
    steered, note = [], "no push: `done` is not among collapse.states"
    if DONE in c.states:
        site, layer = _site(rows, model[min(model)])
        note = f"pushes behind block {layer - 1}, in standard deviations of the states along `done` at each checkpoint"
        for step in (min(model), max(model)):
            direction, size = log.once(f"direction {step}", lambda s=step: _direction(config, model[s], site))
            found = states.steer(
                model[step], site, np.array(direction), size, c.strengths, c.random, config.seed,
                lambda label, step=step: answers(step, f" {label}"),
            )  # fmt: skip
            steered += [{"step": step} | row for row in found]
    logged = runs.Run(Path(config.model)).metrics
    layers = [fading(rows, *place, "own") for place in dict.fromkeys((row["state"], row["layer"]) for row in rows)]
    tables = {"probes": rows, "behaviour": behaviour, "order": fading_order(rows, logged), "layers": layers}
    by_key = {key: [line for line in logged if line.get(key) is not None] for key in runs.HEALTH}
    curves = {key: [{"step": line["step"], key: line[key]} for line in lines] for key, lines in by_key.items()}
    notes = [f"checkpoints: steps {', '.join(map(str, paths))}", note]
    return {"tables": tables | {"push": steered}, "curves": curves, "notes": notes}


def probe_rows(name: str, config: ProbeConfig, model: dict[int, GPT]) -> Rows:
    """A row for each checkpoint and layer of one state, with random weights and the most frequent label beside it."""
    pieces = states.queries_of(name, config)
    controls = {"majority": float(majority(pieces.fit, pieces.test).mean())}
    random, probes = states.read_and_fit(random_weights(model[min(model)], config.seed), name, pieces, config)
    right_of_random_SQ = probes.predict(random[2]) == pieces.test.label
    bootstrap, rows, first, first_SQ = ClusterBootstrap(pieces.test.row), [], None, np.zeros(0)
    for step, m in model.items():
        (*_, tested), own = states.read_and_fit(m, name, pieces, config)
        own_SQ = own.predict(tested) == pieces.test.label
        first, first_SQ = (own, own_SQ) if first is None else (first, first_SQ)
        frozen_SQ = first.predict(tested) == pieces.test.label
        for s, site in enumerate(chosen_sites(m, RESIDUAL)):
            row = {"state": name, "step": step, "layer": layer_of(site, m.config), "site": site}
            found = {"own": bootstrap.rate(own_SQ[s]), "frozen": bootstrap.rate(frozen_SQ[s])}
            for column, right_Q in (("change", own_SQ[s]), ("frozen_change", frozen_SQ[s])):
                found[column] = bootstrap.ratio(right_Q.astype(float) - first_SQ[s], within=(-1, 1))
            row |= cells(found) | {"validation": float(own.validation_S[s])}
            rows.append(row | {"random_weights": float(right_of_random_SQ[s].mean())} | controls)
    return rows


def best_layers(rows: Rows) -> dict[str, int]:
    """State -> the block that was best on the validation part at the first checkpoint. Not the embedding: it tells what
    stands at a place, whatever the model makes of it."""
    start, found = min(row["step"] for row in rows), {}
    for name in dict.fromkeys(row["state"] for row in rows):
        first = [row for row in rows if row["state"] == name and row["step"] == start]
        found[name] = max(first, key=lambda row: (row["layer"] > 0, row["validation"]))["layer"]
    return found


def _site(rows: Rows, model: GPT) -> tuple[str, int]:
    """Where to steer: the best block for `done` at the first checkpoint, not the last one, behind which is only the
    unembedding, unless there is no other."""
    done = [row for row in rows if row["state"] == DONE and row["layer"] > 0]
    inside = [row for row in done if row["layer"] < model.config.n_layer] or done
    layer = best_layers(inside)[DONE]
    return next(row["site"] for row in inside if row["layer"] == layer), layer


def _direction(config: ProbeConfig, model: GPT, site: str) -> tuple[list[float], float]:
    """The `done` direction of a checkpoint at a site, and the standard deviation of the states along it."""
    found, probes = states.read_and_fit(model, DONE, states.queries_of(DONE, config), config)
    s = chosen_sites(model, RESIDUAL).index(site)
    direction_C = probes.direction(s)
    return direction_C.tolist(), float((found[0][s].double().cpu().numpy() @ direction_C).std())


def fading_order(rows: Rows, log: Rows) -> Rows:
    """When each state fades at its best block of the first checkpoint, and when the run's log departs.

    `readable`: whether it was clearly above the most frequent label and random weights at all. `lower_from`: the
    checkpoint from which all are clearly below the first (95%, paired by query). `half_gone`: from which less than half
    of what was readable above these two is left.
    """
    found = []
    for name, layer in best_layers(rows).items():
        found += [fading(rows, name, layer, probe) for probe in ("own", "frozen")]
    for key in runs.HEALTH:
        logged = [line for line in log if line.get(key) is not None]
        moves = runs.departure([line["step"] for line in logged], [line[key] for line in logged], key)
        found.append({"what": f"{key} (log)", "lower_from": None, "half_gone": None, "moves": moves})
    return found


def fading(rows: Rows, state: str, layer: int, probe: str) -> dict[str, Any]:
    """When one state fades at one layer, read by the probe of each checkpoint (`own`) or of the first (`frozen`)."""
    rows = sorted((r for r in rows if r["state"] == state and r["layer"] == layer), key=lambda r: r["step"])
    steps, start, control = [row["step"] for row in rows], rows[0]["own"], stronger_control(rows[0])
    readable = start["low"] > control
    lower = [row["change" if probe == "own" else "frozen_change"]["high"] < 0 for row in rows]
    half = [readable and row[probe]["value"] - control < (start["value"] - control) / 2 for row in rows]
    found = {"what": f"{state} ({probe})", "layer": layer, "first": rows[0][probe], "last": rows[-1][probe]}
    found |= {"control": control, "readable": readable}
    return found | {"lower_from": _from(steps, lower), "half_gone": _from(steps, half)}


def stronger_control(row: Row) -> float:
    """What a state has to be read above: the most frequent label, or random weights if they tell more."""
    return max(row["majority"], row["random_weights"])


def _from(steps: list[int], holds: list[bool]) -> int | None:
    """The step from which something holds to the end; None where it does not hold at the end."""
    last = next((i for i in reversed(range(len(steps))) if not holds[i]), -1)
    return steps[last + 1] if last + 1 < len(steps) else None


def figure(summary: Summary) -> CaptionedFigure:
    """States over steps at their best layers, the log below the same steps, and answers under steering."""
    drawn = Figure(figsize=(11, 6.4), layout="constrained")
    (own, frozen), (health, steered) = drawn.subplots(2, 2)
    rows = summary["tables"]["probes"]
    for (name, layer), color in zip(best_layers(rows).items(), (BLUE, *CYCLE), strict=False):
        shown = [row for row in rows if row["state"] == name and row["layer"] == layer]
        label = f"{name}, layer {layer}, n = {shown[0]['own']['n']}"
        for ax, probe in ((own, "own"), (frozen, "frozen")):
            plot_intervals(ax, shown, "step", probe, color=color, marker="o", label=label)
            ax.axhline(stronger_control(shown[0]), color=color, lw=0.8, ls=":")
    own.set(title="probes fitted at each checkpoint", ylim=(0, 1.03))
    frozen.set(title="probes fitted at the first one", ylim=(0, 1.03))
    own.legend(fontsize=8)
    length = health.twinx()
    logged = ((health, "truncation", runs.RED), (health, "repetition", CYCLE[3]), (length, "length_mean", GREY))
    for ax, key, color in logged:
        curve = summary["curves"][key]
        ax.plot([row["step"] for row in curve], [row[key] for row in curve], color=color, label=key)
    length.set(ylabel="mean length (grey)", ylim=(0, None))
    health.set(title="the run's own rollouts", xlabel="step", ylim=(-0.03, 1.03))
    health.legend(fontsize=8)
    _draw_steering(steered, summary["tables"]["push"])
    percent_axis(own, frozen, health, steered)
    caption = (
        "Dotted: random weights or the most frequent label, whichever tells more. States are read on the generator's "
        "own documents, each behind the block that was best at the first checkpoint. Random directions have the same "
        "norm. 95% bootstraps over problems."
    )
    return CaptionedFigure(drawn, "A collapse seen from inside", caption)


def _draw_steering(ax: Axes, rows: Rows) -> None:
    """Answers that end, over the strength: along `done`, and along each random direction."""
    for step, style in zip(dict.fromkeys(row["step"] for row in rows), ("-", "--"), strict=False):
        for name in dict.fromkeys(row["push"] for row in rows if row["push"] != NOTHING):
            shown = [row for row in rows if row["step"] == step and row["push"] in (name, NOTHING)]
            label = {DIRECTION: f"step {step}, {name}", f"{RANDOM} 1": f"step {step}, {RANDOM} directions"}.get(name)
            width = {"color": BLUE, "lw": 2} if name == DIRECTION else {"color": GREY, "lw": 1}
            shown.sort(key=lambda row: row["strength"])
            plot_intervals(ax, shown, "strength", "ends", label=label, ls=style, marker="o", **width)
    answers = f" (n = {rows[0]['ends']['n']})" if rows else ""
    ax.set(title=f"a push along `done`: answers that end{answers}", xlabel="strength, standard deviations")
    ax.set(ylim=(-0.03, 1.03))
    if rows:
        ax.legend(fontsize=8, handlelength=4)


TASK = task_of("collapse", Settings, run, figure, check=check)
