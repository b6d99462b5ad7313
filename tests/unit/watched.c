/* SPDX-License-Identifier: MIT */
/* See watched.h. */
#include "tests/unit/watched.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "core/vcpu.h"
#include "core/vm.h"
#include "introspect/view.h"
#include "transport/inproc.h"

#define RAM_BYTES 0x40000u
#define HANDLER_AT 0x3000u
#define TABLES_AT WATCHED_TABLES_AT

GUEST_CODE(handler, ".code16\n incw 0x600\n iret");
GUEST_CODE(cr0, ".code16\n mov %cr0, %eax\n or $0x20, %eax\n mov %eax, %cr0\n mov %cr0, %ebx\n out %al, $0x10");
GUEST_CODE(cr, ".code16\n mov $0x5000, %eax\n mov %eax, %cr3\n mov %cr4, %ecx\n or $4, %cx\n mov %ecx, %cr4\n clts\n smsw %bx\n or $8, %bx\n lmsw %bx\n"
               "mov %cr3, %edx\n out %al, $0x10");
GUEST_CODE(access, ".code16\n mov 0x8000, %ax\n mov %ax, 0x8002\n incw 0x8004\n lock xaddl %ecx, 0x8008\n mov $0x8ffe, %di\n mov $2, %cx\n"
                   "cld\n rep stosw\n movw $0x5a5a, 0x8800\n out %al, $0x10");

/* Until the guest's OUT to port 0x10. */
static void *client(void *arg)
{
    struct watched *g = arg;
    for (;;) {
        int r = vitrine_ioctl(g->real.cpu_fd, KVM_RUN, NULL);
        if (r && errno == EINTR)
            atomic_fetch_add(&g->n_interrupted, 1);
        if (atomic_load(&g->is_done) && g->real.run->immediate_exit)
            break;
        if (!r && g->real.run->exit_reason == KVM_EXIT_IO && g->real.run->io.port == 0x81)
            *((uint8_t *)g->real.run + g->real.run->io.data_offset) = 0x42;
        else if (!r && g->real.run->exit_reason == KVM_EXIT_IO && g->real.run->io.port == 0x80)
            g->n_debug_port++;
        else if (!r)
            break;
    }
    atomic_store(&g->is_done, true);
    return NULL;
}

static void set_cpuid(struct watched *g)
{
    struct kvm_cpuid2 *c = calloc(1, sizeof *c + 256 * sizeof *c->entries);
    c->nent = 256;
    assert_int_equal(vitrine_ioctl(g->real.dev_fd, KVM_GET_SUPPORTED_CPUID, c), 0);
    assert_int_equal(vitrine_ioctl(g->real.cpu_fd, KVM_SET_CPUID2, c), 0);
    free(c);
}

void watched_create(struct watched *g, const uint8_t *code, const uint8_t *end)
{
    memset(g, 0, sizeof *g);
    real_guest_create(&g->real, RAM_BYTES, code, (size_t)(end - code), false);
    memcpy(g->real.ram + HANDLER_AT, code_handler, (size_t)(code_handler_end - code_handler));
    for (unsigned i = 0; i < 256; i++)
        memcpy(g->real.ram + 4 * i, &(uint32_t){ HANDLER_AT }, 4);
    set_cpuid(g);
    assert_int_equal(look_listener_create(g->real.vm, &g->l), 0);
}

void watched_destroy(struct watched *g)
{
    look_listener_destroy(g->l);
    assert_int_equal(atomic_load(&g->real.vm->watch.kinds), 0);
    assert_null(atomic_load(&g->real.vm->watch.table));
    assert_int_equal(look_view_count(g->real.vm), 0);
    for (unsigned i = 0; i < VIEWS_MAX; i++)
        assert_null(atomic_load(&g->real.vm->view.map[i]));
    real_guest_destroy(&g->real);
}

void watched_long_mode(struct watched *g, unsigned cpl)
{
    struct kvm_sregs s;
    uint8_t dpl = (uint8_t)cpl;
    memcpy(g->real.ram + TABLES_AT, &(uint64_t){ (TABLES_AT + 0x1000) | 7 }, 8);
    memcpy(g->real.ram + TABLES_AT + 0x1000, &(uint64_t){ (TABLES_AT + 0x2000) | 7 }, 8);
    memcpy(g->real.ram + TABLES_AT + 0x2000, &(uint64_t){ 0x87 }, 8);
    assert_int_equal(vitrine_ioctl(g->real.cpu_fd, KVM_GET_SREGS, &s), 0);
    s.cr0 = 0x80000031;
    s.cr3 = TABLES_AT;
    s.cr4 = 0x20;
    s.efer = 0x501;
    s.cs = (struct kvm_segment){ .limit = ~0u, .selector = (uint16_t)(0x30 | cpl), .type = 11, .present = 1, .dpl = dpl, .s = 1, .l = 1, .g = 1 };
    s.ss = (struct kvm_segment){ .limit = ~0u, .selector = (uint16_t)(0x28 | cpl), .type = 3, .present = 1, .dpl = dpl, .s = 1, .db = 1, .g = 1 };
    s.ds = s.es = s.ss;
    assert_int_equal(vitrine_ioctl(g->real.cpu_fd, KVM_SET_SREGS, &s), 0);
}

void watched_start(struct watched *g)
{
    assert_int_equal(pthread_create(&g->client, NULL, client, g), 0);
}

void watched_join(struct watched *g)
{
    pthread_join(g->client, NULL);
}

void watched_stop(struct watched *g)
{
    atomic_store(&g->is_done, true);
    real_guest_kick_until_ended(&g->real, g->client);
    g->real.run->immediate_exit = 0;
    atomic_store(&g->is_done, false);
}

void watched_ask(struct watched *g, uint32_t kinds)
{
    struct look_filter f = { .kinds = kinds, .is_asking = true, .last_index = UINT32_MAX };
    assert_true(look_subscribe(g->l, &f, NULL, 0) > 0);
}

void watched_ask_range(struct watched *g, gpa_t first, gpa_t last, uint32_t access)
{
    struct look_filter f = { .kinds = WATCH_ACCESS, .is_asking = true, .last_index = UINT32_MAX };
    assert_true(look_subscribe(g->l, &f, &(struct look_range){ first, last, access }, 1) > 0);
}

bool watched_next(struct watched *g, struct watch_record *r)
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

void watched_reply(struct watched *g, const struct watch_record *r, const struct watch_reply *reply)
{
    assert_int_equal(look_reply(g->l, r->vcpu, r->question, reply), 0);
    assert_int_equal(look_reply(g->l, r->vcpu, r->question, reply), -ESTALE);
}

void watched_answer(struct watched *g, const struct watch_record *r, enum watch_answer a, uint64_t value)
{
    assert_int_equal(look_answer(g->l, r->vcpu, r->question, a, value), 0);
    assert_int_equal(look_answer(g->l, r->vcpu, r->question, a, value), -ESTALE);
}

void watched_expect(struct watched *g, struct watch_record *r, uint32_t kind, uint32_t index, uint64_t old_value, uint64_t value)
{
    assert_true(watched_next(g, r));
    assert_int_equal(r->event.kind, kind);
    assert_int_equal(r->event.index, index);
    assert_int_equal(r->event.old_value, old_value);
    assert_int_equal(r->event.value, value);
    assert_int_equal(r->vcpu, 0);
    assert_int_not_equal(r->question, 0);
}

void watched_expect_access(struct watched *g, unsigned access, gpa_t gpa, unsigned bytes, enum watch_answer a)
{
    struct watch_record r;
    watched_expect(g, &r, WATCH_ACCESS, 0, 0, 0);
    assert_int_equal(r.event.access, access);
    assert_int_equal(r.event.gpa, gpa);
    assert_int_equal(r.event.gva, gpa);
    assert_int_equal(r.event.bytes, bytes);
    watched_answer(g, &r, a, 0);
}

void watched_expect_end(struct watched *g)
{
    struct watch_record r;
    assert_false(watched_next(g, &r));
    watched_join(g);
    assert_int_equal(g->real.run->exit_reason, KVM_EXIT_IO);
    assert_int_equal(g->real.run->io.port, 0x10);
}
