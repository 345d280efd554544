"""Writing of shards that is killed at any moment goes on without loss or duplicates."""

import random
import subprocess
import sys
import time

from synth.store import writers
from tests.helpers.commands import environment
from tests.helpers.effort import effort
from tests.helpers.run_folders import files_of


def test_a_writer_that_is_killed_again_and_again_ends_byte_for_byte_the_same(tmp_path):
    """SIGKILL at random moments; then no document is lost, none is there twice, and no trace of the kills is left."""
    code = (
        "import sys; from synth.store import writers; from synth.spec import preset; writers.CHUNK = 5;"
        "writers.write_shards(preset('med', retry_rate=0.3), 5, 'train', 10, 50, 1, sys.argv[1], shard=8)"
    )

    def start(folder):
        return subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], env=environment(GLASSHOUSE_JIT="0"), stderr=subprocess.PIPE
        )

    begun = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    seconds = time.monotonic() - begun
    moments, seen = random.Random(0), []
    for _ in range(effort(3, 40)):
        process = start(tmp_path / "killed")
        time.sleep(moments.uniform(0.3, 0.9) * seconds)
        process.kill()
        process.wait()
        seen.append(len(list((tmp_path / "killed").glob("shard-*"))))
    assert start(tmp_path / "killed").wait() == 0
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert seen == sorted(seen)  # what was written is kept
    ids = [r["id"] for r in writers.read_shards(tmp_path / "killed", verify=True).records()]
    assert len(ids) == len(set(ids)) == 40
