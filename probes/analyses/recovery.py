"""task=recovery: can a teacher finish what a student began wrongly? (SCOPE, 2604.10688; 2604.13016)

    python -m probes.run task=recovery checkpoint=TEACHER recovery.student=STUDENT

The student's wrong greedy answers to held-out problems are cut after a share of their tokens. The teacher, the student
itself and the exact oracle (policy `continue`, the likeliest token) each finish what is left. A prefix is `sound` if
the generator could have written it (the oracle says so, token by token), else `broken`. From a sound prefix the oracle
is always right, so a teacher that is not fails by itself. Most broken prefixes hold a mistake already (others only a
step or a letter that the generator would not take); no ending makes that right. So three rates are given: `right`, all
steps; `answer`, the number alone; `clean`, no further mistake behind the cut. Table `advantage` is the teacher's rate
less the student's own from the same prefixes, paired by problem (the teacher's continuation advantage of 2604.13016).
Table `perplexity` is the teacher's success by quartile of its perplexity on the prefix, which the paper finds falling.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from matplotlib.figure import Figure

from models.gpt import GPT
from probes.analyses.responses import BATCH, Responses, response_budget, response_logprobs, sample_responses
from probes.runs import BLUE, GREEN, GREY, CaptionedFigure, ClusterBootstrap, Estimate, ResumeLog
from probes.settings import ProbeConfig
from probes.tables import Rows, cell, cells, percent_axis, plot_intervals
from probes.tasks.retry_upon_regret import continue_texts
from probes.tasks.task import Models, Summary, task_of
from synth.documents import Documents
from synth.judge.checker import MALFORMED, Verdicts, check_responses
from synth.kernel.progress import Progress
from synth.kernel.rng import key
from synth.oracle.next_token import EXACT, Oracle
from synth.problem.arrays import Problems
from synth.ranges import AboveZero, Filled, Positive, Range, settings
from synth.world.vocabulary import EOS, World

ORACLE, TEACHER, STUDENT = "oracle", "teacher", "student"
SOUND, BROKEN = "sound", "broken"

Tokens = Sequence[Sequence[int]]


@settings
class Settings:
    """Wrong answers of `student` are cut at each of `cuts` and finished by `model`, the teacher, `samples` times.

    cuts: places in a response, as shares of its length."""

    student: str | None = None  # whose mistakes are continued
    problems: Positive = 300  # how many
    samples: Positive = 2  # of each problem
    temperature: AboveZero = 1.0  # of the samples
    cuts: Annotated[tuple[Annotated[float, Range(0, below=1)], ...], Filled] = (0.2, 0.4, 0.6, 0.8)


def run(config: ProbeConfig, c: Settings, models: Models, log: ResumeLog) -> dict[str, Any]:
    """Tables `success`, `advantage` and `perplexity`."""
    student, teacher = models["recovery.student"], models["model"]
    source = config.data.source("test", "recovery")
    documents = source.documents(range(c.problems))
    budget = min(response_budget(models[setting], documents, setting) for setting in ("recovery.student", "model"))
    answers = sample_responses(student, documents, source.world, log, "wrong answers", budget, config.seed)
    wrong = np.flatnonzero(~answers.verdicts.right)
    oracle = Oracle(source.spec) if source.spec.solution_order == "uniform" else None
    writers = {TEACHER: teacher, STUDENT: student} | ({ORACLE: oracle} if oracle else {})
    tables: dict[str, Rows] = {"success": [], "advantage": [], "perplexity": []}
    for cut in c.cuts if len(wrong) else ():
        for name, rows in _at_cut(config.seed, c, cut, answers, wrong, writers, source.world, budget).items():
            tables[name] += [{"cut": cut} | row for row in rows]
    return {"tables": tables, "notes": [f"{len(wrong)} of {c.problems} greedy answers are wrong"]}


def _at_cut(
    seed: int, c: Settings, cut: float, answers: Responses, wrong: np.ndarray, writers: dict[str, Any], world: World,
    budget: int,
) -> dict[str, Rows]:  # fmt: skip
    """Rows of all three tables for wrong answers of which the share `cut` is kept."""
    documents, oracle = answers.documents, writers.get(ORACLE)
    prefixes = [answers.tokens[i][: int(cut * len(answers.tokens[i]))] for i in wrong]
    sound = is_sound(oracle, documents.problems.take(wrong), prefixes) if oracle else None
    found, success = {}, []
    for name, writer in writers.items():
        row = np.repeat(np.arange(len(wrong)), c.samples if name != ORACLE else 1)
        starts, problems = [prefixes[i] for i in row], wrong[row]
        ends = finish(writer, documents, problems, starts, budget, c.temperature, key(seed, name, int(100 * cut)))
        texts = [[*start, *end] for start, end in zip(starts, ends, strict=True)]
        verdicts = check_responses(documents.problems.take(problems), world, texts)
        clean = clean_behind(verdicts, np.array([len(start) for start in starts]))
        found[name] = {"right": verdicts.right, "answer": verdicts.answer_right, "clean": clean}
        bootstrap = ClusterBootstrap(problems)
        for state, among in by_soundness(sound, row).items():
            rates = {column: bootstrap.rate(value, among) for column, value in found[name].items()}
            success.append({"prefix": state, "finished_by": name} | cells(rates))
    row, ahead = np.repeat(np.arange(len(wrong)), c.samples), []
    for state, among in by_soundness(sound, row).items():
        pairs = {column: (right, found[STUDENT][column]) for column, right in found[TEACHER].items()}
        gain = {column: advantage(*pair, among, wrong[row]) for column, pair in pairs.items()}
        ahead.append({"prefix": state} | cells(gain))
    prompts = [documents.prompt_tokens(i).tolist() for i in wrong]
    perplexity = by_perplexity(writers[TEACHER], prompts, prefixes, row, found[TEACHER]["answer"], wrong[row])
    return {"success": success, "advantage": ahead, "perplexity": perplexity}


def by_soundness(sound: np.ndarray | None, row: np.ndarray) -> dict[str, np.ndarray]:
    """Which endings, of prefixes `row`, go on from a sound prefix and which from a broken one; `all` if not known."""
    if sound is None:
        return {"all": np.ones(len(row), bool)}
    return {SOUND: sound[row], BROKEN: ~sound[row]}


def advantage(teacher: np.ndarray, student: np.ndarray, among: np.ndarray, problem: np.ndarray) -> Estimate:
    """The teacher's rate less the student's, over the same endings, with its interval over problems."""
    return ClusterBootstrap(problem).ratio((teacher.astype(float) - student) * among, among, within=(-1, 1))


def is_sound(oracle: Oracle, problems: Problems, prefixes: Tokens) -> np.ndarray:
    """bool[N]: whether the generator could have written the prefix."""
    exact = oracle(problems, prefixes)
    return exact.status[exact.rows[1:] - 1] == EXACT


def finish(
    writer: GPT | Oracle, documents: Documents, rows: np.ndarray, starts: Tokens, budget: int, temperature: float,
    seed: int,
) -> list[list[int]]:  # fmt: skip
    """What the writer puts behind each start of an answer to documents[rows], up to `budget` tokens with the start."""
    if isinstance(writer, Oracle):
        return likeliest_endings(writer, documents.problems.take(rows), starts, budget)
    texts = [[*documents.prompt_tokens(i).tolist(), *start] for i, start in zip(rows, starts, strict=True)]
    ends: list[list[int]] = [[] for _ in texts]
    order = np.argsort([len(start) for start in starts], kind="stable")
    for k in Progress(range(0, len(order), BATCH), desc="endings", unit=" batches"):
        block = order[k : k + BATCH]
        longest = max(len(texts[i]) for i in block)
        most = min(budget - min(len(starts[i]) for i in block), writer.config.context - longest + 1)
        settings = {"temperature": temperature, "seed": (seed + k) % 2**63}
        for i, end in zip(block, continue_texts(writer, [texts[i] for i in block], most, **settings), strict=True):
            ends[i] = end[: budget - len(starts[i])]
    return ends


def likeliest_endings(oracle: Oracle, problems: Problems, starts: Tokens, budget: int) -> list[list[int]]:
    """The oracle's likeliest ending of each start, token by token; it stops where nothing is determined any more."""
    texts, unfinished = [list(map(int, start)) for start in starts], list(range(len(starts)))
    while unfinished:
        exact = oracle(problems.take(np.array(unfinished)), [texts[i] for i in unfinished])
        ahead = []
        for j, i in enumerate(unfinished):
            at = exact.rows[j + 1] - 1
            entries = slice(exact.starts[at], exact.starts[at + 1])
            if len(exact.ids[entries]) == 0:
                continue
            texts[i].append(int(exact.ids[entries][exact.probs[entries].argmax()]))
            if texts[i][-1] != EOS and len(texts[i]) < budget:
                ahead.append(i)
        unfinished = ahead
    return [text[len(start) :] for text, start in zip(texts, starts, strict=True)]


def clean_behind(verdicts: Verdicts, cut: np.ndarray) -> np.ndarray:
    """bool[N]: no mistake in the steps that begin at the cut or behind it, and an end."""
    mistake_NS = (verdicts.kind >= MALFORMED) & (verdicts.start >= cut[:, None])
    return ~mistake_NS.any(1) & (verdicts.ending == 0)


def by_perplexity(
    teacher: GPT, prompts: Tokens, prefixes: Tokens, row: np.ndarray, success: np.ndarray, problem: np.ndarray
) -> Rows:
    """Success by quartile of the teacher's perplexity on the prefix; prefixes of no token are left out."""
    there = np.array([n for n, prefix in enumerate(prefixes) if len(prefix)], dtype=np.int64)
    if len(there) < 4:
        return []
    logp = response_logprobs(teacher, [prompts[n] for n in there], [prefixes[n] for n in there])
    perplexity = np.exp([-logp_R.mean() for logp_R in logp])
    quartile = np.full(len(prefixes), -1)
    quartile[there[np.argsort(perplexity, kind="stable")]] = np.arange(len(there)) * 4 // len(there)
    bootstrap, rows = ClusterBootstrap(problem), []
    for q in range(4):
        inside = perplexity[quartile[there] == q]
        ends = {"perplexity_from": float(inside.min()), "perplexity_to": float(inside.max())}
        rows.append({"quartile": q + 1, **ends, "answer": cell(bootstrap.rate(success, quartile[row] == q))})
    return rows


def figure(summary: Summary) -> CaptionedFigure:
    """Right answers by cut, from sound and from broken prefixes; by the teacher's perplexity."""
    drawn = Figure(figsize=(10.5, 3.8), layout="constrained")
    *by_cut, by_quartile = drawn.subplots(1, 3, sharey=True)
    for ax, state in zip(by_cut, (SOUND, BROKEN), strict=True):
        rows = [row for row in summary["tables"]["success"] if row["prefix"] in (state, "all")]
        for name, color, marker in ((TEACHER, BLUE, "o"), (STUDENT, GREY, "s"), (ORACLE, GREEN, "^")):
            shown = [row for row in rows if row["finished_by"] == name and row["answer"]["n"]]
            plot_intervals(ax, shown, "cut", "answer", color=color, marker=marker, label=name)
        counts = [row["answer"]["n"] for row in rows if row["finished_by"] == TEACHER]
        n = f"\nn = {', '.join(map(str, counts))}" if counts else ""
        ax.set(title=f"answer right, from {state} prefixes{n}", xlabel="share of the wrong answer kept")
        ax.set(ylim=(-0.03, 1.03))
        if ax.lines:
            ax.legend()
    percent_axis(*by_cut)
    rows = summary["tables"]["perplexity"]
    for cut in dict.fromkeys(row["cut"] for row in rows):
        shown = [row for row in rows if row["cut"] == cut]
        label = f"cut at {cut:.0%}, n = {sum(row['answer']['n'] for row in shown)}"
        plot_intervals(by_quartile, shown, "quartile", "answer", marker="o", label=label)
    by_quartile.set(title="by the teacher's perplexity", xlabel="quartile, least surprised first", xticks=range(1, 5))
    if rows:
        by_quartile.legend(fontsize=8)
    caption = "Wrong greedy answers of the student to held-out problems; 95% bootstrap intervals over problems."
    return CaptionedFigure(drawn, "Recovery from a student's prefixes", caption)


TASK = task_of("recovery", Settings, run, figure, needs=("student",))
