"""The light runtime: fill the gaps of satellite scenes with an exported ECEA generator. Needs no torch.

with open_engine("site.ecea", engine="fp16") as engine:
    result = inpaint("scene.tif", "filled.tif", engine)
"""

from ecea.runtime.engine import Engine, open_engine
from ecea.runtime.errors import EceaError, RequestError
from ecea.runtime.inpaint import Result, inpaint
from ecea.runtime.stretch import Stretch

__all__ = ["EceaError", "Engine", "RequestError", "Result", "Stretch", "inpaint", "open_engine"]
