"""Where callbacks may go, what they say, how they are signed."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import msgspec
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from sandlot.callback_policy import callback_hosts, callback_secrets, check_callback_url
from sandlot.errors import CallbackRefused, InvalidSettings, UnsafeRecord
from sandlot.jobs.callbacks import CallbackRequest, open_callback, seal_callback
from sandlot.jobs.settlement import OutcomeRecord
from sandlot.jobs.submit import submit_arguments
from sandlot.models import Evidence, FunctionError, Invocation, OutcomeKind
from sandlot.network_policy import AllowList
from sandlot.settings import Settings
from worker.callbacks.delivery import WebhookReply
from worker.callbacks.message import BODY_LIMIT_BYTES, compose, next_traceparent, signed_headers
from worker.callbacks.sender import LONGEST_PAUSE_S, PAUSES_S, TRIES_LIMIT, retry_after_s

KEY = b"k" * 32
SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
HOSTS = AllowList(("hooks.example.com", "*.example.org:8443", "93.184.215.14", "10.0.0.7"))
ORDER = CallbackRequest("j-1", "hello", 3, "d" * 64, "https://hooks.example.com/done")


def settings(**given: str) -> Settings:
    return Settings(_env_file=None, **given)  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/done?job=7", "http://HOOKS.example.com", "https://a.example.org:8443/", "http://93.184.215.14/x",
        "https://hooks.example.com:443/%20",
    ],
)  # fmt: skip
def test_an_allowed_url_stays_as_it_was_written(url: str) -> None:
    assert check_callback_url(url, HOSTS) == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://evil.example.com/", "not allowed here; the operator allows: hooks.example.com"),
        ("https://hooks.example.com:8080/", "hooks.example.com:8080"),
        ("https://hooks.example.com@evil.example/", "user name or password"),
        ("https://:secret@hooks.example.com/", "user name or password"),
        ("ftp://hooks.example.com/", "is not an http or https URL"),
        ("hooks.example.com/done", "is not an http or https URL"),
        ("https://", "is not an http or https URL"),
        ("https://hooks.example.com:99999/", "is not a valid URL"),
        ("https://[::1/", "is not a valid URL"),
        ("https://hooks.example.com/#top", "fragment"),
        ("https://hooks.example.com/ä", "percent-encode"),
        ("https://hooks.example.com/a b", "percent-encode"),
        ("https://hooks.example.com/\r\nX-Evil: 1", "percent-encode"),
        ("https://hooks.example.com/" + "x" * 2048, "2074 characters"),
        ("http://10.0.0.7/", "not on the public internet"),
    ],
)
def test_any_other_url_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(CallbackRefused) as refused:
        check_callback_url(url, HOSTS)
    assert reason in refused.value.message


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://169.254.169.254/latest", "http://[::1]/", "http://[::ffff:10.0.0.1]/"]
)
def test_any_host_does_not_mean_internal_ones(url: str) -> None:
    with pytest.raises(CallbackRefused, match="not on the public internet"):
        check_callback_url(url, AllowList(("*",)))
    assert check_callback_url("https://anything.example/", AllowList(("*",)))


def test_callbacks_are_off_until_an_operator_allows_hosts() -> None:
    assert callback_hosts(settings()).entries == ()
    with pytest.raises(CallbackRefused, match="SANDLOT_CALLBACK_HOSTS"):
        check_callback_url("https://hooks.example.com/", callback_hosts(settings()))
    assert callback_hosts(settings(callback_hosts="b.example.com, *.example.org:8443,*")).entries == (
        "*.example.org:8443", "b.example.com", "*",
    )  # fmt: skip


@pytest.mark.parametrize("hosts", ["https://hooks.example.com", "localhost", "10.0.0.1", "*.com"])
def test_hosts_that_mean_nothing_or_too_much_are_named(hosts: str) -> None:
    with pytest.raises(InvalidSettings, match="SANDLOT_CALLBACK_HOSTS"):
        callback_hosts(settings(callback_hosts=hosts))


def test_secrets_are_read_from_the_setting_or_a_file(tmp_path: object) -> None:
    other = "whsec_" + base64.b64encode(b"t" * 24).decode()
    assert callback_secrets(settings(callback_secret=f"{SECRET} {other}")) == (b"s" * 32, b"t" * 24)
    file = tmp_path / "secret"  # type: ignore[operator]
    file.write_text(SECRET + "\n")
    assert callback_secrets(settings(callback_secret_file=str(file))) == (b"s" * 32,)


@pytest.mark.parametrize("secret", ["", "whsec_c2hvcnQ=", "whsec_*", base64.b64encode(b"s" * 32).decode(), "whsk_x"])
def test_an_invalid_secret_is_refused_without_being_shown(secret: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        callback_secrets(settings(callback_secret=secret))
    assert "openssl rand" in refused.value.message
    assert not secret or secret not in refused.value.message


def test_a_receiver_with_either_secret_believes_it_and_no_other() -> None:
    body = compose(ORDER, OutcomeRecord(kind=OutcomeKind.OK, attempt=1, result_bytes=2), 1_700_000_000_000, b"42")
    headers = dict(signed_headers([b"s" * 32, b"t" * 32], "j-1", int(time.time()), body))
    for secret in (b"s", b"t"):
        said = Webhook(base64.b64encode(secret * 32).decode()).verify(body, headers)
        assert (said["type"], said["data"]["result"], said["timestamp"]) == (
            "invocation.completed",
            42,
            "2023-11-14T22:13:20.000Z",
        )
    with pytest.raises(WebhookVerificationError):
        Webhook(base64.b64encode(b"x" * 32).decode()).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body.replace(b"42", b"43"), headers)
    old = dict(signed_headers([b"s" * 32], "j-1", int(time.time()) - 600, body))
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body, old)


def test_the_worst_end_still_fits_into_a_message() -> None:
    end = OutcomeRecord(
        kind=OutcomeKind.TIMEOUT,
        attempt=1,
        error=FunctionError(error_type="E" * 9000, error_message="m" * 90_000, stack_trace=["frame"] * 1000),
        evidence=Evidence(stack=["f" * 4000] * 100, limit={"wall_s": 5}),
    )
    body = compose(ORDER, end, 1_700_000_000_000, b"")
    assert len(body) < BODY_LIMIT_BYTES
    said = json.loads(body)["data"]
    assert (said["status"], said["outcome"], said["links"]["result"]) == ("timed_out", "timeout", "/v1/jobs/j-1/result")


def test_an_order_is_believed_for_its_own_job_alone() -> None:
    invocation = Invocation(
        job_id="j-1", function="hello", version=3, digest="d" * 64, placement="python", event=b"1", wall_limit_ms=1000,
        result_ttl_s=60, callback_url="https://hooks.example.com/done",
    )  # fmt: skip
    sealed = seal_callback(KEY, invocation)
    assert open_callback(KEY, "j-1", sealed) == ORDER
    assert submit_arguments(KEY, invocation, "")[-1] == sealed
    assert submit_arguments(KEY, msgspec.structs.replace(invocation, callback_url=""), "")[-1] == b""
    for job_id, text in (("j-2", sealed), ("j-1", sealed.replace(b"hooks", b"crook")), ("j-1", b""), ("j-1", b"|{}")):
        with pytest.raises(UnsafeRecord):
            open_callback(KEY, job_id, text)


def test_the_trace_continues_under_a_span_of_the_platform() -> None:
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    version, trace, span, flags = next_traceparent(given).split("-")
    assert (version, trace, flags) == ("00", "4bf92f3577b34da6a3ce929d0e0e4736", "01")
    assert span != "00f067aa0ba902b7"
    assert len(span) == 16


def test_the_table_of_tries_is_the_specification_s() -> None:
    assert [sum(PAUSES_S[:tried]) for tried in (0, 1, 2, len(PAUSES_S))] == [0, 5, 305, 272_105]
    assert TRIES_LIMIT == 10


@pytest.mark.parametrize(
    ("status", "header", "least_s", "most_s"),
    [
        (429, "120", 120, 120), (503, " 7 ", 7, 7), (503, "9" * 30, LONGEST_PAUSE_S, LONGEST_PAUSE_S), (500, "120", 0, 0),
        (429, "soon", 0, 0), (429, "-3", 0, 0), (429, "", 0, 0), (429, "Fri, 31 Dec 1999 23:59:59 GMT", 0, 0),
    ],
)  # fmt: skip
def test_a_receivers_retry_after_is_honoured_up_to_a_day(
    status: int, header: str, least_s: float, most_s: float
) -> None:
    assert least_s <= retry_after_s(WebhookReply(status, header)) <= most_s


def test_a_receiver_may_name_the_moment() -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 60 < retry_after_s(WebhookReply(429, moment)) <= 90
