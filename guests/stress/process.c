/* SPDX-License-Identifier: MIT */
/*
 * Processes, programs, threads, and data through pipes.
 */
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"

/* A tree of processes; each node adds up its children and itself, and its memory is its own. */
static int tree(unsigned depth, volatile uint64_t *mine)
{
    int sum = 1;
    pid_t child[3];
    for (unsigned i = 0; i < 3 && depth > 0; i++) {
        *mine = depth * 10 + i;
        child[i] = fork();
        if (child[i] == 0) {
            if (*mine != depth * 10 + i)
                _exit(200);
            _exit(tree(depth - 1, mine));
        }
        if (child[i] < 0)
            fail("fork");
        *mine = 1000;
    }
    for (unsigned i = 0; i < 3 && depth > 0; i++) {
        int status;
        if (waitpid(child[i], &status, 0) != child[i] || !WIFEXITED(status) || WEXITSTATUS(status) >= 200)
            return 201;
        sum += WEXITSTATUS(status);
    }
    return depth > 0 && *mine != 1000 ? 202 : sum;
}

void pass_fork(void)
{
    volatile uint64_t mine = 7;
    int n = tree(3, &mine);
    if (n != 40)
        fail("a tree of 40 processes counts %d", n);
    for (unsigned i = 0; i < 30; i++) {
        pid_t pid = vfork();
        if (pid == 0)
            _exit((int)i);
        expect_exit(pid, (int)i, "vfork");
    }
}

void pass_exec(void)
{
    extern char **environ;
    uint64_t seed = 0x1234567 + getpid();
    for (unsigned i = 0; i < 12; i++) {
        int in[2], out[2];
        char number[12], data[3000];
        uint64_t h = 0, got = 0;
        snprintf(number, sizeof number, "%u", i);
        if (pipe(in) || pipe(out))
            fail("pipe");
        pid_t pid;
        char *argv[] = { "stress", "--echo", number, NULL };
        if (i % 2) {
            pid = fork();
            if (pid == 0) {
                dup2(in[0], 0);
                dup2(out[1], 1);
                close(in[0]), close(in[1]), close(out[0]), close(out[1]);
                execve(stress_self, argv, environ);
                _exit(127);
            }
        } else {
            posix_spawn_file_actions_t a;
            posix_spawn_file_actions_init(&a);
            posix_spawn_file_actions_adddup2(&a, in[0], 0);
            posix_spawn_file_actions_adddup2(&a, out[1], 1);
            posix_spawn_file_actions_addclose(&a, in[1]);
            if (posix_spawn(&pid, stress_self, &a, NULL, argv, environ))
                fail("posix_spawn");
            posix_spawn_file_actions_destroy(&a);
        }
        close(in[0]);
        close(out[1]);
        for (unsigned k = 0; k < sizeof data; k++) {
            data[k] = (char)rng_next(&seed);
            h = (h ^ (uint8_t)data[k]) * 0x100000001b3ull;
        }
        if (write(in[1], data, sizeof data) != (ssize_t)sizeof data)
            fail("write");
        close(in[1]);
        if (read(out[0], &got, sizeof got) != (ssize_t)sizeof got || got != h)
            fail("a program computes %llx instead of %llx", (unsigned long long)got, (unsigned long long)h);
        close(out[0]);
        expect_exit(pid, (int)i, "exec");
    }
}

static void *thread_sum(void *arg)
{
    uint64_t s = (uintptr_t)arg + 1, h = 0;
    static __thread uint64_t own;
    own = s;
    for (unsigned i = 0; i < 20000; i++) {
        h += rng_next(&s);
        if (i % 5000 == 0)
            sched_yield();
    }
    return own == (uintptr_t)arg + 1 ? (void *)(uintptr_t)h : NULL;
}

void pass_threads(void)
{
    for (unsigned round = 0; round < 4; round++) {
        pthread_t t[8];
        for (uintptr_t i = 0; i < 8; i++)
            if (pthread_create(&t[i], NULL, thread_sum, (void *)i))
                fail("pthread_create");
        for (uintptr_t i = 0; i < 8; i++) {
            void *got, *want = thread_sum((void *)i);
            pthread_join(t[i], &got);
            if (got != want)
                fail("thread %u computes %p instead of %p", (unsigned)i, got, want);
        }
    }
}

/* ---- pipes ---- */

static void produce(int fd, uint64_t seed, unsigned long bytes, int shift)
{
    unsigned char buf[5000];
    while (bytes > 0) {
        unsigned long n = 1 + rng_next(&seed) % sizeof buf;
        if (n > bytes)
            n = bytes;
        for (unsigned long i = 0; i < n; i++)
            buf[i] = (unsigned char)(rng_next(&seed) + (unsigned)shift);
        for (unsigned long at = 0; at < n;) {
            ssize_t w = write(fd, buf + at, n - at);
            if (w <= 0)
                fail("write to a pipe");
            at += (unsigned long)w;
        }
        bytes -= n;
    }
}

static uint64_t consume(int fd, int out, unsigned long *total)
{
    unsigned char buf[4096];
    uint64_t h = 1;
    for (ssize_t n; (n = read(fd, buf, sizeof buf)) > 0; *total += (unsigned long)n) {
        for (ssize_t i = 0; i < n; i++)
            h = (h ^ buf[i]) * 0x100000001b3ull;
        if (out >= 0 && write(out, buf, (size_t)n) != n)
            fail("pass on");
    }
    return h;
}

static uint64_t expected(uint64_t seed, unsigned long bytes)
{
    uint64_t h = 1;
    while (bytes > 0) {
        unsigned long n = 1 + rng_next(&seed) % 5000;
        if (n > bytes)
            n = bytes;
        for (unsigned long i = 0; i < n; i++)
            h = (h ^ (unsigned char)rng_next(&seed)) * 0x100000001b3ull;
        bytes -= n;
    }
    return h;
}

void pass_pipes(void)
{
    unsigned long bytes = 300000, got_bytes = 0;
    uint64_t seed = 99 + (uint64_t)getpid();
    int a[2], b[2];
    if (pipe(a) || socketpair(AF_UNIX, SOCK_STREAM, 0, b))
        fail("pipe");
    pid_t first = fork();
    if (first == 0) {
        close(a[0]);
        produce(a[1], seed, bytes, 0);
        _exit(0);
    }
    pid_t second = fork();
    if (second == 0) {
        unsigned long n = 0;
        close(a[1]), close(b[0]);
        consume(a[0], b[1], &n);
        _exit(n == bytes ? 0 : 3);
    }
    close(a[0]), close(a[1]), close(b[1]);
    uint64_t h = consume(b[0], -1, &got_bytes);
    expect_exit(first, 0, "producer");
    expect_exit(second, 0, "middle");
    if (got_bytes != bytes || h != expected(seed, bytes))
        fail("%lu of %lu bytes, sum %llx", got_bytes, bytes, (unsigned long long)h);
}
