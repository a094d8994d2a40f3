/* Matrix products with Arm's Advanced SIMD (NEON, a part of every aarch64 processor): the two loops of gemm.c.
 *
 * There is no instruction that multiplies two pairs of int16 and adds them up, but `smlal` multiplies four int16 by one and adds the four
 * products into int32. So a panel's pairs are taken apart while they are read (`ld2`: the even elements of eight columns, then the odd ones),
 * and every element of A is multiplied from its place in a register. The sums are those of the pairs in another order: each part of
 * them is bounded as gemm.c says, and modulo 2^32 an order makes no difference. 12 x 8 results are 24 registers, operands 5 more, of 32.
 */
#ifndef ASSAY_NEON_H
#define ASSAY_NEON_H

#include "gemm.h"
#include <arm_neon.h>

/* X(row, register of A that has it, its place there) */
#define EACH(X) X(0, u, 0) X(1, u, 2) X(2, u, 4) X(3, u, 6) X(4, v, 0) X(5, v, 2) X(6, v, 4) X(7, v, 6) X(8, w, 0) X(9, w, 2) X(10, w, 4) X(11, w, 6)

static inline void multiply(const int32_t *restrict a, const int32_t *restrict b, word pairs, int32_t *restrict tile) {
#define ZERO(i, x, at) int32x4_t l##i = vdupq_n_s32(0), r##i = l##i;
    EACH(ZERO)
    for (word p = 0; p < pairs; p++, a += ROWS, b += COLUMNS) {
        const int16x8_t u = vreinterpretq_s16_s32(vld1q_s32(a)), v = vreinterpretq_s16_s32(vld1q_s32(a + 4)), w = vreinterpretq_s16_s32(vld1q_s32(a + 8));
        const int16x8x2_t c = vld2q_s16((const int16_t *)b);
#define STEP(i, x, at) \
        l##i = vmlal_laneq_s16(vmlal_laneq_s16(l##i, vget_low_s16(c.val[0]), x, at), vget_low_s16(c.val[1]), x, at + 1); \
        r##i = vmlal_high_laneq_s16(vmlal_high_laneq_s16(r##i, c.val[0], x, at), c.val[1], x, at + 1);
        EACH(STEP)
    }
#define STORE(i, x, at) vst1q_s32(tile + i * COLUMNS, l##i); vst1q_s32(tile + i * COLUMNS + 4, r##i);
    EACH(STORE)
}

static inline __attribute__((always_inline)) void multiply_digits(
    const int32_t *restrict d, word step, const int digits, const int32_t *restrict b, word pairs, int32_t *restrict tile) {
    int32x4_t l[PLANES], r[PLANES];
    for (int i = 0; i < digits; i++) l[i] = r[i] = vdupq_n_s32(0);
    for (word p = 0; p < pairs; p++, d++, b += COLUMNS) {
        const int16x8x2_t c = vld2q_s16((const int16_t *)b);
        for (int i = 0; i < digits; i++) {
            const int16x4_t x = vreinterpret_s16_s32(vld1_dup_s32(d + i * step));
            l[i] = vmlal_lane_s16(vmlal_lane_s16(l[i], vget_low_s16(c.val[0]), x, 0), vget_low_s16(c.val[1]), x, 1);
            r[i] = vmlal_high_lane_s16(vmlal_high_lane_s16(r[i], c.val[0], x, 0), c.val[1], x, 1);
        }
    }
    for (int i = 0; i < digits; i++) { vst1q_s32(tile + i * COLUMNS, l[i]); vst1q_s32(tile + i * COLUMNS + 4, r[i]); }
}

#endif
