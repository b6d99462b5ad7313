/* SPDX-License-Identifier: MIT */
/*
 * Stress for a guest: many small tests at once, again and again for some time; all check what they compute. One line per test, "stress NAME ok|FAIL detail",
 * then "stress summary ok|FAIL ...". Needs /proc, /dev, /tmp and, for the disk test, a block device that it may overwrite.
 * Build: gcc -D_GNU_SOURCE -O2 -static -no-pie -pthread *.c. Use: stress [-s SECONDS] [-w WORKERS] [-d DISK] [TEST...]; exit 1 if a test failed, 2 on wrong
 * usage.
 */
#include "stress.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PASS_LIMIT_MS 120000
#define SKIPPED 77

static const struct test {
    const char *name;
    void (*pass)(void);
} tests[] = {
    { "fork", pass_fork },
    { "exec", pass_exec },
    { "threads", pass_threads },
    { "pipes", pass_pipes },
    { "mapping", pass_mapping },
    { "shootdown", pass_shootdown },
    { "file", pass_file },
    { "strings", pass_strings },
    { "signals", pass_signals },
    { "faults", pass_faults },
    { "registers", pass_registers },
    { "float", pass_float },
    { "jit", pass_jit },
    { "jit_threads", pass_jit_threads },
    { "counters", pass_counters },
    { "futex", pass_futex },
    { "disk", pass_disk },
    { "compat", pass_compat },
    { "steps", pass_steps },
    { "watch", pass_watch },
    { "clock", pass_clock },
    { "tsc", pass_tsc },
    { "sleep", pass_sleep },
    { "segments", pass_segments },
    { "filter", pass_filter },
};
#define N_TESTS (sizeof tests / sizeof tests[0])

/* Shared by all processes. */
static struct shared {
    _Atomic unsigned serial;
    struct result {
        _Atomic unsigned passes, fails, skips;
        _Atomic bool is_claimed, has_begun;
        char detail[240];
    } result[N_TESTS];
} * shared;

static struct result *current;
const char *stress_self = "/proc/self/exe";
const char *stress_disk = "/dev/vda";

/* ---- for the tests ---- */

static void note(struct result *r, const char *text)
{
    if (!atomic_exchange(&r->is_claimed, true))
        snprintf(r->detail, sizeof r->detail, "%s", text);
}

void fail(const char *format, ...)
{
    char text[240];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    note(current, text);
    fprintf(stderr, "stress: %s: %s\n", tests[current - shared->result].name, text);
    _exit(1);
}

void skip(const char *why)
{
    note(current, why);
    _exit(SKIPPED);
}

unsigned stress_serial(void)
{
    return atomic_fetch_add(&shared->serial, 1);
}

uint64_t rng_next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

uint64_t sum_bytes(const void *data, unsigned long bytes, uint64_t h)
{
    const uint8_t *p = data;
    for (; bytes >= 8; bytes -= 8, p += 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        h = (h ^ v) * 0x9e3779b97f4a7c15ull;
        h ^= h >> 29;
    }
    for (; bytes; bytes--)
        h = (h ^ *p++) * 0x100000001b3ull;
    return h;
}

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void expect_exit(int pid, int status, const char *who)
{
    int w;
    pid_t r;
    do
        r = waitpid(pid, &w, 0);
    while (r < 0 && errno == EINTR);
    if (r != pid)
        fail("%s: waitpid: %s", who, strerror(errno));
    if (WIFSIGNALED(w))
        fail("%s: killed by signal %d", who, WTERMSIG(w));
    if (!WIFEXITED(w) || WEXITSTATUS(w) != status)
        fail("%s: exit status %d instead of %d", who, WEXITSTATUS(w), status);
}

/* ---- running ---- */

static void run_child(unsigned n)
{
    current = &shared->result[n];
    setpgid(0, 0);
    prctl(PR_SET_DUMPABLE, 1);
    tests[n].pass();
    _exit(0);
}

static void run_pass(unsigned n)
{
    struct result *r = &shared->result[n];
    char text[80];
    pid_t pid = fork();
    if (pid == 0)
        run_child(n);
    if (pid < 0) {
        note(r, "fork failed");
        atomic_fetch_add(&r->fails, 1);
        return;
    }
    setpgid(pid, pid);
    int fd = (int)syscall(SYS_pidfd_open, pid, 0), status = 0;
    struct pollfd p = { .fd = fd, .events = POLLIN };
    bool is_late = fd >= 0 && poll(&p, 1, PASS_LIMIT_MS) == 0;
    close(fd);
    if (is_late)
        kill(-pid, SIGKILL);
    waitpid(pid, &status, 0);
    kill(-pid, SIGKILL); /* whatever a failed pass left behind */
    if (!is_late && WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        atomic_fetch_add(&r->passes, 1);
    } else if (!is_late && WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED) {
        atomic_fetch_add(&r->skips, 1);
    } else {
        snprintf(text, sizeof text, is_late ? "no end after %d s" : "died by signal %d", is_late ? PASS_LIMIT_MS / 1000 : WTERMSIG(status));
        note(r, text);
        atomic_fetch_add(&r->fails, 1);
    }
}

/* When the time is over, what has never begun still gets its turn. */
static void worker(unsigned index, uint64_t end, const bool *chosen)
{
    unsigned n = (unsigned)(index * 7 % N_TESTS), idle = 0;
    while (idle < N_TESTS) {
        struct result *r = &shared->result[n];
        bool is_wanted = chosen[n] && !atomic_load(&r->skips);
        if (is_wanted && (now_ns() < end || !atomic_load(&r->has_begun))) {
            atomic_store(&r->has_begun, true);
            run_pass(n);
            idle = 0;
        } else {
            idle++;
        }
        n = (n + 1) % N_TESTS;
    }
    _exit(0);
}

static int summarize(const bool *chosen, double seconds)
{
    unsigned passes = 0, fails = 0;
    for (unsigned n = 0; n < N_TESTS; n++) {
        struct result *r = &shared->result[n];
        if (!chosen[n])
            continue;
        passes += r->passes;
        fails += r->fails;
        if (r->fails)
            printf("stress %s FAIL %u of %u: %s\n", tests[n].name, r->fails, r->passes + r->fails, r->detail);
        else
            printf("stress %s ok %u%s%s\n", tests[n].name, r->passes, r->skips ? " skipped: " : "", r->skips ? r->detail : "");
    }
    printf("stress summary %s passes=%u fails=%u seconds=%.0f\n", fails ? "FAIL" : "ok", passes, fails, seconds);
    return fails ? 1 : 0;
}

static int own_tool(char **argv)
{
    if (strcmp(argv[1], "--exit") == 0)
        return atoi(argv[2]);
    char buf[512];
    uint64_t h = 0;
    for (ssize_t n; (n = read(0, buf, sizeof buf)) > 0;)
        for (ssize_t i = 0; i < n; i++)
            h = (h ^ (uint8_t)buf[i]) * 0x100000001b3ull;
    return write(1, &h, sizeof h) == (ssize_t)sizeof h ? atoi(argv[2]) : 99;
}

int main(int argc, char **argv)
{
    unsigned seconds = 20, workers = (unsigned)sysconf(_SC_NPROCESSORS_ONLN) + 1;
    bool chosen[N_TESTS] = { false };
    int option;
    if (argc == 3 && strncmp(argv[1], "--e", 3) == 0)
        return own_tool(argv);
    while ((option = getopt(argc, argv, "s:w:d:")) != -1) {
        if (option == 's')
            seconds = (unsigned)atoi(optarg);
        else if (option == 'w')
            workers = (unsigned)atoi(optarg);
        else if (option == 'd')
            stress_disk = optarg;
        else
            return 2;
    }
    for (unsigned n = 0; n < N_TESTS; n++)
        chosen[n] = optind == argc;
    for (int i = optind; i < argc; i++) {
        unsigned n = 0;
        while (n < N_TESTS && strcmp(tests[n].name, argv[i]) != 0)
            n++;
        if (n == N_TESTS)
            return 2;
        chosen[n] = true;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return 2;
    uint64_t start = now_ns();
    for (unsigned i = 0; i < workers; i++)
        if (fork() == 0)
            worker(i, start + seconds * 1000000000ull, chosen);
    while (wait(NULL) > 0)
        ;
    return summarize(chosen, (double)(now_ns() - start) / 1e9);
}
