"""A page for people: what was filled, how, and what it looks like before and after."""

import base64
import dataclasses
import html
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ecea.runtime.engine import by_reason
from ecea.runtime.filling import Result
from ecea.runtime.picture import before_after
from ecea.runtime.stretch import Stretch
from ecea.runtime.writer import check_destination, written_whole

SUFFIX = ".html"

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>ECEA: filled scenes</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }}
h2 {{ margin-top: 2.5rem; overflow-wrap: anywhere }}
img {{ width: 100%; border: 1px solid #ccc }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
td {{ border-bottom: 1px solid #ddd; padding: .2rem 1.5rem .2rem 0; vertical-align: top; overflow-wrap: anywhere }}
td:first-child {{ color: #666; white-space: nowrap }}
</style></head><body>
<h1>Filled scenes</h1>
<p>Filled pixels are the generator's guess, not measurements. Every other pixel is that of the scene, bit for bit.</p>
{sections}
</body></html>
"""


def write_report(path: Path, results: Iterable[Result], errors: Iterable[Mapping[str, str]] = ()) -> None:
    """Write one self-contained HTML page, pictures included, whole or not at all.

    Args:
        path: of the page; replaced if it exists.
        results: of the scenes that were filled.
        errors: of those that were not, each with ``source`` and ``message``.

    Raises:
        RequestError: where there is no place for the page, or its name is not a page's.
        EceaError: where a scene can no longer be read or the page not be written.
    """
    check_destination(path, SUFFIX)
    sections = "\n".join([*map(_section, results), *map(_failure, errors)])
    with written_whole(path) as temporary:
        temporary.write_text(_PAGE.format(sections=sections), encoding="utf-8", errors="backslashreplace")


def _section(result: Result) -> str:
    rows = "\n".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>" for name, text in _facts(result)
    )
    return (
        f"<h2>{html.escape(Path(result.destination).name)}</h2>\n"
        f'<img alt="before and after" src="data:image/png;base64,{_picture(result)}">\n'
        f"<table>\n{rows}\n</table>"
    )


def _failure(error: Mapping[str, str]) -> str:
    return f"<h2>{html.escape(error['source'])}</h2>\n<p><b>Not filled.</b> {html.escape(error['message'])}</p>"


def _facts(result: Result) -> list[tuple[str, str]]:
    facts = dataclasses.asdict(result)
    facts["seconds"] = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in result.seconds.items())
    facts["stretch"] = str(Stretch(*result.stretch))
    facts["bands"] = ",".join(map(str, result.bands))
    facts["passed_over"] = "; ".join(f"{names}: {why}" for names, why in by_reason(result.passed_over)) or "none"
    return [
        (name.replace("_", " "), f"{fact:,}" if isinstance(fact, int) else str(fact)) for name, fact in facts.items()
    ]


def _picture(result: Result) -> str:
    red, green, blue = result.bands
    with tempfile.TemporaryDirectory() as folder:
        png = Path(folder) / "before_after.png"
        before_after(result.source, result.destination, png, bands=(red, green, blue))
        return base64.b64encode(png.read_bytes()).decode("ascii")
