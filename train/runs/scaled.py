"""`scale=NAME` of `train.opd.run`: the settings that recipes of that scale give."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from train.config.compose import CONFIGS, resolved
from train.config.grammar import as_arguments
from train.config.schema import guess
from train.runs.results import flat

STUDENT, TEACHER = "zoo/tiny-student-0", "zoo/tiny-teacher-0"


def rewrite(overrides: Sequence[str], schema: type) -> list[str]:
    """The overrides with `scale=NAME` written out: the settings that recipes of that scale give (configs/scale).

    What is given beside it wins. A scale without claims, such as smoke, is for trying a method: what is not given then
    comes from the zoo, and a teacher that cannot read its context does not stop the run. Raises ValueError for an
    unknown scale or method.
    """
    names = [one.removeprefix("scale=") for one in overrides if one.startswith("scale=")]
    if not names:
        return list(overrides)
    scales = sorted(path.stem for path in (CONFIGS / "scale").glob("*.yaml"))
    if names[-1] not in scales:
        raise ValueError(f"scale={names[-1]}: no such option{guess(names[-1], scales)}; accepted: {', '.join(scales)}")
    scale = yaml.safe_load((CONFIGS / "scale" / f"{names[-1]}.yaml").read_text(encoding="utf-8"))
    own = [one for one in overrides if not one.startswith("scale=")]
    given = {one.partition("=")[0].lstrip("+~") for one in own}
    settings = dict(flat(scale["entries"].get("train.opd.run", {})))
    if any(key.startswith("budget.") for key in given):
        settings = {key: value for key, value in settings.items() if not key.startswith("budget.")}
    if not scale["claims"]:
        settings |= stand_ins(resolved("opd", schema, own)["method"])
    kept = {key: value for key, value in settings.items() if key not in given}
    return as_arguments(kept) + own


def stand_ins(method: Mapping[str, Any]) -> dict[str, Any]:
    """Models of the zoo for what a method needs, and a check of its teacher's context that stops nothing."""
    teacher = method["teacher"]
    context = teacher.get("context", "none")
    found: dict[str, Any] = {"student": STUDENT}
    if teacher["kind"] == "external":
        found["teacher"] = TEACHER
        if teacher["route"] is not None:
            found["teachers"] = [TEACHER] * len(teacher["route"].get("bounds", [0]))
    if context != "none":
        found |= {"skill.problems": 8, "skill.stop": False}
    if "concise" in context.split("+"):  # it asks for something only where solutions are not concise anyway
        found["data.overrides.shortest"] = False
    return found
