"""Streams of problems and documents by index: document i is a pure function of (spec, seed, split, stream, i).

    source = Source(preset("tiny"), seed=0, split="train")
    docs = source.documents(range(1000))          # tokens, offsets, and the truth for every token

There are no files and no state, so any worker can make any part at any time, in any order.
"""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np

from synth.documents import Documents
from synth.draw.lengths import SCALE, costs
from synth.draw.problems import draw
from synth.draw.split import template_residue
from synth.kernel import rng
from synth.kernel.jit import jit
from synth.kernel.rng import uniform
from synth.problem import arrays as P
from synth.problem.arrays import Problems, one
from synth.spec import BINS, CHOICES, TRAIN_BINS, WITHHELD, Spec
from synth.write.document import CAPACITY, write_prompt, write_solution
from synth.write.mistakes import KINDS, drop_premise

SPLITS = {"train": (0, TRAIN_BINS - 1), "test": (TRAIN_BINS, BINS - 1), "all": (0, BINS - 1)}
# settings of how a given problem is written down, which `Source.solve` may change
WRITING = (
    "order", "letter_order", "solution_order", "retry_rate", "retry_kind", "mask_mistakes", "uncorrected", "shortest",
)  # fmt: skip
ENOUGH_TEMPLATES, SMALL_CELL, CELL = 20, 4, "cell"  # a test cell of fewer templates says little
MISTAKELESS = 8192  # longest document without mistakes: 48 sentences of up to 15 tokens, 72 steps, 64 clauses of 13


@jit
def _templates(problems, published, out):
    for i in range(out.shape[0]):
        out[i] = template_residue(one(problems, i), published, 2147483647)


@jit
def _draw_problems(states, law, costs, pool, categories, problems, missing):
    """Draw problem i from states[i]; returns the number drawn (fewer than asked means the settings admit none).

    With probability `missing` it then loses a premise; the split is that of the complete problem.
    """
    for i in range(states.shape[0]):
        if not draw(states[i], law, costs, pool, categories, one(problems, i)):
            return i
        if missing > 0.0 and uniform(states[i]) < missing:
            drop_premise(states[i], one(problems, i))
    return states.shape[0]


@jit
def _write_documents(
    states, problems, law, rates, question_first, phrases, first_number, first_letter, n_letters, offsets, prompt
):
    """Documents of drawn problems; returns (truth int32[6, T], logp float64[T])."""
    count, room = states.shape[0], CAPACITY if rates[0] > 0.0 else MISTAKELESS
    width = min(count * 64, CAPACITY) + room
    truth, logp = np.empty((6, width), dtype=np.int32), np.empty(width)
    chances = np.zeros(room)
    total = 0
    for i in range(count):
        if total + room > width:  # memory is dear to touch: once a few are written, their mean says how much to take
            width = max(2 * total, int(1.05 * total / i * count)) + room
            larger, larger_logp = np.empty((6, width), dtype=np.int32), np.empty(width)
            larger[:, :total], larger_logp[:total] = truth[:, :total], logp[:total]
            truth, logp = larger, larger_logp
        p, out = one(problems, i), truth[:, total:]
        prompt[i] = write_prompt(p, question_first, phrases, first_number, out)
        n = write_solution(
            states[i], p, law, phrases, first_number, first_letter, n_letters, rates, out, chances, prompt[i]
        )
        logp[total : total + n] = chances[:n]
        chances[:n] = 0.0
        total += n
        offsets[i + 1] = total
    return truth[:, :total], logp[:total]


def test_cell_templates(spec: Spec, draws: int = 400) -> int | None:
    """Number of solution templates of the test cell of `spec` if it is below `ENOUGH_TEMPLATES`, else None.

    Counts different templates among up to `draws` problems, and stops when there are enough. Cells of more than
    `SMALL_CELL` operations, cells of problems asked again and splits by problem are never too small.
    """
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
    """An endless stream of problems of one spec.

    split: "train", "test" or "all"; stream: a name that separates independent uses of the same seed. Raises ValueError
    on an unknown split.
    """

    def __init__(self, spec: Spec, seed: int, split: str = "train", stream: str = "data") -> None:
        if split not in SPLITS:
            raise ValueError(f"split={split!r} is unknown; accepted: {', '.join(SPLITS)}")
        self.spec, self.seed, self.split, self.stream = spec, seed, split, stream
        self.world = spec.load_world()
        published = spec.solution_order == "published"
        self._law = np.array(
            [
                spec.ops, spec.exact_ops, spec.edges, spec.max_depth, spec.max_width, spec.modulus,
                -1 if spec.perm_level is None else spec.perm_level, published, spec.split_by == "problem",
                *SPLITS[split], spec.reask, SCALE * (spec.max_length or 0), spec.letters,
                WITHHELD.index(spec.withheld),
            ],
            dtype=np.int64,
        )  # fmt: skip
        self._costs = costs(self.world, spec.length_unit)
        if spec.exact_ops and split == "test" and stream != CELL and (few := test_cell_templates(spec)) is not None:
            warnings.warn(
                f"the test cell of exactly {spec.ops} operations holds only {few} solution templates; accepted as it "
                f"is, but a score on it says little: at least {ENOUGH_TEMPLATES} are wanted",
                stacklevel=2,
            )

    def _draw(self, indices: Sequence[int]) -> tuple[np.ndarray, Problems]:
        states = rng.generators(self.seed, f"{self.stream}/{self.split}", indices)
        problems = P.empty(len(states))
        missing, world = float(self.spec.missing_premise), self.world
        drawn = _draw_problems(states, self._law, self._costs, world.pool, world.categories, problems, missing)
        if drawn < len(states):
            raise ValueError(
                f"no problem found for ops={self.spec.ops}, edges={self.spec.edges}, max_depth={self.spec.max_depth}, "
                f"max_width={self.spec.max_width}, max_length={self.spec.max_length}, split={self.split!r}; accepted: "
                "more edges, or fewer ops, or a larger max_length"
            )
        return states, problems

    def problems(self, indices: Sequence[int]) -> Problems:
        """Problems at the given indices, without documents."""
        return self._draw(indices)[1]

    def documents(self, indices: Sequence[int]) -> Documents:
        """Problems at the given indices with their documents, without contexts."""
        return self._write(*self._draw(indices), self.spec)

    def solve(
        self, problems: Problems, stream: str = "solve", indices: Sequence[int] | None = None, **changes
    ) -> Documents:
        """Fresh documents of given problems (another order of steps, other letters), with some settings changed.

        Document i is a pure function of its problem, the settings and (seed, `stream`, indices[i]); default indices
        0, 1, ... Settings that may change: `WRITING`. Raises ValueError on another, or when the numbers differ.
        """
        for setting in changes:
            if setting not in WRITING:
                raise ValueError(f"{setting!r} is no setting of a solution; accepted: {', '.join(WRITING)}")
        n = len(problems.scalars)
        if indices is not None and len(indices) != n:
            raise ValueError(f"{len(indices)} indices for {n} problems; accepted: one index for each problem")
        states = rng.generators(self.seed, stream, range(n) if indices is None else indices)
        return self._write(states, problems, dataclasses.replace(self.spec, contexts=(), **changes))

    def _write(self, states: np.ndarray, problems: Problems, spec: Spec) -> Documents:
        law = np.array(
            [
                spec.solution_order == "published", spec.letter_order == "random", KINDS.index(spec.retry_kind),
                CHOICES["mask_mistakes"].index(spec.mask_mistakes), spec.modulus, spec.shortest,
            ],
            dtype=np.int64,
        )  # fmt: skip
        rates = np.array([spec.retry_rate, spec.uncorrected], dtype=np.float64)
        n, w = len(states), self.world
        offsets, prompt = np.zeros(n + 1, dtype=np.int64), np.zeros(n, dtype=np.int32)
        truth, logp = _write_documents(
            states, problems, law, rates, spec.order == "qp", w.phrases, w.first_number, w.first_letter,
            w.n_letters, offsets, prompt,
        )  # fmt: skip
        return Documents(*truth, logp, offsets, prompt, problems)
