-- Such ids are shadow mode's: whoever it lets through acts there, and must never meet a real tenant.
ALTER TABLE tenants ADD CONSTRAINT tenants_no_shadow CHECK (tenant_id NOT LIKE 'shadow-%');
