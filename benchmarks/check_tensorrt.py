"""What docs/tensorrt.md claims of TensorRT, put to the test on a machine with TensorRT and a GPU.

``make check-tensorrt`` exports an untrained generator, and for each claim says whether it was proved, failed, or could
not be run and why. It ends with status 0 where all were proved but those for information. It takes some tens of
minutes, most of them in TensorRT's builder and in the export on the processor; with ``--small``, a few, and times say
little.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tensorrt_bench import Bench
from tensorrt_claims import CLAIMS, Claim, Failed, NotRun

from ecea.export.plans.machine import find_machine
from ecea.model import GeneratorConfig
from ecea.runtime.errors import BackendUnavailable, EceaError

SMALL = GeneratorConfig(img_size=64, embed_dim=32, depth=(1, 2, 1, 1), num_heads=(1, 2, 4, 8))


def run(bench: Bench, claim: Claim) -> tuple[str, str]:
    """``proved``, ``failed`` or ``not run``, and why."""
    try:
        return "proved", claim.check(bench)
    except NotRun as reason:
        return "not run", str(reason)
    except Exception as error:  # whatever libraries raise: the other claims are still to be tried
        return "failed", f"{'' if isinstance(error, Failed | EceaError) else type(error).__name__ + ': '}{error}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Try every claim; the exit status."""
    parser = argparse.ArgumentParser(description="Put to the test what docs/tensorrt.md claims of TensorRT.")
    parser.add_argument("--small", action="store_true", help="build plans of a small generator")
    options = parser.parse_args(arguments)
    table = Table("claim", "", "what was seen", box=None, pad_edge=False)
    results = []
    try:
        machine = find_machine()
    except BackendUnavailable as reason:
        results = [("not run", str(reason))] * len(CLAIMS)
    else:
        with tempfile.TemporaryDirectory() as folder:
            config = SMALL if options.small else GeneratorConfig()
            bench = Bench(machine, Path(folder), config, lambda line: print(line, file=sys.stderr, flush=True))
            results = [run(bench, claim) for claim in CLAIMS]
    for claim, (outcome, why) in zip(CLAIMS, results, strict=True):
        table.add_row(claim.text, outcome, " ".join(why.split()))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    outcomes: dict[bool, list[bool]] = {False: [], True: []}
    for claim, (outcome, _) in zip(CLAIMS, results, strict=True):
        outcomes[claim.for_information].append(outcome == "proved")
    needed, more = outcomes[False], outcomes[True]
    print(f"{sum(needed)} of {len(needed)} proved, and {sum(more)} of {len(more)} for information")
    return 0 if all(needed) else 1


if __name__ == "__main__":
    sys.exit(main())
