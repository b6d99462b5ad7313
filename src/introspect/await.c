/* SPDX-License-Identifier: MIT */
/*
 * A vCPU that has asked looks for the answer for a while before it goes to sleep: a tool that is at work answers through the memory that it shares
 * (ring_answer), and no system call is needed on either side. Whose last answer took long is not looked for, but sleeps at once; then answers come by
 * look_answer. What the tool writes is checked like any answer.
 */
#include <unistd.h>
#include <x86intrin.h>

#include "base/barrier.h"
#include "base/host.h"
#include "core/vcpu.h"
#include "introspect/listen_priv.h"

#define AWAIT_US 50u

bool look_has_cpus(void)
{
    return sysconf(_SC_NPROCESSORS_ONLN) > 1;
}

static uint64_t limit_tsc(void)
{
    return host_facts()->tsc_khz * AWAIT_US / 1000;
}

/* vm.watch.lock is held. False: there is none, or none that can be; who answers so is as good as silent. */
static bool take_answer(const struct look_listener *l, struct vcpu *v)
{
    struct watch_vcpu *w = &v->watch;
    struct ring_cpu *c = l->ring[v->id]->shared;
    if (atomic_load(&c->turn) != w->asked.number * RING_STATES + RING_ANSWERED)
        return false;
    uint32_t answer = atomic_load(&c->answer);
    struct watch_reply reply = { .value = atomic_load(&c->value) };
    if (answer > RING_ANSWER_MAX)
        return false;
    reply.answer = (enum watch_answer)answer;
    if (!watch_can_answer(&w->asked.event, &reply))
        return false;
    atomic_store(&c->turn, 0);
    watch_answer(v, l->bit, &reply);
    return true;
}

/* No lock: until somebody has answered, or the vCPU has something else to do. */
static void look_for_answer(struct vcpu *v)
{
    struct watch_vcpu *w = &v->watch;
    struct ring_cpu *c[LOOK_LISTENERS_MAX];
    unsigned n = 0;
    uint64_t answered = w->asked.number * RING_STATES + RING_ANSWERED, begin = __rdtsc(), limit = limit_tsc();
    atomic_store_explicit(&w->is_telling, true, memory_order_relaxed);
    barrier_light(); /* nobody is freed meanwhile */
    for (struct look_listener *l = __atomic_load_n(&v->vm->watch.listeners, __ATOMIC_ACQUIRE); l; l = __atomic_load_n(&l->next, __ATOMIC_ACQUIRE))
        if (l->ring[v->id])
            c[n++] = l->ring[v->id]->shared;
    for (bool is_answered = false; !is_answered && __atomic_load_n(&w->waits_for, __ATOMIC_ACQUIRE) &&
                                   !atomic_load_explicit(&v->exit_req, memory_order_relaxed) && __rdtsc() - begin < limit;) {
        _mm_pause();
        for (unsigned i = 0; i < n; i++)
            is_answered |= atomic_load_explicit(&c[i]->turn, memory_order_acquire) == answered;
    }
    atomic_store_explicit(&w->is_telling, false, memory_order_release);
}

/* vm.watch.lock is held: from now on this listener answers by look_answer. */
static void stop_looking(const struct look_listener *l, struct vcpu *v)
{
    struct ring_cpu *c = l->ring[v->id]->shared;
    uint64_t turn = v->watch.asked.number * RING_STATES, asked = turn + RING_ASKED;
    if (!atomic_compare_exchange_strong(&c->turn, &asked, turn + RING_ASLEEP) && !take_answer(l, v))
        atomic_store(&c->turn, turn + RING_ASLEEP);
}

void look_await(struct vcpu *v)
{
    struct watch_vcpu *w = &v->watch;
    look_for_answer(v);
    pthread_mutex_lock(&v->vm->watch.lock);
    for (struct look_listener *l = v->vm->watch.listeners; l; l = l->next)
        if (w->waits_for & l->bit)
            stop_looking(l, v);
    w->is_awake = false;
    pthread_mutex_unlock(&v->vm->watch.lock);
}
