/* Exact products the plain way, for what no faster kernel takes: operands quantised to int32, sums in int64. `lanes` walks over the rows (columns) of
 * all products, `along` over the axis that is summed; q is [lanes, length]. */

KERNEL quantise_plain(i64 n, i64 length, i32 *q, u32 *tops, const float *x, i64 bits, const i64 *lanes, const i64 *along) {
    i32 most = (i32)((1ll << (bits - 1)) - 1);
    for (u32 k = blockIdx.x; k < (u32)n; k += gridDim.x) {
        const float *line = x + offset_of(lanes, k);
        u32 top = largest_of<BLOCK>(top_part(line, along, threadIdx.x, (u32)length, BLOCK));
        int s = (int)bits - 1 + 126 - (int)(top >> 23);
        for (u32 e = threadIdx.x; e < (u32)length; e += BLOCK) {
            i64 v = top >> 23 == 255 ? 0 : fixed(line[offset_of(along, e)], s);
            q[(i64)k * length + e] = (i32)(v > most ? most : (v < -most ? -most : v));
        }
        if (threadIdx.x == 0) tops[k] = top;
    }
}

/* y[p, i, j] of `products` products [rows, length] x [columns, length]; blocks of 16 x 16, grid (columns, rows, products) */
KERNEL product_plain(i64 rows, i64 columns, i64 length, float *y, const i32 *qa, const i32 *qb, const u32 *tops_a, const u32 *tops_b, i64 bits, i64 products) {
    __shared__ i32 a[16][17], b[16][17];
    u32 x = threadIdx.x, r = threadIdx.y;
    i64 i = (i64)blockIdx.y * 16 + r, j = (i64)blockIdx.x * 16 + x;
    for (i64 p = blockIdx.z; p < products; p += gridDim.z) {
        i64 total = 0, left = (i64)blockIdx.x * 16 + r;
        for (i64 k = 0; k < length; k += 16) {
            a[r][x] = i < rows && k + x < length ? qa[(p * rows + i) * length + k + x] : 0;
            b[r][x] = left < columns && k + x < length ? qb[(p * columns + left) * length + k + x] : 0;
            __syncthreads();
            for (int e = 0; e < 16; e++) total += (i64)a[r][e] * b[x][e];
            __syncthreads();
        }
        if (i < rows && j < columns) {
            int ea = (int)(tops_a[p * rows + i] >> 23), eb = (int)(tops_b[p * columns + j] >> 23);
            y[(p * rows + i) * columns + j] = ea == 255 || eb == 255 ? of_bits(NAN_BITS) : round_scaled(total, ea + eb - 2 * ((int)bits - 1 + 126));
        }
    }
}
