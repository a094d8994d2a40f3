/* hopper.cuh on the fake device: what is asynchronous happens as late as it may, and at places in no order.
 *
 * A bulk copy fills its targets with garbage at once and brings their bytes only when every thread waits for something; of the copies that are under way
 * any may be next, and each block of a cluster gets its own at another time. Products of a warpgroup are made when they are waited for, from
 * what then lies in shared memory, and in the registers that were given. So a slot that is read before its barrier says so, filled again before all have
 * read it, a fragment that is written again before its wait, or a sum that is read before, gives wrong numbers; and what never comes ends as a barrier that is never reached. Addresses, descriptors, swizzle and the layout of
 * sums are decoded as the PTX ISA has them; shared memory begins at an address that is no multiple of what the swizzle asks for.
 */
#define CLUSTERED(blocks)

namespace shim {

const unsigned WINDOW = 128; /* address of the first byte of a block's shared memory */
const unsigned char UNDER_WAY = 0x81;
const uint64_t MADE = 0x6d62617272696572ull;

struct counted { unsigned at, phase; int expected, pending; long bytes; }; /* a barrier */
struct copy { unsigned to, bytes, barrier, block; const void *from; };
struct pending_product { int *d; const unsigned *fragment; uint64_t a, b; unsigned group; }; /* A from registers where there is a fragment */
struct fragment_of_a { unsigned r[4]; };
struct own_products { pending_product all[128]; unsigned count, open; bool fenced; };

static counted counters[MAX_CLUSTER][64];
static unsigned made[MAX_CLUSTER], meeting, met, partly[MAX_CLUSTER], parts[MAX_CLUSTER], gone[MAX_CLUSTER], going[MAX_CLUSTER];
static unsigned fetching[MAX_CLUSTER], fetched[MAX_CLUSTER];
static copy copies[1024];
static unsigned copying, dice;
static own_products queued[FIBRES];

static unsigned char *place_of(unsigned block, unsigned at, unsigned bytes) {
    if (at < WINDOW || at - WINDOW + bytes > asked) { fail("shared memory that the block does not have"); return dynamic[block]; }
    return dynamic[block] + (at - WINDOW);
}

static counted *counter(unsigned block, unsigned at) {
    uint64_t mark;
    memcpy(&mark, place_of(block, at, 8), 8);
    for (unsigned i = 0; i < made[block]; i++) if (counters[block][i].at == at && mark == MADE) return &counters[block][i];
    fail("a barrier that was not made, or was written over");
    return &counters[block][63];
}

static void count(counted *c) { if (!c->pending && !c->bytes) c->phase++, c->pending = c->expected; }

/* One of the copies that are under way comes. */
static bool bring() {
    if (!copying) return false;
    dice = dice * 1103515245u + 12345u;
    unsigned i = (dice >> 16) % copying;
    copy one = copies[i];
    copies[i] = copies[--copying];
    memcpy(place_of(one.block, one.to, one.bytes), one.from, one.bytes);
    counted *c = counter(one.block, one.barrier);
    c->bytes -= one.bytes;
    count(c);
    return true;
}

static void begin_hopper() {
    copying = meeting = met = 0;
    memset(made, 0, sizeof made);
    memset(partly, 0, sizeof partly);
    memset(parts, 0, sizeof parts);
    memset(fetching, 0, sizeof fetching);
    memset(fetched, 0, sizeof fetched);
    memset(gone, 0, sizeof gone);
    memset(going, 0, sizeof going);
    memset(queued, 0, sizeof queued);
}
static void end_hopper() {
    if (copying && !error) error = "a copy that nobody waited for";
    for (unsigned t = 0; t < together && !error; t++) if (queued[t].count) error = "a product that nobody waited for";
}
static struct hooked { hooked() { begin = begin_hopper, end = end_hopper, late = bring; } } hook;

/* Where byte k of a row lies: by the descriptor's start and distance of 8 rows, then bits 4-6 of the address exchanged by its bits 7-9 (rows of 128 bytes),
 * or bits 4-5 by its bits 7-8 (rows of 64). */
static const unsigned char *of_matrix(uint64_t descriptor, unsigned row, unsigned k) {
    unsigned start = (unsigned)(descriptor & 0x3fff) << 4, eight = (unsigned)(descriptor >> 32 & 0x3fff) << 4, kind = (unsigned)(descriptor >> 62);
    if ((kind != 1 && kind != 2) || descriptor >> 49 & 7) fail("a matrix descriptor without a swizzle of 128 or 64 bytes, or with an offset of its base");
    unsigned at = start + row / 8 * eight + row % 8 * (kind == 1 ? 128 : 64) + k;
    return place_of(own_block(), at ^ (at >> 7 & (kind == 1 ? 7 : 3)) << 4, 16);
}

__attribute__((optimize("O3"))) static int dot(const signed char *a, const signed char *b) {
    int sum = 0;
    for (int k = 0; k < 32; k++) sum += a[k] * b[k];
    return sum;
}

/* A thread's part of 64 x columns x 32: D's register 4 j + 2 h + e is row 16 (warp % 4) + lane / 4 + 8 h, column 8 j + 2 (lane % 4) + e. A's register
 * 2 u + h of lane 4 g + t is bytes 16 u + 4 t .. + 3 of row 16 (warp % 4) + g + 8 h. */
static void multiply(const pending_product &p, int columns) {
    unsigned lane = current % 32, row = threadIdx.x % 128 / 32 * 16 + lane / 4;
    signed char a[2][32], b[32];
    if (p.fragment) {
        fragment_of_a mine;
        memcpy(mine.r, p.fragment, sizeof mine.r);
        auto all = exchange(0xffffffffu, mine);
        for (unsigned i = 0; i < 16; i++) {
            fragment_of_a other = of_lane<fragment_of_a>(all, lane / 4 * 4 + i % 4);
            memcpy(a[i / 4 % 2] + i / 8 * 16 + i % 4 * 4, &other.r[i / 4], 4);
        }
    } else for (unsigned i = 0; i < 4; i++) memcpy(a[i / 2] + i % 2 * 16, of_matrix(p.a, row + i / 2 * 8, i % 2 * 16), 16);
    for (int j = 0; j < columns / 4; j++) {
        unsigned column = (unsigned)j / 2 * 8 + lane % 4 * 2 + j % 2;
        for (unsigned i = 0; i < 2; i++) memcpy(b + i * 16, of_matrix(p.b, column, i * 16), 16);
        for (int h = 0; h < 2; h++) {
            int &d = p.d[j / 2 * 4 + h * 2 + j % 2];
            d = (int)((unsigned)d + (unsigned)dot(a[h], b));
        }
    }
}

} /* namespace shim */

static u32 shared_address(const void *p) { return (u32)((const unsigned char *)p - shim::dynamic[shim::own_block()]) + shim::WINDOW; }
static u32 cluster_rank() { return shim::own_block(); }

static void shim_meet(unsigned *arrived, unsigned *generation, unsigned all) {
    if (++*arrived == all) *arrived = 0, ++*generation;
    else shim::wait_for(generation, *generation);
}
static void cluster_meet() { shim_meet(&shim::met, &shim::meeting, shim::together); }
template <int THREADS_> static void consumers_meet() { shim_meet(&shim::partly[shim::own_block()], &shim::parts[shim::own_block()], THREADS_); }

template <int THREADS_> static void fetchers_meet() { shim_meet(&shim::fetching[shim::own_block()], &shim::fetched[shim::own_block()], THREADS_); }

template <int THREADS_> static void ahead_goes() {
    unsigned block = shim::own_block();
    if (++shim::gone[block] == THREADS_) shim::gone[block] = 0, shim::going[block]++;
}
template <int THREADS_> static void ahead_waited() { shim_meet(&shim::gone[shim::own_block()], &shim::going[shim::own_block()], THREADS_); }

static void barrier_init(u32 at, u32 arrivals) {
    unsigned block = shim::own_block();
    if (at % 8 || shim::made[block] == 63) { shim::fail("a barrier at an address that is no multiple of 8, or too many"); return; }
    memcpy(shim::place_of(block, at, 8), &shim::MADE, 8);
    shim::counters[block][shim::made[block]++] = {at, 0, (int)arrivals, (int)arrivals, 0};
}
static void barriers_made() {}
static void shim_arrive(shim::counted *c) {
    if (c->pending-- <= 0) shim::fail("more arrivals at a barrier than it was made for");
    shim::count(c);
}
static void barrier_expect(u32 at, u32 bytes) {
    shim::counted *c = shim::counter(shim::own_block(), at);
    c->bytes += bytes;
    shim_arrive(c);
}
static void barrier_arrive(u32 at, u32 rank) {
    if (rank >= gridDim.x || rank * shim::threads >= shim::together) { shim::fail("a block that the cluster does not have"); return; }
    shim_arrive(shim::counter(rank, at));
}
static void barrier_wait(u32 at, u32 parity, bool &) {
    shim::counted *c = shim::counter(shim::own_block(), at);
    while ((c->phase & 1) == parity) shim::wait_for(&c->phase, c->phase);
}

template <bool SEVERAL> static void bulk_copy(u32 to, const void *from, u32 bytes, u32 barrier, u32 blocks) {
    if (to % 16 || (size_t)from % 16 || bytes % 16 || !bytes) shim::fail("a bulk copy that is not aligned to 16 bytes");
    for (unsigned block = 0; block < shim::together / shim::threads; block++) {
        if (SEVERAL ? !(blocks >> block & 1) : block != shim::own_block()) continue;
        if (shim::copying == 1024) { shim::fail("more copies under way than the emulation holds"); return; }
        memset(shim::place_of(block, to, bytes), shim::UNDER_WAY, bytes);
        shim::copies[shim::copying++] = {to, bytes, barrier, block, from};
    }
    if (SEVERAL && blocks >> (shim::together / shim::threads)) shim::fail("a copy to a block that the cluster does not have");
}

template <int REGISTERS> static void registers_more() {}
template <int REGISTERS> static void registers_less() {}
static void not_before(i32 &) {}
static int lane_now() { return LANE; }
static void fragment_load(u32 r[4], u32 row) {
    if (row % 16) shim::fail("a row of a fragment at an address that is no multiple of 16");
    auto all = shim::exchange(ALL_LANES, (const unsigned char *)shim::place_of(shim::own_block(), row, 16));
    for (int j = 0; j < 4; j++) memcpy(&r[j], shim::of_lane<const unsigned char *>(all, 8 * j + LANE / 4) + 4 * (LANE % 4), 4);
}
static void group_begin() { shim::queued[shim::current].fenced = true; }
static void group_end() {
    shim::own_products &mine = shim::queued[shim::current];
    mine.open++;
    mine.fenced = false;
}
static void shim_multiply(i32 d[TN / 2], const u32 *fragment, u64 a, u64 b) {
    shim::own_products &mine = shim::queued[shim::current];
    if (!mine.fenced) shim::fail("a warpgroup's product without a fence before its group");
    if (mine.count == 128) { shim::fail("more products under way than the emulation holds"); return; }
    mine.all[mine.count++] = {d, fragment, a, b, mine.open};
}
static void group_multiply(i32 d[TN / 2], u64 a, u64 b) { shim_multiply(d, 0, a, b); }
static void group_multiply(i32 d[TN / 2], const u32 a[4], u64 b) { shim_multiply(d, a, 0, b); }
template <int LEFT> static void group_wait() {
    shim::own_products &mine = shim::queued[shim::current];
    unsigned n = 0;
    for (; n < mine.count && mine.all[n].group + LEFT < mine.open; n++) shim::multiply(mine.all[n], TN);
    memmove(mine.all, mine.all + n, (mine.count - n) * sizeof mine.all[0]);
    mine.count -= n;
    __syncwarp();
}
