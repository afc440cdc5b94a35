"""Log format: one line per fact, the event first, then its fields.

Only composition roots configure logging.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, Literal

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


def configure_logging(log_format: Literal["auto", "json", "pretty"], level: str) -> None:
    """Send every log record to stderr.

    `auto` is pretty on a terminal and JSON lines elsewhere.
    """
    pretty = log_format == "pretty" or (log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrettyLines() if pretty else JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Uvicorn's start and stop messages repeat ours with less detail; its warnings stay.
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLogger().level))


class JsonLines(logging.Formatter):
    """Formatter that writes one JSON object per line.

    Its members are `time`, `level`, `logger`, `event`, then the fields passed as `extra`.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        for name, value in _fields(record).items():
            line[f"{name}_" if name in line else name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class PrettyLines(logging.Formatter):
    """Formatter for terminals: `10:20:31 info    listening url=http://127.0.0.1:8000`."""

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = f"{clock} {record.levelname.lower():<7} {_one_line(record.getMessage() + fields)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _one_line(text: str) -> str:
    """Escape line ends and control characters.

    Untrusted text could forge a line or move the cursor.
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
