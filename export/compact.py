"""A bundle for shipping, as small as its weights (:mod:`ecea.export.compact_bundle`). Made with

python -m ecea.export.compact CHECKPOINT NAME.ecea
"""

if __name__ == "__main__":  # before what takes time to import
    from ecea.runtime.entry import end_when_stopped

    end_when_stopped("python -m ecea.export.compact")

from pathlib import Path
from typing import Annotated

import typer

from ecea.runtime.bundle import SUFFIX
from ecea.runtime.command import imports, numbers, say, start_script


def main(
    checkpoint: Path,
    bundle: Annotated[Path, typer.Argument(metavar=f"NAME{SUFFIX}")],
    num_heads: Annotated[
        str | None,
        typer.Option(metavar="A,B,C,D", help="Attention heads a level, if not 1,2,4,8; no checkpoint tells."),
    ] = None,
) -> None:
    """Export CHECKPOINT, a generator's or a U-Net's, to a bundle whose weights are one file of FP16."""
    heads = numbers(num_heads, "heads", "1,2,4,8")
    with imports("exporting needs torch, onnx and onnxscript", extra="export"):
        from ecea.export.compact_bundle import export_compact
        from ecea.export.table import print_bundle
    print_bundle(export_compact(checkpoint, bundle, num_heads=heads, say=say))


if __name__ == "__main__":
    start_script("python -m ecea.export.compact", main)
