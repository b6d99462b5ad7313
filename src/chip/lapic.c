/* SPDX-License-Identifier: MIT */
/*
 * Local APIC: life, priorities, acceptance of interrupts by one LAPIC. Registers as the guest sees them are in lapic_reg.c, who gets a message in
 * lapic_send.c, the timer in lapic_timer.c. Called by pc.c (vCPU threads), IOAPIC, timer thread and any thread that raises a line; lapic.lock guards
 * everything but the copies marked atomic (SDM vol. 3A, "Advanced Programmable Interrupt Controller").
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "chip/chip_priv.h"

int lapic_highest(const uint32_t *words)
{
    for (int i = 7; i >= 0; i--)
        if (words[i])
            return 32 * i + 31 - __builtin_clz(words[i]);
    return -1;
}

static void bit_set(uint32_t *words, unsigned n)
{
    words[n / 32] |= 1u << (n % 32);
}

static void bit_clear(uint32_t *words, unsigned n)
{
    words[n / 32] &= ~(1u << (n % 32));
}

static void lapic_update_ppr(struct lapic *l)
{
    int in_service = lapic_highest(&l->reg[LREG_ISR]);
    uint32_t tpr = l->reg[LREG_TPR] & 0xff;
    uint32_t isr_class = in_service < 0 ? 0 : (uint32_t)in_service & 0xf0;
    l->reg[LREG_PPR] = (tpr & 0xf0) >= isr_class ? tpr : isr_class;
}

/* Refreshes the lock-free copies. True if the vCPU has something new to look at. */
static bool lapic_publish(struct lapic *l)
{
    bool is_x2 = lapic_mode_x2(l), is_enabled = l->v->cpu.apic_base & LAPIC_BASE_ENABLE;
    uint32_t lint0 = l->reg[LREG_LVT_LINT0];
    lapic_update_ppr(l);
    atomic_store_explicit(&l->id, is_x2 ? l->reg[LREG_ID] : l->reg[LREG_ID] >> 24, memory_order_relaxed);
    atomic_store_explicit(&l->ldr, is_x2 ? l->reg[LREG_LDR] : l->reg[LREG_LDR] >> 24, memory_order_relaxed);
    atomic_store_explicit(&l->is_flat, l->reg[LREG_DFR] >> 28 == 0xf, memory_order_relaxed);
    atomic_store_explicit(&l->is_x2apic, is_x2, memory_order_relaxed);
    atomic_store_explicit(&l->is_enabled, is_enabled, memory_order_relaxed);
    atomic_store_explicit(&l->is_sw_enabled, l->reg[LREG_SVR] & SVR_ENABLE, memory_order_relaxed);

    int vector = is_enabled ? lapic_highest(&l->reg[LREG_IRR]) : -1;
    if (vector >= 0 && ((uint32_t)vector & 0xf0) <= (l->reg[LREG_PPR] & 0xf0))
        vector = -1;
    /* Without a LAPIC the CPU's INTR pin is wired to the PIC (SDM vol. 3A, "Local APIC Status and Location"). */
    bool takes_pic = !is_enabled || (!(lint0 & LVT_MASKED) && LVT_MODE(lint0) == DELIVER_EXTINT);
    int old = atomic_exchange(&l->deliverable, vector);
    bool old_takes = atomic_exchange(&l->takes_pic, takes_pic);
    return (vector >= 0 && vector != old) || (takes_pic && !old_takes);
}

void lapic_lock(struct lapic *l)
{
    pthread_mutex_lock(&l->lock);
}

void lapic_unlock(struct lapic *l)
{
    bool must_notify = lapic_publish(l) || l->must_notify;
    l->must_notify = false;
    pthread_mutex_unlock(&l->lock);
    if (must_notify)
        vcpu_request(l->v, VREQ_EVENT);
}

int lapic_peek(struct lapic *l)
{
    return atomic_load_explicit(&l->deliverable, memory_order_acquire);
}

int lapic_take(struct lapic *l)
{
    if (lapic_peek(l) < 0)
        return -1;
    lapic_lock(l);
    int vector = atomic_load(&l->deliverable);
    if (vector >= 0) {
        bit_clear(&l->reg[LREG_IRR], (unsigned)vector);
        bit_set(&l->reg[LREG_ISR], (unsigned)vector);
    }
    lapic_unlock(l);
    return vector;
}

bool lapic_irr_set(struct lapic *l, unsigned vector, bool is_level)
{
    bool was_pending = l->reg[LREG_IRR + vector / 32] >> (vector % 32) & 1;
    if (is_level)
        bit_set(&l->reg[LREG_TMR], vector);
    else
        bit_clear(&l->reg[LREG_TMR], vector);
    bit_set(&l->reg[LREG_IRR], vector);
    if (atomic_load_explicit(&l->has_vapic, memory_order_relaxed))
        l->must_notify = true; /* the guest may have lowered its TPR since we last looked */
    return !was_pending;
}

void lapic_nmi(struct lapic *l)
{
    uint32_t n = atomic_load(&l->v->ev.nmi_pending);
    while (n < 2 && !atomic_compare_exchange_weak(&l->v->ev.nmi_pending, &n, n + 1))
        ;
    l->must_notify = true;
}

void lapic_lvt_deliver(struct lapic *l, enum lapic_reg lvt)
{
    uint32_t value = l->reg[lvt];
    bool has_mode = lvt != LREG_LVT_TIMER && lvt != LREG_LVT_ERROR;
    if ((value & LVT_MASKED) || !(l->v->cpu.apic_base & LAPIC_BASE_ENABLE))
        return;
    switch (has_mode ? LVT_MODE(value) : DELIVER_FIXED) {
    case DELIVER_FIXED:
        if ((value & 0xff) < 16) {
            /* A bad error vector would report itself for ever. */
            if (lvt != LREG_LVT_ERROR)
                lapic_error(l, ESR_RECV_ILLEGAL);
        } else {
            lapic_irr_set(l, value & 0xff, false);
        }
        break;
    case DELIVER_NMI:
        lapic_nmi(l);
        break;
    case DELIVER_SMI:
        atomic_store(&l->v->ev.smi_pending, true);
        l->must_notify = true;
        break;
    default:
        break;
    }
}

void lapic_error(struct lapic *l, uint32_t bits)
{
    bool is_new = bits & ~l->esr_new;
    l->esr_new |= bits;
    if (is_new)
        lapic_lvt_deliver(l, LREG_LVT_ERROR);
}

static void lapic_set_id(struct lapic *l)
{
    uint32_t id = l->v->id;
    if (lapic_mode_x2(l)) {
        l->reg[LREG_ID] = id;
        l->reg[LREG_LDR] = (id >> 4) << 16 | 1u << (id & 15);
    } else {
        l->reg[LREG_ID] = id << 24;
    }
}

static uint64_t lapic_base_reserved(struct vcpu *v)
{
    unsigned width = 52;
    uint64_t reserved = 0x2ff;
    if (v->n_cpuid) {
        uint32_t out[4] = { 0 };
        vcpu_cpuid(v, 0x80000008u, 0, out);
        width = (out[0] & 0xff) >= 32 && (out[0] & 0xff) < 64 ? out[0] & 0xff : 36;
        if (!vcpu_cpuid_has(v, 1, 0, 2, 21))
            reserved |= LAPIC_BASE_X2APIC;
    }
    return reserved | ~((1ull << width) - 1);
}

int lapic_base_set(struct vcpu *v, uint64_t value)
{
    const uint64_t mode_mask = LAPIC_BASE_ENABLE | LAPIC_BASE_X2APIC;
    uint64_t old_mode = v->cpu.apic_base & mode_mask, mode = value & mode_mask;
    if ((value & lapic_base_reserved(v)) || mode == LAPIC_BASE_X2APIC)
        return -EINVAL;
    /* A client may restore any mode; the guest must go x2APIC -> disabled -> xAPIC (SDM vol. 3A, "x2APIC State Transitions"). */
    if (atomic_load(&v->is_running) && ((old_mode == mode_mask && mode == LAPIC_BASE_ENABLE) || (old_mode == 0 && mode == mode_mask)))
        return -EINVAL;
    struct lapic *l = lapic_of(v);
    if (!l) {
        v->cpu.apic_base = value;
        return 0;
    }
    lapic_lock(l);
    v->cpu.apic_base = value;
    if (mode && mode != old_mode) {
        if (old_mode == mode_mask)
            l->reg[LREG_LDR] = 0;
        lapic_set_id(l);
    }
    lapic_unlock(l);
    return 0;
}

void lapic_reset(struct vcpu *v, bool is_init)
{
    struct lapic *l = lapic_of(v);
    pvclock_reset(v, is_init);
    if (!is_init)
        v->cpu.apic_base = LAPIC_BASE_DEFAULT | LAPIC_BASE_ENABLE | (v->id == v->vm->boot_cpu_id ? LAPIC_BASE_BSP : 0);
    if (!l)
        return;
    lapic_lock(l);
    lapic_timer_stop(l);
    l->tsc_deadline = 0;
    l->esr_new = 0;
    uint32_t id = l->reg[LREG_ID];
    memset(l->reg, 0, sizeof(l->reg));
    l->reg[LREG_ID] = id;
    if (!is_init || lapic_mode_x2(l))
        lapic_set_id(l);
    l->reg[LREG_VERSION] = LAPIC_VERSION;
    for (unsigned r = LREG_LVT_TIMER; r <= LREG_LVT_ERROR; r++)
        l->reg[r] = LVT_MASKED;
    /* Virtual wire mode without a BIOS's help, as KVM starts the boot CPU. */
    if (v->id == v->vm->boot_cpu_id)
        l->reg[LREG_LVT_LINT0] = DELIVER_EXTINT << 8;
    l->reg[LREG_DFR] = 0xffffffffu;
    l->reg[LREG_SVR] = 0xff;
    lapic_timer_divide_set(l, 0);
    lapic_unlock(l);
}

int lapic_create(struct vcpu *v)
{
    if (v->lapic)
        return 0;
    struct lapic *l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    l->v = v;
    pthread_mutex_init(&l->lock, NULL);
    atomic_store(&l->deliverable, -1);
    lapic_timer_init(l);
    __atomic_store_n(&v->lapic, l, __ATOMIC_RELEASE);
    lapic_reset(v, false);
    return 0;
}

void lapic_destroy(struct vcpu *v)
{
    struct lapic *l = lapic_of(v);
    pvclock_destroy(v);
    if (!l)
        return;
    lapic_timer_fini(l);
    __atomic_store_n(&v->lapic, NULL, __ATOMIC_RELEASE);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

uint64_t lapic_cr8_get(struct vcpu *v)
{
    struct lapic *l = lapic_of(v);
    if (l)
        vapic_pull(l);
    return l ? (l->reg[LREG_TPR] >> 4) & 15 : v->cpu.cr8;
}

void lapic_cr8_set(struct vcpu *v, uint64_t cr8)
{
    struct lapic *l = lapic_of(v);
    if (!l) {
        v->cpu.cr8 = cr8 & 15;
        return;
    }
    lapic_lock(l);
    l->reg[LREG_TPR] = (uint32_t)(cr8 & 15) << 4;
    lapic_unlock(l);
    vapic_push(l);
}

void lapic_state_get(struct vcpu *v, uint8_t page[LAPIC_PAGE_BYTES])
{
    struct lapic *l = lapic_of(v);
    memset(page, 0, LAPIC_PAGE_BYTES);
    if (!l)
        return;
    vapic_pull(l);
    lapic_lock(l);
    lapic_update_ppr(l);
    for (unsigned r = 0; r < LREG_COUNT; r++) {
        uint32_t value = l->reg[r];
        if (r == LREG_TIMER_CURRENT)
            value = lapic_timer_current(l);
        if (r == LREG_ID && lapic_mode_x2(l) && !(v->vm->x2apic_api_flags & 1))
            value <<= 24;
        memcpy(page + 16 * r, &value, 4);
    }
    lapic_unlock(l);
}

int lapic_state_set(struct vcpu *v, const uint8_t page[LAPIC_PAGE_BYTES])
{
    struct lapic *l = lapic_of(v);
    uint32_t reg[LREG_COUNT];
    if (!l)
        return -EINVAL;
    for (unsigned r = 0; r < LREG_COUNT; r++)
        memcpy(&reg[r], page + 16 * r, 4);
    /* The id is this vCPU's own. The old format cannot show all of it, so there what the client says does not matter. */
    if (lapic_mode_x2(l) && (v->vm->x2apic_api_flags & 1) && reg[LREG_ID] != v->id)
        return -EINVAL;
    lapic_lock(l);
    lapic_timer_stop(l);
    uint64_t deadline = l->tsc_deadline;
    memcpy(l->reg, reg, sizeof(reg));
    l->reg[LREG_VERSION] = LAPIC_VERSION;
    if (lapic_mode_x2(l))
        lapic_set_id(l);
    l->tsc_deadline = 0;
    lapic_timer_divide_set(l, reg[LREG_TIMER_DIVIDE]);
    if (!(reg[LREG_LVT_TIMER] & LVT_TIMER_DEADLINE))
        lapic_timer_start(l, reg[LREG_TIMER_CURRENT] ? reg[LREG_TIMER_CURRENT] : reg[LREG_TIMER_INIT]);
    else if (deadline)
        lapic_timer_deadline_set(l, deadline);
    l->must_notify = true;
    lapic_unlock(l);
    vapic_push(l);
    return 0;
}
