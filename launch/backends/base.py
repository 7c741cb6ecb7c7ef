"""What a launch back end is: a name, the options that it adds to `biomlm launch`, and a starter. docs/extending.md adds one.

A starter either runs one stage and waits for it (`OneByOne`: the launch goes from stage to stage), or takes all stages at once and lets
something else run them (`Batch`). Nothing outside of this folder compares names of back ends.
"""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from biomlm.core.fields import Applies, runtime
from biomlm.launch.recipe import Recipe, Stage

T = TypeVar("T")


@dataclass(frozen=True)
class OneByOne:
    """A starter that runs a stage and waits for it.

    Args:
        run: Takes a stage, the words behind `biomlm`, the file to log to and the launch's options; gives the exit code.
    """

    run: Callable[[Stage, Sequence[str], Path, Any], int]


@dataclass(frozen=True)
class Batch:
    """A starter that hands all stages to a batch system.

    Args:
        script: Takes a stage, its recipe, the launch's options and the words after `biomlm` that start this launch again; gives the
            script that runs the stage, and at its end notes it as done (`--record STAGE --code N`).
        submit: Takes the recipe, the stages that are not done, options and words; gives the job of each stage.
    """

    script: Callable[[Stage, Recipe, Any, Sequence[str]], str]
    submit: Callable[[Recipe, Sequence[Stage], Any, Sequence[str]], dict[str, str]]


def _nothing_to_refuse(_recipe: Recipe, _options: Any) -> None:
    """Accept all options."""


@dataclass(frozen=True)
class Backend:
    """A place where stages run.

    Args:
        name: As `--on` gives it.
        options: A dataclass, whose fields become options of `biomlm launch` that need this back end.
        starter: How stages are started there.
        check: Refuses what the options and the recipe do not allow, before anything is started.
    """

    name: str
    options: type[Any]
    starter: OneByOne | Batch
    check: Callable[[Recipe, Any], None] = _nothing_to_refuse


def with_options(base: type[T], backends: Sequence[Backend]) -> type[T]:
    """Add the options of all back ends to a configuration that has `on`; each is refused unless its back end is chosen."""
    names = tuple(backend.name for backend in backends)
    added: list[tuple[str, Any, Any]] = [("on", Literal[names], runtime(names[0]))]
    documentation = (base.__doc__ or "").rstrip() + "\n"
    for backend in backends:
        hints = get_type_hints(backend.options)
        documentation += (backend.options.__doc__ or "").partition("Args:\n")[2].rstrip() + "\n"
        for option in fields(backend.options):
            rule = Applies(lambda config, name=backend.name: config.on == name, f"--on {backend.name}")  # type: ignore[misc]
            applies = {"*": rule} if is_dataclass(hints[option.name]) else rule
            default: dict[str, Any] = {"default": option.default}
            if option.default_factory is not MISSING:
                default = {"default_factory": option.default_factory}
            metadata = {**option.metadata, "runtime": True, "applies": applies}
            added.append((option.name, hints[option.name], field(**default, metadata=metadata)))
    namespace = {"__doc__": documentation, "__module__": base.__module__}
    return make_dataclass(base.__name__, added, bases=(base,), namespace=namespace, frozen=True)
