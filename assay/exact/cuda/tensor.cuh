/* The instructions of tensor cores that the products use: as PTX on a GPU, as loops over a warp's registers on the fake device.
 *
 * The latter follow the PTX ISA's fragment layouts to the letter ("Matrix Fragments for mma.m16n8k32", "ldmatrix"), so that a wrong lane
 * mapping in a kernel gives wrong numbers there, too. cp.async copies when it is waited for, and until then its target holds garbage, so that
 * a missing wait or barrier shows.
 */
#define LANE ((int)(threadIdx.x & 31))

#ifndef ASSAY_FAKE

__device__ __forceinline__ u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

/* Four 8 x 16-byte matrices; lane i names the row i % 8 of matrix i / 8. r[j]: bytes 4 * (lane % 4) .. + 3 of row lane / 4 of matrix j. */
__device__ __forceinline__ void ldmatrix(u32 r[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

/* c += a . b for 16 x 32 times 32 x 8 bytes, modulo 2^32. */
__device__ __forceinline__ void mma_s8(i32 c[4], const u32 a[4], const u32 b[2]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* c += a . b for 16 x 16 times 16 x 8 numbers of bf16. */
__device__ __forceinline__ void mma_bf16(float c[4], const u32 a[4], const u32 b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#if FP8
/* c += a . b for 16 x 32 times 32 x 8 numbers of e4m3 (PTX ISA 8.4, sm_89 and later). */
__device__ __forceinline__ void mma_e4m3(float c[4], const u32 a[4], const u32 b[2]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

/* 16 bytes from global to shared memory, past L1; there after async_wait. */
__device__ __forceinline__ void async_copy(void *to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" : : "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)) : "memory");
}
__device__ __forceinline__ void async_commit() { asm volatile("cp.async.commit_group;" : : : "memory"); }
/* Until at most LEFT of this thread's groups are under way. */
template <int LEFT> __device__ __forceinline__ void async_wait() { asm volatile("cp.async.wait_group %0;" : : "n"(LEFT) : "memory"); }

#else

/* Each lane brings the row that it names as that is when it comes, so that a barrier that is missing before shows. */
static void ldmatrix(u32 r[4], const void *row) {
    struct sixteen { u32 word[4]; } mine;
    memcpy(mine.word, row, sizeof mine.word);
    auto all = shim::exchange(ALL_LANES, mine);
    for (int j = 0; j < 4; j++) r[j] = shim::of_lane<sixteen>(all, 8 * j + LANE / 4).word[LANE % 4];
}

static void mma_s8(i32 c[4], const u32 a[4], const u32 b[2]) {
    struct fragment { u32 a[4], b[2]; } mine;
    memcpy(mine.a, a, sizeof mine.a);
    memcpy(mine.b, b, sizeof mine.b);
    auto all = shim::exchange(ALL_LANES, mine);
    for (int i = 0; i < 4; i++) { /* lane = 4 group + member. C: row group (+ 8 from i = 2 on), column 2 member + i % 2 */
        int row = i / 2, column = LANE % 4 * 2 + i % 2;
        for (int member = 0; member < 4; member++) { /* k = 4 member .. + 3; 16 more in A's registers 2 and 3 and B's 1; row + 8 in A's 1 and 3 */
            fragment of_a = shim::of_lane<fragment>(all, LANE / 4 * 4 + member), of_b = shim::of_lane<fragment>(all, column * 4 + member);
            c[i] = __dp4a((int)of_a.a[row], (int)of_b.b[0], c[i]);
            c[i] = __dp4a((int)of_a.a[row + 2], (int)of_b.b[1], c[i]);
        }
    }
}

/* The accumulator of an emulated tensor core: the sum of all products and c is exact, then cut to so many bits. A test may say that it is
 * narrower; then what is that much smaller than the largest of them is cut off before they are added. */
#ifndef ACCUMULATOR
#define ACCUMULATOR 24
#endif
#ifndef ACCUMULATOR_FP8
#define ACCUMULATOR_FP8 ACCUMULATOR
#endif

template <int COUNT> static float accumulated(const double (&terms)[COUNT], int bits) {
    double largest = 0, sum = 0;
    int e;
    for (double t : terms) largest = fabs(t) > largest ? fabs(t) : largest;
    frexp(largest, &e);
    double many = ldexp(1, bits - e);
    for (double t : terms) sum += bits < 24 ? (double)(long long)(t * many) / many : t;
    frexp(sum, &e);
    many = ldexp(1, bits - e);
    return (float)((double)(long long)(sum * many) / many);
}

static void mma_bf16(float c[4], const u32 a[4], const u32 b[2]) {
    struct fragment { u32 a[4], b[2]; } mine;
    memcpy(mine.a, a, sizeof mine.a);
    memcpy(mine.b, b, sizeof mine.b);
    auto all = shim::exchange(ALL_LANES, mine);
    for (int i = 0; i < 4; i++) { /* lane = 4 group + member. C as above; k = 2 member, + 1, and 8 more in A's registers 2 and 3 and B's 1 */
        int row = i / 2, column = LANE % 4 * 2 + i % 2;
        double terms[17] = {c[i]};
        for (int member = 0; member < 4; member++) {
            fragment of_a = shim::of_lane<fragment>(all, LANE / 4 * 4 + member), of_b = shim::of_lane<fragment>(all, column * 4 + member);
            for (int k = 0; k < 4; k++) {
                u32 x = of_a.a[row + k / 2 * 2] >> 16 * (k % 2), y = of_b.b[k / 2] >> 16 * (k % 2);
                terms[1 + 4 * member + k] = (double)__uint_as_float(x << 16) * __uint_as_float(y << 16);
            }
        }
        c[i] = accumulated(terms, ACCUMULATOR);
    }
}

/* Sign, four bits of exponent (bias 7), three of fraction; no infinities; all ones is NaN. */
static double of_e4m3(u32 byte) {
    int e = (int)(byte >> 3 & 15), m = (int)(byte & 7);
    double size = e == 15 && m == 7 ? (double)NAN : e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
    return byte & 128 ? -size : size;
}

static void mma_e4m3(float c[4], const u32 a[4], const u32 b[2]) {
    struct fragment { u32 a[4], b[2]; } mine;
    static double value[256];
    if (!value[1]) for (u32 i = 0; i < 256; i++) value[i] = of_e4m3(i);
    memcpy(mine.a, a, sizeof mine.a);
    memcpy(mine.b, b, sizeof mine.b);
    auto all = shim::exchange(ALL_LANES, mine);
    for (int i = 0; i < 4; i++) { /* laid out as for mma_s8 */
        int row = i / 2, column = LANE % 4 * 2 + i % 2;
        double terms[33] = {c[i]};
        for (int member = 0; member < 4; member++) {
            fragment of_a = shim::of_lane<fragment>(all, LANE / 4 * 4 + member), of_b = shim::of_lane<fragment>(all, column * 4 + member);
            for (int k = 0; k < 8; k++)
                terms[1 + 8 * member + k] = value[of_a.a[row + k / 4 * 2] >> 8 * (k % 4) & 255] * value[of_b.b[k / 4] >> 8 * (k % 4) & 255];
        }
        c[i] = accumulated(terms, ACCUMULATOR_FP8);
    }
}

struct async_one { void *to; const void *from; };
static struct { async_one copies[8][256]; int count[8], first, open; } async_state[1024];

static void async_copy(void *to, const void *from) {
    auto &mine = async_state[threadIdx.x];
    int &n = mine.count[mine.open % 8];
    if ((size_t)to % 16 || (size_t)from % 16) shim::fail("cp.async of 16 bytes that are not aligned");
    if (n >= 256) { shim::fail("more copies under way than the emulation holds"); return; }
    memset(to, 0x81, 16);
    mine.copies[mine.open % 8][n++] = {to, from};
}
static void async_commit() {
    auto &mine = async_state[threadIdx.x];
    if (++mine.open - mine.first >= 8) shim::fail("more groups under way than the emulation holds");
}
template <int LEFT> static void async_wait() {
    auto &mine = async_state[threadIdx.x];
    for (; mine.open - mine.first > LEFT; mine.first++) {
        int g = mine.first % 8;
        for (int i = 0; i < mine.count[g]; i++) memcpy(mine.copies[g][i].to, mine.copies[g][i].from, 16);
        mine.count[g] = 0;
    }
}

#endif
