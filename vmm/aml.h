/* SPDX-License-Identifier: MIT */
/*
 * Writes ACPI machine language into a buffer: the few constructs the DSDT needs. An overflow is remembered and every later call does nothing.
 * Source: ACPI specification, "ACPI Machine Language (AML) Specification".
 */
#ifndef VITRINE_VMM_AML_H
#define VITRINE_VMM_AML_H

#include "base/types.h"

struct aml {
    uint8_t *buf;
    size_t used, size;
    bool has_overflow;
};

void aml_bytes(struct aml *aml, const void *bytes, size_t n);
void aml_byte(struct aml *aml, uint8_t byte);
void aml_le(struct aml *aml, uint64_t value, unsigned bytes);

/* Objects whose length stands in front: begin returns a mark, end patches the length. `name` is a path such as "\\_SB_" or "PCI0". */
size_t aml_scope_begin(struct aml *aml, const char *name);
size_t aml_device_begin(struct aml *aml, const char *name);
size_t aml_package_begin(struct aml *aml, uint8_t n_elements);
void aml_end(struct aml *aml, size_t mark);

void aml_name(struct aml *aml, const char *name); /* Name (name, <the object emitted next>) */
void aml_integer(struct aml *aml, uint64_t value);
void aml_eisa_id(struct aml *aml, const char *id); /* "PNP0A03" */
void aml_buffer(struct aml *aml, const void *bytes, size_t n);

#endif
