"""task=mistakes: what a checkpoint does wrong, whether its hidden states knew, and what listening to them brings.

taxonomy     greedy solutions of test problems: kind of the first mistake, by operations and by step
first wrong  can_next and nece_next at the first wrong parameter, where the truth is no (Part 2.1, Fig. 8): did the
             model know before it wrote the name (V-probe), or once it had (linear probe after `Define NAME as`)?
unneeded     parameters that it computed without need: did nece take them for needed before the solution began?
detection    can_next and nece_next over all steps up to the first mistake: found where no, suspected where yes; and a
             linear probe after each whole step, fitted to the model's own drawn solutions, for mistakes of any kind
solutions    greedy, beam search, and retry upon regret (`probes.tasks.retry_upon_regret`) with the probe, with a perfect detector,
             with more retries, and with sentences doubted by chance as often as the probe does (ours)
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from models.decode.beam import beam_search
from models.flops import n_params
from models.gpt import GPT
from probes.queries.model_solutions import Solutions, Steps, judged, packed
from probes.readout.activations import RESIDUAL, check_length, chosen_sites, read
from probes.readout.controls import random_weights
from probes.readout.fitted_probes import AFTER, BEFORE, WHEN, Reader, chosen, readers
from probes.readout.linear import Split
from probes.runs import ClusterBootstrap, Estimate, paired_difference, rate
from probes.settings import VPROBE, ProbeConfig
from probes.tasks.retry_upon_regret import Outcome, chance, continued, greedy, perfect, with_regret
from synth.dataset import Source
from synth.documents import Documents
from synth.judge.checker import MALFORMED, RETRY, UNNEEDED, reason
from synth.kernel.rng import key
from synth.world.vocabulary import EOS, PAD, STOP, World

TASKS = ("nece", "can_next", "nece_next")
ASKING = 5  # tokens of a question behind a text
FEW = 5  # steps of either kind, below which nothing is fitted or told


def tasks(config: ProbeConfig) -> list[str]:
    """Tasks whose queries are drawn, for the probes that are then asked about the model's own solutions."""
    return list(TASKS)


def check(config: ProbeConfig, model: GPT, splits: Mapping[str, Split]) -> None:
    """Raises ValueError when the model cannot read a query, or sentences have no end that it could be cut at."""
    if config.data.spec().load_world().phrases[STOP] < 0:
        raise ValueError(f"data.preset={config.data.preset}: its world writes no full stop; accepted: one that does")
    for piece in (piece for pieces in splits.values() for piece in pieces):
        check_length(model, piece, config.model)


def run(config: ProbeConfig, model: GPT, world: World, splits: dict[str, Split], folder: Path) -> dict[str, Any]:
    """The content of summary.json."""
    bar = tqdm(total=4, desc="mistakes", unit=" parts", disable=None)
    source = config.data.source("test", "mistakes")
    documents = source.documents(range(config.mistakes.problems))
    written = greedy(model, documents, world, budget(config, model, documents))
    bar.update()
    asked = readers(config, model, world, splits)
    bar.update()
    steps = Steps.of(written, world)
    listening = asked["can_next", WHEN[config.mistakes.probe]]
    known = {
        "taxonomy": taxonomy(written),
        "probes": {f"{task}, {when}": _rate(asked[task, when], splits[task]) for task, when in asked},
        "first_wrong": first_wrong(steps, asked, world),
        "first_wrong_after": first_wrong(steps, asked, world, AFTER),
        "unneeded": unneeded(steps, asked["nece", BEFORE]),
        "detection": {
            f"{task}, {when}": detection(steps, asked[task, when], task, world)
            for task in ("can_next", "nece_next")
            for when in (BEFORE, AFTER)
        },
        "after_step": after_step(config, model, world),
    }
    bar.update()
    rows = solutions(config, model, world, written, listening)
    bar.update()
    bar.close()
    vprobe = config.probe.vprobe if config.mistakes.probe == VPROBE else None
    return {
        "stage": "mistakes",
        **known,
        "solutions": rows,
        "attention_rank": vprobe.attention_rank if vprobe else 0,
        "parameters": n_params(model.config),
    }


def budget(config: ProbeConfig, model: GPT, documents: Documents) -> int:
    """Most tokens of a solution. Raises ValueError when there is no room for one."""
    longest = int((np.diff(documents.offsets) - documents.prompt).max())
    room = model.config.context - int(documents.prompt.max()) - ASKING
    if room < 1:
        raise ValueError(
            f"model={config.model}: reads {model.config.context} tokens, and a problem has {documents.prompt.max()}; "
            "accepted: a model with a longer context, or data with shorter documents"
        )
    return min(config.mistakes.max_new_tokens or 2 * longest, room)


def taxonomy(written: Solutions) -> dict[str, Any]:
    """Wrong solutions by why they are wrong, with the operations of the problem and the step of the first mistake."""
    v, ops = written.verdicts, written.documents.problems.ops
    wrong = np.flatnonzero(~v.right)
    reasons = [reason(v, i) for i in wrong]
    by_ops, by_step = Counter(zip(reasons, ops[wrong].tolist(), strict=True)), Counter()
    for why, i in zip(reasons, wrong, strict=True):
        by_step[why, int(v.first_mistake[i]) if v.first_mistake[i] >= 0 else None] += 1
    return {
        "n": len(ops),
        "wrong": len(wrong),
        "problems_by_ops": {int(o): int((ops == o).sum()) for o in np.unique(ops)},
        "by_ops": [{"kind": kind, "ops": o, "n": n} for (kind, o), n in sorted(by_ops.items())],
        "by_step": [
            {"kind": kind, "step": step, "n": n}
            for (kind, step), n in sorted(by_step.items(), key=lambda item: (item[0][0], item[0][1] or 0))
        ],
    }


def _rate(reader: Reader, split: Split) -> dict[str, Any]:
    return _numbers(ClusterBootstrap(split.test.row).rate(reader.right))


def _numbers(found: Estimate) -> dict[str, Any]:
    return {"accuracy": found.value, "low": found.low, "high": found.high, "n": found.n}


def first_wrong(
    steps: Steps, asked: Mapping[tuple[str, str], Reader], world: World, when: str = BEFORE
) -> dict[str, Any]:
    """Share of the first wrong parameters whose label is no that the probe says no to, for can_next and nece_next."""
    first = steps.take(np.flatnonzero(steps.first_mistake & (steps.name[:, 0] >= 0)))
    result = {}
    for task in ("can_next", "nece_next"):
        no = np.zeros(0, dtype=bool)
        if len(first):
            queries = first.queries(first.start)
            no = (asked[task, when].answer(queries) == 0)[first.labels(task, queries, world.modulus) == 0]
        result[task] = _numbers(ClusterBootstrap(np.arange(len(no))).rate(no))
    return result


def unneeded(steps: Steps, nece: Reader) -> dict[str, Any]:
    """Share of the unneeded parameters in the solutions that nece, asked before the solution, calls not needed."""
    written = steps.take(np.flatnonzero(steps.kind == UNNEEDED))
    right = np.zeros(0, dtype=bool)
    if len(written):
        right = nece.answer(written.queries(np.full(len(written), -1))) == 0
    return _numbers(ClusterBootstrap(written.row).rate(right))


def detection(steps: Steps, reader: Reader, task: str, world: World) -> dict[str, Any]:
    """can_next or nece_next on every parameter written up to the first mistake: found of those whose truth is no, and
    suspected of those whose truth is yes. A probe that always says no finds all and suspects all."""
    some = steps.before_mistake & (steps.name[:, 0] >= 0) & (steps.kind != RETRY)
    some = steps.take(np.flatnonzero(some))
    if not len(some):
        return {"found": _numbers(ClusterBootstrap(some.row).rate(some.row > 0)), "suspected": None}
    queries = some.queries(some.start)
    no, yes = reader.answer(queries) == 0, some.labels(task, queries, world.modulus) == 1
    draws = ClusterBootstrap(some.row)
    return {"found": _numbers(draws.rate(no, ~yes)), "suspected": _numbers(draws.rate(no, yes))}


def after_step(config: ProbeConfig, model: GPT, world: World) -> dict[str, Any] | None:
    """A linear probe at the end of each step up to the first mistake: is the step one? Balanced accuracy, or None.

    Fitted to solutions that the model draws of problems of the train split, tested on drawn ones of the test split.
    `random`: that of the same probe on the same texts, read by random weights.
    """
    m, parts = config.mistakes, []
    fit, test = (config.data.source(split, "mistakes") for split in ("train", "test"))
    for source, start, count in ((fit, 0, m.problems), (fit, m.problems, m.problems // 4 + 1), (test, 0, m.problems)):
        steps = Steps.of(_drawn(config, model, world, source, range(start, start + count)), world)
        parts.append(steps.take(np.flatnonzero(steps.before_mistake & (steps.kind != RETRY))))
    labels = [(part.kind >= MALFORMED).astype(np.int64) for part in parts]
    if any(min(label.sum(), (1 - label).sum()) < FEW for label in labels):
        return None
    right, site = _told_after(config, model, parts, labels)
    control, _ = _told_after(config, random_weights(model, config.seed), parts, labels)
    wrong, draws = labels[2] == 1, ClusterBootstrap(parts[2].row)
    found, by_chance = (_numbers(_balanced_accuracy(draws, told, wrong)) for told in (right, control))
    return found | {"random": by_chance["accuracy"], "mistakes": int(wrong.sum()), "site": site}


def _told_after(
    config: ProbeConfig, model: GPT, parts: Sequence[Steps], labels: Sequence[np.ndarray]
) -> tuple[np.ndarray, str]:
    """Which steps of the last part a probe at their end tells rightly, and the site that was best on the second."""
    sites, states = chosen_sites(model, RESIDUAL), []
    for part in parts:
        last = part.solutions.tokens_NR[part.row, part.stop - 1][:, None]
        states.append(read(model, part.queries(part.stop - 1), last, sites).to(model.embed.weight.device))
    even = [_balanced(label, key(config.seed, "probe after step", i)) for i, label in enumerate(labels[:2])]
    predict, site = chosen(
        [state[:, which] for state, which in zip(states, even, strict=False)],
        [label[which] for label, which in zip(labels, even, strict=False)],
        2,
        config.probe.linear.l2,
    )
    return predict(states[2][site]) == labels[2], sites[site]


def _balanced_accuracy(draws: ClusterBootstrap, right: np.ndarray, wrong: np.ndarray) -> Estimate:
    """Mean of the shares told rightly among mistakes and among the other steps."""
    value = float(np.mean([right[wrong].mean(), right[~wrong].mean()]))
    return draws.statistic(
        lambda a_D, b_D: (a_D + b_D) / 2, value, len(right), (right, wrong), (right, ~wrong), within=(0, 1)
    )


def _balanced(label: np.ndarray, seed: int) -> np.ndarray:
    """As many of either label, in a random order."""
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(label))
    each = int(min(label.sum(), (1 - label).sum()))
    return np.concatenate([order[label[order] == k][:each] for k in (0, 1)])


def _drawn(config: ProbeConfig, model: GPT, world: World, source: Source, indices: Sequence[int]) -> Solutions:
    documents = source.documents(indices)
    prompts = [documents.prompt_tokens(i).tolist() for i in range(len(documents))]
    most, seed = budget(config, model, documents), key(config.seed, f"mistakes/{source.split}", indices[0]) % 2**63
    responses = continued(model, prompts, most, temperature=config.mistakes.temperature, seed=seed)
    return packed(documents, world, responses, most)


def solutions(
    config: ProbeConfig, model: GPT, world: World, written: Solutions, can_next: Reader
) -> list[dict[str, Any]]:
    """One row for each way to solve the same problems."""
    m, none = config.mistakes, np.zeros(len(written.length_N), dtype=np.int64)
    found = {"greedy": Outcome(written, none)}
    if m.beams:
        found["beam"] = Outcome(_beam(model, world, written, m.beams), none)

    def probe(steps: Steps, turn: int) -> np.ndarray:
        return (can_next.answer(steps.queries(steps.start)) == 0) & (steps.kind != RETRY)

    steps = Steps.of(written, world)
    steps = steps.take(np.flatnonzero(steps.name[:, 0] >= 0))
    share = float(probe(steps, 0).mean()) if len(steps) else 0.0
    ways = {
        "probe": (probe, m.retries),
        "chance": (chance(share, config.seed), m.retries),
        "perfect": (perfect, m.retries),
        "probe, more": (probe, m.more_retries),
        "perfect, more": (perfect, m.more_retries),
    }
    for name, (detector, retries) in ways.items():
        found[name] = with_regret(model, world, written, detector, retries, m.temperature, config.seed)
    return [_row(name, outcome, written) for name, outcome in found.items()]


def _beam(model: GPT, world: World, written: Solutions, beams: int) -> Solutions:
    documents = written.documents
    prompts = [documents.prompt_tokens(i).tolist() for i in range(len(documents))]
    out = beam_search(model, prompts, written.tokens_NR.shape[1], beams=beams, eos=EOS, pad=PAD)
    return judged(documents, world, out.tokens_BT.cpu().numpy(), out.lengths_B.cpu().numpy())


def _row(name: str, outcome: Outcome, baseline: Solutions) -> dict[str, Any]:
    v = outcome.solutions.verdicts
    gain = paired_difference(v.right, baseline.verdicts.right)
    row = {"name": name, "n": len(v.right), "full": rate(v.right), "gain": gain._asdict()}
    for what, count in (("retries", outcome.retries_N), ("back", v.retries)):  # sentences taken back; BACK in the text
        row |= {f"{what}_{side}": _mean(count[mask]) for side, mask in (("right", v.right), ("wrong", ~v.right))}
    return row


def _mean(count: np.ndarray) -> float | None:
    return float(count.mean()) if len(count) else None
