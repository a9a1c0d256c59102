-- The portals of the target are divided into portal groups, records of their own. Those that there
-- were are the group with the tag 1.
INSERT INTO record
SELECT
    'portal-group',
    '00001',
    json_object(
        'tag', 1, 'portals', json_extract(value, '$.portals'), 'target_port_group', 1
    )
FROM record WHERE kind = 'system';

UPDATE record SET value = json_remove(value, '$.portals') WHERE kind = 'system';
