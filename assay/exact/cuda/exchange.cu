/* What devices of several ranks add up (assay.exact.ranks.between): another rank's maxima or sums taken into one's own, and the digests by which a
 * flipped bit on the way is found. A digest is the sum of (2 i + 1) times word i, modulo 2^64: those of the ranks' operands add up to that of
 * their sum, and those of pieces, each from the place `first` on, to that of the pieces side by side. */

KERNEL take_tops(i64 n, u32 *own, const u32 *other) { FOR_EACH(i, n) own[i] = other[i] > own[i] ? other[i] : own[i]; }
KERNEL take_sums(i64 n, u64 *own, const u64 *other) { FOR_EACH(i, n) own[i] += other[i]; }

template <class T> FN void digest_of(i64 n, u64 *digest, const T *words, i64 first) {
    u64 total = 0;
    FOR_EACH(i, n) total += (2 * (u64)(first + i) + 1) * words[i];
    total = total_of<BLOCK>(total);
    if (threadIdx.x == 0) atomicAdd(digest, total);
}
KERNEL digest_1(i64 n, u64 *digest, const u8 *words, i64 first) { digest_of(n, digest, words, first); }
KERNEL digest_4(i64 n, u64 *digest, const u32 *words, i64 first) { digest_of(n, digest, words, first); }
KERNEL digest_8(i64 n, u64 *digest, const u64 *words, i64 first) { digest_of(n, digest, words, first); }
