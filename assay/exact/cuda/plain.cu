/* Exact products the plain way, for what no faster kernel takes: operands quantised to int32, sums in int64. `lanes` walks over the rows (columns) of
 * all products, `along` over the axis that is summed; q is [lanes, length]. */

KERNEL quantise_plain(i64 n, i64 length, i32 *q, u32 *tops, const float *x, i64 bits, const i64 *lanes, const i64 *along) {
    i32 most = (i32)((1ll << (bits - 1)) - 1);
    u32 lane = threadIdx.x % WARP, warps = gridDim.x * (BLOCK / WARP);
    for (u32 k = blockIdx.x * (BLOCK / WARP) + threadIdx.x / WARP; k < (u32)n; k += warps) {
        const float *line = x + offset_of(lanes, k);
        u32 top = largest_of<WARP>(top_part(line, along, lane, (u32)length, WARP));
        Scale by = scaling(top, bits - 1);
        for (u32 e = lane; e < (u32)length; e += WARP) {
            i64 v = top >> 23 == 255 ? 0 : fixed(line[offset_of(along, e)], by);
            q[(i64)k * length + e] = (i32)(v > most ? most : (v < -most ? -most : v));
        }
        if (lane == 0) tops[k] = top;
    }
}

#define DEEP 64 /* elements of the summed axis between two barriers */

/* y[p, i, j] of `products` products [rows, length] x [columns, length]; blocks of 16 x 16, grid (rows, columns, products) */
KERNEL product_plain(i64 rows, i64 columns, i64 length, float *y, const i32 *qa, const i32 *qb, const u32 *tops_a, const u32 *tops_b, i64 bits, i64 products,
                     const float *more) {
    __shared__ i32 a[16][DEEP + 1], b[16][DEEP + 1];
    u32 x = threadIdx.x, r = threadIdx.y;
    i64 i = (i64)blockIdx.x * 16 + r, blocks = (columns + 15) / 16;
    for (i64 at = blockIdx.y + blockIdx.z * blocks; at < products * blocks; at += gridDim.y == blocks ? blocks * gridDim.z : gridDim.y) {
        i64 p = at / blocks, first = at % blocks * 16, j = first + x, other = first + r, total = 0;
        for (i64 k = 0; k < length; k += DEEP) {
            u32 deep = length - k < DEEP ? (u32)(length - k) : DEEP;
            for (u32 e = x; e < deep; e += 16) {
                a[r][e] = i < rows ? qa[(p * rows + i) * length + k + e] : 0;
                b[r][e] = other < columns ? qb[(p * columns + other) * length + k + e] : 0;
            }
            __syncthreads();
            for (u32 e = 0; e < deep; e++) total += (i64)a[r][e] * b[x][e];
            __syncthreads();
        }
        if (i < rows && j < columns) {
            int ea = (int)(tops_a[p * rows + i] >> 23), eb = (int)(tops_b[p * columns + j] >> 23);
            float one = ea == 255 || eb == 255 ? of_bits(NAN_BITS) : round_scaled(total, ea + eb - 2 * ((int)bits - 1 + 126));
            i64 to = (p * rows + i) * columns + j;
            y[to] = plus(one, more, to);
        }
    }
}
