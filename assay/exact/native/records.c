
/* Sealed records (assay/sealed_records.py): each under a key of its own by ChaCha20 (RFC 8439), with salted leaves of SHA-256 and the Merkle root
 * over them, in one pass. Keys by HKDF-Expand (RFC 5869). As many blocks of the cipher at once as a vector has words: of one record where it is
 * long, else of as many records. No table is looked up by a secret, and no branch taken on one. */
#include "assay.h"
#include <stdlib.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define WIDE 16
#elif defined(__AVX2__)
#define WIDE 8
#else
#define WIDE 4
#endif
typedef uint32_t vector __attribute__((vector_size(4 * WIDE)));
typedef uint32_t loose __attribute__((vector_size(4 * WIDE), aligned(1), may_alias));

#if defined(__AVX512F__)
#define TURN(x, n) ((vector)_mm512_rol_epi32((__m512i)(x), n))
#elif defined(__AVX2__)
static inline vector bytes_turned(vector x, int n) {
    const __m256i by16 = _mm256_set_epi64x(0x0d0c0f0e09080b0a, 0x0504070601000302, 0x0d0c0f0e09080b0a, 0x0504070601000302);
    const __m256i by8 = _mm256_set_epi64x(0x0e0d0c0f0a09080b, 0x0605040702010003, 0x0e0d0c0f0a09080b, 0x0605040702010003);
    return (vector)_mm256_shuffle_epi8((__m256i)x, n == 16 ? by16 : by8);
}
#define TURN(x, n) ((n) % 8 ? (x) << (n) | (x) >> (32 - (n)) : bytes_turned(x, n))
#else
#define TURN(x, n) ((x) << (n) | (x) >> (32 - (n)))
#endif

/* Two of the cipher's quarter rounds, step by step: one hides the other's waiting, and four would not fit into the registers. */
#define STEP(a, b, d, e, f, h, n) \
    a += b; e += f; \
    d ^= a; h ^= e; \
    d = TURN(d, n); h = TURN(h, n);
#define QUARTERS(a, b, c, d, e, f, g, h) STEP(a, b, d, e, f, h, 16) STEP(c, d, b, g, h, f, 12) STEP(a, b, d, e, f, h, 8) STEP(c, d, b, g, h, f, 7)

/* x[i] holds word i of WIDE blocks: afterwards x[q * WIDE + l] holds words q * WIDE ... of block l. */
#if WIDE == 16
static inline __attribute__((always_inline)) void turned_over(vector x[16]) {
    __m512i y[16], *z = (__m512i *)x;
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) { /* in each quarter of a register a 4 by 4 of its own */
        __m512i a = _mm512_unpacklo_epi32(z[i], z[i + 1]), b = _mm512_unpackhi_epi32(z[i], z[i + 1]);
        __m512i c = _mm512_unpacklo_epi32(z[i + 2], z[i + 3]), d = _mm512_unpackhi_epi32(z[i + 2], z[i + 3]);
        y[i] = _mm512_unpacklo_epi64(a, c);
        y[i + 1] = _mm512_unpackhi_epi64(a, c);
        y[i + 2] = _mm512_unpacklo_epi64(b, d);
        y[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* quarter q of y[4 k + i] is words 4 k ... of block 4 q + i */
        __m512i a = _mm512_shuffle_i32x4(y[i], y[4 + i], 0x44), b = _mm512_shuffle_i32x4(y[i], y[4 + i], 0xee);
        __m512i c = _mm512_shuffle_i32x4(y[8 + i], y[12 + i], 0x44), d = _mm512_shuffle_i32x4(y[8 + i], y[12 + i], 0xee);
        z[i] = _mm512_shuffle_i32x4(a, c, 0x88);
        z[4 + i] = _mm512_shuffle_i32x4(a, c, 0xdd);
        z[8 + i] = _mm512_shuffle_i32x4(b, d, 0x88);
        z[12 + i] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
}
#elif WIDE == 8
static inline __attribute__((always_inline)) void turned_over(vector x[16]) {
#pragma GCC unroll 2
    for (int half = 0; half < 16; half += 8) {
        __m256i y[8], *z = (__m256i *)(x + half);
#pragma GCC unroll 2
        for (int i = 0; i < 8; i += 4) {
            __m256i a = _mm256_unpacklo_epi32(z[i], z[i + 1]), b = _mm256_unpackhi_epi32(z[i], z[i + 1]);
            __m256i c = _mm256_unpacklo_epi32(z[i + 2], z[i + 3]), d = _mm256_unpackhi_epi32(z[i + 2], z[i + 3]);
            y[i] = _mm256_unpacklo_epi64(a, c);
            y[i + 1] = _mm256_unpackhi_epi64(a, c);
            y[i + 2] = _mm256_unpacklo_epi64(b, d);
            y[i + 3] = _mm256_unpackhi_epi64(b, d);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            z[i] = _mm256_permute2x128_si256(y[i], y[4 + i], 0x20);
            z[4 + i] = _mm256_permute2x128_si256(y[i], y[4 + i], 0x31);
        }
    }
}
#else
static inline __attribute__((always_inline)) void turned_over(vector x[16]) {
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        const vector a = x[i], b = x[i + 1], c = x[i + 2], d = x[i + 3];
#pragma GCC unroll 4
        for (int l = 0; l < 4; l++) x[i + l] = (vector){a[l], b[l], c[l], d[l]};
    }
}
#endif

/* WIDE blocks of key stream, from their first states. */
static inline __attribute__((always_inline)) void blocks_of(const vector first[16], vector x[16]) {
    memcpy(x, first, 16 * sizeof(vector));
    for (int i = 0; i < 10; i++) {
        QUARTERS(x[0], x[4], x[8], x[12], x[1], x[5], x[9], x[13])
        QUARTERS(x[2], x[6], x[10], x[14], x[3], x[7], x[11], x[15])
        QUARTERS(x[0], x[5], x[10], x[15], x[1], x[6], x[11], x[12])
        QUARTERS(x[2], x[7], x[8], x[13], x[3], x[4], x[9], x[14])
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) x[i] += first[i];
    turned_over(x);
}

/* Up to 64 bytes of a record, xored with block l. */
static inline __attribute__((always_inline)) void xored(const vector x[16], int l, const uint8_t *in, uint8_t *out, size_t size) {
    if (size >= 64) {
#pragma GCC unroll 4
        for (int q = 0; q < 16 / WIDE; q++) *((loose *)out + q) = *((const loose *)in + q) ^ x[q * WIDE + l];
    } else {
        uint8_t block[64];
        memcpy(block, in, size);
        for (int q = 0; q < 16 / WIDE; q++) *((loose *)block + q) ^= x[q * WIDE + l];
        memcpy(out, block, size);
    }
}

static inline uint32_t little(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24; }

typedef struct { uint8_t key[32], salt[32]; } secret;

static const uint32_t SIGMA[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};

/* First states of WIDE blocks of one record. */
static inline void of_one(vector first[16], const uint8_t key[32], const uint8_t nonce[12]) {
    for (int i = 0; i < 4; i++) first[i] = (vector){0} + SIGMA[i];
    for (int i = 0; i < 8; i++) first[4 + i] = (vector){0} + little(key + 4 * i);
    for (int l = 0; l < WIDE; l++) first[12][l] = (uint32_t)l;
    for (int i = 0; i < 3; i++) first[13 + i] = (vector){0} + little(nonce + 4 * i);
}

/* Of block 0 of each of n <= WIDE records, whose leaves have 32 bytes; further lanes are the first one's. */
static inline void of_many(vector first[16], const secret *secrets, const uint8_t *leaves, int n) {
    vector x[16];
    for (int l = 0; l < WIDE; l++) {
        uint8_t row[64]; /* key and leaf: what block l would be, turned over, is word by word what the lanes begin with */
        memcpy(row, secrets[l < n ? l : 0].key, 32);
        memcpy(row + 32, leaves + 32 * (l < n ? l : 0), 32);
        for (int q = 0; q < 16 / WIDE; q++) x[q * WIDE + l] = *((const loose *)row + q);
    }
    turned_over(x);
    for (int i = 0; i < 4; i++) first[i] = (vector){0} + SIGMA[i];
    memcpy(first + 4, x, 8 * sizeof(vector));
    first[12] = (vector){0};
    memcpy(first + 13, x + 8, 3 * sizeof(vector));
}

/* n <= WIDE records, each under its key and the first 12 bytes of its leaf, from block 0 on. */
static void cipher(const secret *secrets, const uint8_t *leaves, const uint8_t *in, uint8_t *out, size_t width, int n) {
    const size_t blocks = (width + 63) / 64, calls = (blocks + WIDE - 1) / WIDE;
    vector first[16], x[16];
    if (blocks < calls * (size_t)n && blocks <= 16 * WIDE) {
        of_many(first, secrets, leaves, n);
        for (size_t at = 0; at < width; at += 64, first[12] += 1) {
            blocks_of(first, x);
            for (int l = 0; l < n; l++) xored(x, l, in + (size_t)l * width + at, out + (size_t)l * width + at, width - at);
        }
        return;
    }
    for (int r = 0; r < n; r++, in += width, out += width) {
        of_one(first, secrets[r].key, leaves + 32 * r);
        size_t at = 0;
        for (; at + 64 * WIDE <= width; at += 64 * WIDE, first[12] += WIDE) {
            blocks_of(first, x);
#pragma GCC unroll 16
            for (int l = 0; l < WIDE; l++) xored(x, l, in + at + 64 * l, out + at + 64 * l, 64);
        }
        if (at < width) blocks_of(first, x);
        for (int l = 0; at < width; l++, at += 64) xored(x, l, in + at, out + at, width - at);
    }
}

#define LANES ASSAY_HASHES

/* What HMAC-SHA256 begins with under a key of 32 bytes: the state after the key's block, xored with `with`. */
static void keyed(const uint8_t key[32], uint8_t with, uint32_t state[1][8]) {
    uint8_t block[64];
    const uint8_t *at = block;
    for (int i = 0; i < 64; i++) block[i] = (i < 32 ? key[i] : 0) ^ with;
    memcpy(state[0], assay_sha256_start, 32);
    assay_sha256_blocks(state, &at, 1, 1);
}

static void put(const uint32_t state[8], uint8_t out[32]) {
    for (int i = 0; i < 32; i++) out[i] = (uint8_t)(state[i / 4] >> (24 - i % 4 * 8));
}

/* The end of a message of `bits` that fills `size` bytes of `whole`, a multiple of 64. */
static void ended(uint8_t *block, size_t size, size_t whole, uint64_t bits) {
    block[size] = 0x80;
    memset(block + size + 1, 0, whole - size - 9);
    for (int i = 0; i < 8; i++) block[whole - 1 - i] = (uint8_t)(bits >> 8 * i);
}

static void numbered(uint8_t *place, uint64_t index) {
    for (int i = 0; i < 8; i++) place[i] = (uint8_t)(index >> (56 - 8 * i));
}

#define KEY_LABEL "assay/record-key/1"
#define SALT_LABEL "assay/record-salt/2"

/* Keys and salts of `lanes` records from `index` on: HMAC(prk, label | index u64 | 0x01) and SHA256(label | key). */
static void derive(const uint32_t keys[2][1][8], uint64_t index, secret *out, int lanes) {
    uint8_t block[LANES][64];
    uint32_t state[LANES][8];
    const uint8_t *at[LANES];
    for (int l = 0; l < lanes; l++) {
        memcpy(block[l], KEY_LABEL, 18);
        numbered(block[l] + 18, index + (uint64_t)l);
        block[l][26] = 1;
        ended(block[l], 27, 64, (64 + 27) * 8);
        memcpy(state[l], keys[0][0], 32);
        at[l] = block[l];
    }
    assay_sha256_blocks(state, at, 1, lanes);
    for (int l = 0; l < lanes; l++) {
        put(state[l], block[l]);
        ended(block[l], 32, 64, (64 + 32) * 8);
        memcpy(state[l], keys[1][0], 32);
    }
    assay_sha256_blocks(state, at, 1, lanes);
    for (int l = 0; l < lanes; l++) {
        put(state[l], out[l].key);
        memcpy(block[l], SALT_LABEL, 19);
        memcpy(block[l] + 19, out[l].key, 32);
        ended(block[l], 51, 64, 51 * 8);
        memcpy(state[l], assay_sha256_start, 32);
    }
    assay_sha256_blocks(state, at, 1, lanes);
    for (int l = 0; l < lanes; l++) put(state[l], out[l].salt);
}

#define BEFORE 41
#define FIRST (64 - BEFORE)

/* SHA256(0x00 | index u64 | salt | record) of `lanes` records of `width` bytes from `index` on. Only the ends are copied: what lies between
   is hashed where it is. */
static void salted(const secret *secrets, uint64_t index, const uint8_t *rows, size_t width, uint8_t *out, int lanes) {
    const size_t size = BEFORE + width, whole = size / 64, rest = size % 64, last = rest < 56 ? 64 : 128;
    uint8_t head[LANES][64 + 128];
    uint32_t state[LANES][8];
    const uint8_t *at[LANES];
    for (int l = 0; l < lanes; l++) {
        const uint8_t *row = rows + (size_t)l * width;
        head[l][0] = 0;
        numbered(head[l] + 1, index + (uint64_t)l);
        memcpy(head[l] + 9, secrets[l].salt, 32);
        memcpy(head[l] + BEFORE, row, width < FIRST ? width : FIRST);
        if (whole) memcpy(head[l] + 64, row + width - rest, rest);
        ended(head[l] + (whole ? 64 : 0), rest, last, (uint64_t)size * 8);
        memcpy(state[l], assay_sha256_start, 32);
        at[l] = head[l];
    }
    if (whole > 1) {
        assay_sha256_blocks(state, at, 1, lanes);
        for (int l = 0; l < lanes; l++) at[l] = rows + (size_t)l * width + FIRST;
        assay_sha256_blocks(state, at, whole - 1, lanes);
        for (int l = 0; l < lanes; l++) at[l] = head[l] + 64;
        assay_sha256_blocks(state, at, last / 64, lanes);
    } else {
        assay_sha256_blocks(state, at, whole + last / 64, lanes);
    }
    for (int l = 0; l < lanes; l++) put(state[l], out + 32 * l);
}

static void all_salted(const secret *secrets, uint64_t index, const uint8_t *rows, size_t width, uint8_t *out, int n) {
    for (int i = 0; i < n; i += LANES) salted(secrets + i, index + (uint64_t)i, rows + (size_t)i * width, width, out + 32 * i, n - i < LANES ? n - i : LANES);
}

/* `n` records of `width` bytes that lie one after the other, under PRK `prk`: their leaf hashes to `leaves` (n * 32 bytes), and the root over these.
   Without `listed` the records are sealed from `in` to `out` (NULL: they are hashed only); with it, the leaf hashes that came with sealed records,
   they are opened. `in` and `out` do not overlap. -1: out of memory. */
int assay_records(const uint8_t prk[32], const uint8_t *in, uint8_t *out, size_t n, size_t width, const uint8_t *listed, uint8_t *leaves, uint8_t root[32]) {
    static const uint8_t empty = 3;
    if (n == 0) { assay_sha256(&empty, 1, root); return 0; }
    uint8_t *row = malloc((n + 1) * 32);
    uint32_t keys[2][1][8];
    secret secrets[WIDE];
    if (!row) return -1;
    keyed(prk, 0x36, keys[0]);
    keyed(prk, 0x5c, keys[1]);
    for (size_t i = 0; i < n; i += WIDE) {
        const int here = n - i < WIDE ? (int)(n - i) : WIDE;
        for (int l = 0; l < here; l += LANES) derive((const uint32_t (*)[1][8])keys, i + (uint64_t)l, secrets + l, here - l < LANES ? here - l : LANES);
        if (listed) cipher(secrets, listed + 32 * i, in + i * width, out + i * width, width, here);
        all_salted(secrets, i, (listed ? out : in) + i * width, width, leaves + 32 * i, here);
        if (!listed && out) cipher(secrets, leaves + 32 * i, in + i * width, out + i * width, width, here);
    }
    memcpy(row, leaves, n * 32);
    assay_row_root(row, n, root);
    free(row);
    return 0;
}

/* For benches and tests: `size` bytes under one key, from block 0 on, as `cipher` does a long record. */
void assay_chacha20(const uint8_t key[32], const uint8_t nonce[12], const uint8_t *in, uint8_t *out, size_t size) {
    secret one;
    uint8_t leaf[32];
    memcpy(one.key, key, 32);
    memcpy(leaf, nonce, 12);
    cipher(&one, leaf, in, out, size, 1);
}
