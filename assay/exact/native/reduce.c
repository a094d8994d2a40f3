/* REDUCE but GEMM, and the MOVEs that look at an index. Sums of floats are sums of integers: every term times one power of two,
 * rounded to a whole number (reference.py, "Fixed point"). Adding 1.5 * 2^52 to a double rounds it to a whole number and leaves
 * that, plus a constant, in its bits: so the loop is a conversion, a product and two additions, and the order does not matter.
 */
#include "assay.h"

#define TILE 256
static const double MAGIC = 0x1.8p52;

static inline int64_t fixed(float x, double scale) { return (int64_t)(bits_of64((double)x * scale + MAGIC) - bits_of64(MAGIC)); }
static inline int32_t key_of(float x) { int32_t b = (int32_t)bits_of(x); return b ^ ((b >> 31) & 0x7fffffff); }
static inline float of_key(int32_t k) { return from_bits((uint32_t)(k ^ ((k >> 31) & 0x7fffffff))); }

/* Words: target (base, offset), source (base, offset), outer, n, inner, B (0: int64 elements). Both in C order. */
typedef struct { const word *w; char **base; } reduce_job;

static void sum_rows(const float *x, float *y, word rows, word n, int bits) {
    for (word r = 0; r < rows; r++, x += n) {
        uint32_t top = 0;
        for (word i = 0; i < n; i++) { uint32_t a = bits_of(x[i]) & ABS_BITS; top = a > top ? a : top; }
        int s = bits + 126 - (int)(top >> 23);
        double scale = power64(s);
        uint64_t total = 0;
        for (word i = 0; i < n; i++) total += (uint64_t)fixed(x[i], scale);
        y[r] = top >> 23 == 255 ? from_bits(NAN_BITS) : round_scaled((int64_t)total, power64(-s));
    }
}

static void sum_columns(const float *x, float *y, word n, word inner, word width, int bits) {
    uint32_t top[TILE] = {0};
    uint64_t total[TILE] = {0};
    double scale[TILE];
    for (word i = 0; i < n; i++)
        for (word c = 0; c < width; c++) { uint32_t a = bits_of(x[i * inner + c]) & ABS_BITS; top[c] = a > top[c] ? a : top[c]; }
    for (word c = 0; c < width; c++) scale[c] = power64(bits + 126 - (int)(top[c] >> 23));
    for (word i = 0; i < n; i++)
        for (word c = 0; c < width; c++) total[c] += (uint64_t)fixed(x[i * inner + c], scale[c]);
    for (word c = 0; c < width; c++)
        y[c] = top[c] >> 23 == 255 ? from_bits(NAN_BITS) : round_scaled((int64_t)total[c], power64((int)(top[c] >> 23) - bits - 126));
}

static void sum_part(void *argument, int part, int parts) {
    reduce_job *j = argument;
    const word *w = j->w;
    word outer = w[4], n = w[5], inner = w[6], from, to;
    if (w[7] == 0) {
        const uint64_t *x = (const uint64_t *)(j->base[w[2]] + w[3]);
        uint64_t *y = (uint64_t *)(j->base[w[0]] + w[1]);
        share(outer * inner, 1, part, parts, &from, &to);
        for (word k = from; k < to; k++) {
            const uint64_t *p = x + k / inner * n * inner + k % inner;
            uint64_t total = 0;
            for (word i = 0; i < n; i++) total += p[i * inner];
            y[k] = total;
        }
        return;
    }
    const float *x = (const float *)(j->base[w[2]] + w[3]);
    float *y = (float *)(j->base[w[0]] + w[1]);
    if (inner == 1) {
        share(outer, 1, part, parts, &from, &to);
        sum_rows(x + from * n, y + from, to - from, n, (int)w[7]);
        return;
    }
    word tiles = (inner + TILE - 1) / TILE;
    share(outer * tiles, 1, part, parts, &from, &to);
    for (word k = from; k < to; k++) {
        word o = k / tiles, c = k % tiles * TILE;
        sum_columns(x + o * n * inner + c, y + o * inner + c, n, inner, inner - c < TILE ? inner - c : TILE, (int)w[7]);
    }
}

int assay_sum(const word *w, char **base, int threads) {
    reduce_job j = {w, base};
    assay_parallel(w[4] * w[5] * w[6] >= 1 << 14 ? threads : 1, sum_part, &j);
    return 0;
}

static void amax_part(void *argument, int part, int parts) {
    reduce_job *j = argument;
    const word *w = j->w;
    word outer = w[4], n = w[5], inner = w[6], from, to;
    const float *x = (const float *)(j->base[w[2]] + w[3]);
    float *y = (float *)(j->base[w[0]] + w[1]);
    if (inner == 1) {
        share(outer, 1, part, parts, &from, &to);
        for (word r = from; r < to; r++) {
            const float *p = x + r * n;
            uint32_t top = 0;
            int32_t most = INT32_MIN;
            for (word i = 0; i < n; i++) {
                uint32_t a = bits_of(p[i]) & ABS_BITS;
                int32_t k = key_of(p[i]);
                top = a > top ? a : top;
                most = k > most ? k : most;
            }
            y[r] = top > 0x7f800000u ? from_bits(NAN_BITS) : of_key(most);
        }
        return;
    }
    word tiles = (inner + TILE - 1) / TILE;
    share(outer * tiles, 1, part, parts, &from, &to);
    for (word t = from; t < to; t++) {
        word o = t / tiles, c0 = t % tiles * TILE, width = inner - c0 < TILE ? inner - c0 : TILE;
        const float *p = x + o * n * inner + c0;
        uint32_t top[TILE] = {0};
        int32_t most[TILE];
        for (word c = 0; c < TILE; c++) most[c] = INT32_MIN;
        for (word i = 0; i < n; i++)
            for (word c = 0; c < width; c++) {
                uint32_t a = bits_of(p[i * inner + c]) & ABS_BITS;
                int32_t k = key_of(p[i * inner + c]);
                top[c] = a > top[c] ? a : top[c];
                most[c] = k > most[c] ? k : most[c];
            }
        for (word c = 0; c < width; c++) y[o * inner + c0 + c] = top[c] > 0x7f800000u ? from_bits(NAN_BITS) : of_key(most[c]);
    }
}

int assay_amax(const word *w, char **base, int threads) {
    reduce_job j = {w, base};
    assay_parallel(w[4] * w[5] * w[6] >= 1 << 14 ? threads : 1, amax_part, &j);
    return 0;
}

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

/* Words: as assay_sum; the target has the source's shape. */
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
