"""Where the rows of metrics.jsonl go as well: TensorBoard and Weights & Biases (extra `log`), by the setting `log`.

    python -m train.pretrain log=[tensorboard]             # RUN/tensorboard: tensorboard --logdir runs
    WANDB_MODE=offline python -m train.opd.run log=[wandb] ...   # RUN/wandb; later: wandb sync RUN/wandb/offline-run-*

metrics.jsonl is what counts. A run that goes on writes its event file anew from the rows that count, and continues the
same W&B run behind the last step that it has there, so no step stands there twice, however the run was stopped. Other
settings of W&B (project, entity, mode) are its own environment variables. Counts by number of operations become one
scalar each, as `eval_by_ops/3/right`.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from synth.store.files import read_json
from train.runs.results import is_number

Name = Literal["tensorboard", "wandb"]
Row = Mapping[str, Any]  # a line of metrics.jsonl


@dataclass(frozen=True)
class EventLogs:
    """Which logs a run writes beside metrics.jsonl. config: the run's settings. define: what a metric means. notes: the
    same of all metrics, as Markdown."""

    names: Sequence[Name] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    define: Callable[[str], str] = lambda metric: ""
    notes: str = ""

    def check(self) -> None:
        """Raises ValueError where a package or W&B's login is missing."""
        for name in self.names:
            if importlib.util.find_spec(name) is None:
                accepted = "accepted: pip install 'glasshouse[log]', or a list without it"
                raise ValueError(f"log=[{name}]: the package {name} is not installed; {accepted}")
        if "wandb" in self.names:
            import wandb

            with _wandb_errors():
                if wandb.setup().settings.mode in (None, "online"):
                    wandb.login()

    def open(self, run: Path, rows: Sequence[Row]) -> list["EventLog"]:
        """The logs of a run folder, which then hold `rows`."""
        made = []
        for name in dict.fromkeys(self.names):
            make = TensorBoard if name == "tensorboard" else WeightsAndBiases
            made.append(make(run, rows, self))
        return made


class EventLog(Protocol):
    """One of them."""

    def write(self, row: Row) -> None:
        """Adds a row."""
        ...

    def flush(self) -> None:
        """Brings what was written to the disk."""
        ...

    def close(self, failed: bool) -> None:
        """Ends the log; failed: the run was stopped by an error."""
        ...


def scalars(row: Row) -> Iterator[tuple[str, float]]:
    """Name and value of each number of a row but the step."""
    for name, value in row.items():
        if name != "step":
            yield from _leaves(name, value)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, x in value.items():
            yield from _leaves(f"{name}/{key}", x)
    elif isinstance(value, list):  # of one entry for each number of operations
        for part in value:
            yield from _leaves(f"{name}/{part['ops']}", {key: x for key, x in part.items() if key != "ops"})
    elif is_number(value):
        yield name, value


class TensorBoard:
    """Scalars in RUN/tensorboard, each with its definition."""

    def __init__(self, run: Path, rows: Iterable[Row], logs: EventLogs) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._events: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")  # made at run time: no types
        self._summaries: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2")

        folder, self._define = run / "tensorboard", logs.define
        before = list(folder.glob("events.*"))
        self._writer, self._defined = EventFileWriter(str(folder)), set[str]()
        # a reader that has the earlier file open drops what it holds
        self._add(step=0, session_log=self._events.SessionLog(status=self._events.SessionLog.START))
        for row in rows:
            self.write(row)
        self.flush()
        for path in before:
            path.unlink()

    def write(self, row: Row) -> None:
        Summary, SummaryMetadata = self._summaries.Summary, self._summaries.SummaryMetadata
        values = []
        for name, x in scalars(row):
            about = None
            if name not in self._defined:
                self._defined.add(name)
                meaning = self._define(name.partition("/")[0])
                plugin = SummaryMetadata.PluginData(plugin_name="scalars")
                about = SummaryMetadata(summary_description=meaning, plugin_data=plugin)
            values.append(Summary.Value(tag=name, simple_value=x, metadata=about))
        self._add(step=row["step"], summary=Summary(value=values))

    def _add(self, **content: Any) -> None:
        self._writer.add_event(self._events.Event(wall_time=time.time(), **content))

    def flush(self) -> None:
        self._writer.flush()

    def close(self, failed: bool) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of W&B that has the name of the run folder, its settings, and the definitions among its notes."""

    def __init__(self, run: Path, rows: Sequence[Row], logs: EventLogs) -> None:
        import wandb

        made = hashlib.sha256(read_json(run / "manifest.json")["time"].encode()).hexdigest()
        identity = f"{run.name}-{made[:8]}"
        before = list((run / "wandb").glob(f"offline-run-*-{identity}*"))
        online = wandb.setup().settings.mode in (None, "online")
        with _wandb_errors():
            self._run = wandb.init(
                id=identity,
                name=run.name,
                project=os.environ.get("WANDB_PROJECT", "glasshouse"),
                dir=str(run),
                config=dict(logs.config),
                notes=None if rows else logs.notes,  # a run that goes on keeps what a person wrote there
                resume="allow" if online else None,
                settings=wandb.Settings(console="off"),  # the terminal is not W&B's to record
            )
        self._next = self._run.step
        for row in rows:
            self.write(row)
        for folder in before:  # not earlier: W&B would take its name again
            shutil.rmtree(folder)

    def write(self, row: Row) -> None:
        if row["step"] >= self._next:
            self._run.log(dict(scalars(row)), step=row["step"])

    def flush(self) -> None:
        """W&B's own process writes what it is given at once."""

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


@contextlib.contextmanager
def _wandb_errors() -> Iterator[None]:
    """W&B's own errors as one line."""
    from wandb.errors import Error

    try:
        yield
    except Error as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"log=[wandb]: {why}; accepted: wandb login, WANDB_MODE=offline, or a list without it"
        ) from error
