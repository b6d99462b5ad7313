/* SPDX-License-Identifier: MIT */
/*
 * Events of the real engine: a small guest does one thing of each kind; a listener is told with exact values, before it happens, and continues, denies or
 * changes it. Clients that are interrupted meanwhile lose nothing; a listener that goes lets its vCPU go on. How page events leave instructions' results alone
 * is shown by tests/diff --watch.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/hold.h"
#include "introspect/listen.h"
#include "transport/inproc.h"

#define RAM_BYTES 0x40000u
#define CODE_AT 0x1000u
#define HANDLER_AT 0x3000u /* of every interrupt: counts at [0x600] and returns */
#define COUNT_AT 0x600u
#define DATA_AT 0x8000u
#define GDT_AT 0x4000u
#define LSTAR_AT 0x3800u
#define TABLES_AT 0x20000u

/* clang-format off: assembler */
#define GUEST_CODE(name, text)                               \
    extern const uint8_t code_##name[], code_##name##_end[]; \
    __asm__(".pushsection .rodata\n code_" #name ":\n" text "\n code_" #name "_end:\n .code64\n .popsection\n")
/* clang-format on */

GUEST_CODE(handler, ".code16\n incw 0x600\n iret");
GUEST_CODE(cr0, ".code16\n mov %cr0, %eax\n or $0x20, %eax\n mov %eax, %cr0\n mov %cr0, %ebx\n out %al, $0x10");
GUEST_CODE(cr, ".code16\n mov $0x5000, %eax\n mov %eax, %cr3\n mov %cr4, %ecx\n or $4, %cx\n mov %ecx, %cr4\n clts\n smsw %bx\n or $8, %bx\n lmsw %bx\n"
               "mov %cr3, %edx\n out %al, $0x10");
GUEST_CODE(msr, ".code16\n mov $0xc0000082, %ecx\n mov $0x11223344, %eax\n mov $0x55, %edx\n wrmsr\n rdmsr\n out %al, $0x10");
GUEST_CODE(int3, ".code16\n int3\n mov $7, %bx\n out %al, $0x10");
GUEST_CODE(cpuid, ".code16\n mov $1, %eax\n mov $3, %ecx\n cpuid\n out %al, $0x10");
GUEST_CODE(xsetbv,
           ".code16\n mov %cr4, %eax\n or $0x40000, %eax\n mov %eax, %cr4\n xor %ecx, %ecx\n xor %edx, %edx\n mov $3, %eax\n xsetbv\n xgetbv\n out %al, $0x10");
GUEST_CODE(tables, ".code16\n sgdt 0x8000\n lidt 0x8010\n out %al, $0x10");
GUEST_CODE(hypercall, ".code16\n mov $0x77, %eax\n vmcall\n out %al, $0x10");
GUEST_CODE(port, ".code16\n mov $0x21, %al\n out %al, $0x80\n in $0x81, %al\n out %al, $0x10");
GUEST_CODE(fault, ".code16\n xor %cx, %cx\n div %cx\n mov $9, %bx\n out %al, $0x10");
GUEST_CODE(int80, ".code16\n mov $0x1234, %eax\n int $0x80\n int $0x81\n out %al, $0x10");
GUEST_CODE(step, ".code16\n mov $1, %bx\n inc %bx\n jmp 1f\n nop\n1: inc %bx\n out %al, $0x10");
GUEST_CODE(access, ".code16\n mov 0x8000, %ax\n mov %ax, 0x8002\n incw 0x8004\n lock xaddl %ecx, 0x8008\n mov $0x8ffe, %di\n mov $2, %cx\n"
                   "cld\n rep stosw\n movw $0x5a5a, 0x8800\n out %al, $0x10");
GUEST_CODE(execute, ".code16\n mov $1, %bx\n call 1f\n inc %bx\n out %al, $0x10\n .org 0x100 + code_execute\n1: mov $5, %cx\n ret");
GUEST_CODE(loop, ".code16\n1: incw 0x8000\n jmp 1b");
GUEST_CODE(count, ".code16\n1: incw 0x600\n jmp 1b");
GUEST_CODE(syscall, ".code64\n mov $0x27, %eax\n syscall\n ud2");
GUEST_CODE(entry, ".code64\n mov $0x99, %ebx\n out %al, $0x10");

struct guest {
    int dev_fd, vm_fd, cpu_fd;
    struct kvm_run *run;
    uint8_t *ram;
    struct vm *vm;
    struct look_listener *l;
    pthread_t client;
    _Atomic bool is_done;
    _Atomic unsigned n_interrupted;
    unsigned n_debug_port; /* exits for OUT to 0x80 */
};

static void on_signal(int sig)
{
    (void)sig;
}

/* Until the guest's OUT to port 0x10. */
static void *client(void *arg)
{
    struct guest *g = arg;
    for (;;) {
        int r = vitrine_ioctl(g->cpu_fd, KVM_RUN, NULL);
        if (r && errno == EINTR)
            atomic_fetch_add(&g->n_interrupted, 1);
        if (atomic_load(&g->is_done) && g->run->immediate_exit)
            break;
        if (!r && g->run->exit_reason == KVM_EXIT_IO && g->run->io.port == 0x81)
            *((uint8_t *)g->run + g->run->io.data_offset) = 0x42;
        else if (!r && g->run->exit_reason == KVM_EXIT_IO && g->run->io.port == 0x80)
            g->n_debug_port++;
        else if (!r)
            break;
    }
    atomic_store(&g->is_done, true);
    return NULL;
}

static struct kvm_regs regs_of(const struct guest *g)
{
    struct kvm_regs r;
    assert_int_equal(vitrine_ioctl(g->cpu_fd, KVM_GET_REGS, &r), 0);
    return r;
}

static void set_cpuid(struct guest *g)
{
    struct kvm_cpuid2 *c = calloc(1, sizeof *c + 256 * sizeof *c->entries);
    c->nent = 256;
    assert_int_equal(vitrine_ioctl(g->dev_fd, KVM_GET_SUPPORTED_CPUID, c), 0);
    assert_int_equal(vitrine_ioctl(g->cpu_fd, KVM_SET_CPUID2, c), 0);
    free(c);
}

static void guest_create(struct guest *g, const uint8_t *code, const uint8_t *end)
{
    struct sigaction action = { .sa_handler = on_signal };
    struct kvm_regs regs = { .rip = CODE_AT, .rflags = 2, .rsp = 0x7000 };
    struct kvm_sregs sregs;
    memset(g, 0, sizeof *g);
    sigaction(SIGUSR1, &action, NULL);
    g->dev_fd = vitrine_open("/dev/kvm");
    g->vm_fd = vitrine_ioctl(g->dev_fd, KVM_CREATE_VM, NULL);
    g->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = { .memory_size = RAM_BYTES, .userspace_addr = (uintptr_t)g->ram };
    assert_int_equal(vitrine_ioctl(g->vm_fd, KVM_SET_USER_MEMORY_REGION, &region), 0);
    memcpy(g->ram + CODE_AT, code, (size_t)(end - code));
    memcpy(g->ram + HANDLER_AT, code_handler, (size_t)(code_handler_end - code_handler));
    for (unsigned i = 0; i < 256; i++)
        memcpy(g->ram + 4 * i, &(uint32_t){ HANDLER_AT }, 4);
    g->cpu_fd = vitrine_ioctl(g->vm_fd, KVM_CREATE_VCPU, NULL);
    set_cpuid(g);
    g->run = vitrine_mmap((size_t)vitrine_ioctl(g->dev_fd, KVM_GET_VCPU_MMAP_SIZE, NULL), PROT_READ | PROT_WRITE, MAP_SHARED, g->cpu_fd, 0);
    assert_int_equal(vitrine_ioctl(g->cpu_fd, KVM_GET_SREGS, &sregs), 0);
    sregs.cs.base = sregs.cs.selector = 0;
    assert_int_equal(vitrine_ioctl(g->cpu_fd, KVM_SET_SREGS, &sregs), 0);
    assert_int_equal(vitrine_ioctl(g->cpu_fd, KVM_SET_REGS, &regs), 0);
    g->vm = vm_find(1);
    assert_int_equal(look_listener_create(g->vm, &g->l), 0);
}

#define GUEST_CREATE(g, name) guest_create(g, code_##name, code_##name##_end)

static void guest_start(struct guest *g)
{
    assert_int_equal(pthread_create(&g->client, NULL, client, g), 0);
}

static void guest_join(struct guest *g)
{
    pthread_join(g->client, NULL);
}

static void guest_destroy(struct guest *g)
{
    if (g->l)
        look_listener_destroy(g->l);
    assert_int_equal(atomic_load(&g->vm->watch.kinds), 0);
    assert_null(atomic_load(&g->vm->watch.table));
    vm_put(g->vm);
    vitrine_close(g->cpu_fd);
    vitrine_close(g->vm_fd);
    vitrine_close(g->dev_fd);
    munmap(g->ram, RAM_BYTES);
}

static void ask_for(struct guest *g, uint32_t kinds)
{
    struct look_filter f = { .kinds = kinds, .is_asking = true, .last_index = UINT32_MAX };
    assert_true(look_subscribe(g->l, &f, NULL, 0) > 0);
}

static void ask_range(struct guest *g, gpa_t first, gpa_t last, uint32_t access)
{
    struct look_filter f = { .kinds = WATCH_ACCESS, .is_asking = true, .last_index = UINT32_MAX };
    assert_true(look_subscribe(g->l, &f, &(struct look_range){ first, last, access }, 1) > 0);
}

/* Waits for the next event; false when the guest came to its end instead. */
static bool next(struct guest *g, struct watch_record *r)
{
    uint64_t dropped;
    for (unsigned i = 0; i < 60000; i++) {
        bool is_done = atomic_load(&g->is_done);
        if (look_listener_next(g->l, r, 1, &dropped))
            return true;
        if (is_done)
            return false;
        struct pollfd p = { .fd = look_listener_fd(g->l), .events = POLLIN };
        poll(&p, 1, 1);
    }
    fail_msg("nothing happens for a minute");
    return false;
}

static void answer(struct guest *g, const struct watch_record *r, enum watch_answer a, uint64_t value)
{
    assert_int_equal(look_answer(g->l, r->vcpu, r->question, a, value), 0);
    assert_int_equal(look_answer(g->l, r->vcpu, r->question, a, value), -ESTALE);
}

static void expect(struct guest *g, struct watch_record *r, uint32_t kind, uint32_t index, uint64_t old_value, uint64_t value)
{
    assert_true(next(g, r));
    assert_int_equal(r->event.kind, kind);
    assert_int_equal(r->event.index, index);
    assert_int_equal(r->event.old_value, old_value);
    assert_int_equal(r->event.value, value);
    assert_int_equal(r->vcpu, 0);
    assert_int_not_equal(r->question, 0);
}

static void expect_access(struct guest *g, unsigned access, gpa_t gpa, unsigned bytes, enum watch_answer a)
{
    struct watch_record r;
    expect(g, &r, WATCH_ACCESS, 0, 0, 0);
    assert_int_equal(r.event.access, access);
    assert_int_equal(r.event.gpa, gpa);
    assert_int_equal(r.event.gva, gpa);
    assert_int_equal(r.event.bytes, bytes);
    answer(g, &r, a, 0);
}

static void expect_end(struct guest *g)
{
    struct watch_record r;
    assert_false(next(g, &r));
    guest_join(g);
    assert_int_equal(g->run->exit_reason, KVM_EXIT_IO);
    assert_int_equal(g->run->io.port, 0x10);
}

static void note_cr0(struct vcpu *v, void *arg)
{
    *(uint64_t *)arg = v->cpu.cr0;
}

static void note_rip(struct vcpu *v, void *arg)
{
    *(uint64_t *)arg = v->cpu.rip;
}

static void test_cr0(void **state)
{
    (void)state;
    for (enum watch_answer a = WATCH_CONTINUE; a < WATCH_ANSWERS; a++) {
        struct guest g;
        struct watch_record r;
        uint64_t now = 0;
        GUEST_CREATE(&g, cr0);
        ask_for(&g, WATCH_CR);
        guest_start(&g);
        expect(&g, &r, WATCH_CR, 0, 0x60000010, 0x60000030);
        assert_int_equal(r.rip, CODE_AT + 7);
        assert_int_equal(r.cpl, 0);
        assert_int_equal(r.gpr[GPR_RAX], 0x60000030);
        hold_call(g.vm->vcpu[0], note_cr0, &now); /* the vCPU waits and can be looked at */
        assert_int_equal(now, 0x60000010);
        answer(&g, &r, a, 0x60000018);
        if (a == WATCH_RETRY) {
            expect(&g, &r, WATCH_CR, 0, 0x60000010, 0x60000030);
            answer(&g, &r, WATCH_CONTINUE, 0);
        }
        expect_end(&g);
        assert_int_equal(regs_of(&g).rbx, a == WATCH_DENY ? 0x60000010 : a == WATCH_CHANGE ? 0x60000018 : 0x60000030);
        guest_destroy(&g);
    }
}

static void test_other_crs(void **state)
{
    (void)state;
    struct guest g;
    struct watch_record r;
    GUEST_CREATE(&g, cr);
    ask_for(&g, WATCH_CR);
    guest_start(&g);
    expect(&g, &r, WATCH_CR, 3, 0, 0x5000);
    answer(&g, &r, WATCH_CHANGE, 0x6000);
    expect(&g, &r, WATCH_CR, 4, 0, 4);
    answer(&g, &r, WATCH_CONTINUE, 0);
    expect(&g, &r, WATCH_CR, 0, 0x60000010, 0x60000010);
    answer(&g, &r, WATCH_CONTINUE, 0);
    expect(&g, &r, WATCH_CR, 0, 0x60000010, 0x60000018);
    answer(&g, &r, WATCH_CONTINUE, 0);
    expect_end(&g);
    assert_int_equal(regs_of(&g).rdx, 0x6000);
    guest_destroy(&g);
}

static void test_msr(void **state)
{
    (void)state;
    struct guest g;
    struct watch_record r;
    GUEST_CREATE(&g, msr);
    ask_for(&g, WATCH_MSR_WRITE | WATCH_MSR_READ);
    guest_start(&g);
    expect(&g, &r, WATCH_MSR_WRITE, 0xc0000082, 0, 0x5511223344);
    answer(&g, &r, WATCH_CHANGE, 0x1000);
    expect(&g, &r, WATCH_MSR_READ, 0xc0000082, 0, 0);
    assert_int_equal(look_answer(g.l, 0, r.question, WATCH_CHANGE, 1), -EINVAL);
    answer(&g, &r, WATCH_CONTINUE, 0);
    expect_end(&g);
    assert_int_equal(regs_of(&g).rax, 0x1000);
    assert_int_equal(regs_of(&g).rdx, 0);
    guest_destroy(&g);
}

static void test_int3(void **state)
{
    (void)state;
    for (enum watch_answer a = WATCH_CONTINUE; a <= WATCH_DENY; a++) {
        struct guest g;
        struct watch_record r;
        GUEST_CREATE(&g, int3);
        ask_for(&g, WATCH_INT3);
        guest_start(&g);
        expect(&g, &r, WATCH_INT3, 0, 0, 0);
        assert_int_equal(r.rip, CODE_AT);
        answer(&g, &r, a, 0);
        expect_end(&g);
        assert_int_equal(g.ram[COUNT_AT], a == WATCH_CONTINUE);
        assert_int_equal(regs_of(&g).rbx, 7);
        guest_destroy(&g);
    }
}

static void test_cpuid(void **state)
{
    (void)state;
    struct guest g;
    struct watch_record r;
    GUEST_CREATE(&g, cpuid);
    ask_for(&g, WATCH_CPUID);
    guest_start(&g);
    expect(&g, &r, WATCH_CPUID, 1, 0, 3);
    answer(&g, &r, WATCH_DENY, 0);
    expect_end(&g);
    assert_int_equal(regs_of(&g).rax, 1); /* skipped */
    assert_int_equal(regs_of(&g).rcx, 3);
    guest_destroy(&g);
}

static void test_xsetbv(void **state)
{
    (void)state;
    struct guest g;
    struct watch_record r;
    GUEST_CREATE(&g, xsetbv);
    ask_for(&g, WATCH_XSETBV);
    guest_start(&g);
    expect(&g, &r, WATCH_XSETBV, 0, 1, 3);
    answer(&g, &r, WATCH_CHANGE, 1);
    expect_end(&g);
    assert_int_equal(regs_of(&g).rax, 1);
    guest_destroy(&g);
}

static void test_tables(void **state)
{
    (void)state;
    struct guest g;
    struct watch_record r;
    GUEST_CREATE(&g, tables);
    ask_for(&g, WATCH_TABLE);
    guest_start(&g);
    expect(&g, &r, WATCH_TABLE, WATCH_GDTR, 0, 0);
    assert_int_equal(r.event.access, WATCH_READ);
    answer(&g, &r, WATCH_CONTINUE, 0);
    expect(&g, &r, WATCH_TABLE, WATCH_IDTR, 0, 0);
    assert_int_equal(r.event.access, WATCH_WRITE);
    answer(&g, &r, WATCH_DENY, 0);
    expect_end(&g);
    struct kvm_sregs sregs;
    assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_GET_SREGS, &sregs), 0);
    assert_int_equal(*(uint16_t *)(g.ram + DATA_AT), 0xffff); /* the limit after reset */
    assert_int_equal(sregs.idt.limit, 0xffff);
    guest_destroy(&g);
}

static void test_hypercall(void **state)
{
    (void)state;
    struct guest g;
    struct watch_record r;
    GUEST_CREATE(&g, hypercall);
    ask_for(&g, WATCH_HYPERCALL);
    guest_start(&g);
    expect(&g, &r, WATCH_HYPERCALL, 0x77, 0, 0);
    answer(&g, &r, WATCH_DENY, 0);
    expect_end(&g);
    assert_int_equal(regs_of(&g).rax, 0x77);
    guest_destroy(&g);
}

/* Exits to the client still happen, once. */
static void test_port(void **state)
{
    (void)state;
    struct guest g;
    struct watch_record r;
    GUEST_CREATE(&g, port);
    ask_for(&g, WATCH_PORT);
    guest_start(&g);
    expect(&g, &r, WATCH_PORT, 0x80, 0, 0x21);
    assert_int_equal(r.event.access, WATCH_WRITE);
    assert_int_equal(r.event.bytes, 1);
    answer(&g, &r, WATCH_CONTINUE, 0);
    expect(&g, &r, WATCH_PORT, 0x81, 0, 0);
    assert_int_equal(r.event.access, WATCH_READ);
    answer(&g, &r, WATCH_CONTINUE, 0);
    expect(&g, &r, WATCH_PORT, 0x10, 0, 0x42);
    answer(&g, &r, WATCH_CONTINUE, 0);
    expect_end(&g);
    guest_destroy(&g);
}

/* #DE comes again and again until the tool gives CX another value, as a handler would. */
static void mend_cx(struct vcpu *v, void *arg)
{
    (void)arg;
    v->cpu.gpr[GPR_RCX] = 1;
}

static void test_exception(void **state)
{
    (void)state;
    struct guest g;
    struct watch_record r;
    GUEST_CREATE(&g, fault);
    ask_for(&g, WATCH_EXCEPTION);
    guest_start(&g);
    for (unsigned i = 0; i < 3; i++) {
        expect(&g, &r, WATCH_EXCEPTION, VEC_DE, 0, 0);
        assert_int_equal(r.rip, CODE_AT + 2);
        answer(&g, &r, WATCH_DENY, 0);
    }
    expect(&g, &r, WATCH_EXCEPTION, VEC_DE, 0, 0);
    answer(&g, &r, WATCH_CONTINUE, 0); /* the handler returns to the DIV */
    expect(&g, &r, WATCH_EXCEPTION, VEC_DE, 0, 0);
    assert_int_equal(g.ram[COUNT_AT], 1);
    hold_call(g.vm->vcpu[0], mend_cx, NULL);
    answer(&g, &r, WATCH_DENY, 0);
    expect_end(&g);
    assert_int_equal(regs_of(&g).rbx, 9);
    guest_destroy(&g);
}

static void test_interrupt(void **state)
{
    (void)state;
    for (enum watch_answer a = WATCH_CONTINUE; a <= WATCH_DENY; a++) {
        struct guest g;
        struct watch_record r;
        struct kvm_regs regs;
        GUEST_CREATE(&g, int3);
        regs = regs_of(&g);
        regs.rflags |= 0x200;
        regs.rip = CODE_AT + 1;
        assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_SET_REGS, &regs), 0);
        assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_INTERRUPT, &(struct kvm_interrupt){ 0x33 }), 0);
        ask_for(&g, WATCH_INTERRUPT);
        guest_start(&g);
        expect(&g, &r, WATCH_INTERRUPT, 0x33, 0, 0);
        assert_int_equal(r.rip, CODE_AT + 1);
        answer(&g, &r, a, 0);
        expect_end(&g);
        assert_int_equal(g.ram[COUNT_AT], a == WATCH_CONTINUE);
        guest_destroy(&g);
    }
}

/* Both wait: the NMI is told first, nothing else happens before its answer, and the interrupt is told when the NMI's handler has returned. */
static void test_nmi_and_interrupt(void **state)
{
    (void)state;
    struct guest g;
    struct watch_record r;
    GUEST_CREATE(&g, int3);
    struct kvm_regs regs = regs_of(&g);
    regs.rflags |= 0x200;
    regs.rip = CODE_AT + 1;
    assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_SET_REGS, &regs), 0);
    assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_INTERRUPT, &(struct kvm_interrupt){ 0x33 }), 0);
    assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_NMI, NULL), 0);
    ask_for(&g, WATCH_INTERRUPT);
    guest_start(&g);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t rip = 0;
        expect(&g, &r, WATCH_INTERRUPT, i ? 0x33 : VEC_NMI, 0, 0);
        assert_int_equal(g.ram[COUNT_AT], i);
        hold_call(g.vm->vcpu[0], note_rip, &rip);
        assert_int_equal(rip, r.rip);
        answer(&g, &r, WATCH_CONTINUE, 0);
    }
    expect_end(&g);
    assert_int_equal(g.ram[COUNT_AT], 2);
    guest_destroy(&g);
}

/* A trap after an instruction that leaves for the client: the client gets its exit, once, and the trap is told. */
static void test_trap_after_exit(void **state)
{
    (void)state;
    static const uint16_t at[] = { 2, 4, 6, 8 };
    struct guest g;
    struct watch_record r;
    GUEST_CREATE(&g, port);
    struct kvm_regs regs = regs_of(&g);
    regs.rflags |= 0x100;
    assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_SET_REGS, &regs), 0);
    ask_for(&g, WATCH_EXCEPTION);
    ask_range(&g, 0x6000, 0x6fff, WATCH_WRITE); /* the stack of the delivery */
    guest_start(&g);
    unsigned n = 0, n_writes = 0;
    while (next(&g, &r)) {
        assert_in_range(n, 0, 4);
        assert_int_equal(r.rip, CODE_AT + at[r.event.kind == WATCH_ACCESS ? n - 1 : n]);
        if (r.event.kind == WATCH_ACCESS) {
            n_writes++;
        } else {
            assert_int_equal(r.event.index, VEC_DB);
            assert_int_equal(r.event.value, 0x4000);
            assert_int_equal(g.ram[COUNT_AT], n);
            n++;
        }
        answer(&g, &r, WATCH_CONTINUE, 0);
    }
    guest_join(&g);
    assert_int_equal(n, 4);
    assert_in_range(n_writes, 3, 12);
    assert_int_equal(g.n_debug_port, 1);
    assert_int_equal((uint8_t)regs_of(&g).rax, 0x42);
    guest_destroy(&g);
}

static void test_int80(void **state)
{
    (void)state;
    struct guest g;
    struct watch_record r;
    GUEST_CREATE(&g, int80);
    ask_for(&g, WATCH_SYSCALL);
    guest_start(&g);
    expect(&g, &r, WATCH_SYSCALL, WATCH_BY_INT80, 0, 0x1234);
    answer(&g, &r, WATCH_CONTINUE, 0);
    expect_end(&g);
    assert_int_equal(g.ram[COUNT_AT], 2);
    guest_destroy(&g);
}

static void test_step(void **state)
{
    (void)state;
    static const uint16_t at[] = { 0, 3, 4, 7, 8 };
    struct guest g;
    struct watch_record r;
    GUEST_CREATE(&g, step);
    ask_for(&g, WATCH_STEP);
    guest_start(&g);
    for (unsigned i = 0; i < 5; i++) {
        expect(&g, &r, WATCH_STEP, 0, 0, 0);
        assert_int_equal(r.rip, CODE_AT + at[i]);
        assert_int_equal(r.gpr[GPR_RBX], i == 0 ? 0 : i == 1 ? 1 : i < 4 ? 2 : 3);
        answer(&g, &r, i == 3 ? WATCH_DENY : WATCH_CONTINUE, 0);
        if (i == 3) {
            i++;
            expect(&g, &r, WATCH_STEP, 0, 0, 0);
            assert_int_equal(r.gpr[GPR_RBX], 2);
            answer(&g, &r, WATCH_CONTINUE, 0);
        }
    }
    expect_end(&g);
    guest_destroy(&g);
}

static void test_access(void **state)
{
    (void)state;
    struct guest g;
    GUEST_CREATE(&g, access);
    memcpy(g.ram + DATA_AT, "\x11\x22\x33\x44\xff\x00\x00\x00\x05\x00\x00\x00", 12);
    ask_range(&g, DATA_AT, DATA_AT + 0xff, WATCH_READ | WATCH_WRITE);
    ask_range(&g, DATA_AT + 0x1000, DATA_AT + 0x1000, WATCH_WRITE);
    guest_start(&g);
    expect_access(&g, WATCH_READ, DATA_AT, 2, WATCH_CONTINUE);
    expect_access(&g, WATCH_WRITE, DATA_AT + 2, 2, WATCH_DENY);
    expect_access(&g, WATCH_READ | WATCH_WRITE, DATA_AT + 4, 2, WATCH_CONTINUE);
    expect_access(&g, WATCH_READ | WATCH_WRITE, DATA_AT + 8, 4, WATCH_CONTINUE);
    expect_access(&g, WATCH_WRITE, DATA_AT + 0x1000, 2, WATCH_CONTINUE); /* REP STOSW: only the second word; 0x8800 is in the page, not in the range */
    expect_end(&g);
    assert_int_equal(g.ram[DATA_AT + 2], 0x33);
    assert_int_equal(*(uint16_t *)(g.ram + DATA_AT + 4), 0x100);
    assert_int_equal(*(uint16_t *)(g.ram + DATA_AT + 0xffe), 0x2211);
    assert_int_equal(*(uint16_t *)(g.ram + DATA_AT + 0x1000), 0x2211);
    assert_int_equal(*(uint16_t *)(g.ram + DATA_AT + 0x800), 0x5a5a);
    assert_int_equal((uint16_t)regs_of(&g).rcx, 0);
    guest_destroy(&g);
}

static void test_execute(void **state)
{
    (void)state;
    struct guest g;
    GUEST_CREATE(&g, execute);
    ask_range(&g, CODE_AT + 0x100, CODE_AT + 0x100, WATCH_EXECUTE);
    guest_start(&g);
    expect_access(&g, WATCH_EXECUTE, CODE_AT + 0x100, 1, WATCH_DENY); /* MOV is skipped, RET is not */
    expect_end(&g);
    assert_int_equal(regs_of(&g).rbx, 2);
    assert_int_equal((uint16_t)regs_of(&g).rcx, 0);
    guest_destroy(&g);
}

/* Pushing an interrupt's frame to a watched stack: asked, then delivered, once. */
static void test_delivery_to_watched_stack(void **state)
{
    (void)state;
    struct guest g;
    GUEST_CREATE(&g, fault);
    struct kvm_regs regs = regs_of(&g);
    regs.rflags |= 0x200;
    regs.rip = CODE_AT + 4;
    assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_SET_REGS, &regs), 0);
    assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_INTERRUPT, &(struct kvm_interrupt){ 0x33 }), 0);
    ask_range(&g, 0x6000, 0x6fff, WATCH_WRITE);
    ask_for(&g, WATCH_INTERRUPT);
    guest_start(&g);
    struct watch_record r;
    expect(&g, &r, WATCH_INTERRUPT, 0x33, 0, 0);
    answer(&g, &r, WATCH_CONTINUE, 0);
    unsigned n = 0;
    for (; next(&g, &r); n++) {
        assert_int_equal(r.event.kind, WATCH_ACCESS);
        assert_in_range(r.event.gpa, 0x7000 - 6, 0x7000 - 1);
        assert_int_equal(r.rip, CODE_AT + 4);
        answer(&g, &r, WATCH_CONTINUE, 0);
    }
    assert_in_range(n, 1, 3);
    guest_join(&g);
    assert_int_equal(g.ram[COUNT_AT], 1);
    assert_int_equal(regs_of(&g).rsp, 0x7000);
    assert_int_equal(regs_of(&g).rbx, 9);
    guest_destroy(&g);
}

/* SYSCALL in long mode: identity-mapped 2 MiB, flat segments. */
static void test_syscall(void **state)
{
    (void)state;
    struct guest g;
    struct watch_record r;
    struct kvm_sregs s;
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry[2];
    } msrs = { .head.nmsrs = 2, .entry = { { .index = 0xc0000081, .data = 0x0008ull << 32 }, { .index = 0xc0000082, .data = LSTAR_AT } } };
    GUEST_CREATE(&g, syscall);
    memcpy(g.ram + LSTAR_AT, code_entry, (size_t)(code_entry_end - code_entry));
    memcpy(g.ram + TABLES_AT, &(uint64_t){ (TABLES_AT + 0x1000) | 7 }, 8);
    memcpy(g.ram + TABLES_AT + 0x1000, &(uint64_t){ (TABLES_AT + 0x2000) | 7 }, 8);
    memcpy(g.ram + TABLES_AT + 0x2000, &(uint64_t){ 0x87 }, 8);
    assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_GET_SREGS, &s), 0);
    s.cr0 = 0x80000031;
    s.cr3 = TABLES_AT;
    s.cr4 = 0x20;
    s.efer = 0x501;
    s.cs = (struct kvm_segment){ .limit = ~0u, .selector = 0x33, .type = 11, .present = 1, .dpl = 3, .s = 1, .l = 1, .g = 1 };
    s.ss = s.ds = s.es = (struct kvm_segment){ .limit = ~0u, .selector = 0x2b, .type = 3, .present = 1, .dpl = 3, .s = 1, .db = 1, .g = 1 };
    assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_SET_SREGS, &s), 0);
    assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_SET_MSRS, &msrs), 2);
    ask_for(&g, WATCH_SYSCALL);
    guest_start(&g);
    expect(&g, &r, WATCH_SYSCALL, WATCH_BY_SYSCALL, 0, 0x27);
    assert_int_equal(r.cpl, 3);
    assert_int_equal(r.cr3, TABLES_AT);
    answer(&g, &r, WATCH_CONTINUE, 0);
    expect_end(&g);
    assert_int_equal(regs_of(&g).rbx, 0x99);
    guest_destroy(&g);
}

/* ---- filters, queues, ends ---- */

static void test_filters(void **state)
{
    (void)state;
    static const struct look_filter wrong[] = {
        { .kinds = 0, .last_index = 1 },
        { .kinds = 1u << WATCH_KINDS },
        { .kinds = WATCH_ACCESS },
        { .kinds = WATCH_CR, .first_index = 2, .last_index = 1 },
        { .kinds = WATCH_CR, .value = 2, .value_mask = 1 },
    };
    const struct look_filter right[] = {
        { .kinds = WATCH_CR, .last_index = 2 },
        { .kinds = WATCH_CR, .first_index = 4, .last_index = 4, .has_vcpu = true, .vcpu = 1 },
        { .kinds = WATCH_CR, .first_index = 4, .last_index = 4, .has_cr3 = true, .cr3 = 0x5007 },
        { .kinds = WATCH_CR, .first_index = 4, .last_index = 4, .cpls = 8 },
        { .kinds = WATCH_CR, .last_index = 9, .value_mask = 8, .value = 8 },
        { .kinds = WATCH_CR, .last_index = 9, .count = 1 },
    };
    static const unsigned n_expected[] = { 2, 0, 1, 0, 1, 1 };
    struct guest g;
    struct watch_record r[8];
    uint64_t dropped;
    GUEST_CREATE(&g, cr);
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(look_subscribe(g.l, &wrong[i], NULL, 0), -EINVAL);
    for (unsigned i = 0; i < sizeof right / sizeof *right; i++) {
        struct kvm_regs regs = { .rip = CODE_AT, .rflags = 2 };
        struct kvm_sregs s;
        assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_GET_SREGS, &s), 0);
        s.cr0 = 0x60000010;
        s.cr4 = s.cr3 = 0;
        assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_SET_SREGS, &s), 0);
        assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_SET_REGS, &regs), 0);
        int number = look_subscribe(g.l, &right[i], NULL, 0);
        assert_true(number > 0);
        assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_RUN, NULL), 0);
        assert_int_equal(look_listener_next(g.l, r, 8, &dropped), n_expected[i]);
        assert_int_equal(look_unsubscribe(g.l, (unsigned)number), 0);
        assert_int_equal(look_unsubscribe(g.l, (unsigned)number), -ENOENT);
    }
    guest_destroy(&g);
}

static void client_end(struct guest *g)
{
    atomic_store(&g->is_done, true);
    g->run->immediate_exit = 1;
    while (pthread_tryjoin_np(g->client, NULL)) {
        pthread_kill(g->client, SIGUSR1);
        usleep(1000);
    }
    g->run->immediate_exit = 0;
    atomic_store(&g->is_done, false);
}

/* Nobody takes the events: they are counted, and the guest is not slowed to a stop. */
static void test_dropped(void **state)
{
    (void)state;
    struct guest g;
    static struct watch_record r[LOOK_QUEUE_RECORDS];
    struct look_filter f = { .kinds = WATCH_ACCESS, .last_index = UINT32_MAX };
    uint64_t dropped;
    GUEST_CREATE(&g, loop);
    assert_true(look_subscribe(g.l, &f, &(struct look_range){ DATA_AT, DATA_AT + 1, WATCH_WRITE }, 1) > 0);
    guest_start(&g);
    while (*(volatile uint16_t *)(g.ram + DATA_AT) < LOOK_QUEUE_RECORDS + 1000)
        usleep(100);
    client_end(&g);
    uint16_t n = *(uint16_t *)(g.ram + DATA_AT);
    assert_int_equal(look_listener_next(g.l, r, LOOK_QUEUE_RECORDS, &dropped), LOOK_QUEUE_RECORDS);
    assert_int_equal((uint16_t)(dropped + LOOK_QUEUE_RECORDS), n);
    guest_destroy(&g);
}

/* The client is interrupted many times while the vCPU waits: one event, answered once. */
static void test_signals(void **state)
{
    (void)state;
    struct guest g;
    struct watch_record r;
    GUEST_CREATE(&g, cr0);
    ask_for(&g, WATCH_CR);
    guest_start(&g);
    expect(&g, &r, WATCH_CR, 0, 0x60000010, 0x60000030);
    while (atomic_load(&g.n_interrupted) < 20) {
        pthread_kill(g.client, SIGUSR1);
        usleep(500);
    }
    answer(&g, &r, WATCH_CONTINUE, 0);
    expect_end(&g);
    assert_int_equal(regs_of(&g).rbx, 0x60000030);
    guest_destroy(&g);
}

/* Between the question and the answer the client takes the vCPU out, and it is run again later. */
static void test_client_leaves(void **state)
{
    (void)state;
    struct guest g;
    struct watch_record r;
    GUEST_CREATE(&g, access);
    ask_range(&g, DATA_AT, DATA_AT, WATCH_READ);
    guest_start(&g);
    expect(&g, &r, WATCH_ACCESS, 0, 0, 0);
    client_end(&g);
    assert_int_equal(regs_of(&g).rip, CODE_AT);
    answer(&g, &r, WATCH_CONTINUE, 0);
    guest_start(&g);
    expect_end(&g);
    guest_destroy(&g);
}

/* The listener goes while its vCPU waits; of two the other's answer still counts. */
static void test_listener_goes(void **state)
{
    (void)state;
    struct guest g;
    struct watch_record r;
    struct look_listener *other;
    GUEST_CREATE(&g, cr0);
    assert_int_equal(look_listener_create(g.vm, &other), 0);
    ask_for(&g, WATCH_CR);
    struct look_filter f = { .kinds = WATCH_CR, .is_asking = true, .last_index = UINT32_MAX };
    assert_true(look_subscribe(other, &f, NULL, 0) > 0);
    guest_start(&g);
    expect(&g, &r, WATCH_CR, 0, 0x60000010, 0x60000030);
    answer(&g, &r, WATCH_DENY, 0);
    look_listener_destroy(other);
    expect_end(&g);
    assert_int_equal(regs_of(&g).rbx, 0x60000010);
    guest_destroy(&g);
}

/* Under load: subscriptions come and go, the guest computes on and nothing stays behind. */
static void test_attach_detach(void **state)
{
    (void)state;
    struct guest g;
    GUEST_CREATE(&g, count);
    guest_start(&g);
    for (unsigned i = 0; i < 300; i++) {
        struct watch_record r;
        if (i % 3 == 0)
            ask_range(&g, COUNT_AT, COUNT_AT, WATCH_WRITE);
        else if (i % 3 == 1)
            ask_range(&g, CODE_AT, CODE_AT, WATCH_EXECUTE);
        else
            ask_for(&g, WATCH_STEP);
        assert_true(next(&g, &r));
        if (i % 2)
            answer(&g, &r, WATCH_CONTINUE, 0);
        look_listener_destroy(g.l);
        assert_int_equal(look_listener_create(g.vm, &g.l), 0);
    }
    uint16_t before = *(volatile uint16_t *)(g.ram + COUNT_AT);
    while (*(volatile uint16_t *)(g.ram + COUNT_AT) == before)
        usleep(100);
    client_end(&g);
    guest_destroy(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cr0),
        cmocka_unit_test(test_other_crs),
        cmocka_unit_test(test_msr),
        cmocka_unit_test(test_int3),
        cmocka_unit_test(test_cpuid),
        cmocka_unit_test(test_xsetbv),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_hypercall),
        cmocka_unit_test(test_port),
        cmocka_unit_test(test_exception),
        cmocka_unit_test(test_interrupt),
        cmocka_unit_test(test_nmi_and_interrupt),
        cmocka_unit_test(test_trap_after_exit),
        cmocka_unit_test(test_int80),
        cmocka_unit_test(test_step),
        cmocka_unit_test(test_access),
        cmocka_unit_test(test_execute),
        cmocka_unit_test(test_delivery_to_watched_stack),
        cmocka_unit_test(test_syscall),
        cmocka_unit_test(test_filters),
        cmocka_unit_test(test_dropped),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_client_leaves),
        cmocka_unit_test(test_listener_goes),
        cmocka_unit_test(test_attach_detach),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
