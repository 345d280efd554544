"""The generator's stream against stored digests: a faster kernel must draw the same problems, word for word.

Digests are of the structure of the problems (graph, expressions, values, order of sentences and of the solution), not
of token ids, so a larger vocabulary leaves them alone. Renew them only for an intended change of the distribution:
`GOLDEN=write pytest tests/golden/test_generator.py`, and say so in the commit.
"""

import hashlib
import json
import os
from pathlib import Path

import pytest

from synth.dataset import Source
from synth.spec import preset

GOLDEN = Path(__file__).with_name("generator.json")
SPECS = {
    "tiny": ("tiny", 2000, "train", {}), "med": ("med", 2000, "train", {}), "hard": ("hard", 2000, "train", {}),
    "med_test": ("med", 1000, "test", {}), "med_published": ("med", 1000, "train", {"solution_order": "published"}),
    "med_topological": ("med", 500, "train", {"perm_level": 6}), "med_reask": ("med", 500, "test", {"reask": True}),
    "longest": ("med", 200, "train", {"ops": 64, "edges": 48, "letters": 104, "exact_ops": True}),
}  # fmt: skip
FIELDS = ("exists", "constant", "constant_op", "combine", "n_terms", "terms", "value", "needed", "sentences", "topo")


@pytest.mark.parametrize("name", SPECS)
def test_problems_are_the_stored_ones(name):
    base, count, split, settings = SPECS[name]
    problems = Source(preset(base, **settings), 5, split).problems(range(count))
    digest = hashlib.sha256()
    for field in FIELDS:
        digest.update(getattr(problems, field).astype("<i4").tobytes())
    stored = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("GOLDEN") == "write":
        stored[name] = digest.hexdigest()
        GOLDEN.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
    assert digest.hexdigest() == stored[name]
