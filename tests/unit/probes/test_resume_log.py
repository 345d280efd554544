"""The log of a run that may be killed: finished parts stay, what came after them goes."""

from probes.runs import ResumeLog


def never():
    raise AssertionError("this part is done")


def test_finished_parts_stay_and_the_lines_of_an_unfinished_one_go(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = ResumeLog(path)
    log.loss("nece vprobe", 5, 0.5, 0.1)
    found = {"rate": None, "pair": [1, 2]}
    assert log.once("nece vprobe", lambda: {"rate": float("nan"), "pair": (1, 2)}, 0.5) == found
    log.loss("value vprobe", 5, 0.4, 0.6)
    with path.open("a") as file:
        file.write('{"part": "va')  # killed while it wrote
    again = ResumeLog(path)
    assert "nece vprobe" in again and "value vprobe" not in again and again.seconds == log.seconds
    assert again.once("nece vprobe", never) == found
    assert len(path.read_text().splitlines()) == 2
    assert again.once("value vprobe", lambda: 3) == 3 and ResumeLog(path).once("value vprobe", never) == 3
