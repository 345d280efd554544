"""One problem and models' own solutions of it: all that `probes.glass` shows, as plain JSON.

    problem   the text by sentences, the dependency graph with its layout (`synth.view.figure`), question and answer
    panel     one model's solution: rows (the steps, then what follows them) with the checker's verdicts, and every
              token with its probability under the model, the other model and the oracle, and what else could come

Row r of a panel is read out before it is written: `reads[task]["at"][r]` is of the text that ends where row r begins.

Legend: R tokens of the response, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.decode.sampling import sample
from models.gpt import GPT
from probes.queries.labels import GIVEN, task_of
from probes.tables import Rows
from probes.viewer.readouts import Readout, states_at
from synth.dataset import Source
from synth.documents import CONTEXT_SEGMENT, QUESTION_SEGMENT, SENTENCE_SEGMENT, Documents
from synth.judge import checker as C
from synth.judge.checker import Verdicts, check
from synth.oracle.next_token import STATUSES, NextTokenProbs, Oracle
from synth.problem.arrays import INSTANCES, MISSING, N_SENTENCES, Problems, dependencies
from synth.view.figure import ancestors, lay_out, shown
from synth.world.vocabulary import EOS, PAD, SPECIALS, World

INCH = 100  # page units per inch of the layout
TOP, ALLOWED = 5, 8  # alternatives kept of the model and of the oracle
READ_LABELS, READ_ROWS = 3, 64  # labels kept of a read-out; rows that are read out (a collapsed model writes many)
GROUPS = {C.RIGHT: "right", C.UNNEEDED: "waste", C.RETRY: "waste"}  # of a step's kind; all others are wrong


@dataclass(frozen=True)
class Solution:
    """A response with what is known of it. logp_RV: the model's log-probabilities where each token was written."""

    tokens: np.ndarray
    logp_RV: Tensor
    verdicts: Verdicts
    finished: bool


def solve(model: GPT, world: World, documents: Documents, temperature: float, seed: int) -> Solution:
    """The model's own solution of the one problem of `documents`, greedy at temperature 0. Raises ValueError when the
    problem leaves no room in the model's context."""
    prompt = documents.prompt_tokens(0).tolist()
    available = model.config.context - len(prompt) + 1
    if available < 2:
        has = f"the problem has {len(prompt)} tokens and the model reads {model.config.context}"
        raise ValueError(f"{has}; accepted: a shorter problem")
    budget = min(available, 2 * len(documents.response(0)) + 32)
    generator = torch.Generator().manual_seed(seed)
    out = sample(model, [prompt], budget, temperature=temperature, eos=EOS, pad=PAD, generator=generator)
    tokens = out.tokens_BT[0, : int(out.lengths_B[0])].numpy()
    verdicts = check(documents.problems, world, tokens[None], np.array([len(tokens)]))
    return Solution(tokens, log_probabilities(model, prompt, tokens), verdicts, bool(out.finished_B[0]))


@torch.no_grad()
def log_probabilities(model: GPT, prompt: Sequence[int], tokens: np.ndarray) -> Tensor:
    """log p(next token) before each token of a response, [R, V]."""
    whole = torch.tensor([*prompt, *tokens.tolist()])[None, :-1]
    return model(whole)[0, len(prompt) - 1 :].log_softmax(-1)


def problem_json(source: Source, documents: Documents) -> dict[str, Any]:
    """The part `problem`."""
    problem, world = documents.problems, source.world
    missing = int(problem.scalars[0, MISSING])
    answer = int(problem.answer[0])
    sentences = _sentences(documents, world)
    return {
        "sentences": sentences,
        "question": next((s["text"].strip() for s in sentences if s["question"]), ""),
        "answer": str(answer) if missing < 0 else "undetermined",
        "ops": int(problem.ops[0]),
        "given": int(problem.scalars[0, N_SENTENCES]),
        "modulus": world.modulus,
        "graph": _graph(problem, world),
    }


def _sentences(documents: Documents, world: World) -> Rows:
    """The prompt's text in pieces, each with the slot it is about (-1: none)."""
    n, pieces = int(documents.prompt[0]), []
    columns = np.stack([documents.segment[:n], documents.step[:n], documents.param[:n]])
    edges = np.flatnonzero(np.any(np.diff(columns, axis=1) != 0, axis=0)) + 1
    for start, stop in zip([0, *edges], [*edges, n], strict=True):
        segment, _, slot = columns[:, start].tolist()
        if text := world.decode(documents.tokens[start:stop]):
            slot = slot if segment in (SENTENCE_SEGMENT, QUESTION_SEGMENT) else -1
            kind = {"question": segment == QUESTION_SEGMENT, "context": segment == CONTEXT_SEGMENT}
            pieces.append({"text": text, "slot": slot} | kind)
    return pieces


def _graph(problem: Problems, world: World) -> dict[str, Any]:
    """Nodes and edges in page units, x to the right and y downwards, with their smallest rectangle."""
    slots, matters = shown(problem), ancestors(problem)
    below = {s: [d for d in dict.fromkeys(dependencies(problem, s)) if d != s] for s in slots}
    layout, names = lay_out(below), problem.slot_names()[0]
    nodes = []
    for s in slots:
        owner, thing = (world.vocabulary[int(i)].strip() for i in names[s])
        x, y = layout.place[s]
        value = int(problem.value[0, s])
        nodes.append(
            {
                "slot": s, "owner": owner + world.possessive, "thing": thing, "value": value if value >= 0 else None,
                "needed": bool(problem.needed[0, s] > 0), "ancestor": s in matters, "abstract": s >= INSTANCES,
                "query": s == int(problem.query[0]), "missing": s == int(problem.scalars[0, MISSING]),
                "below": below[s], "x": round(x * INCH, 1), "y": round(-y * INCH, 1),
            }
        )  # fmt: skip
    curves = [(a, b, [[round(x * INCH, 1), round(-y * INCH, 1)] for x, y in points]) for a, b, points in layout.edges]
    return {"nodes": nodes, "edges": [{"from": a, "to": b, "via": via} for a, b, via in curves]}


def panel_json(
    name: str, solution: Solution, source: Source, documents: Documents, policy: str, other_RV: Tensor | None = None
) -> dict[str, Any]:
    """A panel without its read-outs. other_RV: another model's log-probabilities before each of these tokens."""
    world, verdicts, oracle = source.world, solution.verdicts, None
    if source.spec.solution_order == "uniform":  # else the oracle has no closed form
        oracle = Oracle(source.spec, policy)(documents.problems, [solution.tokens.tolist()])
    answer = int(verdicts.answer[0])
    logp_R1 = solution.logp_RV.gather(1, torch.from_numpy(solution.tokens)[:, None])
    return {
        "name": name,
        "right": bool(verdicts.right[0]),
        "reason": C.reason(verdicts, 0),
        "first_mistake": int(verdicts.first_mistake[0]),
        "answer": "undetermined" if answer == C.UNDETERMINED else str(answer) if answer >= 0 else None,
        "finished": solution.finished,
        "logp": round(float(logp_R1.sum()), 4),
        "oracle": oracle is not None,
        "kl": None if oracle is None else _mean_kl(solution, oracle),
        "rows": _rows(solution, world),
        "tokens": _tokens(solution, world, oracle, other_RV),
        "reads": {},
    }


def _mean_kl(solution: Solution, oracle: NextTokenProbs) -> float | None:
    """Mean KL(oracle || model) in nats over the tokens where the oracle says something."""
    n = len(solution.tokens)
    logq = np.concatenate([solution.logp_RV.numpy(), np.zeros((1, solution.logp_RV.shape[1]), dtype=np.float32)])
    determined = np.diff(oracle.starts)[:n] > 0
    return round(float(oracle.kl(logq)[:n][determined].mean()), 5) if determined.any() else None


def _rows(solution: Solution, world: World) -> Rows:
    """Steps as they come, and the stretches between and after them that are none (the answer)."""
    v, rows, at = solution.verdicts, [], 0
    for k in range(int(v.steps[0])):
        start, stop, kind = int(v.start[0, k]), int(v.stop[0, k]), int(v.kind[0, k])
        if start > at:
            rows.append(_rest(v, at, start))
        row = {"step": k, "kind": C.KINDS[kind], "group": GROUPS.get(kind, "wrong"), "slot": int(v.param[0, k])}
        numbers = solution.tokens[start:stop] - world.first_number  # the last one is what the step says
        numbers = numbers[(numbers >= 0) & (numbers < world.modulus)]
        written = int(numbers[-1]) if len(numbers) and kind != C.RETRY else None
        rows.append(row | {"start": start, "stop": stop, "written": written, "binds": kind != C.RETRY})
        at = stop
    return [*rows, _rest(v, at, len(solution.tokens))] if at < len(solution.tokens) else rows


def _rest(verdicts: Verdicts, start: int, stop: int) -> dict[str, Any]:
    """The answer, right when it is and the solution ends where it must."""
    ending = C.ENDINGS[verdicts.ending[0]]
    good = bool(verdicts.answer_right[0]) and ending == "right"
    kind = "right" if good else "wrong answer" if ending == "right" else f"ends {ending}"
    where = {"slot": -1, "start": start, "stop": stop, "written": None, "binds": False}
    return {"step": -1, "kind": kind, "group": "right" if good else "wrong"} | where


def _tokens(solution: Solution, world: World, oracle: NextTokenProbs | None, other_RV: Tensor | None) -> Rows:
    """Every token: text, probability under the model `p`, other model `q` and oracle `o`, and the alternatives. `o` is
    null where the oracle abstains; `status` is there only where it is not `exact`."""
    top = solution.logp_RV.topk(min(TOP, solution.logp_RV.shape[1]), dim=-1)
    tokens, before = [], -1
    for t, token in enumerate(solution.tokens.tolist()):
        joined = world.possessive if min(token, before) >= world.first_name else ""
        entry: dict[str, Any] = {"text": joined + _text(world, token), "p": _probability(solution.logp_RV[t, token])}
        if joined:
            entry["word"] = _text(world, token)
        if token < len(SPECIALS):
            entry["special"] = True
        pairs = zip(top.indices[t].tolist(), top.values[t], strict=True)
        entry["top"] = [[_text(world, i).strip(), _probability(logp)] for i, logp in pairs]
        if other_RV is not None:
            entry["q"] = _probability(other_RV[t, token])
        if oracle is not None:
            entry |= _of_oracle(world, oracle, t, token)
        tokens.append(entry)
        before = token
    return tokens


def _of_oracle(world: World, oracle: NextTokenProbs, t: int, token: int) -> dict[str, Any]:
    entries = slice(oracle.starts[t], oracle.starts[t + 1])
    ids, probs = oracle.ids[entries], oracle.probs[entries]
    order, status = np.argsort(-probs, kind="stable"), STATUSES[oracle.status[t]]
    found: dict[str, Any] = {"o": round(float(probs[ids == token].sum()), 5) if len(ids) else None}
    if status != "exact":
        found["status"] = status
    found["allowed"] = [[_text(world, int(ids[k])).strip(), round(float(probs[k]), 5)] for k in order[:ALLOWED]]
    return found | ({"more": len(ids) - ALLOWED} if len(ids) > ALLOWED else {})


def _text(world: World, token: int) -> str:
    return world.vocabulary[token] if token < world.size else f"<{token}>"


def _probability(logp: Tensor) -> float:
    return round(float(logp.exp()), 5)


def readings(
    model: GPT, world: World, documents: Documents, solution: Solution, rows: Rows, probes: Sequence[Readout]
) -> dict[str, Any]:
    """A panel's `reads`: what each probe says of every parameter before every row."""
    prompt, found = documents.prompt_tokens(0), {}

    def likeliest(probs_K: np.ndarray) -> list[list[float]]:
        """(label, probability) of the likeliest labels; the last one of `value` is "unknown"."""
        return [[int(k), round(float(probs_K[k]), 3)] for k in np.argsort(-probs_K, kind="stable")[:READ_LABELS]]

    tokens = np.concatenate([prompt, solution.tokens])
    ends = [len(prompt) + row["start"] for row in rows][:READ_ROWS]
    for probe in probes:
        task = task_of(probe.task, GIVEN)
        asked = [slot for slot in shown(documents.problems) if task.asked(documents)[0, slot]]
        cuts = [int(task.ends(documents)[1][0])] if probe.task == "nece" else ends
        if not asked or not cuts:
            continue
        probs_NK = probe.probabilities(states_at(model, world, documents, tokens, asked, cuts, probe.site))
        probs_CSK = probs_NK.reshape(len(cuts), len(asked), -1)
        found[probe.task] = {
            "layer": probe.layer, "accuracy": probe.accuracy.value, "low": probe.accuracy.low,
            "high": probe.accuracy.high, "n": probe.accuracy.n, "majority": probe.majority, "labels": task.groups,
            "at": [{s: likeliest(p_K) for s, p_K in zip(asked, p_SK, strict=True)} for p_SK in probs_CSK],
        }  # fmt: skip
    return found
