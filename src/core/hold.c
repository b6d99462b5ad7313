/* SPDX-License-Identifier: MIT */
/*
 * See hold.h. Requests are a list under hold_mutex of the vCPU. Whoever holds v->lock may work them off; a request is put on the list before its maker tries
 * the lock, and the list is looked at again after each unlock: so one of the two sees the other.
 */
#include "core/hold.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

/* One call under way; its maker's until it is done. */
struct hold_request {
    struct hold_request *next;
    void (*call)(struct vcpu *v, void *arg);
    void *arg;
    bool is_done;
};

static struct hold_request *take_request(struct vcpu *v)
{
    pthread_mutex_lock(&v->hold.mutex);
    struct hold_request *r = v->hold.first;
    if (r)
        v->hold.first = r->next;
    atomic_store(&v->hold.has_requests, v->hold.first != NULL);
    pthread_mutex_unlock(&v->hold.mutex);
    return r;
}

void hold_work_off(struct vcpu *v)
{
    struct hold_request *r;
    while (atomic_load(&v->hold.has_requests) && (r = take_request(v))) {
        r->call(v, r->arg);
        pthread_mutex_lock(&v->hold.mutex);
        r->is_done = true;
        pthread_cond_broadcast(&v->hold.done);
        pthread_mutex_unlock(&v->hold.mutex);
    }
    if (atomic_load(&v->hold.is_stepped)) {
        pthread_mutex_lock(&v->hold.mutex);
        pthread_cond_broadcast(&v->hold.done);
        pthread_mutex_unlock(&v->hold.mutex);
    }
}

void hold_lock(struct vcpu *v)
{
    pthread_mutex_lock(&v->lock);
}

void hold_unlock(struct vcpu *v)
{
    do {
        hold_work_off(v);
        pthread_mutex_unlock(&v->lock);
    } while (atomic_load(&v->hold.has_requests) && pthread_mutex_trylock(&v->lock) == 0);
}

void hold_call(struct vcpu *v, void (*call)(struct vcpu *v, void *arg), void *arg)
{
    struct hold_request r = { .call = call, .arg = arg };
    pthread_mutex_lock(&v->hold.mutex);
    r.next = v->hold.first;
    v->hold.first = &r;
    atomic_store(&v->hold.has_requests, true);
    pthread_mutex_unlock(&v->hold.mutex);
    vcpu_request(v, VREQ_HOLD);
    if (pthread_mutex_trylock(&v->lock) == 0)
        hold_unlock(v);
    pthread_mutex_lock(&v->hold.mutex);
    while (!r.is_done)
        pthread_cond_wait(&v->hold.done, &v->hold.mutex);
    pthread_mutex_unlock(&v->hold.mutex);
}

static void stand_still(struct vcpu *v, void *arg)
{
    (void)v, (void)arg;
}

/* And say so to those who watch. */
static void stand_paused(struct vcpu *v, void *arg)
{
    const struct watch_event e = { .kind = WATCH_VCPU, .index = WATCH_VCPU_PAUSED };
    (void)arg;
    if (atomic_load(&v->vm->watch.kinds) & WATCH_VCPU)
        watch_note(v, &e);
}

void hold_vcpu(struct vcpu *v)
{
    atomic_fetch_add(&v->hold.count, 1);
    hold_call(v, stand_paused, NULL);
}

void hold_release_vcpu(struct vcpu *v)
{
    atomic_fetch_sub(&v->hold.count, 1);
    vcpu_request(v, VREQ_HOLD);
}

void hold_quiet(struct vcpu *v)
{
    atomic_fetch_add(&v->hold.n_quiet, 1);
}

void hold_loud(struct vcpu *v)
{
    atomic_fetch_sub(&v->hold.n_quiet, 1);
    vcpu_request(v, VREQ_EVENT);
}

static void each_vcpu(struct vm *vm, void (*f)(struct vcpu *v))
{
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct vcpu *v = vm_vcpu(vm, i);
        if (v)
            f(v);
    }
}

static void wait_paused(struct vcpu *v)
{
    hold_call(v, stand_paused, NULL);
}

static void wake(struct vcpu *v)
{
    vcpu_request(v, VREQ_HOLD);
}

void hold_vm(struct vm *vm)
{
    atomic_fetch_add(&vm->n_holds, 1);
    each_vcpu(vm, wake); /* all at once, then one after the other */
    each_vcpu(vm, wait_paused);
}

void hold_release_vm(struct vm *vm)
{
    atomic_fetch_sub(&vm->n_holds, 1);
    each_vcpu(vm, wake);
}

/* ---- single steps ---- */

static bool is_asked(const struct vcpu *v)
{
    return __atomic_load_n(&v->watch.waits_for, __ATOMIC_ACQUIRE);
}

static struct timespec time_after(unsigned ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += ms % 1000 * 1000000l;
    if (t.tv_nsec >= 1000000000l) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000l;
    }
    return t;
}

int hold_step(struct vcpu *v, uint32_t n, unsigned timeout_ms)
{
    struct timespec end = time_after(timeout_ms);
    if (is_asked(v) || atomic_exchange(&v->hold.is_stepped, true))
        return -EBUSY;
    if (n > HOLD_STEPS_MAX)
        n = HOLD_STEPS_MAX;
    hold_quiet(v);
    atomic_store(&v->hold.steps, n);
    vcpu_request(v, VREQ_HOLD);
    pthread_mutex_lock(&v->hold.mutex);
    while (hold_is_stepping(v) && pthread_cond_clockwait(&v->hold.done, &v->hold.mutex, CLOCK_MONOTONIC, &end) != ETIMEDOUT)
        ;
    pthread_mutex_unlock(&v->hold.mutex);
    uint32_t left = atomic_exchange(&v->hold.steps, 0);
    hold_call(v, stand_still, NULL);
    hold_loud(v);
    atomic_store(&v->hold.is_stepped, false);
    return (int)(n - left);
}
