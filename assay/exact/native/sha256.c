/* SHA-256 (FIPS 180-4) and the Merkle tree of docs/protocol.md over 1 KiB chunks. */
#include "assay.h"
#include <stdlib.h>
#ifdef __SHA__
#include <immintrin.h>
#endif

static const uint32_t START[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
static const uint32_t ROUND[64] __attribute__((aligned(64))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

#ifdef __SHA__
/* State words in the order the instructions want: (ABEF, CDGH). */
static void compress(uint32_t state[8], const uint8_t *block, size_t blocks) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xb1);
    __m128i high = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1b);
    __m128i abef = _mm_alignr_epi8(low, high, 8), cdgh = _mm_blend_epi16(high, low, 0xf0);
    for (; blocks; blocks--, block += 64) {
        __m128i abef0 = abef, cdgh0 = cdgh, w[4];
        for (int i = 0; i < 4; i++) w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)block + i), swap);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            __m128i k = _mm_add_epi32(w[i & 3], _mm_load_si128((const __m128i *)ROUND + i));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, k);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(k, 0x0e));
            if (i < 12) {
                __m128i t = _mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]);
                t = _mm_add_epi32(t, _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4));
                w[i & 3] = _mm_sha256msg2_epu32(t, w[(i + 3) & 3]);
            }
        }
        abef = _mm_add_epi32(abef, abef0);
        cdgh = _mm_add_epi32(cdgh, cdgh0);
    }
    __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}
#else
static uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void compress(uint32_t state[8], const uint8_t *block, size_t blocks) {
    for (; blocks; blocks--, block += 64) {
        uint32_t w[64], s[8];
        for (int i = 0; i < 16; i++)
            w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
        for (int i = 16; i < 64; i++) {
            uint32_t a = w[i - 15], b = w[i - 2];
            w[i] = w[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + w[i - 7] + (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
        }
        memcpy(s, state, sizeof s);
        for (int i = 0; i < 64; i++) {
            uint32_t e = s[4], a = s[0];
            uint32_t t1 = s[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + ROUND[i] + w[i];
            uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
            memmove(s + 1, s, 7 * sizeof *s);
            s[4] += t1;
            s[0] = t1 + t2;
        }
        for (int i = 0; i < 8; i++) state[i] += s[i];
    }
}
#endif

static void put(const uint32_t state[8], uint8_t out[32]) {
    for (int i = 0; i < 32; i++) out[i] = (uint8_t)(state[i / 4] >> (24 - i % 4 * 8));
}

void assay_sha256(const uint8_t *data, size_t size, uint8_t out[32]) {
    uint32_t state[8];
    uint8_t tail[128] = {0};
    size_t whole = size / 64, rest = size % 64, blocks = rest < 56 ? 1 : 2;
    memcpy(state, START, sizeof state);
    compress(state, data, whole);
    if (rest) memcpy(tail, data + whole * 64, rest);
    tail[rest] = 0x80;
    for (int i = 0; i < 8; i++) tail[blocks * 64 - 1 - i] = (uint8_t)((uint64_t)size * 8 >> 8 * i);
    compress(state, tail, blocks);
    put(state, out);
}

#define CHUNK 1024

/* SHA256(0x00 | index u64 | 1024 bytes) */
static void leaf(uint64_t index, const uint8_t *data, size_t size, uint8_t out[32]) {
    uint8_t block[17 * 64];
    uint32_t state[8];
    memset(block + 9 + size, 0, sizeof block - 9 - size);
    block[0] = 0;
    for (int i = 0; i < 8; i++) block[1 + i] = (uint8_t)(index >> (56 - 8 * i));
    memcpy(block + 9, data, size);
    block[9 + CHUNK] = 0x80;
    block[sizeof block - 2] = (9 + CHUNK) * 8 >> 8;
    block[sizeof block - 1] = (uint8_t)((9 + CHUNK) * 8);
    memcpy(state, START, sizeof state);
    compress(state, block, 17);
    put(state, out);
}

/* SHA256(0x01 | left | right); `out` may be either. */
static void node(const uint8_t *left, const uint8_t *right, uint8_t out[32]) {
    uint8_t block[128] = {1};
    uint32_t state[8];
    memcpy(block + 1, left, 32);
    memcpy(block + 33, right, 32);
    block[65] = 0x80;
    block[126] = 65 * 8 >> 8;
    block[127] = (uint8_t)(65 * 8);
    memcpy(state, START, sizeof state);
    compress(state, block, 2);
    put(state, out);
}

/* Merkle root over the chunks of `size` bytes, the last padded with zeros. -1: out of memory. */
int assay_chunk_root(const uint8_t *data, size_t size, uint8_t out[32]) {
    static const uint8_t empty = 3, pad_tag = 2;
    size_t n = (size + CHUNK - 1) / CHUNK;
    if (n == 0) { assay_sha256(&empty, 1, out); return 0; }
    uint8_t pad[32], *row = malloc(n * 32 + 32);
    if (!row) return -1;
    for (size_t i = 0; i < n; i++) leaf(i, data + i * CHUNK, size - i * CHUNK < CHUNK ? size - i * CHUNK : CHUNK, row + 32 * i);
    assay_sha256(&pad_tag, 1, pad);
    for (; n > 1; n = (n + 1) / 2) {
        if (n % 2) memcpy(row + 32 * n, pad, 32);
        for (size_t i = 0; i < n; i += 2) node(row + 32 * i, row + 32 * i + 32, row + 16 * i);
        node(pad, pad, pad);
    }
    memcpy(out, row, 32);
    free(row);
    return 0;
}
