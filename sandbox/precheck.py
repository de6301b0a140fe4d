"""Whether a module's bytes may reach a compiler, told from their structure alone.

A compiler is an expensive thing to hand hostile bytes to: 390 KiB of empty functions keep it busy
for a quarter of a minute. So counts and sizes are bounded here, in plain Python that never looks
inside a function, and what our sandbox cannot run is refused with a line that says what to do. What
passes is still validated by the engine, in the compiler process.

Source: *WebAssembly Core Specification 2.0*, section 5.5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from sandbox.errors import NotWasm, UnsupportedModule
from sandbox.wasi_abi import PARAMETERS, WASI_MODULE, results_of
from wire.limits import MIB, MODULE_BYTES_MAX

TYPE_COUNT_MAX = 20_000
IMPORT_COUNT_MAX = 200
FUNCTION_COUNT_MAX = 50_000
EXPORT_COUNT_MAX = 10_000
BODY_BYTES_MAX = 1 * MIB

_TYPE, _IMPORT, _FUNCTION, _EXPORT, _CODE = 1, 2, 3, 7, 10
_COUNTS_MAX = {
    _TYPE: ("types", TYPE_COUNT_MAX),
    _IMPORT: ("imports", IMPORT_COUNT_MAX),
    _FUNCTION: ("functions", FUNCTION_COUNT_MAX),
    _EXPORT: ("exports", EXPORT_COUNT_MAX),
    _CODE: ("functions", FUNCTION_COUNT_MAX),
}
_LETTERS = {0x7F: "i", 0x7E: "I", 0x7D: "f", 0x7C: "F"}
_FUNCTION_KIND = 0
_FunctionType: TypeAlias = tuple[str, str]  # parameters and results, a letter each
_BUILD_HINT = (
    "build a program for WASI preview 1: `zig cc -target wasm32-wasi`, "
    "`clang --target=wasm32-wasi`, Rust's wasm32-wasip1 or Go's GOOS=wasip1"
)


def check_module(module: bytes) -> None:
    """Return if `module` is a WASI preview 1 command within bounds.

    Raises UnsupportedModule (NotWasm if it is no WebAssembly) with one line that says what to do.
    """
    _check_preamble(module)
    try:
        _ModuleReader(module).check()
    except IndexError as error:
        raise UnsupportedModule(_damaged("it ends in the middle")) from error


def _check_preamble(module: bytes) -> None:
    if len(module) > MODULE_BYTES_MAX:
        raise UnsupportedModule(
            f"the module has {len(module)} bytes, at most {MODULE_BYTES_MAX} are run; "
            "strip it (`-s` or `wasm-strip`) or split the program"
        )
    if module[:4] != b"\0asm":
        raise NotWasm(_what_else(module))
    if module[4:8] == b"\x0d\0\1\0":
        raise UnsupportedModule(
            f"this is a WebAssembly component (WASI preview 2), meshd runs modules; {_BUILD_HINT}"
        )
    if module[4:8] != b"\1\0\0\0":
        raise UnsupportedModule(f"this is WebAssembly of an unknown version; {_BUILD_HINT}")


def _what_else(module: bytes) -> str:
    if not module:
        return f"the file is empty; {_BUILD_HINT}"
    if module[:4] == b"\x7fELF":
        return f"this is a native program, not WebAssembly; {_BUILD_HINT}"
    if module.lstrip()[:7] == b"(module":
        return "this is WebAssembly text; make a binary of it with `wat2wasm FILE.wat`"
    return f"this is not WebAssembly: it starts with {module[:4].hex(' ')}, not 00 61 73 6d; " + (
        _BUILD_HINT
    )


class _ModuleReader:
    """Reads the sections that matter. Running off the end is an IndexError."""

    def __init__(self, module: bytes) -> None:
        self._module = module
        self._sections: dict[int, tuple[int, int]] = {}
        self._imported_types: list[int] = []

    def check(self) -> None:
        for section, at, end in self._walk_sections():
            if section == 0:
                continue
            if section in self._sections:
                raise UnsupportedModule(_damaged(f"section {section} appears twice"))
            self._sections[section] = (at, end)
            if section in _COUNTS_MAX:
                self._check_count(section, at)
        types = list(self._function_types())
        self._check_imports(types)
        self._check_exports(types)
        self._check_bodies()

    def _walk_sections(self) -> Iterator[tuple[int, int, int]]:
        at = 8
        while at < len(self._module):
            section = self._module[at]
            size, at = self._leb(at + 1)
            if at + size > len(self._module):
                raise UnsupportedModule(_damaged(f"section {section} is longer than the file"))
            yield section, at, at + size
            at += size

    def _check_count(self, section: int, at: int) -> None:
        what, count_max = _COUNTS_MAX[section]
        count, _ = self._leb(at)
        if count > count_max:
            raise UnsupportedModule(
                f"the module has {count} {what}, at most {count_max} are compiled; "
                "build it with optimisation (-O2) or split the program"
            )

    def _function_types(self) -> Iterator[_FunctionType]:
        """Yield the types up to the first that is no function's."""
        count, at = self._open(_TYPE)
        for _ in range(count):
            if self._module[at] != 0x60:
                return  # a type of a proposal that the engine will refuse
            parameters, at = self._value_types(at + 1)
            results, at = self._value_types(at)
            yield parameters, results

    def _value_types(self, at: int) -> tuple[str, int]:
        count, at = self._leb(at)
        letters = "".join(_LETTERS.get(kind, "?") for kind in self._module[at : at + count])
        return letters, at + count

    def _check_imports(self, types: list[_FunctionType]) -> None:
        count, at = self._open(_IMPORT)
        for _ in range(count):
            module, at = self._name(at)
            name, at = self._name(at)
            kind = self._module[at]
            if module != WASI_MODULE or name not in PARAMETERS:
                raise UnsupportedModule(_unknown_import(module, name))
            index, at = self._leb(at + 1)
            expected = (PARAMETERS[name], results_of(name))
            if kind != _FUNCTION_KIND or _at(types, index) != expected:
                raise UnsupportedModule(
                    f"it imports {module}.{name} with a type that WASI preview 1 does not give it; "
                    f"rebuild it with a current toolchain: {_BUILD_HINT}"
                )
            self._imported_types.append(index)

    def _check_exports(self, types: list[_FunctionType]) -> None:
        count, at = self._open(_EXPORT)
        names = set()
        for _ in range(count):
            name, at = self._name(at)
            kind = self._module[at]
            index, at = self._leb(at + 1)
            names.add(name)
            if name == "_start":
                if kind == _FUNCTION_KIND and _at(types, self._type_of(index)) == ("", ""):
                    return
                raise UnsupportedModule(f"its _start is no function () -> (); {_BUILD_HINT}")
        if "_initialize" in names:
            raise UnsupportedModule(
                "this is a WASI reactor (a library), meshd runs commands: give it a main() and "
                "build it without -mexec-model=reactor"
            )
        raise UnsupportedModule(f"it exports no _start, so nothing can be run; {_BUILD_HINT}")

    def _type_of(self, function: int) -> int:
        """Return the index of the type of `function`, which counts imports first."""
        if function < len(self._imported_types):
            return self._imported_types[function]
        count, at = self._open(_FUNCTION)
        skip = function - len(self._imported_types)
        if skip >= count:
            raise UnsupportedModule(_damaged("an export names a function that is not there"))
        index = 0
        for _ in range(skip + 1):
            index, at = self._leb(at)
        return index

    def _check_bodies(self) -> None:
        count, at = self._open(_CODE)
        for number in range(count):
            size, at = self._leb(at)
            if size > BODY_BYTES_MAX:
                raise UnsupportedModule(
                    f"function {number} has {size} bytes of code, at most {BODY_BYTES_MAX} are "
                    "compiled; split it"
                )
            at += size
        if count and at != self._sections[_CODE][1]:
            raise UnsupportedModule(_damaged("the code does not fill its section"))

    def _open(self, section: int) -> tuple[int, int]:
        """Return the count of a section's entries and where they start; none if it is absent."""
        if section not in self._sections:
            return 0, 0
        return self._leb(self._sections[section][0])

    def _name(self, at: int) -> tuple[str, int]:
        size, at = self._leb(at)
        return self._module[at : at + size].decode("utf-8", "replace"), at + size

    def _leb(self, at: int) -> tuple[int, int]:
        """Return an unsigned LEB128 of at most five bytes, and what follows it."""
        byte = self._module[at]
        if byte < 0x80:
            return byte, at + 1
        number, shift = byte & 0x7F, 7
        while byte >= 0x80:
            at += 1
            byte = self._module[at]
            number |= (byte & 0x7F) << shift
            shift += 7
            if shift > 35:
                raise UnsupportedModule(_damaged("a number has too many digits"))
        return number, at + 1


def _at(types: list[_FunctionType], index: int) -> _FunctionType | None:
    return types[index] if index < len(types) else None


def _unknown_import(module: str, name: str) -> str:
    imported = ascii(f"{module[:40]}.{name[:60]}")[1:-1]  # names may hold anything
    if module == "wasi_unstable":
        why = "which is the WASI of before 2020"
    elif module.startswith("wasi:"):
        why = "which is WASI preview 2"
    elif module.startswith(("wbg", "__wbindgen", "go", "gojs")):
        why = "which only a JavaScript host has"
    else:
        why = "which meshd does not offer"
    return f"it imports {imported}, {why}; {_BUILD_HINT}"


def _damaged(how: str) -> str:
    return f"the WebAssembly module is damaged: {how}; build or copy it again"
