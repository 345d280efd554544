"""Our parts, as configs/method composes them, give the loss and the gradient that released code gave, to 1e-6.

`released/` holds the numbers, `tests.helpers.golden` puts them through the parts. What is not equal yet stands in
UNEQUAL with its cause: such an entry fails when the difference is gone, so that the list shrinks.

Try: `python -m tests.helpers.golden tests/golden/released/*.npz`.
"""

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.commands import command
from tests.helpers.golden import compare, name_of
from tests.helpers.released_objectives.golden_methods import OTHER, REGISTRY

FOLDER = Path(__file__).parent / "released"
UNEQUAL = {  # method: the least difference of the gradient, and its cause
    "curio_sft": (0.1, "another rule for the temperature, exact forward KL in place of the sampled k2 and likelihood"),
    "minillm": (
        0.1,
        "no whitening, the own reward only in the exact term, rewards not scaled and of the current student",
    ),
    "scope": (0.1, "exact KL, one denominator, temperature 1; the release: sampled, one for each term, 0.6"),
    "tip": (0.1, "the top half; the release draws half of the tokens with weights"),
    "tsd_kd": (0.1, "the release ranks in the reversed order, takes the mean over the opener, adds entropy at 1"),
}
FILES = sorted(FOLDER.glob("*.npz"))
EQUAL = [path for path in FILES if name_of(path) not in UNEQUAL]


@pytest.mark.parametrize("path", EQUAL, ids=lambda path: path.stem)
def test_loss_and_gradient_are_those_of_the_release(path):
    for found in compare(path):
        assert found.equal, found


@pytest.mark.parametrize("name", UNEQUAL)
def test_a_known_difference_is_still_there(name):
    least, cause = UNEQUAL[name]
    (main, *_) = compare(FOLDER / f"{name}-1.npz")
    assert main.gradient > least, f"{name} is equal now: take it off the list ({cause})"


def test_every_file_is_compared_and_every_method_has_a_file():
    assert {name_of(path) for path in FILES} == set(REGISTRY | OTHER)


def test_a_changed_number_a_missing_array_and_an_unknown_method_are_told(tmp_path):
    with np.load(FOLDER / "opd-1.npz") as arrays:
        values = {name: arrays[name] for name in arrays.files}
    np.savez(tmp_path / "opd-1.npz", **values | {"out_grad": 1.00001 * values["out_grad"]})
    np.savez(tmp_path / "opd-2.npz", **{name: value for name, value in values.items() if name != "in_teacher_logits"})
    np.savez(tmp_path / "nothing-1.npz", **values)
    (tmp_path / "kd-1.npz").write_bytes(b"no numbers")
    assert not compare(tmp_path / "opd-1.npz")[0].equal
    for name, words in (("opd-2", "in_teacher_logits"), ("nothing-1", "no parts of ours"), ("kd-1", "cannot be read")):
        with pytest.raises(ValueError, match=words):
            compare(tmp_path / f"{name}.npz")
    done = command("tests.helpers.golden", str(FOLDER / "opd-1.npz"))
    assert done.returncode == 0 and "equal" in done.stdout
    done = command("tests.helpers.golden", *(str(tmp_path / f"{name}-1.npz") for name in ("nothing", "opd")))
    assert done.returncode == 1 and "UNEQUAL" in done.stdout and done.stderr.count("\n") == 1
