/* SPDX-License-Identifier: MIT */
/*
 * Counters: the file that KVM_GET_STATS_FD gives describes itself, and what it says is so.
 */
#include "tests/conform/machine_today.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

PAYLOAD(out);

struct stats {
    int fd;
    struct kvm_stats_header h;
    char *descs;
    size_t desc_bytes;
};

static void read_at(int fd, void *to, size_t bytes, size_t at)
{
    REQUIRE_EQ(pread(fd, to, bytes, (off_t)at), bytes);
}

static struct stats stats_open(const struct peer *p, int of)
{
    struct stats s = { .fd = CALL(of, KVM_GET_STATS_FD, 0) };
    read_at(s.fd, &s.h, sizeof s.h, 0);
    CHECK_EQ(s.h.flags, 0);
    REQUIRE(s.h.num_desc && s.h.num_desc < 200 && s.h.name_size == 48);
    s.desc_bytes = sizeof(struct kvm_stats_desc) + s.h.name_size;
    s.descs = malloc(s.desc_bytes * s.h.num_desc);
    read_at(s.fd, s.descs, s.desc_bytes * s.h.num_desc, s.h.desc_offset);
    return s;
}

static const struct kvm_stats_desc *stats_desc(const struct stats *s, unsigned i)
{
    return (const struct kvm_stats_desc *)(const void *)(s->descs + i * s->desc_bytes);
}

static uint64_t stats_value(const struct stats *s, const char *name)
{
    for (unsigned i = 0; i < s->h.num_desc; i++) {
        const struct kvm_stats_desc *d = stats_desc(s, i);
        uint64_t value;
        if (strcmp(d->name, name))
            continue;
        read_at(s->fd, &value, sizeof value, s->h.data_offset + d->offset);
        return value;
    }
    conform_fail(__FILE__, __LINE__, "no counter %s", name);
    return 0;
}

static void check_layout(const struct stats *s, const char *id)
{
    char name[49] = { 0 };
    read_at(s->fd, name, s->h.name_size, s->h.id_offset);
    if (strcmp(name, id))
        conform_fail(__FILE__, __LINE__, "the id is %s, want %s", name, id);
    size_t end = 0;
    for (unsigned i = 0; i < s->h.num_desc; i++) {
        const struct kvm_stats_desc *d = stats_desc(s, i);
        CHECK(d->name[0] && memchr(d->name, 0, 48));
        CHECK((d->flags & KVM_STATS_TYPE_MASK) <= KVM_STATS_TYPE_MAX);
        CHECK((d->flags & KVM_STATS_UNIT_MASK) <= KVM_STATS_UNIT_MAX);
        CHECK((d->flags & KVM_STATS_BASE_MASK) <= KVM_STATS_BASE_MAX);
        CHECK(d->size >= 1 && d->offset % 8 == 0);
        if (d->offset + d->size * 8u > end)
            end = d->offset + d->size * 8u;
    }
    char *whole = malloc(0x10000);
    CHECK_EQ(pread(s->fd, whole, 0x10000, 0), s->h.data_offset + end);
    CHECK_EQ(pread(s->fd, whole, 8, (off_t)(s->h.data_offset + end)), 0);
    CHECK_EQ(read(s->fd, whole, 10), 10); /* by position too */
    CHECK_EQ(read(s->fd, whole, 0x10000), s->h.data_offset + end - 10);
    CHECK(write(s->fd, "x", 1) < 0);
    CHECK_EQ(fcntl(s->fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    CHECK_EQ(fcntl(s->fd, F_GETFD), FD_CLOEXEC);
    free(whole);
}

static void stats_fd(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_BINARY_STATS_FD);
    struct kvm_run *run;
    int second = machine_add_vcpu(&m, p, 7, &run);
    char id[48];
    snprintf(id, sizeof id, "kvm-%d", getpid());
    struct stats of_vm = stats_open(p, m.vm), of_vcpu = stats_open(p, second);
    check_layout(&of_vm, id);
    snprintf(id, sizeof id, "kvm-%d/vcpu-7", getpid());
    check_layout(&of_vcpu, id);
    CHECK_ERRNO(of_vm.fd, KVM_CHECK_EXTENSION, 0, ENOTTY);
    CHECK_ERRNO(of_vcpu.fd, KVM_RUN, 0, ENOTTY);
    struct stats again = stats_open(p, second); /* with a position of its own */
    CHECK(again.fd != of_vcpu.fd);
    check_layout(&again, id);
    CHECK_EQ(p->port->close(again.fd), 0);
    CHECK_EQ(stats_value(&of_vcpu, "io_exits"), 0);
    CHECK_EQ(p->port->close(of_vcpu.fd), 0);
    CHECK_EQ(p->port->close(of_vm.fd), 0);
}

static void stats_count(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_BINARY_STATS_FD);
    machine_load(&m, p, payload_out, PAYLOAD_BYTES(out));
    RUN_TO(KVM_EXIT_IO);
    struct stats s = stats_open(p, m.vcpu); /* counts from the beginning, not from now */
    uint64_t exits = stats_value(&s, "exits");
    CHECK(exits > 0);
    CHECK_EQ(stats_value(&s, "blocking"), 0);
    RUN_TO(KVM_EXIT_IO);
    RUN_TO(KVM_EXIT_IO);
    CHECK(stats_value(&s, "exits") > exits);
    CHECK_EQ(stats_value(&s, "nmi_injections"), 0);
    m.ram[CODE_AT + 0x100] = 0xf4;
    memcpy(m.ram + 8, "\0\x11\0\0", 4); /* NMI handler: HLT */
    CALL(m.vcpu, KVM_NMI, 0);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(stats_value(&s, "nmi_injections"), 1);
    for (int fd = 3; fd < 64; fd++) /* the file outlives the machine's other fds */
        if (fd != s.fd && fd != m.dev)
            p->port->close(fd);
    CHECK_EQ(stats_value(&s, "nmi_injections"), 1);
}

static void stats_io(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_BINARY_STATS_FD);
    struct stats s = stats_open(p, m.vcpu);
    machine_load(&m, p, payload_out, PAYLOAD_BYTES(out));
    for (unsigned i = 1; i <= 3; i++) {
        RUN_TO(KVM_EXIT_IO);
        CHECK_EQ(stats_value(&s, "io_exits"), i);
    }
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(stats_value(&s, "halt_exits"), 1);
}

const struct conform_case cases_today_stats[] = {
    { "stats_fd", stats_fd },
    { "stats_count", stats_count },
    { "stats_io", stats_io },
};
const size_t n_cases_today_stats = sizeof cases_today_stats / sizeof *cases_today_stats;
