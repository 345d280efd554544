"""The log-probability beside every solution token is the generator's own: frequencies, sums and entropies agree.

One problem is kept and only the randomness of its solution is redrawn, thousands of times. Then the frequency of each
whole solution, and of each next token after each prefix, is compared with exp(logp), and with a product written from
the definition.
"""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from scipy import stats

from synth.dataset import Source
from synth.documents import Documents
from synth.problem.arrays import N_NEEDED, Problems, dependencies
from synth.spec import Spec, preset
from synth.world import vocabulary as W

DRAWS = 6000
SMALL = {"ops": 4, "edges": 5, "letters": 5}
SETTINGS = {
    "order": preset("tiny", ops=7, edges=10, letters=7, max_width=4),
    "letters": preset("tiny", letter_order="random", **SMALL),
    "retry": preset("tiny", retry_rate=0.3, **SMALL),
    "weak": preset("tiny", retry_rate=0.4, retry_kind="weak", **SMALL),
    "miss": preset("tiny", retry_rate=0.3, retry_kind="miss", **SMALL),
    "slip": preset("tiny", retry_rate=0.3, retry_kind="slip", letter_order="random", ops=2, edges=4, letters=3),
    "uncorrected": preset("tiny", modulus=3, retry_rate=0.3, retry_kind="slip", uncorrected=0.4, **SMALL),
    "standing": preset("tiny", modulus=3, retry_rate=0.5, retry_kind="slip", uncorrected=1.0, **SMALL),
    "long": preset("tiny", shortest=False, ops=2, edges=3, max_depth=2),
    "long weak": preset("tiny", shortest=False, retry_rate=0.4, retry_kind="weak", ops=3, edges=4),
    "missing": preset("tiny", missing_premise=1.0, ops=9, edges=12, max_width=4),
    "missing retry": preset("tiny", missing_premise=1.0, retry_rate=0.15, ops=4, edges=4),
    "all": preset("tiny", retry_rate=0.2, letter_order="random", ops=3, edges=4, letters=4),
}
every_setting = pytest.mark.parametrize("name", SETTINGS)
REDRAWN: dict = {}


def redraw(source: Source, problem: Problems, count: int, stream: str) -> Documents:
    """`count` documents of one problem, each with solution randomness of its own."""
    return source.solve(problem.repeat(count), stream)


def ways(problem: Problems, shortest: bool) -> int:
    """Number of orders in which the parameters (the needed ones, if `shortest`) can be defined up to the query."""
    inside = problem.needed[0] if shortest else problem.exists[0]
    graph = {int(s): set(dependencies(problem, int(s))) for s in np.flatnonzero(inside)}

    def count(done: frozenset) -> int:
        options = [s for s in graph if s not in done and graph[s] <= done and problem.query[0] not in done]
        return sum(count(done | {s}) for s in options) if options else 1

    return count(frozenset())


def redrawn(name: str) -> tuple[Source, Problems, Documents]:
    """A problem with many orders (but few enough to see each often), and its solutions."""
    if name not in REDRAWN:
        source = Source(SETTINGS[name], 7, "all")
        problems = source.problems(range(300))
        best = max(range(300), key=lambda i: (min(ways(problems.take(i), True), 24), i))
        problem = problems.take(best)
        REDRAWN[name] = source, problem, redraw(source, problem, DRAWS, name)
    return REDRAWN[name]


def whole(documents: Documents) -> tuple[Counter, dict[bytes, float]]:
    """How often each solution occurs, and its log-probability (the same each time)."""
    counts: Counter = Counter()
    priced: dict[bytes, float] = {}
    for i in range(len(documents)):
        text = documents.response(i).tobytes()
        logp = float(documents.logp[documents.offsets[i] : documents.offsets[i + 1]].sum())
        counts[text] += 1
        assert math.isclose(priced.setdefault(text, logp), logp, rel_tol=1e-12)
    return counts, priced


def law_by_definition(spec: Spec, documents: Documents, i: int) -> float:
    """Log-probability of solution i: uniform next step, mistakes at the rate among their candidates, unused letters."""
    problem = documents.problems.take(i)
    graph = {int(s): set(dependencies(problem, int(s))) for s in np.flatnonzero(problem.exists[0])}
    span = slice(documents.offsets[i], documents.offsets[i + 1])
    phrases = spec.load_world().phrases
    tokens, steps, slots, mistakes = (getattr(documents, f)[span] for f in ("tokens", "step", "param", "mistake"))
    sentences = []  # (slot, whether wrong, whether taken back, letters that it uses)
    for k in np.unique(steps[documents.segment[span] == 3]):
        here = (documents.segment[span] == 3) & (steps == k) & (slots >= 0)
        if here.any():
            back, letters = phrases[W.BACK] in tokens[here], np.isin(tokens[here], phrases[[W.SO, W.SEMICOLON]]).sum()
            sentences.append((int(slots[here][0]), bool(mistakes[here][0]), back, int(letters)))
    total, done, tried, used = 0.0, set(), set(), 0
    for place, (slot, wrong, back, letters) in enumerate(sentences):
        slip = spec.retry_kind == "slip"
        coming = next(s for s, w, *_ in sentences[place:] if not w or slip)
        candidates = {s for s in graph if s not in done and s not in tried and s != coming}
        if slip:
            candidates = set()
        elif spec.retry_kind == "retry":
            candidates = {s for s in candidates if not graph[s] <= done}
        elif spec.retry_kind == "weak":
            candidates = {s for s in candidates if problem.needed[0, s]}
        if wrong and not slip:
            total += math.log(spec.retry_rate / len(candidates))
            tried.add(slot)
            continue
        if candidates:
            total += math.log(1 - spec.retry_rate)
        ready = [s for s in graph if s not in done and graph[s] <= done]
        total -= math.log(sum(1 for s in ready if problem.needed[0, s] or not spec.shortest))
        if slip:
            total += math.log(spec.retry_rate / (spec.modulus - 1) if wrong else 1 - spec.retry_rate)
        if slip and wrong:
            total += math.log(1 - spec.uncorrected if back else spec.uncorrected)
        if spec.letter_order == "random":
            total -= sum(math.log(spec.letters - used - k) for k in range(letters))
        if not back:
            done.add(slot)
            used += letters
        tried = set()
    return total


def agreement(counts: dict, probs: dict) -> float:
    """p-value of counts under a distribution; outcomes expected fewer than ten times, seen or not, are one cell."""
    total = sum(counts.values())
    cells = [k for k, p in probs.items() if total * p >= 10]
    seen = [counts[k] for k in cells]
    expected = [total * probs[k] for k in cells]
    rest, rest_expected = total - sum(seen), total - sum(expected)
    if rest_expected > 1e-6:
        seen.append(rest)
        expected.append(rest_expected)
    else:
        assert rest == 0
    if len(seen) == 1:
        return 1.0
    return float(stats.chi2.sf(sum((s - e) ** 2 / e for s, e in zip(seen, expected, strict=True)), len(seen) - 1))


@every_setting
def test_frequencies_of_whole_solutions(name):
    counts, priced = whole(redrawn(name)[2])
    probabilities = {text: math.exp(logp) for text, logp in priced.items()}
    assert sum(p >= 10 / DRAWS for p in probabilities.values()) > 5
    assert sum(probabilities.values()) < 1 + 1e-9
    assert agreement(counts, probabilities) > 1e-4


@every_setting
def test_log_probabilities_follow_the_definition(name):
    source, _, documents = redrawn(name)
    for i in range(0, DRAWS, 40):
        logp = documents.logp[documents.offsets[i] : documents.offsets[i + 1]].sum()
        assert math.isclose(logp, law_by_definition(source.spec, documents, i), rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize("name", ["order", "letters", "standing", "long", "missing"])
def test_probabilities_of_all_solutions_sum_to_one(name):
    """So many draws see every order, and every order with every choice of letters, or of results right and wrong."""
    source, problem, documents = redrawn(name)
    letterings = math.perm(source.spec.letters, int(problem.ops[0])) if name == "letters" else 1
    results = 3 ** int(problem.scalars[0, N_NEEDED]) if name == "standing" else 1
    counts, priced = whole(documents)
    assert len(counts) == ways(problem, source.spec.shortest) * letterings * results > 5
    assert math.isclose(sum(map(math.exp, priced.values())), 1.0, rel_tol=1e-9)


@every_setting
def test_next_token_after_every_prefix(name):
    """The distribution depends on what is written: each continuation of a prefix has one price, its frequency."""
    _, _, documents = redrawn(name)
    following: dict[bytes, Counter] = defaultdict(Counter)
    price: dict[tuple[bytes, int], float] = {}
    for i in range(0, DRAWS, 2):
        tokens = documents.response(i)
        logp = documents.logp[documents.offsets[i] + documents.prompt[i] : documents.offsets[i + 1]]
        for n, token in enumerate(tokens):
            prefix = tokens[:n].tobytes()
            following[prefix][int(token)] += 1
            assert math.isclose(price.setdefault((prefix, int(token)), logp[n]), logp[n], rel_tol=1e-9, abs_tol=1e-12)
    tested = []
    for prefix, counts in following.items():
        probs = {token: math.exp(price[prefix, token]) for token in counts}
        unseen = 1.0 - sum(probs.values())
        assert unseen > -1e-9
        if len(counts) == 1 and unseen < 1e-9:
            continue  # a token that is determined has probability one
        if counts.total() >= 200:
            tested.append(agreement(counts, probs))
    assert len(tested) > 3
    assert min(tested) > 1e-4 / len(tested)


@every_setting
def test_mean_surprise_is_the_entropy(name):
    """Mean of -logp against the plug-in entropy of the frequencies (Miller and Madow's correction), nats a solution."""
    counts, priced = whole(redrawn(name)[2])
    frequency = np.array(list(counts.values())) / DRAWS
    plug_in = -(frequency * np.log(frequency)).sum() + (len(counts) - 1) / (2 * DRAWS)
    surprise = np.array([-priced[t] for t in counts])
    mean = (frequency * surprise).sum()
    spread = math.sqrt((frequency * (surprise - mean) ** 2).sum() / DRAWS)
    rare = sum(1 for c in counts.values() if c < 5) / DRAWS  # what the correction cannot see
    assert abs(mean - plug_in) < 4 * spread + 4 * rare + 0.01


@pytest.mark.parametrize("name", ["order", "weak"])
def test_floor_of_fresh_documents_is_the_mean_entropy_of_their_problems(name):
    """The number a user reads as the entropy floor, against entropies of the same problems from redrawn solutions."""
    spec = SETTINGS[name]
    source = Source(spec, 3, "train")
    fresh = source.documents(range(1500))
    per_document = np.add.reduceat(-fresh.logp, fresh.offsets[:-1])
    entropies = []
    for i in range(0, 1500, 30):
        counts, _ = whole(redraw(source, fresh.problems.take(i), 400, f"{name}/{i}"))
        frequency = np.array(list(counts.values())) / 400
        entropies.append(-(frequency * np.log(frequency)).sum() + (len(counts) - 1) / 800)
    error = math.hypot(per_document.std() / math.sqrt(1500), np.std(entropies) / math.sqrt(len(entropies)))
    assert abs(per_document.mean() - np.mean(entropies)) < 4 * error
