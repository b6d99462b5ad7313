/* SPDX-License-Identifier: MIT */
/*
 * The conformance driver's loop over peers and cases. A case runs in a forked child: its verdict is the exit status, its reason for skipping comes through a
 * shared page. The parent prints TAP, which tools/run-tests counts.
 */
#include "tests/conform/conform.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "transport/inproc.h"

#define CASE_SECONDS 30
#define STATUS_SKIP 77

static char *skip_reason; /* shared with the child */
static bool has_failed;   /* of the running case, in the child */

static const struct port port_inproc = { "vitrine", vitrine_open, vitrine_ioctl, vitrine_mmap, vitrine_close };

void conform_fail(const char *file, int line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("# %s:%d: ", strrchr(file, '/') ? strrchr(file, '/') + 1 : file, line);
    vprintf(format, args);
    printf("\n");
    va_end(args);
    has_failed = true;
}

void conform_stop(void)
{
    fflush(stdout);
    _exit(has_failed ? 1 : 0);
}

void conform_skip(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(skip_reason, 200, format, args);
    va_end(args);
    fflush(stdout);
    _exit(has_failed ? 1 : STATUS_SKIP);
}

int conform_ioctl(const struct peer *p, int fd, unsigned long request, void *arg, const char *what, const char *file, int line)
{
    int got = p->port->ioctl(fd, request, arg);
    if (got < 0) {
        conform_fail(file, line, "%s: %s", what, strerror(errno));
        conform_stop();
    }
    return got;
}

void conform_errno(const struct peer *p, int fd, unsigned long request, void *arg, int want, const char *what, const char *file, int line)
{
    errno = 0;
    int got = p->port->ioctl(fd, request, arg);
    int got_errno = got < 0 ? errno : 0;
    if (got_errno != want)
        conform_fail(file, line, "%s returned %d, errno %s, want %s", what, got, strerrorname_np(got_errno), strerrorname_np(want));
}

void conform_bytes(const void *got, const void *want, size_t bytes, const char *what, const char *file, int line)
{
    const uint8_t *a = got, *b = want;
    for (size_t i = 0; i < bytes; i++) {
        if (a[i] != b[i]) {
            conform_fail(file, line, "%s differs from byte %zu on: %#x, want %#x", what, i, a[i], b[i]);
            return;
        }
    }
}

static int run_case(const struct peer *p, const struct conform_case *c)
{
    fflush(stdout);
    skip_reason[0] = 0;
    pid_t child = fork();
    if (child == 0) {
        alarm(CASE_SECONDS);
        c->run(p);
        conform_stop();
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) {
        printf("# cannot run the case: %s\n", strerror(errno));
        return 1;
    }
    if (WIFSIGNALED(status)) {
        printf("# killed by SIG%s%s\n", sigabbrev_np(WTERMSIG(status)), WTERMSIG(status) == SIGALRM ? " (no end)" : "");
        return 1;
    }
    return WEXITSTATUS(status);
}

static const char *find_difference(const struct peer *p, const struct conform_case *c, const struct conform_difference *d, size_t n)
{
    if (getenv("VITRINE_CONFORM_ALL"))
        return NULL;
    bool is_pvm = p->is_host && access("/sys/module/kvm_pvm", F_OK) == 0;
    for (size_t i = 0; i < n; i++)
        if ((!strcmp(d[i].peer, p->name) || (is_pvm && !strcmp(d[i].peer, "pvm"))) && !strcmp(d[i].test, c->name))
            return d[i].reason;
    return NULL;
}

/* True if argv names this peer (or no peer) and this case (or no case). */
static bool is_wanted(int argc, char **argv, const char *peer, const char *name)
{
    bool any_peer = false, any_case = false, peer_named = false, case_named = false;
    for (int i = 1; i < argc; i++) {
        bool is_peer = !strcmp(argv[i], "vitrine") || !strcmp(argv[i], "host");
        any_peer |= is_peer;
        any_case |= !is_peer;
        peer_named |= !strcmp(argv[i], peer);
        case_named |= !strcmp(argv[i], name);
    }
    return (!any_peer || peer_named) && (!any_case || case_named);
}

int conform_main(int argc, char **argv, const struct conform_case *cases, size_t n_cases, const struct conform_difference *differences, size_t n_differences)
{
    const struct peer peers[] = { { "vitrine", &port_inproc, false }, { "host", &port_host, true } };
    bool failed = false;
    skip_reason = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (skip_reason == MAP_FAILED)
        return 1;
    for (size_t i = 0; i < sizeof peers / sizeof *peers; i++) {
        const struct peer *p = &peers[i];
        if (p->is_host) {
            int fd = p->port->open("/dev/kvm");
            if (fd < 0) {
                printf("ok - host # SKIP cannot open /dev/kvm: %s\n", strerror(errno));
                continue;
            }
            p->port->close(fd);
        }
        for (size_t k = 0; k < n_cases; k++) {
            if (!is_wanted(argc, argv, p->name, cases[k].name))
                continue;
            const char *reason = find_difference(p, &cases[k], differences, n_differences);
            int status = reason ? STATUS_SKIP : run_case(p, &cases[k]);
            if (reason)
                snprintf(skip_reason, 200, "%s", reason);
            if (status == STATUS_SKIP)
                printf("ok - %s: %s # SKIP %s\n", p->name, cases[k].name, skip_reason);
            else
                printf("%s - %s: %s\n", status ? "not ok" : "ok", p->name, cases[k].name);
            failed |= status != 0 && status != STATUS_SKIP;
        }
    }
    return failed;
}
