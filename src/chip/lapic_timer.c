/* SPDX-License-Identifier: MIT */
/*
 * Timer of a local APIC: one-shot, periodic and TSC-deadline. Everything is computed from CLOCK_MONOTONIC: the bus clock is 1 GHz, one tick a
 * nanosecond, so the current count needs no host timer. Called by lapic_reg.c with lapic.lock held; the expiry runs on the VM's timer thread.
 */
#include <stddef.h>

#include "chip/chip_priv.h"
#include "core/time.h"

/* A guest that asks for a faster periodic timer gets this one: the host must survive it. KVM's default. */
#define PERIOD_MIN_NS 200000ull

static unsigned divide_shift(const struct lapic *l)
{
    uint32_t d = l->reg[LREG_TIMER_DIVIDE];
    return (((d & 3) | (d & 8) >> 1) + 1) & 7;
}

static bool is_periodic(const struct lapic *l)
{
    return (l->reg[LREG_LVT_TIMER] & (LVT_TIMER_PERIODIC | LVT_TIMER_DEADLINE)) == LVT_TIMER_PERIODIC;
}

static uint64_t period_of(const struct lapic *l)
{
    uint64_t ns = (uint64_t)l->reg[LREG_TIMER_INIT] << divide_shift(l);
    return is_periodic(l) && ns < PERIOD_MIN_NS ? PERIOD_MIN_NS : ns;
}

static void timer_arm_at(struct lapic *l, uint64_t ns)
{
    l->expiry_ns = ns;
    l->is_armed = true;
    /* Memory for one more heap entry: without it the guest loses this tick, nothing worse. */
    if (timer_arm(&l->v->vm->timers, &l->timer, ns) < 0)
        l->is_armed = false;
}

static void lapic_timer_expired(struct timer *t)
{
    struct lapic *l = (struct lapic *)((char *)t - offsetof(struct lapic, timer));
    lapic_lock(l);
    uint64_t now = vm_now_ns(l->v->vm);
    /* Stopped or restarted after the queue took this expiry out, or time stands still: then it comes again. */
    if (l->is_armed && now >= l->expiry_ns) {
        l->is_armed = false;
        l->tsc_deadline = 0;
        lapic_lvt_deliver(l, LREG_LVT_TIMER);
        if (is_periodic(l) && l->period_ns) {
            uint64_t missed = (now - l->expiry_ns) / l->period_ns;
            timer_arm_at(l, l->expiry_ns + (missed + 1) * l->period_ns);
        }
    }
    lapic_unlock(l);
}

void lapic_timer_init(struct lapic *l)
{
    l->timer.expired = lapic_timer_expired;
}

void lapic_timer_fini(struct lapic *l)
{
    lapic_lock(l);
    l->is_armed = false;
    lapic_unlock(l);
    timer_cancel_sync(&l->v->vm->timers, &l->timer);
}

void lapic_timer_stop(struct lapic *l)
{
    if (l->is_armed) {
        l->is_armed = false;
        timer_cancel(&l->v->vm->timers, &l->timer);
    }
}

void lapic_timer_start(struct lapic *l, uint32_t count)
{
    lapic_timer_stop(l);
    if (!l->reg[LREG_TIMER_INIT] || !count || (l->reg[LREG_LVT_TIMER] & LVT_TIMER_DEADLINE))
        return;
    l->period_ns = period_of(l);
    uint64_t first = (uint64_t)count << divide_shift(l);
    timer_arm_at(l, vm_now_ns(l->v->vm) + (first < l->period_ns && count == l->reg[LREG_TIMER_INIT] ? l->period_ns : first));
}

void lapic_timer_mode_set(struct lapic *l, uint32_t lvt)
{
    uint32_t changed = lvt ^ l->reg[LREG_LVT_TIMER];
    l->reg[LREG_LVT_TIMER] = lvt;
    if (changed & LVT_TIMER_DEADLINE) {
        lapic_timer_stop(l);
        l->reg[LREG_TIMER_INIT] = 0;
        l->period_ns = 0;
        l->tsc_deadline = 0;
    } else if (changed & LVT_TIMER_PERIODIC) {
        l->period_ns = period_of(l);
    }
}

/* A running countdown goes on with the ticks it has left, at the new rate. */
void lapic_timer_divide_set(struct lapic *l, uint32_t value)
{
    uint32_t left = lapic_timer_current(l);
    bool was_armed = l->is_armed && !(l->reg[LREG_LVT_TIMER] & LVT_TIMER_DEADLINE);
    uint32_t old = l->reg[LREG_TIMER_DIVIDE];
    l->reg[LREG_TIMER_DIVIDE] = value & 0xb;
    if (was_armed && left && old != (value & 0xb))
        lapic_timer_start(l, left);
}

uint32_t lapic_timer_current(struct lapic *l)
{
    if (!l->is_armed || (l->reg[LREG_LVT_TIMER] & LVT_TIMER_DEADLINE))
        return 0;
    uint64_t now = vm_now_ns(l->v->vm);
    uint64_t left;
    if (now < l->expiry_ns)
        left = l->expiry_ns - now;
    else if (is_periodic(l) && l->period_ns)
        left = l->period_ns - (now - l->expiry_ns) % l->period_ns; /* the timer thread is late */
    else
        return 0;
    uint64_t ticks = left >> divide_shift(l);
    return ticks > 0xffffffffu ? 0xffffffffu : (uint32_t)ticks;
}

void lapic_timer_deadline_set(struct lapic *l, uint64_t tsc)
{
    if (!(l->reg[LREG_LVT_TIMER] & LVT_TIMER_DEADLINE))
        return;
    lapic_timer_stop(l);
    l->tsc_deadline = tsc;
    if (!tsc)
        return;
    uint64_t ns = time_tsc_deadline_ns(l->v, tsc);
    if (ns > vm_now_ns(l->v->vm)) {
        timer_arm_at(l, ns);
        return;
    }
    l->tsc_deadline = 0;
    lapic_lvt_deliver(l, LREG_LVT_TIMER);
}

void lapic_timer_time_stood(struct vcpu *v, uint64_t ns)
{
    struct lapic *l = lapic_of(v);
    lapic_lock(l);
    if (l->is_armed)
        l->expiry_ns += ns;
    lapic_unlock(l);
}

void lapic_timer_time_goes(struct vcpu *v)
{
    struct lapic *l = lapic_of(v);
    lapic_lock(l);
    if (l->is_armed)
        timer_arm_at(l, l->expiry_ns);
    lapic_unlock(l);
}
