/* Digits of an operand of a matrix product, in the layout that is multiplied, from the f32 of its lanes and their largest magnitudes. Packed digits lie as
 * digits.cuh's `spot` says, with zeros beyond the last lane and the last k, so that no edge is left to look after.
 *
 * For the checksum (check.cu) A's digits are summed over lanes (`across`: [product][plane][k]) and B's over k (`along`: [product][padded lanes],
 * weighted), from registers, before they have been to memory. These start from zero (clear).
 *
 * A block of 256 threads has a matrix in shared memory, HIGH x ROW elements at a time, and packs the rows of such a tile as lanes, its columns, or both. A
 * thread has 16 elements of k of two lanes, which are 16 bytes of each plane. Four threads of a warp have the same k of other lanes, so their sums over lanes
 * are products with ones, for tensor cores.
 */

#define LANES 64 /* to multiples of which lanes are padded */
#define HIGH 64
#define TILE (HIGH * ROW)

/* An operand of a product, or nothing (k = 0): where its digits and sums go. */
struct packed_operand {
    i64 lanes, k, padded, planes;
    const u32 *top;
    i8 *packed;
    u64 *across, *along;
};

/* What a block has of a matrix: from where on, and how many tiles below each other. Both are multiples of ROW where there are two. */
struct square {
    i64 row, column;
    int tiles;
};

/* A matrix that lies in memory. */
struct in_memory {
    const float *x;
    const i64 *row_at, *column_at;
    i64 row_step, column_step, rows, columns;
};

/* A tile of it, with zeros beyond its edges: by copies of 16 bytes where the matrix has such. */
__device__ __forceinline__ void read_tile(const in_memory &from, float *tile, i64 row, i64 column) {
    const int tx = threadIdx.x & 31, ty = (int)threadIdx.x >> 5;
    const bool beside = !from.row_at && !from.column_at && from.column_step == 1 && from.row_step % 4 == 0 && (u64)from.x % 16 == 0;
    if (beside && row + HIGH <= from.rows && column + ROW <= from.columns) {
        const float *mine = from.x + (row + ty) * from.row_step + column + 4 * tx;
        #pragma unroll
        for (int i = 0; i < HIGH / 8; i++, mine += 8 * from.row_step) async_copy(tile + (ty + 8 * i) * ROW + ((4 * tx) ^ shift_of(ty + 8 * i)), mine);
        async_commit();
        async_wait<0>();
        return;
    }
    #pragma unroll 1
    for (int r = ty; r < HIGH; r += 8) {
        const bool there = row + r < from.rows;
        const float *mine = from.x + (there ? place(from.row_at, from.row_step, row + r) : 0);
        #pragma unroll
        for (int c = tx; c < ROW; c += 32)
            tile[r * ROW + (c ^ shift_of(r))] = there && column + c < from.columns ? mine[place(from.column_at, from.column_step, column + c)] : 0.0f;
    }
}

struct __align__(16) sixteen_bytes { four_digits of[4 / ITEM]; };
struct lane_scale { float factor, magic; }; /* factor_of, with CENTRE */

/* What a block has in shared memory. */
struct square_room {
    __align__(16) float tile[TILE];
    lane_scale scales[2 * ROW];    /* of rows, and of columns */
    i32 sums[2][OWN + 1][ROW];
};

/* Packs the lanes of a tile: its rows or, TURNED, its columns; the first one is lane `first`. `from`: where the tile begins in its square (k, or rows that are
 * lanes). scales: of the square's lanes. limits: whether there are integers to be limited. sums: of a square, over lanes of each plane that is no sum of others,
 * element k at k % 16 * 8 + k / 16; then over k. */
template <bool TURNED>
__device__ __forceinline__ void pack_tile(const float *tile, const packed_operand &of, i64 first, i64 block, int from, const lane_scale *scales, int bits, bool limits,
                                          i32 (*sums)[ROW]) {
    const int tx = threadIdx.x & 31, warp = (int)threadIdx.x >> 5, g = tx >> 2, t = tx & 3; /* of 32 bytes of 8 columns, whose column and whose four */
    const int chunk = TURNED ? g & 3 : g, lane = TURNED ? 16 * warp + 8 * (g >> 2) + 2 * t : 8 * warp + t, apart = TURNED ? 1 : 4, scale = TURNED ? lane : from + lane;
    if (first + (TURNED ? 16 * warp : 0) >= of.padded) return;
    const int mine = TURNED ? 16 * chunk * ROW + (lane ^ chunk << 3) : lane * ROW + ((16 * chunk) ^ shift_of(lane));
    const lane_scale by[2] = {scales[scale], scales[scale + apart]};
    const u32 none[2] = {__float_as_uint(by[0].magic), __float_as_uint(by[1].magic)};
    const i32 most = (1 << (bits - 1)) - 1;
    u32 words[2][PLANES][4];
    #pragma unroll
    for (int w = 0; w < 4; w++) {
        u32 y[2][4];
        if (TURNED) {
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                float2 held = *(const float2 *)(tile + (mine ^ i << 2) + (4 * w + i) * ROW);
                y[0][i] = __float_as_uint(fused(held.x, by[0].factor, by[0].magic)), y[1][i] = __float_as_uint(fused(held.y, by[1].factor, by[1].magic));
            }
        } else {
            #pragma unroll
            for (int j = 0; j < 2; j++) {
                float4 held = *(const float4 *)(tile + (mine ^ 4 * w) + apart * j * ROW);
                const float four[4] = {held.x, held.y, held.z, held.w};
                #pragma unroll
                for (int i = 0; i < 4; i++) y[j][i] = __float_as_uint(fused(four[i], by[j].factor, by[j].magic));
            }
        }
        if (limits) {
            #pragma unroll
            for (int j = 0; j < 2; j++)
                #pragma unroll
                for (int i = 0; i < 4; i++) y[j][i] = (u32)max(min((i32)y[j][i], (i32)none[j] + most), (i32)none[j] - most);
        }
        #pragma unroll
        for (int j = 0; j < 2; j++) {
            u32 bytes[PLANES];
            bytes_of(y[j], none[j], bytes);
            #pragma unroll
            for (int z = 0; z < PLANES; z++) words[j][z][w] = bytes[z];
        }
    }
    const i64 blocks = (of.k + ROW - 1) / ROW, plane = blocks * of.padded * ROW * ITEM;
    i8 *const begin = of.packed + spot(0, 1, 0, blocks, block, of.padded, first, 0);
    #pragma unroll
    for (int j = 0; j < 2; j++) {
        #pragma unroll
        for (int part = 0; part < ITEM; part++) {
            i8 *to = begin + spot(0, 1, 0, blocks, 0, of.padded, lane + apart * j, (TURNED ? from : 0) + 16 * chunk + 8 * part);
            #pragma unroll
            for (int z = 0; z < PLANES; z++, to += plane) {
                if (z == (int)of.planes) break;
                sixteen_bytes bytes;
                #pragma unroll
                for (int i = 0; i < 4 / ITEM; i++) bytes.of[i] = widened(words[j][z][part * 2 + i]);
                *(sixteen_bytes *)to = bytes;
            }
        }
    }
    if (of.along) {
        #pragma unroll
        for (int j = 0; j < 2; j++) {
            i32 sum = 0; /* of 128 elements, less than 2^29 in all */
            #pragma unroll
            for (int z = 0; z < OWN; z++) {
                i32 own = 0;
                #pragma unroll
                for (int w = 0; w < 4; w++) own = __dp4a((int)words[j][z][w], 0x01010101, own);
                sum += (i32)summed_weight(z) * own;
            }
            atomicAdd(&sums[OWN][scale + apart * j], sum);
        }
    }
    if (of.across) {
        /* Row 4 w + i of a result has byte i of the words w of a column's four threads: rows 0 to 7 those of two words, rows 8 to 15 those of the other two. */
        const u32 one = 1u << 8 * (g & 3), upper = g < 4 ? one : 0, lower = g < 4 ? 0 : one, first_two[4] = {upper, 0, lower, 0}, last_two[4] = {0, upper, 0, lower};
        #pragma unroll
        for (int z = 0; z < OWN; z++) {
            i32 across[4] = {0, 0, 0, 0};
            #pragma unroll
            for (int j = 0; j < 2; j++) mma_s8(across, first_two, words[j][z]), mma_s8(across, last_two, words[j][z] + 2);
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                int column = 2 * t + i % 2;
                atomicAdd(&sums[z][(g + i / 2 * 8) * 8 + (TURNED ? from / 16 + (column & 3) : column)], across[i]);
            }
        }
    }
}

/* What the sums of a square come to, by ROW threads: element or lane `at` of block `block` of k and of the lanes from `first` on. */
__device__ __forceinline__ void add_sums(const packed_operand &of, i64 first, i64 block, int at, const i32 (*sums)[ROW]) {
    if (of.along && first + at < of.padded) atomicAdd(&of.along[first + at], (u64)(i64)sums[OWN][at]);
    if (of.across) {
        u64 *to = of.across + block * ROW + at % 8 * 16 + at / 8;
        i64 apart = (of.k + ROW - 1) / ROW * ROW;
        #pragma unroll
        for (int z = 0; z < OWN; z++) atomicAdd(&to[z * apart], (u64)(i64)sums[z][at]);
#if KARATSUBA
        atomicAdd(&to[2 * apart], (u64)(i64)(sums[0][at] + sums[1][at]));
#endif
    }
}

/* Packs what a block has of a matrix: with its rows as lanes, with its columns, or both. fill(tile, row, column) has the block's threads write a tile. */
template <bool ROWS, bool COLUMNS, class Fill>
__device__ __forceinline__ void pack_square(const Fill &fill, square_room &room, const packed_operand &by_row, const packed_operand &by_column, square at, int bits) {
    const int thread = (int)threadIdx.x, mine = thread & (ROW - 1);
    const bool rows = ROWS && at.column < by_row.k, columns = COLUMNS && at.row < by_column.k;
    const i64 lane = (thread < ROW ? at.row : at.column) + mine;
    u32 top = 0;
    if (ROWS && thread < ROW && lane < by_row.lanes) top = by_row.top[lane];
    if (COLUMNS && thread >= ROW && lane < by_column.lanes) top = by_column.top[lane];
    int limits = at_limit(top, bits);
    float factor, magic;
    factor_of(top, bits, &factor, &magic);
    room.scales[thread] = {factor, __uint_as_float(__float_as_uint(magic) + CENTRE)};
    #pragma unroll
    for (int z = 0; z <= OWN; z++) room.sums[thread / ROW][z][mine] = 0;
    #pragma unroll 1
    for (int from = 0; from < at.tiles * HIGH; from += HIGH) {
        fill(room.tile, at.row + from, at.column);
        limits = __syncthreads_or(limits);
        if (rows) pack_tile<false>(room.tile, by_row, at.row + from, at.column / ROW, from, room.scales, bits, limits, room.sums[0]);
        if (columns) pack_tile<true>(room.tile, by_column, at.column, at.row / ROW, from, room.scales + ROW, bits, limits, room.sums[1]);
        __syncthreads();
    }
    if (thread < ROW) {
        if (rows) add_sums(by_row, at.row, at.column / ROW, mine, room.sums[0]);
    } else if (columns) add_sums(by_column, at.column, at.row / ROW, mine, room.sums[1]);
}

/* Which of a matrix a block has that packs it along both axes. Blocks begin with what the kernel before read last, which L2 may still hold. */
__device__ __forceinline__ square square_of(i64 columns, i64 padded_c) {
    u32 wide = (u32)(((padded_c > columns ? padded_c : columns) + ROW - 1) / ROW), item = gridDim.x - 1 - blockIdx.x;
    return {(i64)(item / wide) * ROW, (i64)(item % wide) * ROW, 2};
}
