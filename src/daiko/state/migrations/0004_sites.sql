-- Sites are records of their own, and a system has a UUID by which other sites know it.
UPDATE record
SET value = json_set(value, '$.identity', lower(hex(randomblob(16))))
WHERE kind = 'system';
