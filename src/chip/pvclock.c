/* SPDX-License-Identifier: MIT */
/*
 * KVM's paravirtual MSRs: wall clock, system time, PV EOI (accepted, never used: the guest then writes EOI itself, which is correct), poll control (nothing
 * here polls); steal time is in pv_steal.c. Runs on the vCPU's thread; the client's calls come while it does not run (Linux,
 * Documentation/virt/kvm/x86/msr.rst).
 *
 * With an invariant host TSC all vCPUs count from one (TSC, ns) pair in struct vm with one multiplier, so their clocks agree to the nanosecond, and
 * pvclock_now_ns computes the same way. Otherwise each page is renewed from CLOCK_MONOTONIC on the way into the guest.
 */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "chip/chip_priv.h"
#include "core/time.h"

#define MSR_WALL_CLOCK_OLD 0x11u
#define MSR_SYSTEM_TIME_OLD 0x12u
#define MSR_WALL_CLOCK 0x4b564d00u
#define MSR_SYSTEM_TIME 0x4b564d01u
#define MSR_STEAL_TIME 0x4b564d03u
#define MSR_PV_EOI 0x4b564d04u
#define MSR_POLL_CONTROL 0x4b564d05u

#define CLOCK_TSC_STABLE 1u
#define CLOCK_GUEST_STOPPED 2u
#define NS_PER_S 1000000000ull

struct clock_page {
    uint32_t version, pad0;
    uint64_t tsc_timestamp, system_time;
    uint32_t mul;
    int8_t shift;
    uint8_t flags, pad[2];
};
_Static_assert(sizeof(struct clock_page) == 32, "guest ABI");

struct wall_clock {
    uint32_t version, sec, nsec;
};

bool pvclock_is_stable(const struct vm *vm)
{
    static _Atomic int is_invariant = -1;
    int known = atomic_load_explicit(&is_invariant, memory_order_relaxed);
    if (known < 0) {
        unsigned a, b, c, d = 0;
        known = __get_cpuid(0x80000007u, &a, &b, &c, &d) && (d & 1u << 8);
        atomic_store(&is_invariant, known);
    }
    return known && vm->tsc_khz;
}

static struct pv *pvclock_of(struct vcpu *v)
{
    if (!v->pvclock) {
        struct pv *c = calloc(1, sizeof(*c));
        if (c)
            c->poll_control = 1;
        v->pvclock = c;
    }
    return v->pvclock;
}

/* INIT stops the pages too: the memory may belong to another kernel by the time the CPU starts again. */
void pvclock_reset(struct vcpu *v, bool is_init)
{
    struct pv *c = v->pvclock;
    if (!c)
        return;
    c->system_time = c->steal_time = c->pv_eoi = 0;
    if (!is_init)
        *c = (struct pv){ .poll_control = 1 };
}

void pvclock_destroy(struct vcpu *v)
{
    free(v->pvclock);
    v->pvclock = NULL;
}

void pvclock_base(struct vm *vm, uint64_t *tsc, uint64_t *ns)
{
    uint64_t base = atomic_load_explicit(&vm->clock_base_tsc, memory_order_acquire);
    if (!base) {
        static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
        pthread_mutex_lock(&lock);
        base = atomic_load(&vm->clock_base_tsc);
        if (!base) {
            uint64_t now_ns;
            time_sample(&base, &now_ns);
            atomic_store(&vm->clock_base_ns, now_ns);
            atomic_store_explicit(&vm->clock_base_tsc, base, memory_order_release);
        }
        pthread_mutex_unlock(&lock);
    }
    *tsc = base;
    *ns = atomic_load(&vm->clock_base_ns);
}

/* As the guest computes it from its page. */
static uint64_t scale(uint64_t ticks, uint32_t mul, int8_t shift)
{
    ticks = shift < 0 ? ticks >> -shift : ticks << shift;
    return (uint64_t)((unsigned __int128)ticks * mul >> 32);
}

uint64_t pvclock_now_ns(struct vm *vm)
{
    if (!pvclock_is_stable(vm))
        return timer_now_ns() + (uint64_t)vm->kvmclock_offset_ns;
    uint64_t tsc, ns;
    uint32_t mul;
    int8_t shift;
    pvclock_base(vm, &tsc, &ns);
    time_pvclock_scale(vm->tsc_khz, &mul, &shift);
    return ns + scale(time_host_tsc() - tsc, mul, shift) + (uint64_t)vm->kvmclock_offset_ns;
}

void pvclock_set_ns(struct vm *vm, uint64_t ns)
{
    vm->kvmclock_offset_ns = (int64_t)((uint64_t)vm->kvmclock_offset_ns + ns - pvclock_now_ns(vm)); /* any client value: it wraps */
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct vcpu *v = vm_vcpu(vm, i);
        if (v)
            vcpu_request(v, VREQ_CLOCK);
    }
}

int pvclock_mark_stopped(struct vcpu *v)
{
    struct pv *c = v->pvclock;
    if (!c || !(c->system_time & PV_AREA_ENABLED))
        return -EINVAL;
    c->is_stopped = c->must_renew = true;
    vcpu_request(v, VREQ_CLOCK);
    return 0;
}

/* Odd while the rest is being written; other vCPUs' readers try again. Stores of x86 are seen in order, the fence is for the compiler. */
static void page_write(struct vm *vm, gpa_t gpa, unsigned version_at, void *page, unsigned bytes)
{
    uint32_t version = 0;
    if (vm_read(vm, gpa + version_at, &version, 4))
        return;
    version = (version | 1) + (version & 1 ? 2 : 0);
    vm_write(vm, gpa + version_at, &version, 4);
    atomic_thread_fence(memory_order_seq_cst);
    memcpy((char *)page + version_at, &version, 4);
    vm_write(vm, gpa, page, bytes);
    atomic_thread_fence(memory_order_seq_cst);
    version++;
    vm_write(vm, gpa + version_at, &version, 4);
}

static void pvclock_renew(struct vcpu *v, struct pv *c)
{
    struct vm *vm = v->vm;
    struct clock_page page = { 0 };
    uint64_t tsc, ns;
    bool is_stable = pvclock_is_stable(vm);
    if (is_stable)
        pvclock_base(vm, &tsc, &ns);
    else
        time_sample(&tsc, &ns);
    c->tsc_offset = v->cpu.tsc_offset;
    c->tsc_khz = v->tsc_khz;
    c->clock_offset_ns = vm->kvmclock_offset_ns;
    c->renewed_ns = timer_now_ns();
    page.tsc_timestamp = vcpu_tsc_at(v, tsc);
    page.system_time = ns + (uint64_t)vm->kvmclock_offset_ns;
    time_pvclock_scale(v->tsc_khz ? v->tsc_khz : vm->tsc_khz, &page.mul, &page.shift);
    /* A scaled TSC has its own rounding: vCPUs would agree only nearly. */
    if (is_stable && (!v->tsc_khz || v->tsc_khz == vm->tsc_khz))
        page.flags |= CLOCK_TSC_STABLE;
    gpa_t gpa = c->system_time & ~PV_AREA_ENABLED;
    struct clock_page old;
    /* The guest clears the mark when it has seen it. */
    if (c->is_stopped || (vm_read(vm, gpa, &old, sizeof(old)) == 0 && (old.version && !(old.version & 1)) && (old.flags & CLOCK_GUEST_STOPPED)))
        page.flags |= CLOCK_GUEST_STOPPED;
    c->is_stopped = c->must_renew = false;
    page_write(vm, gpa, 0, &page, sizeof(page));
}

static void wall_clock_write(struct vm *vm, gpa_t gpa)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    uint64_t boot_ns = (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec - pvclock_now_ns(vm);
    struct wall_clock wc = { .sec = (uint32_t)(boot_ns / NS_PER_S), .nsec = (uint32_t)(boot_ns % NS_PER_S) };
    page_write(vm, gpa, 0, &wc, sizeof(wc));
}

bool pvclock_run_enter(struct vcpu *v)
{
    struct pv *c = v->pvclock;
    if (!c || !((c->system_time | c->steal_time) & PV_AREA_ENABLED))
        return false;
    bool is_stable = pvclock_is_stable(v->vm);
    uint64_t now = (c->steal_time & PV_AREA_ENABLED) || !is_stable ? timer_now_ns() : 0;
    if ((c->system_time & PV_AREA_ENABLED) && (c->must_renew || c->tsc_offset != v->cpu.tsc_offset || c->tsc_khz != v->tsc_khz ||
                                               c->clock_offset_ns != v->vm->kvmclock_offset_ns || (!is_stable && now - c->renewed_ns >= PV_RENEW_NS)))
        pvclock_renew(v, c);
    return pv_steal_enter(v, c, now);
}

void pvclock_sleep(struct vcpu *v)
{
    struct pv *c = v->pvclock;
    if (c)
        pv_steal_sleep(v, c);
}

/* Which feature a paravirtual MSR belongs to, or -ENOENT. */
static int pvclock_feature(uint32_t index)
{
    switch (index) {
    case MSR_WALL_CLOCK_OLD:
    case MSR_SYSTEM_TIME_OLD:
        return PV_CLOCKSOURCE;
    case MSR_WALL_CLOCK:
    case MSR_SYSTEM_TIME:
        return PV_CLOCKSOURCE2;
    case MSR_STEAL_TIME:
        return PV_STEAL_TIME;
    case MSR_PV_EOI:
        return PV_EOI;
    case MSR_POLL_CONTROL:
        return PV_POLL_CONTROL;
    default:
        return -ENOENT;
    }
}

int pvclock_msr_read(struct vcpu *v, uint32_t index, uint64_t *value)
{
    const struct pv *c = v->pvclock;
    int feature = pvclock_feature(index);
    if (feature < 0)
        return feature;
    if (!pv_has(v, (enum pv_feature)feature))
        return PV_REFUSED;
    switch (index) {
    case MSR_WALL_CLOCK_OLD:
    case MSR_WALL_CLOCK:
        *value = c ? c->wall_clock : 0;
        return 0;
    case MSR_SYSTEM_TIME_OLD:
    case MSR_SYSTEM_TIME:
        *value = c ? c->system_time : 0;
        return 0;
    case MSR_STEAL_TIME:
        *value = c ? c->steal_time : 0;
        return 0;
    case MSR_PV_EOI:
        *value = c ? c->pv_eoi : 0;
        return 0;
    default:
        *value = c ? c->poll_control : 1;
        return 0;
    }
}

int pvclock_msr_write(struct vcpu *v, uint32_t index, uint64_t value)
{
    int feature = pvclock_feature(index);
    if (feature < 0)
        return feature;
    if (!pv_has(v, (enum pv_feature)feature))
        return PV_REFUSED;
    struct pv *c = pvclock_of(v);
    if (!c)
        return -ENOENT;
    switch (index) {
    case MSR_WALL_CLOCK_OLD:
    case MSR_WALL_CLOCK:
        c->wall_clock = value;
        if (value)
            wall_clock_write(v->vm, value);
        return 0;
    case MSR_SYSTEM_TIME_OLD:
    case MSR_SYSTEM_TIME:
        c->system_time = value;
        c->must_renew = true;
        /* The guest may read its page with the next instruction. A client restores MSRs in any order: then the next run renews. */
        if ((value & PV_AREA_ENABLED) && atomic_load(&v->is_running))
            pvclock_renew(v, c);
        return 0;
    case MSR_STEAL_TIME:
        return pv_steal_set(v, c, value);
    case MSR_PV_EOI:
        if (value & 2)
            return -EINVAL;
        c->pv_eoi = value;
        return 0;
    default:
        if (value & ~1ull)
            return -EINVAL;
        c->poll_control = value;
        return 0;
    }
}
