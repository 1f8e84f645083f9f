-- When something of a VM ended last: whoever is next may be judged only when its agent has had the time since.
CREATE INDEX commands_ended ON commands (tenant_id, vm_uuid, finished_at) WHERE phase = 'ended';
