"""How much of a long proof runs: a sample in `make test`, all of it in `make torture`."""

import os

TORTURE = os.environ.get("TORTURE") == "1"


def effort(sample: int, whole: int) -> int:
    """`sample`, or `whole` in `make torture`."""
    return whole if TORTURE else sample
