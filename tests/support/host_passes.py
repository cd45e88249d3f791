"""Kernels of fused operators and groups, compiled for the host, each thread in turn: they have no barriers."""

import ctypes
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from onnx import FunctionProto

from planc.runtime.cuda.group_source import pass_blocks, pass_source
from planc.runtime.cuda.source import BLOCK, Operand

Pass = tuple[FunctionProto, Sequence[Operand], Sequence[Operand], bool]
"""Function, inputs, outputs, and whether the kernel is that for aligned addresses."""

HOST = """
#include <cmath>
#include <cstring>
#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(threads)
struct Position { unsigned x; };
static Position blockIdx, threadIdx;
struct Half { unsigned short bits; };
struct Brain { unsigned short bits; };
static float from_half(Half h) {
  const unsigned exponent = (h.bits >> 10) & 31, fraction = h.bits & 1023;
  const float sign = h.bits >> 15 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024.0f + fraction, (int)exponent - 25) : std::ldexp((float)fraction, -24));
}
static Half to_half(float f) {
  const unsigned short sign = std::signbit(f) ? 0x8000 : 0;
  const double size = std::fabs((double)f);
  if (f != f) return {(unsigned short)(sign | 0x7e00)};
  if (size >= 65520.0) return {(unsigned short)(sign | 0x7c00)};
  int exponent;
  std::frexp(size, &exponent);
  if (size < std::ldexp(1.0, -14)) return {(unsigned short)(sign | (unsigned)std::nearbyint(std::ldexp(size, 24)))};
  const unsigned scaled = (unsigned)std::nearbyint(std::ldexp(size, 11 - exponent));
  return {(unsigned short)(sign + ((exponent + 13) << 10) + scaled)};
}
static float from_brain(Brain b) {
  const unsigned u = (unsigned)b.bits << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
static Brain to_brain(float f) {
  unsigned u;
  std::memcpy(&u, &f, 4);
  return {(unsigned short)(f != f ? 0x7fff : (u + 0x7fff + ((u >> 16) & 1)) >> 16)};
}
"""


def compiled_for_host(passes: Mapping[str, Pass], folder: Path) -> ctypes.CDLL:
    """One library whose `run_NAME` takes the addresses of a pass's operands; skips the test where there is no compiler."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    text = HOST
    for name, (function, inputs, outputs, wide) in passes.items():
        text += pass_source(f"k{name}", function, inputs, outputs, wide)
        arguments = [f"({o.c_type}*)p[{n}]" for n, o in enumerate((*inputs, *outputs))]
        text += (
            f'extern "C" void run_{name}(void** p) {{ '
            f"for (blockIdx.x = 0; blockIdx.x < {pass_blocks(function, inputs, outputs)}; blockIdx.x++) "
            f"for (threadIdx.x = 0; threadIdx.x < {BLOCK}; threadIdx.x++) "
            f"of_k{name}::k{name}({', '.join(arguments)}); }}\n"
        )
    (folder / "kernels.cpp").write_text(text)
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC"]
    done = subprocess.run(
        ["g++", *flags, "kernels.cpp", "-o", "kernels.so"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "kernels.so"))
