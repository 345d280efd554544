"""Files that are whole or absent: a killed process leaves the old file or the new one, never half of either.

Everything is written under a temporary name, flushed to the disk and renamed. In a JSON-lines file, which grows a line
at a time, a last line without its newline was cut off by a kill: readers leave it out and the next append removes it.
Errors name the file: OSError where it cannot be read or written, ValueError where its content is not what it should be.
"""

import hashlib
import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

BLOCK = 4096  # bytes read at once when looking for the last line of a file
KEPT = 60  # characters of a name that its temporary name keeps: a file system allows 255 bytes
HOST = f"{zlib.crc32(os.uname().nodename.encode()):08x}"  # in temporary names: a process id means nothing elsewhere


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` for a file or a folder, renamed to `path` when the block ends without an error. A
    file at `path` is replaced; a folder must not be there yet. After an error nothing is left behind, and what a killed
    process left of `path` is removed. Raises OSError with the name of `path`, also for what libraries raise in its
    place."""
    remove_leftovers(path)
    temporary = path.with_name(f"{_temporary_start(path)}{os.getpid()}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):
            temporary.unlink()
        if (number := _error_number(error, temporary)) is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    sync(path.parent)


def _temporary_start(path: Path) -> str:
    return f".{path.name[:KEPT]}.{HOST}-"


def remove_leftovers(path: Path) -> None:
    """Removes the temporary files and folders of `path` that processes of this machine left when they were killed; also
    one of this process's own id, which then was another's."""
    start = _temporary_start(path)
    with suppress(OSError):
        for left in path.parent.iterdir():
            owner = left.name.removeprefix(start).removesuffix(".tmp")
            if left.name == f"{start}{owner}.tmp" and owner.isdecimal() and not _is_other_process(int(owner)):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _is_other_process(pid: int) -> bool:
    """Whether a process of this id runs that is not this one."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return pid != os.getpid()


def _error_number(error: BaseException, temporary: Path) -> int | None:
    """The number of an error in writing a temporary file; None for other errors, and those that name another file."""
    if isinstance(error, BrokenPipeError):
        return None
    if isinstance(error, OSError) and (error.filename is None or str(error.filename).startswith(str(temporary))):
        return error.errno
    rust = re.search(r"\(os error (\d+)\)", str(error)) if isinstance(error, Exception) else None
    return int(rust[1]) if rust and not isinstance(error, OSError) else None


def atomic_write(path: Path, content: str | bytes) -> None:
    """Writes a whole file, durable also after a power cut."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, atomically. Raises ValueError for a number that is not finite (see `finite`)."""
    atomic_write(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """The content of a JSON file. What UTF-8 cannot hold (bytes of a path in another encoding) is escaped."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(errors="backslashreplace")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises OSError when it cannot be read, ValueError naming the file for bad JSON."""
    return _parsed(path.read_bytes(), f"{path}: is")


def _parsed(content: bytes, where: str) -> Any:
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} not JSON ({error})") from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file without a torn last line; none where there is no file. Raises ValueError naming
    the file and the line when another line is no JSON object."""
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        records.append(record := _parsed(line, f"{path}: line {number} is"))
        if not isinstance(record, dict):
            raise ValueError(f"{path}: line {number} is no JSON object")
    return records


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What is missing or of a wrong kind in here is the fault of this file or folder: raises ValueError naming it."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError) as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        what = f"no {error}" if isinstance(error, KeyError) else (str(error).splitlines() or [""])[0]
        raise ValueError(f"{path}: is not as it was written ({type(error).__name__}: {what})") from error


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with `seal`, the hash of its other entries, which `unsealed` looks at."""
    return {**record, "seal": _seal(record)}


def unsealed(path: Path) -> dict[str, Any]:
    """The object in a JSON file without its seal. Raises ValueError naming the file when it is no object, or not what
    was sealed; files of earlier versions have no seal."""
    record = read_json(path)
    if not isinstance(record, dict):
        raise ValueError(f"{path}: holds no JSON object")
    seal = record.pop("seal", None)
    if seal is not None and seal != _seal(record):
        raise ValueError(f"{path}: is damaged: its seal is not the hash of its content")
    return record


def _seal(record: Mapping[str, Any]) -> str:
    content = json.loads(json.dumps(record))  # as it comes back
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Record(dict):
    """A JSON object of a file: what it lacks is a ValueError that names the file."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"{self.path}: has no {key!r}")


def as_record(path: Path, value: Any) -> Any:
    """A JSON value with every object in it as a `Record` of this file."""
    if isinstance(value, dict):
        return Record(path, {key: as_record(path, item) for key, item in value.items()})
    return [as_record(path, item) for item in value] if isinstance(value, list) else value


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
        return _parsed(file.read(end - start), f"{path}: its last line is") if end else {}


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
