/* Integer sums and maxima over the threads that share a result (reduce.cu, and the kernels of rows.py). */

#define WARP 32
#define BLOCK 256

/* Order of the floats as unsigned integers, -0 before +0, any NaN last; 0 stands for nothing. */
FN u32 rank_of(float x) {
    u32 b = __float_as_uint(x);
    return x != x ? 0xffffffffu : (b >> 31 ? ~b : b | ~ABS_BITS);
}
FN float of_rank(u32 r) { return r == 0xffffffffu ? of_bits(NAN_BITS) : of_bits(r >> 31 ? r & ABS_BITS : ~r); }

FN u32 larger(u32 a, u32 b) { return a > b ? a : b; }
FN u32 magnitude(float x) { return __float_as_uint(x) & ABS_BITS; }
FN int scale_of(u32 top, i64 bits) { return (int)bits + 126 - (int)(top >> 23); }
FN Scale scaling(u32 top, i64 bits) { return scale_by(scale_of(top, bits)); }
FN float sum_of(u32 top, u64 total, i64 bits) { return top >> 23 == 255 ? of_bits(NAN_BITS) : round_scaled((i64)total, -scale_of(top, bits)); }

/* An index into a row of n elements, clamped into it, and a row in which one place has other bits. */
FN u32 clamped(i64 at, u32 n) { return at < 0 ? 0u : at >= (i64)n ? n - 1 : (u32)at; }
FN float scatter_value(float x, i64 at, u32 e, u32 n, u32 bits) { return e == clamped(at, n) ? of_bits(bits) : x; }

/* Over a warp or all threads of a block; the result is with every one. */
template <int GROUP> FN u32 largest_of(u32 v) {
    for (int by = 16; by; by >>= 1) { u32 other = __shfl_xor_sync(ALL_LANES, v, by); v = other > v ? other : v; }
    if (GROUP == WARP) return v;
    __shared__ u32 each[GROUP / WARP];
    __syncthreads();
    if (threadIdx.x % WARP == 0) each[threadIdx.x / WARP] = v;
    __syncthreads();
    for (int w = 0; w < GROUP / WARP; w++) v = each[w] > v ? each[w] : v;
    return v;
}
template <int GROUP> FN u64 total_of(u64 v) {
    for (int by = 16; by; by >>= 1) v += __shfl_xor_sync(ALL_LANES, v, by);
    if (GROUP == WARP) return v;
    __shared__ u64 each[GROUP / WARP];
    __syncthreads();
    if (threadIdx.x % WARP == 0) each[threadIdx.x / WARP] = v;
    __syncthreads();
    v = 0;
    for (int w = 0; w < GROUP / WARP; w++) v += each[w];
    return v;
}
