/* SPDX-License-Identifier: MIT */
/*
 * In-guest benchmark: fixed work per row, natively 0.1-0.3 s each, so that the ratio of two runs is the slowdown. Runs as any user or as init; needs no
 * files but its own. Prints "ROW name seconds checksum" per row ("SKIP name reason" where the CPU or kernel lacks something); the checksum must not
 * differ between machines. Build: gcc -O2 -static bench.c -o bench. Use: bench [-s PERCENT] [ROW...]; exit 1 if a row failed, 2 on wrong usage.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <immintrin.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A row returns its checksum; these two values say otherwise. */
#define ROW_SKIPPED 0xfffffffffffffffeull
#define ROW_FAILED 0xffffffffffffffffull

static unsigned percent = 100;
static const char *self_path = "/proc/self/exe";

static uint64_t work(uint64_t n)
{
    n = n * percent / 100;
    return n ? n : 1;
}

static uint64_t rng_next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* ---- user code ------------------------------------------------------------------------------------------------------------------------------ */

static uint64_t row_integer(void)
{
    uint64_t a = 1, b = 0x9e3779b97f4a7c15ull, n = work(70000000);
    for (uint64_t i = 0; i < n; i++) {
        a += b ^ i;
        b = (b << 5 | b >> 59) + a;
        if (a & 1)
            b ^= i;
    }
    return a ^ b;
}

static uint32_t rotr(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}

/* The round structure of FIPS 180-4 with constants from a generator: the same work, not the same digest. */
static uint64_t row_hash(void)
{
    static uint32_t k[64], w[64];
    uint64_t seed = 88172645463325252ull, n = work(250000);
    uint32_t h[8];
    for (unsigned i = 0; i < 64; i++)
        k[i] = (uint32_t)rng_next(&seed);
    for (unsigned i = 0; i < 8; i++)
        h[i] = (uint32_t)rng_next(&seed);
    for (uint64_t block = 0; block < n; block++) {
        uint32_t v[8];
        for (unsigned i = 0; i < 16; i++)
            w[i] = (uint32_t)block * 2654435761u + h[i & 7] + i;
        for (unsigned i = 16; i < 64; i++) {
            uint32_t s0 = rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ w[i - 15] >> 3;
            uint32_t s1 = rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ w[i - 2] >> 10;
            w[i] = w[i - 16] + s0 + w[i - 7] + s1;
        }
        memcpy(v, h, sizeof(v));
        for (unsigned i = 0; i < 64; i++) {
            uint32_t s1 = rotr(v[4], 6) ^ rotr(v[4], 11) ^ rotr(v[4], 25);
            uint32_t t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
            uint32_t s0 = rotr(v[0], 2) ^ rotr(v[0], 13) ^ rotr(v[0], 22);
            uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
            memmove(v + 1, v, 7 * sizeof(v[0]));
            v[4] += t1;
            v[0] = t1 + t2;
        }
        for (unsigned i = 0; i < 8; i++)
            h[i] += v[i];
    }
    return (uint64_t)h[0] << 32 | h[7];
}

static void quicksort(uint32_t *a, long lo, long hi)
{
    while (lo < hi) {
        uint32_t pivot = a[lo + (hi - lo) / 2];
        long i = lo, j = hi;
        while (i <= j) {
            while (a[i] < pivot)
                i++;
            while (a[j] > pivot)
                j--;
            if (i <= j) {
                uint32_t t = a[i];
                a[i++] = a[j];
                a[j--] = t;
            }
        }
        /* The smaller half by recursion: the stack stays small. */
        if (j - lo < hi - i) {
            quicksort(a, lo, j);
            lo = i;
        } else {
            quicksort(a, i, hi);
            hi = j;
        }
    }
}

static uint64_t row_quicksort(void)
{
    uint64_t seed = 42, n = work(2000000), sum = 0;
    uint32_t *a = malloc(n * sizeof(*a));
    if (!a)
        return ROW_FAILED;
    for (uint64_t i = 0; i < n; i++)
        a[i] = (uint32_t)rng_next(&seed);
    quicksort(a, 0, (long)n - 1);
    for (uint64_t i = 0; i < n; i++)
        sum = sum * 31 + a[i];
    free(a);
    return sum;
}

static uint64_t row_pointer(void)
{
    const uint32_t cells = 1u << 20; /* 4 MiB: beyond the inner caches, and 1024 pages for the TLB */
    uint64_t seed = 7, sum = 0, n = work(8000000);
    uint32_t *next = malloc(cells * sizeof(*next)), at = 0;
    if (!next)
        return ROW_FAILED;
    for (uint32_t i = 0; i < cells; i++)
        next[i] = i;
    for (uint32_t i = cells - 1; i > 0; i--) { /* one cycle through all cells */
        uint32_t j = (uint32_t)(rng_next(&seed) % i), t = next[i];
        next[i] = next[j];
        next[j] = t;
    }
    for (uint64_t i = 0; i < n; i++) {
        at = next[at];
        sum += at;
    }
    free(next);
    return sum;
}

__attribute__((noinline, noclone, optimize("no-optimize-sibling-calls"))) static uint64_t fib(unsigned n)
{
    /* Kept a real call tree: inlining several levels would measure something else on every compiler. */
    __asm__ volatile("" : "+r"(n));
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t row_fib(void)
{
    uint64_t sum = 0, n = work(250);
    for (uint64_t i = 0; i < n; i++)
        sum += fib(25);
    return sum;
}

enum op { OP_ADD, OP_XOR, OP_MUL, OP_SHIFT, OP_LOAD, OP_STORE, OP_LOOP, OP_HALT };

static uint64_t row_interpreter(void)
{
    static const struct {
        uint8_t op, a, b;
    } program[] = {
        { OP_ADD, 0, 1 }, { OP_XOR, 1, 2 },  { OP_MUL, 2, 0 }, { OP_STORE, 0, 2 }, { OP_SHIFT, 2, 3 },
        { OP_ADD, 3, 2 }, { OP_LOAD, 4, 3 }, { OP_XOR, 0, 4 }, { OP_LOOP, 5, 0 },  { OP_HALT, 0, 0 },
    };
    static uint64_t memory[256];
    uint64_t r[6] = { 1, 2, 3, 5, 8, work(8000000) };
    memset(memory, 0, sizeof(memory));
    for (unsigned pc = 0;; pc++) {
        unsigned a = program[pc].a, b = program[pc].b;
        switch (program[pc].op) {
        case OP_ADD:
            r[a] += r[b];
            break;
        case OP_XOR:
            r[a] ^= r[b];
            break;
        case OP_MUL:
            r[a] *= r[b] | 1;
            break;
        case OP_SHIFT:
            r[a] = r[a] >> 3 | r[a] << 61;
            break;
        case OP_LOAD:
            r[a] = memory[r[b] & 255];
            break;
        case OP_STORE:
            memory[r[a] & 255] = r[b];
            break;
        case OP_LOOP:
            if (--r[a])
                pc = (unsigned)-1;
            break;
        default:
            return r[0] ^ r[1] ^ r[2] ^ r[3];
        }
    }
}

struct body {
    double x[3], v[3], m;
};

static double root(double d)
{
    __m128d s = _mm_set_sd(d);
    return _mm_cvtsd_f64(_mm_sqrt_sd(s, s));
}

static uint64_t row_nbody(void)
{
    struct body b[5];
    uint64_t seed = 99, bits, n = work(1500000);
    for (unsigned i = 0; i < 5; i++) {
        for (unsigned d = 0; d < 3; d++) {
            b[i].x[d] = (double)(rng_next(&seed) % 2000) / 100.0 + 20.0 * i;
            b[i].v[d] = (double)(rng_next(&seed) % 200) / 1000.0;
        }
        b[i].m = 1.0 / (i + 1);
    }
    for (uint64_t step = 0; step < n; step++) {
        for (unsigned i = 0; i < 5; i++)
            for (unsigned j = i + 1; j < 5; j++) {
                double dx[3], d2 = 0.01;
                for (unsigned d = 0; d < 3; d++) {
                    dx[d] = b[i].x[d] - b[j].x[d];
                    d2 += dx[d] * dx[d];
                }
                double mag = 0.001 / (d2 * root(d2));
                for (unsigned d = 0; d < 3; d++) {
                    b[i].v[d] -= dx[d] * b[j].m * mag;
                    b[j].v[d] += dx[d] * b[i].m * mag;
                }
            }
        for (unsigned i = 0; i < 5; i++)
            for (unsigned d = 0; d < 3; d++)
                b[i].x[d] += 0.001 * b[i].v[d];
    }
    memcpy(&bits, &b[0].x[0], sizeof(bits));
    return bits;
}

__attribute__((target("avx2"))) static void saxpy_avx2(float *y, const float *x, float a, unsigned n)
{
    __m256 va = _mm256_set1_ps(a);
    for (unsigned i = 0; i < n; i += 8) /* no FMA: one rounding less would change the checksum between CPUs */
        _mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_loadu_ps(y + i), _mm256_mul_ps(va, _mm256_loadu_ps(x + i))));
}

static uint64_t row_saxpy(void)
{
    static float x[8192], y[8192];
    uint64_t sum = 0, n = work(150000);
    if (!__builtin_cpu_supports("avx2"))
        return ROW_SKIPPED;
    for (unsigned i = 0; i < 8192; i++) {
        x[i] = (float)(i % 97) - 48.0f;
        y[i] = (float)(i % 31);
    }
    for (uint64_t k = 0; k < n; k++)
        saxpy_avx2(y, x, k & 1 ? -0.5f : 0.5f, 8192);
    for (unsigned i = 0; i < 8192; i++) {
        uint32_t bits;
        memcpy(&bits, &y[i], 4);
        sum = sum * 31 + bits;
    }
    return sum;
}

static uint64_t row_memcpy(void)
{
    const size_t bytes = 1u << 20;
    char *a = malloc(bytes), *b = malloc(bytes);
    uint64_t n = work(4000);
    if (!a || !b) {
        free(a);
        free(b);
        return ROW_FAILED;
    }
    memset(a, 1, bytes);
    memset(b, 2, bytes);
    for (uint64_t i = 0; i < n; i++) {
        a[i % bytes] += 3;
        memcpy(b, a, bytes);
        __asm__ volatile("" ::"r"(b) : "memory");
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < bytes; i++)
        sum = sum * 31 + (unsigned char)b[i];
    free(a);
    free(b);
    return sum;
}

/* ---- kernel --------------------------------------------------------------------------------------------------------------------------------- */

static uint64_t row_syscall(void)
{
    uint64_t n = work(1000000), same = 0;
    long parent = syscall(SYS_getppid);
    for (uint64_t i = 0; i < n; i++)
        same += syscall(SYS_getppid) == parent;
    return same;
}

/* Waits for the child; true if it ended with status 0. */
static int child_ok(pid_t pid)
{
    int status;
    pid_t r;
    do
        r = waitpid(pid, &status, 0);
    while (r < 0 && errno == EINTR);
    return r == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static uint64_t row_fork(void)
{
    uint64_t n = work(1500), done = 0;
    for (uint64_t i = 0; i < n; i++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(0);
        if (pid < 0 || !child_ok(pid))
            return ROW_FAILED;
        done++;
    }
    return done;
}

/* Alone in a function: what lives in registers across a vfork is not reliable. */
__attribute__((noinline)) static pid_t spawn_self(void)
{
    pid_t pid = vfork();
    if (pid == 0) {
        execl(self_path, "bench", "--exit", (char *)NULL);
        _exit(127);
    }
    return pid;
}

static uint64_t row_exec(void)
{
    uint64_t n = work(150), done = 0;
    for (uint64_t i = 0; i < n; i++) {
        pid_t pid = spawn_self();
        if (pid < 0 || !child_ok(pid))
            return ROW_FAILED;
        done++;
    }
    return done;
}

static uint64_t row_pagefault(void)
{
    const size_t pages = 256;
    uint64_t n = work(600), sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        char *p = mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            return ROW_FAILED;
        madvise(p, pages * 4096, MADV_NOHUGEPAGE);
        for (size_t k = 0; k < pages; k++)
            p[k * 4096] = (char)k;
        sum += (unsigned char)p[(i % pages) * 4096];
        munmap(p, pages * 4096);
    }
    return sum;
}

static int echo_bytes(int in, int out)
{
    char c;
    while (read(in, &c, 1) == 1)
        if (write(out, &c, 1) != 1)
            return 1;
    return 0;
}

static uint64_t row_pipe(void)
{
    int to[2], from[2];
    uint64_t n = work(60000), sum = 0;
    if (pipe(to))
        return ROW_FAILED;
    if (pipe(from)) {
        close(to[0]);
        close(to[1]);
        return ROW_FAILED;
    }
    pid_t pid = fork();
    if (pid == 0) {
        close(to[1]);
        close(from[0]);
        _exit(echo_bytes(to[0], from[1]));
    }
    close(to[0]);
    close(from[1]);
    int is_ok = pid > 0;
    for (uint64_t i = 0; is_ok && i < n; i++) {
        unsigned char c = (unsigned char)i;
        is_ok = write(to[1], &c, 1) == 1 && read(from[0], &c, 1) == 1;
        sum += c;
    }
    close(to[1]);
    close(from[0]);
    return pid > 0 && child_ok(pid) && is_ok ? sum : ROW_FAILED;
}

/* Two processes that share a CPU and yield to each other: both do n switches. */
static uint64_t row_switch(void)
{
    uint64_t n = work(150000);
    cpu_set_t old, one;
    int has_old = sched_getaffinity(0, sizeof(old), &old) == 0;
    CPU_ZERO(&one);
    for (int i = 0; has_old && i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &old)) {
            CPU_SET(i, &one);
            break;
        }
    if (!has_old || sched_setaffinity(0, sizeof(one), &one))
        return ROW_SKIPPED;
    pid_t pid = fork();
    for (uint64_t i = 0; pid >= 0 && i < n; i++)
        sched_yield();
    if (pid == 0)
        _exit(0);
    int is_ok = pid > 0 && child_ok(pid);
    sched_setaffinity(0, sizeof(old), &old);
    return is_ok ? n : ROW_FAILED;
}

/* ---- driver --------------------------------------------------------------------------------------------------------------------------------- */

static const struct row {
    const char *name;
    uint64_t (*run)(void);
} rows[] = {
    { "integer", row_integer },     { "hash", row_hash },        { "quicksort", row_quicksort },
    { "pointer", row_pointer },     { "fib", row_fib },          { "interpreter", row_interpreter },
    { "nbody", row_nbody },         { "saxpy_avx2", row_saxpy }, { "memcpy", row_memcpy },
    { "syscall", row_syscall },     { "fork", row_fork },        { "exec", row_exec },
    { "pagefault", row_pagefault }, { "pipe", row_pipe },        { "switch", row_switch },
};
#define N_ROWS (sizeof(rows) / sizeof(rows[0]))

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int row_measure(const struct row *row)
{
    double start = now_s();
    uint64_t sum = row->run();
    double seconds = now_s() - start;
    int is_failed = sum == ROW_FAILED;
    if (is_failed)
        printf("FAIL %s %s\n", row->name, strerror(errno));
    else if (sum == ROW_SKIPPED)
        printf("SKIP %s not available here\n", row->name);
    else
        printf("ROW %s %.6f %016llx\n", row->name, seconds, (unsigned long long)sum);
    fflush(stdout); /* before a row forks: the child must not inherit text */
    return is_failed;
}

static int row_measure_named(const char *name)
{
    for (unsigned i = 0; i < N_ROWS; i++)
        if (!strcmp(rows[i].name, name))
            return row_measure(&rows[i]);
    fprintf(stderr, "bench: no row '%s'; rows are:", name);
    for (unsigned i = 0; i < N_ROWS; i++)
        fprintf(stderr, " %s", rows[i].name);
    fprintf(stderr, "\n");
    exit(2);
}

int main(int argc, char **argv)
{
    int failures = 0, at = 1;
    if (argc > 1 && !strcmp(argv[1], "--exit"))
        return 0;
    if (access(self_path, X_OK)) /* no /proc in a bare initramfs */
        self_path = argv[0];
    if (argc > 2 && !strcmp(argv[1], "-s")) {
        long value = strtol(argv[2], NULL, 10);
        if (value < 1 || value > 10000) {
            fprintf(stderr, "bench: -s wants a percentage from 1 to 10000, not '%s'\n", argv[2]);
            return 2;
        }
        percent = (unsigned)value;
        at = 3;
    }
    if (at < argc)
        for (; at < argc; at++)
            failures += row_measure_named(argv[at]);
    else
        for (unsigned i = 0; i < N_ROWS; i++)
            failures += row_measure(&rows[i]);
    return failures != 0;
}
