"""Results as tables: on a terminal, and in Markdown."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table as RichTable
from rich.text import Text

from ecea.runtime.command import say, say_table
from ecea.training.evaluation.evaluate import Evaluation, MethodResult
from ecea.training.evaluation.metrics import Scores
from ecea.training.evaluation.seams import Steps

NOTHING = "-"
CLEAN = "(clean scene)"

_GAP_HEADERS = ("gaps", "method", "PSNR dB", "over best baseline", "SSIM", "MAPE %", "RMSE", "edge step", "inside step")
_WHOLE_HEADERS = ("gaps", "method", "PSNR dB", "SSIM", "MAPE %", "RMSE", "px left", "seconds")
_GENERATED = "generated: PSNR dB, SSIM, MAPE %"


@dataclass(frozen=True)
class Table:
    """Text in rows and columns; the first two columns are names, the others numbers."""

    title: str
    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]


def tables(evaluation: Evaluation) -> list[Table]:
    """Over gap pixels, by gap width, and over whole images."""
    return [_gap_table(evaluation), _width_table(evaluation), _whole_table(evaluation)]


def print_tables(several: Iterable[Table]) -> None:
    """Print tables on stdout."""
    for table in several:
        rich = RichTable(box=None, pad_edge=False, title=table.title, title_justify="left", title_style="bold")
        for index, header in enumerate(table.headers):
            rich.add_column(header, justify="left" if index < 2 else "right")
        for row in table.rows:
            rich.add_row(*map(Text, row))  # as they are: in a string [] would be markup
        say_table(rich, width=160)
        say("")


def markdown(several: Iterable[Table]) -> str:
    """The tables in Markdown."""
    return "\n\n".join(_markdown(table) for table in several) + "\n"


def best_baseline(evaluation: Evaluation, gaps: str) -> MethodResult | None:
    """The baseline of the highest PSNR over the gap pixels of a source; None where none was evaluated."""
    baselines = {method.name for method in evaluation.methods if method.is_baseline}
    candidates = [result for result in evaluation.results if result.gaps == gaps and result.method in baselines]
    return max(candidates, key=lambda result: _psnr(result.outcome.gap), default=None)


def _gap_table(evaluation: Evaluation) -> Table:
    rows = []
    for gaps in evaluation.gaps:
        best = best_baseline(evaluation, gaps)
        for result in _results(evaluation, gaps):
            scores = result.outcome.gap
            own = any(method.name == result.method and not method.is_baseline for method in evaluation.methods)
            above = _signed(_psnr(scores) - _psnr(best.outcome.gap)) if own and best else NOTHING
            psnr, *others = _score_cells(scores)
            rows.append((gaps, result.method, psnr, above, *others, *_step_cells(result.outcome.steps)))
        rows.append((gaps, CLEAN, *[NOTHING] * 5, *_step_cells(evaluation.clean_steps[gaps])))
    return Table("Over gap pixels", _GAP_HEADERS, _without_repeats(rows))


def _width_table(evaluation: Evaluation) -> Table:
    names = list(evaluation.results[0].outcome.widths)
    present = [name for name in names if any(result.outcome.widths[name].pixels for result in evaluation.results)]
    rows = [
        (gaps, result.method, *(_psnr_ssim(result.outcome.widths[name]) for name in present))
        for gaps in evaluation.gaps
        for result in _results(evaluation, gaps)
    ]
    headers = ("gaps", "method", *(f"{name} px" for name in present))
    return Table("By gap width: PSNR dB (SSIM) over gap pixels", headers, _without_repeats(rows))


def _whole_table(evaluation: Evaluation) -> Table:
    with_generated = any(result.outcome.generated for result in evaluation.results)
    rows: list[tuple[str, ...]] = []
    for gaps in evaluation.gaps:
        for result in _results(evaluation, gaps):
            outcome = result.outcome
            work = (f"{outcome.pixels_left:,}", f"{outcome.seconds:.1f}")
            generated = ", ".join(_score_cells(outcome.generated)[:3]) if outcome.generated else NOTHING
            last = (generated,) if with_generated else ()
            rows.append((gaps, result.method, *_score_cells(outcome.whole), *work, *last))
    headers = (*_WHOLE_HEADERS, _GENERATED) if with_generated else _WHOLE_HEADERS
    return Table("Over whole images, in 8 bits", headers, _without_repeats(rows))


def _results(evaluation: Evaluation, gaps: str) -> list[MethodResult]:
    return [result for result in evaluation.results if result.gaps == gaps]


def _psnr(scores: Scores) -> float:
    return -math.inf if scores.psnr_db is None else scores.psnr_db


def _score_cells(scores: Scores) -> tuple[str, str, str, str]:
    return (
        _number(scores.psnr_db, ".2f"),
        _number(scores.ssim, ".4f"),
        _number(scores.mape_percent, ".2f"),
        _number(scores.rmse, ".4f"),
    )


def _step_cells(steps: Steps) -> tuple[str, str]:
    return _number(steps.edge, ".2f"), _number(steps.inside, ".2f")


def _psnr_ssim(scores: Scores) -> str:
    return f"{scores.psnr_db:.2f} ({scores.ssim:.3f})" if scores.pixels else NOTHING


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def _signed(decibels: float) -> str:
    return NOTHING if math.isnan(decibels) else f"{decibels:+.2f}"


def _without_repeats(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Name the gaps in the first of their rows alone."""
    before = ["", *(row[0] for row in rows)]
    return [("" if row[0] == above else row[0], *row[1:]) for above, row in zip(before, rows, strict=False)]


def _markdown(table: Table) -> str:
    ruler = ["---", "---", *["--:"] * (len(table.headers) - 2)]
    lines = [table.headers, ruler, *table.rows]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"**{table.title}**\n\n{body}"
