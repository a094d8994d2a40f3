/* Exact GEMM: C_ij = RN32(2^-(sa_i + sb_j) * sum_k qa_ik qb_kj), a statement about integers (reference.py).
 *
 * Operands are quantised while they are packed into panels of LANES rows (columns), as pairs of int16 along k, so that one
 * instruction multiplies two and adds them into an int32. |q| <= 2^(b-1) - 1 =: Q, so `safe` = floor((2^31 - 1) / 2Q^2) pairs
 * cannot overflow (16 at b = 14). Usually far more are safe: by Cauchy and Schwarz |sum qa qb| <= |qa| |qb|, also for every part
 * of the sum, so where the norms of a block of pairs multiply to less than 2^31 the block is summed in one go. Otherwise
 * it is summed in runs of `safe` pairs. Either way the tile then goes into int64, and the integers are the same.
 *
 * b > 15: q = h 2^11 + l with |l| <= 2^10, |h| <= 2^11, and three such products (Karatsuba and Ofman 1962) of the planes h, l and
 * h + l: qa qb = hh 2^22 + (xx - hh - ll) 2^11 + ll with x = h + l. No block of these can overflow.
 *
 * Checksums (Huang and Abraham 1984), exact because everything is integer: while A is packed, s_k = sum_i qa_ik is summed from
 * registers, and while B is, r_j = sum_k qb_kj. After a panel of columns is done, sum_i C_ij + r_j must be sum_k (s_k + 1) qb_kj,
 * with qb read from the panel anew: modulo 2^64, or 2^32 where the sums are int32. One flipped bit in a packed operand, an
 * accumulator or a sum changes one side only, so the product is computed again, and refused when that does not help
 * (docs/exact-arithmetic.md says what is not covered).
 */
#include "gemm.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

const int assay_tile[] = {ROWS, COLUMNS}; /* for assay/exact/memory.py */

#define GROUP 4096 /* panels of A that share a checksum: |s| < 2^31 */

/* tile[i][j] = sum over `pairs` of a . b; panels as packed: a[pair][ROWS], b[pair][COLUMNS], each entry two int16. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
static inline void multiply(const int32_t *restrict a, const int32_t *restrict b, word pairs, int32_t *restrict tile) {
#define ZERO(i) __m512i l##i = _mm512_setzero_si512(), r##i = l##i;
    EACH(ZERO)
    for (word p = 0; p < pairs; p++, a += ROWS, b += COLUMNS) {
        __m512i bl = _mm512_load_si512(b), br = _mm512_load_si512(b + 16);
#define STEP(i) { __m512i v = _mm512_set1_epi32(a[i]); l##i = _mm512_dpwssd_epi32(l##i, v, bl); r##i = _mm512_dpwssd_epi32(r##i, v, br); }
        EACH(STEP)
    }
#define STORE(i) _mm512_store_si512(tile + i * COLUMNS, l##i); _mm512_store_si512(tile + i * COLUMNS + 16, r##i);
    EACH(STORE)
}
#elif defined(__AVX2__)
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5)
static inline void multiply(const int32_t *restrict a, const int32_t *restrict b, word pairs, int32_t *restrict tile) {
#define ZERO(i) __m256i l##i = _mm256_setzero_si256(), r##i = l##i;
    EACH(ZERO)
    for (word p = 0; p < pairs; p++, a += ROWS, b += COLUMNS) {
        __m256i bl = _mm256_load_si256((const __m256i *)b), br = _mm256_load_si256((const __m256i *)(b + 8));
#define STEP(i) { __m256i v = _mm256_set1_epi32(a[i]); \
        l##i = _mm256_add_epi32(l##i, _mm256_madd_epi16(v, bl)); r##i = _mm256_add_epi32(r##i, _mm256_madd_epi16(v, br)); }
        EACH(STEP)
    }
#define STORE(i) _mm256_store_si256((__m256i *)(tile + i * COLUMNS), l##i); _mm256_store_si256((__m256i *)(tile + i * COLUMNS + 8), r##i);
    EACH(STORE)
}
#elif defined(ASSAY_NEON)
#include "neon.h" /* and multiply_digits */
#else
static inline void multiply(const int32_t *restrict a, const int32_t *restrict b, word pairs, int32_t *restrict tile) {
    int32_t t[ROWS][COLUMNS] = {{0}};
    for (word p = 0; p < pairs; p++, a += ROWS, b += COLUMNS)
        for (int i = 0; i < ROWS; i++) {
            int32_t low = (int16_t)a[i], high = a[i] >> 16;
            for (int j = 0; j < COLUMNS; j++) t[i][j] += low * (int16_t)b[j] + high * (b[j] >> 16);
        }
    memcpy(tile, t, sizeof t);
}
#endif

#ifndef ASSAY_NEON
/* tile[d][j] = sum over `pairs` of digit d (the words from d + row * step on) . b; modulo 2^32. */
static inline __attribute__((always_inline)) void multiply_digits(
    const int32_t *restrict d, word step, const int digits, const int32_t *restrict b, word pairs, int32_t *restrict tile) {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
    __m512i l[PLANES], r[PLANES];
    for (int i = 0; i < digits; i++) l[i] = r[i] = _mm512_setzero_si512();
    for (word p = 0; p < pairs; p++, d++, b += COLUMNS) {
        __m512i bl = _mm512_load_si512(b), br = _mm512_load_si512(b + 16);
        for (int i = 0; i < digits; i++) {
            __m512i v = _mm512_set1_epi32(d[i * step]);
            l[i] = _mm512_dpwssd_epi32(l[i], v, bl);
            r[i] = _mm512_dpwssd_epi32(r[i], v, br);
        }
    }
    for (int i = 0; i < digits; i++) { _mm512_store_si512(tile + i * COLUMNS, l[i]); _mm512_store_si512(tile + i * COLUMNS + 16, r[i]); }
#elif defined(__AVX2__)
    __m256i l[PLANES], r[PLANES];
    for (int i = 0; i < digits; i++) l[i] = r[i] = _mm256_setzero_si256();
    for (word p = 0; p < pairs; p++, d++, b += COLUMNS) {
        __m256i bl = _mm256_load_si256((const __m256i *)b), br = _mm256_load_si256((const __m256i *)(b + 8));
        for (int i = 0; i < digits; i++) {
            __m256i v = _mm256_set1_epi32(d[i * step]);
            l[i] = _mm256_add_epi32(l[i], _mm256_madd_epi16(v, bl));
            r[i] = _mm256_add_epi32(r[i], _mm256_madd_epi16(v, br));
        }
    }
    for (int i = 0; i < digits; i++) {
        _mm256_store_si256((__m256i *)(tile + i * COLUMNS), l[i]);
        _mm256_store_si256((__m256i *)(tile + i * COLUMNS + 8), r[i]);
    }
#else
    uint32_t t[PLANES][COLUMNS] = {{0}};
    for (word p = 0; p < pairs; p++, d++, b += COLUMNS)
        for (int i = 0; i < digits; i++) {
            int32_t low = (int16_t)d[i * step], high = d[i * step] >> 16;
            for (int j = 0; j < COLUMNS; j++) t[i][j] += (uint32_t)(low * (int16_t)b[j]) + (uint32_t)(high * (b[j] >> 16));
        }
    memcpy(tile, t, sizeof t[0] * (size_t)digits);
#endif
}
#endif

/* A bit that a test flips: see assay_inject. Nothing else writes it. */
static struct { int where, bit; word index; int times; } injection;
enum { IN_A = 1, IN_B, IN_TILE, IN_SUM, IN_CHECKSUM };
static word faults; /* products that failed their checksum */

/* For tests of the checksums: flips `bit` of element `index` (modulo how many there are) in the next `times` products, of A's or
 * B's panels (between packing and multiplying), an int32 accumulator, an int64 sum, or the checksum itself. */
void assay_inject(int where, word index, int bit, int times) {
    injection.where = where;
    injection.index = index;
    injection.bit = bit;
    injection.times = times;
}

/* Products that failed their checksum since this was asked last. */
word assay_faults(void) { return __atomic_exchange_n(&faults, 0, __ATOMIC_RELAXED); }

static shape shape_of(int bits, word k) {
    shape s = {.bits = bits, .planes = bits > 15 ? PLANES : 1, .k = k, .pairs = (k + 1) / 2, .block = bits == 15 ? BLOCK / 4 : BLOCK};
    s.blocks = (s.pairs + s.block - 1) / s.block;
    s.most = (1 << (bits - 1)) - 1;
    return s;
}

typedef struct {
    operand a, b;
    float *c;
    shape s;
    int no_memory, mismatch, strike; /* strike: where a test flips a bit in this attempt, else 0 */
} product;

static void pack_part(void *argument, int part, int parts) {
    product *j = argument;
    word pa = (j->a.lanes + ROWS - 1) / ROWS, pb = (j->b.lanes + COLUMNS - 1) / COLUMNS, from, to;
    share(pa, 1, part, parts, &from, &to);
    for (word p = from; p < to; p++) assay_pack(&j->a, &j->s, p);
    share(pb, 1, part, parts, &from, &to);
    for (word p = from; p < to; p++) assay_pack(&j->b, &j->s, p);
}

/* s_k + 1 of a group of A's panels as digits of 11 bits (`exact`), or of 16, enough modulo 2^32. */
typedef struct { int32_t *words; int digits, bits; word run; } checksum;

/* Digits of s (|s| < 2^31 - 2^15), balanced: words[d][p] holds digit d of s[2p] and s[2p + 1]. */
static inline __attribute__((always_inline)) void split(const int32_t *restrict s, word pairs, const int bits, const int digits, int32_t *restrict words) {
    for (word p = 0; p < pairs; p++) {
        int32_t even = s[2 * p], odd = s[2 * p + 1];
        for (int d = 0; d < digits; d++) {
            int32_t low = ((even + (1 << (bits - 1))) & ((1 << bits) - 1)) - (1 << (bits - 1));
            int32_t high = ((odd + (1 << (bits - 1))) & ((1 << bits) - 1)) - (1 << (bits - 1));
            words[d * pairs + p] = pair_of(low, high);
            even = (even - low) >> bits;
            odd = (odd - high) >> bits;
        }
    }
}

static void make_checksum(const product *j, int plane, word from, word to, int exact, int32_t *s, checksum *out) {
    word pairs = j->s.pairs, panels = (j->a.lanes + ROWS - 1) / ROWS;
    for (word k = 0; k < 2 * pairs; k++) s[k] = 1;
    for (word p = from; p < to; p++) {
        const int32_t *across = j->a.across + (plane * panels + p) * 2 * pairs;
        for (word k = 0; k < 2 * pairs; k++) s[k] += across[k];
    }
    int32_t high = 0, low = 0;
    if (exact) for (word k = 0; k < 2 * pairs; k++) { high = s[k] > high ? s[k] : high; low = s[k] < low ? s[k] : low; }
    out->bits = exact ? SPLIT : 16;
    out->digits = exact && (high > 2096000 || low < -2096000) ? 3 : 2;
    out->run = exact ? INT32_MAX / ((word)2048 * (j->s.planes == 1 ? j->s.most : 4096)) : pairs;
    if (!exact) split(s, pairs, 16, 2, out->words);
    else if (out->digits == 2) split(s, pairs, SPLIT, 2, out->words);
    else split(s, pairs, SPLIT, 3, out->words);
}

/* Whether the columns' sums of int32 tiles fit the checksum modulo 2^32. */
static int agrees_32(const checksum *c, const int32_t *b, word pairs, const uint32_t *sums, const int64_t *along) {
    _Alignas(64) int32_t tile[2 * COLUMNS];
    uint32_t differ = 0;
    multiply_digits(c->words, pairs, 2, b, pairs, tile);
    for (int e = 0; e < COLUMNS; e++) differ |= (uint32_t)tile[e] + ((uint32_t)tile[COLUMNS + e] << 16) - sums[e] - (uint32_t)along[e];
    return differ == 0;
}

/* Whether those of int64 tiles do, modulo 2^64. */
static int agrees(const checksum *c, const int32_t *b, word pairs, const uint64_t *sums, const int64_t *along) {
    _Alignas(64) int32_t tile[PLANES * COLUMNS];
    uint64_t want[COLUMNS] = {0}, differ = 0;
    for (word at = 0; at < pairs; at += c->run) {
        word n = pairs - at < c->run ? pairs - at : c->run;
        if (c->digits == 2) multiply_digits(c->words + at, pairs, 2, b + at * COLUMNS, n, tile);
        else multiply_digits(c->words + at, pairs, 3, b + at * COLUMNS, n, tile);
        for (int d = 0; d < c->digits; d++)
            for (int e = 0; e < COLUMNS; e++) want[e] += (uint64_t)(int64_t)tile[d * COLUMNS + e] << (c->bits * d);
    }
    for (int e = 0; e < COLUMNS; e++) differ |= want[e] - sums[e] - (uint64_t)along[e];
    return differ == 0;
}

/* Adds a tile's rows to the sums of its columns. GCC's vectors: a plain loop goes through memory for each row. */
#if COLUMNS == 32
#define NARROW 16
#else
#define NARROW 8
#endif
typedef uint32_t narrow_lanes __attribute__((vector_size(4 * NARROW)));
typedef uint64_t wide_lanes __attribute__((vector_size(64)));

static inline void add_columns_32(const int32_t *tile, uint32_t *sums) {
    for (int e = 0; e < COLUMNS; e += NARROW) {
        narrow_lanes all;
        memcpy(&all, sums + e, sizeof all);
        for (int i = 0; i < ROWS; i++) { narrow_lanes row; memcpy(&row, tile + i * COLUMNS + e, sizeof row); all += row; }
        memcpy(sums + e, &all, sizeof all);
    }
}

static inline void add_columns_64(const int64_t *tile, uint64_t *sums) {
    for (int e = 0; e < COLUMNS; e += 8) {
        wide_lanes all;
        memcpy(&all, sums + e, sizeof all);
        for (int i = 0; i < ROWS; i++) { wide_lanes row; memcpy(&row, tile + i * COLUMNS + e, sizeof row); all += row; }
        memcpy(sums + e, &all, sizeof all);
    }
}

static void multiply_part(void *argument, int part, int parts) {
    product *j = argument;
    const shape *s = &j->s;
    word m = j->a.lanes, n = j->b.lanes, pairs = s->pairs;
    word pa = (m + ROWS - 1) / ROWS, pb = (n + COLUMNS - 1) / COLUMNS;
    word safe = s->planes == 1 ? INT32_MAX / (2 * (word)s->most * s->most) : s->block;
    int wide = 2 * (s->bits - 1) + 64 - __builtin_clzll((unsigned long long)pairs * 2) > 53, planes = s->planes;
    /* The longer side is cut. */
    word from = 0, to = pa, left = 0, right = pb;
    if (pa > pb) share(pa, 1, part, parts, &from, &to);
    else share(pb, 1, part, parts, &left, &right);
    int32_t *scratch = NULL;
    if (ASSAY_CHECKSUMS && !(scratch = assay_scratch(SCRATCH_CHECK, (size_t)(pairs * 4 * (2 + 5 * planes))))) { j->no_memory = 1; return; }
    for (word group = from; group < to; group += GROUP) {
        word end = to - group < GROUP ? to : group + GROUP;
        checksum check[PLANES], narrow[PLANES];
        float norm = 0;
        int exact = 0, modulo = 0;
        if (planes == 1 && s->blocks == 1) for (word p = group; p < end; p++) norm = j->a.norms[p] > norm ? j->a.norms[p] : norm;
        for (word q = left; q < right; q++) {
            /* All sums are int32: of one plane whose norms allow it, of three within a block. */
            int whole = s->blocks == 1 && (planes > 1 || norm * j->b.norms[q] < 0x1p61f);
            uint32_t sums32[PLANES][COLUMNS];
            if (whole) memset(sums32, 0, sizeof sums32[0] * (size_t)planes);
            uint64_t sums64[PLANES][COLUMNS];
            if (!whole) memset(sums64, 0, sizeof sums64[0] * (size_t)planes);
            for (word p = group; p < end; p++) {
                _Alignas(64) int32_t tiles[PLANES][ROWS * COLUMNS], *tile = tiles[0];
                _Alignas(64) int64_t total[PLANES][ROWS * COLUMNS], *sums = total[0];
                int struck = j->strike && injection.index / (ROWS * COLUMNS) % (pa * pb) == q * pa + p;
                word at_struck = injection.index % (ROWS * COLUMNS);
                if (whole) for (int z = 0; z < planes; z++) {
                    multiply(j->a.panels + (z * pa + p) * pairs * ROWS, j->b.panels + (z * pb + q) * pairs * COLUMNS, pairs, tiles[z]);
                    if (struck && j->strike >= IN_TILE) tiles[z][at_struck] = (int32_t)((uint32_t)tiles[z][at_struck] ^ 1u << injection.bit % 32);
                    if (ASSAY_CHECKSUMS) add_columns_32(tiles[z], sums32[z]);
                } else for (int z = 0; z < planes; z++) {
                    const int32_t *a = j->a.panels + (z * pa + p) * pairs * ROWS, *b = j->b.panels + (z * pb + q) * pairs * COLUMNS;
                    sums = total[z];
                    for (word k = 0; k < s->blocks; k++) {
                        word stop = (k + 1) * s->block < pairs ? (k + 1) * s->block : pairs;
                        word run = planes == 1 && j->a.norms[p * s->blocks + k] * j->b.norms[q * s->blocks + k] < 0x1p61f ? s->block : safe;
                        for (word at = k * s->block; at < stop; at += run) {
                            multiply(a + at * ROWS, b + at * COLUMNS, stop - at < run ? stop - at : run, tile);
                            if (struck && j->strike == IN_TILE && at == 0) tile[at_struck] = (int32_t)((uint32_t)tile[at_struck] ^ 1u << injection.bit % 32);
                            if (at == 0) for (int e = 0; e < ROWS * COLUMNS; e++) sums[e] = tile[e];
                            else for (int e = 0; e < ROWS * COLUMNS; e++) sums[e] += tile[e];
                        }
                    }
                    if (struck && j->strike == IN_SUM) sums[at_struck] = (int64_t)((uint64_t)sums[at_struck] ^ 1ull << injection.bit % 64);
                    if (ASSAY_CHECKSUMS) add_columns_64(sums, sums64[z]);
                }
                if (planes > 1 && whole) for (int e = 0; e < ROWS * COLUMNS; e++) {
                    int64_t hh = tiles[0][e], ll = tiles[1][e], xx = tiles[2][e];
                    total[0][e] = hh * (1 << 2 * SPLIT) + (xx - hh - ll) * (1 << SPLIT) + ll;
                } else if (planes > 1) for (int e = 0; e < ROWS * COLUMNS; e++) {
                    uint64_t hh = (uint64_t)total[0][e], ll = (uint64_t)total[1][e], xx = (uint64_t)total[2][e];
                    total[0][e] = (int64_t)((hh << 2 * SPLIT) + ((xx - hh - ll) << SPLIT) + ll);
                }
                sums = total[0];
                word i0 = p * ROWS, j0 = q * COLUMNS, height = m - i0 < ROWS ? m - i0 : ROWS, width = n - j0 < COLUMNS ? n - j0 : COLUMNS;
                const double *sa = j->a.back + i0, *sb = j->b.back + j0;
                for (word i = 0; i < height; i++) {
                    float *c = j->c + (i0 + i) * n + j0;
                    if (whole && planes == 1 && width == COLUMNS) for (int e = 0; e < COLUMNS; e++) c[e] = (float)(tile[i * COLUMNS + e] * (sa[i] * sb[e]));
                    else if (whole && planes == 1) for (word e = 0; e < width; e++) c[e] = (float)(tile[i * COLUMNS + e] * (sa[i] * sb[e]));
                    else if (!wide) for (word e = 0; e < width; e++) c[e] = (float)((double)sums[i * COLUMNS + e] * (sa[i] * sb[e]));
                    else for (word e = 0; e < width; e++) c[e] = round_scaled(sums[i * COLUMNS + e], sa[i] * sb[e]);
                }
            }
            if (!ASSAY_CHECKSUMS) continue;
            if (whole && !modulo) {
                for (int z = 0; z < planes; z++) {
                    narrow[z].words = scratch + 2 * pairs + 2 * pairs * z;
                    make_checksum(j, z, group, end, 0, scratch, &narrow[z]);
                }
                modulo = 1;
                if (j->strike == IN_CHECKSUM) narrow[0].words[injection.index % pairs] ^= 1 << injection.bit % 8;
            }
            if (!whole && !exact) {
                for (int z = 0; z < planes; z++) {
                    check[z].words = scratch + (2 + 2 * planes + 3 * z) * pairs;
                    make_checksum(j, z, group, end, 1, scratch, &check[z]);
                }
                exact = 1;
                if (j->strike == IN_CHECKSUM) check[0].words[injection.index % pairs] ^= 1 << injection.bit % 8;
            }
            if (whole) for (int z = 0; z < planes; z++) {
                word panel = z * pb + q;
                if (!agrees_32(&narrow[z], j->b.panels + panel * pairs * COLUMNS, pairs, sums32[z], j->b.along + panel * COLUMNS)) j->mismatch = 1;
            } else for (int z = 0; z < planes; z++) {
                word panel = z * pb + q;
                if (!agrees(&check[z], j->b.panels + panel * pairs * COLUMNS, pairs, sums64[z], j->b.along + panel * COLUMNS)) j->mismatch = 1;
            }
        }
    }
}

/* 0; -1: no memory; -2: the product failed its checksum twice. */
static int one_product(product *j, int threads) {
    const shape *s = &j->s;
    word pa = (j->a.lanes + ROWS - 1) / ROWS, pb = (j->b.lanes + COLUMNS - 1) / COLUMNS;
    size_t sums_a = ASSAY_CHECKSUMS ? (size_t)(s->planes * pa * 2 * s->pairs * 4) : 0, sums_b = (size_t)(s->planes * pb * COLUMNS * 8);
    j->a.panels = assay_scratch(SCRATCH_A, (size_t)(s->planes * pa * s->pairs * ROWS * 4));
    j->b.panels = assay_scratch(SCRATCH_B, (size_t)(s->planes * pb * s->pairs * COLUMNS * 4));
    char *side = assay_scratch(SCRATCH_SIDE, (size_t)(pa * (s->blocks * 4 + ROWS * 8) + pb * (s->blocks * 4 + COLUMNS * 8)) + sums_a + sums_b);
    if (!j->a.panels || !j->b.panels || !side) return -1;
    j->a.back = (double *)side;
    j->b.back = j->a.back + pa * ROWS;
    j->b.along = (int64_t *)(j->b.back + pb * COLUMNS);
    j->a.norms = (float *)(j->b.along + s->planes * pb * COLUMNS);
    j->b.norms = j->a.norms + pa * s->blocks;
    j->a.across = (int32_t *)(j->b.norms + pb * s->blocks);
    for (int attempt = 0; attempt < 2; attempt++) {
        j->mismatch = j->strike = 0;
        if (injection.times > 0 && __atomic_fetch_sub(&injection.times, 1, __ATOMIC_RELAXED) > 0) j->strike = injection.where;
        assay_parallel(threads, pack_part, j);
        if (j->no_memory) return -1;
        if (j->strike == IN_A) j->a.panels[injection.index % (s->planes * pa * s->pairs * ROWS)] ^= (int32_t)(1u << injection.bit % 32);
        if (j->strike == IN_B) j->b.panels[injection.index % (s->planes * pb * s->pairs * COLUMNS)] ^= (int32_t)(1u << injection.bit % 32);
        assay_parallel(threads, multiply_part, j);
        if (j->no_memory) return -1;
        if (!j->mismatch) return 0;
        __atomic_fetch_add(&faults, 1, __ATOMIC_RELAXED);
    }
    return -2;
}

/* Offsets of an axis of an operand from the words `rank; dims; strides`, which it moves past; `extra` more repeat the
 * last one, or the last four, so that four are read together where four lie together. */
static word *offsets(const word **w, word count, word extra, word *at) {
    const word rank = (*w)[0], *dims = *w + 1, *strides = dims + rank;
    word filled = 1;
    at[0] = 0;
    for (word r = 0; r < rank; r++) { /* from the outermost on: each dimension spreads what there is */
        for (word i = filled - 1; i >= 0; i--)
            for (word d = dims[r] - 1; d >= 0; d--) at[i * dims[r] + d] = at[i] + d * strides[r];
        filled *= dims[r];
    }
    for (word i = 0; i < extra; i++) at[count + i] = at[count % 4 ? count - 1 : count - 4 + i % 4];
    *w += 1 + 2 * rank;
    return at + count + extra;
}

static int layout_of(const word *lanes, const word *k, word count, word width) {
    int lanes_lie = lanes[2 * lanes[0]] == 1, k_lies = k[2 * k[0]] == 1;
    if (lanes_lie && lanes[0] == 1 && count >= width) return LANES_WHOLE;
    if (k_lies && k[0] == 1) return K_WHOLE;
    if (lanes_lie && lanes[lanes[0]] % 4 == 0) return LANES_FOURS;
    return k_lies && k[k[0]] % 4 == 0 ? K_FOURS : SCATTERED;
}

static word size_of(const word *axis) {
    word n = 1;
    for (word r = 0; r < axis[0]; r++) n *= axis[1 + r];
    return n;
}

typedef struct { const word *w; char **base; product one; word products; int threads, failed; } batch;

static void batch_part(void *argument, int part, int parts) {
    batch *b = argument;
    const word *w = b->w, rank = w[7], *dims = w + 8, *as = dims + rank, *bs = as + rank;
    word from, to;
    share(b->products, 1, part, parts, &from, &to);
    for (word i = from; i < to; i++) {
        product j = b->one;
        for (word r = rank - 1, left = i; r >= 0; left /= dims[r--]) { j.a.x += left % dims[r] * as[r]; j.b.x += left % dims[r] * bs[r]; }
        j.c += i * j.a.lanes * j.b.lanes;
        int failed = one_product(&j, b->threads);
        if (failed) { __atomic_store_n(&b->failed, failed, __ATOMIC_RELAXED); return; }
    }
}

/* Words: target (base, offset), a (base, offset), b (base, offset), bits; batch: rank, dims, steps of a, steps of b; then each as rank,
 * dims, strides: rows of a, k of a, columns of b, k of b. The target is in C order. -2: a product failed its checksum twice. */
int assay_matmul(const word *w, char **base, int threads) {
    word rank = w[7], products = 1;
    const word *rows = w + 8 + 3 * rank, *ka = rows + 1 + 2 * rows[0], *columns = ka + 1 + 2 * ka[0], *kb = columns + 1 + 2 * columns[0];
    for (word r = 0; r < rank; r++) products *= w[8 + r];
    word m = size_of(rows), k = size_of(ka), n = size_of(columns);
    word more = (m + ROWS - 1) / ROWS * ROWS - m + TAIL, beyond = (n + COLUMNS - 1) / COLUMNS * COLUMNS - n + TAIL;
    word *tables = assay_scratch(SCRATCH_TABLES, (size_t)(m + more + n + beyond + 2 * k) * 8);
    if (!tables) return -1;
    batch b = {.w = w, .base = base, .products = products, .threads = 1};
    b.one.s = shape_of((int)w[6], k);
    b.one.c = (float *)(base[w[0]] + w[1]);
    b.one.a = (operand){.x = (const float *)(base[w[2]] + w[3]), .lanes = m, .k = k, .width = ROWS, .layout = layout_of(rows, ka, m, ROWS)};
    b.one.b = (operand){.x = (const float *)(base[w[4]] + w[5]), .lanes = n, .k = k, .width = COLUMNS, .layout = layout_of(columns, kb, n, COLUMNS)};
    const word *axis = rows;
    b.one.a.lane_at = tables;
    b.one.a.k_at = tables = offsets(&axis, m, more, tables);
    b.one.b.lane_at = tables = offsets(&axis, k, 0, tables);
    b.one.b.k_at = tables = offsets(&axis, n, beyond, tables);
    offsets(&axis, k, 0, tables);
    if (products * m * n * k < 1 << 18) threads = 1;
    /* Many products are shared out; one, or a few large ones, are cut. */
    if (products >= 4 * threads) assay_parallel(threads, batch_part, &b);
    else { b.threads = threads; batch_part(&b, 0, 1); }
    return b.failed;
}
