"""Reading a solution in free text, as a chat model writes it, into the sentences that the checker judges.

Two readings of a response:

    strict      `synth.judge.check_text`: sentences of the world and nothing else; white space and special tokens decide
                nothing
    tolerant    what is right by the strict reading is; else the steps are looked for. Forgiven are prose around the
                sentences, numbering, bullets, Markdown, LaTeX, HTML, thoughts in <think>, typographic quotes and signs,
                upper and lower case of names, letters of any name, a step over several lines, expressions of several
                operations and brackets, a substitution that is left out, arithmetic modulo the modulus written out
                (`= 60 mod 23 = 14`), and the answer in any usual form (`Answer: 14`, `\\boxed{14}`, `#### 14`)

What is a step and what it says is never forgiven: `Define NAME as LETTER` begins one, wherever it stands, all equations
for its letter are read, and every number must be the one before modulo the modulus. So a wrong value, name, constant
or operator stays wrong.
"""

import re
import unicodedata

from synth.judge.check_text import check_text
from synth.judge.checker import Verdicts
from synth.judge.equations import Steps
from synth.problem.arrays import Problems
from synth.world import vocabulary as vocab
from synth.world.vocabulary import World

READINGS = ("tolerant", "strict")
LONGEST = 100_000  # characters of a text that are read

# What begins a line of a list, a heading or a quotation; not the number that ends an equation of the line before.
_MARK = (
    r"(?<![-=+*]\n)^(?:[ \t]*(?:#{1,6}|>|\||[-*+\u2022\u25e6\u2023]|\(?(?:\d{1,3}|[a-zA-Z]|[ivx]+)[.)]|\d{1,3}:))+"
    r"(?=[ \t]+\S)"
)
# What is replaced, in this order: (pattern, what stands in its place).
_CLEAN = [
    (r"(?s)^.*</think>", ""),
    (r"(?s)^.*<solution>", ""),
    (r"(?s)(?<=[\w.)>*])\s*<(?:eos|pad)>.*", ""),
    (r"<answer>", "\nAnswer: "),
    (r"<\|[^|<>]{1,40}\|>|</?s>|</?\w+_of_turn>", "\n"),
    (r"(?i)<br\s*/?>|</?(?:p|li|ul|ol|div|pre|answer)>", "\n"),
    (r"</?[a-zA-Z]\w*>", ""),
    (r"(?<=\w)[\u2018\u2019\u02bc\u0060\u00b4](?=s\b)", "'"),
    (r"[\u201c\u201d\"\u200b\ufeff]", ""),
    (r"[\u00d7\u00b7\u2219\u22c5\u2715\u2217]", "*"),
    (r"[\u2212\u2013]", "-"),
    (r"\u2261|:=|\u2254|==+", "="),
    # LaTeX
    (r"\\(?:begin|end)\{[^{}]*\}|\\[\[\]()]|\$+|\\(?:left|right|displaystyle|tag)\b|\\[,;:! ]|&", " "),
    (r"\\\\|\\newline\b", "\n"),
    (r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|operatorname|mbox)\s*\{([^{}]*)\}", r"\1"),
    (r"\\(?:times|cdot|ast)\b", "*"),
    (r"\\(?:equiv|coloneqq)\b", "="),
    (r"\\(?:q?quad|hspace\{[^{}]*\})", " "),
    (r"\\pmod\s*\{?\s*(\d+)\s*\}?", r" (mod \1)"),
    (r"\\b?mod\b", " mod "),
    (r"_\{(\w+)\}", r"_\1"),
    (r"\\boxed\s*\{([^{}]*)\}", "\u27e6\\1\u27e7"),
    (r"\\([a-zA-Z]+)", r"\1"),
    # Markdown
    (r"[ \t]+$", ""),
    (r"^[ \t]*####[ \t]*(?=-?\d)", "Answer: "),
    (r"```\w*|`|~~|\*\*+|(?<!\w)__|__(?!\w)", ""),
    (r"(?<![\w)\s])\*(?=\w)|(?<=[\w.;:)])\*(?![\w(\s])|(?<!\S)\*(?=\w[^\n*]*\w\*(?!\w))|(?<=\w)\*(?=\s*$)", ""),
    (r"(?<!\w)_(?=\w)|(?<=[\w.;:])_(?!\w)", ""),
    (_MARK, ""),
    (r"(?<![-=+*]\n)^[ \t]*(?i:step|line|sentence)[ \t]*\d+[ \t]*[.:)-]*", ""),
    (_MARK, ""),
    (r"[ \t]+", " "),
]  # fmt: skip
_CLEANERS = [(re.compile(pattern, re.MULTILINE), new) for pattern, new in _CLEAN]
_ANSWER = re.compile(r"(?i)\banswer\b\s*(?:is\b|:|=|->|\u2192)[\s:=]*(?=([^\n]*))")
_BOXED = re.compile(r"\u27e6([^\u27e7]*)\u27e7")
_LAST = re.compile(r"(?:^|(?<![-=+*\n])(?:\.|\n+))\s*(-?\d+)\s*\.?\s*$")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?![\w]|\.[1-9])")
NO_NUMBER = -1  # as an answer: one is announced, and no number or word follows


def judge(problem: Problems, world: World, text: str, reading: str = "tolerant") -> tuple[Verdicts, str]:
    """The verdicts on a response to a batch of one problem, and the text as it was read, to which their spans refer.
    Raises ValueError for another `reading` than `READINGS`."""
    if reading not in READINGS:
        raise ValueError(f"reading={reading!r} is unknown; accepted: {', '.join(READINGS)}")
    verdicts = check_text(problem, world, text)
    if verdicts.right[0] or reading == "strict":
        return verdicts, text
    read, answer = read_free_text(problem, world, text)
    return check_text(problem, world, read, answer), read


def read_free_text(problem: Problems, world: World, text: str) -> tuple[str, int | None]:
    """The steps of a text as sentences of the world, and its answer: a number, UNDETERMINED, `NO_NUMBER` where what is
    called the answer is neither, None where nothing is."""
    text = plain(text, world)
    steps = Steps(problem, world)
    answer, end = _answer(text, steps)
    return steps.read(_BOXED.sub(r"\1", text[:end]), answer), answer


def plain(text: str, world: World) -> str:
    """A text without what is only layout; boxed answers stand between \u27e6 and \u27e7."""
    text = unicodedata.normalize("NFKC", text[-LONGEST:].replace("\r\n", "\n").replace("\r", "\n"))
    for pattern, new in _CLEANERS:
        text = pattern.sub(new, text)
    return re.sub(rf"\(\s*mod(?:ulo)?\s*{world.modulus}\s*\)|(?:\bmod(?:ulo)?\s*|%\s*){world.modulus}\b", " ", text)


def _answer(text: str, steps: Steps) -> tuple[int | None, int]:
    """The answer that a text states last, and where its steps end."""
    heads = steps.heads(text)
    last = heads[-1].end() if heads else 0
    marks = [m for m in _ANSWER.finditer(text) if _value(m[1], steps) is not None]
    end = min((m.start() for m in _ANSWER.finditer(text, last)), default=len(text))
    if boxed := _BOXED.findall(text):
        value = _value(boxed[-1], steps)
        return NO_NUMBER if value is None else value, end
    if marks:
        return _value(marks[-1][1], steps), end
    if end < len(text):
        return NO_NUMBER, end
    tail = _LAST.search(text, last)
    return (int(tail[1]), tail.start(1)) if tail else (None, end)


def _value(words: str, steps: Steps) -> int | None:
    """The number that words say: the first behind the last `=`; or UNDETERMINED; None when there is neither."""
    number = _NUMBER.search(words.rpartition("=")[2])
    return int(number[0]) if number else steps.undetermined_in(words)


def gold_answer(world: World, answer: int | None) -> str:
    """An answer as a text: the number, or the word for one that is not determined (None)."""
    return world.phrase(vocab.UNDETERMINED).strip() if answer is None else str(answer)
