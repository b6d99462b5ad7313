/* SPDX-License-Identifier: MIT */
/*
 * The KVM front over a scripted engine: the table, errors, memory of both generations, register blocks, the protocol of KVM_RUN, and fds. Errors were taken
 * from /dev/kvm of Linux 6.18, those of generation 2007 from its documentation. One thing, because all of it needs the same engine.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/kvm.h>

#include "abi/kvm2007.h"
#include "chip/pc.h"
#include "core/parts.h"
#include "core/vcpu.h"
#include "core/vm.h"
#include "front/kvm/front.h"
#include "transport/inproc.h"

/* ---- the scripted engine ------------------------------------------------------------------------------------------------------------------------ */

static int (*script)(struct vcpu *v);
static unsigned n_state_changes, n_vm_fini, n_runs;

static int fake_vm_init(struct vm *vm)
{
    (void)vm;
    return 0;
}

static void fake_vm_fini(struct vm *vm)
{
    (void)vm;
    n_vm_fini++;
}

static int fake_vcpu_init(struct vcpu *v)
{
    (void)v;
    return 0;
}

static void fake_vcpu_fini(struct vcpu *v)
{
    (void)v;
}

static int fake_run(struct vcpu *v)
{
    n_runs++;
    if (script)
        return script(v);
    v->exit.kind = EXIT_HLT;
    return 0;
}

static void fake_memory_changed(struct vm *vm, gpa_t gpa, uint64_t bytes)
{
    (void)vm;
    (void)gpa;
    (void)bytes;
}

static void fake_state_changed(struct vcpu *v)
{
    (void)v;
    n_state_changes++;
}

static void fake_translate(struct vcpu *v, gva_t gva, struct translation *out)
{
    (void)v;
    *out = (struct translation){ .is_valid = gva < 0x10000, .gpa = gva + 0x1000, .is_writeable = true };
}

static const struct engine_ops fake_engine = {
    .name = "fake",
    .vcpu_bytes = sizeof(struct vcpu),
    .vm_init = fake_vm_init,
    .vm_fini = fake_vm_fini,
    .vcpu_init = fake_vcpu_init,
    .vcpu_fini = fake_vcpu_fini,
    .run = fake_run,
    .memory_changed = fake_memory_changed,
    .state_changed = fake_state_changed,
    .translate = fake_translate,
};

/* ---- fixture ------------------------------------------------------------------------------------------------------------------------------------- */

struct machine {
    int dev, vm, vcpu;
    struct kvm_run *run;
    uint8_t *ram;
};
static struct machine m;
#define RAM_BYTES 0x100000u

static int call(int fd, unsigned long request, void *arg)
{
    int r = vitrine_ioctl(fd, request, arg);
    return r < 0 ? -errno : r;
}

#define NUM(x) ((void *)(uintptr_t)(x))

static int setup(void **state)
{
    (void)state;
    vm_parts_set(&fake_engine, &pc_chip_ops);
    script = NULL;
    n_state_changes = n_vm_fini = n_runs = 0;
    m.dev = vitrine_open("/dev/kvm");
    m.vm = call(m.dev, KVM_CREATE_VM, 0);
    m.vcpu = call(m.vm, KVM_CREATE_VCPU, 0);
    if (m.dev < 0 || m.vm < 0 || m.vcpu < 0)
        return -1;
    m.run = mmap(NULL, (size_t)call(m.dev, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, m.vcpu, 0);
    m.ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return m.run == MAP_FAILED || m.ram == MAP_FAILED;
}

static int teardown(void **state)
{
    (void)state;
    munmap(m.run, 3 * PAGE_BYTES);
    munmap(m.ram, RAM_BYTES);
    vitrine_close(m.vcpu);
    vitrine_close(m.vm);
    vitrine_close(m.dev);
    assert_int_equal(n_vm_fini, 1);
    return 0;
}

/* ---- table, device -------------------------------------------------------------------------------------------------------------------------------- */

static void test_table(void **state)
{
    (void)state;
    unsigned n;
    const struct kvm_call *calls = kvm_dispatch_table(&n);
    for (unsigned i = 0; i < n; i++) {
        assert_non_null(calls[i].handler.vm);
        assert_true(calls[i].generations);
        for (unsigned k = i + 1; k < n; k++)
            assert_false(calls[i].kind == calls[k].kind && calls[i].request == calls[k].request);
    }
    assert_int_equal(call(m.dev, 0xae77, 0), -EINVAL);
    assert_int_equal(call(m.vm, 0xae99, 0), -ENOTTY);
    assert_int_equal(call(m.vcpu, 0xae22, 0), -EINVAL);
    assert_int_equal(call(0, KVM_GET_API_VERSION, 0), -EBADF);
    assert_int_equal(call(-1, KVM_RUN, 0), -EBADF);
}

static void test_device(void **state)
{
    (void)state;
    assert_int_equal(call(m.dev, KVM_GET_API_VERSION, 0), 12);
    assert_int_equal(call(m.dev, KVM_GET_API_VERSION, NUM(5)), -EINVAL);
    assert_int_equal(call(m.dev, KVM_CREATE_VM, NUM(5)), -EINVAL);
    assert_int_equal(call(m.dev, KVM_CHECK_EXTENSION, NUM(99999)), 0);
    assert_int_equal(call(m.dev, KVM_CHECK_EXTENSION, NUM(KVM_CAP_USER_MEMORY)), 1);
    assert_int_equal(call(m.vm, KVM_CHECK_EXTENSION, NUM(KVM_CAP_IRQ_ROUTING)), 4096);
    struct kvm_msr_list none = { 0 };
    assert_int_equal(call(m.dev, KVM_GET_MSR_INDEX_LIST, &none), -E2BIG);
    assert_true(none.nmsrs > 10);
    assert_int_equal(call(m.dev, KVM_GET_MSR_INDEX_LIST, 0), -EFAULT);
    struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entry[256];
    } cpuid = { .head.nent = 1 };
    assert_int_equal(call(m.dev, KVM_GET_SUPPORTED_CPUID, &cpuid), -E2BIG);
    cpuid.head.nent = 256;
    assert_int_equal(call(m.dev, KVM_GET_SUPPORTED_CPUID, &cpuid), 0);
    assert_int_equal(call(m.vcpu, KVM_SET_CPUID2, &cpuid), 0);
    cpuid.head.nent = 257;
    assert_int_equal(call(m.vcpu, KVM_SET_CPUID2, &cpuid), -E2BIG);
    cpuid.head.nent = 1;
    assert_int_equal(call(m.vcpu, KVM_GET_CPUID2, &cpuid), -E2BIG);
    assert_true(cpuid.head.nent > 1);
    assert_int_equal(call(m.vcpu, KVM_GET_CPUID2, &cpuid), 0);
    errno = 0;
    assert_int_equal(vitrine_open("/dev/null"), -1);
    assert_int_equal(errno, ENOENT);
    assert_true(vitrine_mmap(4096, PROT_READ, MAP_SHARED, m.dev, 0) == MAP_FAILED);
    assert_int_equal(errno, ENODEV);
}

/* ---- memory ---------------------------------------------------------------------------------------------------------------------------------------- */

static int set_user(uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t bytes, void *hva)
{
    struct kvm_userspace_memory_region r = { slot, flags, gpa, bytes, (uintptr_t)hva };
    return call(m.vm, KVM_SET_USER_MEMORY_REGION, &r);
}

static void test_user_memory(void **state)
{
    (void)state;
    assert_int_equal(set_user(0, 0, 0, 0x10001, m.ram), -EINVAL);
    assert_int_equal(set_user(0, 0, 0, 0x10000, m.ram + 1), -EINVAL);
    assert_int_equal(set_user(0, 4, 0, 0x10000, m.ram), -EINVAL);
    assert_int_equal(set_user(0, 0, 0, 0x10000, m.ram), 0);
    assert_int_equal(set_user(1, 0, 0x8000, 0x10000, m.ram), -EEXIST);
    assert_int_equal(set_user(40000, 0, 0x80000, 0x1000, m.ram), -EINVAL);
    assert_int_equal(set_user(1 << 16 | 3, 0, 0, 0x1000, m.ram), 0); /* another address space */
    assert_int_equal(set_user(1 << 16 | 4, 0, 0, 0x1000, m.ram), -EEXIST);
    assert_int_equal(set_user(1 << 16 | 509, 0, 0x80000, 0x1000, m.ram), -EINVAL);
    assert_int_equal(set_user(2 << 16, 0, 0x80000, 0x1000, m.ram), -EINVAL);
    assert_int_equal(set_user(0, 0, 0, 0x8000, m.ram), -EINVAL);
    assert_int_equal(set_user(0, KVM_MEM_READONLY, 0, 0x10000, m.ram), -EINVAL);
    assert_int_equal(set_user(0, 0, 0x100000, 0x10000, m.ram), 0);
    assert_int_equal(set_user(1, 0, 0, 0x10000, m.ram + 0x10000), 0);
    assert_int_equal(set_user(5, 0, 0, 0, NULL), -EINVAL);
    assert_int_equal(set_user(6, 0, ~0xfffull, 0x1000, m.ram), -EINVAL);
    uint64_t bitmap[4];
    struct kvm_dirty_log log = { .slot = 0, .dirty_bitmap = bitmap };
    assert_int_equal(call(m.vm, KVM_GET_DIRTY_LOG, &log), -ENOENT);
    assert_int_equal(set_user(0, KVM_MEM_LOG_DIRTY_PAGES, 0x100000, 0x10000, m.ram), 0);
    bitmap[0] = 7;
    assert_int_equal(call(m.vm, KVM_GET_DIRTY_LOG, &log), 0);
    assert_int_equal(bitmap[0], 0);
    log.slot = 40000;
    assert_int_equal(call(m.vm, KVM_GET_DIRTY_LOG, &log), -EINVAL);
    log.slot = 0;
    log.dirty_bitmap = NUM(8);
    assert_int_equal(call(m.vm, KVM_GET_DIRTY_LOG, &log), -EFAULT);
    assert_int_equal(set_user(0, 0, 0, 0, NULL), 0);
    assert_int_equal(set_user(0, 0, 0, 0, NULL), -EINVAL);
    assert_int_equal(call(m.vm, KVM_SET_USER_MEMORY_REGION, NUM(16)), -EFAULT);
}

static int set_2007(uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t bytes)
{
    struct kvm2007_memory_region r = { slot, flags, gpa, bytes };
    return call(m.vm, KVM2007_SET_MEMORY_REGION, &r);
}

/* The guest's write: core's copy marks dirty pages. */
static int write_script(struct vcpu *v)
{
    uint8_t byte = 0x5a;
    v->exit.kind = vm_write(v->vm, v->cpu.gpr[GPR_RAX], &byte, 1) ? EXIT_SHUTDOWN : EXIT_HLT;
    return 0;
}

static uint32_t guest_write(uint64_t gpa)
{
    struct kvm_regs regs = { .rax = gpa };
    assert_int_equal(call(m.vcpu, KVM_SET_REGS, &regs), 0);
    script = write_script;
    assert_int_equal(call(m.vcpu, KVM_RUN, 0), 0);
    script = NULL;
    return m.run->exit_reason;
}

static void test_2007_memory(void **state)
{
    (void)state;
    assert_int_equal(set_2007(0, 0, 0x123, 0x1000), -EINVAL);
    assert_int_equal(set_2007(5000, 0, 0, 0x1000), -EINVAL);
    assert_int_equal(set_2007(3, 0, 0, 0), 0);
    assert_int_equal(set_2007(0, 0, 0, 0xa0000), 0);
    assert_int_equal(set_2007(1, 0, 0x9f000, 0x2000), -EEXIST);
    assert_int_equal(set_2007(1, KVM2007_MEM_LOG_DIRTY_PAGES, 0x100000, 0x20000), 0);
    uint8_t *p = mmap(NULL, 0x20000, PROT_READ | PROT_WRITE, MAP_SHARED, m.vm, 0x100000);
    assert_true(p != MAP_FAILED);
    assert_int_equal(guest_write(0x101004), KVM_EXIT_HLT);
    assert_int_equal(p[0x1004], 0x5a);
    uint64_t bitmap = 0;
    struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = &bitmap };
    assert_int_equal(call(m.vm, KVM_GET_DIRTY_LOG, &log), 0);
    assert_int_equal(bitmap, 2);
    log.slot = 0;
    assert_int_equal(call(m.vm, KVM_GET_DIRTY_LOG, &log), -EINVAL);
    log.slot = 9;
    assert_int_equal(call(m.vm, KVM_GET_DIRTY_LOG, &log), -ENOENT);
    /* A move takes the contents along, one that overlaps its own old place too. */
    assert_int_equal(set_2007(1, 0, 0x100000, 0x10000), -EINVAL);
    assert_int_equal(set_2007(1, 0, 0x110000, 0x20000), 0);
    assert_int_equal(p[0x10000 + 0x1004], 0x5a);
    assert_int_equal(guest_write(0x100000), KVM_EXIT_SHUTDOWN);
    assert_int_equal(set_2007(1, 0, 0, 0), 0);
    assert_int_equal(set_2007(1, 0, 0x110000, 0x20000), 0);
    assert_int_equal(p[0x10000 + 0x1004], 0);
    munmap(p, 0x20000);
}

static void test_2007_alias(void **state)
{
    (void)state;
    assert_int_equal(set_2007(0, 0, 0, 0xa0000), 0);
    assert_int_equal(set_2007(1, KVM2007_MEM_LOG_DIRTY_PAGES, 0x100000, 0x20000), 0);
    struct kvm2007_memory_alias alias = { 0, 0, 0xa0000, 0x8000, 0x108000 };
    assert_int_equal(call(m.vm, KVM2007_SET_MEMORY_ALIAS, &alias), 0);
    assert_int_equal(guest_write(0xa1000), KVM_EXIT_HLT);
    uint64_t bitmap = 0;
    struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = &bitmap };
    assert_int_equal(call(m.vm, KVM_GET_DIRTY_LOG, &log), 0);
    assert_int_equal(bitmap, 1u << 9);
    alias.slot = 4;
    assert_int_equal(call(m.vm, KVM2007_SET_MEMORY_ALIAS, &alias), -EINVAL);
    alias = (struct kvm2007_memory_alias){ 1, 0, 0x1000, 0x1000, 0x108000 };
    assert_int_equal(call(m.vm, KVM2007_SET_MEMORY_ALIAS, &alias), -EEXIST);
    assert_int_equal(set_2007(2, 0, 0xa4000, 0x1000), -EEXIST);
    assert_int_equal(set_2007(0, 0, 0x4000, 0xa0000), -EEXIST);
    assert_int_equal(guest_write(0), KVM_EXIT_HLT);
    assert_int_equal(guest_write(0xa1000), KVM_EXIT_HLT);
    assert_int_equal(set_2007(1, 0, 0, 0), 0);
    assert_int_equal(guest_write(0xa1000), KVM_EXIT_SHUTDOWN);
    alias = (struct kvm2007_memory_alias){ 0, 0, 0, 0, 0 };
    assert_int_equal(call(m.vm, KVM2007_SET_MEMORY_ALIAS, &alias), 0);
}

/* ---- vCPU state --------------------------------------------------------------------------------------------------------------------------------------- */

static void test_regs(void **state)
{
    (void)state;
    struct kvm_regs in, out;
    for (unsigned i = 0; i < 17; i++)
        ((uint64_t *)&in)[i] = 0x1111 * (i + 1);
    in.rflags = 0x200;
    assert_int_equal(call(m.vcpu, KVM_SET_REGS, &in), 0);
    assert_true(n_state_changes > 0);
    assert_int_equal(call(m.vcpu, KVM_GET_REGS, &out), 0);
    in.rflags |= 2;
    assert_memory_equal(&in, &out, sizeof(in));
    assert_int_equal(call(m.vcpu, KVM_GET_REGS, NUM(1)), -EFAULT);
    struct kvm_translation t = { .linear_address = 0x1234 };
    assert_int_equal(call(m.vcpu, KVM_TRANSLATE, &t), 0);
    assert_true(t.valid && t.physical_address == 0x2234);
}

static int try_sregs(struct kvm_sregs s)
{
    return call(m.vcpu, KVM_SET_SREGS, &s);
}

static void test_sregs(void **state)
{
    (void)state;
    struct kvm_sregs s, t;
    assert_int_equal(call(m.vcpu, KVM_GET_SREGS, &s), 0);
    assert_int_equal(s.cs.base, 0xffff0000);
    t = s;
    t.cr0 = (t.cr0 | CR0_PG) & ~(uint64_t)CR0_PE;
    assert_int_equal(try_sregs(t), -EINVAL);
    t = s;
    t.efer = EFER_LMA;
    assert_int_equal(try_sregs(t), -EINVAL);
    t = s;
    t.cs.l = 1;
    assert_int_equal(try_sregs(t), -EINVAL);
    t = s;
    t.cr4 |= 1ull << 40;
    assert_int_equal(try_sregs(t), -EINVAL);
    t = s;
    t.efer = EFER_LME | EFER_LMA;
    t.cr0 |= CR0_PG | CR0_PE;
    assert_int_equal(try_sregs(t), -EINVAL);
    t.cr4 |= CR4_PAE;
    t.cs.l = 1;
    t.interrupt_bitmap[0] = 1ull << 40;
    assert_int_equal(try_sregs(t), 0);
    assert_int_equal(call(m.vcpu, KVM_GET_SREGS, &s), 0);
    assert_memory_equal(&s, &t, sizeof(s));
    struct kvm_sregs2 s2;
    assert_int_equal(call(m.vcpu, KVM_GET_SREGS2, &s2), 0);
    assert_int_equal(s2.flags, 0);
    s2.flags = 1;
    assert_int_equal(call(m.vcpu, KVM_SET_SREGS2, &s2), -EINVAL);
}

static void test_fpu(void **state)
{
    (void)state;
    struct kvm_fpu in, out;
    struct kvm_xsave x;
    assert_int_equal(call(m.vcpu, KVM_GET_FPU, &in), 0);
    assert_int_equal(in.fcw, 0x37f);
    assert_int_equal(in.mxcsr, 0x1f80);
    for (unsigned i = 0; i < 16; i++)
        memset(in.xmm[i], (int)i + 1, 16);
    for (unsigned i = 0; i < 8; i++)
        memset(in.fpr[i], 0x80 + (int)i, 10);
    in.last_ip = 0x1234567890;
    in.ftwx = 0xff;
    assert_int_equal(call(m.vcpu, KVM_SET_FPU, &in), 0);
    assert_int_equal(call(m.vcpu, KVM_GET_FPU, &out), 0);
    assert_memory_equal(&in, &out, sizeof(in));
    assert_int_equal(call(m.vcpu, KVM_GET_XSAVE, &x), 0);
    assert_int_equal(call(m.vcpu, KVM_SET_XSAVE, &x), 0);
    assert_int_equal(call(m.vcpu, KVM_GET_FPU, &out), 0);
    assert_memory_equal(&in, &out, sizeof(in));
    x.region[128] |= 1u << 30;
    assert_int_equal(call(m.vcpu, KVM_SET_XSAVE, &x), -EINVAL);
    x.region[128] = 0; /* everything initial: stale bytes do not show */
    assert_int_equal(call(m.vcpu, KVM_SET_XSAVE, &x), 0);
    assert_int_equal(call(m.vcpu, KVM_GET_FPU, &out), 0);
    assert_int_equal(out.fcw, 0x37f);
    assert_int_equal(out.xmm[3][0], 0);
    struct kvm_xcrs xcrs;
    assert_int_equal(call(m.vcpu, KVM_GET_XCRS, &xcrs), 0);
    assert_int_equal(xcrs.xcrs[0].value, 1);
    xcrs.xcrs[0].value = 6;
    assert_int_equal(call(m.vcpu, KVM_SET_XCRS, &xcrs), -EINVAL);
    xcrs.xcrs[0].value = 3;
    assert_int_equal(call(m.vcpu, KVM_SET_XCRS, &xcrs), 0);
}

static void test_events(void **state)
{
    (void)state;
    struct kvm_interrupt irq = { 256 };
    assert_int_equal(call(m.vcpu, KVM_INTERRUPT, &irq), -EINVAL);
    irq.irq = 33;
    assert_int_equal(call(m.vcpu, KVM_INTERRUPT, &irq), 0);
    struct kvm_vcpu_events ev;
    assert_int_equal(call(m.vcpu, KVM_GET_VCPU_EVENTS, &ev), 0);
    assert_int_equal(ev.flags, 0xd);
    assert_true(ev.interrupt.injected && ev.interrupt.nr == 33);
    ev.flags = 0x1000;
    assert_int_equal(call(m.vcpu, KVM_SET_VCPU_EVENTS, &ev), -EINVAL);
    ev.flags = 0;
    ev.exception.injected = 1;
    ev.exception.nr = 2;
    assert_int_equal(call(m.vcpu, KVM_SET_VCPU_EVENTS, &ev), -EINVAL);
    ev.exception.nr = 14;
    assert_int_equal(call(m.vcpu, KVM_SET_VCPU_EVENTS, &ev), 0);
    struct kvm_mp_state mp = { KVM_MP_STATE_HALTED };
    assert_int_equal(call(m.vcpu, KVM_SET_MP_STATE, &mp), -EINVAL);
    struct {
        struct kvm_signal_mask head;
        uint8_t set[8];
    } mask = { .head.len = 4 };
    assert_int_equal(call(m.vcpu, KVM_SET_SIGNAL_MASK, &mask), -EINVAL);
    assert_int_equal(call(m.vcpu, KVM_SET_SIGNAL_MASK, 0), 0);
    struct kvm_debugregs dr;
    assert_int_equal(call(m.vcpu, KVM_GET_DEBUGREGS, &dr), 0);
    dr.dr7 |= 1ull << 40;
    assert_int_equal(call(m.vcpu, KVM_SET_DEBUGREGS, &dr), -EINVAL);
}

/* ---- KVM_RUN ---------------------------------------------------------------------------------------------------------------------------------------- */

static int in_script(struct vcpu *v)
{
    if (v->replay.io_done) {
        memcpy(&v->cpu.gpr[GPR_RBX], v->replay.io_data, v->replay.io_bytes);
        v->replay.io_done = false;
        v->cpu.rip += 1;
        v->exit.kind = atomic_load(&v->requests) & VREQ_EXIT ? EXIT_INTR : EXIT_HLT;
        return v->exit.kind == EXIT_INTR ? -EINTR : 0;
    }
    v->exit.kind = EXIT_IO;
    v->exit.io.is_in = true;
    v->exit.io.bytes = 2;
    v->exit.io.count = 3;
    v->exit.io.port = 0x1f0;
    return 0;
}

static uint64_t reg_rbx(void)
{
    struct kvm_regs regs;
    assert_int_equal(call(m.vcpu, KVM_GET_REGS, &regs), 0);
    return regs.rbx;
}

static void test_run_in(void **state)
{
    (void)state;
    script = in_script;
    assert_int_equal(call(m.vcpu, KVM_RUN, NUM(4)), -EINVAL);
    assert_int_equal(call(m.vcpu, KVM_RUN, 0), 0);
    assert_int_equal(m.run->exit_reason, KVM_EXIT_IO);
    assert_true(m.run->io.direction == KVM_EXIT_IO_IN && m.run->io.size == 2 && m.run->io.count == 3 && m.run->io.port == 0x1f0);
    memcpy((uint8_t *)m.run + m.run->io.data_offset, "\1\2\3\4\5\6", 6);
    assert_int_equal(reg_rbx(), 0);
    /* immediate_exit finishes the instruction and goes no further. */
    m.run->immediate_exit = 1;
    assert_int_equal(call(m.vcpu, KVM_RUN, 0), -EINTR);
    assert_int_equal(m.run->exit_reason, KVM_EXIT_INTR);
    assert_int_equal(reg_rbx(), 0x060504030201);
    unsigned runs = n_runs;
    assert_int_equal(call(m.vcpu, KVM_RUN, 0), -EINTR);
    assert_int_equal(n_runs, runs);
    m.run->immediate_exit = 0;
    assert_int_equal(call(m.vcpu, KVM_RUN, 0), 0);
    assert_int_equal(m.run->exit_reason, KVM_EXIT_IO);
    /* The client resets the vCPU instead of answering: the answer goes nowhere. */
    struct kvm_regs regs = { .rip = 0xfff0 };
    assert_int_equal(call(m.vcpu, KVM_SET_REGS, &regs), 0);
    assert_int_equal(call(m.vcpu, KVM_RUN, 0), 0);
    assert_int_equal(m.run->exit_reason, KVM_EXIT_IO);
    assert_int_equal(reg_rbx(), 0);
}

static int mmio_script(struct vcpu *v)
{
    if (v->replay.n < 2) {
        v->exit.kind = EXIT_MMIO;
        v->exit.mmio.gpa = 0xfe000000 + 8 * v->replay.n;
        v->exit.mmio.bytes = 4;
        v->exit.mmio.is_write = false;
        return 0;
    }
    memcpy(&v->cpu.gpr[GPR_RBX], v->replay.entry[0].data, 4);
    memcpy((uint8_t *)&v->cpu.gpr[GPR_RBX] + 4, v->replay.entry[1].data, 4);
    v->replay.n = 0;
    for (unsigned i = 0; i < 3; i++) {
        v->posted.entry[i] = (struct replay_entry){ .gpa = 0xfd000000 + i, .bytes = 1, .data = { (uint8_t)(0x70 + i) } };
        v->posted.n = i + 1;
    }
    v->exit.kind = EXIT_HLT; /* has to wait for the writes */
    return 0;
}

static void test_run_mmio(void **state)
{
    (void)state;
    script = mmio_script;
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(call(m.vcpu, KVM_RUN, 0), 0);
        assert_int_equal(m.run->exit_reason, KVM_EXIT_MMIO);
        assert_true(m.run->mmio.phys_addr == 0xfe000000 + 8 * i && m.run->mmio.len == 4 && !m.run->mmio.is_write);
        uint32_t value = 0xa0 + i;
        memcpy(m.run->mmio.data, &value, 4);
    }
    for (unsigned i = 0; i < 3; i++) {
        m.run->immediate_exit = 1; /* what is committed is shown all the same */
        assert_int_equal(call(m.vcpu, KVM_RUN, 0), 0);
        assert_int_equal(m.run->exit_reason, KVM_EXIT_MMIO);
        assert_true(m.run->mmio.is_write && m.run->mmio.phys_addr == 0xfd000000 + i && m.run->mmio.data[0] == 0x70 + i);
    }
    assert_int_equal(reg_rbx(), 0xa1000000a0);
    m.run->immediate_exit = 0;
    unsigned runs = n_runs;
    assert_int_equal(call(m.vcpu, KVM_RUN, 0), 0);
    assert_int_equal(m.run->exit_reason, KVM_EXIT_HLT);
    assert_int_equal(n_runs, runs);
}

static int out_script(struct vcpu *v)
{
    v->exit.kind = EXIT_IO;
    v->exit.io.is_in = false;
    v->exit.io.bytes = 1;
    v->exit.io.count = 4;
    v->exit.io.port = 0x3f8;
    memcpy(v->exit.io.data, "abcd", 4);
    return 0;
}

static void test_run_outputs(void **state)
{
    (void)state;
    script = out_script;
    m.run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    m.run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
    m.run->s.regs.regs.rbx = 77;
    m.run->s.regs.regs.rflags = RFLAGS_IF;
    m.run->cr8 = 5;
    assert_int_equal(call(m.vcpu, KVM_RUN, 0), 0);
    assert_memory_equal((uint8_t *)m.run + m.run->io.data_offset, "abcd", 4);
    assert_int_equal(m.run->kvm_dirty_regs, 0);
    assert_int_equal(reg_rbx(), 77);
    assert_true(m.run->if_flag && m.run->ready_for_interrupt_injection && m.run->cr8 == 5);
    assert_int_equal(m.run->s.regs.sregs.cr8, 5);
    m.run->kvm_valid_regs = 0x80;
    assert_int_equal(call(m.vcpu, KVM_RUN, 0), -EINVAL);
    m.run->kvm_valid_regs = 0;
    m.run->cr8 = 99;
    assert_int_equal(call(m.vcpu, KVM_RUN, 0), -EINVAL);
    m.run->cr8 = 0;
}

static void test_run_signal(void **state)
{
    (void)state;
    sigset_t block, old, pending;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &block, &old);
    struct {
        struct kvm_signal_mask head;
        uint8_t set[8];
    } mask = { .head.len = 8 };
    assert_int_equal(call(m.vcpu, KVM_SET_SIGNAL_MASK, &mask), 0);
    pthread_kill(pthread_self(), SIGUSR1);
    assert_int_equal(call(m.vcpu, KVM_RUN, 0), -EINTR);
    assert_int_equal(m.run->exit_reason, KVM_EXIT_INTR);
    sigpending(&pending);
    assert_true(sigismember(&pending, SIGUSR1));
    int sig;
    sigwait(&block, &sig);
    assert_int_equal(call(m.vcpu, KVM_RUN, 0), 0);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* ---- fds, chips ---------------------------------------------------------------------------------------------------------------------------------------- */

static void test_fds(void **state)
{
    (void)state;
    int vm = call(m.dev, KVM_CREATE_VM, 0), copy = dup(vm);
    assert_true(vm >= 0 && copy >= 0);
    assert_int_equal(call(copy, KVM_CHECK_EXTENSION, NUM(KVM_CAP_HLT)), 1);
    int unseen = dup(vm);
    assert_int_equal(vitrine_close(vm), 0);
    close(copy); /* behind our back */
    int vcpu = call(unseen, KVM_CREATE_VCPU, NUM(3));
    assert_true(vcpu >= 0);
    assert_int_equal(vitrine_close(unseen), 0);
    struct kvm_regs regs;
    assert_int_equal(n_vm_fini, 0);
    assert_int_equal(call(vcpu, KVM_GET_REGS, &regs), 0);
    assert_int_equal(vitrine_close(vcpu), 0);
    assert_int_equal(n_vm_fini, 1);
    n_vm_fini = 0;
    assert_int_equal(call(vcpu, KVM_GET_REGS, &regs), -EBADF);
    assert_int_equal(vitrine_close(vcpu), -1);
    assert_int_equal(call(m.vm, KVM_CREATE_VCPU, 0), -EEXIST);
    assert_int_equal(call(m.vm, KVM_CREATE_VCPU, NUM(100000)), -EINVAL);
    /* A duplicate never used before the original goes keeps the VM. */
    vm = call(m.dev, KVM_CREATE_VM, 0);
    copy = dup(vm);
    vitrine_close(vm);
    assert_int_equal(n_vm_fini, 0);
    assert_int_equal(call(copy, KVM_CHECK_EXTENSION, NUM(KVM_CAP_HLT)), 1);
    vitrine_close(copy);
    assert_int_equal(n_vm_fini, 1);
    n_vm_fini = 0;
}

static void test_chips(void **state)
{
    (void)state;
    struct kvm_irq_level line = { .irq = 3, .level = 1 };
    struct kvm_pit_config pit = { 0 };
    struct kvm_lapic_state lapic;
    struct kvm_irqchip chip = { .chip_id = 2 };
    struct kvm_irq_routing none = { 0 };
    assert_int_equal(call(m.vm, KVM_IRQ_LINE, &line), -ENXIO);
    assert_int_equal(call(m.vm, KVM_CREATE_PIT2, &pit), -ENOENT);
    assert_int_equal(call(m.vm, KVM_SET_GSI_ROUTING, &none), -EINVAL);
    assert_int_equal(call(m.vm, KVM_CREATE_IRQCHIP, 0), -EINVAL);
    assert_int_equal(call(m.vcpu, KVM_GET_LAPIC, &lapic), -EINVAL);
    int vm = call(m.dev, KVM_CREATE_VM, 0);
    assert_int_equal(call(vm, KVM_CREATE_IRQCHIP, 0), 0);
    assert_int_equal(call(vm, KVM_CREATE_IRQCHIP, 0), -EEXIST);
    assert_int_equal(call(vm, KVM_CREATE_PIT2, &pit), 0);
    assert_int_equal(call(vm, KVM_CREATE_PIT2, &pit), -EEXIST);
    int bsp = call(vm, KVM_CREATE_VCPU, 0), ap = call(vm, KVM_CREATE_VCPU, NUM(1));
    struct kvm_mp_state mp;
    assert_int_equal(call(bsp, KVM_GET_MP_STATE, &mp), 0);
    assert_int_equal(mp.mp_state, KVM_MP_STATE_RUNNABLE);
    assert_int_equal(call(ap, KVM_GET_MP_STATE, &mp), 0);
    assert_int_equal(mp.mp_state, KVM_MP_STATE_UNINITIALIZED);
    struct kvm_interrupt irq = { 33 };
    assert_int_equal(call(bsp, KVM_INTERRUPT, &irq), -ENXIO);
    assert_int_equal(call(bsp, KVM_GET_LAPIC, &lapic), 0);
    assert_int_equal(call(bsp, KVM_SET_LAPIC, &lapic), 0);
    for (chip.chip_id = 0; chip.chip_id < 3; chip.chip_id++) {
        assert_int_equal(call(vm, KVM_GET_IRQCHIP, &chip), 0);
        assert_int_equal(call(vm, KVM_SET_IRQCHIP, &chip), 0);
    }
    assert_int_equal(call(vm, KVM_GET_IRQCHIP, &chip), -EINVAL);
    assert_int_equal(call(vm, KVM_IRQ_LINE_STATUS, &line), 0);
    struct kvm_pit_state2 ps;
    assert_int_equal(call(vm, KVM_GET_PIT2, &ps), 0);
    assert_int_equal(call(vm, KVM_SET_PIT2, &ps), 0);
    int event = eventfd(0, 0);
    struct kvm_irqfd q = { .fd = (uint32_t)event, .gsi = 4 };
    assert_int_equal(call(vm, KVM_IRQFD, &q), 0);
    assert_int_equal(call(vm, KVM_IRQFD, &q), -EBUSY);
    q.flags = KVM_IRQFD_FLAG_DEASSIGN;
    assert_int_equal(call(vm, KVM_IRQFD, &q), 0);
    struct kvm_ioeventfd io = { .fd = event, .addr = 0x1000, .len = 3 };
    assert_int_equal(call(vm, KVM_IOEVENTFD, &io), -EINVAL);
    io.len = 4;
    assert_int_equal(call(vm, KVM_IOEVENTFD, &io), 0);
    assert_int_equal(call(vm, KVM_IOEVENTFD, &io), -EEXIST);
    close(event);
    vitrine_close(bsp);
    vitrine_close(ap);
    vitrine_close(vm);
    assert_int_equal(n_vm_fini, 1);
    n_vm_fini = 0;
}

static void test_coalesced(void **state)
{
    (void)state;
    int vm = call(m.dev, KVM_CREATE_VM, 0);
    struct kvm_coalesced_mmio_zone z = { .addr = 0x5000, .size = 16 };
    assert_int_equal(call(vm, KVM_REGISTER_COALESCED_MMIO, &z), 0);
    z.pio = 2;
    assert_int_equal(call(vm, KVM_REGISTER_COALESCED_MMIO, &z), -EINVAL);
    z.pio = 0;
    assert_int_equal(call(vm, KVM_UNREGISTER_COALESCED_MMIO, &z), 0);
    vitrine_close(vm);
    n_vm_fini = 0;
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_table),      CASE(test_device), CASE(test_user_memory), CASE(test_2007_memory), CASE(test_2007_alias), CASE(test_regs),
        CASE(test_sregs),      CASE(test_fpu),    CASE(test_events),      CASE(test_run_in),      CASE(test_run_mmio),   CASE(test_run_outputs),
        CASE(test_run_signal), CASE(test_fds),    CASE(test_chips),       CASE(test_coalesced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
