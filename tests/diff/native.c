/* SPDX-License-Identifier: MIT */
/*
 * The bare CPU's side: loads a whole user-mode state, jumps to the code, and takes the state back at the code's tail or from the signal that ended it. One
 * thread. While foreign state is loaded nothing is known but where the code is, so the switch works on a block that it finds from there: in the program, which
 * is linked to lie where no operand of a case gets by chance (cases are about the lower 8 GiB, the kernel's half and what is not canonical).
 */
#include "diff.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/host.h"
#include "base/memfd.h"

#define USER_CS 0x33 /* Linux's selectors */
#define USER32_CS 0x23
#define USER_DS 0x2b

/* The offsets are known to the assembly below. */
struct switch_block {
    uint64_t gpr[GPR_COUNT];
    uint64_t rip, rflags;                /* 0x80 0x88 */
    uint64_t fs_base, gs_base;           /* 0x90 0x98 */
    uint64_t host_rsp, host_fs, host_gs; /* 0xa0 0xa8 0xb0 */
    uint32_t mask_low, mask_high;        /* 0xb8 0xbc */
    uint64_t is_active;                  /* 0xc0 */
    uint64_t unused;                     /* 0xc8 */
    uint32_t mxcsr, fcw;                 /* 0xd0 0xd4: the host's */
    uint64_t vector, error, cr2;         /* 0xd8 vector + 1, 0 none; 0xe0; 0xe8 */
    uint32_t entry;                      /* 0xf0: where the code is, and in which segment */
    uint16_t entry_cs;
    _Alignas(64) uint8_t in[4096];  /* 0x100 */
    _Alignas(64) uint8_t out[4096]; /* 0x1100 */
};
_Static_assert(offsetof(struct switch_block, in) == 0x100 && offsetof(struct switch_block, out) == 0x1100, "the assembly knows them");

void native_switch(void);
void native_switch_end(void);
void native_switch_return(void);
extern struct switch_block native_block; /* by this name in the assembly */
struct switch_block native_block __attribute__((visibility("hidden")));
static struct switch_block *const block = &native_block;

/* clang-format off */
#define AT(offset) "native_block + " #offset "(%rip)"
__asm__(".text\n"
        "native_switch:\n"
        "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "mov %rsp, " AT(0xa0) "\n"
        "rdfsbase %rax; mov %rax, " AT(0xa8) "\n"
        "rdgsbase %rax; mov %rax, " AT(0xb0) "\n"
        "stmxcsr " AT(0xd0) "; fnstcw " AT(0xd4) "\n"
        "mov " AT(0xb8) ", %eax; mov " AT(0xbc) ", %edx\n"
        "xrstor64 " AT(0x100) "\n"
        "movq $1, " AT(0xc0) "\n"
        "mov " AT(0x90) ", %rax; wrfsbase %rax\n"
        "mov " AT(0x98) ", %rax; wrgsbase %rax\n"
        "pushq " AT(0x88) "; popfq\n"
        "mov " AT(0x00) ", %rax; mov " AT(0x08) ", %rcx; mov " AT(0x10) ", %rdx; mov " AT(0x18) ", %rbx\n"
        "mov " AT(0x20) ", %rsp; mov " AT(0x28) ", %rbp; mov " AT(0x30) ", %rsi; mov " AT(0x38) ", %rdi\n"
        "mov " AT(0x40) ", %r8; mov " AT(0x48) ", %r9; mov " AT(0x50) ", %r10; mov " AT(0x58) ", %r11\n"
        "mov " AT(0x60) ", %r12; mov " AT(0x68) ", %r13; mov " AT(0x70) ", %r14; mov " AT(0x78) ", %r15\n"
        "ljmp *" AT(0xf0) "\n"
        "native_switch_end:\n"
        "mov %rax, " AT(0x00) "; mov %rcx, " AT(0x08) "; mov %rdx, " AT(0x10) "; mov %rbx, " AT(0x18) "\n"
        "mov %rsp, " AT(0x20) "; mov %rbp, " AT(0x28) "; mov %rsi, " AT(0x30) "; mov %rdi, " AT(0x38) "\n"
        "mov %r8, " AT(0x40) "; mov %r9, " AT(0x48) "; mov %r10, " AT(0x50) "; mov %r11, " AT(0x58) "\n"
        "mov %r12, " AT(0x60) "; mov %r13, " AT(0x68) "; mov %r14, " AT(0x70) "; mov %r15, " AT(0x78) "\n"
        "mov " AT(0xa0) ", %rsp\n"
        "pushfq; popq " AT(0x88) "\n"
        "pushq $2; popfq\n"
        "rdfsbase %rax; mov %rax, " AT(0x90) "\n"
        "rdgsbase %rax; mov %rax, " AT(0x98) "\n"
        "mov " AT(0xa8) ", %rax; wrfsbase %rax\n"
        "mov " AT(0xb0) ", %rax; wrgsbase %rax\n"
        "mov " AT(0xb8) ", %eax; mov " AT(0xbc) ", %edx\n"
        "xsave64 " AT(0x1100) "\n"
        "movq $0, " AT(0xc0) "\n"
        "native_switch_return:\n"
        "fninit; fldcw " AT(0xd4) "; ldmxcsr " AT(0xd0) "; vzeroupper\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "ret\n");
/* clang-format on */

static uint8_t *code_alias;

/*
 * The kernel's own call: vitrine may stand before the C library's, and its handler would look at thread-local data first, with FS not being the thread's.
 */
struct kernel_sigaction {
    void (*handler)(int, siginfo_t *, void *);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};
#define KERNEL_SA_RESTORER 0x04000000ul
static struct kernel_sigaction previous[NSIG];
void native_sigreturn(void);
__asm__(".text\nnative_sigreturn:\nmov $15, %eax\nsyscall\n");

static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
static const uint8_t greg_of[GPR_COUNT] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                            REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

/* The bases were the case's own until here: no thread-local data before this. */
static inline void take_bases_back(void)
{
    uint64_t fs, gs;
    __asm__ volatile("rdfsbase %0\n\trdgsbase %1" : "=r"(fs), "=r"(gs));
    block->fs_base = fs;
    block->gs_base = gs;
    __asm__ volatile("wrfsbase %0\n\twrgsbase %1" : : "r"(block->host_fs), "r"(block->host_gs));
}

static void take_fault(const ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    for (unsigned i = 0; i < GPR_COUNT; i++)
        block->gpr[i] = (uint64_t)g[greg_of[i]];
    block->rip = (uint64_t)g[REG_RIP];
    block->rflags = (uint64_t)g[REG_EFL];
    block->vector = (uint64_t)g[REG_TRAPNO] + 1;
    block->error = (uint64_t)g[REG_ERR];
    block->cr2 = (uint64_t)g[REG_CR2];
    memcpy(block->out, uc->uc_mcontext.fpregs, host_facts()->xsave_bytes);
}

__attribute__((optimize("no-stack-protector"))) static void handle(int sig, siginfo_t *info, void *context)
{
    if (!block->is_active) {
        struct kernel_sigaction *p = &previous[sig];
        if (p->flags & SA_SIGINFO)
            p->handler(sig, info, context);
        else /* the instruction faults again and ends the test */
            syscall(SYS_rt_sigaction, sig, p, NULL, sizeof p->mask);
        return;
    }
    take_bases_back();
    __asm__ volatile("pushq $2\n\tpopfq" : : : "memory", "cc"); /* AC may have been set */
    block->is_active = 0;
    take_fault(context);
    __asm__ volatile("mov %0, %%rsp\n\tjmp native_switch_return" : : "r"(block->host_rsp) : "memory");
    __builtin_unreachable();
}

/* Signals are delivered on a stack of their own: rsp is the case's. None is masked meanwhile, so leaving by a jump leaves nothing behind. */
static int catch_signals(void)
{
    static _Alignas(64) uint8_t stack[256 * 1024];
    stack_t ss = { .ss_sp = stack, .ss_size = sizeof stack };
    struct kernel_sigaction sa = { .handler = handle, .flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | KERNEL_SA_RESTORER, .restorer = native_sigreturn };
    if (sigaltstack(&ss, NULL) < 0)
        return -errno;
    for (unsigned i = 0; i < sizeof signals / sizeof signals[0]; i++)
        if (syscall(SYS_rt_sigaction, signals[i], &sa, &previous[signals[i]], sizeof sa.mask) < 0)
            return -errno;
    return 0;
}

static int map_at(uint64_t at, uint64_t bytes, int protection)
{
    void *p = mmap((void *)at, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_FIXED_NOREPLACE, -1, 0);
    return p == (void *)at ? 0 : -ENOMEM;
}

/* Code is written through another mapping: stores of a case to its own code fault, as in the guest. */
static int map_code(void)
{
    int fd = memfd_create("diff-code", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, CODE_PAGES * PAGE_BYTES) < 0)
        return -errno;
    code_alias = mmap(NULL, CODE_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void *p = mmap((void *)CODE_AT, CODE_PAGES * PAGE_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
    close(fd);
    return code_alias == MAP_FAILED || p != (void *)CODE_AT ? -ENOMEM : 0;
}

/* jmp *[rip], which takes 64-bit mode, and where to */
static void put_return(uint8_t *p)
{
    const uint64_t to = (uint64_t)(uintptr_t)native_switch_end;
    memcpy(p, "\xff\x25\0\0\0", 6);
    memcpy(p + 6, &to, sizeof to);
}

int native_init(void)
{
    const struct host_facts *h = host_facts();
    if (!h->has_fsgsbase || !h->has_xsave || !(h->xcr0 & XCR0_AVX))
        return -ENOSYS;
    int r = map_at(DATA_AT, DATA_BYTES, PROT_READ | PROT_WRITE);
    if (!r)
        r = map_at(READONLY_AT, PAGE_BYTES, PROT_READ);
    if (!r)
        r = map_code();
    if (r)
        return r;
    block->mask_low = (uint32_t)h->xcr0;
    block->mask_high = (uint32_t)(h->xcr0 >> 32);
    put_return(code_alias);
    /* 64-bit code does not look at them, 32-bit code needs them. */
    if (diff_mode_bits == 32)
        __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(USER_DS));
    return catch_signals();
}

uint8_t *native_code(void)
{
    return code_alias;
}

uint8_t *native_data(void)
{
    return (uint8_t *)DATA_AT;
}

/* From 32-bit code by way of a far jump to the first bytes of the code pages. */
void native_tail(uint8_t *p)
{
    const uint32_t at = (uint32_t)CODE_AT;
    if (diff_mode_bits == 64) {
        put_return(p);
        return;
    }
    p[0] = 0xea;
    memcpy(p + 1, &at, sizeof at);
    p[5] = USER_CS;
    p[6] = 0;
}

unsigned state_xsave_bytes(void)
{
    return host_facts()->xsave_bytes;
}

void native_run(const struct machine_state *in, struct machine_state *out)
{
    unsigned n = state_xsave_bytes();
    memcpy(block->gpr, in->gpr, sizeof block->gpr);
    block->entry = (uint32_t)in->rip;
    block->entry_cs = diff_mode_bits == 64 ? USER_CS : USER32_CS;
    block->rflags = in->rflags;
    block->fs_base = in->fs_base;
    block->gs_base = in->gs_base;
    block->vector = 0;
    memcpy(block->in, in->xsave, n);
    memset(block->out + 512, 0, 64);
    native_switch();
    memcpy(out->gpr, block->gpr, sizeof block->gpr);
    out->rflags = block->rflags;
    out->rip = block->vector ? block->rip : 0;
    out->fs_base = block->fs_base;
    out->gs_base = block->gs_base;
    out->vector = block->vector ? (int)block->vector - 1 : VECTOR_NONE;
    out->error = (uint32_t)block->error;
    out->cr2 = block->cr2;
    memcpy(out->xsave, block->out, n);
}
