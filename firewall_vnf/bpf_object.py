"""BPF programs as object files: compiled at set-up, found at run time; nothing is compiled while packets wait.

``python -m firewall_vnf.bpf_object SOURCE…`` compiles into ``build/`` of the checkout. A file's name has its source's
digest, so that an object of another source is never taken for it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from firewall_vnf.libbpf import BpfError

BUILD = Path(__file__).resolve().parent.parent / "build"


def find_program(source: Path) -> Path:
    """Return the object file of *source*. Raises BpfError where it is not compiled."""
    path = _object(source)
    if not path.exists():
        raise BpfError(f"the BPF program {source.stem} is not compiled: run make setup")
    return path


def compile_program(source: Path) -> Path:
    """Compile *source*, unless that was done, and return the object file.

    Takes a second; meant for set-up. Raises BpfError when the compiler or a header is missing.
    """
    path = _object(source)
    if path.exists():
        return path
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    # asm/types.h is in the machine's own folder, which clang does not search for another target.
    headers = f"/usr/include/{platform.machine()}-linux-gnu"
    command = ["clang", "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", f"-I{headers}"]
    try:
        subprocess.run([*command, "-c", source, "-o", unfinished], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise BpfError("the BPF program needs a compiler: apt install clang libbpf-dev linux-libc-dev") from None
    except subprocess.CalledProcessError as error:
        said = next((line for line in error.stderr.splitlines() if "error:" in line), error.stderr.strip())
        remedy = "; apt install libbpf-dev linux-libc-dev" if "file not found" in said else ""
        raise BpfError(f"the BPF program does not compile: {said}{remedy}") from None
    unfinished.replace(path)
    return path


def counter_meanings(source: Path) -> dict[str, str]:
    """Return what a program counts: each counter's name (``return_cookie``) and what it means, in the map's order."""
    enumeration = source.read_text().split("enum counter {")[1].split("}")[0]
    return {name.lower(): meaning for name, meaning in re.findall(r"([A-Z_]+), +// (.*)", enumeration)}


def _object(source: Path) -> Path:
    return BUILD / f"{source.stem}-{hashlib.blake2b(source.read_bytes(), digest_size=8).hexdigest()}.o"


if __name__ == "__main__":
    try:
        for name in sys.argv[1:]:
            compile_program(Path(name))
    except BpfError as error:
        print(f"setup: {error}", file=sys.stderr)
        raise SystemExit(3) from None
