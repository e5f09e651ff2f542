"""The configuration: its keys, their defaults and their limits, checked once before anything starts.

Each group of keys is a frozen pydantic model that belongs to whoever consumes it; an unknown key is an error. Rules that plans
and arms have anyway (`models.arm`, `router.plan`) are asked there, so that a wrong URL gets the same words in the file and in
the control API. Only the supervisor, `bluegreen check` and tests import this module: the other processes read the plain JSON
that the supervisor makes of it (`Settings.to_json`), where durations are seconds and sizes are bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from router.config_file import explain, key_paths, read_yaml
from router.errors import PlanError, SettingsError
from router.plan import Plan, parse_plan
from router.quantities import is_loopback, parse_listen
from router.rollout.policy_settings import RolloutSettings
from router.setting_types import (
    BlueArm,
    Duration,
    ExistingFile,
    FilePath,
    Flag,
    GreenArm,
    Group,
    HeaderOrPointer,
    Listen,
    Method,
    Network,
    Percent,
    Pointer,
    Prefix,
    PythonName,
    Real,
    Size,
    SplitPercent,
    Whole,
)


class SplitSettings(Group):
    """Which share of the first plan's traffic green gets, and how users are told apart."""

    green_percent: SplitPercent = Field(default=0.0, description="Green's share of live traffic in percent, in steps of 0.01.")
    key: str | None = Field(
        default=None, description="header:NAME, cookie:NAME, query:NAME or json:/pointer; left out: by chance."
    )
    salt: str = Field(
        default="", description="Keys the hash of the split key (at most 64 bytes): another salt is another assignment."
    )


class ShadowSettings(Group):
    """What is mirrored to the other arm, and the bounds of that."""

    percent: Percent = Field(default=0.0, description="Share of exchanges that are mirrored and compared.")
    noise_percent: Percent = Field(default=0.0, description="Share of the mirrored ones that go to blue a second time as well.")
    max_in_flight: Whole = Field(default=64, ge=1, le=4096, description="Mirrored requests on the way at once.")
    methods: tuple[Method, ...] = Field(
        default=("POST",), description="Methods that may be mirrored; others are never sent twice."
    )
    paths: tuple[Prefix, ...] = Field(default=("/",), description="Path prefixes that may be mirrored.")
    max_per_second: Real = Field(default=0.0, ge=0, le=1e6, description="Mirrored requests per second at most; 0: no limit.")
    body: Size = Field(default=2**20, description="How much of each request and answer is kept for the comparison.")
    queue: Size = Field(
        default=2**25, description="Exchanges that wait for the shadow, in bytes; more are dropped and counted."
    )
    warm_up: Whole = Field(
        default=0, ge=0, le=10**6, description="First pairs of a release that are kept apart from the latencies."
    )
    nice: Whole = Field(
        default=15, ge=0, le=19, description="How far the shadow process gives way to others on a busy processor (nice)."
    )


class CompareSettings(Group):
    """How two answers are read and when they count as equal."""

    protocol: Literal["auto", "open-inference", "v1", "mlflow", "openai", "json"] = Field(
        default="auto", description="What the models speak; auto recognises it by path and shape."
    )
    kind: Literal["labels", "probabilities", "numbers", "vectors", "text", "ranked", "json"] | None = Field(
        default=None, description="What a prediction is; left out: told from the value."
    )
    rtol: Real = Field(default=1e-5, ge=0, le=1, description="Relative tolerance of numbers.")
    atol: Real = Field(default=1e-8, ge=0, le=1e300, description="Absolute tolerance of numbers.")
    ignore: tuple[Pointer, ...] = Field(
        default=("/id", "/model_version"), description="JSON pointers left out of the comparison."
    )
    pointers: dict[str, Pointer] = Field(default={}, description="For protocol json: a name for each JSON pointer to compare.")
    similarity_floor: Real = Field(
        default=0.9, ge=0, le=1, description="Texts and ranked lists at least this alike count as agreeing."
    )
    cosine_floor: Real = Field(
        default=0.99, ge=-1, le=1, description="Vectors whose cosine is at least this count as agreeing."
    )
    python: PythonName | None = Field(default=None, description='A comparison of your own, "module:function".')


class RecordSettings(Group):
    """Which compared pairs are kept whole, and for how long."""

    disagreements: Whole = Field(default=1000, ge=0, le=10**6, description="Disagreeing pairs kept for each release.")
    others: Whole = Field(default=1000, ge=0, le=10**6, description="Agreeing pairs kept for each release, a uniform sample.")
    body: Size = Field(default=2**16, description="How much of each body is kept.")
    keep: Duration = Field(default=7 * 86400.0, description="Pairs older than this are removed.")
    redact: tuple[HeaderOrPointer, ...] = Field(
        default=(), description="header:NAME and json:/pointer to blank before keeping."
    )


class PredictionsSettings(Group):
    """The prediction log: which live answers are kept, so that late feedback finds them."""

    percent: Percent = Field(
        default=100.0,
        description="Share of live exchanges that are logged while traffic is split between the arms; mirrored ones always.",
    )
    keep: Duration = Field(default=7 * 86400.0, description="Rows older than this are removed.")
    rows: Whole = Field(default=10**6, ge=0, le=10**9, description="Rows kept at most; 0: no prediction log.")
    pending: Duration = Field(default=3600.0, description="How long feedback waits for a request that is not in the log yet.")
    plain_units: Flag = Field(default=False, description="true: keep the split key as it is; false: its hash alone.")
    reward_low: Real = Field(default=0.0, ge=-1e12, le=1e12, description="The least that a reward can be; less counts as this.")
    reward_high: Real = Field(default=1.0, ge=-1e12, le=1e12, description="The most that a reward can be; more counts as this.")

    @model_validator(mode="after")
    def _bounded(self) -> PredictionsSettings:
        if self.reward_low >= self.reward_high:
            raise ValueError(f"reward_low must be below reward_high, got {self.reward_low:g} and {self.reward_high:g}")
        return self


class FallbackSettings(Group):
    """When blue answers in green's place, and how much of that blue must bear."""

    on: tuple[Literal["connect", "timeout", "5xx"], ...] = Field(
        default=("connect", "timeout", "5xx"), description="Failures of green that blue makes good."
    )
    body: Size = Field(default=2**20, description="Request bodies up to this size are kept so that they can be sent again.")
    budget_percent: Percent = Field(default=20.0, description="Fallbacks at most, as a share of blue's own requests.")
    open_after: Whole = Field(default=5, ge=1, le=10**6, description="Failures in a row after which green's breaker opens.")
    open_for: Duration = Field(default=5.0, description="How long an open breaker skips green before it tries again.")


class TimeoutSettings(Group):
    """How long the data plane waits for whom."""

    connect: Duration = Field(default=1.0, description="For a connection to a server.")
    first_byte: Duration = Field(default=30.0, description="For the first byte of a server's answer.")
    idle: Duration = Field(default=60.0, description="Between two bytes of a body, on either side.")
    head: Duration = Field(default=10.0, description="For a client's whole request head.")
    body: Duration = Field(default=300.0, description="For a client's whole request body.")
    keep_alive: Duration = Field(default=75.0, description="A client's connection without a request is closed after this.")
    upstream_keep_alive: Duration = Field(
        default=30.0, description="A connection to a server without a request is closed after this."
    )
    continue_: Duration = Field(
        default=1.0, alias="continue", description="For a server's 100 (Continue) before the body is asked for anyway."
    )
    drain: Duration = Field(default=30.0, description="For running requests to finish when the router stops.")


class LimitSettings(Group):
    """How much the data plane takes from clients."""

    body: Size = Field(default=2**26, description="Size of a request body.")
    head: Size = Field(default=2**15, description="Size of a request head.")
    headers: Whole = Field(default=100, ge=1, le=10_000, description="Fields in a request head.")
    connections: Whole = Field(default=10_000, ge=1, le=10**6, description="Client connections of a worker, with handshakes.")
    connections_per_client: Whole = Field(default=0, ge=0, le=10**6, description="Of those, from one address; 0: no limit.")
    in_flight: Whole = Field(default=1024, ge=1, le=10**6, description="Requests at an arm at once, for each worker.")
    queue: Whole = Field(
        default=256, ge=0, le=10**6, description="Requests that wait for such a place, for each arm and worker."
    )
    queue_wait: Duration = Field(default=1.0, description="How long they wait before the answer is 503.")


class HealthSettings(Group):
    """When a server counts as out of use."""

    path: Prefix | None = Field(
        default=None, description="What is fetched to see whether a server lives; left out: a TCP connect."
    )
    interval: Duration = Field(default=2.0, description="Between two such checks.")
    timeout: Duration = Field(default=1.0, description="For one such check.")
    unhealthy_after: Whole = Field(
        default=2, ge=1, le=1000, description="Failed checks in a row that take a server out of use."
    )
    healthy_after: Whole = Field(default=1, ge=1, le=1000, description="Good checks in a row that take it back.")
    eject_after: Whole = Field(default=5, ge=1, le=10**6, description="Failed live requests in a row that eject a server.")
    eject_for: Duration = Field(default=5.0, description="For how long the first time; each further time doubles it.")
    eject_most: Duration = Field(default=60.0, description="For how long at most.")


class UpstreamTlsSettings(Group):
    """How servers with an https URL are verified, and who the router is to them."""

    ca: ExistingFile | None = Field(default=None, description="Certificates to trust (PEM); left out: the system's.")
    certificate: ExistingFile | None = Field(default=None, description="The router's own certificate chain (PEM).")
    key: ExistingFile | None = Field(default=None, description="The key of that certificate (PEM).")
    server_name: str | None = Field(default=None, description="The name that servers must prove, in place of their URL's host.")
    verify: Flag = Field(default=True, description="false: take any certificate. For a laboratory only.")

    @model_validator(mode="after")
    def _both(self) -> UpstreamTlsSettings:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("needs certificate and key together")
        return self


class ListenTlsSettings(Group):
    """A second address for clients, with TLS."""

    listen: Listen = Field(description="The address, such as 0.0.0.0:8443.")
    certificate: ExistingFile = Field(description="The certificate chain (PEM), read again when it changes.")
    key: ExistingFile = Field(description="Its key (PEM).")


class ForwardedSettings(Group):
    """Whose X-Forwarded headers are believed."""

    trust: tuple[Network, ...] = Field(default=(), description="Networks (CIDR) of proxies in front of this one.")


class AccessLogSettings(Group):
    """One JSON line for each request."""

    path: FilePath | None = Field(default=None, description="The file; left out: no access log.")
    sample: Real = Field(default=1.0, ge=0, le=1, description="Share of requests that are logged.")


class Settings(Group):
    """The whole configuration."""

    model_config = ConfigDict(title="bluegreen configuration", extra="forbid", frozen=True, allow_inf_nan=False)

    listen: Listen = Field(default="127.0.0.1:8000", description="Where clients connect.")
    control: Listen = Field(default="127.0.0.1:8001", description="Control API, dashboard and /metrics.")
    state: FilePath = Field(
        default=Path("bluegreen-state"), validate_default=True, description="State directory, relative to this file's folder."
    )
    workers: Whole = Field(default=2, ge=1, le=64, description="Data plane processes; one for each core that clients may use.")
    blue: BlueArm = Field(description="The version in production.")
    green: GreenArm = Field(default=None, description="The candidate; it can also be named later (`bluegreen candidate`).")
    split: SplitSettings = SplitSettings()
    shadow: ShadowSettings = ShadowSettings()
    compare: CompareSettings = CompareSettings()
    slices: tuple[HeaderOrPointer, ...] = Field(
        default=(), description="header:NAME and json:/pointer to break evidence down by."
    )
    record: RecordSettings = RecordSettings()
    predictions: PredictionsSettings = PredictionsSettings()
    fallback: FallbackSettings = FallbackSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    limits: LimitSettings = LimitSettings()
    health: HealthSettings = HealthSettings()
    upstream_tls: UpstreamTlsSettings = UpstreamTlsSettings()
    listen_tls: ListenTlsSettings | None = Field(default=None, description="A second address for clients, with TLS.")
    forwarded: ForwardedSettings = ForwardedSettings()
    access_log: AccessLogSettings = AccessLogSettings()
    control_token_file: ExistingFile | None = Field(
        default=None, description="File with the control API's token; the environment's BLUEGREEN_TOKEN comes first."
    )
    rollout: RolloutSettings = RolloutSettings()

    @model_validator(mode="after")
    def _whole(self) -> Settings:
        listening = {"listen": self.listen, "control": self.control}
        if self.listen_tls:
            listening["listen_tls.listen"] = self.listen_tls.listen
        seen: dict[tuple[str, int], str] = {}
        for key, text in listening.items():
            where = parse_listen(text)
            if where[1] and where in seen:
                raise ValueError(f"{key}: {text} is the address of {seen[where]} already; give it a port of its own")
            seen[where] = key
        try:
            self.first_plan()
        except PlanError as error:
            raise ValueError(str(error)) from None
        if self.rollout.gates.slices is not None and not self.slices:
            raise ValueError("rollout.gates.slices: needs `slices` to look at, such as `slices: [header:x-country]`")
        return self

    def first_plan(self) -> Plan:
        """The plan that these settings seed, with revision 0: whoever writes it gives it its own. Raises PlanError."""
        return parse_plan(
            {
                "blue": self.blue.to_dict(),
                "green": self.green.to_dict() if self.green else None,
                "split": {"green_percent": self.split.green_percent, "key": self.split.key, "salt": self.split.salt},
                "shadow": {
                    "percent": self.shadow.percent,
                    "noise_percent": self.shadow.noise_percent,
                    "max_in_flight": self.shadow.max_in_flight,
                },
            }
        )

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON values, every default filled in: durations in seconds, sizes in bytes, paths absolute."""
        return self.model_dump(mode="json", by_alias=True)


def load_settings(path: Path | str) -> Settings:
    """Read and check a configuration file.

    Relative paths in it start at the file's own folder. Raises SettingsError with one line: the file, the dotted key, what is
    wrong with it, and for an unknown key the nearest right one.
    """
    path = Path(path)
    values = read_yaml(path)
    try:
        return Settings.model_validate(values, context={"folder": path.absolute().parent})
    except ValidationError as error:
        raise SettingsError(f"{path}: {explain(error, Settings)}") from None
    except RecursionError:
        raise SettingsError(f"{path}: is nested too deeply") from None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the configuration file, for editors (docs/bluegreen.schema.json)."""
    schema = Settings.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def setting_keys() -> list[str]:
    """Every key that the file may hold, dotted, in the order of their definition."""
    return key_paths(Settings)


def require_token(settings: Settings, token: str | None) -> None:
    """Refuse a control address that others can reach while there is no token. Raises SettingsError."""
    if token is None and not is_loopback(parse_listen(settings.control)[0]):
        raise SettingsError(
            f"control: {settings.control} can be reached from outside this machine, so it needs a token: "
            "set control_token_file or BLUEGREEN_TOKEN, or listen on 127.0.0.1"
        )
