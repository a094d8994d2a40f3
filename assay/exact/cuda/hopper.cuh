/* What the products of compute capability 9.0 (sm_90a) use beside ordinary CUDA: barriers in shared memory that count arrivals and bytes (mbarrier),
 * bulk copies that end at one, for several blocks of a cluster at once, and products by four warps together (wgmma). PTX on a GPU; on the fake device
 * shim_hopper.h has the same names.
 *
 * From the PTX ISA: "mbarrier", "cp.async.bulk", "Asynchronous Warpgroup Level Matrix Instructions" (matrix descriptors, the 128-byte swizzle,
 * the layout of D), "setmaxnreg", "barrier.cluster".
 */
#define LANE ((int)(threadIdx.x & 31))
#define WARP ((int)(threadIdx.x >> 5))

#ifdef ASSAY_FAKE
#include "shim_hopper.h"
#else
#define CLUSTERED(blocks) __cluster_dims__(blocks, 1, 1)
#define GIVE_UP (1u << 18) /* tries, each of which the hardware suspends for a while; a wait takes microseconds */

__device__ __forceinline__ u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

/* ---- clusters ---- */

__device__ __forceinline__ u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
/* All threads of all blocks of a cluster meet; what was written to shared memory before is seen by all after. */
__device__ __forceinline__ void cluster_meet() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" : : : "memory");
}

/* THREADS of a block meet, always the same ones. */
template <int THREADS> __device__ __forceinline__ void consumers_meet() { asm volatile("bar.sync 1, %0;" : : "n"(THREADS) : "memory"); }
template <int THREADS> __device__ __forceinline__ void fetchers_meet() { asm volatile("bar.sync 3, %0;" : : "n"(THREADS) : "memory"); }
/* Some threads go on; the others wait until these have come here. THREADS: both together. */
template <int THREADS> __device__ __forceinline__ void ahead_goes() { asm volatile("bar.arrive 2, %0;" : : "n"(THREADS) : "memory"); }
template <int THREADS> __device__ __forceinline__ void ahead_waited() { asm volatile("bar.sync 2, %0;" : : "n"(THREADS) : "memory"); }

/* ---- barriers ---- */

__device__ __forceinline__ void barrier_init(u32 at, u32 arrivals) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" : : "r"(at), "r"(arrivals) : "memory"); }
/* Barriers that were made are seen by the other blocks and by copies (before cluster_meet). */
__device__ __forceinline__ void barriers_made() { asm volatile("fence.mbarrier_init.release.cluster;" : : : "memory"); }
/* One arrival, and so many bytes are to come in this phase. */
__device__ __forceinline__ void barrier_expect(u32 at, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" : : "r"(at), "r"(bytes) : "memory");
}
/* One arrival at the barrier that lies at the same place in block `rank` of the cluster. */
__device__ __forceinline__ void barrier_arrive(u32 at, u32 rank) {
    asm volatile("{\n\t.reg .b32 there;\n\tmapa.shared::cluster.u32 there, %0, %1;\n\tmbarrier.arrive.shared::cluster.b64 _, [there];\n\t}"
                 : : "r"(at), "r"(rank) : "memory");
}
/* Until the phase of this parity is over. One that never ends is given up, and all later ones with it: the product is then wrong, which its checksum
 * finds, but the device is not lost. */
__device__ __forceinline__ void barrier_wait(u32 at, u32 parity, bool &lost) {
    u32 done = 0;
    for (u32 tries = 0; !done && !lost; tries++) {
        asm volatile("{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(done) : "r"(at), "r"(parity) : "memory");
        lost = tries >= GIVE_UP;
    }
}

/* ---- copies ---- */

/* `bytes` (a multiple of 16) from global memory to the same place in all blocks of the cluster that `blocks` has bits of, ending at their barriers. */
template <bool SEVERAL> __device__ __forceinline__ void bulk_copy(u32 to, const void *from, u32 bytes, u32 barrier, u32 blocks) {
    if (SEVERAL)
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;"
                     : : "r"(to), "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier), "h"((unsigned short)blocks) : "memory");
    else
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                     : : "r"(to), "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier) : "memory");
}

/* ---- products by a warpgroup ---- */

/* What is made of x is made after this place. */
__device__ __forceinline__ void not_before(i32 &x) { asm volatile("" : "+r"(x) : : "memory"); }

/* LANE, asked anew wherever it is wanted: no register keeps what is made of it. */
__device__ __forceinline__ int lane_now() {
    int lane;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
    return lane;
}

/* Four 8 x 16-byte matrices of shared memory; lane i names the row i % 8 of matrix i / 8. r[j]: bytes 4 * (lane % 4) .. + 3 of row lane / 4 of matrix j.
 * Where matrices are rows 0-7 and 8-15 of bytes 0-15, then of bytes 16-31, that is the fragment of A of a warp (16 of the 64 rows). */
__device__ __forceinline__ void fragment_load(u32 r[4], u32 row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}

template <int REGISTERS> __device__ __forceinline__ void registers_more() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" : : "n"(REGISTERS)); }
template <int REGISTERS> __device__ __forceinline__ void registers_less() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" : : "n"(REGISTERS)); }
/* Before the first product of a group. */
__device__ __forceinline__ void group_begin() { asm volatile("wgmma.fence.sync.aligned;" : : : "memory"); }
__device__ __forceinline__ void group_end() { asm volatile("wgmma.commit_group.sync.aligned;" : : : "memory"); }
/* Until at most LEFT groups are under way. */
template <int LEFT> __device__ __forceinline__ void group_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" : : "n"(LEFT) : "memory"); }

/* d += a . b^T for 64 x 32 and TN x 32 bytes, modulo 2^32. D_PLACES, D_OPERANDS, DESCRIPTORS: written by product.py for TN. */
#define WGMMA_TEXT(n) WGMMA_TEXT_(n)
#define WGMMA_TEXT_(n) "wgmma.mma_async.sync.aligned.m64n" #n "k32.s32.s8.s8 {" D_PLACES "}, " DESCRIPTORS ", 1;"
__device__ __forceinline__ void group_multiply(i32 d[TN / 2], u64 a, u64 b) { asm volatile(WGMMA_TEXT(TN) : D_OPERANDS : "l"(a), "l"(b)); }

/* With A from registers, which stay as they are until a wait that covers this product. Lane 4 g + t of warp w: a[0] and a[1] are bytes 4 t .. + 3 of k
 * of rows 16 w + g and 16 w + g + 8; a[2] and a[3] the same of k + 16. FRAGMENT: its places, written like DESCRIPTORS. */
#define WGMMA_FRAGMENT_TEXT(n) WGMMA_FRAGMENT_TEXT_(n)
#define WGMMA_FRAGMENT_TEXT_(n) "wgmma.mma_async.sync.aligned.m64n" #n "k32.s32.s8.s8 {" D_PLACES "}, " FRAGMENT ", 1;"
__device__ __forceinline__ void group_multiply(i32 d[TN / 2], const u32 a[4], u64 b) {
    asm volatile(WGMMA_FRAGMENT_TEXT(TN) : D_OPERANDS : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
#endif

/* Names a matrix in shared memory whose rows are WIDTH bytes of k (128 or 64) that lie together, swizzled, from `at` on, which is a multiple of 32 within
 * a row of a place that is a multiple of 8 rows. Bits 0-13: address / 16. 16-29: not used in these layouts. 32-45: bytes from 8 rows to the next 8, / 16.
 * 62-63: the swizzle, 1 of 128 bytes, 2 of 64. */
__device__ __forceinline__ u64 matrix_at(u32 at) {
    return (u64)((at & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(8 * WIDTH >> 4) << 32 | (u64)(WIDTH == 128 ? 1 : 2) << 62;
}
