"""Our parts, as configs/method composes them, give the loss and the gradient that released code gave, to 1e-6.

`released/` holds the numbers, `tests.helpers.golden` puts them through the parts, in the form that follows the release
(`faithful: release`). `test_paper_forms.py` holds the other form where there are two.

Try: `python -m tests.helpers.golden tests/golden/released/*.npz`.
"""

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.commands import command
from tests.helpers.golden import compare, name_of
from tests.helpers.released_objectives.golden_methods import OTHER, REGISTRY

FOLDER = Path(__file__).parent / "released"
FILES = sorted(FOLDER.glob("*.npz"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_loss_and_gradient_are_those_of_the_release(path):
    for found in compare(path):
        assert found.equal, found


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
