/* SPDX-License-Identifier: MIT */
/*
 * Filters that a hosted client installs for its own system calls. They would judge ours too, which its author never heard of; so each begins with a look at
 * where the call is made: from our code and our libraries it is let through, from the stubs it is the client's and judged as before. In the host; no lock.
 */
#include <errno.h>
#include <link.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "base/guard.h"
#include "base/log.h"
#include "transport/hosted.h"

#define RANGE_INSNS 6u

struct builder {
    struct sock_filter code[BPF_MAXINSNS];
    unsigned n;
};

static void put(struct builder *b, struct sock_filter insn)
{
    if (b->n < BPF_MAXINSNS)
        b->code[b->n] = insn;
    b->n++;
}

/* Calls from [begin, end) are allowed: 32 bits at a time, as the filters' machine has it. */
static void put_range(struct builder *b, uint64_t begin, uint64_t end)
{
    const unsigned ip = offsetof(struct seccomp_data, instruction_pointer);
    if (begin >= end)
        return;
    if (begin >> 32 != (end - 1) >> 32) {
        put_range(b, begin, (begin | 0xffffffff) + 1);
        put_range(b, (begin | 0xffffffff) + 1, end);
        return;
    }
    put(b, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ip + 4));
    put(b, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(begin >> 32), 0, RANGE_INSNS - 2));
    put(b, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ip));
    put(b, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)begin, 0, RANGE_INSNS - 4));
    put(b, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)(end - 1), 1, 0));
    put(b, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
}

/* The code of each of our objects, but neither the stubs nor the kernel's own page, which the client calls too. */
static int put_object(struct dl_phdr_info *info, size_t bytes, void *arg)
{
    uint64_t stubs = (uint64_t)(uintptr_t)hosted_stubs, stubs_end = (uint64_t)(uintptr_t)hosted_gate_end;
    (void)bytes;
    if (strstr(info->dlpi_name, "vdso"))
        return 0;
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uint64_t begin = info->dlpi_addr + p->p_vaddr, end = begin + p->p_memsz;
        if (p->p_type != PT_LOAD || !(p->p_flags & PF_X))
            continue;
        bool has_stubs = begin <= stubs && stubs < end;
        put_range(arg, begin, has_stubs ? stubs : end);
        put_range(arg, has_stubs ? stubs_end : end, end);
    }
    return 0;
}

/* The client's filter behind ours, at `b`. 0 or -errno. */
static int build(struct builder *b, uint64_t at)
{
    struct sock_fprog program;
    if (guard_copy(&program, (const void *)(uintptr_t)at, sizeof program))
        return -EFAULT;
    if (!program.len || program.len > BPF_MAXINSNS)
        return -EINVAL;
    dl_iterate_phdr(put_object, b);
    put(b, (struct sock_filter)BPF_STMT(BPF_LD | BPF_IMM, 0)); /* as a filter finds it */
    if (b->n + program.len > BPF_MAXINSNS) {
        log_write(LOG_WARN, "a seccomp filter of %u instructions leaves no room for ours", program.len);
        return -EINVAL;
    }
    if (guard_copy(b->code + b->n, program.filter, program.len * sizeof(struct sock_filter)))
        return -EFAULT;
    b->n += program.len;
    return 0;
}

bool hosted_is_filter_prctl(const greg_t *g)
{
    return g[REG_RDI] == PR_SET_SECCOMP && g[REG_RSI] == SECCOMP_MODE_FILTER;
}

bool hosted_is_filter_seccomp(const greg_t *g)
{
    return (unsigned)g[REG_RDI] == SECCOMP_SET_MODE_FILTER;
}

/* Of prctl and seccomp, the third argument is the filter. */
long hosted_filter(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    struct builder b;
    (void)t;
    b.n = 0;
    int r = build(&b, (uint64_t)g[REG_RDX]);
    if (r)
        return r;
    struct sock_fprog program = { (unsigned short)b.n, b.code };
    return hosted_syscall((long)g[REG_RAX], (uint64_t)g[REG_RDI], (uint64_t)g[REG_RSI], (uint64_t)(uintptr_t)&program, 0, 0, 0);
}
