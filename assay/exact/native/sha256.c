/* SHA-256 (FIPS 180-4), with the SHA instructions where they are, and the Merkle tree of docs/protocol.md over 1 KiB chunks. */
/* The SHA instructions have no VEX encoding. Among AVX instructions, while the upper halves of the vector registers were in use, each of them
   took some hundred cycles on a Zen 3 (a message alone 90 times as long). So nothing here uses AVX: that this avoids it was measured. */
#if defined(__SHA__) && !defined(__clang__)
#pragma GCC target("no-avx")
#endif
#include "assay.h"
#include <stdlib.h>
#if defined(__SHA__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("no-avx"))), apply_to = function)
#endif
#elif defined(__ARM_FEATURE_SHA2)
#include <arm_neon.h>
#endif

const uint32_t assay_sha256_start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
static const uint32_t ROUND[64] __attribute__((aligned(64))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/* LANES independent messages of equally many blocks at once: the SHA instructions take some cycles each, and two chains hide that. */
#define LANES ASSAY_HASHES
#define EACH_LANE _Pragma("GCC unroll 2") for (int l = 0; l < lanes; l++)

#if defined(__SHA__)
/* State words in the order the instructions want: (ABEF, CDGH). */
static inline __attribute__((always_inline)) void compress_lanes(uint32_t (*state)[8], const uint8_t *const *blocks, size_t count, const int lanes) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i abef[LANES], cdgh[LANES], abef0[LANES], cdgh0[LANES], w[LANES][4];
    EACH_LANE {
        __m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state[l]), 0xb1);
        __m128i high = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state[l] + 4)), 0x1b);
        abef[l] = _mm_alignr_epi8(low, high, 8);
        cdgh[l] = _mm_blend_epi16(high, low, 0xf0);
    }
    for (size_t b = 0; b < count; b++) {
        EACH_LANE {
            abef0[l] = abef[l];
            cdgh0[l] = cdgh[l];
            for (int i = 0; i < 4; i++) w[l][i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(blocks[l] + 64 * b) + i), swap);
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            const __m128i constants = _mm_load_si128((const __m128i *)ROUND + i);
            EACH_LANE {
                __m128i k = _mm_add_epi32(w[l][i & 3], constants);
                cdgh[l] = _mm_sha256rnds2_epu32(cdgh[l], abef[l], k);
                abef[l] = _mm_sha256rnds2_epu32(abef[l], cdgh[l], _mm_shuffle_epi32(k, 0x0e));
                if (i < 12) {
                    __m128i t = _mm_sha256msg1_epu32(w[l][i & 3], w[l][(i + 1) & 3]);
                    t = _mm_add_epi32(t, _mm_alignr_epi8(w[l][(i + 3) & 3], w[l][(i + 2) & 3], 4));
                    w[l][i & 3] = _mm_sha256msg2_epu32(t, w[l][(i + 3) & 3]);
                }
            }
        }
        EACH_LANE {
            abef[l] = _mm_add_epi32(abef[l], abef0[l]);
            cdgh[l] = _mm_add_epi32(cdgh[l], cdgh0[l]);
        }
    }
    EACH_LANE {
        __m128i feba = _mm_shuffle_epi32(abef[l], 0x1b), dchg = _mm_shuffle_epi32(cdgh[l], 0xb1);
        _mm_storeu_si128((__m128i *)state[l], _mm_blend_epi16(feba, dchg, 0xf0));
        _mm_storeu_si128((__m128i *)(state[l] + 4), _mm_alignr_epi8(dchg, feba, 8));
    }
}
#elif defined(__ARM_FEATURE_SHA2)
static inline __attribute__((always_inline)) void compress_lanes(uint32_t (*state)[8], const uint8_t *const *blocks, size_t count, const int lanes) {
    uint32x4_t abcd[LANES], efgh[LANES], abcd0[LANES], efgh0[LANES], w[LANES][4];
    EACH_LANE {
        abcd[l] = vld1q_u32(state[l]);
        efgh[l] = vld1q_u32(state[l] + 4);
    }
    for (size_t b = 0; b < count; b++) {
        EACH_LANE {
            abcd0[l] = abcd[l];
            efgh0[l] = efgh[l];
            for (int i = 0; i < 4; i++) w[l][i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(blocks[l] + 64 * b + 16 * i)));
        }
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            const uint32x4_t constants = vld1q_u32(ROUND + 4 * i);
            EACH_LANE {
                uint32x4_t k = vaddq_u32(w[l][i & 3], constants), before = abcd[l];
                abcd[l] = vsha256hq_u32(before, efgh[l], k);
                efgh[l] = vsha256h2q_u32(efgh[l], before, k);
                if (i < 12) w[l][i & 3] = vsha256su1q_u32(vsha256su0q_u32(w[l][i & 3], w[l][(i + 1) & 3]), w[l][(i + 2) & 3], w[l][(i + 3) & 3]);
            }
        }
        EACH_LANE {
            abcd[l] = vaddq_u32(abcd[l], abcd0[l]);
            efgh[l] = vaddq_u32(efgh[l], efgh0[l]);
        }
    }
    EACH_LANE {
        vst1q_u32(state[l], abcd[l]);
        vst1q_u32(state[l] + 4, efgh[l]);
    }
}
#else
static inline uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

static inline __attribute__((always_inline)) void compress_lanes(uint32_t (*state)[8], const uint8_t *const *blocks, size_t count, const int lanes) {
    for (int l = 0; l < lanes; l++)
        for (size_t b = 0; b < count; b++) {
            const uint8_t *p = blocks[l] + 64 * b;
            uint32_t w[16], s[8];
            for (int i = 0; i < 16; i++)
                w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
            memcpy(s, state[l], sizeof s);
#pragma GCC unroll 64
            for (int i = 0; i < 64; i++) {
                if (i >= 16) {
                    uint32_t x = w[(i + 1) & 15], y = w[(i + 14) & 15];
                    w[i & 15] += (rotate(x, 7) ^ rotate(x, 18) ^ x >> 3) + w[(i + 9) & 15] + (rotate(y, 17) ^ rotate(y, 19) ^ y >> 10);
                }
                /* Instead of moving the eight words along, their names move: a is s[-i mod 8]. */
#define S(n) s[(n - i) & 7]
                uint32_t t = S(7) + (rotate(S(4), 6) ^ rotate(S(4), 11) ^ rotate(S(4), 25)) + ((S(4) & S(5)) ^ (~S(4) & S(6))) + ROUND[i] + w[i & 15];
                S(3) += t;
                S(7) = t + (rotate(S(0), 2) ^ rotate(S(0), 13) ^ rotate(S(0), 22)) + ((S(0) & S(1)) ^ (S(0) & S(2)) ^ (S(1) & S(2)));
            }
            for (int i = 0; i < 8; i++) state[l][i] += s[i];
        }
}
#endif

void assay_sha256_blocks(uint32_t (*state)[8], const uint8_t *const *blocks, size_t count, int lanes) {
    if (lanes == LANES) compress_lanes(state, blocks, count, LANES);
    else compress_lanes(state, blocks, count, 1);
}

static void put(const uint32_t state[8], uint8_t out[32]) {
    for (int i = 0; i < 32; i++) out[i] = (uint8_t)(state[i / 4] >> (24 - i % 4 * 8));
}

/* The hashes of `lanes` messages of `size` bytes, one after another. */
static inline __attribute__((always_inline)) void messages(const uint8_t *data, size_t size, uint8_t *out, const int lanes) {
    uint32_t state[LANES][8];
    uint8_t tail[LANES][128] = {{0}};
    const uint8_t *at[LANES];
    const size_t whole = size / 64, rest = size % 64, blocks = rest < 56 ? 1 : 2;
    for (int l = 0; l < lanes; l++) {
        memcpy(state[l], assay_sha256_start, sizeof state[l]);
        at[l] = data + l * size;
    }
    compress_lanes(state, at, whole, lanes);
    for (int l = 0; l < lanes; l++) {
        if (rest) memcpy(tail[l], at[l] + whole * 64, rest);
        tail[l][rest] = 0x80;
        for (int i = 0; i < 8; i++) tail[l][blocks * 64 - 1 - i] = (uint8_t)((uint64_t)size * 8 >> 8 * i);
        at[l] = tail[l];
    }
    compress_lanes(state, at, blocks, lanes);
    for (int l = 0; l < lanes; l++) put(state[l], out + 32 * l);
}

void assay_sha256(const uint8_t *data, size_t size, uint8_t out[32]) { messages(data, size, out, 1); }

/* The hashes of `n` messages of `size` bytes each that lie in a row. */
void assay_sha256_row(const uint8_t *data, size_t size, size_t n, uint8_t *out) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) messages(data + i * size, size, out + 32 * i, LANES);
    for (; i < n; i++) messages(data + i * size, size, out + 32 * i, 1);
}

#define CHUNK 1024

/* SHA256(0x00 | index u64 | 1024 bytes) of `lanes` chunks from `index` on; `size` is what is left of the data at the first. */
static inline __attribute__((always_inline)) void leaves(uint64_t index, const uint8_t *data, size_t size, uint8_t *out, const int lanes) {
    uint8_t block[LANES][17 * 64];
    uint32_t state[LANES][8];
    const uint8_t *at[LANES];
    for (int l = 0; l < lanes; l++) {
        size_t here = size - (size_t)l * CHUNK < CHUNK ? size - (size_t)l * CHUNK : CHUNK;
        memset(block[l] + 9 + here, 0, sizeof block[l] - 9 - here);
        block[l][0] = 0;
        for (int i = 0; i < 8; i++) block[l][1 + i] = (uint8_t)((index + (uint64_t)l) >> (56 - 8 * i));
        memcpy(block[l] + 9, data + l * CHUNK, here);
        block[l][9 + CHUNK] = 0x80;
        block[l][sizeof block[l] - 2] = (9 + CHUNK) * 8 >> 8;
        block[l][sizeof block[l] - 1] = (uint8_t)((9 + CHUNK) * 8);
        memcpy(state[l], assay_sha256_start, sizeof state[l]);
        at[l] = block[l];
    }
    compress_lanes(state, at, 17, lanes);
    for (int l = 0; l < lanes; l++) put(state[l], out + 32 * l);
}

/* SHA256(0x01 | left | right) of `lanes` neighbouring pairs of hashes; `out` may be where they are. */
static inline __attribute__((always_inline)) void nodes(const uint8_t *pairs, uint8_t *out, const int lanes) {
    uint8_t block[LANES][128] = {{0}};
    uint32_t state[LANES][8];
    const uint8_t *at[LANES];
    for (int l = 0; l < lanes; l++) {
        block[l][0] = 1;
        memcpy(block[l] + 1, pairs + 64 * l, 64);
        block[l][65] = 0x80;
        block[l][126] = 65 * 8 >> 8;
        block[l][127] = (uint8_t)(65 * 8);
        memcpy(state[l], assay_sha256_start, sizeof state[l]);
        at[l] = block[l];
    }
    compress_lanes(state, at, 2, lanes);
    for (int l = 0; l < lanes; l++) put(state[l], out + 32 * l);
}

/* Hashes a row of `n` up to its root, in place; it has room for one more hash. `pad` begins with the pad of this level. */
static void climb(uint8_t *row, size_t n, uint8_t pad[64]) {
    for (; n > 1; n = (n + 1) / 2) {
        size_t i = 0;
        if (n % 2) memcpy(row + 32 * n, pad, 32);
        for (; i + 2 * LANES <= n + n % 2; i += 2 * LANES) nodes(row + 32 * i, row + 16 * i, LANES);
        for (; i < n; i += 2) nodes(row + 32 * i, row + 16 * i, 1);
        memcpy(pad + 32, pad, 32);
        nodes(pad, pad, 1);
    }
}

typedef struct { const uint8_t *data; size_t size, n; uint8_t *row, *above; uint64_t first; } tree;

static void leaves_part(void *argument, int part, int parts) {
    tree *t = argument;
    word from, to;
    share((word)t->n, LANES, part, parts, &from, &to);
    size_t i = (size_t)from;
    for (; i + LANES <= (size_t)to; i += LANES) leaves(t->first + i, t->data + i * CHUNK, t->size - i * CHUNK, t->row + 32 * i, LANES);
    for (; i < (size_t)to; i++) leaves(t->first + i, t->data + i * CHUNK, t->size - i * CHUNK, t->row + 32 * i, 1);
}

/* The first level of nodes, half of all there are, over an even number of leaves. */
static void nodes_part(void *argument, int part, int parts) {
    tree *t = argument;
    word from, to;
    share((word)t->n / 2, LANES, part, parts, &from, &to);
    word i = from;
    for (; i + LANES <= to; i += LANES) nodes(t->row + 64 * i, t->above + 32 * i, LANES);
    for (; i < to; i++) nodes(t->row + 64 * i, t->above + 32 * i, 1);
}

/* Merkle root over the chunks of `size` bytes, the last padded with zeros. -1: out of memory. */
int assay_chunk_root(const uint8_t *data, size_t size, uint8_t out[32], int threads) {
    static const uint8_t empty = 3, pad_tag = 2;
    size_t n = (size + CHUNK - 1) / CHUNK;
    if (n == 0) { assay_sha256(&empty, 1, out); return 0; }
    uint8_t pad[64], *row = malloc(n * 48 + 96), *all = row;
    if (!row) return -1;
    tree t = {data, size, n, row, row + n * 32 + 32, 0};
    if (n < 64) threads = 1;
    assay_parallel(threads, leaves_part, &t);
    assay_sha256(&pad_tag, 1, pad);
    if (threads > 1) {
        if (n % 2) memcpy(row + 32 * t.n++, pad, 32);
        assay_parallel(threads, nodes_part, &t);
        memcpy(pad + 32, pad, 32);
        nodes(pad, pad, 1);
        row = t.above;
        n = t.n / 2;
    }
    climb(row, n, pad);
    memcpy(out, row, 32);
    free(all);
    return 0;
}

/* Hashes of the chunks of `size` bytes, the first of which is chunk `first` of a tensor: 32 bytes each, to `out`. */
void assay_chunk_leaves(const uint8_t *data, size_t size, uint64_t first, uint8_t *out, int threads) {
    size_t n = (size + CHUNK - 1) / CHUNK;
    tree t = {data, size, n, out, NULL, first};
    assay_parallel(n < 64 ? 1 : threads, leaves_part, &t);
}

/* Merkle root over a row of n > 0 such hashes, which has room for one more and is written over. */
void assay_row_root(uint8_t *row, size_t n, uint8_t out[32]) {
    static const uint8_t pad_tag = 2;
    uint8_t pad[64];
    assay_sha256(&pad_tag, 1, pad);
    climb(row, n, pad);
    memcpy(out, row, 32);
}

#if defined(__SHA__) && defined(__clang__)
#pragma clang attribute pop
#endif
