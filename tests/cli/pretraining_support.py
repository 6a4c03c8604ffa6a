"""What tests of `mmtune pretrain` share."""

import json
import signal
import subprocess
import time


def lines_of(run):
    """metrics.jsonl without what differs from run to run."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def stop_and_resume(program, mmtune, options, folder, stop, files):
    """A training that `stop` ends in the middle, and that goes on, leaves the same `files` as one that was left alone.

    `options` need enough steps to be stopped in the middle; every one of them is checkpointed.
    """
    options = [*options, "train.checkpoint_minutes=1e-9", "--out"]
    assert mmtune("pretrain", *options, folder / "whole").returncode == 0
    run = folder / "stopped"
    process = subprocess.Popen([program, "pretrain", *map(str, options), run], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text().count("\n") >= 5:
            break
        time.sleep(0.005)
    process.send_signal(stop)
    process.communicate(timeout=120)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[stop]
    assert not (run / "model").exists()
    assert mmtune("pretrain", *options, run, "--resume").returncode == 0
    for name in files:
        assert (run / "model" / name).read_bytes() == (folder / "whole" / "model" / name).read_bytes()
    assert lines_of(run) == lines_of(folder / "whole")
    again = mmtune("pretrain", *options, run, "--resume")
    assert again.returncode == 0 and "finished already" in again.stderr
