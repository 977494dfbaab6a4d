"""The command line: parse, call one function, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

# Everything heavy is imported inside the command that needs it: `palio --help` must be quick.


def _version() -> str:
    from palio.app import palio_version

    return palio_version()


app = App(
    name="palio",
    help="Serve machine-learning models, and find out which way of serving them is best.",
    version=_version,
)
config = App(name="config", help="What the settings are and where they come from.")
model = App(name="model", help="Fetch and build models.")
app.command(config)
app.command(model)

Source = Annotated[
    str | None, Parameter(help="zoo:NAME, a model.onnx, a folder with one, or a palio.yaml.")
]
Changes = Annotated[
    list[str] | None,
    Parameter(
        name=["--set", "-s"],
        help="Any key of palio.yaml, as in models.minilm-l6.batch.max_rows=8. May be repeated.",
        negative="",
    ),
]
Host = Annotated[str | None, Parameter(help="Address to listen on (server.host).")]
Port = Annotated[int | None, Parameter(help="Port for HTTP, 0 for any (server.http_port).")]
Socket = Annotated[str | None, Parameter(help="Unix socket instead (server.unix_socket).")]
Record = Annotated[
    str | None,
    Parameter(
        help="New file for when requests came and how big they were, never what was in them "
        "(telemetry.record_arrivals)."
    ),
]
Once = Annotated[bool, Parameter(help="Do it all once and exit instead of serving on.")]
Seconds = Annotated[float, Parameter(help="How long each cell of the table is measured.")]


@app.command
def serve(
    source: Source = None,
    /,
    *,
    host: Host = None,
    http_port: Port = None,
    unix_socket: Socket = None,
    record_arrivals: Record = None,
    changes: Changes = None,
) -> None:
    """Serve a model, or all that a palio.yaml names, until told to stop."""
    from palio.app import run
    from palio.settings import cache_root, load_settings
    from palio.toolchain.cache import Cache
    from palio.toolchain.progress_rich import RichProgress

    flags = _flags(changes, {"host": host, "http_port": http_port, "unix_socket": unix_socket})
    if record_arrivals is not None:
        flags["telemetry.record_arrivals"] = record_arrivals
    settings = load_settings(_source(source), os.environ, flags)
    with RichProgress() as progress:
        run(settings, Cache(cache_root(os.environ)), progress, _say)


@app.command
def demo(
    *,
    once: Once = False,
    http_port: Annotated[int, Parameter(help="Port the server is left on.")] = 8000,
    seconds: Seconds = 5.0,
) -> None:
    """Fetch a real model, serve it, ask it real questions, and measure it with batching off and on.

    Without a terminal it does the same and exits, as with --once.
    """
    from palio.demo import run_demo

    run_demo(http_port=http_port, seconds=seconds, serve_on=not once and sys.stdout.isatty())


@app.command
def bench(
    url: Annotated[str | None, Parameter(help="http://host:port, or unix:/path.")] = None,
    /,
    *,
    workload: Annotated[
        str, Parameter(help="text-embed, text-embed:mixed, text-embed:FILE, toy, tensor:SHAPE.")
    ] = "text-embed",
    way: Annotated[
        Literal["auto", "openai", "oip", "oip-binary", "json", "form"],
        Parameter(help="How to ask."),
    ] = "auto",
    model_name: Annotated[
        str, Parameter(name="--model", help="The model; found out if there is just one.")
    ] = "",
    path: Annotated[str, Parameter(help="For json and form: where to.")] = "/",
    template: Annotated[
        str, Parameter(help="For json and form: the body, with {text} {texts} {data} {n}.")
    ] = "",
    rate: Annotated[float | None, Parameter(help="Open loop: requests a second.")] = None,
    arrivals: Annotated[
        Literal["poisson", "constant", "gamma", "burst"], Parameter(help="How they arrive.")
    ] = "poisson",
    shape: Annotated[float, Parameter(help="Of gamma, or how many a burst has.")] = 1.0,
    trace: Annotated[str, Parameter(help="Open loop: a file of recorded arrivals.")] = "",
    concurrency: Annotated[
        int | None, Parameter(name=["--concurrency", "-c"], help="Closed loop: so many callers.")
    ] = None,
    requests: Annotated[
        int, Parameter(name=["--requests", "-n"], help="Closed loop: stop after so many.")
    ] = 0,
    duration: Annotated[
        str | None, Parameter(help="How long is measured, as in 20s: 10s, or the whole trace.")
    ] = None,
    warmup: Annotated[str, Parameter(help="How long before that is not counted.")] = "2s",
    timeout: Annotated[str, Parameter(help="When an answer counts as never given.")] = "10s",
    rows: Annotated[int, Parameter(help="Rows in each request.")] = 1,
    seed: Annotated[int, Parameter(help="Of inputs and arrivals.")] = 0,
    slo: Annotated[str, Parameter(help="As in p99<50ms or p99<50ms,errors<0.1%.")] = "",
    out: Annotated[str, Parameter(help="Keep every attempt in a new folder under this.")] = "",
    pid: Annotated[
        list[int] | None, Parameter(help="A process of the server to watch.", negative="")
    ] = None,
    capacity: Annotated[
        bool, Parameter(name="--find-capacity", help="The highest rate within the SLO.")
    ] = False,
    ramp: Annotated[bool, Parameter(help="Eight rates up to --rate, one after the other.")] = False,
    scenario: Annotated[
        Literal["single-stream", "multi-stream", "server", "offline"] | None,
        Parameter(help="MLPerf-style, not an MLPerf result."),
    ] = None,
    calibrate: Annotated[
        bool, Parameter(name="--self", help="Measure this client instead, and keep that.")
    ] = False,
) -> None:
    """One honest load test of any server: intended send times, checks, a verdict."""
    from rich.console import Console

    from palio.bench import command
    from palio.bench.asking import Asking
    from palio.core.errors import SettingsError
    from palio.settings import cache_root

    cache, console = cache_root(os.environ), Console()
    if calibrate:
        sys.exit(command.bench_self(cache, console))
    if url is None:
        raise SettingsError("name the server, as in `palio bench http://127.0.0.1:8000`")
    wish = command.Wish(
        url=url,
        workload=workload,
        asking=Asking(way=way, model=model_name, path=path, template=template),
        rate=rate,
        arrivals=arrivals,
        shape=shape,
        trace=trace,
        concurrency=concurrency,
        requests=requests,
        duration_s=_span(duration or ("0" if trace else "10s")),
        warmup_s=_span(warmup),
        timeout_s=_span(timeout),
        rows=rows,
        seed=seed,
        slo=slo,
        out=Path(out) if out else None,
        pids=tuple(pid or ()),
    )
    sys.exit(command.run(wish, cache, console, scenario=scenario, capacity=capacity, ramp=ramp))


@app.command
def doctor() -> None:
    """What this machine can do, what is missing, and the one command that mends it."""
    from rich.console import Console

    from palio.doctor import examine, render

    report = examine(os.environ)
    Console().print(render(report))
    sys.exit(report.exit_status)


@config.command
def explain(source: Source = None, /, *, changes: Changes = None) -> None:
    """Every effective setting, and where it came from."""
    from palio.settings import explain as explain_settings
    from palio.settings import load_settings

    settings = load_settings(_source(source), os.environ, _flags(changes, {}))
    for each in explain_settings(settings):
        _say(f"{each.key} = {each.value}  ({each.source})")


@model.command
def build(reference: str, /) -> None:
    """Fetch and build a model, such as zoo:minilm-l6, and say where it lies."""
    from palio.settings import cache_root
    from palio.toolchain.build import build as build_model
    from palio.toolchain.cache import Cache
    from palio.toolchain.progress_rich import RichProgress

    with RichProgress() as progress:
        _say(str(build_model(reference, Cache(cache_root(os.environ)), progress)))


def _flags(changes: list[str] | None, server: Mapping[str, object]) -> dict[str, object]:
    """Flags as dotted keys, values still as written."""
    from palio.core.errors import SettingsError

    flags = {f"server.{key}": value for key, value in server.items() if value is not None}
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals:
            raise SettingsError(f"--set {change}: write it as key=value")
        flags[key] = value
    return flags


def _span(text: str) -> float:
    """Seconds from `20s`, `500ms`, `2m`, or a bare number of seconds."""
    from palio.core.errors import SettingsError

    for unit, seconds in (("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("", 1.0)):
        if text.endswith(unit):
            try:
                return float(text.removesuffix(unit)) * seconds
            except ValueError:
                break
    raise SettingsError(f"{text!r} is no span of time; write 20s, 500ms or 2m")


def _source(source: str | None) -> str | None:
    """What was named; else a palio.yaml in this folder."""
    if source is None and Path("palio.yaml").exists():
        return "palio.yaml"
    return source


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    """Run the command line; what is wrong is said in a sentence, not in a traceback."""
    from palio.core.errors import PalioError, SettingsError

    try:
        app(print_error=False, exit_on_error=False)
    except (SettingsError, PalioError, CycloptsError) as error:
        _complain(str(error))
    except KeyboardInterrupt:
        # As a shell says it of a program that an interrupt ended: 128 + SIGINT.
        sys.exit(130)
    except Exception as error:
        from palio.toolchain.errors import ToolchainError

        if not isinstance(error, ToolchainError):
            raise
        _complain(str(error))


def _complain(message: str) -> None:
    print(f"palio: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
