/* Packing what the products of attend.cuh read: in each product of a batch a matrix of many rows and at most 128 columns (those of a head), with its rows as
 * lanes, its columns, or both. All matrices of a kernel are one launch, and each is read from memory once.
 *
 * A block takes a matrix, 64 rows at a time. The scale of a row is in the registers of the half warp (or warp) that reads it. The scales of columns want all
 * rows first: then the block looks through its matrix before, and finds it in the level-2 cache when it packs. Where columns are not wanted, several blocks
 * share a matrix.
 *
 * Digits lie as digits.cuh's `spot` says, in rows of 64 bytes; lanes and k that fill up 64 are zero, a whole 64 behind the last k is not written. Beside them
 * [product][padded lane] the largest magnitudes (`top`) and the sums over k (`along`), and the sums of integers over
 * each 64 lanes (`across`: [product][lanes / 64][k up to a multiple of 128]), all from registers, before anything has been to memory. Of at most 128 lanes also
 * the sums over all of them and 1, as signed digits of base 2^8, the lowest one first (`checked`: [product][digit][k as before]), 0 behind the last k.
 */
#if BF16 || FP8 || PLAIN || WIDTH != 64
#error "operands of attention are int8 in rows of 64 bytes"
#endif

#define MOST_COLUMNS 128
#define TAKEN 64 /* rows at a time; lanes of a sum */
#define WARPS 32
#define WORDS 23 /* of the table, for a matrix */

/* Where lanes of one kind go. */
struct packed_lanes {
    u32 *top;
    i8 *digits;
    u64 *along;
    i32 *across;
    i8 *checked;
    i64 padded;
};

#define CHECKED (PLANES == 1 ? 2 : OWN + 1) /* as in attend.cuh */
__device__ __forceinline__ void put_checked(i8 *to, i64 apart, i32 s) {
    #pragma unroll
    for (int d = 0; d < CHECKED; d++) {
        i32 low = ((s + 128) & 255) - 128;
        to[d * apart] = (i8)low;
        s = (s - low) >> 8;
    }
}

/* Writes four elements, from k = 64 block + at on, of a lane; gives what they count for in `along`. q: their integers. */
__device__ __forceinline__ i32 put_four(const packed_lanes &to, i64 product, i64 lane, i64 blocks, i64 block, int at, const float four[4], float factor, float magic,
                                        int bits, i32 q[4]) {
    i32 d[OWN][4], sum = 0;
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        i32 own[OWN];
        q[i] = limited(rounded_to(four[i], factor, magic), bits);
        digits_of(q[i], own);
        #pragma unroll
        for (int z = 0; z < OWN; z++) d[z][i] = own[z];
    }
    i8 *at_first = to.digits + spot(product, OWN, 0, blocks, block / 2, to.padded, lane, (int)(block & 1) * WIDTH + at);
    #pragma unroll
    for (int z = 0; z < OWN; z++) {
        u32 word = low_bytes(d[z]);
        *(u32 *)(at_first + z * blocks * to.padded * ROW) = word;
        sum += (1 << BASE * (OWN - 1 - z)) * __dp4a((int)word, 0x01010101, 0);
    }
    return sum;
}

/* A row of the table: its first block, blocks of a product, x, tables and steps of the products, rows and columns, their numbers, a factor's address or 0,
 * and where rows as lanes go, and columns (0: nowhere). */
KERNEL __launch_bounds__(32 * WARPS, 1) pack_heads(i64 count, const i64 *table, i64 bits_) {
    __shared__ float tile[TAKEN][MOST_COLUMNS + 1];
    __shared__ u32 tops[MOST_COLUMNS];
    __shared__ u64 along[MOST_COLUMNS]; /* of columns; each is one half warp's */
    __shared__ i32 of_rows[MOST_COLUMNS], of_columns[MOST_COLUMNS]; /* sums over 64 rows, over each 64 columns */
    i64 which = 0, behind = count;
    while (behind - which > 1) {
        i64 middle = (which + behind) / 2;
        if (table[middle * WORDS] <= (i64)blockIdx.x) which = middle; else behind = middle;
    }
    const i64 *words = table + which * WORDS;
    __shared__ i64 of[WORDS]; /* looked up where they are needed: registers are few */
    if (threadIdx.x < WORDS) of[threadIdx.x] = words[threadIdx.x];
    int k = (int)threadIdx.x; /* what a thread clears and writes of the sums */
    if (k < 2 * MOST_COLUMNS) (k < MOST_COLUMNS ? of_rows : of_columns)[k % MOST_COLUMNS] = 0;
    __syncthreads();
    const i64 *row_at = (const i64 *)of[4], *column_at = (const i64 *)of[6], row_step = of[5], column_step = of[7];
    const int rows = (int)of[8], columns = (int)of[9];
    const packed_lanes &by_row = *(const packed_lanes *)(of + 11), &by_column = *(const packed_lanes *)(of + 17);
    int parts = (int)words[1], part = ((int)blockIdx.x - (int)words[0]) % parts, groups = (rows + TAKEN - 1) / TAKEN, each = (groups + parts - 1) / parts;
    i64 product = ((int)blockIdx.x - (int)words[0]) / parts, deep = (rows + ROW - 1) / ROW;
    const float *x = (const float *)words[2] + ((const i64 *)words[3])[product], by = words[10] ? *(const float *)words[10] : 1.0f;
    int lane = threadIdx.x & 31, warp = (int)threadIdx.x >> 5, half = lane >> 4, bits = (int)bits_;
    bool wide = columns > TAKEN, turned = by_column.digits, beside = column_step == 1 && !column_at;
    auto element = [&](const float *mine, int column) { return __fmul_rn(mine[beside ? column : place(column_at, column_step, column)], by); };
    if (turned) {
        u32 highs[MOST_COLUMNS / 32];
        #pragma unroll
        for (int j = 0; j < MOST_COLUMNS / 32; j++) highs[j] = 0;
        #pragma unroll 2
        for (int row = warp; row < rows; row += WARPS) {
            const float *mine = x + place(row_at, row_step, row);
            #pragma unroll
            for (int j = 0; j < MOST_COLUMNS / 32; j++)
                if (lane + 32 * j < columns) highs[j] = max(highs[j], __float_as_uint(element(mine, lane + 32 * j)) & ABS_BITS);
        }
        if (threadIdx.x < MOST_COLUMNS) tops[threadIdx.x] = 0, along[threadIdx.x] = 0;
        __syncthreads();
        #pragma unroll
        for (int j = 0; j < MOST_COLUMNS / 32; j++) atomicMax(&tops[lane + 32 * j], highs[j]);
        __syncthreads();
        if ((int)threadIdx.x < (int)by_column.padded) by_column.top[product * by_column.padded + threadIdx.x] = tops[threadIdx.x];
    }
    i32 every = 0; /* the sum over all rows, where there are at most 128: then a block has all */
    for (int group = part * each; group < (part + 1) * each && group < groups; group++) {
        #pragma unroll 1
        for (int turn = 0; turn <= wide; turn++) {
            int mine = wide ? warp + WARPS * turn : 2 * warp + half, at = 4 * (wide ? lane : lane & 15);
            int row = group * TAKEN + mine;
            const float *from = x + place(row_at, row_step, row < rows ? row : 0);
            float four[4];
            if (beside && row < rows && at + 4 <= columns && (u64)(from + at) % 16 == 0) {
                float4 held = *(const float4 *)(from + at);
                four[0] = __fmul_rn(held.x, by), four[1] = __fmul_rn(held.y, by), four[2] = __fmul_rn(held.z, by), four[3] = __fmul_rn(held.w, by);
            } else {
                #pragma unroll
                for (int i = 0; i < 4; i++) four[i] = row < rows && at + i < columns ? element(from, at + i) : 0.0f;
            }
            if (turned) {
                #pragma unroll
                for (int i = 0; i < 4; i++) tile[mine][at + i] = four[i];
            }
            if (by_row.digits) {
                u32 top = 0;
                float factor, magic;
                i32 q[4];
                #pragma unroll
                for (int i = 0; i < 4; i++) top = max(top, __float_as_uint(four[i]) & ABS_BITS);
                for (int step = wide ? 16 : 8; step; step /= 2) top = max(top, __shfl_xor_sync(ALL_LANES, top, step));
                factor_of(top, bits, &factor, &magic);
                i32 sum = put_four(by_row, product, row, 1, at / WIDTH, at % WIDTH, four, factor, magic, bits, q);
                for (int step = wide ? 16 : 8; step; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
                if (at == 0) {
                    by_row.top[product * by_row.padded + row] = top;
                    by_row.along[product * by_row.padded + row] = (u64)(i64)sum;
                }
                #pragma unroll
                for (int i = 0; i < 4; i++) atomicAdd(&of_rows[at + i], q[i]);
            }
        }
        __syncthreads();
        if (turned) {
            #pragma unroll 1
            for (int column = 2 * warp + half; column < (int)by_column.padded; column += TAKEN) {
                int at = 4 * (lane & 15);
                float four[4], factor, magic;
                i32 q[4];
                factor_of(tops[column], bits, &factor, &magic);
                #pragma unroll
                for (int i = 0; i < 4; i++) four[i] = tile[at + i][column];
                i32 sum = put_four(by_column, product, column, deep, group, at, four, factor, magic, bits, q);
                for (int step = 8; step; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
                if (at == 0) along[column] += (u64)(i64)sum;
                #pragma unroll
                for (int i = 0; i < 4; i++) atomicAdd(&of_columns[column / TAKEN * TAKEN + at + i], q[i]);
            }
        }
        __syncthreads();
        if (by_row.digits && k < TAKEN * (1 + wide)) {
            by_row.across[(product * groups + group) * ROW + k] = of_rows[k], every += of_rows[k], of_rows[k] = 0;
            if (by_row.checked && group == groups - 1) put_checked(by_row.checked + product * CHECKED * ROW + k, ROW, k < columns ? every + 1 : 0);
        }
        int to = k - MOST_COLUMNS;
        if (turned && to >= 0 && to < TAKEN) {
            i32 sum = 1;
            i64 at = group * TAKEN + to;
            for (int j = 0; j < (int)by_column.padded / TAKEN; j++) {
                by_column.across[(product * (by_column.padded / TAKEN) + j) * deep * ROW + at] = of_columns[j * TAKEN + to];
                sum += of_columns[j * TAKEN + to], of_columns[j * TAKEN + to] = 0;
            }
            put_checked(by_column.checked + product * CHECKED * deep * ROW + at, deep * ROW, at < rows ? sum : 0);
        }
        __syncthreads();
    }
    if (turned && (i64)threadIdx.x < by_column.padded) by_column.along[product * by_column.padded + threadIdx.x] = along[threadIdx.x];
}
