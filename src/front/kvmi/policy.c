/* SPDX-License-Identifier: MIT */
/*
 * What the user lets a tool do, as a list of names. What a tool needs to find out what it may do is always allowed. See kvmi.h.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "front/kvmi/kvmi_priv.h"

static const char event_prefix[] = "event:";

const struct kvmi_dialect *const kvmi_dialects[KVMI_DIALECTS] = { &kvmi_dialect_libkvmi, &kvmi_dialect_v12, &kvmi_dialect_rfc };

const char *kvmi_dialect_parse(const char *text, const struct kvmi_dialect **out)
{
    for (unsigned i = 0; i < KVMI_DIALECTS; i++)
        if (text[0] == kvmi_dialects[i]->letter && !text[1]) {
            *out = kvmi_dialects[i];
            return NULL;
        }
    *out = NULL;
    return strcmp(text, "auto") ? "the dialects are a, b, c and auto" : NULL;
}

static bool is_name(const char *text, size_t bytes, const char *name)
{
    return name && strlen(name) == bytes && !strncasecmp(text, name, bytes);
}

static bool is_command(const struct kvmi_dialect *d, const char *text, size_t bytes)
{
    for (unsigned i = 0; i < d->n_commands; i++)
        if (is_name(text, bytes, d->command[i].name))
            return true;
    return false;
}

/* Events are called in all dialects as in the first. */
static bool is_known(const struct kvmi_dialect *d, const char *text, size_t bytes)
{
    const size_t prefix = sizeof event_prefix - 1;
    if (bytes <= prefix || strncasecmp(text, event_prefix, prefix)) {
        for (unsigned i = 0; i < KVMI_DIALECTS; i++)
            if ((!d || d == kvmi_dialects[i]) && is_command(kvmi_dialects[i], text, bytes))
                return true;
        return false;
    }
    for (unsigned i = 0; i < kvmi_dialects[0]->n_events; i++)
        if (is_name(text + prefix, bytes - prefix, kvmi_dialects[0]->event[i].name))
            return true;
    return false;
}

const char *kvmi_policy_parse(const char *names, enum kvmi_policy_kind kind, struct kvmi_policy *out)
{
    if (out->kind != KVMI_POLICY_ALL)
        return "there can be one list, of what is allowed or of what is denied";
    if (strlen(names) >= sizeof out->names)
        return "the list is too long";
    out->kind = kind;
    snprintf(out->names, sizeof out->names, "%s", names);
    return NULL;
}

/* A name that the tool's dialect does not have would deny nothing. */
const char *kvmi_options_check(const struct kvmi_options *options)
{
    const struct kvmi_policy *p = &options->policy;
    if (p->kind == KVMI_POLICY_ALL)
        return NULL;
    if (p->kind == KVMI_POLICY_DENY && !options->dialect)
        return "deny= needs a dialect=, since commands have other names in others";
    for (const char *at = p->names;; at++) {
        size_t bytes = strcspn(at, "+");
        if (!is_known(options->dialect, at, bytes))
            return "a name in the list is no command's, and with event: before it no event's; docs/abi/kvmi.md has them by dialect";
        at += bytes;
        if (!*at)
            return NULL;
    }
}

static bool is_listed(const struct kvmi_policy *p, const char *prefix, const char *name)
{
    const size_t skip = strlen(prefix);
    for (const char *at = p->names; *at; at++) {
        size_t bytes = strcspn(at, "+");
        if (bytes > skip && !strncasecmp(at, prefix, skip) && is_name(at + skip, bytes - skip, name))
            return true;
        at += bytes;
        if (!*at)
            break;
    }
    return false;
}

static bool allows(const struct kvmi_policy *p, const char *prefix, const char *name)
{
    return p->kind == KVMI_POLICY_ALL || is_listed(p, prefix, name) == (p->kind == KVMI_POLICY_ALLOW);
}

bool kvmi_allows_command(const struct kvmi_session *s, const struct kvmi_command *c)
{
    static const char *const always[] = { "GET_VERSION", "CHECK_COMMAND", "VM_CHECK_COMMAND", "CHECK_EVENT", "VM_CHECK_EVENT", "EVENT_REPLY", "VCPU_EVENT" };
    for (unsigned i = 0; i < sizeof always / sizeof *always; i++)
        if (!strcmp(c->name, always[i]))
            return true;
    return allows(&s->options->policy, "", c->name);
}

bool kvmi_allows_event(const struct kvmi_session *s, enum kvmi_event_id event)
{
    return allows(&s->options->policy, event_prefix, kvmi_dialects[0]->event[event].name);
}
