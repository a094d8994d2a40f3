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

/* Where the next half row begins that a warp has after half `at`, which begins at `bytes`: PARTS halves on. row: bytes from one row of 64 elements to the next, a
 * multiple of 64. */
template <int PARTS> __device__ __forceinline__ int next_half(int bytes, int at, int row) {
    bytes += PARTS / 2 * row;
    return PARTS % 2 ? (at % 2 ? bytes + row : bytes) ^ 32 : bytes;
}

/* out[(first + r) * row_step + n * lane_step] = element of line r, whose digits a Line wrote in the span, and B's lane n, for r < BR, first + r < rows,
 * n < b.lanes; k is `length`, 16 (TILES - 1) < b.lanes <= 16 TILES <= 128. Each is multiplied by *factor, if there is one. tops: the lines' largest
 * magnitudes, in shared memory. All threads; begins and ends with a barrier. */
template <int BR, int TILES> __device__ __forceinline__ void product_out(float *out, i64 row_step, i64 lane_step, i32 rows, i32 first, char *digits,
                                                                         const u32 *tops, const Packed &b, i64 length, Span span, int bits, char *rings,
                                                                         u64 &wrong, const float *factor = nullptr) {
    static_assert(BR * BR * 16 * (int)sizeof(Total) <= rings_bytes<BR>(), "the rings have no room for the totals of all warps");
    const int of_lines = BR * WIDTH, own = BR / 8; /* bytes of a plane of a row */
    int count = rows_of((int)length), warp = (int)threadIdx.x >> 5, lanes = b.lanes, depth = ((int)length + ROW - 1) / ROW * ROW;
    int begin = span.begin / WIDTH, end = rows_of(span.end); /* rows of digits */
    const int PARTS = BR / TILES;
    int tile = warp % TILES, part = warp / TILES;                    /* which 16 lanes this warp has, and which of each PARTS times 32 of k */
    int last = part < PARTS ? 2 * end : 0, ahead = 2 * begin + part; /* what is fetched next, in halves of rows */
    char *lines = digits + head_bytes<BR>(), *check = lines + count * OWN * of_lines;
    u32 *top_b = (u32 *)(rings + rings_bytes<BR>());
    u64 *right = (u64 *)(top_b + MOST_LANES); /* of each line, the right side of its checksum */
    Ring ring = ring_of_warp();
    int lane = LANE / 2, put = lane * 32 + ((LANE ^ lane >> 2) & 1) * 16; /* in a unit, rows of 32 bytes lie so that those 4 apart are in different banks */
    const i8 *from = b.digits + (tile * 16 + lane) * WIDTH;
    i32 plane_b = depth * b.padded, row_b = b.padded * WIDTH, piece = ahead / 2 * row_b + (SWIZZLED(lane, (LANE & 1) * 16) ^ ahead % 2 * 32);
    as_it_is(plane_b), as_it_is(row_b);
    auto fetch = [&](int to) {
        if (ahead < last) fetch_unit(rings + to + put, from + piece, plane_b);
        async_commit();
        piece = next_half<PARTS>(piece, ahead, row_b);
        ahead += PARTS;
    };
    for (int s = 0; s < RING - 1; s++) fetch(ring.first + s * OWN * UNIT);
    if ((int)threadIdx.x < lanes) top_b[threadIdx.x] = b.top[threadIdx.x];
    if (threadIdx.x < BR) right[threadIdx.x] = 0;
#pragma unroll 1
    for (int e = begin * WIDTH + (int)threadIdx.x; e < end * WIDTH; e += 32 * BR) {
        i32 s = e < (int)length ? b.across[e] + (TILES > GROUP / 16 ? b.across[depth + e] : 0) + 1 : 0; /* so what lies behind the line's end counts for nothing */
#pragma unroll
        for (int d = 0; d < CHECKED; d++) {
            i32 low = ((s + 128) & 255) - 128;
            check[d * count * WIDTH + e] = (char)low;
            s = (s - low) >> 8;
        }
    }
    __syncthreads(); /* digits and what checks them are there for all */
    i32 sums[2][WEIGHTS][4], checks[OWN][4]; /* of 8 lanes each; of the digits of the check, as lanes: at most 2^13 2^14 */
    cleared(sums[0], 0), cleared(sums[1], 0);
#pragma unroll
    for (int i = 0; i < OWN * 4; i++) checks[i / 4][i % 4] = 0;
    int row = (LANE & 7) + LANE / 16 * 8, spot = row * 32 + ((LANE >> 3 ^ row >> 2) & 1) * 16;
    int at = 2 * begin + part, mine = at / 2 * OWN * of_lines + (spot_of_lines<BR>() ^ at % 2 * 32); /* the half that is used, and this thread's part of it */
    int digit = LANE / 4 * count * WIDTH + LANE % 4 * 4; /* of those of the check, if there is one */
    as_it_is(spot);
    for (; at < last; at += PARTS) {
        u32 of_block[OWN][4], of_lanes[OWN][4];
        wait_for_unit();
        fetch(ring.done);
#pragma unroll
        for (int z = 0; z < OWN; z++) {
            lines_of<BR>(of_block[z], lines + mine + z * of_lines);
            ldmatrix(of_lanes[z], rings + ring.now + z * UNIT + spot);
        }
#pragma unroll
        for (int n = 0; n < 2; n++) multiply(sums[n], of_block, of_lanes, n);
        if (tile == 0) {
            u32 four[2] = {0, 0};
            if (LANE / 4 < CHECKED) four[0] = *(const u32 *)(check + digit + at * 32), four[1] = *(const u32 *)(check + digit + at * 32 + 16);
#pragma unroll
            for (int z = 0; z < OWN; z++) mma_s8(checks[z], of_block[z], four);
        }
        mine = next_half<PARTS>(mine, at, OWN * of_lines);
        ring = next_of(ring);
    }
    async_wait<0>(); /* for groups of nothing */
    if (tile == 0) {
#pragma unroll
        for (int i = 0; i < own; i++) {
            u64 sum = 0;
#pragma unroll
            for (int z = 0; z < OWN; z++) {
#pragma unroll
                for (int j = 0; j < 2; j++) sum += (u64)((i64)checks[z][2 * i + j] * own_weight(z)) << 8 * (LANE % 4 * 2 + j);
            }
            for (int by = 1; by < 4; by *= 2) sum += __shfl_xor_sync(ALL_LANES, sum, by);
            if (LANE % 4 == 0) atomicAdd(&right[LANE / 4 + 8 * i], sum);
        }
    }
    __syncthreads(); /* the rings are done with */
    Total *totals = (Total *)rings; /* [warp][line][lane], of odd lines the second 8 lanes first: what is written at a time lies in different banks */
#pragma unroll
    for (int i = 0; i < 2 * own; i++) {
        int n = i / own, at = LANE / 4 + i % own * 8;
        TwoTotals two = {total_of_sums(sums[n], i % own * 2), total_of_sums(sums[n], i % own * 2 + 1)};
        *(TwoTotals *)(totals + (warp * BR + at) * 16 + ((n ^ at) & 1) * 8 + LANE % 4 * 2) = two;
    }
    __syncthreads();
    u64 more = LANE == 0 ? ((const u64 *)digits)[warp] - right[warp] : 0; /* the left side's sum of q */
    bool inside = first + warp < rows;
    float by = factor ? *factor : 1.0f;
    u32 top_a = tops[warp];
    float *to = out + (i64)(first + warp) * row_step + LANE * lane_step;
#pragma unroll 1
    for (int n = LANE; n < lanes; n += 32, to += 32 * lane_step) {
        i64 total = 0;
#pragma unroll
        for (int p = 0; p < PARTS; p++) total += totals[((p * TILES + n / 16) * BR + warp) * 16 + (n % 16 ^ (warp & 1) * 8)];
        more += (u64)total;
        float x = __fmul_rn(element(total, top_a, top_b[n], bits), by);
        if (inside) *to = x == x ? x : __uint_as_float(NAN_BITS);
    }
    add_to_wrong(wrong, inside ? more : 0);
    __syncthreads();
}
