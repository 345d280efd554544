"""Rewards of free text: a right solution keeps its reward however it is written, and loses it with anything it says."""

import re
import textwrap
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synth.environment.rewards import score, text_of
from synth.environment.tasks import Environment, environment
from synth.judge.check_text import check_text
from synth.judge.checker import reason
from synth.judge.free_text import gold_answer, judge
from synth.problem.records import from_record, world_of

# Ways in which a chat model writes a right solution that change nothing of what it says, each from text to text.
GREEK = ("alpha", "beta", "gamma", "delta", "theta", "lambda_", "mu", "nu", "xi", "pi", "rho", "sigma", "tau", "omega")


def steps(text: str) -> list[str]:
    """The sentences of a solution in the world's own form."""
    return [f"{part.strip().removesuffix('.')}." for part in re.split(r"(?<=\.) ", text.strip()) if part.strip()]


def renamed(name) -> Callable[[str], str]:
    """The letters of the solution in other names."""

    def change(text: str) -> str:
        letters = list(dict.fromkeys(re.findall(r"(?<![\w'])([a-zA-Z])(?= =)", text)))
        new = {old: name(k) for k, old in enumerate(letters)}
        return re.sub(r"(?<![\w'])[a-zA-Z](?![\w'])", lambda m: new.get(m[0], m[0]), text)

    return change


def modulus_written_out(modulus: int):
    """`20 * 3 = 14` as `20 * 3 = 60 mod 23 = 14`."""

    def change(text: str) -> str:
        def result(match: re.Match[str]) -> str:
            a, sign, b, value = int(match[1]), match[2], int(match[3]), int(match[4])
            whole = {"+": a + b, "-": a - b, "*": a * b}[sign]
            if whole % modulus != value:
                return match[0]  # another result was planted
            middle = f"= {whole} mod {modulus} = {value}" if whole % 2 else f"= {whole} ≡ {value} (mod {modulus})"
            return f"{a} {sign} {b} {middle}"

        return re.sub(r"(\d+) ([-+*]) (\d+) = (\d+)", result, text)

    return change


def latex(text: str) -> str:
    """Equations between dollars, with LaTeX's signs and upright text."""
    return re.sub(
        r"(?<![\w'])([a-zA-Z]\w*) = ([^;.]*)",
        lambda m: (
            f"${m[0]}$".replace("*", r"\times").replace(" = ", " \\equiv ", 1) if "mod" not in m[0] else f"\\({m[0]}\\)"
        ),
        text,
    )


PROSE = (
    "First,",
    "Now we can go on.",
    "This gives the next one:",
    "We know this already, so:",
    "Let me think about it.",
)
LINES = {
    "numbers": lambda k, s: f"{k + 1}. {s}",
    "brackets": lambda k, s: f"({k + 1}) {s}",
    "steps": lambda k, s: f"**Step {k + 1}:** {s}",
    "heads": lambda k, s: f"### Step {k + 1}\n{s}",
    "bullets": lambda k, s: f"- {s}",
    "stars": lambda k, s: f"* {s}",
    "dots": lambda k, s: f"  • {s}",
    "bold": lambda k, s: f"**{s}**",
    "italic": lambda k, s: f"*{s}*",
    "code": lambda k, s: f"`{s}`",
    "quoted": lambda k, s: f"> {s}",
    "prose": lambda k, s: f"{PROSE[k % len(PROSE)]} {s}",
    "html": lambda k, s: f"<p>{s}</p>",
}
TEXTS = {
    "plain": lambda t: t,
    "bold names": lambda t: re.sub(r"Define (.+?) as (\w+)", r"Define **\1** as **\2**", t),
    "code letters": lambda t: re.sub(r"Define (.+?) as (\w+)", r"Define `\1` as `\2`", t),
    "lower case": lambda t: re.sub(r"Define (.+?) as ", lambda m: m[0].lower(), t),
    "curly quotes": lambda t: t.replace("'s", "\u2019s"),
    "split at clauses": lambda t: t.replace("; ", ";\n    "),
    "split at equals": lambda t: t.replace(" = ", "\n  = "),
    "indices": renamed(lambda k: f"x{k + 1}"),
    "subscripts": renamed(lambda k: f"x_{k + 1}"),
    "words": renamed(lambda k: f"value{chr(97 + k % 26)}{k}"),
    "greek": renamed(lambda k: GREEK[k % len(GREEK)] + str(k // len(GREEK) or "")),
    "signs": lambda t: t.replace(" * ", " \u00d7 ").replace(" - ", " \u2212 "),
    "latex": latex,
}


def wrapped(text: str) -> str:
    """Lines of at most 50 characters, none of which begins with an operator, which would be a bullet."""
    glued = re.sub(r" ([-+*]) ", "~\\1~", text)
    lines = (textwrap.fill(line, 50, break_on_hyphens=False, break_long_words=False) for line in glued.split("\n"))
    return "\n".join(lines).replace("~", " ")


WHOLE = {
    "plain": lambda t: t,
    "fence": lambda t: f"```text\n{t}\n```",
    "thoughts": lambda t: f"<think>Define it as x. Maybe 5? Answer: 3</think>\n{t}",
    "chat": lambda t: f"Sure! I will define each parameter's value as a letter.\n\n{t}\n\nI hope this helps!<|im_end|>",
    "windows": lambda t: "\ufeff" + t.replace("\n", "\r\n") + "\r\n\r\n",
    "wrapped": wrapped,
}
ANSWERS = (
    "Answer: {}", "**Answer:** {}", "The answer is {}.", r"So the answer is $\boxed{{{}}}$.", "#### {}",
    "<answer> {}<eos>", "Final answer: **{}**", "<answer>{}</answer>", "Answer:\n{}", "{}",
)  # fmt: skip

MED = environment("med", ops=7, edges=10, seed=1, split="test")
ENVIRONMENTS = {
    "med": MED,
    "tiny": environment("tiny", seed=2),
    "taken back": environment("med", ops=5, edges=8, retry_rate=0.4, seed=3),
    "unneeded steps": environment("med", ops=4, edges=8, shortest=False, seed=5),
}
# Letters that are LaTeX commands, and names in bold of another form, do not go together.
KINDS = st.tuples(
    st.sampled_from(sorted(TEXTS)), st.booleans(), st.sampled_from(sorted(LINES)), st.sampled_from(sorted(WHOLE)),
    st.sampled_from(ANSWERS),
)  # fmt: skip


def written(record: dict, text: str, kinds: tuple) -> str:
    """A solution's text in one of the forms of a chat model."""
    inside, written_out, lines, whole, answer = kinds
    parts = steps(text)
    change = modulus_written_out(record["modulus"]) if written_out else str
    body = TEXTS[inside](change(" ".join(parts))) if inside in ("indices", "subscripts", "words", "greek") else None
    parts = steps(body) if body else [TEXTS[inside](change(part)) for part in parts]
    listed = "\n".join(LINES[lines](k, part) for k, part in enumerate(parts))
    return WHOLE[whole](f"{listed}\n{answer.format(record['answer'])}")


@pytest.mark.parametrize("name", ENVIRONMENTS)
@given(kinds=KINDS, index=st.integers(0, 30))
@settings(max_examples=30)
def test_a_right_solution_is_right_however_it_is_written(name, kinds, index):
    record = ENVIRONMENTS[name][index].record
    text = written(record, record["solution"], kinds)
    got = score(record, text)
    assert (got.answer, got.steps, got.right) == (1.0, 1.0, True), (got, text)


def changed_numbers(record: dict, solution: str):
    for match in re.finditer(r"\d+", solution):
        value = (int(match[0]) + 1 + match.start() % (record["modulus"] - 1)) % record["modulus"]
        yield solution[: match.start()] + str(value) + solution[match.end() :]


def changed_names(record: dict, solution: str):
    names = [parameter["name"] for parameter in record["parameters"]]
    for k, match in enumerate(re.finditer("|".join(map(re.escape, sorted(names, key=len, reverse=True))), solution)):
        others = [name for name in names if name != match[0]]
        for other in (others[k % len(others)], "Nobody's Nothing"):
            yield solution[: match.start()] + other + solution[match.end() :]


@pytest.mark.parametrize("changes", [changed_numbers, changed_names])
@given(kinds=KINDS, index=st.integers(0, 8))
@settings(max_examples=8)
def test_one_changed_number_or_name_takes_the_reward(changes, kinds, index):
    record = MED[index].record
    for other in changes(record, record["solution"]):
        got = score(record, written(record, other, kinds))
        assert not got.right and got.steps < 1.0, (got, written(record, other, kinds))
        assert score(record, other + f" {record['answer']}").right is False


def test_an_answer_alone_earns_the_answer_alone():
    for index in range(5):
        task = MED[index]
        for form in ANSWERS:
            got = score(task.record, form.format(task.answer))
            assert (got.answer, got.steps, got.right) == (1.0, 0.0, False), form
            assert score(task.record, form.format((int(task.answer) + 1) % 23)).answer == 0.0
        assert score(task.record, f"It is {task.answer}, I think").answer == 0.0
    assert score(MED[0].record, "").answer == 0.0


def test_the_last_of_several_answers_counts():
    task = MED[0]
    wrong = (int(task.answer) + 1) % 23
    assert score(task.record, f"Answer: {wrong}. No! Answer: {task.answer}").answer == 1.0
    assert score(task.record, f"Answer: {task.answer}\nAnswer: {wrong}").answer == 0.0
    assert score(task.record, task.completion.rpartition("\n")[0] + f"\nAnswer: {wrong}").right is False
    assert score(task.record, f"Answer: {int(task.answer) + 23}").answer == 0.0


def test_the_step_reward_is_the_share_before_the_first_mistake():
    record = next(task.record for task in MED.tasks(0, 50) if task.record["ops"] == 7)
    parts, n = steps(record["solution"]), len(record["needed_order"])
    for k in range(len(parts) + 1):
        assert score(record, " ".join(parts[:k])).steps == pytest.approx(k / n)
        assert score(record, " ".join([*parts[:k], "Define Nobody's Nothing as q; so q = 3.", *parts[k:]])).steps == (
            pytest.approx(k / n if k < n else n / (n + 1))
        )


def test_the_strict_reading_is_the_checkers():
    for index in range(8):
        record = MED[index].record
        problem, world = from_record(record), world_of(record)
        for text in (record["solution"], f"Well. {record['solution']}", "Answer: 3", written(record, record["solution"],
                     ("latex", False, "bullets", "plain", "Answer: {}"))):  # fmt: skip
            verdicts, read = judge(problem, world, text, "strict")
            expected = check_text(problem, world, text)
            assert read == text and reason(verdicts, 0) == reason(expected, 0)
            assert score(record, text, "strict").right == bool(expected.right[0])
    with pytest.raises(ValueError, match="reading='lax' is unknown"):
        score(MED[0].record, "x", "lax")


def test_what_is_right_strictly_is_right_tolerantly_and_garbage_is_nothing():
    for text in ("\x00" * 9, "=" * 500, "((((" * 200, "Define " * 300, "1 + " * 400, "a = " * 300, "\\boxed{" * 50):
        got = score(MED[0].record, text)
        assert (got.answer, got.steps) == (0.0, 0.0)
    assert score(MED[0].record, [{"role": "assistant", "content": MED[0].completion}]).right
    assert text_of([{"content": [{"type": "text", "text": "a"}, {"text": "b"}]}]) == "ab" and text_of([]) == ""


def test_what_may_be_left_out_and_what_may_be_joined():
    """Several operations in one expression, brackets, and no substitution; and each of them with a wrong number."""
    two = r"; (\w) = (\w) \+ (\w) = (\d+) \+ (\d+) = \d+; so (\w) = \1 \+ (\w) = \d+ \+ (\d+) = (\d+)"
    record = next(t.record for t in MED.tasks(0, 200) if re.search(two, t.record["solution"]))
    found = re.search(two, record["solution"])
    _, a, b, x, y, k, c, z, value = found.groups()
    other = str((int(value) + 1) % 23)
    for form in (
        f"; so {k} = {a} + {b} + {c} = {x} + {y} + {z} = {{}}",
        f"; so {k} = ({a} + {b}) + {c} = {{}}",
        f". Then {k} = {a} + {b} + {c}. So {k} = {x} + {y} + {z} = {{}}",
    ):
        joined = record["solution"].replace(found[0], form)
        assert score(record, joined.format(value)).right, joined.format(value)
        assert not score(record, joined.format(other)).right


def test_a_missing_premise_is_said_in_any_form():
    env = environment("med", ops=5, edges=8, missing_premise=1.0, seed=4)
    for record in [task.record for task in env.tasks(0, 9) if task.record["missing"]]:
        word = gold_answer(env.source.world, None)
        for kinds in (("plain", False, "numbers", "chat", "Answer: {}"), ("bold names", True, "prose", "plain", "{}")):
            text = written(record | {"answer": word}, record["solution"], kinds)
            assert score(record, text).right, text
        assert not score(record, record["solution"].replace(" Undetermined.", "") + "\nAnswer: 3").right


def test_another_world_has_its_own_words():
    env = environment("med", world="voyage", ops=5, edges=8, names=4, subcategories=1, categorisations=1)
    for index in range(5):
        task = env[index]
        listed = "\n".join(f"{k}. **{part}**" for k, part in enumerate(steps(task.record["solution"])))
        assert score(task.record, f"Here it is:\n{listed}\nAnswer: {task.answer}").right
        number = re.search(r"equals (\d+)\.", listed)
        assert not score(task.record, listed.replace(number[0], f"equals {(int(number[1]) + 1) % 23}.")).right


def test_tasks_are_pure_and_examples_are_others():
    again = environment("med", ops=7, edges=10, seed=1, split="test")
    assert MED[3] == again[3] and MED[3] != MED[4]
    assert environment("med", ops=7, edges=10, seed=2, split="test")[3].record != MED[3].record
    text = MED[0].prompt[0]["content"]
    assert "modulo 23" in text and text.count("\nExample ") == 2 and text.count("Answer: ") == 3
    assert MED[0].record["problem"] in text and MED[0].record["solution"].strip() not in text
    assert "BACK" in ENVIRONMENTS["taken back"][0].prompt[0]["content"] and "BACK" not in text
    for layer in MED[0].record["layers"]:
        assert f"{layer['category']} ({', '.join(layer['items'])})" in text
    assert MED.at(ops=3).spec.ops == 3 and MED.at(ops=3).seed == MED.seed
    plain = Environment(MED.spec, 1, "test", 0, "text")[0]
    assert isinstance(plain.prompt, str) and "Example" not in plain.prompt
    native = Environment(MED.spec, 1, "test", 0, "native")[0]
    assert native.prompt.startswith("<problem>") and native.completion.endswith("<eos>")
    assert score(native.record, native.prompt + native.completion).right


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"form": "xml"}, "form='xml' is unknown; accepted: chat, text, native"),
        ({"reading": "lax"}, "reading='lax' is unknown"),
        ({"examples": -1}, "examples=-1"),
        ({"contexts": {"gold": 1.0}}, "contexts: a prompt has none"),
        ({"opps": 3}, "'opps' is no setting of a world"),
    ],
)
def test_a_wrong_setting_is_named(words, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        environment("tiny", **words)
    with pytest.raises(ValueError, match="'opps' is no setting"):
        MED.at(opps=1)
