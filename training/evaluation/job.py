"""What ``ecea-evaluate`` was asked for, and doing it."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ecea.runtime.command import imports, say_json
from ecea.runtime.engine import open_engine
from ecea.runtime.errors import RequestError
from ecea.runtime.stretch import Stretch
from ecea.runtime.writer import check_destination, written_whole
from ecea.training.evaluation.baselines import BASELINES
from ecea.training.evaluation.evaluate import Evaluation, evaluate
from ecea.training.evaluation.gaps import GapSource, OwnMasks, mask_source, stripes
from ecea.training.evaluation.inputs import check_outputs_apart, rasters_read
from ecea.training.evaluation.methods import BaselineMethod, GeneratorMethod, Method
from ecea.training.evaluation.report import evaluation_json
from ecea.training.evaluation.scenes import find_rasters
from ecea.training.evaluation.sheet import ContactSheet
from ecea.training.evaluation.tables import markdown, print_tables, tables
from ecea.training.folds import held_out_scenes
from ecea.training.sources import LIST_SUFFIX, Source, find_sources

ALL = "all"
FORMATS = (".json", ".md")
ENGINE, BACKEND = "fp32", "auto"
"""Of bundles, where nothing else is asked for."""


@dataclass(frozen=True)
class Job:
    """The options of ``ecea-evaluate``, in its own words (``ecea-evaluate -h``)."""

    scenes: Sequence[Path]
    bundles: Sequence[Path]
    checkpoints: Sequence[Path]
    baselines: Sequence[str]
    masks: Sequence[Path]
    stripes: Sequence[int]
    seed: int
    folds: int | None
    fold: int | None
    group: str
    bands: Sequence[int]
    stretch: Stretch | None
    engine: str
    backend: str
    num_heads: Sequence[int] | None
    threads: int | None
    published: bool
    outputs: Sequence[Path]
    sheet: Path | None

    @property
    def written(self) -> list[Path]:
        """Every file that is to be written."""
        return [*self.outputs, *([self.sheet] if self.sheet is not None else [])]

    @property
    def settings(self) -> dict[str, object]:
        """What the figures depend on, beside the scenes and the methods, for the record."""
        given = self.stretch
        return {
            "bands": list(self.bands),
            "stretch": None if given is None else [given.minimum, given.maximum, given.gamma],
            "seed": self.seed,
            "folds": self.folds,
            "fold": self.fold,
            "group": self.group,
        }


def run(job: Job, *, as_json: bool) -> None:
    """Evaluate, write what is to be written, and print tables, or JSON instead.

    Raises:
        RequestError: where an option, a scene, a mask, a bundle or a checkpoint is not what is needed.
        EceaError: where the work fails. Nothing is written in either case.
    """
    _check_outputs(job)
    _check_options_used(job)
    scenes = _scenes(job)
    rasters = rasters_read(scenes, job.masks, own=not (job.masks or job.stripes))
    lists = [path for path in job.scenes if _is_list(path)]
    check_outputs_apart(job.written, rasters, [*lists, *job.checkpoints, *job.bundles])
    sources = _sources(job)
    with ExitStack() as stack:
        methods = _methods(job, stack)
        sheet = ContactSheet([scene.label for scene in scenes], [source.label for source in sources])
        with _progress(len(scenes) * len(sources) * len(methods)) as on_fill:
            done = evaluate(
                scenes,
                sources,
                methods,
                seed=job.seed,
                watch=sheet.watch if job.sheet else None,
                on_fill=on_fill,
            )
    _write(job, done, sheet)
    if as_json:
        say_json(evaluation_json(done, job.settings).removesuffix("\n"))
    else:
        print_tables(tables(done))


def _check_outputs(job: Job) -> None:
    for path in job.outputs:
        check_destination(path, *FORMATS)
    if job.sheet is not None:
        check_destination(job.sheet, ".png")


def _check_options_used(job: Job) -> None:
    """Refuse options of what is not evaluated."""
    networks = job.bundles or job.checkpoints or not job.baselines
    if (job.engine, job.backend) != (ENGINE, BACKEND) and not job.bundles and (job.checkpoints or job.baselines):
        raise RequestError("--engine and --backend are for bundles, and none is named: name one, or leave them out")
    if job.num_heads is not None and not job.checkpoints:
        raise RequestError("--num-heads is for checkpoints, and none is named: name one, or leave it out")
    if job.published and not networks:
        raise RequestError(
            "--published measures what networks draw, and baselines alone are named: name a network, or leave it out"
        )


def _scenes(job: Job) -> list[Source]:
    """The rasters that are named, those in folders and in lists; of a fold, those that training holds out."""
    lists = [path for path in job.scenes if _is_list(path)]
    files = find_rasters([path for path in job.scenes if path not in lists], "scenes")
    found = find_sources(
        [str(path) for path in [*files, *lists]], bands=tuple(job.bands), stretch=job.stretch, group=job.group
    )
    labels = [source.label for source in found]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise RequestError(f"{twice[0]}: is named twice, and results go by path and bands: name it once")
    held_out = held_out_scenes((source.scene for source in found), job.folds, job.fold)
    return [source for source in found if source.scene in held_out] if held_out else found


def _is_list(path: Path) -> bool:
    return path.suffix.lower() == LIST_SUFFIX


def _sources(job: Job) -> list[GapSource]:
    sources: list[GapSource] = [*stripes(job.stripes), *(mask_source(path) for path in job.masks)]
    labels = [source.label for source in sources]
    for label in labels:
        if labels.count(label) > 1:
            raise RequestError(f"{labels.count(label)} masks are named '{label}': give them different names")
    return sources or [OwnMasks()]


def _methods(job: Job, stack: ExitStack) -> list[Method]:
    """Open what is to be evaluated; ``stack`` closes it."""
    named = list(dict.fromkeys(BASELINES if ALL in job.baselines else job.baselines))
    for name in named:
        if name not in BASELINES:
            raise RequestError(f"baseline '{name}' is unknown: expected {ALL} or one of {', '.join(BASELINES)}")
    methods: list[Method] = [BaselineMethod(name) for name in named]
    # Without any method named, the bundle that ecea-run would take.
    nothing_named = not (job.bundles or job.checkpoints or named)
    for path in [None] if nothing_named else job.bundles:
        engine = open_engine(path, engine=job.engine, backend=job.backend, threads=job.threads)
        stack.enter_context(engine)
        name = f"{engine.bundle.path.name} {engine.engine}"
        methods.append(GeneratorMethod(engine, name, published=job.published))
    methods += [_checkpoint(job, path, stack) for path in job.checkpoints]
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(f"{names.count(name)} methods are named '{name}': rename one, or evaluate them apart")
    return methods


def _checkpoint(job: Job, path: Path, stack: ExitStack) -> Method:
    with imports(f"{path}: evaluating a checkpoint needs torch", extra="train"):
        from ecea.training.evaluation.checkpoint import open_checkpoint
    engine = stack.enter_context(open_checkpoint(path, num_heads=job.num_heads, threads=job.threads))
    return GeneratorMethod(engine, path.name, published=job.published)


def _write(job: Job, done: Evaluation, sheet: ContactSheet) -> None:
    with ExitStack() as whole:  # none is put in place before all are written
        for path in job.outputs:
            text = evaluation_json(done, job.settings) if path.suffix.lower() == ".json" else markdown(tables(done))
            whole.enter_context(written_whole(path)).write_text(text, encoding="utf-8")
        if job.sheet is not None:
            sheet.write(job.sheet, [method.name for method in done.methods])


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, where that is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda: None
        return
    columns = (TextColumn("filled"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
