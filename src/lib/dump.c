/* SPDX-License-Identifier: MIT */
/*
 * vitrine_vm_dump: the memory of a VM as a file, raw, as an ELF core, or as LiME has it (its specification, version 1). The formats differ in what stands
 * before each slot's bytes.
 */
#include "lib/dump.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/source.h"

#define PIECE_BYTES (1u << 19)
#define LIME_MAGIC 0x4c694d45u

struct lime_header {
    uint32_t magic, version;
    uint64_t first, last; /* addresses, the last one included */
    uint8_t reserved[8];
};

int dump_write(struct dump *d, const void *from, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = write(d->fd, (const char *)from + done, bytes - done);
        if (n < 0 && errno != EINTR)
            return -1;
        done += n > 0 ? (size_t)n : 0;
    }
    d->at += bytes;
    d->ends_in_hole = false;
    return 0;
}

/* Moves on to `at`, which is further on. */
static int dump_skip_to(struct dump *d, uint64_t at)
{
    if (at == d->at)
        return 0;
    if (d->base < 0) {
        errno = ENOTSUP;
        return -1;
    }
    if (lseek(d->fd, (off_t)((uint64_t)d->base + at), SEEK_SET) < 0)
        return -1;
    d->at = at;
    d->ends_in_hole = true;
    return 0;
}

static bool is_zero(const uint8_t *page)
{
    return !page[0] && !memcmp(page, page + 1, DUMP_PAGE_BYTES - 1);
}

/* Runs of pages with something in them are written, runs of zeroes skipped. */
static int write_sparsely(struct dump *d, const uint8_t *from, size_t bytes)
{
    if (d->base < 0)
        return dump_write(d, from, bytes);
    for (size_t at = 0; at < bytes;) {
        bool is_hole = is_zero(from + at);
        size_t end = at + DUMP_PAGE_BYTES;
        while (end < bytes && is_zero(from + end) == is_hole)
            end += DUMP_PAGE_BYTES;
        if (is_hole ? dump_skip_to(d, d->at + (end - at)) : dump_write(d, from + at, end - at))
            return -1;
        at = end;
    }
    return 0;
}

static int step_on(struct dump *d, uint64_t bytes)
{
    d->done_bytes += bytes;
    if (!d->progress || d->progress(d->done_bytes, d->all_bytes, d->arg))
        return 0;
    errno = ECANCELED;
    return -1;
}

/* What the VMM took away meanwhile reads as zeroes. */
static int write_piece(struct dump *d, enum vitrine_dump_format format, uint64_t gpa, size_t bytes, uint8_t *buffer)
{
    ssize_t n = source_read(d->source, gpa, buffer, bytes);
    if (n < 0 && errno != EFAULT)
        return -1;
    memset(buffer + (n > 0 ? n : 0), 0, bytes - (size_t)(n > 0 ? n : 0));
    for (size_t page = 0; format == VITRINE_DUMP_ELF && page < bytes; page += DUMP_PAGE_BYTES)
        dump_elf_look(d, buffer + page);
    return write_sparsely(d, buffer, bytes);
}

static int write_slot(struct dump *d, enum vitrine_dump_format format, const struct vitrine_slot *s, uint8_t *buffer)
{
    for (uint64_t at = 0; at < s->bytes;) {
        uint64_t next = d->base < 0 ? at : source_next(d->source, s->gpa + at, s->gpa + s->bytes) - s->gpa;
        next &= ~(uint64_t)(DUMP_PAGE_BYTES - 1);
        if (next > at && (dump_skip_to(d, d->at + (next - at)) || step_on(d, next - at)))
            return -1;
        at = next > at ? next : at;
        size_t piece = s->bytes - at < PIECE_BYTES ? (size_t)(s->bytes - at) : PIECE_BYTES;
        if (piece && (write_piece(d, format, s->gpa + at, piece, buffer) || step_on(d, piece)))
            return -1;
        at += piece;
    }
    return 0;
}

static int before_slot(struct dump *d, enum vitrine_dump_format format, const struct vitrine_slot *s)
{
    if (format == VITRINE_DUMP_RAW)
        return dump_skip_to(d, s->gpa);
    if (format == VITRINE_DUMP_ELF)
        return 0;
    const struct lime_header h = { .magic = LIME_MAGIC, .version = 1, .first = s->gpa, .last = s->gpa + s->bytes - 1 };
    return dump_write(d, &h, sizeof h);
}

static int write_all(struct dump *d, enum vitrine_dump_format format, uint8_t *buffer)
{
    if (format == VITRINE_DUMP_ELF && dump_elf_head(d))
        return -1;
    for (unsigned i = 0; i < d->n_slots; i++)
        if (before_slot(d, format, &d->slot[i]) || write_slot(d, format, &d->slot[i], buffer))
            return -1;
    /* A file does not end in a hole by seeking alone. */
    if (d->ends_in_hole && ftruncate(d->fd, (off_t)((uint64_t)d->base + d->at)))
        return -1;
    return format == VITRINE_DUMP_ELF ? dump_elf_end(d) : 0;
}

/* Slots of the normal address space, in the order of their addresses. */
static int find_slots(struct dump *d)
{
    int n = vitrine_vm_slots(d->vm, d->slot, DUMP_SLOTS_MAX);
    if (n < 0)
        return -1;
    for (int i = 0; i < n && i < DUMP_SLOTS_MAX; i++) {
        if (d->slot[i].id >> 16 || (d->slot[i].flags & VITRINE_SLOT_TOOLS))
            continue;
        d->all_bytes += d->slot[i].bytes;
        d->slot[d->n_slots++] = d->slot[i];
    }
    return 0;
}

int vitrine_vm_dump(struct vitrine_vm *vm, int fd, enum vitrine_dump_format format, bool is_live, vitrine_dump_progress progress, void *arg)
{
    struct dump *d = calloc(1, sizeof *d);
    uint8_t *buffer = malloc(PIECE_BYTES);
    bool is_held = false;
    int r = d && buffer ? 0 : -1;
    if (!r && !is_live) {
        r = vitrine_vm_hold(vm);
        is_held = !r;
    }
    if (!r) {
        *d = (struct dump){ .vm = vm, .fd = fd, .base = lseek(fd, 0, SEEK_CUR), .progress = progress, .arg = arg };
        d->source = source_open(vm);
        r = !d->source || find_slots(d) || write_all(d, format, buffer) ? -1 : 0;
    }
    int error = errno;
    if (is_held)
        vitrine_vm_release(vm);
    if (d)
        source_close(d->source);
    free(buffer);
    free(d);
    errno = error;
    return r;
}
