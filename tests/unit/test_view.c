/* SPDX-License-Identifier: MIT */
/*
 * Views of guest memory on the real engine: every permission with every kind of access, pieces of pages, remapped data, code and page tables, vCPUs in
 * different views. How they end and what several tools make of them is in test_view_ends.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/vcpu.h"
#include "core/vm.h"
#include "introspect/view.h"
#include "introspect/walk.h"
#include "tests/unit/watched.h"
#include "transport/inproc.h"

#define RWX (WATCH_READ | WATCH_WRITE | WATCH_EXECUTE)
#define OTHER_AT 0xa000u
#define FUNCTION_AT 0x2000u
#define TABLES_AT 0x20000u

/* A load, a store, both in one, and a store that crosses into the next page. */
GUEST_CODE(forms, ".code16\n mov 0x8000, %ax\n mov %ax, 0x8002\n incw 0x8004\n movl $0x44332211, 0x8ffe\n out %al, $0x10");
GUEST_CODE(pieces, ".code16\n movb $1, 0x8000\n movb $2, 0x8080\n movw $0x0403, 0x80ff\n movb $5, 0x8fff\n mov 0x8000, %al\n out %al, $0x10");
GUEST_CODE(own_page, ".code16\n mov 0x1000, %ax\n mov $3, %cx\n1: loop 1b\n movb $7, 0x1fff\n out %al, $0x10");
/* The second instruction's last byte lies in the next page. */
GUEST_CODE(crossing, ".code16\n jmp 1f\n .org 0xffd + code_crossing\n1: nop\n mov $0x1234, %bx\n inc %bx\n out %al, $0x10");
GUEST_CODE(copy_loop, ".code16\n1: mov 0x8000, %ax\n mov %ax, 0x602\n incw 0x600\n jmp 1b");
GUEST_CODE(store, ".code16\n movw $0x5a5a, 0x8010\n mov 0x8020, %bx\n out %al, $0x10");
/* Calls the function, makes it return another value and calls it again; then the same by the address of the page that is seen there. */
GUEST_CODE(modify, ".code16\n mov $0x2000, %si\n call *%si\n mov %ax, 0x700\n movb $0x33, 0x2001\n call *%si\n mov %ax, 0x702\n movb $0x44, 0xa001\n call "
                   "*%si\n mov %ax, 0x704\n"
                   " mov $0xa000, %si\n call *%si\n mov %ax, 0x706\n out %al, $0x10");
GUEST_CODE(call_loop, ".code16\n mov $0x2000, %si\n1: call *%si\n mov %ax, 0x602\n incw 0x600\n jmp 1b");
GUEST_CODE(function, ".code16\n mov $0x11, %ax\n ret");
GUEST_CODE(long_mode, ".code64\n mov 0x208000, %rbx\n movq $1, 0x208008\n out %al, $0x10");

static void allow(struct watched *g, unsigned view, gpa_t gpa, unsigned access)
{
    assert_int_equal(look_view_set_access(g->l, view, &(struct look_page){ .gpa = gpa, .access = access }, 1), 0);
}

static void allow_pieces(struct watched *g, unsigned view, gpa_t gpa, uint32_t writeable)
{
    assert_int_equal(look_view_set_writeable(g->l, view, &(struct look_page){ .gpa = gpa, .writeable = writeable }, 1), 0);
}

static unsigned create_view(struct watched *g)
{
    int view = look_view_create(g->l);
    assert_in_range(view, 1, VIEWS_MAX - 1);
    return (unsigned)view;
}

static void test_data(void **state)
{
    (void)state;
    for (unsigned access = 0; access <= RWX; access++) {
        struct watched g;
        WATCHED_CREATE(&g, forms);
        allow(&g, 0, DATA_AT, access);
        allow(&g, 0, DATA_AT + 0x1000, access);
        memcpy(g.real.ram + DATA_AT, "\x11\x22\x33\x44\xff\x00", 6);
        watched_start(&g);
        if (!(access & WATCH_READ))
            watched_expect_access(&g, WATCH_READ, DATA_AT, 2, WATCH_CONTINUE);
        if (!(access & WATCH_WRITE))
            watched_expect_access(&g, WATCH_WRITE, DATA_AT + 2, 2, WATCH_DENY);
        if (!(access & WATCH_WRITE) || !(access & WATCH_READ))
            watched_expect_access(&g, WATCH_READ | WATCH_WRITE, DATA_AT + 4, 2, WATCH_CONTINUE);
        if (!(access & WATCH_WRITE)) {
            watched_expect_access(&g, WATCH_WRITE, DATA_AT + 0xffe, 2, WATCH_CONTINUE);
            watched_expect_access(&g, WATCH_WRITE, DATA_AT + 0x1000, 2, WATCH_CONTINUE);
        }
        watched_expect_end(&g);
        assert_int_equal(g.real.ram[DATA_AT + 2], access & WATCH_WRITE ? 0x11 : 0x33);
        assert_int_equal(*(uint16_t *)(g.real.ram + DATA_AT + 4), 0x100);
        assert_int_equal(*(uint32_t *)(g.real.ram + DATA_AT + 0xffe), 0x44332211);
        watched_destroy(&g);
    }
}

static void test_pieces(void **state)
{
    (void)state;
    struct watched g;
    struct look_page p = { .gpa = DATA_AT };
    WATCHED_CREATE(&g, pieces);
    allow(&g, 0, DATA_AT, WATCH_READ | WATCH_EXECUTE);
    allow_pieces(&g, 0, DATA_AT, 0x80000002);
    assert_int_equal(look_view_get(g.l, 0, &p, 1), 0);
    assert_int_equal(p.access, WATCH_READ | WATCH_EXECUTE);
    assert_int_equal(p.writeable, 0x80000002);
    watched_start(&g);
    watched_expect_access(&g, WATCH_WRITE, DATA_AT, 1, WATCH_CONTINUE);
    watched_expect_access(&g, WATCH_WRITE, DATA_AT + 0xff, 2, WATCH_CONTINUE); /* half of it is in a piece that may be written */
    watched_expect_end(&g);
    assert_memory_equal(g.real.ram + DATA_AT + 0x80, "\x02", 1);
    assert_memory_equal(g.real.ram + DATA_AT + 0xff, "\x03\x04", 2);
    assert_int_equal(g.real.ram[DATA_AT + 0xfff], 5);
    assert_int_equal((uint8_t)real_guest_regs(&g.real).rax, 1);
    allow_pieces(&g, 0, DATA_AT, ~0u);
    assert_int_equal(look_view_get(g.l, 0, &p, 1), 0);
    assert_int_equal(p.access, RWX);
    assert_null(atomic_load(&g.real.vm->view.map[0]));
    watched_destroy(&g);
}

/* Code that may be executed and nothing else: it runs, its own read and write of the page are told. */
static void test_execute_only(void **state)
{
    (void)state;
    struct watched g;
    WATCHED_CREATE(&g, own_page);
    allow(&g, 0, CODE_AT, WATCH_EXECUTE);
    watched_start(&g);
    watched_expect_access(&g, WATCH_READ, CODE_AT, 2, WATCH_CONTINUE);
    watched_expect_access(&g, WATCH_WRITE, CODE_AT + 0xfff, 1, WATCH_CONTINUE);
    watched_expect_end(&g);
    assert_int_equal((uint16_t)real_guest_regs(&g.real).rax, *(uint16_t *)(g.real.ram + CODE_AT));
    assert_int_equal(g.real.ram[CODE_AT + 0xfff], 7);
    watched_destroy(&g);
}

/* An instruction is told where it begins, and again where it goes on in a page that denies it too. */
static void test_no_execute(void **state)
{
    (void)state;
    struct watched g;
    WATCHED_CREATE(&g, crossing);
    allow(&g, 0, CODE_AT + 0x1000, WATCH_READ | WATCH_WRITE);
    watched_start(&g);
    struct watch_record r;
    watched_expect(&g, &r, WATCH_ACCESS, 0, 0, 0);
    assert_int_equal(r.rip, CODE_AT + 0xffe);
    assert_int_equal(r.event.access, WATCH_EXECUTE);
    assert_int_equal(r.event.gpa, CODE_AT + 0x1000);
    assert_int_equal(r.event.gva, CODE_AT + 0x1000);
    assert_int_equal(r.event.bytes, 0);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect_access(&g, WATCH_EXECUTE, CODE_AT + 0x1001, 1, WATCH_DENY);
    watched_expect_access(&g, WATCH_EXECUTE, CODE_AT + 0x1002, 1, WATCH_CONTINUE);
    watched_expect_end(&g);
    assert_int_equal((uint16_t)real_guest_regs(&g.real).rbx, 0x1234);
    watched_destroy(&g);
}

static void wait_for_word(const struct watched *g, uint32_t at, uint16_t value)
{
    const volatile uint16_t *word = (const volatile uint16_t *)(g->real.ram + at);
    for (unsigned i = 0; *word != value; i++) {
        assert_in_range(i, 0, 600000);
        usleep(100);
    }
    real_guest_wait_moving(&g->real, COUNT_AT);
    real_guest_wait_moving(&g->real, COUNT_AT); /* one whole turn, and still so */
    assert_int_equal(*word, value);
}

/* A running vCPU goes from view to view, and pages of its view change under it. */
static void test_remapped_data(void **state)
{
    (void)state;
    struct watched g;
    WATCHED_CREATE(&g, copy_loop);
    unsigned view = create_view(&g);
    *(uint16_t *)(g.real.ram + DATA_AT) = 1;
    *(uint16_t *)(g.real.ram + OTHER_AT) = 2;
    *(uint16_t *)(g.real.ram + OTHER_AT + 0x1000) = 3;
    assert_int_equal(look_view_remap(g.l, view, DATA_AT, OTHER_AT), 0);
    watched_start(&g);
    wait_for_word(&g, 0x602, 1);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(look_view_switch(g.l, 0, view), 0);
        assert_int_equal(look_view_of(g.l, 0), view);
        wait_for_word(&g, 0x602, 2);
        assert_int_equal(look_view_remap(g.l, view, DATA_AT, OTHER_AT + 0x1000), 0);
        wait_for_word(&g, 0x602, 3);
        assert_int_equal(look_view_remap(g.l, view, DATA_AT, DATA_AT), 0);
        wait_for_word(&g, 0x602, 1);
        assert_int_equal(look_view_remap(g.l, view, DATA_AT, OTHER_AT), 0);
        wait_for_word(&g, 0x602, 2);
        assert_int_equal(look_view_switch(g.l, 0, 0), 0);
        wait_for_word(&g, 0x602, 1);
    }
    watched_stop(&g);
    watched_destroy(&g);
}

/* Remapped writes are logged where they go; and where no memory was, remapping gives some. */
static void test_dirty_log(void **state)
{
    (void)state;
    struct watched g;
    uint64_t bitmap[1];
    WATCHED_CREATE(&g, store);
    struct kvm_userspace_memory_region region = { .flags = KVM_MEM_LOG_DIRTY_PAGES, .memory_size = g.real.ram_bytes, .userspace_addr = (uintptr_t)g.real.ram };
    assert_int_equal(vitrine_ioctl(g.real.vm_fd, KVM_SET_USER_MEMORY_REGION, &region), 0);
    *(uint16_t *)(g.real.ram + OTHER_AT + 0x20) = 0x77;
    assert_int_equal(look_view_remap(g.l, 0, DATA_AT, OTHER_AT), 0);
    watched_start(&g);
    watched_expect_end(&g);
    assert_int_equal(*(uint16_t *)(g.real.ram + DATA_AT + 0x10), 0);
    assert_int_equal(*(uint16_t *)(g.real.ram + OTHER_AT + 0x10), 0x5a5a);
    assert_int_equal(real_guest_regs(&g.real).rbx, 0x77);
    struct kvm_dirty_log log = { .dirty_bitmap = bitmap };
    assert_int_equal(vitrine_ioctl(g.real.vm_fd, KVM_GET_DIRTY_LOG, &log), 0);
    assert_int_equal(bitmap[0], 1ull << (OTHER_AT >> 12));
    watched_destroy(&g);
}

/* Pages at DATA_AT are read-only and those above it nothing: what is the client's to answer stays so. */
static void test_holes(void **state)
{
    (void)state;
    struct watched g;
    WATCHED_CREATE(&g, store);
    struct kvm_userspace_memory_region region = { .userspace_addr = (uintptr_t)g.real.ram };
    assert_int_equal(vitrine_ioctl(g.real.vm_fd, KVM_SET_USER_MEMORY_REGION, &region), 0);
    region.memory_size = DATA_AT;
    assert_int_equal(vitrine_ioctl(g.real.vm_fd, KVM_SET_USER_MEMORY_REGION, &region), 0);
    region = (struct kvm_userspace_memory_region){
        .slot = 1, .flags = KVM_MEM_READONLY, .guest_phys_addr = OTHER_AT, .memory_size = 0x1000, .userspace_addr = (uintptr_t)g.real.ram + OTHER_AT
    };
    assert_int_equal(vitrine_ioctl(g.real.vm_fd, KVM_SET_USER_MEMORY_REGION, &region), 0);
    assert_int_equal(look_view_set_access(g.l, 0, &(struct look_page){ .gpa = DATA_AT }, 1), -EFAULT);
    assert_int_equal(look_view_remap(g.l, 0, OTHER_AT, DATA_AT), -EFAULT);
    assert_int_equal(look_view_remap(g.l, 0, DATA_AT, OTHER_AT), 0);
    *(uint16_t *)(g.real.ram + OTHER_AT + 0x20) = 0x99;
    allow(&g, 0, DATA_AT, WATCH_READ | WATCH_EXECUTE); /* the client gets the write that the tool lets pass */
    struct watch_record r;
    watched_start(&g);
    watched_expect(&g, &r, WATCH_ACCESS, 0, 0, 0);
    assert_int_equal(r.event.gpa, DATA_AT + 0x10);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_join(&g);
    assert_int_equal(g.real.run->exit_reason, KVM_EXIT_MMIO);
    assert_int_equal(g.real.run->mmio.phys_addr, OTHER_AT + 0x10);
    assert_true(g.real.run->mmio.is_write);
    atomic_store(&g.is_done, false);
    watched_start(&g);
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rbx, 0x99);
    watched_destroy(&g);
}

static void put_function(struct watched *g, uint32_t at, uint8_t value)
{
    memcpy(g->real.ram + at, code_function, (size_t)(code_function_end - code_function));
    g->real.ram[at + 1] = value;
}

/* Code that modifies itself through a remapped address and through its page's own. */
static void test_modified_code(void **state)
{
    (void)state;
    struct watched g;
    WATCHED_CREATE(&g, modify);
    put_function(&g, FUNCTION_AT, 0x11);
    put_function(&g, OTHER_AT, 0x22);
    assert_int_equal(look_view_remap(g.l, 0, FUNCTION_AT, OTHER_AT), 0);
    watched_start(&g);
    watched_expect_end(&g);
    static const uint16_t expected[] = { 0x22, 0x33, 0x44, 0x44 };
    assert_memory_equal(g.real.ram + 0x700, expected, sizeof expected);
    assert_int_equal(g.real.ram[FUNCTION_AT + 1], 0x11);
    watched_destroy(&g);
}

/* Translated code, and what the client and tools write over it, under a vCPU that runs it. */
static void test_remapped_code(void **state)
{
    (void)state;
    struct watched g;
    WATCHED_CREATE(&g, call_loop);
    unsigned view = create_view(&g);
    put_function(&g, FUNCTION_AT, 0x11);
    put_function(&g, OTHER_AT, 0x22);
    assert_int_equal(look_view_remap(g.l, view, FUNCTION_AT, OTHER_AT), 0);
    watched_start(&g);
    for (unsigned i = 0; i < 3; i++) {
        wait_for_word(&g, 0x602, 0x11);
        assert_int_equal(look_view_switch(g.l, 0, view), 0);
        wait_for_word(&g, 0x602, 0x22);
        assert_int_equal(look_view_remap(g.l, view, FUNCTION_AT, FUNCTION_AT), 0);
        wait_for_word(&g, 0x602, 0x11);
        assert_int_equal(look_view_remap(g.l, view, FUNCTION_AT, OTHER_AT), 0);
        wait_for_word(&g, 0x602, 0x22);
        assert_int_equal(look_view_switch(g.l, 0, 0), 0);
    }
    /* It is called, and then not to be executed any more. */
    struct watch_record r;
    wait_for_word(&g, 0x602, 0x11);
    allow(&g, 0, FUNCTION_AT, WATCH_READ | WATCH_WRITE);
    watched_expect(&g, &r, WATCH_ACCESS, 0, 0, 0);
    assert_in_range(r.event.gpa, FUNCTION_AT, FUNCTION_AT + 3);
    allow(&g, 0, FUNCTION_AT, RWX);
    watched_answer(&g, &r, WATCH_RETRY, 0);
    wait_for_word(&g, 0x602, 0x11);
    watched_stop(&g);
    watched_destroy(&g);
}

/* 2 MiB at 2 MiB in pages, which lie at 0. Walks see the view's memory and tell nobody. */
static void enter_long_mode(struct watched *g)
{
    struct kvm_sregs s;
    struct kvm_regs regs = real_guest_regs(&g->real);
    uint64_t *table = (uint64_t *)(void *)(g->real.ram + TABLES_AT);
    table[0] = (TABLES_AT + 0x1000) | 3;
    table[512] = (TABLES_AT + 0x2000) | 3;
    table[1024] = 0x83;
    table[1025] = (TABLES_AT + 0x3000) | 3;
    for (unsigned i = 0; i < 64; i++)
        table[1536 + i] = i << 12 | 3;
    assert_int_equal(vitrine_ioctl(g->real.cpu_fd, KVM_GET_SREGS, &s), 0);
    s.cr0 = 0x80000031;
    s.cr3 = TABLES_AT;
    s.cr4 = 0x20;
    s.efer = 0x500;
    s.cs = (struct kvm_segment){ .limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
    s.ss = s.ds = s.es = (struct kvm_segment){ .limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
    assert_int_equal(vitrine_ioctl(g->real.cpu_fd, KVM_SET_SREGS, &s), 0);
    assert_int_equal(vitrine_ioctl(g->real.cpu_fd, KVM_SET_REGS, &regs), 0);
}

static void test_walks(void **state)
{
    (void)state;
    struct watched g;
    WATCHED_CREATE(&g, long_mode);
    enter_long_mode(&g);
    unsigned view = create_view(&g);
    /* Another page table, where DATA_AT is OTHER_AT, and nobody may touch either. */
    memcpy(g.real.ram + TABLES_AT + 0x5000, g.real.ram + TABLES_AT + 0x3000, 0x1000);
    ((uint64_t *)(void *)(g.real.ram + TABLES_AT + 0x5000))[DATA_AT >> 12] = OTHER_AT | 3;
    assert_int_equal(look_view_remap(g.l, view, TABLES_AT + 0x3000, TABLES_AT + 0x5000), 0);
    for (unsigned i = 0; i < 6; i++)
        allow(&g, view, TABLES_AT + i * 0x1000, 0);
    allow(&g, view, OTHER_AT, WATCH_READ);
    *(uint64_t *)(void *)(g.real.ram + DATA_AT) = 0x11;
    *(uint64_t *)(void *)(g.real.ram + OTHER_AT) = 0x22;
    assert_int_equal(look_view_switch(g.l, 0, view), 0);
    struct look_paging paging;
    struct look_walk walk;
    look_paging_of(g.real.v, &paging);
    look_walk(g.real.vm, &paging, 0x200000 + DATA_AT, &walk);
    assert_int_equal(walk.result, WALK_OK);
    assert_int_equal(walk.gpa, OTHER_AT);
    struct watch_record r;
    watched_start(&g);
    watched_expect(&g, &r, WATCH_ACCESS, view, 0, 0);
    assert_int_equal(r.event.gpa, OTHER_AT + 8);
    assert_int_equal(r.event.gva, 0x200000 + DATA_AT + 8);
    assert_int_equal(r.event.access, WATCH_WRITE);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rbx, 0x22);
    /* Accessed and dirty bits are in the table that was walked. */
    assert_int_equal(((uint64_t *)(void *)(g.real.ram + TABLES_AT + 0x5000))[DATA_AT >> 12], OTHER_AT | 0x63);
    assert_int_equal(((uint64_t *)(void *)(g.real.ram + TABLES_AT + 0x3000))[DATA_AT >> 12], DATA_AT | 3);
    watched_destroy(&g);
}

GUEST_CODE(smi, ".code16\n mov 0x8000, %ax\n mov %ax, 0x606\n movw $5, 0x8010\n rsm");

/* System management mode is outside of all views: neither denied nor remapped. The mode before is in its view again. */
static void test_smm(void **state)
{
    (void)state;
    struct watched g;
    WATCHED_CREATE(&g, store);
    struct kvm_userspace_memory_region region = { .slot = 1 << 16, .memory_size = g.real.ram_bytes, .userspace_addr = (uintptr_t)g.real.ram };
    assert_int_equal(vitrine_ioctl(g.real.vm_fd, KVM_SET_USER_MEMORY_REGION, &region), 0);
    memcpy(g.real.ram + 0x38000, code_smi, (size_t)(code_smi_end - code_smi));
    *(uint16_t *)(g.real.ram + DATA_AT) = 1;
    *(uint16_t *)(g.real.ram + OTHER_AT) = 2;
    *(uint16_t *)(g.real.ram + OTHER_AT + 0x20) = 3;
    unsigned view = create_view(&g);
    assert_int_equal(look_view_remap(g.l, view, DATA_AT, OTHER_AT), 0);
    allow(&g, view, DATA_AT, WATCH_READ);
    for (gpa_t gpa = 0x38000; gpa < 0x40000; gpa += 0x1000)
        allow(&g, view, gpa, 0);
    assert_int_equal(look_view_switch(g.l, 0, view), 0);
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_SMI, NULL), 0);
    struct watch_record r;
    watched_start(&g);
    watched_expect(&g, &r, WATCH_ACCESS, view, 0, 0);
    assert_int_equal(r.rip, CODE_AT);
    assert_int_equal(r.event.gpa, DATA_AT + 0x10);
    assert_int_equal(*(uint16_t *)(g.real.ram + 0x606), 1);
    assert_int_equal(*(uint16_t *)(g.real.ram + DATA_AT + 0x10), 5);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect_end(&g);
    assert_int_equal(*(uint16_t *)(g.real.ram + OTHER_AT + 0x10), 0x5a5a);
    assert_int_equal(*(uint16_t *)(g.real.ram + DATA_AT + 0x10), 5);
    assert_int_equal(real_guest_regs(&g.real).rbx, 3);
    watched_destroy(&g);
}

/* ---- two vCPUs ---- */

static void *run_second(void *arg)
{
    struct kvm_run *run = ((void **)arg)[1];
    int fd = *(int *)((void **)arg)[0];
    while (!run->immediate_exit)
        vitrine_ioctl(fd, KVM_RUN, NULL);
    return NULL;
}

GUEST_CODE(second, ".code16\n1: mov 0x8000, %ax\n mov %ax, 0x606\n incw 0x604\n jmp 1b");

static void test_two_cpus(void **state)
{
    (void)state;
    struct watched g;
    pthread_t second;
    WATCHED_CREATE(&g, copy_loop);
    memcpy(g.real.ram + FUNCTION_AT, code_second, (size_t)(code_second_end - code_second));
    *(uint16_t *)(g.real.ram + DATA_AT) = 1;
    *(uint16_t *)(g.real.ram + OTHER_AT) = 2;
    int fd = vitrine_ioctl(g.real.vm_fd, KVM_CREATE_VCPU, (void *)1);
    assert_true(fd >= 0);
    struct kvm_run *run = vitrine_mmap((size_t)vitrine_ioctl(g.real.dev_fd, KVM_GET_VCPU_MMAP_SIZE, NULL), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    struct kvm_sregs s;
    struct kvm_regs regs = { .rip = FUNCTION_AT, .rflags = 2, .rsp = 0x6800 };
    assert_int_equal(vitrine_ioctl(fd, KVM_GET_SREGS, &s), 0);
    s.cs.base = s.cs.selector = 0;
    assert_int_equal(vitrine_ioctl(fd, KVM_SET_SREGS, &s), 0);
    assert_int_equal(vitrine_ioctl(fd, KVM_SET_REGS, &regs), 0);
    unsigned view = create_view(&g);
    assert_int_equal(look_view_remap(g.l, view, DATA_AT, OTHER_AT), 0);
    assert_int_equal(look_view_switch(g.l, 1, view), 0);
    watched_start(&g);
    assert_int_equal(pthread_create(&second, NULL, run_second, (void *[]){ &fd, run }), 0);
    wait_for_word(&g, 0x602, 1);
    real_guest_wait_moving(&g.real, 0x604);
    wait_for_word(&g, 0x606, 2);
    /* Only the one in the view asks; the other one goes on. */
    struct watch_record r;
    allow(&g, view, DATA_AT, 0);
    assert_true(watched_next(&g, &r));
    assert_int_equal(r.vcpu, 1);
    assert_int_equal(r.event.index, view);
    assert_int_equal(r.event.gpa, DATA_AT);
    real_guest_wait_moving(&g.real, COUNT_AT);
    assert_int_equal(look_view_switch(g.l, 1, 0), 0); /* while it waits */
    watched_answer(&g, &r, WATCH_RETRY, 0);
    wait_for_word(&g, 0x606, 1);
    /* Many pages one by one, while both run. */
    for (unsigned i = 0; i < 200; i++)
        for (gpa_t gpa = OTHER_AT; gpa < 0x40000; gpa += 0x1000)
            allow(&g, i & 1 ? view : 0, gpa, i & 2 ? RWX : WATCH_READ);
    real_guest_wait_moving(&g.real, 0x604);
    allow(&g, 0, DATA_AT, RWX);
    watched_stop(&g);
    struct real_guest other = { .run = run };
    real_guest_kick_until_ended(&other, second);
    vitrine_close(fd);
    watched_destroy(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data),          cmocka_unit_test(test_pieces),    cmocka_unit_test(test_execute_only), cmocka_unit_test(test_no_execute),
        cmocka_unit_test(test_remapped_data), cmocka_unit_test(test_dirty_log), cmocka_unit_test(test_holes),        cmocka_unit_test(test_modified_code),
        cmocka_unit_test(test_remapped_code), cmocka_unit_test(test_walks),     cmocka_unit_test(test_smm),          cmocka_unit_test(test_two_cpus),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
