/* SPDX-License-Identifier: MIT */
/*
 * Builds RSDP, XSDT, FADT, FACS, MADT and DSDT in guest memory. Full (not hardware-reduced) ACPI, because reduced guests give up ISA interrupts
 * and with them the serial console. Source: ACPI specification 6.4, "ACPI System Description Tables". See acpi.h.
 */
#include <assert.h>
#include <string.h>

#include "vmm/acpi.h"
#include "vmm/aml.h"
#include "vmm/pm.h"
#include "vmm/rtc.h"

#define ACPI_OEM_ID "VITRIN"
#define ACPI_OEM_TABLE "VITRINE "

struct acpi_writer {
    uint8_t *base; /* host address of ACPI_BASE */
    size_t used;
};

/* Rounds up to 64 bytes, which the FACS needs and nothing minds. */
static struct aml acpi_table_begin(struct acpi_writer *w, const char *signature, uint8_t revision)
{
    struct aml t;

    w->used = (w->used + 63) & ~(size_t)63;
    t = (struct aml){ .buf = w->base + w->used, .size = ACPI_BYTES - w->used };
    memset(t.buf, 0, t.size);
    aml_bytes(&t, signature, 4);
    aml_le(&t, 0, 4); /* length */
    aml_byte(&t, revision);
    aml_byte(&t, 0); /* checksum */
    aml_bytes(&t, ACPI_OEM_ID, 6);
    aml_bytes(&t, ACPI_OEM_TABLE, 8);
    aml_le(&t, 1, 4);
    aml_bytes(&t, "VTRN", 4);
    aml_le(&t, 1, 4);
    return t;
}

static uint8_t acpi_checksum(const uint8_t *p, size_t n)
{
    uint8_t sum = 0;

    while (n--)
        sum += *p++;
    return (uint8_t)-sum;
}

static gpa_t acpi_table_end(struct acpi_writer *w, struct aml *t)
{
    gpa_t gpa = ACPI_BASE + w->used;
    uint32_t length = (uint32_t)t->used;

    assert(!t->has_overflow);
    memcpy(t->buf + 4, &length, 4);
    t->buf[9] = acpi_checksum(t->buf, length);
    w->used += length;
    return gpa;
}

/* ResourceTemplate of the PCI root: bus 0, the configuration ports, every other port, the memory window. "Resource Data Types for ACPI". */
static void acpi_pci_crs(struct aml *aml)
{
    uint8_t storage[128];
    struct aml r = { .buf = storage, .size = sizeof(storage) };
    static const struct {
        uint16_t first, last;
    } io[] = { { 0x0000, 0x0cf7 }, { 0x0d00, 0xffff } };

    aml_byte(&r, 0x88); /* WordBusNumber */
    aml_le(&r, 13, 2);
    aml_le(&r, 0x000c02, 3); /* bus; fixed minimum and maximum, positive decode; no type flags */
    aml_le(&r, 0, 2);
    aml_le(&r, 0, 2);
    aml_le(&r, 0, 2);
    aml_le(&r, 0, 2);
    aml_le(&r, 1, 2);

    aml_le(&r, 0x0147, 2); /* IO, 16-bit decode: 0xcf8 to 0xcff are the bridge's own */
    aml_le(&r, 0xcf8, 2);
    aml_le(&r, 0xcf8, 2);
    aml_byte(&r, 1);
    aml_byte(&r, 8);

    for (unsigned i = 0; i < 2; i++) {
        aml_byte(&r, 0x88); /* WordIO */
        aml_le(&r, 13, 2);
        aml_le(&r, 0x030c01, 3);
        aml_le(&r, 0, 2);
        aml_le(&r, io[i].first, 2);
        aml_le(&r, io[i].last, 2);
        aml_le(&r, 0, 2);
        aml_le(&r, io[i].last - io[i].first + 1u, 2);
    }

    aml_byte(&r, 0x87); /* DWordMemory, not cacheable, read-write */
    aml_le(&r, 23, 2);
    aml_le(&r, 0x010c00, 3);
    aml_le(&r, 0, 4);
    aml_le(&r, ACPI_PCI_WINDOW, 4);
    aml_le(&r, ACPI_PCI_WINDOW_END - 1, 4);
    aml_le(&r, 0, 4);
    aml_le(&r, ACPI_PCI_WINDOW_END - ACPI_PCI_WINDOW, 4);

    aml_le(&r, 0x79, 2); /* EndTag, checksum not used */
    assert(!r.has_overflow);
    aml_name(aml, "_CRS");
    aml_buffer(aml, r.buf, r.used);
}

static void acpi_pci_prt(struct aml *aml)
{
    size_t table, entry;

    aml_name(aml, "_PRT");
    table = aml_package_begin(aml, ACPI_PCI_SLOTS);
    for (unsigned slot = 0; slot < ACPI_PCI_SLOTS; slot++) {
        entry = aml_package_begin(aml, 4);
        aml_integer(aml, (uint64_t)slot << 16 | 0xffff); /* any function */
        aml_integer(aml, 0);                             /* INTA, the only pin our devices have */
        aml_integer(aml, 0);                             /* no link device: the next number is a GSI */
        aml_integer(aml, ACPI_PCI_GSI(slot));
        aml_end(aml, entry);
    }
    aml_end(aml, table);
}

static gpa_t acpi_build_dsdt(struct acpi_writer *w)
{
    struct aml t = acpi_table_begin(w, "DSDT", 2);
    size_t scope, device, package;

    scope = aml_scope_begin(&t, "\\_SB_");
    device = aml_device_begin(&t, "PCI0");
    aml_name(&t, "_HID");
    aml_eisa_id(&t, "PNP0A03");
    aml_name(&t, "_UID");
    aml_integer(&t, 0);
    aml_name(&t, "_BBN");
    aml_integer(&t, 0);
    acpi_pci_crs(&t);
    acpi_pci_prt(&t);
    aml_end(&t, device);
    aml_end(&t, scope);

    aml_name(&t, "\\_S5_");
    package = aml_package_begin(&t, 4);
    aml_integer(&t, PM_S5_TYPE);
    aml_integer(&t, PM_S5_TYPE);
    aml_integer(&t, 0);
    aml_integer(&t, 0);
    aml_end(&t, package);
    return acpi_table_end(w, &t);
}

static gpa_t acpi_build_facs(struct acpi_writer *w)
{
    uint32_t length = 64;
    uint8_t *p;
    gpa_t gpa;

    w->used = (w->used + 63) & ~(size_t)63;
    p = w->base + w->used;
    gpa = ACPI_BASE + w->used;
    memset(p, 0, length);
    memcpy(p, "FACS", 4);
    memcpy(p + 4, &length, 4);
    p[32] = 2; /* version */
    w->used += length;
    return gpa;
}

static void acpi_put(struct aml *t, size_t offset, uint64_t value, unsigned bytes)
{
    memcpy(t->buf + offset, &value, bytes);
}

/* Generic address structure: system I/O, byte access. */
static void acpi_put_gas_io(struct aml *t, size_t offset, uint16_t port, uint8_t bits)
{
    t->buf[offset] = 1;
    t->buf[offset + 1] = bits;
    t->buf[offset + 3] = bits == 8 ? 1 : bits == 16 ? 2 : 3;
    acpi_put(t, offset + 4, port, 8);
}

enum { FADT_BYTES = 276, FADT_LEGACY_DEVICES = 1, FADT_NO_VGA = 4 };
enum { FADT_WBINVD = 1, FADT_C1 = 4, FADT_NO_POWER_BUTTON = 1 << 4, FADT_NO_SLEEP_BUTTON = 1 << 5, FADT_NO_FIXED_RTC = 1 << 6, FADT_HAS_RESET = 1 << 10 };

static gpa_t acpi_build_fadt(struct acpi_writer *w, gpa_t facs, gpa_t dsdt)
{
    struct aml t = acpi_table_begin(w, "FACP", 6);

    t.used = FADT_BYTES;
    acpi_put(&t, 36, facs, 4);
    acpi_put(&t, 40, dsdt, 4);
    acpi_put(&t, 46, PM_SCI_IRQ, 2);
    acpi_put(&t, 56, PM_EVENT_PORT, 4);
    acpi_put(&t, 64, PM_CONTROL_PORT, 4);
    t.buf[88] = 4;              /* PM1_EVT_LEN */
    t.buf[89] = 2;              /* PM1_CNT_LEN */
    acpi_put(&t, 96, 0xfff, 2); /* no C2 */
    acpi_put(&t, 98, 0xfff, 2); /* no C3 */
    t.buf[108] = RTC_CENTURY;
    acpi_put(&t, 109, FADT_LEGACY_DEVICES | FADT_NO_VGA, 2); /* without the 8042 bit guests do not probe for a keyboard */
    acpi_put(&t, 112, FADT_WBINVD | FADT_C1 | FADT_NO_POWER_BUTTON | FADT_NO_SLEEP_BUTTON | FADT_NO_FIXED_RTC | FADT_HAS_RESET, 4);
    acpi_put_gas_io(&t, 116, PM_RESET_PORT, 8);
    t.buf[128] = PM_RESET_VALUE;
    t.buf[131] = 4; /* minor version */
    acpi_put(&t, 132, facs, 8);
    acpi_put(&t, 140, dsdt, 8);
    acpi_put_gas_io(&t, 148, PM_EVENT_PORT, 32);
    acpi_put_gas_io(&t, 172, PM_CONTROL_PORT, 16);
    memcpy(t.buf + 268, "VITRINE", 8); /* hypervisor vendor identity */
    return acpi_table_end(w, &t);
}

static gpa_t acpi_build_madt(struct acpi_writer *w, unsigned n_cpus)
{
    struct aml t = acpi_table_begin(w, "APIC", 4);

    aml_le(&t, ACPI_LAPIC_ADDRESS, 4);
    aml_le(&t, 1, 4); /* there is a PIC pair too */
    for (unsigned i = 0; i < n_cpus; i++) {
        aml_le(&t, 0x0800, 2); /* local APIC */
        aml_byte(&t, (uint8_t)i);
        aml_byte(&t, (uint8_t)i);
        aml_le(&t, 1, 4); /* enabled */
    }
    aml_le(&t, 0x0c01, 2); /* IOAPIC */
    aml_le(&t, 0, 2);      /* id */
    aml_le(&t, ACPI_IOAPIC_ADDRESS, 4);
    aml_le(&t, 0, 4);
    aml_le(&t, 0x0a02, 2); /* source override: the SCI is level, active high */
    aml_byte(&t, 0);
    aml_byte(&t, PM_SCI_IRQ);
    aml_le(&t, PM_SCI_IRQ, 4);
    aml_le(&t, 0x000d, 2);
    aml_le(&t, 0x0604, 2); /* NMI on LINT1 of every CPU */
    aml_byte(&t, 0xff);
    aml_le(&t, 0, 2);
    aml_byte(&t, 1);
    return acpi_table_end(w, &t);
}

static void acpi_build_rsdp(uint8_t *p, gpa_t xsdt)
{
    uint32_t length = 36;

    memset(p, 0, length);
    memcpy(p, "RSD PTR ", 8);
    memcpy(p + 9, ACPI_OEM_ID, 6);
    p[15] = 2;
    memcpy(p + 20, &length, 4);
    memcpy(p + 24, &xsdt, 8);
    p[8] = acpi_checksum(p, 20);
    p[32] = acpi_checksum(p, length);
}

gpa_t acpi_build(const struct ram *ram, unsigned n_cpus)
{
    struct acpi_writer w = { .base = ram_find(ram, ACPI_BASE, ACPI_BYTES), .used = 64 };
    gpa_t dsdt, facs, fadt, madt, xsdt;
    struct aml t;

    if (!w.base)
        return 0;
    dsdt = acpi_build_dsdt(&w);
    facs = acpi_build_facs(&w);
    fadt = acpi_build_fadt(&w, facs, dsdt);
    madt = acpi_build_madt(&w, n_cpus);
    t = acpi_table_begin(&w, "XSDT", 1);
    aml_le(&t, fadt, 8);
    aml_le(&t, madt, 8);
    xsdt = acpi_table_end(&w, &t);
    acpi_build_rsdp(w.base, xsdt);
    return ACPI_BASE;
}
