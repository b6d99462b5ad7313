/* SPDX-License-Identifier: MIT */
/*
 * Reference time of the Microsoft hypervisor's guest interface (TLFS, "Timers"): the paravirtual clock's time in units of 100 ns, by MSR or computed by the
 * guest from its TSC and a page that one of its vCPUs keeps right. Runs on a vCPU's thread or for the holder of its lock.
 *
 * Page and MSR are computed from the one (TSC, ns) pair of the VM by the same arithmetic, so that they agree and a page written again says the same. Without an
 * invariant host TSC the page says that it is not valid, and guests take the MSR.
 */
#include "chip/hv_priv.h"

#include "core/time.h"

#define NS_PER_TICK 100
#define TICKS_PER_MS 10000u
#define SEQUENCE_INVALID 0u

typedef unsigned __int128 u128;

struct tsc_page {
    uint32_t sequence, reserved;
    uint64_t scale;
    int64_t offset;
};
_Static_assert(sizeof(struct tsc_page) == 24, "guest ABI");

static uint64_t tsc_khz(const struct vcpu *v)
{
    return v->tsc_khz ? v->tsc_khz : v->vm->tsc_khz;
}

static uint64_t scaled(uint64_t tsc, uint64_t scale)
{
    return (uint64_t)((u128)tsc * scale >> 64);
}

/* time = (tsc * scale >> 64) + offset. False if the TSC cannot say. */
static bool parameters(const struct vcpu *v, uint64_t *scale, int64_t *offset)
{
    uint64_t khz = tsc_khz(v), base_tsc, base_ns;
    if (!pvclock_is_stable(v->vm) || khz <= TICKS_PER_MS)
        return false;
    *scale = (uint64_t)(((u128)TICKS_PER_MS << 64) / khz);
    pvclock_base(v->vm, &base_tsc, &base_ns);
    int64_t base = (int64_t)(base_ns + (uint64_t)v->vm->kvmclock_offset_ns) / NS_PER_TICK;
    uint64_t tsc = vcpu_tsc_at(v, base_tsc);
    /* A guest whose TSC was set to 0 after that moment had a negative one then. */
    *offset = (int64_t)tsc < 0 ? base + (int64_t)scaled(-tsc, *scale) : base - (int64_t)scaled(tsc, *scale);
    return true;
}

uint64_t hv_time(struct vcpu *v)
{
    uint64_t scale;
    int64_t offset;
    if (!parameters(v, &scale, &offset))
        return pvclock_now_ns(v->vm) / NS_PER_TICK;
    return scaled(vcpu_tsc(v), scale) + (uint64_t)offset;
}

/* The lock is held. A reader that meets the invalid sequence takes the MSR; one that meets two different ones tries again. */
static void page_write(struct vcpu *v, struct hv *h)
{
    struct vm *vm = v->vm;
    struct tsc_page page = { 0 };
    gpa_t gpa = atomic_load(&h->tsc_page) & ~(gpa_t)PAGE_OFFSET_MASK;
    uint32_t invalid = SEQUENCE_INVALID, sequence;
    h->page.must_write = false;
    h->page.owner = v->id;
    h->page.tsc_offset = v->cpu.tsc_offset;
    h->page.tsc_khz = v->tsc_khz;
    h->page.clock_offset_ns = vm->kvmclock_offset_ns;
    if (vm_read(vm, gpa, &sequence, sizeof(sequence)))
        return;
    vm_write(vm, gpa, &invalid, sizeof(invalid));
    atomic_thread_fence(memory_order_seq_cst);
    if (!parameters(v, &page.scale, &page.offset))
        return;
    vm_write(vm, gpa, &page, sizeof(page));
    atomic_thread_fence(memory_order_seq_cst);
    sequence++;
    if (sequence == SEQUENCE_INVALID || sequence == UINT32_MAX) /* the latter was invalid in older versions */
        sequence = 1;
    vm_write(vm, gpa, &sequence, sizeof(sequence));
}

/* The guest may read its page with the next instruction; a client restores MSRs in any order, then the next run writes it. */
void hv_time_page_set(struct vcpu *v, struct hv *h, uint64_t msr)
{
    atomic_store(&h->tsc_page, msr);
    h->page.must_write = true;
    if ((msr & HV_PAGE_ENABLED) && atomic_load(&v->is_running))
        page_write(v, h);
}

void hv_time_run_enter(struct vcpu *v)
{
    struct hv *h = hv_of(v->vm);
    if (!h || !(atomic_load_explicit(&h->tsc_page, memory_order_relaxed) & HV_PAGE_ENABLED))
        return;
    pthread_mutex_lock(&h->lock);
    bool is_moved = h->page.owner == v->id && (h->page.tsc_offset != v->cpu.tsc_offset || h->page.tsc_khz != v->tsc_khz);
    if (h->page.must_write || is_moved || h->page.clock_offset_ns != v->vm->kvmclock_offset_ns)
        page_write(v, h);
    pthread_mutex_unlock(&h->lock);
}
