/* The products of attention whose scores stay on the chip: into planes of f32 in shared memory, and from digits there out to memory.
 *
 * A block of 32 BR threads has BR lines (queries, or keys on the way back). product_in makes their products with all lanes of an operand that streams
 * from memory (digits of at most 128 k); Line writes a line's digits, once its largest magnitude is known; product_out multiplies these with
 * the at most 128 lanes of an operand whose k is the line's length. The same integers, scales and roundings as gemm.cu's: the same bits.
 *
 * Operands lie as tiles.py's NARROW says: rows of 64 bytes of k, and of the planes with Karatsuba h and l alone. Each is multiplied with each: tensor cores
 * are not what limits these products (docs/cuda.md), and to add up h and l, in every warp and for every unit, would take more instructions. An
 * instruction takes the block's lines as its 16 rows (with BR = 8 half of them are zero) and 8 of the streaming lanes as its columns (mma.m16n8k32).
 *
 * What streams by comes in units, of all planes, and each warp fetches its own through a ring of its own, so that no warp waits for another: in product_in 8
 * lanes by 64 of k, for which a warp has all lines in registers; in product_out 16 lanes by 32 of k. There the totals of warps that have the same lanes
 * and other k are added up in the ring when all is multiplied.
 *
 * Checksums (Huang and Abraham 1984), modulo 2^64, line by line, as check.cu's column by column:
 *     sum_j C_rj + sum_k q_rk = sum_k (S_k + 1) q_rk, S_k = sum_j qb_jk,
 * where S comes from the registers that packed B (`across`), and the left side's sum of q from the registers that packed A (`along`) or that made the
 * digits (Line), while the right side's q is the one in the shared memory that was multiplied: in product_out tensor cores multiply it with the digits of
 * S_k + 1 as if these were further lanes. With Karatsuba heads.cu's `along` counts h for 2^14.
 * Not covered: an f32 that changes in shared memory before it is made digits, as one in memory is not.
 *
 * Wants common.cuh, digits.cuh and tensor.cuh before it, with int8 digits in rows of 64 bytes.
 */
#if BF16 || FP8 || PLAIN || WIDTH != 64
#error "attention takes int8 digits in rows of 64 bytes"
#endif

#ifndef RING
#define RING 3 /* units of a warp that are on their way or in use */
#endif
#define UNIT 512           /* bytes of a unit, of a plane */
#define GROUP 64           /* lanes of one sum in `across` */
#define MOST_LANES 128     /* that product_out takes, and as many k product_in */
#define WEIGHTS (2 * OWN - 1) /* sums of products of digits of one weight: at most 2^15 a term, and less than 2^14 terms */
#define CHECKED (PLANES == 1 ? 2 : OWN + 1) /* signed digits of base 2^8 of S_k + 1, of at most 128 lanes */

/* One product's operand. `across` [groups of 64 lanes][k up to a multiple of 128] is wanted of the one that streams, `along` [padded] of the one that has the
 * lines, both as heads.cu makes them. `padded`: lanes with those that heads.cu adds, a multiple of 64. Behind the scales of the one that streams there are 7 words
 * that may be read, whatever they are. */
struct Packed {
    const i8 *digits;
    const u32 *top;
    const i32 *across;
    const u64 *along;
    i32 lanes, padded;
};

/* Which elements of its lines a block makes, begin <= e < end: begin is a multiple of 64, end one, too, or the length. What lies outside counts for zeros. */
struct Span {
    int begin, end;
};

/* Floats from a line to the next in a plane of so many: pairs that a warp writes at a time, of 8 lines and 8 lanes, lie in different banks, and the last 8 of
 * them have room. */
__device__ constexpr int pitch_of(int lanes) { return (lanes + 7) / 16 * 16 + 8; }
__device__ constexpr int rows_of(int length) { return (length + WIDTH - 1) / WIDTH; }
/* Bytes in front of digits, for each line's sum. */
template <int BR> __device__ constexpr int head_bytes() { return (8 * BR + 127) / 128 * 128; }
/* Bytes of BR lines' digits and of what checks them, and of the rings with what else a product has; both begin at a multiple of 128. */
template <int BR> __device__ constexpr int digits_bytes(int length) { return head_bytes<BR>() + rows_of(length) * WIDTH * (OWN * BR + CHECKED); }
template <int BR> __device__ constexpr int rings_bytes() { return RING * OWN * BR * UNIT; }
template <int BR> __device__ constexpr int ring_bytes() { return rings_bytes<BR>() + OWN * 2 * BR * WIDTH + 8 * MOST_LANES; }

/* What plane z counts for in q, and in heads.cu's `along`. */
__device__ __forceinline__ i64 own_weight(int z) { return (i64)1 << BASE * (OWN - 1 - z); }
__device__ __forceinline__ i64 along_weight(int z) { return KARATSUBA ? weight(z) + weight(2) : weight(z); }

/* The ring of this thread's warp, by bytes from all rings on: the unit that is used, and the one before it, which is done with. */
struct Ring { int first, now, done; };

__device__ __forceinline__ Ring ring_of_warp() {
    int first = (int)(threadIdx.x / 32) * (RING * OWN * UNIT);
    return {first, first, first + (RING - 1) * OWN * UNIT};
}
/* Waits for the unit that is used now. After that the warp may fetch one to `done`, and has to commit it, even if there is none. */
__device__ __forceinline__ void wait_for_unit() {
    async_wait<RING - 2>();
    __syncwarp(); /* all of it is there, and all have read the one before */
}
__device__ __forceinline__ Ring next_of(Ring ring) {
    return {ring.first, ring.now == ring.first + (RING - 1) * OWN * UNIT ? ring.first : ring.now + OWN * UNIT, ring.now};
}

/* Starts to fetch this thread's part of a unit in all planes, `plane` bytes apart in memory. */
__device__ __forceinline__ void fetch_unit(char *to, const i8 *from, i32 plane) {
#pragma unroll
    for (int z = 0; z < OWN; z++) async_copy(to + z * UNIT, from + z * plane);
}

/* Where a thread's row of 16 bytes is of the first 32 of 64 elements of k, from a plane of lines on; 32 ^ it is that of the others. */
template <int BR> __device__ __forceinline__ int spot_of_lines() {
    int line = LANE & (BR - 1);
    return line * WIDTH + SWIZZLED(line, LANE / BR % 2 * 16);
}

/* The first operand of an instruction: 32 elements of k of a block's lines. */
template <int BR> __device__ __forceinline__ void lines_of(u32 of_lines[4], const char *spot) {
    ldmatrix(of_lines, spot);
    if (BR == 8) of_lines[2] = of_lines[1], of_lines[1] = of_lines[3] = 0; /* the last two came twice */
}

/* Adds up 32 of k. sums[.][i]: line LANE / 4, 8 more from i = 2 on; lane LANE % 4 * 2 + i % 2. */
__device__ __forceinline__ void multiply(i32 (*sums)[4], const u32 (*of_lines)[4], const u32 (*of_lanes)[4], int half) {
#pragma unroll
    for (int z = 0; z < OWN; z++) {
#pragma unroll
        for (int y = 0; y < OWN; y++) mma_s8(sums[z + y], of_lines[z], of_lanes[y] + 2 * half);
    }
}

/* Sums begin with nothing; the first and the last with `centre`. */
__device__ __forceinline__ void cleared(i32 (*sums)[4], u32 centre) {
#pragma unroll
    for (int i = 0; i < WEIGHTS * 4; i++) sums[i / 4][i % 4] = i / 4 == 0 || i / 4 == WEIGHTS - 1 ? (i32)centre : 0;
}

#if OWN == 1
typedef i32 Total; /* at most 2^13 127^2 */
typedef int2 TwoTotals;
#else
typedef i64 Total;
typedef longlong2 TwoTotals;
#endif
__device__ __forceinline__ Total total_of_sums(i32 (*sums)[4], int i) {
    Total total = sums[0][i];
#pragma unroll
    for (int w = 1; w < WEIGHTS; w++) total = total * (1 << BASE) + sums[w][i];
    return total;
}

#if NARROWED
#define LOW (2 * BASE)
/* A total of at most 128 k, hi 2^LOW + lo, as CENTRED + hi and CENTRED + lo (digits.cuh). Sums begin with CENTRED for that. Sums of one plane
 * are of at most 2^7 127^2 in size; of two, where one digit has at most 7 bits, of 2^7 2^14: so |hi| and |lo| are less than 2^22. */
__device__ __forceinline__ void pair_of_sums(i32 (*sums)[4], int i, u32 *hi, u32 *lo) {
#if OWN == 1
    *hi = CENTRED, *lo = (u32)sums[0][i];
#else
    *hi = (u32)(sums[0][i] + (sums[1][i] >> BASE));
    i32 low = sums[1][i] & (2 * HALF - 1);
    as_it_is(low); /* else it is shifted and cut, and then added */
    *lo = (u32)(low * (1 << BASE) + sums[2][i]);
#endif
}
#endif

__device__ __forceinline__ u64 summed_by_warp(u64 v) {
    for (int by = 16; by; by /= 2) v += __shfl_xor_sync(ALL_LANES, v, by);
    return v;
}

/* What is wrong with the checksum of this warp's line, modulo 2^64: each thread has a part of it. `wrong` may have several products', of which each counts for
 * another odd multiple. */
__device__ __forceinline__ void add_to_wrong(u64 &wrong, u64 more) { wrong = wrong * 0x9e3779b97f4a7c15ull + more; }
__device__ __forceinline__ void add_to_faults(u64 *faults, u64 wrong) {
    wrong = summed_by_warp(wrong);
    if (LANE == 0 && wrong) atomicAdd(faults, 1ull);
}

/* *to += x, of all threads at once. */
__device__ __forceinline__ void summed_to(i32 *to, i32 x) { atomicAdd(to, x); }
__device__ __forceinline__ void summed_to(i64 *to, i64 x) { atomicAdd((u64 *)to, (u64)x); }

/* Whether no product of A's lanes first .. first + BR - 1 and B's lanes outside a span, of at most 128 k, is more than 2^59, nor infinite, nor NaN. A
 * thread's part of it. */
template <int BR> __device__ __forceinline__ bool bounded(const Packed &a, i32 first, const Packed &b, Span span) {
    u32 most = threadIdx.x < BR && first + threadIdx.x < a.lanes ? a.top[first + threadIdx.x] : 0u;
    int size = span.end - span.begin;
#pragma unroll 1
    for (int j = (int)threadIdx.x; j < b.lanes - size; j += 32 * BR) most = max(most, b.top[j < span.begin ? j : j + size]);
    return field_of(most) < 127 + 26; /* |x| < 2^26, as integers are, too */
}

#if NARROWED
typedef i32 Across; /* a sum of at most 2^13 integers of 15 bits */
#else
typedef i64 Across;
#endif

/* plane[r * pitch + j] = element of A's lane first + r and B's lane j, for r < BR and j of the span; of lines beyond a.lanes it is some number. first is a
 * multiple of BR, 64 (TURNS - 1) < k <= 64 TURNS. All threads; ends with a barrier. */
template <int BR, int TURNS> __device__ __forceinline__ void product_in(float *plane, int pitch, const Packed &a, i32 first, const Packed &b, i64 k, Span span,
                                                                        int bits, char *rings, u64 &wrong) {
    const int of_lines = TURNS * BR * WIDTH, width = TURNS * WIDTH; /* bytes of a plane of lines; k */
    char *lines = rings + rings_bytes<BR>();
    Across *across = (Across *)(lines + OWN * of_lines);
    int warp = (int)threadIdx.x >> 5, lanes = span.end, depth = ((int)k + ROW - 1) / ROW * ROW;
    const int pieces = BR * (WIDTH / 16); /* of 16 bytes that a plane of lines has of 64 of k */
    if (int i = (int)threadIdx.x; i < TURNS * pieces) {
        const i8 *from = a.digits + ((i64)(i / pieces) * a.padded + first) * WIDTH + i % pieces * 16;
#pragma unroll
        for (int z = 0; z < OWN; z++) async_copy(lines + z * of_lines + i * 16, from + (i64)z * depth * a.padded);
    }
    async_commit();
    Ring ring = ring_of_warp();
    int ahead = span.begin + warp * 8, later = 0; /* what is fetched next: a lane, and whether its second 64 of k */
    i32 plane_b = depth * b.padded, row_b = b.padded * WIDTH;
    as_it_is(plane_b), as_it_is(row_b);
    const i8 *from = b.digits + ahead * WIDTH + LANE * 16;
    auto fetch = [&](int to) {
        if (ahead < lanes) fetch_unit(rings + to + LANE * 16, TURNS == 2 && later ? from + row_b : from, plane_b);
        async_commit();
        if (TURNS == 1 || later) ahead += 8 * BR, from += 8 * BR * WIDTH;
        later ^= 1;
    };
    for (int s = 0; s < RING - 1; s++) fetch(ring.first + s * OWN * UNIT);
    if ((int)threadIdx.x < width) across[threadIdx.x] = 0;
    async_wait<RING - 1>();
    __syncthreads(); /* lines are there for all */
#pragma unroll 1
    for (int i = span.begin / GROUP * width + (int)threadIdx.x; i < (lanes + GROUP - 1) / GROUP * width; i += 32 * BR)
        summed_to(&across[i % width], b.across[i / width * depth + i % width]);
    auto block_at = [&](u32 (*of_block)[4], int half) { /* all lines at 32 of k */
#pragma unroll
        for (int z = 0; z < OWN; z++) lines_of<BR>(of_block[z], lines + z * of_lines + half / 2 * BR * WIDTH + (spot_of_lines<BR>() ^ half % 2 * 32));
    };
    const bool HOLDS = OWN * TURNS <= 4; /* else there are too few registers */
    u32 held[2 * TURNS][OWN][4];
#pragma unroll
    for (int half = 0; half < 2 * TURNS; half++) if (HOLDS) block_at(held[half], half);
    const int own = BR / 8; /* of a thread's two lines in fragments that there are */
    int line = LANE / 4, row = LANE & 7, spot = row * WIDTH + SWIZZLED(row, LANE / 8 * 16);
    as_it_is(spot);
    i32 sums[WEIGHTS][4];
    auto top_of = [&](int line) { return first + line < a.lanes ? a.top[first + line] : 0u; };
#if NARROWED
    float scale_a[own];
    bool lines_usual = true;
#pragma unroll
    for (int i = 0; i < own; i++) {
        u32 top_a = top_of(line + 8 * i);
        if (!top_a) top_a = ONE; /* all is zero, whatever the scale */
        scale_a[i] = usual_a(top_a, bits), lines_usual = lines_usual && usual(top_a, top_a);
    }
    u32 highs[own] = {}, lows[own] = {}, count = 0; /* of a line's at most 256 totals here */
#else
    u64 here[own] = {};
#endif
    int lane = span.begin + warp * 8;
    const u32 *top = b.top + lane + LANE % 4 * 2;
    float *to = plane + line * pitch + lane + LANE % 4 * 2;
    for (; lane < lanes; lane += 8 * BR, top += 8 * BR, to += 8 * BR) {
        u32 top_b[2] = {top[0], top[1]};
        cleared(sums, NARROWED ? CENTRED : 0);
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++) {
            u32 of_lanes[OWN][4];
            wait_for_unit();
            fetch(ring.done);
#pragma unroll
            for (int z = 0; z < OWN; z++) ldmatrix(of_lanes[z], rings + ring.now + z * UNIT + spot);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                if (!HOLDS) block_at(held[2 * turn + half], 2 * turn + half);
                multiply(sums, held[2 * turn + half], of_lanes, half);
            }
            ring = next_of(ring);
        }
        float x[2 * own]; /* of lanes that are padded, too: the plane has room for them */
#if NARROWED
#pragma unroll
        for (int i = 0; i < 2 * own; i++) {
            u32 hi, lo;
            pair_of_sums(sums, i, &hi, &lo);
            highs[i / 2] += hi, lows[i / 2] += lo;
            x[i] = usual_element<LOW>(hi, lo, scale_a[i / 2], usual_b(top_b[i % 2]));
        }
        count += 2;
        if (!lines_usual || !usual(top_b[0], top_b[1])) {
#pragma unroll 1
            for (int i = 0; i < 2 * own; i++) { /* one by one, since they are few */
                i64 total = OWN > 1 ? -((i64)CENTRED * ((1 << LOW) + 1)) : -(i64)CENTRED;
#pragma unroll
                for (int j = 0; j < 2 * own; j++) if (i == j) total += total_of_sums(sums, j);
                float one = element(total, top_of(line + i / 2 * 8), i % 2 ? top_b[1] : top_b[0], bits);
#pragma unroll
                for (int j = 0; j < 2 * own; j++) if (i == j) x[j] = one;
            }
        }
#else
#pragma unroll
        for (int i = 0; i < 2 * own; i++) {
            i64 total = total_of_sums(sums, i);
            here[i / 2] += (u64)total;
            x[i] = element(total, top_of(line + i / 2 * 8), top_b[i % 2], bits);
        }
#endif
#pragma unroll
        for (int i = 0; i < own; i++) *(float2 *)(to + 8 * i * pitch) = make_float2(x[2 * i], x[2 * i + 1]);
    }
    u64 *found = (u64 *)(rings + ring.first); /* of each line, what this warp has of it; its last unit was read by all lanes at once */
#pragma unroll
    for (int i = 0; i < own; i++) {
#if NARROWED
        u64 sum = (u64)((i64)(i32)(highs[i] - count * CENTRED) * (1 << LOW) + (i32)(lows[i] - count * CENTRED));
#else
        u64 sum = here[i];
#endif
        for (int by = 1; by < 4; by *= 2) sum += __shfl_xor_sync(ALL_LANES, sum, by);
        if (LANE % 4 == 0) found[line + 8 * i] = sum;
    }
    __syncthreads();
    u64 more = LANE < BR ? ((const u64 *)(rings + LANE * (RING * OWN * UNIT)))[warp] : LANE == 31 ? a.along[first + warp] : 0;
#pragma unroll
    for (int i = LANE; i < width; i += 32) {
        const i8 *at = (const i8 *)lines + (i / WIDTH * BR + warp) * WIDTH + SWIZZLED(warp, i % WIDTH);
        i32 q = 0, left = 0; /* as it counts on the right side, and in `along` */
#pragma unroll
        for (int z = 0; z < OWN; z++) q += at[z * of_lines] * (i32)own_weight(z), left += at[z * of_lines] * (i32)along_weight(z);
        more -= (u64)((i64)q * across[i] + left);
    }
    add_to_wrong(wrong, more);
    __syncthreads();
}
