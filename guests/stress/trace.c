/* SPDX-License-Identifier: MIT */
/*
 * A debugger's means: single steps, breakpoints in code, the debug registers.
 */
#include <signal.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"

volatile uint64_t watched[4];

/* A known number of instructions from stress_steps to stress_steps_end. */
extern const char stress_steps[], stress_steps_end[], stress_steps_loop[];
__asm__(".globl stress_steps, stress_steps_end, stress_steps_loop\n"
        ".type stress_steps, @function\n"
        "stress_steps:\n\t"
        "mov $50, %ecx\n\t"
        "xor %eax, %eax\n"
        "stress_steps_loop:\n\t"
        "add %ecx, %eax\n\t"
        "pushfq\n\t"
        "pop %rdx\n\t"
        "mov %rax, watched(%rip)\n\t"
        "dec %ecx\n\t"
        "jnz stress_steps_loop\n\t"
        "mov $5, %ecx\n\t"
        "lea watched+8(%rip), %rdi\n\t"
        "lea watched+16(%rip), %rsi\n\t"
        "rep movsb\n\t"
        "cpuid\n"
        "stress_steps_end:\n\t"
        "nop\n\t"
        "mov $1275, %eax\n\t"
        "ret\n");
#define STEPS (2 + 50 * 6 + 3 + 5 + 1)

static pid_t start(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        unsigned eax, ebx;
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        __asm__ volatile("call stress_steps" : "=a"(eax), "=b"(ebx) : : "rcx", "rdx", "rsi", "rdi", "memory", "cc");
        _exit(eax == 1275 && watched[0] == 1275 ? 55 : 56);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
        fail("the traced child does not stop");
    ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_EXITKILL);
    return pid;
}

/* Lets it go on; the stop must be a trap. Returns rip. */
static uint64_t resume(pid_t pid, int request, const char *what)
{
    int status;
    struct user_regs_struct r;
    if (ptrace(request, pid, NULL, NULL) || waitpid(pid, &status, 0) != pid)
        fail("%s: ptrace", what);
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP)
        fail("%s: status %x", what, (unsigned)status);
    ptrace(PTRACE_GETREGS, pid, NULL, &r);
    return r.rip;
}

static void end(pid_t pid)
{
    ptrace(PTRACE_CONT, pid, NULL, NULL);
    expect_exit(pid, 55, "the traced child");
}

/* An INT3 written into the child's code; returns when it was met and taken away again. */
static void run_to(pid_t pid, const char *where)
{
    struct user_regs_struct r;
    long word = ptrace(PTRACE_PEEKTEXT, pid, where, NULL);
    if (ptrace(PTRACE_POKETEXT, pid, where, (void *)((word & ~0xffl) | 0xcc)))
        fail("a breakpoint cannot be written");
    if (resume(pid, PTRACE_CONT, "INT3") != (uint64_t)where + 1)
        fail("INT3 stops elsewhere");
    ptrace(PTRACE_POKETEXT, pid, where, (void *)word);
    ptrace(PTRACE_GETREGS, pid, NULL, &r);
    r.rip = (uint64_t)where;
    ptrace(PTRACE_SETREGS, pid, NULL, &r);
}

void pass_steps(void)
{
    for (unsigned round = 0; round < 3; round++) {
        pid_t pid = start();
        unsigned n = 0;
        run_to(pid, stress_steps);
        do
            n++;
        while (resume(pid, PTRACE_SINGLESTEP, "single step") != (uint64_t)stress_steps_end && n < 10 * STEPS);
        if (n != STEPS)
            fail("%u single steps instead of %u", n, STEPS);
        end(pid);
    }
}

static void set_debug(pid_t pid, unsigned n, uint64_t value)
{
    if (ptrace(PTRACE_POKEUSER, pid, (void *)(offsetof(struct user, u_debugreg) + n * 8), (void *)value))
        fail("debug register %u", n);
}

static uint64_t debug_status(pid_t pid)
{
    uint64_t v = (uint64_t)ptrace(PTRACE_PEEKUSER, pid, (void *)(offsetof(struct user, u_debugreg) + 48), NULL);
    set_debug(pid, 6, 0);
    return v & 0xf;
}

void pass_watch(void)
{
    pid_t pid = start();
    set_debug(pid, 0, (uint64_t)stress_steps_loop);
    set_debug(pid, 1, (uint64_t)&watched[0]);
    set_debug(pid, 7, 1ull << 0 | 1ull << 2 | 0x9ull << 20); /* 0: execution; 1: writes of 8 bytes */
    set_debug(pid, 6, 0);
    for (unsigned i = 0; i < 50; i++) {
        uint64_t rip = resume(pid, PTRACE_CONT, "execution breakpoint"), dr6 = debug_status(pid);
        if (rip != (uint64_t)stress_steps_loop || dr6 != 1)
            fail("execution breakpoint %u: rip %llx, DR6 %llx", i, (unsigned long long)rip, (unsigned long long)dr6);
        rip = resume(pid, PTRACE_CONT, "watchpoint"), dr6 = debug_status(pid);
        if (rip <= (uint64_t)stress_steps_loop || rip >= (uint64_t)stress_steps_end || dr6 != 2)
            fail("watchpoint %u: rip %llx, DR6 %llx", i, (unsigned long long)rip, (unsigned long long)dr6);
    }
    set_debug(pid, 7, 0);
    end(pid);
}
