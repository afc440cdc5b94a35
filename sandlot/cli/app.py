"""Every command, its options and its help, in the order in which a newcomer needs them.

Knows: the command line's grammar and the exit codes. Does not know: what the commands do; each is in a file of its own, imported when it runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from sandlot.errors import SandlotError
from sandlot.models import Runtime

_ABOUT = """
Run functions on machines you own: isolated, durable, fast.

[bold]Start here[/]
  [cyan]sandlot up[/]                               queue, API, worker, functions
  [cyan]sandlot new greet[/]                        write a first function
  [cyan]sandlot invoke greet '{"name": "Ada"}'[/]   call it

Exit codes: 0 fine, 1 the function failed, 2 the request is wrong, 3 not now (try again), 4 this installation is wrong.
"""

app = typer.Typer(
    name="sandlot",
    help=_ABOUT,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
keys = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True, rich_markup_mode="rich")

secrets = typer.Typer(help="Set, list and delete secrets.", no_args_is_help=True, rich_markup_mode="rich")

Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="Where the API is. By default: what `sandlot up` runs here.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Folder for keys, logs and data (default: .sandlot).")
]


def main() -> None:
    """The entry point of the `sandlot` command."""
    try:
        app()
    except SandlotError as error:
        from sandlot.cli.output import exit_code, print_error

        print_error(error.message)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has had enough (`sandlot functions | head -1`); the interpreter would complain when it flushes.
        sys.stderr.close()
        sys.exit(0)


def _version(asked: bool) -> None:
    if asked:
        from sandlot.cli.installation import release

        print(f"sandlot {release()}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(rich_help_panel="Run")
def up(
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the API (default 8000; 0: a free one).")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address the API listens on (default 127.0.0.1).")] = None,
    data: DataOption = None,
    functions: Annotated[
        Path | None, typer.Option("--functions", metavar="DIR", help="Folder of functions (default: functions).")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 1,
    slots: Annotated[
        int | None, typer.Option(min=0, max=1024, help="Invocations at once, per worker (default: from the CPUs).")
    ] = None,
    api_processes: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes that share the API's port (default 1).")
    ] = None,
    durability: Annotated[
        Literal["everysec", "always"] | None,
        typer.Option(help="When the embedded Valkey's log is synced to disk (default everysec)."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the logs of API and workers here.")] = False,
) -> None:
    """Start everything on this machine, deploy functions/ and watch it. Ctrl+C stops it all.

    A Valkey comes with Sandlot and keeps its data in .sandlot/; set SANDLOT_REDIS_URL to use a Redis or Valkey of your own instead.
    A function that is saved is deployed at once; one that does not parse is told, and its last good version goes on serving.

    [bold]Two side by side:[/] sandlot up --port 8001 --data /tmp/other --functions other/
    """
    from sandlot.cli.up.command import up as run

    run(
        data=data,
        functions=functions,
        host=host,
        port=port,
        workers=workers,
        slots=slots,
        api_processes=api_processes,
        durability=durability,
        verbose=verbose,
    )


@app.command(rich_help_panel="Run")
def api(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port (default 8000).")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (default 127.0.0.1).")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes that share the port (default 1).")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option("--redis-url", metavar="URL", help="Redis or Valkey (default: SANDLOT_REDIS_URL).")
    ] = None,
    data: DataOption = None,
) -> None:
    """Run an API process, on any machine that reaches your Redis.

    It needs SANDLOT_REDIS_URL and the signing key that your workers have (SANDLOT_SIGNING_KEY or SANDLOT_SIGNING_KEY_FILE);
    where `sandlot up` runs, it joins that without either.
    """
    from sandlot.cli.servers import replace_with

    settings = {"SANDLOT_PORT": port, "SANDLOT_HOST": host, "SANDLOT_API_PROCESSES": workers}
    replace_with("api", {**settings, "SANDLOT_REDIS_URL": redis_url, "SANDLOT_DATA": data})


@app.command(rich_help_panel="Run")
def worker(
    slots: Annotated[
        int | None, typer.Option(min=0, max=1024, help="Invocations at once (default: from the CPUs).")
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", help="It has this (gpu, …) for functions that need it; may be repeated."),
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option("--redis-url", metavar="URL", help="Redis or Valkey (default: SANDLOT_REDIS_URL).")
    ] = None,
    data: DataOption = None,
) -> None:
    """Run a worker, on any machine that reaches your Redis. It fetches the functions by itself.

    It needs SANDLOT_REDIS_URL and the signing key that your API has (SANDLOT_SIGNING_KEY or SANDLOT_SIGNING_KEY_FILE);
    where `sandlot up` runs, it joins that without either.
    Ctrl+C lets it finish what it runs.
    """
    from sandlot.cli.servers import replace_with

    chosen = ",".join(tags) if tags else None
    replace_with(
        "worker", {"SANDLOT_SLOTS": slots, "SANDLOT_TAGS": chosen, "SANDLOT_REDIS_URL": redis_url, "SANDLOT_DATA": data}
    )


@app.command(rich_help_panel="Functions")
def new(
    name: Annotated[str, typer.Argument(help="Its name: letters, digits, hyphens.")],
    runtime: Annotated[Runtime, typer.Option(help="What it is written in.")] = Runtime.PYTHON,
    functions: Annotated[Path, typer.Option("--functions", metavar="DIR", help="Folder to write it into.")] = Path(
        "functions"
    ),
) -> None:
    """Write a first version of a function.

    [bold]Example:[/] sandlot new resize --runtime node
    """
    from sandlot.cli.scaffold import write_function

    path = write_function(functions, name, runtime)
    print(f"wrote {path}; `sandlot up` deploys it when it is saved, `sandlot deploy {path}` now")


@app.command(rich_help_panel="Functions")
def deploy(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Source files (.py, .js, .mjs, .cjs), folders with a function.toml, and zips of such folders."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Its name, for a single path (default: that of the file).")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Deploy functions; the same code again is the same version again.

    [bold]Examples:[/] sandlot deploy functions/hello.py    sandlot deploy functions/*
    """
    from sandlot.cli.functions import deploy_all

    deploy_all(paths, name, url, as_json)


@app.command(rich_help_panel="Functions")
def functions(
    name: Annotated[str | None, typer.Argument(help="Show this one, with all its versions.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it, with all its versions.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List what is deployed, show one function, or remove it.

    [bold]Examples:[/] sandlot functions    sandlot functions hello    sandlot functions hello --delete
    """
    from sandlot.cli.functions import list_all, remove, show

    if name is None:
        if delete:
            raise typer.BadParameter("say which one: sandlot functions NAME --delete")
        list_all(url, as_json)
    elif delete:
        remove(name, url)
    else:
        show(name, url, as_json)


@app.command(rich_help_panel="Functions")
def rollback(
    name: Annotated[str, typer.Argument(help="The function.")],
    version: Annotated[int, typer.Argument(help="The version to go back (or forward) to.", min=1)],
    alias: Annotated[str, typer.Option(help="Move this alias instead; it is made if there is none.")] = "$LATEST",
    url: Url = None,
) -> None:
    """Let a function, or one of its aliases, mean another version from now on.

    [bold]Examples:[/] sandlot rollback hello 3    sandlot rollback hello 3 --alias prod
    """
    from sandlot.cli.functions import roll_back

    roll_back(name, version, alias, url)


@app.command(rich_help_panel="Functions")
def download(
    name: Annotated[str, typer.Argument(help="The function.")],
    version: Annotated[str, typer.Option(help="A version's number, or an alias.")] = "$LATEST",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file (default: NAME.zip).")] = None,
    url: Url = None,
) -> None:
    """Fetch a version's code and settings as a zip, which `sandlot deploy` takes.

    [bold]Example:[/] sandlot download hello --version 3 -o hello-3.zip
    """
    from sandlot.cli.functions import download as fetch

    fetch(name, version, output, url)


@app.command(rich_help_panel="Functions")
def invoke(
    name: Annotated[str, typer.Argument(help="The function.")],
    event: Annotated[
        str, typer.Argument(help="The event: JSON, @FILE to read it from a file, - to read it from stdin.")
    ] = "null",
    respond_async: Annotated[bool, typer.Option("--async", help="Queue it and print the job's id.")] = False,
    wait: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Wait at most so long; the job goes on.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="A version other than the latest, or an alias.")] = None,
    logs: Annotated[bool, typer.Option("--logs", help="Show what it printed, too.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Call a function: its answer on stdout, everything else on stderr.

    [bold]Examples:[/]
      sandlot invoke hello
      sandlot invoke markdown '{"markdown": "# Hi"}' | jq -r .html
      sandlot invoke csv-report @table.json --logs
      sandlot invoke slow --async
    """
    from sandlot.cli.jobs import call, queue

    if respond_async:
        queue(name, event, version, url, as_json)
    else:
        call(name, event, wait, version, logs, url, as_json)


@app.command(rich_help_panel="Jobs")
def job(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")] = False,
    result: Annotated[bool, typer.Option("--result", help="Print what it returned, nothing else.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel it.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Run it again, as a new job with the same event.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show how a job stands; wait for it, cancel it, run it again, fetch its result.

    [bold]Example:[/] sandlot job $(sandlot invoke hello --async) --wait
    """
    from sandlot.cli.jobs import show

    show(job_id, wait=wait, result=result, cancel=cancel, retry=retry, url=url, as_json=as_json)


@app.command(rich_help_panel="Jobs")
def logs(job_id: Annotated[str, typer.Argument(metavar="ID", help="The job.")], url: Url = None) -> None:
    """Print what a job's function wrote to stdout and stderr."""
    from sandlot.cli.jobs import print_logs

    print_logs(job_id, url)


@app.command(rich_help_panel="Operate")
def doctor(as_json: AsJson = False) -> None:
    """Check this machine: Python, Node, Redis, and whether the sandbox's walls hold. Says what to do about what is wrong.

    Ends with status 4 if functions could not run here.
    """
    from sandlot.cli.doctor import examine

    sys.exit(examine(as_json))


@keys.command("create")
def create_key(
    scope: Annotated[list[str], typer.Option(help="deploy, invoke, read or admin; may be given more than once.")],
    prefix: Annotated[str, typer.Option(help="Only for functions whose names begin so.")] = "",
    note: Annotated[str, typer.Option(help="Who or what it is for.")] = "",
    days: Annotated[int, typer.Option(min=0, help="Days until it expires (0: never).")] = 0,
) -> None:
    """Make a key and print it, this once.

    [bold]Example:[/] sandlot key create --scope invoke --prefix shop- --note "the web shop"
    """
    from sandlot.cli.api_keys import create

    create(scope, prefix, note, days)


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List all keys; their secrets are stored nowhere and cannot be shown."""
    from sandlot.cli.api_keys import print_all

    print_all(as_json)


@keys.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="ID", help="The 16 digits after sk_.")]) -> None:
    """Refuse a key from now on, everywhere within a second."""
    from sandlot.cli.api_keys import revoke

    revoke(key_id)


@secrets.command("set")
def set_secret(
    name: Annotated[str, typer.Argument(help="Its name, which is that of the variable: DB_PASSWORD.")],
    prefix: Annotated[str, typer.Option(help="Only for functions whose names begin so.")] = "",
    url: Url = None,
) -> None:
    """Set a secret to what is typed at a prompt, or read from stdin. Functions that name it get it with their next call.

    [bold]Example:[/] sandlot secret set DB_PASSWORD < password.txt
    """
    from sandlot.cli.vault import put

    put(name, prefix, url)


@secrets.command("list")
def list_secrets(url: Url = None, as_json: AsJson = False) -> None:
    """List the names of all secrets; their values cannot be shown."""
    from sandlot.cli.vault import print_all

    print_all(url, as_json)


@secrets.command("delete")
def delete_secret(name: Annotated[str, typer.Argument(help="Its name.")], url: Url = None) -> None:
    """Delete a secret; functions that name it cannot start until it is set again."""
    from sandlot.cli.vault import delete

    delete(name, url)


app.add_typer(secrets, name="secret", rich_help_panel="Operate")
app.add_typer(keys, name="key", rich_help_panel="Operate")
