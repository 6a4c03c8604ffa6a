"""`mmtune pull` against a hub on this machine: what comes into the cache, under which names, with whose token."""

import json
import os
import subprocess
import sys

import pytest

from fake_hub import COMMIT, Hub, git_sha1, serving, sha256
from pull_support import FILES, WEIGHTS, asked, files_below, environment, fails, folder, hub, pull  # noqa: F401


# --- what comes into the cache ---


def test_a_checkpoint_comes_into_the_shared_layout(pull, hub, folder):
    done = pull("owner/model", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    snapshot = folder / "snapshots" / COMMIT
    assert answer["commit"] == COMMIT
    assert answer["folder"] == str(snapshot)
    assert [one["path"] for one in answer["files"]] == ["config.json", "tokenizer.json", "model.safetensors"]
    assert all(one["fetched"] for one in answer["files"])
    assert files_below(folder) == sorted(
        [f"blobs/{git_sha1(FILES[name])}" for name in ("config.json", "tokenizer.json")]
        + [f"blobs/{sha256(WEIGHTS)}", "refs/main"]
        + [f"snapshots/{COMMIT}/{name}" for name in ("config.json", "tokenizer.json", "model.safetensors")]
    )
    assert (folder / "refs/main").read_text() == COMMIT
    assert os.readlink(snapshot / "model.safetensors") == f"../../blobs/{sha256(WEIGHTS)}"
    for name in ("config.json", "model.safetensors"):
        assert (snapshot / name).read_bytes() == FILES[name]


def test_the_second_time_nothing_is_fetched(pull, hub):
    assert pull("owner/model").returncode == 0
    hub.requests.clear()
    done = pull("owner/model", "--json")
    assert done.returncode == 0
    assert not any(one["fetched"] for one in json.loads(done.stdout)["files"])
    assert len(hub.requests) == 1


def test_revisions_and_names(pull, hub, folder, mmtune, environment):
    assert pull("owner/model@refs/pr/1").returncode == 0
    assert (folder / "refs/refs/pr/1").read_text() == COMMIT
    assert not (folder / "refs/main").exists()
    assert pull(f"owner/model@{COMMIT}").returncode == 0
    assert files_below(folder / "refs") == ["refs/pr/1"]
    for name in ("owner/model@refs/pr/1", f"owner/model@{COMMIT}"):
        assert "no such model" not in mmtune("inspect", name, env=environment).stderr
    assert "no such model" in mmtune("preprocess", "owner/model", "--text", "a", "--out", "x", env=environment).stderr


def test_a_new_commit_takes_the_place_of_the_old_one(pull, hub, folder):
    assert pull("owner/model").returncode == 0
    other = "f" * 40
    hub.refs["main"] = other
    hub.files["config.json"] = b'{"model_type": "roberta"}'
    done = pull("owner/model", "--json")
    assert [one["fetched"] for one in json.loads(done.stdout)["files"]] == [True, False, False]
    assert (folder / "refs/main").read_text() == other
    assert (folder / "snapshots" / COMMIT / "config.json").read_bytes() == FILES["config.json"]
    assert (folder / "snapshots" / other / "config.json").read_bytes() == hub.files["config.json"]


def test_globs(pull, fails, hub, folder):
    answer = json.loads(pull("owner/model", "--include", "onnx/", "--include", "*.md", "--json").stdout)
    assert [one["path"] for one in answer["files"]] == ["README.md", "onnx/model.onnx"]
    answer = json.loads(pull("owner/model", "--exclude", "*.safetensors", "--json").stdout)
    assert [one["path"] for one in answer["files"]] == ["config.json", "tokenizer.json"]
    assert fails("owner/model", "--include", "*.gguf") == "owner/model: no file matches --include '*.gguf'"
    assert fails("owner/model", "--exclude", "*") == "owner/model: no file of the repository is asked for"


def test_shards_and_only_what_is_needed(pull, hub):
    shard = b"s" * 1000
    hub.files = {
        "config.json": b"{}",
        "model.safetensors.index.json": b"{}",
        "model-00001-of-00002.safetensors": shard,
        "model-00002-of-00002.safetensors": shard + b"2",
        "model.fp16.safetensors": b"a variant",
        "sub/config.json": b"{}",
        "tf_model.h5": b"h5",
    }
    answer = json.loads(pull("owner/model", "--json").stdout)
    assert [one["path"] for one in answer["files"]] == [
        "config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


def test_an_empty_file_and_odd_names(pull, hub, folder):
    hub.files = {"config.json": b"{}", "empty": b"", "a b/c#d%é?.txt": b"odd"}
    done = pull("owner/model", "--include", "*")
    assert done.returncode == 0, done.stderr
    snapshot = folder / "snapshots" / COMMIT
    assert (snapshot / "empty").read_bytes() == b""
    assert (snapshot / "a b/c#d%é?.txt").read_bytes() == b"odd"


def test_a_hub_that_tells_hashes_only_in_headers(pull, hub, folder):
    hub.sizes = False
    answer = json.loads(pull("owner/model", "--json").stdout)
    assert [one["hash"] for one in answer["files"]] == [hub.etag(one["path"]) for one in answer["files"]]
    assert (folder / "blobs" / sha256(WEIGHTS)).read_bytes() == WEIGHTS


def test_the_hubs_own_library_finds_what_was_pulled(pull, hub, environment, folder):
    pytest.importorskip("huggingface_hub")
    assert pull("owner/model").returncode == 0
    code = "import huggingface_hub as h; print(h.snapshot_download('owner/model', local_files_only=True))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True, timeout=120)
    assert done.stdout.strip() == str(folder / "snapshots" / COMMIT)
    code = "import huggingface_hub as h; print(h.hf_hub_download('owner/model', 'model.safetensors'))"
    hub.requests.clear()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True, timeout=120)
    assert done.stdout.strip() == str(folder / "snapshots" / COMMIT / "model.safetensors")
    assert not [one for one in asked(hub, "/resolve/") if one[0] == "GET"]


def test_what_the_hubs_own_library_fetched_is_used(pull, hub, environment, folder):
    pytest.importorskip("huggingface_hub")
    code = "import huggingface_hub as h; h.snapshot_download('owner/model')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment | {"HF_HUB_DISABLE_XET": "1"}, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    before = files_below(folder)
    hub.requests.clear()
    answer = json.loads(pull("owner/model", "--json").stdout)
    assert not any(one["fetched"] for one in answer["files"])
    assert not asked(hub, "/resolve/")
    assert files_below(folder) == before


# --- pickles ---


def test_pickles_are_left_out_unless_asked_for(pull, fails, hub):
    done = pull("owner/model", "--include", "*model.*", "--json")
    assert [one["path"] for one in json.loads(done.stdout)["files"]] == ["model.safetensors", "onnx/model.onnx"]
    assert "1 pickled files are left out" in done.stderr and "pytorch_model.bin" in done.stderr
    assert fails("owner/model", "--include", "*.bin") == (
        "owner/model: --include '*.bin' matches nothing that is safe to read: expected safetensors, got pytorch_model.bin, pickled: loading "
        "such a file can run code that it carries (--allow-pickle fetches it all the same)"
    )
    answer = json.loads(pull("owner/model", "--include", "*.bin", "--allow-pickle", "--json").stdout)
    assert [one["path"] for one in answer["files"]] == ["pytorch_model.bin"]


def test_a_repository_with_pickled_weights_only(pull, fails, hub, folder):
    del hub.files["model.safetensors"]
    assert "no weights that are safe to read: expected safetensors, got pytorch_model.bin, pickled" in fails("owner/model")
    assert files_below(folder) == []
    answer = json.loads(pull("owner/model", "--allow-pickle", "--json").stdout)
    assert [one["path"] for one in answer["files"]] == ["config.json", "tokenizer.json", "pytorch_model.bin"]


# --- the token ---


def test_the_token_goes_to_the_hub_and_to_nobody_else(pull, hub, environment, tmp_path):
    hub.token = "hf_secret"
    with serving(Hub(FILES)) as store:
        hub.store = store.url
        done = pull("owner/model", HF_TOKEN="hf_secret")
        assert done.returncode == 0, done.stderr
        assert store.requests
        assert not [one for one in store.requests if "authorization" in one[2]]
    assert all(one[2]["authorization"] == "Bearer hf_secret" for one in hub.requests)
    assert "secret" not in done.stdout + done.stderr


def test_the_token_of_the_file(pull, hub, tmp_path):
    hub.token = "hf_filed"
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/token").write_text("hf_filed\n")
    assert pull("owner/model").returncode == 0
    (tmp_path / "elsewhere").write_text("hf_other")
    assert pull("owner/model", HF_TOKEN_PATH=str(tmp_path / "elsewhere")).returncode == 1
    assert pull("owner/model", HF_TOKEN_PATH=str(tmp_path / "elsewhere"), HF_TOKEN=" hf_filed ").returncode == 0


def test_a_token_that_no_header_may_carry(fails):
    message = fails("owner/model", code=2, HF_TOKEN="hf_a\nX-Evil: 1")
    assert message == "HF_TOKEN: not a token: expected printable ASCII characters without spaces"


def test_a_pulled_model_is_used_by_name(pull, hub, mmtune, environment, tiny_bert):
    hub.files = {path.name: path.read_bytes() for path in tiny_bert.iterdir() if path.is_file()}
    hub.lfs = {"model.safetensors"}
    assert pull("owner/model").returncode == 0
    done = mmtune("inspect", tiny_bert, "--json", env=environment)
    named = mmtune("preprocess", "owner/model", "--text", "is it red?", "--out", tiny_bert.parent / "x.safetensors", env=environment)
    assert done.returncode == 0
    assert named.returncode == 0, named.stderr
