/* SPDX-License-Identifier: MIT */
/*
 * See listen.h. vm.watch.lock guards listeners, subscriptions and queues; vCPUs take it when something happens that somebody watches. Whoever changes who
 * watches what holds vm.watch.change around that, as the engine's flush is waited for without vm.watch.lock. A call gets a reference to the VM for as long as
 * it lasts; without one the VM is going, no vCPU raises anything any more, and end_lock takes the place of both.
 */
#include "introspect/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/timer.h"
#include "core/vcpu.h"
#include "core/vm.h"

#define FD_LEAST 512 /* out of the way of programs that expect their own numbers */
#define CR3_ADDRESS 0x000ffffffffff000ull

struct subscription {
    struct subscription *next;
    unsigned number;
    bool is_over; /* its count is used up */
    uint64_t n_told;
    struct look_filter filter;
    struct watch_table ranges; /* by the byte */
};

struct look_listener {
    struct look_listener *next;
    struct vm *vm; /* NULL when it has gone; end_lock */
    uint32_t vm_number;
    struct subscription *first;
    unsigned n_subscriptions, last_number;
    uint64_t bit; /* among the VM's listeners */
    int fd;
    uint64_t dropped;
    unsigned head, n; /* of the queue */
    struct watch_record queue[LOOK_QUEUE_RECORDS];
};

/* Before the locks of a VM that is going. */
static pthread_mutex_t end_lock = PTHREAD_MUTEX_INITIALIZER;

/* With a reference, or NULL: it has gone, or is about to. */
static struct vm *vm_of(const struct look_listener *l)
{
    return vm_find_exactly(l->vm_number);
}

/* ---- on the vCPU's thread ---- */

static bool is_in_ranges(const struct watch_table *t, const struct watch_event *e)
{
    for (unsigned i = 0; i < 3; i++)
        if ((e->access >> i & 1) && watch_ranges_meet(&t->of[i], e->gpa, e->gpa + e->bytes - 1))
            return true;
    return false;
}

static bool wants(const struct subscription *s, const struct vcpu *v, const struct watch_event *e)
{
    const struct look_filter *f = &s->filter;
    if (!(f->kinds & e->kind) || s->is_over || e->index < f->first_index || e->index > f->last_index)
        return false;
    if ((f->has_vcpu && v->id != f->vcpu) || (f->has_cr3 && ((v->cpu.cr3 ^ f->cr3) & CR3_ADDRESS)))
        return false;
    if ((f->cpls && !(f->cpls >> vcpu_cpl(v) & 1)) || (e->value & f->value_mask) != f->value)
        return false;
    if (e->kind == WATCH_ACCESS && !is_in_ranges(&s->ranges, e))
        return false;
    return !f->is_wanted || f->is_wanted(f->context, v, e);
}

static void wake(const struct look_listener *l)
{
    uint64_t one = 1;
    if (write(l->fd, &one, sizeof one) != sizeof one) {
        /* full: it is readable already */
    }
}

static void queue_put(struct look_listener *l, const struct watch_record *r)
{
    if (l->n == LOOK_QUEUE_RECORDS) {
        l->dropped++;
        return;
    }
    if (!l->n)
        wake(l);
    l->queue[(l->head + l->n++) % LOOK_QUEUE_RECORDS] = *r;
}

/* Whether a subscription of the listener wants it; *is_asking if one of those asks. */
static bool listener_wants(struct look_listener *l, const struct vcpu *v, const struct watch_event *e, bool *is_asking)
{
    bool is_wanted = false;
    *is_asking = false;
    for (struct subscription *s = l->first; s; s = s->next) {
        if (!wants(s, v, e))
            continue;
        is_wanted = true;
        *is_asking |= s->filter.is_asking;
        s->is_over = s->filter.count && ++s->n_told >= s->filter.count;
    }
    return is_wanted;
}

static void record_fill(struct watch_record *r, const struct vcpu *v, const struct watch_event *e)
{
    *r = (struct watch_record){
        .event = *e,
        .vcpu = v->id,
        .cpl = vcpu_cpl(v),
        .rip = v->cpu.rip,
        .rflags = v->cpu.rflags,
        .cr3 = v->cpu.cr3,
        .time_ns = timer_now_ns(),
    };
    memcpy(r->gpr, v->cpu.gpr, sizeof r->gpr);
}

static bool look_raise(struct vcpu *v, const struct watch_event *e)
{
    struct watch_record r;
    bool is_filled = false, is_asking;
    uint64_t waits_for = 0;
    for (struct look_listener *l = v->vm->watch.listeners; l; l = l->next) {
        if (!listener_wants(l, v, e, &is_asking))
            continue;
        if (!is_filled)
            record_fill(&r, v, e);
        is_filled = true;
        if (is_asking) {
            waits_for |= l->bit;
            wake(l);
        } else {
            queue_put(l, &r);
        }
    }
    if (waits_for) {
        r.question = ++v->vm->watch.last_question;
        v->watch.asked = r;
        v->watch.waits_for = waits_for;
    }
    return waits_for;
}

static void look_end(struct vm *vm)
{
    pthread_mutex_lock(&end_lock);
    for (struct look_listener *l = vm->watch.listeners; l; l = l->next) {
        l->vm = NULL;
        wake(l);
    }
    pthread_mutex_unlock(&end_lock);
}

static const struct watch_ops look_watch_ops = { .raise = look_raise, .end = look_end };

/* ---- who watches what ---- */

static uint32_t kinds_wanted(struct vm *vm)
{
    uint32_t kinds = 0;
    for (struct look_listener *l = vm->watch.listeners; l; l = l->next)
        for (struct subscription *s = l->first; s; s = s->next)
            kinds |= s->filter.kinds;
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
        struct vcpu *v = __atomic_load_n(&vm->vcpu[i], __ATOMIC_ACQUIRE);
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

/* ---- subscriptions ---- */

static void subscription_free(struct subscription *s)
{
    for (unsigned i = 0; i < 3; i++)
        free(s->ranges.of[i].range);
    free(s);
}

static bool is_sensible(const struct look_filter *f, const struct look_range *range, unsigned n_ranges)
{
    if (!f->kinds || f->kinds >> WATCH_KINDS || f->cpls >> 4 || f->first_index > f->last_index || (f->value & ~f->value_mask) ||
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
        *at = s->next;
        l->n_subscriptions--;
    }
    pthread_mutex_unlock(&vm->watch.lock);
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
    l->first = s;
    l->n_subscriptions++;
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
    struct vm *vm = vm_of(l);
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
    struct vm *vm = vm_of(l);
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

static int open_eventfd(void)
{
    int low = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), high = low < 0 ? -1 : fcntl(low, F_DUPFD_CLOEXEC, FD_LEAST);
    if (high < 0)
        return low; /* the limit is lower */
    close(low);
    return high;
}

int look_listener_create(struct vm *vm, struct look_listener **out)
{
    struct look_listener *l = calloc(1, sizeof *l);
    if (!l)
        return -ENOMEM;
    l->fd = open_eventfd();
    if (l->fd < 0) {
        free(l);
        return -EMFILE;
    }
    l->vm = vm;
    l->vm_number = vm->number;
    pthread_mutex_lock(&vm->watch.lock);
    uint64_t free_bits = ~vm->watch.listener_bits;
    l->bit = free_bits & -free_bits;
    if (l->bit) {
        vm->watch.listener_bits |= l->bit;
        vm->watch.ops = &look_watch_ops;
        l->next = vm->watch.listeners;
        vm->watch.listeners = l;
    }
    pthread_mutex_unlock(&vm->watch.lock);
    if (!l->bit) {
        close(l->fd);
        free(l);
        return -EBUSY;
    }
    *out = l;
    return 0;
}

/* watch.lock is held, or end_lock of a VM that is going. */
static void unlink_listener(struct vm *vm, struct look_listener *l)
{
    struct look_listener *first = vm->watch.listeners, **at = &first;
    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    vm->watch.listeners = first;
    vm->watch.listener_bits &= ~l->bit;
}

static void answer_all(struct vm *vm, uint64_t bit)
{
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct vcpu *v = __atomic_load_n(&vm->vcpu[i], __ATOMIC_ACQUIRE);
        if (v)
            watch_answer(v, bit, WATCH_CONTINUE, 0);
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
    pthread_mutex_unlock(&vm->watch.lock);
    refresh(vm, free_subscriptions(l));
    pthread_mutex_unlock(&vm->watch.change);
}

void look_listener_destroy(struct look_listener *l)
{
    struct vm *vm = vm_of(l);
    if (vm) {
        leave(vm, l);
        vm_put(vm);
    } else {
        pthread_mutex_lock(&end_lock);
        if (l->vm)
            unlink_listener(l->vm, l);
        pthread_mutex_unlock(&end_lock);
        free_subscriptions(l);
    }
    close(l->fd);
    free(l);
}

bool look_listener_has_vm(const struct look_listener *l)
{
    pthread_mutex_lock(&end_lock);
    bool has_vm = l->vm;
    pthread_mutex_unlock(&end_lock);
    return has_vm;
}

int look_listener_fd(const struct look_listener *l)
{
    return l->fd;
}

/* ---- events and answers ---- */

/* watch.lock is held. */
static unsigned take_questions(struct vm *vm, const struct look_listener *l, struct watch_record *out, unsigned max)
{
    unsigned n = 0;
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus) && n < max; i++) {
        struct vcpu *v = __atomic_load_n(&vm->vcpu[i], __ATOMIC_ACQUIRE);
        if (!v || !(v->watch.waits_for & ~v->watch.told & l->bit))
            continue;
        v->watch.told |= l->bit;
        out[n++] = v->watch.asked;
    }
    return n;
}

static unsigned take_queued(struct look_listener *l, struct watch_record *out, unsigned max)
{
    unsigned n = 0;
    for (; l->n && n < max; l->n--) {
        out[n++] = l->queue[l->head];
        l->head = (l->head + 1) % LOOK_QUEUE_RECORDS;
    }
    return n;
}

unsigned look_listener_next(struct look_listener *l, struct watch_record *out, unsigned max, uint64_t *dropped)
{
    struct vm *vm = vm_of(l);
    unsigned n = 0;
    uint64_t count;
    if (vm && read(l->fd, &count, sizeof count) < 0) {
        /* nothing since the last time; what is left is taken all the same */
    }
    pthread_mutex_lock(vm ? &vm->watch.lock : &end_lock);
    if (vm)
        n = take_questions(vm, l, out, max);
    n += take_queued(l, out + n, max - n);
    *dropped = l->dropped;
    if (n == max)
        wake(l); /* there may be more */
    pthread_mutex_unlock(vm ? &vm->watch.lock : &end_lock);
    if (vm)
        vm_put(vm);
    return n;
}

static int answer(struct vm *vm, const struct look_listener *l, struct vcpu *v, uint64_t question, enum watch_answer answer, uint64_t value)
{
    int r = 0;
    pthread_mutex_lock(&vm->watch.lock);
    if (!(v->watch.waits_for & l->bit) || v->watch.asked.question != question)
        r = -ESTALE;
    else if (answer == WATCH_CHANGE && !(v->watch.asked.event.kind & (WATCH_CR | WATCH_MSR_WRITE | WATCH_XSETBV)))
        r = -EINVAL;
    else
        watch_answer(v, l->bit, answer, value);
    pthread_mutex_unlock(&vm->watch.lock);
    return r;
}

int look_answer(struct look_listener *l, uint32_t vcpu, uint64_t question, enum watch_answer how, uint64_t value)
{
    struct vm *vm = vm_of(l);
    if (!vm)
        return -ESRCH;
    struct vcpu *v = vcpu < VM_VCPU_IDS ? __atomic_load_n(&vm->vcpu[vcpu], __ATOMIC_ACQUIRE) : NULL;
    int r = !v ? -ENOENT : how >= WATCH_ANSWERS ? -EINVAL : answer(vm, l, v, question, how, value);
    vm_put(vm);
    return r;
}
