/* SPDX-License-Identifier: MIT */
/*
 * See listen.h: who wants what, and when it ends. vm.watch.lock guards listeners and subscriptions; vCPUs take it for events that raise.c cannot tell. Whoever
 * changes who watches what holds vm.watch.change around that, as vCPUs and the engine's flush are waited for without vm.watch.lock. A call gets a reference to
 * the VM for as long as it lasts; without one the VM is going, no vCPU raises anything any more, and look_end_lock takes the place of both.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/barrier.h"
#include "base/fd.h"
#include "base/host.h"
#include "base/memfd.h"
#include "core/vcpu.h"
#include "core/vm.h"
#include "introspect/listen_priv.h"

/* Before the locks of a VM that is going. */
pthread_mutex_t look_end_lock = PTHREAD_MUTEX_INITIALIZER;

/* With a reference, or NULL: it has gone, or is about to. */
struct vm *look_vm_of(const struct look_listener *l)
{
    return vm_find_exactly(l->vm_number);
}

static bool wants_end(const struct look_listener *l)
{
    for (const struct subscription *s = l->first; s; s = s->next)
        if (s->filter.kinds & WATCH_END)
            return true;
    return false;
}

static void look_end(struct vm *vm)
{
    pthread_mutex_lock(&look_end_lock);
    for (struct look_listener *l = vm->watch.listeners; l; l = l->next) {
        l->vm = NULL;
        l->head->tells_end = wants_end(l);
        atomic_store(&l->head->is_over, 1);
        look_wake(l);
    }
    pthread_mutex_unlock(&look_end_lock);
}

static const struct watch_ops look_watch_ops = { .tell = look_tell, .raise = look_raise, .await = look_await, .end = look_end };

/* watch.change is held, watch.lock is not: what was taken out of a list before is in no vCPU's hands when this returns. */
static void wait_told(struct vm *vm)
{
    barrier_heavy();
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct vcpu *v = vm_vcpu(vm, i);
        while (v && atomic_load(&v->watch.is_telling))
            sched_yield();
    }
}

/* ---- who watches what ---- */

static uint32_t kinds_wanted(struct vm *vm)
{
    uint32_t kinds = 0;
    for (struct look_listener *l = vm->watch.listeners; l; l = l->next) {
        kinds |= look_views_deny_anything(&l->views) ? WATCH_ACCESS : 0;
        for (struct subscription *s = l->first; s; s = s->next)
            kinds |= s->filter.kinds;
    }
    return kinds;
}

/* All pages that somebody watches for one kind of access. -ENOMEM. */
static int pages_wanted(struct vm *vm, unsigned kind, struct watch_ranges *out)
{
    size_t n = 0;
    for (struct look_listener *l = vm->watch.listeners; l; l = l->next)
        for (struct subscription *s = l->first; s; s = s->next)
            n += s->ranges.of[kind].n;
    out->range = n ? malloc(n * sizeof *out->range) : NULL;
    if (n && !out->range)
        return -ENOMEM;
    for (struct look_listener *l = vm->watch.listeners; l; l = l->next)
        for (struct subscription *s = l->first; s; s = s->next)
            for (unsigned i = 0; i < s->ranges.of[kind].n; i++) {
                const struct watch_range *r = &s->ranges.of[kind].range[i];
                out->range[out->n++] = (struct watch_range){ r->first & ~PAGE_OFFSET_MASK, r->last | PAGE_OFFSET_MASK };
            }
    watch_ranges_normalise(out);
    return 0;
}

static int table_wanted(struct vm *vm, struct watch_table **out)
{
    struct watch_table *t = calloc(1, sizeof *t);
    int r = t ? 0 : -ENOMEM;
    for (unsigned i = 0; !r && i < 3; i++)
        r = pages_wanted(vm, i, &t->of[i]);
    if (r || !(t->of[0].n || t->of[1].n || t->of[2].n)) {
        watch_table_free(t);
        t = NULL;
    }
    *out = t;
    return r;
}

static void look_again(struct vm *vm)
{
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct vcpu *v = vm_vcpu(vm, i);
        if (v)
            vcpu_request(v, VREQ_EVENT);
    }
}

/* watch.change is held. -ENOMEM: too few pages are watched, or too many if something was taken away. */
static int refresh(struct vm *vm, bool has_ranges)
{
    struct watch_table *t = NULL;
    pthread_mutex_lock(&vm->watch.lock);
    uint32_t before = atomic_exchange(&vm->watch.kinds, kinds_wanted(vm)), after = atomic_load(&vm->watch.kinds);
    int r = has_ranges ? table_wanted(vm, &t) : 0;
    pthread_mutex_unlock(&vm->watch.lock);
    if (has_ranges && !r)
        watch_table_set(vm, t);
    if (after & ~before & WATCH_STEP)
        look_again(vm);
    return r;
}

void look_kinds_changed(struct vm *vm)
{
    refresh(vm, false);
}

/* ---- subscriptions ---- */

static void subscription_free(struct subscription *s)
{
    for (unsigned i = 0; i < 3; i++)
        free(s->ranges.of[i].range);
    free(s);
}

static bool is_sensible(const struct look_filter *f, const struct look_range *range, unsigned n_ranges)
{
    if (!f->kinds || f->kinds >> WATCH_KINDS || f->cpls >> 4 || f->first_index > f->last_index || f->first_rip > f->last_rip || (f->value & ~f->value_mask) ||
        (n_ranges && !(f->kinds & WATCH_ACCESS)) || (!n_ranges && (f->kinds & WATCH_ACCESS)))
        return false;
    for (unsigned i = 0; i < n_ranges; i++)
        if (range[i].first > range[i].last || !range[i].access || range[i].access > (WATCH_READ | WATCH_WRITE | WATCH_EXECUTE))
            return false;
    return true;
}

static struct subscription *subscription_make(const struct look_filter *f, const struct look_range *range, unsigned n)
{
    struct subscription *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->filter = *f;
    s->is_plain = !f->is_asking && !f->is_wanted && !f->count && f->every <= 1;
    for (unsigned k = 0; k < 3; k++) {
        struct watch_ranges *to = &s->ranges.of[k];
        to->range = n ? malloc(n * sizeof *to->range) : NULL;
        if (n && !to->range) {
            subscription_free(s);
            return NULL;
        }
        for (unsigned i = 0; i < n; i++)
            if (range[i].access >> k & 1)
                to->range[to->n++] = (struct watch_range){ range[i].first, range[i].last };
        watch_ranges_normalise(to);
    }
    return s;
}

/* watch.change is held. */
static struct subscription *subscription_take(struct vm *vm, struct look_listener *l, unsigned number)
{
    pthread_mutex_lock(&vm->watch.lock);
    struct subscription **at = &l->first, *s;
    while ((s = *at) && s->number != number)
        at = &s->next;
    if (s) {
        __atomic_store_n(at, s->next, __ATOMIC_RELEASE);
        l->n_subscriptions--;
        l->n_plain -= s->is_plain;
        look_make_room(l); /* what a vCPU waits with may concern nobody any more */
    }
    pthread_mutex_unlock(&vm->watch.lock);
    wait_told(vm);
    return s;
}

/* Takes over s. */
static int subscription_add(struct vm *vm, struct look_listener *l, struct subscription *s)
{
    unsigned number = s->number;
    bool has_ranges = s->filter.kinds & WATCH_ACCESS;
    pthread_mutex_lock(&vm->watch.change);
    pthread_mutex_lock(&vm->watch.lock);
    s->next = l->first;
    __atomic_store_n(&l->first, s, __ATOMIC_RELEASE);
    l->n_subscriptions++;
    l->n_plain += s->is_plain;
    pthread_mutex_unlock(&vm->watch.lock);
    int r = refresh(vm, has_ranges);
    if (r) {
        subscription_free(subscription_take(vm, l, number));
        refresh(vm, false);
    }
    pthread_mutex_unlock(&vm->watch.change);
    return r ? r : (int)number;
}

int look_subscribe(struct look_listener *l, const struct look_filter *f, const struct look_range *range, unsigned n_ranges)
{
    if (!is_sensible(f, range, n_ranges))
        return -EINVAL;
    if (l->n_subscriptions == LOOK_SUBSCRIPTIONS_MAX)
        return -ENOSPC;
    struct vm *vm = look_vm_of(l);
    if (!vm)
        return -ESRCH;
    struct subscription *s = subscription_make(f, range, n_ranges);
    int r = -ENOMEM;
    if (s) {
        s->number = ++l->last_number;
        r = subscription_add(vm, l, s);
    }
    vm_put(vm);
    return r;
}

int look_unsubscribe(struct look_listener *l, unsigned number)
{
    struct vm *vm = look_vm_of(l);
    if (!vm)
        return -ESRCH;
    pthread_mutex_lock(&vm->watch.change);
    struct subscription *s = subscription_take(vm, l, number);
    if (s) {
        refresh(vm, s->filter.kinds & WATCH_ACCESS);
        subscription_free(s);
    }
    pthread_mutex_unlock(&vm->watch.change);
    vm_put(vm);
    return s ? 0 : -ENOENT;
}

/* ---- listeners ---- */

static int open_sockets(struct look_listener *l)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
        return -errno;
    l->fd = fd_move_up(pair[0]);
    l->waker = fd_move_up(pair[1]);
    return 0;
}

static int open_memory(struct look_listener *l)
{
    int low = memfd_create_sealed("vitrine-events", RING_FILE_BYTES);
    if (low < 0)
        return low;
    int file = fd_move_up(low), r = ring_reader_open(&l->reader, file);
    if (r) {
        close(file);
        return r;
    }
    l->head = l->reader.head;
    l->head->is_barrier_free = barrier_is_free;
    l->head->tsc_khz = (uint32_t)host_facts()->tsc_khz;
    atomic_store(&l->head->is_asleep, 1); /* the first event makes the socket readable */
    return 0;
}

static int listener_make(struct vm *vm, struct look_listener **out)
{
    struct look_listener *l = calloc(1, sizeof *l);
    int r = l ? open_sockets(l) : -ENOMEM;
    if (!r && (r = open_memory(l))) {
        close(l->fd);
        close(l->waker);
    }
    if (r) {
        free(l);
        return r;
    }
    l->vm = vm;
    l->vm_number = vm->number;
    *out = l;
    return 0;
}

static void listener_free(struct look_listener *l)
{
    for (struct look_ring *r = l->rings, *next; r; r = next) {
        next = r->next;
        munmap(r->shared, sizeof *r->shared);
        free(r);
    }
    ring_reader_close(&l->reader);
    close(l->fd);
    close(l->waker);
    free(l);
}

int look_listener_create(struct vm *vm, struct look_listener **out)
{
    struct look_listener *l;
    barrier_init();
    int r = listener_make(vm, &l);
    if (r)
        return r;
    pthread_mutex_lock(&vm->watch.lock);
    uint64_t free_bits = ~vm->watch.listener_bits;
    l->bit = free_bits & -free_bits;
    if (l->bit) {
        vm->watch.listener_bits |= l->bit;
        vm->watch.ops = &look_watch_ops;
        l->next = vm->watch.listeners;
        __atomic_store_n(&vm->watch.listeners, l, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&vm->watch.lock);
    if (!l->bit) {
        listener_free(l);
        return -EBUSY;
    }
    *out = l;
    return 0;
}

/* watch.lock is held, or look_end_lock of a VM that is going. */
static void unlink_listener(struct vm *vm, struct look_listener *l)
{
    struct look_listener *before = vm->watch.listeners;
    if (before == l) {
        __atomic_store_n(&vm->watch.listeners, l->next, __ATOMIC_RELEASE);
    } else {
        while (before->next != l)
            before = before->next;
        __atomic_store_n(&before->next, l->next, __ATOMIC_RELEASE);
    }
    vm->watch.listener_bits &= ~l->bit;
}

static void answer_all(struct vm *vm, uint64_t bit)
{
    static const struct watch_reply go_on;
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct vcpu *v = vm_vcpu(vm, i);
        if (v)
            watch_answer(v, bit, &go_on);
    }
}

/* True if some had ranges. */
static bool free_subscriptions(struct look_listener *l)
{
    bool has_ranges = false;
    for (struct subscription *s = l->first, *next; s; s = next) {
        next = s->next;
        has_ranges |= (s->filter.kinds & WATCH_ACCESS) != 0;
        subscription_free(s);
    }
    return has_ranges;
}

static void leave(struct vm *vm, struct look_listener *l)
{
    pthread_mutex_lock(&vm->watch.change);
    pthread_mutex_lock(&vm->watch.lock);
    unlink_listener(vm, l);
    answer_all(vm, l->bit);
    look_make_room(l);
    pthread_mutex_unlock(&vm->watch.lock);
    wait_told(vm);
    refresh(vm, free_subscriptions(l));
    look_views_release(vm, &l->views);
    pthread_mutex_unlock(&vm->watch.change);
}

void look_listener_destroy(struct look_listener *l)
{
    struct vm *vm = look_vm_of(l);
    if (vm) {
        leave(vm, l);
        vm_put(vm);
    } else {
        pthread_mutex_lock(&look_end_lock);
        if (l->vm)
            unlink_listener(l->vm, l);
        pthread_mutex_unlock(&look_end_lock);
        free_subscriptions(l);
        look_views_release(NULL, &l->views);
    }
    listener_free(l);
}

bool look_listener_has_vm(const struct look_listener *l)
{
    pthread_mutex_lock(&look_end_lock);
    bool has_vm = l->vm;
    pthread_mutex_unlock(&look_end_lock);
    return has_vm;
}

int look_listener_share(struct look_listener *l, int fd[2])
{
    fd[0] = fd_copy_up(l->reader.file);
    fd[1] = fd[0] < 0 ? -1 : fd_copy_up(l->fd);
    l->answers_by_ring = fd[1] >= 0 && look_has_cpus();
    if (fd[1] >= 0)
        return 0;
    if (fd[0] >= 0)
        close(fd[0]);
    return -EMFILE;
}

int look_listener_fd(const struct look_listener *l)
{
    return l->fd;
}
