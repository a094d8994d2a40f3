/* The memory and the products of a hardware proof (assay.proving.held and .products are the specification): a thread for each block of a level. */

FN u32 left_turned(u32 x, int by) { return x << by | x >> (32 - by); }

FN void held_round(u32 *x, u32 factor, int shift, int far, int by) {
    u32 y[16];
#pragma unroll
    for (int w = 0; w < 16; w++) {
        u32 v = x[w] * factor;
        y[w] = v ^ v >> shift;
    }
#pragma unroll
    for (int w = 0; w < 16; w++) x[w] = y[w] + left_turned(y[(w + far) & 15], by);
}

/* Level 0: Philox words. */
KERNEL held_first(i64 lanes, u32 *memory, i64 stream, i64 key) {
    FOR_EACH(i, lanes * 16) memory[i] = (u32)philox_i64(i, stream, key);
}

/* Level t from all before it. */
KERNEL held_level(i64 lanes, u32 *memory, i64 t) {
    FOR_EACH(lane, lanes) {
        const u32 *before = memory + ((t - 1) * lanes + lane) * 16;
        u32 acc[16];
#pragma unroll
        for (int w = 0; w < 16; w++) acc[w] = before[w];
#pragma unroll
        for (int r = 0; r < 8; r++) {
            const u32 *other = memory + ((u64)acc[r] * (u64)(t * lanes) >> 32) * 16;
#pragma unroll
            for (int w = 0; w < 16; w++) acc[w] ^= other[w];
            held_round(acc, 0x9e3779b1u, 15, 5, 13);
            held_round(acc, 0x85ebca6bu, 13, 11, 7);
        }
        u32 *to = memory + (t * lanes + lane) * 16;
#pragma unroll
        for (int w = 0; w < 16; w++) to[w] = acc[w] + before[w];
    }
}

/* c[m, n] = a[m, k] b[n, k]^T of int8, for a device without a library; slow and plain. */
KERNEL held_product(const signed char *a, const signed char *b, i32 *c, i64 m, i64 n, i64 k) {
    i64 i = (i64)blockIdx.y * blockDim.y + threadIdx.y, j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= m || j >= n) return;
    i32 sum = 0;
    for (i64 at = 0; at < k; at++) sum += (i32)a[i * k + at] * (i32)b[j * k + at];
    c[i * n + j] = sum;
}

/* What is kept of the sums. */
KERNEL held_fold(i64 count, const u32 *sums, u8 *state) {
    FOR_EACH(i, count) state[i] = (u8)(sums[i] * 0x9e3779b1u >> 24);
}
