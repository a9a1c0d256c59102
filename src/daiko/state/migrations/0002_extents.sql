-- The extents of volumes, packed, in a table of their own (state/extents.py says how). A record of
-- kind volume keeps everything else.
CREATE TABLE extents (
    volume TEXT PRIMARY KEY,
    devices TEXT NOT NULL,
    columns BLOB NOT NULL
) WITHOUT ROWID;

INSERT INTO extents
SELECT
    key,
    extent_devices(json_extract(value, '$.extents')),
    extent_columns(json_extract(value, '$.extents'))
FROM record WHERE kind = 'volume';

UPDATE record SET value = json_remove(value, '$.extents') WHERE kind = 'volume';
