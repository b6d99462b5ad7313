/* SPDX-License-Identifier: MIT */
/*
 * Who gets an interrupt message: destination matching, shorthands, lowest priority, and what each delivery mode does to the vCPU that gets it. Called from
 * any thread by ICR writes, the IOAPIC and MSIs; takes one lapic.lock at a time (SDM vol. 3A, "Determining IPI Destination").
 */
#include "chip/chip_priv.h"

static uint32_t load(_Atomic uint32_t *p)
{
    return atomic_load_explicit(p, memory_order_relaxed);
}

static bool is_broadcast(struct lapic *l, struct lapic *from, uint32_t dest)
{
    if (dest == 0xffffffffu)
        return true;
    if (dest != 0xff)
        return false;
    /* Eight bits are all that an IOAPIC or an MSI can say, so theirs reach x2APICs too, unless the client means id 255 by it. */
    return !atomic_load(&l->is_x2apic) || (!from && !(l->v->vm->x2apic_api_flags & 2));
}

static bool is_logical_match(struct lapic *l, uint32_t dest)
{
    uint32_t ldr = load(&l->ldr);
    if (atomic_load(&l->is_x2apic))
        return ldr >> 16 == dest >> 16 && (ldr & dest & 0xffff);
    if (atomic_load(&l->is_flat))
        return ldr & dest & 0xff;
    return (ldr >> 4) == (dest >> 4 & 15) && (ldr & dest & 15);
}

bool lapic_is_target(struct lapic *l, struct lapic *from, const struct lapic_msg *msg)
{
    switch (msg->shorthand) {
    case SHORTHAND_SELF:
        return l == from;
    case SHORTHAND_ALL:
        return true;
    case SHORTHAND_OTHERS:
        return l != from;
    default:
        break;
    }
    if (is_broadcast(l, from, msg->dest))
        return true;
    if (msg->is_logical)
        return is_logical_match(l, msg->dest);
    /* A CPU whose id has no xAPIC form is reached by its x2APIC id in either mode, or nobody could start it. */
    return load(&l->id) == msg->dest || (msg->dest > 0xff && l->v->id == msg->dest);
}

/* Fixed and lowest priority. */
static int lapic_accept_vector(struct lapic *l, const struct lapic_msg *msg)
{
    int result = -1;
    lapic_lock(l);
    if ((l->v->cpu.apic_base & LAPIC_BASE_ENABLE) && (l->reg[LREG_SVR] & SVR_ENABLE)) {
        if (msg->vector < 16)
            lapic_error(l, ESR_RECV_ILLEGAL);
        else
            result = lapic_irr_set(l, msg->vector, msg->is_level);
    }
    lapic_unlock(l);
    return result;
}

int lapic_accept(struct lapic *l, const struct lapic_msg *msg)
{
    struct vcpu *v = l->v;
    switch (msg->mode) {
    case DELIVER_FIXED:
    case DELIVER_LOWEST:
        return lapic_accept_vector(l, msg);
    case DELIVER_NMI:
        lapic_lock(l);
        lapic_nmi(l);
        lapic_unlock(l);
        return 1;
    case DELIVER_SMI:
        atomic_store(&v->ev.smi_pending, true);
        vcpu_request(v, VREQ_EVENT);
        return 1;
    case DELIVER_INIT:
        if (msg->is_level && !msg->is_assert)
            return -1;
        /* A startup message from before the INIT is void. */
        atomic_fetch_and(&v->requests, ~VREQ_SIPI);
        vcpu_request(v, VREQ_INIT);
        return 1;
    case DELIVER_STARTUP:
        atomic_store(&v->sipi_vector, msg->vector);
        vcpu_request(v, VREQ_SIPI);
        return 1;
    default:
        /* ExtINT comes from the PIC through LINT0 only; remote read is obsolete. */
        return -1;
    }
}

/* The one that has served the fewest such messages: fair, and what the arbitration of real LAPICs comes to at equal priority. */
static int lapic_send_lowest(struct vm *vm, struct lapic *from, const struct lapic_msg *msg)
{
    struct lapic *best = NULL;
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct vcpu *v = vm_vcpu(vm, i);
        struct lapic *l = v ? lapic_of(v) : NULL;
        if (!l || !atomic_load(&l->is_enabled) || !atomic_load(&l->is_sw_enabled) || !lapic_is_target(l, from, msg))
            continue;
        if (!best || (int32_t)(load(&l->arbitration) - load(&best->arbitration)) < 0)
            best = l;
    }
    if (!best)
        return -1;
    atomic_fetch_add(&best->arbitration, 1);
    return lapic_accept(best, msg);
}

int lapic_send(struct vm *vm, struct lapic *from, const struct lapic_msg *msg)
{
    int result = -1;
    if (from && msg->shorthand == SHORTHAND_SELF)
        return lapic_accept(from, msg);
    if (msg->is_lowest)
        return lapic_send_lowest(vm, from, msg);
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct vcpu *v = vm_vcpu(vm, i);
        struct lapic *l = v ? lapic_of(v) : NULL;
        if (!l || !lapic_is_target(l, from, msg))
            continue;
        int r = lapic_accept(l, msg);
        if (r >= 0)
            result = (result < 0 ? 0 : result) + r;
    }
    return result;
}

static struct lapic_msg msi_msg(const struct vm *vm, uint64_t address, uint32_t data)
{
    struct lapic_msg msg = {
        .dest = address >> 12 & 0xff,
        .vector = (uint8_t)data,
        .mode = (enum delivery_mode)(data >> 8 & 7),
        .is_logical = address >> 2 & 1,
        .is_level = data >> 15 & 1,
        .is_assert = true,
    };
    if (vm->x2apic_api_flags & 1)
        msg.dest |= (uint32_t)(address >> 32) & 0xffffff00u;
    msg.is_lowest = msg.mode == DELIVER_LOWEST || (address >> 3 & 1);
    return msg;
}

int lapic_msi_send(struct vm *vm, uint64_t address, uint32_t data)
{
    struct lapic_msg msg = msi_msg(vm, address, data);
    return lapic_send(vm, NULL, &msg);
}

struct eoi {
    struct lapic *l;
    unsigned vector;
    bool is_level; /* as it was accepted: its route may name another CPU by now */
};

static bool is_waiting_for_eoi(void *arg, uint64_t address, uint32_t data)
{
    const struct eoi *e = arg;
    struct lapic_msg msg = msi_msg(e->l->v->vm, address, data);
    return msg.is_level && msg.vector == e->vector && (e->is_level || lapic_is_target(e->l, NULL, &msg));
}

void lapic_eoi_to_client(struct lapic *l, unsigned vector, bool is_level)
{
    struct eoi e = { l, vector, is_level };
    /* Linux' driver of Microsoft's hypervisor takes the vector for the number of a GSI that somebody resamples. */
    if (l->v->vm->reports_level_eois && is_level && irq_ack_gsi(l->v->vm, vector))
        return;
    if (l->v->vm->reports_level_eois ? !is_level : !irq_any_reserved_msi(l->v->vm, is_waiting_for_eoi, &e))
        return;
    l->v->eoi_vector = (uint8_t)vector;
    vcpu_request(l->v, VREQ_IOAPIC_EOI);
}
