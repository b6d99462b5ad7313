/* SPDX-License-Identifier: MIT */
/*
 * See aml.h.
 */
#include <string.h>

#include "vmm/aml.h"

enum { OP_NAME = 0x08, OP_BYTE = 0x0a, OP_WORD = 0x0b, OP_DWORD = 0x0c, OP_QWORD = 0x0e, OP_SCOPE = 0x10, OP_BUFFER = 0x11, OP_PACKAGE = 0x12 };
enum { OP_EXT = 0x5b, OP_EXT_DEVICE = 0x82 };

void aml_bytes(struct aml *aml, const void *bytes, size_t n)
{
    if (aml->has_overflow || n > aml->size - aml->used) {
        aml->has_overflow = true;
        return;
    }
    memcpy(aml->buf + aml->used, bytes, n);
    aml->used += n;
}

void aml_byte(struct aml *aml, uint8_t byte)
{
    aml_bytes(aml, &byte, 1);
}

void aml_le(struct aml *aml, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        aml_byte(aml, (uint8_t)(value >> i * 8));
}

/* Always the three-byte form of PkgLength, so that it can be patched in place: two bits of count, 4 + 8 + 8 bits of length. */
static size_t aml_length_begin(struct aml *aml)
{
    size_t mark = aml->used;

    aml_le(aml, 0, 3);
    return mark;
}

void aml_end(struct aml *aml, size_t mark)
{
    size_t length = aml->used - mark;

    if (aml->has_overflow)
        return;
    aml->buf[mark] = (uint8_t)(2 << 6 | (length & 15));
    aml->buf[mark + 1] = (uint8_t)(length >> 4);
    aml->buf[mark + 2] = (uint8_t)(length >> 12);
}

static void aml_path(struct aml *aml, const char *name)
{
    aml_bytes(aml, name, strlen(name)); /* one four-letter segment, perhaps behind a backslash */
}

size_t aml_scope_begin(struct aml *aml, const char *name)
{
    size_t mark;

    aml_byte(aml, OP_SCOPE);
    mark = aml_length_begin(aml);
    aml_path(aml, name);
    return mark;
}

size_t aml_device_begin(struct aml *aml, const char *name)
{
    size_t mark;

    aml_byte(aml, OP_EXT);
    aml_byte(aml, OP_EXT_DEVICE);
    mark = aml_length_begin(aml);
    aml_path(aml, name);
    return mark;
}

size_t aml_package_begin(struct aml *aml, uint8_t n_elements)
{
    size_t mark;

    aml_byte(aml, OP_PACKAGE);
    mark = aml_length_begin(aml);
    aml_byte(aml, n_elements);
    return mark;
}

void aml_name(struct aml *aml, const char *name)
{
    aml_byte(aml, OP_NAME);
    aml_path(aml, name);
}

void aml_integer(struct aml *aml, uint64_t value)
{
    if (value <= 1) {
        aml_byte(aml, (uint8_t)value); /* ZeroOp, OneOp */
    } else if (value <= 0xff) {
        aml_byte(aml, OP_BYTE);
        aml_le(aml, value, 1);
    } else if (value <= 0xffff) {
        aml_byte(aml, OP_WORD);
        aml_le(aml, value, 2);
    } else if (value <= 0xffffffff) {
        aml_byte(aml, OP_DWORD);
        aml_le(aml, value, 4);
    } else {
        aml_byte(aml, OP_QWORD);
        aml_le(aml, value, 8);
    }
}

static unsigned aml_hex(char c)
{
    return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'A' + 10);
}

/* Three letters of five bits and four hex digits, stored with the most significant byte first. */
void aml_eisa_id(struct aml *aml, const char *id)
{
    uint32_t letters = (uint32_t)(id[0] - '@') << 10 | (uint32_t)(id[1] - '@') << 5 | (uint32_t)(id[2] - '@');
    uint32_t value = letters << 16 | aml_hex(id[3]) << 12 | aml_hex(id[4]) << 8 | aml_hex(id[5]) << 4 | aml_hex(id[6]);

    aml_integer(aml, __builtin_bswap32(value));
}

void aml_buffer(struct aml *aml, const void *bytes, size_t n)
{
    size_t mark;

    aml_byte(aml, OP_BUFFER);
    mark = aml_length_begin(aml);
    aml_integer(aml, n);
    aml_bytes(aml, bytes, n);
    aml_end(aml, mark);
}
