/* SPDX-License-Identifier: MIT */
/*
 * The registers of a local APIC as the guest reads and writes them: the xAPIC page and the x2APIC MSRs. Runs on the vCPU's own thread (or its client's
 * while it does not run) and takes lapic.lock. A write that reaches other chips (ICR, EOI) does so after the lock is dropped: two LAPICs that send to each
 * other must not wait for each other (SDM vol. 3A, "Local APIC Register Address Map", "Extended XAPIC (x2APIC)").
 */
#include <errno.h>
#include <string.h>

#include "chip/chip_priv.h"

#define BIT(r) (1ull << (r))
#define ISR_TMR_IRR_BITS (0xffffffull << LREG_ISR)
#define LVT_BITS (BIT(LREG_LVT_TIMER) | BIT(LREG_LVT_THERMAL) | BIT(LREG_LVT_PC) | BIT(LREG_LVT_LINT0) | BIT(LREG_LVT_LINT1) | BIT(LREG_LVT_ERROR))
#define SHARED_BITS (BIT(LREG_TPR) | BIT(LREG_SVR) | BIT(LREG_ESR) | BIT(LREG_ICR) | LVT_BITS | BIT(LREG_TIMER_INIT) | BIT(LREG_TIMER_DIVIDE))
#define READ_BITS (SHARED_BITS | BIT(LREG_ID) | BIT(LREG_VERSION) | BIT(LREG_PPR) | BIT(LREG_LDR) | ISR_TMR_IRR_BITS | BIT(LREG_TIMER_CURRENT))
#define XAPIC_ONLY_BITS (BIT(LREG_DFR) | BIT(LREG_ICR2))
#define READ_XAPIC_BITS (READ_BITS | XAPIC_ONLY_BITS | BIT(LREG_APR) | BIT(LREG_EOI))
#define WRITE_X2APIC_BITS (SHARED_BITS | BIT(LREG_EOI) | BIT(LREG_SELF_IPI))
#define WRITE_XAPIC_BITS (SHARED_BITS | BIT(LREG_EOI) | XAPIC_ONLY_BITS | BIT(LREG_ID) | BIT(LREG_LDR))

/* What a register write leaves to do without the lock. */
struct after_write {
    bool must_send;
    struct lapic_msg msg;
    int eoi_vector; /* -1: none */
    bool eoi_is_level;
};

/* The client may patch the instruction into one that needs no exit. */
static void lapic_report_tpr(struct lapic *l, bool is_write)
{
    struct vcpu *v = l->v;
    if (!v->reports_tpr || !atomic_load_explicit(&v->is_running, memory_order_relaxed))
        return;
    v->tpr_access.rip = v->cpu.rip;
    v->tpr_access.is_write = is_write;
    vcpu_request(v, VREQ_TPR_ACCESS);
}

static uint32_t lapic_reg_read(struct lapic *l, unsigned r)
{
    switch (r) {
    case LREG_TPR:
        lapic_report_tpr(l, false);
        return l->reg[r];
    case LREG_APR:
    case LREG_EOI:
        return 0;
    case LREG_TIMER_CURRENT:
        return lapic_timer_current(l);
    default:
        return l->reg[r];
    }
}

static uint32_t lvt_mask(unsigned r)
{
    switch (r) {
    case LREG_LVT_TIMER:
        return LVT_MASKED | LVT_TIMER_PERIODIC | LVT_TIMER_DEADLINE | 0xff;
    case LREG_LVT_LINT0:
    case LREG_LVT_LINT1:
        return LVT_MASKED | 0xa700 | 0xff;
    case LREG_LVT_ERROR:
        return LVT_MASKED | 0xff;
    default:
        return LVT_MASKED | 0x700 | 0xff;
    }
}

static void lapic_lvt_write(struct lapic *l, unsigned r, uint32_t value)
{
    value &= lvt_mask(r);
    if (!(l->reg[LREG_SVR] & SVR_ENABLE))
        value |= LVT_MASKED;
    if (r == LREG_LVT_TIMER)
        lapic_timer_mode_set(l, value);
    else
        l->reg[r] = value;
}

static void lapic_svr_write(struct lapic *l, uint32_t value)
{
    l->reg[LREG_SVR] = value & 0x3ff;
    if (value & SVR_ENABLE)
        return;
    for (unsigned r = LREG_LVT_TIMER; r <= LREG_LVT_ERROR; r++)
        l->reg[r] |= LVT_MASKED;
}

static void lapic_eoi(struct lapic *l, struct after_write *after)
{
    int vector = lapic_highest(&l->reg[LREG_ISR]);
    if (vector < 0)
        return;
    l->reg[LREG_ISR + vector / 32] &= ~(1u << (vector % 32));
    after->eoi_vector = vector;
    after->eoi_is_level = l->reg[LREG_TMR + vector / 32] >> (vector % 32) & 1;
}

static void lapic_icr_write(struct lapic *l, uint32_t low, uint32_t dest, struct after_write *after)
{
    l->reg[LREG_ICR] = low & ~(1u << 12); /* delivery is never pending */
    struct lapic_msg *m = &after->msg;
    *m = (struct lapic_msg){
        .dest = dest,
        .vector = (uint8_t)low,
        .mode = (enum delivery_mode)(low >> 8 & 7),
        .shorthand = (enum shorthand)(low >> 18 & 3),
        .is_logical = low >> 11 & 1,
        .is_level = low >> 15 & 1,
        .is_assert = low >> 14 & 1,
    };
    m->is_lowest = m->mode == DELIVER_LOWEST;
    if (m->mode <= DELIVER_LOWEST && m->vector < 16)
        lapic_error(l, ESR_SEND_ILLEGAL);
    else
        after->must_send = true;
    /* Only INIT knows the level-triggered de-assert; every other message is an edge (SDM vol. 3A, "Interrupt Command Register"). */
    if (m->mode != DELIVER_INIT) {
        m->is_level = false;
        m->is_assert = true;
    }
}

/* The value is checked. `high` is the destination of an x2APIC ICR write. */
static void lapic_reg_write(struct lapic *l, unsigned r, uint32_t value, uint32_t high, struct after_write *after)
{
    switch (r) {
    case LREG_ID:
        l->reg[r] = value & 0xff000000u;
        break;
    case LREG_TPR:
        lapic_report_tpr(l, true);
        l->reg[r] = value & 0xff;
        break;
    case LREG_EOI:
        lapic_eoi(l, after);
        break;
    case LREG_LDR:
        l->reg[r] = value & 0xff000000u;
        break;
    case LREG_DFR:
        l->reg[r] = value | 0x0fffffffu;
        break;
    case LREG_SVR:
        lapic_svr_write(l, value);
        break;
    case LREG_ESR:
        l->reg[r] = l->esr_new;
        l->esr_new = 0;
        break;
    case LREG_ICR:
        if (lapic_mode_x2(l))
            l->reg[LREG_ICR2] = high;
        lapic_icr_write(l, value, lapic_mode_x2(l) ? high : l->reg[LREG_ICR2] >> 24, after);
        break;
    case LREG_ICR2:
        l->reg[r] = value & 0xff000000u;
        break;
    case LREG_SELF_IPI:
        lapic_icr_write(l, (value & 0xff) | SHORTHAND_SELF << 18, 0, after);
        break;
    case LREG_TIMER_INIT:
        if (l->reg[LREG_LVT_TIMER] & LVT_TIMER_DEADLINE)
            break;
        l->reg[r] = value;
        lapic_timer_start(l, value);
        break;
    case LREG_TIMER_DIVIDE:
        lapic_timer_divide_set(l, value);
        break;
    default:
        lapic_lvt_write(l, r, value);
    }
}

static void lapic_write(struct lapic *l, unsigned r, uint32_t value, uint32_t high)
{
    struct after_write after = { .eoi_vector = -1 };
    vapic_pull(l);
    lapic_lock(l);
    lapic_reg_write(l, r, value, high, &after);
    lapic_unlock(l);
    vapic_push(l);
    if (after.must_send)
        lapic_send(l->v->vm, l, &after.msg);
    if (after.eoi_vector < 0)
        return;
    if (l->v->vm->has_split_irqchip)
        lapic_eoi_to_client(l, (unsigned)after.eoi_vector, after.eoi_is_level);
    else
        ioapic_eoi(l, (unsigned)after.eoi_vector, after.eoi_is_level);
}

static void lapic_illegal(struct lapic *l)
{
    lapic_lock(l);
    lapic_error(l, ESR_ILLEGAL_REG);
    lapic_unlock(l);
}

int lapic_mmio_read(struct vcpu *v, uint32_t offset, unsigned bytes, void *data)
{
    struct lapic *l = lapic_of(v);
    if (!l || !(v->cpu.apic_base & LAPIC_BASE_ENABLE))
        return -EOPNOTSUPP;
    /* The page decodes nothing in x2APIC mode; like an empty bus. */
    memset(data, lapic_mode_x2(l) ? 0xff : 0, bytes);
    unsigned r = offset >> 4, at = offset & 15;
    if (lapic_mode_x2(l) || r >= LREG_COUNT || at + bytes > 4)
        return 0;
    if (!(READ_XAPIC_BITS & BIT(r))) {
        lapic_illegal(l);
        return 0;
    }
    vapic_pull(l);
    lapic_lock(l);
    uint32_t value = lapic_reg_read(l, r);
    lapic_unlock(l);
    memcpy(data, (char *)&value + at, bytes);
    return 0;
}

int lapic_mmio_write(struct vcpu *v, uint32_t offset, unsigned bytes, const void *data)
{
    struct lapic *l = lapic_of(v);
    if (!l || !(v->cpu.apic_base & LAPIC_BASE_ENABLE))
        return -EOPNOTSUPP;
    unsigned r = offset >> 4;
    uint32_t value;
    /* Only aligned 32-bit accesses are defined; others are ignored. */
    if (lapic_mode_x2(l) || bytes != 4 || (offset & 15))
        return 0;
    if (r >= LREG_COUNT || !(WRITE_XAPIC_BITS & BIT(r))) {
        lapic_illegal(l);
        return 0;
    }
    memcpy(&value, data, 4);
    lapic_write(l, r, value, 0);
    return 0;
}

static int lapic_deadline_msr(struct lapic *l, const uint64_t *new_value, uint64_t *value)
{
    lapic_lock(l);
    if (new_value)
        lapic_timer_deadline_set(l, *new_value);
    else
        *value = l->reg[LREG_LVT_TIMER] & LVT_TIMER_DEADLINE ? l->tsc_deadline : 0;
    lapic_unlock(l);
    return 0;
}

int lapic_msr_read(struct vcpu *v, uint32_t index, uint64_t *value)
{
    struct lapic *l = lapic_of(v);
    if (!l) {
        if (index != MSR_TSC_DEADLINE)
            return -ENOENT;
        *value = 0;
        return 0;
    }
    if (index == MSR_TSC_DEADLINE)
        return lapic_deadline_msr(l, NULL, value);
    unsigned r = index - MSR_X2APIC_FIRST;
    if (!lapic_mode_x2(l) || r >= LREG_COUNT || !(READ_BITS & BIT(r)))
        return -EINVAL;
    vapic_pull(l);
    lapic_lock(l);
    *value = lapic_reg_read(l, r);
    if (r == LREG_ICR)
        *value |= (uint64_t)l->reg[LREG_ICR2] << 32;
    lapic_unlock(l);
    return 0;
}

int lapic_msr_write(struct vcpu *v, uint32_t index, uint64_t value)
{
    struct lapic *l = lapic_of(v);
    if (!l)
        return index == MSR_TSC_DEADLINE ? 0 : -ENOENT;
    if (index == MSR_TSC_DEADLINE)
        return lapic_deadline_msr(l, &value, NULL);
    unsigned r = index - MSR_X2APIC_FIRST;
    if (!lapic_mode_x2(l) || r >= LREG_COUNT || !(WRITE_X2APIC_BITS & BIT(r)))
        return -EINVAL;
    if ((r != LREG_ICR && value >> 32) || ((r == LREG_EOI || r == LREG_ESR) && value) || (r == LREG_SELF_IPI && value > 0xff) ||
        (r == LREG_TPR && value > 0xff))
        return -EINVAL;
    lapic_write(l, r, (uint32_t)value, (uint32_t)(value >> 32));
    return 0;
}
