/* The native library in a process of its own, for another processor (tests/exact/emulated.py): calls come through a file that both have
 * in memory, a byte on standard input says that there is one, a byte on standard output that it is done. Words of a call: function, result,
 * whether the floating-point flags of the thread are as they were, then the arguments; addresses are offsets in the file.
 */
#include "assay.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

extern const char assay_kernels[], assay_steps[];
int assay_run(const word *tape, word count, char **base, int threads);
int assay_chunk_root(const uint8_t *data, size_t size, uint8_t *out, int threads);
void assay_sha256(const uint8_t *data, size_t size, uint8_t *out);
int assay_records(const uint8_t *prk, const uint8_t *in, uint8_t *out, size_t n, size_t width, const uint8_t *listed, uint8_t *leaves, uint8_t *root);
word assay_faults(void);
void assay_inject(int where, word index, int bit, int times);

enum { RUN, CHUNK_ROOT, SHA256, FAULTS, INJECT, RECORDS };
enum { HOSTILE = 1 << 25 | 1 << 24 | 1 << 22 }; /* FPCR: NaNs lose their payloads, subnormals are flushed, everything is rounded up */

static uint64_t flags(void) { uint64_t now; __asm__ volatile("mrs %0, fpcr" : "=r"(now)); return now; }

int main(int count, char **arguments) {
    struct stat info;
    char byte;
    int file = count == 2 ? open(arguments[1], O_RDWR) : -1;
    if (file < 0 || fstat(file, &info) != 0) return 1;
    char *at = mmap(NULL, (size_t)info.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (at == MAP_FAILED) return 1;
    word *w = (word *)at;
    printf("%s\n%s\n", assay_kernels, assay_steps);
    fflush(stdout);
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)HOSTILE));
    while (read(0, &byte, 1) == 1) {
        w[1] = 0;
        if (w[0] == RUN) { /* tape, words, addresses, how many, threads */
            for (word i = 0; i < w[6]; i++) *(word *)(at + w[5] + 8 * i) += (word)at;
            w[1] = assay_run((const word *)(at + w[3]), w[4], (char **)(at + w[5]), (int)w[7]);
        } else if (w[0] == CHUNK_ROOT) w[1] = assay_chunk_root((const uint8_t *)at + w[3], (size_t)w[4], (uint8_t *)at + w[5], (int)w[6]);
        else if (w[0] == SHA256) assay_sha256((const uint8_t *)at + w[3], (size_t)w[4], (uint8_t *)at + w[5]);
        else if (w[0] == FAULTS) w[1] = assay_faults();
        else if (w[0] == INJECT) assay_inject((int)w[3], w[4], (int)w[5], (int)w[6]);
        else if (w[0] == RECORDS) { /* prk, in, out or 0, how many, bytes of one, listed or 0, leaves, root */
            uint8_t *u = (uint8_t *)at;
            w[1] = assay_records(u + w[3], u + w[4], w[5] ? u + w[5] : NULL, (size_t)w[6], (size_t)w[7], w[8] ? u + w[8] : NULL, u + w[9], u + w[10]);
        }
        w[2] = flags() == HOSTILE;
        if (write(1, &byte, 1) != 1) return 1;
    }
    return 0;
}
