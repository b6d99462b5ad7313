/* SPDX-License-Identifier: MIT */
/* Which VMs there are, and what they consist of. See control.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "core/hold.h"
#include "core/vm.h"
#include "front/control/control_priv.h"
#include "introspect/memory.h"
#include "introspect/view.h"

static uint64_t slots_bytes(struct vm *vm, uint32_t *n)
{
    struct memslot slot[CONTROL_SLOTS_MAX];
    uint64_t bytes = 0;
    *n = look_memory_slots(vm, slot, CONTROL_SLOTS_MAX);
    for (unsigned i = 0; i < *n && i < CONTROL_SLOTS_MAX; i++)
        if (slot[i].id >> MEMSLOT_SPACE_SHIFT == SPACE_NORMAL && !memslot_is_tools(&slot[i]))
            bytes += slot[i].bytes;
    return bytes;
}

static unsigned count_vcpus(struct vm *vm)
{
    unsigned n = 0;
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++)
        n += vm_vcpu(vm, i) != NULL;
    return n;
}

int control_info(struct control_arg *a)
{
    struct vitrine_vm_info *info = a->out;
    memset(info, 0, sizeof *info);
    info->pid = (uint32_t)getpid();
    info->number = a->vm->number;
    snprintf(info->name, sizeof info->name, "%s", log_machine_name());
    snprintf(info->engine, sizeof info->engine, "%s", a->vm->engine->name);
    info->n_vcpus = count_vcpus(a->vm);
    info->memory_bytes = slots_bytes(a->vm, &info->n_slots);
    info->is_paused = atomic_load(&a->vm->is_paused);
    info->started_ns = a->vm->started_ns;
    info->n_views = look_view_count(a->vm);
    a->out_bytes = sizeof *info;
    return 0;
}

int control_next_vm(struct control_arg *a)
{
    a->vm = vm_find(((const struct control_vm *)a->in)->number);
    if (!a->vm)
        return -ENOENT;
    int r = control_info(a);
    vm_put(a->vm);
    return r;
}

static uint32_t mode_of(const struct cpu_state *c)
{
    if ((c->efer & EFER_LMA) && c->seg[SEG_CS].l)
        return 64;
    return c->seg[SEG_CS].db ? 32 : 16;
}

static uint32_t activity_of(const struct vcpu *v)
{
    switch (atomic_load(&v->mp_state)) {
    case MP_HALTED:
        return VITRINE_VCPU_HALTED;
    case MP_UNINITIALIZED:
    case MP_INIT_RECEIVED:
    case MP_SIPI_RECEIVED:
        return VITRINE_VCPU_WAITS_FOR_SIPI;
    default:
        return atomic_load(&v->is_running) ? VITRINE_VCPU_RUNNING : VITRINE_VCPU_OUTSIDE;
    }
}

static void describe(struct vcpu *v, void *arg)
{
    struct vitrine_vcpu_info *info = arg;
    memset(info, 0, sizeof *info);
    info->id = v->id;
    info->activity = activity_of(v);
    info->is_held = hold_is_held(v);
    info->mode = mode_of(&v->cpu);
    info->rip = v->cpu.rip;
    info->cr3 = v->cpu.cr3;
    for (unsigned i = 0; i < STAT_IS_BLOCKING; i++)
        info->counter[i] = v->stat[i];
}

_Static_assert((int)STAT_IS_BLOCKING <= (int)VITRINE_COUNTERS && (int)STAT_MMIO_EXITS == (int)VITRINE_COUNT_MMIO &&
                   (int)STAT_SIGNAL_EXITS == (int)VITRINE_COUNT_SIGNALS && (int)STAT_NMI_INJECTIONS == (int)VITRINE_COUNT_NMIS &&
                   (int)STAT_INVLPGS == (int)VITRINE_COUNT_INVLPGS && (int)STAT_HALT_WAIT_NS == (int)VITRINE_COUNT_HALTED_NS,
               "core's counters in the public order");

int control_vcpus(struct control_arg *a)
{
    struct vitrine_vcpu_info *out = a->out;
    unsigned n = 0;
    for (unsigned i = 0; i < atomic_load(&a->vm->n_vcpus) && n < CONTROL_PAYLOAD_MAX / sizeof *out; i++) {
        struct vcpu *v = vm_vcpu(a->vm, i);
        if (v)
            hold_call(v, describe, &out[n++]);
    }
    a->out_bytes = n * (uint32_t)sizeof *out;
    return 0;
}
