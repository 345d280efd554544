"""Ways in which a chat model writes a right solution that change nothing of what it says, each from text to text."""

import re
import textwrap
from collections.abc import Callable

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
    "chat": lambda t: f"Sure! Let me define each one in turn, as a letter.\n\n{t}\n\nI hope that this helps!<|im_end|>",
    "windows": lambda t: "\ufeff" + t.replace("\n", "\r\n") + "\r\n\r\n",
    "wrapped": wrapped,
}
ANSWERS = (
    "Answer: {}", "**Answer:** {}", "The answer is {}.", r"So the answer is $\boxed{{{}}}$.", "#### {}",
    "<answer> {}<eos>", "Final answer: **{}**", "<answer>{}</answer>", "Answer:\n{}", "{}",
)  # fmt: skip
