/* SPDX-License-Identifier: MIT */
/*
 * The table of KVM calls and the one way through it: find the entry by kind of fd and request number, copy the argument in, take the vCPU's lock, call, copy
 * out. The coverage page is printed from this table, so a call exists only if it stands here.
 */
#include <string.h>

#include "base/log.h"
#include "core/hold.h"
#include "front/kvm/front_priv.h"

#define G1 KVM_GENERATION_2007
#define G2 KVM_GENERATION_TODAY
#define BOTH (G1 | G2)
#define DEVICE(req, gen, cap, arg, fn)                       \
    {                                                        \
        KVM_FD_DEVICE, (uint32_t)(req), #req, gen, cap, arg, \
        {                                                    \
            .device = fn                                     \
        }                                                    \
    }
#define VM(req, gen, cap, arg, fn)                       \
    {                                                    \
        KVM_FD_VM, (uint32_t)(req), #req, gen, cap, arg, \
        {                                                \
            .vm = fn                                     \
        }                                                \
    }
#define VCPU(req, gen, cap, arg, fn)                       \
    {                                                      \
        KVM_FD_VCPU, (uint32_t)(req), #req, gen, cap, arg, \
        {                                                  \
            .vcpu = fn                                     \
        }                                                  \
    }
#define NONE KVM_ARG_NONE
#define VALUE KVM_ARG_VALUE
#define STRUCT KVM_ARG_STRUCT
#define IN KVM_ARG_IN
#define RAW KVM_ARG_RAW

/* clang-format off */
static const struct kvm_call calls[] = {
    DEVICE(KVM_GET_API_VERSION,            BOTH, "",                 NONE,   kvm_device_api_version),
    DEVICE(KVM_CREATE_VM,                  BOTH, "",                 VALUE,  kvm_device_create_vm),
    DEVICE(KVM_CHECK_EXTENSION,            BOTH, "",                 VALUE,  kvm_device_check_extension),
    DEVICE(KVM_GET_VCPU_MMAP_SIZE,         BOTH, "",                 NONE,   kvm_device_mmap_size),
    DEVICE(KVM_GET_MSR_INDEX_LIST,         BOTH, "",                 RAW,    kvm_device_msr_index_list),
    DEVICE(KVM_GET_MSR_FEATURE_INDEX_LIST, G2,   "GET_MSR_FEATURES", RAW,    kvm_device_msr_feature_list),
    DEVICE(KVM_GET_MSRS,                   G2,   "GET_MSR_FEATURES", RAW,    kvm_device_get_msrs),
    DEVICE(KVM_GET_SUPPORTED_CPUID,        G2,   "EXT_CPUID",        RAW,    kvm_device_supported_cpuid),
    DEVICE(KVM_GET_EMULATED_CPUID,         G2,   "EXT_EMUL_CPUID",   RAW,    kvm_device_emulated_cpuid),
    DEVICE(KVM_GET_SUPPORTED_HV_CPUID,     G2,   "SYS_HYPERV_CPUID", RAW,    kvm_device_hv_cpuid),
    DEVICE(KVM_X86_GET_MCE_CAP_SUPPORTED,  G2,   "MCE",              STRUCT, kvm_device_mce_cap),
    DEVICE(KVM_HAS_DEVICE_ATTR,            G2,   "SYS_ATTRIBUTES",   STRUCT, kvm_device_has_attr),
    DEVICE(KVM_GET_DEVICE_ATTR,            G2,   "SYS_ATTRIBUTES",   STRUCT, kvm_device_get_attr),

    VM(KVM2007_SET_MEMORY_REGION,          G1,   "",                 STRUCT, kvm_memory_set_2007),
    VM(KVM2007_SET_MEMORY_ALIAS,           G1,   "",                 STRUCT, kvm_memory_set_alias),
    VM(KVM_SET_USER_MEMORY_REGION,         G2,   "USER_MEMORY",      STRUCT, kvm_memory_set_user),
    VM(KVM_SET_USER_MEMORY_REGION2,        G2,   "USER_MEMORY2",     STRUCT, kvm_memory_set_user2),
    VM(KVM_GET_DIRTY_LOG,                  BOTH, "",                 STRUCT, kvm_dirty_get),
    VM(KVM_CLEAR_DIRTY_LOG,                G2,   "MANUAL_DIRTY_LOG_PROTECT2", STRUCT, kvm_dirty_clear),
    VM(KVM_RESET_DIRTY_RINGS,              G2,   "DIRTY_LOG_RING",   VALUE,  kvm_dirty_reset_rings),
    VM(KVM_CREATE_VCPU,                    BOTH, "",                 VALUE,  kvm_vm_create_vcpu),
    VM(KVM_CHECK_EXTENSION,                G2,   "CHECK_EXTENSION_VM", VALUE, kvm_capability_check_vm),
    VM(KVM_ENABLE_CAP,                     G2,   "ENABLE_CAP_VM",    STRUCT, kvm_capability_enable_vm),
    VM(KVM_SET_TSS_ADDR,                   G2,   "SET_TSS_ADDR",     VALUE,  kvm_vm_set_tss_addr),
    VM(KVM_SET_IDENTITY_MAP_ADDR,          G2,   "SET_IDENTITY_MAP_ADDR", STRUCT, kvm_vm_set_identity_map),
    VM(KVM_SET_BOOT_CPU_ID,                G2,   "SET_BOOT_CPU_ID",  VALUE,  kvm_vm_set_boot_cpu),
    VM(KVM_SET_NR_MMU_PAGES,               G2,   "MMU_SHADOW_CACHE_CONTROL", VALUE, kvm_vm_set_mmu_pages),
    VM(KVM_GET_CLOCK,                      G2,   "ADJUST_CLOCK",     STRUCT, kvm_vm_get_clock),
    VM(KVM_SET_CLOCK,                      G2,   "ADJUST_CLOCK",     STRUCT, kvm_vm_set_clock),
    VM(KVM_GET_TSC_KHZ,                    G2,   "VM_TSC_CONTROL",   NONE,   kvm_vm_get_tsc_khz),
    VM(KVM_SET_TSC_KHZ,                    G2,   "VM_TSC_CONTROL",   VALUE,  kvm_vm_set_tsc_khz),
    VM(KVM_CREATE_DEVICE,                  G2,   "",                 STRUCT, kvm_vm_create_device),
    VM(KVM_CREATE_IRQCHIP,                 G2,   "IRQCHIP",          NONE,   kvm_chips_create_irqchip),
    VM(KVM_GET_IRQCHIP,                    G2,   "IRQCHIP",          STRUCT, kvm_chips_get_irqchip),
    VM(KVM_SET_IRQCHIP,                    G2,   "IRQCHIP",          IN,     kvm_chips_set_irqchip),
    VM(KVM_CREATE_PIT,                     G2,   "PIT",              NONE,   kvm_chips_create_pit),
    VM(KVM_CREATE_PIT2,                    G2,   "PIT2",             STRUCT, kvm_chips_create_pit2),
    VM(KVM_GET_PIT,                        G2,   "PIT",              STRUCT, kvm_chips_get_pit),
    VM(KVM_SET_PIT,                        G2,   "PIT",              IN,     kvm_chips_set_pit),
    VM(KVM_GET_PIT2,                       G2,   "PIT_STATE2",       STRUCT, kvm_chips_get_pit2),
    VM(KVM_SET_PIT2,                       G2,   "PIT_STATE2",       STRUCT, kvm_chips_set_pit2),
    VM(KVM_REINJECT_CONTROL,               G2,   "REINJECT_CONTROL", RAW,    kvm_chips_reinject),
    VM(KVM_IRQ_LINE,                       G2,   "IRQCHIP",          STRUCT, kvm_irq_line),
    VM(KVM_IRQ_LINE_STATUS,                G2,   "IRQ_INJECT_STATUS", STRUCT, kvm_irq_line_status),
    VM(KVM_SET_GSI_ROUTING,                G2,   "IRQ_ROUTING",      RAW,    kvm_irq_set_routing),
    VM(KVM_SIGNAL_MSI,                     G2,   "SIGNAL_MSI",       STRUCT, kvm_irq_signal_msi),
    VM(KVM_X86_SET_MSR_FILTER,             G2,   "X86_MSR_FILTER",   STRUCT, kvm_msr_filter_set),
    VM(KVM_GET_STATS_FD,                   G2,   "BINARY_STATS_FD",  VALUE,  kvm_stats_get_vm),
    VM(KVM_IRQFD,                          G2,   "IRQFD",            STRUCT, kvm_eventfd_irqfd),
    VM(KVM_IOEVENTFD,                      G2,   "IOEVENTFD",        STRUCT, kvm_eventfd_ioeventfd),
    VM(KVM_REGISTER_COALESCED_MMIO,        G2,   "COALESCED_MMIO",   STRUCT, kvm_eventfd_coalesce),
    VM(KVM_UNREGISTER_COALESCED_MMIO,      G2,   "COALESCED_MMIO",   STRUCT, kvm_eventfd_uncoalesce),

    VCPU(KVM_RUN,                          BOTH, "",                 NONE,   kvm_run_handle),
    VCPU(KVM_GET_REGS,                     BOTH, "",                 STRUCT, kvm_regs_handle_get),
    VCPU(KVM_SET_REGS,                     BOTH, "",                 STRUCT, kvm_regs_handle_set),
    VCPU(KVM_GET_SREGS,                    BOTH, "",                 STRUCT, kvm_sregs_handle_get),
    VCPU(KVM_SET_SREGS,                    BOTH, "",                 STRUCT, kvm_sregs_handle_set),
    VCPU(KVM_GET_SREGS2,                   G2,   "SREGS2",           STRUCT, kvm_sregs_handle_get2),
    VCPU(KVM_SET_SREGS2,                   G2,   "SREGS2",           STRUCT, kvm_sregs_handle_set2),
    VCPU(KVM_TRANSLATE,                    BOTH, "",                 STRUCT, kvm_regs_translate),
    VCPU(KVM_INTERRUPT,                    BOTH, "",                 STRUCT, kvm_events_interrupt),
    VCPU(KVM2007_DEBUG_GUEST,              G1,   "",                 STRUCT, kvm_debug_set_2007),
    VCPU(KVM_SET_GUEST_DEBUG,              G2,   "SET_GUEST_DEBUG",  STRUCT, kvm_debug_set_guest),
    VCPU(KVM_GET_DEBUGREGS,                G2,   "DEBUGREGS",        STRUCT, kvm_debug_get_regs),
    VCPU(KVM_SET_DEBUGREGS,                G2,   "DEBUGREGS",        STRUCT, kvm_debug_set_regs),
    VCPU(KVM_GET_MSRS,                     BOTH, "",                 RAW,    kvm_tables_get_msrs),
    VCPU(KVM_SET_MSRS,                     BOTH, "",                 RAW,    kvm_tables_set_msrs),
    VCPU(KVM_SET_CPUID,                    BOTH, "",                 RAW,    kvm_tables_set_cpuid),
    VCPU(KVM_SET_CPUID2,                   G2,   "EXT_CPUID",        RAW,    kvm_tables_set_cpuid2),
    VCPU(KVM_GET_CPUID2,                   G2,   "EXT_CPUID",        RAW,    kvm_tables_get_cpuid2),
    VCPU(KVM_GET_SUPPORTED_HV_CPUID,       G2,   "HYPERV_CPUID",     RAW,    kvm_tables_get_hv_cpuid),
    VCPU(KVM_SET_SIGNAL_MASK,              BOTH, "",                 RAW,    kvm_events_set_signal_mask),
    VCPU(KVM_GET_FPU,                      BOTH, "",                 STRUCT, kvm_fpu_get),
    VCPU(KVM_SET_FPU,                      BOTH, "",                 STRUCT, kvm_fpu_set),
    VCPU(KVM_GET_XSAVE,                    G2,   "XSAVE",            STRUCT, kvm_fpu_get_xsave),
    VCPU(KVM_GET_XSAVE2,                   G2,   "XSAVE2",           STRUCT, kvm_fpu_get_xsave),
    VCPU(KVM_SET_XSAVE,                    G2,   "XSAVE",            STRUCT, kvm_fpu_set_xsave),
    VCPU(KVM_GET_XCRS,                     G2,   "XCRS",             STRUCT, kvm_fpu_get_xcrs),
    VCPU(KVM_SET_XCRS,                     G2,   "XCRS",             STRUCT, kvm_fpu_set_xcrs),
    VCPU(KVM_GET_VCPU_EVENTS,              G2,   "VCPU_EVENTS",      STRUCT, kvm_events_handle_get),
    VCPU(KVM_SET_VCPU_EVENTS,              G2,   "VCPU_EVENTS",      STRUCT, kvm_events_handle_set),
    VCPU(KVM_NMI,                          G2,   "USER_NMI",         VALUE,  kvm_events_nmi),
    VCPU(KVM_SMI,                          G2,   "X86_SMM",          VALUE,  kvm_events_smi),
    VCPU(KVM_GET_MP_STATE,                 G2,   "MP_STATE",         STRUCT, kvm_events_get_mp_state),
    VCPU(KVM_SET_MP_STATE,                 G2,   "MP_STATE",         STRUCT, kvm_events_set_mp_state),
    VCPU(KVM_X86_SETUP_MCE,                G2,   "MCE",              STRUCT, kvm_events_setup_mce),
    VCPU(KVM_X86_SET_MCE,                  G2,   "MCE",              STRUCT, kvm_events_set_mce),
    VCPU(KVM_GET_LAPIC,                    G2,   "IRQCHIP",          STRUCT, kvm_chips_get_lapic),
    VCPU(KVM_SET_LAPIC,                    G2,   "IRQCHIP",          STRUCT, kvm_chips_set_lapic),
    VCPU(KVM_SET_VAPIC_ADDR,               G2,   "VAPIC",            STRUCT, kvm_chips_set_vapic),
    VCPU(KVM_TPR_ACCESS_REPORTING,         G2,   "VAPIC",            STRUCT, kvm_chips_report_tpr),
    VCPU(KVM_KVMCLOCK_CTRL,                G2,   "KVMCLOCK_CTRL",    VALUE,  kvm_chips_clock_ctrl),
    VCPU(KVM_GET_TSC_KHZ,                  G2,   "GET_TSC_KHZ",      VALUE,  kvm_tables_get_tsc_khz),
    VCPU(KVM_SET_TSC_KHZ,                  G2,   "TSC_CONTROL",      VALUE,  kvm_tables_set_tsc_khz),
    VCPU(KVM_GET_STATS_FD,                 G2,   "BINARY_STATS_FD",  VALUE,  kvm_stats_get_vcpu),
    VCPU(KVM_ENABLE_CAP,                   G2,   "ENABLE_CAP",       STRUCT, kvm_capability_enable_vcpu),
    VCPU(KVM_HAS_DEVICE_ATTR,              G2,   "VCPU_ATTRIBUTES",  STRUCT, kvm_tables_has_attr),
    VCPU(KVM_GET_DEVICE_ATTR,              G2,   "VCPU_ATTRIBUTES",  STRUCT, kvm_tables_get_attr),
    VCPU(KVM_SET_DEVICE_ATTR,              G2,   "VCPU_ATTRIBUTES",  STRUCT, kvm_tables_set_attr),
};
/* clang-format on */
#define N_CALLS (sizeof(calls) / sizeof(calls[0]))

#define ARG_BYTES_MAX 4096
_Static_assert(sizeof(struct kvm_xsave) <= ARG_BYTES_MAX, "largest fixed argument");

const struct kvm_call *kvm_dispatch_table(unsigned *n)
{
    *n = N_CALLS;
    return calls;
}

bool kvm_request_is_run(unsigned long request)
{
    return (uint32_t)request == KVM_RUN;
}

static const struct kvm_call *call_find(enum kvm_fd_kind kind, uint32_t request)
{
    for (unsigned i = 0; i < N_CALLS; i++)
        if (calls[i].request == request && calls[i].kind == kind)
            return &calls[i];
    return NULL;
}

static int refuse(enum kvm_fd_kind kind, uint32_t request)
{
    static const char *const names[] = { "kvm device ioctl", "kvm vm ioctl", "kvm vcpu ioctl", "kvm stats ioctl" };
    refusal_note(names[kind], request);
    return kind == KVM_FD_VM || kind == KVM_FD_STATS ? -ENOTTY : -EINVAL;
}

static int call_handler(const struct kvm_call *call, struct kvm_object *o, struct kvm_arg *a)
{
    switch (call->kind) {
    case KVM_FD_DEVICE:
        return call->handler.device(a);
    case KVM_FD_VM:
        return call->handler.vm(o->vm, a);
    case KVM_FD_VCPU:
    case KVM_FD_STATS:
        break;
    }
    hold_lock(o->vcpu->v);
    int r = call->handler.vcpu(o->vcpu, a);
    hold_unlock(o->vcpu->v);
    return r;
}

/* The request number says how big the argument is and which way it goes. */
static int call_with_struct(const struct kvm_call *call, struct kvm_object *o, struct kvm_arg *a)
{
    _Alignas(64) uint8_t data[ARG_BYTES_MAX];
    unsigned bytes = _IOC_SIZE(call->request), direction = _IOC_DIR(call->request);
    if ((direction & _IOC_WRITE) || call->arg == KVM_ARG_IN) {
        if (user_read(data, a->value, bytes))
            return -EFAULT;
    } else {
        memset(data, 0, bytes);
    }
    a->data = data;
    int r = call_handler(call, o, a);
    if (r >= 0 && (direction & _IOC_READ) && call->arg != KVM_ARG_IN && user_write(a->value, data, bytes))
        return -EFAULT;
    return r;
}

int kvm_ioctl(struct object *base, unsigned long request, unsigned long arg, struct object **created)
{
    struct kvm_object *o = (struct kvm_object *)base /* its first member */;
    struct kvm_arg a = { .value = arg };
    const struct kvm_call *call = call_find(o->kind, (uint32_t)request);
    if (!call)
        return refuse(o->kind, (uint32_t)request);
    if (call->arg == KVM_ARG_NONE && arg)
        return -EINVAL;
    int r = call->arg == KVM_ARG_STRUCT || call->arg == KVM_ARG_IN ? call_with_struct(call, o, &a) : call_handler(call, o, &a);
    *created = a.created;
    return r;
}
