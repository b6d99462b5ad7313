/* SPDX-License-Identifier: MIT */
/*
 * Inside chip/: the structs of the chips and the calls between them. See pc.h for the lock order.
 */
#ifndef VITRINE_CHIP_CHIP_PRIV_H
#define VITRINE_CHIP_CHIP_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "chip/state.h"
#include "core/vcpu.h"
#include "core/vm.h"

/* ---- local APIC (SDM vol. 3A, "Advanced Programmable Interrupt Controller") --------------------------------------------------------------- */

/* Register numbers: MMIO offset / 16 = x2APIC MSR index - 0x800. */
enum lapic_reg {
    LREG_ID = 0x02,
    LREG_VERSION = 0x03,
    LREG_TPR = 0x08,
    LREG_APR = 0x09,
    LREG_PPR = 0x0a,
    LREG_EOI = 0x0b,
    LREG_LDR = 0x0d,
    LREG_DFR = 0x0e,
    LREG_SVR = 0x0f,
    LREG_ISR = 0x10,
    LREG_TMR = 0x18,
    LREG_IRR = 0x20,
    LREG_ESR = 0x28,
    LREG_ICR = 0x30,
    LREG_ICR2 = 0x31,
    LREG_LVT_TIMER = 0x32,
    LREG_LVT_THERMAL = 0x33,
    LREG_LVT_PC = 0x34,
    LREG_LVT_LINT0 = 0x35,
    LREG_LVT_LINT1 = 0x36,
    LREG_LVT_ERROR = 0x37,
    LREG_TIMER_INIT = 0x38,
    LREG_TIMER_CURRENT = 0x39,
    LREG_TIMER_DIVIDE = 0x3e,
    LREG_SELF_IPI = 0x3f,
    LREG_COUNT = 0x40
};

#define LAPIC_VERSION 0x50014u
#define LAPIC_BASE_BSP ((uint64_t)APIC_BASE_BSP)
#define LAPIC_BASE_X2APIC ((uint64_t)APIC_BASE_X2APIC)
#define LAPIC_BASE_ENABLE ((uint64_t)APIC_BASE_ENABLE)
#define LAPIC_BASE_DEFAULT 0xfee00000ull
#define LVT_MASKED (1u << 16)
#define LVT_MODE(lvt) (((lvt) >> 8) & 7)
#define LVT_TIMER_PERIODIC (1u << 17)
#define LVT_TIMER_DEADLINE (1u << 18)
#define SVR_ENABLE (1u << 8)
#define ESR_SEND_ILLEGAL (1u << 5)
#define ESR_RECV_ILLEGAL (1u << 6)
#define ESR_ILLEGAL_REG (1u << 7)

enum delivery_mode { DELIVER_FIXED, DELIVER_LOWEST, DELIVER_SMI, DELIVER_REMOTE_READ, DELIVER_NMI, DELIVER_INIT, DELIVER_STARTUP, DELIVER_EXTINT };
enum shorthand { SHORTHAND_NONE, SHORTHAND_SELF, SHORTHAND_ALL, SHORTHAND_OTHERS };

struct lapic_msg {
    uint32_t dest;
    uint8_t vector;
    enum delivery_mode mode;
    enum shorthand shorthand;
    bool is_logical, is_level, is_assert;
    bool is_lowest; /* one of the matching LAPICs: lowest priority mode or an MSI's redirection hint */
};

struct lapic {
    struct vcpu *v;
    pthread_mutex_t lock;
    uint32_t reg[LREG_COUNT];
    uint32_t esr_new; /* errors since the last write of ESR */
    bool must_notify; /* request VREQ_EVENT at unlock */
    gpa_t vapic;      /* the virtual APIC page's word, if has_vapic; written only while the vCPU does not run */
    _Atomic bool has_vapic;

    /* Copies for other threads' destination matching and for lapic_peek, refreshed at each unlock. */
    _Atomic uint32_t id, ldr;
    _Atomic bool is_enabled, is_x2apic, is_flat, is_sw_enabled;
    _Atomic int deliverable; /* highest vector above PPR, or -1 */
    _Atomic bool takes_pic;  /* LINT0 passes the PIC's INTR on */
    _Atomic uint32_t arbitration;

    struct timer timer;
    bool is_armed;
    uint64_t expiry_ns;    /* of the running countdown */
    uint64_t period_ns;    /* of one countdown */
    uint64_t tsc_deadline; /* 0: none */
};

static inline struct lapic *lapic_of(struct vcpu *v)
{
    return __atomic_load_n(&v->lapic, __ATOMIC_ACQUIRE);
}

static inline bool lapic_mode_x2(const struct lapic *l)
{
    return (l->v->cpu.apic_base & (LAPIC_BASE_ENABLE | LAPIC_BASE_X2APIC)) == (LAPIC_BASE_ENABLE | LAPIC_BASE_X2APIC);
}

/* lapic.c */
int lapic_create(struct vcpu *v);
void lapic_destroy(struct vcpu *v);
void lapic_reset(struct vcpu *v, bool is_init);
void lapic_lock(struct lapic *l);
void lapic_unlock(struct lapic *l); /* recomputes what the lock-free readers see and requests VREQ_EVENT if something became deliverable */
int lapic_base_set(struct vcpu *v, uint64_t value);
int lapic_peek(struct lapic *l);
int lapic_take(struct lapic *l);
/* Lock held. True if the vector was not yet pending. */
bool lapic_irr_set(struct lapic *l, unsigned vector, bool is_level);
void lapic_lvt_deliver(struct lapic *l, enum lapic_reg lvt);
void lapic_error(struct lapic *l, uint32_t bits);
void lapic_nmi(struct lapic *l);
uint64_t lapic_cr8_get(struct vcpu *v);
void lapic_cr8_set(struct vcpu *v, uint64_t cr8);
int lapic_highest(const uint32_t *words); /* of a 256-bit register, or -1 */

/* vapic.c: nothing without a virtual APIC page. The vCPU's thread or its client's, no lock held. */
void vapic_pull(struct lapic *l);
void vapic_push(struct lapic *l);

/* lapic_reg.c */
int lapic_mmio_read(struct vcpu *v, uint32_t offset, unsigned bytes, void *data);
int lapic_mmio_write(struct vcpu *v, uint32_t offset, unsigned bytes, const void *data);
int lapic_msr_read(struct vcpu *v, uint32_t index, uint64_t *value);
int lapic_msr_write(struct vcpu *v, uint32_t index, uint64_t value);

/* lapic_send.c. > 0 delivered to so many, 0 already pending, -1 nobody took it. No LAPIC lock held. `from` NULL: IOAPIC or MSI. */
int lapic_send(struct vm *vm, struct lapic *from, const struct lapic_msg *msg);
int lapic_accept(struct lapic *l, const struct lapic_msg *msg); /* what one that is a target does: 1, 0 or -1 as above */
bool lapic_is_target(struct lapic *l, struct lapic *from, const struct lapic_msg *msg);
int lapic_msi_send(struct vm *vm, uint64_t address, uint32_t data);
/* Split controllers: the client's IOAPIC is told if one of its pins may wait for this EOI. On the LAPIC's own vCPU, no lock held. */
void lapic_eoi_to_client(struct lapic *l, unsigned vector, bool is_level);

/* lapic_timer.c; lock held except init and fini */
void lapic_timer_init(struct lapic *l);
void lapic_timer_fini(struct lapic *l);
void lapic_timer_stop(struct lapic *l);
void lapic_timer_start(struct lapic *l, uint32_t count); /* count down from it, then from the initial count if periodic */
void lapic_timer_mode_set(struct lapic *l, uint32_t lvt);
void lapic_timer_divide_set(struct lapic *l, uint32_t value);
uint32_t lapic_timer_current(struct lapic *l);
void lapic_timer_deadline_set(struct lapic *l, uint64_t tsc);
void lapic_timer_time_stood(struct vcpu *v, uint64_t ns); /* takes the lock, as the next */
void lapic_timer_time_goes(struct vcpu *v);

/* ---- PIC, IOAPIC, PIT ---------------------------------------------------------------------------------------------------------------------- */

int pic_create(struct vm *vm);
void pic_destroy(struct vm *vm);
int pic_set(struct vm *vm, unsigned pin, unsigned source, bool level);
bool pic_has_intr(struct vm *vm);
int pic_peek(struct vm *vm); /* the vector that pic_take would give, or -1 */
int pic_take(struct vm *vm); /* INTA cycle; -1 if INTR is low */

int ioapic_create(struct vm *vm);
void ioapic_destroy(struct vm *vm);
int ioapic_set(struct vm *vm, unsigned pin, unsigned source, bool level);
void ioapic_eoi(struct lapic *l, unsigned vector, bool is_level);

/* Reads and writes of the ports are in pit_port.c, counting and ticks in pit.c. */
struct pit {
    struct vm *vm;
    pthread_mutex_t lock;
    struct pit_state state;
    struct timer tick_timer, reinject_timer;
    uint64_t tick_n;    /* ticks since channel 0 was loaded */
    uint64_t period_ns; /* if the guest's own is too short; else 0 */
    bool is_ticking;    /* tick_timer is armed for the current load */
    uint32_t create_flags;
    bool is_reinjecting; /* ticks are kept until the guest takes them */
    bool is_acked;       /* the last tick was taken */
    uint32_t pending;    /* ticks to inject after it */
    struct irq_ack_notifier notifier;
    struct bus_region ports, speaker;
};
/* Lock held. */
void pit_load(struct pit *p, unsigned channel, uint32_t count);
void pit_gate_set(struct pit *p, unsigned channel, bool gate);
uint16_t pit_count(const struct pit_channel_state *c, uint64_t now_ns);
bool pit_out(const struct pit_channel_state *c, uint64_t now_ns);
void pit_bus_add(struct pit *p);
void pit_bus_remove(struct pit *p);

void pit_destroy(struct vm *vm);
void pit_unmasked(struct vm *vm); /* the guest unmasked a timer input: a tick lost in the mask is not waited for */

/* ---- paravirtual: clock, steal time, calls (pv*.c) --------------------------------------------------------------------------------------------- */

#define PV_AREA_ENABLED 1ull
#define PV_RENEW_NS 10000000ull /* pages of an unstable clock, and steal time */

/* Bits of CPUID 0x40000001 EAX. */
enum pv_feature {
    PV_CLOCKSOURCE = 0,
    PV_CLOCKSOURCE2 = 3,
    PV_STEAL_TIME = 5,
    PV_EOI = 6,
    PV_UNHALT = 7,
    PV_SEND_IPI = 11,
    PV_POLL_CONTROL = 12,
    PV_SCHED_YIELD = 13
};

struct pv {
    uint64_t wall_clock, system_time, steal_time, pv_eoi, poll_control; /* MSRs */
    bool must_renew, is_stopped;
    /* What the clock page was computed from. */
    uint64_t tsc_offset, tsc_khz;
    int64_t clock_offset_ns;
    uint64_t renewed_ns;
    struct {
        uint64_t ns;        /* when last looked */
        uint64_t run_delay; /* of the thread, then */
        pid_t tid;
        bool is_away; /* the page says so */
    } steal;
};

/* True if the guest may use it: always, unless the client wants its CPUID to decide. */
bool pv_has(const struct vcpu *v, enum pv_feature feature);
int64_t pv_call(struct vcpu *v, uint64_t nr, const uint64_t args[4], bool is_long);

/* pv_steal.c */
int pv_steal_set(struct vcpu *v, struct pv *c, uint64_t value);
bool pv_steal_enter(struct vcpu *v, struct pv *c, uint64_t now_ns);
void pv_steal_sleep(struct vcpu *v, struct pv *c);

#define PV_REFUSED (-EACCES) /* the guest's CPUID says no */
int pvclock_msr_read(struct vcpu *v, uint32_t index, uint64_t *value);
int pvclock_msr_write(struct vcpu *v, uint32_t index, uint64_t value);
bool pvclock_run_enter(struct vcpu *v);
void pvclock_base(struct vm *vm, uint64_t *tsc, uint64_t *ns); /* the pair that all clocks of the VM count from */
void pvclock_sleep(struct vcpu *v);
void pvclock_reset(struct vcpu *v, bool is_init);
void pvclock_destroy(struct vcpu *v);

#endif
