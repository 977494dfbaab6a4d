"""Makes models: fetch, build, export, optimise, quantise, and prove they still answer alike.

Turns a reference such as `zoo:minilm-l6` into a folder that a backend can load. Never serves,
and never reads a setting: the cache's place and the progress to report to are given to it.
"""

from palio.toolchain.build import build
from palio.toolchain.cache import Cache
from palio.toolchain.errors import ToolchainError
from palio.toolchain.manifests import read_manifest, verify_files, write_manifest
from palio.toolchain.progress import Progress, Silent
from palio.toolchain.progress_rich import RichProgress
from palio.toolchain.zoo import ZOO, ZooModel, zoo_model

__all__ = [
    "ZOO",
    "Cache",
    "Progress",
    "RichProgress",
    "Silent",
    "ToolchainError",
    "ZooModel",
    "build",
    "read_manifest",
    "verify_files",
    "write_manifest",
    "zoo_model",
]
