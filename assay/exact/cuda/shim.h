/* CUDA C++ on a CPU, for the fake device (fake.py): enough of the language for the kernels of this folder, so that the same source runs
 * without a GPU. Every thread of a block is a fibre with a stack of its own; a fibre runs until it waits at a barrier, and blocks run one
 * after the other (those of a cluster together), so a run is deterministic. In which order is asked for: what a missing barrier should have
 * prevented comes out wrong in one of the three, where threads of one block race. A barrier that some thread of the block (or lane of the mask) never reaches is an error, as
 * it is undefined on a GPU. Warp operations follow the CUDA C++ Programming Guide (warp shuffle, vote, reduce functions). Tensor cores: tensor.cuh
 * and shim_hopper.h.
 *
 * What it does not show: what races within an instruction, or between blocks that do run at the same time; speed, and what a compiler for GPUs makes of the source.
 */
#ifndef ASSAY_SHIM_H
#define ASSAY_SHIM_H
#define ASSAY_FAKE 1

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <utility>
#if defined(__x86_64__)
#include <xmmintrin.h>
#else
#include <ucontext.h>
#endif

#define __global__
#define __device__ static
#define __host__
#define __constant__ static const
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

typedef struct { unsigned x, y, z; } uint3;
typedef uint3 dim3;
#define SHIM_VECTOR(T, N, bytes) \
    struct __align__(bytes < 16 ? bytes : 16) N##2 { T x, y; }; \
    static inline N##2 make_##N##2(T x, T y) { return {x, y}; } \
    struct __align__(2 * bytes < 16 ? 2 * bytes : 16) N##4 { T x, y, z, w; }; \
    static inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SHIM_VECTOR(signed char, char, 2)
SHIM_VECTOR(unsigned char, uchar, 2)
SHIM_VECTOR(short, short, 4)
SHIM_VECTOR(unsigned short, ushort, 4)
SHIM_VECTOR(int, int, 8)
SHIM_VECTOR(unsigned, uint, 8)
SHIM_VECTOR(float, float, 8)
struct __align__(16) longlong2 { long long x, y; };
struct __align__(16) ulonglong2 { unsigned long long x, y; };

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static const int warpSize = 32;

/* ---- fibres ---- */

namespace shim {

const unsigned MAX_THREADS = 1024, MAX_CLUSTER = 4, FIBRES = 2048, MASKS = 8, PLACE = 64;
const size_t STACK = 256 << 10, SHARED = 256 << 10;

enum { BY_TURNS, ASCENDING, DESCENDING };

struct barrier { unsigned mask, arrived, generation; };
struct warp_state {
    barrier at[MASKS];
    __align__(16) unsigned char slot[MASKS][2][32][PLACE];
};
struct fibre {
    void *context, *stack;
    uint3 index;
    bool done;
    const unsigned *generation; /* what it waits for to change, or NULL */
    unsigned seen;
};

struct block_state { unsigned arrived, generation, votes[3], result[3][2]; };

static fibre fibres[FIBRES];
static warp_state warps[FIBRES / 32];
static block_state states[MAX_CLUSTER];
static void *stacks[FIBRES];
static unsigned free_stacks, threads, together, current; /* together: threads of all blocks that run at once */
static unsigned order; /* BY_TURNS: all warps from barrier to barrier. ASCENDING, DESCENDING: a warp, and a block, goes on as long as it can */
static const char *error;
static void (*body)(const uint64_t *);
static const uint64_t *arguments;
static void (*begin)(), (*end)();
static bool (*late)(); /* makes something happen that nothing but waiting brings about; false when nothing is left */
static __align__(1024) unsigned char dynamic[MAX_CLUSTER][SHARED + 1024]; /* shared memory of each block */
static size_t asked; /* bytes of it */

static inline unsigned own_block() { return current / threads; }

#if defined(__x86_64__)
extern "C" void shim_switch(void **save, void *to) __attribute__((visibility("hidden")));
__asm__(
    ".text\n.p2align 4\n.hidden shim_switch\n.globl shim_switch\n.type shim_switch,@function\nshim_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n.size shim_switch,.-shim_switch\n");
static void *scheduler;
static void entry();
static void start(fibre *f) {
    uint64_t *top = (uint64_t *)((char *)f->stack + STACK);
    *--top = 0; /* where entry would return to, so that the stack is aligned as after a call */
    *--top = (uint64_t)entry;
    for (int i = 0; i < 6; i++) *--top = 0;
    f->context = top;
}
static inline void leave() { shim_switch(&fibres[current].context, scheduler); }
static inline void resume(fibre *f) { shim_switch(&scheduler, f->context); }
#else
static ucontext_t scheduler, contexts[FIBRES];
static void entry();
static void start(fibre *f) {
    ucontext_t *c = &contexts[f - fibres];
    getcontext(c);
    c->uc_stack.ss_sp = f->stack;
    c->uc_stack.ss_size = STACK;
    c->uc_link = NULL;
    makecontext(c, entry, 0);
    f->context = c;
}
static inline void leave() { swapcontext(&contexts[current], &scheduler); }
static inline void resume(fibre *f) { swapcontext(&scheduler, (ucontext_t *)f->context); }
#endif

static void entry() {
    body(arguments);
    fibres[current].done = true;
    for (;;) leave();
}

static inline void wait_for(const unsigned *what, unsigned seen) {
    fibres[current].generation = what;
    fibres[current].seen = seen;
    leave();
}

static inline void fail(const char *what) {
    if (!error) error = what;
    fibres[current].done = true;
    leave();
}

/* The barrier of the lanes in `mask`: its place in the warp's table, or -1 after an error. */
static inline int find(unsigned mask) {
    warp_state *w = &warps[current / 32];
    if (!(mask >> (current % 32) & 1)) { fail("a warp operation whose mask leaves out the lane that calls it"); return -1; }
    for (unsigned i = 0; i < MASKS; i++) {
        if (!w->at[i].mask) w->at[i] = {mask, 0, 0};
        if (w->at[i].mask == mask) return (int)i;
    }
    fail("more masks in one warp than the fake device has room for");
    return -1;
}

static inline void meet(barrier *b, unsigned mask) {
    unsigned lanes = together - current / 32 * 32, there = lanes < 32 ? mask & ((1u << lanes) - 1) : mask;
    b->arrived |= 1u << (current % 32);
    if (b->arrived == there) { b->arrived = 0; b->generation++; } else wait_for(&b->generation, b->generation);
}

/* Gives every lane of the mask what each one brought; `all` has 32 places. Valid until the lane's next such operation. */
template <class T> static inline const unsigned char (*exchange(unsigned mask, const T &mine))[PLACE] {
    static_assert(sizeof(T) <= PLACE, "larger than a lane's slot");
    int i = find(mask);
    if (i < 0) return warps[0].slot[0][0];
    warp_state *w = &warps[current / 32];
    unsigned turn = w->at[i].generation & 1;
    memcpy(w->slot[i][turn][current % 32], &mine, sizeof(T));
    meet(&w->at[i], mask);
    return w->slot[i][turn];
}
template <class T> static inline T of_lane(const unsigned char (*all)[PLACE], unsigned lane) { T x; memcpy(&x, all[lane], sizeof x); return x; }

static inline unsigned gather_votes(int predicate, int what) {
    block_state *b = &states[own_block()];
    unsigned turn = b->generation & 1;
    b->votes[what] += predicate != 0;
    unsigned seen = b->generation;
    if (++b->arrived == threads) {
        b->result[what][turn] = b->votes[what];
        b->votes[what] = b->arrived = 0;
        b->generation++;
    } else wait_for(&b->generation, seen);
    return b->result[what][turn];
}

static bool ready(const fibre *f) { return !f->done && (!f->generation || *f->generation != f->seen); }

/* Each thread of a warp of the blocks that run, the first of which is `block`, up to its next barrier; whether any was ready. */
static bool run_warp(unsigned warp, uint3 block, unsigned *left) {
    unsigned lanes = together - warp * 32 < 32 ? together - warp * 32 : 32;
    bool moved = false;
    for (unsigned i = 0; i < lanes && !error; i++) {
        unsigned t = warp * 32 + (order == DESCENDING ? lanes - 1 - i : i);
        fibre *f = &fibres[t];
        if (!ready(f)) continue;
        if (!f->stack) {
            if (!free_stacks) {
                void *s = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
                if (s == MAP_FAILED) { error = "no memory for the stacks of a block"; break; }
                stacks[free_stacks++] = s;
            }
            f->stack = stacks[--free_stacks];
            start(f);
        }
        current = t;
        threadIdx = f->index;
        blockIdx = {block.x + t / threads, block.y, block.z};
        f->generation = NULL;
        resume(f);
        moved = true;
        if (f->done) { stacks[free_stacks++] = f->stack; --*left; }
    }
    return moved;
}

/* The blocks of a cluster, the first of which is blockIdx. */
static void run_blocks() {
    uint3 first = blockIdx;
    memset(states, 0, sizeof states);
    for (unsigned w = 0; w <= (together - 1) / 32; w++) memset(warps[w].at, 0, sizeof warps[w].at);
    for (unsigned t = 0; t < together; t++) {
        unsigned x = t % threads % blockDim.x, rest = t % threads / blockDim.x;
        fibres[t] = {NULL, NULL, {x, rest % blockDim.y, rest / blockDim.y}, false, NULL, 0};
    }
    if (begin) begin();
    for (unsigned left = together; left;) {
        bool moved = false;
        for (unsigned w = 0, all = (together + 31) / 32; w < all && !error; w++) {
            while (run_warp(order == DESCENDING ? all - 1 - w : w, first, &left)) {
                moved = true;
                if (order == BY_TURNS || error) break;
            }
        }
        if (!error && !moved && late && late()) continue;
        if (error || !moved) {
            if (!error) error = "a barrier that some thread of its block, or lane of its mask, never reaches";
            for (unsigned t = 0; t < together; t++) if (fibres[t].stack && !fibres[t].done) stacks[free_stacks++] = fibres[t].stack;
            return;
        }
    }
    if (end) end();
}

/* Runs all blocks of a grid; NULL, or what went wrong. */
static const char *run(void (*kernel)(const uint64_t *), const uint64_t *args, const uint32_t *grid, const uint32_t *block, size_t shared, unsigned cluster,
                       unsigned in_order) {
    const unsigned char garbage = 0xa5;
    error = NULL;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    threads = block[0] * block[1] * block[2];
    if (!threads || threads > MAX_THREADS) return "a block has 1 to 1024 threads";
    if (!grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535 || grid[0] > 0x7fffffffu) return "a grid has 1 to 2^31 - 1, 65535, 65535 blocks";
    if (shared > SHARED) return "more dynamic shared memory than any device has";
    if (cluster > MAX_CLUSTER || grid[0] % cluster || cluster * threads > FIBRES || (cluster > 1 && threads % 32)) return "blocks that make no clusters";
    together = threads * cluster;
    asked = shared;
    order = in_order;
    body = kernel;
    arguments = args;
#if defined(__x86_64__)
    unsigned was = _mm_getcsr();
    _mm_setcsr(0x1f80);
#endif
    for (uint64_t done = 0, n = (uint64_t)grid[0] * grid[1] * grid[2]; done < n && !error; done += cluster) {
        uint64_t b = order == DESCENDING ? n - cluster - done : done;
        blockIdx = {(unsigned)(b % grid[0]), (unsigned)(b / grid[0] % grid[1]), (unsigned)(b / grid[0] / grid[1])};
        for (unsigned i = 0; i < cluster; i++) memset(dynamic[i], garbage, shared + 64);
        run_blocks();
        for (unsigned i = 0; i < cluster * 64; i++) if (dynamic[i / 64][shared + i % 64] != garbage) error = "a write behind the dynamic shared memory";
    }
#if defined(__x86_64__)
    _mm_setcsr(was);
#endif
    return error;
}

template <class T> static inline T from_word(uint64_t word) { static_assert(sizeof(T) == 8, "arguments of kernels have 8 bytes"); T x; memcpy(&x, &word, 8); return x; }
template <class... A, size_t... I> static inline void spread(void (*f)(A...), const uint64_t *a, std::index_sequence<I...>) { f(from_word<A>(a[I])...); }
template <class... A> static inline void call(void (*f)(A...), const uint64_t *a) { spread(f, a, std::index_sequence_for<A...>()); }
template <class... A> static constexpr unsigned count(void (*)(A...)) { return sizeof...(A); }

} /* namespace shim */

/* fake.py appends one of these for each kernel, after CLUSTER (blocks) is defined. */
#define SHIM_KERNEL(name) \
    extern "C" unsigned shim_count_##name() { return shim::count(name); } \
    extern "C" const char *shim_run_##name(const uint64_t *args, const uint32_t *grid, const uint32_t *block, size_t shared, unsigned order) { \
        return shim::run([](const uint64_t *a) { shim::call(name, a); }, args, grid, block, shared, CLUSTER, order); }

#define ASSAY_SHARED(T, name) T *name = reinterpret_cast<T *>(shim::dynamic[shim::own_block()])

/* ---- barriers, votes, shuffles ---- */

static inline void __syncthreads() { shim::gather_votes(0, 0); }
static inline int __syncthreads_count(int p) { return (int)shim::gather_votes(p, 0); }
static inline int __syncthreads_or(int p) { return shim::gather_votes(p, 1) != 0; }
static inline int __syncthreads_and(int p) { return shim::gather_votes(!p, 2) == 0; }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { shim::exchange(mask, 0); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __trap() { shim::fail("__trap"); }

template <class T> static inline T __shfl_sync(unsigned mask, T x, int lane, int width = 32) {
    unsigned own = shim::current % 32;
    return shim::of_lane<T>(shim::exchange(mask, x), (own & ~(unsigned)(width - 1)) | ((unsigned)lane & (unsigned)(width - 1)));
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T x, int bits, int width = 32) {
    unsigned own = shim::current % 32, from = own ^ (unsigned)bits;
    auto all = shim::exchange(mask, x);
    return from / (unsigned)width <= own / (unsigned)width ? shim::of_lane<T>(all, from) : x;
}
template <class T> static inline T __shfl_down_sync(unsigned mask, T x, unsigned by, int width = 32) {
    unsigned own = shim::current % 32;
    auto all = shim::exchange(mask, x);
    return own % (unsigned)width + by < (unsigned)width ? shim::of_lane<T>(all, own + by) : x;
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T x, unsigned by, int width = 32) {
    unsigned own = shim::current % 32;
    auto all = shim::exchange(mask, x);
    return own % (unsigned)width >= by ? shim::of_lane<T>(all, own - by) : x;
}
static inline unsigned __ballot_sync(unsigned mask, int p) {
    auto all = shim::exchange(mask, (int)(p != 0));
    unsigned bits = 0;
    for (unsigned l = 0; l < 32; l++) if (mask >> l & 1 && shim::current / 32 * 32 + l < shim::together) bits |= (unsigned)shim::of_lane<int>(all, l) << l;
    return bits;
}
static inline int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
static inline int __all_sync(unsigned mask, int p) { return __ballot_sync(mask, !p) == 0; }
#define SHIM_REDUCE(name, T, e) \
    static inline T name(unsigned mask, T x) { \
        auto all = shim::exchange(mask, x); \
        bool first = true; \
        T a = 0; \
        for (unsigned l = 0; l < 32; l++) if (mask >> l & 1 && shim::current / 32 * 32 + l < shim::together) { T b = shim::of_lane<T>(all, l); a = first ? b : (e); first = false; } \
        return a; }
SHIM_REDUCE(__reduce_add_sync, unsigned, a + b)
SHIM_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
SHIM_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
SHIM_REDUCE(__reduce_or_sync, unsigned, a | b)
SHIM_REDUCE(__reduce_max_sync, int, a > b ? a : b)
SHIM_REDUCE(__reduce_min_sync, int, a < b ? a : b)

/* ---- atomics: one thread runs at a time ---- */

#define SHIM_ATOMIC(name, T, e) static inline T name(T *at, T b) { T a = *at; *at = (e); return a; }
#define SHIM_ATOMICS(T) \
    SHIM_ATOMIC(atomicAdd, T, a + b) SHIM_ATOMIC(atomicMax, T, a > b ? a : b) SHIM_ATOMIC(atomicMin, T, a < b ? a : b) SHIM_ATOMIC(atomicExch, T, b) \
    SHIM_ATOMIC(atomicOr, T, a | b) SHIM_ATOMIC(atomicAnd, T, a & b) SHIM_ATOMIC(atomicXor, T, a ^ b) \
    static inline T atomicCAS(T *at, T expected, T b) { T a = *at; if (a == expected) *at = b; return a; }
SHIM_ATOMICS(int)
SHIM_ATOMICS(unsigned)
SHIM_ATOMICS(unsigned long long)

/* ---- arithmetic ---- */

#define SHIM_AS(name, R, T) static inline R name(T x) { R y; memcpy(&y, &x, sizeof y); return y; }
SHIM_AS(__float_as_int, int, float)
SHIM_AS(__int_as_float, float, int)
SHIM_AS(__float_as_uint, unsigned, float)
SHIM_AS(__uint_as_float, float, unsigned)
SHIM_AS(__double_as_longlong, long long, double)
SHIM_AS(__longlong_as_double, double, long long)

static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline float __double2float_rn(double a) { return (float)a; }
static inline float __int2float_rn(int a) { return (float)a; }
static inline float __uint2float_rn(unsigned a) { return (float)a; }
static inline float __ll2float_rn(long long a) { return (float)a; }
static inline double __int2double_rn(int a) { return a; }
static inline double __ll2double_rn(long long a) { return (double)a; }
/* Conversions to integers round towards zero or to nearest, saturate, and take NaN to 0 (32 bits) or the lowest number (64 bits). */
static inline int __float2int_rz(float a) { return a != a ? 0 : a >= 0x1p31f ? INT32_MAX : a < -0x1p31f ? INT32_MIN : (int)a; }
static inline long long __float2ll_rz(float a) { return a != a ? INT64_MIN : a >= 0x1p63f ? INT64_MAX : a < -0x1p63f ? INT64_MIN : (long long)a; }
static inline int __float2int_rn(float a) { return __float2int_rz(rintf(a)); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned long long)((unsigned __int128)a * b >> 64); }
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) { return (unsigned)(((uint64_t)high << 32 | low) << (by & 31) >> 32); }
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) { return (unsigned)(((uint64_t)high << 32 | low) >> (by & 31)); }
/* Byte `pick & 7` of both, or its sign eight times where bit 3 is set. Written out, as whoever asks for a constant order gets some shifts of it. */
static inline __attribute__((always_inline)) unsigned shim_byte(uint64_t both, unsigned pick) {
    unsigned byte = (unsigned)(both >> (8 * (pick & 7))) & 255;
    return pick & 8 ? (byte & 128 ? 255u : 0u) : byte;
}
static inline __attribute__((always_inline)) unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
    uint64_t both = (uint64_t)b << 32 | a;
    return shim_byte(both, s & 15) | shim_byte(both, s >> 4 & 15) << 8 | shim_byte(both, s >> 8 & 15) << 16 | shim_byte(both, s >> 12 & 15) << 24;
}
static inline __attribute__((always_inline)) int shim_times(int a, int b, int at) { return (int)(int8_t)(a >> at) * (int)(int8_t)(b >> at); }
static inline __attribute__((always_inline)) int __dp4a(int a, int b, int c) {
    return (int)((unsigned)c + (unsigned)(shim_times(a, b, 0) + shim_times(a, b, 8) + shim_times(a, b, 16) + shim_times(a, b, 24)));
}
template <class T> static inline T __ldg(const T *p) { return *p; }
#define SHIM_MINMAX(T) static inline T min(T a, T b) { return a < b ? a : b; } static inline T max(T a, T b) { return a > b ? a : b; }
SHIM_MINMAX(int)
SHIM_MINMAX(unsigned)
SHIM_MINMAX(long long)
SHIM_MINMAX(unsigned long long)

#endif
