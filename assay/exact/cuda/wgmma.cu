/* gemm.cu's product for compute capability 9.0, whose int8 tensor cores reach their full rate by wgmma alone. The same operands, arguments and results.
 *
 * A block makes a tile of C (tiles.cuh) with all sums in registers. Shared
 * memory is a ring of slots; a slot is 128 elements of k of one plane of both operands (of all planes where each is multiplied with each). pack.cu has
 * laid that out as wgmma wants it, in one piece for each operand, so a slot is filled by plain bulk copies, without tensor maps.
 *
 * `filled[slot]` ends a phase when the slot's bytes are there; `emptied[slot]` when every warp, of every block that this block's copies go to, has multiplied it.
 */
#define HELD (KARATSUBA ? 1 : PLANES) /* planes of a slot */
#define TURNS (PLANES / HELD)         /* slots of 128 elements of k */
#define PLANE_A (TM * ROW)
#define PLANE_B (TN * ROW)
#define SLOT (HELD * (PLANE_A + PLANE_B))
#define STRIDE (64 + 8)       /* int64 from row to row of staged totals: neighbouring rows begin in different banks */
#define WHOLE (PLANES < 3 || KARATSUBA) /* whether f64 holds every total: b <= 15, where |total| < 2^(17 + 28) */

/* What a warpgroup adds up of a slot. */
__device__ __forceinline__ void multiply_slot(i32 (*sums)[TN / 2], u32 a, u32 b) {
    #pragma unroll
    for (int k = 0; k < ROW / 32; k++) {
        #pragma unroll
        for (int z = 0; z < HELD; z++) {
            #pragma unroll
            for (int y = 0; y < HELD; y++) group_multiply(sums[z + y], matrix_at(a + z * PLANE_A + k * 32), matrix_at(b + y * PLANE_B + k * 32));
        }
    }
}

__device__ __forceinline__ float element_of(i64 total, u32 top_a, u32 top_b, int bits) {
#if WHOLE
    return rounded(total, scale_of(top_a, bits), scale_of(top_b, bits));
#else
    return element(total, top_a, top_b, bits);
#endif
}

/* blockIdx.x: cluster of tiles, and tile in it; the rest as in gemm.cu. padded_a, padded_b: multiples of CM * TM, CN * TN. */
KERNEL CLUSTERED(CLUSTER) __launch_bounds__(THREADS, 1) gemm(const i8 *a, const i8 *b, const u32 *top_a, const u32 *top_b, i64 bits, i64 step_a,
                                                             i64 step_b, i64 m, i64 n, i64 k, i64 padded_a, i64 padded_b, i64 run, float *c,
                                                             u64 *totals, u64 *columns, const float *more) {
    ASSAY_SHARED(char, whole);
    i64 blocks = (k + ROW - 1) / ROW, from = blockIdx.y * run, to = from + run < blocks ? from + run : blocks;
    if (from >= to) return; /* a part without work, which says that sums go through memory; so it is for the whole cluster */
    int count = (int)(to - from), rank = (int)cluster_rank(), of_m = rank / CN, of_n = rank % CN;
    u32 ring = (shared_address(whole) + 1023) & ~1023u, filled = ring + SLOTS * SLOT, emptied = filled + SLOTS * 8;
    volatile tile_place *tile = (volatile tile_place *)(whole + 1024 + SLOTS * (SLOT + 16));
    if (threadIdx.x == 0) { /* the tile's place lies in shared memory: those who multiply have no registers for it */
        tile_place here = tile_of(blockIdx.x / CLUSTER, m, n, of_m, of_n);
        tile->product = here.product, tile->row = here.row, tile->column = here.column;
        ring_made(filled, emptied);
    }
    cluster_meet();
    bool lost = false;
    int slot = 0;
    u32 phase = 0;
    if (WARP < 4) {
        registers_less<40>();
        if (threadIdx.x == 0) {
            i64 plane_a = blocks * padded_a * ROW, plane_b = blocks * padded_b * ROW;
            u32 same_row = ((1u << CN) - 1) << of_m * CN, same_column = column_of(of_n);
            a += tile->product * step_a * PLANES * plane_a + (from * padded_a + tile->row + of_n * (TM / CN)) * ROW;
            b += tile->product * step_b * PLANES * plane_b + (from * padded_b + tile->column + of_m * (TN / CM)) * ROW;
            int empty = SLOTS; /* slots that nothing was in yet */
            for (int block = 0; block < count; block++, a += padded_a * ROW, b += padded_b * ROW) {
                for (int turn = 0; turn < TURNS; turn++) {
                    if (empty) empty--;
                    else barrier_wait(emptied + slot * 8, phase ^ 1, lost);
                    barrier_expect(filled + slot * 8, SLOT);
                    #pragma unroll
                    for (int h = 0; h < HELD; h++) {
                        i64 z = turn * HELD + h;
                        u32 at = ring + slot * SLOT + h * PLANE_A + of_n * (PLANE_A / CN);
                        bulk_copy<(CN > 1)>(at, a + z * plane_a, PLANE_A / CN, filled + slot * 8, same_row);
                        at = ring + slot * SLOT + HELD * PLANE_A + h * PLANE_B + of_m * (PLANE_B / CM);
                        bulk_copy<(CM > 1)>(at, b + z * plane_b, PLANE_B / CM, filled + slot * 8, same_column);
                    }
                    if (++slot == SLOTS) slot = 0, phase ^= 1;
                }
            }
        }
        __syncwarp();
        cluster_meet();
    } else {
        registers_more<232>();
        i32 sums[SUMS][TN / 2];
        #pragma unroll
        for (int s = 0; s < SUMS; s++) {
            #pragma unroll
            for (int i = 0; i < TN / 2; i++) sums[s][i] = 0;
        }
        int group = WARP / 4 - 1, before = 0, sharer = sharer_of(LANE, rank);
        for (int block = 0; block < count; block++) {
            #pragma unroll
            for (int turn = 0; turn < TURNS; turn++) {
                barrier_wait(filled + slot * 8, phase, lost);
                group_begin();
                multiply_slot(sums + turn, ring + slot * SLOT + group * 64 * ROW, ring + slot * SLOT + HELD * PLANE_A);
                group_end();
                group_wait<1>(); /* the slot before is multiplied, this one is under way */
                if ((turn || block) && LANE < SHARERS) barrier_arrive(emptied + before * 8, sharer);
                before = slot;
                if (++slot == SLOTS) slot = 0, phase ^= 1;
            }
        }
        group_wait<0>();
        i64 product = tile->product, row = tile->row, column = tile->column;
        consumers_meet<GROUPS * 128>(); /* nobody multiplies any more: the ring is room for totals, 16 rows of 64 columns for each warp */
        bool split = gridDim.y > 1, pairs = n % 2 == 0 && (u64)c % 8 == 0;
        u64 *staged = (u64 *)(whole + ((ring - shared_address(whole)) + (WARP - 4) * 16 * STRIDE * 8));
        row += group * 64 + WARP % 4 * 16;
        top_a += product * step_a * m + row;
        top_b += product * step_b * n;
        i64 rows = m - row < 16 ? m - row : 16;
        #pragma unroll
        for (int part = 0; part < TN / 64; part++) {
            #pragma unroll
            for (int i = 0; i < 32; i += 2) { /* D: row LANE / 4, 8 more for each other pair; columns 2 (LANE % 4) and the next, 8 more for each 4 */
                i32 s[2][SUMS];
                #pragma unroll
                for (int z = 0; z < 2 * SUMS; z++) {
                    not_before(sums[z % SUMS][part * 32 + i + z / SUMS]); /* totals take more registers than they free, if they are all made at once */
                    s[z / SUMS][z % SUMS] = sums[z % SUMS][part * 32 + i + z / SUMS];
                }
                ulonglong2 two = {(u64)recombined(s[0]), (u64)recombined(s[1])};
                *(ulonglong2 *)(staged + (LANE / 4 + i / 2 % 2 * 8) * STRIDE + i / 4 * 8 + LANE % 4 * 2) = two;
            }
            __syncwarp();
            i64 y = column + part * 64 + LANE * 2;
            u32 tb[2] = {y < n ? top_b[y] : 0u, y + 1 < n ? top_b[y + 1] : 0u};
            u64 column_sums[2] = {0, 0};
            i64 at = (product * m + row) * n + y;
            #pragma unroll 4
            for (int x = 0; x < 16; x++, at += n) {
                ulonglong2 two = *(const ulonglong2 *)(staged + x * STRIDE + LANE * 2);
                column_sums[0] += two.x, column_sums[1] += two.y;
                if (x >= rows || y >= n) continue;
                if (split) {
                    atomicAdd(&totals[at], two.x);
                    if (y + 1 < n) atomicAdd(&totals[at + 1], two.y);
                    continue;
                }
                float2 out = {element_of((i64)two.x, top_a[x], tb[0], (int)bits), element_of((i64)two.y, top_a[x], tb[1], (int)bits)};
#if ADDS
                out.x = plus(out.x, more, at);
                if (y + 1 < n) out.y = plus(out.y, more, at + 1);
#endif
                if (pairs) *(float2 *)(c + at) = out;
                else {
                    c[at] = out.x;
                    if (y + 1 < n) c[at + 1] = out.y;
                }
            }
            __syncwarp();
            if (split) continue;
            #pragma unroll
            for (int e = 0; e < 2; e++) atomicAdd(&columns[product * padded_b + y + e], column_sums[e]);
        }
        cluster_meet();
    }
}
