/* SPDX-License-Identifier: MIT */
/*
 * The engine's table: creation and destruction, what the client may change, address translation for the client.
 */
#include "engine/soft/soft.h"

#include <asm/prctl.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/soft/asid.h"
#include "engine/soft/code.h"
#include "engine/soft/fp.h"
#include "engine/soft/tlb.h"

static bool stepping_default;

void soft_set_stepping(bool is_stepping)
{
    stepping_default = is_stepping;
}

static int soft_vm_init(struct vm *vm)
{
    struct soft_vm *svm = calloc(1, sizeof *svm);
    if (!svm)
        return -ENOMEM;
    fp_init();
    svm->vm = vm;
    svm->is_stepping = stepping_default;
    pthread_mutex_init(&svm->code_lock, NULL);
    pthread_mutex_init(&svm->stop_lock, NULL);
    features_set_all(&svm->features);
    int r = translate_init(svm);
    if (!r)
        r = cache_init(svm);
    if (!r)
        r = signal_init();
    if (r) {
        translate_fini(svm);
        cache_fini(svm);
        free(svm);
        return r;
    }
    vm->engine_data = svm;
    return 0;
}

static void soft_vm_fini(struct vm *vm)
{
    struct soft_vm *svm = vm->engine_data;
    if (!svm)
        return;
    translate_fini(svm);
    cache_fini(svm);
    pthread_mutex_destroy(&svm->code_lock);
    pthread_mutex_destroy(&svm->stop_lock);
    free(svm);
    vm->engine_data = NULL;
}

static int soft_vcpu_init(struct vcpu *v)
{
    struct soft_vcpu *sv = to_soft(v);
    sv->self = sv;
    sv->exec_cache = calloc(EXEC_CACHE_ENTRIES + 1, sizeof *sv->exec_cache);
    if (!sv->exec_cache)
        return -ENOMEM;
    for (unsigned i = 0; i < EXEC_CACHE_ENTRIES; i++)
        sv->exec_cache[i].gva = ~0ull;
    if (asid_init(sv)) {
        free(sv->exec_cache);
        return -ENOMEM;
    }
    jump_cache_init(sv);
    tlb_flush(sv);
    return 0;
}

static void soft_vcpu_fini(struct vcpu *v)
{
    asid_fini(to_soft(v));
    free(to_soft(v)->exec_cache);
    to_soft(v)->exec_cache = NULL;
}

static uint32_t lookup_cpuid(const void *context, uint32_t function, uint32_t index, unsigned reg)
{
    const struct vcpu *v = context;
    for (unsigned i = 0; i < v->n_cpuid; i++) {
        const struct cpuid_entry *e = &v->cpuid[i];
        if (e->function == function && (!(e->flags & 1) || e->index == index))
            return reg == 0 ? e->eax : reg == 1 ? e->ebx : reg == 2 ? e->ecx : e->edx;
    }
    return 0;
}

/* Translations depend on what CPUID offers: a change of that drops them. All vCPUs of a VM are taken to have the same features. */
static void update_features(struct soft_vcpu *sv)
{
    struct soft_vm *svm = soft_vm_of(sv);
    struct features f;
    if (!sv->v.n_cpuid)
        return;
    features_from_cpuid(&f, lookup_cpuid, &sv->v);
    pthread_mutex_lock(&svm->code_lock);
    if (f.bits[0] != svm->features.bits[0] || f.bits[1] != svm->features.bits[1]) {
        svm->features = f;
        code_flush_all(sv);
    }
    pthread_mutex_unlock(&svm->code_lock);
}

static void soft_state_changed(struct vcpu *v)
{
    struct soft_vcpu *sv = to_soft(v);
    if (!atomic_load(&v->is_running) || pthread_equal(v->thread, pthread_self())) {
        mode_update(sv);
        tlb_flush(sv);
    }
    update_features(sv);
}

static void soft_translate(struct vcpu *v, gva_t gva, struct translation *out)
{
    struct soft_vcpu *sv = to_soft(v);
    struct walk_result w;
    struct fault kept = sv->fault;
    *out = (struct translation){ 0 };
    signal_set_vcpu(sv);
    guest_mode_enter(sv);
    if (__builtin_setjmp(sv->recover) == 0 && walk_page(sv, gva, ACCESS_READ | ACCESS_PROBE, &w) == 0) {
        out->is_valid = true;
        out->gpa = w.gpa;
        out->is_writeable = w.is_writeable;
        out->is_usermode = w.is_usermode;
    }
    guest_mode_leave(sv);
    signal_set_vcpu(NULL);
    sv->fault = kept;
}

uint64_t gs_swap_by_call(uint64_t value)
{
    uint64_t old = 0;
    syscall(SYS_arch_prctl, ARCH_GET_GS, &old);
    syscall(SYS_arch_prctl, ARCH_SET_GS, value);
    return old;
}

const struct engine_ops soft_engine_ops = {
    .name = "soft",
    .vcpu_bytes = sizeof(struct soft_vcpu),
    .vm_init = soft_vm_init,
    .vm_fini = soft_vm_fini,
    .vcpu_init = soft_vcpu_init,
    .vcpu_fini = soft_vcpu_fini,
    .run = run_vcpu,
    .memory_changed = safe_memory_changed,
    .pages_changed = safe_pages_changed,
    .flush_tlbs = safe_flush_tlbs,
    .state_changed = soft_state_changed,
    .translate = soft_translate,
};
