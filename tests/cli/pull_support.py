"""A hub on this machine and a user who has never used one: fixtures of the tests of `mmtune pull`."""

import os

import pytest

from fake_hub import Hub, serving


WEIGHTS = bytes(range(256)) * 12000  # 3 MB: many pieces of a transfer
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "tokenizer.json": b"{}",
    "README.md": b"# a model",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a pickle",
    "onnx/model.onnx": b"another format",
}


@pytest.fixture
def hub():
    with serving(Hub(FILES, lfs=["model.safetensors", "pytorch_model.bin"])) as hub:
        yield hub


@pytest.fixture
def environment(hub, tmp_path):
    """The environment of a user who has never used a hub, and whose hub is the fake one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()}
    for name in ("HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_OFFLINE", "SSL_CERT_FILE"):
        kept.pop(name, None)
    return kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DOWNLOAD_TIMEOUT": "2"}


@pytest.fixture
def pull(mmtune, environment):
    """pull(REPO, options…, HF_TOKEN=…): the completed process. No second tries, unless a test asks for them."""

    def call(*arguments, retries=0, **variables):
        return mmtune("pull", *arguments, "--retries", retries, env=environment | variables, timeout=60)

    return call


@pytest.fixture
def fails(pull):
    """The one line that a failing pull says, without warnings about tries before it."""

    def call(*arguments, code=1, **variables):
        done = pull(*arguments, **variables)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert done.stdout == ""
        *before, line = done.stderr.splitlines()
        assert not any(one.startswith("mmtune: error") for one in before)
        assert line.startswith("mmtune: error: ")
        return line.removeprefix("mmtune: error: ")

    return call


@pytest.fixture
def folder(tmp_path):
    """The repository's folder in the cache."""
    return tmp_path / "hf/hub/models--owner--model"


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()) if folder.exists() else []


def asked(hub, part):
    return [request for request in hub.requests if part in request[1]]
