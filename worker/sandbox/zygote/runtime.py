"""Load a runtime into the zygote's memory, as `runtimes/PROTOCOL.md` says; never a function."""

from __future__ import annotations

import importlib
import importlib.util
import sys

from .protocol import ZygoteConfig


# Process: zygote, once, before any fork.
def load(config: ZygoteConfig) -> None:
    """Import what every sandbox of this zygote will need; nothing for an executed runtime.

    Removes the folders of installed packages (`site-packages`, `dist-packages`) from `sys.path`.

    Raises:
        ImportError: the config's folder has no runtime, or a standard module is missing.
    """
    sys.path[:] = [path for path in sys.path if "-packages" not in path]
    if config.runtime != "python":
        return
    for name in config.preload:
        importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(
        "sandlot_runtime", f"{config.folder}/__init__.py", submodule_search_locations=[config.folder]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"no runtime in {config.folder}")
    runtime = sys.modules["sandlot_runtime"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runtime)
    runtime.warm_up()
