"""`mmtune pull` when the line is cut, the hub says no or says nonsense, and what that leaves."""

import json
import resource
import signal
import subprocess
import time
from contextlib import ExitStack

import pytest

from fake_hub import COMMIT, sha256
from pull_support import FILES, WEIGHTS, asked, files_below, environment, fails, folder, hub, pull  # noqa: F401


# --- cuts, resuming, checks ---


def cut_after(count, times=1):
    """Sends `count` bytes of the weights and then hangs up; the first `times` times."""
    left = [times]

    def answer(hub, handler, path):
        if not path.endswith("/model.safetensors") or handler.command != "GET" or left[0] == 0:
            return False
        left[0] -= 1
        begin = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        handler.send_response(206 if begin else 200)
        handler.send_header("Content-Length", len(WEIGHTS) - begin)
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(WEIGHTS) - 1}/{len(WEIGHTS)}")
        handler.end_headers()
        handler.wfile.write(WEIGHTS[begin : begin + count])
        handler.wfile.flush()
        handler.connection.close()
        handler.close_connection = True
        return True

    return answer


def test_a_cut_is_resumed_where_it_happened(pull, hub, folder):
    hub.answers.append(cut_after(1_000_000, times=2))
    done = pull("owner/model", retries=1)
    assert done.returncode == 0, done.stderr
    assert "too few bytes" in done.stderr
    ranges = [one[2].get("range") for one in asked(hub, "/resolve/") if "model.safetensors" in one[1]]
    assert ranges == [None, "bytes=1000000-", "bytes=2000000-"]
    assert (folder / "blobs" / sha256(WEIGHTS)).read_bytes() == WEIGHTS


def test_too_few_bytes(fails, pull, hub, folder):
    hub.answers.append(cut_after(0, times=100))
    assert "model.safetensors: too few bytes: the connection was cut" in fails("owner/model", retries=1)
    assert not (folder / "refs").exists() and not (folder / "snapshots").exists()
    assert not list((folder / "blobs").glob("*.incomplete"))
    hub.answers[:] = [cut_after(1_000_000, times=1), cut_after(0, times=100)]
    assert "(the same command goes on where this one stopped)" in fails("owner/model")
    assert [one.stat().st_size for one in (folder / "blobs").glob("*.incomplete")] == [1_000_000]
    assert not (folder / "snapshots").exists()
    hub.answers.clear()
    hub.requests.clear()
    assert pull("owner/model").returncode == 0
    assert asked(hub, "model.safetensors")[0][2]["range"] == "bytes=1000000-"
    assert (folder / "blobs" / sha256(WEIGHTS)).read_bytes() == WEIGHTS


def test_fewer_bytes_than_the_listing_says(fails, hub):
    def short(hub, handler, path):
        if not path.endswith("/model.safetensors"):
            return False
        handler.send(200, WEIGHTS[:-1]) if "Range" not in handler.headers else handler.send(416)
        return True

    hub.answers.append(short)
    message = fails("owner/model", retries=0)
    assert "model.safetensors" in message


def test_more_bytes_than_the_listing_says(fails, hub, folder):
    hub.answers.append(lambda hub, handler, path: path.endswith("/model.safetensors") and (handler.send(200, WEIGHTS + b"x") or True))
    assert fails("owner/model") == (
        f"owner/model/model.safetensors: too many bytes: the hub sends more than the file has: expected {len(WEIGHTS)}"
    )
    assert not (folder / "snapshots").exists()


@pytest.mark.parametrize(("name", "kind"), [("model.safetensors", "SHA-256"), ("config.json", "git SHA-1")])
def test_another_hash(fails, hub, folder, name, kind):
    wrong = FILES[name][:-1] + b"?"
    hub.answers.append(lambda hub, handler, path: path.endswith("/" + name) and (handler.send(200, wrong) or True))
    message = fails("owner/model")
    assert f"owner/model/{name}: another {kind} than the hub promises: expected {hub.etag(name)}, got " in message
    assert not (folder / "snapshots").exists()
    assert not [one for one in files_below(folder) if "incomplete" in one or hub.etag(name) in one]


def test_a_broken_beginning_is_fetched_again(pull, hub, folder):
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / f"{sha256(WEIGHTS)}.incomplete").write_bytes(b"not the beginning of the file")
    assert pull("owner/model").returncode == 0
    assert (folder / "blobs" / sha256(WEIGHTS)).read_bytes() == WEIGHTS
    (folder / "blobs" / sha256(WEIGHTS)).rename(folder / "blobs" / f"{sha256(WEIGHTS)}.incomplete")
    with open(folder / "blobs" / f"{sha256(WEIGHTS)}.incomplete", "ab") as file:
        file.write(b"longer than the file")
    assert pull("owner/model").returncode == 0
    assert (folder / "blobs" / sha256(WEIGHTS)).read_bytes() == WEIGHTS


def test_a_hub_without_ranges(pull, hub, folder):
    def whole(hub, handler, path):
        if not path.endswith("/model.safetensors"):
            return False
        handler.send(200, WEIGHTS)
        return True

    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / f"{sha256(WEIGHTS)}.incomplete").write_bytes(WEIGHTS[:1000])
    hub.answers.append(whole)
    assert pull("owner/model").returncode == 0
    assert (folder / "blobs" / sha256(WEIGHTS)).read_bytes() == WEIGHTS


def test_verify_fetches_a_damaged_blob_again(pull, hub, folder):
    assert pull("owner/model").returncode == 0
    blob = folder / "blobs" / sha256(WEIGHTS)
    blob.write_bytes(WEIGHTS[:-1] + b"?")
    assert pull("owner/model").returncode == 0
    assert blob.read_bytes() != WEIGHTS
    done = pull("owner/model", "--verify", "--json")
    assert "has another hash than its name says" in done.stderr
    assert [one["fetched"] for one in json.loads(done.stdout)["files"]] == [False, False, True]
    assert blob.read_bytes() == WEIGHTS


def test_ctrl_c_leaves_what_the_next_call_goes_on_with(program, pull, hub, environment, folder):
    sent, goes_on = [], []

    def slow(hub, handler, path):
        if not path.endswith("/model.safetensors") or "Range" in handler.headers:
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", len(WEIGHTS))
        handler.end_headers()
        handler.wfile.write(WEIGHTS[:1_000_000])
        handler.wfile.flush()
        sent.append(True)
        while not goes_on:
            time.sleep(0.02)
        return True

    hub.answers.append(slow)
    process = subprocess.Popen([program, "pull", "owner/model"], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    incomplete = folder / "blobs" / f"{sha256(WEIGHTS)}.incomplete"
    for _ in range(1000):
        if incomplete.exists() and incomplete.stat().st_size == 1_000_000:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    goes_on.append(True)
    assert process.returncode == 130
    assert output == ""
    assert "interrupted; the same command goes on where this one stopped" in errors
    assert not (folder / "snapshots").exists() and not (folder / "refs").exists()
    assert pull("owner/model").returncode == 0
    assert asked(hub, "model.safetensors")[-1][2]["range"] == "bytes=1000000-"


def test_a_full_disk(program, hub, environment, folder):
    """A limit on the size of files stands for the full disk."""
    limit = lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)))
    done = subprocess.run(
        [program, "pull", "owner/model"], env=environment, capture_output=True, text=True, check=False, preexec_fn=limit, timeout=60
    )
    assert done.returncode == 1
    assert "cannot write: File too large" in done.stderr
    assert not (folder / "snapshots").exists() and not (folder / "refs").exists()


def test_a_folder_that_cannot_be_written_to(fails, tmp_path):
    (tmp_path / "file").write_text("")
    message = fails("owner/model", HF_HUB_CACHE=str(tmp_path / "file/hub"))
    assert "cannot make the folder: Not a directory (HF_HOME and HF_HUB_CACHE say where the cache lies)" in message


# --- what hubs answer ---


def test_401_says_what_about_the_token(fails, hub):
    hub.token = "right"
    assert fails("owner/model") == (
        "owner/model: the hub wants a token: got status 401, 'Invalid username or password.' (no token was sent: put one into HF_TOKEN, or log "
        "in with `hf auth login`; a hub says this of repositories that do not exist too)"
    )
    message = fails("owner/model", HF_TOKEN="wrong")
    assert "the token that was sent" in message and "wrong" not in message


def test_403_of_a_gated_repository(fails, hub):
    def gated(hub, handler, path):
        handler.refuse(403, "GatedRepo", "Access to model owner/model is restricted.")
        return True

    hub.answers.append(gated)
    assert fails("owner/model", HF_TOKEN="a") == (
        "owner/model: the hub refuses access: got status 403, 'Access to model owner/model is restricted.' (the repository is gated: accept "
        "its conditions on its page)"
    )


@pytest.mark.parametrize("codes", [True, False])
def test_404_of_what(fails, hub, codes):
    hub.codes = codes
    assert fails("owner/nothing").startswith(f"owner/nothing: no such repository on {hub.url}: got status 404")
    assert fails("owner/model@v9") == (
        f"owner/model: no such revision on {hub.url}: expected a branch, a tag or a commit of the repository, got 'v9'"
    )
    hub.siblings = [{"rfilename": "vocab.txt", "size": 5, "blobId": "0" * 40}]
    assert fails("owner/model").startswith(f"owner/model/vocab.txt: no such file on {hub.url}: got status 404")


def test_500_is_tried_again(pull, fails, hub):
    left = [2]

    def broken(hub, handler, path):
        left[0] -= 1
        if left[0] < 0:
            return False
        handler.send(500, b"<html>oops</html>")
        return True

    hub.answers.append(broken)
    done = pull("owner/model", retries=2)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("status 500; trying again in 0:01") == 2
    left[0] = 1000
    assert fails("owner/model", retries=1) == "owner/model: the hub has trouble of its own: got status 500"


def test_no_answer(fails, hub):
    silent = lambda hub, handler, path: time.sleep(3) or setattr(handler, "close_connection", True) or True
    hub.answers.append(silent)
    assert "no answer within 1 s" in fails("owner/model", HF_HUB_DOWNLOAD_TIMEOUT="1")
    hub.answers[:] = [lambda hub, handler, path: setattr(handler, "close_connection", True) or True]
    assert fails("owner/model").endswith(": no answer")


def test_silence_in_the_middle(fails, hub, folder):
    def stalls(hub, handler, path):
        if not path.endswith("/model.safetensors"):
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", len(WEIGHTS))
        handler.end_headers()
        handler.wfile.write(WEIGHTS[:1000])
        handler.wfile.flush()
        time.sleep(4)
        handler.close_connection = True
        return True

    hub.answers.append(stalls)
    assert "no byte for 1 s" in fails("owner/model", HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert not (folder / "snapshots").exists()


def test_nobody_listens(fails):
    assert fails("owner/model", HF_ENDPOINT="http://127.0.0.1:9").startswith("http://127.0.0.1:9/api/models/owner/model/revision/main: cannot connect")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>log in, please</html>", "syntax error"),
        (b"[]", "not the answer of a hub: no JSON object"),
        (b"{}", "not the answer of a hub: no commit in 'sha'"),
        (b'{"sha": "../../x", "siblings": []}', "not the answer of a hub: no commit in 'sha'"),
        (b'{"sha": "abc", "siblings": {}}', "not the answer of a hub: no list 'siblings'"),
        (b'{"sha": "abc", "siblings": [{}]}', "a file of the list has no 'rfilename'"),
        (b'{"sha": "abc", "siblings": [{"rfilename": "a", "size": -1}]}', "the size of 'a' is no number of bytes"),
        (b'{"sha": "abc", "siblings": [{"rfilename": "a", "blobId": "../x"}]}', "the blobId of 'a' is no hash"),
        (b'{"sha": "abc", "siblings": [{"rfilename": "a"}, {"rfilename": "a"}]}', "a file stands there twice"),
    ],
)
def test_answers_of_something_else(fails, hub, body, message):
    hub.answers.append(lambda hub, handler, path: handler.send(200, body) or True)
    assert message in fails("owner/model")


@pytest.mark.parametrize("name", ["../x.json", "/etc/x", "a/../../x", "a//b", "./x", "a\\b", "C:/x", "a\nb", "", "a/" + "n" * 256])
def test_file_names_that_step_out_of_their_folder(fails, hub, folder, name):
    hub.siblings = [{"rfilename": "config.json"}, {"rfilename": name}]
    assert "the hub names a file that would lie outside its folder" in fails("owner/model", "--include", "*")
    assert files_below(folder) == []


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("file:///etc/passwd", "a redirect that leads nowhere"),
        ("ftp://127.0.0.1/x", "a redirect that leads nowhere"),
        (None, "a redirect that leads nowhere: got ''"),
        ("/owner/model/resolve/x/model.safetensors", "more than 10 redirects"),
    ],
)
def test_redirects_that_lead_nowhere(fails, hub, location, message):
    def redirect(hub, handler, path):
        if not path.endswith("/model.safetensors"):
            return False
        handler.send(302, **({"Location": location} if location else {}))
        return True

    hub.answers.append(redirect)
    assert message in fails("owner/model")


def test_a_renamed_repository(pull, hub):
    """A hub answers requests for the old name with a redirect to the new one, relative to itself."""

    def renamed(hub, handler, path):
        if "/owner/old" not in path:
            return False
        handler.send(307, Location=handler.path.replace("owner/old", "owner/model"))
        return True

    hub.answers.append(renamed)
    done = pull("owner/old")
    assert done.returncode == 0, done.stderr


# --- offline, names, settings ---


def test_offline(pull, fails, hub, folder):
    message = fails("owner/model", HF_HUB_OFFLINE="1")
    assert message.startswith("owner/model@main: not in the cache, and HF_HUB_OFFLINE forbids to ask the hub (looked for ")
    assert hub.requests == []
    assert pull("owner/model").returncode == 0
    hub.requests.clear()
    done = pull("owner/model", "--json", TRANSFORMERS_OFFLINE="yes")
    assert json.loads(done.stdout)["folder"] == str(folder / "snapshots" / COMMIT)
    assert [one["path"] for one in json.loads(done.stdout)["files"]] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert hub.requests == []


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "/x", "a/", "a b", "a--b", "a@", "a@../x", "a@/x", "https://hub/a/b"])
def test_names_that_are_none(fails, name):
    assert fails(name, code=2).endswith("not the name of a repository: expected OWNER/NAME or NAME, with @REVISION where it is not main")


@pytest.mark.parametrize("endpoint", ["hub.example.org", "ftp://hub", "https://", "http://a b", "https://user:word@hub"])
def test_endpoints_that_are_none(fails, endpoint):
    message = fails("owner/model", code=2, HF_ENDPOINT=endpoint)
    assert message.startswith("HF_ENDPOINT: not the address of a hub: expected https://HOST, got '")


def test_an_unknown_model_names_the_command(mmtune, environment):
    done = mmtune("preprocess", "owner/model", "--text", "a", "--out", "x", env=environment)
    assert done.returncode == 1
    assert "owner/model: no such model" in done.stderr
    assert "(fetch it with: mmtune pull owner/model; looked for " in done.stderr


def test_two_at_once(program, hub, environment, folder):
    with ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen([program, "pull", "owner/model"], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE))
            for _ in range(3)
        ]
        for process in processes:
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
    assert (folder / "blobs" / sha256(WEIGHTS)).read_bytes() == WEIGHTS
    assert not [one for one in files_below(folder) if "incomplete" in one]
