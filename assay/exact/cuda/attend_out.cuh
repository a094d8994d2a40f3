/* The lines of a block of attend.cuh as digits in shared memory, and the product that reads them. Wants attend.cuh before it. */

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
    char *to = digits + head_bytes<BR>() + (int)(begin / WIDTH * (OWN * BR) + (u32)r) * WIDTH;
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
        u32 rest = (u32)line.count % WIDTH;
        int own = (int)((u32)line.count / WIDTH * 2) + max(0, min((int)rest - 2 * LANE, 2));
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

/* Where the next half row begins that a warp has after half `at`, which begins at `bytes`: PARTS halves on. row: bytes from one row of 64 elements to the next, a
 * multiple of 64. */
template <int PARTS> __device__ __forceinline__ int next_half(int bytes, int at, int row) {
    bytes += PARTS / 2 * row;
    return PARTS % 2 ? (at & 1 ? bytes + row : bytes) ^ 32 : bytes;
}

#if NARROWED
/* A total of at most 2^13 k, hi 2^LOW + lo: two i32, of at most 2^26 and 2^28 in size; of one plane lo alone. */
#define WORDS_OF_TOTAL (OWN == 1 ? 1 : 2)
typedef i32 OfTotal;
__device__ __forceinline__ void put_total(OfTotal *to, i32 (*sums)[4], int i) {
#if OWN == 1
    *to = sums[0][i];
#else
    i32 low = sums[1][i] & (2 * HALF - 1);
    as_it_is(low);
    to[0] = sums[0][i] + (sums[1][i] >> BASE), to[1] = low * (1 << BASE) + sums[2][i];
#endif
}
/* The same as CENTRED + hi and CENTRED + lo of hi 2^22 + lo, which digits.cuh rounds. */
__device__ __forceinline__ void pair_of_total(i32 hi, i32 lo, u32 *high, u32 *low) {
    hi += lo >> LOW;
    i32 middle = hi & ((1 << (22 - LOW)) - 1);
    as_it_is(middle);
    *high = (u32)((hi >> (22 - LOW)) + (i32)CENTRED), *low = (u32)(middle * (1 << LOW)) + (((u32)lo & ((1u << LOW) - 1)) | CENTRED);
}
#else
#define WORDS_OF_TOTAL 1
typedef i64 OfTotal;
__device__ __forceinline__ void put_total(OfTotal *to, i32 (*sums)[4], int i) { *to = total_of_sums(sums, i); }
#endif
#define CHECKERS 4 /* warps that make what checks it, the last ones */
/* What is kept of two neighbouring totals. */
struct __align__(2 * WORDS_OF_TOTAL * (int)sizeof(OfTotal)) TwoTotals { OfTotal of[2][WORDS_OF_TOTAL]; };

/* out[(first + r) * row_step + n * lane_step] = element of line r, whose digits a Line wrote in the span, and B's lane n, for r < BR, first + r < rows,
 * n < b.lanes; k is `length`, 16 (TILES - 1) < b.lanes <= 16 TILES <= 128. Each is multiplied by *factor, if there is one. tops: the lines' largest
 * magnitudes, in shared memory; lines that there are not have digits, too, which are zeros. All threads; begins and ends with a barrier. */
template <int BR, int TILES> __device__ __forceinline__ void product_out(float *out, i64 row_step, i64 lane_step, i32 rows, i32 first, char *digits,
                                                                         const u32 *tops, const Packed &b, i64 length, Span span, int bits, char *rings,
                                                                         u64 &wrong, const float *factor = nullptr) {
    const int EACH = BR / 8, UNITS = 2 / EACH, PARTS = MULTIPLY / TILES; /* times 32 of k of a unit; units of a row; warps that share lanes */
    static_assert(MULTIPLY * BR * 8 * (int)sizeof(TwoTotals) <= rings_bytes<BR>(), "the rings have no room for the totals of all warps");
    const int of_lines = BR * WIDTH, own = BR / 8; /* bytes of a plane of a row */
    const int warp = (int)(threadIdx.x / 32u), lanes = b.lanes, depth = ((int)length + ROW - 1) / ROW * ROW;
    const int begin = (int)((u32)span.begin / WIDTH), end = rows_of(span.end); /* rows of digits */
    const int tile = (int)((u32)warp % TILES), part = (int)((u32)warp / TILES); /* which 16 lanes this warp has, and which of each PARTS units of k */
    const bool multiplies = part < PARTS;
    const int last = UNITS * end, at_first = UNITS * begin + part; /* units */
    int ahead = at_first;                                          /* what is fetched next */
    const char *lines = digits + head_bytes<BR>();
    Ring ring = ring_of_warp<BR>();
    /* In a unit of 32 of k, rows of 32 bytes lie so that those 4 apart are in different banks; in one of 64 they lie as in memory. */
    const int lane = LANE / (2 * EACH) * EACH, put = EACH == 2 ? LANE * 16 : lane * 32 + ((LANE ^ lane >> 2) & 1) * 16;
    const i32 plane_b = depth * b.padded, row_b = b.padded * WIDTH;
    i32 piece = EACH == 2 ? LANE * 16 : lane * WIDTH + (SWIZZLED(lane, (LANE & 1) * 16) ^ (ahead & 1) * 32);
    const i8 *from = b.digits + (u32)ahead / UNITS * (u32)row_b + tile * 16 * WIDTH + piece;
    auto fetch = [&](int to) {
        if (ahead < last) fetch_unit<BR>(rings + to + put, from, plane_b);
        async_commit();
        from += PARTS / UNITS * row_b;
        if (PARTS % UNITS) from += (ahead & 1) * row_b + (piece & 32 ? -32 : 32), piece ^= 32;
        ahead += PARTS;
    };
    if (multiplies) {
        for (int s = 0; s < RING - 1; s++) fetch(ring.first + s * unit_bytes<BR>());
    }
    __syncthreads(); /* digits are there for all */
    u64 more = 0, here = LANE == 0 ? ((const u64 *)digits)[warp] : 0; /* the left side's sum of q */
    i32 sums[2][WEIGHTS][4]; /* of 8 lanes each */
    cleared<WEIGHTS>(sums[0]), cleared<WEIGHTS>(sums[1]);
    if (multiplies) {
        const int row = EACH == 2 ? LANE & 7 : (LANE & 7) + LANE / 16 * 8;
        const int spot = EACH == 2 ? row * WIDTH + SWIZZLED(row, LANE / 8 * 16) : row * 32 + ((LANE >> 3 ^ row >> 2) & 1) * 16;
        int at = at_first, mine = (int)((u32)at / UNITS) * OWN * of_lines + (spot_of_lines<BR>() ^ at % UNITS * 32); /* the unit that is used, and this thread's part of it */
        for (; at < last; at += PARTS) {
            u32 of_block[OWN][4], of_lanes[EACH][OWN][4];
            wait_for_unit();
            fetch(ring.done);
#pragma unroll
            for (int i = 0; i < EACH * OWN; i++) ldmatrix(of_lanes[i % EACH][i / EACH], rings + ring.now + i * UNIT + spot);
#pragma unroll
            for (int half = 0; half < EACH; half++) {
#pragma unroll
                for (int z = 0; z < OWN; z++) lines_of<BR>(of_block[z], lines + (mine ^ half * 32) + z * of_lines);
#pragma unroll
                for (int n = 0; n < 2; n++) multiply(sums[n], of_block, of_lanes[n % EACH], EACH == 2 ? half : n);
            }
            mine = EACH == 2 ? mine + PARTS * OWN * of_lines : next_half<PARTS>(mine, at, OWN * of_lines);
            ring = next_of<BR>(ring);
        }
        async_wait<0>(); /* for groups of nothing */
    }
    if (warp >= BR - CHECKERS) { /* the digits of the check, as lanes: at most 2^13 2^14 */
        i32 checks[OWN][4];
        cleared<OWN>(checks);
#pragma unroll 2
        for (int at = begin + warp - (BR - CHECKERS); at < end; at += CHECKERS) {
            const i8 *digit = b.checked + (LANE / 4 * depth + LANE % 4 * 4 + at * WIDTH);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                u32 of_block[OWN][4], four[2] = {0, 0};
                if (LANE / 4 < CHECKED) four[0] = *(const u32 *)(digit + half * 32), four[1] = *(const u32 *)(digit + half * 32 + 16);
#pragma unroll
                for (int z = 0; z < OWN; z++) {
                    lines_of<BR>(of_block[z], lines + at * OWN * of_lines + z * of_lines + (spot_of_lines<BR>() ^ half * 32));
                    mma_s8(checks[z], of_block[z], four);
                }
            }
        }
        more = 0 - right_side<BR>(checks);
    }
    __syncthreads(); /* the rings are done with */
    TwoTotals *totals = (TwoTotals *)rings; /* [warp][line][two lanes], of odd lines the second 8 lanes first: what is written at a time lies in different banks */
#pragma unroll
    for (int i = 0; i < 2 * own; i++) {
        if (!multiplies) break;
        int n = i / own, at = LANE / 4 + i % own * 8;
        TwoTotals two;
        put_total(two.of[0], sums[n], i % own * 2), put_total(two.of[1], sums[n], i % own * 2 + 1);
        totals[(warp * BR + at) * 8 + ((n ^ at) & 1) * 4 + LANE % 4] = two;
    }
    float by = factor ? *factor : 1.0f;
    u32 top_a = tops[warp];
#if NARROWED
    u32 scale_top = top_a ? top_a : ONE; /* of a line of zeros all is zero, whatever the scale */
    float scale_a = usual_a(scale_top, bits);
#endif
    float *to = out + (i64)(first + warp) * row_step + 2 * LANE * lane_step;
    __syncthreads();
#pragma unroll
    for (int turn = 0; turn < (TILES + 3) / 4; turn++) {
        int n = 64 * turn + 2 * LANE; /* this thread has two neighbouring lanes */
        if (n >= 16 * TILES) break;
        const TwoTotals *found = totals + ((n / 16 * BR + warp) * 8 + (n % 16 / 2 ^ (warp & 1) * 4));
        OfTotal sum[2][WORDS_OF_TOTAL] = {};
#pragma unroll
        for (int p = 0; p < PARTS; p++) {
            TwoTotals two = found[p * (TILES * BR * 8)];
#pragma unroll
            for (int i = 0; i < 2 * WORDS_OF_TOTAL; i++) sum[i / WORDS_OF_TOTAL][i % WORDS_OF_TOTAL] += two.of[i / WORDS_OF_TOTAL][i % WORDS_OF_TOTAL];
        }
        uint2 top_b = *(const uint2 *)(b.top + n);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            u32 top = i ? top_b.y : top_b.x;
#if NARROWED
            i32 hi = WORDS_OF_TOTAL == 1 ? 0 : sum[i][0], lo = sum[i][WORDS_OF_TOTAL - 1];
            u32 high, low;
            i64 total = (i64)hi * (1 << LOW) + lo;
            here += (u64)total;
            pair_of_total(hi, lo, &high, &low);
            float x = usual_element<22>(high, low, scale_a, usual_b(top));
            if (!usual(scale_top, top)) x = element(total, top_a, top, bits);
#else
            i64 total = sum[i][0];
            here += (u64)total;
            float x = element(total, top_a, top, bits);
#endif
            x = __fmul_rn(x, by);
            if (first + warp < rows && n + i < lanes) to[(64 * turn + i) * lane_step] = x == x ? x : __uint_as_float(NAN_BITS);
        }
    }
    add_to_wrong(wrong, more + of_line(warp, here));
    __syncthreads();
}
