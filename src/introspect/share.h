/* SPDX-License-Identifier: MIT */
/*
 * Which files hold a VM's memory, for processes that want to map it themselves. Found out anew for each view, from what this process has mapped and open: that
 * works for memory that vitrine made and for what the client brought. A view is used by one thread.
 */
#ifndef VITRINE_INTROSPECT_SHARE_H
#define VITRINE_INTROSPECT_SHARE_H

#include "base/mapping.h"
#include "core/memslot.h"

#define SHARE_FILES_MAX 250 /* what Linux lets one message carry, SCM_MAX_FD, is little more */

/* Why another process cannot map a piece of memory. */
enum share_verdict {
    SHARE_YES,
    SHARE_PRIVATE,  /* the client's, and not shared with anybody */
    SHARE_NO_FILE,  /* of a file that the process no longer has open */
    SHARE_UNMAPPED, /* the client took the memory away */
    SHARE_BEHIND,   /* it lies behind the end of its file */
    SHARE_UNKNOWN   /* /proc does not say, or too many files */
};

struct share_view {
    struct mapping *mapping;
    int n_mappings; /* -errno: they cannot be seen */
    unsigned n_files;
    struct {
        dev_t dev;
        ino_t ino;
        int fd; /* -1: not to be had */
        uint64_t bytes;
        bool is_writeable;
    } file[SHARE_FILES_MAX];
};

struct share_piece {
    uint64_t bytes;
    uint64_t offset; /* in the file */
    unsigned file;   /* index into share_view.file */
    bool is_writeable;
};

void share_view_open(struct share_view *view);
/* Closes the files that are still in it: an fd of -1 is somebody else's now. */
void share_view_close(struct share_view *view);
/* The memory of a slot from byte `at` on: out->bytes of it are alike. The other fields are filled with SHARE_YES. */
enum share_verdict share_view_next(struct share_view *view, const struct memslot *s, uint64_t at, struct share_piece *out);
/* Of the first piece that cannot be mapped, or SHARE_YES. */
enum share_verdict share_view_slot(struct share_view *view, const struct memslot *s);

#endif
