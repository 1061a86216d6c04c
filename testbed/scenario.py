"""Scenarios: scripts that tell one story each. Found by name or file, given their options, run, reported.

A script has a function ``story(run, …)``: its parameters after the first are what ``--set KEY=VALUE`` can change, with
the types and the defaults that they are declared with. The first line of the script's docstring describes it.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from rich.console import Console

from testbed import manifest, report
from testbed.errors import Error, MachineError, RequestError
from testbed.progress import Narrator
from testbed.results import new_results
from testbed.run import Run

#: The folder of the scenarios that ship.
SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@dataclass(frozen=True)
class Scenario:
    """A story to run: ``options`` is the model of its parameters, made of its signature."""

    name: str
    description: str
    story: Callable[..., None]
    options: type[BaseModel]


def names() -> list[str]:
    """Return the names of the scenarios that ship: their files' names with dashes."""
    return sorted(path.stem.replace("_", "-") for path in SCRIPTS.glob("[!_]*.py"))


def find(name_or_file: str) -> Scenario:
    """Return a scenario by its name or the path of its script.

    Raises RequestError for an unknown name, with suggestions, and for a script that cannot be loaded or has no story.
    """
    known = names()
    if name_or_file.replace("_", "-") in known:
        name = name_or_file.replace("_", "-")
        module = importlib.import_module(f"{SCRIPTS.name}.{name.replace('-', '_')}")
    elif name_or_file.endswith(".py"):
        name = Path(name_or_file).stem.replace("_", "-")
        module = _load(Path(name_or_file))
    else:
        close = difflib.get_close_matches(name_or_file, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}; or give a script's path"
        raise RequestError(f"no scenario {name_or_file!r}; {hint}")
    story = getattr(module, "story", None)
    if not callable(story):
        raise RequestError(f"{name_or_file}: a scenario needs a function story(run)")
    description = (inspect.getdoc(module) or "").partition("\n")[0]
    return Scenario(name, description, story, options_of(story))


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # it ends with .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Error:
        raise
    except Exception as error:
        raise RequestError(f"{path}: {type(error).__name__}: {error}") from error
    return module


def options_of(story: Callable[..., None]) -> type[BaseModel]:
    """Return a model of the parameters of *story* after the first."""
    hints = get_type_hints(story, include_extras=True)
    _, *parameters = inspect.signature(story).parameters.values()
    fields: dict[str, Any] = {
        parameter.name: (
            hints.get(parameter.name, str),
            ... if parameter.default is inspect.Parameter.empty else parameter.default,
        )
        for parameter in parameters
    }
    return create_model("Options", __config__=ConfigDict(extra="forbid"), **fields)


def parse_options(scenario: Scenario, settings: Sequence[str]) -> dict[str, Any]:
    """Return the story's keyword arguments of ``KEY=VALUE`` texts. Raises RequestError that says which is wrong."""
    values: dict[str, str] = {}
    fields = scenario.options.model_fields
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise RequestError(f"--set {setting}: write KEY=VALUE")
        if key not in fields:
            raise RequestError(f"--set {setting}: {scenario.name} has no option {key!r}; {_describe(key, scenario)}")
        values[key] = value
    try:
        model = scenario.options.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = str(problem["loc"][0])
        given = f"{key}={values[key]}" if key in values else key
        reason = problem["msg"][0].lower() + problem["msg"][1:]
        raise RequestError(f"--set {given}: {reason}") from None
    return {key: getattr(model, key) for key in fields}


def _describe(key: str, scenario: Scenario) -> str:
    fields = scenario.options.model_fields
    if close := difflib.get_close_matches(key, fields, n=1):
        return f"did you mean {close[0]}?"
    described = [name if field.is_required() else f"{name}={field.default}" for name, field in fields.items()]
    return f"it has: {', '.join(described)}" if described else "it has none"


def execute(
    scenario: Scenario,
    options: Mapping[str, Any],
    console: Console,
    root: Path,
    *,
    repeats: int = 1,
    datapath: str | None = None,
    json_file: Path | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
) -> bool:
    """Run the story, keep and show its results below *root*; return whether every check held.

    What was found before an error, Ctrl-C or SIGTERM is kept as well, with a failed check that says why. Raises
    RequestError and MachineError when nothing was, and KeyboardInterrupt again after Ctrl-C and SIGTERM.
    """
    start = now()
    results = new_results(scenario.name, scenario.description, root, start)
    results.manifest = manifest.machine() | {
        "time": start.isoformat(timespec="seconds"),
        "options": {key: str(value) for key, value in options.items()},
        "repeats": repeats,
        "rate_scale": None,  # a story that limits rates says it
    }
    run = Run(results, Narrator(console), repeats, datapath)
    run.narrator.title(scenario.description)
    interrupted = False
    try:
        with terminable():
            scenario.story(run, **options)
    except KeyboardInterrupt as interrupt:
        interrupted = True
        run.check(ENDED, False, str(interrupt) or "interrupted")
    except (MachineError, RequestError) as error:
        if results.empty:
            raise
        run.check(ENDED, False, str(error))
    except Error as error:
        run.check(ENDED, False, str(error))
    except Exception as error:
        trace = results.save("traceback.txt", traceback.format_exc())
        run.check(ENDED, False, f"{type(error).__name__}: {error} (see {trace})")
    results.manifest["seconds"] = round((now() - start).total_seconds(), 1)
    try:
        path = results.write(json_file)
    finally:
        (results.directory / "report.html").write_text(report.html(results))
        results.hand_over()
    report.show(results, console)
    console.print(f"{path.with_name('report.html')}", highlight=False, soft_wrap=True)
    if interrupted:
        raise KeyboardInterrupt
    return results.passed


#: The check that a story which ends early fails.
ENDED = "the story ran to its end"


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that the lab is taken down and the results are kept."""

    def interrupt(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(f"ended by {signal.Signals(number).name}")

    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def main(file: str) -> None:
    """Run the script *file* as ``bumpwire run`` would, with the same options: for ``if __name__ == "__main__"``."""
    from testbed import cli

    sys.argv[:] = ["bumpwire", "run", file, *sys.argv[1:]]
    cli.main()
