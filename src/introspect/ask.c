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
    r->next = l->rings;
    l->rings = l->ring[v->id] = r;
    l->head->cpu[l->n_rings] = (uint16_t)v->id;
    atomic_store_explicit(&l->head->n_cpus, ++l->n_rings, memory_order_release);
    return r;
}

/* Whether a subscription of the listener wants it, or its views deny it; *is_asking if one of those asks. */
static bool listener_wants(struct look_listener *l, const struct vcpu *v, const struct watch_event *e, bool *is_asking)
{
    bool is_wanted = e->kind == WATCH_ACCESS && look_views_deny(&l->views, v, e);
    *is_asking = is_wanted;
    for (struct subscription *s = l->first; s; s = s->next) {
        const struct look_filter *f = &s->filter;
        if (!look_matches(s, v, e) || (f->is_wanted && !f->is_wanted(f->context, v, e)))
            continue;
        is_wanted = true;
        *is_asking |= f->is_asking;
        s->is_over = f->count && ++s->n_told >= f->count;
    }
    return is_wanted;
}

static void put_question(struct look_ring *r, const struct vcpu *v, const struct watch_event *e, uint64_t number)
{
    look_fill(&r->shared->question, v, e);
    r->shared->question.sequence = 0;
    atomic_store(&r->shared->turn, number * RING_STATES + RING_ASKED);
}

bool look_raise(struct vcpu *v, const struct watch_event *e)
{
    struct watch_vcpu *w = &v->watch;
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
        if (is_asking) {
            waits_for |= l->bit;
            put_question(r, v, &seen, number);
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
        w->waits_for = waits_for;
    }
    return waits_for;
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

unsigned look_listener_next(struct look_listener *l, struct watch_record *out, unsigned max, uint64_t *dropped)
{
    struct vm *vm = look_vm_of(l);
    char bytes[16];
    if (vm && recv(l->fd, bytes, sizeof bytes, MSG_DONTWAIT) < 0) {
        /* nothing since the last time; what is left is taken all the same */
    }
    int n = ring_take(&l->reader, out, max);
    *dropped = ring_lost(&l->reader);
    fall_asleep(l);
    if (vm)
        vm_put(vm);
    return n < 0 ? 0 : (unsigned)n;
}

static int answer(struct vm *vm, const struct look_listener *l, struct vcpu *v, uint64_t question, enum watch_answer answer, uint64_t value)
{
    int r = 0;
    pthread_mutex_lock(&vm->watch.lock);
    if (!(v->watch.waits_for & l->bit) || v->watch.asked.number != question)
        r = -ESTALE;
    else if (answer == WATCH_CHANGE && !(v->watch.asked.event.kind & (WATCH_CR | WATCH_MSR_WRITE | WATCH_XSETBV)))
        r = -EINVAL;
    else {
        atomic_store(&l->ring[v->id]->shared->turn, 0);
        watch_answer(v, l->bit, answer, value);
    }
    pthread_mutex_unlock(&vm->watch.lock);
    return r;
}

int look_answer(struct look_listener *l, uint32_t vcpu, uint64_t question, enum watch_answer how, uint64_t value)
{
    struct vm *vm = look_vm_of(l);
    if (!vm)
        return -ESRCH;
    struct vcpu *v = vcpu < VM_VCPU_IDS ? __atomic_load_n(&vm->vcpu[vcpu], __ATOMIC_ACQUIRE) : NULL;
    int r = !v ? -ENOENT : how >= WATCH_ANSWERS ? -EINVAL : answer(vm, l, v, question, how, value);
    vm_put(vm);
    return r;
}
