/* Exact matrix products on tensor cores: int8 (or bf16 or fp8) digits, int32 sums in registers, recombined and rounded once where they are.
 *
 * A block of threads makes TM x TN elements of C from packed operands (pack.cu), a warp WM x WN of them. KW bytes of k of all planes
 * are one stage; STAGES of them are on their way or in use (cp.async). All sums of a tile stay in registers until its last k: they
 * travel through memory once, as C. Where one block would sum over more elements of k than an int32 takes, or too few blocks would be
 * busy, k is split: parts add their int64 totals up in memory, in any order, and `finish` rounds them.
 *
 * The sums of bf16 and fp8 are an f32 first, which is emptied into the int32 before its products of digits could pass 2^HOLDS.
 *
 * The checksum of every column: check.cu.
 */

#define WARP ((int)(threadIdx.x >> 5))
#define WARPS_M (TM / WM)
#define WARPS_N (TN / WN)
#define THREADS (WARPS_M * WARPS_N * 32)
#define MI (WM / 16)
#define NI (WN / 8)
#define CHUNKS (KW / 16)
#define STAGE (PLANES * (TM + TN) * KW)
#define RASTER 8 /* rows of tiles that are made together, so that what they read stays in L2 */

/* Where chunk c of a row of a stage lies, so that 8 rows' equal chunks are in different banks. */
#if KW == 128
#define SPOT(row, c) ((row) * KW + (((c) ^ ((row) & 7)) << 4))
#else
#define SPOT(row, c) ((row) * KW + (((c) ^ ((row) >> 1 & 3)) << 4))
#endif

/* Starts to fetch stage `step` of both operands, from their first lanes on. */
__device__ __forceinline__ void fetch(char *stage, const i8 *a, const i8 *b, i64 plane_a, i64 plane_b, i64 padded_a, i64 padded_b, i64 step) {
    i64 block = step / (ROW / KW);
    int first = (int)(step % (ROW / KW)) * CHUNKS;
    #pragma unroll
    for (int z = 0; z < PLANES; z++) {
        #pragma unroll
        for (int i = threadIdx.x; i < (TM + TN) * CHUNKS; i += THREADS) {
            int row = i / CHUNKS, c = i % CHUNKS, lane = row < TM ? row : row - TM; /* both operands' first lanes are multiples of 8 */
            const i8 *from = row < TM ? a + z * plane_a + (block * padded_a + lane) * ROW : b + z * plane_b + (block * padded_b + lane) * ROW;
            async_copy(stage + z * (TM + TN) * KW + SPOT(row, c), from + ((first + c) ^ (lane & 7)) * 16);
        }
    }
}

__device__ __forceinline__ void load_a(u32 a[MI][4], const char *plane, int row, int k) {
    #pragma unroll
    for (int i = 0; i < MI; i++) {
        int at = row + i * 16 + (LANE & 15);
        ldmatrix(a[i], plane + SPOT(at, k * 2 + (LANE >> 4)));
    }
}

__device__ __forceinline__ void load_b(u32 b[NI][2], const char *plane, int row, int k) {
    #pragma unroll
    for (int i = 0; i < NI; i += 2) {
        int at = row + i * 8 + (LANE & 7) + (LANE >> 4) * 8;
        u32 r[4];
        ldmatrix(r, plane + SPOT(at, k * 2 + (LANE >> 3 & 1)));
        b[i][0] = r[0], b[i][1] = r[1], b[i + 1][0] = r[2], b[i + 1][1] = r[3];
    }
}

#if BF16 || FP8
#define IN_FLOATS 1
typedef float partial; /* whole numbers up to 2^HOLDS, at most 2^22 */
#if FP8
#define mma mma_e4m3
#else
#define mma mma_bf16
#endif
#define FOLD ((1 << HOLDS) / TERM / (KW / ITEM)) /* stages whose sums a partial holds; 0 where that is less than one, */
#define EACH ((1 << HOLDS) / (PAIR * (32 / ITEM))) /* and then instructions */
#if EACH < 1 || HOLDS > 22
#error "what HOLDS says is not what a partial takes"
#endif

/* Adds up what whole numbers of at most 2^22 in f32 are: their last bits once 1.5 * 2^23 is added. */
__device__ __forceinline__ void fold(i32 (*sums)[NI][4], partial (*partials)[NI][4]) {
    #pragma unroll
    for (int i = 0; i < MI * NI * 4; i++) {
        float &one = partials[i / (NI * 4)][i / 4 % NI][i % 4];
        sums[i / (NI * 4)][i / 4 % NI][i % 4] += (i32)(__float_as_uint(__fadd_rn(one, 12582912.0f)) - 0x4b400000u);
        one = 0.0f;
    }
}
#else
#define IN_FLOATS 0
typedef i32 partial;
#define mma mma_s8
#endif

__device__ __forceinline__ void multiply(partial (*sums)[NI][4], u32 a[MI][4], u32 b[NI][2]) {
    #pragma unroll
    for (int i = 0; i < MI; i++) {
        #pragma unroll
        for (int j = 0; j < NI; j++) mma(sums[i][j], a[i], b[j]);
    }
}

/* Empties a partial that has as many instructions' products as it holds. count[s]: how many; known when this is compiled. */
#if IN_FLOATS && FOLD == 0
#define MAKE_ROOM(s) if (count[s]++ == EACH) { fold(sums[s], partials[s]); count[s] = 1; }
#else
#define MAKE_ROOM(s)
#endif

/* The stage's products of digits, into `partials` (which with int8 are the sums). */
__device__ __forceinline__ void multiply_stage(i32 (*sums)[MI][NI][4], partial (*partials)[MI][NI][4], const char *stage, int row, int column) {
#if IN_FLOATS && FOLD == 0
    int count[SUMS];
    #pragma unroll
    for (int s = 0; s < SUMS; s++) count[s] = 0;
#endif
    #pragma unroll
    for (int k = 0; k < KW / 32; k++) {
        u32 a[MI][4];
#if KARATSUBA
        u32 b[NI][2];
        #pragma unroll
        for (int z = 0; z < PLANES; z++) {
            load_a(a, stage + z * (TM + TN) * KW, row, k);
            load_b(b, stage + z * (TM + TN) * KW, TM + column, k);
            MAKE_ROOM(z)
            multiply(partials[z], a, b);
        }
#else
        u32 b[PLANES][NI][2];
        #pragma unroll
        for (int z = 0; z < PLANES; z++) load_b(b[z], stage + z * (TM + TN) * KW, TM + column, k);
        #pragma unroll
        for (int z = 0; z < PLANES; z++) {
            load_a(a, stage + z * (TM + TN) * KW, row, k);
            #pragma unroll
            for (int y = 0; y < PLANES; y++) {
                MAKE_ROOM(z + y)
                multiply(partials[z + y], a, b[y]);
            }
        }
#endif
    }
}

/* blockIdx.x: product and tile; blockIdx.y: part of k, `run` stages each. step_a, step_b: 1, or 0 where all products share an operand.
 * One part: C (plus `more`, an array as C or null) and `columns` [product][padded_b] are written. Several: `totals` [product][m][n] are added to. */
KERNEL __launch_bounds__(THREADS) gemm(const i8 *a, const i8 *b, const u32 *top_a, const u32 *top_b, i64 bits, i64 step_a, i64 step_b,
                                       i64 m, i64 n, i64 k, i64 padded_a, i64 padded_b, i64 run, float *c, u64 *totals, u64 *columns,
                                       const float *more) {
    ASSAY_SHARED(char, stages);
    i64 tiles_m = (m + TM - 1) / TM, tiles_n = (n + TN - 1) / TN, blocks = (k + ROW - 1) / ROW * ITEM, steps = (k * ITEM + KW - 1) / KW;
    i64 product = blockIdx.x / (tiles_m * tiles_n), tile = blockIdx.x % (tiles_m * tiles_n), band = tile / (RASTER * tiles_n);
    i64 height = tiles_m - band * RASTER < RASTER ? tiles_m - band * RASTER : RASTER, within = tile - band * RASTER * tiles_n;
    i64 row = (band * RASTER + within % height) * TM, column = within / height * TN;
    i64 from = blockIdx.y * run, to = from + run < steps ? from + run : steps, plane_a = blocks * padded_a * ROW, plane_b = blocks * padded_b * ROW;
    if (from >= to) return; /* a part without work, which says that sums go through memory */
    int of_m = WARP / WARPS_N * WM, of_n = WARP % WARPS_N * WN;
    i32 sums[SUMS][MI][NI][4];
    #pragma unroll
    for (int s = 0; s < SUMS; s++) {
        #pragma unroll
        for (int i = 0; i < MI * NI * 4; i++) sums[s][i / (NI * 4)][i / 4 % NI][i % 4] = 0;
    }
#if IN_FLOATS
    partial partials[SUMS][MI][NI][4];
#pragma unroll
    for (int s = 0; s < SUMS; s++) {
#pragma unroll
        for (int i = 0; i < MI * NI * 4; i++) partials[s][i / (NI * 4)][i / 4 % NI][i % 4] = 0.0f;
    }
#else
#define partials sums
#endif
    a += product * step_a * PLANES * plane_a + row * ROW;
    b += product * step_b * PLANES * plane_b + column * ROW;
    for (int s = 0; s < STAGES - 1; s++) {
        if (from + s < to) fetch(stages + s * STAGE, a, b, plane_a, plane_b, padded_a, padded_b, from + s);
        async_commit();
    }
    int stage = 0;
    for (i64 step = from; step < to; step++) {
        async_wait<STAGES - 2>();
        __syncthreads(); /* the stage is there for all, and the one before it is done with */
        int next = stage == 0 ? STAGES - 1 : stage - 1;
        if (step + STAGES - 1 < to) fetch(stages + next * STAGE, a, b, plane_a, plane_b, padded_a, padded_b, step + STAGES - 1);
        async_commit();
        multiply_stage(sums, partials, stages + stage * STAGE, of_m, of_n);
#if IN_FLOATS
#if FOLD > 0
        if ((int)(step - from) % FOLD == FOLD - 1 || step + 1 == to)
#endif
        {
#pragma unroll
            for (int s = 0; s < SUMS; s++) fold(sums[s], partials[s]);
        }
#endif
        stage = stage == STAGES - 1 ? 0 : stage + 1;
    }
    top_a += product * step_a * m;
    top_b += product * step_b * n;
    int split = gridDim.y > 1;
    #pragma unroll
    for (int j = 0; j < NI; j++) {
        u64 column_sums[2] = {0, 0};
        i64 y = column + of_n + j * 8 + LANE % 4 * 2;
        u32 tb[2] = {y < n ? top_b[y] : 0u, y + 1 < n ? top_b[y + 1] : 0u};
        #pragma unroll
        for (int i = 0; i < MI * 2; i++) {
            i64 x = row + of_m + i * 8 + LANE / 4;
            u32 ta = x < m ? top_a[x] : 0u;
            #pragma unroll
            for (int e = 0; e < 2; e++) {
                i32 s[SUMS];
                #pragma unroll
                for (int z = 0; z < SUMS; z++) s[z] = sums[z][i / 2][j][i % 2 * 2 + e];
                i64 total = recombined(s);
                column_sums[e] += (u64)total;
                if (x < m && y + e < n) {
                    i64 at = (product * m + x) * n + y + e;
                    if (split) atomicAdd(&totals[at], (u64)total);
                    else c[at] = plus(element(total, ta, tb[e], (int)bits), ADDS ? more : nullptr, at);
                }
            }
        }
        if (split) continue;
        #pragma unroll
        for (int e = 0; e < 2; e++) {
            for (int step = 4; step < 32; step *= 2) column_sums[e] += __shfl_xor_sync(ALL_LANES, column_sums[e], step);
            if (LANE < 4) atomicAdd(&columns[product * padded_b + y + e], column_sums[e]);
        }
    }
}
