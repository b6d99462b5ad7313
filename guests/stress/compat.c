/* SPDX-License-Identifier: MIT */
/*
 * 32-bit code in a 64-bit process: system calls by INT 80h from both, and code of the compatibility segment, with instructions that 64-bit mode does not have,
 * while signals come.
 */
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "stress.h"

/* The program is linked below 4 GiB, and so are these. */
uint32_t compat_stack[4096], compat_result[4];

/* 32-bit part: sums 1..2000 with PUSHA, POPA, 8-bit BCD steps and a call through the stack; then getpid. */
__asm__(".globl compat_enter\n"
        ".type compat_enter, @function\n"
        "compat_enter:\n\t"
        "push %rbx\n\tpush %rbp\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\t"
        "mov %rsp, %r15\n\t"
        "mov %rsp, compat_rsp(%rip)\n\t"
        "mov $compat_stack+16000, %esp\n\t"
        "push $0x23\n\t"
        "push $compat_code\n\t"
        "lretq\n"
        "compat_back:\n\t"
        "mov compat_rsp(%rip), %rsp\n\t"
        "pop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbp\n\tpop %rbx\n\t"
        "ret\n"
        ".code32\n"
        "compat_code:\n\t"
        "mov $0x2b, %eax\n\t"
        "mov %eax, %ds\n\t"
        "mov %eax, %es\n\t"
        "xor %edx, %edx\n\t"
        "mov $2000, %ecx\n"
        "1:\n\t"
        "pusha\n\t"
        "mov $0x11111111, %ecx\n\t"
        "mov $0x22222222, %edx\n\t"
        "popa\n\t"
        "push %ecx\n\t"
        "call 2f\n\t"
        "add $4, %esp\n\t"
        "inc %ecx\n\t"
        "dec %ecx\n\t"
        "dec %ecx\n\t"
        "jnz 1b\n\t"
        "mov %edx, compat_result\n\t"
        "mov $0x29, %al\n\t"
        "add $0x13, %al\n\t"
        "daa\n\t"
        "movzbl %al, %eax\n\t"
        "mov %eax, compat_result+4\n\t"
        "mov $20, %eax\n\t"
        "int $0x80\n\t"
        "mov %eax, compat_result+8\n\t"
        "push %es\n\t"
        "pop %es\n\t"
        "xor %eax, %eax\n\t"
        "lea compat_result, %edi\n\t"
        "bound %eax, compat_bounds\n\t"
        "movl $77, 12(%edi)\n\t"
        "ljmp $0x33, $compat_back\n"
        "2:\n\t"
        "add 4(%esp), %edx\n\t"
        "ret\n"
        "compat_bounds: .long 0, 5\n"
        ".code64\n"
        ".local compat_rsp\n"
        ".comm compat_rsp, 8, 8\n");
void compat_enter(void);

static volatile sig_atomic_t n_alarms, n_in_compat;

static void on_alarm(int sig, siginfo_t *info, void *context)
{
    (void)sig, (void)info;
    uint16_t cs = (uint16_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_CSGSFS];
    n_alarms++;
    if (cs == 0x23)
        n_in_compat++;
}

void pass_compat(void)
{
    struct sigaction sa = { .sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };
    struct itimerval every = { { 0, 900 }, { 0, 900 } }, never = { 0 };
    static char alternate[65536];
    stack_t ss = { .ss_sp = alternate, .ss_size = sizeof alternate };
    uint64_t pid;
    __asm__ volatile("int $0x80" : "=a"(pid) : "a"(20ull) : "memory", "r8", "r9", "r10", "r11");
    if (pid != (uint64_t)getpid())
        skip("the kernel has no 32-bit system calls");
    sigaltstack(&ss, NULL);
    sigaction(SIGALRM, &sa, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    for (unsigned i = 0; i < 200; i++) {
        memset(compat_result, 0, sizeof compat_result);
        compat_enter();
        if (compat_result[0] != 2001000 || compat_result[1] != 0x42 || compat_result[2] != (uint32_t)getpid() || compat_result[3] != 77)
            fail("32-bit code: %u %x %u %u", compat_result[0], compat_result[1], compat_result[2], compat_result[3]);
    }
    setitimer(ITIMER_REAL, &never, NULL);
}
