/* Packing an operand of a matrix product: gathered, quantised, and laid out in panels as gemm.c multiplies them (its first comment).
 *
 * A panel's lanes are packed side by side, a row of them for each k. Where neighbouring lanes are neighbours in memory the rows are
 * read in place; otherwise a block of them is gathered first, four elements at a time where four lie together: a transposed matrix, or
 * the windows of a convolution, which are so never written out. Lanes that fill up the last panel repeat the last one: their products go nowhere.
 */
#include "gemm.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define WIDEST (COLUMNS > ROWS ? COLUMNS : ROWS)
#define STEP(width) (((width) + 3) / 4 * 4)

typedef struct { float one, two; } factors; /* x * one * two = x * 2^s, without overflow on the way */

static factors factors_of(uint32_t top, int bits, double *back) {
    int e = (int)(top >> 23), s = bits - 1 + 126 - e, first = s > 127 ? 127 : s;
    *back = e == 255 ? from_bits64(0x7ff8000000000000u) : power64(-s);
    factors f = {e == 255 ? 0.0f : from_bits((uint32_t)(first + 127) << 23), from_bits((uint32_t)(s - first + 127) << 23)};
    return f;
}

/* clamp(rint(x * 2^s)); |x * 2^s| <= 2^(b-1) <= 2^22. A NaN or infinity (whose lane is NaN anyway) gives some number in range. */
static inline int32_t quantise(float x, factors f, int32_t most) {
    static const float magic = 0x1.8p23f;
    int32_t q = (int32_t)(bits_of(x * f.one * f.two + magic) - bits_of(magic));
    return q > most ? most : (q < -most ? -most : q);
}

static inline int32_t low_of(int32_t q) { return (int32_t)(((uint32_t)q + (1u << (SPLIT - 1))) & ((1u << SPLIT) - 1)) - (1 << (SPLIT - 1)); }
static inline int32_t high_of(int32_t q) { return (q - low_of(q)) >> SPLIT; }
/* Plane z of `planes` of q. */
static inline int32_t plane_of(int32_t q, int z, int planes) {
    if (planes == 1) return q;
    return z == 0 ? high_of(q) : (z == 1 ? low_of(q) : high_of(q) + low_of(q));
}

/* d[i * step + l] = p[l][at[i]] for four lanes l and four i; d[l][at[i]..] lie together. */
static inline void turn_four(float *restrict d, word step, const float *const *p, word at) {
#if defined(__SSE2__)
    __m128 a = _mm_loadu_ps(p[0] + at), b = _mm_loadu_ps(p[1] + at), c = _mm_loadu_ps(p[2] + at), e = _mm_loadu_ps(p[3] + at);
    _MM_TRANSPOSE4_PS(a, b, c, e);
    _mm_storeu_ps(d, a);
    _mm_storeu_ps(d + step, b);
    _mm_storeu_ps(d + 2 * step, c);
    _mm_storeu_ps(d + 3 * step, e);
#else
    for (int i = 0; i < 4; i++) for (int l = 0; l < 4; l++) d[i * step + l] = p[l][at + i];
#endif
}

/* Rows from..to of a panel: d[(k - from) * STEP(width) + lane]. */
static inline __attribute__((always_inline)) void gather(const operand *o, word panel, word from, word to, float *restrict d, const int width) {
    const word step = STEP(width), *lane_at = o->lane_at + panel * width, *k_at = o->k_at;
    const float *x = o->x;
    if (o->layout == LANES_FOURS && width % 4 == 0) {
        for (word k = from; k < to; k++, d += step)
            for (int l = 0; l < width; l += 4) memcpy(d + l, x + k_at[k] + lane_at[l], 16);
    } else if (o->layout == K_WHOLE || o->layout == K_FOURS) {
        for (int l = 0; l < step; l += 4) {
            const float *p[4] = {x + lane_at[l], x + lane_at[l + 1], x + lane_at[l + 2], x + lane_at[l + 3]};
            word k = from;
            if (o->layout == K_WHOLE) for (; k + 4 <= to; k += 4) turn_four(d + (k - from) * step + l, step, p, k_at[0] + k);
            else for (; k + 4 <= to; k += 4) turn_four(d + (k - from) * step + l, step, p, k_at[k]);
            for (; k < to; k++) for (int i = 0; i < 4; i++) d[(k - from) * step + l + i] = p[i][k_at[k]];
        }
    } else {
        for (word k = from; k < to; k++, d += step)
            for (int l = 0; l < width; l++) d[l] = x[k_at[k] + lane_at[l]];
    }
}

static inline __attribute__((always_inline)) void pack(const operand *o, const shape *s, word panel, const int width, const int planes) {
    _Alignas(64) float rows[2 * BLOCK * STEP(WIDEST)];
    word pairs = s->pairs, panels = (o->lanes + width - 1) / width, first = panel * width, span = 2 * s->block;
    int32_t *out[PLANES];
    for (int z = 0; z < planes; z++) out[z] = o->panels + (z * panels + panel) * pairs * width;
    const float *x = o->x + o->lane_at[first];
    const int direct = o->layout == LANES_WHOLE && first + width <= o->lanes;
    /* Row k, of a block that has been gathered from row `from` on. */
#define ROW(k, from) (direct ? x + o->k_at[k] : rows + ((k) - (from)) * STEP(width))
    uint32_t top[WIDEST] = {0};
    if (o->layout == K_WHOLE) {
        for (int l = 0; l < width; l++) {
            const float *p = o->x + o->lane_at[first + l] + o->k_at[0];
            uint32_t most = 0;
            for (word k = 0; k < o->k; k++) { uint32_t a = bits_of(p[k]) & ABS_BITS; most = a > most ? a : most; }
            top[l] = most;
        }
        if (s->blocks == 1) gather(o, panel, 0, o->k, rows, width);
    } else for (word from = 0; from < o->k; from += span) {
        word to = from + span < o->k ? from + span : o->k;
        if (!direct) gather(o, panel, from, to, rows, width);
        for (word k = from; k < to; k++) {
            const float *row = ROW(k, from);
            for (int l = 0; l < width; l++) { uint32_t a = bits_of(row[l]) & ABS_BITS; top[l] = a > top[l] ? a : top[l]; }
        }
    }
    float one[WIDEST], two[WIDEST];
    uint32_t along[PLANES][WIDEST] = {{0}};
    for (int l = 0; l < width; l++) {
        factors f = factors_of(top[l], s->bits, &o->back[first + l]);
        one[l] = f.one;
        two[l] = f.two;
    }
    for (word b = 0; b < s->blocks; b++) {
        float squares[WIDEST] = {0};
        word from = b * span, to = from + span < o->k ? from + span : o->k;
        if (!direct && s->blocks > 1) gather(o, panel, from, to, rows, width);
        for (word k = from; k < to; k += 2) {
            const float *even = ROW(k, from), *odd = k + 1 < to ? ROW(k + 1, from) : even;
            int32_t keep = k + 1 < to ? -1 : 0, evens[PLANES] = {0}, odds[PLANES] = {0};
            for (int l = 0; l < width; l++) {
                factors f = {one[l], two[l]};
                int32_t u = quantise(even[l], f, s->most), v = quantise(odd[l], f, s->most) & keep;
                for (int z = 0; z < planes; z++) {
                    int32_t uz = plane_of(u, z, planes), vz = plane_of(v, z, planes);
                    out[z][k / 2 * width + l] = pair_of(uz, vz);
                    if (ASSAY_CHECKSUMS && width == ROWS) { evens[z] += uz; odds[z] += vz; }
                    if (ASSAY_CHECKSUMS && width == COLUMNS) along[z][l] += (uint32_t)(uz + vz);
                }
                if (planes == 1) squares[l] += (float)u * (float)u + (float)v * (float)v;
            }
            if (ASSAY_CHECKSUMS && width == ROWS) for (int z = 0; z < planes; z++) {
                o->across[(z * panels + panel) * 2 * pairs + k] = evens[z];
                o->across[(z * panels + panel) * 2 * pairs + k + 1] = odds[z];
            }
        }
        if (planes > 1) continue;
        float norm = 0;
        for (int l = 0; l < width; l++) norm = squares[l] > norm ? squares[l] : norm;
        o->norms[panel * s->blocks + b] = norm * 1.0001f; /* more than the rounding of BLOCK additions */
    }
    if (ASSAY_CHECKSUMS && width == COLUMNS)
        for (int z = 0; z < planes; z++) memcpy(o->along + (z * panels + panel) * width, along[z], (size_t)width * 4);
}

void assay_pack(const operand *o, const shape *s, word panel) {
    if (s->planes == 1) { if (o->width == ROWS) pack(o, s, panel, ROWS, 1); else pack(o, s, panel, COLUMNS, 1); }
    else if (o->width == ROWS) pack(o, s, panel, ROWS, PLANES);
    else pack(o, s, panel, COLUMNS, PLANES);
}
