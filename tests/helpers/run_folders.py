"""Run folders written by hand, of which every number is known, and what lies in a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def write_run(folder: Path, config: Mapping[str, Any], **files: Any) -> Path:
    """A run folder of these settings; a list becomes JSON lines, anything else JSON: summary={}, metrics=[]."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for name, content in files.items():
        if isinstance(content, list):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
        elif content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, without the lock of a run."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def modified(folder: Path) -> dict[str, int]:
    """When everything below a folder was last written, in nanoseconds."""
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != ".lock"}
