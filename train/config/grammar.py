"""Words of a command line, `key=value`, `+key=value` and `~key`, read by Hydra's own override grammar.

Text stays text: what that grammar cannot read (`checkpoint=/runs/a #1`) is taken as if it stood in quotes. So paths
need no escapes, and a setting that wants a number or a list still refuses it.
"""

from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, Sweep
from hydra.errors import HydraException

ACCEPTED = "accepted: key=value, +key=value, ~key, and the options of --help"
OPENING = ("[", "{", '"', "'")  # what begins with one of these is no plain text


class Several(str):
    """The text of a value that stands for several: a sweep of Hydra's grammar."""


class Quoted(str):
    """Text that stood in quotes."""


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


@lru_cache(4096)  # a recipe's stages share most of their words
def read(line: str) -> Override:
    """One word. Raises ValueError, in one line, where it is none."""
    try:
        found = _parser().parse_override(line)
        if found.key_or_group:
            return found
        raise HydraException(line)
    except HydraException:
        key, equals, text = line.partition("=")
        if not equals or not key or text.lstrip().startswith(OPENING):
            raise ValueError(f"{line}: not understood; {ACCEPTED}") from None
    try:
        return _parser().parse_override(f"{key}={_in_quotes(text)}")
    except HydraException:
        raise ValueError(f"{line}: not understood; {ACCEPTED}") from None


def value(text: str) -> Any:
    """A value as Hydra reads it: a number, true or false, None, text (`Quoted` where it stood in quotes), a list, a
    dictionary, or `Several`."""
    override = read(f"x={text}")
    if isinstance(override._value, Sweep):
        return Several(text)
    found = override.value()
    return Quoted(found) if isinstance(override._value, QuotedString) else found


def text_of(word: Override) -> str:
    """What stands after the equals sign."""
    return (word.input_line or "").partition("=")[2]


def as_arguments(settings: Mapping[str, Any]) -> list[str]:
    """Settings as words that the commands read back as they are."""
    return [f"{key}={as_text(value)}" for key, value in settings.items()]


def as_text(given: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(given, Mapping):
        return "{" + ",".join(f"{key}:{as_text(item)}" for key, item in given.items()) + "}"
    if isinstance(given, list | tuple):
        return "[" + ",".join(map(as_text, given)) + "]"
    if isinstance(given, str):
        return given if _is_plain(given) else _in_quotes(given)
    return "null" if given is None else str(given).lower() if isinstance(given, bool) else repr(given)


def listed(names: Iterable[str]) -> str:
    """Names of settings as a list in Hydra's grammar."""
    return "[" + ",".join(names) + "]"


@cache
def _is_plain(text: str) -> bool:
    if "${" in text:
        return True
    try:
        found = _parser().parse_override(f"x=[{text}]").value()
    except HydraException:
        return False
    return found == [text] and type(found[0]) is str  # type: ignore[index]


def _in_quotes(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()
