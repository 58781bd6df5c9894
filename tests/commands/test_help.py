"""``-h`` names every option, at once, and without what the command's work needs."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecea.runtime.command import imports, sentences

Run = Callable[..., Any]

COMMANDS = ("ecea-run", "ecea-export", "ecea-profile", "ecea-train", "ecea-evaluate")
HEAVY = (
    "torch", "onnx", "onnxscript", "onnx_ir", "openvino", "onnxruntime", "skimage", "scipy", "lightning_fabric",
    "tensorboardX",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_option(command: str, flag: str, run_here: Run, parameters: Callable[[str], Any]) -> None:
    done = run_here(command, flag)
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: {command} [OPTIONS]")
    words = set(done.stdout.replace(",", " ").split())
    names = {name for parameter in parameters(command) for name in (*parameter.opts, *parameter.secondary_opts)}
    options = {name for name in names if name.startswith("-")}
    assert {"-h", "--help", "--version", "--debug"} | options <= words
    assert len(options) > 8
    assert all(getattr(parameter, "help", None) for parameter in parameters(command))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_nothing_heavy(command: str, run: Run, without: Run) -> None:
    done = run(command, "-h", env=without(*HEAVY))
    assert (done.status, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["ecea-run", "ecea-export"])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [((), "Missing argument"), (("a", "--fast"), "--fast"), (("a", "--bands"), "--bands")],
    ids=["nothing", "unknown option", "no value"],
)
def test_what_cannot_be_parsed_is_one_sentence(
    command: str, arguments: tuple[str, ...], named: str, run_here: Run
) -> None:
    sentence = run_here(command, *arguments).sentence()
    assert named in sentence
    assert sentence.endswith(f": see {command} -h")


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("ecea-run", signal.SIGINT),
        ("ecea-run", signal.SIGTERM),
        ("ecea-run", signal.SIGHUP),
        ("ecea-export", signal.SIGINT),
        ("ecea-profile", signal.SIGTERM),
        ("ecea-train", signal.SIGINT),
        ("ecea-evaluate", signal.SIGTERM),
    ],
)
def test_a_command_that_is_stopped_while_it_imports(
    command: str, number: int, run: Run, stopped: Callable[..., dict[str, str]]
) -> None:
    said = run(command, "-h", env=stopped(number)).sentence(status=1)
    assert said == "interrupted: what was not finished was not written"


@pytest.mark.parametrize(
    ("command", "arguments", "module"),
    [
        ("ecea-export", ("a.pth",), "torch"),
        ("ecea-train", ("a.tif", "-o", "run"), "torch"),
        ("ecea-evaluate", ("--scenes", "a.tif", "--stripes", 2, "--baseline", "nearest"), "skimage"),
    ],
)
def test_a_command_that_is_stopped_while_it_imports_what_its_work_needs(
    command: str, arguments: tuple[object, ...], module: str, run: Run, stopped: Callable[..., dict[str, str]]
) -> None:
    said = run(command, *arguments, env=stopped(signal.SIGTERM, module)).sentence(status=1)
    assert said == "interrupted: what was not finished was not written"


def test_a_signal_that_is_ignored_stops_nothing() -> None:
    """As ``nohup`` and the background jobs of a shell have it."""
    code = (
        "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        "from ecea.runtime.entry import end_when_stopped; end_when_stopped('ecea-run'); "
        "os.kill(os.getpid(), signal.SIGHUP); print('goes on')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "goes on\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
@pytest.mark.parametrize("flag", ["-h", "--version"])
def test_output_that_nothing_can_take_is_one_sentence(flag: str) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", "from ecea.runtime.cli import main; main()", flag]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "ecea-run: standard output cannot be written (No space left on device)\n"


def test_exporting_needs_no_triton(run: Run, without: Run) -> None:
    """Which comes with PyTorch for CUDA alone, and is for plans."""
    assert run("ecea-export", "a.pth", env=without("triton")).sentence().startswith("a.pth does not exist")


def test_exporting_without_torch_says_what_to_install(run: Run, without: Run) -> None:
    sentence = run("ecea-export", "a.pth", env=without("torch")).sentence()
    assert "no libtorch.so on this machine" in sentence
    assert "install ecea with its 'export' extra" in sentence


def test_signals_are_handled_as_before_when_a_command_within_another_ends() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with sentences("outer", debug=False):
        ours = signal.getsignal(signal.SIGTERM)
        with sentences("inner", debug=False):
            pass
        assert signal.getsignal(signal.SIGTERM) == ours != before
        with imports("nothing", extra="none"):
            assert signal.getsignal(signal.SIGTERM) == before
    assert signal.getsignal(signal.SIGTERM) == before
