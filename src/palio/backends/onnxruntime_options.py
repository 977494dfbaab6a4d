"""Our words for ONNX Runtime's session options, there and back again.

Each is set from the settings and read back from the session, so that what is reported is what is
in effect and not what was hoped for.
"""

from __future__ import annotations

from typing import Final, Protocol

import onnxruntime as ort  # type: ignore[import-untyped]  # it ships no types

from palio.backends.options import Options
from palio.core.errors import SettingsError

_MODES: Final = {
    "sequential": ort.ExecutionMode.ORT_SEQUENTIAL,
    "parallel": ort.ExecutionMode.ORT_PARALLEL,
}
_LEVELS: Final = {
    "disable": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "layout": ort.GraphOptimizationLevel.ORT_ENABLE_LAYOUT,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_SEVERITIES: Final = ("verbose", "info", "warning", "error", "fatal")

# Attributes of the options that are true or false, with our defaults.
_FLAGS: Final = {
    "enable_cpu_mem_arena": True,
    "enable_mem_pattern": True,
    "enable_mem_reuse": True,
    "use_deterministic_compute": False,
}
# The same for entries of its configuration, each "0" or "1". A thread that spins while it waits
# takes its CPU from the door and the tokeniser, so ours sleep unless told.
_ENTRIES: Final = {
    "allow_spinning": ("session.intra_op.allow_spinning", False),
    "allow_inter_op_spinning": ("session.inter_op.allow_spinning", False),
    "flush_denormals": ("session.set_denormal_as_zero", False),
    "disable_prepacking": ("session.disable_prepacking", False),
}

OPTIONS: Final = (
    "execution_mode",
    "inter_op_threads",
    "graph_optimization_level",
    "log_severity",
    "dynamic_block_base",
    *_FLAGS,
    *_ENTRIES,
)
_BLOCK_BASE: Final = "session.dynamic_block_base"


class Session(Protocol):
    """What is read of a session to say what is in effect."""

    def get_session_options(self) -> ort.SessionOptions: ...
    def get_providers(self) -> list[str]: ...
    def get_provider_options(self) -> dict[str, dict[str, str]]: ...


def session_options(options: Options, *, threads: int) -> ort.SessionOptions:
    """ONNX Runtime's form of the user's options.

    Raises:
        SettingsError: a value is of the wrong kind, or the option could not take effect.
    """
    mode = options.choice("execution_mode", tuple(_MODES), default="sequential")
    inter_op = options.whole("inter_op_threads", default=1, at_least=1)
    if mode == "sequential" and inter_op > 1:
        raise SettingsError(
            f"inter_op_threads {inter_op} does nothing while execution_mode is sequential"
        )
    if threads < 1:
        raise SettingsError(f"threads must be ≥ 1 (got {threads})")
    level = options.choice("graph_optimization_level", tuple(_LEVELS), default="all")
    # What it logs as an error it also raises; the caller hears of it and stderr need not.
    severity = options.choice("log_severity", _SEVERITIES, default="fatal")
    asked = ort.SessionOptions()
    asked.intra_op_num_threads = threads
    asked.inter_op_num_threads = inter_op
    asked.execution_mode = _MODES[mode]
    asked.graph_optimization_level = _LEVELS[level]
    asked.log_severity_level = _SEVERITIES.index(severity)
    for name, default in _FLAGS.items():
        setattr(asked, name, options.flag(name, default=default))
    for name, (entry, default) in _ENTRIES.items():
        asked.add_session_config_entry(entry, "1" if options.flag(name, default=default) else "0")
    block_base = options.whole("dynamic_block_base", default=0)
    asked.add_session_config_entry(_BLOCK_BASE, str(block_base))
    return asked


def read_back(session: Session) -> tuple[int, dict[str, str | int | bool]]:
    """How many threads a session computes on, and every option as it is in effect."""
    found = session.get_session_options()
    options: dict[str, str | int | bool] = {
        "execution_mode": _word(_MODES, found.execution_mode),
        "inter_op_threads": found.inter_op_num_threads,
        "graph_optimization_level": _word(_LEVELS, found.graph_optimization_level),
        "log_severity": _SEVERITIES[found.log_severity_level],
        "dynamic_block_base": int(found.get_session_config_entry(_BLOCK_BASE)),
    }
    options |= {name: bool(getattr(found, name)) for name in _FLAGS}
    options |= {
        name: found.get_session_config_entry(entry) == "1" for name, (entry, _) in _ENTRIES.items()
    }
    return found.intra_op_num_threads, options


def _word(words: dict[str, object], value: object) -> str:
    return next(word for word, meaning in words.items() if meaning == value)
