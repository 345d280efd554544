"""task=recovery: can a teacher finish what a student began wrongly? (SCOPE, 2604.10688; 2604.13016)

    python -m probes.run task=recovery checkpoint=TEACHER recovery.student=STUDENT

The student's wrong greedy answers to held-out problems are cut after a share of their tokens and finished by the
teacher, by the student itself, and by the exact oracle (policy `continue`, the likeliest token). A prefix is `sound`
if the generator could have written it (the oracle's word, token by token); from there the oracle is always right, and
what a teacher lacks is its own. Most `broken` prefixes hold the mistake already (some only a step or a letter that the
generator would not take), and no ending makes a mistake right; so `answer` (the number alone) and `clean` (no further
mistake behind the cut) stand beside `right`, all steps. Table `advantage` is the teacher's rate less the student's own
from the same prefixes, paired by problem (the teacher's continuation advantage of 2604.13016). Last, the teacher's
success by quartile of its perplexity on the prefix, which the paper finds falling.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from tqdm import tqdm

from models.gpt import GPT
from probes.analyses.parts import Parts
from probes.analyses.responses import BATCH, budget, draw, logprobs
from probes.analyses.settings import given
from probes.analyses.tables import cell, rate_of
from probes.queries.dependencies import part
from probes.runs import BLUE, GREEN, GREY, CaptionedFigure, ClusterBootstrap, Estimate, error_bars
from probes.settings import ProbeConfig
from probes.tasks.retry_upon_regret import continued
from synth.documents import Documents
from synth.judge.checker import MALFORMED, Verdicts, check_responses
from synth.kernel.rng import key
from synth.oracle.next_token import EXACT, Oracle
from synth.problem.arrays import Problems
from synth.world.vocabulary import EOS

NAME = "recovery"
ORACLE, TEACHER, STUDENT = "oracle", "teacher", "student"
SOUND, BROKEN = "sound", "broken"


def checkpoints(config: ProbeConfig) -> dict[str, str]:
    """The student."""
    return given(config, NAME, "student")


def run(config: ProbeConfig, models: Mapping[str, GPT], parts: Parts) -> dict[str, Any]:
    """Tables `success` and `perplexity`."""
    c, student = config.recovery, models["recovery.student"]
    source = config.data.source("test", NAME)
    documents = source.documents(range(c.problems))
    most = min(budget(student, documents, "recovery.student"), budget(models["model"], documents, "model"))
    settings = {"samples": 1, "budget": most, "temperature": 0.0, "seed": config.seed}
    written = draw(student, documents, source.world, parts, label="wrong answers", **settings)
    wrong = np.flatnonzero(~written.verdicts.right)
    note = f"{len(wrong)} of {c.problems} greedy answers are wrong"
    if len(wrong) == 0:
        return {"tables": {"success": [], "advantage": [], "perplexity": []}, "notes": [note]}
    oracle = Oracle(source.spec) if source.spec.solution_order == "uniform" else None
    writers = {TEACHER: models["model"], STUDENT: student} | ({ORACLE: oracle} if oracle else {})
    success, ahead, quartiles = [], [], []
    for cut in c.cuts:
        found: dict[str, dict[str, np.ndarray]] = {}
        prefixes = [written.responses[i][: int(cut * len(written.responses[i]))] for i in wrong]
        sound = soundness(oracle, part(documents.problems, wrong), prefixes) if oracle else None
        for who, writer in writers.items():
            repeat = c.samples if who != ORACLE else 1
            row = np.repeat(np.arange(len(wrong)), repeat)
            starts = [prefixes[i] for i in row]
            ends = finish(
                writer, documents, wrong[row], starts, most, c.temperature, key(config.seed, who, int(100 * cut))
            )
            texts = [[*start, *end] for start, end in zip(starts, ends, strict=True)]
            verdicts = check_responses(part(documents.problems, wrong[row]), source.world, texts)
            clean = clean_behind(verdicts, np.array([len(start) for start in starts]))
            found[who] = {"right": verdicts.right, "answer": verdicts.answer_right, "clean": clean}
            for state, among in states(sound, row).items():
                draws = ClusterBootstrap(wrong[row])
                rates = {name: cell(draws.rate(value, among)) for name, value in found[who].items()}
                success.append({"cut": cut, "prefix": state, "finished_by": who} | rates)
            if who == TEACHER:
                quartiles += by_perplexity(models["model"], documents, wrong, prefixes, row, verdicts.answer_right, cut)
        row = np.repeat(np.arange(len(wrong)), c.samples)
        for state, among in states(sound, row).items():
            less = {
                name: advantage(found[TEACHER][name], found[STUDENT][name], among, wrong[row])
                for name in found[TEACHER]
            }
            ahead.append({"cut": cut, "prefix": state} | {name: cell(rate) for name, rate in less.items()})
    return {"tables": {"success": success, "advantage": ahead, "perplexity": quartiles}, "notes": [note]}


def states(sound: np.ndarray | None, row: np.ndarray) -> dict[str, np.ndarray]:
    """Which endings, of prefixes `row`, go on from a prefix of each state."""
    if sound is None:
        return {"all": np.ones(len(row), bool)}
    return {SOUND: sound[row], BROKEN: ~sound[row]}


def advantage(teacher: np.ndarray, student: np.ndarray, among: np.ndarray, problem: np.ndarray) -> Estimate:
    """The teacher's rate less the student's, over the same endings, with its interval over problems."""
    return ClusterBootstrap(problem).ratio((teacher.astype(float) - student) * among, among, within=(-1, 1))


def soundness(oracle: Oracle, problems: Problems, prefixes: Sequence[Sequence[int]]) -> np.ndarray:
    """bool[N]: whether the generator could have written the prefix."""
    law = oracle(problems, prefixes)
    return law.status[law.rows[1:] - 1] == EXACT


def finish(
    writer: GPT | Oracle,
    documents: Documents,
    rows: np.ndarray,
    starts: Sequence[Sequence[int]],
    most: int,
    temperature: float,
    seed: int,
) -> list[list[int]]:
    """What the writer puts behind each start of an answer to documents[rows], up to `most` tokens with the start."""
    if isinstance(writer, Oracle):
        return likeliest(writer, part(documents.problems, rows), starts, most)
    texts = [[*documents.prompt_tokens(i).tolist(), *start] for i, start in zip(rows, starts, strict=True)]
    ends: list[list[int]] = [[] for _ in texts]
    order = np.argsort([len(start) for start in starts], kind="stable")
    for k in tqdm(range(0, len(order), BATCH), desc="endings", unit=" batches", disable=None):
        block = order[k : k + BATCH]
        longest = max(len(texts[i]) for i in block)
        room = min(most - min(len(starts[i]) for i in block), writer.config.context - longest + 1)
        for i, end in zip(
            block,
            continued(writer, [texts[i] for i in block], room, temperature=temperature, seed=(seed + k) % 2**63),
            strict=True,
        ):
            ends[i] = end[: most - len(starts[i])]
    return ends


def likeliest(oracle: Oracle, problems: Problems, starts: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    """The oracle's likeliest ending of each start, token by token; it stops where nothing is determined any more."""
    texts, still = [list(map(int, start)) for start in starts], list(range(len(starts)))
    while still:
        law = oracle(part(problems, np.array(still)), [texts[i] for i in still])
        ahead = []
        for j, i in enumerate(still):
            at = law.rows[j + 1] - 1
            entries = slice(law.starts[at], law.starts[at + 1])
            if len(law.ids[entries]) == 0:
                continue
            texts[i].append(int(law.ids[entries][law.probs[entries].argmax()]))
            if texts[i][-1] != EOS and len(texts[i]) < most:
                ahead.append(i)
        still = ahead
    return [text[len(start) :] for text, start in zip(texts, starts, strict=True)]


def clean_behind(verdicts: Verdicts, cut: np.ndarray) -> np.ndarray:
    """bool[N]: no mistake in the steps that begin at the cut or behind it, and an end."""
    mistake_NS = (verdicts.kind >= MALFORMED) & (verdicts.start >= cut[:, None])
    return ~mistake_NS.any(1) & (verdicts.ending == 0)


def by_perplexity(
    teacher: GPT,
    documents: Documents,
    wrong: np.ndarray,
    prefixes: Sequence[Sequence[int]],
    row: np.ndarray,
    success: np.ndarray,
    cut: float,
) -> list[dict[str, Any]]:
    """Success by quartile of the teacher's perplexity on the prefix; prefixes of no token are left out."""
    there = np.array([n for n, prefix in enumerate(prefixes) if len(prefix)], dtype=np.int64)
    if len(there) < 4:
        return []
    prompts = [documents.prompt_tokens(wrong[n]).tolist() for n in there]
    nll = np.array([-logp.mean() for logp in logprobs(teacher, prompts, [prefixes[n] for n in there])])
    quartile = np.full(len(prefixes), -1)
    quartile[there[np.argsort(nll, kind="stable")]] = np.arange(len(there)) * 4 // len(there)
    draws, rows = ClusterBootstrap(wrong[row]), []
    for q in range(4):
        inside = np.exp(nll[quartile[there] == q])
        low, high = float(inside.min()), float(inside.max())
        rate = cell(draws.rate(success, quartile[row] == q))
        rows.append({"cut": cut, "quartile": q + 1, "perplexity_from": low, "perplexity_to": high, "answer": rate})
    return rows


def figure(summary: Mapping[str, Any]) -> CaptionedFigure:
    """Right answers by cut, from sound and from broken prefixes; by the teacher's perplexity."""
    drawn = Figure(figsize=(10.5, 3.8), layout="constrained")
    axes = drawn.subplots(1, 3, sharey=True)
    rows = summary["tables"]["success"]
    for ax, state in zip(axes, (SOUND, BROKEN), strict=False):
        for who, color, marker in ((TEACHER, BLUE, "o"), (STUDENT, GREY, "s"), (ORACLE, GREEN, "^")):
            mine = [r for r in rows if r["prefix"] in (state, "all") and r["finished_by"] == who and r["answer"]["n"]]
            value, error = error_bars([rate_of(r["answer"]) for r in mine])
            if mine:
                ax.errorbar([r["cut"] for r in mine], value, error, color=color, marker=marker, label=who)
        counts = [r["answer"]["n"] for r in rows if r["prefix"] in (state, "all") and r["finished_by"] == TEACHER]
        n = f"\nn = {', '.join(map(str, counts))}" if counts else ""
        ax.set(
            title=f"answer right, from {state} prefixes{n}", xlabel="share of the wrong answer kept", ylim=(-0.03, 1.03)
        )
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        if ax.lines:
            ax.legend()
    rows = summary["tables"]["perplexity"]
    for cut in dict.fromkeys(row["cut"] for row in rows):
        mine = [row for row in rows if row["cut"] == cut]
        value, error = error_bars([rate_of(r["answer"]) for r in mine])
        label = f"cut at {cut:.0%}, n = {sum(r['answer']['n'] for r in mine)}"
        axes[2].errorbar([r["quartile"] for r in mine], value, error, marker="o", label=label)
    axes[2].set(title="by the teacher's perplexity", xlabel="quartile, least surprised first", xticks=range(1, 5))
    if rows:
        axes[2].legend(fontsize=8)
    caption = "Wrong greedy answers of the student to held-out problems; 95% bootstrap intervals over problems."
    return CaptionedFigure(drawn, "Recovery from a student's prefixes", caption)
