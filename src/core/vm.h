/* SPDX-License-Identifier: MIT */
/*
 * A virtual machine: slots, vCPUs, buses, interrupt routing, timers. Fronts create it and call it; engines and chips are reached through tables.
 */
#ifndef VITRINE_CORE_VM_H
#define VITRINE_CORE_VM_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/types.h"
#include "core/bus.h"
#include "core/engine.h"
#include "core/irq.h"
#include "core/memslot.h"
#include "core/stats.h"
#include "core/timer.h"
#include "core/watch.h"

struct msr_filter;
struct vcpu;
struct view_map;

#define VIEWS_MAX 64u    /* of memory, view 0 too (core/view.h) */
#define VM_VCPUS_MAX 64  /* so many at once */
#define VM_VCPU_IDS 4096 /* ids, which are APIC ids: topologies leave gaps */

/* In-process interrupt controllers, implemented by chip/, set by lib; core calls through it. */
struct chip_ops {
    /* KVM_CREATE_IRQCHIP: PIC pair, IOAPIC; then a LAPIC for each existing and future vCPU. */
    int (*irqchip_create)(struct vm *vm);
    void (*irqchip_destroy)(struct vm *vm);
    void (*vm_destroy)(struct vm *vm); /* what else belongs to the VM; its vCPUs are gone */
    int (*lapic_create)(struct vcpu *v);
    void (*lapic_destroy)(struct vcpu *v);
    void (*lapic_reset)(struct vcpu *v, bool is_init);
    int (*irq_peek)(struct vcpu *v); /* LAPIC, then PIC through LINT0: vector or -1 */
    int (*irq_take)(struct vcpu *v);
    bool (*lapic_takes_pic)(struct vcpu *v); /* the CPU's INTR pin, LINT0, is open for a PIC */
    uint64_t (*cr8_get)(struct vcpu *v);
    void (*cr8_set)(struct vcpu *v, uint64_t cr8);
    int (*apic_base_set)(struct vcpu *v, uint64_t value); /* 0 or -EINVAL (#GP) */
    /* x2APIC registers, TSC deadline, KVM paravirtual MSRs. 0, -ENOENT, -EINVAL as vcpu_msr_read. */
    int (*msr_read)(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host);
    int (*msr_write)(struct vcpu *v, uint32_t index, uint64_t value, bool is_host);
    int (*lapic_mmio_read)(struct vcpu *v, uint32_t offset, unsigned bytes, void *data);
    int (*lapic_mmio_write)(struct vcpu *v, uint32_t offset, unsigned bytes, const void *data);
    /* Deliver to the chips (irq.h calls): level of a PIC input 0-15 or an IOAPIC input 0-23; an MSI. Return > 0 delivered, 0 coalesced, < 0 ignored. */
    int (*pic_set)(struct vm *vm, unsigned pin, unsigned source, bool level);
    int (*ioapic_set)(struct vm *vm, unsigned pin, unsigned source, bool level);
    int (*msi_send)(struct vm *vm, uint64_t address, uint32_t data);
    void (*vcpu_sleep)(struct vcpu *v); /* before vcpu_block */
    /* The VM's time stood still for so long: the LAPIC's timer comes so much later, but not before time_goes. */
    void (*time_stood)(struct vcpu *v, uint64_t ns);
    void (*time_goes)(struct vcpu *v);
    /* Before guest code runs, after a stay outside: steal time, clock page. True if the guest asked meanwhile to have this CPU's TLB flushed. */
    bool (*vcpu_run_enter)(struct vcpu *v);
    /* VMCALL of a guest that uses the Microsoft hypervisor's interface, by its registers. -ENOSYS: it does not, ask hypercall; -EPERM: #UD. */
    int (*hv_call)(struct vcpu *v, bool is_long);
    int64_t (*hypercall)(struct vcpu *v, uint64_t nr, const uint64_t args[4], bool is_long); /* VMCALL at privilege 0: the guest's RAX */
};

struct vm {
    const struct engine_ops *engine;
    const struct chip_ops *chip;
    void *engine_data;

    _Atomic(struct memslots *) slots[SPACE_COUNT];
    pthread_mutex_t slots_lock; /* writers of slots */
    /* Readers of slots outside any vCPU's run (vm_read, vm_write on chip and client threads), counted by the parity of slots_epoch; see slots.c. */
    _Atomic unsigned slots_epoch, slots_readers[2];

    struct vcpu *vcpu[VM_VCPU_IDS]; /* published once with a release store, never moved until the VM goes */
    _Atomic unsigned n_vcpus;       /* highest id + 1; ids may have gaps: NULL entries */
    pthread_mutex_t lock;           /* creation of vCPUs, chips, routing changes */

    struct bus pio, mmio;
    struct irq_routing irq;
    struct timer_queue timers;

    bool has_irqchip;       /* PIC, IOAPIC and LAPICs in process */
    bool has_split_irqchip; /* LAPICs only: PIC and IOAPIC are the client's */
    bool has_pit;
    /*
     * How an access is completed that only the client can answer. False: the client answers it and the instruction goes on with that (vcpu.replay,
     * vcpu.posted). True: it is reported before the instruction has changed anything, and the client executes that instruction itself. Elements of INS and OUTS
     * are answered in both. Set before there are vCPUs.
     */
    bool reports_accesses;
    _Atomic bool ignores_unknown_msrs; /* the guest reads zero and writes nothing */
    bool reports_level_eois;           /* EXIT_IOAPIC_EOI for every interrupt that was level-triggered; else only what the client's IOAPIC pins are routed to */
    void *pic, *ioapic, *pit, *hv;     /* chip's */
    uint32_t boot_cpu_id;
    uint64_t tsc_khz; /* host's */
    /* The client's last TSC write, to give vCPUs set one after the other the same offset. */
    struct {
        pthread_mutex_t lock;
        bool is_set;
        uint64_t host_tsc, guest_tsc, offset, tsc_khz;
    } tsc_sync;
    uint64_t tsc_origin; /* host TSC when the VM was made: guest TSC 0 */
    struct {
        _Atomic bool is_on;
        uint64_t tsc, ns; /* host's, when it began */
    } freeze;             /* core/time.h; all vCPUs are held */
    struct {
        struct timer timer;
        _Atomic unsigned users; /* vCPUs in guest code that want VREQ_TICK */
        _Atomic bool is_armed;
    } tick;
    void *ioeventfds, *coalesced; /* core/ioeventfd.c, core/coalesced.c */
    int64_t kvmclock_offset_ns;   /* paravirtual clock = monotonic time + this */
    /* One (host TSC, monotonic ns) pair for the clocks of all vCPUs, taken by chip/pvclock.c at first use; 0: not yet. */
    _Atomic uint64_t clock_base_tsc, clock_base_ns;
    pthread_rwlock_t msr_lock; /* core/msr_guest.c */
    _Atomic(struct msr_filter *) msr_filter;
    _Atomic uint32_t msr_exit_reasons;    /* MSR_REASON_* that the client answers */
    _Atomic bool is_platform_info_hidden; /* from the guest */
    uint32_t x2apic_api_flags;            /* bit 0: 32-bit ids in LAPIC state and MSIs; bit 1: destination 0xff is no broadcast to x2APICs */
    _Atomic uint32_t client_epoch; /* counts what may follow a write of the client to guest memory: its interrupts; engines look at code again when it moved */
    uint64_t *stat;                /* enum vm_stat; here until vm_stats_move */
    uint64_t own_stat[VM_STAT_COUNT];
    _Atomic unsigned n_holds; /* core/hold.c */
    struct {
        _Atomic uint32_t kinds;              /* WATCH_* that somebody wants */
        _Atomic(struct watch_table *) table; /* NULL: no page is watched */
        pthread_mutex_t lock;                /* of questions and answers; see watch.c */
        pthread_mutex_t change;              /* held while who watches what changes, before lock */
        const struct watch_ops *ops;         /* introspect's, as the next three */
        void *listeners;                     /* walked without a lock too, see introspect/listen_priv.h */
        uint64_t listener_bits, last_question;
    } watch;
    struct {
        _Atomic(struct view_map *) map[VIEWS_MAX]; /* core/view.h; NULL: no page of it is special */
        const void *owner[VIEWS_MAX];              /* introspect's, as the next; NULL: there is no such view, but 0 */
        void *holders;
    } view;
    _Atomic bool is_paused; /* one of the holds is the user's own, for anyone to end */
    uint64_t started_ns;    /* CLOCK_REALTIME of its creation */
    uint32_t number;        /* of this VM in the process, from 1, never used again */
    struct vm *next;        /* the list of all */
    _Atomic int refs;
    int fd; /* the memfd behind the VM fd, or -1 */
};

static inline bool vm_has_lapics(const struct vm *vm)
{
    return vm->has_irqchip || vm->has_split_irqchip;
}

/* NULL: there is none. For any thread; below n_vcpus, or VM_VCPU_IDS. */
static inline struct vcpu *vm_vcpu(struct vm *vm, unsigned id)
{
    return __atomic_load_n(&vm->vcpu[id], __ATOMIC_ACQUIRE);
}

int vm_create(const struct engine_ops *engine, const struct chip_ops *chip, struct vm **out);
void vm_get(struct vm *vm);
void vm_put(struct vm *vm); /* last one destroys; no vCPU may be running */
/* For tools, any thread: the VM of the lowest number from `number` on, with a reference for the caller, or NULL. */
struct vm *vm_find(uint32_t number);
struct vm *vm_find_exactly(uint32_t number);

/*
 * Adds, changes, moves or (bytes 0) deletes slot `id`, whose bits 16-31 say in which address space. -EINVAL misaligned, wrapping or no such space, -EEXIST
 * overlap, -ENOENT deleting nothing, -ENOMEM.
 * Returns when every vCPU sees the change. hva must stay valid until the slot goes.
 */
int vm_set_memslot(struct vm *vm, uint32_t id, uint32_t flags, gpa_t gpa, uint64_t bytes, hva_t hva);

/*
 * A page for a tool, where no memory is: of a file, shared, or with fd -1 of zeroes. A slot of the client's that comes there later takes its place. *id names
 * it for its removal. -EINVAL misaligned or too high, -EEXIST, -ENOSPC, -ENOMEM, and what mmap says of the file; -ENOENT it is not there any more. Return as
 * vm_set_memslot.
 */
int vm_add_page(struct vm *vm, gpa_t gpa, int fd, uint64_t offset, uint32_t *id);
int vm_remove_page(struct vm *vm, gpa_t gpa, uint32_t id);

/*
 * The dirty bitmap of a slot, in two halves, so that what the client did not get is not lost: copy it, ceil(pages / 64) words; clear the bits given (bit 0 is
 * first_page) and only those. What is written from then on is reported again. -ENOENT no slot, -EINVAL not logging or out of range.
 */
int vm_peek_dirty_log(struct vm *vm, uint32_t id, uint64_t *bitmap);
int vm_clear_dirty_log(struct vm *vm, uint32_t id, uint64_t first_page, uint64_t n_pages, const uint64_t *bitmap);
/* Pages of a slot, 0 if there is no such slot: for sizing the bitmap. */
uint64_t vm_memslot_pages(struct vm *vm, uint32_t id);

/* Guest-physical copies for chips and tools; dirty bits are set. 0 or -EFAULT where there is no RAM. Without a space named: SPACE_NORMAL. */
int vm_space_read(struct vm *vm, unsigned space, gpa_t gpa, void *buf, uint64_t bytes);
int vm_space_write(struct vm *vm, unsigned space, gpa_t gpa, const void *buf, uint64_t bytes);

/* Atomic against the guest's own accesses: the byte that was there, or -EFAULT. */
int vm_exchange(struct vm *vm, gpa_t gpa, uint8_t value);

static inline int vm_read(struct vm *vm, gpa_t gpa, void *buf, uint64_t bytes)
{
    return vm_space_read(vm, SPACE_NORMAL, gpa, buf, bytes);
}

static inline int vm_write(struct vm *vm, gpa_t gpa, const void *buf, uint64_t bytes)
{
    return vm_space_write(vm, SPACE_NORMAL, gpa, buf, bytes);
}

#endif
