"""What the program says to wrong arguments, and its help."""

import os
import re
import subprocess

import pytest

def test_every_command_has_help_with_an_example(mmtune):
    done = mmtune("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    commands = re.findall(r"^  ([a-z]+)  ", done.stdout.split("Subcommands:")[1], re.MULTILINE)
    assert {"inspect", "preprocess", "pull"} <= set(commands)
    if "LibTorch" in mmtune("--version").stdout and "without" not in mmtune("--version").stdout:
        assert {"train", "eval", "predict", "forward", "cost"} <= set(commands)
    assert "reference" not in commands
    for command in commands:
        done = mmtune(command, "--help")
        assert done.returncode == 0
        assert done.stderr == ""
        assert f"Usage: mmtune {command} " in done.stdout
        assert f"\nExample:\n  mmtune {command} " in done.stdout
        assert "--threads" in done.stdout


def test_version(mmtune):
    done = mmtune("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("mmtune ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no command given (mmtune --help lists them)"),
        (["--threads", "2"], "no command given (mmtune --help lists them)"),
        (["inspct", "x"], "unknown command 'inspct' (did you mean 'inspect'?)"),
        (["zzzzzzz"], "unknown command 'zzzzzzz' (mmtune --help lists the commands)"),
        (["inspect"], "PATH is required (see mmtune inspect --help)"),
        (["inspect", "a", "b"], "unexpected argument 'b' (see mmtune inspect --help)"),
        (["inspect", "--josn", "a"], "unknown option '--josn' (did you mean '--json'?)"),
        (["--zzzzzzzzzz", "inspect", "a"], "unknown option '--zzzzzzzzzz' (see mmtune inspect --help)"),
        (["inspect", "a", "--threads", "0"], "--threads: expected an integer >= 1 and <= 1024, got '0'"),
        (["inspect", "a", "--threads", "two"], "--threads: expected an integer >= 1 and <= 1024, got 'two'"),
        (["inspect", "a", "--threads"], "--threads: 1 required N missing (see mmtune inspect --help)"),
        (["preprocess", "m"], "--out is required (see mmtune preprocess --help)"),
        (["preprocess", "m", "--out", "x"], "nothing to preprocess: expected --text, --image, --audio or --data"),
        (
            ["preprocess", "m", "--out", "x", "--text", "a", "--text-pair", "b", "--text-pair", "c"],
            "--text-pair: expected as many as --text (1), got 2",
        ),
        (
            ["preprocess", "m", "--out", "x", "--text", "a", "--data", "b"],
            "--data: expected to stand without --text, --text-pair, --image and --audio",
        ),
        (["inspect", "a\nb\x1b[31m", "c\x07"], "unexpected argument 'c\\x07' (see mmtune inspect --help)"),
    ],
)
def test_wrong_arguments_exit_with_2(refused, arguments, message):
    assert refused(2, *arguments) == message


def test_an_answer_that_cannot_be_written_is_no_success(program, tiny_bert):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this machine")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([program, "inspect", tiny_bert], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "mmtune: error: standard output: cannot be written: No space left on device\n"
