/* SPDX-License-Identifier: MIT */
/*
 * Where counters lie.
 */
#include "core/stats.h"

#include <string.h>

#include "core/vcpu.h"
#include "core/vm.h"

void vcpu_stats_move(struct vcpu *v, uint64_t *to)
{
    memcpy(to, v->stat, sizeof v->own_stat);
    v->stat = to;
}

void vm_stats_move(struct vm *vm, uint64_t *to)
{
    pthread_mutex_lock(&vm->slots_lock);
    memcpy(to, vm->stat, sizeof vm->own_stat);
    vm->stat = to;
    pthread_mutex_unlock(&vm->slots_lock);
}
