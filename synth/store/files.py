"""Files that are whole or absent: a killed process leaves the old file or the new one, never half of either.

Everything is written under a temporary name, flushed to the disk and renamed. In a JSON-lines file, which grows a line
at a time, a last line without its newline was cut off by a kill: readers leave it out and the next append removes it.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

BLOCK = 4096  # bytes read at once when looking for the last line of a file


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` for a file or a folder, renamed to `path` when the block ends without an error. A
    file at `path` is replaced; a folder must not be there yet. After an error nothing is left behind."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)


def atomic_write(path: Path, content: str | bytes) -> None:
    """Writes a whole file, durable also after a power cut."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, atomically. Raises ValueError for a number that is not finite (see `finite`)."""
    atomic_write(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises OSError when it cannot be read, ValueError naming the file for bad JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error})") from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file without a torn last line; none where there is no file. Raises ValueError naming
    the file when another line is not JSON."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    try:
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    except ValueError as error:
        raise ValueError(f"{path}: has a line that is not JSON ({error})") from error


def append_json_line(path: Path, record: Mapping[str, Any], durable: bool = True) -> None:
    """Adds one line, in place of a torn one; `durable` flushes it to the disk."""
    with path.open("ab+") as file:
        file.truncate(_end_of_last_line(file))
        file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        file.flush()
        if durable:
            os.fsync(file.fileno())


def write_json_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Writes a whole JSON-lines file, atomically."""
    atomic_write(path, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records))


def last_json_line(path: Path) -> dict[str, Any]:
    """The last whole record of a JSON-lines file that may be growing; {} where there is none."""
    with path.open("rb") as file:
        end = _end_of_last_line(file)
        start = _end_of_last_line(file, max(0, end - 1))
        file.seek(start)
        return json.loads(file.read(end - start)) if end else {}


def _end_of_last_line(file: IO[bytes], end: int | None = None) -> int:
    """The offset behind the last newline among the first `end` bytes (None: all); 0 where there is none."""
    end = file.seek(0, os.SEEK_END) if end is None else end
    while end > 0:
        start = max(0, end - BLOCK)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def finite(value: Any) -> Any:
    """The same nested value with None for every number that is not finite, which JSON cannot hold."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flushes a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
