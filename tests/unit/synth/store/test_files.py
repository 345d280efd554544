"""Files: whole or absent, and JSON lines that survive a kill in the middle of a line."""

import json
import os
import subprocess
import sys

import pytest

from synth.store import files
from synth.store.files import append_json_line, atomic_path, atomic_write, last_json_line, read_json, read_json_lines


def test_atomic_write_leaves_no_temporary_file_and_keeps_the_old_one_on_failure(tmp_path, monkeypatch):
    target = tmp_path / "x.json"
    atomic_write(target, "old")

    def broken(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError):
        atomic_write(target, "new")
    assert target.read_text() == "old"
    monkeypatch.undo()
    atomic_write(target, "new")
    assert target.read_text() == "new"


def test_a_half_line_is_dropped_by_reader_and_writer(tmp_path):
    path = tmp_path / "m.jsonl"
    append_json_line(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"a": 2, "b')
    assert read_json_lines(path) == [{"a": 1}]
    append_json_line(path, {"a": 3})
    assert read_json_lines(path) == [{"a": 1}, {"a": 3}]


@pytest.mark.parametrize("torn", ["", '{"a": 2, "b', "x" * 9000])
@pytest.mark.parametrize("long", [1, 5000])
def test_a_torn_last_line_of_any_length_is_dropped_and_the_rest_is_kept(tmp_path, torn, long):
    path = tmp_path / "m.jsonl"
    whole = [{"a": i, "text": "y" * long} for i in range(3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in whole) + torn)
    assert read_json_lines(path) == whole and last_json_line(path) == whole[-1]
    append_json_line(path, {"a": 3})
    assert read_json_lines(path) == [*whole, {"a": 3}] and last_json_line(path) == {"a": 3}


def test_a_file_of_one_torn_line_is_empty(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"a": 2, "b')
    assert read_json_lines(path) == [] and last_json_line(path) == {}
    append_json_line(path, {"a": 1}, durable=False)
    assert path.read_text() == '{"a": 1}\n'
    assert read_json_lines(tmp_path / "none.jsonl") == []


def test_appending_reads_no_more_than_the_end_of_the_file(tmp_path, monkeypatch):
    path, read = tmp_path / "m.jsonl", []
    path.write_text('{"a": 1}\n' * 100_000)
    end_of_last_line = files._end_of_last_line

    class Counting:
        def __init__(self, file):
            self.file = file

        def seek(self, *where):
            return self.file.seek(*where)

        def read(self, size):
            read.append(size)
            return self.file.read(size)

    monkeypatch.setattr(files, "_end_of_last_line", lambda file, end=None: end_of_last_line(Counting(file), end))
    append_json_line(path, {"a": 2})
    assert sum(read) <= files.BLOCK and last_json_line(path) == {"a": 2}


def test_bad_json_names_the_file(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x\.json: is not JSON"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.jsonl").write_text('{"a": 1\n{"a": 2}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl: line 1 is not JSON"):
        read_json_lines(tmp_path / "x.jsonl")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with atomic_path(tmp_path / "good") as temporary:
        temporary.mkdir()
        (temporary / "file").write_text("x")
        assert not (tmp_path / "good").exists()
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "bad") as temporary:
        temporary.mkdir()
        (temporary / "file").write_text("x")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["good"]


def test_an_error_in_writing_names_the_file_and_not_its_temporary_name(tmp_path):
    """Also where a library in Rust raises what is no OSError, and for names as long as a file system allows."""
    raised = [OSError(28, "No space left on device"), RuntimeError("Error: No space left on device (os error 28)")]
    for error in raised:
        with pytest.raises(OSError) as caught, atomic_path(tmp_path / "x.bin") as temporary:
            temporary.write_bytes(b"half")
            raise error
        assert (caught.value.errno, caught.value.filename) == (28, str(tmp_path / "x.bin"))
    with pytest.raises(FileNotFoundError) as caught:
        atomic_write(tmp_path / "none" / "x", "")
    assert caught.value.filename == str(tmp_path / "none" / "x")
    atomic_write(tmp_path / ("y" * 250), "")
    assert [p.name for p in tmp_path.iterdir()] == ["y" * 250]


def test_a_seal_finds_any_change_and_old_files_have_none(tmp_path):
    path, record = tmp_path / "x.json", {"a": [1, 2.5, None], "b": {"c": "é"}}
    files.write_json(path, files.sealed(record))
    assert files.unsealed(path) == record
    path.write_text(path.read_text().replace("2.5", "2.6"))
    with pytest.raises(ValueError, match=r"x\.json: is damaged"):
        files.unsealed(path)
    files.write_json(path, record)
    assert files.unsealed(path) == record


def test_bytes_of_a_path_in_another_encoding_come_back(tmp_path):
    name = os.fsdecode(b"/data/\xff")
    files.write_json(tmp_path / "x.json", {"path": name, "text": "é"})
    assert read_json(tmp_path / "x.json") == {"path": name, "text": "é"}


def test_what_a_killed_process_left_is_removed_by_the_next_writer(tmp_path):
    """Also a folder, and one under this process's id, which in a container is the same at every start. Files of a
    process that lives, of another machine, or of another target stay."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    start = f".data.{files.HOST}-"
    for pid in (child.pid, os.getpid()):
        (tmp_path / f"{start}{pid}.tmp").mkdir()
        (tmp_path / f"{start}{pid}.tmp" / "half").write_text("x")
    others = [f"{start}{os.getppid()}.tmp", f".data.0badc0de-{child.pid}.tmp", f".other.{files.HOST}-{child.pid}.tmp"]
    for name in others:
        (tmp_path / name).write_text("x")
    with atomic_path(tmp_path / "data") as temporary:
        temporary.mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "data"])
