/* Walks in memory. A walk is i64 words: rank, then from the last dimension to the first: size, magic | shift << 32, stride in elements. The
 * quotient of i < 2^31 by a size is (umulhi(i, magic) + i) >> shift (Granlund and Montgomery, PLDI 1994); tape.py makes the words. */
__device__ __forceinline__ i64 offset_of(const i64 *walk, u32 i) {
    int rank = (int)*walk++;
    i64 at = 0;
    for (; rank > 1; rank--, walk += 3) {
        u32 q = (__umulhi(i, (u32)walk[1]) + i) >> (u32)(walk[1] >> 32);
        at += (i64)(i - q * (u32)walk[0]) * walk[2];
        i = q;
    }
    return at + (i64)i * walk[2];
}

/* Every index below n, by all threads of the grid. */
#define FOR_EACH(i, n) for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < (u32)(n); i += gridDim.x * blockDim.x)

/* An index into an axis, clamped into it; `item` bytes each. */
__device__ __forceinline__ i64 inside(const u8 *index, i64 item, i64 at, i64 size) {
    i64 i = item == 8 ? ((const i64 *)index)[at] : ((const i32 *)index)[at];
    return i < 0 ? 0 : (i >= size ? size - 1 : i);
}
