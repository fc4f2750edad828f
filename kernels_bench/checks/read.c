/* A plain read loop: threads, each summing its own part of a buffer. Prints 10^9 bytes a second, a line for each pass. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

struct part { uint64_t *words; size_t count; uint64_t sum; };

static void *write_part(void *given) {
    struct part *part = given;
    for (size_t i = 0; i < part->count; i++) part->words[i] = i + 1;
    return NULL;
}

static void *read_part(void *given) {
    struct part *part = given;
    uint64_t sum = 0;
    for (size_t i = 0; i < part->count; i++) sum += part->words[i];
    part->sum = sum;
    return NULL;
}

static double together(struct part *parts, int threads, void *(*work)(void *)) {
    pthread_t workers[threads];
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < threads; i++) pthread_create(&workers[i], NULL, work, &parts[i]);
    for (int i = 0; i < threads; i++) pthread_join(workers[i], NULL);
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (end.tv_sec - start.tv_sec) + (end.tv_nsec - start.tv_nsec) * 1e-9;
}

int main(int count, char **words) { /* THREADS BYTES PASSES */
    if (count != 4) return 2;
    int threads = atoi(words[1]), passes = atoi(words[3]);
    size_t each = strtoull(words[2], NULL, 10) / 8 / threads;
    uint64_t *buffer;
    if (posix_memalign((void **) &buffer, 2 << 20, each * 8 * threads)) return 1;
#ifdef MADV_HUGEPAGE
    madvise(buffer, each * 8 * threads, MADV_HUGEPAGE); /* as ours asks for */
#endif
    struct part parts[threads];
    for (int i = 0; i < threads; i++) parts[i] = (struct part){buffer + each * i, each, 0};
    together(parts, threads, write_part);
    together(parts, threads, read_part);
    uint64_t sum = 0;
    for (int pass = 0; pass < passes; pass++) {
        double seconds = together(parts, threads, read_part);
        for (int i = 0; i < threads; i++) sum += parts[i].sum;
        printf("%.4f\n", each * 8.0 * threads / seconds / 1e9);
    }
    fprintf(stderr, "%llu\n", (unsigned long long) sum); /* or the compiler leaves out the loop */
    return 0;
}
