/* Karatsuba's three products (digits.cuh) on compute capability 9.0, with less of shared memory than in wgmma.cu, and by blocks that stay. The same
 * results; of A only the planes h and l are packed.
 *
 * Shared memory's port is what limits wgmma.cu. Here A does not lie there to be multiplied: each warp brings its fragments of h and l to registers, adds
 * them up to the third plane there, and gives wgmma registers. A slot of the ring is 64 elements of k of all planes, in rows of 64 bytes.
 *
 * wgmma reads registers whenever it likes until a wait covers it: so h, l and their sum have four registers each, and are written again when all but the
 * last two products are done.
 *
 * A block makes one tile after the other: tile number `cluster`, then those as many further on as there are clusters, so that what is made at a time
 * lies together. Barriers' phases go on from tile to tile, and the warp that fetches is as far ahead of the others as the ring is deep. Sums are rounded
 * and summed by columns where they are, without shared memory, so the ring fills up meanwhile. The second warpgroup begins two slots after the first, so
 * that one rounds while the other multiplies. Tiles without an edge, whose lanes' largest magnitudes are `usual` (digits.cuh), are rounded in f32
 * alone, by factors that a warp of those that fetch leaves for them; all others in f64.
 */
#define TURNS (ROW / WIDTH) /* slots of 128 elements of k */
#define PACKED_A 2          /* planes of A in memory */
#define PLANE_A (TM * WIDTH)
#define PLANE_B (TN * WIDTH)
#define SLOT (PACKED_A * PLANE_A + PLANES * PLANE_B)
#define PLACES (SLOTS / TURNS + 3) /* tiles, of at least TURNS slots each, that are rounded, multiplied or fetched at a time, and the next one */


/* What a tile is. `plain`: it has no edge, C's pairs lie at multiples of 8 bytes, nothing goes to totals, and its lanes'
 * largest magnitudes are usual (digits.cuh); then it has the factors of its rows and columns. */
struct tile_there {
    int product, row, column, plain;
    i64 first, sums; /* where it begins in C, and in `columns` */
    float factors[TM + TN];
};

/* A product by a fragment of A. Afterwards at most two are under way. */
__device__ __forceinline__ void multiply_by(i32 sums[TN / 2], const u32 a[4], u32 b) {
    group_begin();
    group_multiply(sums, a, matrix_at(b));
    group_end();
    group_wait<2>();
}

/* What a warpgroup adds up of a slot, whose last two products are then under way. All of the slot before are done when `emptied` is told, if there was one. */
__device__ __forceinline__ void multiply_slot(i32 (*sums)[TN / 2], u32 (*fragments)[4], u32 slot, u32 row, u32 emptied, int rank) {
    #pragma unroll
    for (int k = 0; k < WIDTH / 32; k++) {
        u32 b = slot + PACKED_A * PLANE_A + k * 32, a = slot + (row ^ k * 32);
        u32 *h = fragments[0], *l = fragments[1], *x = fragments[2];
        fragment_load(h, a);
        multiply_by(sums[0], h, b); /* that with l before is done */
        fragment_load(l, a + PLANE_A);
        multiply_by(sums[1], l, b + PLANE_B); /* that with x before */
        if (k == 0 && emptied && LANE < SHARERS) barrier_arrive(emptied, sharer_of(lane_now(), rank));
        #pragma unroll
        for (int i = 0; i < 4; i++) x[i] = added(h[i], l[i]);
        multiply_by(sums[2], x, b + 2 * PLANE_B); /* that with h */
    }
}

/* Of 8 values of each lane, the sum over the 8 lanes with the same LANE % 4 of value LANE / 16 * 4 + LANE / 8 % 2 * 2 + LANE / 4 % 2. */
template <typename T> __device__ __forceinline__ T summed_by_rows(T values[8]) {
    #pragma unroll
    for (int half = 4; half; half /= 2) {
        bool upper = LANE & 4 * half;
        #pragma unroll
        for (int i = 0; i < half; i++) {
            T given = upper ? values[i] : values[i + half], kept = upper ? values[i + half] : values[i];
            values[i] = kept + __shfl_xor_sync(ALL_LANES, given, 4 * half);
        }
    }
    return values[0];
}

/* The factors of a tile's lanes, from the tops of its first ones on; whether all are usual. All lanes of a warp. */
__device__ __forceinline__ bool factors_made(float *factors, const u32 *top_a, const u32 *top_b, int bits) {
    bool all = true;
    #pragma unroll
    for (int i = LANE; i < TM + TN; i += 32) {
        u32 top = i < TM ? top_a[i] : top_b[i - TM];
        if (!top) top = ONE; /* all is zero, whatever the scale */
        all = all && usual(top, top);
        factors[i] = i < TM ? usual_a(top, bits) : usual_b(top);
    }
    return __all_sync(ALL_LANES, all);
}

/* What a thread has of a plain tile that begins at `first` in C: rounded, and summed by columns. */
__device__ __forceinline__ void round_plain(i32 (*sums)[TN / 2], const float *factors, i64 n, i64 first, float *c, const float *more, u64 *columns) {
    int row = (WARP - 4) * 16 + LANE / 4;
    first += row * n + LANE % 4 * 2;
    float scale_a[2] = {factors[row], factors[row + 8]};
    columns += (LANE / 16 * 2 + LANE / 8 % 2) * 8 + LANE % 4 * 2 + LANE / 4 % 2;
    #pragma unroll
    for (int part = 0; part < TN / 32; part++) {
        u32 highs[8], lows[8]; /* of a column's 16 totals here: what they are more than CENTRED, and CENTRED 16 times */
        #pragma unroll
        for (int j = 0; j < 4; j++) { /* D: as in round_tile */
            int y = part * 32 + j * 8;
            float2 scale_b = *(const float2 *)(factors + TM + y + LANE % 4 * 2), out[2];
            #pragma unroll
            for (int e = 0; e < 2; e++) {
                u32 high[2], low[2];
                #pragma unroll
                for (int h = 0; h < 2; h++) {
                    i32 s[SUMS];
                    #pragma unroll
                    for (int z = 0; z < SUMS; z++) {
                        i32 &x = sums[z][part * 16 + j * 4 + h * 2 + e];
                        not_before(x);
                        s[z] = x;
                    }
                    halved(s, &high[h], &low[h]);
                    (e ? out[h].y : out[h].x) = usual_element<CUT>(high[h], low[h], scale_a[h], e ? scale_b.y : scale_b.x);
                }
                highs[j * 2 + e] = high[0] + high[1], lows[j * 2 + e] = low[0] + low[1];
            }
            #pragma unroll
            for (int h = 0; h < 2; h++) {
#if ADDS
                out[h].x = plus(out[h].x, more, first + h * 8 * n + y), out[h].y = plus(out[h].y, more, first + h * 8 * n + y + 1);
#endif
                *(float2 *)(c + first + h * 8 * n + y) = out[h];
            }
        }
        i32 high = (i32)(summed_by_rows(highs) - 16 * CENTRED), low = (i32)(summed_by_rows(lows) - 16 * CENTRED);
        atomicAdd(&columns[part * 32], (u64)((i64)high * (1 << CUT) + low));
    }
}

/* What a thread has of a tile, from `row` and `column` on: rounded or added to totals, and summed by columns. */
__device__ __forceinline__ void round_tile(i32 (*sums)[TN / 2], const u32 *top_a, const u32 *top_b, i64 bits_, i64 step_a, i64 step_b, i64 m, i64 n, i64 padded_b,
                                           float *c, u64 *totals, u64 *columns, const float *more, int product, int row, int column) {
    bool split = gridDim.y > 1;
    int bits = (int)bits_;
    double scale_a[2];
    #pragma unroll
    for (int h = 0; h < 2; h++) scale_a[h] = scale_of(row + h * 8 < m ? top_a[product * step_a * m + row + h * 8] : 0u, bits);
    i64 at = (product * m + row) * n + column;
    top_b += product * step_b * n;
    columns += product * padded_b + column;
    #pragma unroll
    for (int part = 0; part < TN / 32; part++) {
        u64 column_sums[8];
        #pragma unroll
        for (int j = 0; j < 4; j++) { /* D: row LANE / 4, 8 more for each other pair; columns 2 (LANE % 4) and the next, 8 more for each 4 */
            int y = part * 32 + j * 8;
            double scale_b[2];
            #pragma unroll
            for (int e = 0; e < 2; e++) scale_b[e] = scale_of(column + y + e < n ? top_b[column + y + e] : 0u, bits);
            column_sums[j * 2] = column_sums[j * 2 + 1] = 0;
            #pragma unroll
            for (int h = 0; h < 2; h++) {
                i64 total[2];
                #pragma unroll
                for (int e = 0; e < 2; e++) {
                    i32 s[SUMS];
                    #pragma unroll
                    for (int z = 0; z < SUMS; z++) {
                        i32 &x = sums[z][part * 16 + j * 4 + h * 2 + e];
                        not_before(x); /* totals take more registers than they free, if they are all made at once */
                        s[z] = x;
                    }
                    total[e] = recombined(s);
                    column_sums[j * 2 + e] += (u64)total[e];
                }
                i64 place = at + h * 8 * n + y;
                float2 out = {rounded(total[0], scale_a[h], scale_b[0]), rounded(total[1], scale_a[h], scale_b[1])};
#if ADDS
                if (row + h * 8 < m) {
                    #pragma unroll
                    for (int e = 0; e < 2; e++) if (column + y + e < n) c[place + e] = plus(e ? out.y : out.x, more, place + e);
                }
#else
                if (row + h * 8 < m) {
                    #pragma unroll
                    for (int e = 0; e < 2; e++) {
                        if (column + y + e >= n) continue;
                        if (split) atomicAdd(&totals[place + e], (u64)total[e]);
                        else c[place + e] = e ? out.y : out.x;
                    }
                }
#endif
            }
        }
        u64 sum = summed_by_rows(column_sums);
        if (!split) atomicAdd(&columns[part * 32 + (LANE / 16 * 2 + LANE / 8 % 2) * 8 + LANE / 4 % 2], sum);
    }
}

/* As gemm of wgmma.cu, but blockIdx.x is the number of a cluster and of the block in it, and there are `tiles` tiles for a whole cluster each. */
KERNEL CLUSTERED(CLUSTER) __launch_bounds__(THREADS, 1) gemm(const i8 *a, const i8 *b, const u32 *top_a, const u32 *top_b, i64 bits, i64 step_a,
                                                             i64 step_b, i64 m, i64 n, i64 k, i64 padded_a, i64 padded_b, i64 run, float *c,
                                                             u64 *totals, u64 *columns, const float *more, i64 tiles) {
    ASSAY_SHARED(char, whole);
    i64 blocks = (k + ROW - 1) / ROW, from = blockIdx.y * run, to = from + run < blocks ? from + run : blocks;
    if (from >= to) return; /* a part without work, which says that sums go through memory; so it is for the whole cluster */
    int count = (int)(to - from) * TURNS, rank = (int)cluster_rank(), of_m = rank / CN, of_n = rank % CN;
    u32 ring = (shared_address(whole) + 1023) & ~1023u, filled = ring + SLOTS * SLOT, emptied = filled + SLOTS * 8;
    tile_there *tiles_there = (tile_there *)(whole + 1024 + SLOTS * (SLOT + 16));
    u32 cluster = blockIdx.x / CLUSTER, clusters = gridDim.x / CLUSTER;
    if (threadIdx.x == 0) {
        ring_made(filled, emptied);
    }
    cluster_meet();
    bool lost = false;
    int slot = 0;
    u32 phase = 0;
    if (WARP < 4) {
        registers_less<40>();
        if (WARP == 0) { /* each lane brings one plane; the others just go along */
            bool of_a = LANE < PACKED_A;
            i64 padded = of_a ? padded_a : padded_b, planes = of_a ? step_a * PACKED_A : step_b * PLANES;
            int z = of_a ? LANE : LANE - PACKED_A, lane = of_a ? of_n * (TM / CN) : of_m * (TN / CM);
            u32 to = ring + (of_a ? 0 : PACKED_A * PLANE_A) + (z * (of_a ? TM : TN) + lane) * WIDTH;
            for (u32 number = 0; cluster + number * clusters < (u32)tiles; number++) {
                tile_place tile = tile_of(cluster + number * clusters, m, n, of_m, of_n);
                fetchers_meet<64>(); /* all is written of this tile by the next warp, which goes on to the one behind it */
                i64 at = ((tile.product * planes + z) * blocks + from) * TURNS * padded + (of_a ? tile.row : tile.column) + lane;
                const i8 *next = (of_a ? a : b) + at * WIDTH;
                for (int turn = 0; turn < count; turn++, next += padded * WIDTH) {
                    barrier_wait(emptied + slot * 8, phase ^ 1, lost); /* at once, where nothing was in it yet: the phase before the first is over */
                    if (LANE == 0) barrier_expect(filled + slot * 8, SLOT);
                    __syncwarp();
                    if (of_a) bulk_copy<(CN > 1)>(to + slot * SLOT, next, PLANE_A / CN, filled + slot * 8, ((1u << CN) - 1) << of_m * CN);
                    else if (z < PLANES) bulk_copy<(CM > 1)>(to + slot * SLOT, next, PLANE_B / CM, filled + slot * 8, column_of(of_n));
                    if (++slot == SLOTS) slot = 0, phase ^= 1;
                }
            }
        } else if (WARP == 1) {
            for (u32 number = 0; cluster + number * clusters < (u32)tiles; number++) {
                tile_place tile = tile_of(cluster + number * clusters, m, n, of_m, of_n);
                tile_there *there = tiles_there + number % PLACES;
                bool plain = tile.row + TM <= m && tile.column + TN <= n && n % 2 == 0 && (u64)c % 8 == 0 && gridDim.y == 1;
                plain = plain && factors_made(there->factors, top_a + tile.product * step_a * m + tile.row, top_b + tile.product * step_b * n + tile.column, (int)bits);
                if (LANE == 0) {
                    there->product = tile.product, there->row = tile.row, there->column = tile.column, there->plain = plain;
                    there->first = (tile.product * m + tile.row) * n + tile.column, there->sums = tile.product * padded_b + tile.column;
                }
                fetchers_meet<64>();
            }
        }
        __syncwarp();
        cluster_meet();
    } else {
        registers_more<232>();
        i32 sums[SUMS][TN / 2];
        u32 fragments[3][4];
        int lane_row = (WARP - 4) * 16 + (LANE & 15);
        u32 row_at = lane_row * WIDTH + SWIZZLED(lane_row, LANE / 16 * 16);
        if (WARP >= 8) ahead_waited<GROUPS * 128>();
        for (u32 number = 0; cluster + number * clusters < (u32)tiles; number++) {
            #pragma unroll
            for (int s = 0; s < SUMS; s++) {
                #pragma unroll
                for (int i = 0; i < TN / 2; i++) sums[s][i] = 0;
            }
            u32 before = 0;
            for (int turn = 0; turn < count; turn++) {
                barrier_wait(filled + slot * 8, phase, lost);
                multiply_slot(sums, fragments, ring + slot * SLOT, row_at, before, rank);
                before = emptied + slot * 8;
                if (++slot == SLOTS) slot = 0, phase ^= 1;
                if (turn == 1 && !number && WARP < 8) ahead_goes<GROUPS * 128>(); /* the others wait for it */
            }
            group_wait<0>();
            __syncwarp();
            if (LANE < SHARERS) barrier_arrive(before, sharer_of(lane_now(), rank));
            const tile_there *tile = tiles_there + number % PLACES;
            if (tile->plain) round_plain(sums, tile->factors, n, tile->first, c, more, columns + tile->sums);
            else
                round_tile(sums, top_a, top_b, bits, step_a, step_b, m, n, padded_b, c, totals, columns, more, tile->product,
                           tile->row + (WARP - 4) * 16 + LANE / 4, tile->column + LANE % 4 * 2);
        }
        cluster_meet();
    }
}
