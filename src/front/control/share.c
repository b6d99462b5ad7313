/* SPDX-License-Identifier: MIT */
/* The slots of a VM, whether other processes can map them, and the files for those that do. See control.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/vm.h"
#include "front/control/control_priv.h"
#include "introspect/memory.h"
#include "introspect/share.h"

_Static_assert((int)SHARE_PRIVATE == (int)VITRINE_SHARE_PRIVATE && (int)SHARE_UNKNOWN == (int)VITRINE_SHARE_UNKNOWN && SHARE_FILES_MAX == CONTROL_FDS_MAX,
               "introspect's verdicts in the public order");
_Static_assert(CONTROL_ARRAY_MAX * sizeof(struct control_piece) <= CONTROL_PAYLOAD_MAX, "a reply");

static unsigned get_slots(struct vm *vm, struct memslot slot[CONTROL_SLOTS_MAX])
{
    unsigned n = look_memory_slots(vm, slot, CONTROL_SLOTS_MAX);
    return n < CONTROL_SLOTS_MAX ? n : CONTROL_SLOTS_MAX;
}

static uint16_t flags_of(const struct memslot *s)
{
    return (uint16_t)((s->flags & MEMSLOT_READONLY ? VITRINE_SLOT_READONLY : 0) | (s->flags & MEMSLOT_LOG_DIRTY ? VITRINE_SLOT_LOG_DIRTY : 0) |
                      (memslot_is_tools(s) ? VITRINE_SLOT_TOOLS : 0));
}

int control_slots(struct control_arg *a)
{
    struct memslot slot[CONTROL_SLOTS_MAX];
    struct vitrine_slot *out = a->out;
    struct share_view view;
    unsigned n = get_slots(a->vm, slot);
    share_view_open(&view);
    for (unsigned i = 0; i < n; i++)
        out[i] = (struct vitrine_slot){ .gpa = slot[i].gpa,
                                        .bytes = slot[i].bytes,
                                        .host = (uintptr_t)slot[i].hva,
                                        .id = slot[i].id,
                                        .flags = flags_of(&slot[i]),
                                        .share = (uint16_t)share_view_slot(&view, &slot[i]) };
    share_view_close(&view);
    a->out_bytes = n * (uint32_t)sizeof *out;
    return 0;
}

static void add_slot(struct control_arg *a, struct share_view *view, const struct memslot *s)
{
    struct share_piece piece;
    for (uint64_t at = 0; at < s->bytes; at += piece.bytes) {
        unsigned n = a->out_bytes / (unsigned)sizeof(struct control_piece);
        if (share_view_next(view, s, at, &piece) != SHARE_YES || n == CONTROL_ARRAY_MAX)
            continue;
        ((struct control_piece *)a->out)[n] = (struct control_piece){ .gpa = s->gpa,
                                                                      .bytes = s->bytes,
                                                                      .host = (uintptr_t)s->hva,
                                                                      .at = at,
                                                                      .length = piece.bytes,
                                                                      .offset = piece.offset,
                                                                      .id = s->id,
                                                                      .flags = flags_of(s),
                                                                      .file = piece.file,
                                                                      .is_writeable = piece.is_writeable };
        a->out_bytes += (uint32_t)sizeof(struct control_piece);
    }
}

/* Files in the order of the view, without those that are not to be had. */
static void hand_over(struct control_arg *a, struct share_view *view)
{
    struct control_piece *piece = a->out;
    struct control_session *s = a->session;
    uint32_t number[SHARE_FILES_MAX];
    for (unsigned i = 0; i < view->n_files; i++) {
        number[i] = s->n_fds;
        if (view->file[i].fd >= 0)
            s->fd[s->n_fds++] = view->file[i].fd;
        view->file[i].fd = -1;
    }
    for (unsigned i = 0; i < a->out_bytes / sizeof *piece; i++)
        piece[i].file = number[piece[i].file];
}

int control_share(struct control_arg *a)
{
    struct memslot slot[CONTROL_SLOTS_MAX];
    struct share_view view;
    unsigned n = get_slots(a->vm, slot);
    share_view_open(&view);
    for (unsigned i = 0; i < n; i++)
        if (slot[i].id >> MEMSLOT_SPACE_SHIFT == SPACE_NORMAL)
            add_slot(a, &view, &slot[i]);
    hand_over(a, &view);
    share_view_close(&view);
    return a->out_bytes ? 0 : -ENOTSUP;
}
