"""Training by several processes: the same result as one process, and nobody waits for the dead."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from training_support import PROGRAM, make_image_model, make_pictures, make_text_model, make_texts, mmtune, read_lines, write_recipe

pytestmark = [
    pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun"),
    pytest.mark.skipif(not (PROGRAM.parent / "libmmtune_mpi.so").exists(), reason="built without MPI"),
]

ROOT_MAY = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def command(processes, *arguments):
    return ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(processes), str(PROGRAM), "--threads", "1", *map(str, arguments)]


def environment(cache="/nonexistent"):
    return {**os.environ, **ROOT_MAY, "MMTUNE_CACHE": str(cache)}


def mpirun(processes, *arguments, check=0, cache="/nonexistent"):
    done = subprocess.run(command(processes, *arguments), capture_output=True, text=True, env=environment(cache), timeout=300)
    assert check is None or done.returncode == check, (done.returncode, done.stdout, done.stderr)
    return done


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mpi")
    make_text_model(folder / "bert")
    make_image_model(folder / "vit")
    make_texts(folder / "train.jsonl", 203, 1)
    make_texts(folder / "valid.jsonl", 61, 2)
    make_pictures(folder / "mixed", 150, 3, text_share=0.7, picture_share=0.7)
    write_recipe(folder / "text.toml", backbone={"main": folder / "bert"}, expert={"method": "lora", "rank": 4},
                 loss={"class_weights": [1.0, 2.0, 0.5]}, data={"train": folder / "train.jsonl", "valid": folder / "valid.jsonl"},
                 train={"epochs": 3, "batch": 8, "accumulate": 2, "lr": 3e-3, "log_every": 1, "checkpoint_every": 5})
    return folder


def tensors(run):
    from safetensors.numpy import load_file

    return {file.name + ":" + name: tensor for file in [*run.rglob("adapter_model.safetensors"), run / "head.safetensors"]
            for name, tensor in load_file(file).items()}


def assert_same(run, expected, tolerance=2e-4):
    ours, theirs = tensors(run), tensors(expected)
    assert ours.keys() == theirs.keys() and ours
    for name, tensor in theirs.items():
        assert abs(ours[name] - tensor).max() < tolerance, name


def learned(run, key):
    return [line[key] for line in read_lines(run / "metrics.jsonl") if key in line]


@pytest.mark.parametrize("processes", [2, 3])
def test_the_result_is_that_of_one_process(world, tmp_path, processes):
    mmtune("--threads", 1, "train", world / "text.toml", "--out", tmp_path / "one", check=0)
    done = mpirun(processes, "train", world / "text.toml", "--out", tmp_path / "several")
    assert done.stderr.count("the run is in") == 1, "one process speaks"
    assert learned(tmp_path / "several", "loss") == pytest.approx(learned(tmp_path / "one", "loss"), abs=1e-4)
    assert learned(tmp_path / "several", "gradient_norm") == pytest.approx(learned(tmp_path / "one", "gradient_norm"), rel=1e-2)
    for one, several in zip(learned(tmp_path / "one", "valid"), learned(tmp_path / "several", "valid"), strict=True):
        assert several["loss"] == pytest.approx(one["loss"], abs=1e-3)
    assert_same(tmp_path / "several", tmp_path / "one")
    records = [json.loads((tmp_path / run / "run.json").read_text()) for run in ("one", "several")]
    for key in ("state", "step", "total_steps", "trainable_parameters", "skipped_examples"):
        assert records[0][key] == records[1][key]
    assert records[1]["processes"] == processes


def test_towers_that_lack_inputs_and_frozen_features(world, tmp_path):
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": world / "bert", "condition": world / "vit"},
                          expert={"method": "adapter", "tower": "main"}, head={"kind": "mlp", "hidden": 16},
                          data={"train": world / "mixed" / "manifest.jsonl", "valid_fraction": 0.2},
                          train={"epochs": 2, "batch": 9, "lr": 3e-3, "log_every": 1, "optimizer": "sgd"})
    mmtune("--threads", 1, "train", recipe, "--out", tmp_path / "one", check=0, cache=str(tmp_path / "cache1"))
    mpirun(2, "train", recipe, "--out", tmp_path / "two", cache=tmp_path / "cache2")
    assert_same(tmp_path / "two", tmp_path / "one")
    names = [sorted(file.name for file in (tmp_path / cache / "features").iterdir()) for cache in ("cache1", "cache2")]
    assert names[0] == names[1], "the processes shared the pass, group by group"


def test_examples_that_cannot_be_read_are_counted_once(world, tmp_path):
    data = make_pictures(tmp_path / "pictures", 40, 5)
    for number in (3, 4, 17):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(b"no picture")
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": world / "vit"}, expert={"method": "lora"},
                          data={"train": data, "on_error": "skip"}, train={"epochs": 2, "batch": 8, "lr": 1e-3})
    mmtune("--threads", 1, "train", recipe, "--out", tmp_path / "one", check=0)
    mpirun(2, "train", recipe, "--out", tmp_path / "two")
    assert json.loads((tmp_path / "two" / "run.json").read_text())["skipped_examples"] == 6
    assert_same(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize("task", ["caption", "ground"])
def test_written_answers_are_shared_out(tmp_path, task):
    pytest.importorskip("torch")
    from ofa_models import make_ofa

    ofa = make_ofa(tmp_path / "ofa", ["what does the image describe? a red box, a green box which region does the text describe?"] * 20)
    rows = read_lines(make_pictures(tmp_path / "pictures", 21, 1))
    for i, row in enumerate(rows):
        row["image"] = str(tmp_path / "pictures" / row["image"])
        row |= {"answers": [f"a {row['label']} box"]} if task == "caption" else {"text": f"the {row['label']} one", "answers": [f"{i % 5},2,18,17"]}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # At this rate nothing is learned: what differs is who answers.
    recipe = write_recipe(tmp_path / "recipe.toml", task=task, backbone={"main": ofa}, expert={"method": "adapter", "bottleneck": 4},
                          data={"train": tmp_path / "rows.jsonl", "valid": tmp_path / "rows.jsonl"}, generate={"max_tokens": 5},
                          train={"epochs": 1, "batch": 4, "lr": 1e-12})
    mmtune("--threads", 1, "train", recipe, "--out", tmp_path / "one", check=0)
    mpirun(2, "train", recipe, "--out", tmp_path / "two")
    (one,), (two,) = (learned(tmp_path / run, "valid") for run in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-5) and len(one) > 1


def test_resuming_and_a_finished_run(world, tmp_path):
    mpirun(2, "train", world / "text.toml", "--out", tmp_path / "whole")
    mpirun(2, "train", world / "text.toml", "--out", tmp_path / "part", "--resume")
    assert "finished already" in mpirun(2, "train", world / "text.toml", "--out", tmp_path / "part", "--resume").stderr
    assert_same(tmp_path / "part", tmp_path / "whole", 1e-9)


def slow(world, tmp_path):
    """A training that lasts until it is stopped."""
    recipe = tmp_path / "slow.toml"
    recipe.write_text((world / "text.toml").read_text().replace("epochs = 3", "epochs = 3000"))
    return recipe


def started(world, tmp_path, run):
    process = subprocess.Popen(command(2, "train", slow(world, tmp_path), "--out", run, "--resume"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, env=environment())
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "last.safetensors").exists() or len(learned(run, "loss")) < 8:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    return process


def ranks_of(process):
    """The process ids of the ranks, by rank: the children of mpirun know theirs from their environment."""
    children = [int(pid) for task in os.listdir(f"/proc/{process.pid}/task")
                for pid in open(f"/proc/{process.pid}/task/{task}/children").read().split()]
    ranks = {}
    for pid in children:
        variables = open(f"/proc/{pid}/environ", "rb").read().split(b"\0")
        ranks.update({int(v.split(b"=")[1]): pid for v in variables if v.startswith(b"OMPI_COMM_WORLD_RANK=")})
    assert set(ranks) == {0, 1}
    return ranks


def running(pid):
    try:
        return open(f"/proc/{pid}/stat").read().split(")")[-1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_for_the_end(pids):
    deadline = time.monotonic() + 20
    while any(running(pid) for pid in pids):
        assert time.monotonic() < deadline, "a process goes on alone"
        time.sleep(0.05)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_and_the_run_goes_on(world, tmp_path, victim):
    run = tmp_path / "run"
    process = started(world, tmp_path, run)
    ranks = ranks_of(process)
    os.kill(ranks[victim], signal.SIGKILL)
    begin = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - begin < 30
    assert process.returncode != 0
    assert re.search(rf"rank {victim}.*signal 9", errors.replace("\n", " ")), errors
    wait_for_the_end(ranks.values())
    before = max(learned(run, "step"))
    again = started(world, tmp_path, run)
    again.terminate()
    again.communicate(timeout=60)
    assert max(learned(run, "step")) > 5 and before > 0


def test_an_error_in_one_process_ends_all_with_a_message(world, tmp_path):
    data = make_pictures(tmp_path / "pictures", 40, 5)
    (tmp_path / "pictures" / "17.png").write_bytes(b"no picture")
    recipe = write_recipe(tmp_path / "r.toml", backbone={"main": world / "vit"}, expert={"method": "lora"}, data={"train": data},
                          train={"epochs": 2, "batch": 8})
    begin = time.monotonic()
    done = mpirun(2, "train", recipe, "--out", tmp_path / "run", check=None)
    assert done.returncode == 1 and time.monotonic() - begin < 60
    assert re.search(r"mmtune: error: process \d of 2: .*17\.png", done.stderr), done.stderr


def test_a_signal_saves_and_tells_how_to_go_on(world, tmp_path):
    run = tmp_path / "run"
    process = started(world, tmp_path, run)
    ranks = ranks_of(process)
    os.kill(ranks[1], signal.SIGTERM)  # one process is told; all stop behind the same step
    _, errors = process.communicate(timeout=60)
    assert "--resume" in errors, errors
    assert json.loads((run / "run.json").read_text())["state"] == "interrupted"
    wait_for_the_end(ranks.values())


def test_mistakes_are_told(world, tmp_path):
    done = mpirun(2, "train", world / "text.toml", "train.lr=-1", "--out", tmp_path / "run", check=None)
    assert done.returncode == 2 and "train.lr" in done.stderr
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    done = mpirun(2, "train", world / "text.toml", "--out", tmp_path / "taken", check=None)
    assert done.returncode == 1 and "exists already" in done.stderr


def test_without_mpirun_no_mpi_is_loaded():
    needed = subprocess.run(["ldd", str(PROGRAM)], capture_output=True, text=True, check=True).stdout
    assert "libtorch" in needed and "libmpi" not in needed and "libmmtune_mpi" not in needed
