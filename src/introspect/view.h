/* SPDX-License-Identifier: MIT */
/*
 * Views of guest memory (core/view.h) for tools. What a listener has set belongs to it: permissions of pages, remappings, views of its own, pages that it
 * added. All of it is undone when the listener goes. View 0 is everybody's; for a listener, a vCPU that is in another listener's view is in view 0, so that
 * tools need not know of each other: denials add up, and of two remappings that of the view's owner holds.
 *
 * An access to a page that a listener denies is told to it as WATCH_ACCESS, and waits for its answer; WATCH_CONTINUE lets that one access pass. Permissions and
 * remappings go by guest-physical addresses as the guest's own tables give them. What page walks read is remapped too, but never denied.
 *
 * Functions may be called from any thread but a vCPU's in its run; a listener is used by one thread at a time. On failure nothing has changed. -ESRCH: the VM
 * has gone; -ENOENT: no such view of this listener; -EFAULT: there is no memory; -EINVAL: misaligned, too high, unknown bits. On return every vCPU goes by it.
 */
#ifndef VITRINE_INTROSPECT_VIEW_H
#define VITRINE_INTROSPECT_VIEW_H

#include "introspect/listen.h"

/* What one listener lets the guest do with a page in a view. */
struct look_page {
    gpa_t gpa;          /* of the page, aligned */
    uint32_t access;    /* WATCH_READ | WATCH_WRITE | WATCH_EXECUTE; any combination is possible */
    uint32_t writeable; /* bit n: bytes 128 * n to 128 * n + 127; all set is what WATCH_WRITE means */
};

/* A number from 1 on; everything is allowed in it, and no vCPU is in it. -ENOSPC, -ENOMEM. */
int look_view_create(struct look_listener *l);
/* vCPUs that are in it are in view 0 then. */
int look_view_destroy(struct look_listener *l, unsigned view);
/* 0 or one of its own. Between two instructions. -EBUSY: the vCPU is in another listener's view; -ENXIO: no such vCPU. */
int look_view_switch(struct look_listener *l, uint32_t vcpu, unsigned view);
/* Which of its own views the vCPU is in, or 0. -ENXIO. */
int look_view_of(struct look_listener *l, uint32_t vcpu);
/* Views of all listeners, without view 0. */
unsigned look_view_count(struct vm *vm);

/*
 * All pages at once. set_access goes by `access`: with WATCH_WRITE the whole page is writeable; without it none of a page that was writeable as a whole, else
 * the pieces that were. set_writeable goes by `writeable` alone. -EFAULT: one of them is no memory.
 */
int look_view_set_access(struct look_listener *l, unsigned view, const struct look_page *page, unsigned n);
int look_view_set_writeable(struct look_listener *l, unsigned view, const struct look_page *page, unsigned n);
/* Fills in the rest of each page: as this listener set it. */
int look_view_get(struct look_listener *l, unsigned view, struct look_page *page, unsigned n);

/*
 * In this view the page at gpa is the memory at `target`, which is seen without further remapping; target == gpa ends that. -EFAULT: no memory at target;
 * -EBUSY: another listener has remapped the page of view 0.
 */
int look_view_remap(struct look_listener *l, unsigned view, gpa_t gpa, gpa_t target);

/* Any thread: the address whose memory a vCPU in this view (vcpu.view, any listener's) sees at gpa. */
gpa_t look_view_memory(struct vm *vm, unsigned view, gpa_t gpa);

/*
 * A page of zeroes where no memory was, for the guest, the client and all tools, until the listener goes or the client puts memory of its own there. -EEXIST
 * there is memory, -ENOSPC too many, -ENOMEM. Removing: remappings to it end; -ENOENT it is not this listener's.
 */
int look_page_add(struct look_listener *l, gpa_t gpa);
/*
 * A page of a file, shared with whoever else has it mapped, takes the place of what is at gpa: memory is remapped in view 0, and where none is it is added as
 * above. Ends by look_page_remove(gpa). If the file is made shorter the guest sees zeroes. -EEXIST there is one of this listener's already, -EBUSY a listener
 * has remapped the page, -ENOSPC, -ENOMEM, or what mmap says of the file. fd stays the caller's.
 */
int look_page_lend(struct look_listener *l, gpa_t gpa, int fd, uint64_t offset);
int look_page_remove(struct look_listener *l, gpa_t gpa);

#endif
