// Runs CUDA C++ kernels on the CPU: g++ -std=c++17, x86-64.
//
// A launch runs its blocks one after the other on one OS thread. A block without barriers is a plain loop
// over its threads. A block with barriers or shuffles gives each thread a fiber (a stack of its own), and
// switches between fibers at barriers only: each warp runs as far as it can before the next one starts, in
// rising or, when the launch is reversed, in falling order. A kernel whose result depends on the order has a
// race.
//
// Compiled with -fsanitize=thread, g++ calls __tsan_read4(address) and its like at each access; they are
// defined below and look for two accesses that no barrier orders. No run-time library of g++ is linked.
#pragma once
#include <math.h>
#include <vector_types.h>
#include <cuda_fp16.h>
#include <cuda_bf16.h>

#include <cassert>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#undef __shared__
#undef __device__
#undef __host__
#undef __global__
#undef __constant__
#undef __managed__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __restrict__
#define __shared__ static __attribute__((section("emu_shared")))
#define __device__
#define __host__
#define __global__
#define __constant__ static
#define __managed__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static const int warpSize = 32;
static unsigned char* emu_dynamic_shared;        // what `extern __shared__ T x[]` points to
extern "C" {                                     // bounds of the section above and of zero-initialised data
extern char __start_emu_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_emu_shared[] __attribute__((weak, visibility("hidden")));
extern char __bss_start[] __attribute__((weak, visibility("hidden")));
extern char _end[] __attribute__((weak, visibility("hidden")));
}

namespace emu {
enum State { READY, AT_BARRIER, AT_WARP, DONE };
struct Fiber { void* sp; State state; int line; unsigned mask; uint3 index; };
static const size_t STACK = 128 << 10;
static Fiber fibers[1024];
static char* stacks;                             // STACK bytes for each fiber
static int threads, current;                     // threads of a block, the one that runs
static size_t dynamic_size;
static void* scheduler_sp;
static void (*entry)(void*);
static void* entry_argument;
static unsigned long long lanes[1024];           // what each thread shows to its warp
static char message[512];                        // the first fault of a launch
#define EMU_FAULT(...) \
  do { if (!emu::message[0]) snprintf(emu::message, sizeof emu::message, __VA_ARGS__); } while (0)

// ---------------------------------------------------------------- races
#ifdef __SANITIZE_THREAD__
#define EMU_PLAIN __attribute__((no_sanitize("thread"), noinline, visibility("hidden")))
struct Access { size_t block; int thread; unsigned barrier, warp, fence; bool atomic, made; };
struct Cell { Access write, read[2]; };          // the last write, the last reads by two threads
static std::unordered_map<uintptr_t, Cell>* cells;
static std::vector<unsigned>* fences;            // __threadfence() calls of each block
static size_t block;
static unsigned barriers, warp_barriers[32], atomic_depth;
static bool watching;                            // true while code of the kernel runs
static uintptr_t stack_low, stack_high;          // of the running thread: its own, never shared

static bool within(uintptr_t a, const void* low, const void* high) {
  return a >= (uintptr_t)low && a < (uintptr_t)high;
}
static bool is_shared(uintptr_t a) {
  return within(a, emu_dynamic_shared, emu_dynamic_shared + dynamic_size)
      || within(a, __start_emu_shared, __stop_emu_shared) || within(a, __bss_start, _end);
}
static bool clash(const Access& a, const Access& b, bool shared) {
  if (!a.made || (a.atomic && b.atomic)) return false;
  if (a.block != b.block) return !shared && (*fences)[a.block] == a.fence;
  if (a.thread == b.thread || a.barrier != b.barrier) return false;
  return a.thread / 32 != b.thread / 32 || a.warp == b.warp;
}
static void report(const Access& a, const char* did, const Access& b, const char* does, bool shared) {
  EMU_FAULT("race in %s memory: thread %d of block %zu %s what thread %d of block %zu %s, with no barrier"
            " between", shared ? "shared" : "global", b.thread, b.block, does, a.thread, a.block, did);
}
static void seen(uintptr_t address, size_t size, bool write) {
  if (address >= stack_low && address < stack_high) return;
  Access now{block, current, barriers, warp_barriers[current / 32], (*fences)[block], atomic_depth > 0, true};
  bool shared = is_shared(address);
  for (uintptr_t a = address; a < address + size; a++) {
    Cell& c = (*cells)[a];
    if (clash(c.write, now, shared)) report(c.write, "wrote", now, write ? "writes" : "reads", shared);
    if (write) {
      for (const Access& r : c.read) if (clash(r, now, shared)) report(r, "read", now, "writes", shared);
      c.write = now;
    } else {
      if (c.read[0].thread != current || c.read[0].block != block) c.read[1] = c.read[0];
      c.read[0] = now;
    }
  }
}
EMU_PLAIN static void look(void* address, size_t size, bool write) {
  if (!watching) return;
  watching = false;                              // this header is instrumented as well
  seen((uintptr_t)address, size, write);
  watching = true;
}
static void watch_launch(size_t blocks) {
  delete cells; delete fences;
  cells = new std::unordered_map<uintptr_t, Cell>; fences = new std::vector<unsigned>(blocks);
  barriers = atomic_depth = 0; memset(warp_barriers, 0, sizeof warp_barriers);
}
EMU_PLAIN static void watch_thread(const char* stack) {
  stack_high = stack ? (uintptr_t)stack + STACK : (uintptr_t)__builtin_frame_address(0);
  stack_low = stack ? (uintptr_t)stack : stack_high - (8 << 20);
  watching = true;
}
EMU_PLAIN static void watch_nothing() { watching = false; }
struct Atomic { EMU_PLAIN Atomic() { ++atomic_depth; } EMU_PLAIN ~Atomic() { --atomic_depth; } };
#define EMU_WATCH(...) __VA_ARGS__
}  // namespace emu
#define EMU_HOOK(name, size, write) \
  extern "C" EMU_PLAIN void __tsan_##name(void* p) { emu::look(p, size, write); }
EMU_HOOK(read1, 1, false) EMU_HOOK(read2, 2, false) EMU_HOOK(read4, 4, false) EMU_HOOK(read8, 8, false)
EMU_HOOK(read16, 16, false) EMU_HOOK(write1, 1, true) EMU_HOOK(write2, 2, true) EMU_HOOK(write4, 4, true)
EMU_HOOK(write8, 8, true) EMU_HOOK(write16, 16, true)
EMU_HOOK(unaligned_read2, 2, false) EMU_HOOK(unaligned_read4, 4, false) EMU_HOOK(unaligned_read8, 8, false)
EMU_HOOK(unaligned_read16, 16, false) EMU_HOOK(unaligned_write2, 2, true) EMU_HOOK(unaligned_write4, 4, true)
EMU_HOOK(unaligned_write8, 8, true) EMU_HOOK(unaligned_write16, 16, true)
extern "C" EMU_PLAIN void __tsan_read_range(void* p, size_t n) { emu::look(p, n, false); }
extern "C" EMU_PLAIN void __tsan_write_range(void* p, size_t n) { emu::look(p, n, true); }
extern "C" EMU_PLAIN void __tsan_vptr_update(void**, void*) {}
extern "C" EMU_PLAIN void __tsan_func_entry(void*) {}
extern "C" EMU_PLAIN void __tsan_func_exit() {}
extern "C" EMU_PLAIN void __tsan_init() {}
namespace emu {
#else
struct Atomic { Atomic() {} };
#define EMU_WATCH(...)
#endif

// ---------------------------------------------------------------- fibers
extern "C" void emu_switch(void** save, void* to);
asm(".text\n.local emu_switch\n.type emu_switch,@function\nemu_switch:\n"
    " pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
    " movq %rsp,(%rdi)\n movq %rsi,%rsp\n"
    " popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");

static void pause(State state, int line, unsigned mask = ~0u) {
  EMU_WATCH(watch_nothing();)
  Fiber& f = fibers[current];
  f.state = state; f.line = line; f.mask = mask;
  emu_switch(&f.sp, scheduler_sp);
  EMU_WATCH(watch_thread(stacks + current * STACK);)
}
static void fiber_main() {
  EMU_WATCH(watch_thread(stacks + current * STACK);)
  entry(entry_argument);
  pause(DONE, 0);
  abort();                                       // a thread that is done is never resumed
}
static uint3 index_of(unsigned i) {
  return {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
}
static void start(Fiber& f, unsigned i) {
  void** sp = (void**)(stacks + (i + 1) * STACK - 64);
  *--sp = nullptr;                               // keeps the stack aligned as after a call
  *--sp = (void*)fiber_main;
  for (int r = 0; r < 6; r++) *--sp = nullptr;   // the registers that emu_switch pops
  f.sp = sp; f.state = READY; f.index = index_of(i);
}
static void resume(int i) {
  current = i; threadIdx = fibers[i].index;
  emu_switch(&scheduler_sp, fibers[i].sp);
}
// Lets lanes [from, to) go on whose mask is complete at a warp barrier; false when a lane waits for ever.
static bool release_warp(int from, int to, bool& released) {
  bool waiting = false;
  released = false;
  for (int i = from; i < to; i++) {
    if (fibers[i].state != AT_WARP) continue;
    bool complete = true;
    for (int j = from; j < to; j++)
      if (fibers[i].mask >> (j - from) & 1)
        complete &= fibers[j].state == DONE
                 || (fibers[j].state == AT_WARP && fibers[j].mask == fibers[i].mask);
    if (!complete) { waiting = true; continue; }
    unsigned mask = fibers[i].mask;
    for (int j = from; j < to; j++)
      if ((mask >> (j - from) & 1) && fibers[j].state == AT_WARP) fibers[j].state = READY;
    fibers[i].state = READY;                     // also when a lane forgot itself in its mask
    released = true;
  }
  EMU_WATCH(if (released) warp_barriers[from / 32]++;)
  return released || !waiting;
}
static bool run_warp(int from, int to, bool reversed) {
  for (;;) {
    for (int k = from; k < to; k++) {
      int i = reversed ? from + to - 1 - k : k;
      if (fibers[i].state == READY) resume(i);
    }
    bool released;
    if (!release_warp(from, to, released)) {
      EMU_FAULT("deadlock: warp %d waits at a shuffle or __syncwarp for lanes that do not come", from / 32);
      return false;
    }
    if (!released) return true;
  }
}
static void run_fibers(bool reversed) {
  if (!stacks) stacks = (char*)aligned_alloc(64, 1024 * STACK);
  for (int i = 0; i < threads; i++) start(fibers[i], i);
  for (;;) {
    for (int k = 0, warps = (threads + 31) / 32; k < warps; k++) {
      int from = (reversed ? warps - 1 - k : k) * 32;
      if (!run_warp(from, from + 32 < threads ? from + 32 : threads, reversed)) return;
    }
    int done = 0, line = 0;
    for (int i = 0; i < threads; i++) {
      Fiber& f = fibers[i];
      if (f.state == DONE) { done++; continue; }
      if (line && line != f.line)
        EMU_FAULT("divergent __syncthreads: some threads at line %d, others at line %d", line, f.line);
      line = f.line; f.state = READY;
    }
    if (done == threads) return;                 // a barrier waits for the threads that have not returned
    EMU_WATCH(barriers++;)
  }
}
static void run_loop(bool reversed) {
  for (int k = 0; k < threads; k++) {
    current = reversed ? threads - 1 - k : k;
    threadIdx = index_of(current);
    EMU_WATCH(watch_thread(nullptr);)
    entry(entry_argument);
    EMU_WATCH(watch_nothing();)
  }
}
// dims: grid x y z, block x y z. Returns the first fault, or an empty string.
template <class... A, size_t... I>
static const char* launch(void (*kernel)(A...), const unsigned* dims, size_t shared, void** args,
                          bool barriers_in_it, bool reversed, std::index_sequence<I...>) {
  struct Call { void (*kernel)(A...); void** args; } call{kernel, args};
  entry_argument = &call;
  entry = [](void* p) { auto* c = (Call*)p; c->kernel(*(std::remove_reference_t<A>*)c->args[I]...); };
  gridDim = {dims[0], dims[1], dims[2]}; blockDim = {dims[3], dims[4], dims[5]};
  threads = blockDim.x * blockDim.y * blockDim.z;
  message[0] = 0;
  dynamic_size = shared; emu_dynamic_shared = (unsigned char*)malloc(shared ? shared : 1);
  size_t blocks = (size_t)gridDim.x * gridDim.y * gridDim.z;
  EMU_WATCH(watch_launch(blocks);)
  for (size_t k = 0; k < blocks && !message[0]; k++) {
    size_t b = reversed ? blocks - 1 - k : k;
    EMU_WATCH(block = b;)
    blockIdx = {(unsigned)(b % gridDim.x), (unsigned)(b / gridDim.x % gridDim.y),
                (unsigned)(b / ((size_t)gridDim.x * gridDim.y))};
    memset(emu_dynamic_shared, 0xFF, shared);    // NaN: shared memory starts as garbage
#ifndef __SANITIZE_ADDRESS__
    memset(__start_emu_shared, 0xFF, __stop_emu_shared - __start_emu_shared);
#endif
    if (barriers_in_it) run_fibers(reversed); else run_loop(reversed);
  }
  if (message[0]) { free(stacks); stacks = nullptr; }   // some fibers may have stopped half-way
  free(emu_dynamic_shared);
  return message;
}
template <class... A>
static const char* launch(void (*kernel)(A...), const unsigned* dims, size_t shared, void** args,
                          bool barriers_in_it, bool reversed) {
  return launch(kernel, dims, shared, args, barriers_in_it, reversed, std::index_sequence_for<A...>{});
}

// Shows v to the warp and returns what lane `source` shows; garbage where that lane takes no part.
template <class T> static T exchange(unsigned mask, T v, int source) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  int me = current, base = me & ~31;
  memcpy(&lanes[me], &v, sizeof v);
  pause(AT_WARP, 0, mask);
  T r;
  bool there = base + source < threads && fibers[base + source].state != DONE && mask >> source & 1;
  if (there) memcpy(&r, &lanes[base + source], sizeof r); else memset(&r, 0xFF, sizeof r);
  pause(AT_WARP, 0, mask);
  return r;
}
static inline int lane() { return current & 31; }
template <class To, class From> static inline To bits(From f) { To t; memcpy(&t, &f, sizeof t); return t; }
template <class T> constexpr bool is_number =
    std::is_arithmetic<T>::value || std::is_same<T, __half>::value || std::is_same<T, __nv_bfloat16>::value;
}  // namespace emu

// ---------------------------------------------------------------- barriers, shuffles, votes
#define __syncthreads() emu::pause(emu::AT_BARRIER, __LINE__)
static inline void __syncwarp(unsigned mask = ~0u) { emu::pause(emu::AT_WARP, 0, mask); }
static inline void __threadfence() {
  EMU_WATCH(emu::watch_nothing(); (*emu::fences)[emu::block]++; emu::watching = true;)
}
static inline void __threadfence_block() {}
template <class T> T __shfl_sync(unsigned m, T v, int source, int w = 32) {
  return emu::exchange(m, v, (emu::lane() & ~(w - 1)) + (source & (w - 1)));
}
template <class T> T __shfl_down_sync(unsigned m, T v, unsigned d, int w = 32) {
  int l = emu::lane();
  return emu::exchange(m, v, (l & (w - 1)) + d < (unsigned)w ? l + (int)d : l);
}
template <class T> T __shfl_up_sync(unsigned m, T v, unsigned d, int w = 32) {
  int l = emu::lane();
  return emu::exchange(m, v, (l & (w - 1)) >= (int)d ? l - (int)d : l);
}
template <class T> T __shfl_xor_sync(unsigned m, T v, int x, int w = 32) {
  int l = emu::lane(), s = l ^ x;
  return emu::exchange(m, v, s / w <= l / w ? s : l);
}
static inline unsigned __ballot_sync(unsigned mask, int vote) {
  int base = emu::current & ~31;
  emu::lanes[emu::current] = vote != 0;
  emu::pause(emu::AT_WARP, 0, mask);
  unsigned r = 0;
  for (int i = 0; i < 32 && base + i < emu::threads; i++)
    if ((mask >> i & 1) && emu::fibers[base + i].state != emu::DONE && emu::lanes[base + i]) r |= 1u << i;
  emu::pause(emu::AT_WARP, 0, mask);
  return r;
}
static inline int __any_sync(unsigned m, int vote) { return __ballot_sync(m, vote) != 0; }
static inline int __all_sync(unsigned m, int vote) { return __ballot_sync(m, !vote) == 0; }

// ---------------------------------------------------------------- atomics: fibers switch at barriers only
#define EMU_ATOMIC(name, allowed, result) \
  template <class T, class U, class = std::enable_if_t<allowed<T>>> T name(T* p, U value) { \
    emu::Atomic in_one_step; T v = (T)value, o = *p; *p = (result); return o; }
EMU_ATOMIC(atomicAdd, emu::is_number, o + v)
EMU_ATOMIC(atomicSub, std::is_arithmetic_v, o - v)
EMU_ATOMIC(atomicExch, std::is_arithmetic_v, v)
EMU_ATOMIC(atomicMax, std::is_integral_v, v > o ? v : o)
EMU_ATOMIC(atomicMin, std::is_integral_v, v < o ? v : o)
EMU_ATOMIC(atomicAnd, std::is_integral_v, o & v)
EMU_ATOMIC(atomicOr, std::is_integral_v, o | v)
EMU_ATOMIC(atomicXor, std::is_integral_v, o ^ v)
EMU_ATOMIC(atomicInc, std::is_integral_v, o >= v ? 0 : o + 1)
template <class T> T atomicCAS(T* p, T compare, T v) {
  emu::Atomic in_one_step; T o = *p; if (o == compare) *p = v; return o;
}

// ---------------------------------------------------------------- intrinsics
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned long long)a * b >> 32; }
static inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline int __float_as_int(float f) { return emu::bits<int>(f); }
static inline float __int_as_float(int i) { return emu::bits<float>(i); }
static inline unsigned __float_as_uint(float f) { return emu::bits<unsigned>(f); }
static inline float __uint_as_float(unsigned i) { return emu::bits<float>(i); }
static inline long long __double_as_longlong(double f) { return emu::bits<long long>(f); }
static inline double __longlong_as_double(long long i) { return emu::bits<double>(i); }
static inline float __expf(float x) { return expf(x); }
static inline float __logf(float x) { return logf(x); }
static inline float __sinf(float x) { return sinf(x); }
static inline float __cosf(float x) { return cosf(x); }
static inline float __powf(float x, float y) { return powf(x, y); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float rsqrt(float x) { return 1.0f / sqrtf(x); }
static inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
template <class T> static inline T __ldg(const T* p) { return *p; }
#define EMU_PICK(name, op) \
  template <class A, class B, \
            class = std::enable_if_t<std::is_arithmetic<A>::value && std::is_arithmetic<B>::value>> \
  static inline std::common_type_t<A, B> name(A a, B b) { \
    using C = std::common_type_t<A, B>; return (C)a op (C)b ? (C)a : (C)b; }
EMU_PICK(min, <) EMU_PICK(max, >)
