"""`sandlot api`, `worker` and `run`: the server's own programs, started from the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from sandlot.cli.jobs import read_event
from sandlot.cli.options import (
    AsJson,
    DataOption,
    Event,
    EventSource,
    Insecure,
    InsecureRedis,
    RedisUrl,
    find_data_dir,
)
from sandlot.cli.output import FUNCTION_FAILED, note, print_failure, print_json, print_value
from sandlot.errors import OperatorError, SandlotError, by_code

if TYPE_CHECKING:
    from sandlot.cli.installation import ServerModule


def api(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on (default 8000).")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (default 127.0.0.1).")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="API processes that share the port (default 1).")
    ] = None,
    redis_url: RedisUrl = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Serve HTTPS with this certificate (PEM); SIGHUP reads it again."),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The certificate's private key (PEM).")] = None,
    insecure: Insecure = False,
    insecure_redis: InsecureRedis = False,
    data: DataOption = None,
    words: Annotated[
        list[str] | None, typer.Argument(hidden=True, help="Arguments of a process that an upgrade starts.")
    ] = None,
) -> None:
    """Run an API process on any machine that can reach your Redis.

    It needs SANDLOT_REDIS_URL and your workers' signing key
    (SANDLOT_SIGNING_KEY or SANDLOT_SIGNING_KEY_FILE).
    Without SANDLOT_REDIS_URL, it joins the `sandlot up` that runs in this folder or one above it.
    """
    from sandlot.cli.installation import installed_script

    settings = {"SANDLOT_PORT": port, "SANDLOT_HOST": host, "SANDLOT_API_PROCESSES": workers}
    tls = {"SANDLOT_TLS_CERT": tls_cert, "SANDLOT_TLS_KEY": tls_key, "SANDLOT_INSECURE": insecure or None}
    queue = {"SANDLOT_REDIS_URL": redis_url, "SANDLOT_INSECURE_REDIS": insecure_redis or None}
    script = installed_script()
    installed = ["--installed", str(script)] if script is not None else []
    _become("api", {**settings, **tls, **queue, "SANDLOT_DATA": data}, [*installed, *(words or ())])


def worker(
    slots: Annotated[
        str | None,
        typer.Option(
            metavar="N|MIN..MAX",
            help="Invocations at once (default: from the CPUs); a range adapts to the queue.",
        ),
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", help="Advertise a capability that functions can require, e.g. gpu. Repeatable."),
    ] = None,
    redis_url: RedisUrl = None,
    insecure_redis: InsecureRedis = False,
    data: DataOption = None,
) -> None:
    """Run a worker on any machine that can reach your Redis. It fetches the functions by itself.

    It needs SANDLOT_REDIS_URL and your API's signing key
    (SANDLOT_SIGNING_KEY or SANDLOT_SIGNING_KEY_FILE).
    Without SANDLOT_REDIS_URL, it joins the `sandlot up` that runs in this folder or one above it.
    Ctrl+C stops it after its running jobs.
    """
    _become(
        "worker",
        {
            "SANDLOT_SLOTS": slots,
            "SANDLOT_TAGS": ",".join(tags) if tags else None,
            "SANDLOT_INSECURE_REDIS": insecure_redis or None,
            "SANDLOT_REDIS_URL": redis_url,
            "SANDLOT_DATA": data,
        },
    )


def run(
    path: Annotated[Path, typer.Argument(help="The function: a source file, a folder, or a zip of a folder.")],
    event: Event = None,
    source: EventSource = None,
    as_json: AsJson = False,
) -> None:
    """Call a function that is not deployed, once, in its sandbox on this machine, without a server.

    Its result goes to stdout; its output and a summary go to stderr.
    The secrets that its manifest names are taken from the environment.

    [bold]Examples:[/]
      sandlot run functions/greet.py '{"name": "Ada"}'
      sandlot run functions/csv_report.py --event table.json
    """
    result = _run_once(path, read_event(event, source))
    document = msgspec.json.decode(result, type=_RunResult)
    if document.code:
        raise by_code().get(document.code, SandlotError)(document.detail)
    if as_json:
        print_json(msgspec.Raw(result))
    else:
        _show_run(document)
    if document.outcome != "ok":
        raise typer.Exit(FUNCTION_FAILED)


class _RunResult(msgspec.Struct):
    """Output of `worker.run_once`, as far as it is used here; `code` is set if nothing was run."""

    outcome: str = ""
    timings: dict[str, float] = {}
    logs: str = ""
    detail: str = ""
    code: str = ""
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: dict[str, Any] | None = None


def _run_once(path: Path, event: bytes) -> bytes:
    import subprocess

    from sandlot.cli import installation

    ended = subprocess.run(
        [*installation.command("worker.run_once"), str(path)],
        env=installation.environment({}),
        input=event,
        stdout=subprocess.PIPE,
        check=False,
    )
    if ended.returncode:
        raise OperatorError(f"worker.run_once ended with status {ended.returncode}; its messages are above")
    return ended.stdout


def _show_run(document: _RunResult) -> None:
    """Print the run as `sandlot invoke --logs` prints a call."""
    sys.stderr.write(document.logs if document.logs.endswith("\n") or not document.logs else document.logs + "\n")
    if isinstance(document.value, msgspec.Raw):
        print_value(bytes(document.value))
    else:
        print_failure({"error": document.error, "detail": document.detail})
    stages = ", ".join(f"{name} {document.timings[name]:.1f}" for name in ("boot", "import", "run"))
    note(f"{document.outcome} in {document.timings['total']:.1f} ms ({stages}) · this machine, no server")


def _become(program: ServerModule, options: Mapping[str, object], words: Sequence[str] = ()) -> None:
    """Replace this process by a server program; does not return.

    The process id stays the same, so signals and supervisors reach the program. Without a Redis
    of its own, it joins the `sandlot up` that runs in this folder or in one above it.
    """
    from sandlot.cli import installation
    from sandlot.cli.data_dir import DataDir
    from sandlot.settings import load_settings

    given = {name: str(value) for name, value in options.items() if value is not None}
    has_redis = {"SANDLOT_REDIS_URL", "SANDLOT_REDIS_URL_FILE"} & {*given, *os.environ}
    data = DataDir(Path(given["SANDLOT_DATA"])) if "SANDLOT_DATA" in given else find_data_dir(load_settings())
    running = data.running()
    if not has_redis and running is not None:
        given |= {"SANDLOT_REDIS_URL": running.redis_url, "SANDLOT_DATA": str(data.path)}
    command = [*installation.command(program), *words]
    os.execve(command[0], command, installation.environment(given))  # noqa: S606 - our own interpreter, fixed words
