/* SPDX-License-Identifier: MIT */
/*
 * Life of a VM. References are held by the client's VM handle and by each vCPU handle; the last one to go destroys everything, vCPUs included.
 * Slots are in slots.c.
 */
#include "core/vm.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/host.h"
#include "core/coalesced.h"
#include "core/ioeventfd.h"
#include "core/irqfd.h"
#include "core/msr_guest.h"
#include "core/time.h"
#include "core/vcpu.h"
#include "core/view.h"
#include "core/vm_priv.h"

/* All VMs of the process, the newest first. */
static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct vm *list;
static uint32_t last_number;

static void list_add(struct vm *vm)
{
    pthread_mutex_lock(&list_lock);
    vm->number = ++last_number;
    vm->next = list;
    list = vm;
    pthread_mutex_unlock(&list_lock);
}

static void list_remove(struct vm *vm)
{
    pthread_mutex_lock(&list_lock);
    struct vm **at = &list;
    while (*at != vm)
        at = &(*at)->next;
    *at = vm->next;
    pthread_mutex_unlock(&list_lock);
}

/* False: its last reference has gone, and it is about to leave the list. */
static bool get_alive(struct vm *vm)
{
    int refs = atomic_load(&vm->refs);
    while (refs && !atomic_compare_exchange_weak(&vm->refs, &refs, refs + 1))
        ;
    return refs;
}

static struct vm *list_lowest(uint32_t number)
{
    struct vm *found = NULL;
    for (struct vm *vm = list; vm && vm->number >= number; vm = vm->next)
        found = vm;
    return found;
}

struct vm *vm_find(uint32_t number)
{
    pthread_mutex_lock(&list_lock);
    struct vm *vm = list_lowest(number);
    while (vm && !get_alive(vm))
        vm = list_lowest(vm->number + 1);
    pthread_mutex_unlock(&list_lock);
    return vm;
}

struct vm *vm_find_exactly(uint32_t number)
{
    pthread_mutex_lock(&list_lock);
    struct vm *vm = list;
    while (vm && vm->number != number)
        vm = vm->next;
    if (vm && !get_alive(vm))
        vm = NULL;
    pthread_mutex_unlock(&list_lock);
    return vm;
}

static void init_parts(struct vm *vm)
{
    pthread_mutex_init(&vm->slots_lock, NULL);
    pthread_mutex_init(&vm->lock, NULL);
    pthread_mutex_init(&vm->tsc_sync.lock, NULL);
    pthread_rwlock_init(&vm->msr_lock, NULL);
    pthread_mutex_init(&vm->watch.lock, NULL);
    pthread_mutex_init(&vm->watch.change, NULL);
    bus_init(&vm->pio);
    bus_init(&vm->mmio);
    irq_init(&vm->irq);
    timer_queue_init(&vm->timers);
    vm->tick.timer.expired = tick_expired;
}

static void fini_parts(struct vm *vm)
{
    timer_queue_fini(&vm->timers);
    irq_fini(&vm->irq);
    bus_fini(&vm->mmio);
    bus_fini(&vm->pio);
    msr_filter_free(atomic_load(&vm->msr_filter));
    pthread_mutex_destroy(&vm->watch.change);
    pthread_mutex_destroy(&vm->watch.lock);
    pthread_rwlock_destroy(&vm->msr_lock);
    pthread_mutex_destroy(&vm->tsc_sync.lock);
    pthread_mutex_destroy(&vm->lock);
    pthread_mutex_destroy(&vm->slots_lock);
}

static void free_slots(struct vm *vm)
{
    for (unsigned space = 0; space < SPACE_COUNT; space++) {
        struct memslots *t = atomic_load(&vm->slots[space]);
        for (unsigned i = 0; t && i < t->n; i++) {
            free(t->slot[i].dirty);
            if (memslot_is_tools(&t->slot[i]))
                munmap(t->slot[i].hva, t->slot[i].bytes);
        }
        free(t);
    }
}

static int init_slots(struct vm *vm)
{
    for (unsigned space = 0; space < SPACE_COUNT; space++) {
        struct memslots *t = calloc(1, sizeof *t);
        atomic_init(&vm->slots[space], t);
        if (!t) {
            free_slots(vm);
            return -ENOMEM;
        }
    }
    return 0;
}

int vm_create(const struct engine_ops *engine, const struct chip_ops *chip, struct vm **out)
{
    struct vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return -ENOMEM;
    int error = init_slots(vm);
    if (error) {
        free(vm);
        return error;
    }
    vm->engine = engine;
    vm->chip = chip;
    vm->fd = -1;
    vm->stat = vm->own_stat;
    vm->tsc_khz = host_facts()->tsc_khz;
    vm->tsc_origin = time_host_tsc();
    vm->started_ns = time_realtime_ns();
    vm->kvmclock_offset_ns = -(int64_t)timer_now_ns();
    atomic_init(&vm->refs, 1);
    init_parts(vm);
    error = engine->vm_init ? engine->vm_init(vm) : 0;
    if (error) {
        fini_parts(vm);
        free_slots(vm);
        free(vm);
        return error;
    }
    list_add(vm);
    *out = vm;
    return 0;
}

/* Sources of interrupts first, then their targets, then the threads and locks both used. */
static void destroy(struct vm *vm)
{
    list_remove(vm);
    watch_end(vm);
    view_end(vm);
    irqfd_fini(vm);
    ioeventfd_fini(vm);
    coalesced_fini(vm);
    timer_cancel_sync(&vm->timers, &vm->tick.timer);
    if (vm->chip && vm->chip->irqchip_destroy && (vm->has_irqchip || vm->has_split_irqchip))
        vm->chip->irqchip_destroy(vm);
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        if (vm->vcpu[i]) {
            assert(!vm->vcpu[i]->is_running);
            vcpu_free(vm->vcpu[i]);
        }
    }
    if (vm->chip && vm->chip->vm_destroy)
        vm->chip->vm_destroy(vm);
    if (vm->engine->vm_fini)
        vm->engine->vm_fini(vm);
    fini_parts(vm);
    free_slots(vm);
    free(vm);
}

void vm_get(struct vm *vm)
{
    atomic_fetch_add(&vm->refs, 1);
}

void vm_put(struct vm *vm)
{
    if (atomic_fetch_sub(&vm->refs, 1) == 1)
        destroy(vm);
}
