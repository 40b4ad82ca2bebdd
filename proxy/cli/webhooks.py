"""`tollgate webhooks`: what is told to the receiver of webhooks, and how that stands."""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import httpx
import orjson
import typer

from proxy import settings
from proxy.cli.instants import iso, iso_or_none, iso_short, now_ms
from proxy.cli.opening import open_store, reading
from proxy.cli.output import Json, print_json, printable
from proxy.cli.tables import print_facts, print_table
from proxy.errors import ConfigurationError, SinkError
from proxy.model import EventState, Notification, Topic
from proxy.sections import WebhookSettings
from proxy.store import notifications
from proxy.store.database import begin
from proxy.store.notifications import Sent
from proxy.webhooks.messages import trial
from proxy.webhooks.sender import Sender

app = typer.Typer(help="What is told by webhooks, and how that stands.", no_args_is_help=True)

_LISTED_MAX = 10_000

Ids = Annotated[list[str] | None, typer.Argument(metavar="WEBHOOK_ID", help="Their ids.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter.")]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a receiver answered: in our words, and what it said itself."""

    accepted: bool
    words: str
    said: str
    took_ms: int


@app.command("test")
def send_test(as_json: Json = False) -> None:
    """Send a webhook.test now, and print the answer."""
    loaded = settings.load().webhooks
    sent = trial(now_ms())
    answer = asyncio.run(_send(loaded, sent))
    if as_json:
        print_json({"id": sent.id, **asdict(answer)})
    else:
        said = [("said", answer.said)] if answer.said else []
        print_facts([("webhook", sent.id), ("answer", answer.words), *said, ("took", f"{answer.took_ms:,} ms")])
    if not answer.accepted:
        raise typer.Exit(1)


async def _send(wanted: WebhookSettings, sent: Notification) -> _Answer:
    if wanted.url is None or wanted.secret is None:
        raise ConfigurationError("webhooks.url (TOLLGATE_WEBHOOKS__URL): is not set, so there is nowhere to send to")
    sender = Sender(wanted.url, wanted.secret, wanted.timeout_s)
    began_s = time.monotonic()
    try:
        taken = await sender.send(sent)
        accepted, words, said = True, f"{taken.status} {httpx.codes.get_reason_phrase(taken.status)}", taken.said
    except SinkError as error:
        accepted = False
        words, _, said = error.words.partition("\n")
    finally:
        await sender.close()
    return _Answer(accepted, words, said, round((time.monotonic() - began_s) * 1000))


@app.command("list")
def list_webhooks(
    state: Annotated[EventState | None, typer.Option(help="Only those in this state.")] = None,
    topic: Annotated[Topic | None, typer.Option("--type", help="Only those of this type.")] = None,
    tenant: Annotated[str, typer.Option(metavar="TENANT", help="Only those about this tenant.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=_LISTED_MAX, help="How many at most.")] = 20,
    as_json: Json = False,
) -> None:
    """List what was noted to be told, the newest first."""
    _, database = open_store()
    with reading(database) as connection:
        found = notifications.newest(connection, state=state, topic=topic, subject=tenant, limit=limit)
    if as_json:
        print_json([_json_of(sent) for sent in found])
        return
    print_table(
        ("time", "id", "type", "tenant", "about", "state", "attempts", "last words"),
        [
            (
                iso_short(sent.notification.time_ms),
                sent.notification.id,
                str(sent.notification.topic),
                sent.notification.subject,
                _about(sent),
                str(sent.state),
                sent.attempts,
                sent.error.partition("\n")[0],
            )
            for sent in found
        ],
        empty="There are no such webhooks.",
    )


@app.command("show")
def show(
    webhook_id: Annotated[str, typer.Argument(metavar="WEBHOOK_ID", help="Its id.")], as_json: Json = False
) -> None:
    """Show one as it is sent, and how its delivery stands."""
    _, database = open_store()
    with reading(database) as connection:
        sent = notifications.notification(connection, webhook_id)
    if as_json:
        print_json(_json_of(sent))
        return
    lines = orjson.dumps(orjson.loads(sent.notification.body), option=orjson.OPT_INDENT_2).decode().split("\n")
    typer.echo("\n".join(map(printable, lines)) + "\n")
    print_facts(
        [
            ("state", str(sent.state)),
            ("attempts", sent.attempts),
            ("last words", sent.error),
            ("delivered", iso_short(sent.delivered_ms)),
            *([("discarded because", sent.reason)] if sent.reason else []),
        ]
    )


@app.command("replay")
def replay(ids: Ids = None, every: All = False, as_json: Json = False) -> None:
    """Send dead letters again, and discarded ones by their ids."""
    _check_named(ids, every)
    _, database = open_store()
    with closing(database.connect()) as connection, begin(connection):
        moved = notifications.replay(connection, ids or notifications.dead(connection))
    if as_json:
        print_json({"replayed": moved})
    else:
        typer.echo(_webhooks(moved, "will be sent again"))


@app.command("discard")
def discard(
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept with the webhook.")],
    ids: Ids = None,
    every: All = False,
    as_json: Json = False,
) -> None:
    """Give dead letters up."""
    if not (reason := reason.strip()):
        raise typer.BadParameter("say why: it is kept with the webhook", param_hint="--reason")
    _check_named(ids, every)
    _, database = open_store()
    with closing(database.connect()) as connection, begin(connection):
        moved = notifications.discard(connection, ids or notifications.dead(connection), reason)
    if as_json:
        print_json({"discarded": moved})
    else:
        typer.echo(_webhooks(moved, "discarded"))


def _check_named(ids: list[str] | None, every: bool) -> None:
    if bool(ids) == every:
        raise typer.BadParameter("name the webhooks by their ids, or all dead ones by --all")


def _webhooks(count: int, what: str) -> str:
    return f"{count:,} webhook{'' if count == 1 else 's'} {what}"


def _about(sent: Sent) -> str:
    """What a person wants to know first."""
    data = orjson.loads(sent.notification.body)["data"]
    match sent.notification.topic:
        case Topic.THRESHOLD_CROSSED:
            return f"{data['percent']} % of {data['limit']}"
        case Topic.LIMIT_EXHAUSTED:
            return str(data["limit"])
        case Topic.KEY_EXPIRING:
            return f"{data['key_id']} at {data['expires_at']}"
        case topic if topic.startswith("invoice."):
            return str(data["invoice"])
        case _:
            return str(data.get("message", ""))


def _json_of(sent: Sent) -> dict[str, Any]:
    one = sent.notification
    return {
        "id": one.id,
        "time": iso(one.time_ms),
        "tenant": one.subject or None,
        **orjson.loads(one.body),
        "state": str(sent.state),
        "attempts": sent.attempts,
        "error": sent.error,
        "delivered_at": iso_or_none(sent.delivered_ms),
        "reason": sent.reason,
    }
