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
 * Eight warps multiply, whether a block has 16 or 8; the others see to what checks that. So what a warp has once a product is there eight times. What streams
 * by comes in units, of all planes, and each warp fetches its own through a ring of its own, so that no warp waits for another: 16 lanes by 64 of k (with
 * BR = 8, which is for little memory, 8 lanes by 64 in product_in and 16 by 32 in product_out). In product_in a warp has all lines in registers. In
 * product_out the totals of warps that have the same lanes and other k are added up in the ring when all is multiplied.
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
#define UNIT 512           /* bytes of half a unit, of a plane; with BR = 8, of a unit */
#define MULTIPLY 8         /* warps that multiply */
#define GROUP 64           /* lanes of one sum in `across` */
#define MOST_LANES 128     /* that product_out takes, and as many k product_in */
#define WEIGHTS (2 * OWN - 1) /* sums of products of digits of one weight: at most 2^15 a term, and less than 2^14 terms */
#define CHECKED (PLANES == 1 ? 2 : OWN + 1) /* signed digits of base 2^8 of S_k + 1, of at most 128 lanes */

/* One product's operand, as heads.cu makes it: `across` [groups of 64 lanes][k up to a multiple of 128] is wanted of the one that product_in streams, `checked`
 * [digit][k likewise] of the one that product_out streams, `along` [padded] of the one that has the lines. `padded`: lanes with those that heads.cu
 * adds, a multiple of 64; their scales are 0. */
struct Packed {
    const i8 *digits;
    const u32 *top;
    const i32 *across;
    const u64 *along;
    const i8 *checked;
    i32 lanes, padded;
};

/* Which elements of its lines a block makes, begin <= e < end: begin is a multiple of 64, end one, too, or the length. What lies outside counts for zeros. */
struct Span {
    int begin, end;
};

/* Floats from a line to the next in a plane of so many: pairs that a warp writes at a time, of 8 lines and 8 lanes, lie in different banks, and the last unit of
 * them has room. */
template <int BR> __device__ constexpr int pitch_of(int lanes) { return (lanes + BR - 1) / 16 * 16 + 8; }
__device__ constexpr int rows_of(int length) { return (int)((u32)(length + WIDTH - 1) / WIDTH); }
/* Bytes in front of digits, for each line's sum. */
template <int BR> __device__ constexpr int head_bytes() { return (8 * BR + 127) / 128 * 128; }
/* Bytes of BR lines' digits, and of the rings with what else a product has; both begin at a multiple of 128. */
template <int BR> __device__ constexpr int digits_bytes(int length) { return head_bytes<BR>() + rows_of(length) * WIDTH * (OWN * BR); }
template <int BR> __device__ constexpr int rings_bytes() { return RING * OWN * BR * UNIT; }
template <int BR> __device__ constexpr int ring_bytes() { return rings_bytes<BR>() + OWN * 2 * BR * WIDTH + 8 * MOST_LANES; }

/* What plane z counts for in q. */
__device__ __forceinline__ i64 own_weight(int z) { return (i64)1 << BASE * (OWN - 1 - z); }

/* The ring of this thread's warp, by bytes from all rings on: the unit that is used, and the one before it, which is done with. */
struct Ring { int first, now, done; };

template <int BR> __device__ constexpr int unit_bytes() { return OWN * BR / 8 * UNIT; }
template <int BR> __device__ __forceinline__ Ring ring_of_warp() {
    int first = (int)(threadIdx.x / 32) * (RING * unit_bytes<BR>());
    return {first, first, first + (RING - 1) * unit_bytes<BR>()};
}
template <int BR> __device__ __forceinline__ Ring next_of(Ring ring) {
    return {ring.first, ring.now == ring.first + (RING - 1) * unit_bytes<BR>() ? ring.first : ring.now + unit_bytes<BR>(), ring.now};
}
/* Waits for the unit that is used now. After that the warp may fetch one to `done`, and has to commit it, even if there is none. */
__device__ __forceinline__ void wait_for_unit() {
    async_wait<RING - 2>();
    __syncwarp(); /* all of it is there, and all have read the one before */
}

/* Starts to fetch this thread's part of a unit in all planes, `plane` bytes apart in memory. */
template <int BR> __device__ __forceinline__ void fetch_unit(char *to, const i8 *from, i32 plane) {
#pragma unroll
    for (int z = 0; z < OWN; z++) {
#pragma unroll
        for (int n = 0; n < BR / 8; n++) async_copy(to + (z * (BR / 8) + n) * UNIT, from + z * plane + n * UNIT);
    }
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

/* `count` times four sums begin with nothing. */
template <int COUNT> __device__ __forceinline__ void cleared(i32 (*sums)[4]) {
#pragma unroll
    for (int i = 0; i < COUNT * 4; i++) sums[i / 4][i % 4] = 0;
}

#if OWN == 1
typedef i32 Total; /* at most 2^13 127^2 */
#else
typedef i64 Total;
#endif
__device__ __forceinline__ Total total_of_sums(i32 (*sums)[4], int i) {
    Total total = sums[0][i];
#pragma unroll
    for (int w = 1; w < WEIGHTS; w++) total = total * (1 << BASE) + sums[w][i];
    return total;
}

#if NARROWED
#define LOW (2 * BASE)
/* A total of at most 128 k, hi 2^LOW + lo, as `centre` + hi and `centre` + lo. Sums of one plane are of at most 2^7 127^2 in size; of two, where one digit has at
 * most 7 bits, of 2^7 2^14: so |hi| and |lo| are less than 2^22. The first and the last sums begin with `centre`, the bits of 1.5 2^23 times the power of
 * two of the line's magnitude (`usual_a` of digits.cuh): n more are those of n times that power more, so lines are scaled for nothing. */
__device__ __forceinline__ u32 centre_of(u32 top, int bits) { return CENTRED + (top & 0x7f800000u) - ((u32)(2 * bits + 123) << 23); }
__device__ __forceinline__ void centred(i32 (*sums)[4], int i, u32 centre) { sums[0][i] = sums[WEIGHTS - 1][i] = (i32)centre; }
__device__ __forceinline__ void pair_of_sums(i32 (*sums)[4], int i, u32 centre, u32 *hi, u32 *lo) {
#if OWN == 1
    *hi = centre, *lo = (u32)sums[0][i];
#else
    *hi = (u32)(sums[0][i] + (sums[1][i] >> BASE));
    i32 low = sums[1][i] & (2 * HALF - 1);
    as_it_is(low); /* else it is shifted and cut, and then added */
    *lo = (u32)(low * (1 << BASE) + sums[2][i]);
#endif
}
/* Their total times that power of two, rounded once, as digits.cuh's `joined`; less: -(1.5 2^23 + 1.5 2^(23 - LOW)) times that power. */
__device__ __forceinline__ float less_of(u32 centre) { return __uint_as_float(~ABS_BITS | (centre + (3u << (22 - LOW)))); }
__device__ __forceinline__ float joined_pair(u32 hi, u32 lo, float less) {
    return fused(__fadd_rn(__uint_as_float(hi), less), (float)(1 << LOW), __uint_as_float(lo));
}
#endif

__device__ __forceinline__ u64 summed_by_warp(u64 v) {
    u32 low = (u32)v & 0x3fffffu, middle = (u32)(v >> 22) & 0x3fffffu, high = (u32)(v >> 44); /* of at most 22 bits: their sums fit an u32 */
    return __reduce_add_sync(ALL_LANES, low) + ((u64)__reduce_add_sync(ALL_LANES, middle) << 22) + ((u64)__reduce_add_sync(ALL_LANES, high) << 44);
}

/* Checksums, modulo 2^64. What is wrong with a line counts for an odd multiple of its own, and a product's lines together for another one than those of the next
 * product: so `wrong` is one word a thread, of whatever lines it had a part of, and all threads' together are 0. The multiples are drawn (splitmix64 of 1 to 16),
 * so that what is wrong with several lines in the same way does not add up to nothing. */
__constant__ u64 MULTIPLES[16] = {
    0xe220a8397b1dcdafull, 0x6e789e6aa1b965f5ull, 0x06c45d188009454full, 0xf88bb8a8724c81edull, 0x1b39896a51a8749bull, 0x53cb9f0c747ea2ebull,
    0x2c829abe1f4532e1ull, 0xc584133ac916ab3dull, 0x3ee5789041c98ac3ull, 0xf3b8488c368cb0a7ull, 0x657eecdd3cb13d09ull, 0xc2d326e0055bdef7ull,
    0x8621a03fe0bbdb7bull, 0x8e1f7555983aa92full, 0xb54e0f1600cc4d19ull, 0x84bb3f97971d80abull};
__device__ __forceinline__ u64 of_line(int line, u64 what) { return MULTIPLES[line] * what; }
__device__ __forceinline__ void add_to_wrong(u64 &wrong, u64 more) { wrong = wrong * 0x9e3779b97f4a7c15ull + more; }
/* Counts a block of BR warps if anything is wrong. All threads, when nothing in `rings` is wanted any more; only the first warp may write there before its end. */
template <int BR> __device__ __forceinline__ void add_to_faults(u64 *faults, u64 wrong, char *rings) {
    u64 *of_warps = (u64 *)rings;
    wrong = summed_by_warp(wrong);
    if (LANE == 0) of_warps[threadIdx.x / 32] = wrong;
    __syncthreads();
    if (threadIdx.x < 32) {
        wrong = summed_by_warp(LANE < BR ? of_warps[LANE] : 0);
        if (LANE == 0 && wrong) atomicAdd(faults, 1ull);
    }
}

/* Whether no product of A's lanes first .. first + BR - 1 and B's lanes outside a span, of at most 128 k, is more than 2^59, nor infinite, nor NaN. A
 * thread's part of it. */
template <int BR> __device__ __forceinline__ bool bounded(const Packed &a, i32 first, const Packed &b, Span span) {
    const u32 from_last = 32u * BR - 1u - threadIdx.x; /* so that warps which do not multiply look */
    u32 most = from_last < BR ? a.top[first + (i32)from_last] : 0u;
#pragma unroll 1
    for (int j = 4 * (int)from_last; j < b.lanes; j += 4 * 32 * BR) {
        if (j >= span.begin && j < span.end) continue;
        uint4 four = *(const uint4 *)(b.top + j);
        most = max(max(most, max(four.x, four.y)), max(four.z, four.w));
    }
    return field_of(most) < 127 + 26; /* |x| < 2^26, as integers are, too */
}

#if NARROWED
typedef i32 Across; /* a sum of at most 2^13 integers of 15 bits */
#define SPANNED 4 /* signed digits of base 2^8 of such a sum */
#else
typedef i64 Across;
#define SPANNED 5
#endif

/* Signed digits of base 2^8, the lowest one first, `apart` bytes from each other. */
template <int DIGITS, class T> __device__ __forceinline__ void put_signed(char *to, int apart, T s) {
#pragma unroll
    for (int d = 0; d < DIGITS; d++) {
        i32 low = (((i32)s + 128) & 255) - 128;
        to[d * apart] = (char)low;
        s = (s - low) >> 8;
    }
}

/* What lines count for on the right side: sums[z][i] are those of digits of plane z with the digits LANE % 4 * 2 + i % 2 of S_k + 1, of lines LANE / 4 and 8 more. */
template <int BR> __device__ __forceinline__ u64 right_side(const i32 (*sums)[4]) {
    u64 all = 0;
#pragma unroll
    for (int i = 0; i < BR / 8; i++) {
        u64 sum = 0;
#pragma unroll
        for (int z = 0; z < OWN; z++) {
#pragma unroll
            for (int j = 0; j < 2; j++) sum += (u64)((i64)sums[z][2 * i + j] * own_weight(z)) << 8 * j;
        }
        all += of_line(LANE / 4 + 8 * i, sum << LANE % 4 * 16);
    }
    return all;
}

/* Lanes that all warps make at a time in product_in. */
template <int BR> __device__ constexpr int lanes_at_a_time() { return BR * MULTIPLY; }

/* What a warp fetches next of those lanes < end of B: one, where it begins, and whether its second 64 of k. */
struct Coming {
    int lane, end, later;
    const i8 *from;
    i32 plane, row; /* bytes from a plane to the next, and from 64 of k */
};
template <int BR, int TURNS> __device__ __forceinline__ void fetch_next(Coming &coming, char *rings, int to) {
    const int step = lanes_at_a_time<BR>();
    if (coming.lane < coming.end) fetch_unit<BR>(rings + to + LANE * 16, TURNS == 2 && coming.later ? coming.from + coming.row : coming.from, coming.plane);
    async_commit();
    if (TURNS == 1 || coming.later) coming.lane += step, coming.from += step * WIDTH;
    coming.later ^= 1;
}
template <int BR, int TURNS> __device__ __forceinline__ Coming first_fetched(const Packed &b, int depth, int lane, int end, char *rings) {
    Coming coming = {lane, end, 0, b.digits + lane * WIDTH + LANE * 16, depth * b.padded, b.padded * WIDTH};
    int first = ring_of_warp<BR>().first;
    for (int s = 0; s < RING - 1; s++) fetch_next<BR, TURNS>(coming, rings, first + s * unit_bytes<BR>());
    return coming;
}

/* The fragments of all lines at 32 of k. */
template <int BR, int TURNS> __device__ __forceinline__ void block_of(u32 (*of_block)[4], const char *lines, int half) {
#pragma unroll
    for (int z = 0; z < OWN; z++) lines_of<BR>(of_block[z], lines + (z * TURNS + half / 2) * BR * WIDTH + (spot_of_lines<BR>() ^ half % 2 * 32));
}

/* A warp's lanes in product_in, from `start` on: in f32 alone if USUAL, as long as no lane is unusual. What it says is whether none was, and adds to `more` the
 * sums of its totals. */
template <int BR, int TURNS, bool USUAL> __device__ __forceinline__ bool lanes_made(float *plane, int pitch, const u32 *top_a, const u32 *top_b, const char *lines,
                                                                                    int start, int bits, Coming coming, char *rings, u64 &more) {
    const int EACH = BR / 8, own = EACH, step = lanes_at_a_time<BR>(); /* times 8 lanes of a unit; of a thread's two lines in fragments that there are */
    const bool HOLDS = OWN * TURNS <= 4;                               /* else there are too few registers */
    const int line = LANE / 4, row = LANE & 7, spot = row * WIDTH + SWIZZLED(row, LANE / 8 * 16);
    int lane = start;
    const u32 *top = top_b + lane + LANE % 4 * 2;
    float *to = plane + line * pitch + lane + LANE % 4 * 2;
    Ring ring = ring_of_warp<BR>();
    u32 held[2 * TURNS][OWN][4];
    i32 sums[EACH][WEIGHTS][4];
#pragma unroll
    for (int half = 0; half < 2 * TURNS; half++) if (HOLDS) block_of<BR, TURNS>(held[half], lines, half);
#if NARROWED
    u32 centre[own], most = 0, least = ~0u; /* bits of 1.5 2^23, times the line's power of two; of magnitudes and, but for 0, of these less 1 */
    float less[own];
#pragma unroll
    for (int i = 0; i < own; i++) {
        u32 at = top_a[i] ? top_a[i] : ONE; /* all is zero, whatever the scale */
        most = max(most, at), least = min(least, at - 1);
        centre[i] = centre_of(usual(at, at) ? at : ONE, bits), less[i] = less_of(centre[i]);
    }
    u32 highs[own] = {}, lows[own] = {}; /* of a line's at most 256 totals here */
#endif
    u64 here[own] = {};
    for (; lane < coming.end; lane += step, top += step, to += step) {
        u32 of_b[EACH][2];
#pragma unroll
        for (int n = 0; n < EACH; n++) {
            uint2 two = *(const uint2 *)(top + 8 * n);
            of_b[n][0] = two.x, of_b[n][1] = two.y;
            cleared<WEIGHTS>(sums[n]);
#if NARROWED
#pragma unroll
            for (int i = 0; i < 4; i++) if (USUAL) centred(sums[n], i, centre[i / 2 % own]);
#endif
        }
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++) {
            u32 of_lanes[EACH][OWN][4];
            wait_for_unit();
            fetch_next<BR, TURNS>(coming, rings, ring.done);
#pragma unroll
            for (int i = 0; i < EACH * OWN; i++) ldmatrix(of_lanes[i % EACH][i / EACH], rings + ring.now + i * UNIT + spot);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                if (!HOLDS) block_of<BR, TURNS>(held[2 * turn + half], lines, 2 * turn + half);
#pragma unroll
                for (int n = 0; n < EACH; n++) multiply(sums[n], held[2 * turn + half], of_lanes[n], half);
            }
            ring = next_of<BR>(ring);
        }
        float x[EACH][2 * own]; /* of lanes that are padded, too: the plane has room for them */
#pragma unroll
        for (int i = 0; i < EACH * 2 * own; i++) {
            int n = i / (2 * own), j = i % (2 * own);
#if NARROWED
            if (USUAL) {
                u32 hi, lo;
                pair_of_sums(sums[n], j, centre[j / 2], &hi, &lo);
                highs[j / 2] += hi, lows[j / 2] += lo;
                x[n][j] = __fmul_rn(joined_pair(hi, lo, less[j / 2]), usual_b(of_b[n][j % 2]));
                if (j < 2) most = max(most, of_b[n][j]), least = min(least, of_b[n][j] - 1);
                continue;
            }
#endif
            i64 total = total_of_sums(sums[n], j);
            here[j / 2] += (u64)total;
            x[n][j] = element(total, top_a[j / 2], of_b[n][j % 2], bits);
        }
#pragma unroll
        for (int i = 0; i < EACH * own; i++) {
            int n = i / own, j = i % own;
            *(float2 *)(to + 8 * j * pitch + 8 * n) = make_float2(x[n][2 * j], x[n][2 * j + 1]);
        }
    }
#pragma unroll
    for (int i = 0; i < own; i++) {
#if NARROWED
        u32 none = (u32)(lane - start) / (step / (2 * EACH)) * centre[i]; /* two totals of each 8 lanes of a unit */
        if (USUAL) here[i] = (u64)((i64)(i32)(highs[i] - none) * (1 << LOW) + (i32)(lows[i] - none));
#endif
        more += of_line(line + 8 * i, here[i]);
    }
#if NARROWED
    if (USUAL) return !__any_sync(ALL_LANES, most >= 181u << 23 || least < (77u << 23) - 1); /* `usual`, or 0, times which all is zero */
#endif
    return true;
}

/* plane[r * pitch + j] = element of A's lane first + r and B's lane j, for r < BR and j of the span; of lines beyond a.lanes it is some number. first is a
 * multiple of BR, 64 (TURNS - 1) < k <= 64 TURNS. All threads; ends with a barrier. */
template <int BR, int TURNS> __device__ __forceinline__ void product_in(float *plane, int pitch, const Packed &a, i32 first, const Packed &b, i64 k, Span span,
                                                                        int bits, char *rings, u64 &wrong) {
    static_assert(SPANNED <= 8, "what checks lines has no room behind them");
    const int of_lines = TURNS * BR * WIDTH, width = TURNS * WIDTH; /* bytes of a plane of lines; k */
    char *lines = rings + rings_bytes<BR>(), *check = lines + OWN * of_lines; /* [digit of S_k + 1][k] */
    const int warp = (int)(threadIdx.x / 32u), lanes = span.end, depth = ((int)k + ROW - 1) / ROW * ROW, start = span.begin + warp * BR;
    const int pieces = BR * (WIDTH / 16); /* of 16 bytes that a plane of lines has of 64 of k */
    const bool multiplies = BR == MULTIPLY || warp < MULTIPLY, checks = BR == MULTIPLY || !multiplies;
    u32 top_a[BR / 8];
    Coming coming;
    if (checks) {
        const u32 own = threadIdx.x - 32u * (BR - MULTIPLY); /* of 256 threads */
        if (u32 i = own - MOST_LANES; i < (u32)(TURNS * pieces)) {
            const i8 *from = a.digits + ((u32)(i / pieces) * (u32)a.padded + (u32)first) * WIDTH + i % pieces * 16;
#pragma unroll
            for (int z = 0; z < OWN; z++) async_copy(lines + z * of_lines + i * 16, from + (i64)z * depth * a.padded);
        }
        async_commit();
        if (own < (u32)width) {
            Across s = 1;
#pragma unroll 4
            for (u32 group = (u32)span.begin / GROUP; group < (u32)(lanes + GROUP - 1) / GROUP; group++) s += b.across[group * (u32)depth + own];
            put_signed<SPANNED>(check + own, width, s);
        }
        if (!multiplies) async_wait<0>();
    }
    if (multiplies) {
        coming = first_fetched<BR, TURNS>(b, depth, start, lanes, rings);
#pragma unroll
        for (int i = 0; i < BR / 8; i++) top_a[i] = a.top[first + LANE / 4 + 8 * i];
        async_wait<RING - 1>();
    }
    __syncthreads(); /* lines and what checks them are there for all */
    u64 more = 0;
    if (warp == BR - 1) {
        i32 sums[OWN][4];
        cleared<OWN>(sums);
#pragma unroll
        for (int half = 0; half < 2 * TURNS; half++) {
            u32 of_block[OWN][4], four[2] = {0, 0};
            const char *at = check + LANE / 4 * width + half * 32 + LANE % 4 * 4;
            if (LANE / 4 < SPANNED) four[0] = *(const u32 *)at, four[1] = *(const u32 *)(at + 16);
            block_of<BR, TURNS>(of_block, lines, half);
#pragma unroll
            for (int z = 0; z < OWN; z++) mma_s8(sums[z], of_block[z], four);
        }
        if (LANE < BR) more = of_line(LANE, a.along[first + LANE]);
        more -= right_side<BR>(sums);
    }
    if (multiplies && !lanes_made<BR, TURNS, NARROWED>(plane, pitch, top_a, b.top, lines, start, bits, coming, rings, more)) {
        u64 again = 0; /* the sums of the same totals */
        async_wait<0>();
        __syncwarp(); /* all have read the last unit */
        coming = first_fetched<BR, TURNS>(b, depth, start, lanes, rings);
        lanes_made<BR, TURNS, false>(plane, pitch, top_a, b.top, lines, start, bits, coming, rings, again);
    }
    add_to_wrong(wrong, more);
    __syncthreads();
}
