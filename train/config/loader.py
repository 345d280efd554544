"""Hydra's loader of configurations, with our schema in place of its structured configs.

Hydra puts together `configs/NAME.yaml`, the chosen files of the groups beside it and its own settings (`hydra.*`). All
other settings are merged into the command's dataclass by its type hints (`schema.py`), so a misspelt name or a wrong
type never reaches the code below. Sweepers, launchers, `--cfg`, `--info` and completion ask this loader, so they see
the same settings.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override, Sweep
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from synth.exit_codes import message_of
from train.config import grammar
from train.config.schema import assign, build, guess, is_single, merge, missing, reset, waits

_PACKAGED = Path(__file__).resolve().parents[1] / "configs"  # where a wheel puts them
CONFIGS = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).resolve().parents[2] / "configs"
OWN_FOLDERS = "GLASSHOUSE_CONFIGS"  # environment: more folders like configs/, separated as in PATH
NO_CHOICES = ("claims",)  # files beside those of a group
# Hydra makes no folder of its own for a run: `train.runs.run_folder` does.
OURS = {
    "hydra.run.dir": ".",
    "hydra.output_subdir": "null",
    "hydra.sweep.subdir": ".",
    "hydra/job_logging": "none",
}


@dataclass(frozen=True)
class Command:
    """What a command is: its configuration's name and dataclass, its text of help, what it does with the settings, and
    how it writes out its short forms of several settings."""

    name: str
    schema: type
    main: Callable[[Any], None] = print
    doc: str = ""
    rewrite: Callable[[list[str], type], list[str]] | None = None
    folder: Path = CONFIGS


class Loader(ConfigLoaderImpl):
    """As its base; the settings of the command are complete and of the types of its dataclass, not built yet."""

    def __init__(self, command: Command, more: Sequence[str | Path] = ()) -> None:
        version.setbase("1.3")
        setup_globals()
        path = create_config_search_path(str(command.folder))
        for folder in [*more, *filter(None, os.environ.get(OWN_FOLDERS, "").split(os.pathsep))]:
            if not Path(folder).is_dir():
                raise ValueError(f"--config-dir={folder}: is no folder; accepted: one like {CONFIGS.name}/")
            path.prepend("own", f"file://{Path(folder).absolute()}", SearchPathQuery(provider="schema"))
        assert isinstance(path, ConfigSearchPathImpl)
        super().__init__(path)
        self.command = command

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """The settings of a command line and Hydra's own, as Hydra's commands expect them; `${...}` is not filled."""
        cfg, values = self.composed(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        if config_name is None:  # for Hydra's own help
            return cfg
        try:
            new = OmegaConf.create(values, flags={"allow_objects": True})
        except OmegaConfBaseException as error:  # an interpolation that is none
            raise ValueError(f"{error.full_key}: {message_of(error)}; accepted: a value, or ${{a.setting}}") from error
        new.hydra = cfg.hydra
        new.hydra.overrides.task = [one for one in overrides if not grammar.read(one).is_hydra_override()]
        return new

    def composed(
        self, config_name: str | None, overrides: Sequence[str], run_mode: RunMode, *more: bool
    ) -> tuple[DictConfig, dict[str, Any]]:
        """Hydra's configuration, and the command's settings as plain data."""
        given = [grammar.read(one) for one in overrides]
        hydra = [one for one in given if one.is_hydra_override()]
        lines = [one.input_line or "" for one in given if not one.is_hydra_override()]
        written = [grammar.read(one) for one in self._rewritten(lines, run_mode)]
        choices, settings = self._sort(written, run_mode)
        keys = {one.key_or_group for one in hydra}
        words = [f"{key}={value}" for key, value in OURS.items() if key not in keys]
        words += [*(one.input_line or "" for one in hydra), *choices]
        where = " ".join([f"configs/{config_name}.yaml", *choices])
        try:
            cfg = super().load_configuration(config_name, words, run_mode, *more)
            values = values_of(cfg)
            values = merge(self.command.schema, None, values, "") if config_name is not None else values
        except Exception as error:  # Hydra wraps errors in many types; here all come from YAML files and choices
            said = error.__cause__ if not str(error) and error.__cause__ is not None else error
            raise ValueError(f"{where}: {message_of(said)}") from error
        texts = {one.key_or_group: grammar.text_of(one) for one in written}
        return cfg, self._set(values, settings, texts, run_mode) if config_name is not None else values

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """As its base, without files of a group that are none of its options."""
        found = super().get_group_options(group_name, results_filter, config_name, overrides)
        return [name for name in found if name not in NO_CHOICES]

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """As its base; the dataclass has checked the settings, too, where nothing in them waits for the job."""
        cfg = super().load_sweep_config(master_config, sweep_overrides)
        checked(self.command.schema, values_of(cfg), resolve=False)
        return cfg

    def options(self, group: str) -> list[str]:
        """The files of a group, of all folders; none where it is no group."""
        return sorted(self.get_group_options(group)) if group.replace("/", "_").isidentifier() else []

    def _rewritten(self, lines: list[str], run_mode: RunMode) -> list[str]:
        if self.command.rewrite is None:
            return lines
        swept = [one for one in lines if run_mode == RunMode.MULTIRUN and grammar.read(one).is_sweep_override()]
        return self.command.rewrite([one for one in lines if one not in swept], self.command.schema) + swept

    def _sort(self, given: Sequence[Override], run_mode: RunMode) -> tuple[list[str], list[Override]]:
        """Choices of a group's file, for Hydra, and settings, for our schema."""
        choices, settings = [], []
        for word in given:
            options = self.options(word.key_or_group)
            if not options or is_single(self.command.schema, word.key_or_group):
                if "/" in word.key_or_group or word.package is not None:
                    raise ValueError(f"{word.input_line}: {word.key_or_group} is no group of files; a setting inside a "
                                     f"group is {word.key_or_group.replace('/', '.')}=VALUE")  # fmt: skip
                settings.append(word)
            else:
                choices.append(self._choice(word, options, run_mode))
        return choices, settings

    def _choice(self, word: Override, options: list[str], run_mode: RunMode) -> str:
        value, group, line = word.value(), word.key_or_group, word.input_line or ""
        several = isinstance(value, Sweep)
        if several and run_mode == RunMode.RUN:
            raise ValueError(f"{line}: several values; accepted: one of {', '.join(options)}, or -m for each")
        listed = getattr(value, "list", None) if several else [value]
        for one in map(str, listed or []):
            if Path(one).suffix in (".yaml", ".yml"):
                line = line.replace(one, own_file(group, Path(one)))
            elif not word.is_delete() and one not in (*options, "None"):
                raise ValueError(f"{line}: no such option{guess(one, options)}; accepted: {', '.join(options)}, "
                                 "or the path of a YAML file")  # fmt: skip
        return line

    def _set(
        self, values: Any, settings: Sequence[Override], given: Mapping[str, str], run_mode: RunMode
    ) -> dict[str, Any]:
        """The values with the settings of the command line, those of whole groups first."""
        schema = self.command.schema
        values = getattr(schema, "complete", lambda values, given: values)(values, given)
        alias = getattr(schema, "alias", lambda _, key: key)
        named = [(alias(values, word.key_or_group), word) for word in settings]
        keys = [key for key, _ in named]
        for key, word in sorted(named, key=lambda one: _depth(one[0])):
            if word.is_delete():
                values = reset(schema, values, key.split("."), key)
            elif not (run_mode == RunMode.MULTIRUN and word.is_sweep_override()):  # each job is loaded with its own
                values = assign(schema, values, key.split("."), grammar.text_of(word), key, keys)
        return values


def own_file(group: str, path: Path) -> str:
    """Makes a YAML file that lies anywhere an option of a group, and returns the option's name."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{group}={path}: cannot be read ({message_of(error)}); accepted: a YAML file") from None
    if not isinstance(content, dict):
        raise ValueError(f"{group}={path}: holds no settings; accepted: a YAML file like those of configs/{group}/")
    name = str(path.absolute()).strip("/").replace("/", "-").replace("=", "-")
    ConfigStore.instance().store(name, OmegaConf.create(content), group=group)
    return name


def values_of(cfg: DictConfig) -> dict[str, Any]:
    """The settings of a command as plain data, `${...}` as it is."""
    values = OmegaConf.to_container(cfg)
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items() if name != "hydra"}


def checked(schema: type, values: dict[str, Any], resolve: bool = True) -> Any:
    """The dataclass, with `${...}` filled in; None where that is left out and something waits. Raises ValueError for a
    setting that is missing, and where the dataclass refuses a value."""
    if any(waits_inside(values)):
        if not resolve and not missing(values):
            return None
        values = resolved_values(schema, values)
    needed = sorted(missing(values))
    if needed:
        raise ValueError(f"{needed[0]}: needs a value; give {needed[0]}=...")
    return build(schema, values)


def resolved_values(schema: type, values: dict[str, Any]) -> dict[str, Any]:
    """Values with `${...}` filled in by OmegaConf, of their types again. Raises ValueError where it names nothing."""
    try:
        found = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    except Exception as error:  # a resolver may raise anything
        raise ValueError(message_of(error)) from error
    return merge(schema, None, found, "")


def waits_inside(values: Any) -> list[bool]:
    """True for every value that waits (`schema.waits`)."""
    if isinstance(values, Mapping):
        return [one for item in values.values() for one in waits_inside(item)]
    if isinstance(values, list):
        return [one for item in values for one in waits_inside(item)]
    return [True] if waits(values) else []


def _depth(key: str) -> float:
    """What acts on a whole group comes before what acts inside it; its form (`schema.assign`) first of all."""
    return key.count(".") - key.endswith(".kind") / 2 - key.endswith(".faithful")
