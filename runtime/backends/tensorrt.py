"""TensorRT plans, driven through pycuda: no PyTorch, and nothing is compiled here.

Two batches or more are under way at once, each in a lane of its own: a stream, page-locked memory on the host, memory
on the GPU. Copies of one batch overlap what another computes. Computing itself is one after another, for the plans
share the memory that they work in, and one of them fills the GPU:

    lane 1   in | compute       | out  in | compute       | out
    lane 2        in            | compute       | out  in       | compute
"""

import functools
import queue
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ecea.runtime.backends import cuda_graph
from ecea.runtime.backends.cuda_device import Device
from ecea.runtime.backends.layers import Inputs, LayerTime
from ecea.runtime.backends.nvidia import require_gpu
from ecea.runtime.backends.settings import Settings
from ecea.runtime.backends.tensorrt_library import Messages, import_tensorrt, interrupts_held
from ecea.runtime.backends.tensorrt_plans import Plans, check_machine, rebuild
from ecea.runtime.bundle import INPUTS, OUTPUTS
from ecea.runtime.errors import BackendUnavailable, EceaError

Tensor = npt.NDArray[np.float32]

_LANES = 2  # at least: one is copied while another is computed

_ALIGNMENT = 256  # bytes, of a tensor on the GPU

# What a run costs beside its tiles, in tiles: a guess, not measured. It decides between padding and splitting alone.
_RUN_COST = 1


class Run:
    """Computing one batch size in one lane: an execution context, and its kernels as a CUDA graph.

    The context is the lane's own, for a graph is recorded with the context's addresses, and a context that a graph was
    recorded of is not to be changed.
    """

    def __init__(self, context: Any, stream: Any, messages: Messages) -> None:
        self.context = context
        self._stream = stream
        self._messages = messages
        self._graph: cuda_graph.Graph | None = None

    def record(self) -> None:
        """Record the graph, where that can be had; the first run sets up what is left to be set up."""
        self.start()
        self._stream.synchronize()
        self._messages.reraise()
        self._graph = cuda_graph.record(self._stream.handle, self._enqueue)
        if self._graph is None:
            self._messages.clear()

    def start(self) -> None:
        """Put the kernels into the stream.

        Raises:
            EceaError: where TensorRT refuses.
        """
        if self._graph is not None:
            self._graph.launch()
        elif not self._enqueue():
            raise EceaError(self._messages.first("TensorRT did not start the batch"))

    def close(self) -> None:
        if self._graph is not None:
            self._graph.close()
        self._graph = self.context = None

    def _enqueue(self) -> bool:
        return bool(self.context.execute_async_v3(self._stream.handle))


class Lane:
    """What a batch under way needs for itself, for batches up to a size.

    Attributes:
        addresses: of each input and output on the GPU.
        computed: a mark in the stream behind what the GPU computes.
        runs: batch size -> how it is computed here.
    """

    def __init__(self, device: Device, batch: int, tile_size: int) -> None:
        self._device = device
        shapes = {name: (batch, count, tile_size, tile_size) for name, count in {**INPUTS, **OUTPUTS}.items()}
        self._host = {name: device.host_array(shape) for name, shape in shapes.items()}
        sizes = [-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in self._host.values()]
        start = device.memory(sum(sizes))
        self.addresses = {name: start + sum(sizes[:index]) for index, name in enumerate(shapes)}
        self.stream = device.stream()
        self.computed = device.event()
        self._copied = device.event()
        self.runs: dict[int, Run] = {}

    def fill(self, inputs: Mapping[str, Tensor]) -> None:
        """Take over a batch from the caller, who may then do with it what he wants."""
        for name, tensor in inputs.items():
            self._host[name][: len(tensor)] = tensor

    def start(self, batch: int, after: Any) -> None:
        """Begin to copy in, compute and copy out.

        Args:
            batch: tiles that the plan computes; those that were not filled are computed for nothing.
            after: the mark behind what was computed last; None: nothing was.
        """
        for name in INPUTS:
            self._device.copy_in(self.addresses[name], self._host[name][:batch], self.stream)
        if after is not None:
            self.stream.wait_for_event(after)
        self.runs[batch].start()
        self.computed.record(self.stream)
        for name in OUTPUTS:
            self._device.copy_out(self._host[name][:batch], self.addresses[name], self.stream)
        self._copied.record(self.stream)

    def wait(self) -> None:
        """Sleep until what was started is back."""
        self._copied.synchronize()

    def empty(self, outputs: Mapping[str, Tensor]) -> None:
        """Hand over the first tiles of the result."""
        for name, tensor in outputs.items():
            tensor[...] = self._host[name][: len(tensor)]


class TensorRtSession:
    """The plans of one engine, ready to run.

    Attributes:
        arithmetic: ``f16`` where the plans compute in half precision, else ``f32``.
    """

    def __init__(self, device: Device, plans: Plans, *, lanes: int, arithmetic: str, profiler: Any = None) -> None:
        self.arithmetic = arithmetic
        self._device = device
        self._plans = plans
        self._order = threading.Lock()  # of the streams' work; holds what was computed last
        self._last: Any = None
        self._failure: str | None = None
        self._idle: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        with ExitStack() as closing:
            closing.callback(plans.close)
            work = device.memory(plans.memory)
            for _ in range(lanes):
                lane = Lane(device, max(plans.batches), plans.tile_size)
                for batch in plans.batches:
                    run = Run(plans.context(batch, lane.addresses, work), lane.stream, plans.messages)
                    closing.callback(run.close)
                    if profiler is not None:
                        run.context.profiler = profiler
                    else:
                        run.record()
                    lane.runs[batch] = run
                self._idle.put(lane)
            plans.messages.clear()
            self._closing: ExitStack | None = closing.pop_all()

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        count, _, size, _ = image.shape
        inputs = {"image": image, "edge": edge, "mask": mask}
        outputs = {name: np.empty((count, channels, size, size), np.float32) for name, channels in OUTPUTS.items()}
        started: deque[tuple[Lane, slice]] = deque()
        try:
            with self._device.current():
                for part, batch in _parts(count, self._plans.batches):
                    lane = self._take(started, outputs)
                    started.append((lane, part))
                    lane.fill({name: tensor[part] for name, tensor in inputs.items()})
                    self._start(lane, batch)
                while started:
                    self._idle.put(self._finish(started, outputs))
        except BaseException as error:  # work may be under way in the lanes: none of them is used again
            self._failure = self._failure or self._plans.messages.first(str(error))
            if not isinstance(error, Exception):
                raise
            raise EceaError(self._failure) from error
        finally:
            for lane, _ in started:  # after a failure: whoever waits for a lane is to learn of it
                self._idle.put(lane)
        return outputs["out"], outputs["out_edge"]

    def layer_types(self, count: int) -> dict[str, str]:
        """Name -> type of each layer of the plan that runs the first tiles of a batch."""
        return self._plans.layer_types(_split(count, self._plans.batches)[0])

    def close(self) -> None:
        """Release all, in the order in which it depends on one another; no batch may be under way."""
        closing, self._closing = self._closing, None
        if closing is None:
            return
        with suppress(Exception), ExitStack() as current:
            with suppress(Exception):  # a GPU that has failed may refuse even this
                current.enter_context(self._device.current())
            closing.close()
        self._idle = queue.SimpleQueue()
        self._last = None
        self._device.close()

    def _take(self, started: deque[tuple[Lane, slice]], outputs: Mapping[str, Tensor]) -> Lane:
        """A lane that is free: one that nobody has, else this call's oldest, else the next that another gives back.

        Nobody waits for a lane while he has one, so nobody waits for ever.
        """
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return self._finish(started, outputs) if started else self._idle.get()

    def _start(self, lane: Lane, batch: int) -> None:
        with self._order:
            if self._failure is not None:
                raise EceaError(self._failure)
            lane.start(batch, self._last)
            self._last = lane.computed
            self._plans.messages.reraise()

    def _finish(self, started: deque[tuple[Lane, slice]], outputs: Mapping[str, Tensor]) -> Lane:
        """Wait for the oldest that was started, and hand its result over."""
        lane, part = started[0]
        lane.wait()
        self._plans.messages.reraise()
        lane.empty({name: tensor[part] for name, tensor in outputs.items()})
        started.popleft()
        return lane


@interrupts_held()
def load(model: Path, settings: Settings) -> TensorRtSession:
    """Load the plans of an engine, ``model`` among them; its folder is the bundle.

    Raises:
        BackendUnavailable: where there is no GPU, no TensorRT, no pycuda, or where the plans are for another machine.
        EceaError: where TensorRT does not take them, or the GPU's memory does not hold them.
    """
    return _open(model, settings, lanes=max(_LANES, settings.streams))


@interrupts_held()
def layer_times(model: Path, settings: Settings, inputs: Inputs) -> list[LayerTime]:
    """Time each layer of plans that are loaded once more, to count."""
    trt = import_tensorrt()
    seconds: dict[str, float] = {}

    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            seconds[layer_name] = ms / 1e3

    session = _open(model, settings, lanes=1, profiler=Profiler())
    try:
        for _ in range(2):  # the first run allocates
            session.infer(*inputs)
        kinds = session.layer_types(len(inputs[0]))
    finally:
        session.close()
    return [LayerTime(name, kinds.get(name, ""), duration) for name, duration in seconds.items()]


def _open(model: Path, settings: Settings, *, lanes: int, profiler: Any = None) -> TensorRtSession:
    require_gpu()
    bundle = model.parent
    if settings.plan is None:
        raise BackendUnavailable(f"the bundle holds no plans of this engine: build them with {rebuild(bundle)}")
    trt, device = import_tensorrt(), Device()
    messages = Messages(trt)
    check_machine(settings.plan, trt.__version__, device, bundle)
    arithmetic = "f16" if settings.plan.half_layers else "f32"
    try:
        device.open()
        with device.current():
            plans = Plans(trt, bundle, settings.plan.batches, messages)
            return TensorRtSession(device, plans, lanes=lanes, arithmetic=arithmetic, profiler=profiler)
    except Exception as error:
        device.close()
        if isinstance(error, EceaError):
            raise
        raise EceaError(f"{model}: TensorRT cannot load it: {messages.first(str(error))}") from error


def _parts(count: int, batches: tuple[int, ...]) -> list[tuple[slice, int]]:
    """Which tiles of a batch are run together, and with the plan for how many."""
    parts, start = [], 0
    for batch in _split(count, batches):
        parts.append((slice(start, min(start + batch, count)), batch))
        start += batch
    return parts


@functools.lru_cache
def _split(count: int, batches: tuple[int, ...]) -> tuple[int, ...]:
    """The batch sizes that together hold ``count`` tiles at the least cost; the last may be padded."""
    # least[n]: of n tiles
    least: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    for tiles in range(1, count + 1):
        options = []
        for batch in batches:
            cost, rest = least[max(tiles - batch, 0)]
            options.append((cost + batch + _RUN_COST, tuple(sorted((*rest, batch), reverse=True))))
        least.append(min(options))
    return least[count][1]
