/* Merkle trees over 1 KiB chunks (docs/protocol.md), SHA-256 as in FIPS 180-4: a thread for each leaf or node. Hashes are eight u32, most significant
 * byte first, as FIPS writes them. One launch does the leaves of many tensors, one more each level of all of them. */

__device__ const u32 SHA_START[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
__device__ const u32 SHA_ROUND[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

FN u32 turned(u32 x, int by) { return __funnelshift_r(x, x, (u32)by); }

/* One block of 16 words, which are used up. */
FN void compress(u32 *h, u32 *w) {
    u32 a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], last = h[7];
#pragma unroll
    for (int i = 0; i < 64; i++) {
        if (i >= 16) {
            u32 x = w[(i + 1) & 15], y = w[(i + 14) & 15];
            w[i & 15] += (turned(x, 7) ^ turned(x, 18) ^ x >> 3) + w[(i + 9) & 15] + (turned(y, 17) ^ turned(y, 19) ^ y >> 10);
        }
        u32 t = last + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + SHA_ROUND[i] + w[i & 15];
        u32 v = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        last = g; g = f; f = e; e = d + t; d = c; c = b; b = a; a = t + v;
    }
    h[0] += a; h[1] += b; h[2] += c; h[3] += d; h[4] += e; h[5] += f; h[6] += g; h[7] += last;
}

/* Four bytes of a tensor of `size` bytes, zeros behind its end. */
FN u32 four_bytes(const u8 *data, u64 at, u64 size) {
    if (at + 4 <= size && ((u64)(data + at) & 3) == 0) return *(const u32 *)(data + at);
    u32 x = 0;
    for (int i = 0; i < 4; i++) if (at + i < size) x |= (u32)data[at + i] << (8 * i);
    return x;
}

/* Chunk `chunk` of the data, as leaf `index`: SHA256(0x00 | index | chunk): nine bytes in front, so each word of the message has three bytes of one word of the data and one of that before. */
FN void leaf_of(const u8 *data, u64 size, u64 chunk, u64 index, u32 *out) {
    u32 w[16], h[8], before = (u32)(index & 255) << 24; /* its last byte comes first */
    for (int i = 0; i < 8; i++) h[i] = SHA_START[i];
    for (int block = 0; block < 17; block++) {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            int at = block * 16 + i - 2; /* word of the data whose first three bytes are here */
            if (at == -2) w[i] = (u32)(index >> 40) & 0xffffffu;
            else if (at == -1) w[i] = (u32)(index >> 8);
            else {
                u32 here = at < 256 ? four_bytes(data, chunk * 1024 + 4 * (u64)at, size) : (at == 256 ? 0x80u : 0u);
                w[i] = __byte_perm(before, here, 0x3456);
                before = here;
            }
        }
        if (block == 16) w[15] = (9 + 1024) * 8;
        compress(h, w);
    }
    for (int i = 0; i < 8; i++) out[i] = h[i];
}

/* SHA256(0x01 | left | right) */
FN void node_of(const u32 *left, const u32 *right, u32 *out) {
    u32 w[16], h[8], before = 1;
    for (int i = 0; i < 8; i++) h[i] = SHA_START[i];
#pragma unroll
    for (int i = 0; i < 16; i++) {
        u32 here = i < 8 ? left[i] : right[i - 8];
        w[i] = before << 24 | here >> 8;
        before = here;
    }
    compress(h, w);
    w[0] = before << 24 | 0x800000u;
    for (int i = 1; i < 15; i++) w[i] = 0;
    w[15] = 65 * 8;
    compress(h, w);
    for (int i = 0; i < 8; i++) out[i] = h[i];
}

/* The row of a table whose share of the threads has thread i in it: rows of `wide` words start with the number of their first thread. */
FN const u64 *row_of(const u64 *table, i64 rows, i64 wide, u64 i) {
    i64 low = 0, high = rows;
    while (high - low > 1) {
        i64 middle = (low + high) / 2;
        if (table[middle * wide] <= i) low = middle; else high = middle;
    }
    return table + low * wide;
}

/* Rows: first leaf, address, bytes, address of the row of hashes, number of the first leaf in its tree. */
KERNEL merkle_leaves(i64 leaves, const u64 *table, i64 tensors) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (u64)leaves; i += (u64)gridDim.x * blockDim.x) {
        const u64 *t = row_of(table, tensors, 5, i);
        u64 at = i - t[0];
        leaf_of((const u8 *)t[1], t[2], at, t[4] + at, (u32 *)t[3] + at * 8);
    }
}

/* Rows: first node, hashes below, address of those, address of the row of nodes. `pad` stands at the place past the last one below. */
KERNEL merkle_level(i64 nodes, const u64 *table, i64 tensors, const u32 *pad) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < (u64)nodes; i += (u64)gridDim.x * blockDim.x) {
        const u64 *t = row_of(table, tensors, 4, i);
        u64 left = 2 * (i - t[0]);
        const u32 *below = (const u32 *)t[2] + left * 8;
        node_of(below, left + 1 < t[1] ? below + 8 : pad, (u32 *)t[3] + left * 4);
    }
}
