"""How fast solutions are judged, beside a plain Python judge of text in the same run. Try: `make bench`.

The peer is the independent judge of the unit tests: regular expressions and dictionaries, the obvious way to do it.
Nothing about time is asserted; a line with the rates and their ratio is printed.
"""

import numpy as np
import pytest

from synth.dataset import Source
from synth.judge.checker import check
from synth.problem.records import to_record
from synth.spec import preset
from synth.world import vocabulary as W
from tests.bench.paired_timing import line, ratios
from tests.helpers.reference_solutions import is_right

MANY, FEW = 4096, 256


@pytest.mark.parametrize("name", ["tiny", "med", "hard"])
def test_checker_speed(name):
    source = Source(preset(name), seed=0)
    documents = source.documents(range(MANY))
    responses = [documents.response(i) for i in range(MANY)]
    lengths = np.array([len(r) for r in responses])
    tokens = np.zeros((MANY, lengths.max()), dtype=np.int64)
    for i, response in enumerate(responses):
        tokens[i, : len(response)] = response
    world, problems = source.world, documents.problems
    assert check(problems, world, tokens, lengths).right.all()  # compiles, too
    records = [to_record(problems.take(i), world, "pq") for i in range(FEW)]

    def peer() -> bool:
        judged = (
            is_right(record, world.decode(response[:-3]), int(response[-2]) - world.first_number)
            for record, response in zip(records, responses, strict=False)
        )
        return all(judged)

    assert peer() and responses[0][-3] == W.ANSWER

    def ours() -> int:
        check(problems, world, tokens, lengths)
        return MANY

    found = ratios(ours, lambda: peer() * FEW, rounds=5)
    print("\n" + line(f"checker, {name} (peer: plain Python on text)", "solutions", *found))
