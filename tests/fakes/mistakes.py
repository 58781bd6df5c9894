"""Mistakes made in the text of a module, which the tests of it are to notice."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType

import pytest


def mutated(module: ModuleType, old: str, new: str) -> ModuleType:
    """The module with the first such place of its text changed, under the same name; nobody has imported it."""
    source = inspect.getsource(module)
    assert old in source
    changed = ModuleType(module.__name__)
    exec(compile(source.replace(old, new, 1), "mutated.py", "exec", dont_inherit=True), vars(changed))
    return changed


def check_shows(check: Callable[[], object]) -> None:
    """Demand that a check fails: one that hangs until pytest ends it has shown nothing, nor has one interrupted."""
    try:
        check()
    except pytest.fail.Exception as failure:  # an exception that should have been raised
        if "Timeout" in str(failure):
            raise
    except Exception:
        return
    else:
        pytest.fail("nothing noticed")
