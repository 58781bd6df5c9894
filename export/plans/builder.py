"""Building one plan: an ONNX file, a batch size and a GPU go in, a plan that has been looked into comes out."""

from dataclasses import dataclass
from typing import Any

from triton.errors import TritonError

from ecea.export.folder import in_temporary_folder
from ecea.export.plans.inspection import Inspection, inspect_plan
from ecea.export.plans.machine import Machine
from ecea.export.plans.network import Network, offered_sha256
from ecea.export.plans.timing import cache_file, read_timings, write_timings
from ecea.export.say import Say, timed
from ecea.kernels.plugin import Failures, PluginError, register
from ecea.runtime.backends.tensorrt_library import Messages, interrupts_held
from ecea.runtime.errors import EceaError

# Of the device memory that is free: the rest is for the weights, of which a build holds more than one copy.
WORKSPACE_SHARE = 0.5

# TensorRT's own default. One more takes minutes longer, the highest can take an hour.
OPTIMIZATION_LEVEL = 3

# Networks are in half precision but for their norms. A plan with less than this is not what was asked for.
LEAST_HALF_LAYERS = 0.2


class PlanError(EceaError):
    """TensorRT made no plan, or not the one that was asked for."""


@dataclass(frozen=True)
class Plan:
    """A plan.

    Attributes:
        data: what is written into a file.
        inspection: what is in it.
        plugin_sha256: hash of the PTX that the plugin offered; None without the plugin.
    """

    data: Any
    inspection: Inspection
    plugin_sha256: str | None


@interrupts_held()
def build_plan(machine: Machine, network: Network, name: str, engine: str, say: Say) -> Plan:
    """Build a plan for one batch size, and look into it.

    Args:
        machine: TensorRT and the GPU.
        network: what to build; with the plugin where it names attention to compute.
        name: of the plan, for messages.
        engine: the precision that was asked for: ``fp32``, ``fp16`` or ``int8``.
        say: told each phase and what it took.

    Raises:
        PlanError: with what TensorRT, Triton or the plugin said.
        EceaError: where no temporary files can be written.
    """
    messages = Messages(machine.trt, every_error_ends=False)  # TensorRT knows best whether it can go on
    failures, sha256 = _plugin(machine, network, name)
    try:
        data = Build(machine, network, name, messages).run(cache_file(machine, sha256), say)
    except PlanError:
        _reraise(failures, name)  # what the plugin raised is the cause, TensorRT knows the consequence
        raise
    _reraise(failures, name)
    messages.clear()  # of kernels that failed and that the plan does without
    try:
        inspection = inspect_plan(machine.trt, data, messages)
    except ValueError as error:
        raise _failure(name, str(error), messages) from error
    _check(inspection, network, name, engine)
    return Plan(data, inspection, sha256)


def _plugin(machine: Machine, network: Network, name: str) -> tuple[Failures | None, str | None]:
    """Register the plugin where the network needs it, whose kernels are compiled here and known from then on."""
    if not network.attention:
        return None, None
    architecture = machine.gpu.architecture
    try:
        with in_temporary_folder("Triton"):
            return register(architecture), offered_sha256(network.attention, architecture)
    except (ValueError, RuntimeError, TritonError) as error:  # of ours; of LLVM beneath Triton; of Triton
        said = " ".join(str(error).split())
        raise PlanError(f"{name}: the attention kernel cannot be compiled: {said}") from error


def _reraise(failures: Failures | None, name: str) -> None:
    if failures is None:
        return
    try:
        failures.reraise()
    except PluginError as error:
        raise PlanError(f"{name}: {error}") from error


class Build:
    """One run of TensorRT's builder, for :func:`build_plan`; its objects live as long as this.

    Raises:
        PlanError: from every method, with what TensorRT said.
    """

    def __init__(self, machine: Machine, network: Network, name: str, messages: Messages) -> None:
        self._machine = machine
        self._trt = machine.trt
        self._network = network
        self._name = name
        self._messages = messages
        self._free: int | None = None

    def run(self, cache: Any, say: Say) -> Any:
        """Parse and build; the plan's bytes."""
        builder = self.start()
        with timed(say, f"plan        {self._name}: parsed"):
            definition = self.parse(builder)
        config = self._configure(builder)
        self._attach_timings(config, read_timings(cache))
        with timed(say, f"plan        {self._name}: kernels chosen"):
            plan = builder.build_serialized_network(definition, config)
        if plan is None:
            raise self._failed("TensorRT builds no plan")
        write_timings(cache, bytes(memoryview(config.get_timing_cache().serialize())))
        return plan

    def start(self) -> Any:
        """TensorRT's builder."""
        try:
            builder = self._trt.Builder(self._messages.logger)
        except TypeError as error:  # what the bindings make of a null pointer
            raise self._failed("TensorRT's builder does not start") from error
        builder.error_recorder = self._messages.recorder
        return builder

    def parse(self, builder: Any) -> Any:
        """TensorRT's definition of the network, in which every attention is a plugin that should be one."""
        trt = self._trt
        flag = int(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS)
        definition = builder.create_network(1 << flag)
        parser = trt.OnnxParser(definition, self._messages.logger)
        # The path is for the weights, which lie in a file beside it.
        if not parser.parse(self._network.data, str(self._network.path)):
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            told = "; ".join(f"node '{e.node_name()}' ({e.node_operator()}): {e.desc()}" for e in errors[:3])
            raise PlanError(
                f"{self._name}: TensorRT's parser does not take {self._network.path.name}: "
                f"{told or self._messages.first_and_last()}"
            )
        layers = (definition.get_layer(index) for index in range(definition.num_layers))
        found, wanted = sum(layer.type == trt.LayerType.PLUGIN_V3 for layer in layers), len(self._network.attention)
        if found != wanted:
            raise PlanError(
                f"{self._name}: TensorRT's parser took {found} nodes of {self._network.path.name} for plugins, "
                f"expected {wanted}, its attention"
            )
        return definition

    def _configure(self, builder: Any) -> Any:
        trt, config = self._trt, builder.create_builder_config()
        self._free = self._machine.free_bytes()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(self._free * WORKSPACE_SHARE))
        config.builder_optimization_level = OPTIMIZATION_LEVEL
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the inspector tells no types
        config.clear_flag(trt.BuilderFlag.TF32)  # FP32 is FP32
        return config

    def _attach_timings(self, config: Any, stored: bytes) -> None:
        """Give the builder the timings of earlier builds; those that TensorRT does not take are left out."""
        cache = config.create_timing_cache(stored)
        if cache is not None and config.set_timing_cache(cache, False):
            return
        self._messages.clear()
        if not config.set_timing_cache(config.create_timing_cache(b""), False):
            raise self._failed("TensorRT takes no timing cache")

    def _failed(self, what: str) -> PlanError:
        return _failure(self._name, what, self._messages, self._free)


def _failure(name: str, what: str, messages: Messages, free: int | None = None) -> PlanError:
    """What failed and why; where memory ran out, which is what most kernels fail of, what a user can do."""
    told = messages.first_and_last()
    if messages.out_of_memory:
        were_free = f", of which {free / 1e6:.0f} MB were free," if free is not None else ""
        return PlanError(
            f"{name}: {what} ({told}), and the GPU's memory{were_free} ran out meanwhile: end what else runs on the "
            "GPU, or build for smaller batches with --batch"
        )
    return PlanError(f"{name}: {what} ({told}): please report this")


def _check(inspection: Inspection, network: Network, name: str, engine: str) -> None:
    """Raise PlanError unless a plan is in the precision asked for and holds the plugin."""
    share = inspection.half_layers + (inspection.int8_layers if engine == "int8" else 0.0)
    if engine != "fp32" and share < LEAST_HALF_LAYERS:
        raise PlanError(
            f"{name}: {inspection.half_layers:.0%} of its {inspection.layers} layers are in half precision, expected "
            f"at least {LEAST_HALF_LAYERS:.0%} of an {engine} plan: please report this"
        )
    if engine == "int8" and not inspection.int8_layers:
        raise PlanError(f"{name}: none of its {inspection.layers} layers are in INT8: please report this")
    if inspection.plugin_layers < len(network.attention):
        raise PlanError(
            f"{name}: holds {inspection.plugin_layers} plugin layers, expected {len(network.attention)}, one for each "
            "attention: please report this"
        )
