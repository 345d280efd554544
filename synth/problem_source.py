"""`ProblemSource`: streams of problems and their documents, without the contexts that `synth.dataset.Source` adds.

Problem i and document i are pure functions of (spec, seed, split, stream, i).
"""

import dataclasses
import warnings

import numpy as np

from synth.documents import Documents
from synth.draw.lengths import SCALE, costs
from synth.draw.missing_premise import drop_premise
from synth.draw.problems import DrawSettings, draw
from synth.draw.split import template_residue
from synth.kernel import rng
from synth.kernel.jit import jit
from synth.kernel.rng import uniform
from synth.problem.arrays import Integers, Problems, empty, one
from synth.spec import BINS, CHOICES, TRAIN_BINS, WITHHELD, Spec
from synth.write.mistakes import KINDS, WriteSettings
from synth.write.prompt import write_prompt
from synth.write.solution import MAX_DOCUMENT, write_solution

SPLITS = {"train": (0, TRAIN_BINS - 1), "test": (TRAIN_BINS, BINS - 1), "all": (0, BINS - 1)}
# settings of how a given problem is written down, which `Source.solve` may change
WRITING = (
    "order", "letter_order", "solution_order", "retry_rate", "retry_kind", "mask_mistakes", "uncorrected", "shortest",
)  # fmt: skip
ENOUGH_TEMPLATES, SMALL_CELL, CELL = 20, 4, "cell"  # accuracy on a test cell of fewer templates says little
MAX_WITHOUT_MISTAKES = 8192  # tokens: 48 sentences of up to 15, 72 steps, 64 clauses of 13


@jit
def _templates(problems, published, out):
    for i in range(out.shape[0]):
        out[i] = template_residue(one(problems, i), published, 2147483647)


@jit
def _draw_problems(generators, settings, costs, pool, categories, missing_rate, problems):
    """Draw problem i from generators[i]; returns the number drawn (fewer than asked means the settings admit none).
    With probability `missing_rate` it then loses a premise; the split is that of the complete problem."""
    for i in range(generators.shape[0]):
        if not draw(generators[i], settings, costs, pool, categories, one(problems, i)):
            return i
        if missing_rate > 0.0 and uniform(generators[i]) < missing_rate:
            drop_premise(generators[i], one(problems, i))
    return generators.shape[0]


@jit
def _write_documents(generators, problems, settings, ids, offsets, prompt):
    """Documents of drawn problems; returns (truth int32[6, T], logp float64[T])."""
    count, capacity = generators.shape[0], MAX_DOCUMENT if settings.retry_rate > 0.0 else MAX_WITHOUT_MISTAKES
    width = min(count * 64, MAX_DOCUMENT) + capacity
    truth, logp = np.empty((6, width), dtype=np.int32), np.empty(width)
    token_logp = np.zeros(capacity)
    total = 0
    for i in range(count):
        if total + capacity > width:  # touching memory is slow: once some are written, their mean says how much to take
            width = max(2 * total, int(1.05 * total / i * count)) + capacity
            old, old_logp = truth, logp
            truth, logp = np.empty((6, width), dtype=np.int32), np.empty(width)
            truth[:, :total], logp[:total] = old[:, :total], old_logp[:total]
        p, out = one(problems, i), truth[:, total:]
        prompt[i] = write_prompt(p, settings.question_first, ids, out)
        n = write_solution(generators[i], p, settings, ids, out, token_logp, prompt[i])
        logp[total : total + n] = token_logp[:n]
        token_logp[:n] = 0.0
        total += n
        offsets[i + 1] = total
    return truth[:, :total], logp[:total]


def test_cell_templates(spec: Spec, draws: int = 400) -> int | None:
    """Number of solution templates of the test cell of `spec` if it is below `ENOUGH_TEMPLATES`, else None. Counts
    different templates among up to `draws` problems, and stops when there are enough. Cells of more than `SMALL_CELL`
    operations, cells of problems asked again and splits by problem are never too small."""
    if not spec.exact_ops or spec.ops > SMALL_CELL or spec.split_by == "problem" or spec.reask:
        return None
    source, found = ProblemSource(spec, 0, "test", CELL), set()
    for start in range(0, draws, 40):
        problems = source.problems(range(start, start + 40))
        out = np.zeros(40, dtype=np.int64)
        _templates(problems, spec.solution_order == "published", out)
        found.update(out.tolist())
        if len(found) >= ENOUGH_TEMPLATES:
            return None
    return len(found)


class ProblemSource:
    """An endless stream of problems of one spec, and of their documents. split: "train", "test" or "all"; stream: a
    name that separates independent uses of the same seed. Raises ValueError on an unknown split."""

    def __init__(self, spec: Spec, seed: int, split: str = "train", stream: str = "data") -> None:
        if split not in SPLITS:
            raise ValueError(f"split={split!r} is unknown; accepted: {', '.join(SPLITS)}")
        self.spec, self.seed, self.split, self.stream = spec, seed, split, stream
        self.world = spec.load_world()
        self._draw_settings = DrawSettings(
            spec.ops, spec.exact_ops, spec.edges, spec.max_depth, spec.max_width, spec.modulus,
            -1 if spec.perm_level is None else spec.perm_level, spec.solution_order == "published",
            spec.split_by == "problem", *SPLITS[split], spec.reask, SCALE * (spec.max_length or 0), spec.letters,
            WITHHELD.index(spec.withheld),
        )  # fmt: skip
        self._costs = costs(self.world, spec.length_unit)
        if spec.exact_ops and split == "test" and stream != CELL and (few := test_cell_templates(spec)) is not None:
            warnings.warn(
                f"the test cell of exactly {spec.ops} operations holds only {few} solution templates; accepted as it "
                f"is, but a score on it says little: at least {ENOUGH_TEMPLATES} are wanted",
                stacklevel=2,
            )

    def _draw(self, indices: Integers) -> tuple[np.ndarray, Problems]:
        generators = rng.generators(self.seed, f"{self.stream}/{self.split}", indices)
        problems = empty(len(generators))
        world, missing_rate = self.world, float(self.spec.missing_premise)
        drawn = _draw_problems(
            generators, self._draw_settings, self._costs, world.pool, world.categories, missing_rate, problems
        )
        if drawn < len(generators):
            raise ValueError(
                f"no problem found for ops={self.spec.ops}, edges={self.spec.edges}, max_depth={self.spec.max_depth}, "
                f"max_width={self.spec.max_width}, max_length={self.spec.max_length}, split={self.split!r}; accepted: "
                "more edges, or fewer ops, or a larger max_length"
            )
        return generators, problems

    def problems(self, indices: Integers) -> Problems:
        """Problems at the given indices, without documents."""
        return self._draw(indices)[1]

    def documents(self, indices: Integers) -> Documents:
        """Problems at the given indices with their documents, without contexts."""
        return self._write(*self._draw(indices), self.spec)

    def solve(self, problems: Problems, stream: str = "solve", indices: Integers | None = None, **changes) -> Documents:
        """Fresh documents of given problems (another order of steps, other letters), with some settings changed.
        Document i is a pure function of its problem, the settings and (seed, `stream`, indices[i]); default indices 0,
        1, ... Settings that may change: `WRITING`. Raises ValueError on another, or when the numbers differ."""
        for setting in changes:
            if setting not in WRITING:
                raise ValueError(f"{setting!r} is no setting of a solution; accepted: {', '.join(WRITING)}")
        n = len(problems.scalars)
        if indices is not None and len(indices) != n:
            raise ValueError(f"{len(indices)} indices for {n} problems; accepted: one index for each problem")
        generators = rng.generators(self.seed, stream, range(n) if indices is None else indices)
        return self._write(generators, problems, dataclasses.replace(self.spec, contexts=(), **changes))

    def _write(self, generators: np.ndarray, problems: Problems, spec: Spec) -> Documents:
        settings = WriteSettings(
            spec.order == "qp", spec.solution_order == "published", spec.letter_order == "random", spec.shortest,
            KINDS.index(spec.retry_kind), float(spec.retry_rate), float(spec.uncorrected),
            CHOICES["mask_mistakes"].index(spec.mask_mistakes),
        )  # fmt: skip
        offsets = np.zeros(len(generators) + 1, dtype=np.int64)
        prompt = np.zeros(len(generators), dtype=np.int32)
        truth, logp = _write_documents(generators, problems, settings, self.world.ids, offsets, prompt)
        return Documents(*truth, logp=logp, offsets=offsets, prompt=prompt, problems=problems)
