"""TensorRT plans: whether they are for this machine, and loading them.

A plan is a program that TensorRT runs as it stands. So it is loaded from a bundle whose hashes match and from no other
place, and its bytes are compared once more in the memory that TensorRT is given.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ecea.runtime.backends.cuda_device import Device
from ecea.runtime.backends.tensorrt_library import Messages
from ecea.runtime.bundle import INPUTS, OUTPUTS, BundleFile, PlanRecord
from ecea.runtime.errors import BackendUnavailable, EceaError, RequestError


def rebuild(bundle: Path) -> str:
    """What a user does about plans that are missing or for another machine."""
    return f"'ecea-export --rebuild-plans {bundle}'"


def check_machine(plan: PlanRecord, version: str, device: Device, bundle: Path) -> None:
    """Compare what plans were built with to what is here; TensorRT itself would tell it late and darkly.

    Raises:
        BackendUnavailable: where they are for another version of TensorRT or another GPU.
    """
    built_for = f"{plan.gpu} of compute capability {plan.compute_capability}"
    found = f"{device.name} of {device.compute_capability}"
    if plan.tensorrt != version:
        built_for, found = f"TensorRT {plan.tensorrt}", f"TensorRT {version}"
    elif (plan.gpu, plan.compute_capability) == (device.name, device.compute_capability):
        return
    raise BackendUnavailable(
        f"the plans are for {built_for}, found {found} here: build them anew with {rebuild(bundle)}"
    )


class Plans:
    """The plans of one engine, loaded: an engine of TensorRT's for each batch size.

    Attributes:
        trt: the module.
        messages: what TensorRT says.
        tile_size: side of a tile in pixels.
        memory: bytes that the hungriest of them works in.

    Raises:
        EceaError: where TensorRT does not take them.
    """

    def __init__(self, trt: ModuleType, folder: Path, files: Mapping[int, BundleFile], messages: Messages) -> None:
        self.trt: Any = trt
        self.messages = messages
        try:
            self._runtime = trt.Runtime(messages.logger)
        except TypeError as error:  # what the bindings make of a library that returns nothing
            raise BackendUnavailable(f"TensorRT does not start ({messages.first(str(error))})") from error
        self._runtime.error_recorder = messages.recorder
        self._engines = {batch: self._load(folder / file.name, file) for batch, file in sorted(files.items())}
        self.tile_size = 0
        for batch, engine in self._engines.items():
            self._check(folder / files[batch].name, batch, engine)
        self.memory = max(int(engine.device_memory_size_v2) for engine in self._engines.values())

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes, the smallest first."""
        return tuple(self._engines)

    def context(self, batch: int, addresses: Mapping[str, int], memory: int) -> Any:
        """What runs a batch: an execution context for good with these tensors.

        Args:
            batch: its size, one of :attr:`batches`.
            addresses: of each input and output on the GPU.
            memory: the address of :attr:`memory` bytes to work in. Contexts that share it may not run at once.

        Raises:
            EceaError: where TensorRT refuses.
        """
        engine = self._engines[batch]
        context = engine.create_execution_context(self.trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise EceaError(self.messages.first("TensorRT makes no execution context"))
        context.error_recorder = self.messages.recorder
        context.set_device_memory(memory, self.memory)
        accepted = [
            context.set_input_shape(name, self._shape(batch, channels)) for name, channels in INPUTS.items()
        ] + [context.set_tensor_address(name, address) for name, address in addresses.items()]
        if not all(accepted) or context.infer_shapes():
            raise EceaError(self.messages.first(f"TensorRT does not accept the tensors of a batch of {batch}"))
        return context

    def layer_types(self, batch: int) -> dict[str, str]:
        """Name -> type of each layer of a plan; empty where it was built without telling."""
        inspector = self._engines[batch].create_engine_inspector()
        return layer_types(inspector.get_engine_information(self.trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Release them; every context must be gone."""
        self._engines = {}
        self._runtime = None

    def _load(self, path: Path, file: BundleFile) -> Any:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise RequestError(f"{path}: has changed since its hash was compared: copy the bundle again")
        engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            why = self.messages.first("it says no more")
            raise EceaError(
                f"{path}: TensorRT does not take this plan ({why}): build it anew with {rebuild(path.parent)}"
            )
        engine.error_recorder = self.messages.recorder
        return engine

    def _check(self, path: Path, batch: int, engine: Any) -> None:
        """Compare inputs and outputs with what an engine of ours has; the first engine decides the size of a tile."""
        trt = self.trt
        wanted = {name: (trt.TensorIOMode.INPUT, channels) for name, channels in INPUTS.items()}
        wanted |= {name: (trt.TensorIOMode.OUTPUT, channels) for name, channels in OUTPUTS.items()}
        found = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        if found != set(wanted):
            raise EceaError(f"{path}: has the tensors {_listed(found)}, expected {_listed(wanted)}: export it again")
        for name, (direction, channels) in wanted.items():
            shape, kind = tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name)
            self.tile_size = self.tile_size or int(shape[-1])
            expected = self._shape(batch, channels)
            # A batch that was fixed by a profile shows as -1.
            fits = shape in (expected, (-1, *expected[1:]))
            if not fits or kind != trt.DataType.FLOAT or engine.get_tensor_mode(name) != direction:
                raise EceaError(
                    f"{path}: '{name}' is {kind.name} of shape {shape}, expected FLOAT of shape {expected}: "
                    "export it again"
                )

    def _shape(self, batch: int, channels: int) -> tuple[int, int, int, int]:
        return (batch, channels, self.tile_size, self.tile_size)


def layer_types(information: str) -> dict[str, str]:
    """Read what TensorRT's inspector says of an engine: name -> type of each layer."""
    layers: Sequence[Any] = json.loads(information).get("Layers", [])
    # Without detailed profiling a layer is its name alone.
    return {layer["Name"]: layer.get("LayerType", "") for layer in layers if isinstance(layer, dict)}


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
