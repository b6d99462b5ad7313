/* SPDX-License-Identifier: MIT */
/* Finds the VMs of this machine by the names of their processes' sockets in /proc/net/unix, and opens one by what a user calls it. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/inspect_priv.h"

#define ANSWER_SECONDS 10

/* Fails with EACCES if it is another user's; the name alone proves nothing, anybody may take it. */
static int check_peer(int fd, uint32_t *pid)
{
    struct ucred peer;
    socklen_t bytes = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes))
        return -1;
    *pid = (uint32_t)peer.pid;
    if (peer.uid == geteuid() || peer.uid == 0 || geteuid() == 0)
        return 0;
    errno = EACCES;
    return -1;
}

static int greet(struct vitrine_vm *c)
{
    struct control_hello hello = { 0 };
    struct timeval limit = { .tv_sec = ANSWER_SECONDS };
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ssize_t n = inspect_call(c, CONTROL_HELLO, NULL, 0, NULL, 0, &hello, sizeof hello);
    limit.tv_sec = 0;
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (n == sizeof hello && hello.version == CONTROL_VERSION)
        return 0;
    if (n >= 0)
        errno = EPROTO;
    else if (errno == ESRCH)
        errno = EACCES; /* it hung up: we are not who may come in */
    return -1;
}

int inspect_connect(struct vitrine_vm *c, const char *name, uint32_t *pid)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    size_t n = strlen(name);
    if (n > sizeof address.sun_path - 1) {
        errno = ESRCH;
        return -1;
    }
    memcpy(address.sun_path + 1, name, n);
    *c = (struct vitrine_vm){ .fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) };
    if (c->fd < 0)
        return -1;
    if (connect(c->fd, (struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n)) == 0 && check_peer(c->fd, pid) == 0 &&
        greet(c) == 0)
        return 0;
    int saved = errno;
    close(c->fd);
    errno = saved;
    return -1;
}

/* ---- going through all ---- */

/* What is looked for, and what was found so far. */
struct search {
    const char *which; /* NULL: all */
    struct vitrine_vm_info *out;
    unsigned n_out, n_found, n_exact;
    char socket[64]; /* of the best match */
    uint32_t number;
    int error;
};

enum match { MATCH_NONE, MATCH_BEGINNING, MATCH_EXACT };

static enum match match(const char *which, const struct vitrine_vm_info *info)
{
    char text[32];
    snprintf(text, sizeof text, "%u.%u", info->pid, info->number);
    if (!strcmp(which, text))
        return MATCH_EXACT;
    *strchr(text, '.') = '\0';
    if (!strcmp(which, text) || !strcmp(which, info->name))
        return MATCH_EXACT;
    return strncmp(which, info->name, strlen(which)) == 0 ? MATCH_BEGINNING : MATCH_NONE;
}

static void found(struct search *s, const char *socket, const struct vitrine_vm_info *info)
{
    enum match how = s->which ? match(s->which, info) : MATCH_BEGINNING;
    if (how == MATCH_NONE)
        return;
    if (!s->which && s->n_found < s->n_out)
        s->out[s->n_found] = *info;
    s->n_found++;
    if (how == MATCH_EXACT && s->n_exact++ == 0)
        s->n_found = 1; /* only beginnings so far: they no longer count */
    else if (s->n_exact && how != MATCH_EXACT) {
        s->n_found--;
        return;
    }
    snprintf(s->socket, sizeof s->socket, "%s", socket);
    s->number = info->number;
}

static void search_process(struct search *s, const char *socket)
{
    struct vitrine_vm c;
    struct vitrine_vm_info info;
    uint32_t pid;
    /* Who hangs up does not let us in, or is just ending: then nobody is there the second time. */
    for (unsigned tries = 0; inspect_connect(&c, socket, &pid); tries++) {
        if (errno == ECONNREFUSED)
            return;
        if (errno != EACCES || tries) {
            s->error = errno;
            return;
        }
    }
    struct control_vm in = { .number = 1 };
    while (inspect_call(&c, CONTROL_NEXT_VM, &in, sizeof in, NULL, 0, &info, sizeof info) == sizeof info) {
        info.pid = pid; /* as we see it; the process may live among other numbers */
        info.name[sizeof info.name - 1] = '\0';
        found(s, socket, &info);
        in.number = info.number + 1;
    }
    close(c.fd);
}

/* Connections have the listening socket's name too: states differ (01 unconnected, 03 connected). */
static int search_all(struct search *s)
{
    char line[512], last[64] = "";
    FILE *f = fopen("/proc/net/unix", "re");
    if (!f)
        return -1;
    while (fgets(line, sizeof line, f)) {
        unsigned state;
        char name[64];
        if (sscanf(line, "%*s %*s %*s %*s %*s %x %*s @" CONTROL_NAME_PREFIX "%40s", &state, name) != 2 || state != 1)
            continue;
        char socket[64];
        snprintf(socket, sizeof socket, CONTROL_NAME_PREFIX "%.40s", name);
        if (strcmp(socket, last))
            search_process(s, socket);
        snprintf(last, sizeof last, "%s", socket);
    }
    fclose(f);
    return 0;
}

static int by_pid(const void *a, const void *b)
{
    const struct vitrine_vm_info *x = a, *y = b;
    return x->pid != y->pid ? (x->pid < y->pid ? -1 : 1) : x->number < y->number ? -1 : x->number > y->number;
}

int vitrine_vm_list(struct vitrine_vm_info *out, unsigned n)
{
    struct search s = { .out = out, .n_out = n };
    if (search_all(&s))
        return -1;
    qsort(out, s.n_found < n ? s.n_found : n, sizeof *out, by_pid);
    return (int)s.n_found;
}

struct vitrine_vm *vitrine_vm_open(const char *which)
{
    struct search s = { .which = which };
    uint32_t pid;
    if (search_all(&s))
        return NULL;
    if (s.n_found != 1) {
        errno = s.n_found ? ENOTUNIQ : s.error ? s.error : ESRCH;
        return NULL;
    }
    struct vitrine_vm *vm = malloc(sizeof *vm);
    if (!vm)
        return NULL;
    if (inspect_connect(vm, s.socket, &pid)) {
        int saved = errno;
        free(vm);
        errno = saved;
        return NULL;
    }
    vm->number = s.number;
    return vm;
}
