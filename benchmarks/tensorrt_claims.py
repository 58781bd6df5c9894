"""The claims of docs/tensorrt.md that ``check_tensorrt.py`` tries, and how each is put to the test."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tensorrt_bench import Bench

from ecea.export.attention_function import PLUGIN
from ecea.export.folder import describe_file, write_manifest
from ecea.export.parity import MAX_ERROR
from ecea.export.plans.builder import Build, PlanError
from ecea.export.plans.bundling import BACKEND
from ecea.export.plans.comparison import Compared
from ecea.export.plans.network import read_network
from ecea.kernels import ahead_of_time, plugin
from ecea.runtime.backends.cuda_device import Device
from ecea.runtime.backends.tensorrt_library import Messages
from ecea.runtime.engine import open_engine
from ecea.runtime.errors import EceaError

LEFT = 64 << 20  # bytes of device memory, in which no plan can be built

# Modules that a machine which only runs plans need not have.
HEAVY = ("torch", "onnx", "onnxscript", "triton")


class Failed(Exception):
    """A claim that is not true here."""


class NotRun(Exception):
    """A claim that could not be tried."""


def parser_takes_plugin(bench: Bench) -> str:
    for engine in ("fp16", "int8"):
        network = read_network(bench.bundle / f"generator.{engine}.onnx", 1)
        plugin.register(bench.machine.gpu.architecture)
        build = Build(bench.machine, network, engine, Messages(bench.machine.trt, every_error_ends=False))
        build.parse(build.start())
    return f"{len(network.attention)} nodes in each"


def plans_are_built(bench: Bench) -> str:
    return ", ".join(f"{engine} {memoryview(plan.data).nbytes / 1e6:.0f} MB" for engine, plan in bench.plans.items())


def plans_are_in_their_precision(bench: Bench) -> str:
    told = []
    for engine, plan in bench.plans.items():
        found = plan.inspection
        told.append(
            f"{engine}: {found.half_layers:.0%} half, {found.int8_layers:.0%} INT8, {found.plugin_layers} plugins"
        )
    return "; ".join(told)


def kernel_without_integers(bench: Bench) -> str:
    return _accuracy(bench.parity())


def plans_compute_the_same(bench: Bench) -> str:
    entries = json.loads((bench.planned / "manifest.json").read_text())["engines"]
    return "; ".join(f"{entry['engine']} {_accuracy(entry['parity'])}" for entry in entries if entry.get("plan"))


def another_process(bench: Bench) -> str:
    _in_another_process(f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None
import numpy as np
from ecea.runtime import open_engine
with open_engine({str(bench.planned)!r}, engine="fp16", backend="tensorrt") as engine:
    size = engine.tile_size
    engine.infer(*(np.zeros((1, count, size, size), np.float32) for count in (3, 1, 1)))
""")
    return f"without {', '.join(HEAVY)}"


def timings_are_used(bench: Bench) -> str:
    seconds = []
    with _own_cache(bench.folder / "timings"):
        for _ in range(2):
            begin = time.monotonic()
            bench.build("fp16")
            seconds.append(time.monotonic() - begin)
    told = f"{seconds[0]:.0f} s, then {seconds[1]:.0f} s"
    if seconds[1] > 0.8 * seconds[0]:
        raise Failed(told)
    return told


def mismatch_is_refused(bench: Bench) -> str:
    path = Path(shutil.copytree(bench.planned, bench.folder / "elsewhere.ecea"))
    manifest = json.loads((path / "manifest.json").read_text())
    told = []
    for key, other in (("gpu", "another GPU"), ("compute_capability", "7.5"), ("tensorrt", "11.0.0.0")):
        changed = json.loads(json.dumps(manifest))
        for entry in changed["engines"]:
            if entry.get("plan"):
                entry["plan"][key] = other
        (path / "manifest.json").write_text(json.dumps(changed))
        message = _refusal(path)
        if "--rebuild-plans" not in message:
            raise Failed(f"with another {key}: {message}")
        told.append(key)
    return ", ".join(told)


def damage_is_refused(bench: Bench) -> str:
    """By TensorRT, which sees a plan only if its size and hash are right; in another process, lest it end this one."""
    path = Path(shutil.copytree(bench.planned, bench.folder / "damaged.ecea"))
    plan = path / "generator.fp16.b1.plan"
    plan.write_bytes(plan.read_bytes()[:-1000])
    manifest = json.loads((path / "manifest.json").read_text())
    for entry in manifest["engines"]:
        names = [file["name"] for file in entry["files"]]
        entry["files"] = [asdict(describe_file(path / name)) for name in names]
    write_manifest(path, manifest)
    said = _in_another_process(f"""
from ecea.runtime import EceaError, open_engine
try:
    open_engine({str(path)!r}, engine="fp16", backend="tensorrt").close()
except EceaError as error:
    print(error)
else:
    print("it was loaded")
""")
    if "TensorRT does not take this plan" not in said:
        raise Failed(said)
    return said


def _in_another_process(code: str) -> str:
    """What it prints; Failed with the end of what it complains of."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        *_, last = ["it says nothing", *done.stderr.strip().splitlines()]
        raise Failed(f"{last} (status {done.returncode})")
    return done.stdout


def callbacks_surface(bench: Bench) -> str:
    def fail(*_: object) -> None:
        raise OSError("made to fail")

    with _own_cache(bench.folder / "callbacks"), _changed(plugin, "compile_kernel", fail):
        try:
            bench.build("fp16")
        except PlanError as error:
            if "made to fail" in str(error):
                return str(error)
            raise
    raise Failed("a plan was built in spite of it")


def memory_runs_out(bench: Bench) -> str:
    device = Device()
    device.open()
    try:
        with device.current():
            _take_all_but(LEFT, device)
        with _own_cache(bench.folder / "memory"):
            bench.build("fp16")
    except PlanError as error:
        if "memory" in str(error):
            return str(error)
        raise
    finally:
        device.close()
    raise Failed(f"a plan was built in {LEFT >> 20} MiB")


def _take_all_but(left: int, device: Device) -> None:
    """Take the GPU's memory, in whatever pieces there are."""
    size = device.free_bytes() - left
    while size > 1 << 20:
        try:
            device.memory(size)
        except EceaError:  # there is no such piece
            size //= 2
        size = min(size, device.free_bytes() - left)


def more_shared_memory(bench: Bench) -> str:
    architecture = bench.machine.gpu.architecture
    network = read_network(bench.bundle / "generator.fp16.onnx", 1)
    largest = max(network.attention, key=lambda problem: problem.tokens)
    single = [number for number, tactic in ahead_of_time.TACTICS.items() if tactic.launches == 1]
    kernels = {number: ahead_of_time.compile_kernel(architecture, largest, number) for number in single}
    big = [n for n, kernel in kernels.items() if kernel.shared_bytes > 48 << 10 and not kernel.spill_bytes]
    if not big:
        raise NotRun("no block shape takes more than 48 KiB for this generator on this GPU")
    offered = ahead_of_time.offered_tactics

    def only_big(architecture: int, problem: ahead_of_time.Problem) -> Sequence[int]:
        return big[:1] if problem == largest else offered(architecture, problem)

    with _own_cache(bench.folder / "shared"), _changed(plugin, "offered_tactics", only_big):
        parity = bench.parity()
    return f"{kernels[big[0]].shared_bytes / 1024:.0f} KiB, {_accuracy(parity)}"


def forms_compute_the_same(bench: Bench) -> str:
    told, wrong = [], False
    for batch, found in bench.compared.items():
        _all_of(found)
        differences = {form: one.to_plugin for form, one in found.items() if form != PLUGIN}
        wrong |= any(difference is None or difference > MAX_ERROR["fp16"] for difference in differences.values())
        told.append(f"batch {batch}: " + ", ".join(f"{form} within {value:.1e}" for form, value in differences.items()))
    if wrong:
        raise Failed(f"{'; '.join(told)}, expected {MAX_ERROR['fp16']:g}")
    return "; ".join(told)


def faster_than_others(bench: Bench) -> str:
    told, slower = [], False
    for batch, found in bench.compared.items():
        _all_of(found)
        times = {form: one.milliseconds or 0.0 for form, one in found.items()}
        told.append(f"batch {batch}: " + ", ".join(f"{form} {value:.2f} ms" for form, value in times.items()))
        slower |= times[PLUGIN] > min(times.values())
    if slower:
        raise Failed("; ".join(told))
    return "; ".join(told)


def _all_of(found: dict[str, Compared]) -> None:
    """Failed unless the plan with the plugin ran; NotRun unless those that it is compared with did."""
    for form, one in found.items():
        if one.why_not is not None:
            raise (Failed if form == PLUGIN else NotRun)(f"attention by {form}: {one.why_not}")


def _refusal(bundle: Path) -> str:
    """The sentence in which a bundle's fp16 plan is refused."""
    try:
        with open_engine(bundle, engine="fp16", backend=BACKEND):
            raise Failed("it was loaded")
    except EceaError as error:
        return str(error)


def _accuracy(parity: Sequence[dict[str, Any]]) -> str:
    worst = min(parity, key=lambda output: output["psnr_db"])
    return f"within {worst['max_error']:.1e} ({worst['psnr_db']:.0f} dB)"


@contextmanager
def _changed(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    """Timings of their own: none of earlier builds, and none that later ones should not see."""
    before = os.environ.get("ECEA_CACHE")
    os.environ["ECEA_CACHE"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["ECEA_CACHE"]
        else:
            os.environ["ECEA_CACHE"] = before


@dataclass(frozen=True)
class Claim:
    """A row of the table in docs/tensorrt.md.

    Attributes:
        text: what is claimed.
        check: says what it saw, or raises.
        for_information: nothing relies on it.
    """

    text: str
    check: Callable[[Bench], str]
    for_information: bool = False


CLAIMS = (
    Claim("TensorRT's parser takes the attention nodes for the plugin", parser_takes_plugin),
    Claim("TensorRT builds a plan of each engine", plans_are_built),
    Claim(
        "plans are in the precision asked for, and hold a plugin layer for each attention", plans_are_in_their_precision
    ),
    Claim("TensorRT launches a kernel that has no integer arguments besides its tensors", kernel_without_integers),
    Claim("plans compute what the FP32 engine does, at every batch size", plans_compute_the_same),
    Claim("a plan runs in another process, without PyTorch, ONNX and Triton", another_process),
    Claim("a second build takes the timings of the first", timings_are_used),
    Claim("plans for another GPU or another TensorRT are refused with the command that rebuilds", mismatch_is_refused),
    Claim("TensorRT refuses a plan that was cut short", damage_is_refused),
    Claim("what a callback raises during a build surfaces as our message", callbacks_surface),
    Claim("a build that runs out of device memory ends in a sentence", memory_runs_out),
    Claim("TensorRT asks the driver for more than 48 KiB of shared memory by itself", more_shared_memory, True),
    Claim("plans with the function body and with TensorRT's own `Attention` compute the same", forms_compute_the_same),
    Claim("the plugin is faster than the function body and than TensorRT's own `Attention`", faster_than_others, True),
)
