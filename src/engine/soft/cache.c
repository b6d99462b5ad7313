/* SPDX-License-Identifier: MIT */
/*
 * The code cache: two mappings of one memfd (never writable and executable through the same one), filled from the bottom and flushed as a whole; code pages and
 * their blocks; links; invalidation. Everything but the lookups runs under code_lock; lookups take no lock, because pages and blocks are only freed while all
 * vCPUs are stopped.
 */
#include "base/guard.h"
#include "engine/soft/code.h"
#include "engine/soft/light.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define CACHE_BYTES (256u << 20)
#define BLOCKS_MAX (2u << 20)
#define ARENA_CHUNK (1u << 20)

struct arena_chunk {
    struct arena_chunk *next;
    size_t used;
    _Alignas(64) uint8_t data[];
};

int cache_init(struct soft_vm *svm)
{
    int fd = memfd_create("vitrine-code", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    svm->cache_bytes = CACHE_BYTES;
    int r = ftruncate(fd, CACHE_BYTES) < 0 ? -errno : 0;
    if (!r) {
        svm->cache_rw = mmap(NULL, CACHE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        svm->cache_rx = mmap(NULL, CACHE_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_NORESERVE, fd, 0);
        svm->by_address = mmap(NULL, BLOCKS_MAX * sizeof *svm->by_address, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (svm->cache_rw == MAP_FAILED || svm->cache_rx == MAP_FAILED || (void *)svm->by_address == MAP_FAILED)
            r = -errno;
    }
    close(fd);
    if (r)
        return r;
    svm->cache = (struct emit){ .p = svm->cache_rw, .end = svm->cache_rw + CACHE_BYTES, .to_exec = svm->cache_rx - svm->cache_rw };
    stubs_emit(svm);
    svm->blocks_start = svm->cache.p;
    return 0;
}

static void arena_free(struct soft_vm *svm)
{
    for (struct arena_chunk *c = svm->arena, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    svm->arena = NULL;
}

static void pages_free(struct soft_vm *svm)
{
    for (unsigned i = 0; i < CODE_PAGE_HASH; i++) {
        struct code_page *p = atomic_load(&svm->page[i]), *next;
        for (; p; p = next) {
            next = atomic_load(&p->next);
            free(p);
        }
        atomic_store(&svm->page[i], NULL);
    }
}

void cache_fini(struct soft_vm *svm)
{
    if (svm->cache_rw && svm->cache_rw != MAP_FAILED)
        munmap(svm->cache_rw, svm->cache_bytes);
    if (svm->cache_rx && svm->cache_rx != MAP_FAILED)
        munmap(svm->cache_rx, svm->cache_bytes);
    arena_free(svm);
    pages_free(svm);
    if (svm->by_address && (void *)svm->by_address != MAP_FAILED)
        munmap(svm->by_address, BLOCKS_MAX * sizeof *svm->by_address);
}

void *cache_alloc(struct soft_vm *svm, size_t bytes)
{
    bytes = (bytes + 15) & ~(size_t)15;
    struct arena_chunk *c = svm->arena;
    if (!c || ARENA_CHUNK - c->used < bytes) {
        c = calloc(1, sizeof *c + ARENA_CHUNK);
        if (!c)
            return NULL;
        c->next = svm->arena;
        svm->arena = c;
    }
    void *p = c->data + c->used;
    c->used += bytes;
    return p;
}

void cache_flush(struct soft_vm *svm)
{
    arena_free(svm);
    pages_free(svm);
    light_fill(svm->bounce, 0, sizeof svm->bounce);
    atomic_store(&svm->n_blocks, 0);
    svm->cache.p = svm->blocks_start;
    svm->cache.overflow = false;
    svm->n_flushes++;
    atomic_fetch_add(&svm->flush_generation, 1);
}

static unsigned page_hash(uint64_t host_page)
{
    return (unsigned)((host_page >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ull >> 48) % CODE_PAGE_HASH;
}

struct code_page *cache_page(struct soft_vm *svm, uint64_t host_page)
{
    struct code_page *p = atomic_load_explicit(&svm->page[page_hash(host_page)], memory_order_acquire);
    while (p && p->host_page != host_page)
        p = atomic_load_explicit(&p->next, memory_order_acquire);
    return p;
}

/* Whether another vCPU could store to the page without our seeing it. */
static bool has_remote_writer(struct soft_vcpu *sv, uint64_t host_page)
{
    struct vm *vm = sv->v.vm;
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct soft_vcpu *other = vm->vcpu[i] ? to_soft(vm->vcpu[i]) : NULL;
        if (!other || other == sv)
            continue;
        for (unsigned g = 0; g < GROUPS_MAX; g++)
            if ((other->group[g] & ~PAGE_OFFSET_MASK) == host_page)
                return true;
        for (unsigned u = 0; u < 2; u++)
            for (unsigned n = 0; n < TLB_ENTRIES; n++)
                if (other->tlb[u][TLB_WRITE].entry[n].host == host_page && other->tlb[u][TLB_WRITE].entry[n].page != TLB_EMPTY)
                    return true;
    }
    return false;
}

/*
 * has_code is set before the bytes are copied, and every vCPU's write entries to the page go in between: from then on each store is seen by code_page_written.
 * tlb_fill looks at has_code again after it installed a write entry, so an entry that we miss here removes itself.
 */
static void page_begin(struct soft_vcpu *sv, struct code_page *p)
{
    atomic_store(&p->has_code, true);
    if (has_remote_writer(sv, p->host_page)) {
        world_stop(sv, sv->v.vm);
        for (unsigned i = 0; i < atomic_load(&sv->v.vm->n_vcpus); i++)
            if (sv->v.vm->vcpu[i])
                tlb_drop_write(to_soft(sv->v.vm->vcpu[i]), p->host_page);
        world_resume(sv->v.vm);
    } else {
        tlb_drop_write(sv, p->host_page);
    }
    p->covered = 0;
}

struct code_page *cache_page_make(struct soft_vcpu *sv, uint64_t host_page)
{
    struct soft_vm *svm = soft_vm_of(sv);
    struct code_page *p = cache_page(svm, host_page);
    if (!p) {
        p = calloc(1, sizeof *p);
        if (!p)
            return NULL;
        p->host_page = host_page;
        _Atomic(struct code_page *) *head = &svm->page[page_hash(host_page)];
        atomic_store(&p->next, atomic_load(head));
        atomic_store_explicit(head, p, memory_order_release);
    }
    if (!atomic_load(&p->has_code))
        page_begin(sv, p);
    return p;
}

static bool is_same_cs(const struct soft_vcpu *sv, const struct block *b)
{
    const struct segment *cs = &sv->v.cpu.seg[SEG_CS];
    return b->cs_base == cs->base && b->cs_limit == cs->limit;
}

struct block *cache_find(struct soft_vcpu *sv, gva_t gva, const uint8_t *host, uint32_t key)
{
    struct code_page *p = cache_page(soft_vm_of(sv), (uint64_t)host & ~PAGE_OFFSET_MASK);
    if (!p)
        return NULL;
    unsigned offset = (unsigned)((uint64_t)host & PAGE_OFFSET_MASK);
    struct block *b = atomic_load_explicit(&p->bucket[offset / (PAGE_BYTES / CODE_PAGE_BUCKETS)], memory_order_acquire);
    for (; b; b = atomic_load_explicit(&b->next, memory_order_acquire))
        if (b->gva == gva && b->key == key && b->page_offset == offset && ((sv->key & KEY_FLAT_CS) || is_same_cs(sv, b)))
            return b;
    return NULL;
}

int cache_publish(struct soft_vm *svm, struct block *b)
{
    unsigned n = atomic_load(&svm->n_blocks);
    if (n == BLOCKS_MAX)
        return -ENOSPC;
    svm->by_address[n] = b;
    atomic_store(&svm->n_blocks, n + 1);
    _Atomic(struct block *) *head = &b->page->bucket[b->page_offset / (PAGE_BYTES / CODE_PAGE_BUCKETS)];
    atomic_store(&b->next, atomic_load(head));
    atomic_store_explicit(head, b, memory_order_release);
    /* A store that came between the copying of the bytes and this found no block to kill: either it sees the block now or we see it (safe.c). */
    atomic_thread_fence(memory_order_seq_cst);
    cache_page_refresh(svm, b->page, b->page_offset, b->guest_bytes);
    return 0;
}

struct block *cache_block_at(struct soft_vm *svm, const uint8_t *exec)
{
    const uint8_t *at = exec - svm->cache.to_exec;
    unsigned lo = 0, hi = atomic_load(&svm->n_blocks);
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        struct block *b = svm->by_address[mid];
        if (at < b->start)
            hi = mid;
        else if (at >= b->start + b->host_bytes)
            lo = mid + 1;
        else
            return b;
    }
    return NULL;
}

/* The displacement is 4-byte aligned: a vCPU that runs over the jump sees the old or the new target. */
static void link_set(struct link *l, const uint8_t *exec_target, intptr_t to_exec)
{
    int32_t rel = (int32_t)(exec_target - (l->rel32 + to_exec + 4));
    __atomic_store_n((int32_t *)(void *)l->rel32, rel, __ATOMIC_RELEASE);
}

static const uint8_t *link_entry(const struct link *l, const struct block *to)
{
    bool is_backward = to->gva <= l->from->gva;
    if (l->is_saved)
        return to->polled;
    if (!is_backward)
        return to->body;
    return to->needs_flags ? to->polled_from_hw : to->polled;
}

void cache_link(struct soft_vm *svm, struct link *l, struct block *to)
{
    if (l->to || to->is_dead || l->from->is_dead || to->page != l->from->page)
        return;
    l->to = to;
    l->next_in = to->incoming;
    to->incoming = l;
    link_set(l, link_entry(l, to), svm->cache.to_exec);
}

static void link_clear(struct link *l, intptr_t to_exec)
{
    l->to = NULL;
    link_set(l, l->stub, to_exec);
}

/* The landing starts at a multiple of 16 bytes: its first 8 change at once. */
static void landing_kill(struct soft_vm *svm, struct block *b)
{
    uint8_t jump[8];
    light_copy(jump, b->start, 8);
    int32_t rel = (int32_t)(svm->stubs.lookup - (b->start + svm->cache.to_exec + 5));
    jump[0] = 0xe9;
    light_copy(jump + 1, &rel, 4);
    uint64_t word;
    light_copy(&word, jump, 8);
    __atomic_store_n((uint64_t *)(void *)b->start, word, __ATOMIC_RELEASE);
}

static void incoming_remove(struct link *l)
{
    struct link **at = &l->to->incoming;
    while (*at != l)
        at = &(*at)->next_in;
    *at = l->next_in;
}

static void link_drop(struct soft_vm *svm, struct link *l)
{
    if (!l->to)
        return;
    incoming_remove(l);
    link_clear(l, svm->cache.to_exec);
}

static void block_kill(struct soft_vm *svm, struct block *b)
{
    b->is_dead = true;
    for (struct link *l = b->incoming, *next; l; l = next) {
        next = l->next_in;
        link_clear(l, svm->cache.to_exec);
    }
    b->incoming = NULL;
    for (unsigned i = 0; i < 2; i++)
        link_drop(svm, &b->link[i]);
    for (unsigned i = 0; i < b->n_group_links; i++)
        link_drop(svm, &b->group_link[i]);
    landing_kill(svm, b);
    svm->n_invalidated++;
}

void cache_invalidate(struct soft_vm *svm, struct code_page *page, unsigned offset, unsigned bytes)
{
    bool has_blocks = false;
    for (unsigned i = 0; i < CODE_PAGE_BUCKETS; i++) {
        _Atomic(struct block *) *at = &page->bucket[i];
        for (struct block *b = atomic_load(at); b; b = atomic_load(at)) {
            if (b->page_offset < offset + bytes && offset < (unsigned)b->page_offset + b->guest_bytes) {
                atomic_store(at, atomic_load(&b->next)); /* a reader on b still finds its way: b->next stays */
                block_kill(svm, b);
            } else {
                has_blocks = true;
                at = &b->next;
            }
        }
    }
    if (!has_blocks) {
        page->covered = 0;
        atomic_store(&page->has_code, false);
    }
}

#define LINE_BYTES 64u

static bool line_differs(const struct code_page *p, unsigned line)
{
    const uint64_t *now = (const uint64_t *)(p->host_page + line * LINE_BYTES), *then = (const uint64_t *)(const void *)(p->copy + line * LINE_BYTES);
    for (unsigned i = 0; i < LINE_BYTES / 8; i++)
        if (now[i] != then[i])
            return true;
    return false;
}

static bool page_differs(const struct code_page *p)
{
    for (uint64_t left = p->covered; left; left &= left - 1)
        if (line_differs(p, (unsigned)__builtin_ctzll(left)))
            return true;
    return false;
}

static void line_refresh(struct soft_vm *svm, struct code_page *p, unsigned line)
{
    uint64_t now[LINE_BYTES / 8] = { 0 };
    uint64_t *then = (uint64_t *)(void *)(p->copy + line * LINE_BYTES);
    bool is_covered = p->covered >> line & 1;
    guard_copy(now, (const void *)(uintptr_t)(p->host_page + line * LINE_BYTES), LINE_BYTES); /* if it fails, find_block sees it */
    for (unsigned i = 0; i < LINE_BYTES / 8; i++) {
        if (then[i] == now[i])
            continue;
        then[i] = now[i];
        if (is_covered)
            cache_invalidate(svm, p, line * LINE_BYTES + i * 8, 8);
    }
    p->covered |= 1ull << line;
}

void cache_page_refresh(struct soft_vm *svm, struct code_page *p, unsigned offset, unsigned bytes)
{
    for (unsigned line = offset / LINE_BYTES; line < PAGE_BYTES / LINE_BYTES && line * LINE_BYTES < offset + bytes; line++)
        line_refresh(svm, p, line);
}

static void covered_refresh(struct soft_vm *svm, struct code_page *p)
{
    for (uint64_t left = p->covered; left; left &= left - 1)
        line_refresh(svm, p, (unsigned)__builtin_ctzll(left));
}

bool cache_verify(struct soft_vcpu *sv, const uint8_t *host)
{
    struct soft_vm *svm = soft_vm_of(sv);
    struct code_page *p = cache_page(svm, (uint64_t)host & ~PAGE_OFFSET_MASK);
    if (!p || !atomic_load(&p->has_code) || !page_differs(p))
        return false;
    uint32_t generation = atomic_load(&svm->flush_generation);
    fp_put(sv);
    guest_mode_leave(sv);
    pthread_mutex_lock(&svm->code_lock);
    if (generation == atomic_load(&svm->flush_generation)) /* else the page's translations went meanwhile, and it with them */
        covered_refresh(svm, p);
    pthread_mutex_unlock(&svm->code_lock);
    guest_mode_enter(sv);
    return true;
}
