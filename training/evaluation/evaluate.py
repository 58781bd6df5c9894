"""How good methods are at filling gaps of scenes that are known."""

import functools
import operator
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ecea.runtime.errors import EceaError
from ecea.runtime.words import counted
from ecea.training.evaluation.gaps import GapSource, draw_gaps
from ecea.training.evaluation.methods import Case, Filled, Method
from ecea.training.evaluation.metrics import Comparison, Scores, Sums, published_levels
from ecea.training.evaluation.scenes import Unit, read_clean_scene
from ecea.training.evaluation.seams import Steps, StepSums, step_sums
from ecea.training.evaluation.widths import gap_widths, width_classes
from ecea.training.sources import Source


@dataclass(frozen=True)
class Outcome:
    """What one method came to.

    Attributes:
        gap: over gap pixels, in [0, 1] of each scene's stretch.
        widths: the same for each class of gap width.
        whole: over all valid pixels of the filled scene, gaps or not, in the 8 bits of the published application.
        generated: the same of what the generator makes of the whole image, valid pixels too, as the published
            application writes it; None where that was not asked for, and for baselines.
        steps: across the edges of gaps and inside them.
        pixels_left: gap pixels that were not filled.
        seconds: that filling took.
    """

    gap: Scores
    widths: dict[str, Scores]
    whole: Scores
    generated: Scores | None
    steps: Steps
    pixels_left: int
    seconds: float


@dataclass(frozen=True)
class MethodResult:
    """The outcome of a method on all scenes with gaps of one source."""

    gaps: str
    method: str
    cases: int
    outcome: Outcome


@dataclass(frozen=True)
class CaseResult:
    """The outcome of a method on one scene."""

    gaps: str
    method: str
    scene: str
    outcome: Outcome


@dataclass(frozen=True)
class MethodInfo:
    """A method that was evaluated; ``about`` says which bundle, engine and backend."""

    name: str
    is_baseline: bool
    about: Mapping[str, str]


@dataclass(frozen=True)
class Evaluation:
    """All that was measured.

    Attributes:
        methods: in the order given.
        gaps: labels of the sources, in the order given.
        results: for each source and method.
        clean_steps: source -> the steps of the clean scenes themselves, at the edges and inside of what was hidden:
            what a fill that nobody can find comes to.
        cases: for each scene, source and method.
        stretches: scene -> minimum, maximum and gamma.
    """

    methods: list[MethodInfo]
    gaps: list[str]
    results: list[MethodResult]
    clean_steps: dict[str, Steps]
    cases: list[CaseResult]
    stretches: dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class Tally:
    """What an outcome is computed from; tallies of several cases add up."""

    gap: Sums
    widths: dict[str, Sums]
    whole: Sums
    generated: Sums | None
    steps: StepSums
    left: int
    seconds: float

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.gap + other.gap,
            {name: sums + other.widths[name] for name, sums in self.widths.items()},
            self.whole + other.whole,
            None if self.generated is None or other.generated is None else self.generated + other.generated,
            self.steps + other.steps,
            self.left + other.left,
            self.seconds + other.seconds,
        )

    def outcome(self) -> Outcome:
        """The means."""
        return Outcome(
            self.gap.scores(),
            {name: sums.scores() for name, sums in self.widths.items()},
            self.whole.scores(),
            None if self.generated is None else self.generated.scores(),
            self.steps.steps(),
            self.left,
            self.seconds,
        )


_Summable = TypeVar("_Summable", Tally, StepSums)
Watch = Callable[[Case, dict[str, Unit], dict[str, Scores]], None]


def evaluate(
    scenes: Sequence[Source],
    sources: Sequence[GapSource],
    methods: Sequence[Method],
    *,
    seed: int = 0,
    watch: Watch | None = None,
    on_fill: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Hide parts of clean scenes, have each method fill them, and compare with what was hidden.

    Args:
        scenes: rasters that GDAL opens.
        sources: each gives gaps to each scene.
        methods: each fills each of these cases.
        seed: of the gaps.
        watch: called with each case, what each method made of it (as [0, 1]) and its scores over gap pixels.
        on_fill: called whenever a method has filled a case.

    Raises:
        RequestError: where a scene or a mask is not what is needed.
        EceaError: where a file cannot be read, a method fails, or it changes a pixel that is no gap.
    """
    tallies: defaultdict[tuple[str, str], list[Tally]] = defaultdict(list)
    clean: defaultdict[str, list[StepSums]] = defaultdict(list)
    cases: list[CaseResult] = []
    stretches = {}
    for raster in scenes:
        scene = read_clean_scene(raster)
        stretches[raster.label] = (scene.stretch.minimum, scene.stretch.maximum, scene.stretch.gamma)
        for source in sources:
            case = Case(scene, source.label, draw_gaps(source, scene, seed))
            clean[source.label].append(step_sums(case.truth, case.gap, scene.valid))
            fills: dict[str, Unit] = {}
            scores: dict[str, Scores] = {}
            for method in methods:
                filled, tally = _fill_and_compare(method, case)
                tallies[source.label, method.name].append(tally)
                cases.append(CaseResult(source.label, method.name, raster.label, tally.outcome()))
                fills[method.name], scores[method.name] = filled, cases[-1].outcome.gap
                on_fill()
            if watch is not None:
                watch(case, fills, scores)
    return Evaluation(
        methods=[MethodInfo(method.name, method.is_baseline, method.about) for method in methods],
        gaps=[source.label for source in sources],
        results=[
            MethodResult(gaps, method, len(several), _total(several).outcome())
            for (gaps, method), several in tallies.items()
        ],
        clean_steps={gaps: _total(several).steps() for gaps, several in clean.items()},
        cases=cases,
        stretches=stretches,
    )


def _total(several: list[_Summable]) -> _Summable:
    return functools.reduce(operator.add, several)


def _fill_and_compare(method: Method, case: Case) -> tuple[Unit, Tally]:
    start = time.perf_counter()
    result = method.fill(case)
    seconds = time.perf_counter() - start
    _check_untouched(method, case, result)
    filled = case.scene.to_unit(result.values)
    tally = compare(case, filled)
    generated = method.generate(case)
    if generated is not None:
        whole = Comparison(published_levels(case.truth), generated).over(case.scene.valid)
        tally = replace(tally, generated=whole)
    return filled, replace(tally, left=result.left, seconds=seconds)


def compare(case: Case, filled: Unit) -> Tally:
    """Compare what a method made of a case, (3, H, W) in [0, 1], with the truth."""
    valid, gap = case.scene.valid, case.gap
    errors = Comparison(case.truth, filled)
    classes = width_classes(gap_widths(gap | ~valid))
    return Tally(
        gap=errors.over(gap),
        widths={name: errors.over(where & gap) for name, where in classes.items()},
        whole=Comparison(published_levels(case.truth), published_levels(filled)).over(valid),
        generated=None,
        steps=step_sums(filled, gap, valid),
        left=0,
        seconds=0.0,
    )


def _check_untouched(method: Method, case: Case, result: Filled) -> None:
    """Whatever is no gap must come back bit for bit."""
    before, after = case.holed[:, ~case.gap], result.values[:, ~case.gap]
    if before.tobytes() != after.tobytes():
        changed = int(np.count_nonzero((before != after).any(axis=0)))
        raise EceaError(
            f"{case.scene.path}: {method.name} changed {counted(changed, 'pixel')} outside gaps, expected none: this "
            "is an error of the method, so report it"
        )
