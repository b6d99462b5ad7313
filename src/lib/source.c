/* SPDX-License-Identifier: MIT */
/* See source.h. Files are opened anew: their owner's positions are not touched. */
#include "lib/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/inspect_priv.h"

struct source {
    struct vitrine_vm *vm;
    struct inspect_pieces pieces;
};

static void reopen_all(struct inspect_pieces *p)
{
    char path[40];
    for (unsigned i = 0; i < p->n_fds; i++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", p->fd[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        close(p->fd[i]);
        p->fd[i] = fd;
    }
}

struct source *source_open(struct vitrine_vm *vm)
{
    struct source *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->vm = vm;
    if (inspect_pieces_get(vm, &s->pieces) == 0) {
        reopen_all(&s->pieces);
        return s;
    }
    s->pieces = (struct inspect_pieces){ .piece = NULL }; /* what failed was closed */
    if (errno == ENOTSUP)
        return s;
    free(s);
    return NULL;
}

void source_close(struct source *s)
{
    if (!s)
        return;
    inspect_pieces_put(&s->pieces);
    free(s);
}

/* The piece of a file that has gpa, or NULL; *end: where that answer ends. */
static const struct control_piece *piece_find(const struct source *s, uint64_t gpa, uint64_t *end)
{
    *end = UINT64_MAX;
    for (unsigned i = 0; i < s->pieces.n; i++) {
        const struct control_piece *c = &s->pieces.piece[i];
        uint64_t first = c->gpa + c->at, after = first + c->length;
        if (!inspect_piece_is_sound(c, &s->pieces) || s->pieces.fd[c->file] < 0 || gpa >= after)
            continue;
        if (gpa >= first) {
            *end = after;
            return c;
        }
        if (first < *end)
            *end = first;
    }
    return NULL;
}

static off_t offset_of(const struct control_piece *c, uint64_t gpa)
{
    return (off_t)(c->offset + (gpa - c->gpa - c->at));
}

ssize_t source_read(struct source *s, uint64_t gpa, void *to, size_t bytes)
{
    size_t done = 0;
    while (done < bytes) {
        uint64_t end;
        const struct control_piece *c = piece_find(s, gpa + done, &end);
        size_t piece = end - gpa - done < bytes - done ? (size_t)(end - gpa - done) : bytes - done;
        ssize_t n = c ? pread(s->pieces.fd[c->file], (char *)to + done, piece, offset_of(c, gpa + done)) : -1;
        if (n <= 0)
            n = vitrine_mem_read(s->vm, gpa + done, (char *)to + done, piece);
        if (n < 0 && !(errno == EFAULT && done))
            return -1;
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

uint64_t source_next(struct source *s, uint64_t gpa, uint64_t end)
{
    while (gpa < end) {
        uint64_t piece_end;
        const struct control_piece *c = piece_find(s, gpa, &piece_end);
        if (!c)
            return gpa;
        off_t at = offset_of(c, gpa), data = lseek(s->pieces.fd[c->file], at, SEEK_DATA);
        if (data < 0 && errno != ENXIO) /* ENXIO: a hole up to the end of the file */
            return gpa;
        uint64_t next = data < 0 ? piece_end : gpa + (uint64_t)(data - at);
        if (next < piece_end)
            return next < end ? next : end;
        gpa = piece_end;
    }
    return end;
}
