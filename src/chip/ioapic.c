/* SPDX-License-Identifier: MIT */
/*
 * The I/O APIC of a PC (82093AA, version 0x11, 24 inputs) at 0xfec00000. Inputs are set by core's routing from any thread; EOIs come from LAPICs. One
 * mutex guards all; acknowledge notifiers run without it. Not here: which GSI an input belongs to.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "chip/chip_priv.h"

#define IOAPIC_BASE 0xfec00000ull
#define IOAPIC_BYTES 0x100
#define IOAPIC_VERSION (0x11u | (IOAPIC_PINS - 1) << 16)
#define IOREGSEL 0x00
#define IOWIN 0x10

#define RTE_LOGICAL (1ull << 11)
#define RTE_STATUS (1ull << 12)
#define RTE_REMOTE_IRR (1ull << 14)
#define RTE_LEVEL (1ull << 15)
#define RTE_MASKED (1ull << 16)
#define RTE_READONLY (RTE_STATUS | RTE_REMOTE_IRR)

/* A level that is still high after so many EOIs in a row is delivered again only after a pause, or the guest would never run anything else. */
#define STORM_COUNT 10000u
#define STORM_PAUSE_NS 10000000ull

struct ioapic {
    struct vm *vm;
    pthread_mutex_t lock;
    uint64_t rte[IOAPIC_PINS];
    uint32_t sources[IOAPIC_PINS]; /* bit n: source n holds the input high */
    uint32_t irr;                  /* inputs that are high */
    uint32_t edge_done;            /* edges of irr that were delivered */
    uint32_t ioregsel, id;
    uint32_t eoi_count[IOAPIC_PINS];
    _Atomic uint32_t vectors[8]; /* vectors that any entry names: others' EOIs need no look */
    struct timer storm_timer;
    struct bus_region region;
};

static struct lapic_msg rte_msg(uint64_t rte)
{
    return (struct lapic_msg){
        .dest = (uint32_t)(rte >> 56),
        .vector = (uint8_t)rte,
        .mode = (enum delivery_mode)(rte >> 8 & 7),
        .is_logical = rte & RTE_LOGICAL,
        .is_level = rte & RTE_LEVEL,
        .is_assert = true,
        .is_lowest = (rte >> 8 & 7) == DELIVER_LOWEST,
    };
}

/* Lock held; the input is high. */
static int ioapic_deliver(struct ioapic *io, unsigned pin)
{
    uint64_t *rte = &io->rte[pin];
    if (*rte & RTE_MASKED)
        return -1;
    if ((*rte & RTE_LEVEL) && (*rte & RTE_REMOTE_IRR))
        return 0;
    struct lapic_msg msg = rte_msg(*rte);
    int result = lapic_send(io->vm, NULL, &msg);
    if (result >= 0) {
        if (*rte & RTE_LEVEL)
            *rte |= RTE_REMOTE_IRR;
        else
            io->edge_done |= 1u << pin;
    }
    return result;
}

int ioapic_set(struct vm *vm, unsigned pin, unsigned source, bool level)
{
    struct ioapic *io = vm->ioapic;
    uint32_t bit = 1u << pin;
    int result = 1;
    if (!io || pin >= IOAPIC_PINS)
        return -1;
    pthread_mutex_lock(&io->lock);
    io->sources[pin] = (io->sources[pin] & ~(1u << source)) | (uint32_t)level << source;
    if (!io->sources[pin]) {
        io->irr &= ~bit;
        io->edge_done &= ~bit;
        io->eoi_count[pin] = 0;
    } else if (!(io->rte[pin] & RTE_LEVEL) && (io->irr & bit)) {
        result = 0; /* no new edge */
    } else {
        io->irr |= bit;
        io->edge_done &= ~bit;
        result = ioapic_deliver(io, pin);
    }
    pthread_mutex_unlock(&io->lock);
    return result;
}

static void ioapic_rebuild_vectors(struct ioapic *io)
{
    uint32_t vectors[8] = { 0 };
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        vectors[(io->rte[i] & 0xff) / 32] |= 1u << (io->rte[i] & 31);
    for (unsigned i = 0; i < 8; i++)
        atomic_store(&io->vectors[i], vectors[i]);
}

/* An edge that a LAPIC took is acknowledged by that LAPIC only; a level EOI is broadcast and goes by the vector alone. */
static uint32_t ioapic_eoi_pins(struct ioapic *io, struct lapic *l, unsigned vector, bool is_level)
{
    uint32_t pins = 0;
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        uint64_t rte = io->rte[i];
        if ((rte & 0xff) != vector || !(rte & RTE_LEVEL) != !is_level)
            continue;
        struct lapic_msg msg = rte_msg(rte);
        if (is_level ? !!(rte & RTE_REMOTE_IRR) : lapic_is_target(l, NULL, &msg))
            pins |= 1u << i;
    }
    return pins;
}

/* Lock held: the level input's interrupt was handled; if it is still high it interrupts again. */
static void ioapic_level_done(struct ioapic *io, unsigned pin)
{
    uint64_t *rte = &io->rte[pin];
    if (!(*rte & RTE_LEVEL))
        return;
    *rte &= ~RTE_REMOTE_IRR;
    if (!(io->irr >> pin & 1) || (*rte & RTE_MASKED)) {
        io->eoi_count[pin] = 0;
        return;
    }
    if (++io->eoi_count[pin] < STORM_COUNT) {
        ioapic_deliver(io, pin);
        return;
    }
    io->eoi_count[pin] = 0;
    if (timer_arm(&io->vm->timers, &io->storm_timer, timer_now_ns() + STORM_PAUSE_NS) < 0)
        ioapic_deliver(io, pin);
}

void ioapic_eoi(struct lapic *l, unsigned vector, bool is_level)
{
    struct ioapic *io = l->v->vm->ioapic;
    if (!io || !(atomic_load_explicit(&io->vectors[vector / 32], memory_order_relaxed) >> (vector % 32) & 1))
        return;
    pthread_mutex_lock(&io->lock);
    uint32_t pins = ioapic_eoi_pins(io, l, vector, is_level);
    pthread_mutex_unlock(&io->lock);
    /* Notifiers first: one that lowers the line now saves a useless second interrupt. */
    for (uint32_t left = pins; left; left &= left - 1)
        irq_ack_pin(io->vm, IRQ_ROUTE_IOAPIC, (unsigned)__builtin_ctz(left));
    if (!is_level || !pins)
        return;
    pthread_mutex_lock(&io->lock);
    for (; pins; pins &= pins - 1)
        ioapic_level_done(io, (unsigned)__builtin_ctz(pins));
    pthread_mutex_unlock(&io->lock);
}

static void ioapic_storm_over(struct timer *t)
{
    struct ioapic *io = (struct ioapic *)((char *)t - offsetof(struct ioapic, storm_timer));
    pthread_mutex_lock(&io->lock);
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        if ((io->rte[i] & RTE_LEVEL) && (io->irr >> i & 1))
            ioapic_deliver(io, i);
    pthread_mutex_unlock(&io->lock);
}

/* True if a timer input (0, or 2 as the MP tables of a PC wire it) was unmasked. */
static bool ioapic_rte_write(struct ioapic *io, unsigned index, uint32_t value)
{
    unsigned pin = index / 2;
    uint64_t old = io->rte[pin], rte;
    if (index & 1)
        rte = (old & 0xffffffffu) | (uint64_t)value << 32;
    else
        rte = (old & ~0xffffffffull) | (value & 0x1ffff & ~(uint32_t)RTE_READONLY) | (old & RTE_READONLY);
    /* Guests clear a stuck remote IRR by switching the entry to edge and back. */
    if (!(rte & RTE_LEVEL))
        rte &= ~RTE_REMOTE_IRR;
    io->rte[pin] = rte;
    ioapic_rebuild_vectors(io);
    if ((rte & RTE_LEVEL) && (io->irr >> pin & 1))
        ioapic_deliver(io, pin);
    return (old & RTE_MASKED) && !(rte & RTE_MASKED) && (pin == 0 || pin == 2);
}

static bool ioapic_win_write(struct ioapic *io, uint32_t value)
{
    if (io->ioregsel == 0)
        io->id = value >> 24 & 15;
    else if (io->ioregsel >= 0x10 && io->ioregsel < 0x10 + 2 * IOAPIC_PINS)
        return ioapic_rte_write(io, io->ioregsel - 0x10, value);
    return false;
}

static uint32_t ioapic_win_read(const struct ioapic *io)
{
    switch (io->ioregsel) {
    case 0:
    case 2: /* arbitration id follows the id */
        return io->id << 24;
    case 1:
        return IOAPIC_VERSION;
    default:
        if (io->ioregsel < 0x10 || io->ioregsel >= 0x10 + 2 * IOAPIC_PINS)
            return 0xffffffffu;
        return (uint32_t)(io->rte[(io->ioregsel - 0x10) / 2] >> (io->ioregsel & 1 ? 32 : 0));
    }
}

static int ioapic_mmio_read(struct bus_region *r, struct vcpu *v, uint64_t addr, unsigned bytes, void *data)
{
    struct ioapic *io = r->owner;
    uint32_t value = 0;
    (void)v;
    pthread_mutex_lock(&io->lock);
    if ((addr & 0xff) == IOREGSEL)
        value = io->ioregsel;
    else if ((addr & 0xff) == IOWIN)
        value = ioapic_win_read(io);
    pthread_mutex_unlock(&io->lock);
    memset(data, 0, bytes);
    memcpy(data, &value, bytes < 4 ? bytes : 4);
    return 0;
}

static int ioapic_mmio_write(struct bus_region *r, struct vcpu *v, uint64_t addr, unsigned bytes, const void *data)
{
    struct ioapic *io = r->owner;
    uint32_t value = 0;
    bool is_timer_unmasked = false;
    (void)v;
    memcpy(&value, data, bytes < 4 ? bytes : 4);
    pthread_mutex_lock(&io->lock);
    if ((addr & 0xff) == IOREGSEL)
        io->ioregsel = value & 0xff;
    else if ((addr & 0xff) == IOWIN)
        is_timer_unmasked = ioapic_win_write(io, value);
    pthread_mutex_unlock(&io->lock);
    if (is_timer_unmasked)
        pit_unmasked(io->vm);
    return 0;
}

static const struct bus_ops ioapic_bus_ops = { .read = ioapic_mmio_read, .write = ioapic_mmio_write };

int ioapic_create(struct vm *vm)
{
    struct ioapic *io = calloc(1, sizeof(*io));
    if (!io)
        return -ENOMEM;
    io->vm = vm;
    pthread_mutex_init(&io->lock, NULL);
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        io->rte[i] = RTE_MASKED;
    ioapic_rebuild_vectors(io);
    io->storm_timer.expired = ioapic_storm_over;
    io->region = (struct bus_region){ .addr = IOAPIC_BASE, .bytes = IOAPIC_BYTES, .ops = &ioapic_bus_ops, .owner = io };
    vm->ioapic = io;
    bus_add(&vm->mmio, &io->region);
    return 0;
}

void ioapic_destroy(struct vm *vm)
{
    struct ioapic *io = vm->ioapic;
    if (!io)
        return;
    bus_remove(&vm->mmio, &io->region);
    timer_cancel_sync(&vm->timers, &io->storm_timer);
    vm->ioapic = NULL;
    pthread_mutex_destroy(&io->lock);
    free(io);
}

int ioapic_state_get(struct vm *vm, struct ioapic_state *out)
{
    struct ioapic *io = vm->ioapic;
    if (!io)
        return -ENXIO;
    pthread_mutex_lock(&io->lock);
    *out = (struct ioapic_state){ .base_address = IOAPIC_BASE, .ioregsel = io->ioregsel, .id = io->id };
    /* An edge that was delivered is over: restoring it must not interrupt a second time. */
    out->irr = io->irr & ~io->edge_done;
    memcpy(out->redirtbl, io->rte, sizeof(io->rte));
    pthread_mutex_unlock(&io->lock);
    return 0;
}

int ioapic_state_set(struct vm *vm, const struct ioapic_state *in)
{
    struct ioapic *io = vm->ioapic;
    if (!io)
        return -ENXIO;
    pthread_mutex_lock(&io->lock);
    io->ioregsel = in->ioregsel & 0xff;
    io->id = in->id & 15;
    memcpy(io->rte, in->redirtbl, sizeof(io->rte));
    memset(io->eoi_count, 0, sizeof(io->eoi_count));
    io->irr = in->irr & ((1u << IOAPIC_PINS) - 1);
    io->edge_done = 0;
    ioapic_rebuild_vectors(io);
    for (uint32_t left = io->irr; left; left &= left - 1)
        ioapic_deliver(io, (unsigned)__builtin_ctz(left));
    pthread_mutex_unlock(&io->lock);
    return 0;
}
