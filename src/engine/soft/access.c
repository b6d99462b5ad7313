/* SPDX-License-Identifier: MIT */
/*
 * Guest memory accesses made by C: linear and segmented, RAM and MMIO, with data breakpoints and alignment checks. Called on the vCPU's thread, no lock.
 *
 * An access is first placed page by page, which finds every fault, and only then done. MMIO reads are recorded in v.replay, those of in-process
 * devices too, so that an instruction that restarts reads no device twice. MMIO writes for the client are posted and shown after the instruction
 * commits; in-process devices see a write at once, so a helper writes memory last, when nothing of it can fault any more. The run loop empties
 * v.posted and v.replay when an instruction faults, and rewinds v.replay when it starts.
 */
#include <assert.h>
#include <errno.h>

#include "engine/soft/light.h"
#include "engine/soft/tlb.h"

#define SPANS_MAX 3
#define ACCESS_BYTES_MAX (2 * PAGE_BYTES)

typedef uint16_t __attribute__((may_alias, aligned(1))) any16;
typedef uint32_t __attribute__((may_alias, aligned(1))) any32;
typedef uint64_t __attribute__((may_alias, aligned(1))) any64;

/* The part of an access that lies in one page. */
struct span {
    struct page_place place;
    unsigned bytes;
};

/* One host access for each size that the architecture makes atomic. */
static void ram_load(void *to, const volatile uint8_t *from, unsigned bytes)
{
    switch (bytes) {
    case 1:
        *(uint8_t *)to = *from;
        break;
    case 2:
        *(any16 *)to = *(const volatile any16 *)from;
        break;
    case 4:
        *(any32 *)to = *(const volatile any32 *)from;
        break;
    case 8:
        *(any64 *)to = *(const volatile any64 *)from;
        break;
    default:
        light_copy(to, (const void *)(uintptr_t)from, bytes);
    }
}

static void ram_store(volatile uint8_t *to, const void *from, unsigned bytes)
{
    switch (bytes) {
    case 1:
        *to = *(const uint8_t *)from;
        break;
    case 2:
        *(volatile any16 *)to = *(const any16 *)from;
        break;
    case 4:
        *(volatile any32 *)to = *(const any32 *)from;
        break;
    case 8:
        *(volatile any64 *)to = *(const any64 *)from;
        break;
    default:
        light_copy((void *)(uintptr_t)to, from, bytes);
    }
}

/* ---- breakpoints ------------------------------------------------------------------------------------------------------------------------- */

/* B0-B3 of the enabled breakpoints that [addr, addr + bytes) meets; `kinds` is a set of DR7 R/W values. */
static uint8_t breakpoints_met(const uint64_t dr[4], uint64_t dr7, uint64_t addr, unsigned bytes, unsigned kinds)
{
    static const uint8_t len_of[4] = { 1, 2, 8, 4 };
    uint8_t met = 0;
    for (unsigned n = 0; n < 4; n++) {
        if (!(dr7 >> (2 * n) & 3) || !(kinds >> (dr7 >> (16 + 4 * n) & 3) & 1))
            continue;
        unsigned len = len_of[dr7 >> (18 + 4 * n) & 3];
        uint64_t first = dr[n] & ~(uint64_t)(len - 1);
        if (first - addr < bytes || addr - first < len)
            met |= (uint8_t)(1u << n);
    }
    return met;
}

static uint8_t breakpoints_find(const struct soft_vcpu *sv, uint64_t addr, unsigned bytes, unsigned kinds)
{
    const struct guest_debug *d = &sv->v.debug;
    if (d->enabled && d->use_hw_bp) /* the client's breakpoints replace the guest's */
        return breakpoints_met(d->dr, d->dr7, addr, bytes, kinds);
    return breakpoints_met(sv->v.cpu.dr, sv->v.cpu.dr7, addr, bytes, kinds);
}

void access_note_data(struct soft_vcpu *sv, gva_t gva, unsigned bytes, unsigned access)
{
    if (sv->is_checking && !(access & ACCESS_IMPLICIT))
        sv->dr6_hits |= breakpoints_find(sv, gva, bytes, access & ACCESS_WRITE ? 1u << 1 | 1u << 3 : 1u << 3);
}

void access_note_io(struct soft_vcpu *sv, unsigned port, unsigned bytes)
{
    if (sv->v.cpu.cr4 & CR4_DE)
        sv->dr6_hits |= breakpoints_find(sv, port, bytes, 1u << 2);
}

/* ---- MMIO -------------------------------------------------------------------------------------------------------------------------------- */

/* Bytes of the next piece: the whole access if it is 1, 2, 4 or 8 bytes within 8 aligned ones, else naturally aligned parts. */
static unsigned mmio_piece(gpa_t gpa, unsigned bytes)
{
    if (bytes <= 8 && (bytes & (bytes - 1)) == 0 && (gpa & 7) + bytes <= 8)
        return bytes;
    unsigned piece = 8;
    while (piece > bytes || (gpa & (piece - 1)))
        piece /= 2;
    return piece;
}

static unsigned mmio_pieces(gpa_t gpa, unsigned bytes)
{
    unsigned n = 0;
    while (bytes) {
        unsigned piece = mmio_piece(gpa, bytes);
        gpa += piece;
        bytes -= piece;
        n++;
    }
    return n;
}

static enum step mmio_overrun(struct soft_vcpu *sv, const char *text)
{
    sv->v.exit.kind = EXIT_INTERNAL_ERROR;
    sv->v.exit.internal.suberror = 1;
    sv->v.exit.internal.n_bytes = 0;
    sv->v.exit.internal.text = text;
    return STEP_EXIT;
}

static bool is_lapic(const struct vcpu *v, gpa_t gpa)
{
    uint64_t base = v->cpu.apic_base;
    return v->lapic && (base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)) == APIC_BASE_ENABLE && gpa >> PAGE_SHIFT == base >> PAGE_SHIFT;
}

/* Asks the devices of this process. 0 or -EOPNOTSUPP. */
static int device_read(struct soft_vcpu *sv, gpa_t gpa, unsigned bytes, void *data)
{
    struct vcpu *v = &sv->v;
    vcpu_count_exit(v, STAT_MMIO_EXITS);
    fp_put(sv);
    if (is_lapic(v, gpa) && v->vm->chip->lapic_mmio_read(v, gpa & PAGE_OFFSET_MASK, bytes, data) == 0)
        return 0;
    return bus_read(&v->vm->mmio, v, gpa, bytes, data);
}

static int device_write(struct soft_vcpu *sv, gpa_t gpa, unsigned bytes, const void *data)
{
    struct vcpu *v = &sv->v;
    vcpu_count_exit(v, STAT_MMIO_EXITS);
    fp_put(sv);
    if (is_lapic(v, gpa) && v->vm->chip->lapic_mmio_write(v, gpa & PAGE_OFFSET_MASK, bytes, data) == 0)
        return 0;
    return bus_write(&v->vm->mmio, v, gpa, bytes, data);
}

static enum step mmio_read_piece(struct soft_vcpu *sv, gpa_t gpa, unsigned bytes, void *buf)
{
    struct replay *r = &sv->v.replay;
    if (r->next < r->n) {
        const struct replay_entry *e = &r->entry[r->next];
        if (e->gpa == gpa && e->bytes == bytes) {
            light_copy(buf, e->data, bytes);
            r->next++;
            return STEP_NEXT;
        }
        r->n = r->next; /* the client changed the vCPU meanwhile: what was recorded belongs to another access */
    }
    if (r->n == REPLAY_MAX)
        return mmio_overrun(sv, "an instruction reads more MMIO than can be replayed");

    uint64_t data = 0;
    if (device_read(sv, gpa, bytes, &data) == 0) {
        struct replay_entry *e = &r->entry[r->n++];
        e->gpa = gpa;
        e->bytes = (uint8_t)bytes;
        light_copy(e->data, &data, 8);
        r->next = r->n;
        light_copy(buf, &data, bytes);
        return STEP_NEXT;
    }
    struct vcpu_exit *x = &sv->v.exit;
    x->kind = EXIT_MMIO;
    x->mmio.gpa = gpa;
    x->mmio.bytes = (uint8_t)bytes;
    x->mmio.is_write = false;
    light_fill(x->mmio.data, 0, sizeof x->mmio.data);
    return STEP_EXIT;
}

static void mmio_write_piece(struct soft_vcpu *sv, gpa_t gpa, unsigned bytes, const void *buf)
{
    if (device_write(sv, gpa, bytes, buf) == 0)
        return;
    struct posted *p = &sv->v.posted;
    assert(p->n < POSTED_MAX); /* counted before anything was written */
    struct replay_entry *e = &p->entry[p->n++];
    e->gpa = gpa;
    e->bytes = (uint8_t)bytes;
    light_fill(e->data, 0, sizeof e->data);
    light_copy(e->data, buf, bytes);
}

static enum step mmio_read(struct soft_vcpu *sv, gpa_t gpa, unsigned bytes, uint8_t *buf)
{
    while (bytes) {
        unsigned piece = mmio_piece(gpa, bytes);
        enum step st = mmio_read_piece(sv, gpa, piece, buf);
        if (st != STEP_NEXT)
            return st;
        gpa += piece;
        buf += piece;
        bytes -= piece;
    }
    return STEP_NEXT;
}

static void mmio_write(struct soft_vcpu *sv, gpa_t gpa, unsigned bytes, const uint8_t *buf)
{
    while (bytes) {
        unsigned piece = mmio_piece(gpa, bytes);
        mmio_write_piece(sv, gpa, piece, buf);
        gpa += piece;
        buf += piece;
        bytes -= piece;
    }
}

/* ---- linear ------------------------------------------------------------------------------------------------------------------------------ */

static unsigned access_complete(const struct soft_vcpu *sv, unsigned access)
{
    return (access & ACCESS_IMPLICIT) || !sv->is_user ? access & ~ACCESS_USER : access | ACCESS_USER;
}

void access_report(struct soft_vcpu *sv, gva_t gva, gpa_t gpa, unsigned access)
{
    struct vcpu_exit *x = &sv->v.exit;
    x->access.gva = gva;
    x->access.gpa = gpa;
    x->access.how = access & ACCESS_FETCH ? ACCESSED_EXECUTE : access & ACCESS_WRITE ? ACCESSED_WRITE : ACCESSED_READ;
    x->access.is_slot = memslots_find(slots_seen(sv), gpa) != NULL;
    sv->fault = (struct fault){ .vector = FAULT_ACCESS };
}

/* A span that is the client's to answer, and the client executes instructions itself. Whether a region of the bus takes the write only its value says. */
static bool must_report(struct soft_vcpu *sv, const struct page_place *p, unsigned bytes, unsigned access)
{
    struct vcpu *v = &sv->v;
    if (p->host || !v->vm->reports_accesses || is_lapic(v, p->gpa))
        return false;
    if (!(access & ACCESS_WRITE))
        return true;
    fp_put(sv);
    return !bus_may_take(&v->vm->mmio, p->gpa, bytes);
}

/* Places all pages of an access. Number of spans, or 0 with sv->fault. */
static unsigned spans_place(struct soft_vcpu *sv, gva_t gva, unsigned bytes, unsigned access, struct span span[SPANS_MAX])
{
    assert(bytes <= ACCESS_BYTES_MAX);
    unsigned n = 0, told = access & ACCESS_UPDATE ? WATCH_READ | WATCH_WRITE : access & ACCESS_WRITE ? WATCH_WRITE : WATCH_READ;
    bool is_told = !(access & ACCESS_UNTOLD);
    access = access_complete(sv, access & ~(ACCESS_UPDATE | ACCESS_UNTOLD));
    while (bytes) {
        uint64_t room = PAGE_BYTES - (gva & PAGE_OFFSET_MASK);
        span[n].bytes = bytes < room ? bytes : (unsigned)room;
        if (tlb_place(sv, gva, access, &span[n].place))
            return 0;
        if (span[n].place.is_watched && is_told && watch_access_ask(sv, gva, span[n].place.guest_gpa, span[n].bytes, told))
            return 0;
        if (must_report(sv, &span[n].place, span[n].bytes, access)) {
            access_report(sv, gva, span[n].place.gpa, access);
            return 0;
        }
        gva += span[n].bytes;
        bytes -= span[n].bytes;
        n++;
    }
    return n;
}

enum step linear_read(struct soft_vcpu *sv, gva_t gva, void *buf, unsigned bytes, unsigned access)
{
    struct span span[SPANS_MAX];
    unsigned n = spans_place(sv, gva, bytes, access | ACCESS_READ, span);
    if (n == 0)
        return bytes ? STEP_FAULT : STEP_NEXT;
    uint8_t *to = buf;
    for (unsigned i = 0; i < n; i++) {
        if (span[i].place.host) {
            ram_load(to, span[i].place.host, span[i].bytes);
        } else {
            enum step st = mmio_read(sv, span[i].place.gpa, span[i].bytes, to);
            if (st != STEP_NEXT)
                return st;
        }
        to += span[i].bytes;
    }
    if (sv->v.watch.n_gifts)
        watch_give(sv, gva, buf, bytes, false);
    access_note_data(sv, gva, bytes, ACCESS_READ | (access & ACCESS_IMPLICIT));
    return STEP_NEXT;
}

static void span_write(struct soft_vcpu *sv, const struct span *s, const uint8_t *from)
{
    const struct page_place *p = &s->place;
    if (!p->host) {
        mmio_write(sv, p->gpa, s->bytes, from);
        return;
    }
    ram_store(p->host, from, s->bytes);
    if (p->slot)
        vcpu_mark_dirty(&sv->v, p->slot, p->gpa);
    if (p->is_code)
        code_page_written(sv, p->gpa, s->bytes);
}

enum step linear_write(struct soft_vcpu *sv, gva_t gva, const void *buf, unsigned bytes, unsigned access)
{
    struct span span[SPANS_MAX];
    unsigned n = spans_place(sv, gva, bytes, access | ACCESS_WRITE, span);
    if (n == 0)
        return bytes ? STEP_FAULT : STEP_NEXT;
    unsigned pieces = 0;
    for (unsigned i = 0; i < n; i++)
        if (!span[i].place.host)
            pieces += mmio_pieces(span[i].place.gpa, span[i].bytes);
    if (sv->v.posted.n + pieces > POSTED_MAX)
        return mmio_overrun(sv, "an instruction writes more MMIO than can be posted");
    const uint8_t *from = buf;
    if (sv->v.vm->reports_accesses && pieces == 1 && n == 1 && !is_lapic(&sv->v, span[0].place.gpa)) {
        if (device_write(sv, span[0].place.gpa, bytes, buf) == 0)
            return STEP_NEXT;
        access_report(sv, gva, span[0].place.gpa, ACCESS_WRITE);
        return STEP_FAULT;
    }
    for (unsigned i = 0; i < n; i++) {
        span_write(sv, &span[i], from);
        from += span[i].bytes;
    }
    access_note_data(sv, gva, bytes, ACCESS_WRITE | (access & ACCESS_IMPLICIT));
    return STEP_NEXT;
}

enum step linear_probe_write(struct soft_vcpu *sv, gva_t gva, unsigned bytes, unsigned access)
{
    struct span span[SPANS_MAX];
    return spans_place(sv, gva, bytes, access | ACCESS_WRITE, span) || !bytes ? STEP_NEXT : STEP_FAULT;
}

hva_t linear_host(struct soft_vcpu *sv, gva_t gva, unsigned bytes, bool is_write)
{
    struct page_place p;
    if (sv->is_checking || (gva & PAGE_OFFSET_MASK) + bytes > PAGE_BYTES)
        return NULL;
    if (tlb_place(sv, gva, access_complete(sv, is_write ? ACCESS_WRITE : ACCESS_READ), &p) || p.is_code || p.is_watched)
        return NULL;
    return p.host; /* a write entry was made, and the page marked dirty with it */
}

/* ---- segmented --------------------------------------------------------------------------------------------------------------------------- */

static enum step segment_fault(struct soft_vcpu *sv, unsigned seg)
{
    return step_fault_code(sv, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
}

#define SEG_TYPE_CODE 8u
#define SEG_TYPE_EXPAND_DOWN 4u
#define SEG_TYPE_RW 2u /* data: writable, code: readable */

static bool segment_allows(const struct soft_vcpu *sv, const struct segment *s, bool is_write)
{
    const struct cpu_state *c = &sv->v.cpu;
    if (!(c->cr0 & CR0_PE) || (c->rflags & RFLAGS_VM))
        return true;
    if (s->unusable || !s->present)
        return false;
    if (s->type & SEG_TYPE_CODE)
        return !is_write && (s->type & SEG_TYPE_RW);
    return !is_write || (s->type & SEG_TYPE_RW);
}

static bool segment_holds(const struct segment *s, uint64_t offset, unsigned bytes)
{
    uint64_t last = offset + bytes - 1;
    if ((s->type & (SEG_TYPE_CODE | SEG_TYPE_EXPAND_DOWN)) == SEG_TYPE_EXPAND_DOWN)
        return offset > s->limit && last <= (s->db ? 0xffffffffu : 0xffffu);
    return last <= s->limit || s->limit == 0xffffffffu; /* a 4 GiB segment may wrap around (SDM vol. 3A, "Limit Checking") */
}

enum step seg_linear(struct soft_vcpu *sv, unsigned seg, uint64_t offset, unsigned bytes, bool is_write, gva_t *gva)
{
    const struct segment *s = &sv->v.cpu.seg[seg];
    if (bytes == 0)
        bytes = 1;
    if (sv->mode_bits == 64) {
        gva_t first = offset + (seg == SEG_FS || seg == SEG_GS ? s->base : 0);
        if (!gva_is_canonical(sv, first) || !gva_is_canonical(sv, first + bytes - 1))
            return segment_fault(sv, seg);
        *gva = first;
        return STEP_NEXT;
    }
    if (!segment_allows(sv, s, is_write) || !segment_holds(s, offset, bytes))
        return segment_fault(sv, seg);
    *gva = (uint32_t)(s->base + offset);
    return STEP_NEXT;
}

/* #AC is for programs only; wider operands follow their instructions' own rules. */
bool access_is_misaligned(const struct soft_vcpu *sv, gva_t gva, unsigned bytes)
{
    return sv->is_checking && sv->is_user && (sv->v.cpu.cr0 & CR0_AM) && (sv->v.cpu.rflags & RFLAGS_AC) && bytes <= 16 && (bytes & (bytes - 1)) == 0 &&
           (gva & (bytes - 1));
}

enum step seg_read(struct soft_vcpu *sv, unsigned seg, uint64_t offset, void *buf, unsigned bytes)
{
    gva_t gva;
    enum step st = seg_linear(sv, seg, offset, bytes, false, &gva);
    if (st != STEP_NEXT)
        return st;
    if (access_is_misaligned(sv, gva, bytes))
        return step_fault_code(sv, VEC_AC, 0);
    return linear_read(sv, gva, buf, bytes, ACCESS_READ);
}

enum step seg_write(struct soft_vcpu *sv, unsigned seg, uint64_t offset, const void *buf, unsigned bytes)
{
    gva_t gva;
    enum step st = seg_linear(sv, seg, offset, bytes, true, &gva);
    if (st != STEP_NEXT)
        return st;
    if (access_is_misaligned(sv, gva, bytes))
        return step_fault_code(sv, VEC_AC, 0);
    return linear_write(sv, gva, buf, bytes, ACCESS_WRITE);
}
