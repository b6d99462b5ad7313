/* SPDX-License-Identifier: MIT */
/*
 * The soft engine's MMU: page walks in every mode, the TLB, accesses, and the string and port helpers on top. Built from those sources alone;
 * the block cache, buses and chips are stand-ins below, which make it one thing. The guest is one struct and 4 MiB of zeros.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/soft/help_io.h"
#include "engine/soft/help_string.h"
#include "engine/soft/tlb.h"

#define RAM_BYTES 0x400000u
#define ROM_GPA 0x10000000ull
#define MMIO_GPA 0xd0000000ull
#define DEVICE_GPA 0xe0000000ull
#define DEVICE_PORT 0x60u

static struct soft_vcpu *sv;
static struct vm *vm;
static uint8_t *ram;
static uint8_t rom[0x1000] __attribute__((aligned(4096)));
static _Atomic uint64_t dirty[RAM_BYTES / 4096 / 64];
static gfn_t code_gfn;
static unsigned code_writes, jump_flushes, device_reads, device_writes;

/* ---- stand-ins --------------------------------------------------------------------------------------------------------------------------- */

void jump_cache_flush_set(struct soft_vcpu *s, bool is_user)
{
    (void)s, (void)is_user;
    jump_flushes++;
}

void jump_cache_flush(struct soft_vcpu *s)
{
    (void)s;
    jump_flushes++;
}
bool code_page_has(struct soft_vcpu *s, gfn_t gfn)
{
    (void)s;
    return code_gfn && gfn == code_gfn;
}
void code_page_written(struct soft_vcpu *s, gpa_t gpa, unsigned bytes)
{
    (void)s;
    (void)gpa;
    (void)bytes;
    code_writes++;
}
enum step watch_insn_ask(struct soft_vcpu *s, struct watch_event *e)
{
    (void)s, (void)e;
    fail(); /* nobody watches */
    return STEP_EXIT;
}
enum step watch_access_ask(struct soft_vcpu *s, gva_t gva, gpa_t gpa, unsigned bytes, unsigned access)
{
    (void)s, (void)gva, (void)gpa, (void)bytes, (void)access;
    fail();
    return STEP_FAULT;
}
const struct watch_reply *watch_gift(struct soft_vcpu *s, uint32_t kind, uint32_t index)
{
    (void)s, (void)kind, (void)index;
    return NULL;
}
void watch_give(const struct soft_vcpu *s, gva_t gva, uint8_t *buf, unsigned bytes, bool is_code)
{
    (void)s, (void)gva, (void)buf, (void)bytes, (void)is_code;
    fail();
}
bool watch_table_has_page(const struct watch_table *t, gpa_t gpa, unsigned access)
{
    (void)t, (void)gpa, (void)access;
    return false;
}
void fp_put(struct soft_vcpu *s)
{
    s->fp_loaded = false;
}
enum step seg_load(struct soft_vcpu *s, unsigned seg, uint16_t selector)
{
    s->v.cpu.seg[seg].selector = selector;
    return STEP_NEXT;
}
bool bus_may_take(struct bus *b, uint64_t addr, unsigned bytes)
{
    (void)b;
    (void)addr;
    (void)bytes;
    return false;
}

int bus_read(struct bus *b, struct vcpu *v, uint64_t addr, unsigned bytes, void *data)
{
    (void)v;
    if (b == &vm->pio ? addr != DEVICE_PORT : addr >> 12 != DEVICE_GPA >> 12)
        return -95;
    device_reads++;
    memset(data, 0x11, bytes);
    return 0;
}
int bus_write(struct bus *b, struct vcpu *v, uint64_t addr, unsigned bytes, const void *data)
{
    (void)v;
    (void)bytes;
    (void)data;
    if (b == &vm->pio ? addr != DEVICE_PORT : addr >> 12 != DEVICE_GPA >> 12)
        return -95;
    device_writes++;
    return 0;
}

/* ---- fixture ------------------------------------------------------------------------------------------------------------------------------ */

static int setup(void **state)
{
    (void)state;
    sv = aligned_alloc(64, (sizeof *sv + 63) & ~63ul);
    memset(sv, 0, sizeof *sv);
    sv->v.stat = sv->v.own_stat;
    vm = calloc(1, sizeof *vm);
    ram = aligned_alloc(4096, RAM_BYTES);
    memset(ram, 0, RAM_BYTES);
    memset(rom, 0, sizeof rom);
    memset((void *)dirty, 0, sizeof dirty);
    code_gfn = 0;
    code_writes = jump_flushes = device_reads = device_writes = 0;
    struct memslots *t = calloc(1, sizeof *t + 2 * sizeof(struct memslot));
    t->n = 2;
    t->slot[0] = (struct memslot){ .gpa = 0, .bytes = RAM_BYTES, .hva = ram, .flags = MEMSLOT_LOG_DIRTY, .dirty = dirty };
    t->slot[1] = (struct memslot){ .gpa = ROM_GPA, .bytes = sizeof rom, .hva = rom, .flags = MEMSLOT_READONLY };
    vm->slots[SPACE_NORMAL] = t;
    sv->v.vm = vm;
    sv->v.cpu.rflags = 2;
    sv->mode_bits = 32;
    sv->stack_bytes = 4;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        sv->v.cpu.seg[i] = (struct segment){ .limit = 0xffffffff, .type = 3, .present = 1, .db = 1, .s = 1 };
    tlb_flush(sv);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    free((void *)vm->slots[SPACE_NORMAL]);
    free(vm);
    free(ram);
    free(sv);
    return 0;
}

static void put64(gpa_t gpa, uint64_t value)
{
    memcpy(ram + gpa, &value, 8);
}
static uint64_t get64(gpa_t gpa)
{
    uint64_t value;
    memcpy(&value, ram + gpa, 8);
    return value;
}
static void put32(gpa_t gpa, uint32_t value)
{
    memcpy(ram + gpa, &value, 4);
}
static uint32_t get32(gpa_t gpa)
{
    uint32_t value;
    memcpy(&value, ram + gpa, 4);
    return value;
}

static void set_long_mode(void)
{
    struct cpu_state *c = &sv->v.cpu;
    c->cr0 = CR0_PE | CR0_PG | CR0_WP;
    c->cr4 = CR4_PAE;
    c->efer = EFER_LME | EFER_LMA | EFER_NXE;
    c->cr3 = 0x1000;
    sv->mode_bits = 64;
    sv->stack_bytes = 8;
    put64(0x1000, 0x2000 | 7); /* PML4[0] */
    put64(0x2000, 0x3000 | 7); /* PDPT[0] */
    put64(0x3000, 0x4000 | 7); /* PD[0] */
}

static void assert_walk(gva_t gva, unsigned access, gpa_t gpa)
{
    gpa_t got = ~0ull;
    assert_int_equal(walk(sv, gva, access, &got, NULL, NULL), 0);
    assert_int_equal(got, gpa);
}

static void assert_pf(gva_t gva, unsigned access, uint32_t code)
{
    gpa_t got = ~0ull;
    assert_int_not_equal(walk(sv, gva, access, &got, NULL, NULL), 0);
    assert_int_equal(sv->fault.vector, VEC_PF);
    assert_true(sv->fault.has_code);
    assert_int_equal(sv->fault.code, code);
    assert_int_equal(sv->fault.addr, gva);
}

/* ---- walks -------------------------------------------------------------------------------------------------------------------------------- */

static void walks_without_paging(void **state)
{
    (void)state;
    assert_walk(0x12345, ACCESS_WRITE, 0x12345);
    assert_walk(0x100012345ull, ACCESS_READ, 0x12345);
}

static void walks_two_levels(void **state)
{
    (void)state;
    struct cpu_state *c = &sv->v.cpu;
    c->cr0 = CR0_PE | CR0_PG;
    c->cr3 = 0x1000;
    put32(0x1000, 0x2000 | 7);
    put32(0x2000 + 4 * 5, 0x9000 | 5);
    assert_walk(0x5123, ACCESS_READ | ACCESS_USER, 0x9123);
    assert_int_equal(get32(0x2000 + 20), 0x9000 | 0x25);
    assert_int_equal(get32(0x1000), 0x2000 | 0x27);
    assert_pf(0x5123, ACCESS_WRITE | ACCESS_USER, PF_P | PF_W | PF_U);
    assert_walk(0x5123, ACCESS_WRITE, 0x9123); /* WP is off */
    assert_int_equal(get32(0x2000 + 20), 0x9000 | 0x65);
    c->cr0 |= CR0_WP;
    assert_pf(0x5123, ACCESS_WRITE, PF_P | PF_W);
    assert_pf(0x6123, ACCESS_FETCH | ACCESS_USER, PF_U);
    /* A large page with PSE-36 address bits; without CR4.PSE the same entry is a table at 0x83000. */
    put32(0x1004, 0x00802000 | 0x87);
    assert_pf(0x400000, ACCESS_READ, 0);
    c->cr4 = CR4_PSE;
    assert_walk(0x512345, ACCESS_READ, 0x100912345ull);
    put32(0x1004, 0x00a00000 | 0x87);
    assert_pf(0x512345, ACCESS_READ, PF_P | PF_RSVD);
}

static void walks_pae(void **state)
{
    (void)state;
    struct cpu_state *c = &sv->v.cpu;
    c->cr0 = CR0_PE | CR0_PG;
    c->cr4 = CR4_PAE;
    put64(0x1020, 0x2001);
    put64(0x1028, 0x3001);
    assert_int_equal(pdpte_load(sv, 0x1020), 0);
    put64(0x1028, 0x3003);
    assert_int_not_equal(pdpte_load(sv, 0x1020), 0);
    assert_int_equal(c->pdpte[1], 0x3001);
    put64(0x2000, 0x4007);
    put64(0x4000 + 8, 0x7007ull | 1ull << 63);
    assert_pf(0x1000, ACCESS_READ, PF_P | PF_RSVD); /* NXE is off */
    c->efer = EFER_NXE;
    assert_walk(0x1fff, ACCESS_WRITE | ACCESS_USER, 0x7fff);
    assert_pf(0x1000, ACCESS_FETCH, PF_P | PF_I);
    put64(0x3000, 0x600000 | 0x83);
    assert_walk(0x40012345, ACCESS_WRITE, 0x612345);
    assert_pf(0x40012345, ACCESS_WRITE | ACCESS_USER, PF_P | PF_W | PF_U);
    assert_pf(0x80000000, ACCESS_FETCH, PF_I);
    put64(0x3000, 0x600000 | 0x83 | 1ull << 55);
    assert_pf(0x40012345, ACCESS_READ, PF_P | PF_RSVD);
}

static void walks_long_mode(void **state)
{
    (void)state;
    struct cpu_state *c = &sv->v.cpu;
    set_long_mode();
    put64(0x4000, 0x8000 | 7 | 1ull << 55); /* bits 62:52 are the guest's */
    assert_walk(0xabc, ACCESS_READ | ACCESS_PROBE, 0x8abc);
    assert_int_equal(get64(0x4000) & 0x60, 0);
    assert_int_equal(dirty[0], 0);
    assert_walk(0xabc, ACCESS_READ, 0x8abc);
    assert_int_equal(get64(0x4000) & 0x60, 0x20);
    assert_int_equal(dirty[0], 0x1e); /* the four tables */
    assert_walk(0xabc, ACCESS_WRITE, 0x8abc);
    assert_int_equal(get64(0x4000) & 0x60, 0x60);
    assert_int_equal(get64(0x1000) & 0x60, 0x20);
    put64(0x3008, 0x200000 | 0xe7);
    assert_walk(0x2abcde, ACCESS_WRITE | ACCESS_USER, 0x2abcde);
    put64(0x3008, 0x201000 | 0x1000 | 0xe7 | 0x2000);
    assert_pf(0x2abcde, ACCESS_WRITE | ACCESS_USER, PF_P | PF_W | PF_U | PF_RSVD);
    put64(0x2008, 0x40000000 | 0xe7);
    assert_walk(0x41234567, ACCESS_READ, 0x41234567);
    put64(0x1ff8, 0x2000 | 0x87); /* PS in a PML4 entry */
    assert_pf(0xffffff8000000000ull, ACCESS_READ, PF_P | PF_RSVD);
    put64(0x2010, 1ull << 36 | 7); /* beyond MAXPHYADDR 36 */
    assert_pf(0x80000000, ACCESS_READ, PF_P | PF_RSVD);
    put64(0x2018, 0xf0000000 | 7); /* a table where there is no RAM */
    assert_pf(0xc0000000, ACCESS_READ, 0);
    gpa_t gpa;
    assert_int_not_equal(walk(sv, 0x800000000000ull, ACCESS_READ, &gpa, NULL, NULL), 0);
    assert_int_equal(sv->fault.vector, VEC_GP);
    /* Without the CPUID bit a 1 GiB page is a reserved bit. */
    sv->v.n_cpuid = 1;
    sv->v.cpuid[0] = (struct cpuid_entry){ .function = 0x80000008u, .eax = 40 };
    tlb_flush(sv);
    assert_pf(0x41234567, ACCESS_READ, PF_P | PF_RSVD);
    assert_pf(0x80000000, ACCESS_READ, 0);
    c->efer &= ~(uint64_t)EFER_NXE;
    assert_pf(0x1000, ACCESS_FETCH, 0);
    c->cr4 |= CR4_SMEP;
    assert_pf(0x1000, ACCESS_FETCH, PF_I);
}

static void walks_five_levels(void **state)
{
    (void)state;
    set_long_mode();
    sv->v.cpu.cr4 |= CR4_LA57;
    sv->v.cpu.cr3 = 0x5000;
    put64(0x5000 + 8, 0x1007);
    put64(0x4000, 0x8007);
    assert_walk(1ull << 48 | 0x123, ACCESS_READ | ACCESS_USER, 0x8123);
    gpa_t gpa;
    assert_int_not_equal(walk(sv, 1ull << 56, ACCESS_READ, &gpa, NULL, NULL), 0);
    assert_int_equal(sv->fault.vector, VEC_GP);
}

static void walk_protects_user_pages(void **state)
{
    (void)state;
    struct cpu_state *c = &sv->v.cpu;
    set_long_mode();
    put64(0x4000, 0x8007); /* user page at 0, supervisor page at 0x1000 */
    put64(0x4008, 0x9003);
    assert_walk(0, ACCESS_FETCH, 0x8000);
    assert_pf(0x1000, ACCESS_READ | ACCESS_USER, PF_P | PF_U);
    c->cr4 |= CR4_SMEP | CR4_SMAP;
    assert_pf(0, ACCESS_FETCH, PF_P | PF_I);
    assert_walk(0x1000, ACCESS_FETCH, 0x9000);
    assert_pf(0, ACCESS_READ, PF_P);
    assert_walk(0, ACCESS_READ | ACCESS_USER, 0x8000);
    c->rflags |= RFLAGS_AC;
    assert_walk(0, ACCESS_WRITE, 0x8000);
    assert_pf(0, ACCESS_READ | ACCESS_IMPLICIT, PF_P);
}

/* ---- TLB ---------------------------------------------------------------------------------------------------------------------------------- */

static void tlb_fills_and_flushes(void **state)
{
    (void)state;
    enum tlb_miss why;
    set_long_mode();
    put64(0x4000, 0x8007);
    put64(0x4008, MMIO_GPA | 7);
    put64(0x4010, ROM_GPA | 7);
    put64(0x4018, 0x9007);
    code_gfn = 9;
    assert_ptr_equal(tlb_fill(sv, 0x10, TLB_READ, false, &why), ram + 0x8010);
    assert_null(tlb_lookup(sv, 0x10, TLB_WRITE, false));
    assert_int_equal(get64(0x4000) & 0x40, 0);
    assert_ptr_equal(tlb_fill(sv, 0x10, TLB_WRITE, true, &why), ram + 0x8010);
    assert_ptr_equal(tlb_lookup(sv, 0xfff, TLB_READ, true), ram + 0x8fff);
    assert_true(dirty[0] & 1 << 8);
    assert_null(tlb_fill(sv, 0x1000, TLB_READ, false, &why));
    assert_int_equal(why, TLB_MISS_MMIO);
    assert_ptr_equal(tlb_fill(sv, 0x2001, TLB_FETCH, false, &why), rom + 1);
    assert_null(tlb_fill(sv, 0x2000, TLB_WRITE, false, &why));
    assert_int_equal(why, TLB_MISS_MMIO);
    assert_null(tlb_fill(sv, 0x3000, TLB_WRITE, false, &why));
    assert_int_equal(why, TLB_MISS_CODE_PAGE);
    assert_null(tlb_fill(sv, 0x9000, TLB_WRITE, false, &why));
    assert_int_equal(why, TLB_MISS_FAULT);
    tlb_drop_write(sv, (uint64_t)(uintptr_t)(ram + 0x8000));
    assert_null(tlb_lookup(sv, 0, TLB_WRITE, true));
    jump_flushes = 0;
    tlb_flush_page(sv, 0x123);
    assert_null(tlb_lookup(sv, 0, TLB_READ, true));
    tlb_flush_page(sv, 0x2fff);
    assert_null(tlb_lookup(sv, 0x2000, TLB_FETCH, false));
    assert_int_equal(jump_flushes, 1);
    /* INVLPG of one address of a large page reaches the fragments of all others. */
    put64(0x3008, 0x200000 | 0x87);
    assert_non_null(tlb_fill(sv, 0x210000, TLB_READ, false, &why));
    tlb_flush_page(sv, 0x3ff000);
    assert_null(tlb_lookup(sv, 0x210000, TLB_READ, false));
    assert_non_null(tlb_fill(sv, 0x210000, TLB_READ, false, &why));
    tlb_flush(sv);
    assert_null(tlb_lookup(sv, 0x210000, TLB_READ, false));
    sv->v.lapic = sv;
    sv->v.cpu.apic_base = 0x8000 | APIC_BASE_ENABLE;
    assert_null(tlb_fill(sv, 0x10, TLB_READ, false, &why));
    assert_int_equal(why, TLB_MISS_MMIO);
}

static void tlb_forgets_user_pages_with_ac(void **state)
{
    (void)state;
    struct cpu_state *c = &sv->v.cpu;
    uint64_t x;
    set_long_mode();
    for (unsigned i = 0; i < 20; i++)
        put64(0x4000 + 8 * i, (0x10000 + 0x1000 * i) | 7);
    c->cr4 |= CR4_SMAP;
    for (unsigned pages = 1; pages <= 20; pages += 19) {
        c->rflags |= RFLAGS_AC;
        for (unsigned i = 0; i < pages; i++)
            assert_int_equal(linear_read(sv, 0x1000 * i, &x, 8, 0), STEP_NEXT);
        assert_non_null(tlb_lookup(sv, 0, TLB_READ, false));
        assert_int_equal(linear_read(sv, 0, &x, 8, ACCESS_IMPLICIT), STEP_FAULT);
        c->rflags &= ~(uint64_t)RFLAGS_AC;
        smap_ac_changed(sv);
        for (unsigned i = 0; i < pages; i++)
            assert_int_equal(linear_read(sv, 0x1000 * i, &x, 8, 0), STEP_FAULT);
    }
}

/* ---- accesses ----------------------------------------------------------------------------------------------------------------------------- */

static void access_crosses_pages(void **state)
{
    (void)state;
    uint64_t x = 0x1122334455667788ull, y = 0;
    set_long_mode();
    put64(0x4000, 0x8007);
    put64(0x4008, 0xa007);
    assert_int_equal(linear_write(sv, 0xffd, &x, 8, 0), STEP_NEXT);
    assert_int_equal(ram[0x8ffd], 0x88);
    assert_int_equal(ram[0xa004], 0x11);
    assert_int_equal(linear_read(sv, 0xffd, &y, 8, 0), STEP_NEXT);
    assert_int_equal(x, y);
    y = 0;
    assert_int_equal(linear_write(sv, 0x1ffd, &y, 8, 0), STEP_FAULT); /* nothing of it may be there */
    assert_int_equal(sv->fault.addr, 0x2000);
    put32(0xaffc, 0x55555555);
    assert_int_equal(linear_write(sv, 0x1ffd, &y, 8, 0), STEP_FAULT);
    assert_int_equal(get32(0xaffc), 0x55555555);
    code_gfn = 0xb;
    put64(0x4018, 0xb007);
    assert_int_equal(linear_write(sv, 0x3000, &x, 4, 0), STEP_NEXT);
    assert_int_equal(code_writes, 1);
    assert_null(linear_host(sv, 0x3000, 4, true));
    assert_ptr_equal(linear_host(sv, 0x3000, 4, false), ram + 0xb000);
}

static void access_replays_mmio(void **state)
{
    (void)state;
    uint64_t x[2] = { 0 };
    struct replay *r = &sv->v.replay;
    assert_int_equal(linear_read(sv, DEVICE_GPA, x, 4, 0), STEP_NEXT);
    assert_int_equal(linear_read(sv, MMIO_GPA + 8, x, 16, 0), STEP_EXIT);
    assert_int_equal(sv->v.exit.kind, EXIT_MMIO);
    assert_int_equal(sv->v.exit.mmio.gpa, MMIO_GPA + 8);
    assert_int_equal(sv->v.exit.mmio.bytes, 8);
    assert_int_equal(r->n, 1);
    for (unsigned i = 0; i < 2; i++)
        r->entry[r->n++] = (struct replay_entry){ .gpa = MMIO_GPA + 8 + 8 * i, .bytes = 8, .data = { 0x40 + i } };
    r->next = 0;
    assert_int_equal(linear_read(sv, DEVICE_GPA, x, 4, 0), STEP_NEXT);
    assert_int_equal(linear_read(sv, MMIO_GPA + 8, x, 16, 0), STEP_NEXT);
    assert_int_equal(device_reads, 1);
    assert_int_equal(x[0], 0x40);
    assert_int_equal(x[1], 0x41);
    assert_int_equal(linear_write(sv, MMIO_GPA + 6, x, 4, 0), STEP_NEXT); /* across 8 aligned bytes */
    assert_int_equal(sv->v.posted.n, 2);
    assert_int_equal(sv->v.posted.entry[0].bytes, 2);
    assert_int_equal(sv->v.posted.entry[1].gpa, MMIO_GPA + 8);
    assert_int_equal(linear_write(sv, DEVICE_GPA, x, 4, 0), STEP_NEXT);
    assert_int_equal(device_writes, 1);
    assert_int_equal(sv->v.posted.n, 2);
}

static void access_checks_segments(void **state)
{
    (void)state;
    struct cpu_state *c = &sv->v.cpu;
    gva_t gva;
    c->cr0 = CR0_PE;
    c->seg[SEG_DS].base = 0x10000;
    c->seg[SEG_DS].limit = 0xfff;
    assert_int_equal(seg_linear(sv, SEG_DS, 0xffc, 4, true, &gva), STEP_NEXT);
    assert_int_equal(gva, 0x10ffc);
    assert_int_equal(seg_linear(sv, SEG_DS, 0xffd, 4, true, &gva), STEP_FAULT);
    assert_int_equal(sv->fault.vector, VEC_GP);
    c->seg[SEG_SS].type = 7; /* expand-down */
    c->seg[SEG_SS].db = 0;
    c->seg[SEG_SS].limit = 0xfff;
    assert_int_equal(seg_linear(sv, SEG_SS, 0x1000, 4, true, &gva), STEP_NEXT);
    assert_int_equal(seg_linear(sv, SEG_SS, 0xfff, 4, true, &gva), STEP_FAULT);
    assert_int_equal(sv->fault.vector, VEC_SS);
    assert_int_equal(seg_linear(sv, SEG_SS, 0xfffd, 4, true, &gva), STEP_FAULT);
    c->seg[SEG_ES].type = 1;
    assert_int_equal(seg_linear(sv, SEG_ES, 0, 1, false, &gva), STEP_NEXT);
    assert_int_equal(seg_linear(sv, SEG_ES, 0, 1, true, &gva), STEP_FAULT);
    c->cr0 = 0;
    assert_int_equal(seg_linear(sv, SEG_ES, 0, 1, true, &gva), STEP_NEXT);
    sv->mode_bits = 64;
    assert_int_equal(seg_linear(sv, SEG_DS, 0x7ffffffffff8ull, 8, false, &gva), STEP_NEXT);
    assert_int_equal(seg_linear(sv, SEG_DS, 0x7ffffffffff9ull, 8, false, &gva), STEP_FAULT);
    assert_int_equal(sv->fault.vector, VEC_GP);
}

static void access_notes_breakpoints(void **state)
{
    (void)state;
    struct cpu_state *c = &sv->v.cpu;
    uint32_t x = 0;
    sv->is_checking = true;
    c->dr[1] = 0x8004;
    c->dr7 = 1u << 2 | 1u << 20 | 3u << 22; /* L1, writes, 4 bytes */
    assert_int_equal(linear_read(sv, 0x8004, &x, 4, 0), STEP_NEXT);
    assert_int_equal(linear_write(sv, 0x8000, &x, 4, 0), STEP_NEXT);
    assert_int_equal(sv->dr6_hits, 0);
    assert_int_equal(linear_write(sv, 0x8007, &x, 1, 0), STEP_NEXT);
    assert_int_equal(sv->dr6_hits, 2);
    c->cr0 = CR0_PE | CR0_AM;
    c->rflags |= RFLAGS_AC;
    sv->is_user = true;
    assert_int_equal(seg_read(sv, SEG_DS, 0x8001, &x, 4), STEP_FAULT);
    assert_int_equal(sv->fault.vector, VEC_AC);
}

/* ---- string and port helpers --------------------------------------------------------------------------------------------------------------- */

static struct insn insn_of(const char *bytes, unsigned len, unsigned op_bytes)
{
    struct insn in = { .mem.seg = SEG_DS, .len = (uint8_t)len, .opcode = (uint8_t)bytes[len - 1], .op_bytes = (uint8_t)op_bytes };
    memcpy(in.bytes, bytes, len);
    in.mode_bits = sv->mode_bits;
    in.addr_bytes = sv->mode_bits == 64 ? 8 : 4;
    in.has_f3 = bytes[0] == (char)0xf3;
    in.has_f2 = bytes[0] == (char)0xf2;
    return in;
}

static enum step run(helper_fn helper, const struct insn *in)
{
    enum step st;
    do
        st = helper(sv, in);
    while (st == STEP_REPEAT);
    return st;
}

static void string_moves_like_the_cpu(void **state)
{
    (void)state;
    uint64_t *gpr = sv->v.cpu.gpr;
    static const unsigned distance[] = { 0, 1, 2, 3, 4, 5, 8, 100, 5000 };
    static const char *const code[] = { "\xf3\xa4", "\xf3\xa5" };
    uint8_t *want = malloc(0x10000);
    for (unsigned size = 1; size <= 4; size *= 4)
        for (unsigned i = 0; i < 2 * sizeof distance / sizeof *distance; i++)
            for (int backward = 0; backward < 2; backward++) {
                int d = (int)distance[i / 2] * (i % 2 ? -1 : 1), n = 2500;
                struct insn in = insn_of(code[size > 1], 2, size);
                for (unsigned k = 0; k < 0x10000; k++)
                    want[k] = ram[0x20000 + k] = (uint8_t)(k * 7 + (k >> 8));
                int from = 0x4003, step = backward ? -(int)size : (int)size;
                if (backward)
                    from += n * (int)size;
                for (int k = 0; k < n; k++) {
                    uint8_t element[4];
                    memcpy(element, want + from + k * step, size);
                    memcpy(want + from + d + k * step, element, size);
                }
                gpr[GPR_RSI] = 0x20000 + (unsigned)from;
                gpr[GPR_RDI] = gpr[GPR_RSI] + (uint64_t)d;
                gpr[GPR_RCX] = (unsigned)n;
                sv->v.cpu.rflags = backward ? 2 | RFLAGS_DF : 2;
                assert_int_equal(run(help_movs, &in), STEP_NEXT);
                assert_memory_equal(want, ram + 0x20000, 0x10000);
                assert_int_equal(gpr[GPR_RCX], 0);
                assert_int_equal(gpr[GPR_RSI], (uint32_t)(0x20000 + from + n * step));
            }
    free(want);
}

static void string_scans_and_compares(void **state)
{
    (void)state;
    uint64_t *gpr = sv->v.cpu.gpr, flags;
    memset(ram + 0x20000, 'a', 0x3000);
    memset(ram + 0x30000, 'a', 0x3000);
    ram[0x21234] = 0;
    struct insn scas = insn_of("\xf2\xae", 2, 1), cmps = insn_of("\xf3\xa7", 2, 4);
    gpr[GPR_RAX] = 0;
    gpr[GPR_RDI] = 0x20000;
    gpr[GPR_RCX] = 0xffffffff;
    assert_int_equal(run(help_scas, &scas), STEP_NEXT);
    assert_int_equal(gpr[GPR_RDI], 0x21235);
    assert_int_equal(gpr[GPR_RCX], 0xffffffff - 0x1235);
    assert_true(sv->v.cpu.rflags & RFLAGS_ZF);
    gpr[GPR_RSI] = 0x20000;
    gpr[GPR_RDI] = 0x30000;
    gpr[GPR_RCX] = 0xc00;
    assert_int_equal(run(help_cmps, &cmps), STEP_NEXT);
    assert_int_equal(gpr[GPR_RSI], 0x21238);
    __asm__("cmpl %2, %1; pushfq; popq %0" : "=r"(flags) : "r"(get32(0x21234)), "r"(get32(0x31234)) : "cc");
    assert_int_equal(sv->v.cpu.rflags & RFLAGS_STATUS, flags & RFLAGS_STATUS);
    for (unsigned i = 0; i < 65536; i++) { /* all pairs of bytes, all six flags */
        struct insn one = insn_of("\xae", 1, 1);
        gpr[GPR_RAX] = i & 0xff;
        ram[0x20000] = (uint8_t)(i >> 8);
        gpr[GPR_RDI] = 0x20000;
        assert_int_equal(help_scas(sv, &one), STEP_NEXT);
        __asm__("cmpb %2, %1; pushfq; popq %0" : "=r"(flags) : "q"((uint8_t)i), "q"((uint8_t)(i >> 8)) : "cc");
        assert_int_equal(sv->v.cpu.rflags & RFLAGS_STATUS, flags & RFLAGS_STATUS);
    }
}

static void string_stops_at_faults(void **state)
{
    (void)state;
    uint64_t *gpr = sv->v.cpu.gpr;
    set_long_mode();
    put64(0x4000, 0x8007);
    struct insn stos = insn_of("\xf3\x48\xab", 3, 8);
    gpr[GPR_RAX] = 0x0123456789abcdefull;
    gpr[GPR_RDI] = 0xf04;
    gpr[GPR_RCX] = 100;
    assert_int_equal(run(help_stos, &stos), STEP_FAULT);
    assert_int_equal(sv->fault.addr, 0x1000);
    assert_int_equal(gpr[GPR_RDI], 0xf04 + 31 * 8);
    assert_int_equal(gpr[GPR_RCX], 69);
    assert_int_equal(get64(0x8f04), gpr[GPR_RAX]);
    put64(0x4008, 0x9007);
    assert_int_equal(run(help_stos, &stos), STEP_NEXT);
    assert_int_equal(get64(0x8ffc), gpr[GPR_RAX]);
    assert_int_equal(gpr[GPR_RDI], 0xf04 + 800);
    assert_int_equal(run(help_stos, &stos), STEP_NEXT); /* rCX is 0: nothing */
    assert_int_equal(gpr[GPR_RDI], 0xf04 + 800);
}

static void string_moves_mmio(void **state)
{
    (void)state;
    uint64_t *gpr = sv->v.cpu.gpr;
    struct insn movs = insn_of("\xf3\x64\xa5", 3, 4);
    movs.mem.seg = SEG_FS; /* the override, as decoded */
    sv->v.cpu.seg[SEG_FS].base = MMIO_GPA - 0x8000;
    gpr[GPR_RSI] = 0x8000;
    gpr[GPR_RDI] = 0x9000;
    gpr[GPR_RCX] = 3;
    for (unsigned i = 0; i < 3; i++) {
        struct replay *r = &sv->v.replay;
        assert_int_equal(run(help_movs, &movs), STEP_EXIT);
        assert_int_equal(sv->v.exit.mmio.gpa, MMIO_GPA + 4 * i);
        assert_int_equal(gpr[GPR_RCX], 3 - i);
        r->entry[r->n++] = (struct replay_entry){ .gpa = MMIO_GPA + 4 * i, .bytes = 4, .data = { 0x70 + i } };
    }
    assert_int_equal(run(help_movs, &movs), STEP_NEXT);
    assert_int_equal(ram[0x9000], 0x70);
    assert_int_equal(ram[0x9008], 0x72);
    struct insn stos = insn_of("\xf3\xab", 2, 4);
    gpr[GPR_RDI] = MMIO_GPA;
    gpr[GPR_RCX] = 2;
    assert_int_equal(help_stos(sv, &stos), STEP_REPEAT);
    assert_int_equal(sv->v.posted.n, 1);
}

static void io_reaches_devices_and_client(void **state)
{
    (void)state;
    uint64_t *gpr = sv->v.cpu.gpr;
    struct insn in_al = insn_of("\xec", 1, 1), out_eax = insn_of("\xef", 1, 4);
    gpr[GPR_RAX] = 0x1234567890abcdefull;
    gpr[GPR_RDX] = DEVICE_PORT;
    assert_int_equal(help_in(sv, &in_al), STEP_NEXT);
    assert_int_equal(gpr[GPR_RAX], 0x1234567890abcd11ull);
    assert_int_equal(help_out(sv, &out_eax), STEP_NEXT);
    gpr[GPR_RDX] = 0x3f8;
    assert_int_equal(help_out(sv, &out_eax), STEP_NEXT_EXIT);
    assert_int_equal(sv->v.exit.io.port, 0x3f8);
    assert_memory_equal(sv->v.exit.io.data, "\x11\xcd\xab\x90", 4);
    assert_int_equal(help_in(sv, &in_al), STEP_EXIT);
    assert_true(sv->v.exit.io.is_in);
    sv->v.replay.io_done = true;
    sv->v.replay.io_data[0] = 0x77;
    assert_int_equal(help_in(sv, &in_al), STEP_NEXT);
    assert_int_equal(gpr[GPR_RAX] & 0xff, 0x77);
    assert_false(sv->v.replay.io_done);
}

static void io_strings_go_by_pages(void **state)
{
    (void)state;
    uint64_t *gpr = sv->v.cpu.gpr;
    struct insn outs = insn_of("\xf3\x6e", 2, 1), ins = insn_of("\xf3\x6d", 2, 2);
    for (unsigned i = 0; i < 0x2000; i++)
        ram[0x20000 + i] = (uint8_t)(i * 3);
    gpr[GPR_RDX] = 0x402;
    gpr[GPR_RSI] = 0x20f00;
    gpr[GPR_RCX] = 0x180;
    assert_int_equal(help_outs(sv, &outs), STEP_REPEAT_EXIT);
    assert_int_equal(sv->v.exit.io.count, 0x100);
    assert_memory_equal(sv->v.exit.io.data, ram + 0x20f00, 0x100);
    assert_int_equal(help_outs(sv, &outs), STEP_NEXT_EXIT);
    assert_int_equal(sv->v.exit.io.count, 0x80);
    assert_int_equal(gpr[GPR_RSI], 0x21080);
    gpr[GPR_RDI] = 0x30ff0;
    gpr[GPR_RCX] = 100;
    assert_int_equal(help_ins(sv, &ins), STEP_EXIT);
    assert_int_equal(sv->v.exit.io.count, 8);
    assert_int_equal(gpr[GPR_RCX], 100);
    sv->v.replay.io_done = true;
    sv->v.replay.io_bytes = 16;
    memset(sv->v.replay.io_data, 0x5a, 16);
    assert_int_equal(help_ins(sv, &ins), STEP_REPEAT);
    assert_int_equal(gpr[GPR_RCX], 92);
    assert_int_equal(gpr[GPR_RDI], 0x31000);
    assert_int_equal(ram[0x30fff], 0x5a);
    gpr[GPR_RDX] = DEVICE_PORT;
    assert_int_equal(run(help_ins, &ins), STEP_NEXT);
    assert_int_equal(device_reads, 92);
    assert_int_equal(gpr[GPR_RCX], 0);
}

static void io_heeds_the_bitmap(void **state)
{
    (void)state;
    struct cpu_state *c = &sv->v.cpu;
    c->cr0 = CR0_PE;
    c->seg[SEG_SS].dpl = 3;
    c->tr = (struct segment){ .base = 0x5000, .limit = 0x68 + 16, .type = 11, .present = 1 };
    put32(0x5066, 0x68);
    assert_int_equal(io_permission(sv, 0x10, 1), STEP_NEXT);
    ram[0x5068 + 2] = 2; /* port 0x11 */
    assert_int_equal(io_permission(sv, 0x10, 1), STEP_NEXT);
    assert_int_equal(io_permission(sv, 0x10, 2), STEP_FAULT);
    assert_int_equal(sv->fault.vector, VEC_GP);
    assert_int_equal(io_permission(sv, 0x88, 1), STEP_FAULT); /* beyond the limit */
    c->rflags |= RFLAGS_IOPL;
    assert_int_equal(io_permission(sv, 0x11, 1), STEP_NEXT);
    c->rflags |= RFLAGS_VM;
    assert_int_equal(io_permission(sv, 0x11, 1), STEP_FAULT);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(walks_without_paging),
        CASE(walks_two_levels),
        CASE(walks_pae),
        CASE(walks_long_mode),
        CASE(walks_five_levels),
        CASE(walk_protects_user_pages),
        CASE(tlb_fills_and_flushes),
        CASE(tlb_forgets_user_pages_with_ac),
        CASE(access_crosses_pages),
        CASE(access_replays_mmio),
        CASE(access_checks_segments),
        CASE(access_notes_breakpoints),
        CASE(string_moves_like_the_cpu),
        CASE(string_scans_and_compares),
        CASE(string_stops_at_faults),
        CASE(string_moves_mmio),
        CASE(io_reaches_devices_and_client),
        CASE(io_strings_go_by_pages),
        CASE(io_heeds_the_bitmap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
