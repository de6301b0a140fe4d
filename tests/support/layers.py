"""The rules of the architecture that an import can break, checked on source text.

Imports point left only: wire <- telemetry, sandbox <- p2p <- scheduler <- meshd <- simulations.
Every module is a core, pure and deterministic, unless `SHELLS` names it. A core imports what
`CORE_LIBRARIES` lists, other cores, and nothing else; it reads no file, no clock and no randomness
of the process. One look at `SHELLS` tells where meshd touches the world.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

RANKS = {
    "wire": 0,
    "telemetry": 1,
    "sandbox": 1,
    "p2p": 2,
    "scheduler": 3,
    "meshd": 4,
    "simulations": 5,
}

# Modules that do input and output. A line here is a decision: prefer a core and a thinner shell.
SHELLS = frozenset(
    {
        "meshd.blobfile",
        "meshd.blobstore",
        "meshd.cli.completion",
        "meshd.cli.explaining",
        "meshd.cli.files",
        "meshd.cli.following",
        "meshd.cli.further",
        "meshd.cli.grammar",
        "meshd.cli.history",
        "meshd.cli.jobfile",
        "meshd.cli.map_items",
        "meshd.cli.map_progress",
        "meshd.cli.map_run",
        "meshd.cli.map_state",
        "meshd.cli.mapping",
        "meshd.cli.mesh",
        "meshd.cli.meshctl",
        "meshd.cli.meshd",
        "meshd.cli.output",
        "meshd.cli.program_output",
        "meshd.cli.program_words",
        "meshd.cli.receipts",
        "meshd.cli.references",
        "meshd.cli.removal",
        "meshd.cli.starting",
        "meshd.cli.stopping",
        "meshd.cli.streams",
        "meshd.cli.submission",
        "meshd.cli.tasks",
        "meshd.cli.terms",
        "meshd.cli.version",
        "meshd.cli.watch",
        "meshd.client",
        "meshd.clock",
        "meshd.config",
        "meshd.config_layers",
        "meshd.content",
        "meshd.control",
        "meshd.control_listener",
        "meshd.control_stream",
        "meshd.control_upload",
        "meshd.daemon",
        "meshd.defects",
        "meshd.finding",
        "meshd.heap",
        "meshd.home",
        "meshd.home_mesh",
        "meshd.keyfile",
        "meshd.log_cleaning",
        "meshd.logs",
        "meshd.mailbox",
        "meshd.membership",
        "meshd.questions",
        "meshd.recovery",
        "meshd.runs",
        "meshd.secrecy",
        "meshd.sensing",
        "meshd.shell",
        "meshd.shell_parts",
        "meshd.status",
        "meshd.store",
        "meshd.store_identity",
        "meshd.store_schema",
        "meshd.version",
        "meshd.writer",
        "p2p.accepting",
        "p2p.addresses",
        "p2p.blob_exchange",
        "p2p.blob_fetcher",
        "p2p.blob_provider",
        "p2p.blob_server",
        "p2p.blob_work",
        "p2p.circuit_address",
        "p2p.circuit_connection",
        "p2p.circuit_messages",
        "p2p.circuits",
        "p2p.connections",
        "p2p.courtesy",
        "p2p.dht",
        "p2p.dialling",
        "p2p.framing",
        "p2p.gate",
        "p2p.gossip_intake",
        "p2p.guards",
        "p2p.handshake",
        "p2p.host",
        "p2p.hosting",
        "p2p.identity",
        "p2p.join_server",
        "p2p.joining",
        "p2p.judge",
        "p2p.kad_query",
        "p2p.link",
        "p2p.link_intake",
        "p2p.link_table",
        "p2p.links",
        "p2p.mdns",
        "p2p.members_view",
        "p2p.muxed_stream",
        "p2p.muxing",
        "p2p.ping",
        "p2p.private_connection",
        "p2p.prompt_lock",
        "p2p.pubsub",
        "p2p.relay",
        "p2p.send_queue",
        "p2p.services",
        "p2p.swarm",
        "p2p.transport",
        "sandbox.cache_entry",
        "sandbox.child",
        "sandbox.child_main",
        "sandbox.compilation",
        "sandbox.compiler",
        "sandbox.engine",
        "sandbox.frames",
        "sandbox.hardening",
        "sandbox.linear_memory",
        "sandbox.native_cache",
        "sandbox.pool",
        "sandbox.worker",
        "sandbox.worker_handle",
        "sandbox.worker_queue",
        "simulations.__main__",
        "simulations.cli.diff",
        "simulations.cli.files",
        "simulations.cli.grammar",
        "simulations.cli.replay",
        "simulations.cli.run",
        "simulations.cli.shown",
        "simulations.cli.shrink",
        "simulations.cli.sim",
        "simulations.cli.sources",
        "simulations.cli.standing",
        "simulations.cli.swarm",
        "simulations.commit",
        "simulations.garbage",
        "simulations.png",
        "simulations.scenarios",
        "simulations.workers",
        "telemetry.nvidia",
        "telemetry.sampler",
    }
)

# py-libp2p is fenced off: whatever else wants it asks one of these.
LIBP2P_MODULES = frozenset(
    {
        "p2p.circuit_address",
        "p2p.circuit_connection",
        "p2p.circuit_messages",
        "p2p.connections",
        "p2p.courtesy",
        "p2p.dht",
        "p2p.gate",
        "p2p.gossip_intake",
        "p2p.guards",
        "p2p.host",
        "p2p.identity",
        "p2p.kad_query",
        "p2p.members_view",
        "p2p.muxed_stream",
        "p2p.muxing",
        "p2p.private_connection",
        "p2p.prompt_lock",
        "p2p.pubsub",
        "p2p.services",
        "p2p.swarm",
        "p2p.transport",
    }
)

# The daemon never loads the engine: only the programs of the worker processes do.
WASMTIME_MODULES = frozenset(
    {
        "sandbox.engine",
        "sandbox.linear_memory",
    }
)

# libsodium draws nonces by itself here. Hosts inject these; the simulator injects its own.
NONCE_DRAWING_MODULES = frozenset({"wire.content", "wire.keys"})

CORE_LIBRARIES = frozenset(
    {
        "Crypto.Cipher",
        "__future__",
        "abc",
        "base64",
        "bisect",
        "blake3",
        "collections",
        "contextlib",
        "copy",
        "dataclasses",
        "enum",
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "hmac",
        "ipaddress",
        "itertools",
        "json",
        "math",
        "msgpack",
        "msgspec",
        "nacl.bindings",
        "nacl.exceptions",
        "nacl.public",
        "nacl.pwhash",
        "nacl.secret",
        "nacl.signing",
        "operator",
        "random",
        "re",
        "string",
        "struct",
        "textwrap",
        "tomllib",
        "types",
        "typing",
        "unicodedata",
    }
)

# Input, output, and what differs between two processes: `hash` of text is salted.
_CALLS_REFUSED = frozenset({"open", "print", "input", "breakpoint", "__import__", "hash"})


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name, `package.module.name` in full, and where."""

    name: str
    line: int

    @property
    def library(self) -> str:
        """The top level of what is imported."""
        return self.name.partition(".")[0]

    def is_of(self, modules: frozenset[str]) -> bool:
        """Whether one of `modules` is imported, or something from it."""
        return any(self.name == module or self.name.startswith(f"{module}.") for module in modules)


def modules() -> Iterator[tuple[str, Path]]:
    """Yield the name and the file of every module of our packages, in order."""
    for package in RANKS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def offences(module: str, source: str) -> list[str]:
    """Return what the `source` of `module` breaks, a line each; empty if nothing."""
    tree = ast.parse(source)
    found = list(_upward_imports(module, tree))
    found += _fence_breaches(module, tree)
    if module not in SHELLS:
        found += core_offences(module, tree)
    return [f"{module}:{line}: {what}" for line, what in sorted(found)]


def core_offences(module: str, tree: ast.Module) -> list[tuple[int, str]]:
    """Return what a core must not do and `module` does, as (line, what)."""
    found = []
    for each in _imports(tree):
        if each.is_of(SHELLS):
            found.append((each.line, f"a core imports the shell {each.name}"))
        elif each.library not in RANKS and not each.is_of(CORE_LIBRARIES):
            found.append((each.line, f"a core imports {each.library}, which is not pure"))
    found += _calls_refused(tree)
    found += _global_randomness(tree)
    if module not in NONCE_DRAWING_MODULES:
        found += _drawn_nonces(tree)
    return found


def _imports(tree: ast.Module) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Import("." * node.level + f"{node.module or ''}.{alias.name}", node.lineno)


def _upward_imports(module: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    package = module.partition(".")[0]
    for each in _imports(tree):
        if each.name.startswith("."):
            yield each.line, "a relative import: name the package"
        elif each.library in RANKS and each.library != package:
            if RANKS[each.library] >= RANKS[package]:
                yield each.line, f"{package} imports {each.library}, which is above or beside it"
            elif package == "scheduler" and each.library == "p2p" and each.is_of(SHELLS):
                yield each.line, f"scheduler imports the shell {each.name} of p2p"


def _fence_breaches(module: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    for each in _imports(tree):
        if each.library in ("libp2p", "multiaddr") and module not in LIBP2P_MODULES:
            yield each.line, f"{each.library} outside the modules that fence it off"
        if each.library == "wasmtime" and module not in WASMTIME_MODULES:
            yield each.line, "wasmtime outside the worker's modules"


def _calls_refused(tree: ast.Module) -> Iterator[tuple[int, str]]:
    own_hashes = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__hash__"
        for inner in ast.walk(node)
    }
    for call in _calls(tree):
        if (
            isinstance(call.func, ast.Name)
            and call.func.id in _CALLS_REFUSED
            and id(call) not in own_hashes
        ):
            yield call.lineno, f"a core calls {call.func.id}()"


def _global_randomness(tree: ast.Module) -> Iterator[tuple[int, str]]:
    has_random = False
    for each in _imports(tree):
        has_random |= each.name == "random"
        if each.library == "random" and each.name not in ("random", "random.Random"):
            yield each.line, f"a core draws from the process: {each.name}"
    for node in ast.walk(tree) if has_random else ():
        match node:
            case ast.Attribute(value=ast.Name(id="random"), attr=attribute):
                if attribute != "Random":
                    yield node.lineno, f"a core draws from the process: random.{attribute}"
    for call in _calls(tree):
        if _name(call) == "Random" and not call.args:
            yield call.lineno, "a core makes a Random without a seed"


def _drawn_nonces(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for call in _calls(tree):
        has_nonce = len(call.args) > 1 or any(key.arg == "nonce" for key in call.keywords)
        if _name(call) in ("SealedBox", "generate") or (_name(call) == "encrypt" and not has_nonce):
            yield call.lineno, f"a core lets libsodium draw: {_name(call)}()"


def _calls(tree: ast.Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _name(call: ast.Call) -> str | None:
    """Return the last part of the name that is called."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else None
