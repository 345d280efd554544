"""`Spec`: the settings that determine the distribution of problems and documents, and the presets made of them.

A spec is plain data. The world it names, the law of the problems, the order of sentences, the solution's order, the
mistakes mixed in and the split rule are all here, so two sources with equal specs and seeds give equal documents.

    >>> preset("med").modulus, preset("med", ops=5).ops
    (23, 5)
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from synth.contexts import sections
from synth.world import vocabulary as vocab

PRESETS = Path(__file__).parent / "world" / "presets.json"
MAX_EDGES, MAX_OPS, BINS, TRAIN_BINS = 48, 64, 23, 17  # bins 0..16 train, 17..22 test (Part 2.1, both places)
WITHHELD = ("none", "differences", "products", "both")  # their numbers are what `synth.draw.expressions` reads as bits
CHOICES = {
    "order": ("pq", "qp"),
    "letter_order": ("random", "ordered"),
    "solution_order": ("uniform", "published"),
    "split_by": ("template", "problem"),
    "retry_kind": ("retry", "weak", "miss", "slip"),
    "mask_mistakes": ("none", "name", "step"),
    "length_unit": ("tokens", "gpt2"),
    "withheld": WITHHELD,
}


@dataclass(frozen=True)
class Spec:
    """Everything that determines the distribution of problems and documents (Part 2.1 and 2.2, sources per field)."""

    world: str = "english"  # data file in synth/world/files
    modulus: int = 23
    categorisations: int = 4  # how much of the world's name lists is used
    subcategories: int = 5
    names: int = 20
    letters: int = 52
    letter_order: str = "random"  # published: random; ordered: a, b, c in order of use
    ops: int = 15  # most operations
    exact_ops: bool = False  # exactly `ops`, else the minimum of two uniforms on 1..ops
    edges: int = 20  # most instance parameters (ip)
    max_depth: int = 4  # most layers of the structure graph
    max_width: int = 4  # most items in a layer
    order: str = "pq"  # problem then question, or question then problem
    perm_level: int | None = 5  # order of sentences: 5 uniform, 0..4 nearly and 6 exactly topological, None any of them
    solution_order: str = "uniform"  # redrawn step by step (the oracle is exact), or as constructed
    retry_rate: float = 0.0  # probability of a mistake: at the start of a solution sentence, or (slip) in its result
    retry_kind: str = "retry"
    mask_mistakes: str = "none"  # which tokens of an inserted mistake carry no loss
    split_by: str = "template"  # hash the solution's template (published) or the whole problem
    uncorrected: float = 0.0  # share of slips that are not taken back; later numbers follow from them
    missing_premise: float = 0.0  # probability that one needed given has no sentence (2504.06514)
    shortest: bool = True  # False: any ready parameter may come next until the query is there (be_shortest)
    contexts: tuple = ()  # privileged sections before the problem: weight of each recipe of `synth.contexts.sections`
    reask: bool = False  # redraw the query of a drawn problem among all its parameters
    max_length: int | None = None  # drop problems whose document without mistakes is longer (published: 768, 1024)
    length_unit: str = "tokens"  # of this lab, or gpt2: the estimate of `synth.draw.lengths`
    withheld: str = "none"  # operations that no solution has, for knowledge that is new later (2505.14216); else sums

    def __post_init__(self) -> None:
        for setting, accepted in CHOICES.items():
            if getattr(self, setting) not in accepted:
                raise ValueError(f"{setting}={getattr(self, setting)!r} is unknown; accepted: {', '.join(accepted)}")
        for setting, low, high in (
            ("modulus", 2, 997),
            ("names", 2, 20),
            ("ops", 1, MAX_OPS),
            ("edges", 2, MAX_EDGES),
            ("max_depth", 2, 4),
            ("max_width", 2, 4),
            ("letters", 1, 104),
        ):
            value = getattr(self, setting)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"{setting}={value!r} is not possible; accepted: a whole number from {low} to {high}")
        for setting, low, high in (("perm_level", 0, 6), ("max_length", 16, 32768)):
            value = getattr(self, setting)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and low <= value <= high):
                raise ValueError(
                    f"{setting}={value!r} is not possible; accepted: a whole number from {low} to {high}, or None"
                )
        if not isinstance(self.reask, bool):
            raise ValueError(f"reask={self.reask!r} is not possible; accepted: True or False")
        if not 0.0 <= self.retry_rate < 1.0:
            raise ValueError(f"retry_rate={self.retry_rate} is not possible; accepted: 0 <= rate < 1")
        for setting in ("uncorrected", "missing_premise"):
            if not 0.0 <= getattr(self, setting) <= 1.0:
                raise ValueError(f"{setting}={getattr(self, setting)} is not possible; accepted: 0 <= rate <= 1")
        if self.uncorrected > 0.0 and self.retry_kind != "slip":
            raise ValueError(
                f"uncorrected={self.uncorrected} is not possible with retry_kind={self.retry_kind!r}; "
                "accepted: 0, or retry_kind='slip'"
            )
        if not isinstance(self.shortest, bool) or (not self.shortest and self.solution_order == "published"):
            raise ValueError(
                f"shortest={self.shortest} is not possible with solution_order={self.solution_order!r}; "
                "accepted: True, or False with solution_order='uniform'"
            )
        if self.letters < self.ops:
            raise ValueError(
                f"letters={self.letters} is too few; accepted: at least ops={self.ops} (one letter per operation)"
            )
        if self.names < self.max_width:
            raise ValueError(f"names={self.names} is too few; accepted: at least max_width={self.max_width}")
        if self.ops > 3 * self.edges:
            raise ValueError(
                f"ops={self.ops} cannot be reached with edges={self.edges}; accepted: edges >= {-(-self.ops // 3)}"
            )
        object.__setattr__(self, "contexts", sections.mixture(self.contexts))
        if self.shortest and any("concise" in dict(sections.parse(recipe)) for recipe, _ in self.contexts):
            raise ValueError("contexts: concise asks for nothing with shortest=True; accepted: shortest=False")
        if self.load_world().phrases[vocab.UNDETERMINED] < 0 and self.missing_premise > 0.0:
            raise ValueError(
                f"missing_premise={self.missing_premise} is not possible in world {self.world!r}; "
                "accepted: 0, or a world whose phrase `undetermined` is not empty"
            )

    def load_world(self) -> vocab.World:
        """The spec's world; ValueError when the data file does not hold it."""
        return vocab.load(self.world, self.modulus, self.categorisations, self.subcategories, self.names, self.letters)


def presets() -> dict[str, dict]:
    """Name -> settings that differ from `Spec()`, from the data file `synth/world/presets.json`."""
    return json.loads(PRESETS.read_text(encoding="utf-8"))


def preset(name: str, **overrides) -> Spec:
    """The preset `name` with some settings replaced.

    Raises ValueError on an unknown preset or setting, or an impossible value.
    """
    known = presets()
    if name not in known:
        raise ValueError(f"preset={name!r} does not exist; accepted: {', '.join(sorted(known))}")
    fields = {f.name for f in dataclasses.fields(Spec)}
    for setting in overrides:
        if setting not in fields:
            raise ValueError(f"{setting!r} is no setting of a world; accepted: {', '.join(sorted(fields))}")
    return Spec(**(known[name] | overrides))
