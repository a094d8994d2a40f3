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
/* Rounding to 24 bits and then scaling by a power of two is one rounding, as long as the result is normal. */
FN float sum_of(u32 top, u64 total, i64 bits) {
    u32 rounded = __float_as_uint(__ll2float_rn((i64)total));
    int scale = scale_of(top, bits), e = (int)(rounded >> 23 & 255u) - scale;
    if (top >> 23 == 255) return of_bits(NAN_BITS);
    if (rounded && e >= 1 && e < 255) return of_bits((rounded & 0x807fffffu) | (u32)e << 23);
    return round_scaled((i64)total, -scale);
}

/* The largest magnitude of a row of exp(x - m), m the row's maximum: exp(0) = 1 at the maximum, and exp of what is at most 0 is at most 1 (all 2^31 of them:
 * tests/exact/test_cuda_quotients.py). Of an infinite m, or a NaN, m - m is a NaN, and so is the sum. */
FN u32 top_of_exponentials(float m) { return magnitude(SUB(m, m)) ? NAN_BITS : 0x3f800000u; }

/* Of a row of n > 1 elements that are alike but for one: its maximum, and its sums. */
FN float amax_f32_of_two(float odd, float common) { return maximum(odd, common); }
FN i64 sum_i64_of_two(i64 odd, i64 common, u32 n) { return (i64)((u64)odd + (u64)common * (n - 1u)); }
FN float sum_f32_of_two(float odd, float common, u32 n, i64 bits) {
    u32 top = larger(magnitude(odd), magnitude(common));
    Scale by = scaling(top, bits);
    return sum_of(top, (u64)fixed(odd, by) + (u64)fixed(common, by) * (n - 1u), bits);
}

/* An index into a row of n elements, clamped into it, and a row in which one place has other bits. */
FN u32 clamped(i64 at, u32 n) { return at < 0 ? 0u : at >= (i64)n ? n - 1 : (u32)at; }
FN float scatter_value(float x, i64 at, u32 e, u32 n, u32 bits) { return e == clamped(at, n) ? of_bits(bits) : x; }

/* Neighbouring elements of a row, from `own` on: `many` where they lie in a multiple of their bytes, or of 16. */
template <class T, int W> struct __align__(W * sizeof(T) < 16 ? W * sizeof(T) : 16) Neighbours { T x[W]; };
template <int W, class T> FN void many_of(const T *p, u32 own, T *x) {
    const Neighbours<T, W> held = *(const Neighbours<T, W> *)(p + own);
#pragma unroll
    for (int i = 0; i < W; i++) x[i] = held.x[i];
}
template <int W, class T> FN void each_of(const T *p, u32 own, T *x) {
#pragma unroll
    for (int i = 0; i < W; i++) x[i] = p[own + (u32)i];
}
template <int W, class T> FN void put_many(T *p, u32 own, const T *x) {
    Neighbours<T, W> held;
#pragma unroll
    for (int i = 0; i < W; i++) held.x[i] = canon(x[i]);
    *(Neighbours<T, W> *)(p + own) = held;
}
/* Raises the largest magnitude of a column: memory is asked for the few elements that are larger than what a cache has, which is at most too small. */
FN void raise_column(u32 *column, u32 e, float x) {
    u32 size = magnitude(canon(x));
    if (size > column[e]) atomicMax(&column[e], size);
}
template <int W, bool ALIGNED> FN void raise_columns(u32 *column, u32 own, const float *x) {
    u32 there[W];
    if (ALIGNED) many_of<W>(column, own, there);
    else each_of<W>(column, own, there);
    bool more = false;
#pragma unroll
    for (int i = 0; i < W; i++) more = more || !(abs_f32(x[i]) <= of_bits(there[i]));
    if (more) {
#pragma unroll
        for (int i = 0; i < W; i++) raise_column(column, own + (u32)i, x[i]);
    }
}

/* Over a warp or all threads of a block; the result is with every one. */
FN u64 total_of_warp(u64 v) {
    u32 low = __reduce_add_sync(ALL_LANES, (u32)v & 0xffffu), middle = __reduce_add_sync(ALL_LANES, (u32)v >> 16);
    return ((u64)__reduce_add_sync(ALL_LANES, (u32)(v >> 32)) << 32) + ((u64)middle << 16) + low;
}
template <int GROUP> FN u32 largest_of(u32 v) {
    v = __reduce_max_sync(ALL_LANES, v);
    if (GROUP == WARP) return v;
    __shared__ u32 each[GROUP / WARP];
    __syncthreads();
    if (threadIdx.x % WARP == 0) each[threadIdx.x / WARP] = v;
    __syncthreads();
    return __reduce_max_sync(ALL_LANES, each[threadIdx.x % (GROUP / WARP)]);
}
template <int GROUP> FN u64 total_of(u64 v) {
    v = total_of_warp(v);
    if (GROUP == WARP) return v;
    __shared__ u64 each[GROUP / WARP];
    __syncthreads();
    if (threadIdx.x % WARP == 0) each[threadIdx.x / WARP] = v;
    __syncthreads();
    return total_of_warp(threadIdx.x % WARP < GROUP / WARP ? each[threadIdx.x % (GROUP / WARP)] : 0ull);
}

/* Over the eight rows of threads of a block of 32 x 8. */
FN u32 largest_of_rows(u32 v) {
    __shared__ u32 each[8][WARP];
    __syncthreads();
    each[threadIdx.y][threadIdx.x] = v;
    __syncthreads();
    for (int r = 0; r < 8; r++) v = each[r][threadIdx.x] > v ? each[r][threadIdx.x] : v;
    return v;
}
FN u64 total_of_rows(u64 v) {
    __shared__ u64 each[8][WARP];
    __syncthreads();
    each[threadIdx.y][threadIdx.x] = v;
    __syncthreads();
    v = 0;
    for (int r = 0; r < 8; r++) v += each[r][threadIdx.x];
    return v;
}

/* Whether a warp is the last of `all` to come here (`arrived` was zero). What each of them added to memory before is then there for it, past what its processor
 * has in a cache. */
FN bool last_of(u32 *arrived, u32 all) {
    __threadfence();
    __syncwarp();
    u32 before = threadIdx.x == 0 ? atomicAdd(arrived, 1u) : 0;
    before = __shfl_sync(ALL_LANES, before, 0);
    __threadfence();
    return before == all - 1;
}
