"""task=mistakes: what a checkpoint does wrong, whether its hidden states knew, and what listening to them brings.

taxonomy     greedy solutions of test problems: kind of the first mistake, by operations and by step
first wrong  can_next and nece_next at the first wrong parameter, where the truth is no (Part 2.1, Fig. 8): did the
             model know before it wrote the name (V-probe), or once it had (linear probe after `Define NAME as`)?
unneeded     parameters that it computed without need: did nece take them for needed before the solution began?
detection    can_next and nece_next over all steps up to the first mistake: how often the probe says no where the truth
             is no (`found`), and where it is yes (`suspected`); and a linear probe at the end of each step, fitted to
             the model's own sampled solutions, that tells whether the step is a mistake of any kind
solutions    greedy, beam search, and retry upon regret (`probes.tasks.retry_upon_regret`) with the probe, with a
             perfect detector, with more retries, and with sentences doubted by chance as often as the probe does (ours)
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from models.decode.beam import beam_search
from models.flops import n_params
from models.gpt import GPT
from probes.queries.model_solutions import Solutions, Steps, judge_solutions
from probes.queries.table import Split, split_indices
from probes.runs import Table, paired_difference, rate
from probes.settings import LINEAR, VPROBE, ProbeConfig
from probes.tables import Rows, render, share
from probes.tasks import detection
from probes.tasks.detection import AFTER, BEFORE, FittedProbe
from probes.tasks.layers import splits
from probes.tasks.retry_upon_regret import Outcome, chance, perfect, prompts_of, with_regret, written_by
from probes.tasks.task import Models, Task
from synth.documents import Documents
from synth.judge.checker import RETRY, reason
from synth.kernel.progress import Progress
from synth.kernel.rng import key
from synth.ranges import AboveZero, Count, Positive, settings
from synth.world.vocabulary import EOS, PAD, STOP, World

TASKS = ("nece", "can_next", "nece_next")  # of the probes that are asked about the model's own solutions
WHEN = {VPROBE: BEFORE, LINEAR: AFTER}
QUESTION = 5  # tokens of a question behind a text


@settings
class Settings:
    """`problems` of the test split; `probe`: the detector that retries listen to.

    vprobe is asked by the name between markers, linear once `Define NAME as` is written, as in the paper. `retries` a
    solution at most when a detector says that a sentence was wrong (the paper: 10), then as many as `more_retries` (the
    paper: 50); `beams` of the beam search against it (0: none); `temperature` of a sentence that is drawn anew;
    `max_new_tokens` of a solution, null: twice the longest right one.
    """

    problems: Positive = 512  # how many to solve
    probe: Literal["linear", "vprobe"] = VPROBE
    retries: Positive = 10  # after each regret
    more_retries: Positive = 50  # a second, larger number to compare with
    beams: Count = 4  # of the beam search to compare with
    temperature: AboveZero = 1.0  # of the solutions
    max_new_tokens: Positive | None = None  # most tokens of a solution


@settings
class Config(ProbeConfig):
    task: str = "mistakes"
    mistakes: Settings = field(default_factory=Settings)


def prepare(config: Config, models: Models) -> dict[str, Split]:
    """The queries that the probes are fitted to. Raises ValueError when the model cannot read one, or sentences have no
    end that they could be cut at."""
    if config.data.spec().load_world().phrases[STOP] < 0:
        raise ValueError(f"data.preset={config.data.preset}: its world writes no full stop; accepted: one that does")
    return splits(TASKS, config, models["model"])


def run(config: Config, models: Models, splits: dict[str, Split], folder: Path) -> dict[str, Any]:
    """The content of summary.json."""
    model, world = models["model"], config.data.spec().load_world()
    bar = Progress(total=4, desc="mistakes", unit=" parts")
    documents = config.data.source("test", "mistakes").documents(range(config.mistakes.problems))
    written = written_by(model, documents, world, budget(config, model, documents))
    bar.update()
    probes = detection.fitted_probes(model, world, splits, config.probe.linear, config.probe.vprobe, config.seed)
    bar.update()
    steps, sampled = Steps.of(written, world), _parts_after_step(config, model, world)
    found = {
        "taxonomy": taxonomy(written),
        "probes": {f"{task}, {when}": share(p.right, splits[task].test.row) for (task, when), p in probes.items()},
        "first_wrong": detection.first_wrong(steps, probes, world),
        "first_wrong_after": detection.first_wrong(steps, probes, world, AFTER),
        "unneeded": detection.unneeded(steps, probes["nece", BEFORE]),
        "detection": {
            f"{task}, {when}": detection.found_and_suspected(steps, probes[task, when], task, world)
            for task in ("can_next", "nece_next")
            for when in (BEFORE, AFTER)
        },
        "after_step": detection.after_step(model, sampled, world, config.probe.linear.l2, config.seed),
    }
    bar.update()
    found["solutions"] = solutions(config, model, world, written, probes["can_next", WHEN[config.mistakes.probe]])
    bar.update()
    bar.close()
    rank = config.probe.vprobe.attention_rank if config.mistakes.probe == VPROBE else 0
    return {"stage": "mistakes", **found, "attention_rank": rank, "parameters": n_params(model.config)}


def budget(config: Config, model: GPT, documents: Documents) -> int:
    """Most tokens of a solution. Raises ValueError when the context has no place for one."""
    longest = int((np.diff(documents.offsets) - documents.prompt).max())
    available = model.config.context - int(documents.prompt.max()) - QUESTION
    if available < 1:
        raise ValueError(
            f"model={config.model}: reads {model.config.context} tokens, and a problem has {documents.prompt.max()}; "
            "accepted: a model with a longer context, or data with shorter documents"
        )
    return min(config.mistakes.max_new_tokens or 2 * longest, available)


def taxonomy(written: Solutions) -> dict[str, Any]:
    """Wrong solutions by why they are wrong, with the operations of the problem and the step of the first mistake."""
    v, ops = written.verdicts, written.documents.problems.ops
    wrong = np.flatnonzero(~v.right)
    reasons = [reason(v, i) for i in wrong.tolist()]
    by_ops = Counter(zip(reasons, ops[wrong].tolist(), strict=True))
    steps = [int(v.first_mistake[i]) if v.first_mistake[i] >= 0 else None for i in wrong]
    by_step = sorted(Counter(zip(reasons, steps, strict=True)).items(), key=lambda item: (item[0][0], item[0][1] or 0))
    return {
        "n": len(ops),
        "wrong": len(wrong),
        "problems_by_ops": {int(o): int((ops == o).sum()) for o in np.unique(ops)},
        "by_ops": [{"kind": kind, "ops": o, "n": n} for (kind, o), n in sorted(by_ops.items())],
        "by_step": [{"kind": kind, "step": step, "n": n} for (kind, step), n in by_step],
    }


def _parts_after_step(config: Config, model: GPT, world: World) -> list[Solutions]:
    """Solutions that the model samples: to fit on and to choose with, of the train split, and to test on."""
    n, (train, test) = config.mistakes.problems, (config.data.source(split, "mistakes") for split in ("train", "test"))
    found = []
    for source, indices in split_indices(train, test, (n, n // 4 + 1, n)):
        documents, seed = source.documents(indices), key(config.seed, f"mistakes/{source.split}", indices[0]) % 2**63
        draws = {"temperature": config.mistakes.temperature, "seed": seed}
        found.append(written_by(model, documents, world, budget(config, model, documents), **draws))
    return found


def solutions(config: Config, model: GPT, world: World, written: Solutions, can_next: FittedProbe) -> Rows:
    """One row for each way to solve the same problems."""
    m, none = config.mistakes, np.zeros(len(written.length_N), dtype=np.int64)
    found = {"greedy": Outcome(written, none)}
    if m.beams:
        prompts = prompts_of(written.documents)
        out = beam_search(model, prompts, written.tokens_NR.shape[1], beams=m.beams, eos=EOS, pad=PAD)
        tokens, lengths = out.tokens_BT.cpu().numpy(), out.lengths_B.cpu().numpy()
        found["beam"] = Outcome(judge_solutions(written.documents, world, tokens, lengths), none)

    def probe(steps: Steps, turn: int) -> np.ndarray:
        return (can_next.answer(steps.queries(steps.start)) == 0) & (steps.kind != RETRY)

    steps = Steps.of(written, world)
    steps = steps.take(np.flatnonzero(steps.name[:, 0] >= 0))
    doubted = float(probe(steps, 0).mean()) if len(steps) else 0.0
    ways = {
        "probe": (probe, m.retries),
        "chance": (chance(doubted, config.seed), m.retries),
        "perfect": (perfect, m.retries),
        "probe, more": (probe, m.more_retries),
        "perfect, more": (perfect, m.more_retries),
    }
    for name, (detector, retries) in ways.items():
        found[name] = with_regret(model, world, written, detector, retries, m.temperature, config.seed)
    return [_row(name, outcome, written) for name, outcome in found.items()]


def _row(name: str, outcome: Outcome, baseline: Solutions) -> dict[str, Any]:
    v = outcome.solutions.verdicts
    gain = paired_difference(v.right.tolist(), baseline.verdicts.right.tolist())
    row = {"name": name, "n": len(v.right), "full": rate(v.right), "gain": gain._asdict()}
    for what, count in (("retries", outcome.retries_N), ("back", v.retries)):  # sentences taken back; BACK in the text
        for side, mask in (("right", v.right), ("wrong", ~v.right)):
            row[f"{what}_{side}"] = float(count[mask].mean()) if mask.any() else None
    return row


def table(summary: Mapping[str, Any]) -> str:
    """All of it as lines: ways to solve, kinds of mistakes, what the probes knew."""
    known = render("mistakes_known.jinja", **summary)
    return "\n".join([*_solutions(summary), "", *_taxonomy(summary["taxonomy"]), known])


def _solutions(summary: Mapping[str, Any]) -> list[str]:
    head = ["way", "fully right [95%]", "above greedy [95%]", "taken back a right, wrong solution", "BACK written"]
    cells = []
    for row in summary["solutions"]:
        full, gain = row["full"], row["gain"]
        right = f"{full['rate']:.1%} [{full['low']:.1%}, {full['high']:.1%}]"
        above = f"{gain['value']:+.1%} [{gain['low']:+.1%}, {gain['high']:+.1%}]"
        means = ((row[f"{what}_right"], row[f"{what}_wrong"]) for what in ("retries", "back"))
        counts = [", ".join("-" if mean is None else f"{mean:.2f}" for mean in pair) for pair in means]
        cells.append([row["name"], right, above, *counts])
    return [Table(head, cells).text("lrrl")]


def _taxonomy(taxonomy: Mapping[str, Any]) -> list[str]:
    problems = {int(ops): n for ops, n in taxonomy["problems_by_ops"].items()}
    cells = []
    for kind in sorted({row["kind"] for row in taxonomy["by_ops"]}):
        count = {row["ops"]: row["n"] for row in taxonomy["by_ops"] if row["kind"] == kind}
        steps = [row for row in taxonomy["by_step"] if row["kind"] == kind]
        by_step = [f"{'the end' if row['step'] is None else row['step'] + 1} {row['n']}" for row in steps]
        cells.append([kind, *(str(count.get(ops, 0)) for ops in problems), ", ".join(by_step)])
    head = (
        f"{taxonomy['wrong']} of {taxonomy['n']} greedy solutions are wrong; first mistake by operations, then by step"
    )
    columns = ["problems", *(f"op={ops}: {n}" for ops, n in problems.items()), "step"]
    return [head, Table(columns, cells).text("l" + "r" * len(problems) + "l")]


TASK = Task(Config, prepare, run, table)
