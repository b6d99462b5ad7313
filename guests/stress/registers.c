/* SPDX-License-Identifier: MIT */
/*
 * Registers of several processes and threads at once: what one loads it must find again in spite of signals and other tasks; and long calculations, whose
 * results are known.
 */
#include <immintrin.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"

/* ---- registers are kept ---- */

struct file {
    _Alignas(64) uint8_t vector[32][64];
    uint64_t mask[8];
    double x87[6];
    uint64_t gpr[6];
    uint32_t mxcsr, pad;
};

static volatile sig_atomic_t n_alarms;

/* Uses what the interrupted code uses. */
static void on_alarm(int sig)
{
    (void)sig;
    volatile double d = (double)(n_alarms + 1);
    volatile long double l = d;
    uint32_t mxcsr = 0x1f80;
    n_alarms++;
    __asm__ volatile("pxor %%xmm0, %%xmm0\n\tpcmpeqd %%xmm5, %%xmm5\n\tpxor %%xmm15, %%xmm15\n\tldmxcsr %0" : : "m"(mxcsr) : "xmm0", "xmm5", "xmm15");
    for (unsigned i = 0; i < 20; i++) {
        d = d * 1.5 + 1;
        l = l * 1.5L + 1;
    }
    if ((double)l != d)
        _exit(82);
}

#define X87_LOAD "fninit\n\tfldl 40(%[x])\n\tfldl 32(%[x])\n\tfldl 24(%[x])\n\tfldl 16(%[x])\n\tfldl 8(%[x])\n\tfldl (%[x])\n\t"
#define X87_STORE "fstpl (%[x])\n\tfstpl 8(%[x])\n\tfstpl 16(%[x])\n\tfstpl 24(%[x])\n\tfstpl 32(%[x])\n\tfstpl 40(%[x])\n\t"
#define ALL16(OP) OP(0) OP(1) OP(2) OP(3) OP(4) OP(5) OP(6) OP(7) OP(8) OP(9) OP(10) OP(11) OP(12) OP(13) OP(14) OP(15)
#define ALL32(OP) ALL16(OP) OP(16) OP(17) OP(18) OP(19) OP(20) OP(21) OP(22) OP(23) OP(24) OP(25) OP(26) OP(27) OP(28) OP(29) OP(30) OP(31)
#define MASKS(OP) OP(0) OP(1) OP(2) OP(3) OP(4) OP(5) OP(6) OP(7)
#define XMM_LOAD(n) "movdqu " #n "*64(%[v]), %%xmm" #n "\n\t"
#define XMM_STORE(n) "movdqu %%xmm" #n ", " #n "*64(%[v])\n\t"
#define YMM_LOAD(n) "vmovdqu " #n "*64(%[v]), %%ymm" #n "\n\t"
#define YMM_STORE(n) "vmovdqu %%ymm" #n ", " #n "*64(%[v])\n\t"
#define ZMM_LOAD(n) "vmovdqu64 " #n "*64(%[v]), %%zmm" #n "\n\t"
#define ZMM_STORE(n) "vmovdqu64 %%zmm" #n ", " #n "*64(%[v])\n\t"
#define MASK_LOAD(n) "kmovw " #n "*8(%[m]), %%k" #n "\n\t"
#define MASK_STORE(n) "kmovw %%k" #n ", " #n "*8(%[m])\n\t"
#define GPR_LOAD "mov (%[g]), %%rbx\n\tmov 8(%[g]), %%r8\n\tmov 16(%[g]), %%r12\n\tmov 24(%[g]), %%r13\n\tmov 32(%[g]), %%r14\n\tmov 40(%[g]), %%r15\n\t"
#define GPR_STORE "mov %%rbx, (%[g])\n\tmov %%r8, 8(%[g])\n\tmov %%r12, 16(%[g])\n\tmov %%r13, 24(%[g])\n\tmov %%r14, 32(%[g])\n\tmov %%r15, 40(%[g])\n\t"
#define SPIN "1: dec %[n]\n\tjnz 1b\n\t"
#define OPERANDS                                                                                \
    : [n] "+r"(spins)                                                                                                                                           \
    : [v] "r"(f->vector), [m] "r"(f->mask), [x] "r"(f->x87), [g] "r"(f->gpr), [c] "m"(f->mxcsr)                                                                 \
    : "memory", "cc", "rbx", "r8", "r12", "r13", "r14", "r15"

static void hold_sse(struct file *f, uint64_t spins)
{
    __asm__ volatile("ldmxcsr %[c]\n\t" X87_LOAD ALL16(XMM_LOAD) GPR_LOAD SPIN GPR_STORE ALL16(XMM_STORE) X87_STORE "stmxcsr %[c]" OPERANDS);
}

static void hold_avx(struct file *f, uint64_t spins)
{
    __asm__ volatile("ldmxcsr %[c]\n\t" X87_LOAD ALL16(YMM_LOAD) GPR_LOAD SPIN GPR_STORE ALL16(YMM_STORE) X87_STORE "stmxcsr %[c]\n\tvzeroupper" OPERANDS);
}

static void hold_avx512(struct file *f, uint64_t spins)
{
    __asm__ volatile("ldmxcsr %[c]\n\t" X87_LOAD ALL32(ZMM_LOAD) MASKS(MASK_LOAD) GPR_LOAD SPIN GPR_STORE MASKS(MASK_STORE) ALL32(ZMM_STORE) X87_STORE
                     "stmxcsr %[c]\n\tvzeroupper" OPERANDS);
}

static void hold(uint64_t seed, unsigned rounds)
{
    static __thread struct file now, want;
    bool has_512 = __builtin_cpu_supports("avx512f"), has_avx = __builtin_cpu_supports("avx");
    for (unsigned round = 0; round < rounds; round++) {
        uint8_t *v = &now.vector[0][0];
        for (unsigned i = 0; i < sizeof now.vector; i++)
            v[i] = (uint8_t)rng_next(&seed);
        for (unsigned i = 0; i < 8; i++)
            now.mask[i] = (uint16_t)rng_next(&seed);
        for (unsigned i = 0; i < 6; i++) {
            now.x87[i] = (double)(int64_t)rng_next(&seed);
            now.gpr[i] = rng_next(&seed);
        }
        now.mxcsr = 0x1f80 | (uint32_t)(rng_next(&seed) & 3) << 13;
        want = now;
        unsigned form = round % 3;
        if (form == 2 && has_512)
            hold_avx512(&now, 400000);
        else if (form >= 1 && has_avx)
            hold_avx(&now, 400000);
        else
            hold_sse(&now, 400000);
        uint32_t mxcsr = 0x1f80;
        __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
        if (memcmp(&now, &want, sizeof now)) {
            unsigned at = 0;
            while (((uint8_t *)&now)[at] == ((uint8_t *)&want)[at])
                at++;
            fail("registers change: form %u, byte %u is %02x instead of %02x", form, at, ((uint8_t *)&now)[at], ((uint8_t *)&want)[at]);
        }
    }
}

static void *hold_thread(void *arg)
{
    hold(777 + (uintptr_t)arg, 18);
    return NULL;
}

void pass_registers(void)
{
    struct itimerval every = { { 0, 700 }, { 0, 700 } }, never = { 0 };
    pthread_t t[2];
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &every, NULL);
    pid_t pid = fork();
    if (pid == 0) {
        setitimer(ITIMER_REAL, &every, NULL);
        hold(5, 24);
        _exit(0);
    }
    for (uintptr_t i = 0; i < 2; i++)
        pthread_create(&t[i], NULL, hold_thread, (void *)i);
    hold(6, 18);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    setitimer(ITIMER_REAL, &never, NULL);
    expect_exit(pid, 0, "registers of a child");
}

/* ---- calculations with known results ---- */

static uint64_t bits(double d)
{
    uint64_t u;
    memcpy(&u, &d, 8);
    return u;
}

static double square_root(double d)
{
    __asm__("sqrtsd %0, %0" : "+x"(d));
    return d;
}

/* Eight lanes, each as scalar SSE2 computes it; the wide forms must agree to the bit. */
static uint64_t lanes_sse(unsigned rounds)
{
    double a[8], h[8];
    for (unsigned i = 0; i < 8; i++)
        a[i] = 1.0 + i / 16.0, h[i] = 0;
    for (unsigned r = 0; r < rounds; r++)
        for (unsigned i = 0; i < 8; i++) {
            volatile double p = a[i] * 1.0000001;
            h[i] = h[i] + p;
            a[i] = square_root(p * p + 0.5) / (1.25 + 0.0001 * i);
        }
    uint64_t s = 0;
    for (unsigned i = 0; i < 8; i++)
        s = (s ^ bits(h[i])) * 0x9e3779b97f4a7c15ull;
    return s;
}

__attribute__((target("avx"))) static uint64_t lanes_avx(unsigned rounds)
{
    __m256d a[2], h[2], d[2];
    double out[8];
    for (unsigned k = 0; k < 2; k++) {
        double b = 4.0 * k;
        a[k] = _mm256_setr_pd(1 + b / 16, 1 + (b + 1) / 16, 1 + (b + 2) / 16, 1 + (b + 3) / 16);
        d[k] = _mm256_setr_pd(1.25 + 0.0001 * b, 1.25 + 0.0001 * (b + 1), 1.25 + 0.0001 * (b + 2), 1.25 + 0.0001 * (b + 3));
        h[k] = _mm256_setzero_pd();
    }
    for (unsigned r = 0; r < rounds; r++)
        for (unsigned k = 0; k < 2; k++) {
            __m256d p = _mm256_mul_pd(a[k], _mm256_set1_pd(1.0000001));
            h[k] = _mm256_add_pd(h[k], p);
            a[k] = _mm256_div_pd(_mm256_sqrt_pd(_mm256_add_pd(_mm256_mul_pd(p, p), _mm256_set1_pd(0.5))), d[k]);
        }
    _mm256_storeu_pd(out, h[0]);
    _mm256_storeu_pd(out + 4, h[1]);
    uint64_t s = 0;
    for (unsigned i = 0; i < 8; i++)
        s = (s ^ bits(out[i])) * 0x9e3779b97f4a7c15ull;
    return s;
}

__attribute__((target("avx512f"))) static uint64_t lanes_avx512(unsigned rounds)
{
    double out[8], start[8], divisor[8];
    for (unsigned i = 0; i < 8; i++)
        start[i] = 1.0 + i / 16.0, divisor[i] = 1.25 + 0.0001 * i;
    __m512d a = _mm512_loadu_pd(start), d = _mm512_loadu_pd(divisor), h = _mm512_setzero_pd();
    for (unsigned r = 0; r < rounds; r++) {
        __m512d p = _mm512_mul_pd(a, _mm512_set1_pd(1.0000001)), q = _mm512_mul_pd(p, p);
        __asm__("" : "+v"(q)); /* no contraction to a fused multiply-add */
        h = _mm512_add_pd(h, p);
        a = _mm512_div_pd(_mm512_sqrt_pd(_mm512_add_pd(q, _mm512_set1_pd(0.5))), d);
    }
    _mm512_storeu_pd(out, h);
    uint64_t s = 0;
    for (unsigned i = 0; i < 8; i++)
        s = (s ^ bits(out[i])) * 0x9e3779b97f4a7c15ull;
    return s;
}

static uint64_t lanes_x87(unsigned rounds)
{
    long double a = 1.0L, h = 0;
    for (unsigned r = 1; r <= rounds; r++) {
        long double q = a * a + 1.0L / r;
        __asm__("fsqrt" : "+t"(q));
        a = q / 1.125L;
        h += a * (long double)(int)(r % 17 - 8);
    }
    uint64_t u = 0;
    uint16_t e;
    memcpy(&u, &h, 8);
    memcpy(&e, (char *)&h + 8, 2);
    return u ^ (uint64_t)e << 48;
}

/* A big product and quotient: MUL, ADC, DIV and shifts. */
static uint64_t integers(unsigned rounds)
{
    uint64_t a[8], s = 42, h = 0;
    for (unsigned i = 0; i < 8; i++)
        a[i] = rng_next(&s);
    for (unsigned r = 0; r < rounds; r++) {
        unsigned __int128 carry = 0;
        for (unsigned i = 0; i < 8; i++) {
            carry += (unsigned __int128)a[i] * 0xfedcba9876543211ull + r;
            a[i] = (uint64_t)carry;
            carry >>= 64;
        }
        uint64_t top = (uint64_t)carry, low = a[7] | 1ull << 63;
        top %= low;
        uint64_t q, rem;
        __asm__("divq %4" : "=a"(q), "=d"(rem) : "a"(a[0]), "d"(top), "r"(low) : "cc");
        h = (h << 13 | h >> 51) ^ q ^ (rem << (r & 63)) ^ ((uint64_t)__builtin_popcountll(q) << (q & 31));
        a[r & 7] ^= h;
    }
    return h;
}

#define LANES_RESULT 0x1346f822d0e24720ull
#define X87_RESULT 0x7a8b0408af4faa7cull
#define INTEGER_RESULT 0x637286e15d7ec026ull

void pass_float(void)
{
    static const struct {
        const char *name, *feature;
        uint64_t (*run)(unsigned);
        uint64_t want;
    } row[] = {
        { "SSE2", NULL, lanes_sse, LANES_RESULT }, { "AVX", "avx", lanes_avx, LANES_RESULT },      { "AVX-512", "avx512f", lanes_avx512, LANES_RESULT },
        { "x87", NULL, lanes_x87, X87_RESULT },    { "integers", NULL, integers, INTEGER_RESULT },
    };
    for (unsigned child = 0; child < 3; child++) {
        if (child < 2 && fork() != 0)
            continue;
        for (unsigned i = 0; i < 2 * sizeof row / sizeof row[0]; i++) {
            unsigned n = (i + child * 2) % (sizeof row / sizeof row[0]);
            if (n == 1 && !__builtin_cpu_supports("avx"))
                continue;
            if (n == 2 && !__builtin_cpu_supports("avx512f"))
                continue;
            uint64_t got = row[n].run(20000);
            if (got != row[n].want)
                fail("%s computes %llx instead of %llx", row[n].name, (unsigned long long)got, (unsigned long long)row[n].want);
        }
        if (child < 2)
            _exit(0);
    }
    for (unsigned child = 0; child < 2; child++) {
        int status;
        if (wait(&status) < 0 || status)
            fail("a child's calculations");
    }
}
