-- Control commands that wait: few, and looked for at each sweep beside however much work waits for the same VM.
CREATE INDEX commands_waiting_control ON commands (tenant_id, vm_uuid, seq)
  WHERE phase = 'waiting' AND lane = 'control';
