/* What a tensor core's f32 accumulator does with sums that the host knows: product blockIdx.x of `steps` fragments each, one warp a product.
 * a: [product][step][lane][4], b: [product][step][lane][2] words of bf16 or fp8, c: [product][lane][4] on entry and afterwards. */
KERNEL probe(const u32 *a, const u32 *b, float *c, i64 steps) {
    i64 product = blockIdx.x;
    float sums[4];
    for (int i = 0; i < 4; i++) sums[i] = c[(product * 32 + LANE) * 4 + i];
    for (i64 s = 0; s < steps; s++) {
        u32 of_a[4], of_b[2];
        for (int i = 0; i < 4; i++) of_a[i] = a[((product * steps + s) * 32 + LANE) * 4 + i];
        for (int i = 0; i < 2; i++) of_b[i] = b[((product * steps + s) * 32 + LANE) * 2 + i];
#if FP8
        mma_e4m3(sums, of_a, of_b);
#else
        mma_bf16(sums, of_a, of_b);
#endif
    }
    for (int i = 0; i < 4; i++) c[(product * 32 + LANE) * 4 + i] = sums[i];
}
