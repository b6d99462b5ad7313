/* SPDX-License-Identifier: MIT */
/*
 * Code that programs write: in place, through another mapping, next to its own data, by another thread.
 */
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "stress.h"

#define PAGE 4096u

static uint8_t *map(int prot, int flags, int fd, unsigned bytes)
{
    void *p = mmap(NULL, bytes, prot, flags, fd, 0);
    if (p == MAP_FAILED)
        fail("mmap");
    return p;
}

/* mov eax, value; ret */
static void write_function(uint8_t *at, uint32_t value)
{
    at[0] = 0xb8;
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}

static uint32_t call(const uint8_t *at)
{
    return ((uint32_t(*)(void))(uintptr_t)at)();
}

static void in_place(void)
{
    uint8_t *p = map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 2 * PAGE);
    for (uint32_t n = 0; n < 3000; n++) {
        unsigned at = n * 37 % (2 * PAGE - 8); /* across the page boundary too */
        write_function(p + at, n * 0x10001);
        if (call(p + at) != n * 0x10001)
            fail("in place: call %u at %x", n, at);
    }
    /* Data beside code: stores that must not be lost nor disturb it. */
    write_function(p, 4711);
    volatile uint64_t *data = (volatile uint64_t *)(p + 64);
    for (uint64_t n = 0; n < 3000; n++) {
        data[n % 8] = n;
        if (call(p) != 4711 || data[n % 8] != n)
            fail("data beside code");
    }
    munmap(p, 2 * PAGE);
}

static void double_mapping(void)
{
    int fd = memfd_create("stress", 0);
    if (fd < 0 || ftruncate(fd, PAGE))
        fail("memfd");
    uint8_t *w = map(PROT_READ | PROT_WRITE, MAP_SHARED, fd, PAGE), *x = map(PROT_READ | PROT_EXEC, MAP_SHARED, fd, PAGE);
    for (uint32_t n = 0; n < 3000; n++) {
        write_function(w + n % 8 * 64, n);
        if (call(x + n % 8 * 64) != n)
            fail("double mapping: call %u", n);
    }
    for (uint32_t n = 0; n < 50; n++) { /* by the kernel's copy */
        uint8_t code[6];
        write_function(code, n + 5);
        if (pwrite(fd, code, 6, 128) != 6 || call(x + 128) != n + 5)
            fail("code that a system call writes");
    }
    munmap(w, PAGE);
    munmap(x, PAGE);
    close(fd);
}

static void by_protection(void)
{
    uint8_t *p = map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, PAGE);
    for (uint32_t n = 0; n < 200; n++) {
        write_function(p, n);
        if (mprotect(p, PAGE, PROT_READ | PROT_EXEC) || call(p) != n)
            fail("protected code: call %u", n);
        if (n % 4 == 0)
            madvise(p, PAGE, MADV_DONTNEED);
        mprotect(p, PAGE, PROT_READ | PROT_WRITE);
    }
    munmap(p, PAGE);
}

/* An instruction that stores into the one behind it: IA-32 guarantees that the new one runs. */
static void next_instruction(void)
{
    /* mov dword [rip + 1], edi; mov eax, 0; ret: the first writes the second's immediate */
    static const uint8_t code[] = { 0x89, 0x3d, 0x01, 0x00, 0x00, 0x00, 0xb8, 0, 0, 0, 0, 0xc3 };
    uint8_t *p = map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, PAGE);
    memcpy(p, code, sizeof code);
    for (uint32_t n = 1; n < 1000; n++)
        if (((uint32_t(*)(uint32_t))(uintptr_t)p)(n) != n)
            fail("an instruction that changes the next one: %u", n);
    munmap(p, PAGE);
}

void pass_jit(void)
{
    in_place();
    double_mapping();
    by_protection();
    next_instruction();
}

/* ---- threads ---- */

static struct {
    uint8_t *write, *run;
    _Atomic uint32_t published;
    _Atomic bool is_over;
    bool is_by_cpuid;
} shared;

static void *runner(void *arg)
{
    (void)arg;
    uint32_t last = 0;
    while (!atomic_load(&shared.is_over)) {
        uint32_t seen = atomic_load(&shared.published);
        if (shared.is_by_cpuid) {
            uint32_t a = 0, b, c = 0, d;
            __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
        }
        uint32_t got = call(shared.run);
        if (got < seen || got < last)
            fail("code of another thread: got %u after %u was published and %u seen", got, seen, last);
        last = got;
    }
    return NULL;
}

void pass_jit_threads(void)
{
    bool has_barrier = syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0) == 0;
    for (unsigned form = 0; form < 4; form++) {
        int fd = memfd_create("stress", 0);
        pthread_t t[2];
        if (fd < 0 || ftruncate(fd, PAGE))
            fail("memfd");
        bool is_double = form & 1;
        shared.is_by_cpuid = form & 2 || !has_barrier;
        shared.write = map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED, fd, PAGE);
        shared.run = (is_double ? map(PROT_READ | PROT_EXEC, MAP_SHARED, fd, PAGE) : shared.write) + 3; /* so that the immediate is aligned */
        write_function(shared.write + 3, 0);
        atomic_store(&shared.published, 0);
        atomic_store(&shared.is_over, false);
        for (unsigned i = 0; i < 2; i++)
            pthread_create(&t[i], NULL, runner, NULL);
        for (uint32_t n = 1; n < 400; n++) {
            atomic_store((_Atomic uint32_t *)(void *)(shared.write + 4), n);
            if (!shared.is_by_cpuid)
                syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0);
            atomic_store(&shared.published, n);
            if (n % 16 == 0)
                usleep(100);
        }
        atomic_store(&shared.is_over, true);
        for (unsigned i = 0; i < 2; i++)
            pthread_join(t[i], NULL);
        if (is_double)
            munmap(shared.run - 3, PAGE);
        munmap(shared.write, PAGE);
        close(fd);
    }
}
