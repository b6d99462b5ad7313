/* SPDX-License-Identifier: MIT */
/*
 * Memory slots: replacing the table, dirty logs, guest-physical copies. vm->slots_lock serialises writers; readers take no lock.
 *
 * Two kinds of readers must be gone before an old table, its bitmaps or the client's mapping may be. vCPUs inside run: engine_ops.memory_changed waits for
 * them. Everybody else (chips on the timer thread, client threads in vm_read): counted in slots_readers, by the parity of the epoch they came in.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/guard.h"
#include "base/memfd.h"
#include "core/dirty_ring.h"
#include "core/vm.h"
#include "core/vm_priv.h"

static const struct memslots *reader_enter(struct vm *vm, unsigned space, unsigned *parity)
{
    *parity = atomic_load(&vm->slots_epoch) & 1;
    atomic_fetch_add(&vm->slots_readers[*parity], 1);
    return atomic_load(&vm->slots[space]); /* after being counted: what is loaded now stays until reader_leave */
}

static void reader_leave(struct vm *vm, unsigned parity)
{
    atomic_fetch_sub(&vm->slots_readers[parity], 1);
}

/* Twice, since a reader may have taken the parity just before it was flipped and be counted only after the first wait. Copies are short: no sleeping wait. */
static void wait_for_readers(struct vm *vm)
{
    for (int i = 0; i < 2; i++) {
        unsigned old = atomic_fetch_add(&vm->slots_epoch, 1) & 1;
        while (atomic_load(&vm->slots_readers[old]))
            sched_yield();
    }
}

static uint64_t dirty_words(uint64_t bytes)
{
    return ((bytes >> PAGE_SHIFT) + 63) / 64;
}

static struct memslot *find_id(struct memslots *t, uint32_t id)
{
    for (unsigned i = 0; i < t->n; i++) {
        if (t->slot[i].id == id)
            return &t->slot[i];
    }
    return NULL;
}

/* The table of the space that `id` belongs to, or NULL. The caller holds slots_lock. */
static struct memslots *table_of(struct vm *vm, uint32_t id)
{
    uint32_t space = id >> MEMSLOT_SPACE_SHIFT;
    return space < SPACE_COUNT ? atomic_load(&vm->slots[space]) : NULL;
}

/* The caller holds slots_lock. */
static const struct memslot *find_slot(struct vm *vm, uint32_t id)
{
    struct memslots *t = table_of(vm, id);
    return t ? find_id(t, id) : NULL;
}

static bool do_overlap(const struct memslot *a, const struct memslot *b)
{
    return a->gpa < b->gpa + b->bytes && b->gpa < a->gpa + a->bytes;
}

/* A tool's page where the client wants memory of its own. */
static bool gives_way(const struct memslot *s, const struct memslot *wanted)
{
    return memslot_is_tools(s) && !memslot_is_tools(wanted) && do_overlap(s, wanted);
}

static int check_slot(const struct memslots *t, const struct memslot *wanted)
{
    if (!page_is_aligned(wanted->gpa) || !page_is_aligned(wanted->bytes) || !page_is_aligned((uintptr_t)wanted->hva))
        return -EINVAL;
    if (wanted->gpa + wanted->bytes < wanted->gpa || (uintptr_t)wanted->hva + wanted->bytes < (uintptr_t)wanted->hva)
        return -EINVAL;
    for (unsigned i = 0; i < t->n; i++) {
        const struct memslot *s = &t->slot[i];
        if (s->id != wanted->id && do_overlap(s, wanted) && !gives_way(s, wanted))
            return -EEXIST;
    }
    return 0;
}

/* The old table without slot `id` and what gives way, with `added` in its place if not NULL. */
static struct memslots *make_table(const struct memslots *old, uint32_t id, const struct memslot *added)
{
    const struct memslot *wanted = added;
    struct memslots *t = malloc(sizeof *t + (old->n + 1) * sizeof t->slot[0]);
    if (!t)
        return NULL;
    t->n = 0;
    for (unsigned i = 0; i < old->n; i++) {
        const struct memslot *s = &old->slot[i];
        if (added && added->gpa < s->gpa) {
            t->slot[t->n++] = *added;
            added = NULL;
        }
        if (s->id != id && !(wanted && gives_way(s, wanted)))
            t->slot[t->n++] = *s;
    }
    if (added)
        t->slot[t->n++] = *added;
    return t;
}

/* Memory of tools that the new table does not have any more. */
static void free_tools_pages(const struct memslots *old, struct memslots *now)
{
    for (unsigned i = 0; i < old->n; i++)
        if (memslot_is_tools(&old->slot[i]) && !find_id(now, old->slot[i].id))
            munmap(old->slot[i].hva, old->slot[i].bytes);
}

static void fill_bitmap(_Atomic uint64_t *bitmap, uint64_t pages)
{
    for (uint64_t i = 0; i < pages; i++)
        bitmap[i / 64] |= 1ull << (i % 64);
}

/* Bits survive as long as page n of the slot stays the same memory: a new bitmap if logging starts or the size or memory changes. */
static int choose_bitmap(struct memslot *wanted, const struct memslot *old)
{
    wanted->dirty = NULL;
    if (!(wanted->flags & MEMSLOT_LOG_DIRTY))
        return 0;
    if (old && old->dirty && old->bytes == wanted->bytes && old->hva == wanted->hva) {
        wanted->dirty = old->dirty;
        return 0;
    }
    wanted->dirty = calloc(dirty_words(wanted->bytes), sizeof *wanted->dirty);
    if (!wanted->dirty)
        return -ENOMEM;
    if (wanted->flags & MEMSLOT_ALL_DIRTY)
        fill_bitmap(wanted->dirty, wanted->bytes >> PAGE_SHIFT);
    return 0;
}

void slots_tell_engine(struct vm *vm, gpa_t gpa, uint64_t bytes)
{
    vm->stat[STAT_MEMORY_CHANGES]++;
    if (vm->engine->memory_changed)
        vm->engine->memory_changed(vm, gpa, bytes);
}

static void tell_engine(struct vm *vm, const struct memslot *a, const struct memslot *b)
{
    if (a)
        slots_tell_engine(vm, a->gpa, a->bytes);
    if (b && (!a || a->gpa != b->gpa || a->bytes != b->bytes))
        slots_tell_engine(vm, b->gpa, b->bytes);
}

static int replace_slot(struct vm *vm, const struct memslot *wanted)
{
    struct memslots *old_table = table_of(vm, wanted->id);
    const struct memslot *old = find_id(old_table, wanted->id);
    struct memslot added = *wanted;
    const struct memslot *new_slot = wanted->bytes ? &added : NULL;
    if (!new_slot && !old)
        return -ENOENT;
    int error = new_slot ? check_slot(old_table, new_slot) : 0;
    if (!error && new_slot)
        error = choose_bitmap(&added, old);
    if (error)
        return error;
    struct memslots *table = make_table(old_table, wanted->id, new_slot);
    if (!table) {
        if (new_slot && added.dirty && !(old && old->dirty == added.dirty))
            free(added.dirty);
        return -ENOMEM;
    }
    atomic_store(&vm->slots[wanted->id >> MEMSLOT_SPACE_SHIFT], table);
    tell_engine(vm, old, new_slot);
    wait_for_readers(vm);
    if (old && old->dirty && !(new_slot && added.dirty == old->dirty))
        free(old->dirty);
    free_tools_pages(old_table, table);
    free(old_table);
    return 0;
}

int vm_set_memslot(struct vm *vm, uint32_t id, uint32_t flags, gpa_t gpa, uint64_t bytes, hva_t hva)
{
    if ((flags & ~(MEMSLOT_READONLY | MEMSLOT_LOG_DIRTY | MEMSLOT_ALL_DIRTY | MEMSLOT_NO_EXEC)) || id >> MEMSLOT_SPACE_SHIFT >= SPACE_COUNT)
        return -EINVAL;
    struct memslot wanted = { .gpa = gpa, .bytes = bytes, .hva = hva, .id = id, .flags = flags };
    pthread_mutex_lock(&vm->slots_lock);
    int error = replace_slot(vm, &wanted);
    pthread_mutex_unlock(&vm->slots_lock);
    return error;
}

/* The caller holds slots_lock. -ENOSPC. */
static int free_tool_id(struct vm *vm, uint32_t *id)
{
    for (*id = MEMSLOT_TOOL_FIRST; *id < MEMSLOT_TOOL_FIRST + MEMSLOT_TOOL_PAGES_MAX; ++*id)
        if (!find_slot(vm, *id))
            return 0;
    return -ENOSPC;
}

int vm_add_page(struct vm *vm, gpa_t gpa, int fd, uint64_t offset, uint32_t *id)
{
    if (!page_is_aligned(gpa) || gpa >> 52)
        return -EINVAL;
    void *memory = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, (off_t)offset);
    if (memory == MAP_FAILED)
        return -errno;
    pthread_mutex_lock(&vm->slots_lock);
    struct memslot wanted = { .gpa = gpa, .bytes = PAGE_BYTES, .hva = memory };
    int error = free_tool_id(vm, &wanted.id);
    if (!error)
        error = replace_slot(vm, &wanted);
    pthread_mutex_unlock(&vm->slots_lock);
    if (error)
        munmap(memory, PAGE_BYTES);
    else
        *id = wanted.id;
    return error;
}

int vm_remove_page(struct vm *vm, gpa_t gpa, uint32_t id)
{
    pthread_mutex_lock(&vm->slots_lock);
    const struct memslot *s = find_slot(vm, id);
    int error = s && s->gpa == gpa ? replace_slot(vm, &(struct memslot){ .id = id }) : -ENOENT;
    pthread_mutex_unlock(&vm->slots_lock);
    return error;
}

uint64_t vm_memslot_pages(struct vm *vm, uint32_t id)
{
    pthread_mutex_lock(&vm->slots_lock);
    const struct memslot *s = find_slot(vm, id);
    uint64_t pages = s ? s->bytes >> PAGE_SHIFT : 0;
    pthread_mutex_unlock(&vm->slots_lock);
    return pages;
}

/* slots_lock is held from here to unlock_log unless an error is returned. */
static int lock_log(struct vm *vm, uint32_t id, const struct memslot **out)
{
    pthread_mutex_lock(&vm->slots_lock);
    const struct memslot *s = find_slot(vm, id);
    int error = !s ? -ENOENT : !s->dirty ? -EINVAL : 0;
    if (error)
        pthread_mutex_unlock(&vm->slots_lock);
    *out = s;
    return error;
}

static void unlock_log(struct vm *vm)
{
    pthread_mutex_unlock(&vm->slots_lock);
}

int vm_peek_dirty_log(struct vm *vm, uint32_t id, uint64_t *bitmap)
{
    const struct memslot *s;
    int error = lock_log(vm, id, &s);
    if (error)
        return error;
    for (uint64_t i = 0; i < dirty_words(s->bytes); i++)
        bitmap[i] = atomic_load(&s->dirty[i]);
    unlock_log(vm);
    return 0;
}

/*
 * Why no write is lost. An engine sets a page's bit before it makes a write entry for it, and vm_write sets it after its copy. So while a write entry lives,
 * the bit is set in the bitmap or among those that are cleared here: the entries are flushed after the bits were cleared and before the client can look.
 * A store through such an entry after the clearing is of a page that the client has in its hands, and has happened when the client reads that page.
 */
int vm_clear_dirty_log(struct vm *vm, uint32_t id, uint64_t first_page, uint64_t n_pages, const uint64_t *bitmap)
{
    const struct memslot *s;
    int error = lock_log(vm, id, &s);
    if (error)
        return error;
    uint64_t pages = s->bytes >> PAGE_SHIFT;
    if ((first_page & 63) || first_page > pages || n_pages > pages - first_page || ((n_pages & 63) && n_pages != pages - first_page)) {
        unlock_log(vm);
        return -EINVAL;
    }
    uint64_t any = 0;
    for (uint64_t i = 0; i < (n_pages + 63) / 64; i++) {
        if (bitmap[i])
            any |= atomic_fetch_and(&s->dirty[first_page / 64 + i], ~bitmap[i]) & bitmap[i];
    }
    if (any)
        tell_engine(vm, s, NULL);
    unlock_log(vm);
    return 0;
}

void slots_clear_dirty(struct vm *vm, uint32_t id, uint64_t page)
{
    const struct memslot *s = find_slot(vm, id);
    if (s && s->dirty && page < s->bytes >> PAGE_SHIFT)
        atomic_fetch_and(&s->dirty[page / 64], ~(1ull << (page % 64)));
}

/* Bytes from gpa to the end of its slot, at most `bytes`; 0 if there is no slot. */
static uint64_t span(const struct memslot *s, gpa_t gpa, uint64_t bytes)
{
    if (!s)
        return 0;
    uint64_t left = s->bytes - (gpa - s->gpa);
    return left < bytes ? left : bytes;
}

/* Checked before anything is copied: nothing is touched on -EFAULT, unless the client took the memory away while the slot stands. */
static bool is_ram(const struct memslots *t, gpa_t gpa, uint64_t bytes, bool is_write)
{
    while (bytes) {
        const struct memslot *s = memslots_find(t, gpa);
        uint64_t n = span(s, gpa, bytes);
        if (!n || (is_write && (s->flags & MEMSLOT_READONLY)))
            return false;
        gpa += n;
        bytes -= n;
    }
    return true;
}

int vm_space_read(struct vm *vm, unsigned space, gpa_t gpa, void *buf, uint64_t bytes)
{
    unsigned parity;
    const struct memslots *t = reader_enter(vm, space, &parity);
    int error = is_ram(t, gpa, bytes, false) ? 0 : -EFAULT;
    for (uint8_t *to = buf; !error && bytes;) {
        const struct memslot *s = memslots_find(t, gpa);
        uint64_t n = span(s, gpa, bytes);
        error = guard_copy(to, s->hva + (gpa - s->gpa), n);
        to += n;
        gpa += n;
        bytes -= n;
    }
    reader_leave(vm, parity);
    return error;
}

static void note_write(struct vm *vm, const struct memslot *s, gpa_t gpa)
{
    if (memslot_mark_dirty(s, gpa))
        dirty_ring_push_any(vm, s->id, memslot_page(s, gpa));
}

int vm_exchange(struct vm *vm, gpa_t gpa, uint8_t value)
{
    unsigned parity;
    const struct memslots *t = reader_enter(vm, SPACE_NORMAL, &parity);
    int old = -EFAULT;
    if (is_ram(t, gpa, 1, true)) {
        const struct memslot *s = memslots_find(t, gpa);
        old = guard_exchange((uint8_t *)s->hva + (gpa - s->gpa), value);
        note_write(vm, s, gpa & ~PAGE_OFFSET_MASK);
    }
    reader_leave(vm, parity);
    return old;
}

int vm_space_write(struct vm *vm, unsigned space, gpa_t gpa, const void *buf, uint64_t bytes)
{
    unsigned parity;
    const struct memslots *t = reader_enter(vm, space, &parity);
    int error = is_ram(t, gpa, bytes, true) ? 0 : -EFAULT;
    for (const uint8_t *from = buf; !error && bytes;) {
        const struct memslot *s = memslots_find(t, gpa);
        uint64_t n = span(s, gpa, bytes);
        error = guard_copy(s->hva + (gpa - s->gpa), from, n);
        for (gpa_t page = gpa & ~PAGE_OFFSET_MASK; page < gpa + n; page += PAGE_BYTES)
            note_write(vm, s, page); /* after the copy, so that a harvest in between reports it again */
        from += n;
        gpa += n;
        bytes -= n;
    }
    reader_leave(vm, parity);
    return error;
}
