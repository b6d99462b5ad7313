/* SPDX-License-Identifier: MIT */
/*
 * Signals: storms of timers, handlers on a stack of their own, faults that a handler repairs, every vector that a program can raise by itself.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "stress.h"

static volatile sig_atomic_t n_alarms;
static char *alt_stack;
#define ALT_BYTES 65536

static void on_alarm(int sig, siginfo_t *info, void *context)
{
    char here;
    (void)sig, (void)info, (void)context;
    if (&here < alt_stack || &here >= alt_stack + ALT_BYTES)
        _exit(80);
    n_alarms++;
}

static volatile sig_atomic_t n_user, n_nested;

static void on_user1(int sig)
{
    (void)sig;
    n_user++;
    raise(SIGUSR2);
    if (n_nested != n_user)
        _exit(81);
}

static void on_user2(int sig)
{
    (void)sig;
    n_nested++;
}

/* Sums the same numbers again and again while alarms come. */
static uint64_t work(void)
{
    uint64_t s = 12345, h = 0;
    for (unsigned i = 0; i < 3000; i++)
        h = h * 31 + rng_next(&s);
    return h;
}

void pass_signals(void)
{
    struct sigaction sa = { .sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART }, u = { .sa_handler = on_user1 };
    struct itimerval every = { { 0, 500 }, { 0, 500 } };
    alt_stack = malloc(ALT_BYTES);
    stack_t ss = { .ss_sp = alt_stack, .ss_size = ALT_BYTES };
    if (sigaltstack(&ss, NULL))
        fail("sigaltstack");
    sigaction(SIGALRM, &sa, NULL);
    sigaction(SIGUSR1, &u, NULL);
    u.sa_handler = on_user2;
    sigaction(SIGUSR2, &u, NULL);
    uint64_t want = work(), end = now_ns() + 300000000, hard_end = end + 20000000000ull;
    setitimer(ITIMER_REAL, &every, NULL);
    for (unsigned n = 0; now_ns() < end || (n_alarms < 5 && now_ns() < hard_end); n++) {
        if (work() != want)
            fail("a sum changes when signals come");
        if (n % 16 == 0)
            raise(SIGUSR1);
    }
    every = (struct itimerval){ 0 };
    setitimer(ITIMER_REAL, &every, NULL);
    if (n_alarms < 5)
        fail("only %d alarms", (int)n_alarms);
    if (n_user != n_nested)
        fail("%d signals, %d nested", (int)n_user, (int)n_nested);
}

/* ---- faults ---- */

static volatile sig_atomic_t fault_signal, fault_code;
static volatile uint64_t fault_address;
static sigjmp_buf fault_return;
static volatile uint64_t fault_rip;

/* Goes on at fault_rip if it is set, else by a long jump. */
static void on_fault(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    fault_signal = sig;
    fault_code = info->si_code;
    fault_address = (uint64_t)info->si_addr;
    uc->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)(0x40000 | 0x100);
    if (!fault_rip)
        siglongjmp(fault_return, 1);
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)fault_rip;
}

/* Runs the instructions; the handler continues behind them. */
#define FAULTS(SIG, NAME, CODE, ...)                                                                                                                     \
    do {                                                                                                                                                 \
        fault_signal = 0;                                                                                                                                \
        __asm__ volatile("lea 1f(%%rip), %%rax\n\tmov %%rax, %0\n\t" CODE "\n1:" : "=m"(fault_rip) : __VA_ARGS__ : "rax", "rcx", "rdx", "memory", "cc"); \
        fault_rip = 0;                                                                                                                                   \
        if (fault_signal != (SIG))                                                                                                                       \
            fail("%s raises signal %d instead of %d", NAME, (int)fault_signal, SIG);                                                                     \
    } while (0)

static void arithmetic_faults(void)
{
    uint32_t mxcsr = 0x1f80 & ~0x200u, normal = 0x1f80;
    uint16_t fcw = 0x37b, normal_fcw = 0x37f;
    double zero = 0, one = 1;
    FAULTS(SIGFPE, "division by zero", "xor %%ecx, %%ecx\n\tmov $5, %%eax\n\txor %%edx, %%edx\n\tdiv %%ecx", "m"(zero));
    if (fault_code != FPE_INTDIV)
        fail("division by zero: code %d", (int)fault_code);
    FAULTS(SIGFPE, "division overflow", "mov $1, %%ecx\n\tmov $5, %%edx\n\tdivl %%ecx", "m"(zero));
    FAULTS(SIGFPE, "an unmasked SSE division", "ldmxcsr %1\n\tmovsd %2, %%xmm0\n\tdivsd %3, %%xmm0", "m"(mxcsr), "m"(one), "m"(zero));
    if (fault_code != FPE_FLTDIV)
        fail("SSE division by zero: code %d", (int)fault_code);
    __asm__ volatile("ldmxcsr %0" : : "m"(normal));
    FAULTS(SIGFPE, "an unmasked x87 division", "fninit\n\tfldcw %1\n\tfld1\n\tfdivl %2\n\tfwait", "m"(fcw), "m"(zero));
    __asm__ volatile("fninit\n\tfldcw %0" : : "m"(normal_fcw));
}

static void opcode_faults(void)
{
    uint64_t words[2] = { 0 };
    char *odd = (char *)words + 1;
    FAULTS(SIGILL, "ud2", "ud2", "m"(words));
    FAULTS(SIGTRAP, "int3", "int3", "m"(words));
    FAULTS(SIGTRAP, "int1", ".byte 0xf1", "m"(words));
    FAULTS(SIGSEGV, "hlt", "hlt", "m"(words));
    FAULTS(SIGSEGV, "cli", "cli", "m"(words));
    FAULTS(SIGSEGV, "mov from cr0", "mov %%cr0, %%rax", "m"(words));
    FAULTS(SIGSEGV, "rdmsr", "mov $0x10, %%ecx\n\trdmsr", "m"(words));
    FAULTS(SIGSEGV, "in", "inb $0x60, %%al", "m"(words));
    FAULTS(SIGSEGV, "int 13", "int $13", "m"(words));
    FAULTS(SIGSEGV, "a null selector in SS", "xor %%eax, %%eax\n\tmov %%eax, %%ss", "m"(words));
    FAULTS(SIGSEGV, "an address that is not canonical", "mov $0x8000000000000000, %%rax\n\tmov (%%rax), %%rax", "m"(words));
    FAULTS(SIGSEGV, "a kernel address", "mov $0xffffffff81000000, %%rax\n\tmov (%%rax), %%rax", "m"(words));
    FAULTS(SIGSEGV, "a misaligned movaps", "movaps (%1), %%xmm0", "r"(odd));
    FAULTS(SIGTRAP, "the trap flag", "pushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\tnop\n\tnop", "m"(words));
}

/* Alignment checks, which the handler ends by clearing AC. The instruction runs again and goes on. */
static void on_alignment(int sig, siginfo_t *info, void *context)
{
    (void)info;
    fault_signal = sig;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)0x40000;
}

static void alignment_fault(void)
{
    struct sigaction sa = { .sa_sigaction = on_alignment, .sa_flags = SA_SIGINFO }, old;
    _Alignas(8) char words[16] = { 1, 2, 3, 4, 5, 6, 7, 8, 9 };
    uint64_t got;
    sigaction(SIGBUS, &sa, &old);
    fault_signal = 0;
    __asm__ volatile("pushfq\n\torq $0x40000, (%%rsp)\n\tpopfq\n\tmov 1(%1), %0\n\tpushfq\n\tandq $~0x40000, (%%rsp)\n\tpopfq"
                     : "=&r"(got)
                     : "r"(words)
                     : "memory", "cc");
    sigaction(SIGBUS, &old, NULL);
    if (fault_signal != SIGBUS || got != 0x0908070605040302ull)
        fail("a misaligned access with AC set: signal %d, value %llx", (int)fault_signal, (unsigned long long)got);
}

static void page_faults(void)
{
    volatile char *p = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        fail("mmap");
    if (sigsetjmp(fault_return, 1) == 0) {
        p[4097] = 1;
        fail("a read-only page is written");
    }
    if (fault_signal != SIGSEGV || fault_code != SEGV_ACCERR || fault_address != (uint64_t)p + 4097)
        fail("write to a read-only page: signal %d code %d", (int)fault_signal, (int)fault_code);
    munmap((void *)p, 8192);
    if (sigsetjmp(fault_return, 1) == 0)
        fail("an unmapped page reads %d", p[1]);
    if (fault_signal != SIGSEGV || fault_code != SEGV_MAPERR || fault_address != (uint64_t)p + 1)
        fail("read of an unmapped page: signal %d code %d", (int)fault_signal, (int)fault_code);
    if (sigsetjmp(fault_return, 1) == 0) {
        static char data[16];
        ((void (*)(void))(uintptr_t)data)();
        fail("data is executed");
    }
    if (fault_signal != SIGSEGV || fault_code != SEGV_ACCERR)
        fail("execution of data: signal %d code %d", (int)fault_signal, (int)fault_code);
}

void pass_faults(void)
{
    static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
    struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };
    for (unsigned i = 0; i < sizeof signals / sizeof signals[0]; i++)
        sigaction(signals[i], &sa, NULL);
    for (unsigned i = 0; i < 25; i++) {
        arithmetic_faults();
        opcode_faults();
        alignment_fault();
        page_faults();
    }
}
