"""The engine profile of this device, without loading the engine.

Only results of one profile are compared. The number after the slash is ours: raise it with every
change to the engine's settings, to the answers of our WASI or to what host calls cost in fuel.
"""

from __future__ import annotations

WASMTIME_VERSION = "50.0.1"
ENGINE_PROFILE = f"wasmtime-{WASMTIME_VERSION}/1"
