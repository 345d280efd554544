"""What does a step of distillation cost, the larger the vocabulary? Of 16 prompts, beside TRL's trainer."""

import pytest

from tests.bench.curves.points import curve, memory
from tests.bench.paired_timing import ratios
from tests.bench.test_opd_speed import ours, trl
from train.core.torch_setup import set_up

VOCABULARIES = (128, 1024, 8192, 50257)
COLUMNS = ("vocabulary", "tokens/s", "TRL, tokens/s", "ratio", "MiB", "TRL, MiB")


def test_distillation_against_vocabulary(tmp_path):
    pytest.importorskip("trl")
    set_up()
    rows = []
    for size in VOCABULARIES:
        shape = (2, 2, 64, size, 16, 24)
        both = ours(shape), trl(shape, tmp_path)
        needed = [memory(work) for work in both]
        a, b, each = ratios(*both, rounds=2)
        rows.append((size, a, b, sum(each) / 2, *needed))
    print(curve("distillation", "Distillation against vocabulary, two layers", COLUMNS, rows, COLUMNS[1:3]))
