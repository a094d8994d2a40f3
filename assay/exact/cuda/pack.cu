/* Packing an operand of a matrix product: the scale of each lane (row of A, column of B), then its digits (pack.cuh). Element k of lane l of product z
 * lies at x[batch_at[z] + lane_at[l] + k_at[k]]; a table that is null stands for multiples of a step. */

#define STRETCH 512    /* k of a block of tops */

/* words[0..n) = 0 */
KERNEL clear(u32 *words, i64 n) {
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x) words[i] = 0;
}

/* top[product][lane] = the largest magnitude of the lane, as bits. A block of 32 x 8 threads takes 32 lanes and STRETCH k. */
__device__ __forceinline__ void top_group(const float *x, const i64 *batch_at, const i64 *lane_at, i64 lane_step, const i64 *k_at, i64 k_step,
                                          i64 lanes, i64 k, i64 turned, u32 *top, u32 block) {
    i64 groups = (lanes + 31) / 32, parts = (k + STRETCH - 1) / STRETCH, part = block % parts, rest = block / parts;
    i64 first = rest % groups * 32, product = rest / groups, from = part * STRETCH, to = from + STRETCH < k ? from + STRETCH : k;
    int tx = threadIdx.x & 31, ty = (int)threadIdx.x >> 5;
    x += batch_at[product];
    top += product * lanes;
    if (turned) { /* neighbouring lanes are neighbours in memory */
        i64 lane = first + tx;
        u32 high = 0;
        if (lane < lanes) {
            const float *mine = x + place(lane_at, lane_step, lane);
            for (i64 i = from + ty; i < to; i += 8) {
                u32 a = __float_as_uint(mine[place(k_at, k_step, i)]) & ABS_BITS;
                high = a > high ? a : high;
            }
            atomicMax(&top[lane], high);
        }
        return;
    }
    for (i64 lane = first + ty; lane < first + 32 && lane < lanes; lane += 8) {
        const float *mine = x + place(lane_at, lane_step, lane);
        u32 high = 0;
        for (i64 i = from + tx; i < to; i += 32) {
            u32 a = __float_as_uint(mine[place(k_at, k_step, i)]) & ABS_BITS;
            high = a > high ? a : high;
        }
        for (int step = 16; step; step /= 2) {
            u32 other = __shfl_xor_sync(ALL_LANES, high, step);
            high = other > high ? other : high;
        }
        if (tx == 0) atomicMax(&top[lane], high);
    }
}

KERNEL tops(const float *x, const i64 *batch_at, const i64 *lane_at, i64 lane_step, const i64 *k_at, i64 k_step, i64 lanes, i64 k, i64 turned, u32 *top) {
    top_group(x, batch_at, lane_at, lane_step, k_at, k_step, lanes, k, turned, top, blockIdx.x);
}

#define TOPS_ROWS 64 /* of a block of tops_both, which takes STRETCH columns */

/* The largest magnitudes of a matrix's rows and of its columns, in one pass. Neighbouring columns are neighbours in memory. */
__device__ __forceinline__ void both_tops(const float *x, const i64 *row_at, i64 row_step, const i64 *column_at, i64 column_step, i64 rows, i64 columns,
                                          u32 *top_r, u32 *top_c, u32 block, u32 (*part)[STRETCH]) {
    i64 wide = (columns + STRETCH - 1) / STRETCH, first = block / wide * TOPS_ROWS, from = block % wide * STRETCH;
    int tx = threadIdx.x & 31, ty = (int)threadIdx.x >> 5;
    u32 highs[STRETCH / 32];
    #pragma unroll
    for (int j = 0; j < STRETCH / 32; j++) highs[j] = 0;
    for (i64 row = first + ty; row < first + TOPS_ROWS && row < rows; row += 8) {
        const float *mine = x + place(row_at, row_step, row);
        u32 high = 0;
        #pragma unroll
        for (int j = 0; j < STRETCH / 32; j++) {
            i64 column = from + tx + 32 * j;
            u32 a = column < columns ? __float_as_uint(mine[place(column_at, column_step, column)]) & ABS_BITS : 0u;
            high = a > high ? a : high;
            highs[j] = a > highs[j] ? a : highs[j];
        }
        for (int step = 16; step; step /= 2) {
            u32 other = __shfl_xor_sync(ALL_LANES, high, step);
            high = other > high ? other : high;
        }
        if (tx == 0) atomicMax(&top_r[row], high);
    }
    #pragma unroll
    for (int j = 0; j < STRETCH / 32; j++) part[ty][tx + 32 * j] = highs[j];
    __syncthreads();
    for (int j = threadIdx.x; j < STRETCH; j += 256) {
        u32 high = 0;
        for (int i = 0; i < 8; i++) high = part[i][j] > high ? part[i][j] : high;
        if (from + j < columns) atomicMax(&top_c[from + j], high);
    }
}

KERNEL __launch_bounds__(256) tops_both(const float *x, const i64 *row_at, i64 row_step, const i64 *column_at, i64 column_step, i64 rows, i64 columns,
                                        u32 *top_r, u32 *top_c) {
    __shared__ u32 part[8][STRETCH];
    both_tops(x, row_at, row_step, column_at, column_step, rows, columns, top_r, top_c, blockIdx.x, part);
}

#define TOPS_WORDS 12 /* of a row of the table */

/* tops of several operands, tops_both of those that lie along both axes of a matrix. A row of the table: its first block, the arguments of `tops`, and where the
 * largest magnitudes of its k go, if they are wanted. */
KERNEL __launch_bounds__(256) tops_all(i64 count, const i64 *table) {
    __shared__ u32 part[8][STRETCH];
    i64 at = 0, behind = count;
    while (behind - at > 1) {
        i64 middle = (at + behind) / 2;
        if (table[middle * TOPS_WORDS] <= (i64)blockIdx.x) at = middle; else behind = middle;
    }
    const i64 *row = table + at * TOPS_WORDS, *of = row + 1, *batch_at = (const i64 *)of[1], *lane_at = (const i64 *)of[2], *k_at = (const i64 *)of[4];
    const float *x = (const float *)of[0];
    u32 block = blockIdx.x - (u32)row[0], *top = (u32 *)of[9], *other = (u32 *)of[10];
    if (other) both_tops(x + batch_at[0], lane_at, of[3], k_at, of[5], of[6], of[7], top, other, block, part);
    else top_group(x, batch_at, lane_at, of[3], k_at, of[5], of[6], of[7], of[8], top, block);
}

/* An operand by itself. A block has LANES lanes by ROW elements of k, or ROW by ROW where neighbouring lanes are neighbours in memory. Blocks begin with the lanes
 * that tops read last, which L2 may still hold. */
KERNEL __launch_bounds__(256, OWN < 3 ? 4 : 3) pack(const float *x, const i64 *batch_at, const i64 *lane_at, i64 lane_step, const i64 *k_at, i64 k_step, i64 lanes,
            i64 k, i64 turned, const u32 *top, i64 bits, i64 padded, i8 *packed, i64 planes, u64 *across, u64 *along) {
    __shared__ square_room room;
    const u32 blocks = (u32)((k + ROW - 1) / ROW), each = turned ? ROW : LANES, groups = (u32)((padded + each - 1) / each), item = gridDim.x - 1 - blockIdx.x;
    const u32 rest = item / blocks, product = rest / groups;
    const i64 first = (i64)(rest % groups) * each, block = (i64)(item % blocks) * ROW, size = padded * blocks * ROW * ITEM;
    const packed_operand of = {lanes, k, padded, planes, top + product * lanes, packed + product * planes * size,
            across ? across + (i64)product * PLANES * blocks * ROW : nullptr, along ? along + product * padded : nullptr};
    x += batch_at[product];
    if (turned) {
        const in_memory from = {x, k_at, lane_at, k_step, lane_step, k, lanes};
        pack_square<false, true>([&](float *tile, i64 row, i64 column) { read_tile(from, tile, row, column); }, room, of, of, square{block, first, 2}, (int)bits);
    } else {
        const in_memory from = {x, lane_at, k_at, lane_step, k_step, lanes, k};
        pack_square<true, false>([&](float *tile, i64 row, i64 column) { read_tile(from, tile, row, column); }, room, of, of, square{first, block, 1}, (int)bits);
    }
}

/* A matrix that two products read, each along the other axis, in one pass: its rows as lanes (`packed_r`), and its columns (`packed_c`). A block has ROW x ROW. */
KERNEL __launch_bounds__(256, OWN < 3 ? 4 : 3) pack_both(const float *x, const i64 *row_at, i64 row_step, const i64 *column_at, i64 column_step, i64 rows, i64 columns,
            i64 bits, const u32 *top_r, i64 padded_r, i8 *packed_r, i64 planes_r, u64 *across_r, u64 *along_r,
            const u32 *top_c, i64 padded_c, i8 *packed_c, i64 planes_c, u64 *across_c, u64 *along_c) {
    __shared__ square_room room;
    const packed_operand by_row = {rows, columns, padded_r, planes_r, top_r, packed_r, across_r, along_r};
    const packed_operand by_column = {columns, rows, padded_c, planes_c, top_c, packed_c, across_c, along_c};
    const in_memory from = {x, row_at, column_at, row_step, column_step, rows, columns};
    pack_square<true, true>([&](float *tile, i64 row, i64 column) { read_tile(from, tile, row, column); }, room, by_row, by_column, square_of(columns, padded_c), (int)bits);
}
