"""All operations, in the order in which they are described."""

from __future__ import annotations

from typing import Any

from proxy.admin import events, keys, letters, limits, onboarding, settlements, suspensions, tenants, top_ups, usage
from proxy.admin.operation import Operation

OPERATIONS: tuple[Operation[Any, Any], ...] = (
    tenants.list_tenants,
    tenants.create_tenant,
    tenants.show_tenant,
    tenants.update_tenant,
    onboarding.onboard_tenant,
    suspensions.list_suspensions,
    suspensions.resume_tenant,
    keys.list_keys,
    keys.create_key,
    keys.show_key,
    keys.rotate_key,
    keys.revoke_key,
    limits.show_tenant_limits,
    limits.show_key_limits,
    *limits.SET.values(),
    *limits.UNSET.values(),
    limits.list_plans,
    limits.show_plan,
    top_ups.list_top_ups,
    top_ups.add_top_up,
    usage.report_usage,
    events.show_delivery,
    events.list_events,
    events.show_event,
    events.explain,
    letters.replay_events,
    letters.discard_events,
    settlements.import_events,
)
