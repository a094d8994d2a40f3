"""NVIDIA's compiler as a library (NVRTC, from PyPI's nvidia-cuda-nvrtc-cu12), without a driver or a GPU: what it makes of the kernels."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from functools import cache
from pathlib import Path

from assay.exact.cuda.device import OPTIONS

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90")
FORBIDDEN = re.compile(r"\b(?:fma|mad|ex2|lg2|sin|cos|tanh|rcp|rsqrt)\.[a-z.]*f(?:32|64)\b|\.approx\b|\.ftz\b|\bdiv\.full\b")
"""PTX that rounds otherwise than IEEE 754, contracts, flushes or approximates."""
FUSED = re.compile(r"^.*\bfma\.rn\.f32 .*// of (?:an exact product|a quotient)$", re.MULTILINE)
"""What `fused` and `of_quotient` (common.cuh) say of themselves. The compiler makes no such line."""


@cache
def library() -> ctypes.CDLL | None:
    """NVRTC, or None where it is not installed."""
    found = importlib.util.find_spec("nvidia")
    for home in (found.submodule_search_locations or []) if found else []:
        for path in sorted((Path(home) / "cuda_nvrtc" / "lib").glob("libnvrtc.so.*")):
            for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(path))
    return None


def compiled(text: str, arch: str) -> tuple[str, bytes]:
    """(PTX, cubin) of CUDA C++ for `sm_90`, .... Raises ValueError with the compiler's log."""
    ptx, cubin, _ = reported(text, arch)
    return ptx, cubin


def reported(text: str, arch: str, *more: str) -> tuple[str, bytes, str]:
    """With more options, and with the log, which has what the assembler says."""
    nvrtc = library()
    assert nvrtc is not None
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None) == 0
    options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={arch}", *more)]
    failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))

    def get(what: str) -> bytes:
        size = ctypes.c_size_t()
        assert getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
        out = ctypes.create_string_buffer(size.value)
        assert getattr(nvrtc, f"nvrtcGet{what}")(program, out) == 0
        return out.raw

    log = get("ProgramLog").decode(errors="replace")
    if failed:
        raise ValueError(log)
    result = get("PTX").rstrip(b"\0").decode(), get("CUBIN"), log
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return result


def forbidden(ptx: str) -> list[str]:
    """Lines with instructions that could change bits."""
    return [line.strip() for line in FUSED.sub("", ptx).splitlines() if FORBIDDEN.search(line.split("//")[0])]
