/* The tiles of C of wgmma's kernels (wgmma.cu, persistent.cu): which block makes which one, and the rounding of an element where f64 holds it.
 *
 * A block makes TM x TN elements: one warpgroup (four warps) fetches, TM / 64 others multiply, 64 rows each. Blocks of a cluster are CM x CN tiles; those
 * that need the same rows of A or of B fetch a part each, for all of them.
 */
#define GROUPS (TM / 64)
#define THREADS (128 * (GROUPS + 1))
#define CLUSTER (CM * CN)
#if CM > 2 || CN > 2
#error "clusters are of at most 2 x 2 blocks"
#endif
#define SHARERS (CM + CN - 1) /* blocks whose copies fill a slot, which are those that its copies go to */
#define RASTER 8              /* rows of tiles that are made together, so that what they read stays in L2 */

struct tile_place { int product, row, column; }; /* there are at most 2^31 tiles, since a grid has at most so many blocks; operands have less than 2^31 lanes */

/* Of the block that has place (of_m, of_n) in cluster number `cluster`. */
__device__ __forceinline__ tile_place tile_of(u32 cluster, i64 m, i64 n, int of_m, int of_n) {
    u32 tiles_m = (u32)((m + CM * TM - 1) / (CM * TM)), tiles_n = (u32)((n + CN * TN - 1) / (CN * TN));
    u32 product = cluster / (tiles_m * tiles_n), tile = cluster - product * (tiles_m * tiles_n), band = tile / (RASTER * tiles_n);
    u32 within = tile - band * (RASTER * tiles_n), height = tiles_m - band * RASTER < RASTER ? tiles_m - band * RASTER : RASTER, over = within / height;
    return {(int)product, (int)((band * RASTER + within - over * height) * CM + of_m) * TM, (int)(over * CN + of_n) * TN};
}

/* The barriers of a ring's slots, by one thread: whoever fetches fills one, and every warp that multiplies, of all blocks that share it, empties it. */
__device__ __forceinline__ void ring_made(u32 filled, u32 emptied) {
    for (int s = 0; s < SLOTS; s++) {
        barrier_init(filled + s * 8, 1);
        barrier_init(emptied + s * 8, 4 * GROUPS * SHARERS);
    }
    barriers_made();
}

/* Which block of the cluster a lane tells of an emptied slot: this one, then the others in its row and in its column. */
__device__ __forceinline__ int sharer_of(int lane, int rank) { return rank ^ lane; }

/* The blocks of this one's column, as bits. */
__device__ __forceinline__ u32 column_of(int of_n) {
    u32 blocks = 0;
    #pragma unroll
    for (int i = 0; i < CM; i++) blocks |= 1u << (i * CN + of_n);
    return blocks;
}

/* 2^(e - bits - 125) for a lane of the largest magnitude `top`, or NaN: what its integers are multiplied by. */
__device__ __forceinline__ double scale_of(u32 top, int bits) {
    u32 e = field_of(top), upper = e == 255 ? 0x7ff80000u : (e + 1023 - 125 - bits) << 20;
    return __longlong_as_double((i64)((u64)upper << 32));
}

/* As element() of digits.cuh where |total| < 2^53, by two exact products and one rounding. This chip has f64 at half the rate of f32. */
__device__ __forceinline__ float rounded(i64 total, double scale_a, double scale_b) {
    float x = __double2float_rn(__dmul_rn(__dmul_rn(__ll2double_rn(total), scale_a), scale_b));
    return x == x ? x : __uint_as_float(NAN_BITS);
}
