/* SPDX-License-Identifier: MIT */
/*
 * What a program file is, for those who start one: which transport serves it, and the execve that makes it so. Follows scripts to their interpreters as the
 * kernel does. Any thread; nothing is kept.
 */
#ifndef VITRINE_TRANSPORT_PROGRAM_H
#define VITRINE_TRANSPORT_PROGRAM_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#define PROGRAM_HOST "vitrine-static" /* the host's file, beside the preloaded library */
#define PROGRAM_LIBRARY "libvitrine-preload.so"

/* In the host's environment: the client's file. Variables of the client's that would mean something to the host's own loader have the prefix. */
#define PROGRAM_VARIABLE "VITRINE_STATIC_PROGRAM="
#define PROGRAM_HIDDEN "VITRINE_CLIENT_"

enum program_kind {
    PROGRAM_OTHER,     /* execve says what it is, or what is wrong with it */
    PROGRAM_PRELOADED, /* linked with glibc: LD_PRELOAD */
    PROGRAM_HOSTED,    /* makes system calls by itself (static, another C library than glibc, Go): the host loads it */
    PROGRAM_REFUSED,   /* would run without us: `why` */
};

#define PROGRAM_SCRIPTS 4u
#define PROGRAM_LINE 256u

struct program {
    enum program_kind kind;
    const char *why;
    char path[PATH_MAX]; /* the ELF file: the last interpreter if it began with a script */
    unsigned n_scripts;
    struct {
        char interpreter[PROGRAM_LINE], argument[PROGRAM_LINE]; /* "": none */
    } script[PROGRAM_SCRIPTS];
};

void program_examine(const char *path, struct program *p);

/* The file that execvp would run, or NULL; errno is ENOENT or what kept it from being found. In the PATH, `except` is passed over. */
const char *program_find(const char *name, const struct stat *except, char path[PATH_MAX]);

/* What to give to execve in place of (path, argv, envp), for a PROGRAM_HOSTED: lists and new strings are in `room`, of program_call_bytes. */
struct program_call {
    char **argv, **envp;
};
size_t program_call_bytes(const struct program *p, const char *path, char *const argv[], char *const envp[]);
void program_call_hosted(const struct program *p, const char *path, char *const argv[], char *const envp[], void *room, struct program_call *c);

/* LD_PRELOAD's value without our library, in place. */
void program_leave_library(char *list);
/* True if it has our library. */
bool program_has_library(const char *list);

/* The host's file, found beside the library or program `beside`. 0 or -ENOENT. */
int program_find_host(const char *beside, char host[PATH_MAX]);

#endif
