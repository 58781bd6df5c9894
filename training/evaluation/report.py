"""Results as JSON."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from ecea.training.evaluation.evaluate import Evaluation

SCHEMA_VERSION = 1


def evaluation_json(evaluation: Evaluation, settings: Mapping[str, Any]) -> str:
    """One JSON object: ``schema``, ``settings``, and the fields of :class:`Evaluation`.

    JSON knows no infinity: ``psnr_db`` is null where there is no error at all (``rmse`` is 0 there), as it is where
    there are no pixels (``pixels`` is 0).
    """
    content = {"schema": SCHEMA_VERSION, "settings": dict(settings), **dataclasses.asdict(evaluation)}
    return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
