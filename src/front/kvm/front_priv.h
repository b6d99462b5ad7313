/* SPDX-License-Identifier: MIT */
/*
 * Inside the KVM front: what stands behind VM and vCPU fds, and every handler of the table. Handlers of vCPU calls run with vcpu.lock held by the
 * dispatcher; handlers of VM calls that touch memory layout, creation or capabilities take kvm_vm.lock themselves.
 */
#ifndef VITRINE_FRONT_KVM_FRONT_PRIV_H
#define VITRINE_FRONT_KVM_FRONT_PRIV_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include <linux/kvm.h>

#include "abi/kvm2007.h"
#include "abi/kvm_later.h"
#include "base/object.h"
#include "base/user.h"
#include "core/vcpu.h"
#include "core/vm.h"
#include "front/kvm/front.h"

#define KVM_SLOTS 509u /* what KVM_CAP_NR_MEMSLOTS says: of one address space */
#define KVM_RUN_PAGES 3u
#define KVM_DIRTY_RING_BYTES_MAX 0x100000 /* as Linux: 65536 entries */
#define KVM_MAX_MSRS 256u                 /* one call's KVM_GET_MSRS; this many is already too many */

/* One call's argument. data is the dispatcher's copy (KVM_ARG_STRUCT), value the bare argument: a number or the client's address. */
struct kvm_arg {
    uint64_t value;
    void *data;
    struct object *created;
};

/* A memory slot as the client set it; bytes 0 if free. */
struct kvm_region {
    gpa_t gpa;
    uint64_t bytes;
    hva_t hva;
    uint32_t flags; /* KVM_MEM_* */
    bool is_own;    /* generation 2007: hva is our mapping of the VM fd */
};

/* A 2007 alias: shown to core as one slot for each region that its target touches. */
#define KVM_ALIAS_PIECES 8u
struct kvm_alias {
    gpa_t gpa, target;
    uint64_t bytes; /* 0: free */
    unsigned n;     /* pieces now in core */
    struct {
        uint32_t region;     /* slot that it shows */
        uint64_t first_page; /* of that slot */
        uint64_t n_pages;
    } piece[KVM_ALIAS_PIECES];
};

/* A file of counters; map NULL: not asked for yet. */
struct kvm_stats {
    int fd;
    hva_t map;
    uint64_t bytes;
};

struct kvm_vm {
    struct vm *vm;
    _Atomic unsigned refs; /* fd objects: of the VM and of its vCPUs */
    pthread_mutex_t lock;  /* everything below */
    struct kvm_region region[SPACE_COUNT][KVM_SLOTS];
    struct kvm_alias alias[KVM2007_ALIAS_SLOTS];
    uint64_t file_bytes; /* size of the memfd */
    struct kvm_vcpu *vcpu[VM_VCPU_IDS];
    unsigned n_vcpus;
    bool is_2007;              /* the client used SET_MEMORY_REGION */
    uint32_t dirty_log_flags;  /* KVM_DIRTY_LOG_MANUAL_* */
    uint32_t dirty_ring_bytes; /* of each vCPU; 0: bitmaps */
    bool has_exception_payload, has_triple_fault_event;
    uint32_t n_ids;            /* KVM_CAP_MAX_VCPU_ID: vCPU ids are below; 0: not said */
    struct kvm_run *first_run; /* pages and fd waiting for the first vCPU; NULL once it has them */
    int first_run_fd;
    struct kvm_stats stats;
    uint64_t default_tsc_khz; /* KVM_SET_TSC_KHZ on the VM: of vCPUs to come; 0: host's */
};

/* What the next KVM_RUN has to take from kvm_run first. */
enum kvm_completion { KVM_COMPLETE_NONE, KVM_COMPLETE_IN, KVM_COMPLETE_MMIO_READ, KVM_COMPLETE_MSR, KVM_COMPLETE_HYPERCALL };

struct kvm_vcpu {
    struct vcpu *v;
    struct kvm_vm *owner;
    struct kvm_run *run; /* KVM_RUN_PAGES pages, shared with the client */
    hva_t ring;          /* kvm_vm.dirty_ring_bytes, shared too */
    struct kvm_stats stats;
    enum kvm_completion completion;
    uint64_t completion_rip; /* linear; if the client moved the vCPU elsewhere the answer is dropped */
    bool has_deferred_exit;  /* v->exit waits until v->posted has been shown */
};

struct kvm_object {
    struct object base;
    enum kvm_fd_kind kind;
    struct kvm_vm *vm;
    struct kvm_vcpu *vcpu;
    const struct kvm_stats *stats;
};

/* dispatch.c: object_ops.ioctl */
int kvm_ioctl(struct object *base, unsigned long request, unsigned long arg, struct object **created);
/* object.c */
int kvm_object_create_vm(struct object **out);
int kvm_object_create_vcpu(struct kvm_vm *m, uint32_t id, struct object **out);
int kvm_object_create_stats(struct kvm_vm *m, const struct kvm_stats *s, struct object **out);
/* Room for a dirty ring in the file that the first vCPU will get. */
int kvm_object_grow_first_run(struct kvm_vm *m, uint32_t ring_bytes);
/* dirty.c */
int kvm_dirty_enable_ring(struct kvm_vm *m, uint32_t bytes);

static inline void kvm_state_changed(struct kvm_vcpu *c)
{
    c->v->vm->engine->state_changed(c->v);
}

/* run.c */
int kvm_run_handle(struct kvm_vcpu *c, struct kvm_arg *a);
void kvm_run_drop(struct kvm_vcpu *c); /* forgets a suspended access */
/* run_exit.c: v->exit into kvm_run. 0 or what KVM_RUN returns. */
int kvm_exit_encode(struct kvm_vcpu *c);
void kvm_exit_encode_mmio(struct kvm_vcpu *c, gpa_t gpa, unsigned bytes, bool is_write, const uint8_t *data);

/* memory.c. A slot's number names its address space in bits 16-31. */
struct kvm_region *kvm_memory_region(struct kvm_vm *m, uint32_t slot); /* NULL: no such slot */
int kvm_memory_apply(struct kvm_vm *m, uint32_t slot, const struct kvm_region *want);
void kvm_memory_fini(struct kvm_vm *m); /* after the VM is gone */
int kvm_memory_alias_apply(struct kvm_vm *m);
void kvm_memory_alias_withdraw(struct kvm_vm *m);

/* regs.c, sregs.c, events.c: also used for the register block in kvm_run */
void kvm_regs_get(struct kvm_vcpu *c, struct kvm_regs *out);
void kvm_regs_set(struct kvm_vcpu *c, const struct kvm_regs *in);
void kvm_sregs_get(struct kvm_vcpu *c, struct kvm_sregs *out);
int kvm_sregs_set(struct kvm_vcpu *c, const struct kvm_sregs *in);
void kvm_events_get(struct kvm_vcpu *c, struct kvm_vcpu_events *out);
int kvm_events_set(struct kvm_vcpu *c, const struct kvm_vcpu_events *in);

/* capability.c */
int kvm_capability_value(uint32_t number);

/* Handlers, by file. */
#define KVM_DEVICE_HANDLER(name) int name(struct kvm_arg *a)
#define KVM_VM_HANDLER(name) int name(struct kvm_vm *m, struct kvm_arg *a)
#define KVM_VCPU_HANDLER(name) int name(struct kvm_vcpu *c, struct kvm_arg *a)

/* device.c */
KVM_DEVICE_HANDLER(kvm_device_api_version);
KVM_DEVICE_HANDLER(kvm_device_create_vm);
KVM_DEVICE_HANDLER(kvm_device_check_extension);
KVM_DEVICE_HANDLER(kvm_device_mmap_size);
KVM_DEVICE_HANDLER(kvm_device_msr_index_list);
KVM_DEVICE_HANDLER(kvm_device_msr_feature_list);
KVM_DEVICE_HANDLER(kvm_device_get_msrs);
KVM_DEVICE_HANDLER(kvm_device_supported_cpuid);
KVM_DEVICE_HANDLER(kvm_device_emulated_cpuid);
KVM_DEVICE_HANDLER(kvm_device_hv_cpuid);
KVM_DEVICE_HANDLER(kvm_device_mce_cap);
KVM_DEVICE_HANDLER(kvm_device_has_attr);
KVM_DEVICE_HANDLER(kvm_device_get_attr);

/* capability.c */
KVM_VM_HANDLER(kvm_capability_check_vm);
KVM_VM_HANDLER(kvm_capability_enable_vm);
KVM_VCPU_HANDLER(kvm_capability_enable_vcpu);

/* memory.c, memory2007.c, dirty.c */
KVM_VM_HANDLER(kvm_memory_set_user);
KVM_VM_HANDLER(kvm_memory_set_user2);
KVM_VM_HANDLER(kvm_memory_set_2007);
KVM_VM_HANDLER(kvm_memory_set_alias);
KVM_VM_HANDLER(kvm_dirty_get);
KVM_VM_HANDLER(kvm_dirty_clear);
KVM_VM_HANDLER(kvm_dirty_reset_rings);

/* vm_calls.c */
KVM_VM_HANDLER(kvm_vm_create_vcpu);
KVM_VM_HANDLER(kvm_vm_set_tss_addr);
KVM_VM_HANDLER(kvm_vm_set_identity_map);
KVM_VM_HANDLER(kvm_vm_set_boot_cpu);
KVM_VM_HANDLER(kvm_vm_set_mmu_pages);
KVM_VM_HANDLER(kvm_vm_get_clock);
KVM_VM_HANDLER(kvm_vm_set_clock);
KVM_VM_HANDLER(kvm_vm_get_tsc_khz);
KVM_VM_HANDLER(kvm_vm_set_tsc_khz);
KVM_VM_HANDLER(kvm_vm_create_device);

/* stats.c */
void kvm_stats_fini(struct kvm_stats *s);
KVM_VM_HANDLER(kvm_stats_get_vm);
KVM_VCPU_HANDLER(kvm_stats_get_vcpu);

/* msr_filter.c */
KVM_VM_HANDLER(kvm_msr_filter_set);

/* eventfd.c */
KVM_VM_HANDLER(kvm_eventfd_irqfd);
KVM_VM_HANDLER(kvm_eventfd_ioeventfd);
KVM_VM_HANDLER(kvm_eventfd_coalesce);
KVM_VM_HANDLER(kvm_eventfd_uncoalesce);

/* irq.c */
KVM_VM_HANDLER(kvm_irq_line);
KVM_VM_HANDLER(kvm_irq_line_status);
KVM_VM_HANDLER(kvm_irq_set_routing);
KVM_VM_HANDLER(kvm_irq_signal_msi);

/* chips.c */
KVM_VM_HANDLER(kvm_chips_create_irqchip);
KVM_VM_HANDLER(kvm_chips_get_irqchip);
KVM_VM_HANDLER(kvm_chips_set_irqchip);
KVM_VM_HANDLER(kvm_chips_create_pit);
KVM_VM_HANDLER(kvm_chips_create_pit2);
KVM_VM_HANDLER(kvm_chips_get_pit);
KVM_VM_HANDLER(kvm_chips_set_pit);
KVM_VM_HANDLER(kvm_chips_get_pit2);
KVM_VM_HANDLER(kvm_chips_set_pit2);
KVM_VM_HANDLER(kvm_chips_reinject);
KVM_VCPU_HANDLER(kvm_chips_get_lapic);
KVM_VCPU_HANDLER(kvm_chips_set_lapic);
KVM_VCPU_HANDLER(kvm_chips_clock_ctrl);
KVM_VCPU_HANDLER(kvm_chips_set_vapic);
KVM_VCPU_HANDLER(kvm_chips_report_tpr);

/* regs.c, sregs.c */
KVM_VCPU_HANDLER(kvm_regs_handle_get);
KVM_VCPU_HANDLER(kvm_regs_handle_set);
KVM_VCPU_HANDLER(kvm_regs_translate);
KVM_VCPU_HANDLER(kvm_sregs_handle_get);
KVM_VCPU_HANDLER(kvm_sregs_handle_set);
KVM_VCPU_HANDLER(kvm_sregs_handle_get2);
KVM_VCPU_HANDLER(kvm_sregs_handle_set2);

/* fpu.c */
KVM_VCPU_HANDLER(kvm_fpu_get);
KVM_VCPU_HANDLER(kvm_fpu_set);
KVM_VCPU_HANDLER(kvm_fpu_get_xsave);
KVM_VCPU_HANDLER(kvm_fpu_set_xsave);
KVM_VCPU_HANDLER(kvm_fpu_get_xcrs);
KVM_VCPU_HANDLER(kvm_fpu_set_xcrs);

/* events.c */
KVM_VCPU_HANDLER(kvm_events_handle_get);
KVM_VCPU_HANDLER(kvm_events_handle_set);
KVM_VCPU_HANDLER(kvm_events_interrupt);
KVM_VCPU_HANDLER(kvm_events_nmi);
KVM_VCPU_HANDLER(kvm_events_smi);
KVM_VCPU_HANDLER(kvm_events_get_mp_state);
KVM_VCPU_HANDLER(kvm_events_set_mp_state);
KVM_VCPU_HANDLER(kvm_events_set_signal_mask);
KVM_VCPU_HANDLER(kvm_events_setup_mce);
KVM_VCPU_HANDLER(kvm_events_set_mce);

/* debug.c */
KVM_VCPU_HANDLER(kvm_debug_set_guest);
KVM_VCPU_HANDLER(kvm_debug_set_2007);
KVM_VCPU_HANDLER(kvm_debug_get_regs);
KVM_VCPU_HANDLER(kvm_debug_set_regs);

/* tables.c: CPUID, MSRs, TSC */
KVM_VCPU_HANDLER(kvm_tables_set_cpuid);
KVM_VCPU_HANDLER(kvm_tables_set_cpuid2);
KVM_VCPU_HANDLER(kvm_tables_get_cpuid2);
KVM_VCPU_HANDLER(kvm_tables_get_msrs);
KVM_VCPU_HANDLER(kvm_tables_set_msrs);
KVM_VCPU_HANDLER(kvm_tables_get_tsc_khz);
KVM_VCPU_HANDLER(kvm_tables_set_tsc_khz);
KVM_VCPU_HANDLER(kvm_tables_get_hv_cpuid);
KVM_VCPU_HANDLER(kvm_tables_has_attr);
KVM_VCPU_HANDLER(kvm_tables_get_attr);
KVM_VCPU_HANDLER(kvm_tables_set_attr);

#endif
