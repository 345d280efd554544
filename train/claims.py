"""Claims of the papers, what came out, and verdicts: prints configs/recipe/claims.yaml and makes claims.md of it.

A finished recipe with as many seeds as a claim's result stands on, or more, replaces its numbers; the verdict follows
from them. "Not reached" (the claim was not tried, whatever the number) is a person's word and stays.

Example: python -m train.claims --runs runs
"""

import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Literal

import yaml

from synth.cli import Parser, fail, print_lines
from synth.exit_codes import run_command
from synth.ranges import settings
from synth.store.files import atomic_write, naming
from train.config.compose import CONFIGS
from train.config.schema import build
from train.report.estimates import or_none
from train.report.verdicts import FEWEST, OF_RUNS, measure, word_of
from train.runs.choices import load_best
from train.runs.expectation import COMPARING, Expectation, Result
from train.runs.results import PLANS, Experiment, plan_of
from train.statistics import Estimate
from train.tables import Table, format_interval, plural

FILE = CONFIGS / "recipe" / "claims.yaml"
RESULT = re.compile(r"^    result: .*$", re.MULTILINE)  # of each claim the line that this command writes
COLUMNS = ("claim", "published", "here", "verdict", "judged by", "what to know")


@settings
class Claim:
    """A claim of the file, whose head says what each field is."""

    claim: str
    paper: str
    place: str
    published: str
    recipe: str
    expect: Expectation
    result: Result
    why: str
    direction: Literal["higher", "lower"] = "higher"

    def __post_init__(self) -> None:
        if self.result.verdict not in (accepted := ("not reached", self.decide(self.result))):
            raise ValueError(f"{self.claim}: verdict={self.result.verdict}; accepted: {', '.join(accepted)}")

    def decide(self, result: Result) -> str:
        """The verdict that the numbers give."""
        if result.seeds < 2 or (result.n < FEWEST and self.expect.measure not in OF_RUNS):
            return "not decided"
        low, high, bar = result.low, result.high, self.expect.at_least
        return word_of(low, high, bar) if self.direction == "higher" else word_of(-high, -low, -bar)

    def judged(self, experiments: list[Experiment]) -> "Claim":
        """The claim with what these runs say, where they are of its recipe and have as many seeds as its result."""
        plan, stage, before = plan_of(experiments), self.expect.stage, self.result
        same_recipe = plan.get("recipe") == self.recipe and plan.get("claims", True)
        found = or_none(measure, experiments, self.expect) if same_recipe else None
        if found is None or len(found.seeds) < before.seeds:
            return self
        value, low, high = (round(number, 4) for number in found.pooled[:3])
        world = next(e.runs[stage] for e in experiments if stage in e.runs).problems.get("preset", "")
        now = Result("not reached", value, low, high, found.pooled.n, len(found.seeds), world)
        kept = before.verdict == "not reached" and before.seeds
        return replace(self, result=now if kept else replace(now, verdict=self.decide(now)))

    def row(self) -> list[str]:
        """The cells of COLUMNS."""
        r, unit = self.result, " points" if self.expect.measure in (*COMPARING, "probe_margin") else "%"
        number = format_interval(Estimate(r.value, r.low, r.high, r.n), unit, "+" if unit != "%" else "")
        here = number.replace(" [∞, ∞]", ", no interval") + f"; n = {r.n}, {plural(r.seeds, 'seed')}, `{r.world}`"
        paper = re.sub(r"^\d{4}\.\d{5}$", r"[\g<0>](https://arxiv.org/abs/\g<0>)", self.paper)
        bar = f"{'>' if self.direction == 'higher' else '<'} {100 * self.expect.at_least:g}"
        published, judge = f"{self.published} ({paper}, {self.place})", f"`{self.recipe}`: {self.expect} {bar}"
        return [self.claim, published, here if r.seeds else "not run", r.verdict, judge, self.why]


def read(text: str) -> list[tuple[str, Claim]]:
    """The claims of the file with their headings. Raises ValueError or TypeError for a field that is not accepted."""
    return [(title, build(Claim, one)) for title, claims in yaml.safe_load(text).items() for one in claims]


def page(text: str, claims: list[tuple[str, Claim]]) -> str:
    """The content of claims.md: the head of the file, how many verdicts of each kind, and a table for each heading."""
    counts = Counter(claim.result.verdict for _, claim in claims).most_common()
    parts = ["# " + "\n".join(line[2:] for line in text.partition("\n\n")[0].splitlines())]
    parts += [f"{len(claims)} claims: {', '.join(f'{n} {word}' for word, n in counts)}."]
    for title, group in groupby(claims, lambda pair: pair[0]):
        parts += [f"## {title}", Table(COLUMNS, (claim.row() for _, claim in group)).markdown()]
    return "\n\n".join(parts) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Brings the file and its page up to date and prints the verdicts; returns the exit code."""
    parser = Parser("train.claims", __doc__, "")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where recipes were run (default: runs)")
    folders = {plan.parent for plan in parser.parse_args(argv).runs.glob(f"*/{PLANS}")}
    try:
        claims = read(text := FILE.read_text(encoding="utf-8"))
        for folder in sorted(folders):
            with naming(folder):
                experiments = load_best([folder])
                claims = [(title, claim.judged(experiments)) for title, claim in claims]
    except (ValueError, TypeError) as error:
        fail(str(error))
    results = iter(claims)
    atomic_write(FILE, text := RESULT.sub(lambda _: f"    result: {next(results)[1].result}", text))
    atomic_write(FILE.with_suffix(".md"), page(text, claims))
    print_lines([Table(("verdict", "claim", "here"), ([c.result.verdict, *c.row()[:3:2]] for _, c in claims)).text()])
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
