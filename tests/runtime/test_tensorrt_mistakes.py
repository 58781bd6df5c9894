"""Mistakes in the TensorRT backend show: each of these turns a test of its whole life red."""

from __future__ import annotations

import importlib
import queue
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ecea.runtime.backends import cuda_device, cuda_graph, tensorrt, tensorrt_plans

MISTAKES: list[tuple[ModuleType, str, str]] = [
    (tensorrt, "self.stream.wait_for_event(after)", "pass"),
    (tensorrt, "self._last = lane.computed", "pass"),
    (tensorrt, "self.computed.record(self.stream)", "pass"),
    (tensorrt, "self._copied.record(self.stream)", "pass"),
    (tensorrt, "self._copied.synchronize()", "pass"),
    (tensorrt, "self._idle.put(self._finish(started, outputs))", "self._finish(started, outputs)"),
    (tensorrt, "self._host[name][:batch], self.addresses[name]", "self._host[name][:1], self.addresses[name]"),
    (tensorrt, "tensor[...] = self._host[name][: len(tensor)]", "pass"),
    (tensorrt, "start + sum(sizes[:index])", "start"),
    (tensorrt, "= device.memory(sum(sizes))", "= device.memory(sizes[0])"),
    (tensorrt, "work = device.memory(plans.memory)", "work = device.memory(1)"),
    (tensorrt, "execute_async_v3(self._stream.handle)", "execute_async_v3(self._stream)"),
    (tensorrt, "execute_async_v3(self._stream.handle)", "execute_async_v2(self._stream.handle)"),
    (tensorrt, "closing.callback(run.close)", "pass"),
    (tensorrt, "closing.callback(plans.close)", "pass"),
    (tensorrt, "current.enter_context(self._device.current())", "pass"),
    (tensorrt, "self._device.close()", "pass"),
    (tensorrt, "device.open()", "pass"),
    (
        tensorrt,
        "            with self._device.current():\n                for",
        "            if True:\n                for",
    ),
    (tensorrt, '"f16" if', '"f32" if'),
    (tensorrt_plans, "ExecutionContextAllocationStrategy.USER_MANAGED", "ExecutionContextAllocationStrategy.STATIC"),
    (tensorrt_plans, "context.set_device_memory(memory, self.memory)", "pass"),
    (tensorrt_plans, "context.set_device_memory(memory, self.memory)", "context.device_memory = memory"),
    (tensorrt_plans, "set_device_memory(memory, self.memory)", "set_device_memory(memory)"),
    (tensorrt_plans, "set_device_memory(memory, self.memory)", "set_device_memory(memory, 0)"),
    (tensorrt_plans, "device_memory_size_v2", "device_memory_size"),
    (tensorrt_plans, "context.set_tensor_address(name, address)", "context.set_tensor_address(address, name)"),
    (tensorrt_plans, "context.set_input_shape(name,", "context.set_binding_shape(name,"),
    (tensorrt_plans, "_runtime.error_recorder = messages.recorder", "_runtime.error_recorder = messages"),
    (tensorrt_plans, "trt.Runtime(messages.logger)", "trt.Runtime(None)"),
    (tensorrt_plans, "deserialize_cuda_engine(data)", "deserialize_cuda_engine(path)"),
    (tensorrt_plans, "for name, address in addresses.items()]", "for name, address in ()]"),
    (tensorrt_plans, "max(int(engine", "min(int(engine"),
    (cuda_device, "Stream(_NON_BLOCKING_STREAM)", "Stream()"),
    (cuda_device, "flags.BLOCKING_SYNC | flags.DISABLE_TIMING", "flags.DISABLE_TIMING"),
    (cuda_device, "flags.BLOCKING_SYNC", "flags.BLOCKING"),
    (cuda_device, "self._driver.Context.pop()\n\n    def stream", "pass\n\n    def stream"),
    (cuda_device, "self._context.push()", "pass"),
    (cuda_device, "allocation.free()", "pass"),
    (cuda_device, "context.detach()", "pass"),
    (cuda_device, "thread.start()\n        thread.join()", "self._release(context, owned)"),
    (cuda_device, "memcpy_htod_async(address, array, stream)", "memcpy_htod_async(array, address, stream)"),
    (cuda_device, "memcpy_htod_async(address, array, stream)", "memcpy_htod_async(address, array)"),
    (cuda_device, "resource.base if", "resource if"),
    (cuda_graph, "MODE_THREAD_LOCAL", "MODE_GLOBAL"),
    (cuda_graph, "cuGraphInstantiate(graph, 0)", "cuGraphInstantiate(graph)"),
    (cuda_graph, "cuGraphLaunch(self._executable, self._stream)", "cuGraphLaunch(self._stream, self._executable)"),
    (cuda_graph, "self._driver.cuGraphExecDestroy(executable)", "pass"),
    (cuda_graph, "complete = enqueue()", "complete = True"),
]


class Impatient(queue.Queue[Any]):
    """A queue in which nobody waits long."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return super().get(block, 0.2)


def mutate(monkeypatch: pytest.MonkeyPatch, module: ModuleType, old: str, new: str) -> None:
    """Change one place of a module's text, in the module that everybody has imported."""
    fresh = importlib.import_module("mistakes").mutated(module, old, new)
    for name, value in vars(fresh).items():
        if not name.startswith("__"):
            for target in (tensorrt, tensorrt_plans, cuda_device, cuda_graph):
                if getattr(value, "__module__", None) == module.__name__ and hasattr(target, name):
                    monkeypatch.setattr(target, name, value)
    if module is tensorrt:
        # Whoever waits for a lane that never comes, is not to wait for ever.
        fresh.queue = SimpleNamespace(Empty=queue.Empty, SimpleQueue=Impatient)
        backend = importlib.import_module("ecea.runtime.backends").BACKENDS
        genuine = backend["tensorrt"]
        monkeypatch.setitem(backend, "tensorrt", type(genuine)(fresh.load, fresh.layer_times, genuine.require))


@pytest.mark.parametrize("world", ["graphs"], indirect=True)
@pytest.mark.parametrize("module", [tensorrt, tensorrt_plans, cuda_device, cuda_graph], ids=lambda m: m.__name__)
def test_the_modules_text_is_what_the_mutations_change(world: Any, module: ModuleType) -> None:
    mutate(world.monkeypatch, module, "import ", "import ")
    check_mutated(world)


def check_mutated(world: Any) -> None:
    """Three lives with graphs, two without."""
    world.check_life(0)
    for graphs in (True, False):
        for order in (1, 2):
            fresh = type(world)(world.trt, world.monkeypatch, world.path.parent)
            (fresh.with_graphs() if graphs else fresh.without_graphs()).check_life(order)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("world", ["graphs"], indirect=True)
@pytest.mark.parametrize(("module", "old", "new"), MISTAKES)
def test_a_mistake_shows(world: Any, module: ModuleType, old: str, new: str) -> None:
    mutate(world.monkeypatch, module, old, new)
    importlib.import_module("mistakes").check_shows(lambda: check_mutated(world))
    assert threading.active_count() < 50
