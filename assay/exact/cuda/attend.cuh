/* Products whose results, or whose operands, stay on the chip (attend.py): what a block of 32 * BR threads does with BR lines.
 *
 * This is the plain form, element by element. Digits of lines lie in shared memory as [plane][line][length padded to 128].
 */

#ifdef ASSAY_FAKE
#define MEMBER inline
#else
#define MEMBER __device__ __forceinline__
#endif

struct Packed { const i8 *digits; const u32 *top; const u64 *across, *along; i64 lanes, padded; };

#if KARATSUBA
#define OWN_PLANES 2
#else
#define OWN_PLANES PLANES
#endif

/* Element k of a lane of a packed operand (or of a line), from its digits. */
__device__ __forceinline__ i64 packed_element(const Packed &p, i64 blocks, i64 lane, i64 k) {
    i64 q = 0;
    for (int z = 0; z < OWN_PLANES; z++) q = q * (1 << BASE) + p.digits[spot(0, OWN_PLANES, z, blocks, k / ROW, p.padded, lane, (int)(k % ROW))];
    return q;
}

/* Sum over planes of a sum of digits. */
__device__ __forceinline__ u64 packed_sum(const u64 *across, i64 blocks, i64 k) {
    u64 q = 0;
    for (int z = 0; z < OWN_PLANES; z++) q = q * (1 << BASE) + across[z * blocks * ROW + k];
    return q;
}

/* plane[r * pitch + j] = element of A's lane first + r and B's lane j, j < b.lanes. Ends with a barrier. */
template <int BR> __device__ void product_in(float *plane, int pitch, const Packed &a, i64 first, const Packed &b, i64 k, int bits, char *, u64 *faults) {
    int r = threadIdx.x / 32, lane = threadIdx.x % 32;
    i64 blocks = (k + ROW - 1) / ROW, row = first + r;
    if (row < a.lanes) {
        u64 sum = 0, wanted = 0;
        for (i64 j = lane; j < b.lanes; j += 32) {
            i64 total = 0;
            for (i64 i = 0; i < k; i++) total += packed_element(a, blocks, row, i) * packed_element(b, blocks, j, i);
            sum += (u64)total;
            plane[r * pitch + j] = element(total, a.top[row], b.top[j], bits);
        }
        for (i64 i = lane; i < k; i += 32) wanted += (u64)packed_element(a, blocks, row, i) * packed_sum(b.across, blocks, i);
        if (total_of<32>(sum) != total_of<32>(wanted) && lane == 0) atomicAdd(faults, 1ull);
    }
    __syncthreads();
}

constexpr int digits_bytes(int br, int length) { return OWN_PLANES * br * ((length + ROW - 1) / ROW * ROW); }

/* Digits of line r of BR, whose largest magnitude is `top`. */
template <int BR> struct Line {
    char *digits;
    int padded, bits, r, length;
    float one_, two_;
    MEMBER Line(char *at, int line, i64 elements, u32 top, int bits_of_q)
        : digits(at), padded((int)((elements + ROW - 1) / ROW * ROW)), bits(bits_of_q), r(line), length((int)elements) {
        int e = (int)field_of(top), s = bits + 125 - e, first = s > 127 ? 127 : s;
        one_ = e == 255 ? 0.0f : __uint_as_float((u32)(first + 127) << 23);
        two_ = __uint_as_float((u32)(s - first + 127) << 23);
    }
    MEMBER void put(u32 e, float x) {
        i32 most = (1 << (bits - 1)) - 1, d[PLANES];
        i32 q = (i32)(__float_as_uint(__fadd_rn(__fmul_rn(__fmul_rn(x, one_), two_), 12582912.0f)) - 0x4b400000u);
        digits_of(max(min(q, most), -most), d);
        for (int z = 0; z < OWN_PLANES; z++) digits[(z * BR + r) * padded + (int)e] = (char)d[z];
    }
    MEMBER void end() {
        for (int e = length + (int)(threadIdx.x & 31); e < padded; e += 32)
            for (int z = 0; z < OWN_PLANES; z++) digits[(z * BR + r) * padded + e] = 0;
    }
};

/* out[(first + r) * row_step + n * lane_step] = element of line r and B's lane n. Begins and ends with a barrier. */
template <int BR>
__device__ void product_out(float *out, i64 row_step, i64 lane_step, i64 rows, i64 first, const char *digits, const u32 *tops, const Packed &b, i64 length,
                            int bits, char *, u64 *faults) {
    __syncthreads();
    int r = threadIdx.x / 32, lane = threadIdx.x % 32;
    i64 blocks = (length + ROW - 1) / ROW, padded = blocks * ROW;
    if (first + r < rows) {
        u64 sum = 0, wanted = 0;
        for (i64 n = lane; n < b.lanes; n += 32) {
            i64 total = 0;
            for (i64 i = 0; i < length; i++) {
                i64 q = 0;
                for (int z = 0; z < OWN_PLANES; z++) q = q * (1 << BASE) + (i8)digits[(z * BR + r) * padded + i];
                total += q * packed_element(b, blocks, n, i);
            }
            sum += (u64)total;
            out[(first + r) * row_step + n * lane_step] = element(total, tops[r], b.top[n], bits);
        }
        for (i64 i = lane; i < length; i += 32) {
            i64 q = 0;
            for (int z = 0; z < OWN_PLANES; z++) q = q * (1 << BASE) + (i8)digits[(z * BR + r) * padded + i];
            wanted += (u64)q * packed_sum(b.across, blocks, i);
        }
        if (total_of<32>(sum) != total_of<32>(wanted) && lane == 0) atomicAdd(faults, 1ull);
    }
    __syncthreads();
}
