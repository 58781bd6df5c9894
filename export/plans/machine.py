"""The machine that plans are built on: TensorRT, and the GPU that will run them."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ecea.runtime.backends.cuda_device import Device
from ecea.runtime.backends.nvidia import require_gpu
from ecea.runtime.backends.tensorrt_library import import_tensorrt
from ecea.runtime.errors import BackendUnavailable, RequestError

TENSORRT_MAJOR = 11  # older ones choose types by themselves, and know no plugins that are compiled ahead of time

_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_DRIVER_VERSION = re.compile(r"\b\d{3,}\.\d+(?:\.\d+)?\b")


@dataclass(frozen=True)
class Gpu:
    """What decides whether a plan runs.

    Attributes:
        name: such as ``NVIDIA H100 80GB HBM3``.
        compute_capability: such as ``9.0``.
        driver: its version, such as ``580.95.05``; ``unknown`` where nothing tells.
    """

    name: str
    compute_capability: str
    driver: str

    @property
    def architecture(self) -> int:
        """Ten times the compute capability: 90 for ``9.0``."""
        return int(self.compute_capability.replace(".", ""))


class Machine:
    """TensorRT and a GPU that both load.

    Attributes:
        trt: the module ``tensorrt``.
        gpu: the first that this process sees.
    """

    def __init__(self, trt: ModuleType, gpu: Gpu, device: Device) -> None:
        self.trt = trt
        self.gpu = gpu
        self._device = device

    def free_bytes(self) -> int:
        """Device memory that nobody uses at this moment.

        Raises:
            EceaError: where not even that much is left that CUDA can start.
        """
        return self._device.free_bytes()


def find_machine() -> Machine:
    """What plans are built with here.

    Raises:
        BackendUnavailable: naming the first thing that is missing.
    """
    require_gpu()
    trt = import_tensorrt()
    version = str(trt.__version__)
    if int(version.partition(".")[0]) < TENSORRT_MAJOR:
        raise BackendUnavailable(
            f"TensorRT is {version}, expected {TENSORRT_MAJOR} or newer: install ecea with its 'tensorrt' extra"
        )
    device = Device()
    gpu = Gpu(device.name, device.compute_capability, _driver_version())
    _check_kernels(gpu)
    return Machine(trt, gpu, device)


def required_machine(otherwise: str = "") -> Machine:
    """What plans are built with here, where they must be.

    Args:
        otherwise: what a user can do instead, the end of the message.

    Raises:
        RequestError: naming the first thing that is missing.
    """
    elsewhere = ": run this on the machine that has the GPU"
    try:
        require_gpu()
        elsewhere = ""  # it is this one
        return find_machine()
    except BackendUnavailable as error:
        raise RequestError(f"TensorRT plans cannot be built here, {error}{elsewhere}{otherwise}") from error


def machine_if(wanted: bool | None) -> tuple[Machine | None, str]:
    """The machine to build plans on, or None with the reason.

    Args:
        wanted: True: it must be there; None: if it is there; False: not asked for.

    Raises:
        RequestError: where it must be there and is not.
    """
    if wanted is False:
        return None, "not asked for"
    if wanted:
        return required_machine("; --no-tensorrt leaves plans out"), ""
    try:
        return find_machine(), ""
    except BackendUnavailable as error:
        return None, str(error)


def _check_kernels(gpu: Gpu) -> None:
    """Raise BackendUnavailable unless the attention kernel can be compiled for a GPU."""
    try:
        from ecea.kernels.ahead_of_time import PTX_ISA
    except ImportError as error:
        raise BackendUnavailable(
            f"Triton, which compiles the attention kernel, cannot be imported ({error}): install ecea with its "
            "'tensorrt' extra"
        ) from error
    if gpu.architecture not in PTX_ISA:
        known = ", ".join(f"sm_{architecture}" for architecture in PTX_ISA)
        raise BackendUnavailable(f"the GPU is sm_{gpu.architecture}, expected one of {known}")


def _driver_version() -> str:
    """The version as NVIDIA counts its drivers; CUDA itself tells only which CUDA the driver is for."""
    try:
        text = _DRIVER_FILE.read_text()
    except OSError:  # not on Linux itself, such as under WSL
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            text = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return "unknown"
    found = _DRIVER_VERSION.search(text)
    return found[0] if found else "unknown"
