"""Checkpoints that survive a kill: written under a temporary name, flushed, renamed, and then entered into an index.

    checkpoints/step-N/model.safetensors   weights
                       optimizer.pt        moments (and the objective's own state), loadable without pickle
                       state.json          step, ledger, model config, notes, versions, hashes of the other two
                                           and of the logs so far, and a hash of all this
    checkpoints.jsonl                      one line a save, with the sha256 of each file

Reading takes the last line whose files have these hashes, and warns of each line that it skips. Weights go to disk and
back without a change of one bit; those that are not finite are neither written nor read, and nothing that would have
to be unpickled is. `zoo/NAME` is a model that comes with the code (train/zoo.py, zoo_paths.py), without its moments.
"""

import hashlib
import io
import json
import pickle
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights
from torch import nn

from models.flops import n_params
from models.gpt import GPT, GPTConfig
from synth.store.files import append_json_line, naming, read_json, sealed, sha256, sync, unsealed, write_json
from synth.store.hf_tokenizer import load_folder
from train.config.schema import merge
from train.core import zoo_paths
from train.core.budget_and_ledger import TrainState
from train.core.distributed import shard_like, sharded
from train.core.lora import has_lora
from train.core.optimizer import OptimConfig, Optimizer
from train.data.batches import DataConfig
from train.runs import sha256sums
from train.runs.run_folder import RunFolder

INDEX = "checkpoints.jsonl"
FILES = WEIGHTS, OPTIMIZER, STATE = ("model.safetensors", "optimizer.pt", "state.json")
MODEL_FILES = (WEIGHTS, STATE)  # what readers of the weights need
LOGS = ("metrics.jsonl", "samples.jsonl")  # of which a checkpoint notes what was there when it was written
ORIGIN = "glasshouse.json"  # the notes of a checkpoint in the Hugging Face folder that it was exported to


def save(
    run: Path,
    model: nn.Module,
    optimizer: Any,
    state: TrainState,
    notes: Mapping[str, Any] | None = None,
    objective: Mapping[str, Any] | None = None,
    keep: int = 0,
    best: int | None = None,
) -> Path:
    """Writes checkpoints/step-N for `state.step` and keeps the `keep` newest (0: all) and that of step `best`.

    notes: JSON that readers of the weights need (the data's vocabulary). objective: the objective's state_dict.
    Raises ValueError when it cannot be written, FloatingPointError for weights that are not finite; the checkpoints
    before it stay.
    """
    if (name := not_finite(model)) is not None:
        raise FloatingPointError(f"step {state.step}: {name} is not finite; nothing is written, {run} stays as it was")
    folder = run / "checkpoints"
    folder.mkdir(exist_ok=True)
    remove_leftovers(run)
    temporary, final = folder / f".step-{state.step}.tmp", folder / f"step-{state.step}"
    try:
        _write(temporary, model, optimizer, state, notes, objective, logs_of(run))
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(folder).free
        shutil.rmtree(temporary, ignore_errors=True)
        raise ValueError(
            f"{final}: cannot be written ({str(error).splitlines()[0]}; {free / 1e6:.0f} MB free); accepted: a disk "
            "with room for it, then the same command continues from the checkpoint before it"
        ) from error
    if final.exists():  # from a save that was killed before it was entered, or one that is damaged
        _remove(final)
    temporary.rename(final)
    sync(folder)
    hashes = {name: sha256(final / name) for name in FILES}
    append_json_line(run / INDEX, {"step": state.step, "path": f"checkpoints/{final.name}", "sha256": hashes})
    folders = list(dict.fromkeys(line["path"] for line in reversed(index_lines(run))))
    for path in folders[keep:] if keep else []:
        if (run / path).exists() and path != f"checkpoints/step-{best}":
            _remove(run / path)
    return final


def choose(run: Path, step: int) -> None:
    """Makes the checkpoint of this step the run's newest one, for all who read the run."""
    lines = index_lines(run)
    if lines[-1]["step"] != step:
        append_json_line(run / INDEX, next(line for line in reversed(lines) if line["step"] == step))


def write_untrained(run: RunFolder, model: GPT, notes: Mapping[str, Any], **summary: Any) -> None:
    """Completes the run folder of a model that was made of others, without a step of training, and prints its path."""
    if not run.complete:
        state = TrainState()
        save(run.path, model, Optimizer(model, OptimConfig()), state, notes)
        run.write_json("ledger.json", state.state_dict()["ledger"])
        run.write_json("summary.json", {"parameters": n_params(model.config), **summary})
    print(run.path)


def remove_leftovers(run: Path) -> None:
    """Removes what a process that was killed while it saved or pruned has left."""
    for leftover in (run / "checkpoints").glob(".*.tmp"):
        shutil.rmtree(leftover)


def not_finite(model: nn.Module) -> str | None:
    """The name of the first tensor of a model with a number that is not finite; None where there is none."""
    return next((name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()), None)


def logs_of(run: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of each log of a run as it is now."""
    contents = {name: (run / name).read_bytes() for name in LOGS if (run / name).is_file()}
    return {name: {"bytes": len(text), "sha256": sha256sums.digest(text)} for name, text in contents.items()}


def _check_logs(run: Path, state: Mapping[str, Any], step: int) -> None:
    """Raises ValueError when a log does not begin as it was when the checkpoint of this state was written. A log that
    was begun anew after it (the rollouts of an evaluation) says so in its first line."""
    for name, noted in state.get("logs", {}).items():
        path = run / name
        text = path.read_bytes() if path.is_file() else b""
        if not text:
            print(f"warning: {path}: is not there; it begins anew at step {step}", file=sys.stderr)
        elif sha256sums.digest(text[: noted["bytes"]]) != noted["sha256"]:
            with naming(path):
                begun = json.loads(text.partition(b"\n")[0])["step"]
            if begun <= step:
                accepted = f"accepted: the file as it was; or none, then it begins anew at step {step}"
                raise ValueError(f"{path}: is damaged: it is not as it was at step {step}; {accepted}")


def _write(
    folder: Path, model: nn.Module, optimizer: Any, state: TrainState, notes: Any, objective: Any, logs: Any
) -> None:
    """Writes the files of a checkpoint into a new folder and flushes them to the disk."""
    folder.mkdir()
    save_weights(model, str(folder / WEIGHTS), metadata={"format": "pt"})
    moments = io.BytesIO()  # torch's own writer has no clear error for a full disk
    torch.save({"optimizer": optimizer.state_dict(), "objective": dict(objective or {})}, moments)
    (folder / OPTIMIZER).write_bytes(moments.getbuffer())
    config = getattr(model, "config", None)
    record = {"state": state.state_dict(), "model": asdict(cast(Any, config)) if is_dataclass(config) else None}
    record |= {"notes": dict(notes or {}), "versions": {"torch": torch.__version__}, "logs": logs}
    record["sha256"] = {name: sha256(folder / name) for name in (WEIGHTS, OPTIMIZER)}
    write_json(folder / STATE, sealed(record))
    (folder / WEIGHTS).chmod((folder / STATE).stat().st_mode)  # safetensors writes it for its owner alone
    for path in (*(folder / name for name in FILES), folder):
        sync(path)


def _newest(run: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a run whose files have the hashes of the index, and what is damaged of newer ones."""
    damaged = []
    for line in reversed(index_lines(run)):
        folder = run / line["path"]
        wrong = [name for name, digest in line["sha256"].items() if not _matches(folder / name, digest)]
        if not wrong:
            return folder, damaged
        if folder.exists():  # nothing is wrong with a folder that `keep` has removed
            damaged.append(f"{folder}: {', '.join(wrong)} is damaged")
    return None, damaged


def latest(run: Path) -> Path | None:
    """The newest undamaged checkpoint of a run, with a warning for each newer one; None when there is none."""
    return _warned(*_newest(run))


def _warned(found: Path | None, damaged: list[str]) -> Path | None:
    for what in damaged if found else []:
        print(f"warning: {what}; trying the checkpoint before it", file=sys.stderr)
    return found


def index_lines(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's index that can be read, with a warning for each other; none where there is no file."""
    path = run / INDEX
    if not path.is_file():
        return []
    sha256sums.check(run, INDEX)
    lines = []
    for number, text in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            line = json.loads(text)
            if not (isinstance(line["step"], int) and isinstance(line["path"], str) and dict(line["sha256"])):
                raise TypeError("a line with step, path and sha256 is wanted")
            lines.append(line)
        except (ValueError, LookupError, TypeError, RecursionError):
            print(f"warning: {path}: line {number} is damaged; passing over it", file=sys.stderr)
    return lines


def to_resume(run: Path) -> Path | None:
    """The checkpoint that a run goes on from; None where it begins. Raises ValueError when it has checkpoints and all
    of them are damaged: nothing is thrown away by starting again."""
    found, damaged = _newest(run)
    path = run / INDEX
    if found is None and path.is_file() and path.stat().st_size and any((run / "checkpoints").glob("step-*")):
        what = damaged[0] if damaged else f"{path}: names none of its checkpoints"
        raise ValueError(f"{what}; accepted: the files as they were, for there is no other checkpoint; or a new folder")
    return _warned(found, damaged)


def restore(folder: Path, model: nn.Module, optimizer: Any, state: TrainState) -> dict[str, Any]:
    """Fills model, optimiser and state from a step folder; returns the objective's state. Raises ValueError naming the
    file that cannot be read."""
    record = _state(folder)
    device = next(model.parameters()).device
    try:
        if sharded(model):
            own, tensors = model.state_dict(), load_file(str(folder / WEIGHTS))
            model.load_state_dict({name: shard_like(tensor, own[name]) for name, tensor in tensors.items()})
        elif not has_lora(model):  # with LoRA the weights are those of `init`, the updates are in the optimiser's file
            load_weights(model, str(folder / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder / WEIGHTS}: cannot be read ({str(error).splitlines()[0]})") from error
    try:
        moments = torch.load(folder / OPTIMIZER, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, AttributeError) as error:
        foreign = isinstance(error, pickle.UnpicklingError)
        what = "it holds more than tensors and numbers" if foreign else "it is damaged"
        raise ValueError(f"{folder / OPTIMIZER}: cannot be read ({what}); accepted: the file as it was") from error
    with naming(folder / OPTIMIZER):
        optimizer.load_state_dict(moments["optimizer"])
        remembered = moments["objective"]
    with naming(folder / STATE):
        state.load_state_dict(record["state"])
    _check_logs(folder.parent.parent, record, state.step)
    return remembered


def find(path: str | Path, setting: str = "checkpoint") -> Path:
    """The step folder at `path`: itself, or the last undamaged checkpoint of a run folder or of `zoo/NAME`. Raises
    ValueError, naming the setting and the path, when there is none."""
    path = zoo_paths.expand(path, setting)
    accepted = "accepted: a run folder, or one of its checkpoints/step-N folders"
    if not path.exists():
        raise ValueError(f"{setting}={path}: does not exist; {accepted}")
    if is_hugging_face(path):
        raise ValueError(f"{setting}={path}: is a Hugging Face folder; {accepted}")
    if all((path / name).is_file() for name in MODEL_FILES):
        if _damaged(path):
            raise ValueError(f"{setting}={path}: its files are not the ones that were saved; {accepted}")
        return path
    found, damaged = _newest(path) if path.is_dir() else (None, [])
    if found is None:
        what = f"{damaged[0]}, and no other is whole" if damaged else "holds no complete checkpoint"
        raise ValueError(f"{setting}={path}: {what}; {accepted}")
    newest = path / index_lines(path)[-1]["path"]
    if found != newest and (path / sha256sums.SUMMARY).is_file():
        what = f"the run is complete; {damaged[0] if damaged else f'{newest} is gone'}; the one before it is {found}"
        raise ValueError(f"{setting}={path}: {what}; accepted: the files as they were, or that one by its name")
    return _warned(found, damaged) or found


def is_hugging_face(path: str | Path) -> bool:
    """Whether `path` is a Hugging Face folder of a model, ours or another's."""
    return (Path(path) / "config.json").is_file()


def load_model(path: str | Path, setting: str = "checkpoint", device: str | torch.device = "cpu") -> GPT:
    """The model saved at `path` (see `find`), or of a Hugging Face folder, in evaluation mode. Raises ValueError naming
    `setting` and the path."""
    if is_hugging_face(path):
        from models.huggingface.export import load  # loads transformers

        with _naming(setting, path):
            return load(Path(path)).to(device).eval()
    folder = find(path, setting)
    config = _record(folder, path, setting)["model"]
    if config is None:
        raise ValueError(f"{setting}={path}: was not written by a GPT, so its architecture is not known")
    try:
        model = GPT(GPTConfig(**config))
        load_weights(model, str(folder / WEIGHTS))
        if (name := not_finite(model)) is not None:
            raise ValueError(f"{name} is not finite")
    except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise _unreadable(WEIGHTS, path, setting, error) from error
    return model.to(device).eval()


def notes(path: str | Path, setting: str = "checkpoint") -> dict[str, Any]:
    """The `notes` that were saved beside the weights at `path`; of a Hugging Face folder that was not exported from
    here only `vocabulary`, the texts of its tokens."""
    if is_hugging_face(path):
        return _notes_of_folder(Path(path), setting)
    return _record(find(path, setting), path, setting)["notes"]


def take_data(setting: str, values: Mapping[str, Any], given: Mapping[str, str]) -> Mapping[str, Any]:
    """Settings of a command whose data, but for `seed` and `documents`, are those of the checkpoint in `setting`.

    They stay as they are where the command line gives `data` or `data.preset`, or the checkpoint notes none. `given`:
    setting -> text of the command line.
    """
    path = given.get(setting, "null")
    if path == "null" or {"data", "data.preset"} & given.keys() or not (own := notes(path, setting).get("data")):
        return values
    kept = {name: values["data"].get(name) for name in ("seed", "documents")}
    return {**values, "data": merge(DataConfig, None, own | kept, "data")}


def weights_digest(path: str | Path, setting: str = "checkpoint") -> str:
    """sha256 of the weights at `path`."""
    if is_hugging_face(path):
        files = sorted(Path(path).glob("*.safetensors"))
        return hashlib.sha256(" ".join(map(sha256, files)).encode()).hexdigest()
    return sha256(find(path, setting) / WEIGHTS)


def _record(folder: Path, path: str | Path, setting: str) -> dict[str, Any]:
    """The state.json of a step folder, which may be damaged where the folder was copied without its run's index."""
    try:
        record = _state(folder)
        return {"model": record["model"], "notes": dict(record["notes"])}
    except (ValueError, KeyError, TypeError) as error:
        name = next((name for name in FILES if str(folder / name) in str(error)), STATE)
        raise _unreadable(name, path, setting, error) from error


def _state(folder: Path) -> dict[str, Any]:
    """The content of state.json. Raises ValueError when it, or a file that it has the hash of, is not as it was."""
    path = folder / STATE
    with naming(path):
        record = unsealed(path)
        hashes = dict(record.get("sha256", {}))
    for name, digest in hashes.items():
        if (folder / name).is_file() and not _matches(folder / name, digest):
            raise ValueError(f"{folder / name}: is damaged: its sha256 is not that in {STATE}")
    return record


@contextmanager
def _naming(setting: str, path: str | Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{setting}={path}: {error}") from None


def _notes_of_folder(folder: Path, setting: str) -> dict[str, Any]:
    with _naming(setting, folder):
        if (folder / ORIGIN).is_file():
            return read_json(folder / ORIGIN)
        tokenizer, _ = load_folder(str(folder))
    texts = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    return {"vocabulary": hashlib.sha256(json.dumps(texts).encode()).hexdigest()}


def _unreadable(name: str, path: str | Path, setting: str, error: Exception) -> ValueError:
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return ValueError(f"{setting}={path}: its {name} cannot be read ({why}); accepted: a checkpoint that is whole")


def _damaged(step: Path) -> bool:
    """Whether the contents of a step folder are not those that its run's index says."""
    lines = [line for line in index_lines(step.parent.parent) if Path(line["path"]).name == step.name]
    return bool(lines) and not all(_matches(step / name, h) for name, h in lines[-1]["sha256"].items())


def _matches(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _remove(step: Path) -> None:
    """Removes a step folder; renamed first, so that a kill does not leave half of it under its name."""
    doomed = step.with_name(f".{step.name}.old.tmp")
    step.rename(doomed)
    shutil.rmtree(doomed)
