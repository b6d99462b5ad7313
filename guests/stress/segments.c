/* SPDX-License-Identifier: MIT */
/*
 * Segments of a process of its own: FS and GS bases by instruction and by call, an LDT with a limit, kept over task switches; and programs that the kernel
 * compiles to code of its own (filters of system calls), which come and go.
 */
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "stress.h"

static sigjmp_buf limit_return;

static void on_limit(int sig)
{
    (void)sig;
    siglongjmp(limit_return, 1);
}

static uint64_t read_gs(uint64_t offset)
{
    uint64_t value;
    __asm__ volatile("mov %%gs:(%1), %0" : "=r"(value) : "r"(offset) : "memory");
    return value;
}

/* GS of each thread points to data of its own. */
static void *own_gs(void *arg)
{
    uint64_t who = (uintptr_t)arg, mine[4] = { who, who * 3, who * 5, who * 7 };
    if (syscall(SYS_arch_prctl, ARCH_SET_GS, mine))
        fail("ARCH_SET_GS");
    for (unsigned i = 0; i < 300; i++) {
        if (read_gs(0) != who || read_gs(24) != who * 7)
            fail("GS of thread %u points elsewhere", (unsigned)who);
        if (i % 4 == 0)
            sched_yield();
    }
    return NULL;
}

/* An entry of the LDT with the limit 15 as GS: offset 16 faults only outside of 64-bit mode, so the base alone is looked at here, and the limit by LSL. */
static void own_ldt(unsigned who)
{
    static uint64_t low[4]; /* below 4 GiB, as the descriptor's base must be */
    struct user_desc d = { .entry_number = who % 8, .base_addr = (unsigned)(uintptr_t)low, .limit = 15 + who, .seg_32bit = 1, .useable = 1 };
    low[0] = who;
    if (syscall(SYS_modify_ldt, 1, &d, sizeof d)) {
        if (errno == ENOSYS)
            return;
        fail("modify_ldt");
    }
    unsigned selector = (who % 8) << 3 | 7, limit = 0;
    __asm__ volatile("mov %0, %%gs" : : "r"(selector));
    for (unsigned i = 0; i < 200; i++) {
        __asm__ volatile("lsl %1, %0" : "=r"(limit) : "r"(selector) : "cc");
        if (limit != 15 + who || read_gs(0) != who)
            fail("LDT: limit %u instead of %u, value %llu", limit, 15 + who, (unsigned long long)read_gs(0));
        if (i % 4 == 0)
            sched_yield();
    }
    d = (struct user_desc){ .entry_number = who % 8, .read_exec_only = 1, .seg_not_present = 1 }; /* clears it */
    __asm__ volatile("mov %0, %%gs" : : "r"(0));
    syscall(SYS_modify_ldt, 1, &d, sizeof d);
    signal(SIGSEGV, on_limit);
    if (sigsetjmp(limit_return, 1) == 0) {
        __asm__ volatile("mov %0, %%gs" : : "r"(selector));
        fail("a selector without a descriptor is loaded");
    }
}

void pass_segments(void)
{
    pthread_t t[3];
    pid_t pid[2];
    for (unsigned i = 0; i < 2; i++) {
        pid[i] = fork();
        if (pid[i] == 0) {
            own_ldt(3 + 8 * i);
            _exit(0);
        }
    }
    for (uintptr_t i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, own_gs, (void *)(i + 1));
    for (unsigned i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    for (unsigned i = 0; i < 2; i++)
        expect_exit(pid[i], 0, "LDT");
}

/* getppid fails with the number; all else goes through. */
static void install_filter(unsigned number)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 3),
        BPF_STMT(BPF_LD | BPF_IMM, number * 3),
        BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 3),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | number),
    };
    struct sock_fprog program = { sizeof code / sizeof code[0], code };
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        skip("the kernel has no filters of system calls");
}

void pass_filter(void)
{
    for (unsigned i = 1; i < 40; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            install_filter(i);
            for (unsigned k = 0; k < 50; k++) {
                errno = 0;
                if (syscall(SYS_getppid) != -1 || errno != (int)i)
                    fail("filter %u: error %d", i, errno);
                if (syscall(SYS_getpid) != getpid() || (k % 10 == 0 && sched_yield()))
                    fail("filter %u stops another call", i);
            }
            _exit(0);
        }
        expect_exit(pid, 0, "filter");
    }
}
