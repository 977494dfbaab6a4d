"""The settings as values: the keys of `palio.yaml`, their defaults, limits and meanings.

The sentence beside each field is its entry on the reference page and in the JSON Schema. Times are
in ms or s and sizes in MB (10⁶ bytes) or kB (10³ bytes), as users write them; the properties turn
them into the nanoseconds and bytes that the rooms below count in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from palio.core.ports import Placement

Scalar = str | int | float | bool
Path = tuple[str, ...]

_NS_PER_MS = 1_000_000
_NS_PER_S = 1_000_000_000
_BYTES_PER_KB = 1_000
_BYTES_PER_MB = 1_000_000


def _is(text: str) -> Any:
    """A setting whose type says all there is to say about its values."""
    return Field(description=text)


def _exactly(text: str) -> Any:
    """Text, true or false, as written: the number 1 is not true and `yes` in quotes is not."""
    return Field(description=text, strict=True)


def _number(
    text: str = "",
    *,
    at_least: float | None = None,
    over: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    return Field(
        description=text or None,
        strict=True,
        ge=at_least,
        gt=over,
        le=at_most,
        lt=below,
        allow_inf_nan=False,
    )


def _whole(text: str = "", *, at_least: int | None = None, at_most: int | None = None) -> Any:
    return Field(description=text or None, strict=True, ge=at_least, le=at_most)


_FORBID_UNKNOWN = ConfigDict(extra="forbid")
_Port = Annotated[int, _whole(at_least=1, at_most=65535)]
_Count = Annotated[int, _whole(at_least=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The door: where it listens and how much of anything it takes."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_UNKNOWN

    host: Annotated[str, _exactly("Address to listen on; `0.0.0.0` for every one.")] = "127.0.0.1"
    http_port: Annotated[
        int, _whole("Port for HTTP; 0 takes any free one.", at_least=0, at_most=65535)
    ] = 8000
    grpc_port: Annotated[
        _Port | None, _is("Port for gRPC. Not available yet: null, and nothing listens.")
    ] = None
    unix_socket: Annotated[
        str | None, _is("Path of a Unix socket to listen on instead of host and port.")
    ] = None
    drain_s: Annotated[
        float, _number("How long a stop waits for answers under way.", at_least=0)
    ] = 10.0
    max_body_mb: Annotated[float, _number("Largest body taken.", over=0)] = 64.0
    max_items: Annotated[int, _whole("Most texts or rows in one request.", at_least=1)] = 256
    max_header_kb: Annotated[float, _number("Largest header block taken.", over=0)] = 16.0
    max_text_chars: Annotated[int, _whole("Longest text taken, in characters.", at_least=1)] = 8192
    read_timeout_s: Annotated[
        float, _number("How long one request may take to arrive.", over=0)
    ] = 30.0
    idle_timeout_s: Annotated[
        float, _number("How long a connection without a request is kept.", over=0)
    ] = 75.0
    max_connections: Annotated[int, _whole("Most connections open at once.", at_least=1)] = 10_000
    max_pipelined: Annotated[
        int, _whole("Most requests one connection may have under way.", at_least=1)
    ] = 32

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mb * _BYTES_PER_MB)

    @property
    def max_header_bytes(self) -> int:
        return int(self.max_header_kb * _BYTES_PER_KB)

    @property
    def drain_ns(self) -> int:
        return int(self.drain_s * _NS_PER_S)

    @property
    def read_timeout_ns(self) -> int:
        return int(self.read_timeout_s * _NS_PER_S)

    @property
    def idle_timeout_ns(self) -> int:
        return int(self.idle_timeout_s * _NS_PER_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """Who runs together, and how many may wait."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_UNKNOWN

    enabled: Annotated[
        bool,
        _exactly(
            "Whether requests share a run. Off: each text alone, a tensor request as it came."
        ),
    ] = True
    max_rows: Annotated[int, _whole("Most rows in one run.", at_least=1)] = 32
    max_wait_ms: Annotated[
        float,
        _number("How long an idle worker waits for company; 0 runs at once.", at_least=0),
    ] = 0.0
    capacity_rows: Annotated[int, _whole("Most rows that may wait.", at_least=1)] = 1024
    capacity_mb: Annotated[float, _number("Most bytes that may wait.", over=0)] = 256.0
    bucket: Annotated[
        Literal["auto"], _is("How lengths and shapes are kept apart; `auto` is all there is.")
    ] = "auto"
    max_padding: Annotated[
        float,
        _number("Largest share of a batch that may be padding.", at_least=0, below=1),
    ] = 0.25
    ageing_ms: Annotated[
        float,
        _number(
            "A priority level counts as arriving this much later, so none waits for ever.",
            at_least=0,
        ),
    ] = 500.0

    @property
    def max_wait_ns(self) -> int:
        return int(self.max_wait_ms * _NS_PER_MS)

    @property
    def capacity_bytes(self) -> int:
        return int(self.capacity_mb * _BYTES_PER_MB)

    @property
    def ageing_ns(self) -> int:
        return int(self.ageing_ms * _NS_PER_MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """Answers kept for those who ask the same again. Not available yet."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_UNKNOWN

    enabled: Annotated[bool, _exactly("Whether answers are kept. Not available yet.")] = False
    max_mb: Annotated[float, _number("Most bytes of answers kept. Not available yet.", over=0)] = (
        256.0
    )
    ttl_s: Annotated[float, _number("How long an answer is kept. Not available yet.", over=0)] = (
        300.0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """One model: which, on what, how many, and how long it may take."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_UNKNOWN

    source: Annotated[
        str,
        _exactly(
            "Which model: `zoo:NAME`, `file:PATH` (from the folder of the file that says so), …"
        ),
    ]
    backend: Annotated[str, _exactly("What runs it, by the name it is installed under.")] = (
        "onnxruntime"
    )
    device: Annotated[str, _exactly("Where it runs: `cpu`, `cuda`, `cuda:N`.")] = "cpu"
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8"],
        _is("Precision asked for; the one in effect is reported."),
    ] = "fp32"
    allow_fallback: Annotated[
        bool, _exactly("Whether less than was asked for will do; otherwise it stops the start.")
    ] = False
    instances: Annotated[
        Literal["auto"] | _Count,
        _is("How many run side by side; `auto` takes a fair share of the CPUs."),
    ] = "auto"
    threads: Annotated[int, _whole("Threads each instance computes on.", at_least=1)] = 1
    deadline_ms: Annotated[
        float, _number("How long an answer may take, from its first byte.", over=0)
    ] = 1000.0
    batch: Annotated[BatchSettings, _is("Batching.")] = field(default_factory=BatchSettings)
    finite_inputs: Annotated[
        bool, _exactly("Whether NaN and infinity are refused. Not available yet.")
    ] = False
    cache: Annotated[CacheSettings, _is("Cache.")] = field(default_factory=CacheSettings)
    options: Annotated[
        Mapping[str, Scalar],
        _is("The backend's own options by name; one it does not know stops the start."),
    ] = field(default_factory=dict)

    @property
    def deadline_ns(self) -> int:
        return int(self.deadline_ms * _NS_PER_MS)

    @property
    def told_instances(self) -> int | None:
        """As many as were asked for by number; None is `auto`."""
        return None if self.instances == "auto" else self.instances

    @property
    def computing_threads(self) -> int:
        """Threads one instance computes on at once, side by side branches of its graph included."""
        branches = self.options.get("inter_op_threads", 1)
        return self.threads * branches if isinstance(branches, int) else self.threads

    @property
    def placement(self) -> Placement:
        """What the backend is asked for. Fractions travel as text: options hold no floats."""
        options: dict[str, str | int | bool] = {
            name: repr(value) if isinstance(value, float) else value
            for name, value in self.options.items()
        }
        return Placement(
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            options={**options, "allow_fallback": self.allow_fallback},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """Keys, limits and breakers at the door. Not available yet."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_UNKNOWN

    enabled: Annotated[bool, _exactly("Whether there is an edge. Not available yet.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySettings:
    """What is written down about the work."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_UNKNOWN

    access_log: Annotated[bool, _exactly("One line for every request.")] = True
    batch_log: Annotated[bool, _exactly("One line for every batch.")] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _is("The least that is logged.")
    ] = "info"
    record_arrivals: Annotated[
        str | None,
        _is("New file for when requests came and how big they were, never what was in them."),
    ] = None
    traces: Annotated[bool, _exactly("Spans for every request. Not available yet.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a server is told. `origins` says where each key came from and is no key itself."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID_UNKNOWN

    server: Annotated[ServerSettings, _is("The door.")] = field(default_factory=ServerSettings)
    cpus: Annotated[
        Literal["auto"] | _Count,
        _is("CPUs to share out; `auto` is the lesser of affinity and control group quota."),
    ] = "auto"
    models: Annotated[
        Mapping[str, ModelSettings], _is("The models by the name they answer to.")
    ] = field(default_factory=dict)
    pipelines: Annotated[Mapping[str, Any], _is("Graphs of models. Not available yet.")] = field(
        default_factory=dict
    )
    routes: Annotated[
        Mapping[str, str],
        _is("Which model answers `/v1/embeddings`; left out, the first that embeds text does."),
    ] = field(default_factory=dict)
    compat: Annotated[
        Literal["none", "s0", "s1", "s2", "s3", "s4"],
        _is("Speak as one of the older systems did. Not available yet."),
    ] = "none"
    edge: Annotated[EdgeSettings, _is("The edge.")] = field(default_factory=EdgeSettings)
    telemetry: Annotated[TelemetrySettings, _is("Telemetry.")] = field(
        default_factory=TelemetrySettings
    )
    origins: SkipJsonSchema[Mapping[Path, str]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def told_cpus(self) -> int | None:
        """The number of CPUs that was written down; None is `auto`."""
        return None if self.cpus == "auto" else self.cpus
