/* Packing what the products of attend.cuh read: in each product of a batch a matrix of many rows and at most 128 columns (those of a head), with its rows as
 * lanes, its columns, or both. All matrices of a kernel are one launch, and each is read from memory once.
 *
 * A block takes a matrix, 64 rows at a time, in shared memory. The scale of a row is found by the threads that pack it. The scales of columns want all
 * rows first: then the block looks through its matrix before, and finds it in the level-2 cache when it packs. Where columns are not wanted, several blocks
 * share a matrix. Eight warps pack 64 lanes of 64 elements of k (32 rows of 128): a thread has 16 elements of a lane, which are 16 bytes of each plane, and those
 * of a warp with the same k have each another lane, so their sums over lanes are products with ones, for tensor cores (as in pack.cuh).
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
#define SETS 2   /* of eight warps */
#define THREADS (256 * SETS)
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

struct __align__(16) sixteen_bytes { u32 of[4]; };

/* Packs 16 elements of k of each thread's lane, the first of whose bytes lies at `to`; gives what they count for in `along`. chunks: how many such pieces of k a
 * warp has, 4 or 8; thread 4 g + t has piece g % chunks. sums: over lanes, of each plane, element k at k % 16 * 8 + k / 16. All threads of a warp. */
__device__ __forceinline__ i32 put_sixteen(i8 *to, i64 plane, const float x[16], u32 top, int bits, int chunks, i32 (*sums)[MOST_COLUMNS]) {
    float factor, magic;
    factor_of(top, bits, &factor, &magic);
    const u32 none = __float_as_uint(magic) + CENTRE;
    const i32 most = (1 << (bits - 1)) - 1;
    const bool limits = at_limit(top, bits);
    u32 words[PLANES][4];
    #pragma unroll
    for (int w = 0; w < 4; w++) {
        u32 y[4], bytes[PLANES];
        #pragma unroll
        for (int i = 0; i < 4; i++) y[i] = __float_as_uint(fused(x[4 * w + i], factor, __uint_as_float(none)));
        if (limits) {
            #pragma unroll
            for (int i = 0; i < 4; i++) y[i] = (u32)max(min((i32)y[i], (i32)none + most), (i32)none - most);
        }
        bytes_of(y, none, bytes);
        #pragma unroll
        for (int z = 0; z < OWN; z++) words[z][w] = bytes[z];
    }
    /* Row 4 w + i of a result has byte i of the words w of a column's four threads: rows 0 to 7 those of two words, rows 8 to 15 those of the other two. */
    const int g = LANE >> 2, t = LANE & 3;
    const u32 one = 1u << 8 * (g & 3), upper = g < 4 ? one : 0, lower = g < 4 ? 0 : one, first_two[4] = {upper, 0, lower, 0}, last_two[4] = {0, upper, 0, lower};
    i32 sum = 0;
    #pragma unroll
    for (int z = 0; z < OWN; z++, to += plane) {
        sixteen_bytes bytes;
        i32 own = 0, across[4] = {0, 0, 0, 0};
        #pragma unroll
        for (int w = 0; w < 4; w++) bytes.of[w] = words[z][w], own = __dp4a((int)words[z][w], 0x01010101, own);
        *(sixteen_bytes *)to = bytes;
        sum += (1 << BASE * (OWN - 1 - z)) * own;
        mma_s8(across, first_two, words[z]);
        mma_s8(across, last_two, words[z] + 2);
        #pragma unroll
        for (int i = 0; i < 4; i++) atomicAdd(&sums[z][(g + i / 2 * 8) * 8 + (2 * t + i % 2) % chunks], across[i]);
    }
    return sum;
}

__device__ __forceinline__ float4 times(float4 x, float by) {
    x.x = __fmul_rn(x.x, by), x.y = __fmul_rn(x.y, by), x.z = __fmul_rn(x.z, by), x.w = __fmul_rn(x.w, by);
    return x;
}

/* An element of a matrix, 0 behind its ends, where rows do not lie in pieces of 16 bytes. of: its row of the table. */
__device__ __forceinline__ float uneven(const i64 *of, const float *x, int row, int column, float by) {
    if (row >= (int)of[8] || column >= (int)of[9]) return 0.0f;
    return __fmul_rn(x[place((const i64 *)of[4], of[5], row) + place((const i64 *)of[6], of[7], column)], by);
}

/* Rows from `row` on of a matrix as a tile, with zeros behind the last one, READERS threads for each. beside: a thread's part of the first row that it reads of a
 * matrix; null beyond the last column. */
template <int READERS> __device__ __forceinline__ void fill(float *tile, const float *beside, int row, int rows, i64 row_step, float by) {
    const int at = 4 * ((int)threadIdx.x % READERS), first = (int)threadIdx.x / READERS;
    const float *from = beside + row * row_step;
    #pragma unroll
    for (int r = 0; r < TAKEN; r += THREADS / READERS, from += THREADS / READERS * row_step) {
        float4 four = {0.0f, 0.0f, 0.0f, 0.0f};
        if (beside && row + first + r < rows) four = times(*(const float4 *)from, by);
        *(float4 *)(tile + (first + r) * MOST_COLUMNS + (at ^ shift_of(first + r))) = four;
    }
}

/* The sum over lanes of element k, of all planes, which begin anew. */
__device__ __forceinline__ i32 taken(i32 (*sums)[MOST_COLUMNS], int k) {
    i32 sum = 0;
    #pragma unroll
    for (int z = 0; z < OWN; z++) {
        i32 &own = sums[z][k % 16 * 8 + k / 16];
        sum += (1 << BASE * (OWN - 1 - z)) * own;
        own = 0;
    }
    return sum;
}

/* A row of the table: its first block, blocks of a product, x, tables and steps of the products, rows and columns, their numbers, a factor's address or 0,
 * and where rows as lanes go, and columns (0: nowhere). */
KERNEL __launch_bounds__(THREADS, OWN > 2 ? 1 : 2) pack_heads(i64 count, const i64 *table, i64 bits_) {
    __shared__ __align__(16) float tile[TAKEN * MOST_COLUMNS]; /* as pack.cuh's */
    __shared__ u32 tops[MOST_COLUMNS];
    __shared__ u64 along[MOST_COLUMNS];        /* of columns; each is one thread's */
    __shared__ i32 sums[3][OWN][MOST_COLUMNS]; /* over 64 rows, over each 64 columns */
    __shared__ i64 of[WORDS];                  /* looked up where they are needed: registers are few */
    const int thread = (int)threadIdx.x, lane = LANE, set = thread >> 8, warp = thread >> 5 & 7, bits = (int)bits_;
    i64 which = 0, behind = count;
    while (behind - which > 1) {
        i64 middle = (which + behind) / 2;
        if (table[middle * WORDS] <= (i64)blockIdx.x) which = middle; else behind = middle;
    }
    const i64 *words = table + which * WORDS;
    if (thread < WORDS) of[thread] = words[thread];
    if (thread < MOST_COLUMNS) {
        tops[thread] = 0, along[thread] = 0;
        #pragma unroll
        for (int i = 0; i < 3 * OWN; i++) sums[i / OWN][i % OWN][thread] = 0;
    }
    __syncthreads();
    const int rows = (int)of[8], columns = (int)of[9];
    const packed_lanes &by_row = *(const packed_lanes *)(of + 11), &by_column = *(const packed_lanes *)(of + 17);
    const int parts = (int)words[1], part = ((int)blockIdx.x - (int)words[0]) % parts, groups = (rows + TAKEN - 1) / TAKEN, each = (groups + parts - 1) / parts;
    const i64 product = ((int)blockIdx.x - (int)words[0]) / parts, deep = (rows + ROW - 1) / ROW;
    const float *x = (const float *)words[2] + ((const i64 *)words[3])[product], by = words[10] ? *(const float *)words[10] : 1.0f;
    const bool wide = columns > TAKEN, turned = by_column.digits;
    const i64 row_step = of[5];
    const bool even = !of[4] && !of[6] && of[7] == 1 && row_step % 4 == 0 && columns % 4 == 0 && (u64)x % 16 == 0;
    const int readers = wide ? 5 : 4, at = 4 * (thread & ((1 << readers) - 1)), first = thread >> readers, step = THREADS >> readers; /* log2 of a row's readers */
    const float *beside = even && at < columns ? x + first * row_step + at : nullptr;
    if (turned) {
        float highs[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        if (beside) {
            const float *from = beside;
            #pragma unroll 4
            for (int row = first; row < rows; row += step, from += step * row_step) {
                const float4 four = times(*(const float4 *)from, by);
                highs[0] = maximum_of_size(highs[0], four.x), highs[1] = maximum_of_size(highs[1], four.y);
                highs[2] = maximum_of_size(highs[2], four.z), highs[3] = maximum_of_size(highs[3], four.w);
            }
        } else if (!even) {
            #pragma unroll 1
            for (int row = first; row < rows; row += step) {
                #pragma unroll
                for (int i = 0; i < 4; i++) highs[i] = maximum_of_size(highs[i], uneven(of, x, row, at + i, by));
            }
        }
        #pragma unroll
        for (int i = 0; i < 4; i++) atomicMax(&tops[at + i], __float_as_uint(highs[i]) & ABS_BITS);
        __syncthreads();
        if (thread < (int)by_column.padded) by_column.top[product * by_column.padded + thread] = tops[thread];
    }
    const int of_rows = by_row.digits ? 1 + wide : 0, units = of_rows + (turned ? (int)by_column.padded / TAKEN : 0);
    i32 every = 0; /* the sum over all rows, where there are at most 128: then a block has all */
    for (int group = part * each; group < (part + 1) * each && group < groups; group++) {
        if (!even) {
            #pragma unroll 1
            for (int row = first; row < TAKEN; row += step) {
                #pragma unroll
                for (int i = 0; i < 4; i++) tile[row * MOST_COLUMNS + ((at + i) ^ shift_of(row))] = uneven(of, x, group * TAKEN + row, at + i, by);
            }
        } else if (wide) {
            fill<32>(tile, beside, group * TAKEN, rows, row_step, by);
        } else {
            fill<16>(tile, beside, group * TAKEN, rows, row_step, by);
        }
        __syncthreads();
        #pragma unroll 1
        for (int unit = set; unit < units; unit += SETS) {
            const int four_chunks = lane >> 2 & 3, four_lanes = 8 * warp + (lane >> 4) * 4 + (lane & 3); /* a warp has 8 lanes; of 128 elements of k, 4 */
            float mine[16];
            if (unit < of_rows) {
                const int chunk = wide ? lane >> 2 : four_chunks, own = wide ? 32 * unit + 4 * warp + (lane & 3) : four_lanes;
                float most = 0.0f;
                #pragma unroll
                for (int w = 0; w < 4; w++) {
                    const float4 held = *(const float4 *)(tile + own * MOST_COLUMNS + ((16 * chunk) ^ shift_of(own) ^ 4 * w));
                    mine[4 * w] = held.x, mine[4 * w + 1] = held.y, mine[4 * w + 2] = held.z, mine[4 * w + 3] = held.w;
                }
                #pragma unroll
                for (int i = 0; i < 16; i++) most = maximum_of_size(most, mine[i]);
                u32 top = __float_as_uint(most) & ABS_BITS;
                for (int far = 4; far < (wide ? 32 : 16); far *= 2) top = max(top, __shfl_xor_sync(ALL_LANES, top, far));
                const i64 row = group * TAKEN + own;
                i8 *to = by_row.digits + spot(product, OWN, 0, 1, 0, by_row.padded, row, 16 * chunk);
                i32 sum = put_sixteen(to, by_row.padded * ROW, mine, top, bits, wide ? 8 : 4, sums[0]);
                for (int far = 4; far < (wide ? 32 : 16); far *= 2) sum += __shfl_xor_sync(ALL_LANES, sum, far);
                if (chunk == 0) {
                    by_row.top[product * by_row.padded + row] = top;
                    by_row.along[product * by_row.padded + row] = (u64)(i64)sum;
                }
            } else {
                const int turn = unit - of_rows, column = TAKEN * turn + four_lanes;
                const float *from = tile + 16 * four_chunks * MOST_COLUMNS;
                #pragma unroll
                for (int i = 0; i < 16; i++) mine[i] = from[i * MOST_COLUMNS + (column ^ four_chunks << 3 ^ (i & 3) << 2)];
                i8 *to = by_column.digits + spot(product, OWN, 0, deep, group / 2, by_column.padded, column, group % 2 * TAKEN + 16 * four_chunks);
                i32 sum = put_sixteen(to, deep * by_column.padded * ROW, mine, tops[column], bits, 4, sums[1 + turn]);
                for (int far = 4; far < 16; far *= 2) sum += __shfl_xor_sync(ALL_LANES, sum, far);
                if (four_chunks == 0) along[column] += (u64)(i64)sum;
            }
        }
        __syncthreads();
        if (by_row.digits && thread < TAKEN * (1 + wide)) {
            const i32 sum = taken(sums[0], thread);
            by_row.across[(product * groups + group) * ROW + thread] = sum, every += sum;
            if (by_row.checked && group == groups - 1) put_checked(by_row.checked + product * CHECKED * ROW + thread, ROW, thread < columns ? every + 1 : 0);
        }
        const int k = thread - MOST_COLUMNS;
        if (turned && k >= 0 && k < TAKEN) {
            i32 all = 1;
            const i64 behind_k = group * TAKEN + k;
            for (int j = 0; j < (int)by_column.padded / TAKEN; j++) {
                const i32 sum = taken(sums[1 + j], k);
                by_column.across[(product * (by_column.padded / TAKEN) + j) * deep * ROW + behind_k] = sum, all += sum;
            }
            put_checked(by_column.checked + product * CHECKED * deep * ROW + behind_k, deep * ROW, behind_k < rows ? all : 0);
        }
    }
    if (turned && thread < (int)by_column.padded) by_column.along[product * by_column.padded + thread] = along[thread];
}
