/* SPDX-License-Identifier: MIT */
/*
 * See program.h. Formats: ELF-64 object file format; execve(2) for scripts. No state, no lock.
 */
#include "transport/program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

union head {
    Elf64_Ehdr elf;
    char text[PROGRAM_LINE];
};

/* Of Go's linker: cmd/link, "Go build ID". */
#define GO_NOTE_OWNER "Go"

static bool is_go_note(int fd, const Elf64_Phdr *p)
{
    struct {
        Elf64_Nhdr head;
        char owner[4];
    } note;
    for (uint64_t at = 0; at + sizeof(note) <= p->p_filesz;) {
        if (pread(fd, &note, sizeof(note), (off_t)(p->p_offset + at)) != sizeof(note))
            return false;
        if (note.head.n_namesz == sizeof(note.owner) && memcmp(note.owner, GO_NOTE_OWNER "\0", sizeof(note.owner)) == 0)
            return true;
        at += sizeof(note.head) + ((note.head.n_namesz + 3ull) & ~3ull) + ((note.head.n_descsz + 3ull) & ~3ull);
    }
    return false;
}

/* The interpreter that an ELF program asks for: true and "" if none. */
static bool read_interpreter(int fd, const Elf64_Ehdr *header, char interpreter[PATH_MAX], bool *is_go)
{
    interpreter[0] = '\0';
    *is_go = false;
    for (unsigned i = 0; i < header->e_phnum; i++) {
        Elf64_Phdr p;

        if (pread(fd, &p, sizeof(p), (off_t)(header->e_phoff + (uint64_t)i * header->e_phentsize)) != sizeof(p))
            return false;
        if (p.p_type == PT_NOTE)
            *is_go |= is_go_note(fd, &p);
        if (p.p_type != PT_INTERP)
            continue;
        if (p.p_filesz == 0 || p.p_filesz >= PATH_MAX || pread(fd, interpreter, p.p_filesz, (off_t)p.p_offset) != (ssize_t)p.p_filesz)
            return false;
        interpreter[p.p_filesz] = '\0';
    }
    return true;
}

/* True if running the file changes what this process may do: the loader then preloads nothing, and a host in its place would not have it. */
static bool is_privileged(int fd)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return false;
    if ((st.st_mode & S_ISUID) && geteuid() != st.st_uid)
        return true;
    if ((st.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && getegid() != st.st_gid)
        return true;
    return geteuid() != 0 && fgetxattr(fd, "security.capability", NULL, 0) > 0;
}

static void refuse(struct program *p, const char *why)
{
    p->kind = PROGRAM_REFUSED;
    p->why = why;
}

static void examine_elf(int fd, const Elf64_Ehdr *header, struct program *p)
{
    char interpreter[PATH_MAX];
    bool is_go;

    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_machine != EM_X86_64) {
        refuse(p, "is not a program for x86-64; this is not supported");
    } else if (is_privileged(fd)) {
        refuse(p, "is set-user-ID, set-group-ID or has capabilities: the loader does not let vitrine in");
    } else if (read_interpreter(fd, header, interpreter, &is_go)) {
        const char *base = strrchr(interpreter, '/');
        bool is_glibc = strncmp(base ? base + 1 : interpreter, "ld-linux-", 9) == 0;
        if (!*interpreter || access(interpreter, R_OK) == 0)
            p->kind = is_glibc && !is_go ? PROGRAM_PRELOADED : PROGRAM_HOSTED;
    }
}

/* The line after "#!": a path, and all the rest as one argument. False if there is none. */
static bool read_script(char *line, struct program *p)
{
    char *path = line + strspn(line, " \t"), *end = path + strcspn(path, "\n"), *rest;

    while (end > path && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    *end = '\0';
    rest = path + strcspn(path, " \t");
    if (rest == path || p->n_scripts == PROGRAM_SCRIPTS)
        return false;
    if (*rest)
        *rest++ = '\0';
    snprintf(p->script[p->n_scripts].interpreter, PROGRAM_LINE, "%s", path);
    snprintf(p->script[p->n_scripts].argument, PROGRAM_LINE, "%s", rest + strspn(rest, " \t"));
    p->n_scripts++;
    snprintf(p->path, sizeof(p->path), "%s", path);
    return true;
}

void program_examine(const char *path, struct program *p)
{
    bool is_script = true;

    p->kind = PROGRAM_OTHER;
    p->why = NULL;
    p->n_scripts = 0;
    snprintf(p->path, sizeof(p->path), "%s", path);
    while (is_script) {
        union head head = { .text = { 0 } };
        int fd = open(p->path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return;
        ssize_t n = read(fd, &head, sizeof(head) - 1);
        is_script = n > 2 && memcmp(head.text, "#!", 2) == 0 && access(p->path, X_OK) == 0 && read_script(head.text + 2, p);
        if (!is_script && n >= (ssize_t)sizeof(head.elf) && memcmp(head.elf.e_ident, ELFMAG, SELFMAG) == 0)
            examine_elf(fd, &head.elf, p);
        close(fd);
    }
}

static bool is_loaders(const char *variable)
{
    return strncmp(variable, "LD_", 3) == 0 || strncmp(variable, "GLIBC_TUNABLES=", 15) == 0;
}

static unsigned count(char *const list[])
{
    unsigned n = 0;
    while (list && list[n])
        n++;
    return n;
}

/* Where strings go in the block. */
static char *put(char **at, const char *prefix, const char *text)
{
    char *begin = *at;
    *at += sprintf(begin, "%s%s", prefix, text) + 1;
    return begin;
}

size_t program_call_bytes(const struct program *p, const char *path, char *const argv[], char *const envp[])
{
    size_t bytes = (count(argv) + count(envp) + 2 * PROGRAM_SCRIPTS + 4) * sizeof(char *) + sizeof(PROGRAM_VARIABLE) + strlen(p->path);
    for (unsigned i = 0; envp && envp[i]; i++)
        bytes += is_loaders(envp[i]) ? sizeof(PROGRAM_HIDDEN) + strlen(envp[i]) : 0;
    return bytes + sizeof(p->script) + strlen(path) + 1;
}

void program_call_hosted(const struct program *p, const char *path, char *const argv[], char *const envp[], void *room, struct program_call *c)
{
    unsigned n_argv = count(argv), n_envp = count(envp), n = 0;
    c->argv = room;
    c->envp = c->argv + n_argv + 2 * PROGRAM_SCRIPTS + 2;
    char *text = (char *)(c->envp + n_envp + 2);
    /* Each interpreter comes before what it interprets, whose name stands in for its argv[0]. */
    for (unsigned i = p->n_scripts; i--;) {
        c->argv[n++] = put(&text, "", p->script[i].interpreter);
        if (*p->script[i].argument)
            c->argv[n++] = put(&text, "", p->script[i].argument);
    }
    if (p->n_scripts)
        c->argv[n++] = put(&text, "", path);
    for (unsigned i = p->n_scripts ? 1 : 0; i < n_argv; i++)
        c->argv[n++] = argv[i];
    c->argv[n] = NULL;
    for (n = 0; n < n_envp; n++)
        c->envp[n] = is_loaders(envp[n]) ? put(&text, PROGRAM_HIDDEN, envp[n]) : envp[n];
    c->envp[n++] = put(&text, PROGRAM_VARIABLE, p->path);
    c->envp[n] = NULL;
}

const char *program_find(const char *name, const struct stat *except, char path[PATH_MAX])
{
    const char *list = getenv("PATH");
    int error = ENOENT;

    if (strchr(name, '/')) {
        snprintf(path, PATH_MAX, "%s", name);
        return access(path, X_OK) == 0 ? path : NULL;
    }
    for (list = list ? list : "/bin:/usr/bin"; *name; list++) {
        size_t n = strcspn(list, ":");
        struct stat st;

        snprintf(path, PATH_MAX, "%.*s%s%s", (int)n, list, n ? "/" : "", name);
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && !(except && st.st_dev == except->st_dev && st.st_ino == except->st_ino)) {
            if (access(path, X_OK) == 0)
                return path;
            error = EACCES;
        }
        list += n;
        if (!*list)
            break;
    }
    errno = error;
    return NULL;
}

static bool is_library(const char *entry, size_t n)
{
    const size_t n_name = sizeof(PROGRAM_LIBRARY) - 1;
    return n >= n_name && memcmp(entry + n - n_name, PROGRAM_LIBRARY, n_name) == 0;
}

bool program_has_library(const char *list)
{
    for (size_t n; *list; list += n + (list[n] != '\0')) {
        n = strcspn(list, ": ");
        if (is_library(list, n))
            return true;
    }
    return false;
}

void program_leave_library(char *list)
{
    char *to = list;
    for (size_t n; *list; list += n) {
        n = strcspn(list, ": ");
        bool is_ours = is_library(list, n);
        n += list[n] != '\0';
        if (is_ours)
            continue;
        memmove(to, list, n);
        to += n;
    }
    *to = '\0';
    if (to > list)
        to[-1] = '\0';
}

int program_find_host(const char *beside, char host[PATH_MAX])
{
    const char *slash = strrchr(beside, '/');
    int n = snprintf(host, PATH_MAX, "%.*s/" PROGRAM_HOST, slash ? (int)(slash - beside) : 1, slash ? beside : ".");
    return n < PATH_MAX && access(host, X_OK) == 0 ? 0 : -ENOENT;
}
