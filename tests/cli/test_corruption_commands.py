"""Corrupted pictures, and the published layouts whose pictures are no files of their own, as a user meets them."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file


@pytest.fixture
def cifar(tmp_path):
    """A folder as CIFAR-10's binary files come: two pictures to train on, one to test."""
    folder = tmp_path / "cifar"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, labels in (("data_batch_1.bin", [1, 0]), ("test_batch.bin", [2])):
        (folder / name).write_bytes(b"".join(bytes([label]) + rng.integers(0, 256, 3072, dtype=np.uint8).tobytes() for label in labels))
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\nbird\n\n")
    return folder


def pixels(mmtune, tmp_path, model, *arguments):
    out = tmp_path / "x.safetensors"
    done = mmtune("preprocess", model, *arguments, "--out", out)
    assert done.returncode == 0, done.stderr
    return load_file(out)["pixel_values"]


def test_corrupted_pictures_are_the_same_every_time(mmtune, tmp_path, tiny_vit, cifar):
    plain = pixels(mmtune, tmp_path, tiny_vit, "--data", cifar)
    assert plain.shape[0] == 3
    previous = 0.0
    for severity in (1, 3, 5):
        worse = pixels(mmtune, tmp_path, tiny_vit, "--data", cifar, "--corrupt", f"contrast:{severity}")
        np.testing.assert_array_equal(worse, pixels(mmtune, tmp_path, tiny_vit, "--data", cifar, "--corrupt", f"contrast:{severity}"))
        distance = float(np.abs(worse - plain).mean())
        assert distance > previous
        previous = distance
    noisy = pixels(mmtune, tmp_path, tiny_vit, "--data", cifar, "--corrupt", "gaussian_noise:2")
    assert np.abs((noisy - plain)[0] - (noisy - plain)[1]).max() > 0  # each picture has noise of its own


def test_unknown_corruptions(mmtune, tmp_path, tiny_vit, cifar):
    done = mmtune("preprocess", tiny_vit, "--data", cifar, "--corrupt", "gausian_noise:2", "--out", tmp_path / "x.safetensors")
    assert done.returncode == 2 and "did you mean 'gaussian_noise'" in done.stderr
    done = mmtune("preprocess", tiny_vit, "--data", cifar, "--corrupt", "jpeg", "--out", tmp_path / "x.safetensors")
    assert done.returncode == 2 and "jpeg:1 to jpeg:5" in done.stderr


def test_inspect_raw_pictures(mmtune, cifar):
    done = mmtune("inspect", cifar, "--json")
    assert done.returncode == 0, done.stderr
    assert "bird" in json.dumps(json.loads(done.stdout))
    (cifar / "test_batch.bin").write_bytes(b"cut off")
    done = mmtune("inspect", cifar)
    assert done.returncode == 1 and "3073" in done.stderr
