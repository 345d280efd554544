"""Settings of a command: YAML and `key=value` words become one frozen dataclass, or one line that says what is wrong.

Hydra (its compose API only) puts together `configs/NAME.yaml` and the chosen files of the groups beside it; every
setting is then checked against the dataclass, so a misspelt name or a wrong type never reaches the code below. A
dataclass checks its own values in `__post_init__` with `ValueError`. Nothing outside this file knows Hydra.

The YAML of an entry lists its schema first: `defaults: [NAME_schema, {model: ...}, _self_]`.
Try: `python -m train.pretrain --show optim=adamw budget.steps=10`.
"""

import dataclasses
import difflib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from train.config.schema import build, mirror

Config = TypeVar("Config")
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
REQUIRED = "???"  # OmegaConf's mark of a setting that has no default: `checkpoint: str = REQUIRED`
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)  # words of a file system
_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


def load(name: str, schema: type[Config], words: Sequence[str] = (), folder: Path = CONFIGS) -> Config:
    """The dataclass `schema` filled from `folder/name.yaml`, its groups, and `key=value` words.

    A word that chooses a group's file acts before those that change single settings, wherever it stands. A schema with
    a static method `alias(config, key) -> key` has other names for some of its settings on the command line. Raises
    ValueError, in one line, on an unknown setting or option, a wrong type, or a value the dataclass refuses.
    """
    return _build(schema, _composed(name, schema, words, folder))


def plain(config: Any) -> dict[str, Any]:
    """A config dataclass as nested plain dictionaries, for YAML, JSON and hashing."""
    return dataclasses.asdict(config)


def show(name: str, schema: type, words: Sequence[str] = (), folder: Path = CONFIGS) -> str:
    """The resolved settings as YAML; a setting that is still missing reads '???'."""
    config = _composed(name, schema, words, folder)
    if not OmegaConf.missing_keys(config):
        return yaml.safe_dump(plain(_build(schema, config)), sort_keys=False)
    return OmegaConf.to_yaml(config)


def run_entry(
    name: str, schema: type[Config], main: Callable[[Config], None], doc: str, argv: Sequence[str] | None = None
) -> int:
    """Runs a command and returns its exit code: 0 done, 1 stopped by divergence, 2 bad input, 130 interrupted.

    `main(config)` raises ValueError for input it cannot accept; the user reads it as one line on stderr. `--help`,
    `--show` (print the resolved settings) and `--traceback` (show where an error came from) work for every entry.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        print(_help(name, schema, doc))
        return 0
    traceback = "--traceback" in words
    only_show = "--show" in words
    words = [w for w in words if w not in ("--traceback", "--show")]
    try:
        if only_show:
            print(show(name, schema, words), end="")
            return 0
        main(load(name, schema, words))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("interrupted: the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    except (ValueError, FloatingPointError) as error:
        if traceback:
            raise
        if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun starts, one speaks
            print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except OSError as error:
        if traceback or error.errno not in NO_ROOM:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}cannot be written ({error.strerror}); accepted: a folder with room that may be written; "
              "then the same command continues", file=sys.stderr)  # fmt: skip
        return 2
    return 0


def _composed(name: str, schema: type, words: Sequence[str], folder: Path) -> DictConfig:
    node = OmegaConf.structured(mirror(schema))
    ConfigStore.instance().store(f"{name}_schema", node)
    choices, settings = _sort_words(words, node, folder)
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            config = compose(name, overrides=choices)
    except Exception as error:  # Hydra wraps errors in many types; here all of them come from YAML files and choices
        raise ValueError(f"configs/{name}.yaml {' '.join(choices)}: {_one_line(error)}") from error
    alias = getattr(schema, "alias", lambda _, key: key)
    settings = [(alias(config, key), text) for key, text in settings]
    for key, text in settings:
        _apply(config, key, text)
    _clear_siblings(config, [key for key, _ in settings])
    return config


def _clear_siblings(config: DictConfig, given: Sequence[str]) -> None:
    """In a group of which exactly one setting may be given (`one_of`), the command line's choice replaces YAML's."""
    for key in given:
        group, _, leaf = key.rpartition(".")
        node = OmegaConf.select(config, group) if group else config
        if getattr(getattr(OmegaConf.get_type(node), "source", None), "one_of", False) and node[leaf] is not None:
            for other in node:
                if other != leaf and f"{group}.{other}" not in given:
                    node[other] = None


def _sort_words(words: Sequence[str], node: DictConfig, folder: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Splits `key=value` words into choices of a group's file (for Hydra) and single settings (for us)."""
    choices, settings = [], []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key or key.startswith(("-", "+", "~")) or "${" in value:
            raise ValueError(f"{word}: not understood; accepted are key=value words, --help, --show and --traceback")
        child = node._get_node(key) if key in [*node] else None
        options = _options(folder, key)
        if options and (child is None or isinstance(child, DictConfig)):
            if value not in options:
                raise ValueError(f"{word}: no such option{_guess(value, options)}; accepted: {', '.join(options)}")
            choices.append(word)
        else:
            settings.append((key, value))
    return choices, settings


def _options(folder: Path, group: str) -> list[str]:
    return sorted(p.stem for p in (folder / group).glob("*.yaml")) if group.isidentifier() else []


def _apply(config: DictConfig, key: str, text: str) -> None:
    """Sets one dotted setting, which must exist unless it lies in an open mapping (a field of type dict).

    In a mapping to anything, the names of a recipe's settings for instance, a name may have dots itself.
    """
    *parents, leaf = key.split(".")
    node = config
    for depth, part in enumerate([*parents, leaf]):
        is_open = OmegaConf.get_type(node) is dict
        rest = ".".join([*parents, leaf][depth:])
        if is_open and node._metadata.element_type is Any and part not in [*node] and part != rest:
            with open_dict(node):
                node[rest] = _value(None, text)
            return
        if part not in [*node] and not (is_open and part == leaf):  # `in node` is False for a missing value
            path = ".".join(key.split(".")[:depth])
            names = [str(k) for k in node]
            accepted = ", ".join(f"{path}.{n}" if path else n for n in names) or "nothing"
            raise ValueError(f"{key}={text}: unknown setting{_guess(part, names)}; accepted: {accepted}")
        if part is leaf and depth == len(parents):
            break
        child = node._get_node(part)
        if not isinstance(child, DictConfig) or child._is_none():
            raise ValueError(f"{key}={text}: {'.'.join(key.split('.')[: depth + 1])} has no settings inside it")
        node = child
    target = node._get_node(leaf) if leaf in [*node] else None
    if isinstance(target, DictConfig) and not target._is_none() and text != "null":
        raise ValueError(f"{key}={text}: a group of settings; accepted: {', '.join(f'{key}.{k}' for k in target)}")
    try:
        OmegaConf.update(config, key, _value(target, text), force_add=True)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(f"{key}={text}: expected {_expected(target)}") from error


def _value(target: Any, text: str) -> Any:
    """Text meant for a text setting is taken as it is (paths may hold '=' or spaces); the rest is read as YAML."""
    if text == "null":
        return None
    if target is not None and not isinstance(target, DictConfig | ListConfig) and target._metadata.ref_type is str:
        return text
    return OmegaConf.create(f"value: {text}")["value"] if text else None


def _expected(target: Any) -> str:
    if isinstance(target, ListConfig):
        return "a list such as [1, 2]"
    if target is None or isinstance(target, DictConfig):
        return "another kind of value"
    kind = _KINDS.get(target._metadata.ref_type, "another kind of value")
    return f"{kind} or null" if target._metadata.optional else kind


def _guess(word: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, names, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _build(schema: type[Config], config: DictConfig) -> Config:
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ValueError(f"{missing[0]}: needs a value; give {missing[0]}=...")
    return build(schema, OmegaConf.to_container(config))


def _help(name: str, schema: type, doc: str) -> str:
    groups = [p.name for p in sorted(CONFIGS.iterdir()) if p.is_dir()]
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    lines = [f"  {g}={' | '.join(_options(CONFIGS, g))}" for g in groups if f"{g}:" in text]
    return "\n".join(
        [
            doc.strip(),
            "",
            "Options: --show prints the resolved settings and stops; --traceback shows where an error came from.",
            *(["", "Ready-made parts (configs/GROUP/NAME.yaml):", *lines] if lines else []),
            "",
            "Settings and their defaults (key=value; a.b=value inside a group):",
            *("  " + line for line in show(name, schema).rstrip().splitlines()),
        ]
    )


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:2]) or type(error).__name__
