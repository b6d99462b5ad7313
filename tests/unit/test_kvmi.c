/* SPDX-License-Identifier: MIT */
/*
 * Sessions of the KVMI front in process, on the real engine: what a booted guest does not show (tests/guest/run-kvmi-events). vCPUs that are made while a tool
 * is there, a guest that a tool ends, a VM that goes while an event waits; pages in other VMs of this process.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "abi/kvmi_rfc.h"
#include "core/vm.h"
#include "front/kvmi/kvmi.h"
#include "tests/unit/watched.h"
#include "transport/inproc.h"

#define RAM_BYTES 0x20000u
#define WAIT_MS 60000

GUEST_CODE(stop, ".code16\n incw 0x600\n hlt\n");
GUEST_CODE(cpuids, ".code16\n1: cpuid\n incw 0x600\n jmp 1b");

struct tool {
    struct kvmi_session *session;
    uint32_t sequence;
    uint8_t out[KVMI_OUT_BYTES];
    struct kvmi_head head; /* of the last event */
    struct kvmi_event event;
};

static const struct kvmi_options options = { .dialect = &kvmi_dialect_libkvmi };

static void tool_create(struct tool *t, const struct real_guest *g)
{
    *t = (struct tool){ .session = kvmi_session_create(g->vm->number, &options) };
    assert_non_null(t->session);
}

/* The reply's error. */
static int call(struct tool *t, uint16_t id, const void *payload, size_t bytes)
{
    struct kvmi_head head = { .id = id, .bytes = (uint16_t)bytes, .sequence = ++t->sequence };
    struct kvmi_error error;
    assert_true(kvmi_handle(t->session, &head, payload, t->out) >= (ssize_t)(sizeof head + sizeof error));
    memcpy(&error, t->out + sizeof head, sizeof error);
    return error.error;
}

static void control_vm(struct tool *t, enum kvmi_event_id event)
{
    const struct kvmi_control_events in = { .event = event, .enable = 1 };
    assert_int_equal(call(t, KVMI_CONTROL_VM_EVENTS, &in, sizeof in), 0);
}

static void control_cpuid(struct tool *t)
{
    const struct {
        struct kvmi_vcpu vcpu;
        struct kvmi_control_events in;
    } in = { .in = { .event = KVMI_EVENT_CPUID, .enable = 1 } };
    assert_int_equal(call(t, KVMI_CONTROL_EVENTS, &in, sizeof in), 0);
}

static bool next_event(struct tool *t)
{
    ssize_t n = kvmi_next_event(t->session, t->out);
    if (n <= 0)
        return false;
    memcpy(&t->head, t->out, sizeof t->head);
    memcpy(&t->event, t->out + sizeof t->head, sizeof t->event);
    assert_int_equal(n, sizeof t->head + t->head.bytes);
    return true;
}

static void wait_event(struct tool *t, enum kvmi_event_id event, unsigned vcpu)
{
    while (!next_event(t)) {
        struct pollfd p = { .fd = kvmi_session_fd(t->session), .events = POLLIN };
        assert_true(p.fd >= 0 && poll(&p, 1, WAIT_MS) == 1);
    }
    assert_int_equal(t->event.event, event);
    assert_int_equal(t->event.vcpu, vcpu);
}

static void answer(struct tool *t, enum kvmi_action action)
{
    const struct {
        struct kvmi_vcpu vcpu;
        struct kvmi_event_reply reply;
    } in = { { .vcpu = t->event.vcpu }, { .action = (uint8_t)action, .event = t->event.event } };
    const struct kvmi_head head = { .id = KVMI_EVENT_REPLY, .bytes = sizeof in, .sequence = t->head.sequence };
    assert_int_equal(kvmi_handle(t->session, &head, &in, t->out), 0);
}

/* ---- a client ---- */

struct client {
    pthread_t thread;
    int cpu_fd;
    const struct kvm_run *run;
};

static void *run_once(void *arg)
{
    struct client *c = arg;
    while (vitrine_ioctl(c->cpu_fd, KVM_RUN, NULL) == -1 && errno == EINTR && !c->run->immediate_exit)
        ;
    return NULL;
}

static void client_start(struct client *c, int cpu_fd, const struct kvm_run *run)
{
    *c = (struct client){ .cpu_fd = cpu_fd, .run = run };
    assert_int_equal(pthread_create(&c->thread, NULL, run_once, c), 0);
}

static unsigned client_join(struct client *c)
{
    pthread_join(c->thread, NULL);
    return c->run->exit_reason;
}

static int second_cpu(const struct real_guest *g, struct kvm_run **run)
{
    struct kvm_regs regs = { .rip = REAL_GUEST_CODE_AT, .rflags = 2 };
    struct kvm_sregs sregs;
    int fd = vitrine_ioctl(g->vm_fd, KVM_CREATE_VCPU, (void *)1);
    *run = vitrine_mmap((size_t)vitrine_ioctl(g->dev_fd, KVM_GET_VCPU_MMAP_SIZE, NULL), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(*run != MAP_FAILED && vitrine_ioctl(fd, KVM_GET_SREGS, &sregs) == 0);
    sregs.cs.base = sregs.cs.selector = 0;
    assert_int_equal(vitrine_ioctl(fd, KVM_SET_SREGS, &sregs), 0);
    assert_int_equal(vitrine_ioctl(fd, KVM_SET_REGS, &regs), 0);
    return fd;
}

/* ---- tests ---- */

static void test_new_vcpus(void **state)
{
    (void)state;
    struct real_guest g;
    struct tool t;
    struct client c;
    struct kvm_run *run;
    real_guest_create(&g, RAM_BYTES, code_stop, (size_t)(code_stop_end - code_stop), false);
    tool_create(&t, &g);
    control_vm(&t, KVMI_EVENT_CREATE_VCPU);
    assert_false(next_event(&t));
    client_start(&c, g.cpu_fd, g.run);
    wait_event(&t, KVMI_EVENT_CREATE_VCPU, 0);
    assert_int_equal(t.event.regs.rip, REAL_GUEST_CODE_AT);
    assert_int_equal(*(volatile uint16_t *)(g.ram + 0x600), 0);
    answer(&t, KVMI_CONTINUE);
    assert_int_equal(client_join(&c), KVM_EXIT_HLT);
    int fd = second_cpu(&g, &run);
    client_start(&c, fd, run);
    wait_event(&t, KVMI_EVENT_CREATE_VCPU, 1);
    assert_int_equal(*(volatile uint16_t *)(g.ram + 0x600), 1);
    answer(&t, KVMI_CONTINUE);
    assert_int_equal(client_join(&c), KVM_EXIT_HLT);
    assert_int_equal(*(volatile uint16_t *)(g.ram + 0x600), 2);
    assert_false(next_event(&t));
    kvmi_session_destroy(t.session);
    vitrine_close(fd);
    real_guest_destroy(&g);
}

/* The client sees what a triple fault gives it. */
static void test_crash(void **state)
{
    (void)state;
    struct real_guest g;
    struct tool t;
    struct client c;
    real_guest_create(&g, RAM_BYTES, code_cpuids, (size_t)(code_cpuids_end - code_cpuids), false);
    tool_create(&t, &g);
    control_cpuid(&t);
    client_start(&c, g.cpu_fd, g.run);
    wait_event(&t, KVMI_EVENT_CPUID, 0);
    answer(&t, KVMI_CONTINUE);
    wait_event(&t, KVMI_EVENT_CPUID, 0);
    assert_int_equal(*(volatile uint16_t *)(g.ram + 0x600), 1);
    answer(&t, KVMI_CRASH);
    assert_int_equal(client_join(&c), KVM_EXIT_SHUTDOWN);
    assert_int_equal(*(volatile uint16_t *)(g.ram + 0x600), 1);
    kvmi_session_destroy(t.session);
    real_guest_destroy(&g);
}

/* Its client gives up while the tool thinks; what the tool says then is about no VM. */
static void test_vm_goes(void **state)
{
    (void)state;
    struct real_guest g;
    struct tool t;
    struct client c;
    const struct kvmi_head head = { .id = KVMI_GET_VERSION };
    real_guest_create(&g, RAM_BYTES, code_cpuids, (size_t)(code_cpuids_end - code_cpuids), false);
    tool_create(&t, &g);
    control_cpuid(&t);
    control_vm(&t, KVMI_EVENT_UNHOOK);
    client_start(&c, g.cpu_fd, g.run);
    wait_event(&t, KVMI_EVENT_CPUID, 0);
    real_guest_kick_until_ended(&g, c.thread);
    real_guest_destroy(&g);
    assert_int_equal(kvmi_handle(t.session, &head, NULL, t.out), -ESRCH);
    assert_true(kvmi_session_wants_unhook(t.session) && kvmi_unhook(t.session, t.out) > 0);
    kvmi_session_destroy(t.session);
}

/* ---- the machine that a tool runs in ---- */

#define SHARED_AT 0x100000u

/* A VM more in this process, with nothing in it. */
static int empty_vm(const struct real_guest *g, struct vm **vm)
{
    int fd = vitrine_ioctl(g->dev_fd, KVM_CREATE_VM, NULL);
    *vm = vm_find(g->vm->number + 1);
    assert_non_null(*vm);
    return fd;
}

/* A page that can be mapped elsewhere, as the guest's second slot. */
static uint8_t *add_shared_page(const struct real_guest *g, int *file)
{
    *file = memfd_create("shared", MFD_CLOEXEC);
    assert_int_equal(ftruncate(*file, 4096), 0);
    uint8_t *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, *file, 0);
    struct kvm_userspace_memory_region region = { .slot = 1, .guest_phys_addr = SHARED_AT, .memory_size = 4096, .userspace_addr = (uintptr_t)at };
    assert_int_equal(vitrine_ioctl(g->vm_fd, KVM_SET_USER_MEMORY_REGION, &region), 0);
    return at;
}

static int map_page(struct tool *t, uint64_t gpa, uint64_t gfn)
{
    return call(t, KVMI17_MAP_PHYSICAL_PAGE_TO_GUEST, &(struct kvmi17_map_page){ gpa, gfn }, sizeof(struct kvmi17_map_page));
}

static int unmap_page(struct tool *t, uint64_t gfn)
{
    return call(t, KVMI17_UNMAP_PHYSICAL_PAGE_FROM_GUEST, &gfn, sizeof gfn);
}

static void assert_refused(struct tool *t, int error, const char *words)
{
    assert_int_equal(error, -EOPNOTSUPP);
    assert_non_null(strstr(kvmi_session_refusal(t->session), words));
}

static uint8_t byte_of(struct vm *vm, gpa_t gpa)
{
    uint8_t byte = 0;
    assert_int_equal(vm_read(vm, gpa, &byte, 1), 0);
    return byte;
}

/* Two VMs of this process: by name, and by the process that listens, if it is clear which. */
static void test_home(void **state)
{
    (void)state;
    struct kvmi_options named = { .dialect = &kvmi_dialect_rfc }, nameless = named;
    struct real_guest g;
    struct vm *second;
    int file;
    real_guest_create(&g, RAM_BYTES, code_cpuids, (size_t)(code_cpuids_end - code_cpuids), false);
    uint8_t *page = add_shared_page(&g, &file), byte = 0x77;
    struct tool t = { .session = kvmi_session_create(g.vm->number, &nameless) };
    assert_refused(&t, map_page(&t, SHARED_AT, 0x200), "nothing says");
    kvmi_session_set_peer(t.session, getppid());
    assert_refused(&t, map_page(&t, SHARED_AT, 0x200), "runs no machine");
    kvmi_session_set_peer(t.session, getpid());
    assert_int_equal(map_page(&t, SHARED_AT, 0x200), 0);
    page[5] = 0x33;
    assert_int_equal(byte_of(g.vm, 0x200005), 0x33);
    assert_refused(&t, map_page(&t, 0, 0x201), "private memory");
    assert_int_equal(unmap_page(&t, 0x201), -ENOENT);
    kvmi_session_destroy(t.session);
    assert_int_equal(vm_read(g.vm, 0x200005, &byte, 1), -EFAULT);

    int fd = empty_vm(&g, &second);
    t = (struct tool){ .session = kvmi_session_create(g.vm->number, &nameless) };
    kvmi_session_set_peer(t.session, getpid());
    assert_refused(&t, map_page(&t, SHARED_AT, 0x200), "several machines");
    kvmi_session_destroy(t.session);
    snprintf(named.guest, sizeof named.guest, "%d.%u", (int)getpid(), second->number);
    t = (struct tool){ .session = kvmi_session_create(g.vm->number, &named) };
    assert_int_equal(map_page(&t, SHARED_AT, 0x200), 0);
    assert_int_equal(byte_of(second, 0x200005), 0x33);
    assert_int_equal(vm_write(second, 0x200006, &byte, 1), 0);
    assert_int_equal(page[6], byte);
    assert_int_equal(unmap_page(&t, 0x200), 0);
    assert_int_equal(vm_read(second, 0x200005, &byte, 1), -EFAULT);
    assert_int_equal(map_page(&t, SHARED_AT, 0x200), 0);
    vm_put(second);
    vitrine_close(fd);
    for (struct vm *vm; (vm = vm_find_exactly(g.vm->number + 1)); usleep(1000)) /* a tool's connection may still have it */
        vm_put(vm);
    assert_refused(&t, map_page(&t, SHARED_AT, 0x200), "has gone");
    assert_refused(&t, map_page(&t, SHARED_AT, 0x200), "does not run");
    kvmi_session_destroy(t.session);
    real_guest_destroy(&g);
    munmap(page, 4096);
    close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_new_vcpus),
        cmocka_unit_test(test_crash),
        cmocka_unit_test(test_vm_goes),
        cmocka_unit_test(test_home),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
