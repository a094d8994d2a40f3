/* REDUCE but GEMM, and the MOVEs that look at an index. Sums of floats are sums of integers: every term times one power of two,
 * rounded to a whole number (reference.py, "Fixed point"). Adding 1.5 * 2^52 to a double rounds it to a whole number and leaves
 * that, plus a constant, in its bits: so the loop is a conversion, a product and two additions, and the order does not matter.
 */
#include "assay.h"

#define TILE 256
#define SHORT 32
static const double MAGIC = 0x1.8p52;

static inline int64_t fixed(float x, double scale) { return (int64_t)(bits_of64((double)x * scale + MAGIC) - bits_of64(MAGIC)); }
static inline int32_t key_of(float x) { int32_t b = (int32_t)bits_of(x); return b ^ ((b >> 31) & 0x7fffffff); }
static inline float of_key(int32_t k) { return from_bits((uint32_t)(k ^ ((k >> 31) & 0x7fffffff))); }

/* A reduction: result [outer, inner], where result (o, c) is that of the elements x[out_at(o) + rows[i] + e] of a `run` (inner = 1),
 * or x[out_at(o) + rows[i] + c] side by side (run = 1). Words: target (base, offset), source (base, offset), B (0: int64 elements),
 * inner, run; then rank, dims, strides of the outer results; rank, dims, strides of the rows. */
typedef struct { const word *w; char **base; const word *rows, *kept; word outer, inner, run, count; int bits; } reduction;

static word offset_of(const word *walk, word index) {
    word at = 0;
    for (word r = walk[0]; r > 0; r--) { at += index % walk[r] * walk[walk[0] + r]; index /= walk[r]; }
    return at;
}

static inline uint32_t largest(const float *x, word n, uint32_t top) {
    for (word i = 0; i < n; i++) { uint32_t a = bits_of(x[i]) & ABS_BITS; top = a > top ? a : top; }
    return top;
}

static inline float rounded(uint32_t top, uint64_t total, int bits) {
    return top >> 23 == 255 ? from_bits(NAN_BITS) : round_scaled((int64_t)total, power64((int)(top >> 23) - bits - 126));
}

static float sum_rows(const reduction *j, const float *x) {
    uint32_t top = 0;
    uint64_t total = 0;
    for (word i = 0; i < j->count; i++) top = largest(x + j->rows[i], j->run, top);
    double scale = power64(j->bits + 126 - (int)(top >> 23));
    for (word i = 0; i < j->count; i++) {
        const float *p = x + j->rows[i];
        for (word e = 0; e < j->run; e++) total += (uint64_t)fixed(p[e], scale);
    }
    return rounded(top, total, j->bits);
}

/* Row i at x + rows[i], or with `step` at x + i * step. */
static void sum_columns(const float *x, float *y, const word *rows, word step, word n, word width, int bits) {
    uint32_t top[TILE] = {0};
    uint64_t total[TILE] = {0};
    double scale[TILE];
    for (word i = 0; i < n; i++) {
        const float *p = x + (step ? i * step : rows[i]);
        for (word c = 0; c < width; c++) { uint32_t a = bits_of(p[c]) & ABS_BITS; top[c] = a > top[c] ? a : top[c]; }
    }
    for (word c = 0; c < width; c++) scale[c] = power64(bits + 126 - (int)(top[c] >> 23));
    for (word i = 0; i < n; i++) {
        const float *p = x + (step ? i * step : rows[i]);
        for (word c = 0; c < width; c++) total[c] += (uint64_t)fixed(p[c], scale[c]);
    }
    for (word c = 0; c < width; c++) y[c] = rounded(top[c], total[c], bits);
}

/* Sums of a few neighbours each: as columns, after a transposition. */
static void sum_short(const reduction *j, const float *x, float *y, word from, word to) {
    float tile[SHORT * SHORT];
    for (word k = from; k < to; k += SHORT) {
        word width = to - k < SHORT ? to - k : SHORT;
        for (word c = 0; c < width; c++) {
            const float *p = x + offset_of(j->kept, k + c);
            for (word e = 0; e < j->run; e++) tile[e * SHORT + c] = p[e];
        }
        sum_columns(tile, y + k, NULL, SHORT, j->run, width, j->bits);
    }
}

static void sum_part(void *argument, int part, int parts) {
    reduction *j = argument;
    const word *w = j->w;
    word from, to;
    if (j->bits == 0) {
        const uint64_t *x = (const uint64_t *)(j->base[w[2]] + w[3]);
        uint64_t *y = (uint64_t *)(j->base[w[0]] + w[1]);
        share(j->outer * j->inner, 1, part, parts, &from, &to);
        for (word k = from; k < to; k++) {
            const uint64_t *p = x + offset_of(j->kept, k / j->inner) + k % j->inner;
            uint64_t total = 0;
            for (word i = 0; i < j->count; i++) for (word e = 0; e < j->run; e++) total += p[j->rows[i] + e];
            y[k] = total;
        }
        return;
    }
    const float *x = (const float *)(j->base[w[2]] + w[3]);
    float *y = (float *)(j->base[w[0]] + w[1]);
    if (j->inner == 1) {
        share(j->outer, 1, part, parts, &from, &to);
        if (j->count == 1 && j->run <= SHORT) sum_short(j, x + j->rows[0], y, from, to);
        else for (word k = from; k < to; k++) y[k] = sum_rows(j, x + offset_of(j->kept, k));
        return;
    }
    word tiles = (j->inner + TILE - 1) / TILE;
    share(j->outer * tiles, 1, part, parts, &from, &to);
    for (word k = from; k < to; k++) {
        word o = k / tiles, c = k % tiles * TILE, width = j->inner - c < TILE ? j->inner - c : TILE;
        sum_columns(x + offset_of(j->kept, o) + c, y + o * j->inner + c, j->rows, 0, j->count, width, j->bits);
    }
}

static void amax_part(void *argument, int part, int parts) {
    reduction *j = argument;
    const word *w = j->w;
    word from, to, tiles = (j->inner + TILE - 1) / TILE;
    const float *x = (const float *)(j->base[w[2]] + w[3]);
    float *y = (float *)(j->base[w[0]] + w[1]);
    share(j->outer * tiles, 1, part, parts, &from, &to);
    for (word t = from; t < to; t++) {
        word o = t / tiles, c0 = t % tiles * TILE, width = j->inner - c0 < TILE ? j->inner - c0 : TILE;
        const float *first = x + offset_of(j->kept, o) + c0;
        uint32_t top[TILE] = {0};
        int32_t most[TILE];
        for (word c = 0; c < width; c++) most[c] = INT32_MIN;
        for (word i = 0; i < j->count; i++) {
            const float *p = first + j->rows[i];
            if (j->inner == 1) {
                uint32_t high = top[0];
                int32_t best = most[0];
                for (word e = 0; e < j->run; e++) {
                    uint32_t a = bits_of(p[e]) & ABS_BITS;
                    int32_t k = key_of(p[e]);
                    high = a > high ? a : high;
                    best = k > best ? k : best;
                }
                top[0] = high;
                most[0] = best;
            } else for (word c = 0; c < width; c++) {
                uint32_t a = bits_of(p[c]) & ABS_BITS;
                int32_t k = key_of(p[c]);
                top[c] = a > top[c] ? a : top[c];
                most[c] = k > most[c] ? k : most[c];
            }
        }
        for (word c = 0; c < width; c++) y[o * j->inner + c0 + c] = top[c] > 0x7f800000u ? from_bits(NAN_BITS) : of_key(most[c]);
    }
}

static int reduce(const word *w, char **base, int threads, void (*part)(void *, int, int)) {
    reduction j = {.w = w, .base = base, .bits = (int)w[4], .inner = w[5], .run = w[6], .kept = w + 7, .outer = 1, .count = 1};
    const word *walk = w + 8 + 2 * w[7];
    for (word r = 1; r <= w[7]; r++) j.outer *= j.kept[r];
    for (word r = 1; r <= walk[0]; r++) j.count *= walk[r];
    word *rows = assay_scratch(SCRATCH_TABLES, (size_t)j.count * 8);
    if (!rows) return -1;
    for (word i = 0; i < j.count; i++) rows[i] = offset_of(walk, i);
    j.rows = rows;
    assay_parallel(j.outer * j.inner * j.count * j.run >= 1 << 14 ? threads : 1, part, &j);
    return 0;
}

int assay_sum(const word *w, char **base, int threads) { return reduce(w, base, threads, sum_part); }
int assay_amax(const word *w, char **base, int threads) { return reduce(w, base, threads, amax_part); }

/* Words: target (base, offset), source (base, offset), outer, n, inner, B (0: int64 elements). Both in C order. */
typedef struct { const word *w; char **base; } reduce_job;

static void cumsum_part(void *argument, int part, int parts) {
    reduce_job *j = argument;
    const word *w = j->w;
    word n = w[5], inner = w[6], from, to;
    share(w[4] * inner, 1, part, parts, &from, &to);
    for (word k = from; k < to; k++) {
        word at = k / inner * n * inner + k % inner;
        uint64_t total = 0;
        if (w[7] == 0) {
            const uint64_t *x = (const uint64_t *)(j->base[w[2]] + w[3]) + at;
            uint64_t *y = (uint64_t *)(j->base[w[0]] + w[1]) + at;
            for (word i = 0; i < n; i++) y[i * inner] = total += x[i * inner];
            continue;
        }
        const float *x = (const float *)(j->base[w[2]] + w[3]) + at;
        float *y = (float *)(j->base[w[0]] + w[1]) + at;
        uint32_t top = 0;
        for (word i = 0; i < n; i++) { uint32_t a = bits_of(x[i * inner]) & ABS_BITS; top = a > top ? a : top; }
        int s = (int)w[7] + 126 - (int)(top >> 23);
        double scale = power64(s), back = power64(-s);
        for (word i = 0; i < n; i++) {
            total += (uint64_t)fixed(x[i * inner], scale);
            y[i * inner] = top >> 23 == 255 ? from_bits(NAN_BITS) : round_scaled((int64_t)total, back);
        }
    }
}

int assay_cumsum(const word *w, char **base, int threads) {
    reduce_job j = {w, base};
    assay_parallel(w[4] * w[5] * w[6] >= 1 << 14 ? threads : 1, cumsum_part, &j);
    return 0;
}

static inline word inside(const char *index, word item, word at, word size) {
    int64_t i = item == 8 ? ((const int64_t *)index)[at] : ((const int32_t *)index)[at];
    return i < 0 ? 0 : (i >= size ? size - 1 : i);
}

/* Words: target, index, values (base, offset each), item of the index, rows, n, width, B. */
int assay_scatter_add(const word *w, char **base, int threads) {
    float *y = (float *)(base[w[0]] + w[1]);
    const char *index = base[w[2]] + w[3];
    const float *x = (const float *)(base[w[4]] + w[5]);
    word item = w[6], rows = w[7], n = w[8], width = w[9];
    int64_t *total = assay_scratch(SCRATCH_SUM, (size_t)(rows * width * 8));
    (void)threads;
    if (!total) return -1;
    uint32_t top = 0;
    for (word i = 0; i < n * width; i++) { uint32_t a = bits_of(x[i]) & ABS_BITS; top = a > top ? a : top; }
    int s = (int)w[10] + 126 - (int)(top >> 23);
    double scale = power64(s), back = power64(-s);
    memset(total, 0, (size_t)(rows * width * 8));
    for (word i = 0; i < n; i++) {
        uint64_t *row = (uint64_t *)total + inside(index, item, i, rows) * width;
        for (word c = 0; c < width; c++) row[c] += (uint64_t)fixed(x[i * width + c], scale);
    }
    for (word i = 0; i < rows * width; i++) y[i] = top >> 23 == 255 ? from_bits(NAN_BITS) : round_scaled(total[i], back);
    return 0;
}

/* Words: target, table, index (base, offset each), item of the index, rows, n, bytes of a row. */
int assay_take_rows(const word *w, char **base, int threads) {
    char *y = base[w[0]] + w[1];
    const char *table = base[w[2]] + w[3], *index = base[w[4]] + w[5];
    (void)threads;
    for (word i = 0; i < w[8]; i++) memcpy(y + i * w[9], table + inside(index, w[6], i, w[7]) * w[9], (size_t)w[9]);
    return 0;
}

#define ELEMENT(T) ((T *)y)[t] = ((const T *)x)[f]
/* Words: target, source, index (base, offset each), item of the index, item, outer, size of the axis in the source, in the index, inner. */
int assay_gather(const word *w, char **base, int threads) {
    char *y = base[w[0]] + w[1];
    const char *x = base[w[2]] + w[3], *index = base[w[4]] + w[5];
    word item = w[7], size = w[9], taken = w[10], inner = w[11];
    (void)threads;
    for (word t = 0; t < w[8] * taken * inner; t++) {
        word o = t / (taken * inner), c = t % inner, f = (o * size + inside(index, w[6], t, size)) * inner + c;
        if (item == 4) ELEMENT(uint32_t); else if (item == 8) ELEMENT(uint64_t); else ELEMENT(uint8_t);
    }
    return 0;
}

/* Words: as assay_gather, then the bit pattern. */
int assay_scatter_value(const word *w, char **base, int threads) {
    char *y = base[w[0]] + w[1];
    const char *x = base[w[2]] + w[3], *index = base[w[4]] + w[5];
    word item = w[7], size = w[9], taken = w[10], inner = w[11];
    (void)threads;
    memcpy(y, x, (size_t)(w[8] * size * inner * item));
    for (word k = 0; k < w[8] * taken * inner; k++) {
        word o = k / (taken * inner), c = k % inner, t = (o * size + inside(index, w[6], k, size)) * inner + c;
        if (item == 4) ((uint32_t *)y)[t] = (uint32_t)w[12];
        else if (item == 8) ((uint64_t *)y)[t] = (uint64_t)w[12];
        else ((uint8_t *)y)[t] = (uint8_t)w[12];
    }
    return 0;
}
