"""Stages over lists: one stage of a recipe's YAML becomes a copy for each item of a list, or of several lists.

    lists: {methods: [opd, kd, sft], rates: [0.002, 0.005]}
    stages:
      arm: {entry: train.opd.run, over: [methods], set: {method: "{methods}"}, each: {sft: {teacher: null}}}
      eval: {entry: train.evaluate, over: [methods], set: {checkpoint: "@arm"}}

gives arm-opd, arm-kd, arm-sft, eval-opd, ... In settings and labels `{methods}` is the copy's item; `@arm` is the copy
of `arm` with the same items, and in `after` all copies of it when the stage does not share its lists. `each` holds
settings for the copies of single items. `{seed}` is left to the recipe's run. Nothing here knows what items mean.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Items = dict[str, Any]  # list -> the copy's item

_ITEM = re.compile(r"[\w.+]+(-[\w.+]+)*")
_PLACE = re.compile(r"\{(?!seed\})(\w+)\}")


def check_lists(lists: Mapping[str, Sequence[Any]], overs: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError on a list that is empty, repeats an item, or is not used; on an unknown list in `over`."""
    for name, items in lists.items():
        if name == "seed":
            raise ValueError("recipe.lists.seed: {seed} is the recipe's own; accepted: another name")
        texts = [str(item) for item in items]
        if not texts or len(set(texts)) < len(texts):
            raise ValueError(f"recipe.lists.{name}={texts}: accepted: at least one item, each once")
        for text in texts:
            if not _ITEM.fullmatch(text):
                raise ValueError(f"recipe.lists.{name}: item {text!r}; accepted: letters, digits, and . _ + -")
        if not any(name in over for over in overs.values()):
            raise ValueError(f"recipe.lists.{name}: no stage is over it; accepted: {_listed(used(overs))}")
    for stage, over in overs.items():
        if unknown := [name for name in over if name not in lists]:
            raise ValueError(f"recipe.stages.{stage}.over={unknown[0]}: no such list; accepted: {_listed(lists)}")


def used(overs: Mapping[str, Sequence[str]]) -> list[str]:
    """The lists that stages are over, in order."""
    return list(dict.fromkeys(name for over in overs.values() for name in over))


def chosen(lists: Mapping[str, Sequence[Any]], only: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The lists cut down to the items of `only`. Raises ValueError on a list or an item that is not there."""
    for name, wanted in only.items():
        if name not in lists:
            raise ValueError(f"only.{name}: the recipe has no such list; accepted: {_listed(lists)}")
        known = [str(item) for item in lists[name]]
        if bad := [item for item in wanted if str(item) not in known]:
            raise ValueError(f"{name}={bad[0]}: not in the recipe's list; accepted: {', '.join(known)}")
        if not wanted:
            raise ValueError(f"{name}=[]: accepted: at least one of {', '.join(known)}")
    kept = {name: {str(item) for item in wanted} for name, wanted in only.items()}
    return {n: [item for item in items if n not in kept or str(item) in kept[n]] for n, items in lists.items()}


def copies(stage: str, over: Sequence[str], lists: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, Items]]:
    """The name and the items of each copy; a stage over nothing is its own one copy."""
    for items in itertools.product(*(lists[name] for name in over)):
        yield "-".join([stage, *map(str, items)]), dict(zip(over, items, strict=True))


def filled(value: Any, items: Items, overs: Mapping[str, Sequence[str]]) -> Any:
    """A setting of one copy: `{list}` replaced by its item, `@stage` by the name of the copy with the same items.

    A text that is only `{list}` takes the item's own type. Raises ValueError on a list that the stage is not over."""
    if isinstance(value, list):
        return [filled(one, items, overs) for one in value]
    if not isinstance(value, str):
        return value
    if value.startswith("@") and value[1:] in overs:
        return "@" + _same(value[1:], items, overs)
    if (whole := _PLACE.fullmatch(value)) and whole[1] in items:
        return items[whole[1]]
    for name in _PLACE.findall(value):
        if name not in items:
            raise ValueError(f"{value}: the stage is not over a list {name}; accepted: {_listed(items)}")
    return _PLACE.sub(lambda match: str(items[match[1]]), value)


def awaited(
    needed: str, items: Items, overs: Mapping[str, Sequence[str]], lists: Mapping[str, Sequence[Any]]
) -> list[str]:
    """The stages that `after: [needed]` waits for: the copy with the same items, or all that agree with them."""
    if needed not in overs:
        return [needed]
    shared = {name: [items[name]] if name in items else lists[name] for name in overs[needed]}
    return [name for name, _ in copies(needed, overs[needed], shared)]


def _same(stage: str, items: Items, overs: Mapping[str, Sequence[str]]) -> str:
    if more := [name for name in overs[stage] if name not in items]:
        raise ValueError(
            f"@{stage}: is over {more[0]}, and the stage that points at it is not; accepted: @{stage}-ITEM"
        )
    return "-".join([stage, *(str(items[name]) for name in overs[stage])])


def _listed(names: Any) -> str:
    return ", ".join(map(str, names)) or "none"
