/* SPDX-License-Identifier: MIT */
/*
 * Page tables as a list of runs, for dumps: where each linear address is in the file. All formats of the tables (SDM vol. 3A, "Paging"). Permissions do not
 * matter; what is no memory of the VM is left out.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/dump.h"

#define P 1ull
#define PS 0x80ull
#define NX_AND_ABOVE 0xfff0000000000fffull
#define CR0_PG (1ull << 31)
#define CR4_PSE (1ull << 4)
#define CR4_PAE (1ull << 5)
#define CR4_LA57 (1ull << 12)
#define EFER_LMA (1ull << 10)
#define TABLES_MAX (1u << 20) /* whatever a guest makes of its tables, the walk ends */
#define GAPS_MAX 4096u
_Static_assert(DUMP_RUNS_MAX + GAPS_MAX + DUMP_SLOTS_MAX < 0xffff, "all program headers and that of the notes");

struct walker {
    struct dump *d;
    struct dump_map *map;
    bool is_wide;   /* entries of 8 bytes */
    bool has_large; /* level 2 may end in a large page */
    unsigned top, n_tables;
    uint8_t table[6][DUMP_PAGE_BYTES]; /* by level */
};

/* ---- runs ---- */

static int run_add(struct dump_map *map, const struct dump_run *r)
{
    struct dump_run *last = map->n ? &map->run[map->n - 1] : NULL;
    if (last && r->gva && last->gva + last->bytes == r->gva && last->gpa + last->bytes == r->gpa && last->offset + last->bytes == r->offset) {
        last->bytes += r->bytes;
        return 0;
    }
    if (map->n == map->n_room) {
        unsigned room = map->n_room ? 2 * map->n_room : 256;
        struct dump_run *more = realloc(map->run, room * sizeof *more);
        if (!more)
            return -1;
        map->run = more;
        map->n_room = room;
    }
    map->run[map->n++] = *r;
    return 0;
}

/* The part of a page that is in slots. */
static int page_add(struct walker *w, uint64_t gva, uint64_t gpa, uint64_t bytes)
{
    uint64_t offset = 0;
    for (unsigned i = 0; i < w->d->n_slots; offset += w->d->slot[i++].bytes) {
        const struct vitrine_slot *s = &w->d->slot[i];
        uint64_t first = gpa > s->gpa ? gpa : s->gpa, end = gpa + bytes < s->gpa + s->bytes ? gpa + bytes : s->gpa + s->bytes;
        struct dump_run r = { .gva = gva + (first - gpa), .gpa = first, .bytes = end - first, .offset = offset + (first - s->gpa) };
        if (first < end && w->map->n < DUMP_RUNS_MAX && run_add(w->map, &r))
            return -1;
    }
    return 0;
}

/* ---- tables ---- */

static unsigned shift_of(const struct walker *w, unsigned level)
{
    return 12 + (w->is_wide ? 9 : 10) * (level - 1);
}

static uint64_t entry_of(const struct walker *w, unsigned level, unsigned i)
{
    uint64_t entry = 0;
    memcpy(&entry, w->table[level] + i * (w->is_wide ? 8 : 4), w->is_wide ? 8 : 4);
    return entry;
}

static bool is_page(const struct walker *w, unsigned level, uint64_t entry)
{
    return level == 1 || ((entry & PS) && (level == 2 ? w->has_large : level == 3 && w->top > 3));
}

static uint64_t frame_of(const struct walker *w, unsigned level, uint64_t entry)
{
    uint64_t mask = (1ull << shift_of(w, level)) - 1;
    if (!w->is_wide && level == 2) /* PSE-36: address bits 32-39 */
        return (entry & 0xffc00000) | (entry >> 13 & 0xff) << 32;
    return entry & ~NX_AND_ABOVE & ~mask;
}

static uint64_t canonical(const struct walker *w, uint64_t gva)
{
    unsigned bits = w->top < 4 ? 0 : shift_of(w, w->top) + 9;
    return bits && gva >> (bits - 1) & 1 ? gva | ~0ull << bits : gva;
}

/* An entry that repeats the one before it maps the same memory once more; Linux fills terabytes of KASAN's shadow so. */
static int table_walk(struct walker *w, uint64_t table, unsigned level, uint64_t gva)
{
    unsigned n = level == 3 && w->top == 3 ? 4 : w->is_wide ? 512 : 1024;
    size_t bytes = n * (w->is_wide ? 8 : 4);
    if (w->n_tables++ > TABLES_MAX)
        return 0;
    if (vitrine_mem_read(w->d->vm, table, w->table[level], bytes) != (ssize_t)bytes)
        return errno == EFAULT ? 0 : -1;
    for (unsigned i = 0; i < n; i++) {
        uint64_t entry = entry_of(w, level, i), at = gva + ((uint64_t)i << shift_of(w, level));
        if (!(entry & P) || (level > 1 && i && entry == entry_of(w, level, i - 1)))
            continue;
        if (level == w->top)
            at = canonical(w, at);
        int r = is_page(w, level, entry) ? page_add(w, at, frame_of(w, level, entry), 1ull << shift_of(w, level))
                                         : table_walk(w, entry & ~NX_AND_ABOVE, level - 1, at);
        if (r)
            return -1;
    }
    return 0;
}

/* The kernel's tables may be complete only while it runs. */
static int find_regs(struct vitrine_vm *vm, struct vitrine_regs *out)
{
    struct vitrine_vcpu_info vcpu[DUMP_VCPUS_MAX];
    struct vitrine_regs regs;
    int n = vitrine_vm_vcpus(vm, vcpu, DUMP_VCPUS_MAX);
    memset(out, 0, sizeof *out);
    for (int i = 0; i < n && i < DUMP_VCPUS_MAX; i++) {
        if (vitrine_vcpu_get_regs(vm, vcpu[i].id, &regs))
            return -1;
        bool is_kernel = (regs.cr0 & CR0_PG) && !(regs.segment[VITRINE_SS].attributes >> 5 & 3);
        if (i == 0 || is_kernel)
            *out = regs;
        if (is_kernel)
            break;
    }
    return n < 0 ? -1 : 0;
}

static int tables_walk(struct dump *d, const struct vitrine_regs *r, struct dump_map *map)
{
    struct walker *w = calloc(1, sizeof *w);
    if (!w)
        return -1;
    *w = (struct walker){ .d = d, .map = map, .is_wide = r->cr4 & CR4_PAE, .has_large = r->cr4 & (CR4_PAE | CR4_PSE) };
    w->top = r->efer & EFER_LMA ? (r->cr4 & CR4_LA57 ? 5 : 4) : w->is_wide ? 3 : 2;
    int result = table_walk(w, r->cr3 & (w->top == 3 ? 0xffffffe0 : ~NX_AND_ABOVE), w->top, 0), error = errno;
    free(w);
    errno = error;
    return result;
}

/* ---- what is left ---- */

static int by_gpa(const void *a, const void *b)
{
    const struct dump_run *x = a, *y = b;
    return x->gpa < y->gpa ? -1 : x->gpa > y->gpa;
}

/* Adds the parts of the slots that no run has. */
static int gaps_add(struct dump *d, struct dump_map *map)
{
    unsigned n = map->n, k = 0;
    uint64_t offset = 0;
    struct dump_run *sorted = malloc((n + 1) * sizeof *sorted);
    int r = sorted ? 0 : -1;
    if (n && sorted)
        memcpy(sorted, map->run, n * sizeof *sorted);
    if (sorted)
        qsort(sorted, n, sizeof *sorted, by_gpa);
    for (unsigned i = 0; !r && i < d->n_slots; offset += d->slot[i++].bytes) {
        const struct vitrine_slot *s = &d->slot[i];
        uint64_t at = s->gpa, end = s->gpa + s->bytes;
        while (!r && at < end) {
            for (; k < n && sorted[k].gpa <= at; k++)
                at = sorted[k].gpa + sorted[k].bytes > at ? sorted[k].gpa + sorted[k].bytes : at;
            uint64_t next = k < n && sorted[k].gpa < end ? sorted[k].gpa : end;
            struct dump_run gap = { .gva = map->is_identity ? at : 0, .gpa = at, .bytes = next - at, .offset = offset + (at - s->gpa) };
            if (at < next)
                r = run_add(map, &gap);
            at = next;
        }
    }
    free(sorted);
    return r;
}

/* Instead, where that would be too many. */
static int slots_add(struct dump *d, struct dump_map *map)
{
    uint64_t offset = 0;
    for (unsigned i = 0; i < d->n_slots; offset += d->slot[i++].bytes) {
        const struct vitrine_slot *s = &d->slot[i];
        if (run_add(map, &(struct dump_run){ .gva = 0, .gpa = s->gpa, .bytes = s->bytes, .offset = offset }))
            return -1;
    }
    return 0;
}

int dump_map_make(struct dump *d, struct dump_map *map)
{
    struct vitrine_regs regs;
    *map = (struct dump_map){ .run = NULL };
    if (find_regs(d->vm, &regs))
        return -1;
    map->is_identity = !(regs.cr0 & CR0_PG);
    if (!map->is_identity && tables_walk(d, &regs, map))
        return -1;
    unsigned n = map->n;
    if (gaps_add(d, map))
        return -1;
    if (map->n - n <= GAPS_MAX)
        return 0;
    map->n = n;
    return slots_add(d, map);
}
