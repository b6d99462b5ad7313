/* SPDX-License-Identifier: MIT */
/*
 * Builds the MP floating pointer and the configuration table behind it. Source: Intel MultiProcessor Specification 1.4, "MP Configuration Table". Called
 * by machine.c before any vCPU runs. See mptable.h.
 */
#include <assert.h>
#include <string.h>

#include "vmm/acpi.h"
#include "vmm/aml.h"
#include "vmm/mptable.h"
#include "vmm/pm.h"

enum { MP_PROCESSOR, MP_BUS, MP_IOAPIC, MP_IO_INTERRUPT, MP_LOCAL_INTERRUPT };
enum { MP_INT = 0, MP_NMI = 1, MP_EXTINT = 3 };
enum { MP_BUS_PCI = 0, MP_BUS_ISA = 1 }; /* a PCI bus has its own number as its id */
enum { MP_ACTIVE_HIGH = 1, MP_ACTIVE_LOW = 3, MP_LEVEL = 3 << 2, MP_CONFORMS = 0 };
enum { MP_POINTER_BYTES = 16, MP_LAPIC_VERSION = 0x14, MP_IOAPIC_VERSION = 0x11, MP_ALL_LAPICS = 0xff };
enum { MP_ISA_IRQS = 16, MP_CASCADE_IRQ = 2 };

/* The id that the MADT gives it. LAPICs may have the same: the two share a numbering only on the serial APIC bus of before the xAPIC. */
enum { MP_IOAPIC_ID = 0 };

static uint8_t mptable_checksum(const uint8_t *p, size_t n)
{
    uint8_t sum = 0;

    while (n--)
        sum += *p++;
    return (uint8_t)-sum;
}

static void mptable_add_processor(struct aml *t, unsigned id, uint32_t signature, uint32_t features)
{
    aml_byte(t, MP_PROCESSOR);
    aml_byte(t, (uint8_t)id);
    aml_byte(t, MP_LAPIC_VERSION);
    aml_byte(t, id == 0 ? 3 : 1); /* enabled; the first one boots */
    aml_le(t, signature & 0xfff, 4);
    aml_le(t, features, 4);
    aml_le(t, 0, 8);
}

static void mptable_add_bus(struct aml *t, uint8_t id, const char *type)
{
    aml_byte(t, MP_BUS);
    aml_byte(t, id);
    aml_bytes(t, type, 6);
}

static void mptable_add_ioapic(struct aml *t)
{
    aml_byte(t, MP_IOAPIC);
    aml_byte(t, MP_IOAPIC_ID);
    aml_byte(t, MP_IOAPIC_VERSION);
    aml_byte(t, 1); /* usable */
    aml_le(t, ACPI_IOAPIC_ADDRESS, 4);
}

static void mptable_add_interrupt(struct aml *t, uint8_t entry, uint8_t type, uint16_t flags, uint8_t bus, uint8_t irq, uint8_t apic, uint8_t input)
{
    aml_byte(t, entry);
    aml_byte(t, type);
    aml_le(t, flags, 2);
    aml_byte(t, bus);
    aml_byte(t, irq);
    aml_byte(t, apic);
    aml_byte(t, input);
}

static void mptable_add_entries(struct aml *t, unsigned n_cpus, uint32_t signature, uint32_t features)
{
    for (unsigned i = 0; i < n_cpus; i++)
        mptable_add_processor(t, i, signature, features);
    mptable_add_bus(t, MP_BUS_PCI, "PCI   ");
    mptable_add_bus(t, MP_BUS_ISA, "ISA   ");
    mptable_add_ioapic(t);
    for (unsigned irq = 0; irq < MP_ISA_IRQS; irq++)
        if (irq != MP_CASCADE_IRQ)
            mptable_add_interrupt(t, MP_IO_INTERRUPT, MP_INT, irq == PM_SCI_IRQ ? MP_ACTIVE_HIGH | MP_LEVEL : MP_CONFORMS, MP_BUS_ISA, (uint8_t)irq,
                                  MP_IOAPIC_ID, (uint8_t)irq);
    for (unsigned slot = 0; slot < ACPI_PCI_SLOTS; slot++) /* INTA; the source is slot << 2 | pin */
        mptable_add_interrupt(t, MP_IO_INTERRUPT, MP_INT, MP_ACTIVE_LOW | MP_LEVEL, MP_BUS_PCI, (uint8_t)(slot << 2), MP_IOAPIC_ID, ACPI_PCI_GSI(slot));
    mptable_add_interrupt(t, MP_LOCAL_INTERRUPT, MP_EXTINT, MP_CONFORMS, MP_BUS_ISA, 0, MP_ALL_LAPICS, 0); /* the PIC pair: virtual wire mode */
    mptable_add_interrupt(t, MP_LOCAL_INTERRUPT, MP_NMI, MP_CONFORMS, MP_BUS_ISA, 0, MP_ALL_LAPICS, 1);
}

static void mptable_put(uint8_t *p, uint64_t value, unsigned bytes)
{
    memcpy(p, &value, bytes);
}

static void mptable_build_config(uint8_t *p, size_t size, unsigned n_cpus, uint32_t signature, uint32_t features)
{
    struct aml t = { .buf = p, .size = size };
    unsigned n_entries = n_cpus + 2 + 1 + (MP_ISA_IRQS - 1) + ACPI_PCI_SLOTS + 2;

    aml_bytes(&t, "PCMP", 4);
    aml_le(&t, 0, 2); /* length */
    aml_byte(&t, 4);  /* specification 1.4 */
    aml_byte(&t, 0);  /* checksum */
    aml_bytes(&t, "VITRINE VIRTUAL PC  ", 20);
    aml_le(&t, 0, 6); /* no OEM table */
    aml_le(&t, n_entries, 2);
    aml_le(&t, ACPI_LAPIC_ADDRESS, 4);
    aml_le(&t, 0, 4); /* no extended entries */
    mptable_add_entries(&t, n_cpus, signature, features);
    assert(!t.has_overflow);
    mptable_put(p + 4, t.used, 2);
    p[7] = mptable_checksum(p, t.used);
}

gpa_t mptable_build(const struct ram *ram, unsigned n_cpus, uint32_t signature, uint32_t features)
{
    uint8_t *p = ram_find(ram, MPTABLE_BASE, MPTABLE_BYTES);

    if (!p)
        return 0;
    memset(p, 0, MPTABLE_BYTES);
    mptable_build_config(p + MP_POINTER_BYTES, MPTABLE_BYTES - MP_POINTER_BYTES, n_cpus, signature, features);
    memcpy(p, "_MP_", 4);
    mptable_put(p + 4, MPTABLE_BASE + MP_POINTER_BYTES, 4);
    p[8] = 1; /* length in paragraphs */
    p[9] = 4; /* specification 1.4; features all zero: there is a table, virtual wire mode */
    p[10] = mptable_checksum(p, MP_POINTER_BYTES);
    return MPTABLE_BASE;
}
