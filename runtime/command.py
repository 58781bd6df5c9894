"""What the commands share: errors as one sentence, the right exit status, no traceback unless asked for."""

import ctypes
import functools
import importlib.metadata
import inspect
import io
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, get_origin

import typer
from rich.console import Console
from rich.table import Table

from ecea.runtime.entry import INTERRUPTED, on_stop
from ecea.runtime.errors import EceaError, RequestError

# The base of what typer raises on options that it cannot parse; not every version of typer names it.
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

_SECONDS_TO_LEAVE_THE_COLLECTOR = 0.02  # interrupted at once, it would be lost again

_M_ARENA_MAX = -8  # of <malloc.h>


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ecea {importlib.metadata.version('ecea')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
]

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="Compute threads; default: all processors.")]


def new_app() -> typer.Typer:
    """A command's parser: plain text, ``-h`` as well as ``--help``."""
    return typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def start(app: typer.Typer, command: str) -> NoReturn:
    """Run a command and exit; arguments that cannot be parsed are one sentence too."""
    _keep_one_arena()
    if isinstance(sys.stdout, io.TextIOWrapper):  # which may be unable to hold the name of a file
        sys.stdout.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:  # libraries warn programmers: of scenes without a georeference, for one
        warnings.simplefilter("ignore")
    try:
        _check_none_empty(sys.argv[1:], command)
        status = app(prog_name=command, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
        status = EceaError.exit_status
    except OSError as error:  # of what was printed: whatever else goes wrong is said by then
        status = report(command, _unwritten(error), debug=False)
    except RequestError as error:
        status = report(command, error, debug=False)
    except _USAGE_ERROR as error:
        message = error.format_message().rstrip(".") + _value_given(error)  # type: ignore[attr-defined]
        status = report(command, RequestError(f"{message}: see {command} -h"), debug=False)
    sys.exit(status)


def _check_none_empty(arguments: Sequence[str], command: str) -> None:
    """Refuse an argument that is empty, as a variable of the shell is that was never set: it would be the default."""
    for before, argument in pairwise(["", *arguments]):
        if re.fullmatch("(--[^=]+=)?", argument):
            where = argument or (f"after {before}" if before else "the first")
            raise RequestError(f"an argument is empty ({where}), expected a value: see {command} -h")


def say(text: str) -> None:
    """Print a result at once.

    Raises:
        EceaError: where standard output cannot be written; nothing more is printed there then.
        BrokenPipeError: where its reader has gone.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritten(error) from error


def say_table(table: Table, width: int) -> None:
    """Print a table as :func:`say` does, as wide as the terminal, or as it needs: into a file or a pipe.

    Args:
        table: rich's.
        width: that it needs at most, in characters.
    """
    console = Console(width=None if Console().is_terminal else width)
    with console.capture() as printed:
        console.print(table)
    say(printed.get().removesuffix("\n"))


def say_json(text: str) -> None:
    """Print a result for programs as :func:`say` does.

    Raises:
        EceaError: where there is no standard output, too: a result that was asked for would be lost unnoticed.
    """
    if sys.stdout is None:
        raise EceaError("standard output is closed, so the result is not printed: leave it open, or --json out")
    say(text)


def _unwritten(error: OSError) -> EceaError:
    _discard_stdout()
    return EceaError(f"standard output cannot be written ({error.strerror})")


def start_script(command: str, work: Callable[..., None]) -> NoReturn:
    """Run what is no command of the package: a function whose parameters are its arguments, and ``--debug``.

    Args:
        command: as it is typed, such as ``python -m ecea.runtime.sample``.
        work: as :func:`typer.run` takes it.
    """

    @functools.wraps(work)
    def run(*, debug: bool, **arguments: object) -> None:
        with sentences(command, debug):
            work(**arguments)

    parameters = [_in_capitals(given) for given in inspect.signature(work, eval_str=True).parameters.values()]
    parameters.append(inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = new_app()
    app.command()(run)
    start(app, command)


def _in_capitals(parameter: inspect.Parameter) -> inspect.Parameter:
    """An argument as help shows arguments, unless it says itself how."""
    if get_origin(parameter.annotation) is Annotated or parameter.default is not parameter.empty:
        return parameter
    shown = typer.Argument(metavar=parameter.name.upper())
    return parameter.replace(annotation=Annotated[parameter.annotation, shown])


def _discard_stdout() -> None:
    """What is still to be printed goes nowhere: Python would try again at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _value_given(error: Exception) -> str:
    """What was given, where typer's own message leaves it out: from 0.29 on, which asks pydantic."""
    try:
        values = [detail["input"] for detail in error.__cause__.errors()]  # type: ignore[union-attr]
    except (AttributeError, KeyError, TypeError):
        return ""
    return f", found {', '.join(map(repr, values))}"


def _keep_one_arena() -> None:
    """Let all threads allocate from one arena.

    glibc gives each thread one of its own, and what is freed in one is of no use to the others: some 20 MB of a scene,
    whose rows are read in one thread and freed in another. Nothing here allocates often enough to wait for its turn.
    """
    with suppress(OSError, AttributeError, TypeError):  # no glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


_usual_handlers: dict[int, Any] = {}
"""Signal -> what handled it before :func:`sentences` took it over for its block."""


@contextmanager
def sentences(command: str, debug: bool) -> Iterator[None]:
    """Turn what goes wrong in the block into a sentence on stderr and an exit status.

    0 done; 1 the work failed or was interrupted; 2 the request was wrong.
    """
    outer, usual = dict(_usual_handlers), on_stop(_interrupt)
    _usual_handlers.update(usual)
    usual_hook, sys.unraisablehook = sys.unraisablehook, _again_if_lost
    try:
        _check_current_folder()
        yield
    except (typer.Exit, _USAGE_ERROR):
        raise
    except EceaError as error:
        raise typer.Exit(report(command, error, debug)) from error
    except KeyboardInterrupt as error:
        _complain(f"{command}: {INTERRUPTED}")
        raise typer.Exit(EceaError.exit_status) from error
    except BrokenPipeError as error:  # who reads our output has gone, as `| head` does
        _discard_stdout()
        raise typer.Exit(EceaError.exit_status) from error
    except Exception as error:
        raise typer.Exit(report(command, error, debug)) from error
    finally:
        sys.unraisablehook = usual_hook
        for number, handler in usual.items():
            signal.signal(number, handler)
        _usual_handlers.clear()
        _usual_handlers.update(outer)


def _check_current_folder() -> None:
    """Refuse to work where relative names lead nowhere, which libraries tell in many ways."""
    try:
        Path.cwd()
    except OSError as error:
        raise RequestError(
            f"the current folder cannot be found ({error.strerror}): change to one that is there"
        ) from error


def report(command: str, error: Exception, debug: bool) -> int:
    """Print an error as its sentence; return the exit status."""
    if debug:
        _complain("".join(traceback.format_exception(error)).rstrip("\n"))
    _complain(f"{command}: {sentence(error)}")
    return error.exit_status if isinstance(error, EceaError) else EceaError.exit_status


def _complain(text: str) -> None:
    """Print on stderr; where that is closed or full the status alone tells."""
    if sys.stderr is not None:  # print takes None for stdout
        with suppress(OSError):
            print(text, file=sys.stderr)


def sentence(error: Exception) -> str:
    """What an error says to users, whether it was foreseen or not."""
    if isinstance(error, EceaError):
        return _one_line(error)
    if isinstance(error, MemoryError):
        return "the machine is out of memory"
    return (
        f"failed on something it does not know ({type(error).__name__}: {_one_line(error)}): run it again with --debug "
        "and report what it prints"
    )


def _one_line(error: Exception) -> str:
    """The message of an error; libraries' own messages, quoted in it, may have several lines."""
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


@contextmanager
def imports(need: str, extra: str) -> Iterator[None]:
    """Say what to install where a module that the block imports is not there.

    A signal meanwhile does what it did before :func:`sentences`: some modules make an ImportError of any exception.

    Args:
        need: what needs which packages, the beginning of the sentence.
        extra: of this package, that brings them.

    Raises:
        RequestError: where one cannot be imported.
    """
    ours = {number: signal.signal(number, handler) for number, handler in _usual_handlers.items()}
    try:
        yield
    except ImportError as error:
        raise RequestError(f"{need} ({error}): install ecea with its '{extra}' extra") from error
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)


def numbers(text: str | None, what: str, example: str = "3,2,1") -> tuple[int, ...] | None:
    """Read a list such as the example.

    Raises:
        RequestError: where it is not integers.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise RequestError(f"{what} '{text}' is not a list of integers: expected one such as {example}") from error


def _again_if_lost(unraisable: "sys.UnraisableHookArgs") -> None:
    """Interrupt once more where Python would go on: in what the garbage collector calls, no exception is heard."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        signal.signal(signal.SIGALRM, _interrupt_outside)
        signal.setitimer(signal.ITIMER_REAL, _SECONDS_TO_LEAVE_THE_COLLECTOR)
    else:
        sys.__unraisablehook__(unraisable)


def _interrupt_outside(number: int, frame: FrameType | None) -> None:
    """Interrupt, but not within :func:`_again_if_lost`, where it would be lost for good: then later."""
    outer = frame
    while outer is not None and outer.f_code is not _again_if_lost.__code__:
        outer = outer.f_back
    if outer is None:
        raise KeyboardInterrupt
    signal.setitimer(signal.ITIMER_REAL, _SECONDS_TO_LEAVE_THE_COLLECTOR)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
