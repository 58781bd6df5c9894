"""What an export came to, printed."""

from rich.table import Table

from ecea.runtime.bundle import Bundle
from ecea.runtime.command import say, say_table

_COLUMNS = ("engine", "file", "run on", "MB", "times PyTorch", "largest error", "dB in gaps", "layers in INT8")


def print_bundle(bundle: Bundle) -> None:
    """Print a line for each engine file, backend and arithmetic that was measured, and one for the bundle, on stdout.

    The size is that of the file with the weights that it shares with the other forms of its engine; the error and the
    accuracy are those of the filled image.
    """
    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in _COLUMNS[:3] else "right")
    for record in bundle.engines:
        size = sum(file.size for file in record.files) / 1e6
        for entry in record.parity:
            if entry["output"] != "out":
                continue
            where = f"{entry['backend']} in bf16" if entry["arithmetic"] == "bf16" else entry["backend"]
            table.add_row(
                record.engine,
                record.files[0].name,
                where,
                f"{size:.0f}",
                f"{entry['times_pytorch']:.2f}" if "times_pytorch" in entry else "",
                f"{entry['max_error']:.1e}",
                f"{entry['missing_psnr_db']:.1f}",
                _quantized(record.quantization["layers"]) if record.quantization else "",
            )
    say_table(table, width=140)
    size = sum(path.stat().st_size for path in bundle.path.iterdir())
    say(f"bundle      {bundle.path}: {', '.join(bundle.engine_names)}; {size / 1e6:.0f} MB")


def _quantized(layers: list[dict[str, str]]) -> str:
    return f"{sum(layer['precision'] == 'int8' for layer in layers)} of {len(layers)}"
