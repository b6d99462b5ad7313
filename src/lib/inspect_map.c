/* SPDX-License-Identifier: MIT */
/*
 * Guest memory mapped into this process: the files come over the VM's socket, each slot gets one range of addresses. Pages that cannot be had are zeroes of
 * this process's own, so that whoever reads a slot from end to end meets no hole.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/inspect_priv.h"

static int by_address(const void *a, const void *b)
{
    const struct control_piece *x = a, *y = b;
    if (x->gpa != y->gpa)
        return x->gpa < y->gpa ? -1 : 1;
    if (x->id != y->id)
        return x->id < y->id ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

void inspect_pieces_put(struct inspect_pieces *p)
{
    int saved = errno;
    for (unsigned i = 0; i < p->n_fds; i++)
        close(p->fd[i]);
    free(p->piece);
    errno = saved;
}

int inspect_pieces_get(struct vitrine_vm *vm, struct inspect_pieces *p)
{
    struct control_vm in = { .number = vm->number };
    p->n_fds = 0;
    p->piece = malloc(CONTROL_PAYLOAD_MAX);
    if (!p->piece)
        return -1;
    ssize_t bytes = inspect_call_fds(vm, CONTROL_SHARE, &in, sizeof in, p->piece, CONTROL_PAYLOAD_MAX, p->fd, &p->n_fds);
    if (bytes < 0) {
        inspect_pieces_put(p);
        return -1;
    }
    p->n = (unsigned)((size_t)bytes / sizeof *p->piece);
    qsort(p->piece, p->n, sizeof *p->piece, by_address);
    return 0;
}

static bool is_same_slot(const struct control_piece *a, const struct control_piece *b)
{
    return a->gpa == b->gpa && a->id == b->id;
}

bool inspect_piece_is_sound(const struct control_piece *c, const struct inspect_pieces *p)
{
    return c->file < p->n_fds && c->bytes && c->at <= c->bytes && c->length <= c->bytes - c->at && !((c->bytes | c->at | c->length | c->offset) & 4095);
}

static int piece_map(const struct control_piece *c, const struct inspect_pieces *p, uint8_t *slot)
{
    int prot = PROT_READ | (c->is_writeable ? PROT_WRITE : 0);
    if (!inspect_piece_is_sound(c, p)) {
        errno = EPROTO;
        return -1;
    }
    return mmap(slot + c->at, c->length, prot, MAP_SHARED | MAP_FIXED, p->fd[c->file], (off_t)c->offset) == MAP_FAILED ? -1 : 0;
}

/* The n pieces of one slot. */
static int slot_map(const struct control_piece *c, unsigned n, const struct inspect_pieces *p, struct vitrine_mapping *out)
{
    uint8_t *at = mmap(NULL, c->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint64_t covered = 0;
    int r = at == MAP_FAILED ? -1 : 0;
    for (unsigned i = 0; !r && i < n; i++) {
        r = c[i].bytes == c->bytes ? piece_map(&c[i], p, at) : (errno = EPROTO, -1);
        covered += c[i].length;
    }
    if (r) {
        int saved = errno;
        if (at != MAP_FAILED)
            munmap(at, c->bytes);
        errno = saved;
        return -1;
    }
    *out = (struct vitrine_mapping){ .gpa = c->gpa, .bytes = c->bytes, .host = c->host, .at = at, .id = c->id, .flags = c->flags };
    if (covered < c->bytes)
        out->flags |= VITRINE_SLOT_PARTLY;
    return 0;
}

static int slots_map(const struct inspect_pieces *p, struct vitrine_mapping *out, unsigned n)
{
    unsigned count = 0, next;
    for (unsigned i = 0; i < p->n && count < n; i = next) {
        for (next = i + 1; next < p->n && is_same_slot(&p->piece[i], &p->piece[next]);)
            next++;
        if (p->piece[i].at)
            continue;
        if (slot_map(&p->piece[i], next - i, p, &out[count])) {
            int saved = errno;
            vitrine_vm_unmap(out, count);
            errno = saved;
            return -1;
        }
        count++;
    }
    if (!count && n)
        errno = ENOTSUP;
    return !count && n ? -1 : (int)count;
}

int vitrine_vm_map(struct vitrine_vm *vm, struct vitrine_mapping *out, unsigned n)
{
    struct inspect_pieces p;
    if (inspect_pieces_get(vm, &p))
        return -1;
    int r = slots_map(&p, out, n);
    inspect_pieces_put(&p);
    return r;
}

void vitrine_vm_unmap(const struct vitrine_mapping *mapping, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        munmap(mapping[i].at, mapping[i].bytes);
}
