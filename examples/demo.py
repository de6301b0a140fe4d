"""Three devices on this machine become a mesh, share out real work, and prove what they did.

`make demo` runs it. Each device is a daemon of its own with a home of its own; the second and third
join by invitation, as they would on other machines. Everything here goes through the same control
socket that `meshctl` uses.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from meshd.client import ControlClient, TaskInput
from meshd.control_errors import ControlError
from meshd.control_frames import Frame
from scheduler.receipt import verify_receipt
from wire.ids import mesh_from_text
from wire.keys import Ed25519Verifier

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLES = REPOSITORY / "examples"
BINARIES = Path(sys.executable).parent

NAMES = ("attic", "garage", "kitchen")
WIDTH, HEIGHT, TILES, ITERATIONS = 1920, 1080, 32, 1000
TEXT_SUFFIXES = {".c", ".h", ".md", ".mjs", ".py", ".toml", ".txt", ""}
TEXT_BYTES_MAX = 1 << 20
START_S_MAX = 60.0
STOP_S_MAX = 10.0


class DemoFailed(Exception):
    """The demo cannot go on; the message says why."""


@dataclass(slots=True, kw_only=True)
class Device:
    """One daemon, as a child process."""

    name: str
    home: Path
    process: subprocess.Popen[bytes]

    def client(self) -> ControlClient:
        """Return a connection to its control socket."""
        return ControlClient(self.home)


@dataclass(slots=True)
class Run:
    """The tasks of one batch as they ended, and what they put out."""

    views: list[Frame] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)


def main() -> int:
    """Run the demo. Returns 0 if every task ran and every receipt was verified."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--to", type=Path, default=REPOSITORY / "build" / "mandelbrot.png")
    to: Path = arguments.parse_args().to
    directory = Path(tempfile.mkdtemp(prefix="meshd-demo-"))
    try:
        with _devices(directory) as devices:
            _work(devices, to)
    except (DemoFailed, ControlError) as error:
        print(f"demo: {error}", file=sys.stderr)
        _show_logs(directory)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted, the daemons are stopped", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print("\nThe daemons are stopped. For a mesh of your own: make install, then meshd start")
    return 0


def _work(devices: Sequence[Device], to: Path) -> None:
    _say("The mesh, as the first device sees it")
    with devices[0].client() as client:
        mesh = _show_peers(client.ask({"command": "peers"}))

    _say("Word count, one task for each folder of this repository")
    folders = _texts_by_folder()
    inputs = [TaskInput(stdin=text) for text in folders.values()]
    counted = _run(devices[0], "wordcount/wordcount.wasm", inputs)
    _show_counts(list(folders), counted)

    _say(f"Mandelbrot set, {WIDTH}x{HEIGHT}, in {TILES} tiles")
    numbers = (WIDTH, HEIGHT, TILES, ITERATIONS)
    tiles = [_tile(index, *numbers) for index in range(TILES)]
    drawn = _run(devices[0], "mandelbrot/mandelbrot.wasm", tiles)
    _show_shares(drawn)
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(_png(WIDTH, HEIGHT, b"".join(drawn.outputs)))
    print(f"  picture: {_shown(to)}")

    _say("Receipts, checked without a daemon")
    count = _verify(devices[0], mesh, [counted, drawn])
    print(f"  all {count} receipts verified, each with its output, against mesh {mesh[:12]}")


# --- devices ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _devices(directory: Path) -> Iterator[list[Device]]:
    _say("Starting three devices")
    devices: list[Device] = []
    try:
        started_s = time.monotonic()
        devices.append(_start(directory, NAMES[0]))
        _await_ready(devices[0])
        with devices[0].client() as client:
            invited = client.ask({"command": "invite", "uses": len(NAMES) - 1})
        devices += [_start(directory, name, join=invited["token"]) for name in NAMES[1:]]
        for device in devices[1:]:
            _await_ready(device)
        ready_s = time.monotonic()
        _await_links(devices)
        linked_s = time.monotonic() - ready_s
        print(f"  ready after {ready_s - started_s:.1f} s, all linked {linked_s:.1f} s later")
        yield devices
    finally:
        _stop(devices)


def _start(directory: Path, name: str, join: str | None = None) -> Device:
    home = directory / name
    command = [str(BINARIES / "meshd"), "start", "--home", str(home), "--name", name]
    command += ["--profile", "local", "--listen", "/ip4/127.0.0.1/tcp/0"]
    if join is not None:
        command += ["--join", "-"]
    with (
        (directory / f"{name}.out").open("wb") as out,
        (directory / f"{name}.log").open("wb") as log,
    ):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=log)
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write((join or "").encode() + b"\n")
    return Device(name=name, home=home, process=process)


def _await_ready(device: Device) -> None:
    ready = device.home.parent / f"{device.name}.out"
    _await(device, lambda: ready.read_bytes().startswith(b"ready"), "was not ready")
    print(f"  {ready.read_text().strip().partition(', home ')[0]}", flush=True)


def _await_links(devices: Sequence[Device]) -> None:
    for device in devices:
        with device.client() as client:
            wanted = len(devices) - 1
            is_linked = functools.partial(_is_linked_to, client, wanted)
            _await(device, is_linked, "did not find the others")


def _is_linked_to(client: ControlClient, count: int) -> bool:
    peers: list[Frame] = client.ask({"command": "peers"})["peers"]
    linked = [peer for peer in peers if peer["state"] == "linked" and peer["capabilities"]]
    return len(linked) == count


def _await(device: Device, is_done: Callable[[], bool], complaint: str) -> None:
    deadline_s = time.monotonic() + START_S_MAX
    while not is_done():
        if device.process.poll() is not None:
            raise DemoFailed(f"{device.name} ended with code {device.process.returncode}")
        if time.monotonic() > deadline_s:
            raise DemoFailed(f"{device.name} {complaint} within {START_S_MAX:.0f} s")
        time.sleep(0.1)


def _stop(devices: Sequence[Device]) -> None:
    for device in devices:
        device.process.terminate()
    for device in devices:
        try:
            device.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            device.process.kill()
            device.process.wait()
            print(f"demo: {device.name} had to be killed", file=sys.stderr)


# --- work ---------------------------------------------------------------------------------------


def _tile(index: int, width: int, height: int, count: int, iterations: int) -> TaskInput:
    return TaskInput(args=[str(number) for number in (width, height, index, count, iterations)])


def _run(device: Device, module: str, inputs: Sequence[TaskInput]) -> Run:
    """Submit one batch, follow it to its end, and bring the outputs."""
    run = Run()
    with device.client() as client:
        started_s = time.monotonic()
        accepted = client.submit((EXAMPLES / module).read_bytes(), inputs)
        done: dict[int, Frame] = {}
        for view in client.follow({"command": "wait_batch", "task": accepted["tasks"][0]}):
            if view["is_decided"]:
                done[view["index"]] = view
            _progress(len(done), len(inputs), started_s)
        run.views = [done[index] for index in sorted(done)]
        for view in run.views:
            if view["status"] != "exited" or view["exit_code"] != 0:
                raise DemoFailed(f"task {view['id']} did not run: {view}")
            run.outputs.append(_output(client, view["id"]))
    return run


def _output(client: ControlClient, task: str) -> bytes:
    return _download(client, {"command": "result", "task": task}, "stdout")


def _download(client: ControlClient, request: Frame, stream: str) -> bytes:
    received = bytearray()

    def take(name: str, chunk: bytes) -> None:
        if name == stream:
            received.extend(chunk)

    client.download(request, take)
    return bytes(received)


def _verify(device: Device, mesh: str, runs: Sequence[Run]) -> int:
    count = 0
    with device.client() as client:
        for run in runs:
            for view, output in zip(run.views, run.outputs, strict=True):
                request = {"command": "receipt", "task": view["id"], "with_digest_key": True}
                verdict = verify_receipt(
                    _download(client, request, "receipt"),
                    verifier=Ed25519Verifier(),
                    mesh=mesh_from_text(mesh),
                    result=output,
                )
                if not verdict.is_good:
                    raise DemoFailed(f"the receipt of {view['id']} is not good: {verdict}")
                count += 1
    return count


# --- what is shown ------------------------------------------------------------------------------


def _say(title: str) -> None:
    print(f"\n== {title}", flush=True)


def _progress(done: int, count: int, started_s: float) -> None:
    if sys.stdout.isatty() or done == count:
        line = f"  {done} of {count} tasks done after {time.monotonic() - started_s:.1f} s"
        start = "\r" if sys.stdout.isatty() else ""
        print(f"{start}{line}", end="\n" if done == count else "", flush=True)


def _show_peers(answer: Frame) -> str:
    print("  device    health   bandwidth  latency  compute  reputation  round trip")
    for peer in answer["peers"]:
        health = peer["health"]
        terms = ("bandwidth", "latency", "compute", "reputation")
        shown = [f"{health[term]:.2f}" if health[term] is not None else "-" for term in terms]
        trip_us = peer["round_trip_us"]
        trip = "-" if trip_us is None else f"{trip_us / 1000:.1f} ms"
        print(
            f"  {peer['name']:8}  {health['score']:6.2f}   {shown[0]:>9}  {shown[1]:>7}"
            f"  {shown[2]:>7}  {shown[3]:>10}  {trip:>10}"
        )
    print("  (1 is best, - is not known yet: what is not known does not count)")
    return str(answer["mesh"])


def _shown(path: Path) -> Path:
    return path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path


def _texts_by_folder() -> dict[str, bytes]:
    texts: dict[str, list[bytes]] = {}
    for path in _tracked_files():
        relative = path.relative_to(REPOSITORY)
        if path.suffix not in TEXT_SUFFIXES or path.stat().st_size > TEXT_BYTES_MAX:
            continue
        folder = relative.parts[0] if len(relative.parts) > 1 else "(top)"
        texts.setdefault(folder, []).append(path.read_bytes())
    return {folder: b"\n".join(parts) for folder, parts in sorted(texts.items())}


def _tracked_files() -> list[Path]:
    """Return the files of the repository; without git, all that are not hidden or built."""
    git = shutil.which("git")
    listed = (
        subprocess.run([git, "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=False)
        if git is not None
        else None
    )
    if listed is not None and listed.returncode == 0:
        names = listed.stdout.decode().split("\0")
        return [path for name in names if name and (path := REPOSITORY / name).is_file()]
    skipped = {"build", "dist", "node_modules", "__pycache__"}
    return [
        path
        for path in REPOSITORY.rglob("*")
        if path.is_file()
        and not any(
            part.startswith(".") or part in skipped for part in path.relative_to(REPOSITORY).parts
        )
    ]


def _show_counts(folders: Sequence[str], run: Run) -> None:
    print("  folder        lines     words  most frequent         ran on    in")
    totals: Counter[str] = Counter()
    for folder, view, output in zip(folders, run.views, run.outputs, strict=True):
        head, *words = output.decode("utf-8", "replace").splitlines()
        lines_count, words_count = (int(part.split()[0]) for part in head.split(",")[:2])
        totals.update(lines=lines_count, words=words_count)
        frequent = " ".join(word.split()[1] for word in words[:3])
        print(
            f"  {folder:11} {lines_count:7,}  {words_count:8,}  {frequent[:20]:20}"
            f"  {view['executor_name']:8} {view['run_us'] / 1000:4.0f} ms"
        )
    print(f"  {'together':11} {totals['lines']:7,}  {totals['words']:8,}")


def _show_shares(run: Run) -> None:
    by_device: dict[str, list[int]] = {}
    for view in run.views:
        by_device.setdefault(view["executor_name"], []).append(view["run_us"])
    for name, times_us in sorted(by_device.items()):
        print(
            f"  {name:8}  {len(times_us):2} tiles, {sum(times_us) / 1e6:5.1f} s of work,"
            f" {min(times_us) / 1e6:.2f} to {max(times_us) / 1e6:.2f} s each"
        )


def _png(width: int, height: int, rgb: bytes) -> bytes:
    """Return RGB rows as a PNG (W3C, *PNG Specification*, third edition)."""
    if len(rgb) != width * height * 3:
        raise DemoFailed(f"the tiles have {len(rgb)} bytes, not {width * height * 3}")
    stride = width * 3
    rows = b"".join(b"\0" + rgb[row * stride : (row + 1) * stride] for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, body)
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _show_logs(directory: Path) -> None:
    for log in sorted(directory.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-15:]
        print("\n".join([f"--- {log.stem}", *lines]), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
