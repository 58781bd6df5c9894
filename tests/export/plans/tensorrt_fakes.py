"""Objects of TensorRT that only libnvinfer can make, faked from the genuine classes.

A fake has the attributes of its class and no others. What is called or set is held against the signatures that the
bindings document: names, number and types of arguments, and whether a property may be set.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any


class ContractError(TypeError):
    """A call that the genuine class does not take."""


class HostMemory(bytes):
    """Bytes that TensorRT has made."""


def overloads(function: Callable[..., Any]) -> list[tuple[inspect.Signature, str]]:
    """The signatures in the docstring of a function of the bindings, without ``self``, and what each returns."""
    name = re.escape(function.__name__)
    found = re.findall(rf"^(?:\d+\. )?{name}\((.*)\) -> (.+)$", function.__doc__ or "", re.MULTILINE)
    return [(inspect.Signature(_parameters(text)), result) for text, result in found]


def _parameters(text: str) -> list[inspect.Parameter]:
    parameters: list[inspect.Parameter] = []
    for part in re.split(r", (?=\w+: )", text):
        name, _, kind = part.partition(": ")
        if name == "self":
            continue
        kind, default_given, _ = kind.partition(" = ")
        # The bindings let a parameter without a default follow one that has some.
        optional = bool(default_given) or any(p.default is not inspect.Parameter.empty for p in parameters)
        default = None if optional else inspect.Parameter.empty
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind)
        )
    return parameters


def accepts(trt: ModuleType, kind: str, value: Any) -> bool:
    """Whether the bindings would take a value for a parameter of this kind."""
    if kind.startswith("tensorrt.tensorrt."):
        expected: Any = trt
        for name in kind.removeprefix("tensorrt.tensorrt.").split("."):
            expected = getattr(expected, name)
        return isinstance(value, expected) or issubclass(getattr(value, "_genuine", object), expected)
    simple: dict[str, Callable[[Any], bool]] = {
        "str": lambda value: isinstance(value, str),
        "bool": lambda value: isinstance(value, bool),
        "int": lambda value: isinstance(value, int),
        "typing.SupportsInt": lambda value: hasattr(value, "__int__"),
        "typing_extensions.Buffer": lambda value: isinstance(value, bytes | bytearray | memoryview),
    }
    return simple.get(kind, lambda value: True)(value)


def check_call(trt: ModuleType, function: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> None:
    """ContractError unless one of the overloads takes these arguments."""
    problems = []
    for signature, _ in overloads(function):
        try:
            bound = signature.bind(*args, **named).arguments
        except TypeError as error:
            problems.append(str(error))
            continue
        wrong = [
            f"{name}={value!r} is no {signature.parameters[name].annotation}"
            for name, value in bound.items()
            if not accepts(trt, signature.parameters[name].annotation, value)
        ]
        if not wrong:
            return
        problems += wrong
    raise ContractError(f"{function.__name__}: {'; '.join(problems) or 'its docstring has no signature'}")


def fake(trt: ModuleType, genuine: type, **behaviour: Any) -> Any:
    """An object like one of a genuine class.

    Args:
        trt: the module ``tensorrt``.
        genuine: the class.
        behaviour: method -> what it does, or returns if that is no function; property -> its value at the beginning.
    """

    class Fake:
        _genuine = genuine

        def __init__(self) -> None:
            for name in behaviour:
                assert inspect.getattr_static(genuine, name, None) is not None, f"{genuine.__name__} has no {name}"
            vars(self)["_values"] = dict(behaviour)
            vars(self)["set_to"] = {}

        def __getattr__(self, name: str) -> Any:
            static = inspect.getattr_static(genuine, name, None)
            if static is None:
                raise AttributeError(f"tensorrt.{genuine.__name__} has no attribute {name!r}")
            if isinstance(static, property):
                return self._values.get(name)

            def method(*args: Any, **named: Any) -> Any:
                check_call(trt, getattr(genuine, name), args, named)
                result = self._values.get(name)
                return result(*args, **named) if inspect.isroutine(result) else result

            return method

        def __setattr__(self, name: str, value: Any) -> None:
            static = inspect.getattr_static(genuine, name, None)
            if not isinstance(static, property) or static.fset is None:
                raise AttributeError(f"tensorrt.{genuine.__name__}.{name} cannot be set")
            (kind,) = re.findall(r"arg1: ([\w.]+)\)", static.fset.__doc__ or "")
            if not accepts(trt, kind, value):
                raise ContractError(f"{genuine.__name__}.{name} = {value!r} is no {kind}")
            self._values[name] = self.set_to[name] = value

    return Fake()
