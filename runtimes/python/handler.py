"""A bundle's handler: how it is found, imported and checked."""

from __future__ import annotations

import asyncio
import importlib.machinery
import inspect
import os
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

from .failure import LoadFailed

Handler = Callable[[Any, Any], Any]

_DEFAULT_FUNCTION = "handler"
_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


def load_handler(bundle: str, name: str, packages: str = "") -> Handler:
    """Import the bundle's module and return its handler.

    Args:
        bundle: folder of the user's files; it and its `site-packages` are put first on `sys.path`.
        packages: folder of installed dependencies, put last on `sys.path`; empty if there are none.
        name: `module.function`, `folder/module.function`, or empty for `main.handler` or the
            `handler` of the only file.

    Raises:
        LoadFailed: the module or function does not exist, or cannot be called with event and
            context.
        BaseException: anything that the user's module raises while it is imported.
    """
    sys.path[:0] = [bundle, os.path.join(bundle, "site-packages")]
    if packages:
        sys.path.append(packages)
    module_name, function_name = _split(bundle, name)
    module = _import_module(bundle, module_name)
    return _check(_attribute(module, module_name, function_name), f"{module_name}.{function_name}")


def warm_up_load_handler(handler: Handler) -> Handler:
    """Run the steps of `load_handler` with an empty file that every sandbox has; return `handler`.

    No folder is searched: that would save another 50 µs per load, but copy 200 KiB more memory in
    each sandbox.
    """
    importlib.machinery.PathFinder.find_spec("sandlot_warmup", ["/nowhere"])
    module = ModuleType("sandlot_warmup")
    importlib.machinery.SourceFileLoader("sandlot_warmup", os.devnull).exec_module(module)
    code = compile("import json\ndef handler(event, context):\n    return {'a': [event]}\n", "warmup", "exec")
    exec(code, vars(module))  # noqa: S102 -- the line above
    _check(_attribute(module, "sandlot_warmup", "handler"), "sandlot_warmup.handler")
    return handler


def _split(bundle: str, name: str) -> tuple[str, str]:
    if not name:
        return _default_module(bundle), _DEFAULT_FUNCTION
    module_name, dot, function_name = name.rpartition(".")
    if not dot or not module_name or not function_name:
        raise LoadFailed(f"bad handler {name!r}: write module.function, for example main.handler")
    return module_name.removesuffix(".py").strip("/").replace("/", "."), function_name


def _default_module(bundle: str) -> str:
    try:
        files = sorted(entry for entry in os.listdir(bundle) if entry.endswith(".py"))
    except OSError as error:
        raise LoadFailed(f"the bundle cannot be read: {error.strerror}") from error
    if "main.py" in files:
        return "main"
    if len(files) == 1:
        return files[0].removesuffix(".py")
    raise LoadFailed(f"no handler is named, and the bundle has no main.py; files: {', '.join(files[:10]) or 'none'}")


def _import_module(bundle: str, name: str) -> ModuleType:
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        raise LoadFailed(f"the module {top!r} has the name of a standard module: rename {top}.py")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise LoadFailed(f"the bundle has no module {name!r}: expected {name.replace('.', '/')}.py") from None
        raise


def _attribute(module: ModuleType, module_name: str, function_name: str) -> Any:  # noqa: ANN401 -- whatever the user put there
    try:
        return getattr(module, function_name)
    except AttributeError:
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)][:10]
        defined = f"it defines {', '.join(functions)}" if functions else "it defines no function"
        raise LoadFailed(f"the module {module_name!r} has no {function_name!r}: {defined}") from None


def _check(handler: Any, name: str) -> Handler:  # noqa: ANN401 -- whatever the user put there
    if _is_plain(handler):
        plain: Handler = handler
        return plain
    if not callable(handler):
        raise LoadFailed(f"{name} is of type {type(handler).__name__}, not a function")
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise LoadFailed(f"{name} is a generator: return the whole value instead of yielding parts")
    try:
        inspect.signature(handler).bind(None, None)
    except TypeError:
        raise LoadFailed(f"{name} must take two arguments: def {name.rpartition('.')[2]}(event, context)") from None
    except ValueError:
        pass  # Built-in callables may have no signature; then the call itself shows whether it fits.
    checked: Handler = handler
    return checked


def _is_plain(handler: object) -> bool:
    """Recognise a plain function of two arguments, as most handlers are, without `inspect`.

    `inspect` would find the same, but copy 60 more memory pages in each sandbox.
    """
    if type(handler) is not FunctionType or handler.__dict__:  # a decorator may have put a `__wrapped__` there
        return False
    code = handler.__code__
    required = code.co_argcount - len(handler.__defaults__ or ())
    return required <= 2 <= code.co_argcount and not code.co_kwonlyargcount and not code.co_flags & _GENERATOR


class Awaiter:
    """The event loop that runs asynchronous handlers, one for the lifetime of the process.

    A loop per call would break clients and pools that a handler keeps in globals.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def wait(self, awaitable: Any) -> Any:  # noqa: ANN401 -- a user's awaitable and its value
        """Run `awaitable` to its end and return its value.

        Raises:
            BaseException: anything that it raises.
        """
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        return self._loop.run_until_complete(awaitable if asyncio.iscoroutine(awaitable) else _value_of(awaitable))


async def _value_of(awaitable: Any) -> Any:  # noqa: ANN401 -- a user's awaitable and its value
    return await awaitable
