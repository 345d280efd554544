"""task=collapse: what fades inside a model while its distillation collapses, and does it cause what one sees?

    python -m probes.run task=collapse checkpoint=runs/collapse/opd-1a2b3c4d

reads the checkpoints of a run that kept them (`out.keep=0 out.save_every=10`), with the student that it began from as
step 0. At each: linear probes of `known`, `value`, `nece_next` and `done` at every layer (`probes.analyses.state_probes`),
fitted anew (`own`: is it still there?) and as fitted at step 0 (`frozen`: is it still where it was?), and greedy
answers: length, cut off, looping, right. `order` says when each state is first clearly lower than at step 0 (95%,
paired by query) and when half of its margin over the most frequent label is gone, beside the step at which length,
cut-off and repetition move in the run's own log. Last, a push along `done` while the first and the last checkpoint
write (`probes.analyses.steering`): does it make answers end, or go on?
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from tqdm import tqdm

from models.gpt import GPT
from probes.analyses.parts import Parts
from probes.analyses.responses import budget, draw
from probes.analyses.state_probes import DONE, Reading, classes, questions, reading, states
from probes.analyses.steering import DIRECTION, RANDOM, effect, push
from probes.analyses.tables import cell, rate_of
from probes.readout.activations import RESIDUAL, chosen_sites, layer_of
from probes.readout.controls import random_weights
from probes.readout.linear import Split
from probes.runs import (
    BLUE,
    CYCLE,
    GREY,
    HEALTH,
    RED,
    CaptionedFigure,
    ClusterBootstrap,
    checkpoint,
    departure,
    error_bars,
)
from probes.settings import ProbeConfig
from synth.store.files import read_json_lines

NAME = "collapse"


def checkpoints(config: ProbeConfig) -> dict[str, str]:
    """None besides those of the run. Raises ValueError for a model that is not a run folder."""
    if not (Path(config.model) / checkpoint.INDEX).is_file():
        raise ValueError(
            f"model={config.model}: task=collapse reads the checkpoints of a run; accepted: a run folder that kept them"
        )
    return {}


def course(run: Path, most: int) -> dict[int, Path]:
    """Step -> checkpoint, in order: the student as step 0 where it is still there, then those that the run kept."""
    config = (
        yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) if (run / "config.yaml").is_file() else {}
    )
    found = {}
    if config.get("student"):
        with suppress(ValueError):  # a model that the zoo no longer has
            found[0] = checkpoint.expand_zoo_path(config["student"], "student")
    found |= {line["step"]: run / line["path"] for line in read_json_lines(run / checkpoint.INDEX)}
    steps = sorted(step for step, path in found.items() if path.exists())
    if len(steps) < 2:
        raise ValueError(f"model={run}: has {len(steps)} checkpoints; accepted: two or more, of a run with out.keep=0")
    chosen = np.unique(np.linspace(0, len(steps) - 1, most).round().astype(int)) if most else range(len(steps))
    return {steps[i]: found[steps[i]] for i in chosen}


def run(config: ProbeConfig, models: Mapping[str, GPT], parts: Parts) -> dict[str, Any]:
    """Tables `probes`, `behaviour`, `order`, `layers` and `push`."""
    c, device = config.collapse, models["model"].embed.weight.device
    path = course(Path(config.model), c.most)
    model = {step: checkpoint.load_model(p, "model", str(device)) for step, p in path.items()}
    start, end = min(path), max(path)
    source = config.data.with_context("none").source("test", NAME)
    documents = source.documents(range(c.problems))
    room = min(budget(m, documents, "model") for m in model.values())
    rows = []
    for name in tqdm(c.states, desc="states", unit=" states", disable=None):
        rows += parts.of(f"state {name}", lambda name=name: along(name, config, model, start))
    settings = {"samples": 1, "budget": room, "temperature": 0.0, "seed": config.seed}
    behaviour = []
    for step, m in model.items():
        written = draw(m, documents, source.world, parts, label=f"step {step}", **settings)
        seen = effect(written, written)
        behaviour.append({"step": step} | {k: v for k, v in seen.items() if not k.endswith("_change")})
    pushes, note = [], "no push: `done` is not among collapse.states"
    if DONE in c.states:
        site, layer = _site(rows, model[start])
        note = f"pushes behind block {layer - 1}, in standard deviations of the states along `done` at each checkpoint"
        for step in (start, end):
            direction, size = parts.of(f"direction {step}", lambda s=step: _direction(config, model[s], site))
            rest = (documents, source.world, parts, f"step {step}", room, config.seed)
            found = push(model[step], site, np.array(direction), size, c.strengths, c.random, *rest)
            pushes += [{"step": step} | row for row in found]
    log = read_json_lines(Path(config.model) / "metrics.jsonl")
    tables = {"probes": rows, "behaviour": behaviour, "order": order(rows, log)}
    tables |= {"layers": [faded(rows, *place, "own") for place in places(rows)], "push": pushes}
    return {"tables": tables, "curves": logged(log), "notes": [f"checkpoints: steps {', '.join(map(str, path))}", note]}


def along(name: str, config: ProbeConfig, model: Mapping[int, GPT], start: int) -> list[dict[str, Any]]:
    """A row for each checkpoint and layer of one state, with random weights and the most frequent label beside it."""
    pieces = questions(name, config)
    world, l2 = config.data.spec().load_world(), config.probe.linear.l2
    n_classes, device = classes(name, world.modulus), model[start].embed.weight.device
    base = float((pieces.test.label == np.bincount(pieces.fit.label).argmax()).mean())
    blank = random_weights(model[start], config.seed)
    random = reading(states(blank, name, pieces, world), pieces, n_classes, l2, device)
    draws, rows, first = ClusterBootstrap(pieces.test.row), [], None
    for step, m in model.items():
        found = states(m, name, pieces, world)
        own = reading(found, pieces, n_classes, l2, device)
        first = first or own
        frozen_SQ = first.predict(found[2]) == pieces.test.label
        for s, site in enumerate(chosen_sites(m, RESIDUAL)):
            change = own.right_SQ[s].astype(float) - first.right_SQ[s]
            row = {"state": name, "step": step, "layer": layer_of(site, m.config), "site": site}
            row |= {"own": cell(draws.rate(own.right_SQ[s])), "frozen": cell(draws.rate(frozen_SQ[s]))}
            moved = frozen_SQ[s].astype(float) - first.right_SQ[s]
            row |= {
                f"{name}change": cell(draws.ratio(d, within=(-1, 1))) for name, d in (("", change), ("frozen_", moved))
            }
            row |= {"validation": float(own.validation_S[s])}
            rows.append(row | {"random_weights": float(random.right_SQ[s].mean()), "majority": base})
    return rows


def best_layers(rows: list[dict[str, Any]]) -> dict[str, int]:
    """State -> the block that was best on the validation part at the first checkpoint.

    Not the embedding: it tells what stands at a place, whatever the model makes of it."""
    start, found = min(row["step"] for row in rows), {}
    for name in dict.fromkeys(row["state"] for row in rows):
        first = [row for row in rows if row["state"] == name and row["step"] == start]
        first = [row for row in first if row["layer"] > 0] or first
        found[name] = max(first, key=lambda row: row["validation"])["layer"]
    return found


def _site(rows: list[dict[str, Any]], model: GPT) -> tuple[str, int]:
    """Where to push: the best block for `done` at the first checkpoint, not the last one, behind which is only the
    unembedding, unless there is no other."""
    start = min(row["step"] for row in rows)
    inside = [r for r in rows if r["state"] == DONE and r["step"] == start and r["layer"] > 0]
    inside = [r for r in inside if r["layer"] < model.config.n_layer] or inside
    best = max(inside, key=lambda row: row["validation"])
    return best["site"], best["layer"]


def _direction(config: ProbeConfig, model: GPT, site: str) -> tuple[list[float], float]:
    """The `done` direction of a checkpoint at a site, and the standard deviation of the states along it."""
    pieces: Split = questions(DONE, config)
    found = states(model, DONE, pieces, config.data.spec().load_world())
    probe: Reading = reading(found, pieces, 2, config.probe.linear.l2, model.embed.weight.device)
    s = chosen_sites(model, RESIDUAL).index(site)
    way_C = probe.direction(s)
    return way_C.tolist(), float((found[0][s].double().numpy() @ way_C).std())


def order(rows: list[dict[str, Any]], log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """When each state fades, at its best block of the first checkpoint, and when the run's own log moves.

    `readable`: whether it was clearly above the most frequent label and random weights at all. `lower_from`: the
    checkpoint from which all are clearly below the first (95%, paired by query). `half_gone`: from which less than half
    of what was readable above these two is left.
    """
    found = []
    for name, layer in best_layers(rows).items():
        found += [faded(rows, name, layer, probe) for probe in ("own", "frozen")]
    for key in HEALTH:
        curve = [(line["step"], line[key]) for line in log if line.get(key) is not None]
        found.append(
            {
                "what": f"{key} (log)",
                "lower_from": None,
                "half_gone": None,
                "moves": departure(*zip(*curve, strict=True), key) if curve else None,
            }
        )
    return found


def places(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Every state with every layer that it was read at."""
    return list(dict.fromkeys((row["state"], row["layer"]) for row in rows))


def faded(rows: list[dict[str, Any]], state: str, layer: int, probe: str) -> dict[str, Any]:
    """When one state fades at one layer, read by the probe of each checkpoint (`own`) or of the first (`frozen`)."""
    mine = sorted((r for r in rows if r["state"] == state and r["layer"] == layer), key=lambda r: r["step"])
    steps, start, control = [r["step"] for r in mine], mine[0]["own"], stronger(mine[0])
    readable = start["low"] > control
    lower = [r["change" if probe == "own" else "frozen_change"]["high"] < 0 for r in mine]
    half = [readable and r[probe]["value"] - control < (start["value"] - control) / 2 for r in mine]
    row = {"what": f"{state} ({probe})", "layer": layer, "first": mine[0][probe], "last": mine[-1][probe]}
    row |= {"control": control, "readable": readable}
    return row | {"lower_from": _from(steps, lower), "half_gone": _from(steps, half)}


def stronger(row: dict[str, Any]) -> float:
    """What a state has to be read above: the most frequent label, or random weights if they tell more."""
    return max(row["majority"], row["random_weights"])


def _from(steps: list[int], holds: list[bool]) -> int | None:
    """The step from which something holds to the end; None where it does not hold at the end."""
    last = next((i for i in reversed(range(len(steps))) if not holds[i]), -1)
    return steps[last + 1] if last + 1 < len(steps) else None


def logged(log: list[dict[str, Any]]) -> dict[str, list[dict[str, float]]]:
    """The curves of the run's own log that the figure shows."""
    return {
        key: [{"step": line["step"], key: line[key]} for line in log if line.get(key) is not None] for key in HEALTH
    }


def figure(summary: Mapping[str, Any]) -> CaptionedFigure:
    """States over steps at their best layers, the log below the same steps, and the pushes."""
    drawn = Figure(figsize=(11, 6.4), layout="constrained")
    (own, frozen), (health, pushed) = drawn.subplots(2, 2)
    rows = summary["tables"]["probes"]
    for (name, layer), color in zip(best_layers(rows).items(), (BLUE, *CYCLE), strict=False):
        mine = [row for row in rows if row["state"] == name and row["layer"] == layer]
        for ax, probe in ((own, "own"), (frozen, "frozen")):
            value, error = error_bars([rate_of(row[probe]) for row in mine])
            label = f"{name}, layer {layer}, n = {mine[0]['own']['n']}"
            ax.errorbar([r["step"] for r in mine], value, error, color=color, marker="o", label=label)
            ax.axhline(stronger(mine[0]), color=color, lw=0.8, ls=":")
    own.set(title="probes fitted at each checkpoint", ylim=(0, 1.03))
    frozen.set(title="probes fitted at the first one", ylim=(0, 1.03))
    own.legend(fontsize=8)
    length = health.twinx()
    curves = {key: [list(row.values()) for row in rows] for key, rows in summary["curves"].items()}
    for key, color in (("truncation", RED), ("repetition", CYCLE[3])):
        health.plot(*(zip(*curves[key], strict=True) if curves[key] else ([], [])), color=color, label=key)
    length.plot(*(zip(*curves["length_mean"], strict=True) if curves["length_mean"] else ([], [])), color=GREY)
    length.set(ylabel="mean length (grey)", ylim=(0, None))
    health.set(title="the run's own rollouts", xlabel="step", ylim=(-0.03, 1.03))
    health.legend(fontsize=8)
    found = summary["tables"]["push"]
    for step, style in zip(dict.fromkeys(row["step"] for row in found), ("-", "--"), strict=False):
        for name in dict.fromkeys(row["push"] for row in found if row["push"] != "none"):
            color = BLUE if name == DIRECTION else GREY
            mine = sorted(
                (r for r in found if r["step"] == step and r["push"] in (name, "none")), key=lambda r: r["strength"]
            )
            value, error = error_bars([rate_of(row["ends"]) for row in mine])
            label = {DIRECTION: f"step {step}, {name}", f"{RANDOM} 1": f"step {step}, {RANDOM} directions"}.get(name)
            kind = {"color": color, "ls": style, "marker": "o", "lw": 2 if name == DIRECTION else 1}
            pushed.errorbar([r["strength"] for r in mine], value, error, label=label, **kind)
    answers = f" (n = {found[0]['ends']['n']})" if found else ""
    pushed.set(
        title=f"a push along `done`: answers that end{answers}",
        xlabel="strength, standard deviations",
        ylim=(-0.03, 1.03),
    )
    if found:
        pushed.legend(fontsize=8, handlelength=4)
    for ax in (own, frozen, health, pushed):
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    caption = (
        "Dotted: random weights or the most frequent label, whichever tells more. States are read on the generator's "
        "own documents, each behind the block that was best at the first checkpoint. Random directions have the same "
        "norm. 95% bootstraps over problems."
    )
    return CaptionedFigure(drawn, "A collapse seen from inside", caption)
