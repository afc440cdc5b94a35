"""Functions: manifests, bundles, versions, aliases, and their storage.

Nothing here imports `sandlot.jobs`.
"""

from sandlot.functions.archive import read_archive, read_function, write_archive, write_version
from sandlot.functions.bundle import Bundle, check_names
from sandlot.functions.manifest import Manifest
from sandlot.functions.registry import Registry
from sandlot.functions.source import function_name, function_paths, read_files, read_path, read_source
from sandlot.functions.syntax import find_node
from sandlot.functions.version import Alias, DeployResult, FunctionDetails, FunctionPage, PendingVersion, Version

__all__ = [
    "Alias",
    "Bundle",
    "DeployResult",
    "FunctionDetails",
    "FunctionPage",
    "Manifest",
    "PendingVersion",
    "Registry",
    "Version",
    "check_names",
    "find_node",
    "function_name",
    "function_paths",
    "read_archive",
    "read_files",
    "read_function",
    "read_path",
    "read_source",
    "write_archive",
    "write_version",
]
