"""The light runtime: fill the gaps of satellite scenes with an exported ECEA generator. Needs no torch.

with open_engine("site.ecea", engine="fp16") as engine:
    result = inpaint("scene.tif", "filled.tif", engine)
"""

import os

from ecea.runtime.engine import Engine, open_engine
from ecea.runtime.errors import EceaError, RequestError
from ecea.runtime.inpaint import Result, inpaint
from ecea.runtime.stretch import Stretch

# Read when ONNX Runtime is imported, which without it reports to its makers over the network, and keeps what it has
# not sent yet in the user's home. Who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["EceaError", "Engine", "RequestError", "Result", "Stretch", "inpaint", "open_engine"]
