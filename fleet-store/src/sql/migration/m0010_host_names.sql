-- The name of a device's host with its source, such as dns:miner7.lan.
ALTER TABLE device ADD COLUMN host_name TEXT;
