/* Runs a tape: steps one after the other, each `code, words, ...`, over a table of buffer addresses. The tape comes from
 * assay/exact/tape.py, which has checked every shape and index bound that does not depend on data; those that do are clamped. */
#include "assay.h"

typedef int (*step)(const word *w, char **base, int threads);
static const step STEPS[] = {
    assay_map, assay_copy, assay_fill, assay_matmul, assay_sum, assay_amax, assay_scatter_add, assay_take_rows, assay_gather, assay_scatter_value, assay_cumsum,
};
/* Names of the steps, in the order of their codes, each followed by a space. */
const char assay_steps[] = "map copy fill matmul sum amax scatter_add take_rows gather scatter_value cumsum ";

/* Runs `count` words of tape. 0, or -1 when memory ran out, -2 when a matrix product failed its checksum twice. */
int assay_run(const word *tape, word count, char **base, int threads) {
    int failed = 0;
    uint64_t saved = standard_floats();
    for (word at = 0; at < count && !failed; at += 2 + tape[at + 1]) failed = STEPS[tape[at]](tape + at + 2, base, threads);
    restore_floats(saved);
    return failed;
}
