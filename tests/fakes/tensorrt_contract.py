"""What TensorRT's bindings take, read from their documentation, and objects that take nothing else.

Objects that only libnvinfer can make are faked: an implementation of ours stands behind the genuine class. What is
called or set is held against the signatures that the bindings document: names, number and types of arguments, and
whether a property may be set.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class ContractError(TypeError):
    """A call that the genuine class does not take."""


class Checked:
    """An implementation behind a genuine class of the bindings: it has the attributes of that class and no others.

    Attributes:
        set_to: property -> what it was set to.
    """

    def __init__(self, genuine: type, implementation: Any) -> None:
        vars(self).update(_genuine=genuine, _implementation=implementation, set_to={})

    def __getattr__(self, name: str) -> Any:
        attribute = inspect.getattr_static(self._genuine, name)  # AttributeError: there is no such thing
        value = getattr(self._implementation, name)
        if isinstance(attribute, property):
            return value

        def call(*args: Any, **named: Any) -> Any:
            check_call(getattr(self._genuine, name), args, named)
            return value(*args, **named)

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        attribute = inspect.getattr_static(self._genuine, name)
        if not isinstance(attribute, property) or attribute.fset is None:
            raise AttributeError(f"{self._genuine.__name__}.{name} cannot be set")
        (kind,) = re.findall(r"arg1: ([\w.:]+)\)", attribute.fset.__doc__ or "")
        if not accepts(kind, value):
            raise ContractError(f"{self._genuine.__name__}.{name} = {value!r} is no {kind}")
        self.set_to[name] = value
        setattr(self._implementation, name, value)


def fake(genuine: type, **behaviour: Any) -> Any:
    """An object like one of a genuine class.

    Args:
        genuine: the class.
        behaviour: method -> what it does; property -> its value at the beginning.
    """
    for name in behaviour:
        inspect.getattr_static(genuine, name)  # AttributeError: the fake has what the class has not
    return Checked(genuine, SimpleNamespace(**behaviour))


def check_call(function: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> None:
    """ContractError unless one of the overloads takes these arguments."""
    problems = []
    for signature in overloads(function):
        try:
            bound = signature.bind(*args, **named).arguments
        except TypeError as error:
            problems.append(str(error))
            continue
        kinds = {name: signature.parameters[name].annotation for name in bound}
        wrong = [
            f"{name}={value!r} is no {kinds[name]}" for name, value in bound.items() if not accepts(kinds[name], value)
        ]
        if not wrong:
            return
        problems += wrong
    raise ContractError(f"{function.__name__}: {'; '.join(problems) or 'its docstring has no signature'}")


def overloads(function: Callable[..., Any]) -> list[inspect.Signature]:
    """The signatures in the docstring of a function of the bindings, without ``self``."""
    name = re.escape(function.__name__)
    found = re.findall(rf"^(?:\d+\. )?{name}\((.*)\) -> .+$", function.__doc__ or "", re.MULTILINE)
    return [inspect.Signature(_parameters(text)) for text in found]


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


_SIMPLE: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int),
    "tuple": lambda value: isinstance(value, tuple),
    "list": lambda value: isinstance(value, list),
    "typing.SupportsInt": lambda value: hasattr(value, "__int__") and not isinstance(value, float),
    "typing.SupportsFloat": lambda value: hasattr(value, "__float__"),
    "typing_extensions.Buffer": lambda value: isinstance(value, bytes | bytearray | memoryview),
}


def accepts(kind: str, value: Any) -> bool:
    """Whether the bindings would take a value for a parameter of this kind."""
    if kind.startswith(("tensorrt.tensorrt.", "nvinfer1::", "nvonnxparser::")):
        wanted = re.split(r"[.:]", kind)[-1]
        genuine = vars(value)["_genuine"] if isinstance(value, Checked) else type(value)
        return any(base.__name__ == wanted for base in genuine.__mro__)
    return _SIMPLE.get(kind, lambda value: True)(value)
