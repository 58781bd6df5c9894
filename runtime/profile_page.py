"""The profile as a page: figures in tables, operators as bars."""

import html
from collections.abc import Iterable, Sequence

from ecea.runtime.profiling import PERCENTILES, Profile, by_kind
from ecea.runtime.words import counted

_SLOWEST = 25  # operators listed by name
_BAR = 420  # px of the longest bar

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>ECEA: profile</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; margin: .5rem 0 1.5rem }}
td, th {{ border-bottom: 1px solid #ddd; padding: .15rem 1.2rem .15rem 0; text-align: left; font-weight: normal }}
th {{ color: #666 }}
td.n {{ text-align: right; font-variant-numeric: tabular-nums }}
i {{ display: block; height: .8rem; background: #3b7dd8 }}
</style></head><body>
<h1>{engine} on {backend} in {arithmetic}</h1>
<p>{bundle}<br>{machine}, {threads} in {streams}</p>
<h2>Latency</h2>
{latency}
<h2>Stages of a scene of {scene_tiles}</h2>
<p>Stages overlap: they add up to more than the total.</p>
{stages}
<h2>Operators by type</h2>
{kinds}
<h2>The {slowest} slowest operators</h2>
{layers}
</body></html>
"""


def profile_page(profile: Profile) -> str:
    """One self-contained HTML page."""
    header = ["batch", *(f"p{percentile} ms" for percentile in PERCENTILES), "tiles/s"]
    latency = [
        [str(one.batch), *(f"{1e3 * one.percentiles[p]:.1f}" for p in PERCENTILES), f"{one.tiles_per_second:.2f}"]
        for one in profile.latencies
    ]
    latency.insert(0, ["first", f"{1e3 * profile.first_tile_seconds:.1f}", *[""] * len(PERCENTILES)])
    slowest = sorted(profile.layers, key=lambda layer: -layer.seconds)[:_SLOWEST]
    return _PAGE.format(
        engine=html.escape(profile.engine),
        backend=html.escape(profile.backend),
        arithmetic=html.escape(profile.arithmetic),
        bundle=html.escape(profile.bundle),
        machine=html.escape(profile.machine),
        threads=counted(profile.threads, "thread"),
        streams=counted(profile.streams, "stream"),
        latency=_table(header, latency),
        scene_tiles=counted(profile.scene_tiles, "tile"),
        stages=_bars(profile.stages.items()),
        kinds=_bars(by_kind(profile.layers).items()),
        slowest=len(slowest),
        layers=_bars((f"{layer.name} ({layer.kind})", layer.seconds) for layer in slowest),
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "\n".join(
        "<tr>" + "".join(f'<td class="n">{html.escape(cell)}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _bars(items: Iterable[tuple[str, float]]) -> str:
    listed = list(items)
    longest = max((seconds for _, seconds in listed), default=0.0) or 1.0
    rows = "\n".join(
        f'<tr><td>{html.escape(name)}</td><td class="n">{1e3 * seconds:.2f} ms</td>'
        f'<td><i style="width:{_BAR * seconds / longest:.0f}px"></i></td></tr>'
        for name, seconds in listed
    )
    return f"<table>{rows}</table>"
