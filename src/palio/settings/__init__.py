"""Every room's settings in one place: read from file, environment and flags, and checked.

`palio.yaml` is the frozen classes in `palio.settings.tree`, key by key; nothing below this room
reads a settings file or the environment. A key that is unknown, unusable or would have no effect
stops the start with one line that says where it was written.
"""

from palio.settings.explain import Effective, explain
from palio.settings.load import load_settings
from palio.settings.places import cache_root
from palio.settings.reference import json_schema, reference_page
from palio.settings.tree import (
    BatchSettings,
    CacheSettings,
    EdgeSettings,
    ModelSettings,
    ServerSettings,
    Settings,
    TelemetrySettings,
)

__all__ = [
    "BatchSettings",
    "CacheSettings",
    "EdgeSettings",
    "Effective",
    "ModelSettings",
    "ServerSettings",
    "Settings",
    "TelemetrySettings",
    "cache_root",
    "explain",
    "json_schema",
    "load_settings",
    "reference_page",
]
