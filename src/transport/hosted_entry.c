/* SPDX-License-Identifier: MIT */
/*
 * The border between client and host: every signal of the process arrives here. FS is the client's until it is changed here, so no function of this file may
 * use thread-local state, errno among it, and the file is compiled without stack protector. No lock.
 */
#include <asm/prctl.h>
#include <sys/auxv.h>
#include <sys/syscall.h>

#include "transport/hosted.h"

#define SYS_USER_DISPATCH 2 /* siginfo's code: Linux, asm-generic/siginfo.h */

static bool has_fsgsbase; /* and the kernel lets programs use it */

void hosted_entry_init(void)
{
    has_fsgsbase = getauxval(AT_HWCAP2) & 2;
}

static uint64_t fs_get(void)
{
    uint64_t fs;
    if (has_fsgsbase)
        __asm__ volatile("rdfsbase %0" : "=r"(fs));
    else
        hosted_syscall(SYS_arch_prctl, ARCH_GET_FS, (uint64_t)(uintptr_t)&fs, 0, 0, 0, 0);
    return fs;
}

static void fs_set(uint64_t fs)
{
    if (has_fsgsbase)
        __asm__ volatile("wrfsbase %0" : : "r"(fs) : "memory");
    else
        hosted_syscall(SYS_arch_prctl, ARCH_SET_FS, fs, 0, 0, 0, 0);
}

void hosted_signal(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    struct hosted *t = hosted_of(uc);
    if (!t || t->selector == HOSTED_ALLOW) { /* a thread of ours has no alternate stack */
        hosted_signal_in_host(t, sig, info, uc);
        return;
    }
    bool is_call = sig == SIGSYS && info->si_code == SYS_USER_DISPATCH;
    if (is_call && hosted_call_quick(t, uc, info))
        return;
    t->selector = HOSTED_ALLOW;
    t->client_fs = fs_get();
    fs_set(t->host_fs);
    if (is_call)
        hosted_call_slow(t, uc, info);
    else if (hosted_is_on_stack(t, uc)) /* in hosted_call_quick */
        hosted_signal_in_host(t, sig, info, uc);
    else
        hosted_signal_in_client(t, sig, info, uc);
    fs_set(t->client_fs);
    t->selector = HOSTED_BLOCK;
}

void hosted_go(struct hosted *t, uint64_t frame)
{
    t->host_fs = fs_get();
    fs_set(t->client_fs);
    t->selector = HOSTED_BLOCK;
    hosted_enter(frame, &t->leave_sp); /* hosted_leave comes from the host */
}

void hosted_begin(struct hosted *t, uint64_t entry, uint64_t sp)
{
    t->host_fs = fs_get();
    fs_set(0);
    t->selector = HOSTED_BLOCK;
    hosted_start(entry, sp);
}
