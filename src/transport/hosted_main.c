/* SPDX-License-Identifier: MIT */
/*
 * The host program: becomes the program that its environment names, one that makes system calls by itself, with vitrine in the place of /dev/kvm. Started by
 * `vitrine run` and by clients that start others, never by hand: argv is the client's. hosted.h says how the client runs.
 */
#include <alloca.h>
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "transport/hosted.h"
#include "transport/program.h"

enum { CANNOT_RUN = 126 };

_Noreturn static void give_up(const char *path, const char *what, int error)
{
    fprintf(stderr, "vitrine run: %s: %s: %s\n", path, what, strerror(error));
    _exit(CANNOT_RUN);
}

/* The client's environment: what was hidden from our loader under its own name, and without what was meant for us. The value of PROGRAM_VARIABLE, or NULL. */
static const char *restore_environment(char **envp, bool *serves_children)
{
    const char *program = NULL;
    char **to = envp;
    *serves_children = true;
    for (char **from = envp; *from; from++) {
        if (!strncmp(*from, PROGRAM_VARIABLE, sizeof(PROGRAM_VARIABLE) - 1))
            program = *from + sizeof(PROGRAM_VARIABLE) - 1;
        else if (!strcmp(*from, "VITRINE_NO_CHILDREN=1"))
            *serves_children = false;
        else
            *to++ = !strncmp(*from, PROGRAM_HIDDEN, sizeof(PROGRAM_HIDDEN) - 1) ? *from + sizeof(PROGRAM_HIDDEN) - 1 : *from;
    }
    *to = NULL;
    return program;
}

/* A mask that was there before: the kernel keeps the rest of it. */
static void adopt_mask(struct hosted *t)
{
    sigset_t hidden, mask;
    uint64_t *word = (uint64_t *)(void *)&mask;
    memset(&hidden, 0, sizeof hidden);
    *(uint64_t *)(void *)&hidden = HOSTED_SIGNALS;
    sigprocmask(SIG_UNBLOCK, &hidden, &mask);
    t->hidden = *word & HOSTED_SIGNALS;
}

/* A client with an interpreter of its own would load our library, and find a second vitrine there. LD_PRELOAD's value as it was, for its children; NULL: none.
 */
static const char *leave_library(char **envp)
{
    for (char **e = envp; *e; e++) {
        if (strncmp(*e, "LD_PRELOAD=", 11) != 0 || !program_has_library(*e + 11))
            continue;
        char *before = strdup(*e + 11);
        program_leave_library(*e + 11);
        if (!(*e)[11])
            for (char **to = e; (to[0] = to[1]); to++)
                ;
        return before;
    }
    return NULL;
}

static void set_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    prctl(PR_SET_NAME, slash ? slash + 1 : path);
}

static uint64_t address(const void *p)
{
    return (uint64_t)(uintptr_t)p;
}

/* The kernel's auxiliary vector with what differs. Returns the number of words. */
static unsigned copy_auxv(const uint64_t *from, uint64_t *to, const struct hosted_image *image, const char *program)
{
    unsigned n = 0;
    for (;; n += 2) {
        uint64_t value = from[n + 1];
        switch (from[n]) {
        case AT_PHDR:
            value = image->phdr;
            break;
        case AT_PHENT:
            value = sizeof(Elf64_Phdr);
            break;
        case AT_PHNUM:
            value = image->n_phdr;
            break;
        case AT_BASE:
            value = image->base;
            break;
        case AT_ENTRY:
            value = image->entry;
            break;
        case AT_EXECFN:
            value = address(program);
            break;
        }
        to[n] = from[n];
        to[n + 1] = value;
        if (from[n] == AT_NULL)
            return n + 2;
    }
}

/* argc, argv, envp, auxv as at the start of a program (System V ABI, AMD64 supplement, "Process Initialization"), on the process's own stack. */
_Noreturn static void start(struct hosted *t, const struct hosted_image *image, int argc, char **argv, char **envp, const uint64_t *auxv, const char *program)
{
    unsigned n_env = 0, n_aux = 0, n = 0;
    while (envp[n_env])
        n_env++;
    while (auxv[n_aux] != AT_NULL)
        n_aux += 2;
    uint64_t *sp = alloca((1 + (unsigned)argc + 1 + n_env + 1 + n_aux + 2 + 2) * sizeof(uint64_t));
    sp = (uint64_t *)(void *)((address(sp) + 15) & ~15ull);
    sp[n++] = (uint64_t)argc;
    for (int i = 0; i <= argc; i++)
        sp[n++] = address(argv[i]);
    for (unsigned i = 0; i <= n_env; i++)
        sp[n++] = address(envp[i]);
    copy_auxv(auxv, sp + n, image, program);
    if (image->needs_executable_stack)
        mprotect((void *)(uintptr_t)(address(sp) & ~4095ull), 4096, PROT_READ | PROT_WRITE | PROT_EXEC | PROT_GROWSDOWN);
    hosted_begin(t, image->start, address(sp));
}

int main(int argc, char **argv, char **envp)
{
    struct hosted_image image;
    const char *why;
    bool serves_children;
    uint64_t *auxv;
    char **end = envp;
    while (*end)
        end++;
    auxv = (uint64_t *)(void *)(end + 1);
    const char *program = restore_environment(envp, &serves_children);
    if (!program) {
        fprintf(stderr, "%s: is started by `vitrine run`\n", argv[0]);
        return 2;
    }
    int r = hosted_load(program, &image, &why);
    if (r)
        give_up(program, why ? why : "cannot be loaded", -r);
    hosted_brk_init(image.end);
    hosted_file_init(program);
    hosted_entry_init();
    r = hosted_signals_init();
    if (!r)
        r = hosted_process_init(serves_children, image.base ? leave_library(envp) : NULL);
    struct hosted *t = r ? NULL : hosted_create();
    if (!t)
        give_up(program, "cannot be served", r ? -r : ENOMEM);
    r = hosted_attach(t);
    if (r == -EINVAL)
        give_up(program, "it makes system calls by itself, and this kernel cannot dispatch them (no Syscall User Dispatch, which came with Linux 5.11)", -r);
    else if (r)
        give_up(program, "its system calls cannot be dispatched", -r);
    adopt_mask(t);
    set_name(program);
    start(t, &image, argc, argv, envp, auxv, program);
}
