"""SHA256SUMS: what the files of a run folder were when they were written, as `sha256sum -c SHA256SUMS` reads it.

The settings and the manifest are listed from the start, every other file once the run is complete, just before its
summary.json is there. Checkpoints have hashes of their own (`train.core.checkpoint`); figures, reports and logs for
others, which can be made again, have none. The first line is the hash of the others. Folders of earlier versions have
no such file, and their files are taken as they are.

While a listed file is replaced both its hashes stand there, so that a process that is killed leaves no contradiction.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from synth.store.files import atomic_write, sha256

SUMS, SUMMARY = "SHA256SUMS", "summary.json"
ALWAYS = ("config.yaml", "manifest.json")  # listed before the run is complete
UNLISTED = ("checkpoints", "figures", "report.html", "tensorboard", "wandb", SUMS)
HEAD = "# sha256 of the lines below: "
Sums = dict[str, set[str]]  # name -> the hashes that its content may have


def digest(content: bytes) -> str:
    """The hash of a content, in hex."""
    return hashlib.sha256(content).hexdigest()


def read(folder: Path) -> Sums:
    """The hashes in a folder's SHA256SUMS; empty without one. Raises ValueError when the file itself is damaged."""
    path, sums = folder / SUMS, {}
    if not path.is_file():
        return {}
    head, _, body = path.read_bytes().partition(b"\n")
    if head != f"{HEAD}{digest(body)}".encode():
        raise ValueError(f"{path}: is damaged: its first line is not the hash of the others")
    for line in body.decode().splitlines():
        value, _, name = line.partition("  ")
        sums.setdefault(name, set()).add(value)
    return sums


def write(folder: Path, sums: Mapping[str, set[str]]) -> None:
    """Writes a folder's SHA256SUMS."""
    body = "".join(f"{value}  {name}\n" for name in sorted(sums) for value in sorted(sums[name]))
    atomic_write(folder / SUMS, f"{HEAD}{digest(body.encode())}\n{body}")


def of_files(folder: Path, unlisted: tuple[str, ...] = UNLISTED) -> Sums:
    """The hashes of what a folder holds now, but for hidden files and what is made again."""
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    named = [path for path in paths if path.parts[0] not in unlisted and not path.name.startswith(".")]
    return {path.as_posix(): {sha256(folder / path)} for path in named}


def replace(folder: Path, name: str, content: bytes) -> None:
    """Writes a listed file anew. For summary.json, the last, all files of the folder are listed."""
    sums = read(folder)
    if name == SUMMARY:
        sums = of_files(folder)
    old = sums.get(name, set())
    write(folder, sums | {name: old | {digest(content)}})
    atomic_write(folder / name, content)
    if old:
        write(folder, sums | {name: {digest(content)}})


def check(folder: Path, *names: str) -> None:
    """Raises ValueError naming the first of these files (without names: of all that are listed) that is not what was
    written. A file that is not there is no contradiction."""
    sums, complete = read(folder), (folder / SUMMARY).is_file()
    for name in names or sums:
        listed = sums.get(name) if complete or name in ALWAYS else None
        if listed and (folder / name).is_file() and sha256(folder / name) not in listed:
            raise ValueError(
                f"{folder / name}: is damaged: its sha256 is not that in {SUMS}; accepted: the file as it was written"
            )
