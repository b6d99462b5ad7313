/* SPDX-License-Identifier: MIT */
/*
 * Guest mode and who may change what when: stopping all vCPUs, flushing translations, changes of slots, stores to pages with translations. Lock order:
 * code_lock, then stop_lock.
 */
#include "engine/soft/code.h"
#include "engine/soft/light.h"

#include <sched.h>

/* While stop_request is set. */
static void await_out_of_guest_mode(struct soft_vcpu *other)
{
    while (atomic_load(&other->in_guest_mode)) {
        atomic_store(&other->v.exit_req, 1);
        sched_yield();
    }
}

void world_stop(struct soft_vcpu *self, struct vm *vm)
{
    struct soft_vm *svm = vm->engine_data;
    pthread_mutex_lock(&svm->stop_lock);
    atomic_store(&svm->stop_request, 1);
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct soft_vcpu *other = vm->vcpu[i] ? to_soft(vm->vcpu[i]) : NULL;
        if (other && other != self)
            await_out_of_guest_mode(other);
    }
}

void world_resume(struct vm *vm)
{
    struct soft_vm *svm = vm->engine_data;
    atomic_store(&svm->stop_request, 0);
    pthread_mutex_unlock(&svm->stop_lock);
}

void guest_mode_enter(struct soft_vcpu *sv)
{
    struct soft_vm *svm = soft_vm_of(sv);
    for (;;) {
        atomic_store(&sv->in_guest_mode, true);
        if (!atomic_load(&svm->stop_request))
            return;
        atomic_store(&sv->in_guest_mode, false);
        while (atomic_load(&svm->stop_request))
            sched_yield();
    }
}

static void jump_entries_clear(struct soft_vcpu *sv, const void **at, size_t n)
{
    const void *miss = soft_vm_of(sv)->stubs.lookup;
    for (size_t i = 0; i < n; i++)
        at[i] = miss;
}

void jump_cache_init(struct soft_vcpu *sv)
{
    jump_entries_clear(sv, &sv->jump_cache[0][0], 2 * (size_t)JUMP_CACHE_ENTRIES);
}

void jump_cache_flush_set(struct soft_vcpu *sv, bool is_user)
{
    const size_t group = JUMP_CACHE_ENTRIES / 64;
    for (uint64_t left = sv->jump_cache_used[is_user]; left; left &= left - 1)
        jump_entries_clear(sv, &sv->jump_cache[is_user][(size_t)__builtin_ctzll(left) * group], group);
    sv->jump_cache_used[is_user] = 0;
}

void jump_cache_flush(struct soft_vcpu *sv)
{
    jump_cache_flush_set(sv, false);
    jump_cache_flush_set(sv, true);
}

/*
 * With all vCPUs stopped. Those that were out of guest mode are about to enter a block that they found: exit_req takes them back to the run loop, as it does
 * the others, since pages may be watched now that were not.
 */
static void send_back(struct vm *vm)
{
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++)
        if (vm->vcpu[i])
            atomic_store(&vm->vcpu[i]->exit_req, 1);
}

/* With all vCPUs stopped. */
static void flush_tlbs(struct vm *vm)
{
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++)
        if (vm->vcpu[i])
            tlb_flush(to_soft(vm->vcpu[i]));
    send_back(vm);
}

/* Only the wanted ones are waited for. One that is out of guest mode finds its TLB empty when it comes back; each tells its tools itself. */
void safe_flush_tlbs(struct vcpu *v, bool (*is_wanted)(struct vcpu *other, const void *arg), const void *arg)
{
    struct vm *vm = v->vm;
    struct soft_vcpu *self = to_soft(v);
    struct soft_vm *svm = vm->engine_data;
    guest_mode_leave(self);
    pthread_mutex_lock(&svm->stop_lock);
    atomic_store(&svm->stop_request, 1);
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct soft_vcpu *other = vm->vcpu[i] ? to_soft(vm->vcpu[i]) : NULL;
        if (!other || !is_wanted(&other->v, arg))
            continue;
        await_out_of_guest_mode(other);
        tlb_flush(other);
        atomic_store(&other->is_flushed_by_other, true);
        atomic_store(&other->v.exit_req, 1);
    }
    world_resume(vm);
    guest_mode_enter(self);
}

/* With all vCPUs stopped. */
static void flush_translations(struct vm *vm)
{
    cache_flush(vm->engine_data);
    flush_tlbs(vm);
}

void code_flush_all(struct soft_vcpu *sv)
{
    world_stop(sv, sv->v.vm);
    flush_translations(sv->v.vm);
    world_resume(sv->v.vm);
}

/* A new table of slots voids translations, since pages are known by host address; new dirty tracking only voids TLB entries. */
void safe_memory_changed(struct vm *vm, gpa_t gpa, uint64_t bytes)
{
    struct soft_vm *svm = vm->engine_data;
    (void)gpa, (void)bytes;
    pthread_mutex_lock(&svm->code_lock);
    world_stop(NULL, vm);
    bool is_new = false;
    for (unsigned space = 0; space < SPACE_COUNT; space++) {
        struct memslots *now = atomic_load(&vm->slots[space]);
        is_new |= now != svm->seen_slots[space];
        svm->seen_slots[space] = now;
    }
    if (is_new)
        flush_translations(vm);
    else
        flush_tlbs(vm);
    world_resume(vm);
    pthread_mutex_unlock(&svm->code_lock);
}

#define PAGES_ONE_BY_ONE_MAX 8u /* with more it is cheaper to drop everything */

static void drop_page(struct soft_vcpu *sv, uint64_t host_page)
{
    const struct code_page *p = cache_page(soft_vm_of(sv), host_page);
    tlb_drop_page(sv, host_page);
    if (p && atomic_load(&p->has_code))
        jump_cache_flush(sv); /* which page its targets lie in it does not know */
}

void safe_pages_changed(struct vm *vm, const hva_t *page, unsigned n)
{
    struct soft_vm *svm = vm->engine_data;
    pthread_mutex_lock(&svm->code_lock);
    world_stop(NULL, vm);
    if (n > PAGES_ONE_BY_ONE_MAX)
        flush_tlbs(vm);
    for (unsigned k = 0; k < n && n <= PAGES_ONE_BY_ONE_MAX; k++)
        for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++)
            if (vm->vcpu[i])
                drop_page(to_soft(vm->vcpu[i]), (uint64_t)(uintptr_t)page[k]);
    send_back(vm);
    world_resume(vm);
    pthread_mutex_unlock(&svm->code_lock);
}

static hva_t host_of_gpa(struct soft_vcpu *sv, gpa_t gpa)
{
    const struct memslot *s = memslots_find(slots_seen(sv), gpa);
    return s ? s->hva + (gpa - s->gpa) : NULL;
}

bool code_page_has(struct soft_vcpu *sv, gfn_t gfn)
{
    hva_t host = host_of_gpa(sv, gfn << PAGE_SHIFT);
    struct code_page *p = host ? cache_page(soft_vm_of(sv), (uint64_t)host) : NULL;
    return p && atomic_load(&p->has_code);
}

/* A store that hits no block needs nothing, unless the page has none left: then it may become plain memory again. */
static bool needs_invalidation(const struct code_page *p, unsigned offset, unsigned bytes)
{
    bool has_blocks = false;
    for (unsigned i = 0; i < CODE_PAGE_BUCKETS; i++) {
        for (const struct block *b = atomic_load(&p->bucket[i]); b; b = atomic_load(&b->next)) {
            has_blocks = true;
            if (b->page_offset < offset + bytes && offset < (unsigned)b->page_offset + b->guest_bytes)
                return true;
        }
    }
    return !has_blocks;
}

void code_page_written(struct soft_vcpu *sv, gpa_t gpa, unsigned bytes)
{
    struct soft_vm *svm = soft_vm_of(sv);
    hva_t host = host_of_gpa(sv, gpa);
    struct code_page *p = host ? cache_page(svm, (uint64_t)host & ~PAGE_OFFSET_MASK) : NULL;
    unsigned offset = (unsigned)(gpa & PAGE_OFFSET_MASK);
    if (bytes > PAGE_BYTES - offset)
        bytes = (unsigned)(PAGE_BYTES - offset);
    atomic_thread_fence(memory_order_seq_cst); /* the store before the search: pairs with cache_publish */
    if (!p || !needs_invalidation(p, offset, bytes))
        return;
    fp_put(sv);
    uint32_t generation = atomic_load(&svm->flush_generation);
    guest_mode_leave(sv);
    pthread_mutex_lock(&svm->code_lock);
    if (generation == atomic_load(&svm->flush_generation)) /* else all translations went meanwhile */
        cache_invalidate(svm, p, offset, bytes);
    pthread_mutex_unlock(&svm->code_lock);
    guest_mode_enter(sv);
}
