"""Opening an engine of a bundle on a backend of this machine."""

import os
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from ecea.runtime.backends import BACKENDS, Session, automatic_order
from ecea.runtime.backends.batch import default_batch
from ecea.runtime.backends.layers import LayerTime
from ecea.runtime.backends.settings import Settings
from ecea.runtime.bundle import Bundle, EngineRecord, check_files, check_sizes, find_bundle, read_bundle
from ecea.runtime.cache import cache_folder
from ecea.runtime.errors import BackendUnavailable, EceaError, RequestError
from ecea.runtime.words import counted

ENGINES = ("fp32", "fp16", "int8")

Tensor = npt.NDArray[np.float32]


class Engine:
    """A generator that is loaded and ready; made by :func:`open_engine`, closed by its ``with`` block.

    Attributes:
        bundle: the bundle that it came from.
        found: why that bundle: ``named``, ``$ECEA_BUNDLE``, or what else.
        engine: the precision, ``fp32``, ``fp16`` or ``int8``.
        backend: what runs it.
        arithmetic: what it computes in, but for layers that are quantized: ``f32``, ``bf16`` or ``f16``.
        threads: on how many threads it computes.
        streams: how many tiles of a batch it computes at once.
        batch: how many tiles a stream is best given at once.
        passed_over: for ``auto``, backend -> why it was not taken.
    """

    def __init__(
        self,
        session: Session,
        *,
        bundle: Bundle,
        found: str,
        engine: str,
        backend: str,
        threads: int = 1,
        streams: int = 1,
        batch: int = 1,
        passed_over: dict[str, str] | None = None,
    ) -> None:
        self._session: Session | None = session
        self._workers = ThreadPoolExecutor(streams, thread_name_prefix="stream")
        self.bundle = bundle
        self.found = found
        self.engine = engine
        self.backend = backend
        self.arithmetic = session.arithmetic
        self.threads = threads
        self.streams = streams
        self.batch = batch
        self.passed_over = passed_over or {}

    @property
    def tile_size(self) -> int:
        """Side S of the tiles that this engine takes, in pixels."""
        return self.bundle.tile_size

    def infer(self, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Inpaint a batch of tiles.

        Args:
            image: (B, 3, S, S) float32, [0, 1], 0 where missing.
            edge: (B, 1, S, S) float32, [0, 1].
            mask: (B, 1, S, S) float32, 1 where missing, else 0.

        Returns:
            The image (B, 3, S, S) and its edge map (B, 1, S, S), float32, values in (0, 0.7616); the image of a
            refining generator (:mod:`ecea.model.refinement`) in [0, 1].

        Raises:
            RequestError: where a shape or dtype is not as above.
            EceaError: where the engine is closed, the backend fails, or what it gives is not finite.
        """
        self._check(image, edge, mask)
        parts = min(self.streams, len(image))
        inputs = (np.array_split(x, parts) for x in (image, edge, mask))
        started = [self.submit(*part) for part in zip(*inputs, strict=True)]
        outs, out_edges = zip(*(self.result(future) for future in started), strict=True)
        return np.concatenate(outs), np.concatenate(out_edges)

    def submit(self, image: Tensor, edge: Tensor, mask: Tensor) -> Future[tuple[Tensor, Tensor]]:
        """Start to inpaint a batch of tiles on one stream; ``submit(...).result()`` is what :meth:`infer` gives.

        Batches run in the order in which they are submitted, as many at once as there are streams.

        Raises:
            RequestError: as :meth:`infer`, at once; what else may go wrong is raised by the result.
        """
        session = self._check(image, edge, mask)
        try:
            return self._workers.submit(self._run, session, image, edge, mask)
        except RuntimeError as error:  # closed just now, by another thread
            raise self._closed() from error

    def result(self, started: Future[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Wait for what :meth:`submit` has started.

        Raises:
            EceaError: as :meth:`infer`; also where the engine was closed before the batch had begun.
        """
        try:
            return started.result()
        except CancelledError as error:
            raise self._closed() from error

    def _closed(self) -> EceaError:
        return EceaError(f"{self.bundle.path}: the engine is closed: open it again")

    def _check(self, image: Tensor, edge: Tensor, mask: Tensor) -> Session:
        """The session, if it can be given these."""
        if self._session is None:
            raise self._closed()
        size, batch = self.tile_size, len(image)
        for name, tensor, channels in (("image", image, 3), ("edge", edge, 1), ("mask", mask, 1)):
            if tensor.shape != (batch, channels, size, size) or tensor.dtype != np.float32 or batch < 1:
                raise RequestError(
                    f"'{name}' is {tensor.dtype} of shape {tensor.shape}, expected float32 of shape "
                    f"({batch or 'B'}, {channels}, {size}, {size})"
                )
        return self._session

    def _run(self, session: Session, image: Tensor, edge: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        try:
            out, out_edge = session.infer(image, edge, mask)
        except Exception as error:  # the backends' exceptions share no base class
            raise EceaError(f"{self.bundle.path}: {self.backend} failed on a batch of {len(image)}: {error}") from error
        if not (np.isfinite(out).all() and np.isfinite(out_edge).all()):
            raise EceaError(
                f"{self.bundle.path}: the {self.engine} engine gave values that are not finite on {self.backend}, "
                "expected 0 to 1: choose another with --engine or --backend"
            )
        return out, out_edge

    def layer_times(self, image: Tensor, edge: Tensor, mask: Tensor) -> list[LayerTime]:
        """Time each operator of the model on a batch as :meth:`infer` takes it; the model is loaded once more."""
        record = self.bundle.record(self.engine, self.backend)
        if record is None:
            raise EceaError(f"{self.bundle.path}: holds no {self.engine} engine for {self.backend}")
        model = check_files(self.bundle, record)
        settings = _settings(self.bundle, record, self.threads, streams=1)
        return BACKENDS[self.backend].layer_times(model, settings, (image, edge, mask))

    def close(self) -> None:
        """Release the engine, once what runs has ended; what has not begun is cancelled. Closing twice is harmless."""
        session, self._session = self._session, None  # from here on, nothing more is taken
        self._workers.shutdown(cancel_futures=True)
        if session is not None:
            session.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_engine(
    bundle: str | os.PathLike[str] | None = None,
    *,
    engine: str = "fp32",
    backend: str = "auto",
    threads: int | None = None,
    streams: int = 1,
) -> Engine:
    """Open an engine.

    What the backend compiles is kept for the next start (:mod:`ecea.runtime.cache`).

    Args:
        bundle: path of the bundle; None looks it up as the commands do (:func:`ecea.runtime.bundle.find_bundle`).
        engine: ``fp32``, ``fp16`` or ``int8``.
        backend: ``tensorrt``, ``cuda``, ``openvino`` or ``cpu``; ``auto`` takes the first of them that loads. A backend
            named never falls back.
        threads: threads that the backend computes on; None: the processors that this process may use.
        streams: batches that are under way at once. OpenVINO computes each on its share of the threads: one gives the
            shortest wait for a tile, several the most tiles a second. A GPU computes one after another, and copies the
            next meanwhile.

    Raises:
        RequestError: where there is no such bundle, engine or backend, or a file of the bundle is damaged.
        EceaError: where the backend fails to load a sound file.
    """
    if engine not in ENGINES:
        raise RequestError(f"engine '{engine}' is unknown: expected one of {', '.join(ENGINES)}")
    if backend != "auto" and backend not in BACKENDS:
        raise RequestError(f"backend '{backend}' is unknown: expected auto or one of {', '.join(BACKENDS)}")
    path, found = find_bundle(bundle)
    contents = read_bundle(path)
    if not contents.engines:
        raise RequestError(f"{path}: holds no engine at all, expected one or more: export the bundle again")
    if engine not in contents.engine_names:
        raise RequestError(
            f"{path}: holds no {engine} engine, only {', '.join(contents.engine_names)}: choose one of these, or "
            f"export it with 'ecea-export CHECKPOINT --engine {engine}'"
        )
    threads = usable_processors() if threads is None else threads
    if threads < 1:
        raise RequestError(f"{threads} threads are impossible: expected 1 or more")
    if not 1 <= streams <= threads:
        raise RequestError(
            f"{counted(streams, 'stream')} cannot share {counted(threads, 'thread')}: expected 1 to {threads}"
        )
    passed_over: dict[str, str] = {}
    for name in automatic_order(engine) if backend == "auto" else (backend,):
        try:
            record, session = _load(contents, engine, name, threads, streams)
        except RequestError:
            raise
        except EceaError as error:
            if backend != "auto" and not isinstance(error, BackendUnavailable):
                raise
            passed_over[name] = str(error)
            continue
        return Engine(
            session,
            bundle=contents,
            found=found,
            engine=engine,
            backend=name,
            threads=threads,
            streams=streams,
            batch=default_batch(name, record, contents.tile_size, streams),
            passed_over=passed_over,
        )
    if backend != "auto":
        raise RequestError(
            f"{path}: the backend '{backend}' that was named cannot run {engine} here ({passed_over[backend]}): name "
            "another with --backend, or auto"
        )
    reasons = "; ".join(f"{names}: {why}" for names, why in by_reason(passed_over))
    others = [name for name in contents.engine_names if name != engine]
    advice = f"choose {' or '.join(others)} with --engine" if others else "export the bundle again on this machine"
    raise RequestError(f"{path}: no backend can run {engine} here ({reasons}): {advice}")


def by_reason(passed_over: dict[str, str]) -> list[tuple[str, str]]:
    """Put backends together that were passed over for one reason: their names, joined by "and", and why."""
    reasons = dict.fromkeys(passed_over.values())
    return [(" and ".join(name for name in passed_over if passed_over[name] == why), why) for why in reasons]


def usable_processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _settings(bundle: Bundle, record: EngineRecord, threads: int, streams: int) -> Settings:
    # Time and size do not tell bundles apart whose files were all given the same date, as packagers do.
    content = " ".join(file.sha256 for file in record.files)
    verify = partial(check_files, bundle, record)
    return Settings(threads, streams, record.arithmetic, cache_folder(), content, verify, record.engine, record.plan)


def _load(bundle: Bundle, engine: str, backend: str, threads: int, streams: int) -> tuple[EngineRecord, Session]:
    """The engine in the form that a backend runs, loaded.

    Raises:
        BackendUnavailable: where the backend is not for this machine, engine or bundle.
    """
    record = bundle.record(engine, backend)
    if record is None:  # wherever it is run: another machine does not help
        raise BackendUnavailable(f"the bundle holds no {engine} engine for it")
    BACKENDS[backend].require(engine)  # before files are hashed: a machine without a GPU is not to wait for that
    # Half a gigabyte takes a third of a second to hash, so what is not read is not: see Backend.verifies.
    check = check_sizes if BACKENDS[backend].verifies else check_files
    model: Path = check(bundle, record)
    return record, BACKENDS[backend].load(model, _settings(bundle, record, threads, streams))
