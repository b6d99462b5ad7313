/* SPDX-License-Identifier: MIT */
/*
 * The in-kernel interrupt chips, timers and what feeds them: lines, routing, MSI, irqfd, ioeventfd, coalesced MMIO.
 */
#include "tests/conform/machine_today.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

PAYLOAD(out);
PAYLOAD(mmio);
PAYLOAD(chip);
PAYLOAD(pit);
#define LOAD(name) machine_load(&m, p, payload_##name, PAYLOAD_BYTES(name))

static void irqchip_state(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    struct kvm_irqchip c = { .chip_id = KVM_IRQCHIP_IOAPIC }, back;
    CHECK_ERRNO(m.vm, KVM_GET_IRQCHIP, &c, ENXIO);
    struct machine w;
    machine_create(&w, p, WITH_IRQCHIP);
    CALL(w.vm, KVM_GET_IRQCHIP, &c);
    CHECK_EQ(c.chip.ioapic.base_address, 0xfec00000);
    CHECK_EQ(c.chip.ioapic.redirtbl[0].fields.mask, 1);
    c.chip.ioapic.redirtbl[5].bits = 0x0100000000000035;
    CALL(w.vm, KVM_SET_IRQCHIP, &c);
    back = (struct kvm_irqchip){ .chip_id = KVM_IRQCHIP_IOAPIC };
    CALL(w.vm, KVM_GET_IRQCHIP, &back);
    CHECK_EQ(back.chip.ioapic.redirtbl[5].bits, 0x0100000000000035);
    c = (struct kvm_irqchip){ .chip_id = KVM_IRQCHIP_PIC_MASTER };
    CALL(w.vm, KVM_GET_IRQCHIP, &c);
    c.chip.pic.irq_base = 0x20;
    c.chip.pic.imr = 0xfe;
    CALL(w.vm, KVM_SET_IRQCHIP, &c);
    back = (struct kvm_irqchip){ .chip_id = KVM_IRQCHIP_PIC_MASTER };
    CALL(w.vm, KVM_GET_IRQCHIP, &back);
    CHECK_EQ(back.chip.pic.irq_base, 0x20);
    CHECK_EQ(back.chip.pic.imr, 0xfe);
    c.chip_id = 3;
    CHECK_ERRNO(w.vm, KVM_GET_IRQCHIP, &c, EINVAL);
}

static void pit_state(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, WITH_IRQCHIP);
    struct kvm_pit_state2 s, back;
    CHECK_ERRNO(m.vm, KVM_GET_PIT2, &s, ENXIO);
    struct kvm_pit_config config = { .flags = 0 };
    CHECK_ERRNO(m.vm, KVM_CREATE_PIT2, &config, 0);
    CHECK_ERRNO(m.vm, KVM_CREATE_PIT2, &config, EEXIST);
    CALL(m.vm, KVM_GET_PIT2, &s);
    s.channels[2].count = 0x1234;
    s.channels[2].mode = 3;
    CALL(m.vm, KVM_SET_PIT2, &s);
    CALL(m.vm, KVM_GET_PIT2, &back);
    CHECK_EQ(back.channels[2].count, 0x1234);
    CHECK_EQ(back.channels[2].mode, 3);
}

static int vector_at(struct machine *m, unsigned counter)
{
    return m->ram[DATA_AT + counter];
}

/* Runs payload_chip to its first OUT (interrupts are then on, PIC programmed, APIC's LINT0 open). */
static void chip_ready(struct machine *m, const struct peer *p, unsigned with)
{
    machine_create(m, p, with);
    machine_load(m, p, payload_chip, PAYLOAD_BYTES(chip));
    machine_run(m, p, KVM_EXIT_IO, __FILE__, __LINE__);
    CHECK_EQ(m->run->io.port, 0x10);
}

static void pic_line(const struct peer *p)
{
    struct machine m;
    chip_ready(&m, p, WITH_IRQCHIP);
    struct kvm_irq_level level = { .irq = 4, .level = 1 };
    CALL(m.vm, KVM_IRQ_LINE, &level);
    level.level = 0;
    CALL(m.vm, KVM_IRQ_LINE, &level);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.run->io.port, 0x11);
    CHECK_EQ(vector_at(&m, 4), 1);
    /* With nothing pending HLT waits inside: a line raised by then ends it. */
    level.irq = 12;
    level.level = 1;
    CALL(m.vm, KVM_IRQ_LINE_STATUS, &level);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(vector_at(&m, 12), 1);
    struct machine w;
    machine_create(&w, p, 0);
    CHECK_ERRNO(w.vm, KVM_IRQ_LINE, &level, ENXIO);
}

static void irqfd(const struct peer *p)
{
    struct machine m;
    chip_ready(&m, p, WITH_IRQCHIP);
    int event = eventfd(0, EFD_CLOEXEC);
    struct kvm_irqfd f = { .fd = (uint32_t)event, .gsi = 3 };
    CHECK_ERRNO(m.vm, KVM_IRQFD, &f, 0);
    CHECK_ERRNO(m.vm, KVM_IRQFD, &f, EBUSY);
    uint64_t one = 1;
    CHECK_EQ(write(event, &one, 8), 8);
    RUN_TO(KVM_EXIT_IO); /* HLT waits inside */
    CHECK_EQ(vector_at(&m, 3), 1);
    f.flags = KVM_IRQFD_FLAG_DEASSIGN;
    CHECK_ERRNO(m.vm, KVM_IRQFD, &f, 0);
    f = (struct kvm_irqfd){ .fd = 999, .gsi = 3 };
    CHECK_ERRNO(m.vm, KVM_IRQFD, &f, EBADF);
    f = (struct kvm_irqfd){ .fd = (uint32_t)event, .gsi = 3, .flags = 0x80 };
    CHECK_ERRNO(m.vm, KVM_IRQFD, &f, EINVAL);
}

static void routing_and_msi(const struct peer *p)
{
    struct machine m;
    chip_ready(&m, p, WITH_IRQCHIP);
    /* MSI to APIC 0, vector 0x47: handler counts slot 7. */
    struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x47 };
    CHECK_EQ(CALL(m.vm, KVM_SIGNAL_MSI, &msi), 1);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(vector_at(&m, 0x17), 1);
    struct {
        struct kvm_irq_routing head;
        struct kvm_irq_routing_entry e[2];
    } r = { { .nr = 2 },
            { { .gsi = 30, .type = KVM_IRQ_ROUTING_MSI, .u.msi = { .address_lo = 0xfee00000, .data = 0x48 } },
              { .gsi = 4, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = { .irqchip = KVM_IRQCHIP_PIC_MASTER, .pin = 6 } } } };
    CHECK_ERRNO(m.vm, KVM_SET_GSI_ROUTING, &r, 0);
    struct kvm_irq_level level = { .irq = 30, .level = 1 };
    CALL(m.vm, KVM_IRQ_LINE, &level);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(vector_at(&m, 0x18), 1);
    level.irq = 4;
    CALL(m.vm, KVM_IRQ_LINE, &level);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(vector_at(&m, 6), 1);
    CHECK_EQ(vector_at(&m, 4), 0);
    r.e[0].type = 77;
    CHECK_ERRNO(m.vm, KVM_SET_GSI_ROUTING, &r, EINVAL);
    r.head.nr = 100000;
    CHECK_ERRNO(m.vm, KVM_SET_GSI_ROUTING, &r, EINVAL);
    r.head.nr = 0;
    r.head.flags = 1;
    CHECK_ERRNO(m.vm, KVM_SET_GSI_ROUTING, &r, EINVAL);
}

static void pit_interrupts(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, WITH_IRQCHIP | WITH_PIT);
    LOAD(pit);
    /* Programs about 1 kHz, counts ten ticks in HLT, then OUT. */
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.run->io.port, 0x12);
    CHECK_EQ(vector_at(&m, 0), 10);
}

static void ioeventfd(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    int byte = eventfd(0, EFD_NONBLOCK), word = eventfd(0, EFD_NONBLOCK);
    struct kvm_ioeventfd f = { .addr = 0x3f8, .len = 1, .fd = byte, .flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH, .datamatch = 5 };
    CHECK_ERRNO(m.vm, KVM_IOEVENTFD, &f, 0);
    CHECK_ERRNO(m.vm, KVM_IOEVENTFD, &f, EEXIST);
    struct kvm_ioeventfd g = { .addr = 0xd0012, .len = 2, .fd = word };
    CHECK_ERRNO(m.vm, KVM_IOEVENTFD, &g, 0);
    struct kvm_ioeventfd bad = { .addr = 0x1000, .len = 3, .fd = word };
    CHECK_ERRNO(m.vm, KVM_IOEVENTFD, &bad, EINVAL);
    bad = (struct kvm_ioeventfd){ .addr = 0xfffffffffffffffe, .len = 4, .fd = word };
    CHECK_ERRNO(m.vm, KVM_IOEVENTFD, &bad, EINVAL);
    bad = (struct kvm_ioeventfd){ .addr = 0x1000, .len = 4, .fd = 999 };
    CHECK_ERRNO(m.vm, KVM_IOEVENTFD, &bad, EBADF);
    bad = (struct kvm_ioeventfd){ .addr = 0x1000, .len = 4, .fd = word, .flags = 0x80000000 };
    CHECK_ERRNO(m.vm, KVM_IOEVENTFD, &bad, EINVAL);

    LOAD(out);
    struct kvm_regs r = machine_regs(&m, p);
    r.rax = 2;
    r.rbx = 3;
    CALL(m.vcpu, KVM_SET_REGS, &r);
    RUN_TO(KVM_EXIT_IO); /* the first OUT went to the eventfd */
    CHECK_EQ(m.run->io.port, 0x80);
    uint64_t n = 0;
    CHECK_EQ(read(byte, &n, 8), 8);
    CHECK_EQ(n, 1);
    /* Other data do not match. */
    LOAD(out);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.run->io.port, 0x3f8);

    LOAD(mmio);
    machine_set_ds(&m, p, 0xd000);
    RUN_TO(KVM_EXIT_MMIO);
    CHECK_EQ(m.run->mmio.phys_addr, 0xd0010);
    RUN_TO(KVM_EXIT_MMIO);
    CHECK_EQ(m.run->mmio.phys_addr, 0xd0014);
    CHECK_EQ(read(word, &n, 8), 8);
    f.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
    CHECK_ERRNO(m.vm, KVM_IOEVENTFD, &f, 0);
    CHECK_ERRNO(m.vm, KVM_IOEVENTFD, &f, ENOENT);
}

static void coalesced_mmio(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    int page = NEED(KVM_CAP_COALESCED_MMIO);
    const struct kvm_coalesced_mmio_ring *ring = (void *)((uint8_t *)m.run + page * 4096);
    struct kvm_coalesced_mmio_zone zone = { .addr = 0xd0010, .size = 4 };
    CHECK_ERRNO(m.vm, KVM_REGISTER_COALESCED_MMIO, &zone, 0);
    LOAD(mmio);
    machine_set_ds(&m, p, 0xd000);
    RUN_TO(KVM_EXIT_MMIO);
    CHECK_EQ(m.run->mmio.phys_addr, 0xd0014); /* the byte and the word before it are in the ring */
    REQUIRE_EQ((ring->last - ring->first) % 170, 2);
    CHECK_EQ(ring->coalesced_mmio[0].phys_addr, 0xd0010);
    CHECK_EQ(ring->coalesced_mmio[0].len, 1);
    CHECK_EQ(ring->coalesced_mmio[0].data[0], 0x11);
    CHECK_EQ(ring->coalesced_mmio[1].phys_addr, 0xd0012);
    CHECK_EQ(ring->coalesced_mmio[1].len, 2);
    CHECK_BYTES(ring->coalesced_mmio[1].data, "\x33\x22", 2);
    CHECK_ERRNO(m.vm, KVM_UNREGISTER_COALESCED_MMIO, &zone, 0);
    LOAD(mmio);
    machine_set_ds(&m, p, 0xd000);
    RUN_TO(KVM_EXIT_MMIO);
    CHECK_EQ(m.run->mmio.phys_addr, 0xd0010);
}

/* Ports too; a zone goes by any part of it, and a full ring lets the write out. */
static void coalesced_zones(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    int page = NEED(KVM_CAP_COALESCED_MMIO);
    NEED(KVM_CAP_COALESCED_PIO);
    struct kvm_coalesced_mmio_ring *ring = (void *)((uint8_t *)m.run + page * 4096);
    struct kvm_coalesced_mmio_zone zone = { .addr = 0x3f8, .size = 8, .pio = 2 };
    CHECK_ERRNO(m.vm, KVM_REGISTER_COALESCED_MMIO, &zone, EINVAL);
    CHECK_ERRNO(m.vm, KVM_UNREGISTER_COALESCED_MMIO, &zone, EINVAL);
    zone.pio = 1;
    CHECK_ERRNO(m.vm, KVM_REGISTER_COALESCED_MMIO, &zone, 0);
    LOAD(out);
    RUN_TO(KVM_EXIT_IO);
    CHECK(m.run->io.port != 0x3f8);
    REQUIRE_EQ((ring->last - ring->first) % 170, 1);
    CHECK_EQ(ring->coalesced_mmio[0].phys_addr, 0x3f8);
    CHECK_EQ(ring->coalesced_mmio[0].len, 1);
    CHECK_EQ(ring->coalesced_mmio[0].pio, 1);
    /* One entry always stays free. */
    ring->first = 5;
    ring->last = 4;
    LOAD(out);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.run->io.port, 0x3f8);
    CHECK_EQ(ring->last, 4);
    ring->first = 6;
    LOAD(out);
    RUN_TO(KVM_EXIT_IO);
    CHECK(m.run->io.port != 0x3f8);
    CHECK_EQ(ring->last, 5);
    ring->first = ring->last = 0;

    zone.addr = 0x3f0;
    zone.size = 32;
    CHECK_ERRNO(m.vm, KVM_UNREGISTER_COALESCED_MMIO, &zone, 0); /* more than the zone: not it */
    zone.addr = 0x3f8;
    zone.size = 1;
    zone.pio = 0;
    CHECK_ERRNO(m.vm, KVM_UNREGISTER_COALESCED_MMIO, &zone, 0); /* memory */
    LOAD(out);
    RUN_TO(KVM_EXIT_IO);
    CHECK(m.run->io.port != 0x3f8);
    zone.pio = 1;
    CHECK_ERRNO(m.vm, KVM_UNREGISTER_COALESCED_MMIO, &zone, 0);
    LOAD(out);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.run->io.port, 0x3f8);
}

const struct conform_case cases_today_chips[] = {
    { "irqchip_state", irqchip_state },     { "pit_state", pit_state },           { "pic_line", pic_line },   { "irqfd", irqfd },
    { "routing_and_msi", routing_and_msi }, { "pit_interrupts", pit_interrupts }, { "ioeventfd", ioeventfd }, { "coalesced_mmio", coalesced_mmio },
    { "coalesced_zones", coalesced_zones },
};
const size_t n_cases_today_chips = sizeof cases_today_chips / sizeof *cases_today_chips;
