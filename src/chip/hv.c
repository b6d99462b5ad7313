/* SPDX-License-Identifier: MIT */
/*
 * Synthetic MSRs of the Microsoft hypervisor's guest interface (TLFS, "Partition Properties" and on) and the state behind them: some are the VM's, under
 * hv.lock, the others a vCPU's, for its thread or the holder of its lock. A client reads and writes them whether or not its guest may.
 */
#include "chip/hv_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "core/exit.h"

#define MSR_GUEST_OS_ID 0x40000000u
#define MSR_HYPERCALL 0x40000001u
#define MSR_VP_INDEX 0x40000002u
#define MSR_RESET 0x40000003u
#define MSR_VP_RUNTIME 0x40000010u
#define MSR_TIME_REF_COUNT 0x40000020u
#define MSR_REFERENCE_TSC 0x40000021u
#define MSR_TSC_FREQUENCY 0x40000022u
#define MSR_APIC_FREQUENCY 0x40000023u
#define MSR_EOI 0x40000070u
#define MSR_ICR 0x40000071u
#define MSR_TPR 0x40000072u
#define MSR_VP_ASSIST_PAGE 0x40000073u
#define MSR_CRASH_P0 0x40000100u
#define MSR_CRASH_P4 0x40000104u
#define MSR_CRASH_CTL 0x40000105u

#define LEAF_INTERFACE 0x40000001u
#define INTERFACE 0x31237648u /* "Hv#1" */
#define APIC_HZ 1000000000ull
#define NS_PER_S 1000000000ull

/* VMCALL; RET. VMMCALL is the same here. */
static const uint8_t call_code[] = { 0x0f, 0x01, 0xc1, 0xc3 };

/* ---- state ---------------------------------------------------------------------------------------------------------------------------------- */

static struct hv *hv_get(struct vm *vm)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct hv *h = hv_of(vm);
    if (h)
        return h;
    pthread_mutex_lock(&lock);
    h = hv_of(vm);
    if (!h && (h = calloc(1, sizeof(*h))) != NULL) {
        pthread_mutex_init(&h->lock, NULL);
        __atomic_store_n(&vm->hv, h, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&lock);
    return h;
}

static struct hv_vcpu *hv_vcpu_get(struct vcpu *v)
{
    struct hv_vcpu *c = hv_vcpu_of(v);
    if (!c && (c = calloc(1, sizeof(*c))) != NULL) {
        atomic_store(&c->vp_index, v->id);
        __atomic_store_n(&v->hv, c, __ATOMIC_RELEASE);
    }
    return c;
}

void hv_vm_destroy(struct vm *vm)
{
    struct hv *h = hv_of(vm);
    if (h)
        pthread_mutex_destroy(&h->lock);
    free(h);
    vm->hv = NULL;
}

void hv_vcpu_destroy(struct vcpu *v)
{
    free(v->hv);
    v->hv = NULL;
}

bool hv_is_offered(const struct vcpu *v)
{
    for (unsigned i = 0; i < v->n_cpuid; i++)
        if (v->cpuid[i].function == LEAF_INTERFACE)
            return v->cpuid[i].eax == INTERFACE;
    return false;
}

bool hv_is_msr(uint32_t index)
{
    return index >= MSR_GUEST_OS_ID && index <= MSR_CRASH_CTL;
}

/* ---- the VM's ------------------------------------------------------------------------------------------------------------------------------- */

/* Without an identity the page stays as it is: off. */
static int call_page_set(struct vcpu *v, struct hv *h, uint64_t value)
{
    if (!atomic_load(&h->os_id))
        return 0;
    if (value & HV_PAGE_ENABLED) {
        if (vm_write(v->vm, value & ~(uint64_t)PAGE_OFFSET_MASK, call_code, sizeof(call_code)))
            return -EINVAL;
        /* Code that is written by nobody's CPU: translations of what was there are looked at again. */
        atomic_fetch_add(&v->vm->client_epoch, 1);
        vcpu_request(v, VREQ_EVENT);
    }
    h->call_page = value;
    return 0;
}

static void system_event(struct vcpu *v, enum system_event what)
{
    v->system_event = what;
    vcpu_request(v, VREQ_EVENT);
}

static int crash_control_set(struct vcpu *v, struct hv *h, uint64_t value, bool is_host)
{
    if (is_host)
        h->crash_control = value & HV_CRASH_NOTIFY;
    else if (value & HV_CRASH_NOTIFY)
        system_event(v, SYSTEM_EVENT_CRASH);
    return 0;
}

static int vm_msr_read(struct vcpu *v, struct hv *h, uint32_t index, uint64_t *value)
{
    switch (index) {
    case MSR_GUEST_OS_ID:
        *value = atomic_load(&h->os_id);
        return 0;
    case MSR_HYPERCALL:
        *value = h->call_page;
        return 0;
    case MSR_RESET:
        *value = 0;
        return 0;
    case MSR_TIME_REF_COUNT:
        *value = hv_time(v);
        return 0;
    case MSR_REFERENCE_TSC:
        *value = atomic_load(&h->tsc_page);
        return 0;
    case MSR_CRASH_CTL:
        *value = h->crash_control;
        return 0;
    default:
        *value = h->crash[index - MSR_CRASH_P0];
        return 0;
    }
}

static int vm_msr_write(struct vcpu *v, struct hv *h, uint32_t index, uint64_t value, bool is_host)
{
    switch (index) {
    case MSR_GUEST_OS_ID:
        atomic_store(&h->os_id, value);
        if (!value)
            h->call_page &= ~HV_PAGE_ENABLED;
        return 0;
    case MSR_HYPERCALL:
        return call_page_set(v, h, value);
    case MSR_RESET:
        if (value == 1 && !is_host)
            system_event(v, SYSTEM_EVENT_RESET);
        return 0;
    case MSR_TIME_REF_COUNT: /* a client writes back what it saved; the clock that it follows is set elsewhere */
        return is_host ? 0 : -EINVAL;
    case MSR_REFERENCE_TSC:
        hv_time_page_set(v, h, value);
        return 0;
    case MSR_CRASH_CTL:
        return crash_control_set(v, h, value, is_host);
    default:
        h->crash[index - MSR_CRASH_P0] = value;
        return 0;
    }
}

/* ---- a vCPU's ------------------------------------------------------------------------------------------------------------------------------- */

/* Processor time of the thread that runs it, in 100 ns. Another thread's look shows no less than what was seen before. */
static uint64_t runtime(struct hv_vcpu *c)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    uint64_t now = ((uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec) / 100;
    if (now > c->runtime_last)
        c->runtime_last = now;
    return c->runtime_last + c->runtime_offset;
}

static int apic_read(struct vcpu *v, enum lapic_reg reg, uint64_t *value)
{
    struct lapic *l = lapic_of(v);
    uint32_t word = 0;
    if (!l)
        return -EINVAL;
    if (lapic_mode_x2(l))
        return lapic_msr_read(v, MSR_X2APIC_FIRST + reg, value);
    if (lapic_mmio_read(v, (uint32_t)reg << 4, sizeof(word), &word))
        return -EINVAL;
    *value = word;
    if (reg != LREG_ICR)
        return 0;
    lapic_mmio_read(v, LREG_ICR2 << 4, sizeof(word), &word);
    *value |= (uint64_t)word << 32;
    return 0;
}

static int apic_write(struct vcpu *v, enum lapic_reg reg, uint64_t value)
{
    struct lapic *l = lapic_of(v);
    uint32_t low = (uint32_t)value, high = (uint32_t)(value >> 32);
    if (!l)
        return -EINVAL;
    if (reg != LREG_ICR && high)
        return -EINVAL;
    if (lapic_mode_x2(l))
        return lapic_msr_write(v, MSR_X2APIC_FIRST + reg, reg == LREG_EOI ? 0 : value);
    if (reg == LREG_ICR)
        lapic_mmio_write(v, LREG_ICR2 << 4, sizeof(high), &high);
    return lapic_mmio_write(v, (uint32_t)reg << 4, sizeof(low), &low) ? -EINVAL : 0;
}

/* Its first word would save the guest EOIs; it stays 0, so the guest writes them all. The rest of the page is the guest's. */
static int assist_page_set(struct vcpu *v, struct hv_vcpu *c, uint64_t value)
{
    const uint32_t none = 0;
    if ((value & HV_PAGE_ENABLED) && vm_write(v->vm, value & ~(uint64_t)PAGE_OFFSET_MASK, &none, sizeof(none)))
        return -EINVAL;
    c->assist_page = value;
    return 0;
}

static int vcpu_msr_get(struct vcpu *v, uint32_t index, uint64_t *value)
{
    struct hv_vcpu *c = hv_vcpu_get(v);
    if (!c)
        return -ENOENT;
    switch (index) {
    case MSR_VP_INDEX:
        *value = atomic_load(&c->vp_index);
        return 0;
    case MSR_VP_RUNTIME:
        *value = runtime(c);
        return 0;
    case MSR_TSC_FREQUENCY:
        *value = (v->tsc_khz ? v->tsc_khz : v->vm->tsc_khz) * 1000;
        return 0;
    case MSR_APIC_FREQUENCY:
        *value = APIC_HZ;
        return 0;
    case MSR_EOI:
        return apic_read(v, LREG_EOI, value);
    case MSR_ICR:
        return apic_read(v, LREG_ICR, value);
    case MSR_TPR:
        return apic_read(v, LREG_TPR, value);
    case MSR_VP_ASSIST_PAGE:
        *value = c->assist_page;
        return 0;
    default:
        return -ENOENT;
    }
}

static int vcpu_msr_set(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    struct hv_vcpu *c = hv_vcpu_get(v);
    if (!c)
        return -ENOENT;
    switch (index) {
    case MSR_VP_INDEX:
        if (!is_host || value >= VM_VCPU_IDS)
            return -EINVAL;
        atomic_store(&c->vp_index, (uint32_t)value);
        return 0;
    case MSR_VP_RUNTIME:
        if (!is_host)
            return -EINVAL;
        c->runtime_offset += value - runtime(c);
        return 0;
    case MSR_TSC_FREQUENCY:
    case MSR_APIC_FREQUENCY:
        return is_host ? 0 : -EINVAL;
    case MSR_EOI:
        return apic_write(v, LREG_EOI, value);
    case MSR_ICR:
        return apic_write(v, LREG_ICR, value);
    case MSR_TPR:
        return apic_write(v, LREG_TPR, value);
    case MSR_VP_ASSIST_PAGE:
        return assist_page_set(v, c, value);
    default:
        return -ENOENT;
    }
}

/* ---- both ----------------------------------------------------------------------------------------------------------------------------------- */

static bool is_of_vm(uint32_t index)
{
    return index <= MSR_HYPERCALL || index == MSR_RESET || index == MSR_TIME_REF_COUNT || index == MSR_REFERENCE_TSC || index >= MSR_CRASH_P0;
}

int hv_msr_read(struct vcpu *v, uint32_t index, uint64_t *value, bool is_host)
{
    if (!is_host && !(hv_is_offered(v) && hv_allows_msr(v, index)))
        return -EINVAL;
    if (!is_of_vm(index))
        return vcpu_msr_get(v, index, value);
    struct hv *h = hv_get(v->vm);
    if (!h)
        return -ENOENT;
    pthread_mutex_lock(&h->lock);
    int r = vm_msr_read(v, h, index, value);
    pthread_mutex_unlock(&h->lock);
    return r;
}

int hv_msr_write(struct vcpu *v, uint32_t index, uint64_t value, bool is_host)
{
    if (!is_host && !(hv_is_offered(v) && hv_allows_msr(v, index)))
        return -EINVAL;
    if (!is_of_vm(index))
        return vcpu_msr_set(v, index, value, is_host);
    struct hv *h = hv_get(v->vm);
    if (!h)
        return -ENOENT;
    pthread_mutex_lock(&h->lock);
    int r = vm_msr_write(v, h, index, value, is_host);
    pthread_mutex_unlock(&h->lock);
    return r;
}
