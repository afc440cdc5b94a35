"""`sandlot dead-letters`.

Knows: what is asked of the API for it. Does not know: when a job becomes a dead letter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from sandlot.cli.access import open_client
from sandlot.cli.output import note, print_job, print_json, print_letters
from sandlot.client import Client
from sandlot.errors import JobNotFound


def letters(
    job_id: str | None, *, function: str, redrive: bool, purge: bool, every: bool, url: str | None, as_json: bool
) -> None:
    """List them, show one, or do something about one or many.

    Raises:
        typer.BadParameter: it is not clear which are meant, or what is to be done with them.
    """
    if redrive and purge:
        raise typer.BadParameter("--redrive and --purge exclude each other")
    if job_id and (function or every):
        raise typer.BadParameter("an ID is one letter; --function and --all mean many")
    if (redrive or purge) and not (job_id or function or every):
        raise typer.BadParameter("say which: an ID, --function NAME, or --all")
    with open_client(url) as client:
        if not (redrive or purge):
            _show(client, job_id, function, as_json)
            return
        chosen = [job_id] if job_id else [str(letter["id"]) for letter in client.dead_letters(function)]
        done = _act_on(client, chosen, redrive=redrive)
    if as_json:
        print_json(done)
    elif not done:
        note("there is none")
    for each in () if as_json else done:
        print(f"{each['id']} taken up as {each['job']}" if redrive else f"{each['id']} purged")


def _show(client: Client, job_id: str | None, function: str, as_json: bool) -> None:
    found: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    found = client.dead_letter(job_id) if job_id else client.dead_letters(function)
    if as_json:
        print_json(found)
    elif isinstance(found, Mapping):
        print_job(found)
        if "event" in found:
            note("its event:")
            print_json(found["event"])
    elif found:
        print_letters(found)
    else:
        note("there is none: every job that was to be run again has succeeded, or still tries")


def _act_on(client: Client, chosen: Sequence[str], *, redrive: bool) -> list[dict[str, str]]:
    done = []
    for letter in chosen:
        try:
            if redrive:
                done.append({"id": letter, "job": str(client.redrive(letter)["id"])})
            else:
                client.purge(letter)
                done.append({"id": letter})
        except JobNotFound:
            if len(chosen) == 1:
                raise
            note(f"{letter} is gone: somebody else was faster, or its week is over")
    return done
