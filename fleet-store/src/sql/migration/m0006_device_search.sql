-- The orders of the list of devices, each with the id that breaks ties. Deleted devices are not listed.

CREATE INDEX device_list ON device (org_id, id) WHERE deleted_at IS NULL;
CREATE INDEX device_list_by_last_seen ON device (org_id, last_seen, id) WHERE deleted_at IS NULL;
CREATE INDEX device_list_by_first_seen ON device (org_id, first_seen, id) WHERE deleted_at IS NULL;
CREATE INDEX device_list_by_model ON device (org_id, model, id) WHERE deleted_at IS NULL;
CREATE INDEX device_list_by_firmware ON device (org_id, firmware, id) WHERE deleted_at IS NULL;
