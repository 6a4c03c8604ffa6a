"""tools/setup.sh: what it says when something is missing. Nothing is installed: the package tools are stand-ins."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def setup(tmp_path):
    """Runs tools/setup.sh with only stand-ins for dpkg-query, apt-get, id (and sudo, if given) and the tools that it needs besides."""

    def stand_in(name, script):
        path = tmp_path / "bin" / name
        path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
        path.chmod(0o755)

    def call(*groups, packages="exit 1", apt="echo apt-get $* >> $LOG", user=1000, sudo=None, **environment):
        shutil.rmtree(tmp_path / "bin", ignore_errors=True)
        (tmp_path / "bin").mkdir()
        for name in ("bash", "env", "awk", "sort", "tr", "dirname", "sed", "cat", "xargs", "sha256sum", "cut", "touch", "ls"):
            (tmp_path / "bin" / name).symlink_to(shutil.which(name))
        stand_in("dpkg-query", packages)
        stand_in("apt-get", apt)
        stand_in("id", f"echo {user}")
        if sudo:
            stand_in("sudo", sudo)
        log = tmp_path / "log"
        log.write_text("")
        done = subprocess.run(
            [str(ROOT / "tools" / "setup.sh"), *groups],
            env={"PATH": str(tmp_path / "bin"), "LOG": str(log), "VENV": str(tmp_path / "venv"), "PYTHON": "no-python-here"} | environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return done, log.read_text()

    return call


@pytest.fixture
def torch_folder(tmp_path):
    header = tmp_path / "libtorch" / "include" / "ATen" / "ATen.h"
    header.parent.mkdir(parents=True)
    header.write_text("")
    return str(tmp_path / "libtorch")


def test_missing_packages_are_named_with_the_command(setup, torch_folder):
    done, log = setup("lint", TORCH_DIR=torch_folder, packages='[ "${@: -1}" = clang-tidy-14 ] && exit 1; echo installed')
    assert done.returncode == 1
    assert done.stderr == (
        "setup: missing Debian packages: clang-tidy-14. Install them as root with: apt-get install --no-install-recommends clang-tidy-14\n"
    )
    assert log == ""


def test_the_superuser_installs_what_is_missing_and_nothing_else(setup, torch_folder):
    done, log = setup("lint", TORCH_DIR=torch_folder, user=0, packages='[ "${@: -1}" = clang-tidy-14 ] && exit 1; echo installed')
    assert done.returncode == 0, done.stderr
    assert log == "apt-get install -y -q --no-install-recommends clang-tidy-14\n"


def test_other_users_install_through_sudo(setup, torch_folder):
    done, log = setup("build", TORCH_DIR=torch_folder, packages='[ "${@: -1}" = cmake ] && exit 1; echo installed', sudo='echo sudo >> $LOG; shift; "$@"')
    assert done.returncode == 0, done.stderr
    assert log == "sudo\napt-get install -y -q --no-install-recommends cmake\n"


def test_a_failing_installation_fetches_the_lists_once_and_then_gives_up(setup, torch_folder):
    done, log = setup("build", TORCH_DIR=torch_folder, user=0, packages='[ "${@: -1}" = cmake ] && exit 1; echo installed',
                      apt="echo $1 >> $LOG; [ $1 = update ]")  # fmt: skip
    assert done.returncode == 1
    assert log == "install\nupdate\ninstall\n"
    assert "Install them with: sudo apt-get install --no-install-recommends cmake" in done.stderr


def test_nothing_is_done_when_all_is_there(setup, torch_folder):
    done, log = setup("build", TORCH_DIR=torch_folder, packages="echo installed")
    assert (done.returncode, done.stdout, done.stderr, log) == (0, "", "", "")


def test_without_python_the_package_is_named(setup):
    done, _ = setup("build", packages="echo installed")
    assert done.returncode == 1
    assert "no-python-here not found. Install it with: sudo apt-get install python3 python3-venv" in done.stderr


def test_mistakes_in_the_arguments(setup, tmp_path):
    done, _ = setup("wrong")
    assert done.returncode == 1
    assert "unknown group 'wrong'; known: build test demo pretrain lint bench" in done.stderr
    done, _ = setup("build", TORCH_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "has no LibTorch" in done.stderr


def test_every_package_of_the_list_is_in_a_known_group():
    groups = {"build", "venv", "test", "lint", "bench"}
    for line in (ROOT / "tools" / "debian-packages.txt").read_text().splitlines():
        assert line.startswith("#") or (len(line.split()) == 2 and line.split()[0] in groups), line
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
