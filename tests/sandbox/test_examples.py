from __future__ import annotations

import collections
import re
import sys
from pathlib import Path

import pytest
import trio
from support.wasm import EXAMPLES, ModuleShelf, example, job_of

from sandbox.pool import Pool
from wire.execution import ExecutionStatus

TEXT = """It's the cat's whiskers, isn't it? The 'cat' sat; the Cat ran.
Zwölf Boxkämpfer jagen. 42 and 42 and 43
no newline at the end's end"""


def counted(text: str) -> str:
    """Count as the word count's comment says, in another language."""
    folded = re.sub("[A-Z]+", lambda match: match[0].lower(), text)
    words = re.findall(r"[a-z0-9\x80-\U0010ffff]+(?:'[a-z0-9\x80-\U0010ffff]+)*", folded)
    counts = collections.Counter(words)
    top = sorted(counts.items(), key=lambda item: (-item[1], item[0].encode()))[:20]
    head = (
        f"{text.count(chr(10))} lines, {len(words)} words ({len(counts)} different),"
        f" {len(text.encode())} bytes\n"
    )
    return head + "".join(f"{count:8} {word}\n" for word, count in top)


@pytest.mark.parametrize("text", [TEXT, "", "one", "\n\n", TEXT * 3000], ids=range(5))
async def test_the_word_count_counts(pool: Pool, shelf: ModuleShelf, text: str) -> None:
    job = job_of(shelf.add(example("wordcount/wordcount")), stdin=text.encode())
    assert (await pool.execute(job)).stdout.decode() == counted(text)


async def draw(pool: Pool, shelf: ModuleShelf, tile_count: int) -> bytes:
    module = shelf.add(example("mandelbrot/mandelbrot"))
    bands: dict[int, bytes] = {}

    async def draw_band(tile: int) -> None:
        args = ("96", "54", str(tile), str(tile_count), "300")
        execution = await pool.execute(job_of(module, *args))
        assert execution.exit_code == 0, execution.stderr
        bands[tile] = execution.stdout

    async with trio.open_nursery() as nursery:
        for tile in range(tile_count):
            nursery.start_soon(draw_band, tile)
    return b"".join(bands[tile] for tile in range(tile_count))


async def test_bands_of_any_count_make_the_same_picture(pool: Pool, shelf: ModuleShelf) -> None:
    whole = await draw(pool, shelf, 1)
    assert len(whole) == 96 * 54 * 3
    assert len(set(zip(whole[::3], whole[1::3], whole[2::3], strict=True))) > 500  # colours
    for tile_count in (2, 7, 32, 54):
        assert await draw(pool, shelf, tile_count) == whole


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("96", "54"), "give width"),
        (("96", "54", "0", "55", "9"), "tile_count must be"),
        (("96", "54", "5", "5", "9"), "tile_index must be"),
        (("0", "54", "0", "1", "9"), "width must be"),
        (("96", "54x", "0", "1", "9"), "height must be"),
        (("96", "54", "0", "1", "99999999999999999999"), "max_iterations must be"),
    ],
)
async def test_a_wrong_argument_is_named(
    pool: Pool, shelf: ModuleShelf, args: tuple[str, ...], message: str
) -> None:
    execution = await pool.execute(job_of(shelf.add(example("mandelbrot/mandelbrot")), *args))
    assert (execution.status, execution.exit_code) == (ExecutionStatus.EXITED, 2)
    assert message in execution.stderr.decode()


def test_every_example_is_built_small_and_says_how() -> None:
    sources = sorted(EXAMPLES.glob("*/*.c"))
    assert len(sources) >= 9
    for source in sources:
        assert source.with_suffix(".wasm").stat().st_size < 64_000
        text = source.read_text()
        assert f"-target wasm32-wasi -O2 -s -o {source.stem}.wasm {source.name}" in text
        assert f"meshctl submit examples/{source.parent.name}/{source.stem}.wasm" in text


async def test_a_source_builds_to_what_is_committed(
    pool: Pool, shelf: ModuleShelf, tmp_path: Path
) -> None:
    built = tmp_path / "built.wasm"
    source = EXAMPLES / "faults" / "exit_code.c"
    options = ["-target", "wasm32-wasi", "-O2", "-s", "-o", str(built), str(source)]
    await trio.run_process([sys.executable, "-m", "ziglang", "cc", *options])
    committed = shelf.add(example("faults/exit_code"))
    rebuilt = shelf.add(await trio.Path(built).read_bytes())
    for args in ((), ("7",), ("300",)):
        runs = [await pool.execute(job_of(module, *args)) for module in (committed, rebuilt)]
        assert runs[0].exit_code == runs[1].exit_code
    assert runs[0].exit_code == 300
