"""The names, types and numbers of WASI preview 1.

Source: WebAssembly/WASI, *legacy/preview1/docs.md* and *witx/typenames.witx*.
"""

from __future__ import annotations

import enum

WASI_MODULE = "wasi_snapshot_preview1"

# Parameters of every function: i = i32, I = i64. All return an i32 error number except proc_exit.
PARAMETERS: dict[str, str] = {
    "args_get": "ii",
    "args_sizes_get": "ii",
    "clock_res_get": "ii",
    "clock_time_get": "iIi",
    "environ_get": "ii",
    "environ_sizes_get": "ii",
    "fd_advise": "iIIi",
    "fd_allocate": "iII",
    "fd_close": "i",
    "fd_datasync": "i",
    "fd_fdstat_get": "ii",
    "fd_fdstat_set_flags": "ii",
    "fd_fdstat_set_rights": "iII",
    "fd_filestat_get": "ii",
    "fd_filestat_set_size": "iI",
    "fd_filestat_set_times": "iIIi",
    "fd_pread": "iiiIi",
    "fd_prestat_dir_name": "iii",
    "fd_prestat_get": "ii",
    "fd_pwrite": "iiiIi",
    "fd_read": "iiii",
    "fd_readdir": "iiiIi",
    "fd_renumber": "ii",
    "fd_seek": "iIii",
    "fd_sync": "i",
    "fd_tell": "ii",
    "fd_write": "iiii",
    "path_create_directory": "iii",
    "path_filestat_get": "iiiii",
    "path_filestat_set_times": "iiiiIIi",
    "path_link": "iiiiiii",
    "path_open": "iiiiiIIii",
    "path_readlink": "iiiiii",
    "path_remove_directory": "iii",
    "path_rename": "iiiiii",
    "path_symlink": "iiiii",
    "path_unlink_file": "iii",
    "poll_oneoff": "iiii",
    "proc_exit": "i",
    "proc_raise": "i",
    "random_get": "ii",
    "sched_yield": "",
    "sock_accept": "iii",
    "sock_recv": "iiiiii",
    "sock_send": "iiiii",
    "sock_shutdown": "ii",
}


def results_of(name: str) -> str:
    """Return the results of function `name`, in the letters of PARAMETERS."""
    return "" if name == "proc_exit" else "i"


class Errno(enum.IntEnum):
    """The error numbers that our host returns."""

    SUCCESS = 0
    BADF = 8
    FAULT = 21
    INVAL = 28
    NOSYS = 52
    NOTSOCK = 57
    NOTSUP = 58
    SPIPE = 70


class ClockId(enum.IntEnum):
    """Which clock a program reads."""

    REALTIME = 0
    MONOTONIC = 1
    PROCESS_CPUTIME = 2
    THREAD_CPUTIME = 3


class EventType(enum.IntEnum):
    """What a subscription of poll_oneoff waits for."""

    CLOCK = 0
    FD_READ = 1
    FD_WRITE = 2


RIGHT_FD_READ = 1 << 1
RIGHT_FD_WRITE = 1 << 6
RIGHT_POLL = 1 << 27
FILETYPE_UNKNOWN = 0
SUBSCRIPTION_CLOCK_ABSTIME = 1
