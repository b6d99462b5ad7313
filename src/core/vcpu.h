/* SPDX-License-Identifier: MIT */
/*
 * A virtual CPU: the only home of architectural state. Engines embed struct vcpu as the first member of their own struct
 * (engine_ops.vcpu_bytes tells core how much to allocate) and keep beside it only what they can rebuild.
 *
 * Threads: everything here belongs to the thread that runs the vCPU, or to the holder of `lock` while it does not run,
 * except the fields marked atomic.
 */
#ifndef VITRINE_CORE_VCPU_H
#define VITRINE_CORE_VCPU_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "base/types.h"
#include "core/dirty_ring.h"
#include "core/exit.h"
#include "core/memslot.h"
#include "core/stats.h"
#include "core/watch.h"
#include "x86/regs.h"

struct hold_request;
struct vm;

#define XSAVE_AREA_BYTES 4096
#define MTRR_VAR_COUNT 8
#define CPUID_ENTRIES_MAX 256
#define MCE_BANKS_MAX 32

/* interrupt_shadow bits, as KVM's vcpu events name them */
#define SHADOW_MOV_SS 1u
#define SHADOW_STI 2u

struct cpuid_entry {
    uint32_t function, index, flags; /* flags bit 0: the index is significant */
    uint32_t eax, ebx, ecx, edx;
};

/* Registers. Complete and current whenever C code outside an engine's fast path looks at them. */
struct cpu_state {
    uint64_t gpr[GPR_COUNT];
    uint64_t rip;
    uint64_t rflags;                         /* all bits, bit 1 set */
    struct segment seg[SEG_COUNT], ldtr, tr; /* cpl is seg[SEG_SS].dpl (3 in virtual-8086 mode, 0 in real mode) */
    struct desc_table gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, efer, xcr0;
    uint64_t cr8;       /* used only while the VM has no in-process LAPIC: use vcpu_cr8_get/set */
    uint64_t apic_base; /* MSR 0x1b */
    uint64_t dr[4], dr6, dr7;
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, tsc_aux, misc_enable, spec_ctrl, debugctl, feature_control;
    uint64_t pdpte[4]; /* PAE page-directory pointers, loaded by MOV CR3 and friends */
    uint64_t mtrr_def_type, mtrr_var[2 * MTRR_VAR_COUNT], mtrr_fixed[11];
    uint64_t mcg_cap, mcg_status, mcg_ctl, mc_bank[4 * MCE_BANKS_MAX];
    uint64_t bios_sign_id, arch_capabilities, smbase;
    uint64_t platform_info, smi_count;
    uint64_t tsc_offset, tsc_adjust; /* guest TSC = host TSC * scale + tsc_offset, see core/time.h */
    uint8_t interrupt_shadow;        /* SHADOW_*; cleared after the next instruction */
    bool nmi_masked;
    bool in_smm;
    bool smm_inside_nmi; /* NMIs were masked when the SMI came */
    /* Standard-format XSAVE area: x87, SSE, AVX at 576, AVX-512 and PKRU where the host's CPUID leaf 0xd puts them. */
    _Alignas(64) uint8_t xsave[XSAVE_AREA_BYTES];
};

/* Events waiting to be delivered, as KVM_GET_VCPU_EVENTS shows them. */
struct vcpu_events {
    struct {
        bool pending, has_code, has_payload;
        bool injected; /* while pending: its delivery had begun when the client saved it */
        uint8_t vector;
        uint32_t code;
        uint64_t payload;
    } exception;
    struct {
        bool injected, soft;
        uint8_t vector;
    } interrupt; /* KVM_INTERRUPT or KVM_SET_VCPU_EVENTS */
    struct {
        bool pending;
        uint8_t vector;
    } extint;                     /* split controllers: what the client's PIC acknowledged; waits for LINT0 and RFLAGS.IF */
    _Atomic uint32_t nmi_pending; /* 0-2 */
    _Atomic bool smi_pending;
    _Atomic bool is_kicked; /* another vCPU's paravirtual kick: ends this HLT or the next */
};

enum mp_state { MP_RUNNABLE, MP_UNINITIALIZED, MP_INIT_RECEIVED, MP_HALTED, MP_SIPI_RECEIVED }; /* KVM's numbers 0-4 */

/* Reasons to leave translated code, or'ed into vcpu.requests by any thread, then vcpu_kick. */
enum vreq_bit {
    VREQ_BIT_EVENT, /* look at interrupts, NMI, SMI */
    VREQ_BIT_EXIT,  /* return to the client (immediate_exit, signal) */
    VREQ_BIT_INIT,  /* INIT received; stays while the vCPU is in SMM */
    VREQ_BIT_SIPI,  /* SIPI received, vector in sipi_vector */
    VREQ_BIT_TICK,  /* periodic look at signals */
    VREQ_BIT_CLOCK, /* refresh the paravirtual clock page */
    VREQ_BIT_TRIPLE_FAULT,
    VREQ_BIT_IOAPIC_EOI, /* EXIT_IOAPIC_EOI of eoi_vector is due */
    VREQ_BIT_HOLD,       /* a hold began or ended, or somebody wants to look (core/hold.h) */
    VREQ_BIT_TPR_ACCESS, /* EXIT_TPR_ACCESS of tpr_access is due */
};
#define VREQ_EVENT (1u << VREQ_BIT_EVENT)
#define VREQ_EXIT (1u << VREQ_BIT_EXIT)
#define VREQ_INIT (1u << VREQ_BIT_INIT)
#define VREQ_SIPI (1u << VREQ_BIT_SIPI)
#define VREQ_TICK (1u << VREQ_BIT_TICK)
#define VREQ_CLOCK (1u << VREQ_BIT_CLOCK)
#define VREQ_TRIPLE_FAULT (1u << VREQ_BIT_TRIPLE_FAULT)
#define VREQ_IOAPIC_EOI (1u << VREQ_BIT_IOAPIC_EOI)
#define VREQ_HOLD (1u << VREQ_BIT_HOLD)
#define VREQ_TPR_ACCESS (1u << VREQ_BIT_TPR_ACCESS)

/* What the client asked of guest debugging (KVM_SET_GUEST_DEBUG and its 2007 form). */
struct guest_debug {
    bool enabled, single_step, use_sw_bp, use_hw_bp;
    bool block_events; /* no NMI, SMI or interrupt is delivered */
    uint64_t dr[4], dr7;
};

/* A suspended IN, MMIO read or MSR access: filled by the client between the exit and the next run; the instruction then restarts and takes it. */
#define REPLAY_MAX 16
struct replay_entry {
    gpa_t gpa;
    uint8_t bytes;
    uint8_t data[8];
};
struct replay {
    unsigned n, next; /* recorded reads; how many this execution of the instruction has used */
    struct replay_entry entry[REPLAY_MAX];
    bool io_done; /* an IN/INS exit was completed: io_data holds the client's data */
    uint32_t io_bytes;
    uint8_t io_data[PAGE_BYTES];
    bool msr_done, msr_error; /* a RDMSR or WRMSR exit was completed; with error the instruction faults */
    uint64_t msr_data;
};
/* MMIO writes of a committed instruction that still have to be shown to the client, oldest first. */
#define POSTED_MAX 64
struct posted {
    unsigned n, next;
    struct replay_entry entry[POSTED_MAX];
};

struct vcpu {
    struct cpu_state cpu;
    /* Polled by translated code: non-zero means leave. Atomic; any thread sets, the vCPU's thread clears. */
    _Atomic uint32_t exit_req;
    _Atomic uint32_t requests; /* VREQ_* */

    struct vm *vm;
    uint32_t id;               /* = initial APIC id */
    _Atomic uint32_t mp_state; /* enum mp_state */
    _Atomic uint8_t sipi_vector;
    struct vcpu_events ev;
    struct guest_debug debug;
    uint64_t owed_dr6; /* of a debug exit that comes at the next run, since its instruction left for the client */
    struct vcpu_exit exit;
    struct replay replay;
    struct posted posted;
    struct dirty_ring dirty_ring;
    bool reports_tpr; /* the client wants to see accesses to the LAPIC's TPR */
    struct {
        uint64_t rip; /* of the instruction */
        bool is_write;
    } tpr_access;                   /* of VREQ_TPR_ACCESS; the vCPU's own thread */
    enum system_event system_event; /* the guest asked for it: EXIT_SYSTEM_EVENT is due; the vCPU's own thread */
    bool is_pv_enforced;            /* paravirtual MSRs and calls are only what the guest's CPUID says */
    bool is_hv_enforced;            /* so are the MSRs and calls of the Microsoft hypervisor's interface */
    uint8_t eoi_vector;             /* of VREQ_IOAPIC_EOI; the vCPU's own thread */
    bool want_irq_window;           /* exit with EXIT_IRQ_WINDOW as soon as an external interrupt could be injected */

    struct cpuid_entry cpuid[CPUID_ENTRIES_MAX];
    unsigned n_cpuid;
    uint64_t tsc_khz;

    pthread_mutex_t lock; /* held by KVM_RUN and by every other vCPU call: hold_lock */
    struct {
        pthread_mutex_t mutex; /* of the list and of is_done of what is on it */
        pthread_cond_t done;
        struct hold_request *first;
        _Atomic bool has_requests;
        _Atomic unsigned count;
        _Atomic unsigned n_quiet;
        _Atomic uint32_t steps;  /* that may still be made though it is held */
        _Atomic bool is_stepped; /* hold_step waits for them */
        _Atomic bool is_paused;  /* one of the holds is the user's own, for anyone to end */
    } hold;                      /* core/hold.c */
    _Atomic bool is_blocked;     /* in vcpu_block: kick must also wake the futex */
    _Atomic uint32_t wake;       /* futex word */
    pthread_t thread;            /* of the running KVM_RUN, valid while is_running */
    _Atomic bool is_running;

    /* KVM_SET_SIGNAL_MASK and kvm_run.immediate_exit; written only while the vCPU does not run. */
    sigset_t run_mask;
    bool has_run_mask;
    const volatile uint8_t *immediate_exit; /* the client's byte, or NULL; non-zero asks the run to end */
    int wake_fd, signal_fd;                 /* core's: eventfd that ends vcpu_block; signalfd or -1 */
    sigset_t signal_set;                    /* what signal_fd listens to */
    uint64_t tsc_ratio;                     /* core/time.c: guest over host frequency, 16.48 fixed point; 0 if equal */

    void *lapic;   /* chip's, NULL without an in-process LAPIC */
    void *pvclock; /* chip's */
    void *hv;      /* chip's */
    void *client;  /* the front's */

    uint64_t *stat; /* enum vcpu_stat; here until vcpu_stats_move */
    uint64_t own_stat[VCPU_STAT_COUNT];
    struct watch_vcpu watch;
    _Atomic uint16_t view; /* core/view.h: in which it is; changed between two instructions, or with all vCPUs flushed after */
};

/* vCPU thread: it wrote, or is about to get write access to, this page. Leaves soon if its ring is full. General registers only. */
static inline void vcpu_mark_dirty(struct vcpu *v, const struct memslot *s, gpa_t gpa)
{
    if (!memslot_mark_dirty(s, gpa) || !v->dirty_ring.entry)
        return;
    dirty_ring_push(&v->dirty_ring, s->id, memslot_page(s, gpa));
    if (dirty_ring_is_full(&v->dirty_ring))
        atomic_store(&v->exit_req, 1);
}

/* vCPU thread, or its lock held. */
static inline void vcpu_count(struct vcpu *v, enum vcpu_stat what)
{
    v->stat[what]++;
}

/* For what guest code is left for. */
static inline void vcpu_count_exit(struct vcpu *v, enum vcpu_stat what)
{
    v->stat[STAT_EXITS]++;
    v->stat[what]++;
}

static inline unsigned vcpu_cpl(const struct vcpu *v)
{
    return v->cpu.seg[SEG_SS].dpl;
}

/* The address space that the vCPU sees (core/memslot.h). */
static inline unsigned vcpu_space(const struct vcpu *v)
{
    return v->cpu.in_smm ? SPACE_SMM : SPACE_NORMAL;
}

static inline bool vcpu_is_pae_paging(const struct vcpu *v)
{
    return (v->cpu.cr0 & CR0_PG) && (v->cpu.cr4 & CR4_PAE) && !(v->cpu.efer & EFER_LMA);
}

/* False: a combination that no processor can be in. */
bool vcpu_can_be(const struct vcpu *v, uint64_t cr0, uint64_t cr3, uint64_t cr4, uint64_t efer, bool is_cs_long);
/* From memory, if PAE paging is on and the memory is there: what MOV CR3 does. */
void vcpu_load_pdptes(struct vcpu *v);

/* Allocates a vCPU through the VM's engine, in reset state (SDM vol. 3A, "Processor State After Reset"). -ENOMEM, -EEXIST, -EINVAL. */
int vcpu_create(struct vm *vm, uint32_t id, struct vcpu **out);
/* The last handle of the client went: drops the VM reference that vcpu_create took. The vCPU itself stays until the VM goes, since others may look at it. */
void vcpu_destroy(struct vcpu *v);

/*
 * Client thread, v->lock held: engine_ops.run with is_running, thread and the signal tick kept up. Fronts call this, not the engine.
 * Returns what the engine returns.
 */
int vcpu_run(struct vcpu *v);
/*
 * Async-signal-safe: tells the vCPU that this thread is running, if any, that a signal handler ran, so that the run ends with EINTR. For whoever wraps the
 * client's handlers.
 */
void vcpu_interrupt_own(void);
/* True, once, if a handler ran on this thread since its last run, other than for a signal that ended that: what it wanted may have come too early to be seen.
 */
bool vcpu_was_interrupted(void);
/* Lets the signals come that the processor raises: the engine lives by them, and a fault whose signal is blocked kills the process. */
void vcpu_unblock_faults(void);
/* Adds them to a set, or deletes them: sigaddset or sigdelset. */
void vcpu_faults_of(sigset_t *set, int (*change)(sigset_t *set, int sig));

/*
 * vCPU thread, on VREQ_TICK and before blocking: true if the run has to end with EINTR, because immediate_exit is set or a signal that the run mask
 * unblocks is pending. The signal stays pending for the client's own mask.
 */
bool vcpu_signal_pending(struct vcpu *v);

/* Power-up or INIT state. INIT keeps x87/SSE state, MTRRs, TSC and the like. mp_state is the caller's, power-up and INIT. */
void vcpu_reset(struct vcpu *v, bool is_init);
/* CR4 bits that the guest's CPUID allows; the old ones always, as a client need not set CPUID for a simple guest. */
uint64_t vcpu_cr4_allowed(const struct vcpu *v);
/* The start-up IPI: real mode at vector * 4096. mp_state is the caller's. */
void vcpu_start_at(struct vcpu *v, uint8_t vector);

/* The vCPU's lock is held: an exception without error code, delivered when it runs next. */
void vcpu_queue_exception(struct vcpu *v, uint8_t vector);

/* The vCPU's lock is held, rip is about to be changed: what was suspended belonged to the instruction that is left. */
void vcpu_leave_instruction(struct vcpu *v);

/* Any thread: makes the vCPU leave translated code or wake from HLT soon. */
void vcpu_kick(struct vcpu *v);
/* Any thread: sets VREQ_* bits and kicks. */
void vcpu_request(struct vcpu *v, uint32_t bits);

/*
 * vCPU thread, halted or waiting for SIPI: sleeps until kicked or a signal arrives. Returns 0 or -EINTR
 * (a signal was delivered, or one that the run mask unblocks is pending).
 */
int vcpu_block(struct vcpu *v);

/* The highest external interrupt that could be delivered now with respect to TPR (RFLAGS.IF and shadows are the caller's): vector, or -1. */
int vcpu_irq_peek(struct vcpu *v);
/* True if the client may hand over an interrupt of its own PIC now; RFLAGS.IF and shadows are the caller's. Never with the PIC in process. */
bool vcpu_takes_client_irq(struct vcpu *v);
/* Acknowledges it (moves it to in service): its vector, or -1. */
int vcpu_irq_take(struct vcpu *v);

uint64_t vcpu_cr8_get(struct vcpu *v);
void vcpu_cr8_set(struct vcpu *v, uint64_t cr8); /* 0-15 */

/* CPUID as the guest sees it, dynamic bits (OSXSAVE, APIC id, XSAVE sizes, APIC enable) included. */
void vcpu_cpuid(struct vcpu *v, uint32_t function, uint32_t index, uint32_t out[4] /* eax ebx ecx edx */);
/* True if the guest's CPUID has that bit; reg 0-3 = eax ebx ecx edx. */
bool vcpu_cpuid_has(const struct vcpu *v, uint32_t function, uint32_t index, unsigned reg, unsigned bit);

/*
 * MSRs as RDMSR/WRMSR and KVM_GET/SET_MSRS see them. is_host: by the client, which may set what the guest may not.
 * 0; -ENOENT unknown index (guest: #GP); -EINVAL a value that faults (#GP).
 */
int vcpu_msr_read(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host);
int vcpu_msr_write(struct vcpu *v, uint32_t index, uint64_t value, bool is_host);

/* What the MTRRs say of an address: 0 UC, 1 WC, 4 WT, 5 WP, 6 WB. */
uint8_t vcpu_mtrr_type(const struct vcpu *v, gpa_t gpa);

/* KVM_X86_SETUP_MCE: bank count in bits 0-7 plus MCG_CAP_SUPPORTED bits. -EINVAL. */
#define MCG_CAP_SUPPORTED ((1ull << 8) /* MCG_CTL_P */ | (1ull << 24) /* SER_P */)
int vcpu_mce_setup(struct vcpu *v, uint64_t mcg_cap);

/* Guest TSC now. More of time in core/time.h. */
uint64_t vcpu_tsc(struct vcpu *v);

#endif
