/* SPDX-License-Identifier: MIT */
/*
 * The machine that a tool runs in, and pages of the introspected one in it (kvmi_priv.h). It may be another process's, so all is by <vitrine/inspect.h>, as any
 * tool would: with the rights of this process's user, over a connection that is opened when it is needed and undoes all when it goes. No lock.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi/kvmi_rfc.h"
#include "front/kvmi/kvmi_priv.h"
#include "introspect/memory.h"
#include "introspect/share.h"
#include "vitrine/inspect.h"

#define GFN_MAX (UINT64_MAX >> PAGE_SHIFT)

/* ---- which it is ---- */

static int refuse(struct kvmi_session *s, const char *why)
{
    s->refusal = why;
    return -EOPNOTSUPP;
}

/* `none` and `several` are texts. What another process than the one meant answers, or not, is an error too. */
static const char *why_not_open(const char *none, const char *several)
{
    switch (errno) {
    case ENOTUNIQ:
        return several;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
        return strerror(errno);
    default:
        return none;
    }
}

/* A machine may be called like the process's number. */
static bool is_of(struct vitrine_vm *vm, pid_t pid)
{
    struct vitrine_vm_info info;
    return !vitrine_vm_info(vm, &info) && info.pid == (uint32_t)pid;
}

static int open_peer(struct kvmi_session *s)
{
    char which[16];
    if (!s->peer_pid)
        return refuse(s, "nothing says in which machine the tool runs: guest= does");
    snprintf(which, sizeof which, "%d", (int)s->peer_pid);
    s->home.vm = vitrine_vm_open(which);
    if (s->home.vm && is_of(s->home.vm, s->peer_pid))
        return 0;
    if (s->home.vm)
        errno = ESRCH;
    vitrine_vm_close(s->home.vm);
    s->home.vm = NULL;
    return refuse(s, why_not_open("the process in which the tool listens runs no machine: guest= says in which the tool runs",
                                  "the process in which the tool listens runs several machines: guest= says in which the tool runs"));
}

static int home_open(struct kvmi_session *s)
{
    if (s->home.vm)
        return 0;
    if (!*s->options->guest)
        return open_peer(s);
    s->home.vm = vitrine_vm_open(s->options->guest);
    if (s->home.vm)
        return 0;
    return refuse(
        s, why_not_open("the tool's machine, guest=, does not run, or is another user's", "guest= means several machines: a pid, or PID.NUMBER, means one"));
}

/* It has gone, and what was in it: the next command looks for it again. */
static void home_forget(struct kvmi_session *s)
{
    vitrine_vm_close(s->home.vm);
    free(s->home.gfn);
    s->home = (struct kvmi_home){ 0 };
}

/* Whoever detaches the tool relies on it that nothing is left, so it does not just hang up. */
void kvmi_home_close(struct kvmi_session *s)
{
    while (s->home.n)
        vitrine_page_remove(s->home.vm, s->home.gfn[--s->home.n] << PAGE_SHIFT);
    home_forget(s);
}

/* ---- pages ---- */

static const char *why_not_shared(enum share_verdict verdict)
{
    switch (verdict) {
    case SHARE_PRIVATE:
        return "the page is private memory of the machine's VMM, which cannot be seen elsewhere";
    case SHARE_NO_FILE:
        return "the page is of a file that the machine's VMM no longer has open";
    case SHARE_UNMAPPED:
    case SHARE_BEHIND:
        return "the machine's VMM took the page's memory away";
    default:
        return "it cannot be found out in which file the page is";
    }
}

/* What became of a call to the tool's machine, in the protocol's errors. */
static int outcome(struct kvmi_session *s, int r)
{
    if (!r)
        return 0;
    switch (errno) {
    case EEXIST:
    case EBUSY:
        return -EBUSY;
    case EINVAL:
    case ENOENT:
        return -errno;
    case ENOSPC:
    case ENOMEM:
        return -ENOMEM;
    case EPERM:
        return refuse(s, "the tool's machine is another user's");
    case ESRCH:
        home_forget(s);
        return refuse(s, "the tool's machine has gone");
    default:
        return refuse(s, strerror(errno));
    }
}

static int lend(struct kvmi_session *s, gfn_t gfn, int fd, uint64_t offset)
{
    uint64_t *all = realloc(s->home.gfn, (s->home.n + 1) * sizeof *all);
    if (!all)
        return -ENOMEM;
    s->home.gfn = all;
    int r = outcome(s, vitrine_page_lend(s->home.vm, gfn << PAGE_SHIFT, fd, offset));
    if (!r)
        s->home.gfn[s->home.n++] = gfn;
    return r;
}

/* A page that is memory of the introspected machine. */
static int lend_from(struct kvmi_session *s, const struct memslot *slot, uint64_t at, gfn_t gfn)
{
    struct share_view view;
    struct share_piece piece;
    share_view_open(&view);
    enum share_verdict verdict = share_view_next(&view, slot, at, &piece);
    int r;
    if (verdict != SHARE_YES)
        r = refuse(s, why_not_shared(verdict));
    else if (!piece.is_writeable)
        r = refuse(s, "the page is of a file that the machine's VMM may only read");
    else
        r = lend(s, gfn, view.file[piece.file].fd, piece.offset);
    share_view_close(&view);
    return r;
}

int kvmi_map_page_to_guest(struct kvmi_arg *a)
{
    const struct kvmi17_map_page *in = a->in;
    struct memslot slot;
    if ((in->gpa & PAGE_OFFSET_MASK) || in->gfn > GFN_MAX)
        return -EINVAL;
    if (!look_memory_slot(a->vm, in->gpa, &slot))
        return -ENOENT;
    int r = kvmi_listen(a->session, a->vm); /* so that the end of this machine is noticed at once */
    if (!r)
        r = home_open(a->session);
    return r ? r : lend_from(a->session, &slot, in->gpa - slot.gpa, in->gfn);
}

int kvmi_unmap_page_from_guest(struct kvmi_arg *a)
{
    struct kvmi_home *h = &a->session->home;
    const uint64_t gfn = ((const struct kvmi_number *)a->in)->value;
    unsigned i = 0;
    while (i < h->n && h->gfn[i] != gfn)
        i++;
    if (i == h->n)
        return -ENOENT;
    h->gfn[i] = h->gfn[--h->n];
    return outcome(a->session, vitrine_page_remove(h->vm, gfn << PAGE_SHIFT));
}
