/* SPDX-License-Identifier: MIT */
/* See share.h. */
#include "introspect/share.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

void share_view_open(struct share_view *view)
{
    view->mapping = NULL;
    view->n_files = 0;
    view->n_mappings = mapping_list(&view->mapping);
}

void share_view_close(struct share_view *view)
{
    for (unsigned i = 0; i < view->n_files; i++)
        if (view->file[i].fd >= 0)
            close(view->file[i].fd);
    free(view->mapping);
}

/* The index of the mapping's file; what is not to be had is remembered too. -1: no room. */
static int find_file(struct share_view *view, const struct mapping *m)
{
    struct stat st = { 0 };
    unsigned i;
    for (i = 0; i < view->n_files; i++)
        if (view->file[i].dev == m->dev && view->file[i].ino == m->ino)
            return (int)i;
    if (i == SHARE_FILES_MAX)
        return -1;
    int fd = mapping_open_file(m);
    if (fd >= 0 && fstat(fd, &st)) {
        close(fd);
        fd = -1;
    }
    view->file[i].dev = m->dev;
    view->file[i].ino = m->ino;
    view->file[i].fd = fd < 0 ? -1 : fd;
    view->file[i].bytes = (uint64_t)st.st_size;
    view->file[i].is_writeable = fd >= 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
    view->n_files++;
    return (int)i;
}

static enum share_verdict in_file(struct share_view *view, const struct mapping *m, uint64_t offset, struct share_piece *out)
{
    int file = find_file(view, m);
    if (file < 0)
        return SHARE_UNKNOWN;
    if (view->file[file].fd < 0)
        return SHARE_NO_FILE;
    uint64_t end = view->file[file].bytes & ~PAGE_OFFSET_MASK;
    if (offset >= end)
        return SHARE_BEHIND;
    if (out->bytes > end - offset)
        out->bytes = end - offset;
    out->offset = offset;
    out->file = (unsigned)file;
    out->is_writeable = m->is_writeable && view->file[file].is_writeable;
    return SHARE_YES;
}

enum share_verdict share_view_next(struct share_view *view, const struct memslot *s, uint64_t at, struct share_piece *out)
{
    uint64_t address = (uintptr_t)s->hva + at;
    *out = (struct share_piece){ .bytes = s->bytes - at };
    if (view->n_mappings < 0)
        return SHARE_UNKNOWN;
    const struct mapping *m = mapping_find(view->mapping, view->n_mappings, address);
    if (!m)
        return SHARE_UNMAPPED;
    uint64_t end = m->from > address ? m->from : m->to;
    if (out->bytes > end - address)
        out->bytes = end - address;
    if (m->from > address)
        return SHARE_UNMAPPED;
    return m->is_shared && m->ino ? in_file(view, m, m->offset + (address - m->from), out) : SHARE_PRIVATE;
}

enum share_verdict share_view_slot(struct share_view *view, const struct memslot *s)
{
    struct share_piece piece;
    enum share_verdict verdict = SHARE_YES;
    for (uint64_t at = 0; verdict == SHARE_YES && at < s->bytes; at += piece.bytes)
        verdict = share_view_next(view, s, at, &piece);
    return verdict;
}
