"""Runs kernels of planc's own on the host: their CUDA C, compiled by g++, every thread of a block a fibre.

Threads run one after the other between barriers, so that a missing barrier shows as a wrong result. Exchanges within a
warp and the matrix instruction that kernels use (m16n8k8 in TF32) are emulated by what their definition says.
"""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper

from planc.kernels.device import WORKSPACE, Buffer, Launch, Product, SourceKernel

_SHIM = r"""
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <utility>
#include <vector>
struct Dim { unsigned x, y, z; };
static Dim threadIdx, blockIdx, blockDim, gridDim;
#define __global__
#define __device__
#define __shared__ static
#define __restrict__
#define __forceinline__ inline
#define __launch_bounds__(...)
enum State { RUN, BLOCK, WARPED, DONE };
struct Fibre { ucontext_t context; State state; std::vector<char> stack; };
static std::vector<Fibre> fibres;
static ucontext_t home;
static unsigned current;
static char* dynamic_shared;
static void wait(State state) { fibres[current].state = state; swapcontext(&fibres[current].context, &home); }
static void __syncthreads() { wait(BLOCK); }
static void __syncwarp(unsigned = ~0u) { wait(WARPED); }
static float exchanged[1024][8];
static float __shfl_xor_sync(unsigned, float v, int mask) {
  exchanged[current][0] = v; __syncwarp();
  float r = exchanged[current ^ mask][0]; __syncwarp(); return r;
}
static float host_tf32(float v) {
  uint32_t b; memcpy(&b, &v, 4);
  if ((b & 0x7f800000u) != 0x7f800000u) b = (b + 0x1000u) & ~0x1fffu;
  memcpy(&v, &b, 4); return v;
}
static void host_mma(float* c, const float* a, const float* b) {
  for (int k = 0; k < 4; k++) exchanged[current][k] = a[k];
  for (int k = 0; k < 2; k++) exchanged[current][4 + k] = b[k];
  __syncwarp();
  unsigned lane = current % 32, warp = current - lane;
  for (int k = 0; k < 4; k++) {
    unsigned row = lane / 4 + (k / 2) * 8, column = lane % 4 * 2 + k % 2;
    float sum = 0;
    for (unsigned i = 0; i < 8; i++)
      sum += exchanged[warp + row % 8 * 4 + i % 4][row / 8 + i / 4 * 2] * exchanged[warp + column * 4 + i % 4][4 + i / 4];
    c[k] += sum;
  }
  __syncwarp();
}
static float rsqrtf(float v) { return 1.0f / sqrtf(v); }
#define __expf expf
#define __logf logf
template <typename T> static T __ldg(const T* p) { return *p; }
template <typename... A, size_t... I> void call_with(void (*f)(A...), void** a, std::index_sequence<I...>) {
  f((A)a[I]...);
}
template <typename... A> void call(void (*f)(A...), void** a) { call_with(f, a, std::index_sequence_for<A...>()); }
static void (*entry)(void**);
static void** arguments;
static void start() { entry(arguments); fibres[current].state = DONE; }
static void run_block(unsigned threads) {
  fibres.resize(threads);
  for (unsigned i = 0; i < threads; i++) {
    Fibre& f = fibres[i];
    f.stack.resize(256 << 10); f.state = RUN;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.data(); f.context.uc_stack.ss_size = f.stack.size(); f.context.uc_link = &home;
    makecontext(&f.context, start, 0);
  }
  for (;;) {
    unsigned done = 0, blocked = 0;
    for (current = 0; current < threads; current++) {
      if (fibres[current].state == RUN) { threadIdx = {current, 0, 0}; swapcontext(&home, &fibres[current].context); }
    }
    for (unsigned w = 0; w < threads; w += 32) {
      bool all = true;
      for (unsigned i = w; i < w + 32 && i < threads; i++) all &= fibres[i].state == WARPED || fibres[i].state == DONE;
      if (all) for (unsigned i = w; i < w + 32 && i < threads; i++) if (fibres[i].state == WARPED) fibres[i].state = RUN;
    }
    for (Fibre& f : fibres) { done += f.state == DONE; blocked += f.state == BLOCK; }
    if (done == threads) return;
    if (done + blocked == threads) for (Fibre& f : fibres) if (f.state == BLOCK) f.state = RUN;
  }
}
extern "C" void host_launch(
    void (*f)(void**), unsigned x, unsigned y, unsigned z, unsigned threads, size_t shared, void** a) {
  entry = f; arguments = a; gridDim = {x, y, z}; blockDim = {threads, 1, 1};
  dynamic_shared = (char*)aligned_alloc(256, (shared + 511) / 256 * 256);
  for (blockIdx.z = 0; blockIdx.z < z; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < y; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < x; blockIdx.x++) { memset(dynamic_shared, 0xff, shared); run_block(threads); }
  free(dynamic_shared);
}
"""

Array = npt.NDArray[Any]


def why_not() -> str | None:
    """What is missing; None when nothing is."""
    return None if shutil.which("g++") else "running kernels on the host needs g++"


@cache
def _library(source: str, functions: tuple[str, ...]) -> ctypes.CDLL:
    folder = Path(tempfile.mkdtemp(prefix="planc-host-"))
    wrappers = "".join(f'extern "C" void run_{f}(void** a) {{ call(of_kernel::{f}, a); }}\n' for f in functions)
    (folder / "k.cpp").write_text(f"{_SHIM}\nnamespace of_kernel {{\n{source}\n}}\n{wrappers}")
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-w", "-fPIC", "-shared"]
    subprocess.run(["g++", *flags, "-o", str(folder / "k.so"), str(folder / "k.cpp")], check=True)
    library = ctypes.CDLL(str(folder / "k.so"))
    shutil.rmtree(folder)
    return library


def run(kernel: SourceKernel, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
    """Run the launches on host arrays; `outputs` are written. The workspace begins as NaNs."""
    source = kernel.source.replace("PREFIX", "kernel")
    launched = [step for step in kernel.launches if isinstance(step, Launch)]
    names = tuple(dict.fromkeys(step.function.replace("PREFIX", "kernel") for step in launched))
    library = _library(source, names)
    workspace = np.full(kernel.workspace + 16, 0xFF, np.uint8)
    addresses = [a.ctypes.data for a in (*inputs, *outputs)]
    for step in kernel.launches:
        if isinstance(step, Product):
            _multiply(
                step, lambda b: (workspace.ctypes.data if b.position == WORKSPACE else addresses[b.position]) + b.offset
            )
            continue
        given = [
            (workspace.ctypes.data if b.position == WORKSPACE else addresses[b.position]) + b.offset
            for b in step.arguments
        ]
        library.host_launch(
            getattr(library, f"run_{step.function.replace('PREFIX', 'kernel')}"), *step.grid, step.block,
            ctypes.c_size_t(step.shared), (ctypes.c_void_p * len(given))(*given),
        )  # fmt: skip


def _multiply(product: Product, address: Callable[[Buffer], int]) -> None:
    """What the BLAS library does: columns one after the other, sums in float32."""
    (m, n, k), (given, made) = product.sizes, product.dtypes

    def columns(buffer: Buffer, rows: int, count: int, lead: int, dtype: int) -> Array:
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(dtype))
        size = (lead * (count - 1) + rows) * kind.itemsize
        memory = np.frombuffer(memoryview((ctypes.c_char * size).from_address(address(buffer))).cast("B"), kind)
        return np.lib.stride_tricks.as_strided(memory, (rows, count), (kind.itemsize, lead * kind.itemsize))

    operands = []
    for at, (buffer, rows, count) in enumerate(((product.a, m, k), (product.b, k, n))):
        turned = product.transposed[at]
        held = columns(buffer, *((count, rows) if turned else (rows, count)), product.leads[at], given)
        operands.append((held.T if turned else held).astype(np.float32))
    to = columns(product.c, m, n, product.leads[2], made)
    summed = operands[0] @ operands[1] + (to.astype(np.float32) if product.add else 0)
    to[...] = summed.astype(to.dtype)
