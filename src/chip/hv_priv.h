/* SPDX-License-Identifier: MIT */
/*
 * The guest interface of the Microsoft hypervisor inside chip/: state of a VM and of a vCPU, both made at first use. "TLFS" is Microsoft's Hypervisor Top Level
 * Functional Specification. hv.c has the state and the MSRs, hv_time.c reference time, hv_call.c and hv_others.c the hypercalls, hv_cpuid.c what is offered,
 * hv_allowed.c what a guest may use of it.
 */
#ifndef VITRINE_CHIP_HV_PRIV_H
#define VITRINE_CHIP_HV_PRIV_H

#include "chip/chip_priv.h"

#define HV_PAGE_ENABLED 1ull
#define HV_CRASH_PARAMETERS 5u
#define HV_CRASH_NOTIFY (1ull << 63)

struct hv {
    pthread_mutex_t lock;
    _Atomic uint64_t os_id; /* 0: no guest has come up, hypercalls are not its own */
    uint64_t call_page;     /* MSRs */
    uint64_t crash[HV_CRASH_PARAMETERS], crash_control;
    _Atomic uint64_t tsc_page;
    struct {
        bool must_write;
        uint32_t owner; /* the vCPU whose TSC it was computed from */
        uint64_t tsc_offset, tsc_khz;
        int64_t clock_offset_ns;
    } page; /* what the reference TSC page says */
};

/* Its vCPU's thread or the holder of its lock; vp_index is read by others. */
struct hv_vcpu {
    _Atomic uint32_t vp_index;
    uint64_t assist_page;
    uint64_t runtime_offset, runtime_last; /* 100 ns */
};

static inline struct hv *hv_of(struct vm *vm)
{
    return __atomic_load_n(&vm->hv, __ATOMIC_ACQUIRE);
}

static inline struct hv_vcpu *hv_vcpu_of(struct vcpu *v)
{
    return __atomic_load_n(&v->hv, __ATOMIC_ACQUIRE);
}

/* hv.c */
bool hv_is_offered(const struct vcpu *v); /* by the guest's CPUID */
int hv_msr_read(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host);
int hv_msr_write(struct vcpu *v, uint32_t index, uint64_t value, bool is_host);
bool hv_is_msr(uint32_t index);
void hv_vm_destroy(struct vm *vm);
void hv_vcpu_destroy(struct vcpu *v);

/* hv_time.c: 100 ns units since the VM was made, the paravirtual clock's time. */
uint64_t hv_time(struct vcpu *v);
void hv_time_page_set(struct vcpu *v, struct hv *h, uint64_t msr);
void hv_time_run_enter(struct vcpu *v);

enum hv_status { HV_SUCCESS = 0, HV_INVALID_CODE = 2, HV_INVALID_INPUT = 3, HV_INVALID_ALIGNMENT = 4, HV_ACCESS_DENIED = 6 };

/* A hypercall's input: the words themselves if it is fast, else where they lie. */
struct hv_input {
    uint64_t first, second;
    unsigned n_variable; /* words of its variable part */
    bool is_fast;
};

/* hv_call.c: see chip_ops.hv_call. */
int hv_call(struct vcpu *v, bool is_long);

/* hv_others.c. is_ex: the form with a set of any vCPUs instead of a mask of the first 64. */
enum hv_status hv_flush(struct vcpu *v, const struct hv_input *in, bool is_ex);
enum hv_status hv_send_ipi(struct vcpu *v, const struct hv_input *in, bool is_ex);

/* hv_allowed.c. What is asked for by its bit in CPUID 0x40000004 EAX. */
enum hv_recommendation { HV_REMOTE_FLUSH = 2, HV_CLUSTER_IPI = 10, HV_EXTENDED_SETS = 11 };
bool hv_allows_msr(const struct vcpu *v, uint32_t index);
bool hv_allows(const struct vcpu *v, enum hv_recommendation what);
bool hv_allows_spin_wait(const struct vcpu *v);

#endif
