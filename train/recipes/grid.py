"""Stages over lists: one stage of a recipe's YAML becomes a copy for each item of a list, or of several lists.

    lists: {methods: [opd, kd, sft], rates: [0.002, 0.005]}
    stages:
      arm: {entry: train.opd.run, over: [methods], set: {method: "{methods}"}, each: {sft: {teacher: null}}}
      eval: {entry: train.evaluate, over: [methods], set: {checkpoint: "@arm"}}

gives arm-opd, arm-kd, arm-sft, eval-opd, ... In settings and labels `{methods}` is the copy's item; `@arm` is the copy
of `arm` with the same items. With `after: [arm]`, eval-opd waits for arm-opd; a stage that is over no list, or over
others than `arm`, waits for all copies of `arm`. `each` holds settings for the copies of single items. `{seed}` is
filled in when the stage starts.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Lists = Mapping[str, Sequence[Any]]
Overs = Mapping[str, Sequence[str]]  # stage -> the lists that it is over
Items = dict[str, Any]  # list -> the copy's item

_ITEM = re.compile(r"[\w.+]+(-[\w.+]+)*")
_PLACEHOLDER = re.compile(r"\{(?!seed\})(\w+)\}")


def check_lists(lists: Lists, overs: Overs) -> None:
    """Raises ValueError on a list that is empty, repeats an item, or is not used; on an unknown list in `over`."""
    used = list(dict.fromkeys(name for over in overs.values() for name in over))
    for name, items in lists.items():
        if name == "seed":
            raise ValueError("recipe.lists.seed: {seed} is the recipe's own; accepted: another name")
        texts = [str(item) for item in items]
        if not texts or len(set(texts)) < len(texts):
            raise ValueError(f"recipe.lists.{name}={texts}: accepted: at least one item, each once")
        for text in texts:
            if not _ITEM.fullmatch(text):
                raise ValueError(f"recipe.lists.{name}: item {text!r}; accepted: letters, digits, and . _ + -")
        if name not in used:
            raise ValueError(f"recipe.lists.{name}: no stage is over it; accepted: {_joined(used)}")
    for stage, over in overs.items():
        if unknown := [name for name in over if name not in lists]:
            raise ValueError(f"recipe.stages.{stage}.over={unknown[0]}: no such list; accepted: {_joined(lists)}")


def select_items(lists: Lists, only: Lists) -> dict[str, list[Any]]:
    """The lists cut down to the items of `only`. Raises ValueError on an unknown list or item."""
    for name, wanted in only.items():
        if name not in lists:
            raise ValueError(f"only.{name}: the recipe has no such list; accepted: {_joined(lists)}")
        texts = [str(item) for item in lists[name]]
        if bad := [item for item in wanted if str(item) not in texts]:
            raise ValueError(f"{name}={bad[0]}: not in the recipe's list; accepted: {', '.join(texts)}")
        if not wanted:
            raise ValueError(f"{name}=[]: accepted: at least one of {', '.join(texts)}")
    kept = {name: {str(item) for item in wanted} for name, wanted in only.items()}
    return {n: [item for item in items if n not in kept or str(item) in kept[n]] for n, items in lists.items()}


def copies(stage: str, over: Sequence[str], lists: Lists) -> Iterator[tuple[str, Items]]:
    """Name and items of each copy of a stage; the stage itself when it is over no list."""
    for items in itertools.product(*(lists[name] for name in over)):
        yield "-".join([stage, *map(str, items)]), dict(zip(over, items, strict=True))


def substitute(value: Any, items: Items, overs: Overs) -> Any:
    """A setting of one copy: `{list}` replaced by its item, `@stage` by the name of the copy with the same items. A
    text that is only `{list}` takes the item's type. Raises ValueError on a list that the stage is not over."""
    if isinstance(value, list):
        return [substitute(one, items, overs) for one in value]
    if not isinstance(value, str):
        return value
    if value.startswith("@") and (stage := value[1:]) in overs:
        for name in (name for name in overs[stage] if name not in items):
            what = f"is over {name}, and the stage that points at it is not"
            raise ValueError(f"{value}: {what}; accepted: {value}-ITEM")
        return "-".join([value, *(str(items[name]) for name in overs[stage])])
    if (whole := _PLACEHOLDER.fullmatch(value)) and whole[1] in items:
        return items[whole[1]]
    for name in _PLACEHOLDER.findall(value):
        if name not in items:
            raise ValueError(f"{value}: the stage is not over a list {name}; accepted: {_joined(items)}")
    return _PLACEHOLDER.sub(lambda match: str(items[match[1]]), value)


def expand_after(after: Sequence[str], items: Items, overs: Overs, lists: Lists) -> Iterator[str]:
    """The stages that a copy with these items waits for."""
    for needed in after:
        over = overs.get(needed, ())
        shared = {name: [items[name]] if name in items else lists[name] for name in over}
        yield from (name for name, _ in copies(needed, over, shared))


def _joined(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names)) or "none"
