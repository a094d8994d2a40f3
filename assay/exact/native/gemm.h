/* Matrix products: what packing (pack.c) and multiplying (gemm.c) share. */
#ifndef ASSAY_GEMM_H
#define ASSAY_GEMM_H

#include "assay.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define ROWS 12
#define COLUMNS 32
#elif defined(__AVX2__)
#define ROWS 6
#define COLUMNS 16
#elif defined(ASSAY_NEON) /* the level: every aarch64 compiler defines __ARM_NEON */
#define ROWS 12
#define COLUMNS 8
#else
#define ROWS 4
#define COLUMNS 8
#endif
#define BLOCK 64 /* pairs */
#define SPLIT 11 /* bits of l */
#define PLANES 3
#ifndef ASSAY_CHECKSUMS
#define ASSAY_CHECKSUMS 1 /* 0: for measuring what they cost */
#endif

/* One operand of one product: `lanes` rows (columns) of `k` elements, and its packed form. Element k of lane l lies at
 * x[lane_at[l] + k_at[k]]; lane_at goes on, with the last lane's, up to a multiple of `width` and TAIL more. */
typedef struct {
    const float *x;
    word lanes, k;
    const word *lane_at, *k_at;
    int layout;
    int width;        /* lanes of a panel */
    int32_t *panels;  /* [planes][panels][pairs][width] */
    float *norms;     /* [panels][blocks]: at least the largest sum of squares of a lane's block; one plane only */
    double *back;     /* [panels * width]: 2^-s, NaN for a lane with an infinity or NaN */
    int32_t *across;  /* A: [planes][panels][2 pairs]: sums over a panel's lanes. NULL for B. */
    int64_t *along;   /* B: [planes][panels][width]: sums over k. NULL for A. */
} operand;

/* LANES_WHOLE: neighbouring lanes are neighbours in memory. K_WHOLE: a lane's elements are. K_FOURS, LANES_FOURS: four and four are. */
enum { LANES_WHOLE, K_WHOLE, K_FOURS, LANES_FOURS, SCATTERED };
#define TAIL 4

/* How operands are packed and summed, by their bits. */
typedef struct {
    int bits, planes;
    word k, pairs, block, blocks;
    int32_t most;
} shape;

static inline int32_t pair_of(int32_t even, int32_t odd) { return (int32_t)(((uint32_t)even & 0xffffu) | (uint32_t)odd << 16); }

/* Quantises and packs one panel. */
void assay_pack(const operand *o, const shape *s, word panel);

#endif
