/* SPDX-License-Identifier: MIT */
/*
 * An event on its way to who wants only to be told: no lock, no call, and general registers only, as the guest's vector registers may be in the hardware.
 * Called by the engine through core/watch.h on the vCPU's thread. What this cannot do is left, before anything is done, to the slow way in ask.c.
 */
#include <sys/socket.h>
#include <sys/syscall.h>
#include <x86intrin.h>

#include "base/barrier.h"
#include "core/vcpu.h"
#include "core/vm.h"
#include "introspect/listen_priv.h"

#define ROOM_LOOKS 200u /* some microseconds */
#define RECORDS_AHEAD 6u
#define CR3_ADDRESS 0x000ffffffffff000ull

static bool is_in_ranges(const struct watch_table *t, const struct watch_event *e)
{
    if (!e->bytes) /* no instruction begins there */
        return false;
    for (unsigned i = 0; i < 3; i++)
        if ((e->access >> i & 1) && watch_ranges_meet(&t->of[i], e->gpa, e->gpa + e->bytes - 1))
            return true;
    return false;
}

struct watch_event look_seen_by(const struct look_listener *l, const struct vcpu *v, const struct watch_event *e)
{
    struct watch_event seen = *e;
    if (e->kind == WATCH_ACCESS)
        seen.index = look_views_number(v->vm, &l->views, e->index);
    return seen;
}

bool look_matches(const struct subscription *s, const struct vcpu *v, const struct watch_event *e)
{
    const struct look_filter *f = &s->filter;
    if (!(f->kinds & e->kind) || s->is_over || e->index < f->first_index || e->index > f->last_index)
        return false;
    if ((f->has_vcpu && v->id != f->vcpu) || (f->has_cr3 && ((v->cpu.cr3 ^ f->cr3) & CR3_ADDRESS)))
        return false;
    if (f->has_rips && (v->cpu.rip < f->first_rip || v->cpu.rip > f->last_rip))
        return false;
    if ((f->cpls && !(f->cpls >> vcpu_cpl(v) & 1)) || (e->value & f->value_mask) != f->value)
        return false;
    return e->kind != WATCH_ACCESS || is_in_ranges(&s->ranges, e);
}

void look_fill(struct ring_record *r, const struct vcpu *v, const struct watch_event *e)
{
    r->event = *e;
    r->rip = v->cpu.rip;
    r->cr3 = v->cpu.cr3;
    r->rflags = v->cpu.rflags;
    r->tsc = __rdtsc();
    r->cpl = vcpu_cpl(v);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        r->gpr[i] = v->cpu.gpr[i];
}

/* What the tool says it has taken may be anything: then nothing more fits in. */
bool look_has_room(struct look_ring *r)
{
    if (r->head - r->tail < RING_SLOTS)
        return true;
    r->tail = atomic_load_explicit(&r->shared->tail, memory_order_acquire);
    return r->head - r->tail < RING_SLOTS;
}

/* The tool has read what was there, so that writing begins with a message to its CPU: sent early, one is under way for each of the next records. */
static void prepare(const struct look_ring *r)
{
    const char *soon = (const char *)&r->shared->record[(r->head + RECORDS_AHEAD) % RING_SLOTS];
    for (unsigned i = 0; i < sizeof(struct ring_record); i += 64)
        __asm__ volatile("prefetchw %0" : : "m"(soon[i]));
}

bool look_put(struct look_ring *r, const struct vcpu *v, const struct watch_event *e)
{
    uint64_t sequence = r->head + r->n_lost + 1;
    if (!look_has_room(r)) {
        atomic_store_explicit(&r->shared->lost, ++r->n_lost, memory_order_relaxed);
        return false;
    }
    struct ring_record *to = &r->shared->record[r->head % RING_SLOTS];
    prepare(r);
    look_fill(to, v, e);
    to->sequence = sequence;
    atomic_store_explicit(&r->shared->head, ++r->head, memory_order_release);
    return true;
}

/* sendto(2): it never waits, whatever the tool made of the socket. If it is full, the tool has been woken. */
void look_wake(const struct look_listener *l)
{
    static const char byte;
    register long flags __asm__("r10") = MSG_DONTWAIT | MSG_NOSIGNAL, to __asm__("r8") = 0, to_bytes __asm__("r9") = 0;
    long result = SYS_sendto;
    __asm__ volatile("syscall" : "+a"(result) : "D"((long)l->waker), "S"(&byte), "d"(1l), "r"(flags), "r"(to), "r"(to_bytes) : "rcx", "r11", "memory");
}

void look_wake_if_asleep(const struct look_listener *l)
{
    if (atomic_load_explicit(&l->head->is_asleep, memory_order_relaxed) && atomic_exchange(&l->head->is_asleep, 0))
        look_wake(l);
}

/* A view's permissions are somebody's, who has to answer. */
static bool is_denied(const struct vcpu *v, const struct watch_event *e)
{
    return e->kind == WATCH_ACCESS && view_denies(view_find(v, e->gpa), e->access, e->gpa, e->bytes);
}

/* The tool may be at work. */
static bool has_room_soon(struct look_ring *r, const struct vcpu *v)
{
    for (unsigned i = 0; i < ROOM_LOOKS && !atomic_load_explicit(&v->exit_req, memory_order_relaxed); i++) {
        if (look_has_room(r))
            return true;
        _mm_pause();
    }
    return false;
}

/* Its ring, if the listener wants the event. False: that has to be looked at more closely. */
static bool find_ring(const struct look_listener *l, const struct vcpu *v, const struct watch_event *e, struct look_ring **out)
{
    bool is_lossless = false;
    *out = NULL;
    for (const struct subscription *s = __atomic_load_n(&l->first, __ATOMIC_ACQUIRE); s; s = __atomic_load_n(&s->next, __ATOMIC_ACQUIRE)) {
        if (!look_matches(s, v, e))
            continue;
        *out = l->ring[v->id];
        if (!s->is_plain || !*out)
            return false;
        is_lossless |= s->filter.is_lossless;
    }
    return !is_lossless || look_has_room(*out) || has_room_soon(*out, v);
}

static bool tell(struct vcpu *v, const struct watch_event *e)
{
    struct look_ring *ring[LOOK_LISTENERS_MAX];
    const struct look_listener *of[LOOK_LISTENERS_MAX];
    unsigned n = 0;
    if (is_denied(v, e))
        return false;
    for (const struct look_listener *l = __atomic_load_n(&v->vm->watch.listeners, __ATOMIC_ACQUIRE); l; l = __atomic_load_n(&l->next, __ATOMIC_ACQUIRE)) {
        struct look_ring *r;
        struct watch_event seen = look_seen_by(l, v, e);
        if (!find_ring(l, v, &seen, &r))
            return false;
        if (r) {
            ring[n] = r;
            of[n++] = l;
        }
    }
    for (unsigned i = 0; i < n; i++) {
        struct watch_event seen = look_seen_by(of[i], v, e);
        look_put(ring[i], v, &seen);
    }
    barrier_light(); /* against ring_fall_asleep */
    for (unsigned i = 0; i < n; i++)
        look_wake_if_asleep(of[i]);
    return true;
}

bool look_tell(struct vcpu *v, const struct watch_event *e)
{
    atomic_store_explicit(&v->watch.is_telling, true, memory_order_relaxed);
    barrier_light(); /* against wait_told of listen.c */
    bool is_done = tell(v, e);
    atomic_store_explicit(&v->watch.is_telling, false, memory_order_release);
    return is_done;
}
