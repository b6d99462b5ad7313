/* SPDX-License-Identifier: MIT */
/*
 * Events that raise.c leaves: those that somebody has to answer, whose subscriptions count or end in a function, or for which there is no ring yet; and what a
 * listener of this process is told and answers. vm.watch.lock is held where vCPUs are asked and answered for.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/barrier.h"
#include "base/memfd.h"
#include "core/hold.h"
#include "core/timer.h"
#include "core/vcpu.h"
#include "core/vm.h"
#include "introspect/listen_priv.h"

/* ---- on the vCPU's thread ---- */

/* The listener's ring for this vCPU, made now if need be; NULL: there is no memory. */
static struct look_ring *ring_of(struct look_listener *l, const struct vcpu *v)
{
    hva_t at;
    if (l->ring[v->id] || l->n_rings == RING_CPUS_MAX)
        return l->ring[v->id];
    struct look_ring *r = calloc(1, sizeof *r);
    if (!r || memfd_map(l->reader.file, ring_offset(l->n_rings), sizeof(struct ring_cpu), &at)) {
        free(r);
        return NULL;
    }
    r->shared = (struct ring_cpu *)(void *)at;
    r->v = (struct vcpu *)(uintptr_t)v;
    r->next = l->rings;
    l->rings = l->ring[v->id] = r;
    l->head->cpu[l->n_rings] = (uint16_t)v->id;
    atomic_store_explicit(&l->head->n_cpus, ++l->n_rings, memory_order_release);
    return r;
}

/* One event of those that the filter lets through: not all are told. */
static bool is_turn(struct subscription *s)
{
    if (s->filter.every > 1 && s->n_seen++ % s->filter.every)
        return false;
    s->is_over = s->filter.count && ++s->n_told >= s->filter.count;
    return true;
}

/* Whether a subscription of the listener wants it, or its views deny it; *is_asking if one of those asks. */
static bool listener_wants(struct look_listener *l, const struct vcpu *v, const struct watch_event *e, bool *is_asking)
{
    bool is_wanted = e->kind == WATCH_ACCESS && look_views_deny(&l->views, v, e);
    *is_asking = is_wanted;
    for (struct subscription *s = l->first; s; s = s->next) {
        const struct look_filter *f = &s->filter;
        if (!look_matches(s, v, e) || (f->is_wanted && !f->is_wanted(f->context, v, e)) || !is_turn(s))
            continue;
        is_wanted = true;
        *is_asking |= f->is_asking;
    }
    return is_wanted;
}

static void put_question(struct look_ring *r, struct vcpu *v, const struct watch_event *e, uint64_t number, bool is_looked_for)
{
    look_fill(&r->shared->question, v, e);
    r->shared->question.sequence = 0;
    v->watch.is_awake |= is_looked_for;
    atomic_store(&r->shared->turn, number * RING_STATES + (is_looked_for ? RING_ASKED : RING_ASLEEP));
}

static bool must_not_lose(const struct look_listener *l, const struct vcpu *v, const struct watch_event *e)
{
    for (const struct subscription *s = l->first; s; s = s->next)
        if (s->filter.is_lossless && look_matches(s, v, e))
            return true;
    return false;
}

/* True: the vCPU has to wait for somebody's room, and nobody was told anything. */
static bool wait_for_room(struct vcpu *v, const struct watch_event *e)
{
    uint64_t full = 0;
    for (struct look_listener *l = v->vm->watch.listeners; l; l = l->next) {
        struct look_ring *r = l->ring[v->id];
        struct watch_event seen = look_seen_by(l, v, e);
        if (!r || look_has_room(r) || !must_not_lose(l, v, &seen))
            continue;
        atomic_store(&r->shared->is_waiting, 1);
        atomic_thread_fence(memory_order_seq_cst); /* against ring_has_waiting */
        if (look_has_room(r))
            atomic_store(&r->shared->is_waiting, 0);
        else
            full |= l->bit;
    }
    v->watch.waits_for_room = full;
    return full;
}

void look_make_room(struct look_listener *l)
{
    for (struct look_ring *r = l->rings; r; r = r->next) {
        atomic_store(&r->shared->is_waiting, 0);
        watch_room(r->v, l->bit);
    }
}

enum watch_raised look_raise(struct vcpu *v, const struct watch_event *e, bool may_ask)
{
    struct watch_vcpu *w = &v->watch;
    if (may_ask && wait_for_room(v, e))
        return WATCH_RAISED_FULL;
    uint64_t waits_for = 0, number = v->vm->watch.last_question + 1;
    for (struct look_listener *l = v->vm->watch.listeners; l; l = l->next) {
        bool is_asking;
        const struct watch_event seen = look_seen_by(l, v, e);
        if (!listener_wants(l, v, &seen, &is_asking))
            continue;
        struct look_ring *r = ring_of(l, v);
        if (!r) {
            atomic_fetch_add(&l->head->lost, 1);
            continue;
        }
        if (is_asking && may_ask) {
            waits_for |= l->bit;
            put_question(r, v, &seen, number, l->answers_by_ring && !w->is_slow);
        } else {
            look_put(r, v, &seen);
        }
        atomic_thread_fence(memory_order_seq_cst); /* against ring_fall_asleep */
        look_wake_if_asleep(l);
    }
    if (waits_for) {
        v->vm->watch.last_question = w->asked.number = number;
        w->asked.event = *e;
        w->asked.rip = v->cpu.rip;
        w->asked.time_ns = timer_now_ns();
        w->waits_for = waits_for;
    }
    return waits_for ? WATCH_RAISED_ASKED : WATCH_RAISED_TOLD;
}

/* ---- on the listener's thread ---- */

static bool barrier_here(void)
{
    barrier_heavy();
    return true;
}

/* From the return on its fd becomes readable when there is something; it is so already if there may be. */
static void fall_asleep(struct look_listener *l)
{
    if (!ring_fall_asleep(&l->reader, l->n_plain ? barrier_here : NULL))
        look_wake(l);
}

static void give_room(struct vm *vm, struct look_listener *l)
{
    pthread_mutex_lock(&vm->watch.lock);
    look_make_room(l);
    pthread_mutex_unlock(&vm->watch.lock);
}

int look_room(struct look_listener *l)
{
    struct vm *vm = look_vm_of(l);
    if (!vm)
        return -ESRCH;
    give_room(vm, l);
    vm_put(vm);
    return 0;
}

unsigned look_listener_next(struct look_listener *l, struct watch_record *out, unsigned max, uint64_t *dropped)
{
    struct vm *vm = look_vm_of(l);
    char bytes[16];
    if (vm && recv(l->fd, bytes, sizeof bytes, MSG_DONTWAIT) < 0) {
        /* nothing since the last time; what is left is taken all the same */
    }
    int n = ring_take(&l->reader, out, max);
    *dropped = ring_lost(&l->reader);
    if (vm && ring_has_waiting(&l->reader))
        give_room(vm, l);
    fall_asleep(l);
    if (vm)
        vm_put(vm);
    return n < 0 ? 0 : (unsigned)n;
}

static int check_question(const struct look_listener *l, const struct vcpu *v, uint64_t question, const struct watch_reply *reply)
{
    if (!(v->watch.waits_for & l->bit) || v->watch.asked.number != question)
        return -ESTALE;
    return watch_can_answer(&v->watch.asked.event, reply) ? 0 : -EINVAL;
}

struct injecting {
    const struct injection *what;
    bool may_replace;
    int result;
};

static void inject(struct vcpu *v, void *arg)
{
    struct injecting *i = arg;
    i->result = inject_into(v, i->what, i->may_replace);
}

/* What was on its way, and is asked about, gives place to what is injected. */
static bool is_replaced(const struct watch_event *e, const struct injection *by)
{
    if (by->is_interrupt)
        return e->kind == WATCH_INTERRUPT && e->index != VEC_NMI;
    return (e->kind & (WATCH_EXCEPTION | WATCH_INJECTED)) || (e->kind == WATCH_DEBUG && e->index == WATCH_DEBUG_EXCEPTION);
}

/* The vCPU stands still as long as the question is open: so what is injected is there before it goes on. */
static int answer(struct vm *vm, const struct look_listener *l, struct vcpu *v, uint64_t question, const struct watch_reply *reply)
{
    struct injecting i = { .what = &reply->injection };
    pthread_mutex_lock(&vm->watch.lock);
    int r = check_question(l, v, question, reply);
    if (!r && reply->answer == WATCH_INJECT) {
        i.may_replace = is_replaced(&v->watch.asked.event, &reply->injection);
        pthread_mutex_unlock(&vm->watch.lock);
        hold_call(v, inject, &i);
        if (i.result)
            return i.result;
        pthread_mutex_lock(&vm->watch.lock);
        r = check_question(l, v, question, reply);
    }
    if (!r) {
        atomic_store(&l->ring[v->id]->shared->turn, 0);
        watch_answer(v, l->bit, reply);
    }
    pthread_mutex_unlock(&vm->watch.lock);
    return r;
}

int look_reply(struct look_listener *l, uint32_t vcpu, uint64_t question, const struct watch_reply *reply)
{
    struct vm *vm = look_vm_of(l);
    if (!vm)
        return -ESRCH;
    struct vcpu *v = vcpu < VM_VCPU_IDS ? vm_vcpu(vm, vcpu) : NULL;
    int r = v ? answer(vm, l, v, question, reply) : -ENOENT;
    vm_put(vm);
    return r;
}

int look_answer(struct look_listener *l, uint32_t vcpu, uint64_t question, enum watch_answer answer, uint64_t value)
{
    const struct watch_reply reply = { .answer = answer, .value = value };
    return look_reply(l, vcpu, question, &reply);
}
