/* SPDX-License-Identifier: MIT */
/*
 * Mappings and what their pages hold: copy on write, shared, of files, moved, protected; TLB shoot-downs between threads; string instructions across pages.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"

#define PAGE 4096ul

static uint64_t *map(unsigned long bytes, int flags, int fd)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (p == MAP_FAILED)
        fail("mmap");
    return p;
}

static void paint(uint64_t *p, unsigned long bytes, uint64_t seed)
{
    for (unsigned long i = 0; i < bytes / 8; i++)
        p[i] = seed + i * 0x9e3779b97f4a7c15ull;
}

static void expect(const uint64_t *p, unsigned long bytes, uint64_t seed, const char *what)
{
    for (unsigned long i = 0; i < bytes / 8; i++)
        if (p[i] != seed + i * 0x9e3779b97f4a7c15ull)
            fail("%s: word %lu is %llx", what, i, (unsigned long long)p[i]);
}

static void copy_on_write(void)
{
    unsigned long bytes = 64 * PAGE;
    uint64_t *p = map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1), *s = map(PAGE, MAP_SHARED | MAP_ANONYMOUS, -1);
    paint(p, bytes, 1);
    pid_t pid = fork();
    if (pid == 0) {
        expect(p, bytes, 1, "child before writing");
        paint(p, bytes, 2);
        expect(p, bytes, 2, "child after writing");
        paint(s, PAGE, 3);
        _exit(0);
    }
    for (unsigned i = 0; i < 64; i += 2)
        paint(p + i * PAGE / 8, PAGE, 100 + i);
    expect_exit(pid, 0, "copy on write");
    for (unsigned i = 0; i < 64; i++)
        if (i % 2 == 0)
            expect(p + i * PAGE / 8, PAGE, 100 + i, "parent's own");
        else if (p[i * PAGE / 8] != 1 + (i * PAGE / 8) * 0x9e3779b97f4a7c15ull)
            fail("a child's write is seen by its parent");
    expect(s, PAGE, 3, "shared page");
    munmap(p, bytes);
    munmap(s, PAGE);
}

static void move_and_drop(void)
{
    unsigned long bytes = 16 * PAGE;
    uint64_t *p = map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    paint(p, bytes, 5);
    uint64_t *block = map(bytes, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    uint64_t *q = mremap(p, bytes, 4 * bytes, MREMAP_MAYMOVE);
    if (q == MAP_FAILED)
        fail("mremap");
    expect(q, bytes, 5, "after mremap");
    paint(q, 4 * bytes, 6);
    if (madvise(q + PAGE / 8, PAGE, MADV_DONTNEED))
        fail("madvise");
    for (unsigned i = 0; i < PAGE / 8; i++)
        if (q[PAGE / 8 + i])
            fail("a dropped page is not zero");
    expect(q, PAGE, 6, "before the dropped page");
    if (mremap(q, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, block) != block)
        fail("mremap to a fixed place");
    expect(block, PAGE, 6, "moved onto another mapping");
    munmap(block, bytes);
    munmap(q + bytes / 8, 3 * bytes);
}

static void of_file(void)
{
    char name[] = "/tmp/stress.XXXXXX";
    int fd = mkstemp(name);
    if (fd < 0 || ftruncate(fd, 8 * PAGE))
        fail("file");
    unlink(name);
    uint64_t *s = map(8 * PAGE, MAP_SHARED, fd), *p = map(8 * PAGE, MAP_PRIVATE, fd), word;
    paint(s, 8 * PAGE, 8);
    expect(p, 8 * PAGE, 8, "private mapping of a file");
    paint(p, 2 * PAGE, 9);
    expect(s, 8 * PAGE, 8, "shared mapping of a file");
    if (pread(fd, &word, 8, 3 * PAGE) != 8 || word != s[3 * PAGE / 8])
        fail("pread of a mapped file");
    word = ~word;
    if (pwrite(fd, &word, 8, 5 * PAGE + 8) != 8 || s[5 * PAGE / 8 + 1] != word)
        fail("pwrite to a mapped file");
    munmap(s, 8 * PAGE);
    munmap(p, 8 * PAGE);
    close(fd);
}

void pass_mapping(void)
{
    for (unsigned i = 0; i < 4; i++) {
        copy_on_write();
        move_and_drop();
        of_file();
    }
}

void pass_file(void)
{
    unsigned char a[10000], b[10000];
    uint64_t seed = 3 + (uint64_t)getpid();
    char name[64], other[64];
    for (unsigned round = 0; round < 8; round++) {
        unsigned serial = stress_serial();
        snprintf(name, sizeof name, "/tmp/stress.file.%u", serial);
        snprintf(other, sizeof other, "/tmp/stress.other.%u", serial);
        for (unsigned i = 0; i < sizeof a; i++)
            a[i] = (unsigned char)rng_next(&seed);
        FILE *f = fopen(name, "wb");
        if (!f || fwrite(a, 1, sizeof a, f) != sizeof a || fclose(f))
            fail("write a file");
        if (rename(name, other))
            fail("rename");
        f = fopen(other, "rb");
        if (!f || fread(b, 1, sizeof b, f) != sizeof b || fgetc(f) != EOF || fclose(f))
            fail("read a file");
        if (memcmp(a, b, sizeof a))
            fail("a file reads back differently");
        unlink(other);
    }
}

/* ---- another CPU's TLB ---- */

static struct {
    volatile uint64_t *page;
    _Atomic bool is_open, is_over, is_stopped;
    _Atomic unsigned n_faults;
} shoot;

static void on_protected(int sig, siginfo_t *info, void *context)
{
    (void)sig, (void)context;
    if ((uint64_t)info->si_addr - (uint64_t)shoot.page >= PAGE)
        _exit(90);
    atomic_fetch_add(&shoot.n_faults, 1);
    while (!atomic_load(&shoot.is_open))
        usleep(50);
}

static void *writer(void *arg)
{
    (void)arg;
    for (uint64_t n = 1; !atomic_load(&shoot.is_over); n++)
        shoot.page[n % 512] = n;
    return NULL;
}

void pass_shootdown(void)
{
    struct sigaction sa = { .sa_sigaction = on_protected, .sa_flags = SA_SIGINFO };
    pthread_t t[2];
    sigaction(SIGSEGV, &sa, NULL);
    shoot.page = map(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    atomic_store(&shoot.is_open, true);
    for (unsigned i = 0; i < 2; i++)
        pthread_create(&t[i], NULL, writer, NULL);
    for (unsigned round = 0; round < 60; round++) {
        usleep(200);
        atomic_store(&shoot.is_open, false);
        if (round % 3 == 2) { /* drop the page: the next touch sees zeros and a page of its own */
            atomic_store(&shoot.is_open, true);
            madvise((void *)shoot.page, PAGE, MADV_DONTNEED);
            continue;
        }
        if (mprotect((void *)shoot.page, PAGE, PROT_READ))
            fail("mprotect");
        uint64_t before = sum_bytes((void *)shoot.page, PAGE, 1);
        usleep(round % 4 * 100);
        if (sum_bytes((void *)shoot.page, PAGE, 1) != before)
            fail("a page that is read-only changes");
        mprotect((void *)shoot.page, PAGE, PROT_READ | PROT_WRITE);
        atomic_store(&shoot.is_open, true);
    }
    atomic_store(&shoot.is_over, true);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
}

/* ---- string instructions ---- */

static unsigned char *string_area;
static unsigned n_string_faults;

/* Opens one page at a time, so that a string instruction stops at each page and goes on. */
static void on_string_fault(int sig, siginfo_t *info, void *context)
{
    (void)sig, (void)context;
    uint64_t at = (uint64_t)info->si_addr & ~(PAGE - 1);
    if (at - (uint64_t)string_area >= 8 * PAGE)
        _exit(91);
    n_string_faults++;
    mprotect((void *)at, PAGE, PROT_READ | PROT_WRITE);
}

void pass_strings(void)
{
    struct sigaction sa = { .sa_sigaction = on_string_fault, .sa_flags = SA_SIGINFO };
    sigaction(SIGSEGV, &sa, NULL);
    string_area = (unsigned char *)map(8 * PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    uint64_t seed = 77 + (uint64_t)getpid();
    for (unsigned round = 0; round < 20; round++) {
        unsigned char *src = string_area + 1 + rng_next(&seed) % 100, *dst = string_area + 4 * PAGE + rng_next(&seed) % 100;
        unsigned long n = 3 * PAGE + rng_next(&seed) % 1000, left = n;
        mprotect(string_area, 8 * PAGE, PROT_READ | PROT_WRITE);
        for (unsigned long i = 0; i < n; i++)
            src[i] = (unsigned char)rng_next(&seed);
        mprotect(string_area, 8 * PAGE, PROT_NONE);
        n_string_faults = 0;
        unsigned char *s = src, *d = dst;
        if (round % 2) {
            __asm__ volatile("rep movsb" : "+S"(s), "+D"(d), "+c"(left) : : "memory");
        } else {
            left = n /= 8;
            n *= 8;
            __asm__ volatile("rep movsq" : "+S"(s), "+D"(d), "+c"(left) : : "memory");
        }
        if (left || s != src + n || d != dst + n || n_string_faults < 6 || memcmp(src, dst, n))
            fail("rep movs: left %lu, %u faults", left, n_string_faults);
        s = src, d = dst, left = n;
        dst[n - 5] ^= 1;
        __asm__ volatile("repe cmpsb" : "+S"(s), "+D"(d), "+c"(left) : : "memory", "cc");
        if (left != 4)
            fail("repe cmpsb stops %lu before the end", left);
        d = dst + n - 1, left = n;
        __asm__ volatile("std\n\trep stosb\n\tcld" : "+D"(d), "+c"(left) : "a"(0x5a) : "memory", "cc");
        for (unsigned long i = 0; i < n; i++)
            if (dst[i] != 0x5a)
                fail("rep stosb backwards: byte %lu", i);
        d = dst, left = n + 1000;
        __asm__ volatile("repe scasb" : "+D"(d), "+c"(left) : "a"(0x5a) : "memory", "cc");
        if (d != dst + n + 1 && d[-2] != 0x5a)
            fail("repe scasb");
    }
}
