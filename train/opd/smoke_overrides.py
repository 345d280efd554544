"""`scale=NAME` among the words of a distillation: the settings that recipes of that scale give it (configs/scale).

A scale without claims, such as smoke, is for trying a method: what is not given then comes from the zoo, and a teacher
that cannot read its context does not stop the run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from train.config.compose import CONFIGS
from train.recipes.runner import Stage
from train.runs.results import flat

ENTRY = "train.opd.run"
STUDENT, TEACHER = "zoo/tiny-student-0", "zoo/tiny-teacher-0"


def scaled(words: Sequence[str]) -> list[str]:
    """The words with `scale=NAME` written out. What is given beside it wins. Raises ValueError for an unknown scale."""
    names = [word.removeprefix("scale=") for word in words if word.startswith("scale=")]
    if not names:
        return list(words)
    known = sorted(path.stem for path in (CONFIGS / "scale").glob("*.yaml"))
    if names[-1] not in known:
        raise ValueError(f"scale={names[-1]}: no such option; accepted: {', '.join(known)}")
    scale = yaml.safe_load((CONFIGS / "scale" / f"{names[-1]}.yaml").read_text(encoding="utf-8"))
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words if not word.startswith("scale=")}
    settings = dict(flat(scale["entries"].get(ENTRY, {})))
    if any(key.startswith("budget.") for key in given):
        settings = {key: value for key, value in settings.items() if not key.startswith("budget.")}
    if not scale["claims"]:
        settings |= stand_ins(given)
    kept = {key: value for key, value in settings.items() if key not in given}
    return Stage("", ENTRY, kept).argv({}, 0) + [word for word in words if not word.startswith("scale=")]


def stand_ins(given: Mapping[str, str]) -> dict[str, Any]:
    """Models of the zoo for what a method needs, and a check of its teacher's context that stops nothing."""
    path = CONFIGS / "method" / f"{given.get('method', 'opd')}.yaml"
    method = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    teacher = {"params": "external"} | method.get("teacher", {})
    teacher |= {name: given[f"method.teacher.{name}"] for name in teacher if f"method.teacher.{name}" in given}
    context = given.get("method.teacher.context", teacher.get("context", "none"))
    found: dict[str, Any] = {"student": STUDENT}
    if teacher["params"] == "external":
        found["teacher"] = TEACHER
        if "route" in teacher:
            found["teachers"] = [TEACHER] * len(teacher.get("bounds", [0]))
    if context != "none":
        found |= {"skill.problems": 8, "skill.stop": False}
    if "concise" in context.split("+"):  # it asks for something only where solutions are not concise anyway
        found["data.overrides.shortest"] = False
    return found
