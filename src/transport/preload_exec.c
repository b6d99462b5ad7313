/* SPDX-License-Identifier: MIT */
/*
 * The preload transport: programs that the client starts. Those that a preloaded library does not serve, since they are statically linked or the like, get the
 * host program in their place (hosted.h); all others are the C library's to start, with LD_PRELOAD as the client passes it on. After vfork this is the parent's
 * memory: nothing is allocated. No lock.
 */
#include "transport/preload.h"

#include <alloca.h>
#include <dlfcn.h>
#include <errno.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/signals.h"
#include "transport/program.h"

NEXT_SLOT(execve);
NEXT_SLOT(execv);
NEXT_SLOT(execvp);
NEXT_SLOT(execvpe);
NEXT_SLOT(fexecve);
NEXT_SLOT(posix_spawn);
NEXT_SLOT(posix_spawnp);

static char host[PATH_MAX]; /* "": there is none, or children are not served */

void preload_exec_find(void)
{
    Dl_info self;
    NEXT(execve), NEXT(execv), NEXT(execvp), NEXT(execvpe), NEXT(fexecve), NEXT(posix_spawn), NEXT(posix_spawnp);
    if (!dladdr(host, &self) || program_find_host(self.dli_fname, host))
        host[0] = '\0';
}

/* True if the file is for the host: *p says what it is. Changes errno only then. */
static bool is_hosted(const char *path, struct program *p)
{
    int saved_errno = errno;
    bool is = false;
    if (*host && (uintptr_t)path >= 4096) {
        signals_hold(); /* its own calls are not the client's */
        program_examine(path, p);
        is = p->kind == PROGRAM_HOSTED && !access(path, X_OK) && !access(p->path, X_OK);
        signals_release();
    }
    errno = saved_errno;
    return is;
}

static const char *find(const char *name, char path[PATH_MAX])
{
    int saved_errno = errno;
    const char *found = NULL;
    if (*host && (uintptr_t)name >= 4096) {
        signals_hold();
        found = program_find(name, NULL, path);
        signals_release();
    }
    errno = saved_errno;
    return found;
}

static int exec_hosted(const struct program *p, const char *path, char *const argv[], char *const envp[])
{
    struct program_call call;
    program_call_hosted(p, path, argv, envp, alloca(program_call_bytes(p, path, argv, envp)), &call);
    return NEXT(execve)(host, call.argv, call.envp);
}

int execve(const char *path, char *const argv[], char *const envp[])
{
    struct program p;
    return is_hosted(path, &p) ? exec_hosted(&p, path, argv, envp) : NEXT(execve)(path, argv, envp);
}

int execv(const char *path, char *const argv[])
{
    struct program p;
    return is_hosted(path, &p) ? exec_hosted(&p, path, argv, environ) : NEXT(execv)(path, argv);
}

int execvpe(const char *name, char *const argv[], char *const envp[])
{
    char path[PATH_MAX];
    struct program p;
    return find(name, path) && is_hosted(path, &p) ? exec_hosted(&p, path, argv, envp) : NEXT(execvpe)(name, argv, envp);
}

int execvp(const char *name, char *const argv[])
{
    return execvpe(name, argv, environ);
}

int fexecve(int fd, char *const argv[], char *const envp[])
{
    char link[40], path[PATH_MAX];
    struct program p;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = *host ? readlink(link, path, sizeof(path) - 1) : -1;
    if (n > 0)
        path[n] = '\0';
    return n > 0 && is_hosted(path, &p) ? exec_hosted(&p, path, argv, envp) : NEXT(fexecve)(fd, argv, envp);
}

/* clang-format off */
/* The arguments after `first` as a list; `args` is then behind their NULL. */
#define LIST(argv, first, args) \
    va_start(args, first); \
    size_t n_args = 1; \
    while (va_arg(args, char *)) \
        n_args++; \
    va_end(args); \
    char **argv = alloca((n_args + 1) * sizeof(char *)); \
    va_start(args, first); \
    argv[0] = (char *)(uintptr_t)first; \
    for (size_t i = 1; i <= n_args; i++) \
        argv[i] = va_arg(args, char *)
/* clang-format on */

int execl(const char *path, const char *first, ...)
{
    va_list args;
    LIST(argv, first, args);
    va_end(args);
    return execv(path, argv);
}

int execlp(const char *name, const char *first, ...)
{
    va_list args;
    LIST(argv, first, args);
    va_end(args);
    return execvp(name, argv);
}

int execle(const char *path, const char *first, ...)
{
    va_list args;
    LIST(argv, first, args);
    char *const *envp = va_arg(args, char *const *);
    va_end(args);
    return execve(path, argv, envp);
}

int posix_spawn(pid_t *restrict child, const char *restrict path, const posix_spawn_file_actions_t *restrict actions,
                const posix_spawnattr_t *restrict attributes, char *const argv[restrict], char *const envp[restrict])
{
    struct program p;
    struct program_call call;
    if (!is_hosted(path, &p))
        return NEXT(posix_spawn)(child, path, actions, attributes, argv, envp);
    program_call_hosted(&p, path, argv, envp, alloca(program_call_bytes(&p, path, argv, envp)), &call);
    return NEXT(posix_spawn)(child, host, actions, attributes, call.argv, call.envp);
}

int posix_spawnp(pid_t *restrict child, const char *restrict name, const posix_spawn_file_actions_t *restrict actions,
                 const posix_spawnattr_t *restrict attributes, char *const argv[restrict], char *const envp[restrict])
{
    char path[PATH_MAX];
    if (find(name, path)) {
        struct program p;
        if (is_hosted(path, &p))
            return posix_spawn(child, path, actions, attributes, argv, envp);
    }
    return NEXT(posix_spawnp)(child, name, actions, attributes, argv, envp);
}
