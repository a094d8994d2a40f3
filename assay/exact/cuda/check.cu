/* What is done about the totals of a product where they went through memory, and the checksum of every product.
 *
 * Checksum (Huang and Abraham 1984), modulo 2^64: sum_i C_ij + sum_k qb_kj = sum_k (s_k + 1) qb_kj for every column, s_k = sum_i qa_ik, where
 * the left side's C is the int64 total that is rounded, its other sum and s come from the registers that packed (pack.cu), and the right
 * side's qb is read from memory anew (expected). With Karatsuba's planes the same holds for each plane's product and so for the weighted sum that C is.
 */
#define TALL 64

/* The totals of products, in whichever form they lie in memory: int64 (`finish`), or one int32 for each sum of products of digits, with
 * lanes that are padded (`combine`). */
struct whole_totals { const u64 *totals; i64 m, n; };
struct apart_totals { const i32 *sums; i64 products, padded_a, padded_b; };

__device__ __forceinline__ i64 total_of(const whole_totals &t, i64 product, i64 x, i64 y) { return (i64)t.totals[(product * t.m + x) * t.n + y]; }
__device__ __forceinline__ i64 total_of(const apart_totals &t, i64 product, i64 x, i64 y) {
    i32 s[SUMS];
#pragma unroll
    for (int z = 0; z < SUMS; z++) s[z] = t.sums[((z * t.products + product) * t.padded_a + x) * t.padded_b + y];
    return recombined(s);
}

/* Rounds totals, adds `more` (an array as C, or null), and sums their columns. A block of 32 x 8 threads takes 32 columns of TALL rows. */
template <class T>
__device__ __forceinline__ void round_all(const T &totals, const u32 *top_a, const u32 *top_b, int bits, i64 step_a, i64 step_b, i64 m, i64 n,
                                          i64 padded_b, float *c, u64 *columns, const float *more, u64 (*part)[32]) {
    i64 wide = (n + 31) / 32, high = (m + TALL - 1) / TALL, product = blockIdx.x / (wide * high);
    i64 first = blockIdx.x / wide % high * TALL, y = blockIdx.x % wide * 32 + (threadIdx.x & 31);
    int ty = (int)threadIdx.x >> 5;
    u64 sum = 0;
    if (y < n) for (i64 x = first + ty; x < first + TALL && x < m; x += 8) {
        i64 total = total_of(totals, product, x, y);
        sum += (u64)total;
        i64 at = (product * m + x) * n + y;
        c[at] = plus(element(total, top_a[product * step_a * m + x], top_b[product * step_b * n + y], bits), more, at);
    }
    part[ty][threadIdx.x & 31] = sum;
    __syncthreads();
    if (ty == 0 && y < n) {
        for (int i = 1; i < 8; i++) sum += part[i][threadIdx.x];
        atomicAdd(&columns[product * padded_b + y], sum);
    }
}

KERNEL finish(const u64 *totals, const u32 *top_a, const u32 *top_b, i64 bits, i64 step_a, i64 step_b, i64 m, i64 n, i64 padded_b, float *c,
              u64 *columns, const float *more) {
    __shared__ u64 part[8][32];
    whole_totals all = {totals, m, n};
    round_all(all, top_a, top_b, (int)bits, step_a, step_b, m, n, padded_b, c, columns, more, part);
}

KERNEL combine(const i32 *sums, i64 products, i64 padded_a, const u32 *top_a, const u32 *top_b, i64 bits, i64 step_a, i64 step_b, i64 m, i64 n,
               i64 padded_b, float *c, u64 *columns, const float *more) {
    __shared__ u64 part[8][32];
    apart_totals all = {sums, products, padded_a, padded_b};
    round_all(all, top_a, top_b, (int)bits, step_a, step_b, m, n, padded_b, c, columns, more, part);
}

/* Signed digits of base 2^8 of s_k + 1, enough for 2^23 rows. */
#define CHECK_DIGITS (KARATSUBA ? 4 : (BASE * PLANES + 23) / 8 + 1)
#define CHECK_LANES 64

/* wanted[product][lane] += sum over a part of k (blockIdx.y: `run` blocks of 128) of (s_k + 1) qb_k. A block of 8 warps takes 64 lanes. */
KERNEL expected(const u64 *across, const i8 *b, i64 step_a, i64 step_b, i64 blocks, i64 padded_b, i64 run, u64 *wanted) {
    __shared__ u32 words[CHECK_DIGITS][ROW / 4];
    i64 groups = padded_b / CHECK_LANES, product = blockIdx.x / groups, lane = blockIdx.x % groups * CHECK_LANES + threadIdx.x / 32 * 8;
    i64 from = blockIdx.y * run, to = from + run < blocks ? from + run : blocks;
    int tx = threadIdx.x & 31;
    u64 sums[8];
    for (int i = 0; i < 8; i++) sums[i] = 0;
    for (int z = 0; z < PLANES; z++) {
        i32 parts[8][CHECK_DIGITS];
        #pragma unroll
        for (int i = 0; i < 8 * CHECK_DIGITS; i++) parts[i / CHECK_DIGITS][i % CHECK_DIGITS] = 0;
        for (i64 block = from; block < to; block++) {
            __syncthreads();
            if (threadIdx.x < ROW) {
                i64 s = 1;
#if KARATSUBA
                s += (i64)across[((product * step_a * PLANES + z) * blocks + block) * ROW + threadIdx.x];
#else
                for (int y = 0; y < PLANES; y++) s += weight(y) * (i64)across[((product * step_a * PLANES + y) * blocks + block) * ROW + threadIdx.x];
#endif
                for (int d = 0; d < CHECK_DIGITS; d++) {
                    i64 low = ((s + 128) & 255) - 128;
                    ((i8 *)words[d])[threadIdx.x] = (i8)low;
                    s = (s - low) >> 8;
                }
            }
            __syncthreads();
            #pragma unroll
            for (int i = 0; i < 8; i++) {
                u32 four = narrowed(*(const four_digits *)(b + spot(product * step_b, PLANES, z, blocks, block, padded_b, lane + i, tx * 4)));
                #pragma unroll
                for (int d = 0; d < CHECK_DIGITS; d++) parts[i][d] = __dp4a((int)four, (int)words[d][tx], parts[i][d]);
            }
        }
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            u64 sum = 0;
            #pragma unroll
            for (int d = CHECK_DIGITS - 1; d >= 0; d--) sum = (sum << 8) + (u64)(i64)parts[i][d];
            sums[i] += (u64)weight(z) * sum;
        }
    }
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        for (int step = 16; step; step /= 2) sums[i] += __shfl_xor_sync(ALL_LANES, sums[i], step);
        if (tx == 0) atomicAdd(&wanted[product * padded_b + lane + i], sums[i]);
    }
}

/* faults[0] += columns whose checksum is wrong. `along`, `wanted`, `columns`: [product][padded_b]; step_b as above. */
__device__ __forceinline__ void compare_columns(const u64 *columns, const u64 *along, const u64 *wanted, i64 step_b, i64 padded_b, i64 products, u64 *faults) {
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < products * padded_b; i += (i64)gridDim.x * blockDim.x)
        if (columns[i] + along[i / padded_b * step_b * padded_b + i % padded_b] != wanted[i]) atomicAdd(faults, 1ull);
}

KERNEL compare(const u64 *columns, const u64 *along, const u64 *wanted, i64 step_b, i64 padded_b, i64 products, u64 *faults) {
    compare_columns(columns, along, wanted, step_b, padded_b, products, faults);
}

/* The same of several products: row blockIdx.y of the table has the arguments of one. */
KERNEL compare_all(const i64 *table, u64 *faults) {
    const i64 *row = table + blockIdx.y * 6;
    compare_columns((const u64 *)row[0], (const u64 *)row[1], (const u64 *)row[2], row[3], row[4], row[5], faults);
}
