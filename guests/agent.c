/* SPDX-License-Identifier: MIT */
/*
 * Runs in a guest as its console's only reader and does what the lines say that come there, so that a test outside can ask the guest at any moment. Each answer
 * ends in a line "agent: done NUMBER" with the number that began the request. Not an init: tests/transport/monitor/agent-init starts it. Static.
 *
 *   N load THREADS MIB [NICE]   threads, one per CPU, write MIB of memory each in several ways and check what they find there
 *   N state              steps of each thread so far and errors seen
 *   N halt               ends the threads; their memory and counters are compared with what so many steps must leave
 *   N clock              monotonic time, real time and time stamp counter
 *   N calls TIMES        getppid: how often it gave what it did not give at first
 *   N write FILE WORD, N read FILE
 *   N sh COMMAND         a shell's
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES 4096
#define PAGE_WORDS (PAGE_BYTES / 8)
#define THREADS_MAX 16

struct loader {
    pthread_t thread;
    unsigned number, nice;
    uint32_t n_pages;
    uint64_t *page;    /* whole pages, written by even steps */
    uint64_t *sparse;  /* as many; odd steps change one word of one */
    uint64_t *written; /* by page: the last step that wrote it, plus 1 */
    _Atomic uint64_t steps, errors;
    char first_error[160];
};

static struct loader loader[THREADS_MAX];
static unsigned n_loaders;
static atomic_bool is_ending;

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t choice(const struct loader *l, uint64_t step)
{
    return mix(step * 0x9e3779b97f4a7c15u + l->number);
}

static uint64_t word_of(const struct loader *l, uint32_t page, uint64_t written, unsigned i)
{
    return written ? (written << 32 | l->number << 24) ^ ((uint64_t)page << 16 | i) * 0x9e3779b97f4a7c15u : 0;
}

static void complain(struct loader *l, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (!atomic_fetch_add(&l->errors, 1))
        vsnprintf(l->first_error, sizeof(l->first_error), format, args);
    va_end(args);
}

static void check_page(struct loader *l, uint32_t p, uint64_t written)
{
    const volatile uint64_t *w = l->page + (uint64_t)p * PAGE_WORDS;
    for (unsigned i = 0; i < PAGE_WORDS; i++) {
        uint64_t is = w[i], should = word_of(l, p, written, i);
        if (is != should) {
            complain(l, "thread %u, step %lu: word %u of page %u is %#lx, not %#lx", l->number, l->steps, i, p, is, should);
            return;
        }
    }
}

/* In four ways, since each goes another way through the memory of a machine whose writes are logged. */
static void write_page(struct loader *l, uint32_t p, uint64_t written, unsigned way)
{
    uint64_t *to = l->page + (uint64_t)p * PAGE_WORDS, buffer[PAGE_WORDS], n = PAGE_WORDS;
    for (unsigned i = 0; i < PAGE_WORDS; i++)
        buffer[i] = word_of(l, p, written, i);
    const uint64_t *from = buffer;
    if (way == 0) {
        __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    } else if (way == 1) {
        for (unsigned i = 0; i < PAGE_WORDS; i += 2)
            __asm__ volatile("movdqu (%0), %%xmm7\n\tmovdqu %%xmm7, (%1)" : : "r"(from + i), "r"(to + i) : "memory", "xmm7");
    } else if (way == 2) {
        for (unsigned i = 0; i < PAGE_WORDS; i++)
            __atomic_exchange_n(to + i, from[i], __ATOMIC_SEQ_CST);
    } else {
        for (unsigned i = 0; i < PAGE_WORDS; i++)
            ((volatile uint64_t *)to)[i] = from[i];
    }
}

static void one_step(struct loader *l, uint64_t step)
{
    uint64_t c = choice(l, step);
    uint32_t p = c % l->n_pages;
    if (step % 8) {
        uint64_t *word = l->sparse + (uint64_t)p * PAGE_WORDS + (c >> 40) % PAGE_WORDS;
        __atomic_fetch_add(word, step | 1, __ATOMIC_RELAXED);
        return;
    }
    check_page(l, p, l->written[p]);
    write_page(l, p, step + 1, (c >> 32) % 4);
    l->written[p] = step + 1;
}

static void *load(void *arg)
{
    struct loader *l = arg;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(l->number % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
    sched_setaffinity(0, sizeof(set), &set);
    setpriority(PRIO_PROCESS, (id_t)gettid(), (int)l->nice); /* Linux has it by thread */
    while (!atomic_load(&is_ending)) {
        one_step(l, l->steps);
        l->steps++;
    }
    return NULL;
}

static void start(unsigned n, unsigned mib, unsigned nice)
{
    atomic_store(&is_ending, false);
    n_loaders = n < THREADS_MAX ? n : THREADS_MAX;
    for (unsigned i = 0; i < n_loaders; i++) {
        struct loader *l = &loader[i];
        *l = (struct loader){ .number = i, .n_pages = mib << 8, .nice = nice };
        size_t bytes = (size_t)l->n_pages * PAGE_BYTES;
        l->page = mmap(NULL, 2 * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        l->sparse = l->page + bytes / 8;
        l->written = calloc(l->n_pages, sizeof(*l->written));
        if (l->page == MAP_FAILED || !l->written || pthread_create(&l->thread, NULL, load, l)) {
            printf("agent: no thread %u\n", i);
            n_loaders = i;
        }
    }
}

/* What l->steps steps leave, computed anew and without what the thread kept in memory but that number. */
static void check_all(struct loader *l)
{
    uint64_t *written = calloc(l->n_pages, sizeof(*written)), words = (uint64_t)l->n_pages * PAGE_WORDS, *sparse = calloc(words, sizeof(*sparse));
    if (!written || !sparse) {
        complain(l, "no memory to check");
        return;
    }
    for (uint64_t step = 0; step < l->steps; step++) {
        uint64_t c = choice(l, step);
        if (step % 8)
            sparse[c % l->n_pages * PAGE_WORDS + (c >> 40) % PAGE_WORDS] += step | 1;
        else
            written[c % l->n_pages] = step + 1;
    }
    for (uint32_t p = 0; p < l->n_pages; p++) {
        if (written[p] != l->written[p])
            complain(l, "thread %u: page %u was written last by step %lu, it says %lu", l->number, p, written[p], l->written[p]);
        check_page(l, p, written[p]);
    }
    for (uint64_t i = 0; i < words; i++)
        if (sparse[i] != l->sparse[i])
            complain(l, "thread %u: sparse word %lu of page %lu is %#lx, not %#lx", l->number, i % PAGE_WORDS, i / PAGE_WORDS, l->sparse[i], sparse[i]);
    free(written);
    free(sparse);
}

static void state(void)
{
    for (unsigned i = 0; i < n_loaders; i++)
        printf("agent: thread %u steps %lu errors %lu %s\n", i, loader[i].steps, loader[i].errors, loader[i].first_error);
}

static void halt(void)
{
    atomic_store(&is_ending, true);
    for (unsigned i = 0; i < n_loaders; i++) {
        struct loader *l = &loader[i];
        pthread_join(l->thread, NULL);
        check_all(l);
    }
    state();
    for (unsigned i = 0; i < n_loaders; i++) {
        munmap(loader[i].page, 2 * (size_t)loader[i].n_pages * PAGE_BYTES);
        free(loader[i].written);
    }
    n_loaders = 0;
}

static uint64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void calls(uint64_t n)
{
    uint64_t odd = 0;
    long first = syscall(SYS_getppid), odd_one = 0;
    for (uint64_t i = 1; i < n; i++) {
        long id = syscall(SYS_getppid);
        if (id != first) {
            odd++;
            odd_one = id;
        }
    }
    printf("agent: calls odd %lu %ld\n", odd, odd_one);
}

static void file(const char *path, const char *text)
{
    char buffer[64];
    int fd = open(path, text ? O_WRONLY : O_RDONLY);
    ssize_t n = fd < 0 ? -1 : text ? write(fd, text, strlen(text)) : read(fd, buffer, sizeof(buffer) - 1);
    if (n < 0)
        printf("agent: %s: %s\n", path, strerror(errno));
    else if (!text)
        printf("agent: %.*s\n", (int)strcspn(buffer, "\n") < (int)n ? (int)strcspn(buffer, "\n") : (int)n, buffer);
    close(fd);
}

static void request(char *line)
{
    char path[64], text[64];
    unsigned threads, mib, nice = 0;
    uint64_t n;
    if (sscanf(line, "load %u %u %u", &threads, &mib, &nice) >= 2)
        start(threads, mib, nice);
    else if (!strcmp(line, "state"))
        state();
    else if (!strcmp(line, "halt"))
        halt();
    else if (!strcmp(line, "clock"))
        printf("agent: clock %lu %lu %llu\n", now_ns(CLOCK_MONOTONIC), now_ns(CLOCK_REALTIME), __builtin_ia32_rdtsc());
    else if (sscanf(line, "calls %lu", &n) == 1)
        calls(n);
    else if (sscanf(line, "write %63s %63s", path, text) == 2)
        file(path, text);
    else if (sscanf(line, "read %63s", path) == 1)
        file(path, NULL);
    else if (!strncmp(line, "sh ", 3))
        printf("agent: status %d\n", system(line + 3));
    else
        printf("agent: what is '%s'?\n", line);
}

int main(void)
{
    struct termios t;
    if (!tcgetattr(0, &t)) {
        cfmakeraw(&t);
        t.c_oflag |= OPOST | ONLCR;
        tcsetattr(0, TCSANOW, &t);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("agent: ready\n");
    char line[512];
    while (fgets(line, sizeof(line), stdin)) {
        char *rest;
        unsigned long number = strtoul(line, &rest, 10);
        rest[strcspn(rest, "\r\n")] = 0;
        request(rest + (*rest == ' '));
        fflush(stdout);
        printf("agent: done %lu\n", number);
    }
    return 0;
}
