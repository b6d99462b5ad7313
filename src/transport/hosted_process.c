/* SPDX-License-Identifier: MIT */
/*
 * Processes that a hosted client makes: fork by our C library's, so that its state and ours are whole in the child; vfork and its kin with a struct of the
 * child's own; exec by way of what the file is (program.h). Dispatch ends with each of them and is turned on again before the child is in the client. In the
 * host.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/guard.h"
#include "base/log.h"
#include "base/signals.h"
#include "transport/hosted.h"
#include "transport/program.h"

#define EXIT_SIGNAL_MASK 0xffull
#define STRINGS_MAX (1u << 16) /* of argv or envp */

static pid_t process;
static char host[PATH_MAX]; /* "": children are not served */
static const char *library; /* LD_PRELOAD's value for them; NULL: they inherit it from the client */

static void note_process(void)
{
    process = getpid();
}

int hosted_process_init(bool serves_children, const char *value)
{
    note_process();
    library = value;
    ssize_t n = serves_children ? readlink("/proc/self/exe", host, sizeof host - 1) : 0;
    host[n > 0 ? n : 0] = '\0';
    return -pthread_atfork(NULL, NULL, note_process);
}

bool hosted_is_same_process(void)
{
    return getpid() == process;
}

/* What exec allocated; after vfork it is the parent's to free. */
static void free_blocks(struct hosted *t)
{
    free(t->exec_block);
    free(t->environment_block);
    t->exec_block = t->environment_block = NULL;
}

/* ---- fork ---- */

static void set_tid(uint64_t at)
{
    int tid = gettid();
    (void)guard_copy((void *)(uintptr_t)at, &tid, sizeof tid);
}

static void in_child(struct hosted *t, ucontext_t *uc, const struct hosted_clone *c)
{
    t->leave_sp = 0; /* the child's only thread is its first */
    t->is_vfork_child = false;
    t->clear_tid = c->flags & CLONE_CHILD_CLEARTID ? c->child_tid : 0;
    if (c->flags & CLONE_CHILD_SETTID)
        set_tid(c->child_tid);
    if (c->flags & CLONE_SETTLS)
        t->client_fs = c->tls;
    if (c->stack)
        uc->uc_mcontext.gregs[REG_RSP] = (greg_t)c->stack;
    int r = hosted_dispatch_on(t);
    if (r) {
        log_write(LOG_ERROR, "the child of a fork cannot be served: %s", strerror(-r));
        _exit(127);
    }
}

/* With namespaces and such: our C library knows no fork for that. Its locks, if another thread has one, stay taken in the child. */
static long fork_with_flags(const struct hosted_clone *c)
{
    uint64_t flags = c->flags & ~(uint64_t)(CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | CLONE_SETTLS);
    long r = hosted_syscall(SYS_clone, flags, 0, c->parent_tid, 0, 0, 0);
    if (!r)
        note_process();
    return r;
}

static long do_fork(struct hosted *t, ucontext_t *uc, const struct hosted_clone *c)
{
    const uint64_t simple = SIGCHLD | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | CLONE_PARENT_SETTID | CLONE_SETTLS;
    bool is_simple = !(c->flags & ~simple) && (c->flags & EXIT_SIGNAL_MASK) == SIGCHLD;
    long r = is_simple ? fork() : fork_with_flags(c);
    if (r < 0)
        return is_simple ? -errno : r;
    if (r == 0)
        in_child(t, uc, c);
    else if (is_simple && (c->flags & CLONE_PARENT_SETTID))
        (void)guard_copy((void *)(uintptr_t)c->parent_tid, &(int){ (int)r }, sizeof(int));
    return r;
}

/* ---- vfork ---- */

struct vfork {
    struct hosted *t;
    uint64_t frame;
};

/* On the child's own alternate stack, below the frame; the parent waits in the kernel until we are another program or gone. */
static void vfork_child(void *arg)
{
    const struct vfork *v = arg;
    signals_set_depth(0);
    stack_t stack;
    hosted_stack_of(v->t, &stack);
    hosted_syscall(SYS_sigaltstack, (uint64_t)(uintptr_t)&stack, 0, 0, 0, 0, 0);
    if (hosted_dispatch_on(v->t))
        _exit(127);
    hosted_go(v->t, v->frame);
    _exit(127);
}

static long do_vfork(struct hosted *t, ucontext_t *uc, const struct hosted_clone *c)
{
    struct hosted *child = hosted_create();
    if (!child)
        return -ENOMEM;
    struct vfork v = { child, hosted_first_frame(child, uc, c->stack) };
    child->client_fs = c->flags & CLONE_SETTLS ? c->tls : t->client_fs;
    child->hidden = t->hidden;
    child->alternate = t->alternate;
    child->is_vfork_child = true;
    long r = hosted_vfork(c->flags & ~(uint64_t)CLONE_SETTLS, (v.frame & ~15ull) - 256, c->parent_tid, c->child_tid, &v, vfork_child);
    signals_set_depth(1);
    free_blocks(child);
    hosted_destroy(child);
    return r;
}

/* ---- the calls ---- */

static long do_clone(struct hosted *t, ucontext_t *uc, const struct hosted_clone *c)
{
    if (c->flags & CLONE_THREAD)
        return hosted_thread_start(t, uc, c);
    if ((c->flags & (CLONE_VM | CLONE_VFORK)) == (CLONE_VM | CLONE_VFORK))
        return do_vfork(t, uc, c);
    if (!(c->flags & CLONE_VM))
        return do_fork(t, uc, c);
    refusal_note("clone of a process that shares memory, with flags", c->flags);
    return -EINVAL;
}

long hosted_clone_call(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    struct hosted_clone c = { (uint64_t)g[REG_RDI], (uint64_t)g[REG_RSI], (uint64_t)g[REG_RDX], (uint64_t)g[REG_R10], (uint64_t)g[REG_R8] };
    return do_clone(t, uc, &c);
}

/* What clone has too. The rest is ENOSYS, as from a kernel that does not have the call: its callers then do without. */
long hosted_clone3_call(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    struct {
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
    } a = { 0 };
    uint64_t bytes = (uint64_t)g[REG_RSI];
    if (bytes < 64)
        return -EINVAL;
    if (guard_copy(&a, (const void *)(uintptr_t)g[REG_RDI], bytes < sizeof a ? bytes : sizeof a))
        return -EFAULT;
    if (bytes > sizeof a || a.set_tid_size || a.flags >> 32 || (a.flags & EXIT_SIGNAL_MASK) || (a.flags & CLONE_PIDFD))
        return -ENOSYS;
    struct hosted_clone c = { a.flags | a.exit_signal, a.stack ? a.stack + a.stack_size : 0, a.parent_tid, a.child_tid, a.tls };
    return do_clone(t, uc, &c);
}

long hosted_fork_call(struct hosted *t, ucontext_t *uc)
{
    return do_clone(t, uc, &(struct hosted_clone){ .flags = SIGCHLD });
}

long hosted_vfork_call(struct hosted *t, ucontext_t *uc)
{
    return do_clone(t, uc, &(struct hosted_clone){ .flags = CLONE_VM | CLONE_VFORK | SIGCHLD });
}

/* ---- exec ---- */

/* 0, or -EFAULT, -E2BIG: the strings are the client's memory, and found to be there. */
static long check_strings(char *const *list)
{
    for (unsigned n = 0; list && n < STRINGS_MAX; n++) {
        char *at, byte;
        if (guard_copy(&at, &list[n], sizeof at))
            return -EFAULT;
        if (!at)
            return 0;
        if (guard_copy(&byte, at, 1))
            return -EFAULT;
    }
    return list ? -E2BIG : 0;
}

void hosted_exec_again(struct hosted *t)
{
    __builtin_longjmp(t->exec_back, 1);
}

static void set_mask(uint64_t mask)
{
    hosted_syscall(SYS_rt_sigprocmask, SIG_SETMASK, (uint64_t)(uintptr_t)&mask, 0, sizeof mask, 0, 0);
}

/* The new program inherits the client's mask. A signal with a handler that comes then is before the call, as it did not end it. */
__attribute__((noinline)) static long exec_now(struct hosted *t, ucontext_t *uc, const char *path, char *const *argv, char *const *envp)
{
    long r = HOSTED_AGAIN;
    if (!__builtin_setjmp(t->exec_back)) {
        t->is_in_exec = true;
        set_mask(hosted_mask_get(t, uc));
        r = hosted_syscall(SYS_execve, (uint64_t)(uintptr_t)path, (uint64_t)(uintptr_t)argv, (uint64_t)(uintptr_t)envp, 0, 0, 0);
    }
    set_mask(~HOSTED_SIGNALS);
    t->is_in_exec = false;
    return r;
}

/* The environment with LD_PRELOAD as before the client was kept from it, in t->environment_block. 0 or -errno. */
static long restore_library(struct hosted *t, char *const **envp)
{
    unsigned n = 0, to = 0;
    while (*envp && (*envp)[n])
        n++;
    char **list = malloc((n + 2) * sizeof(char *) + sizeof("LD_PRELOAD=") + strlen(library));
    if (!list)
        return -ENOMEM;
    t->environment_block = list;
    for (unsigned i = 0; i < n; i++)
        if (strncmp((*envp)[i], "LD_PRELOAD=", 11) != 0)
            list[to++] = (*envp)[i];
    list[to] = (char *)(list + n + 2);
    sprintf(list[to++], "LD_PRELOAD=%s", library);
    list[to] = NULL;
    *envp = list;
    return 0;
}

static long exec(struct hosted *t, ucontext_t *uc, const char *path, char *const *argv, char *const *envp)
{
    struct program p;
    program_examine(path, &p);
    bool is_hosted = *host && p.kind == PROGRAM_HOSTED && !access(path, X_OK) && !access(p.path, X_OK);
    if (!is_hosted && !library)
        return exec_now(t, uc, path, argv, envp);
    long r = check_strings(argv);
    if (!r)
        r = check_strings(envp);
    if (!r && library)
        r = restore_library(t, &envp);
    if (r)
        return r;
    if (!is_hosted) {
        r = exec_now(t, uc, path, argv, envp);
        free_blocks(t);
        return r;
    }
    struct program_call call;
    t->exec_block = malloc(program_call_bytes(&p, path, argv, envp));
    if (!t->exec_block) {
        free_blocks(t);
        return -ENOMEM;
    }
    program_call_hosted(&p, path, argv, envp, t->exec_block, &call);
    r = exec_now(t, uc, host, call.argv, call.envp);
    free_blocks(t);
    return r;
}

/* A path of the client's; /proc/self/exe means the client. 0 or -errno. */
static long read_path(uint64_t at, char path[PATH_MAX])
{
    size_t n = 0;
    do {
        if (n == PATH_MAX)
            return -ENAMETOOLONG;
        if (guard_copy(&path[n], (const char *)(uintptr_t)at + n, 1))
            return -EFAULT;
    } while (path[n++]);
    if (!strcmp(path, "/proc/self/exe") && *hosted_file_program())
        snprintf(path, PATH_MAX, "%s", hosted_file_program());
    return 0;
}

long hosted_execve(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    char path[PATH_MAX];
    long r = read_path((uint64_t)g[REG_RDI], path);
    return r ? r : exec(t, uc, path, (char *const *)(uintptr_t)g[REG_RSI], (char *const *)(uintptr_t)g[REG_RDX]);
}

/* The name of what the fd and the path stand for; the kernel's own way if it has none that can be opened. */
long hosted_execveat(struct hosted *t, ucontext_t *uc)
{
    const greg_t *g = uc->uc_mcontext.gregs;
    char path[PATH_MAX], link[64], full[PATH_MAX];
    int dir = (int)g[REG_RDI];
    long r = read_path((uint64_t)g[REG_RSI], path);
    if (r)
        return r;
    if (g[REG_R8] & ~(greg_t)AT_EMPTY_PATH)
        return HOSTED_PASS;
    if (*path != '/' && dir != AT_FDCWD) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        ssize_t n = readlink(link, full, sizeof full);
        if (n <= 0 || (size_t)n + strlen(path) + 2 > sizeof full)
            return HOSTED_PASS;
        snprintf(full + n, sizeof full - (size_t)n, "%s%s", *path ? "/" : "", path);
        memcpy(path, full, sizeof path);
        if (access(path, X_OK))
            return HOSTED_PASS;
    } else if (!*path) {
        return HOSTED_PASS;
    }
    return exec(t, uc, path, (char *const *)(uintptr_t)g[REG_RDX], (char *const *)(uintptr_t)g[REG_R10]);
}
