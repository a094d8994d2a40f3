/* The products of attention whose scores stay on the chip: into planes of f32 in shared memory, and from digits there out to memory.
 *
 * A block of 32 BR threads has BR lines (queries, or keys on the way back). product_in makes their products with all lanes of an operand that streams
 * from memory through a ring (digits of at most 128 k); Line writes a line's digits, once its largest magnitude is known; product_out multiplies these with
 * the at most 128 lanes of an operand whose k is the line's length. The same integers, scales and roundings as gemm.cu's: the same bits.
 *
 * Operands lie as tiles.py's NARROW says: rows of 64 bytes of k, and of the planes with Karatsuba h and l alone. Each is multiplied with each: tensor cores
 * are not what limits these products (docs/cuda.md), and to add up h and l, in every warp and for every unit, would take more than twice the instructions. An
 * instruction takes 16 of the streaming lanes and 8 lines (mma.m16n8k32, the lines as its columns): no row of it is idle with 8 lines, and 12 sums a
 * thread do at b = 14. A stage of the ring is 8 units of 16 lanes by 64 elements of k, of all planes (16 KB); each unit is one warp's, for 8 of the lines.
 * Units of product_out whose k differs are added up in the ring when all is multiplied.
 *
 * Checksums (Huang and Abraham 1984), modulo 2^64, line by line, as check.cu's column by column:
 *     sum_j C_rj + sum_k q_rk = sum_k (S_k + 1) q_rk, S_k = sum_j qb_jk,
 * where S comes from the registers that packed B (`across`), and the left side's sum of q from the registers that packed A (`along`) or that made the
 * digits (Line), while the right side's q is read anew from the shared memory that was multiplied. With Karatsuba pack.cu's `along` counts h for 2^14.
 * Not covered: an f32 that changes in shared memory before it is made digits, as one in memory is not.
 *
 * Wants common.cuh, digits.cuh and tensor.cuh before it, with int8 digits in rows of 64 bytes.
 */
#if BF16 || FP8 || PLAIN || WIDTH != 64
#error "attention takes int8 digits in rows of 64 bytes"
#endif

#ifndef RING
#define RING 3 /* stages that are on their way or in use */
#endif
#define UNITS 8            /* of a stage */
#define UNIT (16 * WIDTH)  /* bytes of one, of a plane */
#define GROUP 64           /* lanes of one sum in `across` */
#define MOST_LANES 128     /* that product_out takes, and as many k product_in */
#define WEIGHTS (2 * OWN - 1) /* sums of products of digits of one weight: at most 2^15 a term, and less than 2^14 terms */
#define CHECKED (PLANES == 1 ? 2 : OWN + 1) /* signed digits of base 2^8 of S_k + 1, of at most 128 lanes */

/* One product's operand. `across` [groups of 64 lanes][k up to a multiple of 128] is wanted of the one that streams, `along` [padded] of the one that has the
 * lines, both as pack.cu makes them. `padded`: lanes with those that pack.cu adds, a multiple of 64. */
struct Packed {
    const i8 *digits;
    const u32 *top;
    const i32 *across;
    const u64 *along;
    i64 lanes, padded;
};

/* Which elements of its lines a block makes, begin <= e < end: begin is a multiple of 64, end one, too, or the length. What lies outside counts for zeros. */
struct Span {
    int begin, end;
};

/* Floats from a line to the next in a plane of so many: the four lines and eight lanes that a warp writes at a time lie in different banks. */
__device__ constexpr int pitch_of(int lanes) { return (lanes + 11) / 16 * 16 + 4; }
__device__ constexpr int rows_of(int length) { return (length + WIDTH - 1) / WIDTH; }
/* Bytes in front of digits, for each line's sum. */
template <int BR> __device__ constexpr int head_bytes() { return (8 * BR + 127) / 128 * 128; }
/* Bytes of BR lines' digits and of what checks them, and of the ring with what else a product has; both begin at a multiple of 128. */
template <int BR> __device__ constexpr int digits_bytes(int length) { return head_bytes<BR>() + rows_of(length) * WIDTH * (OWN * BR + CHECKED); }
template <int BR> __device__ constexpr int ring_bytes() { return RING * OWN * UNITS * UNIT + OWN * 2 * BR * WIDTH + 8 * MOST_LANES + 12 * BR; }

/* What plane z counts for in q, and in pack.cu's `along`. */
__device__ __forceinline__ i64 own_weight(int z) { return (i64)1 << BASE * (OWN - 1 - z); }
__device__ __forceinline__ i64 along_weight(int z) { return KARATSUBA ? weight(z) + weight(2) : weight(z); }

/* Starts to fetch a unit, in all planes, `plane` bytes apart in memory: the warp's own part of what it shares with warps that have other lines. */
template <int BR> __device__ __forceinline__ void fetch_unit(char *to, const i8 *from, i64 plane) {
    for (int at = (int)(threadIdx.x / (32 * UNITS)) * 512 + LANE * 16; at < UNIT; at += BR / UNITS * 512) {
#pragma unroll
        for (int z = 0; z < OWN; z++) async_copy(to + z * UNITS * UNIT + at, from + z * plane + at);
    }
}

/* Adds up 64 elements of k of 16 lanes (planes UNITS * UNIT bytes apart) and 8 lines (`plane` bytes apart). sums[.][i]: lane LANE / 4, 8 more from i = 2 on;
 * line LANE % 4 * 2 + i % 2. */
__device__ __forceinline__ void multiply_unit(i32 (*sums)[4], const char *lanes, const char *lines, int plane) {
    int line = LANE & 7, lane = LANE & 15;
#pragma unroll 1
    for (int k = 0; k < WIDTH; k += 32) { /* unrolled, it takes three registers more, and all that a thread has beside 64 floats */
        u32 of_lanes[OWN][4], of_lines[OWN + 1][2];
#pragma unroll
        for (int z = 0; z < OWN; z++) ldmatrix(of_lanes[z], lanes + z * UNITS * UNIT + lane * WIDTH + SWIZZLED(lane, k + LANE / 16 * 16));
#pragma unroll
        for (int z = 0; z < OWN; z += 2) { /* two planes at a time, the last one twice */
            u32 r[4];
            ldmatrix(r, lines + (LANE < 16 || z + 1 == OWN ? z : z + 1) * plane + line * WIDTH + SWIZZLED(line, k + (LANE & 8) * 2));
            of_lines[z][0] = r[0], of_lines[z][1] = r[1], of_lines[z + 1][0] = r[2], of_lines[z + 1][1] = r[3];
        }
#pragma unroll
        for (int z = 0; z < OWN; z++) {
#pragma unroll
            for (int y = 0; y < OWN; y++) mma_s8(sums[z + y], of_lanes[z], of_lines[y]);
        }
    }
}

/* Sums begin with nothing; the first and the last with `centre`. */
__device__ __forceinline__ void cleared(i32 (*sums)[4], u32 centre) {
#pragma unroll
    for (int i = 0; i < WEIGHTS * 4; i++) sums[i / 4][i % 4] = i / 4 == 0 || i / 4 == WEIGHTS - 1 ? (i32)centre : 0;
}

__device__ __forceinline__ i64 total_of_sums(i32 (*sums)[4], int i) {
    i64 total = sums[0][i];
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

/* Whether no product of A's lanes first .. first + BR - 1 and B's lanes outside a span, of at most 128 k, is more than 2^59, nor infinite, nor NaN. A
 * thread's part of it. */
template <int BR> __device__ __forceinline__ bool bounded(const Packed &a, i64 first, const Packed &b, Span span) {
    u32 most = threadIdx.x < BR && first + threadIdx.x < a.lanes ? a.top[first + threadIdx.x] : 0u;
    for (int j = (int)threadIdx.x; j < (int)b.lanes; j += 32 * BR)
        if (j < span.begin || j >= span.end) most = max(most, b.top[j]);
    return field_of(most) < 127 + 26; /* |x| < 2^26, as integers are, too */
}

/* plane[r * pitch + j] = element of A's lane first + r and B's lane j, for r < BR and j of the span; of lines beyond a.lanes it is some number. first is a
 * multiple of BR, 1 <= k <= 128. Lines whose checksum is wrong are added to *faults. All threads; ends with a barrier. */
template <int BR> __device__ __forceinline__ void product_in(float *plane, int pitch, const Packed &a, i64 first, const Packed &b, i64 k, Span span, int bits,
                                                             char *ring, u64 *faults) {
    const int of_lines = 2 * BR * WIDTH; /* bytes of a plane */
    char *lines = ring + RING * OWN * UNITS * UNIT;
    u64 *found = (u64 *)(lines + OWN * of_lines), *across = found + BR;
    int warp = (int)threadIdx.x >> 5, turns = rows_of((int)k), lanes = span.end, depth = ((int)k + ROW - 1) / ROW * ROW;
    for (int i = (int)threadIdx.x; i < turns * BR * (WIDTH / 16); i += 32 * BR) {
        const i8 *from = a.digits + (i / (BR * (WIDTH / 16)) * a.padded + first) * WIDTH + i % (BR * (WIDTH / 16)) * 16;
#pragma unroll
        for (int z = 0; z < OWN; z++) async_copy(lines + z * of_lines + i * 16, from + z * depth * a.padded);
    }
    int unit = warp % UNITS, second = turns - 1; /* whether a unit's k are in two stages */
    auto fetch = [&](int step, int stage) {
        int lane = span.begin + (step >> second) * (UNITS * 16) + unit * 16;
        if (lane < lanes) fetch_unit<BR>(ring + (stage * OWN * UNITS + unit) * UNIT, b.digits + ((step & second) * b.padded + lane) * WIDTH, depth * b.padded);
        async_commit();
    };
    for (int s = 0; s < RING - 1; s++) fetch(s, s);
    int width = turns * WIDTH; /* 64 or 128 */
    if ((int)threadIdx.x < width) across[threadIdx.x] = 0;
    if (threadIdx.x < BR) {
        found[threadIdx.x] = a.along[first + threadIdx.x];
    }
    __syncthreads();
    for (int i = span.begin / GROUP * width + (int)threadIdx.x; i < (lanes + GROUP - 1) / GROUP * width; i += 32 * BR)
        atomicAdd(&across[i & (width - 1)], (u64)(i64)b.across[(i >> (5 + turns)) * depth + (i & (width - 1))]);
    int line = warp / UNITS * 8 + LANE % 4 * 2, stage = 0;
    i32 sums[WEIGHTS][4];
    u32 top_b[2];
    auto top_of = [&](int line) { return first + line < a.lanes ? a.top[first + line] : 0u; };
#if NARROWED
    u32 top_a = top_of(warp / UNITS * 8 + (LANE & 7)); /* a warp's lines are looked up once, which an exchange sees to */
    if (!top_a) top_a = ONE; /* all is zero, whatever the scale */
    bool lines_usual = __all_sync(ALL_LANES, usual(top_a, top_a));
    float scale_a[2];
#pragma unroll
    for (int i = 0; i < 2; i++) scale_a[i] = __shfl_sync(ALL_LANES, usual_a(top_a, bits), LANE % 4 * 2 + i);
    u32 highs[2] = {0, 0}, lows[2] = {0, 0}, count = 0; /* of a line's at most 128 totals here */
#else
    u64 here[2] = {0, 0};
#endif
    for (int step = 0; span.begin + (step >> second) * (UNITS * 16) < lanes; step++) {
        int turn = step & second, begin = span.begin + (step >> second) * (UNITS * 16) + unit * 16, lane = begin + LANE / 4;
        bool idle = begin >= lanes; /* a unit may have lanes that are padded, but none beyond those */
        if (turn == 0) {
            cleared(sums, NARROWED ? CENTRED : 0);
#pragma unroll
            for (int i = 0; i < 2; i++) top_b[i] = lane + i * 8 < lanes ? b.top[lane + i * 8] : ONE;
        }
        async_wait<RING - 2>();
        __syncthreads(); /* the stage is there for all, and the one before it is done with */
        fetch(step + RING - 1, stage == 0 ? RING - 1 : stage - 1);
        if (!idle) multiply_unit(sums, ring + (stage * OWN * UNITS + unit) * UNIT, lines + (turn * BR + warp / UNITS * 8) * WIDTH, of_lines);
        if (++stage == RING) stage = 0;
        if (turn < second || idle) continue;
        float *to = plane + line * pitch + lane;
#if NARROWED
        float x[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 hi, lo;
            pair_of_sums(sums, i, &hi, &lo);
            highs[i % 2] += hi, lows[i % 2] += lo;
            x[i] = usual_element<LOW>(hi, lo, scale_a[i % 2], usual_b(top_b[i / 2]));
        }
        count += 2;
        if (!lines_usual || !usual(top_b[0], top_b[1])) {
#pragma unroll 1
            for (int i = 0; i < 4; i++) { /* one by one, since they are few */
                i64 total = OWN > 1 ? -((i64)CENTRED * ((1 << LOW) + 1)) : -(i64)CENTRED;
#pragma unroll
                for (int j = 0; j < 4; j++) if (i == j) total += total_of_sums(sums, j);
                float one = element(total, top_of(line + i % 2), i / 2 ? top_b[1] : top_b[0], bits);
#pragma unroll
                for (int j = 0; j < 4; j++) if (i == j) x[j] = one;
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) if (lane + i / 2 * 8 < lanes) to[i % 2 * pitch + i / 2 * 8] = x[i];
#else
#pragma unroll
        for (int i = 0; i < 4; i++) {
            i64 total = total_of_sums(sums, i);
            here[i % 2] += (u64)total;
            if (lane + i / 2 * 8 < lanes) to[i % 2 * pitch + i / 2 * 8] = element(total, top_of(line + i % 2), top_b[i / 2], bits);
        }
#endif
    }
#if NARROWED
    u64 here[2];
#pragma unroll
    for (int i = 0; i < 2; i++) here[i] = (u64)((i64)(i32)(highs[i] - count * CENTRED) * (1 << LOW) + (i32)(lows[i] - count * CENTRED));
#endif
#pragma unroll
    for (int i = 0; i < 2; i++) {
        for (int by = 4; by < 32; by *= 2) here[i] += __shfl_xor_sync(ALL_LANES, here[i], by);
        if (LANE < 4) atomicAdd(&found[line + i], here[i]);
    }
    __syncthreads();
    u64 wanted = 0;
    for (int i = LANE; i < width; i += 32) {
        const i8 *at = (const i8 *)lines + (i / WIDTH * BR + warp) * WIDTH + SWIZZLED(warp, i % WIDTH);
#pragma unroll
        for (int z = 0; z < OWN; z++) wanted += (u64)(i64)at[z * of_lines] * ((u64)own_weight(z) * across[i] + (u64)along_weight(z));
    }
    wanted = summed_by_warp(wanted);
    if (LANE == 0 && wanted != found[warp]) atomicAdd(faults, 1ull);
    __syncthreads();
}

/* A line of a block's digits, which lie [row of 64][plane][line][64], and which warp r writes: line_of, put for each element of the span once, by lane
 * e % 64 / 2 (or put_two for two neighbours), and line_done, by all lanes. Elements are counted from the span's begin on, so that where most of them lie is
 * known when a kernel is compiled. */
struct Line {
    char *at; /* where the lane's first element of a row is put */
    u64 *along;
    float factor, magic;
    i32 sum; /* of a lane's at most 256 elements */
    int count, bits; /* elements of the span */
    u32 top;
};

/* A row's element that is the lane's, i = 0 or 1. */
#define OF_LANE(row, i) ((row) * WIDTH + 2 * LANE + (i))

/* For `count` elements of at most the magnitude `top` (bits); count <= 8192. */
template <int BR> __device__ __forceinline__ Line line_of(char *digits, int r, u32 begin, u32 count, u32 top, int bits) {
    char *to = digits + head_bytes<BR>() + ((int)begin / WIDTH * OWN * BR + r) * WIDTH;
    Line line = {to + SWIZZLED(r, 2 * LANE), (u64 *)digits + r, 0.0f, 0.0f, 0, (int)count, bits, top};
    factor_of(top, bits, &line.factor, &line.magic);
    return line;
}

/* q as it is put and summed: its bits, with two planes of at most 15 beside those of `magic`, which has none of the lower 22 (line_done takes them from the sum).
 * One that is too large is left to line_done, as hardly any line has one; but one plane by itself has no digit for it. */
__device__ __forceinline__ i32 put_as(const Line &line, float x) {
    if (OWN == 2) return (i32)__float_as_uint(fused(x, line.factor, line.magic));
    i32 q = rounded_to(x, line.factor, line.magic);
    return OWN == 1 ? limited(q, line.bits) : q;
}
template <int BR> __device__ __forceinline__ void put(Line &line, int e, float x) {
    i32 q = put_as(line, x), d[OWN];
    own_digits(q, d);
    char *at = line.at + e / WIDTH * (OWN * BR * WIDTH) + (e & 1);
    line.sum = (i32)((u32)line.sum + (u32)q);
#pragma unroll
    for (int z = 0; z < OWN; z++) at[z * BR * WIDTH] = (char)d[z];
}
/* The lane's two elements of a row. */
template <int BR> __device__ __forceinline__ void put_two(Line &line, int row, const float *x) {
    i32 q[2] = {put_as(line, x[0]), put_as(line, x[1])}, d[2][OWN];
    own_digits(q[0], d[0]);
    own_digits(q[1], d[1]);
    char *at = line.at + row * (OWN * BR * WIDTH);
    line.sum = (i32)((u32)line.sum + (u32)q[0] + (u32)q[1]);
#pragma unroll
    for (int z = 0; z < OWN; z++) {
        u32 two = __byte_perm((u32)d[0][z], (u32)d[1][z], 0x0040);
        if (KARATSUBA && z == 1) two = __byte_perm((u32)q[0], (u32)q[1], 0x0040) & 0x7f7fu; /* both low digits at once */
        *(unsigned short *)(at + z * BR * WIDTH) = (unsigned short)two;
    }
}

template <int BR> __device__ __forceinline__ void line_done(Line &line) {
    bool none = field_of(line.top) == 255; /* the digits of such a line are anything: now they are 0 */
    if (OWN == 2) {
        int rest = line.count % WIDTH - 2 * LANE, own = line.count / WIDTH * 2 + max(0, min(rest, 2));
        line.sum = (i32)((u32)line.sum - (u32)own * __float_as_uint(line.magic));
    }
    if (OWN > 1 && (none || rounded_to(__uint_as_float(line.top), line.factor, line.magic) >= 1 << (line.bits - 1))) {
        if (none) line.sum = 0;
#pragma unroll 1
        for (int i = 0; OF_LANE(i / 2, i % 2) < line.count; i++) {
            char *at = line.at + i / 2 * (OWN * BR * WIDTH) + i % 2;
            i32 q = 0, d[OWN];
#pragma unroll
            for (int z = 0; z < OWN; z++) q = q * (1 << BASE) + (i8)at[z * BR * WIDTH];
            i32 held = none ? 0 : limited(q, line.bits);
            own_digits(held, d);
            line.sum += none ? 0 : held - q;
#pragma unroll
            for (int z = 0; z < OWN; z++) at[z * BR * WIDTH] = (char)d[z];
        }
    }
    u64 all = OWN <= 2 ? (u64)(i64)(i32)__reduce_add_sync(ALL_LANES, (u32)line.sum) : summed_by_warp((u64)(i64)line.sum); /* at most 2^13 2^14, or 2^13 2^22 */
    if (LANE == 0) *line.along = all;
}

/* The digits of a line of zeros. */
template <int BR> __device__ __forceinline__ void zeros(char *digits, int r, u32 begin, u32 count, int bits) {
    Line line = line_of<BR>(digits, r, begin, count, 0u, bits);
    for (int i = 0; OF_LANE(i / 2, i % 2) < (int)count; i++) put<BR>(line, OF_LANE(i / 2, i % 2), 0.0f);
    line_done<BR>(line);
}

/* out[(first + r) * row_step + n * lane_step] = element of line r, whose digits a Line wrote in the span, and B's lane n, for r < BR, first + r < rows,
 * n < b.lanes <= 128; k is `length`. Each is multiplied by *factor, if there is one. tops: the lines' largest magnitudes, in shared memory. Lines whose
 * checksum is wrong are added to *faults. All threads; begins and ends with a barrier. */
template <int BR> __device__ __forceinline__ void product_out(float *out, i64 row_step, i64 lane_step, i64 rows, i64 first, char *digits, const u32 *tops,
                                                              const Packed &b, i64 length, Span span, int bits, char *ring, u64 *faults,
                                                              const float *factor = nullptr) {
    const int wide = OWN > 1 ? 18 : 16; /* u64 of a line's totals: with 18, what a warp writes lies in different banks; a ring of two has room for 16 */
    static_assert(UNITS * BR * wide * 8 <= RING * OWN * UNITS * UNIT, "the ring has no room for the totals of all units");
    const int of_lines = BR * WIDTH; /* bytes of a plane of a row */
    int count = rows_of((int)length), warp = (int)threadIdx.x >> 5, lanes = (int)b.lanes, tiles = (lanes + 15) / 16;
    int depth = ((int)length + ROW - 1) / ROW * ROW;
    int begin = span.begin / WIDTH, end = rows_of(span.end), deep = UNITS / tiles; /* rows of digits; rows of a stage */
    int unit = warp % UNITS, part = unit / tiles, next = begin + part;               /* which of them this warp has */
    bool idle = part >= deep;
    char *lines = digits + head_bytes<BR>(), *check = lines + count * OWN * of_lines;
    u32 *top_b = (u32 *)(ring + RING * OWN * UNITS * UNIT);
    auto fetch = [&](int stage) {
        if (!idle && next < end)
            fetch_unit<BR>(ring + (stage * OWN * UNITS + unit) * UNIT, b.digits + (next * b.padded + (unit - part * tiles) * 16) * WIDTH, depth * b.padded);
        async_commit();
        next += deep;
    };
    for (int s = 0; s < RING - 1; s++) fetch(s);
    if ((int)threadIdx.x < lanes) top_b[threadIdx.x] = b.top[threadIdx.x];
    for (int e = begin * WIDTH + (int)threadIdx.x; e < end * WIDTH; e += 32 * BR) {
        i32 s = e < (int)length ? b.across[e] + (lanes > GROUP ? b.across[depth + e] : 0) + 1 : 0; /* so what lies behind the line's end counts for nothing */
#pragma unroll
        for (int d = 0; d < CHECKED; d++) {
            i32 low = ((s + 128) & 255) - 128;
            check[d * count * WIDTH + e] = (char)low;
            s = (s - low) >> 8;
        }
    }
    i32 sums[WEIGHTS][4];
    cleared(sums, 0);
    int stage = 0;
    for (int row = begin + part; row - part < end; row += deep) {
        async_wait<RING - 2>();
        __syncthreads();
        fetch(stage == 0 ? RING - 1 : stage - 1);
        if (!idle && row < end) multiply_unit(sums, ring + (stage * OWN * UNITS + unit) * UNIT, lines + (row * OWN * BR + warp / UNITS * 8) * WIDTH, of_lines);
        if (++stage == RING) stage = 0;
    }
    __syncthreads();
    u64 *totals = (u64 *)ring; /* [unit][line][lane] */
#pragma unroll
    for (int i = 0; i < 4; i++)
        totals[(unit * BR + warp / UNITS * 8 + LANE % 4 * 2 + i % 2) * wide + LANE / 4 + i / 2 * 8] = (u64)total_of_sums(sums, i);
    i32 parts[OWN][CHECKED]; /* at most 64 words of 4 digits each: less than 2^23 */
#pragma unroll
    for (int i = 0; i < OWN * CHECKED; i++) parts[i / CHECKED][i % CHECKED] = 0;
    for (int e = begin * WIDTH + LANE * 4; e < end * WIDTH; e += ROW) {
        const char *at = lines + (e / WIDTH * OWN * BR + warp) * WIDTH + SWIZZLED(warp, e % WIDTH);
#pragma unroll
        for (int z = 0; z < OWN; z++) {
#pragma unroll
            for (int d = 0; d < CHECKED; d++) parts[z][d] = __dp4a(*(const int *)(at + z * of_lines), *(const int *)(check + d * count * WIDTH + e), parts[z][d]);
        }
    }
    u64 wrong = LANE == 0 ? ((const u64 *)digits)[warp] : 0; /* what is too much on the left side */
#pragma unroll
    for (int i = 0; i < OWN * CHECKED; i++) wrong -= (u64)(own_weight(i / CHECKED) << 8 * (i % CHECKED)) * (u64)(i64)parts[i / CHECKED][i % CHECKED];
    __syncthreads();
    for (int n = LANE; n < lanes; n += 32) {
        u64 total = 0;
        for (int p = 0; p < deep; p++) total += totals[((p * tiles + n / 16) * BR + warp) * wide + n % 16];
        wrong += total;
        if (first + warp < rows) {
            float x = element((i64)total, tops[warp], top_b[n], bits);
            if (factor) x = __fmul_rn(x, *factor);
            out[(first + warp) * row_step + n * lane_step] = x == x ? x : __uint_as_float(NAN_BITS);
        }
    }
    wrong = summed_by_warp(wrong);
    if (LANE == 0 && wrong && first + warp < rows) atomicAdd(faults, 1ull);
    __syncthreads();
}
