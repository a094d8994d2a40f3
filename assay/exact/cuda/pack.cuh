/* Digits of an operand of a matrix product, in the layout that is multiplied, from the f32 of its lanes and their largest magnitudes. Packed digits lie as
 * digits.cuh's `spot` says, with zeros beyond the last lane and the last k, so that no edge is left to look after.
 *
 * For the checksum (check.cu) A's digits are summed over lanes (`across`: [product][plane][k]) and B's over k (`along`: [product][padded lanes],
 * weighted), from registers, before they have been to memory. These start from zero (clear).
 */

#define LANES 64 /* of a block of pack */

/* An operand: where its elements lie (x is that of its product), and where its digits and sums go. */
struct packed_operand {
    const i64 *lane_at, *k_at;
    i64 lane_step, k_step, lanes, k, turned, padded, planes;
    const u32 *top;
    i8 *packed;
    u64 *across, *along;
};

/* Elements that lie in memory. */
struct in_memory {
    const float *x;
    float (*tile)[ROW + 4]; /* element i of lane l at i ^ l / 8, so that lanes' equal elements lie in different banks */
};

/* Before 32 lanes of a block of k. */
__device__ __forceinline__ void begin_lanes(const in_memory &from, const packed_operand &of, i64 first, i64 block) {
    if (!of.turned) return;
    int tx = threadIdx.x & 31, ty = (int)threadIdx.x >> 5; /* neighbouring lanes are neighbours in memory */
    const float *mine = from.x + place(of.lane_at, of.lane_step, first + tx < of.lanes ? first + tx : 0);
    __syncthreads();
    for (int i = ty; i < ROW; i += 8) {
        i64 at = block * ROW + i;
        from.tile[tx][i ^ tx / 8] = at < of.k && first + tx < of.lanes ? mine[place(of.k_at, of.k_step, at)] : 0.0f;
    }
    __syncthreads();
}

/* Four elements of k from `at` on of `lane`, which is lane ty + 8 turn of the 32. */
__device__ __forceinline__ void four_of(const in_memory &from, const packed_operand &of, i64 lane, i64 at, int turn, float *four) {
    int tx = threadIdx.x & 31, ty = (int)threadIdx.x >> 5;
    if (of.turned) {
        float4 held = *(const float4 *)&from.tile[ty + 8 * turn][4 * tx];
        four[turn] = held.x, four[1 ^ turn] = held.y, four[2 ^ turn] = held.z, four[3 ^ turn] = held.w;
        return;
    }
    const float *mine = from.x + place(of.lane_at, of.lane_step, lane < of.lanes ? lane : 0);
    if (!of.k_at && of.k_step == 1 && lane < of.lanes && at + 4 <= of.k && (u64)(mine + at) % 16 == 0) {
        float4 held = *(const float4 *)(mine + at);
        four[0] = held.x, four[1] = held.y, four[2] = held.z, four[3] = held.w;
    } else {
        #pragma unroll
        for (int i = 0; i < 4; i++) four[i] = at + i < of.k && lane < of.lanes ? mine[place(of.k_at, of.k_step, at + i)] : 0.0f;
    }
}

/* Elements of ROW x ROW that a block has made in shared memory (making.py), zeros beyond the matrix: element (r, c) lies at r ROW + (c ^ shift_of(r)). The five
 * bits that are changed are other ones for each r / 4 of 32, so four of a row, or one of each fourth row, are read by a warp from all banks; and the lower two
 * of them are r / 8 mod 4. */
struct made_rows { const float *made; };
struct made_columns { const float *made; };
__device__ __forceinline__ int shift_of(int r) { return (r >> 3 & 3) | (r >> 2 & 1) << 2 | (r >> 5 & 3) << 3; }
__device__ __forceinline__ void begin_lanes(const made_rows &, const packed_operand &, i64, i64) {}
__device__ __forceinline__ void begin_lanes(const made_columns &, const packed_operand &, i64, i64) {}
__device__ __forceinline__ void four_of(const made_rows &from, const packed_operand &, i64 lane, i64, int turn, float *four) {
    int r = (int)lane & (ROW - 1);
    float4 held = *(const float4 *)&from.made[r * ROW + ((4 * (int)(threadIdx.x & 31)) ^ (shift_of(r) & ~3))];
    four[turn] = held.x, four[1 ^ turn] = held.y, four[2 ^ turn] = held.z, four[3 ^ turn] = held.w;
}
__device__ __forceinline__ void four_of(const made_columns &from, const packed_operand &, i64 lane, i64, int, float *four) {
    int r = 4 * (int)(threadIdx.x & 31);
    const float *mine = from.made + r * ROW + (((int)lane & (ROW - 1)) ^ shift_of(r));
    #pragma unroll
    for (int i = 0; i < 4; i++) four[i] = mine[i * ROW];
}

/* A block of 32 x 8 threads packs LANES lanes of 128 k. Of the planes only the first `planes` are written; all of them are summed. */
template <class From>
__device__ __forceinline__ void pack_group(const From &from, const packed_operand &of, i64 product, i64 group, i64 block, int bits, i32 (*part)[ROW]) {
    const i64 blocks = (of.k + ROW - 1) / ROW, plane = blocks * of.padded * ROW * ITEM, apart = PLAIN ? 8 * blocks * ROW : 8 * WIDTH; /* of each eighth lane */
    const int tx = threadIdx.x & 31, ty = (int)threadIdx.x >> 5, planes = (int)of.planes, lanes = (int)(of.lanes - group * LANES) - ty;
    const u32 *top = of.top + product * of.lanes + group * LANES + ty;
    u64 *along = of.along ? of.along + product * of.padded + group * LANES + ty : nullptr;
    i8 *to = of.packed + spot(product, planes, 0, blocks, block, of.padded, group * LANES + ty, 4 * tx);
    i32 totals[PLANES][4];
    for (int z = 0; z < PLANES; z++) for (int i = 0; i < 4; i++) totals[z][i] = 0;
    for (int first = 0; first < LANES; first += 32) {
        begin_lanes(from, of, group * LANES + first, block);
        #pragma unroll
        for (int turn = 0; turn < 4; turn++) {
            const int lane = first + 8 * turn; /* from ty on */
            float factor, magic, four[4];
            i32 d[OWN][4], sums[PLANES];
            u32 words[PLANES];
            factor_of(lane < lanes ? top[lane] : 0u, bits, &factor, &magic);
            four_of(from, of, group * LANES + ty + lane, block * ROW + 4 * tx, turn, four);
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                i32 own[OWN];
                digits_of(limited(rounded_to(four[i], factor, magic), bits), own);
                #pragma unroll
                for (int z = 0; z < OWN; z++) d[z][i] = own[z], totals[z][i] += own[z];
            }
            i32 sum = 0; /* of 128 elements, less than 2^29 in all */
            #pragma unroll
            for (int z = 0; z < OWN; z++) {
                words[z] = low_bytes(d[z]);
                sums[z] = __dp4a((int)words[z], 0x01010101, 0);
            }
#if KARATSUBA
            words[2] = added(words[0], words[1]);
            sums[2] = sums[0] + sums[1];
#endif
            #pragma unroll
            for (int z = 0; z < PLANES; z++) {
                if (z < planes) *(four_digits *)(to + z * plane) = widened(words[z]);
                sum += (i32)weight(z) * sums[z];
            }
            to += apart;
            if (along) {
                sum = (i32)__reduce_add_sync(ALL_LANES, (u32)sum);
                if (tx == 0) atomicAdd(&along[lane], (u64)(i64)sum);
            }
        }
    }
#if KARATSUBA
    for (int i = 0; i < 4; i++) totals[2][i] = totals[0][i] + totals[1][i];
#endif
    if (of.across) for (int z = 0; z < PLANES; z++) {
        for (int i = 0; i < 4; i++) part[ty][4 * tx + i] = totals[z][i];
        __syncthreads();
        if (threadIdx.x < ROW) {
            i32 sum = 0;
            for (int i = 0; i < 8; i++) sum += part[i][threadIdx.x];
            atomicAdd(&of.across[((product * PLANES + z) * blocks + block) * ROW + threadIdx.x], (u64)(i64)sum);
        }
        __syncthreads();
    }
}

/* Which ROW x ROW elements of a matrix a block has. Blocks begin with what the kernel before read last, which L2 may still hold. */
struct square { i64 row, column; };
__device__ __forceinline__ square square_of(i64 columns, i64 padded_c) {
    i64 wide = ((padded_c > columns ? padded_c : columns) + ROW - 1) / ROW, item = (i64)gridDim.x - 1 - blockIdx.x;
    return {item / wide, item % wide};
}

/* These of a matrix that two products read, each along the other axis: with its rows as lanes, and with its columns. */
template <class ByRow, class ByColumn>
__device__ __forceinline__ void pack_square(const ByRow &rows_from, const ByColumn &columns_from, const packed_operand &by_row, const packed_operand &by_column,
                                            square at, int bits, i32 (*part)[ROW]) {
    if (at.column * ROW < by_row.k) {
        #pragma unroll 1
        for (i64 group = at.row * (ROW / LANES); group < (at.row + 1) * (ROW / LANES) && group * LANES < by_row.padded; group++)
            pack_group(rows_from, by_row, 0, group, at.column, bits, part);
    }
    if (at.row * ROW < by_column.k) {
        #pragma unroll 1
        for (i64 group = at.column * (ROW / LANES); group < (at.column + 1) * (ROW / LANES) && group * LANES < by_column.padded; group++)
            pack_group(columns_from, by_column, 0, group, at.row, bits, part);
    }
}

/* The same, once all threads have made their elements. */
__device__ __forceinline__ void pack_made(const float *made, const packed_operand &by_row, const packed_operand &by_column, square at, int bits, i32 (*part)[ROW]) {
    __syncthreads();
    pack_square(made_rows{made}, made_columns{made}, by_row, by_column, at, bits, part);
}
