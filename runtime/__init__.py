"""The light runtime: fill the gaps of satellite scenes with an exported ECEA generator. Needs no torch.

with open_engine("site.ecea", engine="fp16") as engine:
    result = inpaint("scene.tif", "filled.tif", engine)
"""

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecea.runtime.engine import Engine, open_engine
    from ecea.runtime.errors import EceaError, RequestError
    from ecea.runtime.filling import Result, inpaint
    from ecea.runtime.stretch import Stretch
else:
    # Imported when they are first asked for: they take a third of a second, and every module of this package comes
    # after this one, also those that need none of them.
    _HOMES = {
        "EceaError": "errors",
        "Engine": "engine",
        "RequestError": "errors",
        "Result": "filling",
        "Stretch": "stretch",
        "inpaint": "filling",
        "open_engine": "engine",
    }

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value

    def __dir__():
        return sorted({*globals(), *_HOMES})


# Read when ONNX Runtime is imported, which without it reports to its makers over the network, and keeps what it has
# not sent yet in the user's home. Who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["EceaError", "Engine", "RequestError", "Result", "Stretch", "inpaint", "open_engine"]
