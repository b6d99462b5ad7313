/* SPDX-License-Identifier: MIT */
/*
 * The ACPI tables that tell a guest of its CPUs, its IOAPIC, its PCI bus and how to turn itself off. Written once before the guest starts.
 */
#ifndef VITRINE_VMM_ACPI_H
#define VITRINE_VMM_ACPI_H

#include "vmm/ram.h"

#define ACPI_BASE 0xe0000ull /* inside the BIOS area that guests scan for the RSDP */
#define ACPI_BYTES 0x10000ull
#define ACPI_IOAPIC_ADDRESS 0xfec00000u
#define ACPI_LAPIC_ADDRESS 0xfee00000u
#define ACPI_PCI_WINDOW 0xc0000000u
#define ACPI_PCI_WINDOW_END 0xfec00000u
#define ACPI_PCI_SLOTS 32
#define ACPI_PCI_GSI(slot) (16 + (slot) % 8) /* INTA of a slot */

/* Returns the address of the RSDP, or 0 if guest memory is too small to hold the tables. */
gpa_t acpi_build(const struct ram *ram, unsigned n_cpus);

#endif
