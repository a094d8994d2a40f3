/* Exact arithmetic for CPUs: what the files of this folder share.
 *
 * Everything here gives the bits of assay/exact/reference.py. That holds because (a) f32 arithmetic is plain IEEE 754, never
 * contracted (-ffp-contract=off), reassociated or flushed (standard_floats), and (b) sums and products are sums of
 * integers, whose order does not matter. So the compiler may vectorise every loop, and blocks and threads may be cut anywhere.
 */
#ifndef ASSAY_H
#define ASSAY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

typedef int64_t word;

#define NAN_BITS 0x7fc00000u
#define ABS_BITS 0x7fffffffu

static inline uint32_t bits_of(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
static inline float from_bits(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }
static inline uint64_t bits_of64(double x) { uint64_t u; memcpy(&u, &x, 8); return u; }
static inline double from_bits64(uint64_t u) { double x; memcpy(&x, &u, 8); return x; }
/* Rounds to nearest and keeps subnormals and NaNs: a library (gcc's crtfastmath, say) may have set it otherwise for the whole thread. Returns what
 * was set, for restore_floats. x86: MXCSR, all exceptions masked; aarch64: FPCR. */
#if defined(__x86_64__)
#define STANDARD_FLOATS 0x1f80
static inline uint64_t standard_floats(void) { uint64_t was = _mm_getcsr(); _mm_setcsr(STANDARD_FLOATS); return was; }
static inline void restore_floats(uint64_t was) { _mm_setcsr((unsigned)was); }
#elif defined(__aarch64__)
#define STANDARD_FLOATS 0
static inline void restore_floats(uint64_t was) { __asm__ volatile("msr fpcr, %0" : : "r"(was) : "memory"); }
static inline uint64_t standard_floats(void) { uint64_t was; __asm__ volatile("mrs %0, fpcr" : "=r"(was)); restore_floats(STANDARD_FLOATS); return was; }
#else
static inline uint64_t standard_floats(void) { return 0; }
static inline void restore_floats(uint64_t was) { (void)was; }
#endif
/* 2^n, -1022 <= n <= 1023 */
static inline double power64(int n) { return from_bits64((uint64_t)(n + 1023) << 52); }

/* RN32(total * scale), scale a power of two: what f64 does not hold exactly is rounded to odd first, so that f32 rounds once. */
static inline float round_scaled(int64_t total, double scale) {
    uint64_t size = total < 0 ? 0 - (uint64_t)total : (uint64_t)total;
    if (size >> 53) size = ((size >> 10) | ((size & 1023) != 0)) << 10;
    double value = (double)(int64_t)size;
    return (float)((total < 0 ? -value : value) * scale);
}

/* pool.c: runs fn(argument, i, n) once for each i = 0..n-1 on up to `threads` threads, n = threads or 1; returns when all are done. */
void assay_parallel(int threads, void (*fn)(void *, int, int), void *argument);
/* At least `size` bytes, aligned to 64, valid until the next call with the same slot on the same thread; NULL: no memory. */
void *assay_scratch(int slot, size_t size);
enum { SCRATCH_REGISTERS, SCRATCH_A, SCRATCH_B, SCRATCH_SIDE, SCRATCH_TABLES, SCRATCH_SUM, SCRATCH_CHECK, SCRATCH_SLOTS };

/* sha256.c: what every hash begins with, and `count` blocks of 64 bytes more for one message or for ASSAY_HASHES of them. */
#define ASSAY_HASHES 2
extern const uint32_t assay_sha256_start[8];
void assay_sha256_blocks(uint32_t (*state)[8], const uint8_t *const *blocks, size_t count, int lanes);
void assay_sha256(const uint8_t *data, size_t size, uint8_t out[32]);
/* Merkle root over a row of n > 0 leaf hashes, which has room for one more and is written over. */
void assay_row_root(uint8_t *row, size_t n, uint8_t out[32]);

/* The part i of n of 0..total, cut at multiples of `unit`. */
static inline void share(word total, word unit, int i, int n, word *from, word *to) {
    word units = (total + unit - 1) / unit;
    word a = units * i / n * unit, b = units * (i + 1) / n * unit;
    *from = a < total ? a : total;
    *to = b < total ? b : total;
}

/* One step of a tape each (tape.c): `w` are the step's words, `base` the addresses of the buffers. 0, or -1: out of memory, -2: hardware fault (gemm.c). */
int assay_map(const word *w, char **base, int threads);
int assay_copy(const word *w, char **base, int threads);
int assay_fill(const word *w, char **base, int threads);
int assay_matmul(const word *w, char **base, int threads);
int assay_sum(const word *w, char **base, int threads);
int assay_amax(const word *w, char **base, int threads);
int assay_scatter_add(const word *w, char **base, int threads);
int assay_cumsum(const word *w, char **base, int threads);
int assay_take_rows(const word *w, char **base, int threads);
int assay_gather(const word *w, char **base, int threads);
int assay_scatter_value(const word *w, char **base, int threads);

#endif
