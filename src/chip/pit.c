/* SPDX-License-Identifier: MIT */
/*
 * The 8254 timer of a PC: counting and channel 0's ticks on GSI 0. Counters are computed from CLOCK_MONOTONIC when somebody looks; only a running channel
 * 0 has a host timer. The ports are in pit_port.c. pit.lock guards all; lines are set without it (Intel 8254 data sheet).
 *
 * Reinjection: a guest that was not given the CPU in time would lose ticks and its clock with them. So a tick that comes before the last one was
 * acknowledged waits, and the acknowledge brings it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "chip/chip_priv.h"

#define PIT_HZ 1193182u
#define NS_PER_S 1000000000u
#define PERIOD_MIN_NS 200000ull
#define PENDING_MAX 10000u
#define MODE_UNSET 0xff

static uint64_t ticks_to_ns(uint64_t ticks)
{
    return (uint64_t)(((unsigned __int128)ticks * NS_PER_S + PIT_HZ - 1) / PIT_HZ);
}

static uint64_t elapsed_ticks(const struct pit_channel_state *c, uint64_t now_ns)
{
    int64_t ns = (int64_t)now_ns - c->count_load_time;
    return ns <= 0 ? 0 : (uint64_t)((unsigned __int128)(uint64_t)ns * PIT_HZ / NS_PER_S);
}

uint16_t pit_count(const struct pit_channel_state *c, uint64_t now_ns)
{
    uint64_t ticks = elapsed_ticks(c, now_ns);
    switch (c->mode) {
    case 0:
    case 1:
    case 4:
    case 5:
        return (uint16_t)(c->count - ticks);
    case 3: /* counts by two, twice per period */
        return (uint16_t)(c->count - 2 * ticks % c->count);
    default:
        return (uint16_t)(c->count - ticks % c->count);
    }
}

bool pit_out(const struct pit_channel_state *c, uint64_t now_ns)
{
    uint64_t ticks = elapsed_ticks(c, now_ns);
    switch (c->mode) {
    case 0:
        return ticks >= c->count;
    case 1:
        return ticks < c->count;
    case 2:
        return ticks % c->count != c->count - 1;
    case 3:
        return ticks % c->count < (c->count + 1) / 2;
    case 4:
    case 5:
        return ticks != c->count;
    default:
        return true;
    }
}

static bool is_periodic(const struct pit_channel_state *c)
{
    return c->mode == 2 || c->mode == 3;
}

static uint64_t next_tick_ns(const struct pit *p)
{
    const struct pit_channel_state *c = &p->state.channels[0];
    uint64_t offset = p->period_ns ? (p->tick_n + 1) * p->period_ns : ticks_to_ns((p->tick_n + 1) * c->count);
    return (uint64_t)c->count_load_time + offset;
}

static void pit_arm(struct pit *p)
{
    p->is_ticking = timer_arm(&p->vm->timers, &p->tick_timer, next_tick_ns(p)) == 0;
}

static void pit_stop(struct pit *p)
{
    p->is_ticking = false;
    timer_cancel(&p->vm->timers, &p->tick_timer);
}

void pit_load(struct pit *p, unsigned channel, uint32_t count)
{
    struct pit_channel_state *c = &p->state.channels[channel];
    c->count = count ? count : 0x10000;
    c->count_load_time = (int64_t)timer_now_ns();
    if (channel != 0)
        return;
    pit_stop(p);
    p->tick_n = 0;
    p->pending = 0;
    p->is_acked = true;
    if (c->mode > 4 || (p->state.flags & PIT_FLAG_HPET_LEGACY))
        return;
    p->period_ns = is_periodic(c) && ticks_to_ns(c->count) < PERIOD_MIN_NS ? PERIOD_MIN_NS : 0;
    pit_arm(p);
}

void pit_gate_set(struct pit *p, unsigned channel, bool gate)
{
    struct pit_channel_state *c = &p->state.channels[channel];
    /* Modes 1 and 5 start, 2 and 3 restart at the rising edge of the gate; the others only pause, which nobody on a PC observes. */
    if (gate && !c->gate && (c->mode == 1 || c->mode == 2 || c->mode == 3 || c->mode == 5))
        c->count_load_time = (int64_t)timer_now_ns();
    c->gate = gate;
}

/* Counts `due` more ticks; true if one is to be raised now. */
static bool pit_take_tick(struct pit *p, uint64_t due)
{
    if (!p->is_reinjecting)
        return due > 0;
    p->pending = p->pending + due > PENDING_MAX ? PENDING_MAX : p->pending + (uint32_t)due;
    if (!p->pending || !p->is_acked)
        return false;
    p->pending--;
    p->is_acked = false;
    return true;
}

static void pit_raise(struct pit *p)
{
    int result = irq_set_level(p->vm, 0, IRQ_SOURCE_PIT, true);
    irq_set_level(p->vm, 0, IRQ_SOURCE_PIT, false);
    if (result >= 0)
        return;
    /* Masked everywhere: nobody will acknowledge, and nobody counts. */
    pthread_mutex_lock(&p->lock);
    p->is_acked = true;
    p->pending = 0;
    pthread_mutex_unlock(&p->lock);
}

static void pit_tick(struct timer *t)
{
    struct pit *p = (struct pit *)((char *)t - offsetof(struct pit, tick_timer));
    pthread_mutex_lock(&p->lock);
    uint64_t now = timer_now_ns(), due = 0;
    /* Not if channel 0 was loaded anew while this expiry was on its way. */
    if (p->is_ticking && now >= next_tick_ns(p)) {
        const struct pit_channel_state *c = &p->state.channels[0];
        uint64_t late = now - next_tick_ns(p);
        uint64_t period = p->period_ns ? p->period_ns : ticks_to_ns(c->count);
        due = is_periodic(c) ? 1 + late / period : 1;
        p->tick_n += due;
        if (is_periodic(c))
            pit_arm(p);
        else
            p->is_ticking = false;
    }
    bool must_raise = pit_take_tick(p, due);
    pthread_mutex_unlock(&p->lock);
    if (must_raise)
        pit_raise(p);
}

static void pit_reinject(struct timer *t)
{
    struct pit *p = (struct pit *)((char *)t - offsetof(struct pit, reinject_timer));
    pthread_mutex_lock(&p->lock);
    bool must_raise = p->is_reinjecting && pit_take_tick(p, 0);
    pthread_mutex_unlock(&p->lock);
    if (must_raise)
        pit_raise(p);
}

/* The next tick goes out on the timer thread: the routing lock may be held here. */
static void pit_acked(struct irq_ack_notifier *n)
{
    struct pit *p = (struct pit *)((char *)n - offsetof(struct pit, notifier));
    pthread_mutex_lock(&p->lock);
    p->is_acked = true;
    if (p->is_reinjecting && p->pending)
        timer_arm(&p->vm->timers, &p->reinject_timer, timer_now_ns());
    pthread_mutex_unlock(&p->lock);
}

void pit_unmasked(struct vm *vm)
{
    struct pit *p = vm->pit;
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->is_acked = true;
    p->pending = 0;
    pthread_mutex_unlock(&p->lock);
}

int pit_create(struct vm *vm, uint32_t flags)
{
    if (!vm->pic || !vm->ioapic)
        return -ENOENT;
    if (vm->pit)
        return -EEXIST;
    struct pit *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->vm = vm;
    p->create_flags = flags;
    p->is_reinjecting = p->is_acked = true;
    pthread_mutex_init(&p->lock, NULL);
    p->tick_timer.expired = pit_tick;
    p->reinject_timer.expired = pit_reinject;
    for (unsigned i = 0; i < 3; i++) {
        p->state.channels[i].mode = MODE_UNSET;
        p->state.channels[i].gate = i != 2;
        pit_load(p, i, 0);
    }
    p->notifier = (struct irq_ack_notifier){ .gsi = 0, .acked = pit_acked };
    irq_add_ack_notifier(vm, &p->notifier);
    pit_bus_add(p);
    vm->pit = p;
    vm->has_pit = true;
    return 0;
}

void pit_destroy(struct vm *vm)
{
    struct pit *p = vm->pit;
    if (!p)
        return;
    pit_bus_remove(p);
    irq_remove_ack_notifier(vm, &p->notifier);
    pthread_mutex_lock(&p->lock);
    pit_stop(p);
    pthread_mutex_unlock(&p->lock);
    timer_cancel_sync(&vm->timers, &p->tick_timer);
    timer_cancel_sync(&vm->timers, &p->reinject_timer);
    vm->pit = NULL;
    vm->has_pit = false;
    pthread_mutex_destroy(&p->lock);
    free(p);
}

int pit_state_get(struct vm *vm, struct pit_state *out)
{
    struct pit *p = vm->pit;
    if (!p)
        return -ENXIO;
    pthread_mutex_lock(&p->lock);
    *out = p->state;
    pthread_mutex_unlock(&p->lock);
    return 0;
}

int pit_state_set(struct vm *vm, const struct pit_state *in)
{
    struct pit *p = vm->pit;
    if (!p)
        return -ENXIO;
    pthread_mutex_lock(&p->lock);
    p->state = *in;
    for (unsigned i = 0; i < 3; i++) {
        struct pit_channel_state *c = &p->state.channels[i];
        /* Counts divide; a state from elsewhere may hold anything. */
        if (!c->count || c->count > 0x10000)
            c->count = 0x10000;
    }
    /* Channel 0 begins a new period: the saved load time may be another host's. */
    pit_load(p, 0, p->state.channels[0].count);
    pthread_mutex_unlock(&p->lock);
    return 0;
}

int pit_set_reinject(struct vm *vm, bool is_on)
{
    struct pit *p = vm->pit;
    if (!p)
        return -ENXIO;
    pthread_mutex_lock(&p->lock);
    p->is_reinjecting = is_on;
    p->is_acked = true;
    p->pending = 0;
    pthread_mutex_unlock(&p->lock);
    return 0;
}
