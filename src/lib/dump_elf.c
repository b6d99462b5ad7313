/* SPDX-License-Identifier: MIT */
/*
 * The head of an ELF core (System V gABI): header, notes, and load segments, each with a linear address and the physical one, as debuggers of kernels want
 * them. Memory that is mapped at several addresses is in the file once.
 */
#include <elf.h>
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/dump.h"
#include "lib/source.h"

/* ---- what Linux tells dumps about itself ---- */

/* One page of text that begins so, aligned (kernel/crash_core.c). */
static bool is_kernel_facts(const uint8_t *page)
{
    static const char first[] = "OSRELEASE=", second[] = "\nPAGESIZE=4096\n", third[] = "\nSYMBOL(";
    assert(page); /* or GCC believes of sanitized code that it may not be */
    return !memcmp(page, first, sizeof first - 1) && memmem(page, DUMP_PAGE_BYTES, second, sizeof second - 1) &&
           memmem(page, DUMP_PAGE_BYTES, third, sizeof third - 1);
}

void dump_elf_look(struct dump *d, const uint8_t *page)
{
    if (d->has_kernel_facts || !is_kernel_facts(page))
        return;
    memcpy(d->kernel_facts, page, DUMP_PAGE_BYTES);
    d->has_kernel_facts = true;
}

/* Where the pages cannot be looked at as they go by: the note comes before them. */
static int look_before(struct dump *d)
{
    uint8_t *piece = malloc(DUMP_PAGE_BYTES * 64);
    int r = piece ? 0 : -1;
    for (unsigned i = 0; !r && i < d->n_slots; i++) {
        const struct vitrine_slot *s = &d->slot[i];
        for (uint64_t at = 0; !r && at < s->bytes && !d->has_kernel_facts; at += DUMP_PAGE_BYTES * 64) {
            size_t bytes = s->bytes - at < DUMP_PAGE_BYTES * 64 ? (size_t)(s->bytes - at) : DUMP_PAGE_BYTES * 64;
            ssize_t n = source_read(d->source, s->gpa + at, piece, bytes);
            r = n < 0 && errno != EFAULT ? -1 : 0;
            for (ssize_t page = 0; page + (ssize_t)DUMP_PAGE_BYTES <= n; page += DUMP_PAGE_BYTES)
                dump_elf_look(d, piece + page);
        }
    }
    free(piece);
    return r;
}

int dump_elf_end(struct dump *d)
{
    if (d->base < 0 || !d->has_kernel_facts)
        return 0;
    size_t bytes = dump_notes_facts_bytes(), done = 0;
    uint8_t *note = calloc(1, bytes);
    if (!note)
        return -1;
    dump_notes_facts(d, note);
    while (done < bytes) {
        ssize_t n = pwrite(d->fd, note + done, bytes - done, (off_t)((uint64_t)d->base + d->kernel_facts_at + done));
        if (n < 0 && errno != EINTR)
            break;
        done += n > 0 ? (size_t)n : 0;
    }
    int error = errno;
    free(note);
    errno = error;
    return done == bytes ? 0 : -1;
}

/* ---- the head ---- */

static int write_loads(struct dump *d, const struct dump_map *map, uint64_t memory_at)
{
    for (unsigned i = 0; i < map->n; i++) {
        const struct dump_run *r = &map->run[i];
        const Elf64_Phdr load = { .p_type = PT_LOAD,
                                  .p_flags = PF_R | PF_W | PF_X,
                                  .p_offset = memory_at + r->offset,
                                  .p_vaddr = r->gva,
                                  .p_paddr = r->gpa,
                                  .p_filesz = r->bytes,
                                  .p_memsz = r->bytes };
        if (dump_write(d, &load, sizeof load))
            return -1;
    }
    return 0;
}

static int write_headers(struct dump *d, const struct dump_map *map, const uint8_t *note, size_t notes_bytes, size_t facts_at)
{
    uint64_t notes_at = sizeof(Elf64_Ehdr) + (uint64_t)(map->n + 1) * sizeof(Elf64_Phdr), notes_end = notes_at + notes_bytes;
    uint64_t memory_at = (notes_end + DUMP_PAGE_BYTES - 1) & ~(uint64_t)(DUMP_PAGE_BYTES - 1);
    const Elf64_Ehdr head = {
        .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
        .e_type = ET_CORE,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_phoff = sizeof head,
        .e_ehsize = sizeof head,
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = (Elf64_Half)(map->n + 1),
    };
    const Elf64_Phdr notes = { .p_type = PT_NOTE, .p_offset = notes_at, .p_filesz = notes_bytes, .p_align = 4 };
    const uint8_t zeroes[DUMP_PAGE_BYTES] = { 0 };
    d->kernel_facts_at = notes_at + facts_at;
    if (dump_write(d, &head, sizeof head) || dump_write(d, &notes, sizeof notes) || write_loads(d, map, memory_at))
        return -1;
    return dump_write(d, note, notes_bytes) || dump_write(d, zeroes, memory_at - notes_end) ? -1 : 0;
}

int dump_elf_head(struct dump *d)
{
    struct dump_map map = { .run = NULL };
    size_t notes_bytes, facts_at;
    uint8_t *notes = NULL;
    int r = d->base < 0 && look_before(d) ? -1 : dump_map_make(d, &map);
    if (!r && !(notes = dump_notes_make(d, &notes_bytes, &facts_at)))
        r = -1;
    if (!r)
        r = write_headers(d, &map, notes, notes_bytes, facts_at);
    int error = errno;
    free(notes);
    free(map.run);
    errno = error;
    return r;
}
