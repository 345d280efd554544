"""`Spec`: the settings that determine the distribution of problems and documents, and the presets made of them.

A spec is plain data. The world it names, the sizes of the problems, the order of sentences and of
solutions, the mistakes mixed in and the rule of the split are all here, so two sources with equal specs and seeds give
equal documents.

    >>> preset("med").modulus, preset("med", ops=5).ops
    (23, 5)
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from synth.contexts import context_tokens
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
RANGES = {
    "modulus": (2, 997), "names": (2, 20), "ops": (1, MAX_OPS), "edges": (2, MAX_EDGES), "max_depth": (2, 4),
    "max_width": (2, 4), "letters": (1, 104), "perm_level": (0, 6), "max_length": (16, 32768),
}  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """Everything that determines the distribution of problems and documents (Part 2.1 and 2.2, sources per field)."""

    world: str = "english"  # data file in synth/world/files
    modulus: int = 23  # of all arithmetic
    categorisations: int = 4  # how much of the world's name lists is used
    subcategories: int = 5  # of each categorisation
    names: int = 20  # of each subcategory
    letters: int = 52  # that name the parameters of a solution
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
    retry_kind: str = "retry"  # how a mistake is made and taken back
    mask_mistakes: str = "none"  # which tokens of an inserted mistake carry no loss
    split_by: str = "template"  # hash the solution's template (published) or the whole problem
    uncorrected: float = 0.0  # share of slips that are not taken back; later numbers follow from them
    missing_premise: float = 0.0  # probability that one needed given has no sentence (2504.06514)
    shortest: bool = True  # False: any ready parameter may come next until the query is there (be_shortest)
    contexts: tuple = ()  # privileged sections before the problem: weight of each recipe (`synth.contexts`)
    reask: bool = False  # redraw the query of a drawn problem among all its parameters
    max_length: int | None = None  # drop problems whose document without mistakes is longer (published: 768, 1024)
    length_unit: str = "tokens"  # of this lab, or gpt2: the estimate of `synth.draw.lengths`
    withheld: str = "none"  # operations that no solution has, for knowledge that is new later (2505.14216); else sums

    def __post_init__(self) -> None:
        for setting, accepted in CHOICES.items():
            self._require(setting, getattr(self, setting) in accepted, ", ".join(accepted), "is unknown")
        for setting, (low, high) in RANGES.items():
            value, optional = getattr(self, setting), setting in ("perm_level", "max_length")
            right = (optional and value is None) or (type(value) is int and low <= value <= high)
            self._require(setting, right, f"a whole number from {low} to {high}" + ", or None" * optional)
        for setting in ("exact_ops", "reask", "shortest"):
            self._require(setting, isinstance(getattr(self, setting), bool), "True or False")
        self._require("retry_rate", 0.0 <= self.retry_rate < 1.0, "0 <= rate < 1")
        for setting in ("uncorrected", "missing_premise"):
            self._require(setting, 0.0 <= getattr(self, setting) <= 1.0, "0 <= rate <= 1")
        self._check_pairs()
        object.__setattr__(self, "contexts", context_tokens.mixture(self.contexts))
        if self.shortest and any("concise" in dict(context_tokens.parse(recipe)) for recipe, _ in self.contexts):
            raise ValueError("contexts: concise asks for nothing with shortest=True; accepted: shortest=False")
        says_so = self.load_world().phrases[vocab.UNDETERMINED] >= 0
        accepted, why = "0, or a world whose phrase `undetermined` is not empty", f"in world {self.world!r}"
        self._require("missing_premise", says_so or not self.missing_premise, accepted, f"is not possible {why}")

    def _check_pairs(self) -> None:
        kind, order = self.retry_kind, self.solution_order
        why = f"is not possible with retry_kind={kind!r}"
        self._require("uncorrected", not self.uncorrected or kind == "slip", "0, or retry_kind='slip'", why)
        accepted, why = "True, or False with solution_order='uniform'", f"is not possible with solution_order={order!r}"
        self._require("shortest", self.shortest or order == "uniform", accepted, why)
        accepted = f"at least ops={self.ops} (one letter per operation)"
        self._require("letters", self.letters >= self.ops, accepted, "is too few")
        self._require("names", self.names >= self.max_width, f"at least max_width={self.max_width}", "is too few")
        accepted, why = f"edges >= {-(-self.ops // 3)}", f"cannot be reached with edges={self.edges}"
        self._require("ops", self.ops <= 3 * self.edges, accepted, why)

    def _require(self, setting: str, right: bool, accepted: str, why: str = "is not possible") -> None:
        if not right:
            raise ValueError(f"{setting}={getattr(self, setting)!r} {why}; accepted: {accepted}")

    def load_world(self) -> vocab.World:
        """The spec's world; ValueError when the data file does not hold it."""
        return vocab.load(self.world, self.modulus, self.categorisations, self.subcategories, self.names, self.letters)


def presets() -> dict[str, dict]:
    """Name -> settings that differ from `Spec()`, from the data file `synth/world/presets.json`."""
    return json.loads(PRESETS.read_text(encoding="utf-8"))


def preset(name: str, **overrides) -> Spec:
    """The preset `name` with some settings replaced. Raises ValueError on an unknown preset or setting, or an
    impossible value."""
    settings_of = presets()
    if name not in settings_of:
        raise ValueError(f"preset={name!r} does not exist; accepted: {', '.join(sorted(settings_of))}")
    fields = {f.name for f in dataclasses.fields(Spec)}
    for setting in overrides:
        if setting not in fields:
            raise ValueError(f"{setting!r} is no setting of a world; accepted: {', '.join(sorted(fields))}")
    return Spec(**(settings_of[name] | overrides))
