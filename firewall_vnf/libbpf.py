"""The part of libbpf that we need: load an object file, attach it with tc, run it once, read and write maps.

::

    with Object(path) as loaded:
        program = os.dup(loaded.program("geneve_endpoint"))
    attach(program, interface_index)
    maps_of_program(program)["config"].update(key, value)

Nothing is pinned: an attached program and its maps live as long as the interface that holds the filter. Another
process finds them again there: :func:`attached_program`, :func:`maps_of_program`. Keys and values are bytes, laid out
as in the C source. Every failure is a :class:`BpfError` with libbpf's own words.

API: libbpf's ``libbpf.h`` and ``bpf.h``; the numbers below are the kernel's, ``linux/bpf.h``.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

TC_INGRESS = 1
TC_REPLACE = 1
#: Where :func:`attach` puts its filter.
TC_HANDLE = TC_PRIORITY = 1
STRICT_ALL = 0xFFFFFFFF
PER_CPU_TYPES = {5, 6, 10, 21}  # hash, array, LRU hash, cgroup storage
#: membarrier(2): the system call's number, and the command that waits for a grace period of the kernel's RCU.
MEMBARRIER = {"x86_64": 324, "aarch64": 283}
MEMBARRIER_CMD_GLOBAL = 1


class BpfError(Exception):
    """libbpf or the kernel refused, or there is no libbpf; one line."""


class TcHook(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("interface", ctypes.c_int),
        ("attach_point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
    ]


class TcOptions(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("program", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("program_id", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
    ]


class TestRun(ctypes.Structure):
    """``struct bpf_test_run_opts``."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("data_in", ctypes.c_char_p),
        ("data_out", ctypes.c_void_p),
        ("data_in_size", ctypes.c_uint32),
        ("data_out_size", ctypes.c_uint32),
        ("context_in", ctypes.c_void_p),
        ("context_out", ctypes.c_void_p),
        ("context_in_size", ctypes.c_uint32),
        ("context_out_size", ctypes.c_uint32),
        ("result", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    ]


class ProgramInfo(ctypes.Structure):
    """The start of ``struct bpf_prog_info``."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_length", ctypes.c_uint32),
        ("translated_length", ctypes.c_uint32),
        ("jited", ctypes.c_uint64),
        ("translated", ctypes.c_uint64),
        ("load_time", ctypes.c_uint64),
        ("user", ctypes.c_uint32),
        ("map_count", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
    ]


class MapInfo(ctypes.Structure):
    """The start of ``struct bpf_map_info``."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    ]


class Map:
    """An open map. ``name`` is what the kernel keeps of it: 15 bytes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        info = MapInfo()
        query(descriptor, info)
        self.name: str = info.name.decode()
        self.key_size: int = info.key_size
        self.value_size: int = info.value_size
        self.max_entries: int = info.max_entries
        # The kernel gives a value for each possible CPU, each rounded up to 8 bytes.
        self._copies = possible_cpus() if info.type in PER_CPU_TYPES else 1
        self._stride = (self.value_size + 7) // 8 * 8 if self._copies > 1 else self.value_size

    def update(self, key: bytes, value: bytes) -> None:
        """Set the value of *key*. Raises BpfError, for example when the map is full."""
        assert (len(key), len(value)) == (self.key_size, self.value_size), self.name
        check(library().bpf_map_update_elem(self._descriptor, key, value, 0), f"map {self.name}")

    def delete(self, key: bytes) -> None:
        """Remove *key*, if it is there."""
        result = library().bpf_map_delete_elem(self._descriptor, key)
        if result != -errno.ENOENT:
            check(result, f"map {self.name}")

    def memory(self) -> mmap.mmap:
        """Return the values of an array that was made with ``BPF_F_MMAPABLE``, one behind the other, as shared memory.

        Python and the program see each other's changes at once; each value is rounded up to 8 bytes.
        """
        size = (self.value_size + 7) // 8 * 8 * self.max_entries
        try:
            return mmap.mmap(self._descriptor, (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE)
        except OSError as error:
            raise BpfError(f"BPF: map {self.name} as memory: {error.strerror}") from error

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value of *key*, None where there is none; of a per-CPU map, the first CPU's."""
        values = self.lookup_all(key)
        return values[0] if values else None

    def lookup_all(self, key: bytes) -> list[bytes]:
        """Return the values of *key* of all possible CPUs, one of a map that is not per CPU; empty where none is."""
        buffer = ctypes.create_string_buffer(self._stride * self._copies)
        result = library().bpf_map_lookup_elem(self._descriptor, key, buffer)
        if result == -errno.ENOENT:
            return []
        check(result, f"map {self.name}")
        return [
            buffer.raw[start : start + self.value_size] for start in range(0, self._stride * self._copies, self._stride)
        ]

    def __iter__(self) -> Iterator[bytes]:
        """Yield the keys that are there."""
        key, following = None, ctypes.create_string_buffer(self.key_size)
        while (result := library().bpf_map_get_next_key(self._descriptor, key, following)) != -errno.ENOENT:
            check(result, f"map {self.name}")
            key = following.raw
            yield key

    def close(self) -> None:
        os.close(self._descriptor)


class Object:
    """An object file, loaded. Closing it leaves what is attached as it is.

    *entries* are the sizes of maps, by name, where they are not to be the source's. Raises BpfError, with the
    verifier's last words, when the kernel refuses it.
    """

    def __init__(self, path: Path, entries: Mapping[str, int] | None = None) -> None:
        self._libbpf = library()
        self._object = self._libbpf.bpf_object__open_file(str(path).encode(), None)
        if not self._object:
            check(-ctypes.get_errno(), f"open {path}")
        try:
            for name, count in (entries or {}).items():
                found = self._libbpf.bpf_object__find_map_by_name(self._object, name.encode())
                check(self._libbpf.bpf_map__set_max_entries(found, count) if found else -errno.ENOENT, f"map {name}")
            check(self._libbpf.bpf_object__load(self._object), f"load {path}")
        except BpfError:
            self.close()
            raise

    def program(self, name: str) -> int:
        """Return the descriptor of a program, valid until this object is closed."""
        program = self._libbpf.bpf_object__find_program_by_name(self._object, name.encode())
        return check(self._libbpf.bpf_program__fd(program) if program else -errno.ENOENT, f"program {name}")

    def close(self) -> None:
        self._libbpf.bpf_object__close(self._object)

    def __enter__(self) -> Object:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def attach(program: int, interface: int) -> None:
    """Attach *program* at the ingress of an interface of this thread's namespace, in place of one attached before."""
    hook = ingress(interface)
    created = library().bpf_tc_hook_create(ctypes.byref(hook))
    if created != -errno.EEXIST:
        check(created, f"clsact on interface {interface}")
    options = TcOptions(ctypes.sizeof(TcOptions), program, TC_REPLACE, 0, TC_HANDLE, TC_PRIORITY)
    check(library().bpf_tc_attach(ctypes.byref(hook), ctypes.byref(options)), f"attach to interface {interface}")


def detach(interface: int) -> None:
    """Take what :func:`attach` put on an interface of this thread's namespace off again, if it is there."""
    options = TcOptions(ctypes.sizeof(TcOptions), handle=TC_HANDLE, priority=TC_PRIORITY)
    result = library().bpf_tc_detach(ctypes.byref(ingress(interface)), ctypes.byref(options))
    if result in (-errno.ENOENT, -errno.EINVAL):  # no filter, or no queueing discipline that could have one
        warnings.clear()
    else:
        check(result, f"detach from interface {interface}")


def run_once(program: int, data: bytes) -> tuple[int, bytes]:
    """Run a tc program on a frame, 14 bytes or longer, that comes in by the loopback interface.

    Returns the program's result and what it made of the frame. (``BPF_PROG_TEST_RUN``.)
    """
    output = ctypes.create_string_buffer(len(data) + 256)
    run = TestRun(ctypes.sizeof(TestRun), data, ctypes.addressof(output), len(data), len(output), repeat=1)
    check(library().bpf_prog_test_run_opts(program, ctypes.byref(run)), "run a program once")
    return run.result, output.raw[: run.data_out_size]


def wait_for_programs() -> None:
    """Return when all programs that were running have ended, so that none still has what was deleted from a map.

    That is a grace period of the kernel's RCU, 10 to 20 ms, by membarrier(2). Raises BpfError where there is none.
    """
    number = MEMBARRIER.get(platform.machine())
    libc = ctypes.CDLL(None, use_errno=True)
    if number is None or libc.syscall(number, MEMBARRIER_CMD_GLOBAL, 0, 0):
        reason = os.strerror(ctypes.get_errno()) if number else f"unknown on {platform.machine()}"
        raise BpfError(f"BPF: membarrier, to wait for running programs: {reason}")


def attached_program(interface: int) -> int:
    """Return a new descriptor of what :func:`attach` put on an interface of this thread's namespace.

    Raises BpfError where there is nothing.
    """
    hook = ingress(interface)
    options = TcOptions(ctypes.sizeof(TcOptions), handle=TC_HANDLE, priority=TC_PRIORITY)
    check(library().bpf_tc_query(ctypes.byref(hook), ctypes.byref(options)), f"program on interface {interface}")
    return check(library().bpf_prog_get_fd_by_id(options.program_id), f"program {options.program_id}")


def maps_of_program(program: int) -> dict[str, Map]:
    """Open the maps that *program* uses, by name."""
    info = ProgramInfo()
    query(program, info)
    ids = (ctypes.c_uint32 * info.map_count)()
    info = ProgramInfo(map_count=len(ids), map_ids=ctypes.addressof(ids))
    query(program, info)
    maps = [Map(check(library().bpf_map_get_fd_by_id(number), f"map {number}")) for number in ids]
    return {each.name: each for each in maps}


def ingress(interface: int) -> TcHook:
    return TcHook(ctypes.sizeof(TcHook), interface, TC_INGRESS)


def query(descriptor: int, info: ctypes.Structure) -> None:
    """Have the kernel describe a program or a map."""
    length = ctypes.c_uint32(ctypes.sizeof(info))
    check(
        library().bpf_obj_get_info_by_fd(descriptor, ctypes.byref(info), ctypes.byref(length)),
        "what a descriptor is",
    )


@cache
def possible_cpus() -> int:
    return check(library().libbpf_num_possible_cpus(), "number of CPUs")


def check(result: int, what: str) -> int:
    """Return *result*, unless it is a negative error number: then raise BpfError with libbpf's message."""
    if result >= 0:
        warnings.clear()
        return result
    lines = [line.strip() for text in warnings for line in text.splitlines() if line.strip()]
    warnings.clear()
    # The verifier gives its reasons just before its statistics; of other messages the first says most.
    end = next((number for number, line in enumerate(lines) if line.startswith("processed ")), None)
    said = lines[:1] if end is None else lines[max(end - 2, 0) : end]
    buffer = ctypes.create_string_buffer(256)
    library().libbpf_strerror(result, buffer, ctypes.c_size_t(len(buffer)))
    remedy = "; run it with sudo" if result == -errno.EPERM and os.geteuid() else ""
    raise BpfError(f"BPF: {what}: {' | '.join([buffer.value.decode(), *said])}{remedy}")


#: What libbpf has printed since the last check.
warnings: list[str] = []


@cache
def library() -> Any:
    """Return libbpf, with the signatures that differ from int(int or pointer …). Raises BpfError without it."""
    for name in ("libbpf.so.1", "libbpf.so.0"):
        try:
            libbpf = ctypes.CDLL(name, use_errno=True)
            break
        except OSError:
            continue
    else:
        raise BpfError("libbpf is missing: apt install libbpf1 (Ubuntu 22.04: libbpf0)")
    libbpf.libbpf_set_strict_mode(STRICT_ALL)  # the errors of version 1, also from version 0
    for function in ("bpf_object__open_file", "bpf_object__find_program_by_name", "bpf_object__find_map_by_name"):
        getattr(libbpf, function).restype = ctypes.c_void_p
    libbpf.bpf_object__open_file.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    for function in ("bpf_object__find_program_by_name", "bpf_object__find_map_by_name"):
        getattr(libbpf, function).argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    libbpf.bpf_map__set_max_entries.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    libbpf.bpf_map_update_elem.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint64]
    for function in ("bpf_object__load", "bpf_object__close", "bpf_program__fd"):
        getattr(libbpf, function).argtypes = [ctypes.c_void_p]
    libbpf.libbpf_set_print(print_function())
    return libbpf


@cache
def print_function() -> Callable[..., int]:
    """Return libbpf's print callback, which collects warnings; cached, because libbpf keeps only its address."""
    vsnprintf = ctypes.CDLL(None).vsnprintf
    vsnprintf.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p]

    def collect(level: int, template: bytes, arguments: int) -> int:
        if level > 0:
            return 0
        buffer = ctypes.create_string_buffer(1 << 16)
        vsnprintf(buffer, len(buffer), template, arguments)
        warnings.append(buffer.value.decode(errors="replace").removeprefix("libbpf: "))
        return 0

    # A va_list argument is a pointer on x86-64 and arm64.
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(collect)
