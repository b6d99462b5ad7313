/* SPDX-License-Identifier: MIT */
/*
 * Guest TSC = host TSC * ratio + offset (SDM vol. 3B, "Time-Stamp Counter"). Per vCPU state belongs to the vCPU's thread or the holder of its lock;
 * vm->tsc_sync has its own lock.
 */
#include "core/time.h"

#include <errno.h>
#include <time.h>
#include <x86intrin.h>

#include "core/hold.h"
#include "core/timer.h"
#include "core/vcpu.h"
#include "core/vm.h"

#define RATIO_SHIFT 48
#define KHZ_RATIO_MAX 16

typedef unsigned __int128 u128;

uint64_t time_host_tsc(void)
{
    return __rdtsc();
}

static uint64_t scale(const struct vcpu *v, uint64_t host_tsc)
{
    return v->tsc_ratio ? (uint64_t)((u128)host_tsc * v->tsc_ratio >> RATIO_SHIFT) : host_tsc;
}

uint64_t vcpu_tsc_at(const struct vcpu *v, uint64_t host_tsc)
{
    return scale(v, host_tsc) + v->cpu.tsc_offset;
}

static uint64_t host_tsc_of(const struct vm *vm)
{
    return atomic_load(&vm->freeze.is_on) ? vm->freeze.tsc : time_host_tsc();
}

uint64_t vm_now_ns(const struct vm *vm)
{
    return atomic_load(&vm->freeze.is_on) ? vm->freeze.ns : timer_now_ns();
}

uint64_t vcpu_tsc(struct vcpu *v)
{
    return vcpu_tsc_at(v, host_tsc_of(v->vm));
}

void vm_time_freeze(struct vm *vm)
{
    hold_vm(vm);
    time_sample(&vm->freeze.tsc, &vm->freeze.ns);
    atomic_store(&vm->freeze.is_on, true);
}

void vm_time_thaw(struct vm *vm)
{
    uint64_t tsc, ns;
    struct vcpu *v;
    time_sample(&tsc, &ns);
    tsc -= vm->freeze.tsc;
    ns -= vm->freeze.ns;
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        if (!(v = vm_vcpu(vm, i)))
            continue;
        v->cpu.tsc_offset -= scale(v, tsc);
        if (v->lapic)
            vm->chip->time_stood(v, ns);
    }
    vm->tsc_origin += tsc;
    pthread_mutex_lock(&vm->tsc_sync.lock);
    vm->tsc_sync.is_set = false; /* what was written before has another offset now */
    pthread_mutex_unlock(&vm->tsc_sync.lock);
    atomic_store(&vm->freeze.is_on, false);
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++)
        if ((v = vm_vcpu(vm, i)) && v->lapic)
            vm->chip->time_goes(v);
    hold_release_vm(vm);
}

int vcpu_set_tsc_khz(struct vcpu *v, uint64_t tsc_khz)
{
    uint64_t host_khz = v->vm->tsc_khz;
    if (tsc_khz == 0 || tsc_khz > host_khz * KHZ_RATIO_MAX)
        return -EINVAL;
    uint64_t host_tsc = time_host_tsc(), guest_tsc = vcpu_tsc_at(v, host_tsc);
    v->tsc_khz = tsc_khz;
    v->tsc_ratio = tsc_khz == host_khz ? 0 : (uint64_t)(((u128)tsc_khz << RATIO_SHIFT) / host_khz);
    v->cpu.tsc_offset = guest_tsc - scale(v, host_tsc);
    return 0;
}

void vcpu_set_tsc_guest(struct vcpu *v, uint64_t tsc)
{
    uint64_t delta = tsc - vcpu_tsc(v);
    v->cpu.tsc_offset += delta;
    v->cpu.tsc_adjust += delta;
}

/*
 * A client that restores or resets a machine writes one value to each vCPU in turn; taken literally their TSCs would differ by the time between the calls
 * and the guest would call its clock unstable. So a write of 0, or of what the last written TSC has counted to within a second, repeats the last offset.
 */
void vcpu_set_tsc_host(struct vcpu *v, uint64_t tsc)
{
    struct vm *vm = v->vm;
    pthread_mutex_lock(&vm->tsc_sync.lock);
    uint64_t host_tsc = host_tsc_of(vm);
    bool is_same_machine_write = false;
    if (vm->tsc_sync.is_set && vm->tsc_sync.tsc_khz == v->tsc_khz) {
        uint64_t expected = vm->tsc_sync.guest_tsc + scale(v, host_tsc - vm->tsc_sync.host_tsc);
        uint64_t distance = tsc > expected ? tsc - expected : expected - tsc;
        is_same_machine_write = distance < v->tsc_khz * 1000;
    }
    if (!is_same_machine_write) {
        vm->tsc_sync.offset = tsc - scale(v, host_tsc);
        vm->tsc_sync.guest_tsc = tsc;
        vm->tsc_sync.host_tsc = host_tsc;
        vm->tsc_sync.tsc_khz = v->tsc_khz;
        vm->tsc_sync.is_set = true;
    }
    v->cpu.tsc_offset = vm->tsc_sync.offset;
    pthread_mutex_unlock(&vm->tsc_sync.lock);
}

void vcpu_reset_tsc(struct vcpu *v)
{
    v->cpu.tsc_offset = -scale(v, v->vm->tsc_origin);
    v->cpu.tsc_adjust = 0;
}

uint64_t time_tsc_to_ns(const struct vcpu *v, uint64_t ticks)
{
    u128 ns = (u128)ticks * 1000000 / v->tsc_khz;
    return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

uint64_t time_ns_to_tsc(const struct vcpu *v, uint64_t ns)
{
    u128 ticks = (u128)ns * v->tsc_khz / 1000000;
    return ticks > UINT64_MAX ? UINT64_MAX : (uint64_t)ticks;
}

uint64_t time_tsc_deadline_ns(struct vcpu *v, uint64_t guest_tsc)
{
    uint64_t now_ns = vm_now_ns(v->vm), now_tsc = vcpu_tsc(v);
    if (guest_tsc <= now_tsc)
        return now_ns;
    /* Rounded up: a timer that fires before the TSC is there makes the guest program it again. */
    uint64_t ns = time_tsc_to_ns(v, guest_tsc - now_tsc);
    return ns >= UINT64_MAX - now_ns - 1 ? UINT64_MAX : now_ns + ns + 1;
}

void time_sample(uint64_t *host_tsc, uint64_t *monotonic_ns)
{
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 4; i++) {
        uint64_t before = time_host_tsc(), now = timer_now_ns(), after = time_host_tsc();
        if (after - before < best) {
            best = after - before;
            *host_tsc = before + best / 2;
            *monotonic_ns = now;
        }
    }
}

uint64_t time_realtime_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

void time_pvclock_scale(uint64_t tsc_khz, uint32_t *mul, int8_t *shift)
{
    /* The multiplier is 2^32 * 10^9 / (hz * 2^shift) with the shift chosen so that it lies in [2^31, 2^32). */
    u128 hz = (u128)tsc_khz * 1000;
    int s = 0;
    while (hz > 1000000000ull * 2) {
        hz >>= 1;
        s--;
    }
    while (hz <= 1000000000ull) {
        hz <<= 1;
        s++;
    }
    /* From the unshifted frequency, so that no low bits are lost. */
    u128 numerator = (u128)1000000000ull << 32, exact = (u128)tsc_khz * 1000;
    u128 m = s < 0 ? (numerator << -s) / exact : numerator / (exact << s);
    *mul = m > UINT32_MAX ? UINT32_MAX : (uint32_t)m;
    *shift = (int8_t)s;
}
